import dataclasses
import difflib
import importlib.util
import logging
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_course.ground import profile as profiles
from grpo_course.ground import rules
from grpo_course.ground.hardware import Hardware, detect_hardware
from grpo_course.ground.paths import REPO
from grpo_course.ground.profile import PROFILES, Profile, ProfileError, load_profile

CPU = Hardware()
T4 = Hardware(14.6, bf16=False, vllm=True)
L4 = Hardware(22.0, bf16=True, vllm=True)
A100_40 = Hardware(39.4, bf16=True, vllm=True)
A100 = Hardware(79.2, bf16=True, vllm=True)
FITTING = {"cpu": CPU, "t4": T4, "l4": L4, "a100-40": A100_40, "a100": A100}

SETTABLE = list(profiles.SETTABLE)
INTEGERS = [n for n in SETTABLE if type(getattr(PROFILES["a100"], n)) is int]
NUMBERS = [n for n in SETTABLE if type(getattr(PROFILES["a100"], n)) is float]
NUMBERS += [*INTEGERS, "gpu_gib", "epsilon_high"]
MAY_BE_ZERO = {
    "seed",
    "own_answers",
    "pass_samples",
    "sft_examples",
    "sft_warmup_steps",
    "weight_decay",
    "beta",
}
MAY_BE_ZERO |= {"grpo_warmup_ratio", "min_p"}


def load(hardware=CPU, **variables):
    """load_profile on some hardware, with COURSE_<NAME>=value for each argument."""
    environ = {f"COURSE_{name}": str(value) for name, value in variables.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiles, "detect_hardware", lambda: hardware)
        return load_profile(environ)


def refused(hardware=CPU, **variables) -> str:
    """The one sentence with which load_profile refuses."""
    with pytest.raises(ProfileError) as error:
        load(hardware, **variables)
    message = str(error.value)
    assert "\n" not in message and message.endswith(".")
    return message


# --- the table


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_valid_on_its_hardware(name):
    others = {"gpu-tiny": L4, "t4-plain": T4._replace(vllm=False)}
    hardware = (FITTING | others)[name.removesuffix("-tutorial")]
    assert load(hardware, PROFILE=name) == PROFILES[name]


@pytest.mark.parametrize("name", FITTING)
def test_the_hardware_chooses(name):
    assert load(FITTING[name]).name == name


@pytest.mark.parametrize("gib", [16, 24, 40, 80])
def test_a_gpu_without_bfloat16_gets_a_profile_without_it(gib):
    chosen = load(Hardware(gib - 0.5, bf16=False, vllm=True))
    assert chosen.dtype == "float16"


def test_a_gpu_too_small_for_every_profile_is_told_how_to_run_without_it():
    assert "CUDA_VISIBLE_DEVICES" in refused(Hardware(4.0, bf16=True, vllm=True))


def test_the_tutorial_profile_has_its_values():
    tutorial = PROFILES["a100-tutorial"]
    assert tutorial.model_name == "Qwen/Qwen3-8B"
    assert (tutorial.max_seq_length, tutorial.seed) == (2048, 3407)
    assert (tutorial.lora_rank, tutorial.lora_alpha) == (32, 64)
    assert (tutorial.sft_epochs, tutorial.sft_learning_rate) == (2, 2e-4)
    assert (tutorial.sft_warmup_steps, tutorial.optim) == (5, "adamw_8bit")
    assert (tutorial.temperature, tutorial.min_p) == (1.0, 0.1)
    assert (tutorial.grpo_learning_rate, tutorial.grpo_warmup_ratio) == (5e-6, 0.1)
    assert (tutorial.num_generations, tutorial.grpo_steps) == (4, 100)
    assert tutorial.weight_decay == 0.01


def test_this_machine_is_looked_at_without_an_error():
    assert detect_hardware().gpu_gib >= 0


def test_loss_types_are_those_of_the_installed_trl():
    trl = Path(importlib.util.find_spec("trl").origin).parent
    config = (trl / "trainer" / "grpo_config.py").read_text()
    listed = config.split("loss_type (`str`")[1].split("mask_truncated_completions")[0]
    documented = set(re.findall(r'^ +- `"(\w+)"`', listed, re.MULTILINE))
    assert documented == set(get_args(rules.Loss))


