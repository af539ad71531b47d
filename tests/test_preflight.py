"""The checks before a long step, and what is measured in it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from grpo_course.ground import paths, preflight
from grpo_course.ground import profile as profiles
from grpo_course.ground.hardware import conditions_here
from tools.measure import random_model

CPU = profiles.PROFILES["cpu"]
STEPS = sorted(preflight.LOWER)


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
def nothing_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    monkeypatch.setattr(preflight, "MEASURED", tmp_path / "usage.json")


def test_what_was_measured_is_told_and_what_was_not_is_said(tmp_path):
    tiny = {"stage": "sft", "model": CPU.model_name, "machine": "H200", "minutes": 0.81}
    rows = [
        tiny | {"profile": "gpu-tiny"},
        tiny | {"profile": "l4"},
    ]  # l4: another model
    (tmp_path / "gpu.json").write_text(json.dumps(rows))
    cpu = [{"stage": "sft", "minutes": minutes} for minutes in (2.0, 9.0, 3.0)]
    (tmp_path / "cpu.json").write_text(json.dumps(cpu))
    tiers = [{"step": "sft", "profile": "t4", "machine": "H100", "gib_peak": 9.04}]
    tiers[0] |= {"gib_loaded": 8.0}
    tiers += [tiers[0] | {"profile": "l4", "error": "out of memory"}]
    (tmp_path / preflight.TIERS).write_text(json.dumps(tiers))
    table = preflight.tiers("sft")
    assert table["at the peak"]["t4"] == "9.0 GiB"
    assert table["at the peak"]["l4"] == "not measured"
    minutes = table["minutes"]
    assert minutes["gpu-tiny"] == "0.8 (H200)"
    assert minutes["cpu"].startswith("3.0 (")
    assert minutes["l4"] == minutes["a100"] == "not measured"
    assert list(minutes.index) == list(profiles.PROFILES)
    assert set(preflight.tiers("grpo")["minutes"]) == {"not measured"}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fits_gives_a_table(step):
    table = preflight.check(step, CPU, model_like())
    assert (table["needed"].iloc[:2] <= table["there"].iloc[:2]).all()
    assert table["source"].iloc[0] == "estimated"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_cannot_fit_names_a_setting_to_lower(step, monkeypatch):
    monkeypatch.setattr(preflight, "_free_memory", lambda profile: 0.0)
    with pytest.raises(preflight.TooLittle) as caught:
        preflight.check(step, CPU, model_like())
    named = [f"COURSE_{n.upper()}" for n in preflight.LOWER[step]]
    assert any(name in str(caught.value) for name in named)
    known = {f"COURSE_{name.upper()}" for name in vars(CPU)}
    words = {word.strip("(),.:") for word in str(caught.value).split()}
    assert {word for word in words if word.startswith("COURSE_")} <= known


def test_too_little_disk_is_said_before_the_step(monkeypatch):
    nothing = SimpleNamespace(free=0)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: nothing)
    with pytest.raises(preflight.TooLittle, match="COURSE_HOME"):
        preflight.check("sft", CPU, model_like())


@pytest.mark.parametrize("larger", ["batch", "length", "adapter", "model"])
def test_the_estimate_grows_with_what_takes_memory(larger):
    profile, model = CPU, model_like()
    before = preflight._estimate("grpo", profile, model)
    if larger == "batch":
        profile = replace(CPU, grpo_batch_size=2 * CPU.grpo_batch_size)
    elif larger == "length":
        profile = replace(CPU, max_seq_length=2 * CPU.max_seq_length)
    else:
        model = model_like(
            **({"adapter": {"parameters": 10**6}, "model": {"hidden": 128}}[larger])
        )
    assert preflight._estimate("grpo", profile, model) > before


def test_a_measurement_of_the_same_profile_and_model_is_preferred():
    row = {"step": "sft", "profile": "cpu", "model": CPU.model_name, "minutes": 7.0}
    row |= {"machine": "a GPU", "gib_before": 1.0, "gib_peak": 1.5}
    other = row | {"model": "another", "minutes": 9.0}
    preflight.MEASURED.write_text(json.dumps([row, other]))
    table = preflight.check("sft", CPU, model_like())
    assert table.loc["memory (GiB)", "needed"] == 0.5
    assert table.loc["time (minutes)", "needed"] == 7.0
    assert "a GPU" in table.loc["time (minutes)", "source"]


def test_the_time_of_the_whole_notebook_is_better_than_none(tmp_path):
    rows = [{"stage": "grpo", "minutes": minutes} for minutes in (4.0, 6.0, 5.0)]
    (tmp_path / "cpu.json").write_text(json.dumps(rows))
    time = preflight.check("grpo", CPU, model_like()).loc["time (minutes)"]
    assert time["needed"] == 5.0 and "whole notebook" in time["source"]
    longer = replace(CPU, grpo_steps=2 * CPU.grpo_steps)
    time = preflight.check("grpo", longer, model_like()).loc["time (minutes)"]
    assert time["needed"] == "not measured"


def test_a_measurement_does_not_count_for_other_settings():
    row = {"step": "grpo", "profile": "cpu", "model": CPU.model_name, "minutes": 7.0}
    row |= {"machine": "a GPU", "gib_before": 1.0, "gib_peak": 1.5}
    preflight.MEASURED.write_text(json.dumps([row]))
    larger = replace(CPU, grpo_batch_size=2 * CPU.grpo_batch_size)
    for profile, source in ((CPU, "measured on a GPU"), (larger, "estimated")):
        assert (
            preflight.check("grpo", profile, model_like())["source"].iloc[0] == source
        )


ROWS = json.loads((paths.REPO / "results" / preflight.TIERS).read_text())


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
    assert (
        measured / 2 < preflight._estimate(row["step"], profile, model) < 3 * measured
    )


def test_out_of_memory_is_answered_with_advice():
    with pytest.raises(preflight.TooLittle, match="COURSE_GRPO_BATCH_SIZE") as caught:
        with preflight.watch("grpo", CPU):
            raise torch.OutOfMemoryError("CUDA out of memory")
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_pass_and_the_time_is_kept_all_the_same():
    with pytest.raises(KeyError), preflight.watch("sft", CPU) as usage:
        raise KeyError("mine")
    assert usage["minutes"] >= 0


def test_usage_can_go_into_a_manifest():
    with preflight.watch("sft", CPU) as usage:
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
