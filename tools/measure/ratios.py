"""Is the course as fast as it was? Ratios, beside those of last time: `make bench`.

    python -m tools.measure.ratios [--keep] [--models FOLDER]

The same work in two processes: as the notebooks do it, with Unsloth, and without. A
second tells of the machine and of who else is at work there; a ratio, above 1 where the
course is faster, tells of the code. With a GPU it is that of two variants of
`tools.measure.bench`, whose random weights are in FOLDER. Without one, the tiny model
computes on one core, and both rates are set against transformers and PEFT generating:
TRL 1.15 alone takes no step of GRPO there. --keep writes results/bench.json.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from grpo_course.ground import session
from grpo_course.ground.hardware import detect_hardware, machine
from grpo_course.ground.profile import PROFILES
from tools.measure import bench, steps
from tools.report import tables

OURS, PLAIN = "unsloth 8 x 8", "plain trl 8 x 8"
KEY = ("machine", "tokens a second")
COLUMNS = "tokens a second: {tokens a second} | machine: {machine} || n: {n}"
COLUMNS += "| ratio: {ratio:.2f} | last time: {before:.2f} | change: {change:+.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", action="store_true", help="for the next time")
    parser.add_argument("--models", type=Path, default="course-home/random-models")
    parser.add_argument("--one", choices=(OURS, PLAIN), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(on_cpu(options.one)))
        return
    rows = compared(*(rates(name, options.models) for name in (OURS, PLAIN)))
    last = {tables.key_of(row, KEY): row["ratio"] for row in tables.read("bench.json")}
    if options.keep:
        tables.add("bench.json", rows, KEY)
    for row in rows:
        if before := last.get(tables.key_of(row, KEY)):
            row |= {"before": before, "change": row["ratio"] / before - 1}
    print(tables.frame(COLUMNS, rows).to_string(index=False))


def rates(name: str, models: Path) -> list[dict]:
    """The rows of one side: step, machine, tokens_per_s, n."""
    if detect_hardware().gpu_gib:
        found = [rows for _, rows in bench.rows_of([name], models)]
    else:
        os.environ["OMP_NUM_THREADS"] = "1"  # a thread that waits would count
        found = bench.in_process(["-m", __spec__.name, "--one", name])
    rows = [row for rows in found for row in rows]
    if why := [row["error"] for row in rows if "error" in row]:
        sys.exit(f"{name}: {why[0]}")
    return rows


def compared(ours: list[dict], plain: list[dict]) -> list[dict]:
    """A row a kind of work: how many times the plain tokens a second are ours."""
    bases, found = {row["step"]: row["tokens_per_s"] for row in plain}, []
    for row in ours:
        base = bases.get(row["step"], plain[0]["tokens_per_s"])
        found.append({"machine": row["machine"], "tokens a second": row["step"]})
        found[-1] |= {"ratio": round(row["tokens_per_s"] / base, 3), "n": row["n"]}
    return found


# --- In a process of its own, without a GPU -------------------------------------------


def on_cpu(name: str) -> list[dict]:
    """Rows of the tiny model: generating for held-out problems, steps of GRPO."""
    profile = replace(PROFILES["cpu"], max_completion_length=64)
    if name == OURS:
        with session.quiet():
            found = bench.load_unsloth(profile)
    else:
        found = load_plain(profile)
    from grpo_course.gauges import evaluation
    from grpo_course.problems import held_out_problems
    from grpo_course.template import apply_template

    apply_template(found["tokenizer"])
    problems, rates = held_out_problems(profile)[:32], []
    for _ in range(steps.STEPS):
        begun = time.process_time()
        said = evaluation.evaluate(**found, problems=problems, profile=profile)
        took = time.process_time() - begun
        rates.append(sum(c.tokens for c in said.completions) / took)
    rate = {"tokens_per_s": max(rates), "n": len(rates)}  # others only slow it down
    rows = [{"step": "generating"} | rate]
    if name == OURS:
        rows.append({"step": "grpo"} | steps.grpo_steps(profile, **found))
    return [row | {"machine": machine()} for row in rows]


def load_plain(profile) -> dict:
    """Model and tokenizer with transformers and PEFT alone."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from grpo_course.model import TARGET_MODULES

    how = {"r": profile.lora_rank, "lora_alpha": profile.lora_alpha}
    lora = LoraConfig(**how, target_modules=TARGET_MODULES)
    source = profile.model_source
    model = AutoModelForCausalLM.from_pretrained(source, dtype=profile.dtype)
    tokenizer = AutoTokenizer.from_pretrained(source)
    return {"model": get_peft_model(model, lora), "tokenizer": tokenizer}


if __name__ == "__main__":
    main()