# --- overrides


def _other_value(field):
    value = getattr(PROFILES["cpu"], field)
    same_kind = {
        "model_name": "Qwen/Qwen3-0.6B",
        "sft_data": "owner/name:train",
        "grpo_data": "owner/name:config:train",
        "eval_data": "./tests/data/adversarial_completions.jsonl",
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "reward": "random",
        "template": "qwen3",
        "track": "disabled",
        "train_anyway": True,
        "exports": "lora,merged_16bit,gguf_q8_0",
        "hub_repo": "owner/name",
        "optim": "adamw_torch_fused",
        "dtype": None,  # these four have one value on a CPU
        "load_in_4bit": None,
        "fast_inference": None,
        "use_gradient_checkpointing": None,
        "mask_truncated": True,
        "gpu_memory_utilization": 0.5,
        "epsilon_high": 0.28,
        "num_generations": 16,
        "grpo_batch_size": 64,
        "min_p": 0.05,
        "max_completion_length": 100,
    }
    return same_kind.get(field, value * 2 if type(value) is int else 0.25)


@pytest.mark.parametrize("field", SETTABLE)
def test_every_field_can_be_overridden(field):
    wanted = _other_value(field)
    if wanted is None:
        wanted = getattr(PROFILES["cpu"], field)
    profile = load(**{field.upper(): wanted})
    assert getattr(profile, field) == wanted
    assert type(getattr(profile, field)) is type(wanted)
    assert dataclasses.replace(profile, **{field: wanted}) == profile


@pytest.mark.parametrize("name", INTEGERS)
def test_no_size_is_four_billion(name):
    if name != "seed":
        assert name in refused(A100, **{name.upper(): 2**32 - 1})


def test_an_optional_number_can_be_none():
    assert load(A100, EPSILON_HIGH="none").epsilon_high is None


def test_the_upper_clip_range_is_the_losss_own_unless_it_is_set():
    assert load().clip_high == load().epsilon == 0.2
    assert load(EPSILON=0.1, EPSILON_HIGH=0.28).clip_high == 0.28
    cispo = load(LOSS_TYPE="cispo")  # whose loss is capped at that ratio itself
    assert cispo.clip_high == 5 and load(LOSS_TYPE="luspo").clip_high == 0.2
    assert load(LOSS_TYPE="cispo", EPSILON_HIGH=2).clip_high == 2


def test_exports_are_a_list_with_or_without_spaces():
    assert load().export_formats == ("lora", "merged_16bit")
    spaced = load(EXPORTS="gguf_f16, lora , gguf_f16")
    assert spaced.export_formats == ("gguf_f16", "lora")
    packed = load(A100, EXPORTS="merged_4bit", LOAD_IN_4BIT=1)
    assert packed.export_formats == ("merged_4bit",)


def test_what_is_exported_changes_no_stage():
    cpu, other = load(), load(EXPORTS="lora", HUB_REPO="owner/name")
    stages = list(profiles.STAGES)
    assert all(cpu.settings_for(s) == other.settings_for(s) for s in stages)


@pytest.mark.parametrize("text", ["true", "True", "1"])
def test_true_has_several_spellings(text):
    assert load(MASK_TRUNCATED=text).mask_truncated is True


def test_gradient_checkpointing_is_a_bool_or_unsloth():
    assert (
        load(A100, USE_GRADIENT_CHECKPOINTING="0").use_gradient_checkpointing is False
    )
    kept = load(A100, USE_GRADIENT_CHECKPOINTING="unsloth")
    assert kept.use_gradient_checkpointing == "unsloth"


def test_other_variables_are_left_alone():
    environ = {"PATH": "/bin", "COURSE": "x", "XCOURSE_SEED": "y", "COURSE_HOME": "/z"}
    assert load_profile(environ | {"COURSE_PROFILE": "cpu"}) == PROFILES["cpu"]


def test_facts_about_a_profile_are_no_settings(caplog):
    assert "COURSE_MIN_GPU_GIB" in refused(MIN_GPU_GIB=1)
    for name in ("NAME", "DESCRIPTION"):
        caplog.clear()
        assert load(**{name: "mine"}) == PROFILES["cpu"]
        assert f"COURSE_{name}" in caplog.text


