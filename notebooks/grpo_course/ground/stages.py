"""What passes from notebook to notebook: one checked folder for each stage.

A stage is written once. Its folder (`sft-3f2a91c04b7d`) is named by the digest of what
decides it: settings, parent, base model and facts such as a digest of the data. It is
written beside its place and renamed: whole or absent. Its manifest.json has the sha256
of every file. What is measured stands beside it, in one file that measuring again
replaces. An export is a stage too, made from grpo.

    parent = stages.open_stage("template", profile)
    if not stages.finished("sft", profile, parent):
        ...  # train, with output_dir=checkpoints.folder("sft", profile, parent)
        with stages.write_stage("sft", profile, parent) as draft:
            model.save_pretrained(draft.path)
    sft = stages.finished("sft", profile, parent)
    stages.write_metrics(sft, {"accuracy": ...})
"""

import importlib.metadata
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from filelock import FileLock, Timeout

from . import base_model, manifests
from .files import Flaw, gib, list_files, plain, remove, write_sealed
from .manifests import HEX, MANIFEST, NOTEBOOKS, ORDER, PARENTS, Stage, folders
from .paths import home
from .profile import Profile

PACKAGES = ("torch", "unsloth", "unsloth_zoo", "transformers", "trl", "peft", "vllm")
KEPT = 3  # stages of a name, those used last; of exports, which are large, one
WAIT = 30  # seconds for another process to finish writing
SPARE = 2**30  # bytes to leave free on a disk

log = logging.getLogger(__name__)


class StageError(RuntimeError):
    """A stage that cannot be used; the message says which notebook to run."""


def open_stage(name: str, profile: Profile) -> Stage:
    """The stage with these settings, after checking it and all before it, from base on.

    Of several the one used last. Raises StageError: one sentence that says what is
    wrong and which notebook to run.
    """
    parent = open_stage(PARENTS[name], profile) if name in PARENTS else None
    stage = _check(name, profile, parent)
    if stage.measured is None:
        what = f"has no {stage.metrics_file.name} that is whole"
        raise StageError(f"The stage {name} {what}: run {NOTEBOOKS[name]}.")
    return stage


def finished(name: str, profile: Profile, parent: Stage | None = None, **facts):
    """The Stage if it need not be made again, else None: for its own notebook.

    facts: what decides it besides settings and parent, in plain JSON. A logged warning
    says how the one used last differs, if there is one.
    """
    try:
        return _check(name, profile, parent, facts)
    except StageError as reason:
        if folders(name, home()):
            log.warning("To be made: %s", reason)
        return None


def every_stage(root: Path) -> list[Stage]:
    """The stages in a COURSE_HOME, the one used last at the end. For tools: their files
    are not checked."""
    found = []
    for path in folders("*", root):
        with suppress(Flaw):
            found.append(manifests.read(path))
    return found


@contextmanager
def write_stage(
    name: str, profile: Profile, parent: Stage | None = None, needed: int = 0, **facts
) -> Iterator[SimpleNamespace]:
    """Write a stage: yields a draft, and puts it in place at the end.

    draft.path is the folder to save into, and draft.metrics a dict for notes on how it
    was made. parent, facts: as for `finished`. needed: bytes to be free on the disk. A
    whole stage that is there stays; after an error nothing is left. Raises StageError
    where another process writes, parent is not the stage before, or the disk is full or
    takes no writes.
    """
    if PARENTS.get(name) != (parent.name if parent else None):
        raise StageError(f"The stage {name} needs the stage {PARENTS.get(name)} first.")
    with writing(f"The stage {name}", home() / "stages" / f".{name}.lock") as new:
        wanted = manifests.deciding(name, profile, parent, facts)
        path = new.with_name(manifests.folder_name(wanted))
        check_disk(name, needed)
        new.mkdir()
        yield (draft := SimpleNamespace(path=new, metrics={}))
        if not (files := list_files(new, but=MANIFEST)):
            raise Flaw("has no files: save the adapter into draft.path")
        wanted |= {"metrics": draft.metrics, "packages": _packages(), "files": files}
        write_sealed(new / MANIFEST, wanted)
        try:
            _check(name, profile, parent, facts)
        except StageError:
            remove(path)  # damaged, if it is there
            os.replace(new, path)
        kept = {path, *folders(name, home())[-KEPT if name in ORDER else -1 :]}
        for old in {*path.parent.glob(f"{name}-{HEX}")} - kept:
            log.warning("Removed %s: those used last are kept.", old.name)
            with suppress(OSError):
                (old / MANIFEST).unlink(missing_ok=True)  # first: without it, no stage
                remove(old)
                remove(old.with_name(f"{old.name}.metrics.json"))


