"""What passes from notebook to notebook: one checked folder for each stage.

A stage is a folder with an adapter, its tokenizer, and `manifest.json`, which says what
the stage was made from, with which settings, how it scored, and the sha256 of every
file. It is written beside its final place and renamed, so that it is whole or absent.
A notebook opens the stage before its own and makes its own:

    parent = stages.open_stage("template", profile)
    settings = profile.settings_for("sft")
    if not stages.finished("sft", parent=parent, settings=settings):
        ...  # train, with output_dir=stages.checkpoint_dir("sft", settings, parent)
        with stages.write_stage("sft", parent=parent, settings=settings) as draft:
            model.save_pretrained(draft.path)
            draft.metrics["accuracy"] = ...
    stage = stages.open_stage("sft", profile)

Everything lives under `home()`: COURSE_HOME, or the folder course-home of this clone.
"""

import importlib.metadata
import json
import logging
import math
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from .paths import REPO, local_path
from .files import (
    Busy,
    Flaw,
    check_sums,
    digest,
    file_entry,
    folder_digest,
    json_bytes,
    list_files,
    remove,
    replacement,
    settle,
    sync,
)
from .profile import Profile

FORMAT = 1
NOTEBOOKS = {  # the stages in order, each with the notebook that makes it
    "base": "01_model_loading.ipynb",
    "template": "02_chat_template.ipynb",
    "sft": "03_sft_warmup.ipynb",
    "grpo": "05_grpo_training.ipynb",
    "export": "06_export.ipynb",
}
ORDER = list(NOTEBOOKS)
PACKAGES = ["torch", "unsloth", "unsloth_zoo", "transformers", "trl", "peft", "vllm"]
MANIFEST = "manifest.json"
PARTS = ("base_model", "settings", "metrics", "files")  # of a manifest, each a dict
SEAL = "checkpoint.json"  # in a trainer's checkpoint, what it consists of

log = logging.getLogger(__name__)


class StageError(RuntimeError):
    """A stage that cannot be used; the message says which notebook to run."""


@dataclass(frozen=True)
class Stage:
    """A stage whose files have been checked against its manifest."""

    name: str
    path: Path
    manifest: dict

    @property
    def digest(self) -> str:
        """What the stage after this one remembers of it (64 hex digits)."""
        return self.manifest["digest"]

    @property
    def metrics(self) -> dict:
        return self.manifest["metrics"]


@dataclass
class Draft:
    """A stage being written: save files in `path`, fill `metrics` and `facts`."""

    path: Path
    facts: dict
    metrics: dict = field(default_factory=dict)


def home() -> Path:
    """Where stages and checkpoints live; a relative COURSE_HOME is in the clone."""
    chosen = os.environ.get("COURSE_HOME", "").strip() or "course-home"
    return REPO / Path(chosen).expanduser()


# --- Opening --------------------------------------------------------------------------


def open_stage(name: str, profile: Profile | None = None) -> Stage:
    """The stage, after checking it and all before it, from base on.

    With a profile, each must also have been made with that profile's settings. Raises
    StageError: one sentence that says what is wrong and which notebook to run.
    """
    stage = None
    for step in ORDER[: ORDER.index(name) + 1]:
        stage = _check(step, stage, profile.settings_for(step) if profile else None)
    return stage


def finished(name: str, *, parent: Stage | None, settings: dict) -> Stage | None:
    """The stage if it need not be made again, else None: for its own notebook.

    When there is one, but damaged, or made from another parent or with other settings,
    a logged warning says so.
    """
    try:
        return _check(name, parent, settings)
    except StageError as reason:
        if os.path.lexists(_place(name)):
            log.warning("Making it again: %s", reason)
        return None


def _check(name: str, parent: Stage | None, settings: dict | None) -> Stage:
    path = _place(name)
    try:
        settle(path)
        manifest = _read_manifest(path)
        if manifest["stage"] != name:
            raise Flaw(f"is really the stage {manifest['stage']}")
        if manifest["parent"] != _identity(parent):
            before = parent.name if parent else None
            raise Flaw(f"was not made from the stage {before} that is here")
        if settings is not None and manifest["settings"] != settings:
            raise Flaw(_difference(manifest["settings"], settings))
        _check_files(path, manifest["files"])
        model = manifest["base_model"]  # checked once: its children name it by digest
        if parent is None and _differ(model, _base_model(model["name"])):
            raise Flaw(f"was made from another {model['name']} than the one here")
    except Busy as busy:
        raise StageError(f"The stage {name} {busy}.") from None
    except (Flaw, OSError) as flaw:
        what = flaw if isinstance(flaw, Flaw) else f"cannot be read ({flaw})"
        raise StageError(f"The stage {name} {what}: run {NOTEBOOKS[name]}.") from None
    return Stage(name, path, manifest)


