"""The course itself, executed for real with fewer steps: does it run, and learn?

One COURSE_HOME serves all tests here, in order. Its run is killed in the middle of
GRPO and started again, as a reader's might be; everything after that looks at what
came out of it.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpo_course.gauges import evaluation
from grpo_course.ground import stages
from tools.run import run_course

ROOT = Path(__file__).resolve().parents[1]
SHORT = {
    "COURSE_PROFILE": "cpu",
    "COURSE_GRPO_STEPS": "20",
    "COURSE_EVAL_PROBLEMS": "100",
    "COURSE_SAVE_STEPS": "5",
    "COURSE_TRACK": "disabled",
}


def start(home: Path, **settings: str) -> subprocess.Popen:
    names = ("COURSE_", "MPLBACKEND")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    return subprocess.Popen(
        [sys.executable, "-m", run_course.__name__],
        cwd=ROOT,
        env=clean | SHORT | {"COURSE_HOME": str(home)} | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0, output[-4000:]
    return output


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def metrics(home: Path, stage: str) -> dict:
    manifest = json.loads((home / "stages" / stage / "manifest.json").read_text())
    return manifest["metrics"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A COURSE_HOME in which the course was killed in GRPO and then run to its end."""
    home = tmp_path_factory.mktemp("course-home")
    process = start(home)
    while not list(home.glob("checkpoints/grpo-*/checkpoint-*")):
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (home / "stages" / "grpo").exists()
    print(finish(start(home)))
    return home


def test_the_base_model_does_not_know_the_format(home):
    greedy = metrics(home, "template")["evaluation"]["greedy"]
    assert greedy["format_rate"] < 0.05 and greedy["accuracy"] < 0.05


def test_the_warm_up_teaches_the_format(home):
    assert metrics(home, "sft")["evaluation"]["greedy"]["format_rate"] >= 0.95


def test_grpo_raises_held_out_accuracy(home):
    before, after = (metrics(home, stage)["correct"] for stage in ("sft", "grpo"))
    assert sum(after) > sum(before)
    assert evaluation.paired_p_value(before, after) < 0.01


def test_grpo_changed_the_adapter(home):
    folders = [home / "stages" / stage for stage in ("template", "sft", "grpo")]
    zero = [stages.adapter_is_zero(folder) for folder in folders]
    assert zero == [True, False, False]
    weights = [contents(folder)["adapter_model.safetensors"] for folder in folders]
    assert len(set(weights)) == 3


def test_the_killed_run_went_on_where_it_stopped(home):
    steps = [entry["step"] for entry in metrics(home, "grpo")["log_history"]]
    assert steps == list(range(1, int(SHORT["COURSE_GRPO_STEPS"]) + 1))


def test_the_exports_were_made(home):
    for name in ("lora", "merged_16bit"):
        assert list((home / "exports" / name).glob("*.safetensors"))


def test_a_second_run_changes_no_stage(home):
    before = contents(home / "stages")
    output = finish(start(home))
    assert contents(home / "stages") == before
    assert "grpo" in output.splitlines()[-1]


def test_a_notebook_before_its_parent_names_the_one_to_run(tmp_path):
    code = "import pathlib, sys\nfrom tools.run import nbtools, run_course\n"
    code += "home = pathlib.Path(sys.argv[1])\n"
    code += "path = next(nbtools.FOLDER.glob('05_*.ipynb'))\n"
    code += "with run_course.guarded(home) as environment:\n"
    code += "    nbtools.execute(path, home / 'executed' / path.name, environment)\n"
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        env=os.environ | SHORT | {"COURSE_HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert "01_model_loading.ipynb" in result.stderr
    assert not (tmp_path / "stages").exists()


def test_single_notebooks_can_be_chosen():
    every = [path.name[:2] for path in run_course.chosen([])]
    assert every == ["01", "02", "03", "04", "05", "06"]
    some = [path.name[:2] for path in run_course.chosen(["05", "01"])]
    assert some == ["01", "05"]
    with pytest.raises(SystemExit, match="'07' is no notebook"):
        run_course.chosen(["07"])
