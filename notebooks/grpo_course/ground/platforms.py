"""Are the packages the pinned ones? And what to set up on Colab and Kaggle.

Two files pin the packages: requirements.txt for a GPU, requirements-cpu.txt for none.
`check_versions()` compares them with what is installed; notebook 01 begins with it.

On Colab and Kaggle the first code cell of a notebook fetches the course and runs
`set_up()`, which installs the pins, picks one GPU, finds a place for COURSE_HOME that
outlives the session, and takes the keys from the platform's secrets. It runs this file
alone, before anything is installed: so no import here but the standard library's.
"""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

REPO = Path(__file__).resolve().parents[3]
FILES = {"gpu": "requirements.txt", "cpu": "requirements-cpu.txt"}
PYTHONS = {"gpu": ((3, 12), (3, 14)), "cpu": ((3, 11), (3, 14))}
CPU_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"

OLDEST_DRIVER = 580  # of CUDA 13.0, for which the pinned torch is built
OLDEST_GPU = 7.5  # its compute capability: a T4 is the oldest that this torch knows

# Jupyter and what a kernel runs on: any version will do, and a platform keeps its own.
KERNEL = {"comm", "debugpy", "ipykernel", "ipython", "ipython-pygments-lexers", "jedi"}
KERNEL |= {"matplotlib-inline", "parso", "pexpect", "prompt-toolkit", "ptyprocess"}
KERNEL |= {"pyzmq", "tornado", "traitlets"}
KERNEL_PREFIXES = ("jupyter", "nb", "notebook")

SECRETS = ("HF_TOKEN", "SWANLAB_API_KEY")
STAGES = "course-home/stages"  # in what an earlier Kaggle notebook has left
RESTART = "GRPO_COURSE_RESTART"  # set in a kernel that goes on with old modules


class VersionError(RuntimeError):
    """The wrong torch; the message says which one is pinned and what to do."""


# --- Pins -----------------------------------------------------------------------------


def tier() -> str:
    """Which pins this environment should follow: "gpu" or "cpu"."""
    found = installed()
    if "vllm" in found:
        return "gpu"
    return "gpu" if gpus() and "+cpu" not in found.get("torch", "") else "cpu"


def pins(tier: str) -> dict[str, str]:
    """Each pinned package, Jupyter's aside, with its version for this Python."""
    asked = re.findall(r"^[\w-]+==[\w.]+", _asked_for(tier), re.MULTILINE)
    found = {}
    for entry in [*asked, *_lock(tier)]:
        name, version = re.match(r"([\w.-]+)==([\w.]+)", entry).groups()
        if not _kernel(name := _normal(name)):
            found[name] = version
    return found


def direct(tier: str) -> list[str]:
    """The packages that the course asks for itself, Jupyter's aside."""
    names = re.findall(r"^[\w-]+", _asked_for(tier), re.MULTILINE)
    return [name for name in map(_normal, names) if not _kernel(name)]


def installed() -> dict[str, str]:
    """The version of every installed package."""
    found = {}
    for package in importlib.metadata.distributions():
        if name := package.metadata["Name"]:  # None: left behind by an uninstall
            found.setdefault(_normal(name), package.version)
    return found


def differences(tier: str) -> dict[str, str]:
    """What is not as pinned, with its installed version; "" for a missing package.

    Only packages that the course itself asks for can be missing here.
    """
    found, asked = installed(), direct(tier)
    wrong = {}
    for name, pinned in pins(tier).items():
        version = found.get(name, "")
        if not _same(version, pinned) and (version or name in asked):
            wrong[name] = version
    return wrong


