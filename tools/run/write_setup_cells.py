"""Write the badges and the set-up cells for Colab and Kaggle: `make badges`.

The address and the tag stand in pyproject.toml under [tool.course]. After the title,
each notebook gets its badges, with a sentence, and one code cell; the README gets a
table of badges between <!-- badges:start --> and <!-- badges:end -->. Outputs stay as
they are: the set-up cells are marked by a tag, the tools here never run them, and the
digest of a notebook's code leaves them out (nbtools.code_cells).
"""

import sys
import tomllib
from pathlib import Path

import nbformat

from tools.run import export, nbtools

TAG = nbtools.SET_UP
START, END = "<!-- badges:start -->", "<!-- badges:end -->"
COLAB = "https://colab.research.google.com"
KAGGLE = "https://kaggle.com"

PROSE = """\
{badges}

On Colab and Kaggle the next cell fetches the course and installs its pinned packages \
(and says so if you have to restart the session). Anywhere else it does nothing."""

AFTERWARDS = "From here on, the notebook is the same everywhere."

CODE = """\
import os
import runpy
import subprocess
import sys
from pathlib import Path

if {{"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"}} & os.environ.keys():
    url, tag = "{repository}", "{reference}"
    if not Path("grpo_course/ground/platforms.py").exists():  # not in its folder yet
        git = "git -C grpo-course"
        fetch = f"git init -q grpo-course && {{git}} fetch -q --depth 1 {{url}} {{tag}}"
        checkout = f"{{fetch}} && {{git}} checkout -q FETCH_HEAD"
        if subprocess.run(checkout, shell=True).returncode:
            sys.exit(f"{{url}} could not be fetched: is this session's internet on?")
        os.chdir("grpo-course/notebooks")
    sys.path.insert(0, os.getcwd())
    runpy.run_path("grpo_course/ground/platforms.py")["set_up"]()"""


def source_of(root: Path) -> dict[str, str]:
    """[tool.course] of the pyproject.toml in `root`: repository and reference."""
    return tomllib.loads((root / "pyproject.toml").read_text())["tool"]["course"]


def badges(path: str, source: dict[str, str]) -> str:
    """Markdown: one badge for Colab and one for Kaggle; `path` is in the repository."""
    repository, reference = source["repository"], source["reference"]
    place = f"{repository.removeprefix('https://github.com/')}/blob/{reference}/{path}"
    on_colab = f"{COLAB}/github/{place}"
    on_kaggle = f"{KAGGLE}/kernels/welcome?src=https://github.com/{place}"
    return (
        f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({on_colab})\n"
        f"[![Open in Kaggle]({KAGGLE}/static/images/open-in-kaggle.svg)]({on_kaggle})"
    )


def with_set_up(notebook, path: str, source: dict[str, str]) -> nbformat.NotebookNode:
    """The notebook with the right set-up cells after its title, and ids by position."""
    cells = [c for c in notebook.cells if TAG not in c.metadata.get("tags", [])]
    prose = PROSE.format(badges=badges(path, source))
    mine = [
        nbformat.v4.new_markdown_cell(prose),
        nbformat.v4.new_code_cell(CODE.format(**source)),
    ]
    if cells[1:] and cells[1].cell_type == "code":  # never two code cells in a row
        mine.append(nbformat.v4.new_markdown_cell(AFTERWARDS))
    for cell in mine:
        cell.metadata["tags"] = [TAG]
    notebook.cells = [*cells[:1], *mine, *cells[1:]]
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02}"
    return notebook


def table(root: Path) -> str:
    """The README's table: one row of badges for each notebook."""
    source = source_of(root)
    lines = [START, "| notebook | open it in |", "|---|---|"]
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        pair = badges(f"notebooks/{path.name}", source).replace("\n", " ")
        lines.append(f"| {path.stem.replace('_', ' ')} | {pair} |")
    return "\n".join([*lines, END])


def results(root: Path) -> dict[Path, str]:
    """The notebooks and the README of `root` that should be other texts, with these.

    Raises ValueError where the README has no place for the badges.
    """
    source, found = source_of(root), {}
    for path in sorted((root / "notebooks").rglob("[0-9]*.ipynb")):
        if ".ipynb_checkpoints" not in path.parts:
            name = path.relative_to(root).as_posix()
            notebook = with_set_up(nbtools.read(path), name, source)
            found[path] = nbformat.writes(notebook) + "\n"
    readme = root / "README.md"
    before, start, rest = readme.read_text().partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"README.md has no {START} ... {END}")
    found[readme] = before + table(root) + after
    return {path: text for path, text in found.items() if path.read_text() != text}


def differences(root: Path) -> list[str]:
    """What `make badges` would change, each a sentence; empty if nothing."""
    try:
        changed = results(root)
    except ValueError as error:
        return [str(error)]
    return [
        f"{path.relative_to(root)} has old badges, set-up cells or ids: `make badges`"
        for path in changed
    ]


def main(root: Path = nbtools.ROOT) -> None:
    try:
        changed = results(root)
    except ValueError as error:
        sys.exit(str(error))
    for path, text in changed.items():
        partial = path.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(path)
        print(path.relative_to(root))
    export.export(root / "notebooks")  # its comments name the cells


if __name__ == "__main__":
    main()
