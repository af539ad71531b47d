"""Rows that runs of the notebooks leave in results/, and the README's tables."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from fake_stages import fake_stage

from tools import ROOT
from tools.measure import bench
from tools.report import gpu_run, results, runs, tables

BATCH = {"grpo_batch_size": 4, "grpo_grad_accum": 8}
SCORES = {"n": 200, "accuracy": 0.843, "ci_low": 0.798, "ci_high": 0.88}
SCORES |= {"format_rate": 0.99, "mean_completion_tokens": 90.0, "truncated_rate": 0.0}
TOOK = {"machine": "A GPU", "profile": "a100", "gib_held": None, "minutes": 7.0}
TOOK |= {"gib_peak": 61.0, "seconds_before": 31.0}


def write_manifest(home: Path, stage: str, **metrics) -> None:
    settings = {"model_name": "/some/model", "seed": 7} | BATCH
    fake_stage(home, stage, settings, **metrics)


def write_home(folder: Path, usage=TOOK, seconds=(60.0, 2.0, 4.0, 3.0)) -> Path:
    """A COURSE_HOME as after notebook 06, as far as the tables look."""
    log = [
        {"step": step, "step_time": s, "completions/mean_length": 100.0, "reward": 0.5}
        for step, s in enumerate(seconds, start=1)
    ]
    evaluation = {"greedy": SCORES, "sampled": SCORES | {"accuracy": 0.4}}
    shared = {"evaluation": evaluation, "minutes": 9.0}
    wrong = {"correct": [0, 0, 1, 1], "log_history": []}
    write_manifest(folder, "template", **shared | wrong)
    write_manifest(folder, "sft", usage=usage, **shared | wrong)
    right = {"correct": [1, 1, 1, 0], "log_history": log}
    write_manifest(folder, "grpo", usage=usage, **shared | right)
    proof = {"same completions": "3 of 4", "largest logit difference": None} | SCORES
    proof |= {"tokens a second": 50.0}
    adapter = {"read as": "the adapter"} | proof
    for way in ("merged_16bit", "lora"):
        rows = [{"read as": way} | proof]
        write_manifest(folder, way, adapter=adapter, exports=rows)
    return folder


def shown(name: str, rows: list[dict]) -> pd.DataFrame:
    """One of the README's GPU tables, read back from its Markdown."""
    lines = results.on_gpus(name, rows).splitlines()
    heading, _, *body = ([c.strip() for c in s.strip("|").split("|")] for s in lines)
    return pd.DataFrame(body, columns=heading)  # an error if a line has other columns


# --- Files and tables -----------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_new_rows_replace_only_those_of_the_same_run(tmp_path, suffix):
    path, key = tmp_path / f"table.{suffix}", ("machine", "gib_held")
    first = {"machine": "A GPU", "gib_held": None, "minutes": 1.0}
    held, longer = first | {"gib_held": 22.0}, first | {"minutes": 2.0}
    tables.add(path, [first, first, held], key)
    tables.add(path, [longer], key)
    assert [row["minutes"] for row in tables.read(path)] == [1.0, 2.0]
    tables.add(path, [{"machine": "A GPU", "minutes": 3.0}], key)  # absent is None
    assert [row["minutes"] for row in tables.read(path)] == [1.0, 3.0]


def test_a_file_that_is_not_there_has_no_rows(tmp_path):
    assert (
        tables.read(tmp_path / "none.json") == tables.read(tmp_path / "none.csv") == []
    )


def test_a_value_that_is_missing_is_a_dash_and_an_error_takes_the_numbers_place():
    columns = "run: {name} || right: {right:.1%} | n: {n}"
    rows = [{"name": "a", "right": 0.5}, {"name": "b", "error": "why", "n": 3}]
    heading, rule, first, second = tables.markdown(columns, rows).splitlines()
    assert heading == "| run | right | n |" and rule == "| --- | ---: | ---: |"
    assert first == "| a | 50.0% | - |" and second == "| b | why |  |"
    assert tables.markdown(columns, [])


def test_a_page_keeps_all_but_what_stands_between_the_markers():
    page = "a\n<!-- x:start -->\nold\n<!-- x:end -->\nb\n"
    once = tables.fill(page, "x", "new")
    assert "old" not in once and once.startswith("a\n") and once.endswith("\nb\n")
    assert tables.fill(once, "x", "other") == tables.fill(page, "x", "other")
    with pytest.raises(ValueError, match="x:start"):
        tables.fill("no markers", "x", "new")


# --- What a COURSE_HOME tells ---------------------------------------------------------


def test_rows_come_from_the_manifests(tmp_path):
    write_manifest(tmp_path, "grpo", evaluation={"greedy": SCORES}, minutes=4.0)
    write_manifest(tmp_path, "sft", evaluation={"greedy": {"n": 300}})
    write_manifest(tmp_path, "template")
    sft, grpo = runs.evaluated(tmp_path)
    assert grpo == {"stage": "grpo", "seed": 7, **SCORES, "minutes": 4.0}
    assert sft["stage"] == "sft" and sft["n"] == 300 and sft["accuracy"] is None
    text = runs.as_text(tmp_path)
    assert len(text.splitlines()) == 3 and "84.3%" in text


def test_no_stage_gives_no_rows_and_still_a_sentence(tmp_path):
    assert runs.evaluated(tmp_path) == [] and runs.as_text(tmp_path)


