"""Are the installed packages the pinned ones? Notebook 01 begins with this.

requirements.txt pins them for a GPU, requirements-platform.txt for a GPU with an older
driver, beside the torch that is there, and requirements-cpu.txt for none: the locks of
what the .in files beside them ask for. Imports nothing that is compared.
"""

import importlib.metadata
import os
import re
import subprocess
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPO = Path(__file__).resolve().parents[3]
FILES = {
    "gpu": "requirements.txt",
    "platform": "requirements-platform.txt",  # the platform's torch, and no vLLM
    "cpu": "requirements-cpu.txt",
}
BUILDS = {"gpu": "+cu130", "platform": "", "cpu": "+cpu"}  # as some versions end
OLDEST_DRIVER = 580  # of CUDA 13.0, for which the GPU's pinned torch and vLLM are built

# Jupyter and what a kernel runs on: any version will do, and a platform keeps its own.
KERNEL = re.compile(
    r"(jupyter|nb|notebook).*|comm|debugpy|ipykernel|ipython.*|jedi|matplotlib-inline"
    r"|packaging|parso|pexpect|prompt-toolkit|ptyprocess|pyzmq|tornado|traitlets"
)


class VersionError(RuntimeError):
    """The wrong torch; the message says which one is pinned and what to do."""


def tier() -> str:
    """Which pins this environment should follow: a key of FILES."""
    found, devices = installed(), gpus()
    if devices and "+cpu" not in found.get("torch", ""):
        return "gpu" if devices[0][1] >= OLDEST_DRIVER else "platform"
    return "gpu" if "vllm" in found else "cpu"


def pins(which: str) -> dict[str, str]:
    """Each pinned package with its version, those that the course asks for first.

    For the torch that a platform keeps it is the oldest: ">=2.6".
    """
    found = {n: re.search("(==|>=)([^ ;]+)", pin) for n, pin in entries(which).items()}
    return {name: pin[0].removeprefix("==") for name, pin in found.items()}


def direct(which: str) -> list[str]:
    """The packages that the course asks for itself, Jupyter aside."""
    return list(_read((REPO / FILES[which]).with_suffix(".in")))


def installed() -> dict[str, str]:
    """The version of every installed package."""
    found = {}
    for package in importlib.metadata.distributions():
        if name := package.metadata["Name"]:  # None: left behind by an uninstall
            found.setdefault(canonicalize_name(name), package.version)
    return found


def differences(which: str) -> dict[str, str]:
    """What is not as pinned, with its installed version; "" for a missing package."""
    there, wrong = installed(), {}
    for name, pin in pins(which).items():
        found = there.get(name, "").removesuffix(BUILDS[which])
        if pin.startswith(">="):
            fine = found and Version(found) >= Version(pin.removeprefix(">="))
        else:
            fine = found == pin
        if not fine:
            wrong[name] = there.get(name, "")
    return wrong


def check() -> str:
    """One sentence on how the installed packages compare with the pins.

    Raises VersionError for another torch: vLLM and Unsloth would fail later, and less
    clearly. Imports none of the packages.
    """
    which = tier()
    file, wrong, pinned = FILES[which], differences(which), pins(which)
    if "torch" in wrong:
        path = os.path.relpath(REPO / file)
        remedy = f"`pip uninstall -y torch`, then `pip install --no-deps -r {path}`"
        if which == "cpu":
            remedy = "make the environment anew as the README says (`make lab` does it)"
        if which == "platform":
            remedy = "install one that is built for this GPU's driver"
        raise VersionError(
            f"torch {wrong['torch'] or '(none)'} is installed and {file} asks for "
            f"torch {pinned['torch']}: {remedy}, then restart the kernel."
        )
    if not wrong:
        kept = f", beside torch {installed()['torch']} and without vLLM"
        return f"The packages are those of {file}{kept if which == 'platform' else ''}."
    some = [f"{n} {v or 'missing'} (pinned: {pinned[n]})" for n, v in wrong.items()]
    more = f", and {len(some) - 8} more" if len(some) > 8 else ""
    return (
        f"{len(some)} of {len(pinned)} packages are not as {file} pins them, a mixture "
        f"that nobody has run: {', '.join(some[:8])}{more}."
    )


def table():
    """A DataFrame of the packages that the course asks for: pinned, installed, same."""
    import pandas as pd

    which = tier()
    rows = pd.DataFrame({"pinned": pins(which)}).loc[direct(which)]
    rows["installed"] = rows.index.map(installed()).fillna("")
    return rows.assign(same=~rows.index.isin(differences(which)))


def gpus() -> list[tuple[str, int, float]]:
    """Name, driver (its first number) and compute capability of each NVIDIA GPU.

    None, where CUDA_VISIBLE_DEVICES is empty and hides them.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return []
    query = "--query-gpu=name,driver_version,compute_cap"
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader"]
        run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = re.findall(r"^(.+), (\d+)[\d.]*, ([\d.]+)$", run.stdout, re.MULTILINE)
    return [(name, int(driver), float(kind)) for name, driver, kind in rows]


def entries(which: str) -> dict[str, str]:
    """By name, what pins each package: a line of the lock with all its hashes."""
    return _read((REPO / FILES[which]).with_suffix(".in")) | _read(REPO / FILES[which])


def _read(file: Path) -> dict[str, str]:
    """The entries of a requirements file that are for this Python, by name."""
    found = {}
    for entry in re.findall(r"^\w.*(?:\n[ \t].*)*", file.read_text(), re.MULTILINE):
        pin = Requirement(re.split(r"[#\\]", entry)[0])
        name = canonicalize_name(pin.name)
        if not KERNEL.fullmatch(name) and (not pin.marker or pin.marker.evaluate()):
            found[name] = entry
    return found
