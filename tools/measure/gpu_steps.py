"""A few steps of SFT or GRPO with their times, each measurement in its own process."""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from grpo_course.ground import preflight
from tools.measure import make_random_model
from tools.report import tables

# Of a profile: GiB that torch sees on such a GPU, and the size of the profile's model
TIERS = {
    "t4": (14.6, "1.7b"),
    "l4": (22.0, "4b"),
    "a100-40": (39.4, "8b"),
    "a100": (79.1, "8b"),
}


def run_each(
    tool: str,
    column: str,
    sizes: dict[str, str],
    measure: Callable[[str, str], dict | list[dict]],
    output: str,
) -> None:
    """The command of a tool: measure what is named, or all, one after the other.

    tool: its module. sizes: all names, and the model that each needs, which is made if
    it is missing. measure: a row, or rows, from a name and the model's folder. They
    have the name in `column`, and replace those of the same name and machine, and every
    failed try of that name. What fails is a row with the error.
    """
    parser = argparse.ArgumentParser(prog=tool)
    parser.add_argument("names", nargs="*", metavar=column, help=", ".join(sizes))
    parser.add_argument("--models", type=Path, required=True, help="their folder")
    parser.add_argument("--output", type=Path, default=tables.RESULTS / output)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.names) - {*sizes}:
        parser.error(f"no {column} {unknown.pop()!r}: take some of {', '.join(sizes)}")
    path = options.output.resolve()
    for name in options.names or sizes:
        model = options.models / sizes[name]
        if options.one:
            print(json.dumps(measure(name, str(model))))
            return
        if not (model / "config.json").is_file():
            command = [sys.executable, "-m", make_random_model.__name__, model]
            subprocess.run([*command, sizes[name]], check=True)
        command = ["-m", tool, name, "--one", "--models", options.models]
        log = path.with_suffix(f".{name.replace(' ', '-')}.log")
        found = in_process(command, log)
        new = [{column: name} | row for row in found]
        print(*map(json.dumps, new), sep="\n", flush=True)
        old = [r for r in tables.read(path) if not ("error" in r and r[column] == name)]
        tables.write(path, tables.merged(old, new, ("machine", column)))


def in_process(command: list, log: Path) -> list[dict]:
    """The row or rows that a Python command prints last, from a fresh process.

    If it fails, all that it said goes to `log`, and the row is the error.
    """
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    if done.returncode == 0:
        found = json.loads(done.stdout.splitlines()[-1])
        return found if isinstance(found, list) else [found]
    log.write_text(done.stdout + done.stderr)
    said = done.stderr.strip().splitlines() or ["nothing was said"]
    errors = [line for line in said if re.search(r"\w(Error|Exception):", line)]
    why = (errors or said)[-1].removeprefix("[rank0]:").strip()
    return [{"error": f"{why[:200]} (see {log.name})"}]


def grpo_steps(model: dict, tokenizer, tokens: int, steps: int, **settings) -> dict:
    """GRPO steps with completions of exactly `tokens` tokens and rewards at random.

    model: the trainer's arguments `model` and perhaps `peft_config`. settings: more of
    GRPOConfig's. Returns a row: what it took, medians over all steps but the first.
    """
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from grpo_course.ground import data
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
    trainer = GRPOTrainer(
        args=config,
        processing_class=apply_template(tokenizer),
        reward_funcs=lambda completions, **_: torch.rand(len(completions)).tolist(),
        train_dataset=Dataset.from_list(prompts),
        **model,
    )
    generate, generating = trainer.vllm_generation.generate, []

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
    completions = config.per_device_train_batch_size
    completions *= config.gradient_accumulation_steps
    return took | {
        "completions": completions,
        "tokens": tokens,
        "of_it_generating_s": round(statistics.median(generating[1:]), 2),
        "tokens_per_s": round(completions * tokens / took["step_s"]),
    }


def timed_steps(trainer) -> dict:
    """Train: seconds of the first step, which compiles, and the median of the others;
    GiB at the peak; the number of steps that count."""
    import torch
    from transformers import TrainerCallback

    seconds = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            self.started = time.monotonic()

        def on_step_end(self, *args, **kwargs):
            torch.cuda.synchronize()
            seconds.append(time.monotonic() - self.started)

    trainer.add_callback(Clock())
    torch.cuda.reset_peak_memory_stats()
    trainer.train()
    return {
        "machine": preflight.machine(),
        "first_step_s": round(seconds[0], 1),
        "step_s": round(statistics.median(seconds[1:]), 2),
        "gib_peak": round(preflight.gpu_gib(peak=True), 1),
        "n": len(seconds) - 1,
    }
