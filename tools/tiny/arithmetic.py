"""Arithmetic word problems: what the embedded tiny model is made of.

The `cpu` profile needs data that is free and small, so it was generated:
problems of two or three operations whose every intermediate result is a whole number
from 1 to 199, each with a worked solution in one of four styles:

    none        The answer is 42.
    expression  2*8+26=42.
    steps       2*8=16. 16+26=42.
    detail      2*8=16. 16+26: 16+20=36, 36+6=42.

This generator wrote the tiny model's pretraining text (train_base.py), the rows of
notebooks 03 and 05, and the held-out test problems (rows.py). A problem's calculation
decides which of them it may appear in (`split_of`), so they cannot overlap.
"""

import random
import zlib
from dataclasses import dataclass

from grpo_course.ground.styles import STYLES

SPLITS = ("pretrain", "sft", "grpo", "test")
LARGEST = 199

WORDS = {
    "name": "Ana Ben Carla Dan Eva Finn Gita Hugo Iris Jon Kira Leo Mia Noah Olga Paul",
    "items": "apples pens books coins cards eggs stamps shells marbles stickers",
    "boxes": "boxes bags packs jars",
}

START = ("{name} has {a} {items}.", "{name} starts with {a} {items}.")
START_TIMES = (
    "{name} has {a} {boxes} with {b} {items} in each.",
    "{name} buys {a} {boxes} of {b} {items}.",
)
EVENTS = {
    "+": (
        "{name} gets {b} more.",
        "A friend gives {name} {b} {items}.",
        "Then {name} finds {b} {items}.",
    ),
    "-": (
        "{name} gives away {b}.",
        "Then {name} loses {b} {items}.",
        "{name} sells {b} of them.",
    ),
    "+*": (
        "Then {name} buys {a} {boxes} of {b} {items}.",
        "A friend brings {a} {boxes} with {b} {items} in each.",
    ),
    "*": (
        "Then {name} gets {b} times as many as that in all.",
        "After a year {name} has {b} times as many.",
    ),
}
QUESTIONS = (
    "How many {items} does {name} have now?",
    "How many {items} does {name} have in the end?",
)


@dataclass(frozen=True)
class Problem:
    """A word problem and its calculation.

    `steps` holds the calculation as (left, operator, right, result), all integers.
    """

    question: str
    steps: tuple
    expression: str

    @property
    def answer(self) -> int:
        return self.steps[-1][3]

    @property
    def difficulty(self) -> int:
        """How many of the steps need more than one digit at a time (carrying)."""
        return sum(_is_hard(step[2]) for step in self.steps)


def split_of(expression: str) -> str:
    """The one split that problems with this calculation may appear in."""
    bucket = zlib.crc32(expression.encode()) % 20
    return {0: "test", 1: "sft", 2: "sft", 3: "grpo", 4: "grpo"}.get(bucket, "pretrain")


def make_problem(rng: random.Random, split: str) -> Problem:
    """Draw one problem of the given split ("pretrain", "sft", "grpo" or "test")."""
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}: use one of {', '.join(SPLITS)}.")
    while True:
        problem = _draw(rng)
        if problem is not None and split_of(problem.expression) == split:
            return problem


def make_problems(count: int, split: str, seed: int) -> list[Problem]:
    """`count` problems of a split, no question twice; the same seed, the same list."""
    rng, problems = random.Random(f"{split}-{seed}"), {}
    while len(problems) < count:
        problem = make_problem(rng, split)
        problems.setdefault(problem.question, problem)
    return list(problems.values())


def _draw(rng: random.Random) -> Problem | None:
    words = {kind: rng.choice(some.split()) for kind, some in WORDS.items()}

    def say(templates, **numbers):
        return rng.choice(templates).format(**words, **numbers)

    steps = []
    if rng.random() < 0.4:
        a, b = rng.randint(2, 9), rng.randint(3, 19)
        total, expression = a * b, f"{a}*{b}"
        steps.append((a, "*", b, total))
        sentences = [say(START_TIMES, a=a, b=b)]
    else:
        total = rng.randint(5, 120)
        expression = str(total)
        sentences = [say(START, a=total)]
    wanted = rng.choice((2, 3, 3))
    while len(steps) < wanted:
        kind = rng.choices(("+", "-", "+*", "*"), (0.34, 0.34, 0.22, 0.10))[0]
        if kind == "+*":
            if wanted - len(steps) < 2:
                continue
            a, b = rng.randint(2, 9), rng.randint(3, 19)
            steps.append((a, "*", b, a * b))
            steps.append((total, "+", a * b, total + a * b))
            expression += f"+{a}*{b}"
            sentences.append(say(EVENTS[kind], a=a, b=b))
        else:
            b = rng.randint(2, 4) if kind == "*" else rng.randint(2, 99)
            result = {"+": total + b, "-": total - b, "*": total * b}[kind]
            if kind == "*" and len(steps):
                expression = f"({expression})"
            steps.append((total, kind, b, result))
            expression += f"{kind}{b}"
            sentences.append(say(EVENTS[kind], b=b))
        total = steps[-1][3]
        if not 1 <= total <= LARGEST:
            return None
    sentences.append(say(QUESTIONS))
    return Problem(" ".join(sentences), tuple(steps), expression)


def _is_hard(right: int) -> bool:
    return right > 9 and right % 10 != 0


def _detailed(left: int, operator: str, right: int, result: int) -> str:
    """One operation, the tens first and then the ones."""
    if not _is_hard(right):
        return f"{left}{operator}{right}={result}."
    tens, ones = right // 10 * 10, right % 10
    parts = f"{left}{operator}{right}: {left}{operator}{tens}="
    if operator == "*":
        some, more = left * tens, left * ones
        return f"{parts}{some}, {left}*{ones}={more}, {some}+{more}={result}."
    middle = left + tens if operator == "+" else left - tens
    return f"{parts}{middle}, {middle}{operator}{ones}={result}."


def working(problem: Problem, style: str) -> str:
    """The worked solution of a problem in one of the four styles."""
    if style == "none":
        return f"The answer is {problem.answer}."
    if style == "expression":
        return f"{problem.expression}={problem.answer}."
    if style == "steps":
        return " ".join(f"{a}{op}{b}={c}." for a, op, b, c in problem.steps)
    if style == "detail":
        return " ".join(_detailed(*step) for step in problem.steps)
    raise ValueError(f"Unknown style {style!r}: use one of {', '.join(STYLES)}.")
