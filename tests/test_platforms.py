"""Pins, mirrors, and the set-up cell in imitations of Colab and Kaggle."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import venv
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import nbformat
import packaging
import pytest
import yaml

from grpo_course.ground import versions
from grpo_course.ground.profile import PROFILES
from tools.run import check_notebooks, nbtools, platforms, runner, write_setup_cells

ROOT = nbtools.ROOT
SECRET = "hf_not_a_real_one"
T4 = "Tesla T4, 580.82.07, 7.5"
OLD_T4 = "Tesla T4, 550.54.15, 7.5"  # its driver is of CUDA 12.4
FILES = ("pyproject.toml", *versions.FILES.values())
FILES += tuple(file.replace(".txt", ".in") for file in versions.FILES.values())
FILES += ("tools/run/platforms.py", "notebooks/grpo_course/__init__.py")
FILES += tuple(f"notebooks/grpo_course/ground/{n}.py" for n in ("__init__", "versions"))

# Stands in for pip: notes how it was called, and writes what an installation leaves.
PIP = """
import os, re, shutil, sys
from pathlib import Path
with open(os.environ["PIP_LOG"], "a") as log:
    print(*sys.argv[1:], file=log)
if "PIP_FAILS" in os.environ:
    sys.exit("ERROR: no space left")
arguments, wanted = sys.argv[1:], []
for argument in arguments:
    if re.match(r"[a-z0-9-]+==", argument):
        wanted.append(argument)
if "-r" in arguments:
    text = Path(arguments[arguments.index("-r") + 1]).read_text()
    wanted += re.findall(r"^([\\w.-]+==[\\w.]+)", text, re.MULTILINE)
site = Path(__file__).parents[1]
if "uninstall" in arguments:
    assert "--yes" in arguments
    wanted = [f"{name}==" for name in arguments[arguments.index("--yes") + 1 :]]
for entry in wanted:
    name, version = entry.split("==")
    found = [old.name for old in site.glob(f"{name}-[0-9]*.dist-info")]
    same = f"{name}-{version}.dist-info", f"{name}-{version}+"
    if found and found[0].startswith(same) and "--force-reinstall" not in arguments:
        continue  # "Requirement already satisfied"
    for old in found:
        shutil.rmtree(site / old)
        if (module := site / f"{name}.py").exists():
            module.write_text("")
    if not version:
        continue
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Name: {name}\\nVersion: {version}\\n")
    (folder / "top_level.txt").write_text(name)
"""
COLAB = """
import os
from pathlib import Path
class drive:
    def mount(place):
        if "DRIVE_REFUSED" in os.environ:
            raise ValueError("mount failed")
        (Path(place) / "MyDrive").mkdir(parents=True)
class userdata:
    def get(name):
        return {"HF_TOKEN": os.environ["THE_SECRET"]}[name]
"""
KAGGLE = """
import os
class UserSecretsClient:
    def get_secret(self, name):
        return {"SWANLAB_API_KEY": os.environ["THE_SECRET"]}[name]
"""
# Stands in for torch: it computes if the driver is new enough for its CUDA.
TORCH = """
import re, subprocess
class ones:
    def __init__(self, *shape, device):
        said = subprocess.check_output(["nvidia-smi"], text=True)
        if int(re.search(r", (\\d+)", said)[1]) < NEEDED:
            raise RuntimeError("The NVIDIA driver on your system is too old")
    def sum(self):
        return self
    def item(self):
        return 2.0
"""
# What Python says of its own version: the tests run on any that the course knows.
PYTHON = """
import os, platform, sys
if pretended := os.environ.get("PRETENDED"):
    import packaging.requirements  # itself written for the real version
    sys.version_info = (*map(int, pretended.split(".")), "final", 0)
    platform.python_version = lambda: pretended
