"""The flight recorder's page and picture, from results/flight.json: `make results`.

docs/flight.html is one file that needs no network; notebook 05b shows it too.
"""

import json

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
DIAGNOSES = {  # in the page's order; what a reader is asked for, and the answer
    "sick-limit": (
        "completions are cut too early",
        "Every completion is cut after 32 tokens. Look at step 7: seven of eight work "
        "it out and reach 199, which is right, but are cut before they can close their "
        "tags. So the token with which the working begins, 4, is pushed down, and the "
        "9 with which a wrong guess in time begins is pushed hard up. It learns to be "
        "finished, not to be right: at step 30 six of eight do not work at all. And "
        "its mean reward rises all the same. The cure: room.",
    ),
    "sick-rate": (
        "the learning rate is too high",
        "The rate is ten times the course's. At step 5 it is even ahead of the healthy "
        "run. At step 6 some completions go on calculating inside <SOLUTION>, and at "
        "step 7 tags come in loops; now the least bad is pushed up. From step 8 on all "
        "rewards are the lowest there is: no group differs, nothing is coloured, and "
        "nothing can pull it back. At step 20 it draws its tokens almost evenly, p "
        "near 0.01. The cure: a smaller rate.",
    ),
    "course": (
        "nothing, it is healthy",
        "At steps 1 and 2 one of the eight completions works step by step, and it is "
        "the right one. The token with which it leaves the others (at step 2 the first "
        "=, with p 0.19) is pushed hardest. By step 10 seven of eight work like that. "
        "At step 30 all four groups are right, and nothing is pushed: here that is "
        "success, and only the rewards tell it from a dead run.",
    ),
    "sick-cold": (
        "there was no warm-up",
        "The model was never shown the format. Every reward is the lowest there is, so "
        "no group differs, nothing is pushed, and the policy of step 50 is that of "
        "step 1. It is not stupid: at step 10 seven of eight completions reach 180, "
        "which is right, inside tags of its own that no reward reads. The cure: a "
        "warm-up (notebook 03), or a reward that pays for the first step towards the "
        "format.",
    ),
}


def page(rows: list[dict], form: str) -> str:
    """The page: its form with the rows of flight.json in it. HTML, one file."""
    steps = {row["experiment"]: row["steps"] for row in rows}
    runs = [
        {"name": name, "diagnosis": diagnosis, "steps": steps[experiment]}
        for experiment, (name, diagnosis) in DIAGNOSES.items()
    ]
    text = json.dumps(runs, ensure_ascii=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c")  # nothing in it can end the script
    values = {"BETWEEN": BETWEEN, "LEAST": str(LEAST), "FULL": str(FULL), "DATA": text}
    for name, value in values.items():
        form = form.replace("{{" + name + "}}", value)
    return form


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
