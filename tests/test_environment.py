"""`make env`, the README's way without make, and the same tests in public."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
import yaml

from grpo_course.ground import versions
from tools import ROOT

NEEDED = ("tools/run/make_env.sh", "requirements-cpu.in", "requirements-cpu.txt")

# Stands in for Python, before and in .venv: lets the checks run for real, notes every
# other call, and can fail, be killed with its caller, or wait at the step it is told.
PYTHON = """#!/bin/sh
[ "$1" = - ] && exec "$REAL" -
case "$*" in
  *find_spec*) exit 0 ;;
  *config*) [ -z "$MIRROR" ] || echo "global.index-url='$MIRROR'"; exit ;;
  *"-m venv"*) step=venv ;;
  *torch==*) step=torch ;;
  *stdin*) step=uv; grep -q '^uv==.* .$' || exit 9 ;;
  *"-m uv"*) step=packages ;;
  *"import unsloth"*) step=import ;;
esac
echo "$step $UV_DEFAULT_INDEX" >> calls
[ $step = venv ] && mkdir -p .venv/bin && cp "$0" .venv/bin/python
[ "$FAILS" = $step ] && { echo 'no space left'; exit 1; }
[ "$KILLED" = $step ] && kill -KILL $PPID
[ "$WAITS" = $step ] && until [ -e go ]; do sleep 0.1; done
exit 0
"""
STEPS = ["venv", "torch", "uv", "packages", "import"]


class Clone:
    """What set-up needs of a clone, and a Python that installs nothing."""

    def __init__(self, root: Path) -> None:
        self.root, self.bin = root, root / "bin"
        (root / "tools" / "run").mkdir(parents=True)
        for name in NEEDED:
            shutil.copy(ROOT / name, root / name)
        self.program("python3", PYTHON)
        (root / "sitecustomize.py").write_text(
            "import os, platform, sys, sysconfig\nexec(os.environ.get('PRETENDED', ''))"
        )

    def program(self, name: str, text: str) -> None:
        self.bin.mkdir(exist_ok=True)
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, **environment: str) -> subprocess.Popen:
        environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.root),
            "REAL": sys.executable,
        } | environment
        return subprocess.Popen(
            ["/bin/sh", str(self.root / "tools" / "run" / "make_env.sh")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def make(self, **environment: str) -> tuple[int, str]:
        """The exit status, and what was printed."""
        process = self.start(**environment)
        return process.wait(), "".join(process.communicate())

    def steps(self) -> list[str]:
        """The steps since the last call."""
        calls = self.root / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return [line.split()[0] for line in lines]

    def wait_for(self, step: str, process: subprocess.Popen) -> None:
        calls = self.root / "calls"
        while not (calls.exists() and f"{step} " in calls.read_text()):
            assert process.poll() is None
            time.sleep(0.05)

    def refuses(self, word: str, **environment: str) -> bool:
        code, said = self.make(**environment)
        assert "Set-up stopped: " in said and word in said, said
        return code == 1 and self.steps() == [] and not (self.root / ".venv").exists()


@pytest.fixture
def clone(tmp_path) -> Clone:
    return Clone(tmp_path)


def test_a_finished_environment_is_used_again_until_the_pins_change(clone):
    assert clone.make()[0] == 0 and clone.steps() == STEPS
    assert clone.make() == (0, "") and clone.steps() == []
    with (clone.root / "requirements-cpu.txt").open("a") as lock:
        lock.write("# newer\n")
    assert clone.make()[0] == 0 and clone.steps() == STEPS
    pins = clone.root / "requirements-cpu.in"
    pins.write_text(re.sub("^torch==", "torch==1", pins.read_text(), flags=re.M))
    assert clone.make()[0] == 0 and clone.steps() == STEPS


def test_an_environment_that_finds_no_packages_is_made_again(clone):
    assert clone.make()[0] == 0 and clone.steps() == STEPS
    shutil.rmtree(clone.root / ".venv" / "bin")
    venv.create(
        clone.root / ".venv", with_pip=False
    )  # as after another Python's upgrade
    assert clone.make()[0] == 0 and clone.steps() == STEPS


@pytest.mark.parametrize("step", STEPS)
def test_what_was_killed_is_made_again(clone, step):
    assert clone.make(KILLED=step)[0] == -signal.SIGKILL
    clone.steps()
    assert clone.make()[0] == 0 and clone.steps() == STEPS


@pytest.mark.parametrize("step", STEPS)
def test_what_failed_is_said_and_made_again(clone, step):
    code, said = clone.make(FAILS=step)
    assert code == 1 and "no space left" in said and "Set-up stopped: " in said
    clone.steps()
    assert clone.make()[0] == 0 and clone.steps() == STEPS


def test_an_interruption_is_said(clone):
    process = clone.start(WAITS="packages")
    clone.wait_for("packages", process)
    process.terminate()
    (clone.root / "go").touch()
    assert process.wait() == 1 and "interrupted" in process.communicate()[1]
    clone.steps()
    assert clone.make()[0] == 0 and clone.steps() == STEPS


def test_a_second_set_up_waits_for_the_first(clone):
    first = clone.start(WAITS="torch")
    clone.wait_for("torch", first)
    second = clone.start()
    assert "waiting" in second.stdout.readline()
    (clone.root / "go").touch()
    assert first.wait() == second.wait() == 0
    assert clone.steps() == STEPS


@pytest.mark.parametrize("version", ["(2, 7)", "(3, 10)", "(3, 15)", "(4, 0)"])
def test_other_pythons_are_refused(clone, version):
    assert clone.refuses("3.11 to 3.14", PRETENDED=f"sys.version_info = {version}")


@pytest.mark.parametrize("version", ["(3, 11)", "(3, 14)"])
def test_known_pythons_are_accepted(clone, version):
    assert clone.make(PRETENDED=f"sys.version_info = {version}")[0] == 0


def test_a_free_threaded_python_is_refused(clone):
    pretended = "sysconfig.get_config_var = {'Py_GIL_DISABLED': 1}.get"
    assert clone.refuses("free-threaded", PRETENDED=pretended)


@pytest.mark.parametrize("libc", [("glibc", "2.17"), ("musl", "1.2.5"), ("", "")])
def test_systems_without_wheels_are_refused(clone, libc):
    assert clone.refuses("glibc", PRETENDED=f"platform.libc_ver = lambda: {libc}")


def test_without_venv_or_any_python_nothing_is_made(clone):
    assert clone.refuses("venv", PRETENDED="sys.modules['ensurepip'] = None")
    assert clone.refuses("python9", PYTHON="python9")


def test_without_a_compiler_nothing_is_made(clone):
    for name in ("awk", "cat", "df", "dirname", "sed", "sha256sum"):
        (clone.bin / name).symlink_to(shutil.which(name))
    assert clone.refuses("compiler", PATH=str(clone.bin))


def test_without_room_nothing_is_made(clone):
    clone.program(
        "df", "#!/bin/sh\necho head; echo disk 9999999 5000000 4999999 50% /\n"
    )
    assert clone.refuses("6 GB")


def test_a_mirror_that_pip_knows_serves_uv_too(clone):
    assert clone.make(MIRROR="https://mirror/simple")[0] == 0
    assert "packages https://mirror/simple\n" in (clone.root / "calls").read_text()
    shutil.rmtree(clone.root / ".venv")
    clone.make(MIRROR="https://mirror/simple", UV_DEFAULT_INDEX="https://own")
    assert "packages https://own\n" in (clone.root / "calls").read_text()


def test_pip_itself_without_an_index(clone):
    """The one test here in which a real environment is begun."""
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    code, said = clone.make(PYTHON=sys.executable, **offline)
    assert code == 1 and "No matching distribution" in said
    assert "Set-up stopped: torch could not be installed" in said
    assert not (clone.root / ".venv" / "course-stamp").exists()


# --- Without make ---------------------------------------------------------------------


def readme(word: str) -> list[str]:
    """The lines of the README's commands that contain `word`."""
    blocks = re.findall("```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    return [line for line in "".join(blocks).splitlines() if word in line]


def resolve(line: str, *options: str) -> str:
    """What a line `pip install ...` of the README would install here."""
    _, _, what = line.partition("pip install ")
    uv = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", *options]
    run = subprocess.run([*uv, *what.split()], cwd=ROOT, capture_output=True, text=True)
    if "error sending request" in run.stderr:
        pytest.skip("the package index is out of reach")
    assert run.returncode == 0, run.stderr
    return run.stderr


def test_the_way_without_make(tmp_path):
    make_venv, torch, rest, lab = readme("~/grpo-env")
    home = os.environ | {"HOME": str(tmp_path), "PIP_RETRIES": "0"}
    make_venv = make_venv.replace("python3", sys.executable)
    torch = torch.replace("pip install", "pip install --dry-run")
    for line in (make_venv, torch):
        run = subprocess.run(line, shell=True, env=home, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    assert f"torch-{versions.pins('cpu')['torch']}+cpu" in run.stdout
    said = resolve(rest, f"--python={tmp_path}/grpo-env/bin/python")
    pins = versions.pins("cpu")
    del pins["torch"]
    assert all(f" + {name}=={version}\n" in said for name, version in pins.items())
    assert " + jupyterlab==" in said and "jupyter lab" in lab


def test_the_pins_of_the_gpu_resolve(tmp_path):
    (line,) = readme("-r requirements.txt")
    said = resolve(line, f"--target={tmp_path}", "--python-version=3.12")
    for name in ("torch", "vllm", "unsloth", "trl"):
        assert f" + {name}=={versions.pins('gpu')[name]}\n" in said


def test_every_pin_has_hashes():
    for file in versions.FILES.values():
        entries = re.findall(r"^\w.*(?:\n .*)*", (ROOT / file).read_text(), re.M)
        assert len(entries) > 100
        assert all(re.search(r"^[\w.-]+==.*--hash=sha256:", e, re.S) for e in entries)


# --- In public ------------------------------------------------------------------------


def test_the_public_ci_runs_the_readmes_command_and_may_do_nothing_else():
    text = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert job["timeout-minutes"] <= 60
    *actions, last = job["steps"]
    assert last["run"] == "make test" and readme("make test")
    for action in actions:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action["uses"])
