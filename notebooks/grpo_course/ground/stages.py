"""What passes from notebook to notebook: one checked folder for each stage.

A stage is written once. Its folder (`sft-3f2a91c04b7d`) is named by the digest of what
decides it: settings, parent, base model. It holds an adapter with its tokenizer, or an
export, and `manifest.json`, with the sha256 of every file; it is written beside its
place and renamed, so that it is whole or absent. What is measured of it stands beside
it, in one file (`sft-3f2a91c04b7d.metrics.json`) that another measurement replaces.

    parent = stages.open_stage("template", profile)
    if not stages.finished("sft", profile, parent):
        ...  # train, with output_dir=stages.checkpoint_dir("sft", profile, parent)
        with stages.write_stage("sft", profile, parent) as draft:
            model.save_pretrained(draft.path)
    stage = stages.finished("sft", profile, parent)
    stages.write_metrics(stage, {"accuracy": ...})

Everything lives under `home()`: COURSE_HOME, or the folder course-home of this clone.
"""

import importlib.metadata
import json
import logging
import math
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

from .files import Flaw, check_sums, digest, json_bytes, list_files, remove, sync
from .paths import REPO, local_path
from .profile import Profile
from .rules import EXPORTS

FORMAT = 2
NOTEBOOKS = {  # the stages in order, each with the notebook that makes it
    "base": "01_model_loading.ipynb",
    "template": "02_chat_template.ipynb",
    "sft": "03_sft_warmup.ipynb",
    "grpo": "05_grpo_training.ipynb",
}
ORDER = list(NOTEBOOKS)
NOTEBOOKS |= dict.fromkeys(EXPORTS, "06_export.ipynb")  # each made from grpo
PACKAGES = ["torch", "unsloth", "unsloth_zoo", "transformers", "trl", "peft", "vllm"]
MANIFEST, SEAL = "manifest.json", "checkpoint.json"
PARTS = ("base_model", "settings", "facts", "metrics", "files")  # each a dict
HEX = 12 * "[0-9a-f]"  # ends the name of a stage's folder
DECIDING = ("format", "stage", "parent", "base_model", "settings", "facts")
KEPT = 3  # stages of one name, the latest used; of exports, which are large, one
WAIT = 30  # seconds for another process to write its stage; then it is refused
SPARE = 2**30  # bytes to leave free on a disk

log = logging.getLogger(__name__)
_claimed: dict[Path, FileLock] = {}  # folders of checkpoints, until this process ends


class StageError(RuntimeError):
    """A stage that cannot be used; the message says which notebook to run."""


@dataclass(frozen=True)
class Stage:
    """A stage whose files have been checked against its manifest."""

    name: str
    path: Path
    manifest: dict
    measured: dict | None  # what write_metrics wrote last; None: nothing that is whole

    @property
    def digest(self) -> str:
        """What the stage after this one remembers of it (64 hex digits)."""
        return self.manifest["digest"]

    @property
    def metrics(self) -> dict:
        """What was noted when it was made, and what was measured since."""
        return self.manifest["metrics"] | (self.measured or {})


@dataclass
class Draft:
    """A stage being written: save files in `path`, note in `metrics` how it came."""

    path: Path
    metrics: dict = field(default_factory=dict)


def home() -> Path:
    """Where stages and checkpoints live; a relative COURSE_HOME is in the clone."""
    chosen = os.environ.get("COURSE_HOME", "").strip() or "course-home"
    return REPO / Path(chosen).expanduser()


# --- Opening --------------------------------------------------------------------------


def open_stage(name: str, profile: Profile) -> Stage:
    """The stage with these settings, after checking it and all before it, from base on.

    Of several it is the one that its own notebook opened last. Raises StageError: one
    sentence that says what is wrong and which notebook to run.
    """
    before = _before(name)
    stage = _check(name, profile, open_stage(before, profile) if before else None)
    if stage.measured is None:
        what = f"has no {_metrics_file(stage.path).name} that is whole"
        raise StageError(f"The stage {name} {what}: run {NOTEBOOKS[name]}.")
    return stage


def finished(
    name: str, profile: Profile, parent: Stage | None = None, **facts
) -> Stage | None:
    """The stage if it need not be made again, else None: for its own notebook.

    facts: what decides it besides settings and parent, such as a digest of the data.
    When there are others of its name, a logged warning says how the latest differs.
    """
    try:
        return _check(name, profile, parent, facts)
    except StageError as reason:
        if _folders(name):
            log.warning("To be made: %s", reason)
        return None


