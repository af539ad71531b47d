"""What runs of the recipes took and gave, side by side: a row for each COURSE_HOME.

    python -m recipes.compare HOME ...            shows them
    python -m recipes.compare --keep HOME ...     and adds them to results/scale.json

`sampling_s` is inside `step_s`, and `sync_s` (weights on their way to vLLM) inside
`sampling_s`: medians without the first two steps, which compile. `reached_s` is the
time in steps until of five steps' completions 70 % were right.
"""

import json
import sys
from pathlib import Path
from statistics import fmean, median

import pandas as pd

from grpo_course.ground import stages
from grpo_course.ground.paths import REPO
from recipes import HERE  # noqa: F401  # it says where grpo_course is

KEY = ("machine", "model", "engine", "way", "processes", "completions")
REACHED = 0.7


def row(stage: stages.Stage) -> dict:
    """One run's row, from its stage `grpo`."""
    told, settings = stage.metrics, stage.manifest["settings"]
    seconds = {name: s[2:] or s for name, s in told["seconds"].items() if s}
    completions = settings["grpo_batch_size"] * settings["grpo_grad_accum"]
    lengths = [float(e["completions/mean_length"]) for e in told["log_history"]]
    step = median(seconds["step"])
    found = {
        "machine": told["usage"]["machine"],
        "model": Path(settings["model_name"]).name,
        "engine": told["engine"],
        "way": told["way"],
        "processes": told["processes"],
        "completions": completions,
        "tokens": fmean(lengths[2:] or lengths),
        "first_step_s": told["seconds"]["step"][0],
        "step_s": step,
        "sampling_s": median(seconds["generate"]),
        "sync_s": median(seconds.get("sync_weights", [0.0])),
        "tokens_per_s": completions * fmean(lengths[2:] or lengths) / step,
        "gib_peak": told["usage"]["gib_peak"],
        "reached_s": reached(told),
        "n": len(seconds["step"]),
    }
    greedy = told.get("evaluation", {}).get("greedy", {})
    names = ("accuracy", "ci_low", "ci_high")
    found |= {name: greedy.get(name) for name in names} | {"of": greedy.get("n")}
    return {k: round(v, 3) if isinstance(v, float) else v for k, v in found.items()}


def reached(told: dict) -> float | None:
    """Seconds of steps until REACHED of the completions were right; None: never, or
    not known, of a run that was interrupted."""
    right = [float(entry["rewards/right/mean"]) for entry in told["log_history"]]
    seconds = told["seconds"]["step"]
    for step in range(5, len(right) + 1) if len(right) == len(seconds) else ():
        if fmean(right[step - 5 : step]) >= REACHED:
            return sum(seconds[:step])
    return None


def main(arguments: list[str]) -> None:
    keep = "--keep" in arguments
    rows = []
    for home in arguments:
        made = [s for s in stages.every_stage(Path(home)) if s.name == "grpo"]
        rows += [row(stage) for stage in made if "seconds" in stage.metrics]
    if not rows:
        sys.exit("None of these folders has a stage grpo that a recipe made.")
    print(pd.DataFrame(rows).T.to_string(header=False))
    if keep:
        path = REPO / "results" / "scale.json"
        old = json.loads(path.read_text()) if path.exists() else []
        new = [[row[name] for name in KEY] for row in rows]
        rows = [o for o in old if [o[name] for name in KEY] not in new] + rows
        path.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


if __name__ == "__main__":
    main(sys.argv[1:])
