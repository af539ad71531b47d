"""The flight recorder: what a healthy run and three sick ones wrote, token by token.

    python -m tools.measure.flight sick-rate      one of RUNS; `make flight`: all

Runs notebook 05 up to the end of its training, from the warm-up that `make seeds` has
left in COURSE_HOME, and keeps a group of completions at a few steps in
results/flight.json. `make results` makes docs/flight.html of it.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from itertools import compress

import numpy as np

from tools import write_whole
from tools.measure import experiments
from tools.report import runs, tables
from tools.run import nbtools, run_course, try_it

FILE = "flight.json"
RUNS = ("course", "sick-cold", "sick-rate", "sick-limit")
STEPS = (1, 2, 3, 5, 6, 7, 8, 10, 20, 30, 50)
SHORT = {"sick-rate": STEPS[:-2]}  # dead by then, and its steps are the longest
BETWEEN = "·"  # the tokens of a completion, which are written as one text


class Flight(experiments.Run):
    """An experiment that begins with the course's warm-up, in a home of its own."""

    @property
    def home(self):
        return experiments.HOME / f"{self.seed}-flight-{self.experiment}"


def fly(flight: Flight) -> list[dict]:
    """Run an experiment up to GRPO's end; its recorded steps (see `record`)."""
    start = flight.plan.start or "sft"
    if not flight.course.manifest(start):
        sys.exit(f"{flight.name} needs a warm-up first: run `make seeds`.")
    shutil.rmtree(flight.home, ignore_errors=True)
    os.environ |= flight.environment | {"MPLBACKEND": "Agg"}
    runs.copy_stages(flight.course.home, flight.home, start)
    with run_course.guarded(flight.home) as run:
        for number in flight.plan.notebooks[:-1] if flight.plan.start else ():
            (path,) = nbtools.FOLDER.glob(f"{number}_*.ipynb")
            run(path)
    kept, steps = [], SHORT.get(flight.experiment, STEPS)
    try_it.train(lambda names: kept.append(record(names["trainer"], steps)))
    return kept[0]


def record(trainer, steps: Sequence[int]) -> list[dict]:
    """A list which a GRPOTrainer will fill at some steps, and after them it stops.

    Of each step the group whose rewards range widest, as a dict: step, groups, equal
    (how many have equal rewards), reward (the step's mean), parts (the names of the
    rewards that count), prompt, answer, and completions: tokens (with BETWEEN), logps
    (of the policy that wrote them, before min_p), rewards (of the parts), advantage.
    """
    kept, score = [], trainer._generate_and_score_completions

    def scored(rows: list[dict]) -> dict:
        batch = score(rows)
        if (step := trainer.state.global_step + 1) in steps:
            kept.append({"step": step} | group(trainer, rows, batch))
        trainer.control.should_training_stop |= step == steps[-1]
        return batch

    trainer._generate_and_score_completions = scored
    return kept


def group(trainer, rows: list[dict], batch: dict) -> dict:
    """What `record` keeps of one step. rows and batch: what TRL made it of, and has."""
    import torch  # here: a notebook's first cell says how it is to load

    ids, mask = batch["completion_ids"], batch["completion_mask"]
    with torch.no_grad():
        logps, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model,
            torch.cat([batch["prompt_ids"], ids], dim=1),
            torch.cat([batch["prompt_mask"], mask], dim=1),
            ids.shape[1],
        )
    logged = [list(x)[-len(rows) :] for x in trainer._logs["rewards"].values()]
    counts = [weight != 0 for weight in trainer.reward_weights.tolist()]
    parts = np.array(logged)[counts].T  # a row a completion, a column a reward
    size, completions = trainer.num_generations, []
    sums = parts.sum(axis=1).reshape(-1, size)
    ranges = np.ptp(sums, axis=1)
    first = int(ranges.argmax()) * size
    for i in range(first, first + size):
        written = mask[i].bool()
        pieces = [trainer.processing_class.decode([t]) for t in ids[i][written]]
        assert BETWEEN not in "".join(pieces)
        found = {"tokens": BETWEEN.join(pieces), "rewards": parts[i].tolist()}
        found["logps"] = [round(x, 2) or 0 for x in logps[i][written].tolist()]
        found["advantage"] = round(batch["advantages"][i].item(), 3)
        completions.append(found)
    return {
        "groups": len(sums),
        "equal": int((ranges < 1e-6).sum()),
        "reward": tables.short(float(sums.mean())),
        "parts": [*compress(trainer.reward_func_names, counts)],
        "prompt": rows[first]["prompt"][-1]["content"],
        "answer": str(rows[first]["answer"]),
        "completions": completions,
    }


def main() -> None:
    if (name := "".join(sys.argv[1:])) not in RUNS:
        sys.exit(f"Take one of {', '.join(RUNS)}.")
    row = {"experiment": name, "seed": experiments.SEEDS[0]}
    row["steps"] = fly(Flight(*row.values()))
    rows = tables.merged(tables.read(FILE), [row], ("experiment",))
    rows.sort(key=lambda row: RUNS.index(row["experiment"]))
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    write_whole(tables.RESULTS / FILE, text.replace('{"tokens"', '\n{"tokens"') + "\n")


if __name__ == "__main__":
    main()
