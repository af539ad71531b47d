"""Digests of files and folders, JSON under a seal."""

import hashlib
import json
import shutil
from pathlib import Path

DAMAGE = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


class Flaw(Exception):
    """Half a sentence about a stage or a model: what is wrong with it."""


def json_bytes(value) -> bytes:
    """A value as JSON, always the same bytes. ValueError for NaN and infinity."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def digest(value) -> str:
    """sha256 of a value's JSON, 64 hex digits."""
    return hashlib.sha256(json_bytes(value)).hexdigest()


def plain(value: dict) -> dict:
    """A value as JSON gives it back: keys are texts. Raises Flaw for what is none."""
    try:
        return json.loads(json_bytes(value))
    except (TypeError, ValueError) as error:
        raise Flaw(f"has metrics or facts that are not plain JSON ({error})") from None


def write_sealed(path: Path, content: dict) -> None:
    """Write a dict as JSON with a digest of it, so that any change shows."""
    content = plain(content)
    path.write_bytes(json_bytes(content | {"seal": digest(content)}))


def read_sealed(path: Path) -> dict:
    """What `write_sealed` wrote. Raises Flaw where anything was changed."""
    try:
        content = json.loads(raw := path.read_bytes())
        whole = raw == json_bytes(content)  # white space counts, too
        if content.pop("seal") == digest(content) and whole:
            return content
    except DAMAGE:
        pass
    raise Flaw(f"has a damaged {path.name} ({path.parent.name})")


def file_entry(path: Path) -> dict:
    """What a manifest says of a file: its plain sha256, and its size in bytes."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": sha256, "size": path.stat().st_size}


def list_files(path: Path, but: str) -> dict[str, dict]:
    """The entry of every file but one, by relative name. Raises Flaw for any link."""
    found = {file.relative_to(path).as_posix(): file for file in path.rglob("*")}
    for name, file in found.items():
        if file.is_symlink() or not (file.is_file() or file.is_dir()):
            raise Flaw(f"has a link or special file {name!r}")
    names = [name for name, file in found.items() if file.is_file() and name != but]
    return {name: file_entry(found[name]) for name in names}


def gib(size: int) -> str:
    """A number of bytes for a reader, as MiB or GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
