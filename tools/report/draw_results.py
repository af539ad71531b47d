"""Draw the pictures in images/ from the tables in results/: `make results`."""

from functools import partial

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402

from tools import ROOT  # noqa: E402
from tools.report import gpu_run, tables  # noqa: E402

IMAGES = ROOT / "images"
STAGE_COLOURS = {"base": "#bab0ac", "sft": "#4c78a8", "grpo": "#54a24b"}
STYLE_COLOURS = {"none": "#bab0ac", "expression": "#f58518"}
STYLE_COLOURS |= {"steps": "#4c78a8", "detail": "#54a24b"}
CONTROLS = {"course": "GRPO", "format": "reward for\nformat only"}
CONTROLS |= {"random": "random\nreward", "sft-more": "more SFT\ninstead"}


def draw_stages(ax, table: pd.DataFrame) -> None:
    """Greedy accuracy of each stage, a bar a seed, with its 95 % interval."""
    seeds = list(dict.fromkeys(table["seed"]))
    for place, (stage, colour) in enumerate(STAGE_COLOURS.items()):
        for row in table[table["stage"] == stage].itertuples():
            x = place + 0.26 * (seeds.index(row.seed) - (len(seeds) - 1) / 2)
            ax.bar(x, row.accuracy, 0.22, color=colour)
            ax.vlines(x, row.ci_low, row.ci_high, color="black", linewidth=1)
    names = ("base model", "after SFT", "after GRPO")
    ax.set(xticks=range(3), xticklabels=names, ylim=(0, 1))
    ax.set_title(f"accuracy on held-out problems ({len(seeds)} seeds)")


def draw_styles(ax, curves: pd.DataFrame) -> None:
    """How the completions of GRPO are written, step by step: the mean over seeds."""
    course = curves[curves["experiment"] == "course"]
    means = course.groupby("step").mean(numeric_only=True)
    means = means[[f"style_{style}" for style in STYLE_COLOURS]]
    shares = means.rolling(5, min_periods=1, center=True).mean()
    ax.stackplot(
        shares.index,
        shares.T,
        labels=STYLE_COLOURS,
        colors=STYLE_COLOURS.values(),
        alpha=0.9,
    )
    ax.set(xlabel="step of GRPO", xlim=(1, shares.index.max()), ylim=(0, 1))
    ax.set_title("how the working is written")
    ax.legend(loc="center right", fontsize=8)


def draw_controls(ax, outcomes: pd.DataFrame) -> None:
    """What fifty more steps changed: a dot a seed, in points of accuracy."""
    ax.axhline(0, color="black", linewidth=0.8)
    names = [name for name in CONTROLS if name in set(outcomes["experiment"])]
    for place, name in enumerate(names):
        runs = outcomes[outcomes["experiment"] == name]
        points = 100 * (runs["accuracy"] - runs["before"])
        ax.scatter([place] * len(runs), points, color="#54a24b")
    ax.set(xticks=range(len(names)), xticklabels=[CONTROLS[name] for name in names])
    ax.set(xlim=(-0.5, len(names) - 0.5), ylabel="points of accuracy")
    ax.set_title("what fifty more steps changed")


SICK = ("course", "sick-cold", "sick-rate", "sick-limit")
SIGNS = {"reward": "reward", "right": "right", "zero_std": "groups with-\nout variance"}
SIGNS |= {"tokens": "tokens", "clipped": "cut off", "entropy": "entropy\n(nats)"}


def draw_sick_runs(curves: pd.DataFrame):
    """A column a run, a row a logged number, means over three steps: a figure."""
    fig, axes = plt.subplots(
        len(SIGNS), len(SICK), figsize=(11, 9), sharex=True, sharey="row"
    )
    for column, name in zip(axes.T, SICK, strict=True):
        run = curves[(curves["experiment"] == name) & (curves["seed"] == 3407)]
        run = run.set_index("step").rolling(3, min_periods=1, center=True)
        for ax, sign in zip(column, SIGNS, strict=True):
            ax.plot(run[sign].mean(), color="#4c78a8")
        column[0].set_title(name)
        column[-1].set_xlabel("step")
    for ax, label in zip(axes[:, 0], SIGNS.values(), strict=True):
        ax.set_ylabel(label)
    for ax in (*axes[1], *axes[2], *axes[4]):
        ax.set_ylim(-0.05, 1.05)
    return fig


