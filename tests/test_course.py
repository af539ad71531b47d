"""The course itself, executed for real with fewer steps: does it run, and learn?

One COURSE_HOME serves all tests here, in order. Its run is killed in the middle of
GRPO and started again, as a reader's might be; everything after that looks at what
came out of it, or goes on from there.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpo_course.ground import stages, statistics
from grpo_course.model import adapter_is_zero
from tools.run import nbtools, run_course, runner

ROOT = Path(__file__).resolve().parents[1]
SHORT = {
    "COURSE_PROFILE": "cpu",
    "COURSE_GRPO_STEPS": "20",
    "COURSE_EVAL_PROBLEMS": "100",
    "COURSE_SAVE_STEPS": "5",
    "COURSE_TRACK": "disabled",
}
REST = [path for path in run_course.kept([]) if path not in run_course.chosen([])]
README = "jupyter nbconvert --to notebook --execute --output-dir"


def start(home: Path) -> subprocess.Popen:
    environ = {k: v for k, v in os.environ.items() if k != "MPLBACKEND"}
    return subprocess.Popen(
        [sys.executable, "-m", "tools.run.run_course"],
        env=environ | SHORT | {"COURSE_HOME": str(home)},
        cwd=ROOT,
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


def latest(home: Path) -> dict[str, stages.Stage]:
    return {stage.name: stage for stage in stages.every_stage(home)}


def metrics(home: Path, stage: str) -> dict:
    return latest(home)[stage].metrics


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, dict, str]:
    """A COURSE_HOME in which the course was killed in GRPO and then run to its end;
    what stages there were when it was killed; what the second run said."""
    home = tmp_path_factory.mktemp("course-home")
    process = start(home)
    while not list(home.glob("checkpoints/grpo-*/checkpoint-*")):
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.5)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "sft" in latest(home) and "grpo" not in latest(home)
    return home, contents(home / "stages"), finish(start(home))


@pytest.fixture(scope="module")
def home(runs) -> Path:
    return runs[0]


def run(home: Path, path: Path, preloaded, **settings: str) -> None:
    """Run a notebook in a home, in a kernel of the tests' own process."""
    environ = runner.kernel_environment(home, offline=True) | SHORT | settings
    copy = home / "executed" / path.relative_to(nbtools.FOLDER)
    runner.execute(path, copy, environ, preloaded)


def test_the_base_model_does_not_know_the_format(home):
    greedy = metrics(home, "template")["evaluation"]["greedy"]
    assert greedy["format_rate"] < 0.05 and greedy["accuracy"] < 0.05


def test_the_warm_up_teaches_the_format(home):
    assert metrics(home, "sft")["evaluation"]["greedy"]["format_rate"] >= 0.95


def test_grpo_raises_held_out_accuracy(home):
    before, after = (metrics(home, stage)["correct"] for stage in ("sft", "grpo"))
    assert sum(after) > sum(before)
    assert statistics.paired_p_value(before, after) < 0.01


def test_grpo_changed_the_adapter(home):
    folders = [latest(home)[name].path for name in ("template", "sft", "grpo")]
    zero = [adapter_is_zero(folder) for folder in folders]
    assert zero == [True, False, False]
    weights = [contents(folder)["adapter_model.safetensors"] for folder in folders]
    assert len(set(weights)) == 3


def test_the_killed_run_went_on_where_it_stopped(home):
    steps = [entry["step"] for entry in metrics(home, "grpo")["log_history"]]
    assert steps == list(range(1, int(SHORT["COURSE_GRPO_STEPS"]) + 1))


def test_the_exports_were_made(home):
    for name in ("lora", "merged_16bit"):
        assert list(latest(home)[name].path.glob("*.safetensors"))


def test_a_second_run_changes_no_stage(runs, preloaded):
    home, before, output = runs
    assert "grpo" in output.splitlines()[-1]
    after = contents(home / "stages")
    assert before and before.items() <= after.items()
    for path in run_course.chosen(["05", "06"]):  # 01 to 04 ran twice already
        run(home, path, preloaded)
    assert contents(home / "stages") == after


@pytest.mark.parametrize(
    "path", REST[1:], ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_appendices_and_solutions_run_after_the_course(home, preloaded, path):
    shorter = {"COURSE_GRPO_STEPS": "2"} if path.stem.startswith("04c") else {}
    run(home, path, preloaded, **shorter)  # 04c trains, and twice


def test_a_notebook_runs_without_make_as_the_readme_says(home, tmp_path):
    assert README in (ROOT / "README.md").read_text()
    assert REST[0].name.startswith("00_")
    subprocess.run(
        [sys.executable, "-m", *README.split(), tmp_path, REST[0].name],
        env=os.environ | SHORT | {"COURSE_HOME": str(home)},
        cwd=nbtools.FOLDER,
        check=True,
    )
    cells = nbtools.code_cells(nbtools.read(tmp_path / REST[0].name))
    assert cells and all(cell.execution_count for cell in cells)


def test_a_try_shows_its_curve_beside_the_one_before(home, preloaded, tmp_path):
    kept = contents(home / "stages")
    settings = SHORT | {"COURSE_HOME": str(home), "COURSE_GRPO_STEPS": "2"}
    log = tmp_path / "log"
    how = {"cwd": str(nbtools.FOLDER), "env": os.environ | settings, "log": str(log)}
    for _ in range(2):
        preloaded.start(command=["tools.run.try_it"], **how).wait()
    said = [text.splitlines() for text in log.read_text().split("steps     right")[1:]]
    ends = [next(line for line in text if "held-out" in line) for text in said]
    assert ["then" in end for end in ends] == [False, True], log.read_text()
    assert said[0][1].split()[2] == said[1][1].split()[3]  # the first step's share
    assert f"{sum(metrics(home, 'sft')['correct'][:60])} of 60 right before" in ends[0]
    assert contents(home / "stages") == kept


def test_the_course_in_sixty_lines_runs(preloaded, tmp_path):
    text = (nbtools.FOLDER / "course_in_60_lines.py").read_text()
    shorter = {"num_train_epochs=3": "max_steps=3", "max_steps=40": "max_steps=2"}
    shorter |= {'"embedded:test", 100': '"embedded:test", 8'}
    for old, new in shorter.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (folder / "shorter.py").write_text(text)
    (folder / "grpo_course").symlink_to(nbtools.FOLDER / "grpo_course")
    (tmp_path / "models").symlink_to(ROOT / "models")
    log = tmp_path / "log"
    how = {"cwd": str(folder), "env": dict(os.environ), "log": str(log)}
    preloaded.start(command=["shorter"], **how).wait()
    for stage in ("base", "SFT", "GRPO"):
        assert re.search(f"{stage}: [0-8] of 8 held-out", log.read_text()), (
            log.read_text()
        )
    assert list((folder / "my-model").glob("*.safetensors"))


def test_a_notebook_before_its_parent_names_the_one_to_run(tmp_path, preloaded):
    (path,) = run_course.chosen(["05"])
    with pytest.raises(runner.NotebookFailed, match="01_model_loading.ipynb"):
        run(tmp_path, path, preloaded)
    assert not (tmp_path / "stages").exists()


def test_single_notebooks_can_be_chosen():
    every = [path.name[:2] for path in run_course.chosen([])]
    assert every == ["01", "02", "03", "04", "05", "06"]
    some = [path.name[:2] for path in run_course.chosen(["05", "01"])]
    assert some == ["01", "05"]
    with pytest.raises(SystemExit, match="'07' is no notebook"):
        run_course.chosen(["07"])
