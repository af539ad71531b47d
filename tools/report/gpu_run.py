"""Add the run that COURSE_HOME holds to what was measured on GPUs, and to the README.

    python -m tools.report.gpu_run [--name "What to call the model"]

Rows go to results/gpu.json (a row a stage), gpu-usage.json (a row a long step: time and
memory), gpu-curves.csv (a row a step of GRPO) and gpu-exports.json (a row a way to read
an export). They replace those of the same run: machine, profile, model, seed, and
memory held to.
"""

import argparse
import statistics
import sys
from pathlib import Path

from grpo_course.ground import stages
from grpo_course.ground.rules import EXPORTS
from grpo_course.ground.statistics import gained_and_lost
from tools.report import results, runs, tables

RUN = ("machine", "profile", "model", "seed", "gib_held")
KEYS = {  # of each table: what tells its rows apart
    "gpu.json": (*RUN, "stage"),
    "gpu-usage.json": (*RUN, "step"),
    "gpu-curves.csv": RUN,
    "gpu-exports.json": RUN,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", help="of the model, if it is a local folder")
    home = stages.home()
    found = collect(home, parser.parse_args().name)
    if not found:
        sys.exit(f"{home} has no finished stage sft or grpo of a GPU profile.")
    for name, key in KEYS.items():
        tables.add(name, found[name], key)
    results.main()
    print(results.on_gpus("gpu", found["gpu.json"]))


def collect(home: Path, name: str | None = None) -> dict[str, list[dict]]:
    """By table, the rows of the stages under a COURSE_HOME; {} if no GPU made them."""
    usage = usage_rows(home, name)
    if not usage:
        return {}
    run = {key: usage[-1][key] for key in RUN}
    outcome = outcomes(home)
    log = _metrics(home, "grpo").get("log_history", [])
    return {
        "gpu.json": [r | outcome[r["stage"]] | run for r in runs.evaluated(home)],
        "gpu-usage.json": usage,
        "gpu-curves.csv": [run | runs.logged(e) for e in log if "reward" in e],
        "gpu-exports.json": [run | row for row in readings(home)],
    }


def readings(home: Path) -> list[dict]:
    """What notebook 06 found: the adapter's row, and one a way to read an export."""
    proofs = [proof for name in EXPORTS if (proof := _metrics(home, name))]
    rows = [row for proof in proofs for row in proof["exports"]]
    return [proofs[0]["adapter"], *rows] if rows else []


def usage_rows(home: Path, name: str | None = None) -> list[dict]:
    """Time and memory of the long steps that ran on a GPU."""
    rows = []
    for step in ("sft", "grpo"):
        took = _metrics(home, step).get("usage", {})
        if took.get("gib_peak") is None:  # not there, or made without a GPU
            continue
        settings = runs.manifest(home, step)["settings"]
        row = {"step": step, "model": name or settings["model_name"]}
        row |= {"seed": settings["seed"]} | took
        rows.append(row | speed(_metrics(home, step)["log_history"], settings, took))
    return rows


def speed(log: list[dict], settings: dict, took: dict) -> dict:
    """Of a GRPO log: step_s, tokens_per_s, and to_first_step_s if that is known.

    Seconds a step and completion tokens a second are medians over the steps without the
    first, which compiles; that one counts for the seconds from the start of the process
    to the end of the first step.
    """
    first, *log = [entry for entry in log if "step_time" in entry] or [{}]
    if not log:
        return {}
    batch = settings["grpo_batch_size"] * settings["grpo_grad_accum"]
    seconds = [float(entry["step_time"]) for entry in log]
    tokens = [batch * float(entry["completions/mean_length"]) for entry in log]
    rates = [n / s for n, s in zip(tokens, seconds, strict=True)]
    found = {"step_s": round(statistics.median(seconds), 2)}
    found |= {"tokens_per_s": round(statistics.median(rates))}
    if first["step"] == 1 and "seconds_before" in took:
        begun = took["seconds_before"] + float(first["step_time"])
        found["to_first_step_s"] = round(begun, 1)
    return found


def outcomes(home: Path) -> dict[str, dict]:
    """By stage, what a row of accuracy has beyond the greedy one's.

    sampled: the accuracy at the temperature of the rollouts. For "grpo" also gained and
    lost: problems that are answered right since SFT, greedily, and those no longer.
    """
    told = {name: _metrics(home, stage) for name, stage in runs.EVALUATED.items()}
    sampled = {k: runs.summaries(m).get("sampled", {}) for k, m in told.items()}
    found = {name: {"sampled": row.get("accuracy")} for name, row in sampled.items()}
    before, after = (told[name].get("correct", []) for name in ("sft", "grpo"))
    if before and len(before) == len(after):  # the same problems
        gained, lost = gained_and_lost(before, after)
        found["grpo"] |= {"gained": gained, "lost": lost}
    return found


def _metrics(home: Path, stage: str) -> dict:
    return runs.manifest(home, stage).get("metrics", {})


if __name__ == "__main__":
    main()
