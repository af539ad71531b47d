"""The flight recorder's page and picture, from results/flight.json: `make results`.

docs/flight.html is one file that needs no network; notebook 05b shows it too.
"""

import json
import re

import numpy as np
from matplotlib.figure import Figure

from tools import ROOT, write_whole
from tools.measure.flight import BETWEEN, FILE
from tools.report import tables
from tools.report.draw_results import IMAGES

PAGE = ROOT / "docs" / "flight.html"
FORM = ROOT / "tools" / "report" / "flight.html"
PICTURED = ("course", 2)  # the run and its step in the picture
LEAST, FULL = 0.05, 1.5  # a smaller push has no colour, one of this size the full one
FONT, WIDE = 9, 9 * 0.602  # of the picture, in points: a letter's height and width
UP, DOWN = "#2171b5", "#e66e0a"


def page(rows: list[dict], form: str) -> str:
    """The page: its form with the steps of flight.json in it. HTML, one file."""
    values = {"BETWEEN": BETWEEN, "LEAST": str(LEAST), "FULL": str(FULL)}
    for row in rows:
        text = json.dumps(row["steps"], ensure_ascii=False, separators=(",", ":"))
        values[row["experiment"]] = text.replace("<", "\\u003c")  # ends no script
    return re.sub("{{(.+?)}}", lambda slot: values[slot[1]], form)


def picture(step: dict):
    """One step as a figure: a line a completion, its tokens marked by their push."""
    rows = [c["tokens"].replace("<|im_end|>", "■") for c in step["completions"]]
    rows = [row.replace("\n", "⏎").split(BETWEEN) for row in rows]
    title = f"{step['prompt']} (true answer: {step['answer']})"
    width = 9 + max(len(title), *(len("".join(row)) for row in rows))
    size = np.array([width * WIDE, 2.2 * FONT * (len(rows) + 1)]) / 72  # in inches
    fig = Figure(figsize=size)
    ax = fig.add_axes((0, 0, 1, 1), xlim=(-8, width - 8), ylim=(len(rows) - 0.5, -1.5))
    ax.axis("off")
    how = {"family": "DejaVu Sans Mono", "fontsize": FONT, "va": "center_baseline"}
    ax.text(0, -1, title, **how)
    for y, (row, completion) in enumerate(zip(rows, step["completions"], strict=True)):
        ax.text(-7.5, y, f"{completion['advantage']:+.2f}", weight="bold", **how)
        ax.text(0, y, "".join(row), **how)
        pushes = completion["advantage"] * (1 - np.exp(completion["logps"]))
        ends = np.cumsum([len(piece) for piece in row])
        for piece, push, end in zip(row, pushes, ends, strict=True):
            if abs(push) >= LEAST:
                strength = min(1, abs(push) / FULL)
                colour, edge = (UP, y - 0.4) if push > 0 else (DOWN, y + 0.4)
                span, line = [end - len(piece), end], {"lw": 1 + 2 * strength}
                shade = {"color": colour, "alpha": 0.08 + 0.42 * strength, "lw": 0}
                ax.fill_between(span, y - 0.4, y + 0.4, **shade)
                ax.plot(span, [edge, edge], color=colour, **line)
    return fig


def main() -> None:
    if not (rows := tables.read(FILE)):
        return
    write_whole(PAGE, page(rows, FORM.read_text()))
    steps = {(row["experiment"], s["step"]): s for row in rows for s in row["steps"]}
    picture(steps[PICTURED]).savefig(
        IMAGES / "flight.png", dpi=120, metadata={"Software": None}
    )


if __name__ == "__main__":
    main()
