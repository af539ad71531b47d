"""Draw the road of the course, a picture for each notebook with its own stop lit.

`make results` writes them to images/; every notebook opens with its one.
"""

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from tools import ROOT

STOPS = {  # what a notebook is about, and the stage it leaves behind
    "00": ("why GRPO", ""),
    "01": ("model", "base"),
    "02": ("template", "template"),
    "03": ("SFT", "sft"),
    "04": ("rewards", ""),
    "05": ("GRPO", "grpo"),
    "06": ("export", "export"),
}
BEYOND = {"07": ("scale out", "")}  # on its own picture only
ROUND = "round,pad=0.03,rounding_size=0.08"
LIT, PASSED, AHEAD = "#54a24b", "#d5e8d2", "#eeeeee"


def draw(here: str) -> Figure:
    """The road: what lies behind, the stop `here`, and what comes."""
    stops = STOPS | {n: stop for n, stop in BEYOND.items() if n == here}
    fig = Figure(figsize=(9, 1.15))
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, len(stops)), ylim=(0, 1))
    ax.axis("off")
    centre = {"ha": "center", "va": "center"}
    for place, (number, (title, stage)) in enumerate(stops.items()):
        colour = LIT if number == here else PASSED if number < here else AHEAD
        corner = (place + 0.09, 0.3)
        ax.add_patch(FancyBboxPatch(corner, 0.76, 0.62, color=colour, boxstyle=ROUND))
        lit = {"color": "white", "weight": "bold"} if number == here else {}
        ax.text(place + 0.47, 0.72, number, fontsize=11, **centre, **lit)
        ax.text(place + 0.47, 0.45, title, fontsize=9, **centre, **lit)
        if place:
            ends = {"xy": (place + 0.04, 0.61), "xytext": (place - 0.1, 0.61)}
            ax.annotate("", **ends, arrowprops={"arrowstyle": "->", "color": "#666666"})
        if stage:
            below = {"fontsize": 7, "color": "#666666"} | centre
            ax.text(place + 0.47, 0.1, f"stage {stage}", **below)
    return fig


if __name__ == "__main__":
    for number in STOPS | BEYOND:
        path = ROOT / "images" / f"road_{number}.png"
        draw(number).savefig(path, dpi=90, metadata={"Software": None})
