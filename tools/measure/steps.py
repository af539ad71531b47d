"""A few steps of SFT or of GRPO, the longest that a profile allows, and their times.

Without a GPU they are seconds of computing: others may be at work on the machine.
"""

import statistics
import tempfile
import time
from collections import defaultdict

from grpo_course.ground.hardware import gpu_gib

STEPS = 4  # the first compiles and is told apart


def common(profile, updates: int = 1) -> dict:
    """What SFT and GRPO have in common."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "max_steps": STEPS * updates,
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


def grpo_steps(
    profile, model, tokenizer, peft_config=None, updates=1, natural=False, **more
) -> dict:
    """GRPO steps and where their seconds go, with rewards at random.

    updates: how many a sampling is good for; a step, here, is all of them. natural:
    completions end where the model ends them; else all have the greatest length.
    """
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from grpo_course.ground import data
    from grpo_course.template import apply_template, as_prompt

    problems = data.load_rows(profile.grpo_data, "grpo")
    tokens = profile.max_completion_length
    forced = {} if natural else {"min_new_tokens": tokens}
    engine = {"generation_kwargs": forced}
    if profile.fast_inference:
        forced = {} if natural else {"min_tokens": tokens, "ignore_eos": True}
        engine = {"use_vllm": True, "vllm_mode": "colocate"}
        engine |= {"generation_kwargs": forced}
    config = GRPOConfig(
        learning_rate=5e-6,
        per_device_train_batch_size=profile.grpo_batch_size,
        gradient_accumulation_steps=profile.grpo_grad_accum,
        steps_per_generation=profile.grpo_grad_accum * updates,
        num_generations=profile.num_generations,
        max_completion_length=tokens,
        beta=0.0,
        loss_type="dapo",
        epsilon_high=0.2,
        **engine,
        **common(profile, updates),
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
    parts = Parts()
    parts.watch(trainer, "_prepare_inputs", "preparing")
    parts.watch(trainer, "_generate", "generating")
    parts.watch(trainer, "_calculate_rewards", "rewards")
    scores = "_get_per_token_logps_and_entropies"
    parts.watch(trainer, scores, "old log-probabilities", inside="preparing")
    parts.watch(trainer, "log", "logging")
    if sampler := getattr(trainer, "vllm_generation", None):
        parts.watch(sampler, "sync_weights", "weights to vLLM")
    took = timed_steps(trainer, parts, updates)
    name = "completions/mean_length"
    lengths = [e[name] for e in trainer.state.log_history if name in e]
    mean = statistics.fmean(lengths[1:])  # one for each sampling
    assert natural or mean == tokens, f"The completions have other lengths: {mean}"
    completions = profile.grpo_generation_batch * updates
    sampling = ("generating", "weights to vLLM")
    sampled = sum(took["parts"].get(name, 0) for name in sampling)
    return took | {
        "of_it_generating_s": round(sampled, 2),
        "completions": completions,
        "tokens": round(mean),
        "tokens_per_s": round(completions * mean / took["step_s"]),
    }


class Parts:
    """Seconds of calls inside one another, each without the calls inside it."""

    def __init__(self):
        import torch

        self.seconds, self.open = defaultdict(float), []
        self.gpu, self.wait = torch.cuda.is_available(), torch.cuda.synchronize

    def now(self) -> float:
        """Seconds, once the GPU has done its work; without one, of computing."""
        if not self.gpu:
            return time.process_time()
        self.wait()
        return time.monotonic()

    def watch(self, owner, method: str, part: str, inside: str = "") -> None:
        """Count the seconds of a method under a name, in another part only if told."""
        call = getattr(owner, method)

        def timed(*arguments, **more):
            here = part if not inside or inside in self.open else self.open[-1]
            self.change(lambda: self.open.append(here))
            try:
                return call(*arguments, **more)
            finally:
                self.change(self.open.pop)

        setattr(owner, method, timed)

    def change(self, what) -> None:
        now = self.now()
        if self.open:
            self.seconds[self.open[-1]] += now - self.since
        what()
        self.since = now


def timed_steps(trainer, parts: Parts | None = None, updates: int = 1) -> dict:
    """Train: seconds of the first step, the median of the others, GiB at the peak, and
    of the others' seconds each part's mean. A step has so many updates."""
    import torch
    from transformers import TrainerCallback

    parts, seconds, counted = parts or Parts(), [], []
    parts.watch(trainer, "training_step", "forward and backward")

    class Clock(TrainerCallback):
        def on_train_begin(self, *args, optimizer=None, **kwargs):
            parts.watch(optimizer, "step", "optimizer")

        def on_step_begin(self, args, state, *others, **kwargs):
            if state.global_step % updates == 0:
                self.started = parts.now()

        def on_step_end(self, args, state, *others, **kwargs):
            if state.global_step % updates == 0:
                seconds.append(parts.now() - self.started)
                counted.append(dict(parts.seconds))

    trainer.add_callback(Clock())
    if parts.gpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    shares = {
        name: (counted[-1][name] - counted[0].get(name, 0)) / (len(counted) - 1)
        for name in counted[-1]
    }
    shares["other"] = statistics.fmean(seconds[1:]) - sum(shares.values())
    return {
        "first_step_s": round(seconds[0], 1),
        "step_s": round(statistics.median(seconds[1:]), 2),
        "gib_peak": round(gpu_gib(peak=True), 1) if parts.gpu else None,
        "n": len(seconds) - 1,
        "parts": {name: round(share, 3) for name, share in shares.items()},
    }
