"""Kernels forked from a process that has imported Unsloth: ordinary ones, but sooner.

A module of the tests stands in for Unsloth, and notes which process imports it.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from grpo_course.ground import profile as profiles
from tools.run import nbtools, run_course

UNSLOTH = """
import os
with open(os.environ["COURSE_HOME"] + "/imports", "a") as file:
    print(os.getpid(), file=file)
if "UNSLOTH_IS_BROKEN" in os.environ:
    raise OSError("a library is missing")
if "UNSLOTH_STARTS_CUDA" in os.environ:
    import torch
    torch.cuda.is_initialized = lambda: True
"""
WAIT = """
import time
until = time.monotonic() + 100
while not os.path.exists(os.environ["COURSE_HOME"] + "/lone"):
    assert time.monotonic() < until
    time.sleep(0.05)
"""
IMPORT = "import os\nimport unsloth\nprint(os.getpid())"
WORLD = """
import os, sys, multiprocessing.process
own = {"JPY_PARENT_PID", "PYDEVD_USE_FRAME_EVAL"}
print({name: value for name, value in os.environ.items() if name not in own})
print(os.getcwd(), multiprocessing.process.ORIGINAL_DIR, sys.path)
import matplotlib.pyplot, pandas
print(pandas.get_option("display.max_columns"), matplotlib.get_backend())
print(os.getsid(0) == os.getpid(), [name for name in dir() if name[0] != "_"])
"""


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with an Unsloth, for notebooks, and an empty COURSE_HOME."""
    (tmp_path / "unsloth.py").write_text(UNSLOTH)
    search = [str(tmp_path), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(search).rstrip(os.pathsep))
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(profiles, "detect_hardware", profiles.Hardware)
    monkeypatch.setattr(nbtools, "FOLDER", tmp_path)
    return tmp_path


def make_notebook(path: Path, *sources: str) -> None:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbtools.write(nbformat.v4.new_notebook(cells=cells), path)


def output(place: Path, name: str, cell: int = 0) -> str:
    copy = nbtools.read(place / "home" / "executed" / name)
    return copy.cells[cell].outputs[0].text


def imports(place: Path) -> list[str]:
    return (place / "home" / "imports").read_text().split()


def test_one_process_imports_unsloth_for_all_notebooks_but_each_has_its_own(place):
    make_notebook(place / "01_one.ipynb", IMPORT, "mine = 1")
    make_notebook(place / "02_two.ipynb", IMPORT, "print('mine' in globals())")
    run_course.main()
    (parent,) = imports(place)
    pids = [output(place, f"{name}.ipynb").strip() for name in ("01_one", "02_two")]
    assert len({parent, *pids}) == 3
    assert output(place, "02_two.ipynb", 1) == "False\n"


def test_a_forked_kernel_finds_the_world_as_an_ordinary_one_does(place):
    make_notebook(place / "01_forked.ipynb", WORLD, "import unsloth")
    make_notebook(place / "02_ordinary.ipynb", WORLD)
    run_course.main()
    assert imports(place)
    forked, ordinary = (
        output(place, f"0{n}.ipynb") for n in ("1_forked", "2_ordinary")
    )
    assert forked == ordinary


def test_on_a_gpu_each_kernel_imports_for_itself(place, monkeypatch):
    monkeypatch.setattr(
        profiles, "detect_hardware", lambda: profiles.Hardware(80, True, True)
    )
    make_notebook(place / "01_one.ipynb", IMPORT)
    run_course.main()
    assert imports(place) == [output(place, "01_one.ipynb").strip()]


def test_where_the_import_starts_cuda_nothing_is_forked(place, monkeypatch):
    monkeypatch.setenv("UNSLOTH_STARTS_CUDA", "1")
    make_notebook(place / "01_one.ipynb", IMPORT)
    run_course.main()
    assert imports(place)[1:] == [output(place, "01_one.ipynb").strip()]


def test_an_unsloth_that_cannot_be_imported_is_shown_in_its_cell(
    place, monkeypatch, capsys
):
    monkeypatch.setenv("UNSLOTH_IS_BROKEN", "1")
    make_notebook(place / "01_one.ipynb", IMPORT)
    with pytest.raises(SystemExit, match="OSError: a library is missing"):
        run_course.main()


def test_a_forked_kernel_that_dies_is_a_failure(place):
    make_notebook(place / "01_one.ipynb", IMPORT, "os._exit(0)")
    with pytest.raises(SystemExit, match="memory ran out"):
        run_course.main()


@pytest.mark.parametrize("kind", ["forked", "ordinary"])
def test_a_killed_runner_takes_its_kernels_along(place, kind):
    source = "import os, time\nopen('pid', 'w').write(f'{os.getpid()} {os.getppid()}')"
    source += "\ntime.sleep(600)" + ("\nimport unsloth" if kind == "forked" else "")
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    started = {number: start_runner(place / number.name, source) for number in signals}
    for number, process in started.items():
        pid = place / number.name / "pid"
        wait_for(lambda pid=pid: pid.exists() and pid.read_text())
        process.send_signal(number)
    for number, process in started.items():
        assert process.wait(300) != 0
        kernel, parent = map(int, (place / number.name / "pid").read_text().split())
        assert (parent == process.pid) == (kind == "ordinary")
        for pid in (kernel, parent):
            wait_for(lambda pid=pid: not is_running(pid))


def start_runner(place: Path, source: str) -> subprocess.Popen:
    """A process that runs a course of one notebook."""
    make_notebook(place / "01_first.ipynb", source)
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
from tools.run import nbtools, run_course
from grpo_course.ground import profile
from pathlib import Path
nbtools.FOLDER = Path({str(place)!r})
profile.detect_hardware = profile.Hardware
run_course.main()
"""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"COURSE_HOME": str(place / "home")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_notebook_without_unsloth_runs_while_it_is_imported(place):
    (place / "unsloth.py").write_text(UNSLOTH + WAIT)
    make_notebook(place / "01_a.ipynb", IMPORT)
    lone = 'import os\nopen(os.environ["COURSE_HOME"] + "/lone", "w").close()'
    make_notebook(place / "04_b.ipynb", lone)
    run_course.main()
    assert output(place, "01_a.ipynb")
    assert len(imports(place)) == 1
