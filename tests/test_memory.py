"""The checks before a long step, and what is measured in it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from grpo_course import scale_out
from grpo_course.gauges import memory
from grpo_course.ground import profile as profiles
from grpo_course.ground.hardware import conditions_here
from tools.measure import bench, gpu_limits, random_model
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
    weights = scale_out.adapter_weights(config, profile.lora_rank)
    adapter = [torch.nn.Parameter(torch.zeros(weights, device="meta"))]
    model = SimpleNamespace(config=config, parameters=lambda: adapter)
    measured = row["gib_peak"] - row["gib_loaded"]
    estimated = memory.estimate(row["step"], profile, model)
    assert measured / 2 < estimated < 3 * measured
    assert estimated < row["gib_held"] - row["gib_loaded"]  # it did fit


# --- What fits where ------------------------------------------------------------------


def row_id(row: dict) -> str:
    return f"{row.get('variant') or row['profile']}-{row['machine'].split()[1]}"


@pytest.mark.parametrize("row", [r for r in ROWS if r["step"] == "grpo"], ids=row_id)
def test_the_calculator_is_near_each_measured_tier(row):
    profile = profiles.PROFILES[row["profile"]]
    config = SimpleNamespace(**random_model.SIZES[row["model"]])
    share = row["vllm_share"]
    parts = scale_out.per_gpu("ddp", profile, config, row["gib_held"], share=share)
    assert sum(parts.values()) == pytest.approx(row["gib_peak"], rel=0.05)


VARIANTS = [r for r in tables.read("gpu-throughput.json") if "gib_peak" in r]
TOTAL = {"NVIDIA H100 80GB HBM3": 79.1, "NVIDIA H200": 139.8}  # GiB that torch sees


@pytest.mark.parametrize("row", VARIANTS, ids=row_id)
def test_the_calculator_is_near_each_measured_variant(row):
    batch, times, group = bench.VARIANTS[bench.switched(row["variant"])[0]]
    own = {"grpo_batch_size": batch, "grpo_grad_accum": times}
    own |= {"num_generations": group, "max_completion_length": row["tokens"]}
    own |= {"max_seq_length": row["tokens"] + gpu_limits.PROMPT}
    profile = replace(profiles.PROFILES["a100"], **own)
    where = {"gpu_gib": bench.TIERS["a100"][0], "way": "ddp"}  # held to it
    if row["variant"].startswith("plain trl"):  # vLLM's share is TRL's default, of all
        where = {"gpu_gib": TOTAL[row["machine"]], "way": "colocate", "share": 0.3}
    config = SimpleNamespace(**random_model.SIZES["8b"])
    parts = scale_out.per_gpu(profile=profile, config=config, **where)
    assert sum(parts.values()) == pytest.approx(row["gib_peak"], rel=0.12)


DDP = [r for r in tables.read("scale.json") if (r["way"], r["model"]) == ("ddp", "8b")]


@pytest.mark.parametrize("row", DDP, ids=lambda row: f"{row['processes']} processes")
def test_the_calculator_is_near_each_gpu_of_several(row):
    own = {"max_completion_length": 512, "max_seq_length": 1024}
    profile = replace(profiles.PROFILES["a100"], **own)
    config = SimpleNamespace(**random_model.SIZES["8b"])
    where = {"gpu_gib": TOTAL[row["machine"]], "gpus": row["processes"]}
    parts = scale_out.per_gpu("ddp", profile, config, **where)
    assert sum(parts.values()) == pytest.approx(row["gib_peak"], rel=0.05)


TINY = SimpleNamespace(**json.loads((random_model.TINY / "config.json").read_text()))
QWEN_1_5B = random_model.QWEN3_1_7B | {"hidden_size": 1536, "intermediate_size": 8960}
QWEN_1_5B |= {"num_attention_heads": 12, "num_key_value_heads": 2}  # of Qwen2.5
MODELS = {"8B": random_model.QWEN3_8B, "Qwen2.5-Coder-1.5B": QWEN_1_5B}
USAGE = [r for r in tables.read("gpu-usage.json") if r["step"] == "grpo"]


@pytest.mark.parametrize("row", USAGE, ids=row_id)
def test_the_calculator_is_near_each_measured_notebook(row):
    profile, config = profiles.PROFILES[row["profile"]], TINY
    for name, sizes in MODELS.items():
        if row["model"].startswith(name):
            config = SimpleNamespace(**sizes)
    there, share = row["gib_held"] or TOTAL[row["machine"]], row.get("vllm_share")
    if share in (None, profile.gpu_memory_utilization):
        parts = scale_out.per_gpu("ddp", profile, config, there)
        assert sum(parts.values()) == pytest.approx(row["gib_peak"], rel=0.15)
    else:  # with settings of its own, at natural lengths: the longest are counted
        own = {"grpo_batch_size": 8, "max_seq_length": 1408}
        profile = replace(profile, use_gradient_checkpointing=False, **own)
        parts = scale_out.per_gpu("ddp", profile, config, there, share=share)
        assert row["gib_peak"] < sum(parts.values()) < 1.5 * row["gib_peak"]


def test_parts_on_more_gpus_need_less_on_each():
    config = SimpleNamespace(**random_model.SIZES["8b"])
    a100 = profiles.PROFILES["a100"]
    needs = [
        sum(scale_out.per_gpu("fsdp2", a100, config, 79.1, n).values()) for n in (1, 2)
    ]
    base = 2 * scale_out.weights(config)[1] / memory.GIB
    assert needs[0] - needs[1] > base / 2


def test_an_unknown_way_is_named():
    with pytest.raises(ValueError, match="'tp' is no way"):
        scale_out.per_gpu("tp", CPU, TINY, 80.0)


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