@pytest.mark.parametrize("name", ["COURSE_ID", "COURSE_TOKEN", "course_url"])
def test_a_variable_of_another_course_is_warned_about_and_changes_nothing(name, caplog):
    environ = {name: "PHYS-101", "COURSE_PROFILE": "cpu"}
    with caplog.at_level(logging.WARNING):
        assert load_profile(environ) == PROFILES["cpu"]
    assert name in caplog.text and "PHYS-101" not in caplog.text


@pytest.mark.parametrize("name", ["course_seed", "COURSESEED", "Course_Seed"])
def test_a_setting_in_other_letters_is_not_ignored_in_silence(name):
    with pytest.raises(ProfileError, match=f"^{name} .*COURSE_SEED"):
        load_profile({name: "1"})


@st.composite
def misspelt(draw):
    """A field's name with one letter dropped, doubled, swapped or replaced."""
    name = draw(st.sampled_from(SETTABLE)).upper()
    at = draw(st.integers(0, len(name) - 2))
    first, second, rest = name[at], name[at + 1], name[at + 2 :]
    middle = draw(
        st.sampled_from(
            [second, first * 2 + second, second + first, "X" + second, first]
        )
    )
    return name, name[:at] + middle + rest


@given(misspelt())
def test_a_misspelt_override_is_refused_and_the_right_one_named(names):
    right, wrong = names
    known = [name.upper() for name in SETTABLE] + ["HOME", "PROFILE"]
    if wrong in known:
        return
    message = refused(**{wrong: 1})
    assert f"COURSE_{wrong} " in message
    closest = difflib.get_close_matches(wrong, known, n=3, cutoff=0)
    assert any(f"COURSE_{name}" in message for name in closest)


def test_lower_case_is_a_misspelling():
    assert "COURSE_SEED" in refused(seed=1)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40))
def test_any_text_for_any_field_is_a_value_or_one_sentence(text):
    for field in SETTABLE:
        try:
            profile = load(**{field.upper(): text})
        except ProfileError as error:
            message = str(error)
            assert field in message or field.upper() in message
            text_field = type(getattr(PROFILES["cpu"], field)) is str
            assert not text_field or repr(text) in message or "<secret>" in message
        else:
            value = getattr(profile, field)
            assert not isinstance(value, float) or math.isfinite(value)


@pytest.mark.parametrize("name", ["PROFILE", "SEED", "MODEL_NAME", "DTYPE", "MIN_P"])
def test_an_empty_override_is_refused(name):
    refused(**{name: ""})


# --- values that cannot work


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["-1", "nan", "inf", "-inf", "1e999", "many", "1,5"])
def test_no_number_field_takes_these(name, text):
    message = refused(A100, **{name.upper(): text})
    assert name in message or name.upper() in message


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_whole(name):
    assert name.upper() in refused(**{name.upper(): "2.5"})


@pytest.mark.parametrize("name", sorted(set(NUMBERS) - MAY_BE_ZERO))
def test_zero_is_refused_where_it_makes_no_sense(name):
    assert name in refused(**{name.upper(): 0})


@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 32))
def test_batches_are_whole_groups(batch, accumulation, group):
    sizes = {"GRPO_BATCH_SIZE": batch, "GRPO_GRAD_ACCUM": accumulation}
    sizes["NUM_GENERATIONS"] = group
    if group >= 2 and batch * accumulation % group == 0:
        assert load(**sizes).grpo_generation_batch == batch * accumulation
    elif group >= 2:
        message = refused(**sizes)
        assert f"={batch}" in message and f"={group}" in message
    else:
        assert "num_generations=1" in refused(**sizes)


