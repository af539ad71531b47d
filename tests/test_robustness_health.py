"""Training that goes wrong is noticed.

Tried on logs made up, on the logs of real runs, and on real trainings made to fail.
"""

import csv
import json
import math
import os
import random
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_course.gauges import health
from grpo_course.ground.profile import PROFILES
from tools import FOLDER

CURVES = Path(__file__).parents[1] / "results" / "curves.csv"
CPU = PROFILES["cpu"]


def noticed(history):
    """The names of all symptoms that show at some step, each with its first step."""
    first = {}
    for step in range(1, len(history) + 1):
        for name in health.symptoms(history[:step]):
            first.setdefault(name, step)
    return first


def logs(**columns):
    """Log entries of these columns, which are as long as the longest of them."""
    count = max(len(values) for values in columns.values())
    return [
        {"loss": 0.0} | {name: values[i] for name, values in columns.items()}
        for i in range(count)
    ]


# --- Logs made up ---------------------------------------------------------------------


def test_equal_rewards_are_noticed_after_ten_steps_in_a_row():
    column = [1.0] * 9 + [0.75] + [1.0] * 10
    assert noticed(logs(frac_reward_zero_std=column)) == {"no variance": 20}


def test_completions_that_never_end_are_noticed():
    column = [1.0] * 4 + [0.9] + [0.96] * 5
    assert noticed(logs(**{"completions/clipped_ratio": column})) == {"clipped": 10}


def test_a_gradient_that_explodes_is_noticed():
    usual = [random.Random(1).uniform(0.01, 1) for _ in range(20)]
    history = logs(grad_norm=[*usual, 1e3, 0.1, 1e3, 1e3, 1e3])
    assert noticed(history) == {"exploding gradient": 25}
    assert not noticed(logs(grad_norm=[0.0] * 20 + [5.0] * 3))


def test_a_reward_that_stays_where_it_was_is_noticed():
    rng = random.Random(1)
    noise = [rng.gauss(0, 2) for _ in range(60)]
    assert noticed(logs(reward=noise)) == {"flat reward": 40}
    assert noticed(logs(reward=[3.0] * 60)) == {"flat reward": 40}
    falling = [-0.1 * step + x for step, x in enumerate(noise)]
    assert noticed(logs(reward=falling)) == {"flat reward": 40}
    assert not noticed(logs(reward=[-x for x in falling]))


def test_a_good_run_that_reached_its_best_is_left_in_peace():
    rising = [min(13.0, 5 + step / 3) for step in range(200)]
    assert not noticed(logs(reward=rising, frac_reward_zero_std=[0.9] * 200))


@given(
    st.sampled_from(health.NUMBERS),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.integers(0, 3),
)
def test_a_number_that_is_none_is_found_when_it_stays(name, value, allowed):
    good = {"loss": 1.0, "grad_norm": 1.0, "reward": 0.0}
    bad = good | {name: value}
    assert health.not_finite([good] * 5 + [bad] * (allowed + 1), allowed)
    assert not health.not_finite([good] * 5 + [bad] * allowed, allowed)
    assert not health.not_finite([bad] * allowed + [good], allowed)
    assert not health.not_finite([bad] * allowed, allowed)


# --- The logs of real runs ------------------------------------------------------------


def runs(experiment):
    with CURVES.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["experiment"] == experiment]
    for seed in sorted({row["seed"] for row in rows}):
        mine = [row for row in rows if row["seed"] == seed]
        yield logs(
            reward=[float(row["reward"]) for row in mine],
            frac_reward_zero_std=[float(row["zero_std"]) for row in mine],
        )


def test_the_runs_of_the_course_raise_no_alarm():
    histories = list(runs("course"))
    assert histories and not any(map(noticed, histories))


def test_the_controls_are_recognised_as_what_they_are():
    for history in runs("format"):
        assert noticed(history).keys() == {"no variance", "flat reward"}
    for history in runs("random"):
        assert noticed(history).keys() == {"flat reward"}


# --- Real trainings -------------------------------------------------------------------


