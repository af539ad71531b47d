"""What a trainer reports: progress always, SwanLab where it can start."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from grpo_course.gauges import tracking
from grpo_course.gauges.tracking import finish_tracking, sparkline, tracking_callbacks
from grpo_course.ground.profile import PROFILES

CPU = PROFILES["cpu"]
WRONG_KEY = "swan-key-that-nobody-must-see"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    for name in [n for n in os.environ if n.startswith(("SWANLAB_", "COURSE_TRACK"))]:
        monkeypatch.delenv(name)
    yield tmp_path
    tracking._open = None


class Training:
    """As much of a trainer as callbacks see."""

    def __init__(self, output_dir: Path, name="grpo", profile=CPU, done=(), rows=None):
        self.callbacks = tracking_callbacks(profile, name)
        self.args = SimpleNamespace(output_dir=str(output_dir))
        history = [dict(entry) for entry in done]
        self.state = SimpleNamespace(
            global_step=len(history), max_steps=30, log_history=history
        )
        loader = SimpleNamespace(dataset=rows)
        self._call("on_train_begin", train_dataloader=loader)

    def step(self, **logs):
        self._call("on_step_begin")
        self.state.global_step += 1
        self._call("on_step_end")
        logs = {"loss": 0.5, "learning_rate": 1e-3, **logs}
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self._call("on_log", logs=logs)

    def end(self):
        self._call("on_train_end")

    def _call(self, event, **more):
        for callback in self.callbacks:
            getattr(callback, event)(self.args, self.state, None, **more)


def stage(**metrics):
    return SimpleNamespace(metrics=metrics, manifest={"stage": "grpo", "digest": "d"})


def curves(home: Path) -> list[dict]:
    """Of each run on disk, newest last: chart name -> {step: value}."""
    found = []
    for run in sorted((home / "swanlog").glob("run-*")):
        import sqlite3

        database = sqlite3.connect(home / "swanlog" / "runs.swanlab")
        query = (
            "select tag.name, tag.folder from tag join experiment on "
            "tag.experiment_id = experiment.id where experiment.run_id = ?"
        )
        names = database.execute(query, [run.name]).fetchall()
        database.close()
        found.append({})
        for name, folder in names:
            lines = (run / "logs" / folder / "1000.log").read_text().splitlines()
            entries = map(json.loads, lines)
            found[-1][name] = {entry["index"]: entry["data"] for entry in entries}
    return found


def test_disabled_tracking_leaves_the_progress_line(tmp_path, capsys):
    profile = replace(CPU, track="disabled")
    names = [type(callback).__name__ for callback in tracking_callbacks(profile, "sft")]
    assert names == ["ProgressLine", "FewFiles"]
    Training(tmp_path / "out", "sft", profile).step()
    finish_tracking(stage())
    assert not (tmp_path / "swanlog").exists()


@pytest.mark.parametrize("track", ["local", "offline", "cloud"])
def test_without_swanlab_the_training_goes_on(track, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "swanlab", None)  # importing it fails
    training = Training(tmp_path / "out", profile=replace(CPU, track=track))
    training.step()
    training.end()
    finish_tracking(stage())
    assert capsys.readouterr().out.count("SwanLab") in (1, 2)  # cloud tries local too


def test_progress_line_tells_step_and_loss(tmp_path, capsys):
    training = Training(tmp_path, profile=replace(CPU, track="disabled"))
    for _ in range(20):
        training.step(loss="0.25", reward=1.5)
    training.end()
    *_, last = capsys.readouterr().out.rstrip().split("\r")
    assert "20" in last and "30" in last and "0.25" in last and "1.5" in last


@pytest.mark.parametrize(
    ("values", "curve"),
    [([], ""), ([1.0] * 15, ""), ([3.0] * 16, "▁" * 16)]
    + [(list(range(16)), "▁▁▂▂▃▃▄▄▅▅▆▆▇▇██"), (list(range(33)), "▁▁▂▂▃▃▄▄▅▅▆▆▇▇██")],
)
def test_a_curve_in_one_line(values, curve):
    assert sparkline(values).strip() == curve


def test_one_experiment_has_the_whole_of_an_interrupted_training(tmp_path):
    out = tmp_path / "out"
    first = Training(out)
    for step in range(1, 6):
        first.step(reward=float(step))
    checkpoint = first.state.log_history[:3]  # killed at step 5, saved at step 3
    second = Training(out, done=checkpoint)
    for step in range(4, 8):
        second.step(reward=float(step), num_tokens=100.0 * step, broken=float("nan"))
    second.end()
    finish_tracking(stage(evaluation={"greedy": {"accuracy": 0.75, "n": 4}}))
    (run,) = curves(tmp_path)
    assert run["reward"] == {step: float(step) for step in range(1, 8)}
    assert run["evaluation/greedy/accuracy"] == {7: 0.75}
    assert run["memory/process_gib"].keys() == run["reward"].keys()
    assert all(speed > 0 for speed in run["tokens_per_second"].values())
    assert "broken" not in run


def test_two_stages_are_two_experiments(tmp_path):
    for name in ("sft", "grpo"):
        training = Training(tmp_path / name, name)
        training.step(reward=1.0)
        training.end()
        finish_tracking(stage())
    assert [run["reward"] for run in curves(tmp_path)] == [{1: 1.0}, {1: 1.0}]


def test_a_second_training_closes_the_first(tmp_path):
    Training(tmp_path / "sft", "sft").step(reward=1.0)
    Training(tmp_path / "grpo", "grpo").step(reward=2.0)
    finish_tracking(stage())
    found = [run["reward"] for run in curves(tmp_path)]
    assert sorted(found, key=str) == [{1: 1.0}, {1: 2.0}]  # both began in one second


def test_the_configuration_is_the_profile_without_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_TRACK", "local")
    monkeypatch.setenv("SWANLAB_API_KEY", WRONG_KEY)
    training = Training(tmp_path / "out")
    training.step(reward=1.0)
    finish_tracking(stage())
    (config,) = (tmp_path / "swanlog").glob("run-*/files/config.yaml")
    assert "max_completion_length: 128" in config.read_text()
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or WRONG_KEY.encode() not in file.read_bytes()


def answer(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def completions_file(folder: Path, step: int, **more) -> Path:
    question = [{"role": "user", "content": "What is 6*7?"}]
    rows = pd.DataFrame(
        {
            "step": [step] * 3,
            "prompt": [question, question, [{"role": "user", "content": "1+1?"}]],
            "completion": [answer("6*7=42."), answer("41\n"), answer("2")],
            "check_answer": [5.0, -1.5, 5.0],
            "advantage": [0.7, -0.7, 0.0],
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"completions_{step:05d}.parquet"
    rows.to_parquet(path)
    return path


def test_a_table_shows_the_groups_with_rewards_and_advantages(tmp_path):
    path = completions_file(tmp_path, 10)
    rows = tracking.completions_table(path, {"What is 6*7?": "42"})
    assert rows[:2] == [("prompt", "What is 6*7?"), ("answer", "42")]
    first, second = rows[2:4]
    assert [caption for caption, _ in rows[4:6]] == ["prompt", "answer"]
    assert rows[4][1] == "1+1?" and rows[6][1].startswith("2 ")
    assert "+0.7" in first[0] and "-0.7" in second[0]
    assert first[1].startswith("6*7=42.") and second[1].startswith("41 ")
    assert "check_answer 5" in first[1] and "check_answer -1.5" in second[1]


def test_tables_are_logged_every_few_steps_and_after_a_resume(tmp_path):
    out = tmp_path / "out"
    done = [{"step": n, "reward": 1.0, "learning_rate": 1.0} for n in range(1, 12)]
    for step in range(1, 12):
        completions_file(out / "completions", step)
    training = Training(out, done=done)
    for step in range(12, 21):
        training.step(reward=1.0)
        completions_file(out / "completions", step)
    training.end()
    finish_tracking(stage())
    (run,) = curves(tmp_path)
    assert run["completions"].keys() == {1, 10, 20}
    assert "6*7=42." in run["completions"][20][2]


@pytest.mark.parametrize("track", ["local", "disabled"])
def test_a_long_training_keeps_few_files_of_completions(tmp_path, monkeypatch, track):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    folder = tmp_path / "completions"
    folder.mkdir()
    args = SimpleNamespace(output_dir=str(tmp_path))
    (few,) = [
        callback
        for callback in tracking.tracking_callbacks(replace(CPU, track=track), "grpo")
        if type(callback).__name__ == "FewFiles"
    ]
    for step in range(1, 1001):
        few.on_step_begin(args, SimpleNamespace(global_step=step - 1), None)
        tracking.completions_file(folder, step).touch()
    left = sorted(int(path.stem[-5:]) for path in folder.iterdir())
    tables = [1, *range(10, 100, 10), *range(100, 1000, 100)]
    assert left == [*tables, *range(1000 - tracking.KEPT_FILES, 1001)]


WRONG_SETTINGS = [
    {"SWANLAB_PROJECT": "mine", "SWANLAB_MODE": "nonsense"},
    {"SWANLAB_API_KEY": WRONG_KEY, "SWANLAB_API_HOST": "http://127.0.0.1:9/api"},
    {"COURSE_TRACK": "cloud", "SWANLAB_API_HOST": "http://127.0.0.1:9/api"},
]
SCRIPT = """
    import sys
    from dataclasses import replace
    from pathlib import Path
    from types import SimpleNamespace

    import test_tracking as helpers
    from grpo_course.gauges.tracking import finish_tracking

    track = sys.argv[2] if len(sys.argv) > 2 else "local"
    profile = replace(helpers.CPU, track=track)
    training = helpers.Training(Path(sys.argv[1]) / "out", profile=profile)
    training.step(reward=1.0)
    training.end()
    finish_tracking(helpers.stage())
    print("trained")