def every_stage(root: Path) -> list[Stage]:
    """The stages in a home with their metrics, the one opened last at the end. Their
    files are not checked."""
    found = []
    for path in _folders("*", root):
        with suppress(Flaw, OSError):
            manifest = _read_manifest(path)
            found.append(
                Stage(manifest["stage"], path, manifest, _measured(path, manifest))
            )
    return found


def _check(name, profile, parent, facts: dict | None = None) -> Stage:
    try:
        wanted = _deciding(name, profile, parent, facts)
        path, manifest = _find(wanted)
        files, listed = list_files(path), manifest["files"]
        for file in sorted((files.keys() | listed.keys()) - {MANIFEST}):
            if file not in listed:
                raise Flaw(f"has an extra file {file!r} (if it is yours, move it away)")
            if files.get(file) != listed[file]:
                raise Flaw(f"lost its file {file!r}, or it was changed")
    except (Flaw, OSError) as flaw:
        what = flaw if isinstance(flaw, Flaw) else f"cannot be read ({flaw})"
        raise StageError(f"The stage {name} {what}: run {NOTEBOOKS[name]}.") from None
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(),) * 2)  # so that the latest used is known
    return Stage(name, path, manifest, _measured(path, manifest))


def _find(wanted: dict) -> tuple[Path, dict]:
    """The latest used stage that is as wanted. Raises Flaw if there is none, or before
    it one that cannot be read."""
    folders, why = _folders(wanted["stage"])[::-1], None
    if "facts" in wanted:  # then its name is known
        folders.sort(key=lambda path: path.name != _folder_name(wanted))
    for path in folders:
        manifest = _read_manifest(path)
        difference = _difference(manifest, wanted)
        if not difference:
            return path, manifest
        why = why or difference
    raise Flaw(why or "is missing")


def _folders(name: str, root: Path | None = None) -> list[Path]:
    """The folders of a name, the latest used at the end."""
    files = (root or home()).glob(f"stages/{name}-{HEX}/{MANIFEST}")
    return sorted(
        (file.parent for file in files), key=lambda p: (p.stat().st_mtime_ns, p.name)
    )


def _read_manifest(path: Path) -> dict:
    """The manifest, if it says what write_stage wrote, and in its own folder."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        intact = manifest == _sealed(manifest) and manifest["format"] == FORMAT
        intact = intact and all(isinstance(manifest[part], dict) for part in PARTS)
        intact = (
            intact and path.name == _folder_name(manifest) and not path.is_symlink()
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise Flaw(f"has a damaged or foreign {MANIFEST} in {path.name}")
    return manifest


def _difference(have: dict, want: dict) -> str | None:
    """How a stage differs from the one that is wanted, in half a sentence."""
    old, new = have["settings"], want["settings"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            now = f"the profile now says {new.get(name)!r}"
            return f"was made with {name}={old.get(name)!r}, and {now}"
    one, other = (
        model.get("revision") for model in (have["base_model"], want["base_model"])
    )
    moved = None not in (one, other) and one != other  # one not known fits any other
    if moved or _any_revision(have) != _any_revision(want):
        return f"was made from another {want['base_model']['name']} than the one here"
    if have["parent"] != want["parent"]:
        return f"was not made from the stage {_before(want['stage'])} that is here"
    for name, value in want.get("facts", {}).items():
        if have["facts"].get(name) != value:
            return f"was made with other {name}"
    return None


# --- Writing --------------------------------------------------------------------------


@contextmanager
def write_stage(
    name: str, profile: Profile, parent: Stage | None = None, needed: int = 0, **facts
) -> Iterator[Draft]:
    """Write a stage: yields a Draft to save into, and puts it in place at the end.

    parent: the opened stage before this one, None for base. facts: as for `finished`.
    needed: bytes to be free on the disk. A whole stage that is there already stays;
    after an error nothing is left. Raises StageError when another process writes the
    same stage, the parent is not the stage before, or the disk is full or read-only.
    """
    before = _before(name)
    if before != (parent.name if parent else None):
        raise StageError(f"The stage {name} needs the stage {before} as its parent.")
    with _explained(f"The stage {name}"):
        wanted = _deciding(name, profile, parent, facts)
        path = home() / "stages" / _folder_name(wanted)
        new = path.with_name(f".{name}.new")
        with _lock(new.with_suffix(".lock")):
            try:
                remove(new)  # what a killed process left
                check_disk(name, needed)
                new.mkdir()
                yield (draft := Draft(new))
                _write_manifest(draft, wanted)
                if not _is_whole(name, profile, parent, facts):
                    remove(path)  # damaged
                    os.replace(new, path)
                sync(path.parent)
                _prune(name, path)
            finally:
                with suppress(OSError):  # the next writer removes it, too
                    remove(new)


def write_metrics(stage: Stage, metrics: dict) -> Stage:
    """Keep what was measured of a stage, in place of what was; it stays as it is.

    metrics: plain JSON without NaN. Raises StageError as `write_stage` does.
    """
    file = _metrics_file(stage.path)
    new = file.with_name(f".{stage.name}.metrics.new")
    with _explained(f"The stage {stage.name}"), _lock(new.with_suffix(".lock")):
        metrics = _plain(metrics)
        content = {"stage": stage.digest, "metrics": metrics}
        try:
            if not file.is_file():
                remove(file)
            new.write_bytes(json_bytes(content | {"seal": digest(content)}))
            sync(new)
            os.replace(new, file)
        finally:
            with suppress(OSError):
                remove(new)
    return replace(stage, measured=metrics)


def check_disk(name: str, needed: int) -> None:
    """Raise StageError if `needed` bytes, and some to spare, are not free."""
    free = shutil.disk_usage(
        next(p for p in [home(), *home().parents] if p.exists())
    ).free
    if needed and free < needed + SPARE:
        raise StageError(
            f"The stage {name} needs {gib(needed + SPARE)} of disk and {home()} has "
            f"{gib(free)} free: make room, set COURSE_HOME to a larger disk, or take "
            "it out of COURSE_EXPORTS."
        )


def gib(size: int) -> str:
    """A number of bytes for a reader, as MiB or GiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _write_manifest(draft: Draft, wanted: dict) -> None:
    manifest = wanted | {"packages": package_versions(), "metrics": draft.metrics}
    manifest["files"] = list_files(draft.path)
    if not manifest["files"]:
        raise Flaw("has no files: save the adapter into draft.path")
    (draft.path / MANIFEST).write_bytes(json_bytes(_sealed(_plain(manifest))))
    for file in [*draft.path.rglob("*"), draft.path]:
        sync(file)


