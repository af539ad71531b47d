"""Keys and tokens: read from the environment, never written anywhere.

On Colab and Kaggle the first cell of a notebook has put the platform's secrets there.
"""

import os


def secret(name: str) -> str | None:
    """A key from the environment; None where it is not set, or empty."""
    return os.environ.get(name, "").strip() or None


def without_secrets(text: str, *names: str) -> str:
    """A text in which the values of these secrets are replaced by their names."""
    for name in names:
        if value := secret(name):
            text = text.replace(value, f"<{name}>")
    return text
