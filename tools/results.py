"""The table of what the model can do after each stage, from the stages' manifests.

`make course` prints it, `make seeds` collects it in results/cpu.json, and `make
results` writes it from there into the README, so that no number is ever typed.
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "cpu.json"
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


def fill(text: str, table: list[dict]) -> str:
    """`text` with what stands between the two markers replaced by the table."""
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"the markers {START} and {END} are not both there")
    return f"{before}{START}\n{as_markdown(table)}\n{END}{after}"


def main() -> None:
    table = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(fill(path.read_text(), table))


if __name__ == "__main__":
    main()