"""
SHOW = """
import json
from grpo_course.ground import versions
names = ["COURSE_HOME", "CUDA_VISIBLE_DEVICES", "HF_TOKEN", "SWANLAB_API_KEY"]
names += ["COURSE_PROFILE"]
shown = {name: os.environ[name] for name in names if name in os.environ}
shown |= {"cwd": os.getcwd(), "path": sys.path[0], "check": versions.check()}
print("\\n" + json.dumps(shown))
"""


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", folder]
    return subprocess.check_output([*command, *arguments], text=True).strip()


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    """A bare repository with a tag v1.0, and a commit after it that has no course."""
    work = tmp_path_factory.mktemp("work")
    for name in FILES:
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, work / name)
    git(work, "init", "-q")
    git(work, "add", ".")
    git(work, "commit", "-q", "-m", "one")
    git(work, "tag", "v1.0")
    git(work, "rm", "-q", "-r", "notebooks")
    git(work, "commit", "-q", "-m", "two")
    bare = tmp_path_factory.mktemp("origin") / "course.git"
    subprocess.run(["git", "clone", "-q", "--bare", work, bare], check=True)
    return bare


class Session:
    """A machine of Colab or Kaggle in a folder: Python, pip, GPUs and disks."""

    def __init__(self, place: Path, start: str, origin: Path) -> None:
        self.root, self.start = place / "root", place / "root" / start
        self.start.mkdir(parents=True)
        self.source = {"repository": str(origin), "reference": "v1.0"}
        venv.create(place / "env", with_pip=False)
        self.python = place / "env" / "bin" / "python"
        (self.site,) = (place / "env").glob("lib/python*/site-packages")
        self.log = place / "pip.log"
        self.write("pip/__main__.py", PIP)
        self.write("sitecustomize.py", PYTHON)
        # ipykernel asks for packaging, so every notebook's Python has some version
        shutil.copytree(Path(packaging.__file__).parent, self.site / "packaging")
        self.bin = place / "bin"
        self.bin.mkdir()
        self.gpus()
        self.environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "HOME": str(place),
            "PIP_LOG": str(self.log),
            "THE_SECRET": SECRET,
        }

    def write(self, name: str, text: str) -> None:
        path = self.site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def gpus(self, *rows: str) -> None:
        """What nvidia-smi knows; with none it fails, as without a driver."""
        program = self.bin / "nvidia-smi"
        lines = "\n".join(f"echo '{row}'" for row in rows) or "echo no driver; exit 9"
        program.write_text(f"#!/bin/sh\n{lines}\n")
        program.chmod(0o755)

    def package(self, name: str, version: str, code: str = "") -> None:
        """Have a package of one module, as the platform's image has many."""
        self.write(f"{name}.py", code)
        info = f"{name}-{version}.dist-info"
        self.write(f"{info}/METADATA", f"Name: {name}\nVersion: {version}\n")
        self.write(f"{info}/top_level.txt", name)

    def torch(self, version: str, needs: int = 525) -> None:
        """Have this torch, which needs such a driver, and what was built for it."""
        self.package("torch", version, f"NEEDED = {needs}{TORCH}")
        build = version.partition("+")[2]
        self.package("torchvision", f"0.26.0+{build}")
        self.package("torchcodec", "0.10.0")

    def versions(self) -> dict[str, str]:
        """The installed packages."""
        names = (path.name for path in self.site.glob("*.dist-info"))
        pairs = (name.removesuffix(".dist-info").rsplit("-", 1) for name in names)
        return dict(pairs)

    def run(self, before="", after=SHOW, **environment) -> subprocess.CompletedProcess:
        """Run the set-up cell in a new process that begins where a kernel does."""
        cell = write_setup_cells.CODE.format(**self.source)
        return subprocess.run(
            [self.python, "-c", f"{before}\n{cell}\n{after}"],
            cwd=self.start,
            env=self.environment | environment,
            capture_output=True,
            text=True,
        )

    def pip_calls(self) -> list[str]:
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return calls


@pytest.fixture
def colab(tmp_path, origin) -> Session:
    session = Session(tmp_path, "content", origin)
    session.write("google/colab/__init__.py", COLAB)
    session.environment["COLAB_RELEASE_TAG"] = "release-colab_20261101"
    return session


@pytest.fixture
def kaggle(tmp_path, origin) -> Session:
    session = Session(tmp_path, "kaggle/working", origin)
    session.write("kaggle_secrets.py", KAGGLE)
    session.environment["KAGGLE_KERNEL_RUN_TYPE"] = "Interactive"
    session.environment["PRETENDED"] = "3.12.3"  # the GPU's pins begin there
    session.gpus(T4, T4)
    return session


def shown(run: subprocess.CompletedProcess) -> dict[str, str]:
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def test_elsewhere_the_cell_does_nothing(colab):
    del colab.environment["COLAB_RELEASE_TAG"]
    state = "dict(os.environ), os.getcwd(), list(sys.path), sorted(os.listdir())"
    before = f"import os, sys; before = {state}"
    run = colab.run(before, f"assert before == ({state})")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert not colab.pip_calls()


