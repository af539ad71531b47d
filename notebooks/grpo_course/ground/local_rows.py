"""The rows of a local file: .jsonl, .json (a list), .csv or .parquet."""

import csv
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path

KNOWN = {"problem", "generated_solution", "expected_answer", "prompt", "solution"}
KNOWN |= {"question", "answer"}
MOST = 27  # columns: these and a few more, for the message that says what there is


def question_text(prompt) -> str:
    """The question of a row: its text, or the last user message of a conversation."""
    if isinstance(prompt, list):
        turns = [turn for turn in prompt if isinstance(turn, dict)]
        asked = [turn.get("content") for turn in turns if turn.get("role") == "user"]
        prompt = asked[-1] if asked else None
    return prompt.strip() if isinstance(prompt, str) else ""


def local_rows(path: Path) -> list[dict]:
    """The rows of a file, all with the same keys, each value text or None.

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
        yield from _csv_rows(text)
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


def _csv_rows(text: str) -> Iterator[tuple]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            if None in row:
                raise csv.Error("more values than the first line has columns")
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is no CSV ({error})") from None


def _text(value) -> str | None:
    if isinstance(value, list):
        value = question_text(value) or None
    if isinstance(value, str):  # without lone surrogates, which no table can hold
        return value.encode(errors="replace").decode()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    finite = not isinstance(value, float) or math.isfinite(value)
    return str(value) if finite else None
