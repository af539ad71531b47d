"""The tiny base model's pretraining text, drawn from a seed.

Four kinds of document: solved word problems in the base's own plain form, bare
arithmetic, the same problems in other mark-up (so that tags are nothing new, though
never the course's tags), and a little noise in which every token of the vocabulary
turns up (a token never seen in pretraining keeps a random row in the embedding, and
sampling then finds it).
"""

import random

from tools.tiny import arithmetic

STYLE_WEIGHTS = {"none": 0.15, "expression": 0.25, "steps": 0.30, "detail": 0.30}
KINDS = {"plain": 0.66, "sums": 0.14, "markup": 0.17, "noise": 0.03}
TAGS = (
    ("<work>", "</work>", "<result>", "</result>"),
    ("<begin_notes>", "<end_notes>", "<ANSWER>", "</ANSWER>"),
    ("[scratch]", "[/scratch]", "[final]", "[/final]"),
    ("<start_draft>", "<end_draft>", "<OUTPUT>", "</OUTPUT>"),
    ("<think>\n", "\n</think>\n", "**", "**"),
    ("## Working\n", "\n", "## Result\n", "\n"),
)
REQUESTS = (
    "Solve the problem.",
    "Read the problem and answer it.",
    "Write your working first, then the final answer.",
    "Give only the final answer.",
    "You are given a problem. Think about it.",
)


def plain(problem: arithmetic.Problem, style: str) -> str:
    """A solved problem in the base's own form."""
    solution = arithmetic.working(problem, style)
    tail = "" if style == "none" else f" The answer is {problem.answer}."
    return f"Question: {problem.question}\nAnswer: {solution}{tail}"


def documents(seed: int, vocabulary: list[str]):
    """Yield documents without end; the same seed gives the same documents."""
    rng = random.Random(f"corpus-{seed}")
    while True:
        kind = _draw(rng, KINDS)
        if kind == "noise":
            yield "".join(rng.choices(vocabulary, k=24))
            continue
        problem = arithmetic.make_problem(rng, "pretrain")
        style = _draw(rng, STYLE_WEIGHTS)
        if kind == "sums":
            lines = [arithmetic.working(problem, rng.choice(("steps", "detail")))]
            other = arithmetic.make_problem(rng, "pretrain")
            lines.append(arithmetic.working(other, rng.choice(("steps", "detail"))))
            yield "\n".join(lines)
        elif kind == "plain":
            yield plain(problem, style)
        else:
            opened, closed, result, end = rng.choice(TAGS)
            request = rng.choice(REQUESTS) + "\n" if rng.random() < 0.5 else ""
            solution = arithmetic.working(problem, style)
            yield (
                f"{request}{problem.question}{opened}{solution}{closed}"
                f"{result}{problem.answer}{end}"
            )


def _draw(rng: random.Random, weights: dict[str, float]) -> str:
    return rng.choices(list(weights), list(weights.values()))[0]
