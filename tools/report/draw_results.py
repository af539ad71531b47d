"""Draw the pictures in images/ from the tables in results/: `make results`."""

import pandas as pd
from matplotlib.figure import Figure

from tools import ROOT
from tools.report import results, tables

IMAGES = ROOT / "images"
STAGE_COLOURS = {"native": "#bab0ac", "base": "#bab0ac"}
STAGE_COLOURS |= {"sft": "#4c78a8", "grpo": "#54a24b"}
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
    names = ("untrained,\nown form", "untrained,\nour tags")
    names += ("after SFT", "after GRPO")
    ax.set(xticks=range(4), xticklabels=names, ylim=(0, 1))
    ax.set_title(f"accuracy on held-out problems ({len(seeds)} seeds)")


def draw_styles(ax, curves: pd.DataFrame) -> None:
    """How the completions of GRPO are written, step by step: the mean over seeds."""
    course = curves[curves["experiment"] == "course"]
    means = course.groupby("step").mean(numeric_only=True)
    means = means[[f"style_{style}" for style in STYLE_COLOURS]]
    shares = means.rolling(5, min_periods=1, center=True).mean()
    colours = {"labels": STYLE_COLOURS, "colors": STYLE_COLOURS.values()}
    ax.stackplot(shares.index, shares.T, alpha=0.9, **colours)
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
    fig = Figure(figsize=(11, 9))
    axes = fig.subplots(len(SIGNS), len(SICK), sharex=True, sharey="row")
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
    fig = Figure(figsize=(11, 3.2))
    axes = fig.subplots(1, len(ABLATIONS), sharey=True)
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


TRIALS = {  # of a real model, in the order of the picture
    "native: boxed-user": "before training,\nin its own template",
    "D": "D: GRPO in its own template,\nwithout a warm-up",
    "B": "B: warm-up, then GRPO,\nin the course's tags",
    "E": "E: the same, another seed,\nhalf as many completions",
    "F": "F: as E with a coin\nin place of the rewards",
    "C": "C: as B with <think>,\nat 2.5 times the rate",
    "A": "A: as B with <think>,\nat the same rate",
}
PARTS = ("#4c78a8", "#f58518", "#bab0ac")  # of a step: sampling, loss, the rest


def draw_trials(trials: pd.DataFrame):
    """Held-out accuracy of a real model before training and after each trial."""
    fig = Figure(figsize=(8, 4.2))
    ax = fig.subplots()
    held_out = trials.query("problems == 'held-out'").set_index("trial")
    for place, name in enumerate(reversed(TRIALS)):
        row = held_out.loc[name]
        colour = STAGE_COLOURS["grpo" if row["after"] == "GRPO" else "base"]
        ax.barh(place, row["accuracy"], color=colour)
        ax.hlines(place, row["ci_low"], row["ci_high"], color="black")
        ax.text(row["ci_high"] + 0.01, place, f"{row['accuracy']:.1%}", va="center")
    ax.set(yticks=range(len(TRIALS)), yticklabels=list(TRIALS.values())[::-1])
    ax.set(xlim=(0, 1), xlabel=f"right, of {row['n']:,} held-out problems")
    return fig


def draw_collapse(curves: pd.DataFrame):
    """The trial that collapsed beside a healthy one: what showed it, and when."""
    signs = {"right": "right completions (share)", "grad_norm": "gradient's norm"}
    signs["unseen_tokens"] = "tokens a completion\nthat the loss did not see"
    fig = Figure(figsize=(11, 2.8))
    axes = fig.subplots(1, len(signs))
    for ax, (column, title) in zip(axes, signs.items(), strict=True):
        for name, colour in (("B", "#54a24b"), ("A", "#e45756")):
            curve = curves[curves["trial"] == name].set_index("step")[column]
            ax.plot(curve, color=colour, label=f"trial {name}")
        scale = "linear" if ax is axes[0] else "symlog"
        ax.set(title=title, xlabel="step", yscale=scale)
    axes[0].legend()
    return fig


STEPS = {  # of bench, beside the trials'
    "gpu-throughput.json": "8B, 64 completions\nof 512 tokens",
    "gpu-natural.json": "1.5B, 64 completions\nof their own length",
}


def draw_time(curves: pd.DataFrame):
    """Where the seconds of a step go: a bar for the trials (results.timeline), and one
    for the first variant of each of STEPS whose parts are known."""
    told = results.timeline(curves.to_dict("records"))
    seconds = {row["part"]: row["seconds"] for row in told}
    loss = seconds["loss, forward"] + seconds["loss, backward"]
    trials = seconds["vLLM generates"], loss, seconds["a step"]
    bars = {"1.5B, 256 completions\nof their own length": trials}
    for table, name in STEPS.items():
        row = next(row for row in tables.read(table) if "parts" in row)
        parts = row["parts"]
        loss, whole = parts["forward and backward"], sum(parts.values())
        bars[name] = parts["generating"], loss, whole
    fig = Figure(figsize=(9, 2.6))
    ax = fig.subplots()
    for place, (sampling, loss, whole) in enumerate(reversed(bars.values())):
        parts = {"sampling": sampling, "loss": loss}
        parts["the rest"] = whole - sampling - loss
        start = 0.0
        for (part, long), colour in zip(parts.items(), PARTS, strict=True):
            ax.barh(place, long, left=start, color=colour)
            label, middle = f"{part}\n{long:.1f} s", start + long / 2
            if part == "the rest":
                label = " " + label.replace("\n", "\n ")
                ax.text(whole, place, label, va="center")
            else:
                ax.text(middle, place, label, ha="center", va="center")
            start += long
    ax.set(yticks=range(len(bars)), yticklabels=[*bars][::-1])
    ax.set(xlim=(0, 20), xlabel="seconds of a step")
    return fig


def save(fig, name: str) -> None:
    fig.tight_layout()
    IMAGES.mkdir(exist_ok=True)
    fig.savefig(IMAGES / name, dpi=110, metadata={"Software": None})


def main() -> None:
    names = ("cpu.json", "experiments.json", "curves.csv")
    table, outcomes, curves = (pd.DataFrame(tables.read(name)) for name in names)
    fig = Figure(figsize=(13, 3.4))
    axes = fig.subplots(1, 3)
    draw_stages(axes[0], table)
    draw_styles(axes[1], curves)
    draw_controls(axes[2], outcomes)
    save(fig, "what_it_learns.png")
    save(draw_sick_runs(curves), "sick_runs.png")
    save(draw_ablations(outcomes), "ablations.png")
    save(draw_trials(pd.DataFrame(tables.read("gpu-trials.json"))), "real_model.png")
    trials = pd.DataFrame(tables.read("gpu-trial-curves.csv"))
    save(draw_collapse(trials), "real_collapse.png")
    save(draw_time(trials), "step_time.png")


if __name__ == "__main__":
    main()