def test_a_home_gives_a_row_for_each_stage_and_each_long_step(tmp_path):
    rows = gpu_run.collect(write_home(tmp_path), "A model")
    assert [row["stage"] for row in rows["gpu.json"]] == ["base", "sft", "grpo"]
    assert [row["step"] for row in rows["gpu-usage.json"]] == ["sft", "grpo"]
    assert [row["step"] for row in rows["gpu-curves.csv"]] == [1, 2, 3, 4]
    ways = [row["read as"] for row in rows["gpu-exports.json"]]
    assert ways == ["the adapter", "lora", "merged_16bit"]
    assert {row["model"] for table in rows.values() for row in table} == {"A model"}
    assert list(shown("gpu-exports", rows["gpu-exports.json"])["read as"]) == ways


def test_the_last_stage_is_set_against_sft_problem_by_problem(tmp_path):
    rows = gpu_run.collect(write_home(tmp_path))["gpu.json"]
    assert [row["sampled"] for row in rows] == [0.4] * 3
    assert (rows[-1]["gained"], rows[-1]["lost"]) == (2, 1)
    old = {k: v for k, v in rows[0].items() if k != "sampled"}  # as once written
    table = shown("gpu", [old, *rows])
    assert list(table["accuracy, sampled"]) == ["-", "40.0%", "40.0%", "40.0%"]
    assert list(table.iloc[:, -1]) == ["-", "-", "-", "+2 -1 (p = 1)"]


def test_the_first_step_which_compiles_is_not_counted(tmp_path):
    _, grpo = gpu_run.usage_rows(write_home(tmp_path))
    assert grpo["step_s"] == 3.0
    assert grpo["tokens_per_s"] == pytest.approx(32 * 100 / 3, abs=1)
    assert grpo["to_first_step_s"] == 31.0 + 60.0
    table = shown("gpu-usage", [grpo, TOOK | {"step": "sft"}])
    assert list(table["start to first step (s)"]) == ["91", "-"]


def test_a_run_without_a_gpu_gives_no_row(tmp_path):
    assert not gpu_run.collect(write_home(tmp_path, usage=TOOK | {"gib_peak": None}))


def test_a_run_is_added_once_and_shown_in_the_readme(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu_run", "--name", "My model"])
    monkeypatch.setenv("COURSE_HOME", str(write_home(tmp_path / "home")))
    names = ("results", "second-set", *results.GPU_TABLES)
    markers = [f"<!-- {m}:start -->\n<!-- {m}:end -->\n" for m in names]
    (tmp_path / "README.md").write_text("before\n" + "".join(markers) + "after\n")
    for _ in range(2):
        gpu_run.main()
        counts = [len(tables.read(name)) for name in gpu_run.KEYS]
        assert counts == [3, 2, 4, 3]
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("before\n") and page.endswith("\nafter\n")
    assert page.count("My model") == 3 + 2 + 3  # gpu, gpu-usage and gpu-exports
    assert results.filled(page) == page


# --- What is measured -----------------------------------------------------------------


def test_a_variant_that_failed_is_a_row_as_well():
    good = {"variant": "ours", "completions": 32, "step_s": 6.1, "tokens_per_s": 2600}
    table = shown("gpu-throughput", [good, {"variant": "x", "error": "why"}])
    assert list(table["seconds a step"]) == ["6.10", ""] and "why" in set(table.loc[1])


def test_a_failed_try_of_a_variant_goes_when_it_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    for name, table in (("t4", "gpu-tiers.json"), ("tutorial", "gpu-throughput.json")):
        for machine in (None, "A GPU", "Another"):
            row = {"machine": machine} if machine else {"error": "why"}
            bench.keep(name, [row, row])
        found = [row.get("machine") for row in tables.read(table)]
        assert found == ["A GPU", "A GPU", "Another", "Another"]


def test_a_process_that_fails_is_a_row_with_its_error(capfd):
    script = "print('x'); print('[{\"step\": 1}]')"
    assert list(bench.in_process(["-c", script])) == [[{"step": 1}]]
    script = "import sys; print('said', file=sys.stderr); raise KeyError('why')"
    ((row,),) = bench.in_process(["-c", script])
    assert "why" in row["error"] and "said" in capfd.readouterr().err


def test_a_course_is_a_line_and_one_held_to_less_memory_another():
    row = {"machine": "A GPU", "profile": "a100", "model": "m", "start": "cold"}
    rows = [row | {"notebook": f"0{n}_x", "seconds": 10.0 * n} for n in range(1, 7)]
    rows[4]["to_first_step_s"] = 91.0
    table = shown("gpu-course", [*rows, rows[0] | {"gib_held": 22.0}])
    assert list(table["machine"]) == ["A GPU", "A GPU, held to 22 GiB"]
    assert list(table["03"]) == ["30", "-"] and list(table["01 to 06"]) == ["210", "-"]
    assert list(table["start of 05 to first step"]) == ["91", "-"]


def test_a_rate_is_a_share_of_what_its_own_gpu_could_do():
    limits = {"bandwidth_tb_per_s": 3.0, "rate_tflop_per_s": 790}
    ideal = {"variant": "ideal", "machine": "A GPU", "completions": 32, "step_s": 4.0}
    ideal |= {"tokens_per_s": 4000} | limits
    row = {"variant": "ours", "completions": 32, "step_s": 6.1, "tokens_per_s": 2600}
    rows = [ideal, row | {"machine": "A GPU"}, row | {"machine": "Another"}]
    _, same, other = shown("gpu-throughput", rows)["of the ideal"]
    assert "%" in same and other == "-"


def test_the_benchmark_refuses_a_variant_that_it_does_not_know():
    command = [sys.executable, "-m", bench.__name__, "mine", "--models", "x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "plain trl" in done.stderr