"""


@pytest.mark.parametrize("settings", WRONG_SETTINGS)
def test_wrong_account_variables_cost_a_sentence(settings, tmp_path):
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), tmp_path]
        + ([settings["COURSE_TRACK"]] if "COURSE_TRACK" in settings else []),
        env=os.environ | {"PYTHONPATH": f"{here}:{here.parent}/notebooks"} | settings,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "trained" in done.stdout and "SwanLab" in done.stdout
    for text in (done.stdout, done.stderr):
        assert WRONG_KEY not in text and "Traceback" not in text
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or WRONG_KEY.encode() not in file.read_bytes()


def test_a_key_means_the_cloud_unless_something_else_is_asked_for(monkeypatch):
    def mode(track="local"):
        return tracking._Experiment(replace(CPU, track=track), "sft")._mode()

    assert mode() == "local"
    monkeypatch.setenv("SWANLAB_API_KEY", "abc")
    assert mode() == "cloud"
    assert mode("offline") == "offline"
    monkeypatch.setenv("COURSE_TRACK", "local")
    assert mode() == "local"


def test_in_the_cloud_a_resumed_run_keeps_its_id(tmp_path, monkeypatch):
    """Without the network: what SwanLab would be asked for."""
    asked = []

    def init(**options):
        asked.append((options["mode"], options["id"], options["resume"]))
        return SimpleNamespace(id=options["id"] or "fresh", dir=tmp_path / "run-x")

    import swanlab

    monkeypatch.setattr(swanlab, "init", init)
    monkeypatch.setattr(swanlab, "log", lambda values, step: None)
    profile = replace(CPU, track="cloud")
    first = Training(tmp_path / "out", profile=profile)
    first.step(reward=1.0)
    Training(tmp_path / "out", profile=profile, done=first.state.log_history)
    Training(tmp_path / "other", profile=profile)
    assert asked == [
        ("online", None, "never"),
        ("online", "fresh", "allow"),
        ("online", None, "never"),
    ]
