"""Checkpoints of a training, so that a killed one goes on where it was."""

import math
from contextlib import ExitStack
from pathlib import Path

from .files import Flaw, list_files, read_sealed, remove, write_sealed
from .manifests import Stage, deciding, folder_name
from .paths import home
from .profile import Profile
from .stages import log, writing

SEAL = "checkpoint.json"
_claimed: dict[Path, ExitStack] = {}  # locks, held until this process ends


def folder(name: str, profile: Profile, parent: Stage, **facts) -> Path:
    """The trainer's output_dir: another one for all that makes another stage, so that a
    resumed run never continues a different one."""
    return home() / "checkpoints" / folder_name(deciding(name, profile, parent, facts))


def seal(checkpoint: Path) -> None:
    """Write down what a checkpoint-N consists of. For a callback, when it is saved:
    without its seal, or with any file that is not as it says, it is not resumed."""
    write_sealed(checkpoint / SEAL, _content(checkpoint))


def claim(path: Path, steps: float = math.inf) -> None:
    """Make a trainer's output_dir this process's own until it ends, and clear it.

    To be called right before the training. What was not saved whole is removed, since
    saving into it again would mix two saves; so is what was saved at `steps`, the end,
    from where Transformers (5.17) would take one step too many. Raises StageError where
    another process trains.
    """
    path = Path(path).resolve()
    with ExitStack() as lock:
        if path not in _claimed:
            lock.enter_context(writing(f"The folder {path}", path / ".lock"))
        for step, checkpoint in _all(path).items():
            if step >= steps or not _is_whole(checkpoint):
                log.warning("Removed %s: not whole, or at the end.", checkpoint)
                remove(checkpoint)
        _claimed.setdefault(path, lock.pop_all())


def latest(path: Path) -> Path | None:
    """The newest whole checkpoint-N in a trainer's output_dir, or None."""
    found = _all(path)
    return next((found[n] for n in sorted(found)[::-1] if _is_whole(found[n])), None)


def _all(path: Path) -> dict[int, Path]:
    found = {p.name.partition("-")[2]: p for p in Path(path).glob("checkpoint-[1-9]*")}
    return {int(step): found[step] for step in found if step.isdecimal()}


def _is_whole(checkpoint: Path) -> bool:
    try:
        return read_sealed(checkpoint / SEAL) == _content(checkpoint)
    except (OSError, Flaw):
        return False


def _content(checkpoint: Path) -> dict:
    return {"checkpoint": checkpoint.name, "files": list_files(checkpoint, but=SEAL)}
