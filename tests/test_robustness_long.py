"""Long runs: memory stays flat, and what is kept on disk stays bounded.

300 steps of real GRPO with the tiny model, in the settings of notebook 05 but for
smaller batches; it takes minutes, so it runs only with `pytest -m slow`. To see the
numbers: `python tests/test_robustness_long.py FOLDER [STEPS]`.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

STEPS, WARM = 300, 60  # memory is compared after the first steps, which fill caches


def train(folder: Path, steps: int) -> dict:
    """Train, and measure after each step: resident memory and disk use, in MiB."""
    from dataclasses import replace

    from grpo_course.ground.session import quiet

    with quiet():
        import unsloth  # noqa: F401
        from trl import GRPOConfig, GRPOTrainer
    import psutil
    from datasets import Dataset
    from transformers import TrainerCallback

    from grpo_course import model, rewards
    from grpo_course.gauges.health import health_callback
    from grpo_course.gauges.tracking import tracking_callbacks
    from grpo_course.ground.profile import PROFILES
    from grpo_course.problems import as_problem
    from grpo_course.template import apply_template
    from tools.tiny import arithmetic

    os.environ["COURSE_HOME"] = str(folder)
    profile = replace(PROFILES["cpu"], track="local")
    problems = arithmetic.make_problems(1200, "grpo", 1)
    rows = [{"prompt": p.question, "solution": str(p.answer)} for p in problems]
    with quiet():
        base, tokenizer = model.load_base_model(profile)
        lora = model.add_adapter(base, profile)
    memory, disk = [], []

    class Measure(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            memory.append(psutil.Process().memory_info().rss / 2**20)
            files = [p for p in folder.rglob("*") if p.is_file()]
            disk.append(sum(file.stat().st_size for file in files) / 2**20)

    config = GRPOConfig(
        output_dir=str(folder / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=32,
        min_p=profile.min_p,
        learning_rate=profile.grpo_learning_rate,
        save_strategy="steps",
        save_steps=20,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
    )
    trainer = GRPOTrainer(
        model=lora,
        args=config,
        train_dataset=Dataset.from_list([as_problem(row) for row in rows]),
        processing_class=apply_template(tokenizer),
        reward_funcs=[rewards.match_format_approximately, rewards.check_numbers],
        callbacks=[*tracking_callbacks(profile, "long"), health_callback(profile)]
        + [Measure()],
    )
    trainer.train()
    return {
        "memory": memory,
        "disk": disk,
        "checkpoints": len(list((folder / "checkpoints").glob("checkpoint-*"))),
    }


def slope(values: list[float]) -> float:
    """Least squares, per step."""
    n, mean = len(values), sum(values) / len(values)
    top = sum((i - (n - 1) / 2) * (value - mean) for i, value in enumerate(values))
    return top * 12 / (n * (n * n - 1))


@pytest.mark.slow
def test_memory_stays_flat_and_disk_use_bounded(tmp_path):
    result = subprocess.run(
        [sys.executable, __file__, tmp_path, str(STEPS)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    measured = json.loads(re.search(r"^\{.memory.*", result.stdout, re.MULTILINE)[0])
    later = measured["memory"][WARM:]
    assert len(later) == STEPS - WARM
    assert slope(later) * 1000 < 60  # MiB more in 1000 steps
    assert measured["checkpoints"] == 2
    assert slope(measured["disk"][WARM:]) * 1000 < 15


if __name__ == "__main__":
    numbers = train(Path(sys.argv[1]), int((sys.argv[2:] or [STEPS])[0]))
    print("\n" + json.dumps(numbers))
