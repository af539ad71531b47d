"""What a stage says of itself, in its manifest, and what decides which stage it is."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from .base_model import identity
from .files import DAMAGE, Flaw, digest, plain, read_sealed
from .rules import EXPORTS

NOTEBOOKS = {  # the stages in order, each with the notebook that makes it
    "base": "01_model_loading.ipynb",
    "template": "02_chat_template.ipynb",
    "sft": "03_sft_warmup.ipynb",
    "grpo": "05_grpo_training.ipynb",
}
ORDER = list(NOTEBOOKS)
NOTEBOOKS |= dict.fromkeys(EXPORTS, "06_export.ipynb")  # each made from grpo
PARENTS = dict.fromkeys(EXPORTS, "grpo") | dict(zip(ORDER[1:], ORDER, strict=False))
MANIFEST, FORMAT = "manifest.json", 3
DECIDING = ("format", "stage", "parent", "base_model", "settings", "facts")
IDENTITY = (*DECIDING, "revision", "files")
HEX = 12 * "[0-9a-f]"  # ends the name of a stage's folder


@dataclass(frozen=True)
class Stage:
    """A stage, as its manifest tells it."""

    name: str
    path: Path
    manifest: dict
    measured: dict | None = None  # None: nothing, or not whole

    @property
    def digest(self) -> str:
        """What the stage after this one remembers of it (64 hex digits); made again
        with the same result, it stays the same."""
        return digest({key: self.manifest[key] for key in IDENTITY})

    @property
    def metrics(self) -> dict:
        """What was noted when it was made, and what was measured since."""
        return self.manifest["metrics"] | (self.measured or {})

    @property
    def metrics_file(self) -> Path:
        return self.path.with_name(f"{self.path.name}.metrics.json")


def folders(name: str, root: Path) -> list[Path]:
    files = root.glob(f"stages/{name}-{HEX}/{MANIFEST}")
    return sorted((file.parent for file in files), key=lambda p: p.stat().st_mtime_ns)


def read(path: Path) -> Stage:
    """A stage by its manifest, if that is whole and in its own folder."""
    told = read_sealed(path / MANIFEST)
    try:
        parts = ("settings", "facts", "metrics", "files")
        stage = Stage(told["stage"], path, told | {p: dict(told[p]) for p in parts})
        known = told["format"] == FORMAT and path.name == folder_name(told)
        known = known and len(stage.digest) == 64
    except DAMAGE:
        known = False
    if not known or path.is_symlink():
        raise Flaw(f"has a foreign {MANIFEST} ({path.name})")
    with suppress(Flaw, *DAMAGE):
        found = read_sealed(stage.metrics_file)
        if found["stage"] == stage.digest:
            return replace(stage, measured=dict(found["metrics"]))
    return stage


def difference(have: dict, want: dict) -> str | None:
    """How a stage differs from the one that is wanted, in half a sentence."""
    old, new = have["settings"], want["settings"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            now = f"the profile now says {new.get(name)!r}"
            return f"was made with {name}={old.get(name)!r}, and {now}"
    revisions = {str(have["revision"]), str(want["revision"])} - {"None"}
    if have["base_model"] != want["base_model"] or len(revisions) > 1:
        return "was made from another base model than the one here"
    if have["parent"] != want["parent"]:
        return f"was not made from the stage {PARENTS.get(want['stage'])} that is here"
    if have["facts"] != want.get("facts", have["facts"]):
        return f"was made with other {' or '.join(want['facts'])}"
    return None


def deciding(name, profile, parent: Stage | None, facts: dict | None) -> dict:
    """The part of a manifest that decides what a stage is; facts=None: any will do."""
    model = parent.manifest if parent else identity(profile.model_name)
    wanted = {
        "format": FORMAT,
        "stage": name,
        "parent": parent.digest if parent else None,
        "base_model": model["base_model"],
        "revision": model["revision"],  # one that is not known fits any other
        "settings": profile.settings_for(name) if name in ORDER else {},
    }
    return wanted if facts is None else wanted | {"facts": plain(facts)}


def folder_name(manifest: dict) -> str:
    """The name of a stage's folder, by what decides it."""
    return f"{manifest['stage']}-{digest({k: manifest[k] for k in DECIDING})[:12]}"
