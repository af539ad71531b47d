"""Rows that a run on a GPU leaves in results/, and the README's tables of them."""

import json
import subprocess
import sys

import pytest

from tools import ROOT
from tools.measure import bench_grpo, time_course
from tools.report import gpu_results

BATCH = {"grpo_batch_size": 4, "grpo_grad_accum": 8}
SCORES = {"n": 200, "accuracy": 0.5, "ci_low": 0.43, "ci_high": 0.57}
SCORES |= {"format_rate": 0.99, "mean_completion_tokens": 90.0, "truncated_rate": 0.0}
TOOK = {"machine": "A GPU", "profile": "a100", "gib_held": None, "minutes": 7.0}
TOOK |= {"gib_before": 50.0, "gib_peak": 61.0, "seconds_before": 31.0}


def write_home(folder, usage=TOOK, seconds=(60.0, 2.0, 4.0, 3.0)):
    """A COURSE_HOME as after notebook 05, as far as the tables look."""
    log = [
        {"step": step, "step_time": s, "completions/mean_length": 100.0, "reward": 0.5}
        for step, s in enumerate(seconds, start=1)
    ]
    for stage in ("template", "sft", "grpo"):
        evaluation = {"greedy": SCORES, "sampled": SCORES | {"accuracy": 0.4}}
        metrics = {"evaluation": evaluation, "minutes": 9.0, "log_history": []}
        metrics["correct"] = {"grpo": [1, 1, 1, 0]}.get(stage, [0, 0, 1, 1])
        if stage != "template":
            metrics["usage"] = usage
        if stage == "grpo":
            metrics["log_history"] = log
        settings = {"model_name": "/some/model", "seed": 1} | BATCH
        path = folder / "stages" / stage / "manifest.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"settings": settings, "metrics": metrics}))
    proof = {"same completions": "3 of 4", "largest logit difference": None} | SCORES
    proof |= {"tokens a second": 50.0}
    ways = [{"read as": way} | proof for way in ("lora", "merged_16bit")]
    path = folder / "stages" / "export" / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"metrics": {"exports": ways}}))
    return folder


def test_a_home_gives_a_row_for_each_stage_and_each_long_step(tmp_path):
    rows = gpu_results.collect(write_home(tmp_path), "A model")
    assert [row["stage"] for row in rows.accuracy] == ["base", "sft", "grpo"]
    assert [row["step"] for row in rows.usage] == ["sft", "grpo"]
    assert [row["step"] for row in rows.curve] == [1, 2, 3, 4]
    assert [row["read as"] for row in rows.exports] == ["lora", "merged_16bit"]
    assert {row["model"] for table in rows for row in table} == {"A model"}
    lines = gpu_results.exports_as_markdown(rows.exports).splitlines()
    assert len({line.count("|") for line in lines}) == 1


def test_the_last_stage_is_set_against_sft_problem_by_problem(tmp_path):
    rows = gpu_results.collect(write_home(tmp_path)).accuracy
    assert [row["sampled"] for row in rows] == [0.4] * 3
    assert (rows[-1]["gained"], rows[-1]["lost"]) == (2, 1)
    old = {k: v for k, v in rows[0].items() if k != "sampled"}  # as once written
    heading, _, *lines = gpu_results.accuracy_as_markdown([old, *rows]).splitlines()
    assert len({line.count("|") for line in (heading, *lines)}) == 1
    assert [line.count("p = 1") for line in lines] == [0, 0, 0, 1]


def test_the_first_step_which_compiles_is_not_counted(tmp_path):
    _, grpo = gpu_results.collect(write_home(tmp_path)).usage
    assert grpo["step_s"] == 3.0
    assert grpo["tokens_per_s"] == pytest.approx(32 * 100 / 3, abs=1)
    assert grpo["to_first_step_s"] == 31.0 + 60.0
    lines = gpu_results.usage_as_markdown([grpo, grpo | TOOK]).splitlines()
    assert len({line.count("|") for line in lines}) == 1


def test_a_run_without_a_gpu_gives_no_row(tmp_path):
    home = write_home(tmp_path, usage=TOOK | {"gib_peak": None})
    assert not any(gpu_results.collect(home))


def test_a_new_row_replaces_only_that_of_the_same_run(tmp_path):
    table = tmp_path / "table.json"
    first = {"machine": "A GPU", "model": "m", "step": "sft", "minutes": 1.0}
    other = first | {"machine": "Another GPU"}
    gpu_results.results.add(table, [first, other], gpu_results.KEY)
    gpu_results.results.add(table, [first | {"minutes": 2.0}], gpu_results.KEY)
    rows = gpu_results.results.read(table)
    assert sorted(row["minutes"] for row in rows) == [1.0, 2.0]


