"""The two cells that open a notebook on Colab and Kaggle, and the README's badges.

The address stands in pyproject.toml under [tool.course]. After its title each notebook
has a cell with its badges and a set-up cell, the same in all; both carry a tag, and the
tools here never run them. `make badges` writes them and `make check` compares them;
`make release-check` refuses an address that nobody has made their own.
"""

import re
import sys
import tomllib
from pathlib import Path

import nbformat

from tools.run import nbtools

START, END = "<!-- badges:start -->", "<!-- badges:end -->"
COLAB = "https://colab.research.google.com"
KAGGLE = "https://kaggle.com"

PROSE = """\
{badges}

On Colab and Kaggle the next cell fetches the course and installs its pinned packages \
(and says so if you have to restart the session). Anywhere else it does nothing."""

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


def notebooks(root: Path) -> list[Path]:
    """The lessons, then their solutions."""
    folders = root / "notebooks", root / "notebooks" / "solutions"
    return [path for folder in folders for path in sorted(folder.glob("[0-9]*.ipynb"))]


def is_mine(cell: nbformat.NotebookNode) -> bool:
    return nbtools.SET_UP in cell.metadata.get("tags", [])


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


def table(root: Path) -> str:
    """The README's table: one row of badges for each notebook."""
    lines = [START, "| notebook | open it in |", "|---|---|"]
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        pair = badges(root, path).replace("\n", " ")
        lines.append(f"| {path.stem.replace('_', ' ')} | {pair} |")
    return "\n".join([*lines, END])


def sources(root: Path, notebook: Path) -> list[str]:
    """What the second and the third cell of a notebook have to be."""
    prose = PROSE.format(badges=badges(root, notebook))
    return [prose, CODE.format(**address(root))]


def differences(root: Path) -> list[str]:
    """What `make badges` would change, each a sentence; empty if nothing."""
    found = []
    for path in notebooks(root):
        cells = [c for c in nbtools.read(path).cells[1:3] if is_mine(c)]
        if [cell.source for cell in cells] != sources(root, path):
            found.append(f"{path.relative_to(root)} has other badges or set-up cells")
    if table(root) not in (root / "README.md").read_text():
        found.append("README.md has other badges")
    return [f"{what} than pyproject.toml says: `make badges`" for what in found]


def check_release(root: Path = nbtools.ROOT) -> None:
    """SystemExit with one sentence while the address is the placeholder's."""
    course = address(root)
    if "/OWNER/" in course["repository"]:
        sys.exit(
            f"pyproject.toml has the address {course['repository']}: put your own for "
            "OWNER, run `make badges`, and set the tag "
            f"{course['reference']} on what you publish."
        )
    print(f"Readers will fetch {course['repository']} at {course['reference']}.")


def main(root: Path = nbtools.ROOT) -> None:
    readme = root / "README.md"
    text, found = re.subn(
        f"{START}.*{END}", lambda _: table(root), readme.read_text(), flags=re.DOTALL
    )
    if not found:
        sys.exit(f"README.md has no {START} ... {END}")
    readme.write_text(text)
    for path in notebooks(root):
        notebook = nbtools.read(path)
        mine = [nbformat.v4.new_markdown_cell(), nbformat.v4.new_code_cell()]
        if [is_mine(cell) for cell in notebook.cells[1:3]] == [True, True]:
            mine = [notebook.cells.pop(1), notebook.cells.pop(1)]
        for cell, source in zip(mine, sources(root, path), strict=True):
            cell.source, cell.metadata["tags"] = source, [nbtools.SET_UP]
        notebook.cells[1:1] = mine
        nbtools.write(notebook, path)


if __name__ == "__main__":
    check_release() if "--release" in sys.argv else main()
