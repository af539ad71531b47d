"""What the finished experiments say, collected into the tables of results/."""

import json
import os
import re
from pathlib import Path

from grpo_course.ground import statistics
from tools.measure.experiments import PASS_SAMPLES, SEEDS, Run, all_runs
from tools.report import runs, tables

RUN = ("experiment", "seed")
KEYS = {  # of each table in results/: what tells the rows of a run
    "cpu.json": ("seed",),
    "experiments.json": RUN,
    "curves.csv": RUN,
    "pass-at-k.json": ("seed",),
    "samples.json": RUN,
}


def collect() -> None:
    """Write what the finished runs say to results/.

    Rows of runs that are not in this COURSE_HOME stay as they are. cpu.json: see
    runs.evaluated. experiments.json: see outcome. curves.csv: a row a run and step of
    GRPO. pass-at-k.json: how many of each problem's samples were right (a list).
    samples.json: what the first seed's runs answered to a few problems, greedily.
    """
    new, order = {name: [] for name in KEYS}, {}
    for run in all_runs():
        key = {"experiment": run.experiment, "seed": run.seed}
        order[run.experiment, run.seed] = len(order)
        if run.experiment == "course":
            new["cpu.json"] += runs.evaluated(run.home)
        if not run.plan.makes and run.finished():
            row = {"seed": run.seed, "samples": PASS_SAMPLES}
            for stage, right in json.loads(run.counts.read_text()).items():
                new["pass-at-k.json"].append(row | {"stage": stage, "right": right})
        last = run.manifest(run.plan.makes or "")
        first = (run if run.plan.makes == "grpo" else run.course).manifest("sft")
        if last and first:
            told = last["metrics"]
            new["experiments.json"].append(key | outcome(run, first["metrics"], last))
            new["curves.csv"] += [key | runs.logged(e) for e in told["log_history"]]
            if run.seed == SEEDS[0]:
                new["samples.json"] += [key | sample for sample in told["samples"]]

    def place(row: dict) -> int | None:
        return order.get((row.get("experiment", "course"), row["seed"]))

    for name, key in KEYS.items():
        rows = tables.merged(tables.read(name), new[name], key)
        rows = [row for row in rows if place(row) is not None]
        tables.write(name, sorted(rows, key=place))


def outcome(run: Run, before: dict, last: dict) -> dict:
    """What changed on the same held-out problems, greedy decoding.

    Besides what runs.evaluated tells: before and accuracy (after it; both 0 to 1),
    p_value (exact McNemar test), sampled (accuracy when sampled as in training), and
    what it ran on. Where the course's own run is there: gained and lost, how many
    problems are right here and wrong after it, and the other way.
    """
    after = last["metrics"]
    old, new = before["correct"], after["correct"]
    row = {"about": run.plan.about, "n": len(new), "before": sum(old) / len(old)}
    row |= {k: after["evaluation"]["greedy"][k] for k in runs.MEASURES if k != "n"}
    row |= {"sampled": after["evaluation"]["sampled"]["accuracy"]}
    row |= {"p_value": statistics.paired_p_value(old, new)}
    course = run.course.manifest("grpo").get("metrics", {}).get("correct", [])
    if run != run.course and len(course) == len(new):
        row["gained"], row["lost"] = statistics.gained_and_lost(course, new)
    row |= {"minutes": after.get("minutes"), "machine": machine()}
    row |= {name: last["packages"].get(name) for name in ("python", "torch")}
    return {name: tables.short(value) for name, value in row.items()}


def machine() -> str:
    """The name of the processor, and its threads."""
    name = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())[1]
    return f"{name}, {os.cpu_count()} threads"