def test_the_readme_keeps_all_but_what_stands_between_the_markers(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(
        f"before\n{gpu_results.START}\nan older table\n{gpu_results.END}\nafter\n"
    )
    gpu_results.write_readme(readme)
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "an older table" not in text
    gpu_results.write_readme(readme)
    assert readme.read_text() == text


def test_a_variant_that_failed_is_a_row_as_well():
    good = {"variant": "ours", "completions": 32, "step_s": 6.1, "tokens_per_s": 2600}
    table = gpu_results.throughput_as_markdown([good, {"variant": "x", "error": "why"}])
    lines = table.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "why" in lines[-1]


def test_a_failed_try_of_a_variant_goes_when_it_is_tried_again(tmp_path, monkeypatch):
    output, tries = tmp_path / "table.json", []

    def in_process(command, log, **names):
        tries.append(names)
        return names | ({"machine": "A GPU"} if tries[1:] else {"error": "why"})

    monkeypatch.setattr(bench_grpo, "in_process", in_process)
    command = ["bench_grpo.py", "ideal", "--model", "x", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    bench_grpo.main()
    assert "why" in gpu_results.throughput_as_markdown(gpu_results.results.read(output))
    bench_grpo.main()
    assert gpu_results.results.read(output) == [
        {"variant": "ideal", "machine": "A GPU"}
    ]


def test_a_run_held_to_less_memory_is_another_line():
    row = {"machine": "A GPU", "profile": "a100", "model": "m", "start": "cold"}
    row |= {"notebook": "01_model_loading", "seconds": 60.0}
    held = row | {"gib_held": 22.0}
    lines = gpu_results.course_as_markdown([row, held]).splitlines()
    assert len(lines) == 4 and "held to 22 GiB" in lines[-1]


def test_a_rate_is_a_share_of_what_its_own_gpu_could_do():
    limits = {"bandwidth_tb_per_s": 3.0, "rate_tflop_per_s": 790}
    ideal = {"variant": "ideal", "machine": "A GPU", "completions": 32, "step_s": 4.0}
    ideal |= {"tokens_per_s": 4000} | limits
    row = {"variant": "ours", "completions": 32, "step_s": 6.1, "tokens_per_s": 2600}
    rows = [ideal, row | {"machine": "A GPU"}, row | {"machine": "Another"}]
    *_, same, other = gpu_results.throughput_as_markdown(rows).splitlines()
    assert "%" in same and "%" not in other


def test_a_course_is_timed_cold_and_then_warm(tmp_path, monkeypatch):
    cached = []

    def execute(path, copy, environment):
        home = copy.parents[1]
        cached.append((home / "cache" / "kernel").is_file())
        (home / "cache").mkdir(parents=True, exist_ok=True)
        (home / "cache" / "kernel").touch()
        if path.name.startswith("05"):
            write_home(home)

    monkeypatch.setattr(time_course.nbtools, "execute", execute)
    output = tmp_path / "course.json"
    arguments = ["time_course.py", str(tmp_path / "homes"), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setenv("COURSE_HOME", "")
    time_course.main()
    rows = gpu_results.results.read(output)
    assert [row["start"] for row in rows] == ["cold"] * 6 + ["warm"] * 6
    assert cached == [False] + [True] * 11
    assert {row.get("to_first_step_s") for row in rows} == {None, 31.0 + 60.0}
    heading, _, *lines = gpu_results.course_as_markdown(rows).splitlines()
    assert len({line.count("|") for line in (heading, *lines)}) == 1 and len(lines) == 2
    with pytest.raises(SystemExit, match="there already"):
        time_course.main()


def test_what_was_timed_before_a_notebook_failed_is_kept(tmp_path, monkeypatch):
    def execute(path, copy, environment):
        if path.name.startswith("06"):
            raise time_course.nbtools.NotebookFailed("06 does not run")
        if path.name.startswith("05"):
            write_home(copy.parents[1])

    monkeypatch.setattr(time_course.nbtools, "execute", execute)
    output = tmp_path / "course.json"
    arguments = ["time_course.py", str(tmp_path / "homes"), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setenv("COURSE_HOME", "")
    with pytest.raises(SystemExit, match="06 does not run"):
        time_course.main()
    rows = gpu_results.results.read(output)
    assert [row["notebook"][:2] for row in rows] == ["01", "02", "03", "04", "05"]


def test_the_benchmark_refuses_a_variant_that_it_does_not_know():
    command = [
        sys.executable,
        "-m",
        bench_grpo.__name__,
        "mine",
        "--model",
        "x",
        "--output",
        "y",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "plain trl" in done.stderr
