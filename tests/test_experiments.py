"""The experiment tool: its table, its branches, its order and what it collects.

No training here: a stub takes the place of what executes a notebook.
"""

import json
import math
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_stages import fake_stage

from grpo_course.gauges import evaluation
from grpo_course.ground import data, stages, styles
from grpo_course.ground import profile as profiles
from tools import ROOT
from tools.measure import experiments, outcomes
from tools.measure import run_experiments as tool
from tools.report import draw_results, results, runs, tables
from tools.tiny import rows

COURSE = tool.Run("course", 1)
RANDOM = tool.Run("random", 1)
CPU = profiles.PROFILES["cpu"]
MONITORS = ["right", *(f"style_{style}" for style in styles.STYLES)]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """An empty place for the runs and for the tables."""
    monkeypatch.setattr(profiles, "detect_hardware", profiles.Hardware)
    monkeypatch.setattr(experiments, "HOME", tmp_path / "seeds")
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    return tmp_path


def write_stage(run: tool.Run, stage: str, correct=(1, 0), **metrics) -> Path:
    """A stage as far as the tool reads it."""
    profile = profiles.load_profile(run.environment)
    greedy = dict.fromkeys(runs.MEASURES, 0.5) | {"n": len(correct)}
    both = {"greedy": greedy, "sampled": {"accuracy": 0.25}}
    metrics = {"correct": list(correct), "evaluation": both, "samples": []} | metrics
    metrics["conditions"] = evaluation.conditions(profile)
    packages = {"python": "3", "torch": "2"}
    settings = profile.settings_for(stage)
    return fake_stage(run.home, stage, settings, packages, **metrics)


# --- The table ------------------------------------------------------------------------


def test_no_two_runs_share_a_home_or_a_name():
    runs = list(tool.all_runs())
    assert len({run.home for run in runs}) == len({run.name for run in runs})
    assert len({run.name for run in runs}) == len(runs)


@pytest.mark.parametrize("run", tool.all_runs(), ids=lambda run: run.name)
def test_every_run_has_settings_that_work(run):
    run.home.mkdir(parents=True)
    (run.home / "further.jsonl").touch()  # what sft-more prepares
    profile = profiles.load_profile(run.environment)
    assert profile.seed == run.seed
    assert profile.grpo_generation_batch == CPU.grpo_generation_batch
    assert profile.grpo_steps == CPU.grpo_steps


def test_names_choose_experiments_and_single_runs():
    assert tool.chosen_runs([]) == list(tool.all_runs())
    assert tool.chosen_runs(["random-1", "course-1"]) == [COURSE, RANDOM]
    assert {run.seed for run in tool.chosen_runs(["random"])} == set(experiments.SEEDS)


@pytest.mark.parametrize("name", ["rando", "random-7", "3407", ""])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(SystemExit) as refusal:
        tool.chosen_runs(["course", name])
    assert repr(name) in str(refusal.value)


# --- What is done ---------------------------------------------------------------------


def test_a_run_is_finished_only_with_its_own_settings(monkeypatch):
    assert not RANDOM.finished()
    write_stage(RANDOM, "grpo")
    assert RANDOM.finished()
    monkeypatch.setenv("COURSE_EVAL_PROBLEMS", "7")
    assert not RANDOM.finished()
    monkeypatch.setenv("COURSE_EVAL_PROBLEMS", str(CPU.eval_problems))
    monkeypatch.setenv("COURSE_GRPO_STEPS", "7")
    assert not RANDOM.finished()


def test_a_run_is_ready_when_the_course_has_its_start():
    assert COURSE.ready() and not RANDOM.ready()
    write_stage(COURSE, "template")
    assert not RANDOM.ready()
    write_stage(COURSE, "sft")
    assert RANDOM.ready()