def test_colab_without_a_gpu(colab):
    run = colab.run()
    state = shown(run)
    clone = colab.start / "grpo-course"
    assert state["cwd"] == state["path"] == str(clone / "notebooks")
    assert state["COURSE_HOME"] == str(colab.start / "drive/MyDrive/grpo-course")
    assert state["HF_TOKEN"] == SECRET and "SWANLAB_API_KEY" not in state
    assert SECRET not in run.stdout.rpartition("\n{")[0] + run.stderr
    torch, rest = colab.pip_calls()
    assert "+cpu" in torch and platforms.CPU_TORCH_INDEX in torch
    assert all("--no-deps" in call for call in (torch, rest))
    assert colab.versions()["torch"].endswith("+cpu")
    assert colab.versions()["unsloth"] == versions.pins("cpu")["unsloth"]
    assert "vllm" not in colab.versions()
    assert shown(colab.run()) == state
    assert not colab.pip_calls()


def test_colab_with_an_a100_gets_the_gpu_pins(colab):
    pins = versions.pins("gpu")
    colab.gpus("NVIDIA A100-SXM4-80GB, 580.82.07, 8.0")
    colab.torch(pins["torch"] + "+cu128")  # the pinned version, for another CUDA
    run = colab.run(PRETENDED="3.12.3")
    assert versions.FILES["gpu"] in shown(run)["check"]
    assert "COURSE_PROFILE" not in shown(run)
    install, uninstall = colab.pip_calls()
    assert "--extra-index-url" not in install and "torchcodec" in uninstall
    for name in ("torch", "torchvision", "vllm", "unsloth"):
        assert colab.versions()[name] == pins[name]
    assert "torchcodec" not in colab.versions()
    shown(colab.run(PRETENDED="3.12.3"))
    assert not colab.pip_calls()


def test_an_older_driver_keeps_the_torch_of_the_platform(colab):
    colab.gpus(OLD_T4)
    colab.torch("2.10.0+cu128")
    run = colab.run(PRETENDED="3.12.3")
    state = shown(run)
    (sentence,) = (line for line in run.stdout.splitlines() if "driver 550" in line)
    assert "2.10.0+cu128 stays" in sentence
    assert state["COURSE_PROFILE"] == "t4-plain" and "CUDA_VISIBLE_DEVICES" not in state
    assert not PROFILES["t4-plain"].fast_inference
    assert PROFILES["t4-plain"].dtype == "float16"  # a T4 has no bfloat16
    file = versions.FILES["platform"]
    assert file in sentence and file in state["check"]
    assert "2.10.0+cu128" in state["check"] and "without vLLM" in state["check"]
    (call,) = colab.pip_calls()
    assert "--no-deps" in call and "--extra-index-url" not in call
    found = colab.versions()
    assert found["torch"] == "2.10.0+cu128" and found["torchvision"] == "0.26.0+cu128"
    assert found["torchcodec"] == "0.10.0" and "vllm" not in found
    for name in ("unsloth", "unsloth-zoo", "transformers", "trl", "bitsandbytes"):
        assert found[name] == versions.pins("gpu")[name]
    assert shown(colab.run(PRETENDED="3.12.3")) == state
    assert not colab.pip_calls()
    state = shown(colab.run(PRETENDED="3.12.3", COURSE_PROFILE="gpu-tiny"))
    assert state["COURSE_PROFILE"] == "gpu-tiny"


@pytest.mark.parametrize(
    ("gpu", "torch"),
    [
        ("Tesla P100-PCIE-16GB, 580.82.07, 6.0", "2.10.0+cu128"),
        ("Tesla T4, 470.82.01, 7.5", "2.10.0+cu128"),  # too old for CUDA 12 as well
        (OLD_T4, "2.5.1+cu124"),  # too old a torch
        (OLD_T4, None),
    ],
)
def test_where_no_torch_fits_the_gpu_the_cpu_trains_the_tiny_model(colab, gpu, torch):
    colab.gpus(gpu)
    if torch:
        colab.torch(torch)
    run = colab.run(PRETENDED="3.12.3")
    state = shown(run)
    (sentence,) = (line for line in run.stdout.splitlines() if "tiny model" in line)
    assert sentence.startswith(gpu.partition(",")[0])
    assert versions.FILES["cpu"] in sentence and versions.FILES["cpu"] in state["check"]
    assert state["CUDA_VISIBLE_DEVICES"] == "" and "COURSE_PROFILE" not in state
    assert colab.versions()["torch"] == versions.pins("cpu")["torch"] + "+cpu"
    assert not {"vllm", "torchvision", "torchcodec"} & colab.versions().keys()
    colab.pip_calls()
    assert shown(colab.run(PRETENDED="3.12.3")) == state
    assert not colab.pip_calls()