def _read_manifest(path: Path) -> dict:
    """The manifest, if it is byte for byte what write_stage wrote."""
    if not os.path.lexists(path):
        raise Flaw("is missing")
    file = path / MANIFEST
    if path.is_symlink() or not file.is_file():
        raise Flaw(f"is no folder with a {MANIFEST}")
    try:
        raw = file.read_bytes()
        manifest = json.loads(raw)
        intact = raw == json_bytes(manifest) == json_bytes(_sealed(manifest))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        intact = False
    typed = intact and all(isinstance(manifest.get(name), dict) for name in PARTS)
    if not typed or manifest.get("format") != FORMAT:
        raise Flaw(f"has a {MANIFEST} that is damaged or of another version")
    return manifest


def _check_files(path: Path, expected: dict) -> None:
    found = list_files(path) - {MANIFEST}
    for file in sorted(expected.keys() ^ found):
        if file in found:
            raise Flaw(f"has an extra file {file!r} (if it is yours, move it away)")
        raise Flaw(f"lost its file {file!r}")
    for file in sorted(found):
        if file_entry(path / file) != expected[file]:
            raise Flaw(f"has a changed file {file!r}")


def _difference(old: dict, new: dict) -> str:
    name = min(n for n in old.keys() | new.keys() if old.get(n) != new.get(n))
    now = f"the profile now says {new.get(name)!r}"
    return f"was made with {name}={old.get(name)!r}, and {now}"


# --- Writing --------------------------------------------------------------------------


@contextmanager
def write_stage(
    name: str, *, parent: Stage | None, settings: dict, **facts
) -> Iterator[Draft]:
    """Write a stage: yields a Draft to save into, and puts it in place at the end.

    parent: the opened stage before this one, None for base. settings: the profile's
    `settings_for(name)`. facts: more to record, as plain JSON without NaN. An older
    stage stays until the new one is complete; after an error nothing is left. Raises
    StageError when another process writes the same stage, the parent is not the stage
    before, or the disk is full or takes no writes.
    """
    before = ORDER[ORDER.index(name) - 1] if name != ORDER[0] else None
    if before != (parent.name if parent else None):
        raise StageError(f"The stage {name} needs the stage {before} as its parent.")
    with explained(f"The stage {name}"), replacement(_place(name)) as path:
        draft = Draft(path, facts)
        try:
            yield draft
            _write_manifest(draft, name, parent, settings)
        except Flaw as flaw:
            raise StageError(f"The stage {name} {flaw}.") from None


@contextmanager
def explained(what: str, kind: type[Exception] = StageError) -> Iterator[None]:
    """Turn a busy folder, or an error of the disk, into a sentence on what to do."""
    try:
        yield
    except Timeout:  # of a lock: the disk is in order
        raise
    except Busy as busy:
        raise kind(f"{what} {busy}.") from None
    except OSError as error:
        raise kind(
            f"{what} cannot be written ({error}): make room on the disk of {home()}, "
            "or set COURSE_HOME to a folder that takes writes."
        ) from error


def _write_manifest(draft: Draft, name: str, parent: Stage | None, settings: dict):
    model = parent.manifest["base_model"] if parent else None
    names = list_files(draft.path) - {MANIFEST}
    manifest = {
        "format": FORMAT,
        "stage": name,
        "parent": _identity(parent),
        "base_model": model or _base_model(settings["model_name"]),
        "settings": settings,
        "facts": draft.facts,
        "packages": package_versions(),
        "metrics": draft.metrics,
        "files": {f: file_entry(draft.path / f) for f in names},
    }
    if not manifest["files"]:
        raise Flaw("has no files: save the adapter into draft.path")
    try:
        text = json_bytes(_sealed(json.loads(json_bytes(manifest))))
    except (TypeError, ValueError) as error:
        raise Flaw(f"has facts or metrics that are not plain JSON ({error})") from None
    (draft.path / MANIFEST).write_bytes(text)


