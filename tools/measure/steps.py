"""A few steps of SFT or of GRPO, the longest that a profile allows, and their times.

Without a GPU they are seconds of computing: others may be at work on the machine.
"""

import statistics
import tempfile
import time

from grpo_course.ground import memory

STEPS = 4  # the first compiles and is told apart


def common(profile) -> dict:
    """What SFT and GRPO have in common."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "save_strategy": "no",
        "report_to": "none",
        "max_steps": STEPS,
        "gradient_checkpointing": bool(profile.use_gradient_checkpointing),
        "use_cpu": not profile.on_gpu,
        "optim": profile.optim,
        "bf16": profile.dtype == "bfloat16",
        "fp16": profile.dtype == "float16",
    }


def sft_steps(profile, model, tokenizer) -> dict:
    """SFT steps on rows of the greatest length that notebook 03 lets through."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    length = profile.max_seq_length // 2
    ids = torch.randint(100, 500, (64, length)).tolist()
    mask = [0] * (length // 4) + [1] * (length - length // 4)
    config = SFTConfig(
        per_device_train_batch_size=profile.sft_batch_size,
        gradient_accumulation_steps=profile.sft_grad_accum,
        max_length=profile.max_seq_length,
        completion_only_loss=True,
        packing=False,
        **common(profile),
    )
    rows = [{"input_ids": row, "completion_mask": mask} for row in ids]
    return timed_steps(
        SFTTrainer(
            model=model,
            args=config,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(rows),
        )
    )


def grpo_steps(profile, model, tokenizer, peft_config=None, **more) -> dict:
    """GRPO steps with completions of the greatest length and rewards at random."""
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from grpo_course.ground import data
    from grpo_course.template import apply_template, as_prompt

    problems = data.load_rows("embedded:grpo", "grpo")
    tokens = profile.max_completion_length
    engine = {"generation_kwargs": {"min_new_tokens": tokens}}
    if profile.fast_inference:
        engine = {"use_vllm": True, "vllm_mode": "colocate"}
        engine |= {"generation_kwargs": {"min_tokens": tokens, "ignore_eos": True}}
    config = GRPOConfig(
        learning_rate=5e-6,
        per_device_train_batch_size=profile.grpo_batch_size,
        gradient_accumulation_steps=profile.grpo_grad_accum,
        num_generations=profile.num_generations,
        max_completion_length=tokens,
        beta=0.0,
        loss_type="dapo",
        epsilon_high=0.2,
        **engine,
        **common(profile),
        **more,
    )
    trainer = GRPOTrainer(
        model=model,
        args=config,
        processing_class=apply_template(tokenizer),
        reward_funcs=lambda completions, **_: torch.rand(len(completions)).tolist(),
        train_dataset=Dataset.from_list(
            [{"prompt": as_prompt(row["prompt"])} for row in problems]
        ),
        peft_config=peft_config,
    )
    generating = []
    if profile.fast_inference:
        generate = trainer.vllm_generation.generate

        def timed(*args, **kwargs):
            begin = time.monotonic()
            result = generate(*args, **kwargs)
            generating.append(time.monotonic() - begin)
            return result

        trainer.vllm_generation.generate = timed
    took = timed_steps(trainer)
    name = "completions/mean_length"
    lengths = {entry[name] for entry in trainer.state.log_history if name in entry}
    assert lengths == {float(tokens)}, f"The completions have other lengths: {lengths}"
    if generating:
        took["of_it_generating_s"] = round(statistics.median(generating[1:]), 2)
    completions = profile.grpo_batch_size * profile.grpo_grad_accum
    return took | {
        "completions": completions,
        "tokens": tokens,
        "tokens_per_s": round(completions * tokens / took["step_s"]),
    }


def timed_steps(trainer) -> dict:
    """Train: seconds of the first step, the median of the others, GiB at the peak."""
    import torch
    from transformers import TrainerCallback

    seconds, gpu = [], torch.cuda.is_available()
    clock = time.monotonic if gpu else time.process_time

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            self.started = clock()

        def on_step_end(self, *args, **kwargs):
            if gpu:
                torch.cuda.synchronize()
            seconds.append(clock() - self.started)

    trainer.add_callback(Clock())
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    return {
        "first_step_s": round(seconds[0], 1),
        "step_s": round(statistics.median(seconds[1:]), 2),
        "gib_peak": round(memory.gpu_gib(peak=True), 1) if gpu else None,
        "n": len(seconds) - 1,
    }
