"""What a run of the notebooks leaves in its COURSE_HOME, as rows of tables."""

import shutil
from pathlib import Path

from grpo_course.ground import stages
from tools.report import tables

# What is evaluated, and the stage whose manifest tells: the model before any training,
# in its own form (native) and in ours (base; the adapter that it gets before it is
# asked changes nothing), and after each training.
EVALUATED = {"native": "base", "base": "template", "sft": "sft", "grpo": "grpo"}
MEASURES = ("n", "accuracy", "ci_low", "ci_high", "format_rate")
MEASURES += ("mean_completion_tokens", "truncated_rate")
COLUMNS = """stage: {stage} || seed: {seed} | n: {n} | accuracy: {accuracy:.1%}
| 95 % interval: {ci_low:.1%} to {ci_high:.1%} | format: {format_rate:.1%}
| tokens: {mean_completion_tokens:.1f} | cut off: {truncated_rate:.1%}
| minutes: {minutes:.1f}"""

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


def copy_stages(home: Path, to: Path, until: str) -> None:
    """Give a COURSE_HOME another one's stages up to one, each whole or absent."""
    wanted = stages.ORDER[: stages.ORDER.index(until) + 1]
    for stage in stages.every_stage(home):
        place = to / "stages" / stage.path.name
        if stage.name in wanted and not place.exists():
            copy = place.with_name(f".{stage.name}.copy")
            shutil.rmtree(copy, ignore_errors=True)  # what a killed run left
            shutil.copytree(stage.path, copy)
            if stage.metrics_file.is_file():
                shutil.copy(stage.metrics_file, place.parent)
            copy.rename(place)


def manifest(home: Path, stage: str) -> dict:
    """What a stage under a COURSE_HOME says of itself; {} if there is none."""
    latest = {found.name: found for found in stages.every_stage(home)}.get(stage)
    return latest.manifest | {"metrics": latest.metrics} if latest else {}


def summaries(metrics: dict) -> dict:
    """Of a stage's metrics its evaluation, greedy and sampled; {} without one."""
    return metrics.get("evaluation") or metrics.get("native") or {}


def evaluated(home: Path) -> list[dict]:
    """One row for each evaluated stage under a COURSE_HOME, greedy decoding, in order.

    Keys: stage, seed, n (problems), accuracy with ci_low and ci_high (its 95 %
    interval), format_rate, mean_completion_tokens, truncated_rate, minutes (of the
    stage). Rates are from 0 to 1; what a manifest does not tell is None.
    """
    found = []
    for name, stage in EVALUATED.items():
        told = manifest(home, stage)
        metrics = told.get("metrics", {})
        if greedy := summaries(metrics).get("greedy"):
            row = {"stage": name, "seed": told["settings"]["seed"]}
            row |= {measure: greedy.get(measure) for measure in MEASURES}
            found.append(row | {"minutes": metrics.get("minutes")})
    return found


def as_text(home: Path) -> str:
    """The evaluated stages under a COURSE_HOME, for a terminal."""
    table = tables.frame(COLUMNS, evaluated(home))
    return table.to_string(index=False) if len(table) else "No stage is evaluated yet."


def logged(entry: dict) -> dict:
    """Of an entry in GRPO's log: step, KEPT, and the mean of each reward function."""
    values = {name: entry.get(key) for name, key in KEPT.items()}
    for key, value in entry.items():
        if key.startswith("rewards/") and key.endswith("/mean"):
            values[key.split("/")[1]] = value
    return {"step": entry["step"]} | {k: tables.short(v) for k, v in values.items()}