@pytest.mark.parametrize(
    ("hardware", "variables", "named"),
    [
        (CPU, {"PROFILE": "a10"}, "'a10'"),
        (CPU, {"PROFILE": "l4"}, "'l4'"),
        (A100, {"PROFILE": "cpu"}, "'cpu'"),
        (CPU, {"FAST_INFERENCE": "true"}, "fast_inference=True"),
        (CPU, {"LOAD_IN_4BIT": "1"}, "load_in_4bit=True"),
        (CPU, {"USE_GRADIENT_CHECKPOINTING": "unsloth"}, "'unsloth'"),
        (CPU, {"DTYPE": "bfloat16"}, "dtype='bfloat16'"),
        (T4, {"DTYPE": "bfloat16"}, "dtype='bfloat16'"),
        (T4, {"PROFILE": "l4"}, "dtype='bfloat16'"),
        (A100._replace(vllm=False), {}, "fast_inference=True"),
        (A100, {"GPU_MEMORY_UTILIZATION": "none"}, "gpu_memory_utilization=None"),
        (A100, {"GPU_MEMORY_UTILIZATION": "1.5"}, "gpu_memory_utilization='1.5'"),
        (CPU, {"DTYPE": "fp32"}, "'fp32'"),
        (CPU, {"LOSS_TYPE": "ppo"}, "loss_type='ppo'"),
        (CPU, {"SCALE_REWARDS": "true"}, "scale_rewards='true'"),
        (CPU, {"OPTIM": "adam"}, "optim='adam'"),
        (CPU, {"TRACK": "wandb"}, "track='wandb'"),
        (CPU, {"EXPORTS": "lora,gguf_q9"}, "exports='lora,gguf_q9'"),
        (CPU, {"EXPORTS": "lora;merged_16bit"}, "exports='lora;merged_16bit'"),
        (CPU, {"EXPORTS": "lora,"}, "exports='lora,'"),
        (CPU, {"EXPORTS": "lora,merged_4bit"}, "merged_4bit"),
        (A100, {"EXPORTS": "merged_4bit"}, "load_in_4bit=True"),
        (CPU, {"HUB_REPO": "no-owner"}, "hub_repo='no-owner'"),
        (CPU, {"HUB_REPO": "https://hub/owner/name"}, "hub_repo="),
        (CPU, {"MAX_COMPLETION_LENGTH": 384}, "max_completion_length=384"),
        (CPU, {"MAX_SEQ_LENGTH": 100}, "max_seq_length=100"),
        (CPU, {"EPSILON_HIGH": 0.1}, "epsilon_high=0.1"),
        (CPU, {"SEED": 2**32}, "seed='4294967296'"),
        (CPU, {"MASK_TRUNCATED": "maybe"}, "'maybe'"),
        (CPU, {"MODEL_NAME": "./no-such-folder"}, "'./no-such-folder'"),
        (CPU, {"MODEL_NAME": "~/no/such/folder"}, "'~/no/such/folder'"),
        (CPU, {"MODEL_NAME": "~no-such-user/folder"}, "'~no-such-user/folder'"),
        (CPU, {"MODEL_NAME": "/" + "x" * 5000}, "model_name="),
        (CPU, {"MODEL_NAME": "models/tiny-qwne3"}, "'models/tiny-qwne3'"),
        (CPU, {"MODEL_NAME": "a/b/c"}, "'a/b/c'"),
        (CPU, {"MODEL_NAME": "a..b/c"}, "'a..b/c'"),
        (CPU, {"MODEL_NAME": "a--b/c"}, "'a--b/c'"),
        (CPU, {"MODEL_NAME": "-a/b"}, "'-a/b'"),
        (CPU, {"MODEL_NAME": "./notebooks"}, "config.json"),
        (CPU, {"HUB_REPO": "../b"}, "hub_repo='../b'"),
        (CPU, {"HUB_REPO": "https://me:pass@hub/a/b"}, "'https://<secret>@hub/a/b'"),
        (CPU, {"TRACK": "hf_abcdefghij"}, "track='<secret>'"),
        (CPU, {"HUB_REPO": "me/hf_abcdefghij"}, "hub_repo='me/<secret>'"),
        (CPU, {"OPTIM": "adamw_8bit"}, "optim='adamw_8bit'"),
        (CPU, {"OPTIM": "paged_adamw_8bit"}, "COURSE_OPTIM"),
        (CPU, {"MAX_COMPLETION_LENGTH": 383}, "leaves 1 tokens"),
        (CPU, {"SFT_DATA": "embedded:test"}, "sft_data='embedded:test'"),
        (CPU, {"GRPO_DATA": "embedded:test"}, "grpo_data='embedded:test'"),
        (CPU, {"EVAL_DATA": "embedded:grpo"}, "eval_data='embedded:grpo'"),
        (CPU, {"SFT_DATA": "/etc/passwd"}, "sft_data='/etc/passwd'"),
        (CPU, {"GRPO_DATA": "./README.md"}, ".jsonl"),
        (CPU, {"HOME": "/etc/passwd"}, "COURSE_HOME='/etc/passwd'"),
        (CPU, {"HOME": "/etc/passwd/x"}, "COURSE_HOME='/etc/passwd/x'"),
        (CPU, {"LOSS_TYPE": "cispo", "EPSILON_HIGH": 0.28}, "epsilon_high=0.28"),
        (CPU, {"HOME": "~no-such-user/x"}, "'~no-such-user/x'"),
        (CPU, {"SFT_DATA": "/no/such.jsonl"}, "'/no/such.jsonl'"),
        (CPU, {"GRPO_DATA": "embedded:training"}, "'embedded:training'"),
        (CPU, {"GRPO_DATA": "owner/name"}, "'owner/name'"),
        (CPU, {"EVAL_DATA": "owner/name:a:b:c"}, "'owner/name:a:b:c'"),
    ],
)
def test_what_cannot_work_is_refused_by_name(hardware, variables, named):
    assert named in refused(hardware, **variables)