def check_versions() -> str:
    """One sentence on how the installed packages compare with the pins.

    Raises VersionError for another torch: vLLM and Unsloth would fail later, and less
    clearly. Imports none of the packages.
    """
    which = tier()
    wrong, pinned = differences(which), pins(which)
    if "torch" in wrong:
        raise VersionError(
            f"torch {wrong['torch'] or '(none)'} is installed and {FILES[which]} pins "
            f"torch {pinned['torch']}: {_remedy(which)}, then restart the kernel."
        )
    if not wrong:
        return f"The packages are those of {FILES[which]}."
    asked = direct(which)
    listed = [
        f"{name} {wrong[name] or 'missing'} (pinned: {pinned[name]})"
        for name in sorted(wrong, key=lambda name: (name not in asked, name))
    ]
    more = f", and {len(listed) - 8} more" if len(listed) > 8 else ""
    return (
        f"{len(wrong)} of {len(pinned)} packages are not as {FILES[which]} pins them, "
        f"a mixture that nobody has run: {', '.join(listed[:8])}{more}."
    )


def version_table():
    """A DataFrame of the packages that the course asks for: pinned, installed, same."""
    import pandas as pd

    which = tier()
    found, pinned, wrong = installed(), pins(which), differences(which)
    rows = {
        name: (pinned[name], found.get(name, ""), name not in wrong)
        for name in direct(which)
    }
    columns = ["pinned", "installed", "same"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def gpus() -> list[tuple[str, int, float]]:
    """Name, driver (its first number) and compute capability of each NVIDIA GPU."""
    query = "--query-gpu=name,driver_version,compute_cap"
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = re.findall(r"^(.+), (\d+)[\d.]*, ([\d.]+)$", run.stdout, re.MULTILINE)
    return [(name, int(driver), float(kind)) for name, driver, kind in rows]


def _asked_for(tier: str) -> str:
    return (REPO / FILES[tier]).with_suffix(".in").read_text()


def _lock(tier: str) -> list[str]:
    """The entries of the lock for this Python: pin, marker and hashes."""
    text = (REPO / FILES[tier]).read_text()
    entries = re.findall(r"^[a-z].*(?:\n[ \t].*)*", text, re.MULTILINE)
    return [entry for entry in entries if _applies(entry)]


def _applies(entry: str) -> bool:
    match = re.search(r"python_full_version (<|>=) '([\d.]+)'", entry)
    if not match:
        return True
    version = tuple(map(int, match[2].split(".")))
    return (sys.version_info[:3] < version) == (match[1] == "<")


def _same(version: str, pinned: str) -> bool:
    return version.split("+")[0] == pinned  # +cu130, +cpu: the kind of build


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _kernel(name: str) -> bool:
    return name in KERNEL or name.startswith(KERNEL_PREFIXES)


def _remedy(which: str) -> str:
    if which == "cpu":
        return "make the environment anew as the README says (`make lab` does it)"
    file = os.path.relpath(REPO / FILES["gpu"])
    return f"run `pip install --no-deps -r {file}` in this environment"


# --- Colab and Kaggle -----------------------------------------------------------------


def set_up() -> None:
    """Prepare a session on Colab or Kaggle; say what was done, and when to restart.

    Ends in SystemExit, with one sentence, where the session cannot run the course or
    has to be restarted. Run again, it finds everything done.
    """
    on_kaggle = "KAGGLE_KERNEL_RUN_TYPE" in os.environ
    devices = gpus()
    which = "gpu" if devices else "cpu"
    _check_session(which, devices)
    if len(devices) > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
        print(f"Of the {len(devices)} GPUs here the course uses one, the first.")
    print(f"{devices[0][0] if devices else 'No GPU'}: the pins are {FILES[which]}.")
    _install(which)
    if "COURSE_HOME" not in os.environ:
        home = _kaggle_home() if on_kaggle else _colab_home()
        os.environ["COURSE_HOME"] = str(home)
    print(f"Everything that the course makes goes to {os.environ['COURSE_HOME']}")
    for name in SECRETS:
        if name not in os.environ and (secret := _secret(name, on_kaggle)):
            os.environ[name] = secret
            print(f"{name} was found among the secrets of this platform.")


def _check_session(which: str, devices: list[tuple[str, int, float]]) -> None:
    oldest, newest = PYTHONS[which]
    if not oldest <= sys.version_info[:2] <= newest:
        sys.exit(
            "This session has Python {}.{}, and {} is for {}.{} to {}.{}.".format(
                *sys.version_info[:2], FILES[which], *oldest, *newest
            )
        )
    for name, driver, capability in devices[:1]:
        tiny = "or one without a GPU, where the course trains its tiny model"
        if capability < OLDEST_GPU:
            sys.exit(
                f"The pinned torch does not know this GPU ({name}): choose a session "
                f"with a T4 or newer, {tiny}."
            )
        if driver < OLDEST_DRIVER:
            sys.exit(
                f"The pinned torch needs NVIDIA driver {OLDEST_DRIVER} or newer, and "
                f"this session has {driver}: choose another session, {tiny}."
            )


def _install(which: str) -> None:
    """Install what differs from the pins; SystemExit if the session has to restart."""
    if RESTART in os.environ:
        sys.exit(f"First restart the session, because of {os.environ[RESTART]}.")
    before = installed()
    pinned = pins(which)
    wanted = {n for n, v in pinned.items() if not _same(before.get(n, ""), v)}
    entries = [e for e in _lock(which) if _normal(e.partition("==")[0]) in wanted]
    if which == "cpu" and "torch" in wanted:  # its CPU build is on an index of its own
        print("Installing torch, the CPU build.", flush=True)
        _pip(f"torch=={pinned['torch']}+cpu", "--extra-index-url", CPU_TORCH_INDEX)
    if entries:
        time = "some minutes, up to 8 GB" if which == "gpu" else "a minute or two"
        print(f"Installing {len(entries)} packages: {time}.", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "requirements.txt"
            file.write_text("\n".join(entries) + "\n")
            _pip("-r", str(file))
    importlib.invalidate_caches()
    if stale := ", ".join(_loaded(before)):
        if os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Batch":
            print(f"Loaded before this cell, in other versions: {stale}.")
            return  # nobody is there to restart it
        os.environ[RESTART] = stale
        sys.exit(
            f"Installed. Now restart the session, because {stale} had been loaded "
            "before, and run all cells again: this one then goes on from here."
        )


def _pip(*what: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *what]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        said = [line for line in run.stderr.splitlines() if line.strip()] or ["nothing"]
        sys.exit(f"The packages could not be installed. pip said: {said[-1].strip()}")


def _loaded(before: dict[str, str]) -> list[str]:
    """The loaded modules whose package has changed since `before`."""
    now = installed()
    changed = {n for n, v in before.items() if n in now and now[n] != v}
    if not changed:
        return []
    owners = importlib.metadata.packages_distributions()
    loaded = {name.partition(".")[0] for name in sys.modules}
    return sorted(n for n in loaded if changed & set(map(_normal, owners.get(n, []))))


def _colab_home() -> Path:
    """A folder on the reader's Drive, if they agree; else one that ends with the VM."""
    content = REPO.parent
    if not (content / "drive" / "MyDrive").is_dir():
        print(
            "Colab now asks for access to your Google Drive. With it, what the course "
            "makes outlives this session and reaches the next notebook. You may refuse."
        )
        with suppress(Exception):  # refused, or nobody there to ask
            from google.colab import drive

            drive.mount(str(content / "drive"))
    if (content / "drive" / "MyDrive").is_dir():
        return content / "drive" / "MyDrive" / "grpo-course"
    print("Without Drive: what the course makes ends with this session.")
    return content / "course-home"


def _kaggle_home() -> Path:
    """/kaggle/working/course-home, with the stages of notebooks added as input."""
    home = REPO.parent / "course-home"
    inputs = REPO.parent.parent / "input"
    for depth in ("*", "*/*", "*/*/*"):
        for stage in sorted(inputs.glob(f"{depth}/{STAGES}/*")):
            mine = home / "stages" / stage.name
            if stage.is_dir() and not mine.exists():
                shutil.copytree(stage, mine)
                print(f"The stage {stage.name} comes from {stage.relative_to(inputs)}")
    return home


def _secret(name: str, on_kaggle: bool) -> str | None:
    with suppress(Exception):  # no such secret, no access, nobody there to ask
        if on_kaggle:
            from kaggle_secrets import UserSecretsClient

            return UserSecretsClient().get_secret(name)
        from google.colab import userdata

        return userdata.get(name)
    return None