ABLATIONS = {
    "completions in a group": {"group-4": "4", "course": "8", "group-16": "16"},
    "learning rate": {"rate-third": "/ 3", "course": "1e-3", "rate-triple": "x 3"},
    "loss type": {"loss-grpo": "grpo", "course": "dapo", "loss-dr_grpo": "dr_grpo"},
}


def draw_ablations(outcomes: pd.DataFrame):
    """Accuracy after GRPO, a dot a run, with its 95 % interval: a figure."""
    fig, axes = plt.subplots(1, len(ABLATIONS), figsize=(11, 3.2), sharey=True)
    for ax, (title, names) in zip(axes, ABLATIONS.items(), strict=True):
        for place, name in enumerate(names):
            runs = outcomes[outcomes["experiment"] == name]
            for shift, row in enumerate(runs.itertuples()):
                x = place + 0.15 * (shift - 1)
                ax.vlines(x, row.ci_low, row.ci_high, color="black", linewidth=1)
                ax.scatter(x, row.accuracy, color="#54a24b", zorder=2)
        ax.set(xticks=range(len(names)), xticklabels=names.values(), title=title)
        ax.set(xlim=(-0.5, len(names) - 0.5), ylim=(-0.04, 1))
    axes[0].set_ylabel("accuracy (held-out)")
    return fig


REAL_MODEL = "Qwen2.5-Coder-1.5B-Instruct"  # the one that README and 05 speak of


def real_run() -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Stages and curve of the last run of REAL_MODEL; None if there is none."""
    curves = tables.read("gpu-curves.csv")
    last = next((row for row in curves[::-1] if row["model"] == REAL_MODEL), None)
    if last is None:
        return None
    run = partial(tables.key_of, names=gpu_run.RUN)
    both = tables.read("gpu.json"), curves
    table, curve = ([r for r in rows if run(r) == run(last)] for rows in both)
    return pd.DataFrame(table), pd.DataFrame(curve)


def draw_real_run(table: pd.DataFrame, curve: pd.DataFrame):
    """Accuracy after each stage, and the share of right rollouts at each step."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
    draw_stages(left, table)
    places = [list(STAGE_COLOURS).index(stage) for stage in table["stage"]]
    left.scatter(places, table["sampled"], color="black", marker="x", zorder=3)
    left.set_title(f"accuracy on {table['n'].iloc[0]:,} held-out problems")
    share = curve.set_index("step")["right"]
    right.plot(share, ".", color="#bab0ac")
    right.plot(share.rolling(15, center=True).mean(), color="#54a24b")
    right.set(xlabel="step of GRPO", ylim=(0, 1))
    right.set_title("right answers among its own completions")
    return fig


def save(fig, name: str) -> None:
    fig.tight_layout()
    IMAGES.mkdir(exist_ok=True)
    fig.savefig(IMAGES / name, dpi=80, metadata={"Software": None})


def main() -> None:
    names = ("cpu.json", "experiments.json", "curves.csv")
    table, outcomes, curves = (pd.DataFrame(tables.read(name)) for name in names)
    fig, axes = plt.subplots(1, 3, figsize=(13, 3.4))
    draw_stages(axes[0], table)
    draw_styles(axes[1], curves)
    draw_controls(axes[2], outcomes)
    save(fig, "what_it_learns.png")
    measured = set(outcomes["experiment"])
    if measured.issuperset(SICK):
        save(draw_sick_runs(curves), "sick_runs.png")
    if measured.issuperset(name for names in ABLATIONS.values() for name in names):
        save(draw_ablations(outcomes), "ablations.png")
    if (real := real_run()) is not None:
        save(draw_real_run(*real), "real_model.png")


if __name__ == "__main__":
    main()
