"""The notebooks as files: read, written, cleaned, and told apart by their code.

`make course` executes copies of them; `make notebooks` executes them and keeps the
cleaned outputs, with a digest of the code they came from.
"""

import base64
import hashlib
import io
import re
from pathlib import Path

import nbformat
from PIL import Image

from tools import FOLDER, ROOT, write_whole  # noqa: F401  # FOLDER: where they are

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SET_UP = "set-up"  # the tag of the cells for Colab and Kaggle, which are not run here
KEPT = ("alt", "tags")  # of a cell's metadata: its picture in words; what it is for
FOLDERS = r"(?<![\w.])/(?:home|root|Users|tmp|content|work\w*|mnt)/"
UNWANTED = {  # in an output
    "a path of the machine it ran on": FOLDERS + r"\w",
    "a warning": r"\w*Warning: |^\[?WARNING|^W\d{4} \d\d:",
    "a progress bar": r"\d%\|.*\||<progress|\d(?:it|s)/(?:it|s)\]",
}
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def notebooks(folder: Path) -> list[Path]:
    """The lessons in a folder, then their solutions."""
    folders = folder, folder / "solutions"
    return [path for f in folders for path in sorted(f.glob("[0-9]*.ipynb"))]


def read(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path`, as nbformat 4."""
    return nbformat.read(path, as_version=4)


def as_text(notebook: nbformat.NotebookNode) -> str:
    """A notebook as it is in its file."""
    return nbformat.writes(notebook).removesuffix("\n") + "\n"


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all."""
    write_whole(path, as_text(notebook))


def code_cells(notebook: nbformat.NotebookNode) -> list:
    """The lesson's code cells: those that are executed here and get a count.

    Cells without code are left out, and so is the set-up cell, which does nothing here.
    """
    cells = [c for c in notebook.cells if SET_UP not in c.metadata.get("tags", [])]
    return [c for c in cells if c.cell_type == "code" and c.source.strip()]


def source(notebook: nbformat.NotebookNode) -> str:
    """All code of the lesson, in order."""
    return "\0".join(cell.source for cell in code_cells(notebook))


def source_digest(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 over the code cells, in order: what the outputs depend on."""
    return hashlib.sha256(source(notebook).encode()).hexdigest()


def strip(notebook: nbformat.NotebookNode) -> None:
    """Take all outputs out, in place."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None


def clean(notebook: nbformat.NotebookNode) -> None:
    """Take out, in place, what no reader needs and what changes with every run.

    Notebook and cell metadata (but KEPT), stderr, progress bars, widgets, terminal
    colours; paths inside the repository become relative to its root.
    """
    wanted = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    wanted["course"] = notebook.metadata.get("course", {})
    notebook.metadata = nbformat.from_dict(wanted)
    for cell in notebook.cells:
        kept = {name: cell.metadata[name] for name in KEPT if name in cell.metadata}
        cell.metadata = nbformat.from_dict(kept)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _cleaned(output)]


def _cleaned(output: nbformat.NotebookNode) -> bool:
    """Clean an output, in place; False if nothing is left of it."""
    if output.output_type == "stream":
        output.text = clean_text(output.text)
        return output.name != "stderr" and bool(output.text.strip())
    if output.output_type == "error":
        return True
    output.metadata = nbformat.from_dict({})
    output.data.pop("application/vnd.jupyter.widget-view+json", None)
    for kind in [kind for kind in output.data if kind.startswith("text/")]:
        output.data[kind] = clean_text(output.data[kind])
    if "image/png" in output.data:
        output.data["image/png"] = in_few_colours(output.data["image/png"])
    return bool(output.data) and "<progress" not in output.data.get("text/html", "")


def in_few_colours(png: str) -> str:
    """A picture (base64) in 64 colours: a chart needs no more, and is far smaller."""
    picture, small = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    picture.convert("RGB").quantize(64).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def clean_text(text: str) -> str:
    """A text as a terminal would end up showing it, and with paths from the root."""
    lines = ANSI.sub("", text).split("\n")
    text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
    return text.replace(f"{ROOT}/", "").replace(str(ROOT), ".")