def test_a_branch_copies_what_the_run_begins_with_and_no_more():
    for stage in ("base", "template", "sft", "grpo"):
        write_stage(COURSE, stage)
    half = RANDOM.home / "stages" / ".sft.copy"
    half.mkdir(parents=True)
    (half / "rubbish").touch()  # a branch killed while it copied
    warm = {stage.name: stage for stage in stages.every_stage(COURSE.home)}["sft"]
    stages.write_metrics(warm, {"correct": [1, 1]})
    runs.copy_stages(COURSE.home, RANDOM.home, "sft")
    found = {stage.name: stage for stage in stages.every_stage(RANDOM.home)}
    assert found.keys() == {"base", "template", "sft"}
    assert found["sft"].measured == {"correct": [1, 1]}
    assert not (found["sft"].path / "rubbish").exists()


def test_a_branch_leaves_the_stages_that_are_there():
    for stage in ("base", "template", "sft"):
        write_stage(COURSE, stage)
    own = write_stage(RANDOM, "sft", correct=(0, 0))
    runs.copy_stages(COURSE.home, RANDOM.home, "sft")
    assert RANDOM.manifest("sft")["metrics"]["correct"] == [0, 0]
    assert [path.name for path in own.iterdir()] == ["manifest.json"]


def test_further_rows_are_new_and_the_same_each_time(place):
    for name in ("a", "b"):
        tool.write_further_rows(place / name, seed=1, count=400)
    assert (place / "a").read_bytes() == (place / "b").read_bytes()
    further = [json.loads(line) for line in (place / "a").read_text().splitlines()]
    problems = {row["problem"] for row in further}
    assert len(problems) == len(further) == 400
    assert not problems & {row["problem"] for row in rows.sft_rows(1)}
    assert set(further[0]) >= set(data.COLUMNS["sft"])


def test_each_seed_has_rows_of_its_own():
    given = [tool.Run("course", seed).environment for seed in experiments.SEEDS]
    files = [environ.get("COURSE_GRPO_DATA", "embedded:grpo") for environ in given]
    read = [data.load_rows(file, "grpo")["prompt"] for file in files]
    for seed, prompts in zip(experiments.SEEDS, read, strict=True):
        assert prompts[:] == [row["prompt"] for row in rows.rows_of(seed)["grpo"]]


# --- The order ------------------------------------------------------------------------


@pytest.fixture
def log(monkeypatch) -> list[str]:
    """What is executed, as "1-random 05"; each notebook leaves the stage it makes."""
    said = []

    @contextmanager
    def guarded(home: Path):
        def notebook(path: Path) -> None:
            said.append(f"{home.name} {path.name[:2]}")
            run = {run.home: run for run in tool.all_runs()}[home]
            write_stage(run, experiments.STAGE_OF[path.name[:2]])

        yield notebook

    monkeypatch.setattr(tool.run_course, "guarded", guarded)
    monkeypatch.setattr(tool, "is_there", lambda stage: stage == "base")
    return said


def test_a_run_begins_with_the_course_of_its_seed(log, monkeypatch):
    monkeypatch.setattr(tool.os, "environ", dict(tool.os.environ))
    tool.execute(RANDOM)
    assert log == ["1 02", "1 03", "1 05", "1-random 05"]  # its 01 has been run
    tool.execute(RANDOM)  # another process had done it
    assert len(log) == 4


def test_make_experiments_does_what_is_not_done_and_then_the_tables():
    for target, names in (("experiments", ""), ("seeds", "course format random")):
        command = ["make", "-n", "--old-file=env", target, "JOBS=3"]
        said = subprocess.check_output(command, cwd=ROOT, text=True)
        assert f"--list {names}" in said and "xargs -r -P 3 -n 1 env OMP" in said


def test_the_command_lists_what_is_not_done(monkeypatch, capsys):
    monkeypatch.setattr(tool.sys, "argv", ["x", "--list", "course", "random-1"])
    tool.main()
    names = [f"course-{seed}" for seed in experiments.SEEDS] + ["random-1"]
    assert capsys.readouterr().out.split() == names
    monkeypatch.setattr(tool.sys, "argv", ["x", "random"])
    with pytest.raises(SystemExit, match="One run at a time"):
        tool.main()


# --- The tables -----------------------------------------------------------------------

ENTRY = {"step": 1, "loss": 0.1, "reward": 2.0, "rewards/right/mean": 0.123456789}


