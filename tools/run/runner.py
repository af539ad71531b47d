"""Execute a notebook without a browser, with a line that tells how far it is."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from rich.progress import Progress, TextColumn
from rich.table import Column

from grpo_course.ground.session import CACHES
from tools.run import nbtools
from tools.run.kernels import ForkedKernel, Preloaded


class NotebookFailed(Exception):
    """A notebook did not run to its end; the message shows the cell and the error."""


class Stopped(Exception):
    """SIGINT or SIGTERM ended the run; `args[0]` is the signal's number."""


def kernel_environment(home: Path, offline: bool) -> dict[str, str]:
    """The kernels' environment: caches under `home`, no bars, no hub if `offline`."""
    cache = home / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    settings = {"COURSE_HOME": home, "TQDM_DISABLE": 1}
    settings |= {"TOKENIZERS_PARALLELISM": "false", "IPYTHONDIR": cache / "ipython"}
    settings |= {"MPLCONFIGDIR": cache / "matplotlib"}
    # A fork was elsewhere when it imported matplotlib:
    settings |= {"MATPLOTLIBRC": nbtools.FOLDER}
    settings |= {variable: cache / name for variable, name in CACHES.items()}
    if offline:
        settings |= {"HF_HUB_OFFLINE": 1, "HF_DATASETS_OFFLINE": 1}
    return os.environ | {name: str(value) for name, value in settings.items()}


class StatusLine(Progress):
    """A title, seconds and a note show that a long step is alive; a context manager.

    On a terminal the line is kept up to date; elsewhere (a log, CI) it is printed at
    the end, after its title at the start.
    """

    def __init__(self, title: str) -> None:
        line = "  {task.description}  {task.elapsed:3.0f} s  {task.fields[note]}"
        whole = Column(no_wrap=True, overflow="ellipsis")
        super().__init__(TextColumn(line, markup=False, table_column=whole))
        self.title, self.only = title, self.add_task(title, note="")

    def start(self) -> None:
        if not self.console.is_terminal:
            print(f"  {self.title}  ...", flush=True)
        super().start()

    @property
    def note(self) -> str:
        """The end of the line; set it at any time."""
        return self.tasks[0].fields["note"]

    @note.setter
    def note(self, text: str) -> None:
        self.update(self.only, note=text)


class _Kernel(AsyncKernelManager):
    """A kernel of this very Python, whatever kernels the user has registered."""

    @property
    def kernel_spec(self) -> KernelSpec:
        launch = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=[sys.executable, *launch], **nbtools.KERNELSPEC)


class _Client(NotebookClient):
    """Executes a notebook, tells a status line about it, and takes its kernel along."""

    def __init__(self, notebook, folder: Path, status: StatusLine) -> None:
        super().__init__(
            notebook,
            timeout=None,
            kernel_name=nbtools.KERNELSPEC["name"],
            kernel_manager_class=_Kernel,
            shutdown_kernel="immediate",
            skip_cells_with_tag=nbtools.SET_UP,
            coalesce_streams=True,  # a line that rewrites itself is kept once
            resources={"metadata": {"path": str(folder)}},
            on_cell_execute=self._show_cell,
        )
        self.status, self.signal = status, 0
        self.number, self.source = 0, ""  # of the code cell that runs
        self.total = len(nbtools.code_cells(notebook))

    def fork_from(self, preloaded: Preloaded) -> None:
        """Take the kernel from there."""
        self.create_kernel_manager()
        how = {"kernel_spec": self.km.kernel_spec, "kernel_id": "", "parent": self.km}
        self.km.provisioner = ForkedKernel(**how)
        self.km.provisioner.preloaded = preloaded

    async def async_start_new_kernel(self, **kwargs) -> None:
        await super().async_start_new_kernel(**kwargs)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)

    def _stop(self, number: int) -> None:
        self.signal = number
        self._stopping = asyncio.ensure_future(self.km.shutdown_kernel(now=True))

    def _show_cell(self, cell, **_: object) -> None:
        self.number, self.source = self.code_cells_executed + 1, cell.source
        self._note = self.status.note = f"cell {self.number} of {self.total}"

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream" and msg["content"]["name"] == "stdout":
            lines = nbtools.clean_text(msg["content"]["text"]).split("\n")
            if spoken := [line.strip() for line in lines if line.strip()]:
                self.status.note = f"{self._note} | {spoken[-1]}"
        return super().process_message(msg, cell, cell_index)


def imports_unsloth(path: Path) -> bool:
    """Does the notebook at `path` need a kernel that has Unsloth?"""
    return "import unsloth" in nbtools.source(nbtools.read(path))


def execute(
    path: Path, copy: Path, environment: dict, preloaded: Preloaded | None = None
) -> nbformat.NotebookNode:
    """Run a notebook in a fresh kernel, in its own folder; write the result to `copy`.

    A notebook that imports Unsloth takes a `preloaded` kernel, if there is one.
    The copy is written when the run fails, too; beside it a log with what the kernel
    itself had to say. Raises NotebookFailed or Stopped.
    """
    notebook = nbtools.read(path)
    nbtools.strip(notebook)
    name = "solutions/" * (path.parent.name == "solutions") + path.stem
    copy.parent.mkdir(parents=True, exist_ok=True)
    log = copy.with_suffix(".log")
    with StatusLine(f"{name:<22}") as status, log.open("w") as stderr:
        client = _Client(notebook, path.parent, status)
        try:
            if preloaded and imports_unsloth(path):
                status.note = "importing Unsloth"
                if preloaded.ready():
                    client.fork_from(preloaded)
            asyncio.run(client.async_execute(env=environment, stderr=stderr))
            status.note = f"done, {client.total} cells"
        except (CellExecutionError, RuntimeError) as error:
            status.note += " | stopped" if client.signal else " | FAILED"
            if client.signal:
                raise Stopped(client.signal) from None
            raise NotebookFailed(_report(path, copy, client, error)) from None
        finally:
            digest = nbtools.source_digest(notebook)
            notebook.metadata["course"] = {"source_sha256": digest}
            nbtools.write(notebook, copy)
    return notebook


def _report(path: Path, copy: Path, client: _Client, error: Exception) -> str:
    problem = f"{error}. A kernel dies most often because memory ran out."
    if isinstance(error, CellExecutionError):
        problem = f"{error.ename}: {nbtools.ANSI.sub('', error.evalue)}".strip()
    lines = client.source.splitlines()
    code = "\n".join(f"    {line}" for line in lines[:8] + ["..."] * (len(lines) > 8))
    return (
        f"{path.name} stopped in code cell {client.number}:\n\n{code}\n\n{problem}\n\n"
        f"The notebook as far as it ran: {copy}"
    )