# --- local names, stages, display


def test_local_names_are_found_from_the_repository_root(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert load(MODEL_NAME=tmp_path).model_source == str(tmp_path)
    relative = load(MODEL_NAME="./models/tiny-qwen3").model_source
    assert Path(relative) == REPO / "models" / "tiny-qwen3"
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}")
    assert load(SFT_DATA=rows).sft_data == str(rows)
    assert load(MODEL_NAME="Qwen/Qwen3-0.6B").model_source == "Qwen/Qwen3-0.6B"


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").write_text("{}")
    profile = load(MODEL_NAME="~/my-model")
    assert profile.model_source == str(tmp_path / "my-model")


def test_a_file_is_no_model_folder(tmp_path):
    (tmp_path / "model.gguf").write_text("x")
    assert "model.gguf" in refused(MODEL_NAME=tmp_path / "model.gguf")


@pytest.mark.parametrize("field", SETTABLE)
def test_a_setting_changes_the_stages_that_depend_on_it(field):
    prefix = field.split("_")[0]
    first = {"sft": "sft", "grpo": "grpo", "eval": None}.get(prefix, "unsaid")
    first = {"template": "template"}.get(field, first)
    cpu = PROFILES["cpu"]
    changed = dataclasses.replace(cpu)
    object.__setattr__(changed, field, "another")
    stages = list(profiles.STAGES)
    differ = [s for s in stages if cpu.settings_for(s) != changed.settings_for(s)]
    assert differ == stages[len(stages) - len(differ) :]  # and every later stage
    if first != "unsaid":
        assert differ[:1] == ([first] if first else [])
    free = {"fast_inference", "gpu_memory_utilization", "use_gradient_checkpointing"}
    if field in free | {"save_steps", "train_anyway", "track", "hub_repo"}:
        assert not differ
    if field in ("model_name", "dtype", "lora_rank", "seed"):
        assert differ == stages


def test_the_table_shows_every_field_and_its_variable():
    table = PROFILES["cpu"].table()
    assert list(table.index) == [f.name for f in dataclasses.fields(Profile)]
    assert table.loc["grpo_steps", "change"] == "COURSE_GRPO_STEPS"


def test_importing_profiles_and_stages_loads_no_heavy_library():
    code = (
        "import sys; from grpo_course.ground import profile, stages; "
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'unsloth', 'pandas'}; "
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    notebooks = REPO / "notebooks"
    assert subprocess.run([sys.executable, "-c", code], cwd=notebooks).returncode == 0


def test_the_readme_has_a_row_for_each_gpu_profile():
    readme = (REPO / "README.md").read_text()
    rows = {line.split("`")[1]: line for line in readme.splitlines() if "| `" in line}
    for name, profile in PROFILES.items():
        if profile.on_gpu:
            model = profile.model_name.rpartition("/")[2].removesuffix("-qwen3")
            assert model in rows[name]
