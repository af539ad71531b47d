"""The tables of what the model can do: after each stage, and after each experiment.

`make course` prints the first, from the stages' manifests; `make seeds` and `make
experiments` collect both in results/, and `make results` writes them from there into
the README, so that no number is ever typed.
"""

import csv
import json
import math
import sys
from pathlib import Path

from tools import ROOT

RESULTS = ROOT / "results" / "cpu.json"  # a row a stage of the course
GAINS = ROOT / "results" / "experiments.json"  # a row a run of GRPO
CURVES = ROOT / "results" / "curves.csv"  # a row a run and step
PASS_AT_K = ROOT / "results" / "pass-at-k.json"
SAMPLES = ROOT / "results" / "samples.json"
START, END = "<!-- results:start -->", "<!-- results:end -->"

# What is evaluated, and the stage whose manifest tells: the base model gets its
# adapter and its template before it is asked, and neither changes what it says.
STAGES = {"base": "template", "sft": "sft", "grpo": "grpo"}
MEASURES = ("n", "accuracy", "ci_low", "ci_high", "format_rate")
MEASURES += ("mean_completion_tokens", "truncated_rate")
HEADINGS = ("stage", "seed", "n", "accuracy", "95 % interval", "format")
HEADINGS += ("tokens", "cut off", "minutes")


def rows(home: Path) -> list[dict]:
    """One row for each evaluated stage under a COURSE_HOME, greedy decoding, in order.

    Keys: stage, seed, n (problems), accuracy with ci_low and ci_high (its 95 %
    interval), format_rate, mean_completion_tokens, truncated_rate, minutes (of the
    stage). Rates are from 0 to 1; what a manifest does not tell is None.
    """
    found = []
    for stage, folder in STAGES.items():
        path = Path(home) / "stages" / folder / "manifest.json"
        if not path.is_file():
            continue
        manifest = json.loads(path.read_text())
        metrics = manifest.get("metrics", {})
        greedy = metrics.get("evaluation", {}).get("greedy")
        if greedy:
            row = {"stage": stage, "seed": manifest.get("settings", {}).get("seed")}
            row |= {name: greedy.get(name) for name in MEASURES}
            found.append(row | {"minutes": metrics.get("minutes")})
    return found


def as_text(table: list[dict]) -> str:
    """The table for a terminal, in aligned columns."""
    if not table:
        return "No stage has been evaluated yet."
    lines = [HEADINGS, *map(_cells, table)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADINGS))]
    first, *others = widths
    template = "  ".join([f"{{:<{first}}}", *(f"{{:>{width}}}" for width in others)])
    return "\n".join(template.format(*line) for line in lines)


def as_markdown(table: list[dict]) -> str:
    """The table for the README."""
    if not table:
        return "*Not measured yet.*"
    rule = ("---",) + ("---:",) * (len(HEADINGS) - 1)
    lines = [HEADINGS, rule, *map(_cells, table)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: dict) -> tuple[str, ...]:
    def show(name: str, pattern: str) -> str:
        value = row.get(name)
        return "-" if value is None else pattern.format(value)

    low, high = show("ci_low", "{:.1%}"), show("ci_high", "{:.1%}")
    return (
        show("stage", "{}"),
        show("seed", "{}"),
        show("n", "{}"),
        show("accuracy", "{:.1%}"),
        f"{low} to {high}",
        show("format_rate", "{:.1%}"),
        show("mean_completion_tokens", "{:.1f}"),
        show("truncated_rate", "{:.1%}"),
        show("minutes", "{:.1f}"),
    )


def gains_as_markdown(table: list[dict]) -> str:
    """What each experiment changed, for the README: a row an experiment."""
    lines = [
        "| run | what it is | seeds | before | after | gain, lowest to highest |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name in dict.fromkeys(row["experiment"] for row in table):
        runs = [row for row in table if row["experiment"] == name]
        before, after = ([row[k] for row in runs] for k in ("before", "accuracy"))
        gains = sorted(
            100 * (new - old) for old, new in zip(before, after, strict=True)
        )
        spread = f"{gains[0]:+.1f} to {gains[-1]:+.1f}" if gains[1:] else "one seed"
        lines.append(
            f"| {name} | {runs[0]['about']} | {len(runs)} | {_mean(before):.1%} "
            f"| {_mean(after):.1%} | {_mean(gains):+.1f} points ({spread}) |"
        )
    return "\n".join(lines) if table else "*Not measured yet.*"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def short(value):
    """A number with five significant digits, for a small file; else the value."""
    if not isinstance(value, float) or not math.isfinite(value):
        return value
    return float(f"{value:.5g}")


KEPT = {  # of what GRPO logs at each step, under shorter names
    "loss": "loss",
    "grad_norm": "grad_norm",
    "reward": "reward",
    "reward_std": "reward_std",
    "zero_std": "frac_reward_zero_std",
    "tokens": "completions/mean_length",
    "clipped": "completions/clipped_ratio",
    "entropy": "entropy",
}


def logged(entry: dict) -> dict:
    """Of an entry in GRPO's log: step, KEPT, and the mean of each reward function."""
    values = {name: entry.get(key) for name, key in KEPT.items()}
    for key, value in entry.items():
        if key.startswith("rewards/") and key.endswith("/mean"):
            values[key.split("/")[1]] = value
    rounded = {name: short(value) for name, value in values.items()}
    return {"step": entry["step"]} | rounded


def save_csv(path: Path, table: list[dict]) -> None:
    """Write a table as CSV, whole or not at all; what a row has not is left empty."""
    names = list(dict.fromkeys(name for row in table for name in row))
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table)
    partial.replace(path)


def read_csv(path: Path) -> list[dict]:
    """A table as `save_csv` wrote it, each value as text; empty if there is none."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def key_of(row: dict, names: tuple[str, ...]) -> tuple[str, ...]:
    """The values of a row that tell it from others, as text, as a CSV file has them.

    What the row has not, or has as None, is "".
    """
    values = (row.get(name) for name in names)
    return tuple("" if value is None else str(value) for value in values)


def merged(table: list[dict], rows: list[dict], key: tuple[str, ...]) -> list[dict]:
    """`table` with `rows` added; they replace all rows with an equal key."""
    new = {key_of(row, key) for row in rows}
    return [row for row in table if key_of(row, key) not in new] + rows


def add(path: Path, rows: list[dict], key: tuple[str, ...]) -> None:
    """Merge rows into the table in a file, which need not be there yet."""
    path.parent.mkdir(exist_ok=True)
    save(path, merged(read(path), rows, key))


def save(path: Path, table: list[dict]) -> None:
    """Write a table as JSON, whole or not at all."""
    partial = path.with_suffix(".partial")
    lines = ",\n".join(json.dumps(row) for row in table)
    partial.write_text(f"[\n{lines}\n]\n")
    partial.replace(path)


def fill(text: str, table: list[dict], gains: list[dict]) -> str:
    """`text` with what stands between the two markers replaced by the tables."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"the markers {START} and {END} are not both there")
    tables = f"{as_markdown(table)}\n\n{gains_as_markdown(gains)}"
    return f"{before}{START}\n{tables}\n{END}{after}"


def read(path: Path) -> list[dict]:
    """A table of results; empty if it has not been made yet."""
    return json.loads(path.read_text()) if path.exists() else []


def main() -> None:
    table, gains = read(RESULTS), read(GAINS)
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(fill(path.read_text(), table, gains))


if __name__ == "__main__":
    main()
