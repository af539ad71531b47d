"""Is every committed notebook what it claims to be? `make check` runs this.

Code and outputs belong together (executed in order, no error, source unchanged since);
the notebook is small and clean; it keeps the course's style; links lead somewhere; the
exported modules, the set-up cells, the spelling and the README's results table are as
they should be.
"""

import html
import json
import re
import statistics
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import nbformat

from tools.report import results
from tools.run import export, nbtools, write_setup_cells

MAX_BYTES = 300_000
MAX_IMAGE_BYTES, MAX_FILE_BYTES = 100_000, 200_000  # in an output, in images/
LONGEST_CELL, MEDIAN_CELL = 30, 8  # lines of code
IMAGES = ("image/png", "image/jpeg", "image/svg+xml")

UNWANTED = {  # in an output
    "a path of the machine it ran on": r"(?<![\w.])/(?:home|root|Users|tmp|content)/\w",
    "a warning": r"\w*Warning: |^\[?WARNING|^W\d{4} \d\d:",
    "a progress bar": r"\d%\|.*\||<progress|\d(?:it|s)/(?:it|s)\]",
}
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
    found = []
    if path.stat().st_size > MAX_BYTES:
        found.append(f"has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
    found += _execution_problems(notebook)
    found += _output_problems(notebook)
    found += _style_problems(notebook, lesson=path.parent.name != "solutions")
    for number, cell in enumerate(notebook.cells, start=1):
        if cell.cell_type == "markdown":
            found += [f"cell {number} {p}" for p in text_problems(cell.source, path)]
    return found


def _execution_problems(notebook) -> list[str]:
    counts = [cell.execution_count for cell in nbtools.code_cells(notebook)]
    if not any(counts):
        return ["has not been executed: run `make notebooks`"]
    if counts != list(range(1, len(counts) + 1)):
        return ["was not executed from the first cell to the last, in order"]
    recorded = notebook.metadata.get("course", {}).get("source_sha256")
    if recorded is None:
        return ["does not say what code was executed: run `make notebooks`"]
    if recorded != nbtools.source_digest(notebook):
        return ["has code that changed after it was executed: run `make notebooks`"]
    return []


def _output_problems(notebook) -> list[str]:
    found = []
    for number, cell in enumerate(notebook.cells, start=1):
        if SECRET.search("\n".join([cell.source, *_texts(cell)])):
            found.append(f"cell {number} seems to hold a key or token")
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                found.append(f"cell {number} ended in an error ({output.ename})")
                continue
            data = output.get("data", {})
            if set(IMAGES) & data.keys() and not cell.metadata.get("alt", "").strip():
                found.append(
                    f"cell {number} has a picture and no `alt` in its metadata"
                )
            for kind in IMAGES:
                if len(data.get(kind, "")) * 3 / 4 > MAX_IMAGE_BYTES:
                    found.append(f"cell {number} has an image above 100 kB")
            if output.get("name") == "stderr":
                found.append(f"cell {number} shows what was written to stderr")
        for what, pattern in UNWANTED.items():
            if any(re.search(pattern, text, re.MULTILINE) for text in _texts(cell)):
                found.append(f"cell {number} shows {what}")
    return found


def _texts(cell) -> list[str]:
    """All that the outputs of a cell say in words."""
    texts = []
    for output in cell.get("outputs", []):
        texts += [output.get("text", ""), *output.get("traceback", [])]
        data = output.get("data", {})
        texts += [text for kind, text in data.items() if kind.startswith("text/")]
    return texts


def _style_problems(notebook, lesson: bool) -> list[str]:
    found = []
    cells = notebook.cells
    if not cells or not cells[0].source.startswith("# "):
        found.append("does not begin with a title")
    for number, (first, second) in enumerate(pairwise(cells), start=1):
        if first.cell_type == second.cell_type == "code":
            found.append(f"has no prose between cells {number} and {number + 1}")
    code = [cell.source.strip() for cell in nbtools.code_cells(notebook)]
    lengths = [len(source.splitlines()) for source in code]
    if lengths and max(lengths) > LONGEST_CELL:
        found.append(f"has a cell of {max(lengths)} lines; {LONGEST_CELL} is the most")
    if lesson and lengths and statistics.median(lengths) > MEDIAN_CELL:
        found.append(f"has long cells: a median above {MEDIAN_CELL} lines")
    return found


def text_problems(text: str, path: Path) -> list[str]:
    """Images without alternative text, and local links that lead nowhere.

    `text` is Markdown that stands in the file `path`.
    """
    text = CODE.sub("", text)
    found, targets = [], []
    for image, label, target in MD_LINK.findall(text):
        targets.append(target)
        if image and not label.strip():
            found.append(f"has an image without alternative text ({target})")
    for image in HTML_IMAGE.findall(text):
        if not re.search(r"\balt=[\"'][^\"']*\S", image):
            found.append(f"has an image without alternative text ({image})")
    targets += HTML_LINK.findall(text)
    for target in targets:
        place = unquote(html.unescape(target)).partition("#")[0]
        is_web = re.match(r"[a-z][a-z0-9+.-]*:", place)
        if place and not is_web and not (path.parent / place).exists():
            found.append(f"has a link that leads nowhere ({target})")
    return found


def name_problems(paths: list[Path]) -> list[str]:
    """Names that a notebook has from its set-up cell alone, or from nowhere.

    That cell is not executed here, and code for a GPU is not either; so ruff looks.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copies = {f"{number}.ipynb": path for number, path in enumerate(paths)}
        for name, path in copies.items():
            notebook = nbtools.read(path)
            notebook.cells = nbtools.code_cells(notebook)
            nbtools.write(notebook, Path(scratch) / name)
        command = [sys.executable, "-m", "ruff", "check", "--isolated"]
        command += ["--select", "F821", "--output-format", "json", scratch]
        run = subprocess.run(command, capture_output=True, text=True)
        return [
            f"{_name(copies[Path(found['filename']).name])} {found['message']}"
            for found in json.loads(run.stdout)
        ]


def spelling_problems(paths: list[Path]) -> list[str]:
    """What codespell finds in notebooks (sources, not outputs) and in other files."""
    with tempfile.TemporaryDirectory() as scratch:
        texts = {}
        for number, path in enumerate(paths):
            text = path.read_text()
            if path.suffix == ".ipynb":
                cells = nbtools.read(path).cells
                text = "\n".join(cell.source for cell in cells)
            texts[f"{number}.md"] = path
            (Path(scratch) / f"{number}.md").write_text(text)
        command = [sys.executable, "-m", "codespell_lib", "--toml"]
        command += [str(nbtools.ROOT / "pyproject.toml"), "."]
        run = subprocess.run(command, cwd=scratch, capture_output=True, text=True)
    found = []
    for line in run.stdout.splitlines():
        name, line_number, words = line.removeprefix("./").split(":", 2)
        where = "" if texts[name].suffix == ".ipynb" else f" line {line_number}"
        found.append(f"{_name(texts[name])}{where} has a misspelling:{words}")
    if run.returncode and not found:
        found.append(f"codespell failed: {run.stderr.strip()}")
    return found


def results_problems(readme: Path) -> list[str]:
    """Whether the README's tables are those of results/."""
    text = readme.read_text()
    old = results.filled(text) != text
    return ["has an old results table: run `make results`"] if old else []


def image_problems(folder: Path, texts: list[str]) -> list[str]:
    """Pictures of a folder that no text shows, and those that are too large."""
    found = []
    for path in sorted(folder.iterdir()):
        if not any(f"{folder.name}/{path.name})" in text for text in texts):
            found.append(f"{folder.name}/{path.name} is shown nowhere")
        if path.stat().st_size > MAX_FILE_BYTES:
            found.append(f"{folder.name}/{path.name} is above 200 kB")
    return found


def _name(path: Path) -> str:
    return str(path.relative_to(nbtools.ROOT))


def main() -> None:
    paths = sorted(nbtools.FOLDER.rglob("[0-9]*.ipynb"))
    paths = [path for path in paths if ".ipynb_checkpoints" not in path.parts]
    texts = [*nbtools.ROOT.glob("*.md"), *nbtools.ROOT.glob("models/*/*.md")]
    code = [p for f in ("notebooks", "tools", "tests") for p in _python_files(f)]
    found = [f"{_name(path)} {p}" for path in paths for p in problems(path)]
    for path in texts:
        found += [f"{_name(path)} {p}" for p in text_problems(path.read_text(), path)]
    readme = nbtools.ROOT / "README.md"
    found += [f"README.md {p}" for p in results_problems(readme)]
    prose = [path.read_text() for path in (*paths, *texts)]
    found += image_problems(nbtools.ROOT / "images", prose)
    found += export.differences(nbtools.FOLDER)
    found += write_setup_cells.differences(nbtools.ROOT)
    found += name_problems(paths)
    found += spelling_problems([*paths, *texts, *code])
    if not paths:
        found.append("there are no notebooks")
    print("\n".join(found) or f"{len(paths)} notebooks are as they should be.")
    sys.exit(1 if found else 0)


def _python_files(folder: str) -> list[Path]:
    return sorted((nbtools.ROOT / folder).rglob("*.py"))


if __name__ == "__main__":
    main()
