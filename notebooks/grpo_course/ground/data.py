"""Rows for the lessons, in the columns of the hub data sets that the course uses.

`load_rows` reads a data source as a profile names it and gives every source the columns
of one of two layouts, so that the same cells process all of them:

    "sft"    problem, generated_solution, expected_answer   (OpenMathReasoning-mini)
    "grpo"   prompt, solution                               (DAPO-Math-17k-Processed)

Worked problems in GSM8K's layout (question, answer with "####" before the final answer)
are understood too.
"""

import re
import unicodedata

from .local_rows import local_rows, question_text
from .paths import REPO, local_path

SHIPPED = REPO / "notebooks" / "data"  # written by tools/tiny/rows.py
COLUMNS = {
    "sft": ("problem", "generated_solution", "expected_answer"),
    "grpo": ("prompt", "solution"),
}
GSM8K = {"question", "answer"}
CALCULATOR_NOTE = re.compile(r"<<[^<>]*>>")


__all__ = ["DataError", "load_rows", "question_key", "question_text"]


class DataError(ValueError):
    """A data source that cannot be used; the message says what it should hold."""


def load_rows(source: str, layout: str):
    """A data source as a `datasets.Dataset` with the columns of a layout.

    `source`: "embedded:sft", "embedded:grpo" or "embedded:test"; a local file; or a hub
    data set, "owner/name:split" or "owner/name:config:split". The values of a file
    become text, or None where there is no text or number (null, NaN, a list): for the
    filters of the notebooks to count.
    Raises DataError where the source cannot be read or has other columns.
    """
    from datasets import Dataset, load_dataset

    kind, _, name = source.partition("embedded:")
    path = SHIPPED / f"{name}.jsonl" if name and not kind else local_path(source)
    if path:
        try:
            rows = Dataset.from_list(local_rows(path))
        except (OSError, ValueError) as error:
            raise DataError(f"The data file {path} cannot be used: {error}.") from None
        return _with_layout(rows, layout, source)
    try:
        name, *config, split = source.split(":")
        rows = load_dataset(name, *config, split=split)
    except Exception as error:
        raise DataError(
            f"The data set {source!r} cannot be read ({type(error).__name__}): check "
            "its name and the network, or set COURSE_SFT_DATA, COURSE_GRPO_DATA or "
            "COURSE_EVAL_DATA to a local file."
        ) from error
    return _with_layout(rows, layout, source)


def question_key(text: str) -> str:
    """The form in which questions are compared with each other.

    White space, capital letters, and the encoding of a letter (as one character or as
    two) make no other question.
    """
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _with_layout(rows, layout: str, source: str):
    wanted = COLUMNS[layout]
    if set(wanted) <= set(rows.column_names):
        return rows
    if GSM8K <= set(rows.column_names):
        columns = {"remove_columns": rows.column_names, "fn_kwargs": {"layout": layout}}
        return rows.map(_from_gsm8k, **columns)
    raise DataError(
        f"The data set {source!r} has the columns {', '.join(rows.column_names)}, but "
        f"this step needs {', '.join(wanted)} (or GSM8K's question and answer)."
    )


def _from_gsm8k(row: dict, layout: str) -> dict:
    if layout == "grpo":  # the whole answer: notebook 05 shows how to cut it
        return {"prompt": row["question"], "solution": row["answer"]}
    working, _, answer = str(row["answer"] or "").rpartition("####")
    return {
        "problem": row["question"],
        "generated_solution": CALCULATOR_NOTE.sub("", working).strip(),
        "expected_answer": answer.strip(),
    }
