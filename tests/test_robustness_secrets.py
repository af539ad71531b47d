"""No key gets out, and nothing foreign gets in unchecked."""

import re
import subprocess
from pathlib import Path

import nbformat
import pytest

from grpo_course.ground import stages
from grpo_course.ground.profile import PROFILES
from grpo_course.model import adapter_is_zero
from tools.run import nbtools, runner

ROOT = nbtools.ROOT
PLANTED = {
    "HF_TOKEN": "hf_PlantedTokenThatMustNotGetOut0001",
    "SWANLAB_API_KEY": "PlantedKeyThatMustNotGetOut0002",
}


def leaks(folder: Path) -> list[str]:
    """The files below a folder in which a planted secret can be found."""
    values = [value.encode() for value in PLANTED.values()]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(f) for f in files if any(v in f.read_bytes() for v in values)]


@pytest.fixture
def planted(monkeypatch):
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)


def sources():
    """Name and text of every file of ours that is code or says how to run it."""
    patterns = ("notebooks/**/*.py", "tools/**/*.py", "*.toml", "*.yml", "Makefile")
    for pattern in patterns:
        for path in ROOT.glob(pattern):
            yield path.relative_to(ROOT), path.read_text()
    for path in nbtools.FOLDER.rglob("*.ipynb"):
        cells = nbtools.code_cells(nbtools.read(path))
        yield path.relative_to(ROOT), "\n".join(cell.source for cell in cells)


def test_a_planted_secret_is_found_where_it_is(tmp_path):
    (tmp_path / "log").write_text("Authorization: Bearer " + PLANTED["HF_TOKEN"])
    assert leaks(tmp_path) == [str(tmp_path / "log")]


def test_a_manifest_holds_no_secret(planted, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    with stages.write_stage("base", PROFILES["cpu"]) as draft:
        (draft.path / "adapter_model.safetensors").write_text("x")
    assert list(tmp_path.rglob("manifest.json")) and not leaks(tmp_path)


FAILING = """
import os
token = os.environ["HF_TOKEN"]
headers = {"Authorization": "Bearer " + token}
def ask(headers, key):
    return {}["no such repository"]
ask(headers, os.environ["SWANLAB_API_KEY"])
"""


def test_a_notebook_that_fails_with_a_secret_at_hand_shows_none(planted, tmp_path):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(FAILING)])
    nbtools.write(notebook, tmp_path / "failing.ipynb")
    environment = runner.kernel_environment(tmp_path / "home", offline=True)
    with pytest.raises(runner.NotebookFailed) as failure:
        copy = tmp_path / "executed" / "failing.ipynb"
        runner.execute(tmp_path / "failing.ipynb", copy, environment)
    assert "no such repository" in str(failure.value)
    assert not any(value in str(failure.value) for value in PLANTED.values())
    assert (tmp_path / "executed" / "failing.ipynb").exists() and not leaks(tmp_path)


@pytest.mark.parametrize(
    "unwanted",
    [
        r"trust_remote_code",  # runs code of whoever made the model
        r"torch\.load\(|pickle\.load|allow_pickle|weights_only\s*=\s*False",
        r"use_safetensors\s*=\s*False|safe_serialization\s*=\s*False",
        r"0\.0\.0\.0|[\"']::[\"']",  # a server for the whole network
        r"verify\s*=\s*False|--trusted-host|http://(?!127\.0\.0\.1|localhost|\{HOST)",
        r"(?<![.\w])(eval|exec)\(|os\.system\(",
    ],
)
def test_nothing_of_ours_asks_for(unwanted):
    pattern = re.compile(unwanted)
    found = [(str(n), m[0]) for n, text in sources() for m in pattern.finditer(text)]
    assert not found


def test_weights_are_committed_as_safetensors_only():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("needs a git clone")
    pickles = r"\.(bin|pt|pth|pkl|pickle|ckpt|npy|npz|h5)$"
    assert not [f for f in listed.stdout.splitlines() if re.search(pickles, f)]


@pytest.mark.parametrize("lock", sorted(p.name for p in ROOT.glob("requirements*.txt")))
def test_every_pin_of_a_lock_has_a_hash(lock):
    lines = (ROOT / lock).read_text().replace("\\\n", " ").splitlines()
    pins = [line for line in lines if line.strip() and not line.startswith("#")]
    assert len(pins) > 50
    for pin in pins:
        assert (
            re.match(r"[\w.\[\],-]+==[\w.+!-]+[\s;]", pin) and "--hash=sha256:" in pin
        )


def test_an_adapter_that_is_a_pickle_is_no_adapter(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    (tmp_path / "adapter_model.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(Exception, match="(?i)header|safetensors"):
        adapter_is_zero(tmp_path)
    assert not (tmp_path / "exploded").exists()
