"""Digests of files and folders, and the few file operations that stages need."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .paths import REPO

MODELS = REPO / "models"  # those that come with the course
SUM = re.compile(r"[0-9a-f]{64} [ *]")  # how a line of SHA256SUMS begins


class Flaw(Exception):
    """Half a sentence about a folder: what is wrong with it."""


class Busy(Exception):
    """Half a sentence about a folder: another process writes it."""


def json_bytes(value) -> bytes:
    """The one way to write a value as JSON. Raises ValueError for NaN and infinity."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False)
    return text.encode() + b"\n"


def digest(value) -> str:
    """sha256 of a value's JSON, 64 hex digits."""
    return hashlib.sha256(json_bytes(value)).hexdigest()


def file_entry(path: Path) -> dict:
    """What a manifest says of a file: its plain sha256, and its size in bytes."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": sha256, "size": path.stat().st_size}


def folder_digest(path: Path) -> str:
    """sha256 over the names and contents of a model's files (not hidden, not .md).

    Raises FileNotFoundError when there are none.
    """
    entries = _model_files(Path(path))
    if not entries:
        raise FileNotFoundError(f"{path} holds no model")
    return digest(entries)


def _model_files(path: Path) -> dict[str, dict]:
    entries = {}
    for file in path.rglob("*"):
        parts = file.relative_to(path).parts
        hidden = any(part.startswith(".") for part in parts)
        if file.is_file() and file.suffix != ".md" and not hidden:
            entries["/".join(parts)] = file_entry(file)
    return entries


def sums(path: Path) -> str:
    """What SHA256SUMS beside a model's folder says of it, as `sha256sum` writes it."""
    found = _model_files(path)
    lines = [f"{found[name]['sha256']}  {path.name}/{name}\n" for name in sorted(found)]
    return "".join(lines)


def check_sums(path: Path) -> None:
    """Raise Flaw if a model's files are not those of SHA256SUMS beside its folder.

    The models that come with the course must be listed. Any other folder is checked if
    there is a list with its name, or one that can no longer be read.
    """
    listed = path.parent / "SHA256SUMS"
    text = listed.read_text(errors="replace") if listed.is_file() else ""
    lines = text.splitlines(keepends=True)
    wanted = {line for line in lines if f"  {path.name}/" in line}
    lost = listed.exists() and not any(map(SUM.match, lines))
    if not (wanted or lost or path.parent == MODELS):
        return
    found = set(sums(path).splitlines(keepends=True))
    if wanted != found:
        name = min(line.split("/", 1)[1].strip() for line in wanted ^ found)
        raise Flaw(
            f"needs the base model as it came: {path.name}/{name} is not what "
            f"{listed} says (`git checkout {path.parent.name}` brings it back)"
        )


def list_files(path: Path) -> set[str]:
    """The relative names of all files. Raises Flaw for a link or a special file."""
    names = set()
    for entry in path.rglob("*"):
        name = entry.relative_to(path).as_posix()
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise Flaw(f"has a link or special file {name!r}")
        if entry.is_file():
            names.add(name)
    return names


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """An empty folder that becomes `path` at the end, or is removed after an error.

    What stands at `path` stays until then. A process killed at any moment leaves the
    old folder or the new one, and rubbish beside it that `settle` or the next
    replacement clears away. Raises Busy while another process does the same; OSError.
    """
    with _locked(path):
        new = _beside(path, "new")
        remove(new)  # what a killed process left
        new.mkdir()
        try:
            yield new
            for file in [*new.rglob("*"), new]:
                sync(file)
            _swap(path, new)
        finally:
            with suppress(OSError):  # the next replacement removes it, too
                remove(new)


def settle(path: Path) -> None:
    """Finish or undo what a process killed in `replacement` left. Raises Busy."""
    if os.path.lexists(_beside(path, "old")):
        with _locked(path):
            pass


def _swap(path: Path, new: Path) -> None:
    """Killed before the second rename, the old folder comes back; after it, it goes."""
    try:
        if os.path.lexists(path):
            os.replace(path, _beside(path, "old"))
        os.replace(new, path)
    finally:
        _settle_locked(path)
        sync(path.parent)


def _settle_locked(path: Path) -> None:
    old = _beside(path, "old")
    if os.path.lexists(path):
        remove(old)
    elif os.path.lexists(old):
        os.replace(old, path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; it starts from a settled folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_beside(path, "lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise Busy("is being written by another process: wait until it ends") from None
    try:
        _settle_locked(path)
        yield
    finally:
        lock.release()


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{kind}")


def sync(path: Path) -> None:
    """Ask the disk to keep a file or folder, where the file system can."""
    with suppress(OSError):  # some mounted drives cannot
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
