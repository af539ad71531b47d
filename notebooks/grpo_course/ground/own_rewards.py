"""Reward functions from a file of your own: COURSE_REWARD=./my_rewards.py:brief,right.

Each is called as TRL calls it, with keywords: `prompts` and `completions` (a list of
messages each), `completion_ids`, the columns of the data (`answer`) and more. It
returns a number for each completion, or None where it has no opinion.
"""

import hashlib
import math
import runpy
from collections.abc import Callable

from .paths import local_path


def message(text: str) -> list[dict]:
    """A completion as TRL gives it to a reward function, for prompts of messages."""
    return [{"role": "assistant", "content": text}]


TEXTS = ("42", "", "I do not know. " * 9)
PROBE = {
    "prompts": [[{"role": "user", "content": "What is 6*7?"}] for _ in TEXTS],
    "completions": [message(text) for text in TEXTS],
    "completion_ids": [list(range(len(text))) for text in TEXTS],
    "answer": ["42" for _ in TEXTS],
    "trainer_state": None,
} | dict.fromkeys(("log_extra", "log_metric"), lambda *_: None)


def tried(reward: str) -> tuple[str, list[Callable]]:
    """The setting with its file's digest, file.py:brief@3f2c..., and the functions.

    Each function is tried on three completions. Raises ValueError: what is wrong.
    """
    named, _, pin = reward.partition("@")
    file, _, names = named.rpartition(":")
    try:
        digest = hashlib.sha256(local_path(file).read_bytes()).hexdigest()[:12]
        found = runpy.run_path(str(local_path(file)), run_name="own_rewards")
    except (Exception, SystemExit) as error:
        raise ValueError(f"names a file that cannot be used: {error!r}") from None
    if pin not in ("", digest):
        raise ValueError(f"names a file that has changed: its digest is {digest}")
    names = [name.strip() for name in names.split(",")]
    return f"{named}@{digest}", [_tried(name, found.get(name)) for name in names]


def _tried(name: str, function: Callable | None) -> Callable:
    if not callable(function):
        raise ValueError(f"names {name}, but the file has no function of that name")
    try:
        scores(function, PROBE)
    except ValueError as problem:
        raise ValueError(f"names {name}, which {problem}") from None
    return function


def scores(function: Callable, inputs: dict) -> list[float]:
    """What a reward gives for the completions in `inputs`; 0.0 where that is None.

    Raises ValueError, half a sentence, where it fails or gives no finite numbers.
    """
    try:
        given = list(function(**inputs))
        finite = [score is None or math.isfinite(score) for score in given]
    except (Exception, SystemExit) as error:
        how = "TRL gives it completions and more by name, and **kwargs takes the rest"
        raise ValueError(f"fails with {error!r}: {how}") from None
    count = len(inputs["completions"])
    if len(given) != count or not all(finite):
        what = f"{given!r:.80} for {count} completions"
        raise ValueError(f"gives {what}: one finite number each")
    return [0.0 if score is None else float(score) for score in given]
