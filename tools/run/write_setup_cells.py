"""The two cells that open a notebook on Colab and Kaggle, and the README's badges.

The address stands in pyproject.toml under [tool.course]. After its title each notebook
has a cell with its badges and a set-up cell, the same in all; both carry a tag, and the
tools here never run them. `make badges` writes them and `make check` compares them.
"""

import tomllib
from collections.abc import Iterator
from pathlib import Path

import nbformat

from tools import write_whole
from tools.report import tables
from tools.run import nbtools

COLAB = "https://colab.research.google.com"
KAGGLE = "https://kaggle.com"

PROSE = """\
{badges}

On Colab and Kaggle the next cell installs the course; elsewhere it does nothing."""

CODE = """\
import os
import runpy
import subprocess
import sys

if {{"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"}} & os.environ.keys():
    if not os.path.exists("grpo_course"):  # not in its folder yet
        course = "{repository} {reference}"
        fetch = f"git fetch -q --depth 1 {{course}} && git checkout -q FETCH_HEAD"
        fetch = f"git init -q grpo-course && cd grpo-course && {{fetch}}"
        if subprocess.call(fetch, shell=True):
            sys.exit(f"{{course}} could not be fetched: is the internet switched on?")
        os.chdir("grpo-course/notebooks")
    sys.path.insert(0, os.getcwd())
    runpy.run_path("../tools/run/platforms.py")["set_up"]()"""


def address(root: Path) -> dict[str, str]:
    """[tool.course] of the pyproject.toml in `root`: repository and reference."""
    return tomllib.loads((root / "pyproject.toml").read_text())["tool"]["course"]


def badges(root: Path, notebook: Path) -> str:
    """Markdown: one badge for Colab and one for Kaggle."""
    course, path = address(root), notebook.relative_to(root).as_posix()
    repository = course["repository"].removeprefix("https://github.com/")
    place = f"{repository}/blob/{course['reference']}/{path}"
    on_kaggle = f"{KAGGLE}/kernels/welcome?src=https://github.com/{place}"
    return (
        f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/{place})\n"
        f"[![Open in Kaggle]({KAGGLE}/static/images/open-in-kaggle.svg)]({on_kaggle})"
    )


def changes(root: Path = nbtools.ROOT) -> Iterator[tuple[Path, str]]:
    """The files that are not as pyproject.toml says, each with what it should be.

    ValueError for a README without a place for badges.
    """
    lines = ["| notebook | open it in |", "|---|---|"]
    for path in nbtools.notebooks(root / "notebooks"):
        pair = badges(root, path)
        if path.parent.name == "notebooks":
            two = pair.replace("\n", " ")
            lines.append(f"| {path.stem.replace('_', ' ')} | {two} |")
        notebook = nbtools.read(path)
        old, cells = nbtools.as_text(notebook), notebook.cells
        mine = [c for c in cells if c.metadata.get("tags") == [nbtools.SET_UP]]
        rest = [cell for cell in cells if cell not in mine]
        if len(mine) != 2:
            mine = [nbformat.v4.new_markdown_cell(), nbformat.v4.new_code_cell()]
        sources = PROSE.format(badges=pair), CODE.format(**address(root))
        for cell, source in zip(mine, sources, strict=True):
            cell.source, cell.metadata["tags"] = source, [nbtools.SET_UP]
        notebook.cells = rest[:1] + mine + rest[1:]
        if (new := nbtools.as_text(notebook)) != old:
            yield path, new
    readme = root / "README.md"
    new = tables.fill(readme.read_text(), "badges", "\n".join(lines))
    if new != readme.read_text():
        yield readme, new


if __name__ == "__main__":
    for path, text in changes():
        write_whole(path, text)
