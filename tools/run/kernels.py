"""Kernels that have imported Unsloth already: forked from one process that did.

`import unsloth` takes a quarter of a minute, and five notebooks begin with it. Here one
process imports it and forks a kernel for each notebook, which has, as ever, a process
and a namespace of its own. The parent computes nothing, because threads of torch and
the state of CUDA would not survive the fork; on a GPU, kernels are ordinary ones.
"""

import contextlib
import gc
import json
import os
import runpy
import signal
import subprocess
import sys

import psutil
from jupyter_client.provisioning import LocalProvisioner

from tools import FOLDER, ROOT

# --- The parent: `python -m tools.run.kernels` ----------------------------------------


def serve() -> None:
    """Import Unsloth, then start a program for each line that comes in.

    A line holds the arguments of `become`; the answer is the new process's id. When the
    one who asks is gone, this process ends, and a kernel ends with its parent.
    """
    requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # ipykernel, matplotlib and pandas
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    from grpo_course.ground.session import quiet

    with quiet():
        from grpo_course.ground import llama_cpp

        llama_cpp.tell_unsloth()  # as notebook 06 does before the import
        import unsloth  # noqa: F401  # first: it patches the libraries below
    import ipykernel.kernelapp  # noqa: F401
    import matplotlib.pyplot  # noqa: F401
    import pandas
    import torch

    if torch.cuda.is_initialized():  # a child could not use it
        return
    pandas.options.display.max_columns = 20  # look where they are when they load
    for name in [name for name in sys.modules if name.startswith("grpo_course")]:
        del sys.modules[name]  # they look at the environment: each child imports them
    if sys.path[-1] == str(FOLDER):
        sys.path.pop()  # `tools` has put it there
    gc.collect()
    gc.freeze()  # a child's collector leaves these pages alone: they stay shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    print("ready", file=replies, flush=True)
    for line in requests:
        if pid := os.fork():
            print(pid, file=replies, flush=True)
        else:
            requests.close(), replies.close()
            return become(**json.loads(line))


def become(command: list[str], cwd: str, env: dict[str, str], log: str) -> None:
    """Go on as `python -m` would begin with this command, folder and environment."""
    import multiprocessing.process

    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.path[0] = multiprocessing.process.ORIGINAL_DIR = cwd
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1), os.dup2(output, 2), os.close(output)
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


# --- The one who asks -----------------------------------------------------------------


class Preloaded:
    """That parent: started when it is first needed, ended at the end of a `with`."""

    def __init__(self, env: dict[str, str]) -> None:
        self._env, self._process, self._ready = env, None, None

    def __enter__(self) -> "Preloaded":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self._process.kill()
            self._process.communicate()

    def begin(self) -> None:
        """Let it import Unsloth, and do something else meanwhile."""
        if not self._process:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tools.run.kernels"],
                cwd=ROOT,
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # Ctrl-C is for the one who asks
            )

    def ready(self) -> bool:
        """True as soon as it has imported Unsloth; False if it could not."""
        self.begin()
        if self._ready is None:
            self._ready = self._process.stdout.readline() == "ready\n"
        return self._ready

    def start(self, **request: object) -> "Forked":
        """A child that does what `become` says."""
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return Forked(int(self._process.stdout.readline()))


class Forked(psutil.Process):
    """A process that is not our child, with what else of Popen Jupyter asks for."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        """None while it runs, then -1: nobody tells us its exit status."""
        return None if self.is_running() else -1

    def send_signal(self, number: int) -> None:
        """As Popen's, nothing when it is gone."""
        with contextlib.suppress(psutil.NoSuchProcess):
            super().send_signal(number)


class ForkedKernel(LocalProvisioner):
    """How Jupyter starts such a kernel; it asks and ends it as one of its own."""

    preloaded: Preloaded

    async def launch_kernel(self, cmd, *, cwd, env, stderr, **_: object) -> dict:
        """Start the kernel of a command that begins with `python -m`."""
        how = {"cwd": str(cwd), "env": env, "log": stderr.name}
        self.process = self.preloaded.start(command=cmd[2:], **how)
        self.pid = self.pgid = self.process.pid
        self.cwd = cwd
        return self.connection_info


if __name__ == "__main__":
    serve()