def train():
    """Train the tiny model badly in many ways; print what came of each, as JSON."""
    from dataclasses import replace

    from grpo_course.ground.session import quiet

    with quiet():
        import unsloth  # noqa: F401
        from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback

    from grpo_course import model
    from grpo_course.gauges.health import TrainingStopped, health_callback
    from grpo_course.ground import checkpoints
    from grpo_course.template import apply_template, as_prompt
    from tools.tiny import arithmetic

    torch.set_num_threads(1)  # a model so small is faster so
    folder = Path(sys.argv[1])
    problems = arithmetic.make_problems(32, "grpo", 1)
    prompts = Dataset.from_list([{"prompt": as_prompt(p.question)} for p in problems])
    texts = Dataset.from_list([{"text": p.question} for p in problems])
    common = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "bf16": False}

    def attempt(name, trainer_class, config_class, data, lr=1e-3, extra=(), **options):
        with quiet():
            base, tokenizer = model.load_base_model(CPU)
            lora = model.add_adapter(base, CPU)
        field = "sft" if config_class is SFTConfig else "grpo"
        profile = replace(CPU, **{f"{field}_learning_rate": min(lr, 1.0)})
        rewards = options.pop("reward", None)
        settings = {"learning_rate": lr, "logging_steps": 1, "save_steps": 2}
        settings |= common | options
        output = folder / name
        trainer = trainer_class(
            model=lora,
            args=config_class(output_dir=str(output), **settings),
            train_dataset=data,
            processing_class=apply_template(tokenizer),
            callbacks=[*extra, health_callback(profile)],
            **({"reward_funcs": rewards} if rewards else {}),
        )
        said, result = [], "finished"
        health.print = lambda text, **kwargs: said.append(text.strip())
        try:
            trainer.train()
        except TrainingStopped as error:
            result = str(error)
        kept = checkpoints.latest(output)
        print(
            json.dumps(
                {
                    "name": name,
                    "said": said,
                    "result": result,
                    "steps": trainer.state.global_step,
                    "saved": sorted(p.name for p in output.glob("checkpoint-*")),
                    "kept": kept.name if kept else None,
                }
            ),
            file=replies,
            flush=True,
        )

    def sft(name, **options):
        options = {"max_steps": 8, "per_device_train_batch_size": 2} | options
        attempt(name, SFTTrainer, SFTConfig, texts, max_length=64, **options)

    def grpo(name, reward, **options):
        sizes = {"per_device_train_batch_size": 4, "num_generations": 4}
        sizes |= {"max_steps": 6, "max_completion_length": 8, "save_steps": 50}
        options = {"warmup_steps": 0, "reward": reward} | sizes | options
        data = prompts.select(range(options.pop("rows", len(prompts))))
        attempt(name, GRPOTrainer, GRPOConfig, data, **options)

    class Spoil(TrainerCallback):
        """After some step all trained weights are multiplied by a factor."""

        def __init__(self, step, factor):
            self.step, self.factor = step, factor

        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == self.step:
                for weight in model.parameters():
                    weight.data *= self.factor if weight.requires_grad else 1

    class Explode(TrainerCallback):
        """After some step every gradient is a thousand times as large."""

        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 20:
                for weight in model.parameters():
                    if weight.requires_grad:
                        weight.register_hook(lambda gradient: 1000 * gradient)

    def count(value):
        return lambda completions, **kwargs: [value for _ in completions]

    def coin(completions, **kwargs):
        return [float(torch.rand(()) < 0.5) for _ in completions]

    sft("healthy")
    sft("sft rate", lr=1e3)
    sft("sft weight", extra=[Spoil(3, math.nan)], logging_steps=100)
    sft("explodes", extra=[Explode()], max_steps=26)
    endless = {"max_completion_length": 4, "generation_kwargs": {"min_new_tokens": 4}}
    grpo("constant", count(1.0), max_steps=41, **endless)
    grpo("too few", coin, rows=1, per_device_train_batch_size=8)
    grpo("infinite reward", count(math.inf))
    grpo("grpo rate", coin, lr=1e3)


if __name__ == "__main__":
    with Path(sys.argv[1], "replies").open("w") as replies:
        train()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory, preloaded):
    """What came of each training: all in one process."""
    folder = tmp_path_factory.mktemp("health")
    preloaded.start(
        command=["test_robustness_health", str(folder)],
        cwd=str(FOLDER),
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        log=str(folder / "log"),
    ).wait()
    rows = map(json.loads, (folder / "replies").read_text().splitlines())
    found = {row["name"]: row for row in rows}
    assert len(found) == 8, (folder / "log").read_text()[-4000:]
    return found


def test_a_healthy_training_is_left_in_peace(outcomes):
    healthy = outcomes["healthy"]
    assert healthy["result"] == "finished" and not healthy["said"]
    assert healthy["kept"] == "checkpoint-8"


@pytest.mark.parametrize(
    ("name", "saved", "hint"),
    [
        ("sft rate", [], "COURSE_SFT_LEARNING_RATE=0.5"),
        ("sft weight", ["checkpoint-2"], "COURSE_SFT_LEARNING_RATE=0.0005"),
        ("grpo rate", [], "COURSE_GRPO_LEARNING_RATE=0.5"),
        ("infinite reward", [], "reward function"),
        ("too few", [], "fewer rows"),
    ],
)
def test_a_broken_training_ends_before_it_is_saved(outcomes, name, saved, hint):
    outcome = outcomes[name]
    assert hint in outcome["result"] and outcome["steps"] <= 3
    assert outcome["saved"] == saved
    assert outcome["kept"] == (saved[-1] if saved else None)


@pytest.mark.parametrize(
    ("name", "step", "hint"),
    [
        ("explodes", 23, "learning rate"),
        ("constant", 10, "equal rewards"),
        ("constant", 5, "COURSE_MAX_COMPLETION_LENGTH"),
        ("constant", 40, "COURSE_GRPO_LEARNING_RATE"),
    ],
)
def test_a_useless_training_is_told_once_and_goes_on(outcomes, name, step, hint):
    outcome = outcomes[name]
    assert outcome["result"] == "finished"
    told = [sentence for sentence in outcome["said"] if hint in sentence]
    assert len(told) == 1 and told[0].startswith(f"Step {step}: ")