def write_metrics(stage: Stage, metrics: dict) -> Stage:
    """Keep what was measured of a stage, in place of what was; it stays as it is.

    metrics: plain JSON without NaN. Raises StageError as `write_stage` does.
    """
    file = stage.metrics_file
    lock = file.with_name(f".{stage.name}.metrics.lock")
    with writing(f"The stage {stage.name}", lock) as new:
        write_sealed(new, {"stage": stage.digest, "metrics": metrics})
        if not file.is_file():
            remove(file)
        os.replace(new, file)
    return replace(stage, measured=plain(metrics))


@contextmanager
def writing(what: str, lock: Path) -> Iterator[Path]:
    """One process at a time, and a place to write in; all errors become a sentence."""
    new = lock.with_suffix(".new")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=WAIT):
            remove(new)  # what a killed process left
            try:
                yield new
            finally:
                with suppress(OSError):  # the next one removes it, too
                    remove(new)
    except Timeout:
        advice = "wait until it ends, or stop it (a notebook: shut its kernel down)"
        problem = f"is being written by another process: {advice}"
        raise StageError(f"{what} {problem}.") from None
    except Flaw as flaw:
        raise StageError(f"{what} {flaw}.") from None
    except OSError as error:
        advice = "make room there, or set COURSE_HOME to a folder that takes writes"
        problem = f"cannot be written ({error}) in {home()}: {advice}"
        raise StageError(f"{what} {problem}.") from error


def check_disk(name: str, needed: int) -> None:
    """Raise StageError if `needed` bytes, and some to spare, are not free."""
    there = next(path for path in (home(), *home().parents) if path.exists())
    free, needed = shutil.disk_usage(there).free, needed and needed + SPARE
    if free < needed:
        problem = f"needs {gib(needed)} of disk and {home()} has {gib(free)} free"
        advice = "make room, take a larger COURSE_HOME or fewer COURSE_EXPORTS"
        raise StageError(f"The stage {name} {problem}: {advice}.")


def check_base_model(profile: Profile) -> None:
    """Raise StageError, one sentence, if the base model is damaged or not there.

    For notebook 01, before it loads the model; opening a stage checks it, too.
    """
    try:
        base_model.identity(profile.model_name)
    except Flaw as flaw:
        raise StageError(f"The course {flaw}.") from None


def _check(name, profile, parent, facts: dict | None = None) -> Stage:
    try:
        stage = _find(manifests.deciding(name, profile, parent, facts))
        files, listed = list_files(stage.path, MANIFEST), stage.manifest["files"]
        for file in sorted(files.keys() | listed.keys()):
            if file not in listed:
                raise Flaw(f"has an extra file {file!r} (if it is yours, move it away)")
            if files.get(file) != listed[file]:
                raise Flaw(f"lost its file {file!r}, or it was changed")
    except (Flaw, OSError) as flaw:
        what = flaw if isinstance(flaw, Flaw) else f"cannot be read ({flaw})"
        raise StageError(f"The stage {name} {what}: run {NOTEBOOKS[name]}.") from None
    with suppress(OSError):
        os.utime(stage.path, ns=(time.time_ns(),) * 2)  # it is the one used last
    return stage


def _find(wanted: dict) -> Stage:
    """The stage used last that is as wanted; with facts, the one of that name."""
    found, why = folders(wanted["stage"], home())[::-1], []
    if "facts" in wanted:
        found.sort(key=lambda path: path.name != manifests.folder_name(wanted))
    for path in found:
        stage = manifests.read(path)  # if it cannot be read, it may be the one: Flaw
        if not (how := manifests.difference(stage.manifest, wanted)):
            return stage
        why.append(how)
    raise Flaw(why[0] if why else "is missing")


@cache
def _packages() -> dict[str, str]:
    """The versions of Python and of the installed packages that decide a result."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
