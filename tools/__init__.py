"""What works on the course from outside; the course imports nothing of it.

Start a tool from the repository's root: `python -m tools.report.results`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"  # where `import grpo_course` finds the helper

if str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in a folder that need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)
