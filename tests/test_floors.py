"""A notebook uses what was taught before it; pyproject.toml says it of modules."""

import ast
import re

import pytest

from tools import FOLDER
from tools.run import nbtools

NOTEBOOKS = sorted(FOLDER.glob("0*.ipynb"))
EXPORT = re.compile(r"^#\| (?:default_exp|export) +(\w+)", re.MULTILINE)


def number(path) -> str:
    return path.name.partition("_")[0]


def sources(path) -> list[str]:
    return [cell.source for cell in nbtools.code_cells(nbtools.read(path))]


TAUGHT = {
    name: number(path)
    for path in NOTEBOOKS
    for name in EXPORT.findall("\n".join(sources(path)))
}


def imported(source: str) -> set[str]:
    """The modules, and names from modules, below grpo_course that some code imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    parts = [name.split(".") for name in found if name.startswith("grpo_course.")]
    return {part[1] for part in parts}


def test_each_taught_module_has_its_notebook():
    folder = FOLDER / "grpo_course"
    assert {path.stem for path in folder.glob("[a-z]*.py")} == TAUGHT.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=number)
def test_a_notebook_uses_nothing_that_is_taught_later(path):
    used = set().union(*map(imported, sources(path)))
    later = {name for name in used & TAUGHT.keys() if TAUGHT[name] > number(path)}
    assert not later
