"""What works on the course from outside; the course imports nothing of it.

Start a tool from the repository's root: `python -m tools.report.results`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "notebooks"  # where `import grpo_course` finds the helper

if str(FOLDER) not in sys.path:
    sys.path.append(str(FOLDER))
