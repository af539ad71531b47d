"""What a trainer reports: progress always, SwanLab where it can start.

What SwanLab has is asked of its dashboard, as a browser asks it.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from grpo_course.gauges import progress, tracking
from grpo_course.gauges.progress import sparkline
from grpo_course.gauges.tracking import finish_tracking, tracking_callbacks
from grpo_course.ground.profile import PROFILES

CPU = PROFILES["cpu"]
WRONG_KEY = "swan-key-that-nobody-must-see"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """One for all tests: SwanLab's dashboard keeps to its first folder."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def clean(home, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(home))
    for name in [n for n in os.environ if n.startswith(("SWANLAB_", "COURSE_TRACK"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SWANLAB_LOG_DIR", str(home / "swanlog"))
    yield
    if swanlab := sys.modules.get("swanlab"):
        if swanlab.has_run():
            swanlab.finish()
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
        self.state.is_world_process_zero = True
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


def stage(**greedy):
    metrics = {"evaluation": {"greedy": greedy}}
    return SimpleNamespace(metrics=metrics, manifest={"stage": "grpo", "seal": "d"})


class Dashboard:
    """What SwanLab's dashboard has to show of the experiments made since the start."""

    def __init__(self):
        import swanlab

        if not (tracking.stages.home() / "swanlog" / "runs.swanlab").exists():
            tracking._init("first", "local", None)
            swanlab.finish()
        from fastapi.testclient import TestClient
        from swanboard.app import app

        self.client, self.known = TestClient(app), set()
        self.known = {run["id"] for run in self.runs()}

    def get(self, address: str):
        return self.client.get(f"/api/v1/{address}").json()["data"]

    def runs(self) -> list[dict]:
        found = self.get("project")["experiments"]
        return [run for run in found if run["id"] not in self.known]

    def curves(self) -> list[dict]:
        """Of each new experiment: name of a chart -> {step: value}."""
        found = []
        for run in self.runs():
            charts = self.get(f"experiment/{run['id']}/chart")["charts"]
            found.append({})
            for name in [chart["name"] for chart in charts]:
                points = self.get(f"experiment/{run['id']}/tag/{name}")["list"]
                found[-1][name] = {int(p["index"]): p for p in points}
        return found


@pytest.fixture
def dashboard(clean):
    return Dashboard()


def values(curve: dict) -> dict:
    return {step: point["data"] for step, point in curve.items()}


def test_disabled_tracking_leaves_the_progress_line(tmp_path, home, capsys):
    profile = replace(CPU, track="disabled")
    before = set(home.rglob("*"))
    (callback,) = tracking_callbacks(profile, "sft")
    assert isinstance(callback, progress.Progress)
    Training(tmp_path / "out", "sft", profile).step()
    finish_tracking(stage(), stage())
    assert set(home.rglob("*")) == before


@pytest.mark.parametrize("track", ["local", "offline", "cloud"])
@pytest.mark.parametrize("missing", ["swanlab", "swanlab.integration.transformers"])
def test_without_swanlab_the_training_goes_on(
    track, missing, monkeypatch, capsys, tmp_path
):
    monkeypatch.setitem(sys.modules, missing, None)  # importing it fails
    training = Training(tmp_path / "out", profile=replace(CPU, track=track))
    training.step()
    training.end()
    finish_tracking(stage(), stage())
    assert capsys.readouterr().out.count("No SwanLab") == 1


def test_without_its_dashboard_the_training_goes_on(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "swanboard", None)  # importing it fails
    Training(tmp_path / "out").step()
    assert "swanlab[dashboard]" in capsys.readouterr().out


@pytest.mark.parametrize("failing", ["log", "finish"])
def test_a_failure_on_the_way_costs_one_sentence(
    failing, tmp_path, monkeypatch, capsys
):
    import swanlab

    def fail(*args, **kwargs):
        raise RuntimeError(f"the disk is full, said {WRONG_KEY}")

    monkeypatch.setenv("COURSE_TRACK", "local")
    monkeypatch.setenv("SWANLAB_API_KEY", WRONG_KEY)
    with monkeypatch.context() as patched:
        patched.setattr(swanlab, failing, fail)
        training = Training(tmp_path / "out")
        for _ in range(3):
            training.step(reward=1.0)
        training.end()
        finish_tracking(stage(), stage())
    told = capsys.readouterr().out
    assert told.count("the disk is full") == 1 and WRONG_KEY not in told


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


def test_one_experiment_has_the_whole_of_an_interrupted_training(
    tmp_path, dashboard, caplog
):
    out = tmp_path / "out"
    first = Training(out)
    for step in range(1, 6):
        first.step(reward=float(step))
    (killed,) = dashboard.runs()
    checkpoint = first.state.log_history[:3]  # killed at step 5, saved at step 3
    second = Training(out, done=checkpoint)
    for step in range(4, 8):
        second.step(reward=f"{step}.0", broken=float("nan"))
    second._call("on_log", logs={"epoch": 1.0})  # the summary has nothing to show
    second.end()
    finish_tracking(stage(accuracy=0.75, n=4), stage(accuracy=0.25))
    (shown,) = dashboard.runs()
    assert shown["id"] != killed["id"] and shown["status"] == 1  # finished
    (run,) = dashboard.curves()
    assert values(run["reward"]) == {step: float(step) for step in range(1, 8)}
    assert values(run["evaluation/greedy/accuracy"]) == {0: 0.25, 7: 0.75}
    assert "broken" not in run and list(run)[0] == "reward"
    assert not {"step", "global_step"} & run.keys() and "ERROR" not in caplog.text
    folders = [path.name for path in (tracking.stages.home() / "swanlog").iterdir()]
    assert shown["run_id"] in folders and killed["run_id"] not in folders


def test_two_stages_are_two_experiments(tmp_path, dashboard):
    for name in ("sft", "grpo"):
        training = Training(tmp_path / name, name)
        training.step(reward=1.0)
        training.end()
        finish_tracking(stage(), stage())
    found = [values(run["reward"]) for run in dashboard.curves()]
    assert found == [{1: 1.0}, {1: 1.0}]


def test_a_second_training_closes_the_first(tmp_path, dashboard):
    Training(tmp_path / "sft", "sft").step(reward=1.0)
    Training(tmp_path / "grpo", "grpo").step(reward=2.0)
    finish_tracking(stage(), stage())
    found = [values(run["reward"]) for run in dashboard.curves()]
    assert sorted(found, key=str) == [{1: 1.0}, {1: 2.0}]  # both began in one second
    assert {run["status"] for run in dashboard.runs()} == {1}


def test_the_configuration_is_the_profile_without_keys(
    tmp_path, monkeypatch, dashboard
):
    monkeypatch.setenv("COURSE_TRACK", "local")
    monkeypatch.setenv("SWANLAB_API_KEY", WRONG_KEY)
    training = Training(tmp_path / "out")
    training.step(reward=1.0)
    finish_tracking(stage(), stage())
    (run,) = dashboard.runs()
    config = run["config"]
    assert config["profile"]["value"]["max_completion_length"] == 128
    assert config["seal"]["value"] == "d"
    home = tracking.stages.home()
    for file in home.rglob("*"):
        assert not file.is_file() or WRONG_KEY.encode() not in file.read_bytes()


def test_a_run_for_a_later_upload_is_kept_once(tmp_path, home):
    def runs():
        return set((home / "swanlog").glob("run-*"))

    before, profile = runs(), replace(CPU, track="offline")
    first = Training(tmp_path / "out", profile=profile)
    first.step(reward=1.0)
    (killed,) = runs() - before
    second = Training(tmp_path / "out", profile=profile, done=first.state.log_history)
    second.step(reward=2.0)
    finish_tracking(stage(), stage())
    (kept,) = runs() - before
    assert kept != killed and list(kept.glob("*.swanlab"))


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


def test_tables_are_logged_every_few_steps_and_after_a_resume(tmp_path, dashboard):
    out = tmp_path / "out"
    done = [{"step": n, "reward": 1.0, "learning_rate": 1.0} for n in range(1, 12)]
    for step in range(1, 12):
        completions_file(out / "completions", step)
    training = Training(out, done=done)
    for step in range(12, 21):
        training.step(reward=1.0)
        completions_file(out / "completions", step)
    training.end()
    finish_tracking(stage(), stage())
    (run,) = dashboard.curves()
    assert run["completions"].keys() == {1, 10, 20}
    assert "6*7=42." in str(run["completions"][20])


def test_a_long_training_keeps_few_files_of_completions(tmp_path):
    args = SimpleNamespace(output_dir=str(tmp_path))
    (tmp_path / "completions").mkdir()
    (few, *_) = tracking_callbacks(CPU, "grpo")
    few.on_train_begin(args, None, None)
    for step in range(1, 1001):
        progress.completions_file(args, step).touch()
        few.on_step_end(args, SimpleNamespace(global_step=step, max_steps=1000), None)
    left = sorted(int(path.stem[-5:]) for path in (tmp_path / "completions").iterdir())
    tables = [1, *range(10, 100, 10), *range(100, 1000, 100)]
    assert left == [*tables, *range(1001 - progress.KEPT_FILES, 1001)]


WRONG_SETTINGS = [
    {"SWANLAB_PROJECT": "mine", "SWANLAB_MODE": "nonsense"},
    {"SWANLAB_API_KEY": WRONG_KEY, "SWANLAB_API_HOST": "http://127.0.0.1:9/api"},
    {"COURSE_TRACK": "cloud", "SWANLAB_API_HOST": "http://127.0.0.1:9/api"},
]


@pytest.mark.parametrize("settings", WRONG_SETTINGS)
def test_wrong_account_variables_cost_a_sentence(
    settings, tmp_path, home, monkeypatch, capfd
):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # it tries again and again
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    track = settings.get("COURSE_TRACK", "local")
    training = Training(tmp_path / "out", profile=replace(CPU, track=track))
    training.step(reward=1.0)
    training.end()
    finish_tracking(stage(), stage())
    out, err = capfd.readouterr()
    assert out.count("No SwanLab curves") == 1 and "step 1 of 30" in out
    assert WRONG_KEY not in out + err and "Traceback" not in out + err
    for file in [*tmp_path.rglob("*"), *home.rglob("*")]:
        assert not file.is_file() or WRONG_KEY.encode() not in file.read_bytes()


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What SwanLab is asked for, without the network."""
    import swanlab

    asked = []

    def init(**options):
        asked.append((options["mode"], options["id"], options["resume"]))
        return SimpleNamespace(id=options["id"] or "fresh")

    monkeypatch.setattr(swanlab, "init", init)
    run = SimpleNamespace(config={})
    monkeypatch.setattr(swanlab, "get_run", lambda: run)
    monkeypatch.setattr(swanlab, "log", lambda values, step: None)
    return asked


def test_a_key_means_the_cloud_unless_something_else_is_asked_for(
    tmp_path, monkeypatch, asked
):
    def mode(track="local"):
        Training(tmp_path / f"out{len(asked)}", profile=replace(CPU, track=track))
        return asked[-1][0]

    assert mode() == "local"
    monkeypatch.setenv("SWANLAB_API_KEY", "abc")
    assert mode() == "online"
    assert mode("offline") == "offline"
    monkeypatch.setenv("COURSE_TRACK", "local")
    assert mode() == "local"


def test_in_the_cloud_a_resumed_run_keeps_its_id(tmp_path, asked):
    profile = replace(CPU, track="cloud")
    first = Training(tmp_path / "out", profile=profile)
    first.step(reward=1.0)
    Training(tmp_path / "out", profile=profile, done=first.state.log_history)
    Training(tmp_path / "other", profile=profile)
    Training(tmp_path / "out", profile=profile)  # from its start again
    assert asked == [
        ("online", None, "never"),
        ("online", "fresh", "allow"),
        ("online", None, "never"),
        ("online", None, "never"),
    ]


@pytest.mark.parametrize(
    "damage", ["", "x", "local", "local ../..", "a b c", "local *"]
)
def test_a_damaged_record_is_a_new_experiment(damage, tmp_path, dashboard, capsys):
    other = Training(tmp_path / "other")
    other.step(reward=3.0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / tracking.RECORD).write_text(damage)
    Training(tmp_path / "out").step(reward=1.0)
    assert "No SwanLab" not in capsys.readouterr().out
    assert len(dashboard.runs()) == 2
