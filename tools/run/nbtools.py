"""The notebooks as files: where they are, how they are executed, how they are cleaned.

`make course` executes copies of them; `make notebooks` executes them and keeps the
cleaned outputs, with a digest of the code they came from.
"""

import asyncio
import hashlib
import os
import re
import signal
import sys
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from grpo_course.ground.session import CACHES
from tools import FOLDER, ROOT
from tools.run.status_line import StatusLine

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SET_UP = "set-up"  # the tag of the cells for Colab and Kaggle, which are not run here
KEPT = ("alt", "tags")  # of a cell's metadata: its picture in words; what it is for
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


class NotebookFailed(Exception):
    """A notebook did not run to its end; the message shows the cell and the error."""


class Stopped(Exception):
    """SIGINT or SIGTERM ended the run; `args[0]` is the signal's number."""


def read(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path`, as nbformat 4."""
    return nbformat.read(path, as_version=4)


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    nbformat.write(notebook, partial)
    partial.replace(path)


def code_cells(notebook: nbformat.NotebookNode) -> list:
    """The lesson's code cells: those that are executed here and get a count.

    Cells without code are left out, and so is the set-up cell, which does nothing here.
    """
    cells = [c for c in notebook.cells if SET_UP not in c.metadata.get("tags", [])]
    return [c for c in cells if c.cell_type == "code" and c.source.strip()]


def source_digest(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 over the code cells, in order: what the outputs depend on."""
    sources = "\0".join(cell.source for cell in code_cells(notebook))
    return hashlib.sha256(sources.encode()).hexdigest()


# --- Executing ----------------------------------------------------------------------


def kernel_environment(home: Path, offline: bool) -> dict[str, str]:
    """The kernels' environment: caches under `home`, no bars, no hub if `offline`."""
    cache = home / "cache"
    settings = {
        "COURSE_HOME": home,
        "MPLCONFIGDIR": cache / "matplotlib",
        "IPYTHONDIR": cache / "ipython",
        "TQDM_DISABLE": 1,
        "TOKENIZERS_PARALLELISM": "false",
    }
    settings |= {variable: cache / name for variable, name in CACHES.items()}
    if offline:
        settings |= {"HF_HUB_OFFLINE": 1, "HF_DATASETS_OFFLINE": 1}
    cache.mkdir(parents=True, exist_ok=True)
    return os.environ | {name: str(value) for name, value in settings.items()}


class _Kernel(AsyncKernelManager):
    """A kernel of this very Python, whatever kernels the user has registered."""

    @property
    def kernel_spec(self) -> KernelSpec:
        launch = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=[sys.executable, *launch], **KERNELSPEC)


class _Client(NotebookClient):
    """Executes a notebook, tells a status line about it, and takes its kernel along."""

    def __init__(self, notebook, folder: Path, status: StatusLine) -> None:
        super().__init__(
            notebook,
            timeout=None,
            kernel_name=KERNELSPEC["name"],
            kernel_manager_class=_Kernel,
            shutdown_kernel="immediate",
            skip_cells_with_tag=SET_UP,
            coalesce_streams=True,  # a line that rewrites itself is kept once
            resources={"metadata": {"path": str(folder)}},
            on_cell_execute=self._show_cell,
        )
        self.status = status
        self.signal = 0
        self.number, self.source = 0, ""  # of the code cell that runs
        self.total = len(code_cells(notebook))

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
        self._note = f"cell {self.number} of {self.total}"
        self.status.note = self._note

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream" and msg["content"]["name"] == "stdout":
            lines = ANSI.sub("", msg["content"]["text"]).split("\n")
            spoken = [line.rpartition("\r")[2].strip() for line in lines]
            if last := next((line for line in reversed(spoken) if line), ""):
                self.status.note = f"{self._note} | {last}"
        return super().process_message(msg, cell, cell_index)


def execute(path: Path, copy: Path, environment: dict) -> nbformat.NotebookNode:
    """Run a notebook in a fresh kernel, in its own folder; write the result to `copy`.

    The copy is written when the run fails, too; beside it a log with what the kernel
    itself had to say. Raises NotebookFailed or Stopped.
    """
    notebook = read(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    name = path.stem if path.parent == FOLDER else f"{path.parent.name}/{path.stem}"
    copy.parent.mkdir(parents=True, exist_ok=True)
    log = copy.with_suffix(".log")
    with StatusLine(f"{name:<22}") as status, log.open("w") as stderr:
        client = _Client(notebook, path.parent, status)
        try:
            asyncio.run(client.async_execute(env=environment, stderr=stderr))
            status.note = f"done, {client.total} cells"
        except CellExecutionError as error:
            status.note += " | FAILED"
            problem = f"{error.ename}: {ANSI.sub('', error.evalue)}".strip()
            raise NotebookFailed(_report(path, copy, client, problem)) from None
        except RuntimeError as error:
            if client.signal:
                status.note += " | stopped"
                raise Stopped(client.signal) from None
            status.note += " | FAILED"
            problem = f"{error}. A kernel dies most often because memory ran out."
            raise NotebookFailed(_report(path, copy, client, problem)) from None
        finally:
            notebook.metadata["course"] = {"source_sha256": source_digest(notebook)}
            write(notebook, copy)
    return notebook


def _report(path: Path, copy: Path, client: _Client, problem: str) -> str:
    lines = client.source.splitlines()
    shown = lines[:8] + (["..."] if len(lines) > 8 else [])
    code = "\n".join("    " + line for line in shown)
    return (
        f"{path.name} stopped in code cell {client.number}:\n\n{code}\n\n{problem}\n\n"
        f"The notebook as far as it ran: {copy}"
    )


# --- Cleaning -----------------------------------------------------------------------


def clean(notebook: nbformat.NotebookNode) -> None:
    """Strip, in place, what a reader does not need and what changes with every run.

    Notebook and cell metadata (but KEPT), stderr, progress bars, widgets, terminal
    colours; paths inside the repository become relative to its root.
    """
    course = notebook.metadata.get("course", {})
    notebook.metadata = nbformat.from_dict(
        {
            "course": course,
            "kernelspec": KERNELSPEC,
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        kept = {name: cell.metadata[name] for name in KEPT if name in cell.metadata}
        cell.metadata = nbformat.from_dict(kept)
        if cell.cell_type == "code":
            cleaned = (_clean_output(output) for output in cell.outputs)
            cell.outputs = [output for output in cleaned if output]


def _clean_output(output):
    if output.output_type == "stream":
        if output.name == "stderr":
            return None
        output.text = _clean_text(output.text)
        return output if output.text.strip() else None
    if output.output_type in ("display_data", "execute_result"):
        output.metadata = nbformat.from_dict({})
        output.data.pop("application/vnd.jupyter.widget-view+json", None)
        if "<progress" in output.data.get("text/html", ""):
            return None
        for kind, content in output.data.items():
            if kind.startswith("text/"):
                output.data[kind] = _clean_text(content)
        return output if output.data else None
    return output


def _clean_text(text: str) -> str:
    lines = ANSI.sub("", text).split("\n")
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
    return text.replace(f"{ROOT}/", "").replace(str(ROOT), ".")
