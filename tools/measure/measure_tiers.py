"""Does each profile fit into the GPU that it is meant for? Measured on a larger one.

    python -m tools.measure.measure_tiers --models /tmp/models \\
      --output results/gpu-tiers.json [TIER ...]

For each tier, a process of its own is held to that GPU's memory: torch refuses more,
and vLLM gets its share of so much. It loads a model of the profile's size with random
weights (made first, by make_random_model), and takes a few steps of SFT and then of
GRPO, with the longest rows and completions that the profile allows: its worst case. A
row a tier and step; what does not fit is a row with the error.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from grpo_course.ground import preflight, session
from grpo_course.ground.profiles import PROFILES
from tools.measure import bench_grpo, make_random_model
from tools.report import tables

# GiB that torch sees on such a GPU, and the size of the profile's model
TIERS = {
    "t4": (14.6, "1.7b"),
    "l4": (22.0, "4b"),
    "a100-40": (39.4, "8b"),
    "a100": (bench_grpo.A100_GIB, "8b"),
}
STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tiers", nargs="*", metavar="TIER", help=", ".join(TIERS))
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--one", choices=TIERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.tiers) - {*TIERS}:
        parser.error(f"no tier {unknown.pop()!r}: take some of {', '.join(TIERS)}")
    if options.one:
        print(json.dumps(measure(options.one, options.models)))
        return
    for tier in options.tiers or TIERS:
        make_model(options.models, TIERS[tier][1])
        command = ["-m", __spec__.name, "--one", tier, "--models", options.models]
        command += ["--output", options.output]
        log = options.output.with_suffix(f".{tier}.log")
        found = bench_grpo.in_process(command, log, profile=tier, step="load")
        rows = found if isinstance(found, list) else [found]
        tables.add(options.output.resolve(), rows, ("profile",))
        print(*map(json.dumps, rows), sep="\n", flush=True)


def make_model(folder: Path, size: str) -> None:
    """A model of this size with random weights, unless it is there; in a process."""
    if not (folder / size / "config.json").is_file():
        command = [sys.executable, "-m", make_random_model.__name__, folder / size]
        subprocess.run([*command, "--size", size], check=True)


def measure(tier: str, models: Path) -> list[dict]:
    """Load the model as notebook 01 does; some steps of SFT, then some of GRPO."""
    session.prepare()
    import torch
    import unsloth  # noqa: F401  # first: it patches the libraries below

    from grpo_course.model import add_adapter, load_base_model

    gib, size = TIERS[tier]
    profile = replace(PROFILES[tier], gpu_gib=gib, model_name=str(models / size))
    started = time.monotonic()
    model, tokenizer = load_base_model(profile)
    model = add_adapter(model, profile)
    shared = {"profile": tier, "model": size, "gib_held": gib}
    shared |= {"vllm_share": profile.gpu_memory_utilization}
    shared |= {"machine": preflight.machine()}
    shared |= {"gib_loaded": round(preflight.gpu_gib(peak=False), 1)}
    shared |= {"loading_s": round(time.monotonic() - started, 1)}
    rows = []
    for step, take in (("sft", run_sft), ("grpo", run_grpo)):
        try:
            took = take(profile, model, tokenizer)
        except torch.OutOfMemoryError as error:
            took = {"error": str(error).partition(". ")[0]}
        rows.append({"step": step} | shared | took)
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def run_grpo(profile, model, tokenizer) -> dict:
    """GRPO steps whose completions all have the profile's greatest length."""
    return bench_grpo.run_grpo(
        {"model": model},
        tokenizer,
        profile.max_completion_length,
        STEPS,
        per_device_train_batch_size=profile.grpo_batch_size,
        gradient_accumulation_steps=profile.grpo_grad_accum,
        num_generations=profile.num_generations,
        gradient_checkpointing=True,
        optim=profile.optim,
        bf16=profile.dtype == "bfloat16",
        fp16=profile.dtype == "float16",
    )


def run_sft(profile, model, tokenizer) -> dict:
    """SFT steps on rows of the greatest length that notebook 03 lets through."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    length = profile.max_seq_length // 2
    ids = torch.randint(100, 500, (64, length)).tolist()
    mask = [0] * (length // 4) + [1] * (length - length // 4)
    rows = [{"input_ids": row, "completion_mask": mask} for row in ids]
    config = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        save_strategy="no",
        report_to="none",
        max_steps=STEPS,
        per_device_train_batch_size=profile.sft_batch_size,
        gradient_accumulation_steps=profile.sft_grad_accum,
        max_length=profile.max_seq_length,
        completion_only_loss=True,
        packing=False,
        gradient_checkpointing=True,
        optim=profile.optim,
        bf16=profile.dtype == "bfloat16",
        fp16=profile.dtype == "float16",
    )
    times = bench_grpo.StepTimes()
    trainer = SFTTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
        callbacks=[times.callback()],
    )
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    return {
        "first_step_s": round(times.seconds[0], 1),
        "step_s": round(statistics.median(times.seconds[1:]), 2),
        "gib_peak": round(preflight.gpu_gib(peak=True), 1),
        "n": STEPS - 1,
    }


if __name__ == "__main__":
    main()
