"""The notebooks as a real model ran them: real_model/, the same cells, other outputs.

    python -m tools.report.second_set COURSE_HOME/executed [NUMBER ...]    adds a run
    python -m tools.report.second_set              when the notebooks' prose changed

Both lay the outputs of a run over the cells that notebooks/ has now, so that there is
no edited copy; `make check` compares the two sets. A cell below the title says what
made the outputs, by the run's manifests in COURSE_HOME/stages.
"""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat

from grpo_course.ground.profile import PROFILES, SETTABLE
from grpo_course.hub import without_folders
from tools.report import results, runs
from tools.run import nbtools

MADE_BY = "made-by"  # the tag and the id of that cell
FACTS = ("model", "machine", "profile", "changed", "data")  # the rows of its table
CHANGED = "cells changed since"
CODE_LINE = re.compile(r"^[^#\n].*", re.MULTILINE)  # the first tells a cell from others
TARGET = re.compile(r"(\]\(\s*<?)(?![a-z]+:|#|/)([^)\s>#]+)")  # a link's, if local
FOLDERS = re.compile(nbtools.FOLDERS + r"(?:[\w.+-]+/)*(?=[\w.+-])")  # of a path
NOISE = re.compile("|".join([*nbtools.UNWANTED.values(), r"\b(INFO|DEBUG) \d\d-\d\d "]))


def made_by(home: Path) -> dict[str, str]:
    """FACTS on the run in a COURSE_HOME, by its manifests.

    Raises ValueError if there is no stage sft or grpo, which tells machine and profile.
    """
    told = [runs.manifest(home, stage) for stage in ("grpo", "sft")]
    told = [manifest for manifest in told if "usage" in manifest.get("metrics", {})]
    if not told:
        raise ValueError(f"{home} has no manifest of sft or grpo: bring them as well.")
    metrics, usage = told[0]["metrics"], told[0]["metrics"]["usage"]
    values = told[0]["settings"] | metrics.get("conditions", {})
    plain = {n: without_folders(values[n]) for n in SETTABLE if n in values}
    model, profile = plain.pop("model_name"), PROFILES[usage["profile"]]
    shown = {n: f"`{SETTABLE[n]}={value}`" for n, value in plain.items()}
    data = [shown.pop(name) for name in plain if name.endswith("_data")]
    changed = [shown[n] for n in shown if values[n] != getattr(profile, n)]
    facts = model, usage["machine"], profile.name, " ".join(changed) or "nothing"
    return dict(zip(FACTS, (*facts, " ".join(data)), strict=True))


def laid(executed, lesson: Path, made: dict[str, str]) -> nbformat.NotebookNode:
    """The cells of a lesson with the outputs of a copy that ran, if that has its code.

    Code without an output may have changed since, and a cell may have left its
    beginning to one before it; the cell below the title says so.
    Links lead to the second set where that has the notebook, else to where they led.
    """
    notebook, ran = nbtools.read(lesson), nbtools.code_cells(executed)
    cells = nbtools.code_cells(notebook)
    pairs = [*zip(cells, ran, strict=False)]
    other = [(now, old) for now, old in pairs if now.source != old.source]
    shown = [(f"\n{a.source}", f"\n{b.source}") for a, b in other if b.outputs]
    if len(cells) != len(ran) or not all(old.endswith(now) for now, old in shown):
        raise ValueError(f"{lesson.name} has other code than what ran: run it again.")
    if not all(cell.execution_count for cell in ran):
        raise ValueError(f"{lesson.name} did not run to its end: run it again.")
    if other:
        lines = [f"`{CODE_LINE.search(now.source)[0]}`" for now, _ in other]
        told = made.get(CHANGED, "")
        new = [line for line in dict.fromkeys(lines) if line not in told]
        made = made | {CHANGED: ", ".join(filter(None, [told, *new]))}
    for cell, source in pairs:
        cell.outputs, cell.execution_count = source.outputs, source.execution_count
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = TARGET.sub(lambda link: link[1] + _led(link[2]), cell.source)
    digest = nbtools.source_digest(notebook)
    notebook.metadata["course"] = {"made_by": made, "source_sha256": digest}
    there = os.path.relpath(lesson, results.SECOND_SET)
    rows = [f"| {name} | {made[name]} |" for name in (*FACTS, CHANGED) if name in made]
    text = f"""**These outputs are those of {made["model"]}.** Cells and prose are those
of [the laptop's notebook]({there}): numbers in the prose are the tiny model's.

| it ran with | |
|---|---|
"""
    how = {"id": MADE_BY, "metadata": {"tags": [MADE_BY]}}
    told = nbformat.v4.new_markdown_cell(text + "\n".join(rows), **how)
    notebook.cells.insert(1, told)
    return notebook


def _led(target: str) -> str:
    if (results.SECOND_SET / target).exists():
        return target
    return os.path.relpath(nbtools.FOLDER / target, results.SECOND_SET)


def clean(notebook: nbformat.NotebookNode) -> None:
    """Of another machine's paths keep the last part, of its noise nothing, in place."""
    for output in (o for cell in nbtools.code_cells(notebook) for o in cell.outputs):
        if "text" in output:
            lines = FOLDERS.sub("", output.text).splitlines(keepends=True)
            output.text = "".join(line for line in lines if not NOISE.search(line))
        for kind in [k for k in output.get("data", {}) if k.startswith("text/")]:
            output.data[kind] = FOLDERS.sub("", output.data[kind])
    nbtools.clean(notebook)


def add(folder: Path, numbers: Sequence[str] = ()) -> None:
    """Take the executed copies in a folder, or those of these numbers, all or none."""
    made, taken = made_by(folder.parent), {}
    for path in sorted(folder.glob("[0-9]*.ipynb")):
        if not numbers or path.name.partition("_")[0] in numbers:
            notebook = nbtools.read(path)
            laid(notebook, nbtools.FOLDER / path.name, made)  # does it fit?
            clean(notebook)
            notebook.metadata["course"]["made_by"] = made
            taken[results.SECOND_SET / path.name] = notebook
    if not taken:
        raise ValueError(f"{folder} has no such notebook: name COURSE_HOME/executed.")
    for path, notebook in taken.items():
        nbtools.write(notebook, path)


def refreshed() -> dict[Path, nbformat.NotebookNode]:
    """The second set as it should be: its own outputs over the cells of today."""
    found = {}
    for path in sorted(results.SECOND_SET.glob("*.ipynb")):
        old, lesson = nbtools.read(path), nbtools.FOLDER / path.name
        found[path] = laid(old, lesson, old.metadata["course"]["made_by"])
    return found


def differences() -> list[str]:
    """What is wrong between the two sets, each a sentence; empty if they agree."""
    place = results.SECOND_SET.name
    try:
        stale = [p for p, now in refreshed().items() if nbtools.read(p) != now]
    except (OSError, KeyError, ValueError) as problem:
        return [f"{place}/ has a notebook of no lesson, run or code: {problem}"]
    how = "older prose than notebooks/: run `python -m tools.report.second_set`"
    return [f"{place}/{path.name} has {how}" for path in stale]


def main(folder: str = "", *numbers: str) -> None:
    try:
        if folder:
            add(Path(folder).resolve(), numbers)
        for path, notebook in refreshed().items():
            nbtools.write(notebook, path)
    except (OSError, ValueError) as problem:
        sys.exit(str(problem))
    results.main()  # README links to them


if __name__ == "__main__":
    main(*sys.argv[1:])
