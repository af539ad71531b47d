"""Rows for the lessons, in the columns of the hub data sets that the course uses.

`load_rows` reads a data source as a profile names it and gives every source the columns
of one of two layouts, so that the same cells process all of them:

    "sft"    problem, generated_solution, expected_answer   (OpenMathReasoning-mini)
    "grpo"   prompt, solution                               (DAPO-Math-17k-Processed)

Worked problems in GSM8K's layout (question, answer with "####" before the final answer)
are understood too.
"""

import csv
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from .paths import REPO, local_path

SHIPPED = REPO / "notebooks" / "data"  # written by tools/tiny/rows.py
COLUMNS = {
    "sft": ("problem", "generated_solution", "expected_answer"),
    "grpo": ("prompt", "solution"),
}
GSM8K = {"question", "answer"}
KNOWN = GSM8K.union(*COLUMNS.values())
MOST = 27  # columns: these and a few more, for the message that says what there is
CALCULATOR_NOTE = re.compile(r"<<[^<>]*>>")


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
            rows = Dataset.from_list(_local_rows(path))
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


def question_text(prompt) -> str:
    """The question of a row: its text, or the last user message of a conversation."""
    if isinstance(prompt, list):
        turns = [turn for turn in prompt if isinstance(turn, dict)]
        asked = [turn.get("content") for turn in turns if turn.get("role") == "user"]
        prompt = asked[-1] if asked else None
    return prompt.strip() if isinstance(prompt, str) else ""


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


def _local_rows(path: Path) -> list[dict]:
    """The rows of a .jsonl, .json, .csv or .parquet file, all with the same keys.

    Of columns that no lesson knows, the first few are kept. Raises OSError or
    ValueError, which names the line or row, where the file is no such table.
    """
    rows = []
    for place, row in _objects(path):
        if not isinstance(row, dict):
            raise ValueError(f"{place} is no JSON object")
        rows.append({_text(key): _text(value) for key, value in row.items()})
    if not rows:
        raise ValueError("it has no rows")
    columns = dict.fromkeys(key for row in rows for key in row)
    columns = sorted(columns, key=lambda key: key not in KNOWN)[:MOST]
    return [{key: row.get(key) for key in columns} for row in rows]


def _objects(path: Path) -> Iterator[tuple]:
    """(where it stands, row) for each row; a ValueError names the line it is about."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
        yield from ((f"row {n}", row) for n, row in enumerate(table.to_pylist(), 1))
        return
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not in UTF-8") from None
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            for row in reader:
                if None in row:
                    raise csv.Error("more values than the first line has columns")
                yield f"line {reader.line_num}", row
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num} is no CSV ({error})") from None
    elif path.suffix == ".json":
        rows = _json(text, 1)
        if not isinstance(rows, list):
            raise ValueError("line 1 begins no list of JSON objects")
        yield from ((f"row {n}", row) for n, row in enumerate(rows, 1))
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"line {number}", _json(line, number)


def _json(text: str, first: int):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = first + getattr(error, "lineno", 1) - 1
        raise ValueError(f"line {line} is no JSON ({error})") from None


def _text(value) -> str | None:
    if isinstance(value, list):
        value = question_text(value) or None
    if isinstance(value, str):  # without lone surrogates, which no table can hold
        return value.encode(errors="replace").decode()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    finite = not isinstance(value, float) or math.isfinite(value)
    return str(value) if finite else None
