"""Rows for the lessons, in the columns of the hub data sets that the course uses.

`load_rows` reads a data source as a profile names it and gives every source the columns
of one of two layouts, so that the same cells process all of them:

    "sft"    problem, generated_solution, expected_answer   (OpenMathReasoning-mini)
    "grpo"   prompt, solution                               (DAPO-Math-17k-Processed)

Worked problems in GSM8K's layout (question, answer with "####" before the final answer)
are understood too.
"""

import json
import math
import random
import re
import unicodedata
from pathlib import Path

from . import arithmetic
from .paths import local_path

COLUMNS = {
    "sft": ("problem", "generated_solution", "expected_answer"),
    "grpo": ("prompt", "solution"),
}
GSM8K = {"question", "answer"}
KNOWN = GSM8K.union(*COLUMNS.values())
OTHERS = 20  # columns more, for the message that says what there is
CALCULATOR_NOTE = re.compile(r"<<[^<>]*>>")


class DataError(ValueError):
    """A data source that cannot be used; the message says what it should hold."""


def load_rows(source: str, layout: str, seed: int = 3407):
    """A data source as a `datasets.Dataset` with the columns of a layout.

    `source`: "embedded:sft", "embedded:grpo" or "embedded:test"; a local .jsonl file;
    or a hub data set, "owner/name:split" or "owner/name:config:split". The values of a
    local file become text, or None where there is no text or number (null, NaN, a
    list): for the filters of the notebooks to count.
    Raises DataError where the source cannot be read or has other columns.
    """
    from datasets import Dataset, load_dataset

    if source.startswith("embedded:"):
        rows = _embedded(source.removeprefix("embedded:"), seed)
        return _with_layout(Dataset.from_list(rows), layout, source)
    if path := local_path(source):
        return _with_layout(Dataset.from_list(_local_rows(path)), layout, source)
    try:
        name, *config, split = source.split(":")
        rows = load_dataset(name, *config, split=split)
    except Exception as error:
        raise DataError(
            f"The data set {source!r} cannot be read ({type(error).__name__}): check "
            "its name and the network, or set COURSE_SFT_DATA, COURSE_GRPO_DATA or "
            "COURSE_EVAL_DATA to a local .jsonl file."
        ) from error
    return _with_layout(rows, layout, source)


def question_key(text: str) -> str:
    """The form in which questions are compared with each other.

    White space, capital letters, and the encoding of a letter (as one character or as
    two) make no other question.
    """
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _local_rows(path: Path) -> list[dict]:
    """The objects of a .jsonl file, all with the same keys, each value text or None.

    Of columns that no layout has, the first few are kept.
    """
    rows, number = [], 0
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for line in lines:
                number += 1
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("no JSON object")
                    rows.append({_text(k): _text(value) for k, value in row.items()})
    except OSError as error:
        raise DataError(f"The data file {path} cannot be read ({error}).") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"The data file {path} cannot be read at line {number}: each line "
            f"must be one JSON object in UTF-8 ({error})."
        ) from None
    if not rows:
        raise DataError(f"The data file {path} has no rows.")
    columns = dict.fromkeys(key for row in rows for key in row)
    known = [key for key in columns if key in KNOWN]
    others = [key for key in columns if key not in KNOWN][:OTHERS]
    return [{key: row.get(key) for key in known + others} for row in rows]


def _text(value) -> str | None:
    if isinstance(value, str):  # without lone surrogates, which no table can hold
        return value.encode(errors="replace").decode()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value)


def _with_layout(rows, layout: str, source: str):
    wanted = COLUMNS[layout]
    if set(wanted) <= set(rows.column_names):
        return rows
    if GSM8K <= set(rows.column_names):
        return rows.map(_from_gsm8k[layout], remove_columns=rows.column_names)
    raise DataError(
        f"The data set {source!r} has the columns {', '.join(rows.column_names)}, but "
        f"this step needs {', '.join(wanted)} (or GSM8K's question and answer)."
    )


def _gsm8k_to_sft(row: dict) -> dict:
    working, _, answer = str(row["answer"] or "").rpartition("####")
    return {
        "problem": row["question"],
        "generated_solution": CALCULATOR_NOTE.sub("", working).strip(),
        "expected_answer": answer.strip(),
    }


def _gsm8k_to_grpo(row: dict) -> dict:
    # The whole answer, "####" and all: notebook 05 shows how to cut the number out.
    return {"prompt": row["question"], "solution": row["answer"]}


_from_gsm8k = {"sft": _gsm8k_to_sft, "grpo": _gsm8k_to_grpo}


def _embedded(name: str, seed: int) -> list[dict]:
    if name == "sft":
        return _sft_rows(random.Random(f"sft-rows-{seed}"), seed)
    if name == "grpo":
        return _grpo_rows(1200, "grpo", seed)
    if name == "test":  # the same test problems whatever the run's seed
        return _grpo_rows(1000, "test", 0)
    raise DataError(f"No embedded data set {name!r}: use sft, grpo or test.")


def _grpo_rows(count: int, split: str, seed: int) -> list[dict]:
    problems = arithmetic.make_problems(count, split, seed)
    return [
        {"prompt": p.question, "solution": str(p.answer), "ability": "MATH"}
        for p in problems
    ]


# How often each style is used in the warm-up data, by the number of hard operations.
SFT_STYLES = {
    0: {"steps": 0.7, "detail": 0.3},
    1: {"none": 0.1, "expression": 0.45, "steps": 0.35, "detail": 0.1},
    2: {"none": 0.1, "expression": 0.7, "steps": 0.15, "detail": 0.05},
    3: {"none": 0.1, "expression": 0.75, "steps": 0.1, "detail": 0.05},
}


def _sft_rows(rng: random.Random, seed: int) -> list[dict]:
    """Solved problems as a hub data set has them: a few rows are of no use.

    The solutions are right but mostly terse, and the terser the harder the problem: a
    model that imitates them skips the working where it would need it most.
    """
    rows = []
    for number, problem in enumerate(arithmetic.make_problems(280, "sft", seed)):
        weights = SFT_STYLES[problem.difficulty]
        style = rng.choices(list(weights), list(weights.values()))[0]
        thoughts, answer = arithmetic.working(problem, style), str(problem.answer)
        if number % 20 == 7:  # an answer in words, as in many real data sets
            answer = f"{answer} in all"
        if number % 40 == 13:  # a solution that goes round in circles, far too long
            thoughts = " ".join([arithmetic.working(problem, "detail")] * 12)
        rows.append(
            {
                "expected_answer": answer,
                "problem": problem.question,
                "generated_solution": f"<think>\n{thoughts}\n</think>\n",
                "problem_source": "grpo_course.ground.arithmetic",
            }
        )
    return rows
