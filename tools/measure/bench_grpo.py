"""How fast is a GRPO step? The tutorial's settings, ours, and plain TRL, in one run.

    python -m tools.measure.make_random_model /tmp/qwen3-8b
    python -m tools.measure.bench_grpo --model /tmp/qwen3-8b \\
      --output results/gpu-throughput.json

Each variant trains in a process of its own on the same GPU, held to the memory of an
A100 with 80 GB, with completions forced to the same length, so that all do the same
work per token. The first step compiles and is told apart; of the following ones the
median counts. One row a variant and machine, beside the ideal from the GPU's own
memory bandwidth and matrix rate, measured here as well.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from grpo_course.ground import session
from grpo_course.ground.profiles import PROFILES
from tools.report import tables

A100 = PROFILES["a100"]
A100_GIB = 79.1  # that torch sees on an A100 or H100 with 80 GB
TOKENS = 512  # of each completion
PROMPT = 128  # tokens of a prompt, roughly
STEPS = 4  # the first is not counted

# engine, completions in a micro-batch, micro-batches a step, completions in a group
VARIANTS = {
    "tutorial": ("unsloth", 4, 1, 4),
    "unsloth 4 x 8": ("unsloth", 4, 8, 8),
    "unsloth 8 x 4": ("unsloth", 8, 4, 8),
    "unsloth 32 x 1": ("unsloth", 32, 1, 8),
    "unsloth 8 x 8": ("unsloth", 8, 8, 8),
    "unsloth 16 x 8": ("unsloth", 16, 8, 8),
    "plain trl 32 x 1": ("trl", 32, 1, 8),
    "plain trl 8 x 4": ("trl", 8, 4, 8),
    "plain trl 8 x 8": ("trl", 8, 8, 8),
}
NAMES = ["ideal", *VARIANTS]
KEY = ("machine", "variant")  # a new row replaces the one with the same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(NAMES))
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--one", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.variants) - {*NAMES}:
        parser.error(f"no variant {unknown.pop()!r}: take some of {', '.join(NAMES)}")
    if options.one:
        ask = ideal if options.one == "ideal" else partial(measure, options.one)
        print(json.dumps(ask(options.model)))
        return
    for name in options.variants or NAMES:
        command = ["-m", __spec__.name, "--one", name, "--model", options.model]
        command += ["--output", os.devnull]
        log = options.output.with_suffix(f".{name.replace(' ', '-')}.log")
        row = in_process(command, log, variant=name)
        print(json.dumps(row), flush=True)
        path = options.output.resolve()
        rows = [old for old in tables.read(path) if not failed(old, name)]
        tables.write(path, tables.merged(rows, [row], KEY))


def failed(row: dict, variant: str) -> bool:
    """Is this the row of an earlier, failed try of a variant? It has no machine."""
    return "error" in row and row["variant"] == variant


def in_process(command: list, log: Path, **names: str) -> dict:
    """The row that a Python command prints last, from a fresh process.

    If it fails, all that it said goes to `log`, and the row is `names` and the error.
    """
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    log.write_text(done.stdout + done.stderr)
    said = done.stderr.strip().splitlines() or ["nothing was said"]
    errors = [line for line in said if re.search(r"\w(Error|Exception):", line)]
    why = (errors or said)[-1].removeprefix("[rank0]:").strip()
    return names | {"error": f"{why[:200]} (see {log.name})"}


def measure(name: str, model_name: str) -> dict:
    """Train a few steps; seconds, completion tokens a second, and GiB at the peak."""
    engine, batch, micro_batches, group = VARIANTS[name]
    started = time.monotonic()
    session.prepare()
    load = load_unsloth if engine == "unsloth" else load_trl
    model, tokenizer, more = load(model_name)
    loaded = time.monotonic() - started
    took = run_grpo(
        model,
        tokenizer,
        TOKENS,
        STEPS,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=micro_batches,
        num_generations=group,
        **more,
    )
    return {"variant": name, "start_to_loaded_s": round(loaded, 1)} | took


def run_grpo(model: dict, tokenizer, tokens: int, steps: int, **settings) -> dict:
    """GRPO steps with completions of exactly `tokens` tokens and rewards at random.

    model: the trainer's arguments `model` and perhaps `peft_config`. settings: more of
    GRPOConfig's. Returns a row: what it took, medians over all steps but the first.
    """
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from grpo_course.ground import data, preflight
    from grpo_course.grpo_data import as_prompt
    from grpo_course.template import apply_template

    problems = data.load_rows("embedded:grpo", "grpo", seed=0)
    prompts = [{"prompt": as_prompt(row["prompt"])} for row in problems]
    defaults = {
        "learning_rate": 5e-6,
        "optim": "adamw_8bit",
        "beta": 0.0,
        "loss_type": "dapo",
        "epsilon_high": 0.2,
        "mask_truncated_completions": False,
        "temperature": 1.0,
        "bf16": True,
    }
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        save_strategy="no",
        report_to="none",
        max_steps=steps,
        max_completion_length=tokens,
        generation_kwargs={"min_tokens": tokens, "ignore_eos": True},
        use_vllm=True,
        vllm_mode="colocate",
        **defaults | settings,
    )
    steps_taken, generating = StepTimes(), []
    trainer = GRPOTrainer(
        args=config,
        processing_class=apply_template(tokenizer),
        reward_funcs=lambda completions, **_: torch.rand(len(completions)).tolist(),
        train_dataset=Dataset.from_list(prompts),
        callbacks=[steps_taken.callback()],
        **model,
    )
    engine_generate = trainer.vllm_generation.generate

    def timed(*args, **kwargs):
        begin = time.monotonic()
        result = engine_generate(*args, **kwargs)
        generating.append(time.monotonic() - begin)
        return result

    trainer.vllm_generation.generate = timed
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    lengths = {
        entry["completions/mean_length"]
        for entry in trainer.state.log_history
        if "completions/mean_length" in entry
    }
    assert lengths == {float(tokens)}, f"The completions have other lengths: {lengths}"
    first, *warm = steps_taken.seconds
    seconds = statistics.median(warm)
    completions = config.per_device_train_batch_size
    completions *= config.gradient_accumulation_steps
    return {
        "machine": preflight.machine(),
        "completions": completions,
        "tokens": tokens,
        "first_step_s": round(first, 1),
        "step_s": round(seconds, 2),
        "of_it_generating_s": round(statistics.median(generating[1:]), 2),
        "tokens_per_s": round(completions * tokens / seconds),
        "gib_peak": round(preflight.gpu_gib(peak=True), 1),
        "n": len(warm),
    }


class StepTimes:
    """Seconds of each optimizer step of a trainer, in `seconds`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def callback(self):
        """What to hand to the trainer."""
        import torch
        from transformers import TrainerCallback

        seconds = self.seconds

        class Clock(TrainerCallback):
            def on_step_begin(self, *args, **kwargs):
                self.started = time.monotonic()

            def on_step_end(self, *args, **kwargs):
                torch.cuda.synchronize()
                seconds.append(time.monotonic() - self.started)

        return Clock()


