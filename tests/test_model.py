"""Loading the base model: what Unsloth leaves out where vLLM generates."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from grpo_course.ground.profile import PROFILES
from grpo_course.model import load_base_model

FROM_CONFIG = SimpleNamespace(eos_token_id=5)  # what config.json alone says


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Load a folder's model with a stand-in for Unsloth, with vLLM or without."""
    loaded = SimpleNamespace(generation_config=FROM_CONFIG)
    fast = SimpleNamespace(from_pretrained=lambda **_: (loaded, None))
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace(FastLanguageModel=fast))

    def load(fast_inference):
        profile = replace(
            PROFILES["a100"], model_name=str(tmp_path), fast_inference=fast_inference
        )
        return load_base_model(profile)[0].generation_config

    return load


def test_with_vllm_the_model_knows_the_ends_that_its_folder_lists(load, tmp_path):
    """Notebook 01 refuses a model that does not, and generation would go on."""
    ends = {"eos_token_id": [5, 7]}
    (tmp_path / "generation_config.json").write_text(json.dumps(ends))
    assert load(fast_inference=True).eos_token_id == [5, 7]


@pytest.mark.parametrize("fast_inference", [True, False])
def test_a_folder_without_that_file_loads_as_before(load, fast_inference):
    assert load(fast_inference) is FROM_CONFIG