def test_drive_may_be_refused(colab):
    state = shown(colab.run(DRIVE_REFUSED="1"))
    assert state["COURSE_HOME"] == str(colab.start / "course-home")


def test_a_chosen_home_and_key_are_kept(colab):
    state = shown(colab.run(COURSE_HOME="/mine", HF_TOKEN="my own"))
    assert (state["COURSE_HOME"], state["HF_TOKEN"]) == ("/mine", "my own")
    assert not (colab.start / "drive").exists()


def test_kaggle_uses_one_of_two_gpus_and_finds_earlier_stages(kaggle):
    stages = kaggle.root / "kaggle/input/notebooks/me/nb-01/course-home/stages"
    for name in ("base-0123456789ab", "template-0123456789ab"):
        (stages / name).mkdir(parents=True)
        (stages / name / "manifest.json").write_text("theirs")
        (stages / f"{name}.metrics.json").write_text("theirs")
    (stages / ".template.new").mkdir()
    mine = kaggle.start / "course-home/stages/base-0123456789ab"
    mine.mkdir(parents=True)
    (mine / "manifest.json").write_text("mine")
    state = shown(kaggle.run())
    assert state["CUDA_VISIBLE_DEVICES"] == "0"
    assert state["COURSE_HOME"] == str(kaggle.start / "course-home")
    assert state["SWANLAB_API_KEY"] == SECRET
    assert (mine / "manifest.json").read_text() == "mine"
    template = mine.with_name("template-0123456789ab")
    assert (template / "manifest.json").read_text() == "theirs"
    assert template.with_name(f"{template.name}.metrics.json").read_text() == "theirs"
    assert not (mine.parent / ".template.new").exists()
    assert kaggle.versions()["vllm"] == versions.pins("gpu")["vllm"]


def test_what_was_loaded_before_asks_for_a_restart(colab):
    colab.package("pandas", "2.2.2")
    code = write_setup_cells.CODE.format(**colab.source)
    cell = f"exec({code!r}, {{}})"
    twice = f"""
import pandas
for attempt in ("first", "second"):
    try:
        {cell}
    except SystemExit as stop:
        print(attempt, "stop:", stop)
"""
    run = colab.run(twice, "")
    stops = [line for line in run.stdout.splitlines() if "stop:" in line]
    assert len(stops) == 2 and all("pandas" in line for line in stops)
    assert colab.versions()["pandas"] == versions.pins("cpu")["pandas"]
    assert len(colab.pip_calls()) == 2
    shown(colab.run("import pandas"))
    assert not colab.pip_calls()


def test_a_run_that_nobody_can_restart_goes_on(kaggle):
    kaggle.package("pandas", "2.2.2")
    assert shown(kaggle.run("import pandas", KAGGLE_KERNEL_RUN_TYPE="Batch"))


def test_the_kernel_of_the_platform_is_left_alone(colab):
    colab.package("ipykernel", "6.17.1")
    shown(colab.run("import ipykernel"))
    assert colab.versions()["ipykernel"] == "6.17.1"
    assert "jupyterlab" not in colab.versions()


@pytest.mark.parametrize(
    ("gpu", "python"),
    [
        (T4, "3.11.9"),
        (T4, "3.15.0"),
    ],
)
def test_a_session_that_cannot_run_the_course_is_refused(colab, gpu, python):
    colab.gpus(gpu)
    run = colab.run(PRETENDED=python)
    assert run.returncode == 1 and len(run.stderr.splitlines()) == 1
    assert not colab.pip_calls()


def test_a_repository_out_of_reach_is_one_sentence_at_the_end(colab):
    colab.source["repository"] = str(colab.root / "nowhere")
    run = colab.run()
    assert run.returncode == 1 and "nowhere" in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr


def test_what_pip_said_is_shown(colab):
    run = colab.run(PIP_FAILS="1")
    assert run.returncode == 1 and "no space left" in run.stderr
    assert "Traceback" not in run.stderr


def test_the_reference_may_be_a_commit(colab, origin):
    colab.source["reference"] = git(origin, "rev-parse", "v1.0")
    shown(colab.run())
    clone = colab.start / "grpo-course"
    assert git(clone, "rev-parse", "HEAD") == colab.source["reference"]


# --- The tool that writes the cells ---------------------------------------------------