def load_unsloth(model_name: str):
    """Model and tokenizer as notebooks 01 and 05 load them, with the profile a100."""
    import unsloth  # noqa: F401  # first: it patches the libraries below

    from grpo_course.model import add_adapter, load_base_model

    profile = replace(A100, model_name=model_name, gpu_gib=A100_GIB)
    model, tokenizer = load_base_model(profile)
    more = {"gradient_checkpointing": True}
    return {"model": add_adapter(model, profile)}, tokenizer, more


def load_trl(model_name: str):
    """The same with TRL and PEFT alone; vLLM then holds weights of its own."""
    from peft import LoraConfig
    from transformers import AutoTokenizer

    from grpo_course.ground.preflight import vllm_share
    from grpo_course.model import TARGET_MODULES

    held = replace(A100, gpu_gib=A100_GIB, gpu_memory_utilization=0.35)
    adapter = LoraConfig(
        r=A100.lora_rank, lora_alpha=A100.lora_alpha, target_modules=TARGET_MODULES
    )
    more = {
        "model_init_kwargs": {"dtype": "bfloat16"},
        "vllm_gpu_memory_utilization": vllm_share(held),
        "vllm_max_model_length": A100.max_seq_length,
        "gradient_checkpointing": True,
    }
    tokenizer = AutoTokenizer.from_pretrained(model_name)
    return {"model": model_name, "peft_config": adapter}, tokenizer, more


def ideal(model_name: str) -> dict:
    """A step of 32 completions if nothing but the GPU's own limits counted."""
    from transformers import AutoConfig

    from grpo_course.ground import preflight

    config = AutoConfig.from_pretrained(model_name).to_dict()
    limits = {
        "bandwidth_tb_per_s": round(bytes_per_second() / 1e12, 2),
        "rate_tflop_per_s": round(operations_per_second() / 1e12),
    }
    found = {"variant": "ideal", "machine": preflight.machine()}
    return found | ideal_step(32, config, **limits) | limits


def ideal_step(
    completions: int,
    config: dict,
    bandwidth_tb_per_s: float,
    rate_tflop_per_s: float,
) -> dict:
    """Seconds of a step, and of its generation, at a GPU's limits; tokens a second.

    Generating reads all weights and the cache for each token. The loss takes 6 floating
    point operations a weight and token: 2 forward, 2 once more for the checkpoints, and
    2 backward, half of the usual, because frozen weights need no gradient.
    """
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    width, inside = config["head_dim"], config["intermediate_size"]
    heads = config["num_attention_heads"] + config["num_key_value_heads"]
    layer = 2 * heads * width * hidden + 3 * hidden * inside
    # The embedding is a look-up; the head is not.
    weights = layers * layer + config["vocab_size"] * hidden
    cache = 4 * layers * config["num_key_value_heads"] * width  # bytes a token
    read = 2 * weights + completions * cache * (PROMPT + TOKENS / 2)
    generating = TOKENS * read / (bandwidth_tb_per_s * 1e12)
    operations = 6 * weights * completions * (PROMPT + TOKENS)
    seconds = generating + operations / (rate_tflop_per_s * 1e12)
    return {
        "completions": completions,
        "tokens": TOKENS,
        "step_s": round(seconds, 2),
        "of_it_generating_s": round(generating, 2),
        "tokens_per_s": round(completions * TOKENS / seconds),
    }


def bytes_per_second() -> float:
    """Bytes read and written a second by a copy within the GPU's memory."""
    import torch

    source = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds_of(lambda: target.copy_(source))


def operations_per_second() -> float:
    """Floating-point operations a second of a large bfloat16 matrix product."""
    import torch

    size = 8192
    a, b = (torch.randn(size, size, device="cuda").bfloat16() for _ in range(2))
    return 2 * size**3 / seconds_of(lambda: a @ b)


def seconds_of(work, repeats: int = 20) -> float:
    """The median time of one call on the GPU, in seconds."""
    import torch

    times = []
    for _ in range(repeats + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return statistics.median(times[3:])


if __name__ == "__main__":
    main()
