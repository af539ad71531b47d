"""Tables: lists of rows (dicts) kept in results/, shown in Markdown or a terminal.

A table's columns are written "heading: pattern | heading: pattern || ...", where "||"
comes before the first number: "run: {name} || right: {accuracy:.1%} | n: {n}".
"""

import json
import math
from pathlib import Path

import pandas as pd

from tools import ROOT, write_whole

RESULTS = ROOT / "results"


def read(name: str | Path) -> list[dict]:
    """The rows of a file in results/, or at an absolute path; none if there is none."""
    path = RESULTS / name
    if not path.exists():
        return []
    if path.suffix == ".csv":
        return pd.read_csv(path).to_dict("records")
    return json.loads(path.read_text())


def write(name: str | Path, rows: list[dict]) -> None:
    """Write rows to a file in results/, or at an absolute path, whole or not at all."""
    text = "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n"
    if Path(name).suffix == ".csv":
        text = pd.DataFrame(rows).to_csv(index=False)
    write_whole(RESULTS / name, text)


def add(name: str | Path, rows: list[dict], key: tuple[str, ...]) -> None:
    """Add rows to a file; they replace all that have the same key."""
    write(name, merged(read(name), rows, key))


def merged(old: list[dict], new: list[dict], key: tuple[str, ...]) -> list[dict]:
    """`old` with `new` added, which replace all rows that have the same key."""
    keys = {key_of(row, key) for row in new}
    return [row for row in old if key_of(row, key) not in keys] + new


def key_of(row: dict, names: tuple[str, ...]) -> tuple:
    """What tells a row from others; absent, None and a CSV file's nan are the same."""
    return tuple(None if pd.isna(row.get(name)) else row[name] for name in names)


def short(value):
    """A number with five significant digits, for a small file; else the value."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return float(f"{value:.5g}")


def frame(columns: str, rows: list[dict]) -> pd.DataFrame:
    """Rows as text, by the columns' patterns; "-" where a value is missing or None."""
    pairs = [part.strip().partition(": ") for part in columns.split("|") if part]

    def cell(pattern: str, row: dict) -> str:
        try:
            return pattern.format_map({k: v for k, v in row.items() if v is not None})
        except KeyError:
            return "-"

    lines = [[cell(pattern, row) for *_, pattern in pairs] for row in rows]
    return pd.DataFrame(lines, columns=[heading for heading, *_ in pairs])


def markdown(columns: str, rows: list[dict]) -> str:
    """Rows as a Markdown table; one with an "error" shows it instead of its numbers."""
    if not rows:
        return "*Not measured yet.*"
    table, left = frame(columns, rows), columns.partition("||")[0].count("|") + 1
    lines = [list(table), ["---"] * left + ["---:"] * (table.shape[1] - left)]
    for row, line in zip(rows, table.values.tolist(), strict=True):
        if "error" in row:
            line[left:] = [row["error"]] + [""] * (len(line) - left - 1)
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(page: str, marker: str, tables: str) -> str:
    """`page` with `tables` between two markers; ValueError if they are not there."""
    start, end = f"<!-- {marker}:start -->", f"<!-- {marker}:end -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the markers {start} and {end} are not both there")
    return f"{before}{start}\n{tables}\n{end}{after}"