def _is_whole(*arguments) -> bool:
    try:
        return bool(_check(*arguments))
    except StageError:
        return False


def _prune(name: str, path: Path) -> None:
    """Let go of the stages of a name that were not used for longest."""
    kept = _folders(name)[-1 if name in EXPORTS else -KEPT :]
    for old in path.parent.glob(f"{name}-{HEX}"):
        if old == path or old in kept:
            continue
        log.warning("Removed %s: of each stage the latest %d are kept.", old.name, KEPT)
        with suppress(OSError):
            (old / MANIFEST).unlink(missing_ok=True)  # first: it is whole or no stage
            remove(old)
            _metrics_file(old).unlink(missing_ok=True)


@cache
def package_versions() -> dict[str, str]:
    """The versions of Python and of the installed packages that decide a result."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn a flaw, a lock that is taken and an error of the disk into a sentence."""
    try:
        yield
    except Flaw as flaw:
        raise StageError(f"{what} {flaw}.") from None
    except Timeout:
        raise StageError(
            f"{what} is being written by another process: wait until it ends, or stop "
            "it (for a notebook: shut its kernel down)."
        ) from None
    except OSError as error:
        raise StageError(
            f"{what} cannot be written ({error}): make room on the disk of {home()}, "
            "or set COURSE_HOME to a folder that takes writes."
        ) from error


def _lock(file: Path) -> FileLock:
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file, timeout=WAIT)


# --- Trainer checkpoints --------------------------------------------------------------


def checkpoint_dir(name: str, profile: Profile, parent: Stage, **facts) -> Path:
    """The trainer's output_dir: another one for every other setting, parent or fact, so
    that a resumed run never continues a different one."""
    path = (
        home() / "checkpoints" / _folder_name(_deciding(name, profile, parent, facts))
    )
    with _explained(f"A checkpoint of {name}"):
        path.mkdir(parents=True, exist_ok=True)
    return path


def seal_checkpoint(folder: Path) -> None:
    """Write down what a checkpoint-N that is complete consists of, file by file.

    To be called when it has been saved (health_callback does). Without its seal, or
    with any file that is not as it says, a checkpoint is not resumed.
    """
    seal = _seal(folder)
    for name in folder.rglob("*"):
        sync(name)
    (folder / SEAL).write_bytes(seal)
    sync(folder / SEAL)
    sync(folder)


