"""Draw images/what_it_learns.png from the tables in results/: `make results`."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import pandas as pd  # noqa: E402

import results  # noqa: E402

IMAGE = results.ROOT / "images" / "what_it_learns.png"
STAGE_COLOURS = {"base": "#bab0ac", "sft": "#4c78a8", "grpo": "#54a24b"}
STYLE_COLOURS = {"none": "#bab0ac", "expression": "#f58518"}
STYLE_COLOURS |= {"steps": "#4c78a8", "detail": "#54a24b"}


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
    means = curves[curves["reward"] == "course"].groupby("step").mean(numeric_only=True)
    shares = means[list(STYLE_COLOURS)].rolling(5, min_periods=1, center=True).mean()
    ax.stackplot(
        shares.index, shares.T, labels=shares, colors=STYLE_COLOURS.values(), alpha=0.9
    )
    ax.set(xlabel="step of GRPO", xlim=(1, shares.index.max()), ylim=(0, 1))
    ax.set_title("how the working is written")
    ax.legend(loc="center right", fontsize=8)


def draw_controls(ax, gains: pd.DataFrame) -> None:
    """What each reward changed, a dot a seed, in points of accuracy."""
    rewards = list(dict.fromkeys(gains["reward"]))
    points = 100 * (gains["after"] - gains["before"])
    ax.axhline(0, color="black", linewidth=0.8)
    places = [rewards.index(name) for name in gains["reward"]]
    ax.scatter(places, points, color="#54a24b")
    ax.set(xticks=range(len(rewards)), xticklabels=rewards, ylabel="points")
    ax.set(xlim=(-0.5, len(rewards) - 0.5))
    ax.set_title("what GRPO changed, by reward")


def main() -> None:
    tables = (results.RESULTS, results.CURVES, results.GAINS)
    table, curves, gains = (pd.DataFrame(results.read(path)) for path in tables)
    fig, axes = plt.subplots(1, 3, figsize=(13, 3.4))
    draw_stages(axes[0], table)
    draw_styles(axes[1], curves)
    draw_controls(axes[2], gains)
    fig.tight_layout()
    IMAGE.parent.mkdir(exist_ok=True)
    fig.savefig(IMAGE, dpi=80, metadata={"Software": None})


if __name__ == "__main__":
    main()