@pytest.fixture(scope="module")
def executed(tmp_path_factory) -> Path:
    """A repository of three notebooks: two lessons and a solution."""
    place = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "pyproject.toml", place)
    readme = "# Course\n\n<!-- badges:start -->\n<!-- badges:end -->\nEnd.\n"
    (place / "README.md").write_text(readme)
    title, prose = (nbformat.v4.new_markdown_cell(text) for text in ("# T", "Prose."))
    code = nbformat.v4.new_code_cell("print(1 + 1)")
    path = place / "notebooks" / "01_one.ipynb"
    nbtools.write(nbformat.v4.new_notebook(cells=[title, prose, code]), path)
    environment = runner.kernel_environment(place / "home", offline=True)
    notebook = runner.execute(path, place / "copy.ipynb", environment)
    nbtools.clean(notebook)
    nbtools.write(notebook, path)
    nbtools.write(notebook, path.parent / "solutions" / path.name)
    nbtools.write(notebook, path.parent / "02_two.ipynb")
    return place


@pytest.fixture
def project(executed, tmp_path) -> Path:
    return shutil.copytree(executed, tmp_path / "project")


def make_badges(root: Path) -> int:
    """Write what `make badges` would write; how many files that were."""
    changes = list(write_setup_cells.changes(root))
    for path, text in changes:
        path.write_text(text)
    return len(changes)


def test_badges_and_cells_leave_outputs_and_digest_alone(project):
    paths = sorted((project / "notebooks").rglob("*.ipynb"))
    lessons = [nbtools.code_cells(nbtools.read(path)) for path in paths]
    assert make_badges(project) == len(paths) + 1
    assert make_badges(project) == 0
    for path, lesson in zip(paths, lessons, strict=True):
        assert check_notebooks.problems(path) == []
        notebook = nbtools.read(path)
        kept = [(c.source, c.outputs, c.execution_count) for c in lesson]
        now = nbtools.code_cells(notebook)
        assert [(c.source, c.outputs, c.execution_count) for c in now] == kept
        ids = [cell["id"] for cell in notebook.cells]
        assert len(set(ids)) == len(ids) and set(ids) >= {c["id"] for c in lesson}
        assert notebook.cells[0].source == "# T"
    readme = (project / "README.md").read_text()
    assert "notebooks/02_two.ipynb" in readme and "solutions" not in readme
    assert readme.startswith("# Course\n") and readme.endswith("\nEnd.\n")


def test_publishing_is_a_change_of_the_address(project):
    make_badges(project)
    path = project / "pyproject.toml"
    old = write_setup_cells.address(project)["repository"]
    path.write_text(path.read_text().replace(old, "https://github.com/me/course"))
    assert make_badges(project) == 4
    for file in (*(project / "notebooks").rglob("*.ipynb"), project / "README.md"):
        text = file.read_text()
        assert old not in text and "github.com/me/course" in text


def test_a_release_needs_an_address_of_its_own(project):
    command = ["make", "-f", ROOT / "Makefile", "-o", "env", "-o", "check"]
    command += ["release-check"]
    refused = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert refused.returncode and "run `make badges`" in refused.stdout
    path = project / "pyproject.toml"
    path.write_text(path.read_text().replace("/OWNER/", "/me/"))
    subprocess.run(command, cwd=project, check=True)


def test_a_set_up_cell_is_not_executed_here_and_a_changed_one_is_found(project):
    make_badges(project)
    path = project / "notebooks" / "01_one.ipynb"
    notebook = nbtools.read(path)
    notebook.cells[2].source = "open('was-run', 'w')"
    nbtools.write(notebook, path)
    assert [file for file, _ in write_setup_cells.changes(project)] == [path]
    environment = runner.kernel_environment(project / "home", offline=True)
    runner.execute(path, project / "copy.ipynb", environment)
    assert not (path.parent / "was-run").exists()
    assert nbtools.read(project / "copy.ipynb").cells[4].outputs[0].text == "2\n"


def test_a_readme_without_a_place_for_badges_is_refused(project):
    (project / "README.md").write_text("# Course\n")
    with pytest.raises(ValueError, match="badges:start"):
        make_badges(project)


# --- Pins -----------------------------------------------------------------------------


@pytest.fixture
def packages(monkeypatch):
    """Pretend that these packages and GPUs are there: call with them."""

    def pretend(which: str, gpus=(), **changes: str) -> None:
        found = versions.pins(which) | changes
        found = {name: version for name, version in found.items() if version}
        monkeypatch.setattr(versions, "installed", lambda: found)
        monkeypatch.setattr(versions, "gpus", lambda: list(gpus))

    return pretend