def claim_checkpoints(path: Path, steps: float = math.inf) -> None:
    """Make a trainer's output_dir this process's own until it ends, and clear it.

    To be called right before the training. Checkpoints that are not whole are removed
    (saving into one again would mix two saves), and those at `steps`, the end of the
    training, from which Transformers (5.17) would take one step too many. Raises
    StageError where another process trains.
    """
    path = Path(path).resolve()
    with _explained(f"The folder {path}"):
        if path not in _claimed:
            lock = _lock(path / ".lock")
            lock.acquire(timeout=0)
            _claimed[path] = lock
        for step, folder in _checkpoints(path).items():
            if step >= steps or not _is_sealed(folder):
                if step < steps:
                    log.warning("%s was not saved whole: removed.", folder)
                remove(folder)


def latest_checkpoint(path: Path) -> Path | None:
    """The newest whole checkpoint-N in a trainer's output_dir, or None."""
    found = _checkpoints(path)
    whole = (found[step] for step in sorted(found, reverse=True))
    return next(filter(_is_sealed, whole), None)


def _checkpoints(path: Path) -> dict[int, Path]:
    found = Path(path).glob("checkpoint-[1-9]*")
    steps = {folder.name.removeprefix("checkpoint-"): folder for folder in found}
    return {int(step): steps[step] for step in steps if step.isdecimal()}


def _is_sealed(folder: Path) -> bool:
    try:
        return (folder / SEAL).read_bytes() == _seal(folder)
    except (OSError, Flaw):
        return False


def _seal(folder: Path) -> bytes:
    files = list_files(folder)
    files.pop(SEAL, None)
    return json_bytes({"checkpoint": folder.name, "files": files})


# --- What decides a stage -------------------------------------------------------------


def check_base_model(profile: Profile) -> None:
    """Raise StageError, one sentence, if the base model is damaged or not there.

    For notebook 01, before it loads the model: the others open a stage first, which
    checks it. What is on the hub is not looked at.
    """
    with _explained("The course"):
        _base_model(profile.model_name)


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


def _before(name: str) -> str | None:
    """The stage that one is made from. Raises KeyError for a name that is no stage."""
    return (
        "grpo"
        if name in EXPORTS
        else dict(zip(ORDER, [None, *ORDER], strict=False))[name]
    )


def _deciding(name, profile, parent: Stage | None, facts: dict | None) -> dict:
    """The part of a manifest that decides a stage; without facts, any will do."""
    settings = profile.settings_for(name) if name in ORDER else {}
    model = parent.manifest["base_model"] if parent else _base_model(profile.model_name)
    wanted = {
        "format": FORMAT,
        "stage": name,
        "base_model": model,
        "settings": settings,
    }
    wanted["parent"] = parent.digest if parent else None
    return wanted if facts is None else wanted | {"facts": _plain(facts)}


def _base_model(name: str) -> dict:
    """A local model is known by its digest, a hub model by the revision downloaded.

    Raises Flaw where there is no such folder, or the embedded model is damaged.
    """
    path = local_path(name)
    if path is None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, "config.json")
        revision = Path(found).parent.name if isinstance(found, str) else None
        return {"name": name, "digest": None, "revision": revision}
    try:
        files = check_sums(path)
    except OSError as error:
        raise Flaw(f"cannot read its model ({error})") from None
    if not files:
        raise Flaw(f"cannot read its model ({path} holds none)")
    return {"name": name, "digest": digest(files), "revision": None}


def _any_revision(manifest: dict) -> dict:
    return manifest["base_model"] | {"revision": None}


def _folder_name(manifest: dict) -> str:
    deciding = {key: manifest[key] for key in DECIDING}
    deciding["base_model"] = _any_revision(manifest)
    return f"{manifest['stage']}-{digest(deciding)[:12]}"


def _sealed(manifest: dict) -> dict:
    """The manifest with its two digests.

    `digest` is the stage's identity, by which its child knows it: made again with the
    same result, it stays the same. `seal` covers every word of the manifest.
    """
    own = {key: manifest[key] for key in manifest if key not in ("digest", "seal")}
    own["digest"] = digest({key: own[key] for key in (*DECIDING, "files")})
    return own | {"seal": digest(own)}


def _metrics_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.metrics.json")


def _measured(path: Path, manifest: dict) -> dict | None:
    """What write_metrics wrote of this very stage, if it is whole."""
    try:
        found = json.loads(_metrics_file(path).read_bytes())
        content = {"stage": manifest["digest"], "metrics": dict(found["metrics"])}
        whole = found == content | {"seal": digest(content)}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return content["metrics"] if whole else None


def _plain(value: dict) -> dict:
    """A value as JSON gives it back: keys are texts. Raises Flaw for what is none."""
    try:
        return json.loads(json_bytes(value))
    except (TypeError, ValueError) as error:
        raise Flaw(f"has metrics or facts that are not plain JSON ({error})") from None
