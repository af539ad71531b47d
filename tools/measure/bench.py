"""How large and how fast are steps of SFT and GRPO? On models with random weights.

    python -m tools.measure.bench --models FOLDER [NAME ...]

Tiers: does each profile fit into the GPU that it is meant for? It takes a few steps of
SFT and of GRPO with the longest rows and completions that the profile allows, its worst
case. Variants: the tutorial's settings, ours, and plain TRL, with the profile a100 and
TOKENS in each completion, beside the ideal from the GPU's own limits.

Each is a process of its own, held to that GPU's memory on a larger one: torch refuses
more, and vLLM gets its share of so much. The first step compiles and is told apart; of
the others the median counts. Models that FOLDER lacks are made.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from grpo_course.ground import memory, session
from grpo_course.ground.profile import PROFILES
from tools.measure import gpu_limits, random_model
from tools.measure.gpu_limits import TOKENS
from tools.measure.steps import grpo_steps, sft_steps
from tools.report import tables

TIERS = {  # GiB that torch sees on such a GPU, and the size of the profile's model
    "t4": (14.6, "1.7b"),
    "l4": (22.0, "4b"),
    "a100-40": (39.4, "8b"),
    "a100": (79.1, "8b"),
}
VARIANTS = {  # completions in a micro-batch, micro-batches, completions in a group
    "tutorial": (4, 1, 4),
    "unsloth 4 x 8": (4, 8, 8),
    "unsloth 8 x 8": (8, 8, 8),
    "plain trl 32 x 1": (32, 1, 8),
    "plain trl 8 x 8": (8, 8, 8),
}
NAMES = [*TIERS, "ideal", *VARIANTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--models", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.names) - {*NAMES}:
        parser.error(f"no {unknown.pop()!r}: take some of {', '.join(NAMES)}")
    for name in options.names or NAMES:
        model = options.models / TIERS.get(name, TIERS["a100"])[1]
        if options.one:
            print(json.dumps(measure(name, model)))
            return
        keep(name, rows_of(name, model))


def rows_of(name: str, model: Path) -> list[dict]:
    """`measure` in a process of its own; a model that is not there is made."""
    if not (model / "config.json").is_file():
        command = [sys.executable, "-m", random_model.__name__, model]
        subprocess.run([*command, model.name], check=True)
    return in_process(["-m", __spec__.name, name, "--one", "--models", model.parent])


def keep(name: str, found: list[dict]) -> None:
    """Rows replace those of the same machine, and a failed try of the same name."""
    column = "profile" if name in TIERS else "variant"
    table = "gpu-tiers.json" if name in TIERS else "gpu-throughput.json"
    new = [{column: name} | row for row in found]
    print(*map(json.dumps, new), sep="\n", flush=True)
    old = [r for r in tables.read(table) if not ("error" in r and r[column] == name)]
    tables.write(table, tables.merged(old, new, ("machine", column)))


def in_process(command: list) -> list[dict]:
    """The rows that a Python command prints last; a row with the error if it fails."""
    done = subprocess.run([sys.executable, *command], stdout=-1, stderr=-1, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    said = done.stderr.strip().splitlines() or ["nothing was said"]
    errors = [line for line in said if re.search(r"\w(Error|Exception):", line)]
    why = (errors or said)[-1].removeprefix("[rank0]:").strip()
    return [{"error": why[:200]}]


# --- In the process of its own --------------------------------------------------------


def measure(name: str, model: Path) -> list[dict]:
    """The row, or rows, of a tier or variant with the random model in a folder."""
    if name == "ideal":
        return [gpu_limits.ideal()]
    session.prepare()
    tier = name if name in TIERS else "a100"
    held = {"gpu_gib": TIERS[tier][0], "model_name": str(model)}
    profile, todo = replace(PROFILES[tier], **held), (sft_steps, grpo_steps)
    if name in VARIANTS:
        batch, micro_batches, group = VARIANTS[name]
        own = {"grpo_batch_size": batch, "grpo_grad_accum": micro_batches}
        own |= {"num_generations": group, "max_completion_length": TOKENS}
        profile, todo = replace(profile, **own), (grpo_steps,)
    started = time.monotonic()
    load = load_trl if name.startswith("plain trl") else load_unsloth
    arguments = load(profile)
    import torch

    shared = {"machine": memory.machine(), "model": model.name}
    shared |= {"gib_held": profile.gpu_gib}
    shared |= {"gib_loaded": round(memory.gpu_gib(), 1)}
    shared |= {"start_to_loaded_s": round(time.monotonic() - started, 1)}
    rows = []
    for take in todo:
        try:
            took = take(profile, **arguments)
        except torch.OutOfMemoryError as error:
            took = {"error": str(error).partition(". ")[0]}
        rows.append({"step": take.__name__.partition("_")[0]} | shared | took)
    return rows


def load_unsloth(profile) -> dict:
    """Model and tokenizer as notebooks 01 and 05 load them."""
    import unsloth  # noqa: F401  # first: it patches the libraries below

    from grpo_course.model import add_adapter, load_base_model

    model, tokenizer = load_base_model(profile)
    return {"model": add_adapter(model, profile), "tokenizer": tokenizer}


def load_trl(profile) -> dict:
    """The same with TRL and PEFT alone; vLLM then holds weights of its own."""
    from peft import LoraConfig
    from transformers import AutoTokenizer

    from grpo_course.model import TARGET_MODULES

    share = memory.vllm_share(replace(profile, gpu_memory_utilization=0.35))
    return {
        "model": profile.model_name,
        "tokenizer": AutoTokenizer.from_pretrained(profile.model_name),
        "peft_config": LoraConfig(
            r=profile.lora_rank,
            lora_alpha=profile.lora_alpha,
            target_modules=TARGET_MODULES,
        ),
        "model_init_kwargs": {"dtype": "bfloat16"},
        "vllm_gpu_memory_utilization": share,
        "vllm_max_model_length": profile.max_seq_length,
    }


if __name__ == "__main__":
    main()
