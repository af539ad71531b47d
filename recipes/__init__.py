"""Beyond one GPU: three ways to train the course's stage `grpo`; see README.md."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "notebooks"))  # where grpo_course is
