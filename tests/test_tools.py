"""The tools around the notebooks: set-up, runner, checker, results table."""

from pathlib import Path

import nbformat
import pytest

from grpo_course.ground import profile as profiles
from tools.run import check_notebooks, export, nbtools, run_course, runner

# A PNG of one black pixel.
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgYGAAAAAEAAH2FzhVAAAA"
    "AElFTkSuQmCC"
)


def make_notebook(path: Path, *sources: str) -> Path:
    """Write an unexecuted notebook with prose before each cell."""
    cells = [nbformat.v4.new_markdown_cell("# A title")]
    for source in sources:
        cells.append(nbformat.v4.new_markdown_cell("Some prose."))
        cells.append(nbformat.v4.new_code_cell(source))
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty folder in the place of notebooks/, and an empty COURSE_HOME."""
    monkeypatch.setattr(nbtools, "FOLDER", tmp_path / "notebooks")
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(profiles, "detect_hardware", profiles.Hardware)
    return tmp_path / "notebooks"


# --- The runner -----------------------------------------------------------------------


def run_main(capsys) -> tuple[int, str]:
    try:
        run_course.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        print(stop.code)
    return code, capsys.readouterr().out


def test_the_course_runs_its_notebooks_in_order(folder, capsys):
    make_notebook(folder / "02_second.ipynb", "print(open('trace').read() + 'two')")
    make_notebook(folder / "01_first.ipynb", "open('trace', 'w').write('one, ')")
    make_notebook(folder / "07_other.ipynb", "open('never', 'w')")
    code, out = run_main(capsys)
    assert code == 0
    assert not (folder / "never").exists()
    assert out.index("01_first") < out.index("02_second")
    copy = nbtools.read(folder.parent / "home" / "executed" / "02_second.ipynb")
    assert copy.cells[2].outputs[0].text == "one, two\n"


def test_a_failing_cell_ends_the_course_and_is_shown(folder, capsys):
    source = "print('before')\nraise ValueError('the reason')"
    make_notebook(folder / "01_first.ipynb", "x = 1", source, "y = 1")
    make_notebook(folder / "02_second.ipynb", "open('never', 'w')")
    code, out = run_main(capsys)
    assert code == 1
    assert "ValueError: the reason" in out and "print('before')" in out
    assert not (folder / "never").exists()
    copy = nbtools.read(folder.parent / "home" / "executed" / "01_first.ipynb")
    assert copy.cells[4].outputs[-1].output_type == "error"
    assert copy.cells[6].execution_count is None


def test_a_dead_kernel_is_a_failure(folder, capsys):
    make_notebook(folder / "01_first.ipynb", "import os\nos._exit(1)")
    code, out = run_main(capsys)
    assert code == 1 and "os._exit(1)" in out


def test_a_bad_setting_stops_the_course_before_it_starts(folder, capsys, monkeypatch):
    make_notebook(folder / "01_first.ipynb", "open('never', 'w')")
    monkeypatch.setenv("COURSE_GRPO_STEPZ", "3")
    code, out = run_main(capsys)
    assert code == 1 and "COURSE_GRPO_STEPZ" in out
    assert not (folder / "never").exists()


def test_a_running_cell_shows_its_last_line(folder, capsys, monkeypatch):
    class Recorder(runner.StatusLine):
        notes = []
        note = property(None, lambda self, text: self.notes.append(text))

    monkeypatch.setattr(runner, "StatusLine", Recorder)
    make_notebook(folder / "01_first.ipynb", "print('step 1')\nprint('step 2')")
    assert run_main(capsys)[0] == 0
    assert any("step 2" in note and "step 1" not in note for note in Recorder.notes)


# --- The checker ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    """A small notebook, executed and cleaned as `make notebooks` does."""
    place = tmp_path_factory.mktemp("executed")
    path = make_notebook(
        place / "01_a.ipynb",
        "import sys, warnings\nx = 1",
        f"print({str(nbtools.ROOT)!r} + '/results')\nprint('10%|#  |\\rdone')\n"
        "warnings.warn('noise')\nprint('more noise', file=sys.stderr)",
        "x",
    )
    environment = runner.kernel_environment(place / "home", offline=True)
    notebook = runner.execute(path, place / "copy.ipynb", environment)
    nbtools.clean(notebook)
    nbtools.write(notebook, path)
    return path


@pytest.fixture
def notebook(executed, tmp_path):
    """That notebook to be spoiled: call the result to see what the checker says."""
    path = tmp_path / "01_a.ipynb"

    class Spoiled:
        content = nbtools.read(executed)
        code = [cell for cell in content.cells if cell.cell_type == "code"]

        def problems(self) -> list[str]:
            nbformat.write(self.content, path)
            return check_notebooks.problems(path)

    return Spoiled()


def test_what_the_tool_wrote_passes(notebook):
    assert notebook.problems() == []
    assert notebook.code[1].outputs[0].text == "results\ndone\n"
    assert len(notebook.code[1].outputs) == 1


def test_prose_may_change_after_execution_and_code_may_not(notebook):
    notebook.content.cells[1].source = "Better prose."
    assert notebook.problems() == []
    notebook.code[0].source = "x = 2"
    assert len(notebook.problems()) == 1


def test_cells_run_out_of_order_are_refused(notebook):
    notebook.code[0].execution_count, notebook.code[1].execution_count = 2, 1
    assert len(notebook.problems()) == 1


def test_a_notebook_without_outputs_is_refused(notebook):
    for cell in notebook.code:
        cell.outputs, cell.execution_count = [], None
    assert len(notebook.problems()) == 1


def test_an_error_is_refused(notebook):
    error = nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])
    notebook.code[1].outputs.append(error)
    assert len(notebook.problems()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "saved to /home/ann/course/x.json",
        "UserWarning: this is old",
        " 50%|#####     | 30/60 [00:10<00:10,  2.9it/s]",
        "hf_" + "a1B2" * 9,
        'api_key="0123456789abcdef0123"',
    ],
)
def test_noise_paths_and_keys_in_outputs_are_refused(notebook, text):
    notebook.code[1].outputs[0].text = text
    assert len(notebook.problems()) == 1


def test_a_picture_needs_words_and_they_survive_cleaning(notebook):
    image = nbformat.v4.new_output("display_data", {"image/png": PIXEL})
    notebook.code[1].outputs += [image]
    assert len(notebook.problems()) == 1
    notebook.code[1].metadata["alt"] = "A curve that rises."
    nbtools.clean(notebook.content)
    assert notebook.problems() == []


def test_each_picture_is_shown_and_small(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"x")
    text = "![A picture.](../images/a.png)"
    assert [*check_notebooks.image_problems(folder, [text])] == []
    assert len([*check_notebooks.image_problems(folder, ["nothing"])]) == 1
    (folder / "a.png").write_bytes(b"x" * 200_001)
    assert len([*check_notebooks.image_problems(folder, [text])]) == 1


def test_large_notebooks_and_images_are_refused(notebook):
    image = nbformat.v4.new_output("display_data", {"image/png": "A" * 200_000})
    notebook.code[1].metadata["alt"] = "A curve that rises."
    notebook.code[1].outputs += [image]
    assert len(notebook.problems()) == 1
    notebook.code[1].outputs += [image]
    assert len(notebook.problems()) == 3


def test_style_is_checked(notebook):
    del notebook.content.cells[3]
    assert len(notebook.problems()) == 1
    notebook.content.cells[0].source = "No title"
    assert len(notebook.problems()) == 2


def test_long_cells_are_refused(notebook):
    notebook.code[0].source = "x = 1\n" * 31
    digest = nbtools.source_digest(notebook.content)
    notebook.content.metadata["course"]["source_sha256"] = digest
    assert len(notebook.problems()) == 1


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("[there](there.md#part) and [web](https://example.org) and [here](#a)", 0),
        ("![a figure](there.md) <img src='there.md' alt='a figure'>", 0),
        ("[not](gone.md)", 1),
        ("<a href='gone.html'>x</a>", 1),
        ("![](there.md)", 1),
        ("<img src='there.md'>", 1),
        ("`[code](gone.md)`", 0),
        ("[![badge](there.md)](gone.md)", 1),
    ],
)
def test_links_and_images(tmp_path, text, count):
    (tmp_path / "there.md").write_text("x")
    found = check_notebooks.text_problems(text, tmp_path / "README.md")
    assert len(found) == count


def test_a_notebook_has_no_name_from_its_set_up_cell_alone(folder):
    path = make_notebook(folder / "01_a.ipynb", "import os", "print(os.name)")
    assert check_notebooks.name_problems(path) == []
    notebook = nbtools.read(path)
    notebook.cells[2].metadata["tags"] = [nbtools.SET_UP]
    nbtools.write(notebook, path)
    (found,) = check_notebooks.name_problems(path)
    assert "os" in found and path.stem in found


def test_exported_modules_must_agree_with_their_notebooks(folder):
    source = "#| export\ndef f():\n    return 1"
    path = make_notebook(folder / "04_a.ipynb", "#| default_exp rewards", source)
    assert export.export(folder) == ["rewards.py"]
    assert export.differences(folder) == []
    module = folder / "grpo_course" / "rewards.py"
    module.write_text(module.read_text().replace("return 1", "return 2"))
    assert len(export.differences(folder)) == 1
    export.export(folder)
    assert export.differences(folder) == []
    path.unlink()
    assert len(export.differences(folder)) == 1
