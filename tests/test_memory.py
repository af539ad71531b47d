"""The checks before a long step, and what is measured in it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from grpo_course.ground import memory
from grpo_course.ground import profile as profiles
from grpo_course.ground.hardware import conditions_here
from tools.measure import random_model
from tools.report import needs, tables

CPU = profiles.PROFILES["cpu"]
STEPS = sorted(memory.LOWER)


def model_like(parameters=1000, hidden=64):
    """What `check` reads of a model: its configuration and its trained weights."""
    config = SimpleNamespace(
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=2,
        vocab_size=600,
    )
    weight = torch.nn.Parameter(torch.zeros(parameters, device="meta"))
    frozen = torch.nn.Parameter(torch.zeros(9, device="meta"), requires_grad=False)
    return SimpleNamespace(config=config, parameters=lambda: [weight, frozen])


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fits_gives_a_table(step):
    table = memory.check(step, CPU, model_like())
    assert list(table.index) == ["memory", "disk"]
    assert (table.iloc[:, 0] <= table.iloc[:, 1]).all()


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_cannot_fit_names_a_setting_to_lower(step, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda profile: 0.0)
    with pytest.raises(memory.TooLittle) as caught:
        memory.check(step, CPU, model_like())
    named = [f"COURSE_{n.upper()}" for n in memory.LOWER[step]]
    assert any(name in str(caught.value) for name in named)
    known = {f"COURSE_{name.upper()}" for name in vars(CPU)}
    words = {word.strip("(),.:") for word in str(caught.value).split()}
    assert {word for word in words if word.startswith("COURSE_")} <= known


def test_too_little_disk_is_said_before_the_step(monkeypatch):
    nothing = SimpleNamespace(free=0)
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda path: nothing)
    with pytest.raises(memory.TooLittle, match="COURSE_HOME"):
        memory.check("sft", CPU, model_like())


@pytest.mark.parametrize("larger", ["batch", "length", "adapter", "model"])
def test_the_estimate_grows_with_what_takes_memory(larger):
    profile, model = CPU, model_like()
    before = memory.estimate("grpo", profile, model)
    if larger == "batch":
        profile = replace(CPU, grpo_batch_size=2 * CPU.grpo_batch_size)
    elif larger == "length":
        profile = replace(CPU, max_seq_length=2 * CPU.max_seq_length)
    else:
        model = model_like(
            **({"adapter": {"parameters": 10**6}, "model": {"hidden": 128}}[larger])
        )
    assert memory.estimate("grpo", profile, model) > before


ROWS = tables.read("gpu-tiers.json")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['profile']}-{row['step']}")
def test_the_estimate_is_near_what_was_measured(row):
    profile = profiles.PROFILES[row["profile"]]
    config = SimpleNamespace(**random_model.SIZES[row["model"]])
    heads = config.head_dim * config.num_attention_heads
    cache = config.head_dim * config.num_key_value_heads
    shapes = [(config.hidden_size, n) for n in (heads, cache, cache, heads)]
    shapes += 3 * [(config.hidden_size, config.intermediate_size)]
    weights = sum(map(sum, shapes)) * profile.lora_rank * config.num_hidden_layers
    adapter = [torch.nn.Parameter(torch.zeros(weights, device="meta"))]
    model = SimpleNamespace(config=config, parameters=lambda: adapter)
    measured = row["gib_peak"] - row["gib_loaded"]
    estimated = memory.estimate(row["step"], profile, model)
    assert measured / 2 < estimated < 3 * measured
    assert estimated < row["gib_held"] - row["gib_loaded"]  # it did fit


def test_out_of_memory_is_answered_with_advice():
    with pytest.raises(memory.TooLittle, match="COURSE_GRPO_BATCH_SIZE") as caught:
        with memory.watch("grpo", CPU):
            raise torch.OutOfMemoryError("CUDA out of memory")
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_pass_and_the_time_is_kept_all_the_same():
    with pytest.raises(KeyError), memory.watch("sft", CPU) as usage:
        raise KeyError("mine")
    assert usage["minutes"] >= 0


def test_usage_can_go_into_a_manifest():
    with memory.watch("sft", CPU) as usage:
        pass
    assert {"machine", "profile", "gib_peak", "minutes"} <= set(usage)
    json.dumps(usage, allow_nan=False)


def test_a_gpu_cannot_be_held_to_more_than_it_has():
    big = profiles.Hardware(gpu_gib=16.0, bf16=True, vllm=True)
    profile = replace(profiles.PROFILES["l4"], gpu_gib=22.0)
    with pytest.raises(profiles.ProfileError, match="gpu_gib"):
        profiles.require(profile, conditions_here(profile, big))
    profile = replace(profile, gpu_gib=15.0)
    profiles.require(profile, conditions_here(profile, big))


def test_memory_alone_makes_no_other_stage():
    smaller = replace(CPU, gpu_gib=10.0, gpu_memory_utilization=0.1)
    assert smaller.settings_for("grpo") == CPU.settings_for("grpo")


# --- The table of what the notebooks need ---------------------------------------------


def test_the_committed_table_is_the_one_of_the_results():
    assert needs.needs() == tables.read("needs.csv")


def test_what_was_measured_is_told_and_what_was_not_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    tiny = {"stage": "sft", "model": CPU.model_name, "machine": "H200", "minutes": 0.81}
    rows = [tiny | {"profile": name} for name in ("gpu-tiny", "l4")]  # l4: not its own
    tables.write("gpu.json", rows)
    tables.write("cpu.json", [{"stage": "sft", "minutes": m} for m in (2.0, 9.0, 3.0)])
    tier = {"step": "sft", "profile": "t4", "machine": "H100", "gib_peak": 9.04}
    tables.write("gpu-tiers.json", [tier, tier | {"profile": "l4", "error": "too big"}])
    table = {row["profile"]: row for row in needs.needs() if row["stage"] == "sft"}
    assert list(table) == list(profiles.PROFILES)
    assert table["t4"]["at the peak"] == "9.0 GiB"
    assert table["l4"]["at the peak"] == "not measured"
    assert table["gpu-tiny"]["minutes"] == "0.8 (H200)"
    assert table["cpu"]["minutes"].startswith("3.0 (")
    assert table["l4"]["minutes"] == table["a100"]["minutes"] == "not measured"
    grpo = {row["minutes"] for row in needs.needs() if row["stage"] == "grpo"}
    assert grpo == {"not measured"}
