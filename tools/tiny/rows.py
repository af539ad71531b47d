"""The rows that come with the course: `python -m tools.tiny.rows`.

Writes notebooks/data/sft.jsonl, grpo.jsonl and test.jsonl, byte for byte as they are.
"""

import json
import random
from pathlib import Path

from tools import FOLDER, write_whole
from tools.tiny import arithmetic

SHIPPED = FOLDER / "data"
SEED = 3407

# How often each style is used in the warm-up data, by the number of hard operations.
SFT_STYLES = {
    0: {"steps": 0.7, "detail": 0.3},
    1: {"none": 0.1, "expression": 0.45, "steps": 0.35, "detail": 0.1},
    2: {"none": 0.1, "expression": 0.7, "steps": 0.15, "detail": 0.05},
    3: {"none": 0.1, "expression": 0.75, "steps": 0.1, "detail": 0.05},
}


def sft_rows(seed: int) -> list[dict]:
    """Solved problems as a hub data set has them: a few rows are of no use.

    The solutions are right but mostly terse, and the terser the harder the problem: a
    model that imitates them skips the working where it would need it most.
    `detailed_solution` is for an exercise of notebook 03.
    """
    rng, rows = random.Random(f"sft-rows-{seed}"), []
    for number, problem in enumerate(arithmetic.make_problems(280, "sft", seed)):
        weights = SFT_STYLES[problem.difficulty]
        style = rng.choices(list(weights), list(weights.values()))[0]
        thoughts, answer = arithmetic.working(problem, style), str(problem.answer)
        detail = arithmetic.working(problem, "detail")
        if number % 20 == 7:  # an answer in words, as in many real data sets
            answer = f"{answer} in all"
        if number % 40 == 13:  # a solution that goes round in circles, far too long
            thoughts = " ".join([detail] * 12)
        rows.append(
            {
                "problem": problem.question,
                "generated_solution": f"<think>\n{thoughts}\n</think>\n",
                "expected_answer": answer,
                "detailed_solution": detail,
            }
        )
    return rows


def grpo_rows(count: int, split: str, seed: int) -> list[dict]:
    """Questions with their answers and nothing else."""
    problems = arithmetic.make_problems(count, split, seed)
    return [{"prompt": p.question, "solution": str(p.answer)} for p in problems]


def rows_of(seed: int) -> dict[str, list[dict]]:
    """The three data sets by name; the test problems are the same for every seed."""
    return {
        "sft": sft_rows(seed),
        "grpo": grpo_rows(1200, "grpo", seed),
        "test": grpo_rows(1000, "test", 0),
    }


def write_rows(folder: Path, seed: int) -> None:
    """A .jsonl file for each data set."""
    for name, rows in rows_of(seed).items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_whole(folder / f"{name}.jsonl", text)


if __name__ == "__main__":
    write_rows(SHIPPED, SEED)
