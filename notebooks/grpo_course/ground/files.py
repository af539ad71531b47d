"""Digests of files, of folders and of the models that come with the course."""

import hashlib
import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

from .paths import REPO

MODELS = REPO / "models"  # those that come with the course
SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")  # a line of SHA256SUMS


class Flaw(Exception):
    """Half a sentence about a stage or a model: what is wrong with it."""


def json_bytes(value) -> bytes:
    """A value as JSON, always the same bytes. Raises ValueError for NaN or infinity."""
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


def list_files(path: Path) -> dict[str, dict]:
    """The entry of every file, by its relative name. Raises Flaw for links and such."""
    entries = {}
    for file in path.rglob("*"):
        name = file.relative_to(path).as_posix()
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            raise Flaw(f"has a link or special file {name!r}")
        if file.is_file():
            entries[name] = file_entry(file)
    return entries


def model_files(path: Path) -> dict[str, dict]:
    """The entries of a model's files: not hidden, no .md; links are followed."""
    entries = {}
    for file in path.rglob("*"):
        parts = file.relative_to(path).parts
        hidden = any(part.startswith(".") for part in parts)
        if file.is_file() and file.suffix != ".md" and not hidden:
            entries["/".join(parts)] = file_entry(file)
    return entries


def sums(path: Path) -> str:
    """What SHA256SUMS beside a model's folder says of it, as `sha256sum` writes it."""
    lines = [f"{e['sha256']}  {path.name}/{n}\n" for n, e in model_files(path).items()]
    return "".join(sorted(lines, key=lambda line: line[64:]))


def check_sums(path: Path) -> dict[str, dict]:
    """`model_files`, if they are those of SHA256SUMS beside the folder; else Flaw.

    The models that come with the course must be listed. Any other folder is checked if
    there is a list with its name, or one that can no longer be read.
    """
    listed = path.parent / "SHA256SUMS"
    text = listed.read_text(errors="replace") if listed.is_file() else ""
    lines = [line for line in map(SUM.fullmatch, text.splitlines()) if line]
    here = f"{path.name}/"
    wanted = {m[2].removeprefix(here): m[1] for m in lines if m[2].startswith(here)}
    found = model_files(path)
    if not (wanted or path.parent == MODELS or listed.exists() and not lines):
        return found
    names = wanted.keys() | found.keys()
    wrong = [n for n in names if found.get(n, {}).get("sha256") != wanted.get(n)]
    if wrong:
        raise Flaw(
            f"needs the base model as it came: {here + min(wrong)!r} is not what "
            f"{listed} says (`git checkout {path.parent.name}` brings it back)"
        )
    return found


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
