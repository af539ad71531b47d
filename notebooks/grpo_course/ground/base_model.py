"""Is the base model the one it was? By the digest of its files, or a hub's revision."""

import re
from pathlib import Path

from .files import Flaw, digest, file_entry
from .paths import REPO, local_path

MODELS = REPO / "models"  # those that come with the course
SUM = re.compile(r"([0-9a-f]{64}) [ *](.+)")  # a line of SHA256SUMS


def identity(name: str) -> dict:
    """A local model is known by its digest, a hub model by the revision downloaded."""
    path = local_path(name)
    if path is None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "config.json")
        revision = Path(found).parent.name if isinstance(found, str) else None
        return {"base_model": {"name": name, "digest": None}, "revision": revision}
    try:
        files = check_sums(path)
    except OSError as error:
        raise Flaw(f"cannot read its model ({error})") from None
    if not files:
        raise Flaw(f"cannot read its model ({path} holds none)")
    return {"base_model": {"name": name, "digest": digest(files)}, "revision": None}


def model_files(path: Path) -> dict[str, dict]:
    """The entries of a model's files: links are followed, hidden and .md left out."""
    found = {file.relative_to(path).as_posix(): file for file in path.rglob("*")}
    names = [name for name in found if not re.search(r"(^|/)\.|\.md\Z", name)]
    return {name: file_entry(found[name]) for name in names if found[name].is_file()}


def sums(path: Path) -> str:
    """What SHA256SUMS beside a model's folder says of it, as `sha256sum` writes it."""
    entries = sorted(model_files(path).items())
    return "".join(f"{e['sha256']}  {path.name}/{name}\n" for name, e in entries)


def check_sums(path: Path) -> dict[str, dict]:
    """`model_files`, if they are those of SHA256SUMS beside the folder; else Flaw.

    The models that come with the course must be listed. Any other folder is checked if
    there is a list with its name, or one that can no longer be read.
    """
    listed, here, found = path.parent / "SHA256SUMS", f"{path.name}/", model_files(path)
    text = listed.read_text(errors="replace") if listed.is_file() else ""
    lines = [line for line in map(SUM.fullmatch, text.splitlines()) if line]
    wanted = {m[2].removeprefix(here): m[1] for m in lines if m[2].startswith(here)}
    have = {name: entry["sha256"] for name, entry in found.items()}
    if wanted or path.parent == MODELS or listed.exists() and not lines:
        for name in sorted(name for name, _ in have.items() ^ wanted.items()):
            raise Flaw(
                f"needs the base model as it came: {here + name!r} is not what "
                f"{listed} says (`git checkout {path.parent.name}` brings it back)"
            )
    return found
