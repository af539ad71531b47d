"""Where exports live: one folder for each format, whole or absent, like a stage.

An export may be large, so it is kept beside the stages, in `stages.home()/exports/`,
and the stage "export" remembers its digest. In each folder, export.json says from which
stage it was made, with the sha256 of every file.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from . import stages
from .files import Flaw, digest, file_entry, json_bytes, list_files, replacement

RECORD = "export.json"
SPARE = 2**30  # bytes to leave free on a disk


class ExportError(RuntimeError):
    """An export that cannot be made; the message says what to do."""


def folder(name: str) -> Path:
    """Where the export of this name is, or will be."""
    return stages.home() / "exports" / name


def finished(name: str, parent: stages.Stage) -> dict | None:
    """What there is to remember of an export, if it is whole and made from `parent`.

    A dict with folder (relative to `stages.home()`), digest and bytes; None when the
    export has to be made (again).
    """
    path = folder(name)
    try:
        record = _record(path, parent)
        if (path / RECORD).read_bytes() != json_bytes(record):
            return None
    except (Flaw, OSError):
        return None
    return {
        "folder": f"exports/{name}",
        "digest": digest(record["files"]),
        "bytes": sum(entry["size"] for entry in record["files"].values()),
    }


@contextmanager
def write_export(name: str, parent: stages.Stage, needed: int) -> Iterator[Path]:
    """Write an export: yields an empty folder, and puts it in place at the end.

    needed: bytes that writing takes at most. An older export stays until the new one is
    whole. Raises ExportError when another process writes the same export, or the disk
    is full (before anything is written, if it has less than needed) or takes no writes;
    after an error nothing is left.
    """
    what = f"The export {name}"
    with stages.explained(what, ExportError), replacement(folder(name)) as draft:
        check_disk(name, needed)
        yield draft
        try:
            record = _record(draft, parent)
        except Flaw as flaw:
            raise ExportError(f"{what} {flaw}.") from None
        if not record["files"]:
            raise ExportError(f"{what} wrote no file.")
        (draft / RECORD).write_bytes(json_bytes(record))


def check_disk(name: str, needed: int) -> None:
    """Raise ExportError if `needed` bytes, and some to spare, are not free."""
    free = shutil.disk_usage(stages.home()).free
    if free < needed + SPARE:
        raise ExportError(
            f"The export {name} needs {gib(needed + SPARE)} of disk and "
            f"{stages.home()} has {gib(free)} free: make room, set COURSE_HOME to a "
            "larger disk, or take it out of COURSE_EXPORTS."
        )


def gib(size: int) -> str:
    """A number of bytes for a reader, as MiB or GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _record(path: Path, parent: stages.Stage) -> dict:
    files = list_files(path) - {RECORD}
    return {
        "parent": parent.digest,
        "files": {file: file_entry(path / file) for file in sorted(files)},
    }
