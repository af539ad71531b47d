"""Keys and tokens: read from the environment, never written anywhere.

On Colab and Kaggle the first cell of a notebook has put the platform's secrets there.
"""

import os
import re


def secret(name: str) -> str | None:
    """A key from the environment; None where it is not set, or empty."""
    return os.environ.get(name, "").strip() or None


def without_secrets(text: str, *names: str) -> str:
    """A text in which the values of these secrets are replaced by their names.

    However they are written there: as they are, as Python quotes them, or line by line.
    """
    for name in names:
        if value := secret(name):
            for form in (value, repr(value)[1:-1], *value.split()):
                text = text.replace(form, f"<{name}>")
    return text


def masked(text: str) -> str:
    """A text without what looks like a token, or a password in an address."""
    text = re.sub(r"\bhf_\w{6,}", "<token>", text)
    return re.sub(r"(?<=://)[^/@\s]+(?=@)", "<secret>", text)
