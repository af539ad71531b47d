"""Does each profile fit into the GPU that it is meant for? Measured on a larger one.

    python -m tools.measure.measure_tiers --models FOLDER [TIER ...]

For each tier, a process of its own is held to that GPU's memory: torch refuses more,
and vLLM gets its share of so much. It loads a model of the profile's size with random
weights, and takes a few steps of SFT and then of GRPO, with the longest rows and
completions that the profile allows: its worst case. A row a tier and step; what does
not fit is a row with the error.
"""

import gc
import tempfile
import time
from dataclasses import replace

from grpo_course.ground import preflight, session
from grpo_course.ground.profile import PROFILES
from tools.measure import gpu_steps

STEPS = 3


def main() -> None:
    sizes = {tier: size for tier, (_, size) in gpu_steps.TIERS.items()}
    gpu_steps.run_each(__spec__.name, "profile", sizes, measure, "gpu-tiers.json")


def measure(tier: str, model_name: str) -> list[dict]:
    """Load the model as notebook 01 does; some steps of SFT, then some of GRPO."""
    session.prepare()
    import torch
    import unsloth  # noqa: F401  # first: it patches the libraries below

    from grpo_course.model import add_adapter, load_base_model

    gib, size = gpu_steps.TIERS[tier]
    profile = replace(PROFILES[tier], gpu_gib=gib, model_name=model_name)
    started = time.monotonic()
    model, tokenizer = load_base_model(profile)
    model = add_adapter(model, profile)
    shared = {"model": size, "gib_held": gib, "machine": preflight.machine()}
    shared |= {"vllm_share": profile.gpu_memory_utilization}
    shared |= {"gib_loaded": round(preflight.gpu_gib(peak=False), 1)}
    shared |= {"loading_s": round(time.monotonic() - started, 1)}
    rows = []
    for step, take in (("sft", sft_steps), ("grpo", grpo_steps)):
        try:
            took = take(profile, model, tokenizer)
        except torch.OutOfMemoryError as error:
            took = {"error": str(error).partition(". ")[0]}
        rows.append({"step": step} | shared | took)
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def precision(profile) -> dict:
    """The trainer's settings that decide its numbers' memory."""
    return {
        "gradient_checkpointing": True,
        "optim": profile.optim,
        "bf16": profile.dtype == "bfloat16",
        "fp16": profile.dtype == "float16",
    }


def grpo_steps(profile, model, tokenizer) -> dict:
    """GRPO steps whose completions all have the profile's greatest length."""
    return gpu_steps.grpo_steps(
        {"model": model},
        tokenizer,
        profile.max_completion_length,
        STEPS,
        per_device_train_batch_size=profile.grpo_batch_size,
        gradient_accumulation_steps=profile.grpo_grad_accum,
        num_generations=profile.num_generations,
        **precision(profile),
    )


def sft_steps(profile, model, tokenizer) -> dict:
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
        **precision(profile),
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list(rows),
    )
    return gpu_steps.timed_steps(trainer)


if __name__ == "__main__":
    main()