@cache
def package_versions() -> dict[str, str]:
    """The versions of Python and of the installed packages that decide a result."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


# --- Trainer checkpoints --------------------------------------------------------------


def checkpoint_dir(name: str, settings: dict, parent: Stage) -> Path:
    """The trainer's output_dir: another one for every other setting or parent, so that
    a resumed run never continues a different one."""
    key = digest({"settings": settings, "parent": parent.digest})[:12]
    path = home() / "checkpoints" / f"{name}-{key}"
    with explained(f"A checkpoint of {name}"):
        path.mkdir(parents=True, exist_ok=True)
    return path


def seal_checkpoint(folder: Path) -> None:
    """Write down what a checkpoint-N that is complete consists of, file by file.

    To be called when it has been saved (health_callback does). Without its seal, or
    with any file that is not as it says, a checkpoint is not resumed.
    """
    names = list_files(folder) - {SEAL}
    for name in names:
        sync(folder / name)
    (folder / SEAL).write_bytes(_seal(folder))
    sync(folder / SEAL)
    sync(folder)


def latest_checkpoint(path: Path, steps: float = math.inf) -> Path | None:
    """The newest whole checkpoint-N in a trainer's output_dir, or None.

    steps: the `max_steps` of the training. From a checkpoint at its end Transformers
    (5.17) would take one step too many, so that one does not count.

    Newer ones are removed (those that are not whole with a logged warning): saving into
    one again would mix two saves. To be called right before the training: from then on
    the folder is this process's own until it ends, and StageError is raised in any
    other.
    """
    _claim(Path(path))
    found = {}
    for folder in Path(path).glob("checkpoint-*"):
        if step := re.fullmatch(r"checkpoint-([1-9][0-9]*)", folder.name):
            found[int(step[1])] = folder
    for step in sorted(found, reverse=True):
        whole = _is_sealed(found[step])
        if whole and step < steps:
            return found[step]
        if not whole:
            log.warning("%s was not saved whole, or was changed: removed.", found[step])
        remove(found[step])
    return None


def _is_sealed(folder: Path) -> bool:
    try:
        return (folder / SEAL).read_bytes() == _seal(folder)
    except (OSError, Flaw):
        return False


def _seal(folder: Path) -> bytes:
    names = list_files(folder) - {SEAL}
    files = {name: file_entry(folder / name) for name in names}
    return json_bytes({"checkpoint": folder.name, "files": files})


_claimed: dict[Path, FileLock] = {}  # held until this process ends


def _claim(path: Path) -> None:
    """Take a trainer's output_dir for this process; again in the same one is fine."""
    path = path.resolve()
    if path in _claimed:
        return
    lock = FileLock(path / ".lock", timeout=0)
    try:
        with explained("A checkpoint"):
            path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
    except Timeout:
        raise StageError(
            f"Another process is training in {path}: wait until it ends, or stop it "
            "(for a notebook: shut its kernel down)."
        ) from None
    _claimed[path] = lock


# --- Digests --------------------------------------------------------------------------


def adapter_is_zero(path: Path) -> bool:
    """Whether the adapter in a folder changes nothing: every lora_B weight is 0.

    (lora_A starts random, so it proves nothing.) Raises StageError without any lora_B.
    """
    from safetensors import safe_open

    file = Path(path) / "adapter_model.safetensors"
    with safe_open(file, framework="pt") as tensors:
        names = [name for name in tensors.keys() if "lora_B" in name]  # noqa: SIM118
        if not names:
            raise StageError(f"{file} has no lora_B weights: it is no LoRA adapter.")
        return not any(tensors.get_tensor(name).any() for name in names)


def check_base_model(profile: Profile) -> None:
    """Raise StageError, one sentence, if the base model is damaged or not there.

    For notebook 01, before it loads the model: the others open a stage first, which
    checks it. What is on the hub is not looked at.
    """
    try:
        _base_model(profile.model_name)
    except (Flaw, OSError) as flaw:
        what = flaw if isinstance(flaw, Flaw) else f"cannot read its model ({flaw})"
        raise StageError(f"The course {what}.") from None


def _base_model(name: str) -> dict:
    """A local model is known by its digest, a hub model by the revision downloaded.

    Raises Flaw for the embedded model when it is not the one of the repository.
    """
    path = local_path(name)
    if path is None:
        return {"name": name, "digest": None, "revision": _revision(name)}
    check_sums(path)
    return {"name": name, "digest": folder_digest(path), "revision": None}


def _revision(name: str) -> str | None:
    """The commit of a hub model in this machine's cache; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent.name if isinstance(found, str) else None


def _differ(model: dict, now: dict) -> bool:
    """Are these two base models? A revision that is not known fits any other."""
    known = {model.get("revision"), now["revision"]} - {None}
    same = all(model[key] == now[key] for key in ("name", "digest"))
    return not same or len(known) > 1


def _identity(stage: Stage | None) -> dict | None:
    return {"stage": stage.name, "digest": stage.digest} if stage else None


def _sealed(manifest: dict) -> dict:
    """The manifest with its two digests.

    `digest` is the stage's identity, by which its child knows it: made again with the
    same result, it stays the same. `seal` covers every word of the manifest.
    """
    own = {key: manifest[key] for key in manifest if key not in ("digest", "seal")}
    identity = ("stage", "parent", "base_model", "settings", "files")
    own["digest"] = digest({key: own[key] for key in identity})
    return own | {"seal": digest(own)}


def _place(name: str) -> Path:
    return home() / "stages" / name
