"""Is every committed notebook what it claims to be? `make check` runs this.

Code and outputs belong together (executed in order, no error, source unchanged since);
the notebook is small and clean; it keeps the course's style; links lead somewhere; the
exported modules, the set-up cells, the second set (real_model/) and the README's
results table are as they should be.
"""

import html
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import nbformat

from tools.report import results, second_set
from tools.run import export, nbtools, write_setup_cells

MAX_BYTES = 300_000
MAX_IMAGE_BYTES, MAX_FILE_BYTES = 100_000, 200_000  # in an output, in images/
LONGEST_CELL, MEDIAN_CELL = 30, 8  # lines of code
IMAGES = ("image/png", "image/jpeg", "image/svg+xml")
PAGES = ("*.md", "models/*/*.md", "recipes/*.md")

SECRET = re.compile(
    r"hf_[A-Za-z0-9]{20,}|\bsk-[\w-]{20,}|\bgh[pousr]_\w{20,}|\bAKIA[0-9A-Z]{16}\b"
    r"|(?i:api_?key|token|password)[\"']?\s*[=:]\s*[\"'][\w-]{16,}[\"']"
)
MD_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(\s*<?([^)\s>]+)>?[^)]*\)")
HTML_IMAGE = re.compile(r"<img\b[^>]*>", re.IGNORECASE)
HTML_LINK = re.compile(r"\b(?:src|href)=[\"']([^\"']+)", re.IGNORECASE)
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def problems(path: Path) -> list[str]:
    """What is wrong with one notebook, each a short sentence; empty if nothing."""
    try:
        notebook = nbtools.read(path)
        nbformat.validate(notebook)
    except Exception as error:  # nbformat raises many kinds, all meaning this
        return [f"is no valid notebook ({str(error).splitlines()[0]})"]
    found = [*_execution_problems(notebook), *_style_problems(notebook, path)]
    for number, cell in enumerate(notebook.cells, start=1):
        is_text = cell.cell_type == "markdown"
        wrong = text_problems(cell.source, path) if is_text else []
        found += [f"cell {number} {p}" for p in [*wrong, *_output_problems(cell)]]
    return found


def _execution_problems(notebook) -> Iterator[str]:
    counts = [cell.execution_count for cell in nbtools.code_cells(notebook)]
    recorded = notebook.metadata.get("course", {}).get("source_sha256")
    if not any(counts):
        yield "has not been executed: run `make notebooks`"
    elif counts != list(range(1, len(counts) + 1)):
        yield "was not executed from the first cell to the last, in order"
    elif recorded != nbtools.source_digest(notebook):
        yield "has code that changed after it was executed: run `make notebooks`"


def _style_problems(notebook, path: Path) -> Iterator[str]:
    cells, is_lesson = notebook.cells, path.parent.name != "solutions"
    if not cells or not cells[0].source.startswith("# "):
        yield "does not begin with a title"
    for number, (first, second) in enumerate(pairwise(cells), start=1):
        if first.cell_type == second.cell_type == "code":
            yield f"has no prose between cells {number} and {number + 1}"
    code = [len(c.source.strip().splitlines()) for c in nbtools.code_cells(notebook)]
    if max(code, default=0) > LONGEST_CELL:
        yield f"has a cell of {max(code)} lines; {LONGEST_CELL} is the most"
    if is_lesson and code and statistics.median(code) > MEDIAN_CELL:
        yield f"has long cells: a median above {MEDIAN_CELL} lines"
    if path.stat().st_size > MAX_BYTES:
        yield f"has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}"


