"""Where the course is, and which of the names in its settings are local paths."""

import os
from pathlib import Path

REPO = Path(__file__).resolve().parents[3]


def local_path(name: str) -> Path | None:
    """The path that a model's or data set's name stands for; None for a hub name."""
    if name.startswith((".", "/", "~", "models/")):
        return Path(os.path.abspath(REPO / os.path.expanduser(name)))
    return None


def home() -> Path:
    """Where the course keeps what it makes; a relative COURSE_HOME is in the clone."""
    chosen = os.environ.get("COURSE_HOME", "").strip() or "course-home"
    return REPO / Path(chosen).expanduser()


def can_be_folder(name: str) -> bool:
    """Is this a folder, or can it become one? A relative one is in the repository."""
    path = REPO / os.path.expanduser(name)
    there = next(p for p in (path, *path.parents) if os.path.exists(p))
    return os.path.isdir(there) and not os.path.expanduser(name).startswith("~")