def test_the_tables_hold_what_is_done_and_nothing_else():
    write_stage(COURSE, "sft", correct=(0, 0, 1))
    write_stage(COURSE, "grpo", correct=(1, 1, 0), log_history=[ENTRY])
    write_stage(RANDOM, "sft", correct=(0, 0, 1))
    write_stage(tool.Run("flawed", 1), "grpo", log_history=[ENTRY])  # without its start
    more = tool.Run("sft-more", 1)
    more.home.mkdir(parents=True)
    (more.home / "further.jsonl").touch()
    write_stage(more, "sft", correct=(1, 1, 1), log_history=[{"step": 1, "loss": 2.0}])
    outcomes.collect()
    rows = {row["experiment"]: row for row in tables.read("experiments.json")}
    assert rows.keys() == {"course", "sft-more"}
    assert rows["course"]["before"] == pytest.approx(1 / 3, abs=1e-4)
    assert rows["course"]["p_value"] == 1.0  # two won, one lost
    assert rows["sft-more"]["before"] == rows["course"]["before"]
    assert (rows["sft-more"]["gained"], rows["sft-more"]["lost"]) == (1, 0)
    assert "gained" not in rows["course"]
    curves = tables.read("curves.csv")
    assert [row["experiment"] for row in curves] == ["course", "sft-more"]
    assert curves[0]["right"] == 0.12346 and math.isnan(curves[1]["right"])
    assert [row["stage"] for row in tables.read("cpu.json")] == ["sft", "grpo"]


def test_rows_of_runs_that_are_not_here_stay():
    fixed = {"experiment": "fixed", "seed": 1}
    tables.write("experiments.json", [fixed | {"accuracy": 0.5}])
    tables.write("curves.csv", [fixed | {"step": 1}])
    write_stage(COURSE, "sft")
    write_stage(COURSE, "grpo", log_history=[ENTRY])
    for _ in range(2):  # and nothing is there twice
        outcomes.collect()
        rows, curves = map(tables.read, ("experiments.json", "curves.csv"))
        for table in (rows, curves):
            assert [row["experiment"] for row in table] == ["course", "fixed"]
    assert rows[1]["accuracy"] == 0.5 and curves[1]["step"] == 1


def test_without_runs_the_tables_are_empty():
    outcomes.collect()
    assert tables.read("experiments.json") == tables.read("pass-at-k.json") == []


def test_counts_of_right_answers_are_collected_by_stage():
    run = tool.Run("pass-at-k", 1)
    run.home.mkdir(parents=True)
    run.counts.write_text(json.dumps({"sft": [0, 3], "grpo": [16, 2]}))
    outcomes.collect()
    sft, grpo = tables.read("pass-at-k.json")
    assert (sft["stage"], sft["right"], sft["samples"]) == ("sft", [0, 3], 16)
    assert grpo["right"] == [16, 2]


def test_pictures_and_the_readmes_table_are_made_of_the_tables(place, monkeypatch):
    for run in tool.all_runs():
        run.home.mkdir(parents=True, exist_ok=True)
        (run.home / "further.jsonl").touch()
        steps = [{"step": 1}, {"step": 2}]
        entry = {key: 0.5 for key in runs.KEPT.values()}
        means = {f"rewards/{name}/mean": 0.5 for name in MONITORS}
        log = [step | entry | means for step in steps]
        if run.plan.makes == "grpo":
            write_stage(run, "sft")
        if run.plan.makes:
            write_stage(run, run.plan.makes, log_history=log)
    outcomes.collect()
    committed = ("gpu-trials.json", "gpu-trial-curves.csv", *draw_results.STEPS)
    for name in committed:
        shutil.copy(ROOT / "results" / name, tables.RESULTS)
    monkeypatch.setattr(draw_results, "IMAGES", place / "images")
    draw_results.main()
    pictures = list((place / "images").iterdir())
    assert len(pictures) == 6
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in pictures)
    rows = results.on_cpu().partition("\n\n")[2].splitlines()
    made = [plan for plan in tool.EXPERIMENTS.values() if plan.makes]
    assert len(rows) == 2 + len(made)
    assert len({row.count("|") for row in rows}) == 1