def _output_problems(cell) -> Iterator[str]:
    outputs = cell.get("outputs", [])
    data = [item for output in outputs for item in output.get("data", {}).items()]
    texts = [output.get("text", "") for output in outputs]
    texts += [text for kind, text in data if kind.startswith("text/")]
    pictures = [picture for kind, picture in data if kind in IMAGES]
    for output in outputs:
        texts += output.get("traceback", [])
        if output.output_type == "error":
            yield f"ended in an error ({output.ename})"
        if output.get("name") == "stderr":
            yield "shows what was written to stderr"
    if pictures and not cell.metadata.get("alt", "").strip():
        yield "has a picture and no `alt` in its metadata"
    for _ in (p for p in pictures if len(p) * 3 / 4 > MAX_IMAGE_BYTES):
        yield "has an image above 100 kB"
    if SECRET.search("\n".join([cell.source, *texts])):
        yield "seems to hold a key or token"
    for what, pattern in nbtools.UNWANTED.items():
        if any(re.search(pattern, text, re.MULTILINE) for text in texts):
            yield f"shows {what}"


def text_problems(text: str, path: Path) -> list[str]:
    """Images without alternative text, and local links that lead nowhere.

    `text` is Markdown that stands in the file `path`.
    """
    text = CODE.sub("", text)
    links, images = MD_LINK.findall(text), HTML_IMAGE.findall(text)
    silent = [target for image, label, target in links if image and not label.strip()]
    silent += [tag for tag in images if not re.search(r"\balt=[\"'][^\"']*\S", tag)]
    found = [f"has an image without alternative text ({which})" for which in silent]
    for target in [link[2] for link in links] + HTML_LINK.findall(text):
        place = unquote(html.unescape(target)).partition("#")[0]
        is_web = re.match(r"[a-z][a-z0-9+.-]*:", place)
        if place and not is_web and not (path.parent / place).exists():
            found.append(f"has a link that leads nowhere ({target})")
    return found


def name_problems(path: Path) -> list[str]:
    """Names that a notebook has from its set-up cell alone, or from nowhere.

    That cell is not executed here, and code for a GPU is not either; so ruff looks.
    """
    code = nbtools.source(nbtools.read(path)).replace("\0", "\n")
    how = ("--isolated", "--quiet", "--select", "F821", "--output-format", "concise")
    command = [sys.executable, "-m", "ruff", "check", *how]
    command += ["--stdin-filename", path.with_suffix(".py").name, "-"]
    run = subprocess.run(command, input=code, capture_output=True, text=True)
    return (run.stdout + run.stderr).splitlines()


def image_problems(folder: Path, texts: list[str]) -> Iterator[str]:
    """Pictures of a folder that no text shows, and those that are too large."""
    for path in sorted(folder.iterdir()):
        name = f"{folder.name}/{path.name}"
        if not any(f"{name})" in text for text in texts):
            yield f"{name} is shown nowhere"
        if path.stat().st_size > MAX_FILE_BYTES:
            yield f"{name} is above 200 kB"


def main() -> None:
    root, paths = nbtools.ROOT, nbtools.notebooks(nbtools.FOLDER)
    pages = [p for glob in PAGES for p in root.glob(glob)]
    texts = {path: path.read_text() for path in pages}
    both = [*paths, *sorted(results.SECOND_SET.glob("*.ipynb"))]
    found = [f"{p.relative_to(root)} {w}" for p in both for w in problems(p)]
    for path, text in texts.items():
        found += [f"{path.relative_to(root)} {w}" for w in text_problems(text, path)]
    if results.filled(texts[root / "README.md"]) != texts[root / "README.md"]:
        found.append("README.md has an old results table: run `make results`")
    prose = [*texts.values(), *(path.read_text() for path in paths)]
    found += image_problems(root / "images", prose)
    found += [*export.differences(nbtools.FOLDER), *second_set.differences()]
    for path, _ in write_setup_cells.changes(root):
        name = path.relative_to(root)
        found.append(f"{name} has other badges or set-up cells: run `make badges`")
    found += [problem for path in paths for problem in name_problems(path)]
    if not paths:
        found.append("there are no notebooks")
    print("\n".join(found) or f"{len(both)} notebooks are as they should be.")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
