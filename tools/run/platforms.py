"""Prepare a session on Colab or Kaggle: the set-up cell of each notebook runs this.

It runs before anything is installed. So it needs the standard library, `versions`, and
packaging, which every Jupyter kernel brings along.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from itertools import chain

from packaging.utils import canonicalize_name

from grpo_course.ground import versions
from grpo_course.ground.versions import FILES, OLDEST_DRIVER, REPO

PYTHONS = {"gpu": (12, 14), "platform": (12, 14), "cpu": (11, 14)}  # 3.12 to 3.14, ...
CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
OLDEST_GPU = 7.5  # its compute capability: a T4 is the oldest that our torch knows
OF_ONE_TORCH = {"torchvision", "torchaudio", "torchcodec", "xformers", "flash-attn"}
PROFILE_WITHOUT_VLLM = "t4-plain"
RESTART = "GRPO_COURSE_RESTART"  # set in a kernel that goes on with old modules


def set_up() -> None:
    """Prepare a session on Colab or Kaggle; say what was done, and when to restart.

    Ends in SystemExit, with one sentence, where the session cannot run the course or
    has to be restarted. Run again, it finds everything done.
    """
    on_kaggle = "KAGGLE_KERNEL_RUN_TYPE" in os.environ
    devices = versions.gpus()
    which, why = _choose(devices)
    python, (oldest, newest) = sys.version_info[1], PYTHONS[which]
    if not oldest <= python <= newest:
        known = f"{FILES[which]} is for 3.{oldest} to 3.{newest}"
        sys.exit(f"This session has Python 3.{python}, {known}: choose another one.")
    print(f"{why} The pins are {FILES[which]}.")
    if which == "cpu" and devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif len(devices) > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
        print(f"Of the {len(devices)} GPUs here the course uses one, the first.")
    if which == "platform":
        os.environ.setdefault("COURSE_PROFILE", PROFILE_WITHOUT_VLLM)
    _install(which)
    if "COURSE_HOME" not in os.environ:
        os.environ["COURSE_HOME"] = _kaggle_home() if on_kaggle else _colab_home()
    print(f"Everything that the course makes goes to {os.environ['COURSE_HOME']}")
    for name in ("HF_TOKEN", "SWANLAB_API_KEY"):
        if name not in os.environ and (secret := _secret(name, on_kaggle)):
            os.environ[name] = secret
            print(f"{name} was found among the secrets of this platform.")


def _choose(devices: list[tuple[str, int, float]]) -> tuple[str, str]:
    """Which of the pins this session gets, and the sentence that says why."""
    tiny = "the course trains its tiny model on the CPU"
    if not devices:
        return "cpu", f"No GPU: {tiny}."
    name, driver, capability = devices[0]
    if capability < OLDEST_GPU:
        return "cpu", f"{name} is older than a T4, the oldest that we use: {tiny}."
    if driver >= OLDEST_DRIVER:
        return "gpu", f"{name}, driver {driver}: vLLM generates."
    old = f"{name}, driver {driver}, and vLLM's torch needs {OLDEST_DRIVER}:"
    if "torch" not in versions.differences("platform") and _torch_computes():
        kept = versions.installed()["torch"]
        return "platform", f"{old} torch {kept} stays, and transformers generates."
    return "cpu", f"{old} the torch that is here cannot use it either, so {tiny}."


def _torch_computes() -> bool:
    """Does the installed torch know this GPU and its driver? One sum tells."""
    code = "import torch; torch.ones(2, device='cuda').sum().item()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True)
    return run.returncode == 0


def _install(which: str) -> None:
    """Install what differs from the pins; SystemExit if the session has to restart."""
    if RESTART in os.environ:
        sys.exit(f"First restart the session, because of {os.environ[RESTART]}.")
    before, entries = versions.installed(), versions.entries(which)
    wrong = versions.differences(which)
    if which == "cpu" and "torch" in wrong:  # its CPU build is on an index of its own
        del wrong["torch"]
        torch = f"torch=={versions.pins(which)['torch']}+cpu"
        print("Installing torch, the CPU build.", flush=True)
        _pip("install", "--no-deps", torch, "--extra-index-url", CPU_TORCH_INDEX)
    if wrong:
        time = "some minutes, up to 8 GB" if which == "gpu" else "a few minutes"
        print(f"Installing {len(wrong)} packages: {time}.", flush=True)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(entries[name] for name in wrong) + "\n")
            file.flush()
            # by force: to pip, 2.11.0+cu128 is a 2.11.0 like any other
            _pip("install", "--no-deps", "--force-reinstall", "-r", file.name)
    if which != "platform" and (old := OF_ONE_TORCH & before.keys() - entries.keys()):
        _pip("uninstall", "--yes", *sorted(old))  # made for the torch that was here
    importlib.invalidate_caches()
    if not (stale := ", ".join(_loaded_and_changed(before))):
        return
    if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Batch":  # nobody can restart it
        print(f"Loaded before this cell, in other versions: {stale}.")
        return
    os.environ[RESTART] = stale
    sys.exit(
        f"Installed. Now restart the session, because {stale} had been loaded "
        "before, and run all cells again: this one then goes on from here."
    )


def _pip(*what: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *what]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        said = (run.stderr.strip() or "nothing").splitlines()[-1]
        sys.exit(f"The packages could not be installed. pip said: {said}")


def _loaded_and_changed(before: dict[str, str]) -> list[str]:
    """The loaded modules whose package has another version than `before`."""
    now = versions.installed()
    changed = {name for name, old in before.items() if now.get(name, old) != old}
    owners = importlib.metadata.packages_distributions() if changed else {}
    loaded = {name.partition(".")[0] for name in sys.modules} & owners.keys()
    return sorted(n for n in loaded if changed & set(map(canonicalize_name, owners[n])))


def _colab_home() -> str:
    """A folder on the reader's Drive, if they agree; else one that ends with the VM."""
    mine = REPO.parent / "drive" / "MyDrive"
    if not mine.is_dir():
        print(
            "Colab now asks for access to your Google Drive. With it, what the course "
            "makes outlives this session and reaches the next notebook. You may refuse."
        )
        with suppress(Exception):  # refused, or nobody there to ask
            from google.colab import drive

            drive.mount(str(mine.parent))
    if mine.is_dir():
        return str(mine / "grpo-course")
    print("Without Drive: what the course makes ends with this session.")
    return str(REPO.parent / "course-home")


def _kaggle_home() -> str:
    """/kaggle/working/course-home, with the stages of notebooks added as input."""
    home = REPO.parent / "course-home"
    inputs = REPO.parent.parent / "input"
    found = (inputs.glob(f"{'*/' * n}course-home/stages/[!.]*") for n in (1, 2, 3))
    for theirs in chain.from_iterable(map(sorted, found)):
        mine = home / "stages" / theirs.name
        if theirs.is_dir() and not mine.exists():
            shutil.copytree(theirs, mine)
            print(f"The stage {mine.name} comes from {theirs.relative_to(inputs)}")
        elif theirs.suffix == ".json" and not mine.exists():  # what was measured of it
            shutil.copy(theirs, mine)
    return str(home)


def _secret(name: str, on_kaggle: bool) -> str | None:
    with suppress(Exception):  # no such secret, no access, nobody there to ask
        if on_kaggle:
            from kaggle_secrets import UserSecretsClient

            return UserSecretsClient().get_secret(name)
        from google.colab import userdata

        return userdata.get(name)
    return None
