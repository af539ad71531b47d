"""Uploading: what goes, under which card, and that a token is never shown."""

import json
import os
from types import SimpleNamespace

import pytest

from grpo_course import hub
from grpo_course.ground import stages
from grpo_course.ground.profile import PROFILES

TOKEN = "hf_not-a-real-token"
SUMMARY = {"n": 300, "accuracy": 0.2, "ci_low": 0.159, "ci_high": 0.249}
SUMMARY |= {"format_rate": 1.0}


@pytest.fixture(autouse=True)
def environment(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def folder(tmp_path):
    path = stages.home() / "stages" / "lora-0123456789ab"
    (path / "sub").mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(b"weights")
    (path / "sub" / "config.json").write_text("{}")
    (path / stages.MANIFEST).write_text("{}")
    return path


class FakeApi:
    """HfApi without a network: it remembers what it was asked to do."""

    def __init__(self, error=None):
        self.calls, self.error = [], error

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", repo_id, options))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, **options):
        if self.error:
            raise self.error
        self.calls.append(("upload_folder", options.pop("repo_id"), options))

    def upload_file(self, **options):
        self.calls.append(("upload_file", options.pop("repo_id"), options))


def chain(profile=PROFILES["cpu"]):
    manifest = {
        "base_model": {"name": profile.model_name, "digest": "ab" * 32},
        "revision": None,
        "settings": profile.settings_for("grpo"),
        "packages": {"trl": "1.15.0", "python": "3.11.7"},
    }
    return [
        SimpleNamespace(
            name=name, manifest=manifest, metrics={"evaluation": {"greedy": SUMMARY}}
        )
        for name in ("template", "sft", "grpo")
    ]


PROOF = [{"read as": "lora", "same completions": "33 of 33", "accuracy": 0.875}]


def test_the_list_has_every_file_but_our_record(folder):
    found = hub.files_to_upload(folder)
    assert found == {"adapter_model.safetensors": 7, "sub/config.json": 2}


def test_an_upload_is_private_and_brings_the_card(folder):
    api = FakeApi()
    address = hub.upload(api, folder, "me/model-lora", "# Card")
    assert address.endswith("me/model-lora")
    assert {repo for _, repo, _ in api.calls} == {"me/model-lora"}
    by_name = {name: options for name, _, options in api.calls}
    assert by_name["create_repo"]["private"] is True
    assert by_name["upload_file"]["path_in_repo"] == "README.md"
    assert by_name["upload_file"]["path_or_fileobj"] == b"# Card"
    assert by_name["upload_folder"]["folder_path"] == folder
    assert stages.MANIFEST in by_name["upload_folder"]["ignore_patterns"]
    assert TOKEN not in repr(api.calls)


def test_a_failed_upload_does_not_show_the_token(folder):
    api = FakeApi(RuntimeError(f"401 for Bearer {TOKEN}\nand more"))
    with pytest.raises(hub.UploadError) as error:
        hub.upload(api, folder, "me/model", "card")
    shown = str(error.value)
    assert "401" in shown and TOKEN not in shown and "\n" not in shown
    assert error.value.__suppress_context__


def test_nothing_is_created_for_an_export_that_is_not_there(tmp_path):
    api = FakeApi()
    with pytest.raises(hub.UploadError):
        hub.upload(api, tmp_path / "nothing", "me/model", "card")
    assert api.calls == []


def test_a_login_by_the_hubs_own_command_is_taken(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "token").write_text("hf_stored\n")
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token")
    )
    assert hub.token() == "hf_stored"


def test_without_a_token_one_sentence_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no"))
    assert hub.token() == TOKEN
    for unusable in ("hf_a hf_b", "hf_\u200b", "hf_\x7f"):
        monkeypatch.setenv("HF_TOKEN", unusable)
        with pytest.raises(hub.UploadError) as error:
            hub.token()
        assert "hf_" not in str(error.value)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(hub.UploadError) as error:
        hub.token()
    assert "HF_TOKEN" in str(error.value) and "\n" not in str(error.value)


def front_matter(card: str) -> dict:
    import yaml

    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def test_a_card_of_a_hub_model_names_base_and_data():
    card = hub.model_card(
        "lora", chain(PROFILES["a100"]), PROOF, "openai/gsm8k:main:test"
    )
    head = front_matter(card)
    assert head["base_model"] == "Qwen/Qwen3-8B"
    assert head["library_name"] == "peft"
    assert "open-r1/DAPO-Math-17k-Processed" in head["datasets"]
    for fact in ("20.0%", "15.9% to 24.9%", "300", "33 of 33", "87.5%", "trl 1.15.0"):
        assert fact in card


def test_a_card_of_the_tiny_model_claims_no_hub_base():
    head = front_matter(
        card := hub.model_card("gguf_q8_0", chain(), PROOF, "embedded:test")
    )
    assert "base_model" not in head and "datasets" not in head
    assert head["library_name"] == "llama.cpp"
    assert "teaching-scale" in card


def test_a_card_shows_no_path_and_no_secret(tmp_path, monkeypatch):
    from dataclasses import replace

    private = os.path.expanduser("~/secret-client/rows.jsonl")
    profile = replace(PROFILES["cpu"], sft_data=private, model_name=str(tmp_path))
    card = hub.model_card("lora", chain(profile), [], private)
    assert "rows.jsonl" in card and "secret-client" not in card
    assert str(tmp_path) not in card and TOKEN not in card
    assert json.dumps(card)
