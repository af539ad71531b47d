"""Make .venv from requirements-cpu.txt, or see in a moment that it is there already.

`make` runs this with the system's Python before anything else, so it uses the standard
library only, and syntax that an old Python can read far enough to be told it is old.

The environment counts as finished only when its stamp is there. The stamp is written
last, after `import unsloth` has worked, and names the requirements it was made from. So
an install that was interrupted, or that belongs to an older lock, is made anew (from
pip's cache, if it has one).
"""

import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time

from tools import ROOT
from tools.run.status_line import StatusLine

DIRECT = ROOT / "requirements-cpu.in"
LOCK = ROOT / "requirements-cpu.txt"
VENV = ROOT / ".venv"
STAMP = VENV / "course-stamp"
LOG = VENV / "install.log"

OLDEST, NEWEST = (3, 11), (3, 14)  # what the lock has wheels for
OLDEST_GLIBC = (2, 28)  # the same
NEEDED_GB = 6  # the environment takes 3; pip's cache and unpacking the rest
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
CHECK = """
import torch
assert torch.version.cuda is None, f"torch {torch.__version__} is a CUDA build"
import unsloth
"""
QUICK_CHECK = """
import importlib.util
assert importlib.util.find_spec("torch") and importlib.util.find_spec("unsloth")
"""


class SetupError(Exception):
    """What is wrong and what to do about it, in one sentence."""


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if is_ready():
        return
    try:
        check_python(sys.version_info[:2])
        check_machine()
        with only_one_at_a_time() as lock:
            if not is_ready():
                install(lock.fileno())
    except SetupError as error:
        sys.exit(f"\nSet-up stopped: {error}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The next run starts the set-up again.")


def check_python(version: tuple) -> None:
    """Raise SetupError unless `version` (major, minor) is one that the lock knows."""
    if not OLDEST <= version <= NEWEST:
        raise SetupError(
            "this is Python {}.{} and the course needs {}.{} to {}.{}: name another, "
            "as in `make course PYTHON=python3.12`.".format(*version, *OLDEST, *NEWEST)
        )
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise SetupError(
            "this Python is a free-threaded build, for which many packages are not "
            "made: name another, as in `make course PYTHON=python3.12`."
        )


def check_machine() -> None:
    """Raise SetupError for what is missing before anything is downloaded."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise SetupError(
            f"the CPU course is pinned for Linux on x86_64 and this is {system} on "
            f"{machine}: use such a machine, or WSL on Windows."
        )
    library, release = platform.libc_ver()
    numbers = tuple(int(number) for number in re.findall(r"\d+", release)[:2])
    if library != "glibc" or numbers < OLDEST_GLIBC:
        raise SetupError(
            "the packages are made for glibc {}.{} or newer and this system has {} {}: "
            "use a newer Linux.".format(*OLDEST_GLIBC, library or "no glibc", release)
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        raise SetupError(
            "this Python cannot make virtual environments: install its venv module "
            "(Debian and Ubuntu: `sudo apt install python3-venv`)."
        ) from None
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        raise SetupError(
            "there is no C compiler (cc, gcc or clang), which torch.compile needs: "
            "install one (Debian and Ubuntu: `sudo apt install build-essential`)."
        )
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < NEEDED_GB and not VENV.exists():
        raise SetupError(
            f"{ROOT} has {free:.1f} GB free and the set-up needs {NEEDED_GB}: "
            "make room there."
        )


def only_one_at_a_time():
    """Hold requirements-cpu.txt open and locked; wait if another set-up has it."""
    import fcntl

    handle = LOCK.open()
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("Another set-up is at work here: waiting for it.", flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


def wanted_stamp() -> str:
    """What the environment depends on, as one line."""
    lock = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    return f"torch {torch_version()} lock {lock}\n"


def is_ready() -> bool:
    """True if .venv is finished, of this lock, and its Python still finds packages.

    It does not after an upgrade of the system's Python: .venv then starts the new one,
    which looks in another folder.
    """
    try:
        if STAMP.read_text() != wanted_stamp():
            return False
        command = [venv_python(), "-c", QUICK_CHECK]
        return subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:
        return False


def venv_python() -> str:
    return str(VENV / "bin" / "python")


def install(lock: int) -> None:
    """Make .venv anew: torch, then the lock, then a check. Takes some minutes."""
    started = time.monotonic()
    print("Making .venv, once: about 1 GB to download, then 3 GB on disk.", flush=True)
    STAMP.unlink() if STAMP.exists() else None
    make_venv = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    made = subprocess.run(make_venv, stdout=-1, stderr=-2, text=True)
    if made.returncode:
        last = (made.stdout.strip() or "no message").splitlines()[-1]
        raise SetupError(f"`python -m venv .venv` failed ({last}).")

    torch = f"torch=={torch_version()}+cpu"
    with LOG.open("w") as log:
        steps = Steps(log, lock)
        steps.run(
            "1/3 torch, the CPU build",
            [pip_install(torch), pip_install(torch, "--extra-index-url", TORCH_INDEX)],
            f"torch could not be installed: see that {TORCH_INDEX} can be reached",
        )
        steps.run(
            "2/3 the other packages",
            [pip_install("-r", str(LOCK))],
            "a package could not be installed: see to the network and the free disk",
        )
        steps.run(
            "3/3 a first import of unsloth",
            [[venv_python(), "-c", CHECK]],
            "everything is installed but unsloth does not start: see the log",
        )
    STAMP.write_text(wanted_stamp())
    minutes = (time.monotonic() - started) / 60
    print(f"The environment is ready ({minutes:.1f} minutes).", flush=True)


def torch_version() -> str:
    """The version of torch in requirements-cpu.in, its one home."""
    return re.search(r"^torch==([\w.]+)", DIRECT.read_text(), re.MULTILINE).group(1)


def pip_install(*what: str) -> list:
    # --no-compile: bytecode is made for what is imported, not for 3 GB of files
    command = [venv_python(), "-m", "pip", "install", "--no-deps", "--no-compile"]
    return command + ["--disable-pip-version-check", "--progress-bar=off", *what]


class Steps:
    """Runs commands into one log and shows their progress."""

    def __init__(self, log, lock: int) -> None:
        self.log, self.lock = log, lock
        self.last_line = ""

    def run(self, title: str, tries: list, problem: str) -> None:
        """Run the commands of `tries` until one works; SetupError if none does."""
        with StatusLine(f"{title:<30}") as status:
            if any(self._works(command, status) for command in tries):
                return
        raise SetupError(
            f"{problem}, then run the same command again.\n"
            f"The last line of {LOG}:\n  {self.last_line}"
        )

    def _works(self, command: list, status: StatusLine) -> bool:
        # A child that outlives us keeps the lock, so that nobody installs beside it.
        child = subprocess.Popen(
            command,
            cwd=VENV,
            env=dict(os.environ, PIP_USER="0", HF_HUB_OFFLINE="1"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=[self.lock],
        )
        packages = 0
        try:
            for line in child.stdout:
                self.log.write(line)
                self.log.flush()
                self.last_line = line.strip() or self.last_line
                if line.startswith("Collecting "):
                    packages += 1
                    status.note = f"package {packages}"
                elif line.startswith("Installing collected"):
                    status.note = "unpacking"
            status.note = ""
            return child.wait() == 0
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()


if __name__ == "__main__":
    main()
