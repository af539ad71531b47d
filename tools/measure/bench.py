"""How large and how fast are steps of SFT and GRPO? On models with random weights.

    python -m tools.measure.bench --models FOLDER [NAME ...]

Tiers: does each profile fit into the GPU that it is meant for? It takes a few steps of
SFT and of GRPO with the longest rows and completions that the profile allows, its worst
case. Variants: the tutorial's settings, ours, and plain TRL, with the profile a100 and
TOKENS in each completion, beside the ideal from the GPU's own limits; with switches, as
in "unsloth 8 x 8 + four updates". --real MODEL takes that model's own lengths instead.

Each is a process of its own, held to that GPU's memory on a larger one: torch refuses
more, and vLLM gets its share of so much. Variants that load a model in the same way
share one, in the order given. The first step compiles and is told apart; of the others
the median counts. Models that FOLDER lacks are made.
"""

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from grpo_course.ground import hardware, session
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
    "unsloth 16 x 4": (16, 4, 8),
    "plain trl 32 x 1": (32, 1, 8),
    "plain trl 8 x 8": (8, 8, 8),
}
SWITCHES = {  # what each changes: of the environment, of the profile, of `grpo_steps`
    "vLLM's LoRA": ({"UNSLOTH_VLLM_MERGED_ROLLOUT": "0"}, {}, {}),
    "no checkpointing": ({}, {"use_gradient_checkpointing": False}, {}),
    "rollout's log-probabilities": (
        {"UNSLOTH_GRPO_ROLLOUT_LOGPROBS_AS_OLD": "1"},
        {},
        {"vllm_importance_sampling_correction": False},
    ),
    "four updates": ({}, {}, {"updates": 4}),
    "no packing": ({"UNSLOTH_GRPO_SEQ_PACKING": "0"}, {}, {}),
}
LATE = ("rollout's log-probabilities", "four updates")  # looked at in each step
NAMES = [*TIERS, "ideal", *VARIANTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    models = parser.add_mutually_exclusive_group(required=True)
    models.add_argument("--models", type=Path, metavar="FOLDER")
    models.add_argument("--real", type=Path, metavar="MODEL")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.names or NAMES
    for name in names:
        if unknown := {*switched(name)[1]} - {*SWITCHES}:
            parser.error(f"no switch {unknown.pop()!r}: take some of {[*SWITCHES]}")
        if switched(name)[0] not in NAMES:
            parser.error(f"no {name!r}: take some of {', '.join(NAMES)}")
    if options.one:
        for rows in measured(names, options.models, options.real):
            print(json.dumps(rows), flush=True)
        return
    for _, group in groupby(names, loaded_as):
        for name, rows in rows_of([*group], options.models, options.real):
            keep(name, rows, "gpu-natural.json" if options.real else None)


def switched(name: str) -> tuple[str, list[str]]:
    """The variant or tier in a name, and the switches added to it."""
    name, *switches = name.split(" + ")
    return name, switches


def loaded_as(name: str) -> tuple:
    """What decides how a model is loaded: the same for names that can share one."""
    name, switches = switched(name)
    kind = "variant" if name in VARIANTS and "trl" not in name else name
    return kind, [switch for switch in switches if switch not in LATE]


def rows_of(names: list[str], models: Path | None, real: Path | None = None):
    """The rows of each name, from one process; a model that is not there is made."""
    where = ["--real", real] if real else ["--models", models]
    if not real:
        model = models / TIERS.get(switched(names[0])[0], TIERS["a100"])[1]
        if not (model / "config.json").is_file():
            command = [sys.executable, "-m", random_model.__name__, model]
            subprocess.run([*command, model.name], check=True)
    left = [*names]
    for rows in in_process(["-m", __spec__.name, *names, "--one", *where]):
        yield left.pop(0), rows


def keep(name: str, rows: list[dict], table: str | None = None) -> None:
    """Rows of a name replace those of the same machine, and a failed try."""
    column = "profile" if name in TIERS else "variant"
    table = table or ("gpu-tiers.json" if name in TIERS else "gpu-throughput.json")
    new = [{column: name} | row for row in rows]
    print(*map(json.dumps, new), sep="\n", flush=True)
    old = [r for r in tables.read(table) if not ("error" in r and r[column] == name)]
    key = ("machine", column) + ("model",) * (table == "gpu-natural.json")
    tables.write(table, tables.merged(old, new, key))


def in_process(command: list):
    """The lists of rows that a Python command prints, as it prints them; a list with
    the error if it fails."""
    with tempfile.TemporaryFile("w+") as said:
        done = subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=said, text=True
        )
        for line in done.stdout:
            if line.startswith('[{"'):
                yield json.loads(line)
        if done.wait() == 0:
            return
        said.seek(0)
        lines = said.read().strip().splitlines() or ["nothing was said"]
    print(*lines, sep="\n", file=sys.stderr)
    errors = [line for line in lines if re.search(r"\w(Error|Exception):", line)]
    why = (errors or lines)[-1].removeprefix("[rank0]:").strip()
    yield [{"error": why[:200]}]


# --- In the process of its own --------------------------------------------------------


def measured(names: list[str], models: Path | None, real: Path | None):
    """The rows of each tier or variant in turn; the model is loaded once."""
    if names == ["ideal"]:
        yield [gpu_limits.ideal()]
        return
    session.prepare()
    name, switches = switched(names[0])
    tier = name if name in TIERS else "a100"
    model = real or models / TIERS[tier][1]
    data = os.environ.get("COURSE_GRPO_DATA", "embedded:grpo")
    own = {"model_name": str(model), "gpu_gib": TIERS[tier][0], "grpo_data": data}
    profile = replace(PROFILES[tier], **own)
    for switch in switches:
        os.environ |= SWITCHES[switch][0]
        profile = replace(profile, **SWITCHES[switch][1])
    started = time.monotonic()
    load = load_trl if name.startswith("plain trl") else load_unsloth
    loaded = load(profile)
    shared = {"machine": hardware.machine(), "model": model.name}
    shared |= {"gib_held": profile.gpu_gib}
    shared |= {"gib_loaded": round(hardware.gpu_gib(), 1)}
    shared |= {"start_to_loaded_s": round(time.monotonic() - started, 1)}
    for name in names:
        yield [row | shared | took for row, took in tried(name, profile, loaded, real)]


def tried(name: str, profile, loaded: dict, real: Path | None):
    """What is done for a name, and what it took or why it failed."""
    import torch

    name, switches = switched(name)
    todo, more = (sft_steps, grpo_steps), {}
    if name in VARIANTS:
        batch, micro_batches, group = VARIANTS[name]
        own = {"grpo_batch_size": batch, "grpo_grad_accum": micro_batches}
        own |= {"num_generations": group}
        own |= {"max_completion_length": 640 if real else TOKENS}
        profile, todo = replace(profile, **own), (grpo_steps,)
        more = {"natural": True} if real else {}
    for switch in LATE:
        for variable, value in SWITCHES[switch][0].items():
            os.environ[variable] = value if switch in switches else "0"
        more |= SWITCHES[switch][2] if switch in switches else {}
    for take in todo:
        row = {"step": take.__name__.partition("_")[0]}
        try:
            yield row, take(profile, **loaded, **more)
        except torch.OutOfMemoryError as error:
            yield row, {"error": str(error).partition(". ")[0]}
        finally:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


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

    share = hardware.vllm_share(replace(profile, gpu_memory_utilization=0.35))
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
