"""The second set: a real model's outputs over the cells of the laptop's notebooks.

The laptop's own notebooks, with altered outputs, stand in for a run.
"""

import shutil

import nbformat
import pytest
from fake_stages import fake_stage

from grpo_course.ground.profile import PROFILES
from tools import ROOT
from tools.report import results, second_set
from tools.run import check_notebooks, nbtools

NAMES = ("01_model_loading.ipynb", "02_chat_template.ipynb")
NOISE = """WARNING 11-27 20:00:00 [vllm.py:1] something
INFO 11-27 20:00:00 [vllm.py:2] something else
 50%|#####     | 30/60 [00:10<00:10,  2.9it/s]
saved to /tmp/run7/home/stages/sft-0123
"""


@pytest.fixture
def lessons(tmp_path, monkeypatch):
    """Two lessons, no second set yet, and a README that is not the repository's."""
    (tmp_path / "notebooks").mkdir()
    apart = {"notebooks", "real_model", "README.md", *NAMES}
    for path in (*ROOT.iterdir(), *(ROOT / "notebooks").iterdir()):
        if path.name not in apart:  # what the prose may link to
            (tmp_path / path.relative_to(ROOT)).symlink_to(path)
    for name in (*(f"notebooks/{name}" for name in NAMES), "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(nbtools, "FOLDER", tmp_path / "notebooks")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "SECOND_SET", tmp_path / "real_model")
    return tmp_path / "notebooks"


@pytest.fixture
def executed(lessons):
    """The executed copies of a run, beside the manifests of its stages."""
    home = lessons.parent / "home"
    changed = {"model_name": "/tmp/models/Real-1.5B", "grpo_steps": 7}
    settings = PROFILES["a100"].settings_for("grpo") | changed
    usage = {"machine": "A GPU", "profile": "a100"}
    conditions = {"eval_data": "/tmp/rows/held_out.jsonl", "eval_problems": 1319}
    fake_stage(home, "grpo", settings, usage=usage, conditions=conditions)
    (home / "executed").mkdir()
    for name in NAMES:
        notebook = nbtools.read(lessons / name)
        output = nbformat.v4.new_output("stream", text=NOISE + "62.4 % are right\n")
        printed_path = nbformat.v4.new_output(
            "execute_result", {"text/plain": "PosixPath('/root/a/b.json')"}
        )
        nbtools.code_cells(notebook)[-1].outputs = [output, printed_path]
        nbtools.write(notebook, home / "executed" / name)
    return home / "executed"


def outputs(name: str) -> str:
    return str(nbtools.code_cells(nbtools.read(results.SECOND_SET / name))[-1].outputs)


def test_without_a_second_set_all_is_well(lessons):
    assert second_set.differences() == [] and results.second_set() == ""


def test_a_run_becomes_clean_notebooks_with_the_lessons_cells(lessons, executed):
    second_set.main(str(executed))
    assert second_set.differences() == []
    for name in NAMES:
        path = results.SECOND_SET / name
        assert check_notebooks.problems(path) == []  # links, noise, sizes, order
        title, told, *rest = nbtools.read(path).cells
        sources = [cell.source for cell in (title, *rest) if cell.cell_type == "code"]
        lesson = nbtools.read(lessons / name).cells
        assert sources == [cell.source for cell in lesson if cell.cell_type == "code"]
        assert "62.4 % are right" in outputs(name) and "saved to sft-0123" in outputs(
            name
        )
        for unwanted in ("WARNING", "INFO", "2.9it/s", "/tmp", "/root", "something"):
            assert unwanted not in outputs(name)


def test_the_cell_below_the_title_tells_the_run_and_links_to_the_lesson(executed):
    second_set.main(str(executed))
    told = nbtools.read(results.SECOND_SET / NAMES[0]).cells[1].source
    for fact in ("Real-1.5B", "A GPU", "a100", "COURSE_GRPO_STEPS=7"):
        assert fact in told
    assert "COURSE_EVAL_PROBLEMS=1319" in told and "EVAL_DATA=held_out.jsonl" in told
    assert "COURSE_LORA_RANK" not in told  # as the profile has it
    assert "/tmp" not in told and f"(../notebooks/{NAMES[0]})" in told


def test_links_lead_to_the_second_set_where_it_has_the_notebook(lessons, executed):
    notebook = nbtools.read(lessons / NAMES[0])
    notebook.cells[
        0
    ].source += f"\n[next]({NAMES[1]}#part) [web](https://a.org/{NAMES[1]})"
    nbtools.write(notebook, lessons / NAMES[0])
    second_set.main(str(executed), "01")
    path = results.SECOND_SET / NAMES[0]
    assert [p.name for p in results.SECOND_SET.iterdir()] == [NAMES[0]]
    assert f"(../notebooks/{NAMES[1]}#part)" in nbtools.read(path).cells[0].source
    second_set.main(str(executed), "02")
    source = nbtools.read(path).cells[0].source
    assert f"({NAMES[1]}#part)" in source and f"(https://a.org/{NAMES[1]})" in source
    assert check_notebooks.problems(path) == []


def test_new_prose_asks_for_a_refresh_which_keeps_the_outputs(lessons, executed):
    second_set.main(str(executed))
    before = outputs(NAMES[1])
    notebook = nbtools.read(lessons / NAMES[1])
    notebook.cells[0].source += "\n\nBetter prose."
    nbtools.write(notebook, lessons / NAMES[1])
    (found,) = second_set.differences()
    assert NAMES[1] in found and "second_set" in found
    second_set.main()
    assert second_set.differences() == [] and outputs(NAMES[1]) == before
    second = nbtools.read(results.SECOND_SET / NAMES[1])
    assert second.cells[0].source.endswith("Better prose.")


def test_an_edited_copy_is_found(executed):
    second_set.main(str(executed))
    path = results.SECOND_SET / NAMES[0]
    notebook = nbtools.read(path)
    notebook.cells[4].source += "\n"
    nbtools.write(notebook, path)
    assert len(second_set.differences()) == 1


def test_outputs_of_other_code_are_refused(lessons, executed):
    second_set.main(str(executed), "02")
    notebook = nbtools.read(lessons / NAMES[1])
    nbtools.code_cells(notebook)[2].source += "  # changed"
    nbtools.write(notebook, lessons / NAMES[1])
    for arguments in ((str(executed),), ()):
        with pytest.raises(SystemExit, match=NAMES[1]):
            second_set.main(*arguments)
    assert not (results.SECOND_SET / NAMES[0]).exists()  # all or none
    assert len(second_set.differences()) == 1


def test_changed_code_without_an_output_is_told_for_good(lessons, executed):
    second_set.main(str(executed))
    for number, name in enumerate(("first", "second")):
        notebook = nbtools.read(lessons / NAMES[1])
        silent = [c for c in nbtools.code_cells(notebook) if not c.outputs]
        silent[number].source = f"{name} = 1"
        nbtools.write(notebook, lessons / NAMES[1])
        second_set.main()
    told = nbtools.read(results.SECOND_SET / NAMES[1]).cells[1].source
    assert f"| {second_set.CHANGED} | `first = 1`, `second = 1` |" in told


def test_a_cell_may_leave_its_beginning_to_one_before_it(lessons, executed):
    for path in (executed / NAMES[1], lessons / NAMES[1]):
        notebook = nbtools.read(path)
        nbtools.code_cells(notebook)[-1].source = "x = 1\nx"
        nbtools.write(notebook, path)
    second_set.main(str(executed))
    before = outputs(NAMES[1])
    nbtools.code_cells(notebook)[-1].source = "x"
    nbtools.write(notebook, lessons / NAMES[1])
    second_set.main()
    assert second_set.differences() == [] and outputs(NAMES[1]) == before
    told = nbtools.read(results.SECOND_SET / NAMES[1]).cells[1].source
    assert f"| {second_set.CHANGED} | `x` |" in told


def test_a_run_that_stopped_early_is_refused(executed):
    notebook = nbtools.read(executed / NAMES[0])
    nbtools.code_cells(notebook)[-1].execution_count = None
    nbtools.write(notebook, executed / NAMES[0])
    with pytest.raises(SystemExit, match="end"):
        second_set.main(str(executed))


@pytest.mark.parametrize("gone", ["stages", "executed"])
def test_a_run_that_tells_nothing_is_refused(executed, gone):
    shutil.rmtree(executed.parent / gone)
    with pytest.raises(SystemExit, match=f"{executed.parent}"):
        second_set.main(str(executed))


def test_the_readme_links_to_the_second_set_as_long_as_it_is_there(executed):
    second_set.main(str(executed), "02")
    readme = results.ROOT / "README.md"
    assert f"(real_model/{NAMES[1]})" in readme.read_text()
    assert "Real-1.5B" in readme.read_text()
    shutil.rmtree(results.SECOND_SET)
    assert results.filled(readme.read_text()) != readme.read_text()
    results.main()
    assert "](real_model/" not in readme.read_text()