A100 = ("NVIDIA A100-SXM4-80GB", 580, 8.0)
OLD = ("Tesla T4", 550, 7.5)


def test_the_right_packages_pass(packages):
    packages("cpu", torch=versions.pins("cpu")["torch"] + "+cpu")
    assert versions.differences("cpu") == {}
    assert versions.check()
    packages("gpu", [A100], torch=versions.pins("gpu")["torch"] + "+cu130")
    assert versions.differences("gpu") == {}
    assert versions.table().same.all()


@pytest.mark.parametrize(
    "torch", ["2.13.0", "2.11.1+cu130", "2.11.0+cu128", "2.13.0+cpu", ""]
)
def test_a_wrong_torch_is_refused_on_a_gpu(packages, torch):
    packages("gpu", [A100], torch=torch)
    with pytest.raises(versions.VersionError) as caught:
        versions.check()
    assert versions.pins("gpu")["torch"] in str(caught.value)


def test_other_packages_are_named_and_not_refused(packages):
    packages("gpu", [A100], trl="1.16.0", peft="", numba="0.66.0", ipykernel="1.0")
    wrong = {"trl": "1.16.0", "peft": "", "numba": "0.66.0"}
    assert versions.differences("gpu") == wrong
    said = versions.check()
    assert all(name in said for name in ("trl", "peft", "numba"))
    same = versions.table().same
    assert not same["trl"] and not same["peft"] and same["torch"]


def test_which_pins_belong_to_an_environment(packages):
    packages("cpu", [A100], torch="2.13.0+cpu")  # the CPU course beside a GPU
    assert versions.tier() == "cpu"
    packages("cpu", [A100], torch="2.13.0")  # a CUDA build, without vLLM
    assert versions.tier() == "gpu"
    packages("gpu")  # its GPU hidden, or gone
    assert versions.tier() == "gpu"
    packages("platform", [OLD], torch="2.11.0+cu128")
    assert versions.tier() == "platform"
    packages("cpu")
    assert versions.tier() == "cpu"


def test_hidden_gpus_are_none(monkeypatch, tmp_path):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho {OLD_T4}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert versions.gpus() == [("Tesla T4", 550, 7.5)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert versions.gpus() == []


@pytest.mark.parametrize("torch", ["2.5.1+cu124", ""])
def test_a_torch_too_old_to_be_kept_is_refused(packages, torch):
    packages("platform", [OLD], torch=torch)
    with pytest.raises(versions.VersionError, match="driver"):
        versions.check()


def test_beside_a_platforms_torch_the_pins_are_those_of_the_gpu():
    gpu, platform = versions.pins("gpu"), versions.pins("platform")
    assert platform.pop("torch").startswith(">=")
    assert platform.items() <= gpu.items()
    asked = set(versions.direct("platform"))
    assert asked <= set(versions.direct("gpu")) == asked | {"vllm"}
    cuda = {n for n in platform if re.match("nvidia|cuda|triton|torch|xformers", n)}
    assert cuda == {"nvidia-ml-py", "torchao"}  # in Python; works with any torch


def test_the_tiers_are_complete_and_agree():
    cpu, gpu = versions.pins("cpu"), versions.pins("gpu")
    for which in versions.FILES:
        pins = versions.pins(which)
        assert set(versions.direct(which)) <= set(pins)
        for line in (ROOT / versions.FILES[which]).with_suffix(".in").open():
            if asked := re.match(r"([\w-]+)==([\w.]+)", line):
                name = asked[1].replace("_", "-")
                assert pins.get(name, asked[2]) == asked[2]
    shared = ("unsloth", "unsloth-zoo", "transformers", "trl", "peft", "datasets")
    assert {cpu[name] for name in shared} == {gpu[name] for name in shared}
    assert all(cpu[name] == gpu[name] for name in shared)


def test_conda_takes_the_pins_of_the_gpu():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, files = environment["dependencies"]
    assert (python, pip) == ("python=3.12", "pip")
    assert files == {"pip": ["-r requirements.txt"]}


# --- Mirrors --------------------------------------------------------------------------


def test_data_is_asked_for_at_the_mirror(tmp_path):
    asked = []

    class Mirror(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Mirror)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = "from grpo_course.ground import data\n"
    code += "try:\n    data.load_rows('someone/something:train', 'grpo')\n"
    code += "except data.DataError:\n    pass"
    environment = os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(nbtools.FOLDER),
    }
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    server.shutdown()
    assert any("someone/something" in path for path in asked)
