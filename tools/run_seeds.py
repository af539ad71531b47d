"""Three seeds and two controls, each a whole run of its own: `make seeds`.

    run_seeds.py            all of it, one after the other
    run_seeds.py 3407 2     these seeds and their controls (two such runs at a time,
                            each with OMP_NUM_THREADS=1, are faster on two cores)

Runs notebooks 01, 02, 03 and 05 once for each seed, and then, from each seed's warm-up,
GRPO again with a reward that knows nothing of the answer. What has been done is kept
under COURSE_HOME/seeds, so that an interrupted run goes on. Writes results/cpu.json
(one row a stage and seed), results/cpu-gains.json (one row a seed and reward) and
results/cpu-curves.json (one row a seed, reward and step).
"""

import json
import os
import shutil
import sys
from pathlib import Path

import nbtools
import results
import run_course

sys.path.insert(0, str(nbtools.FOLDER))

from grpo_course import arithmetic, evaluation, stages  # noqa: E402

SEEDS = (3407, 1, 2)
CONTROLS = ("format", "random")
KEPT = {
    "sum_of_rewards": "reward",
    "std_within_groups": "reward_std",
    "groups_without_variance": "frac_reward_zero_std",
    "completion_tokens": "completions/mean_length",
    "entropy": "entropy",
}


def main() -> None:
    root = stages.home() / "seeds"
    wanted = [seed for seed in SEEDS if str(seed) in sys.argv[1:]] or SEEDS
    for seed in wanted:
        run(home_of(root, seed), ("01", "02", "03", "05"), COURSE_SEED=str(seed))
        write(root)
    for seed in wanted:
        for reward in CONTROLS:
            control = home_of(root, seed, reward)
            branch(home_of(root, seed), control)
            run(control, ("05",), COURSE_SEED=str(seed), COURSE_REWARD=reward)
            write(root)


def home_of(root: Path, seed: int, reward: str = "course") -> Path:
    """The COURSE_HOME of one run."""
    return root / (str(seed) if reward == "course" else f"{seed}-{reward}")


def run(home: Path, numbers: tuple[str, ...], **settings: str) -> None:
    """Execute notebooks with these settings and this COURSE_HOME."""
    os.environ |= {"COURSE_REWARD": "course", "COURSE_HOME": str(home), **settings}
    print("\n" + "  ".join(f"{name}={value}" for name, value in settings.items()))
    with run_course.guarded(home) as environment:
        for number in numbers:
            (path,) = nbtools.FOLDER.glob(f"{number}_*.ipynb")
            nbtools.execute(path, home / "executed" / path.name, environment)


def branch(home: Path, control: Path) -> None:
    """Give a control the stages up to the warm-up."""
    for stage in ("base", "template", "sft"):
        if not (control / "stages" / stage).exists():
            shutil.copytree(home / "stages" / stage, control / "stages" / stage)


def finished_runs(root: Path):
    """Yield seed, reward and the metrics of the stages sft and grpo of each run."""
    for reward in ("course", *CONTROLS):
        for seed in SEEDS:
            home = home_of(root, seed, reward)
            paths = [home / "stages" / s / "manifest.json" for s in ("sft", "grpo")]
            if all(path.is_file() for path in paths):
                sft, grpo = (json.loads(p.read_text())["metrics"] for p in paths)
                yield seed, reward, sft, grpo


def gains(root: Path) -> list[dict]:
    """What GRPO changed, for each seed and reward that is done: a paired comparison.

    Keys: seed, reward, n, before and after (greedy accuracies, 0 to 1), p_value (exact
    McNemar test on the same problems).
    """
    rows = []
    for seed, reward, sft, grpo in finished_runs(root):
        before, after = sft["correct"], grpo["correct"]
        row = {"seed": seed, "reward": reward, "n": len(after)}
        row |= {"before": sum(before) / len(before), "after": sum(after) / len(after)}
        rows.append(row | {"p_value": evaluation.paired_p_value(before, after)})
    return rows


def curves(root: Path) -> list[dict]:
    """What GRPO logged, for each seed, reward and step: KEPT of it, and the styles."""
    rows = []
    for seed, reward, _, grpo in finished_runs(root):
        for entry in grpo["log_history"]:
            row = {"seed": seed, "reward": reward, "step": entry["step"]}
            row |= {name: round(float(entry[key]), 4) for name, key in KEPT.items()}
            for style in arithmetic.STYLES:
                share = float(entry[f"rewards/style_{style}/mean"])
                row[style] = round(share, 4)
            rows.append(row)
    return rows


def write(root: Path) -> None:
    """Write the three tables from what is done so far."""
    table = [row for seed in SEEDS for row in results.rows(home_of(root, seed))]
    results.RESULTS.parent.mkdir(exist_ok=True)
    results.save(results.RESULTS, table)
    results.save(results.GAINS, gains(root))
    results.save(results.CURVES, curves(root))
    print("\n" + results.as_text(table), flush=True)


if __name__ == "__main__":
    main()
