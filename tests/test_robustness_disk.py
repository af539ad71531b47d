"""The disk fails at every write, and the base model is damaged in every file.

An error of the disk is injected with an audit hook, in a forked process: Python asks
the hook before it opens, makes, renames or removes anything. (Permissions would not do:
root may write everywhere.)
"""

import errno
import os
import resource
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_stages import (  # noqa: F401
    DAMAGES,
    SLOW,
    WHOLE,
    course,
    every_file,
    finished_home,
    folder,
    fresh,
    into_link,
    make,
    no_waiting_for_the_disk,
    refusal,
    remake,
    spoil,
    swap,
    visible,
)

from grpo_course.ground import base_model, checkpoints, paths, stages
from grpo_course.ground.profile import PROFILES
from grpo_course.ground.stages import NOTEBOOKS, StageError

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link"}
NEEDS_ROOM = {"os.mkdir"}  # of them, what a full disk refuses; and opening a new file


def in_child(work) -> str:
    """Run work() in a forked process; what became of it, in a word or a sentence."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        result = "done"
        try:
            work()
        except StageError as error:
            result = str(error)
        except BaseException as error:
            result = f"raised {error!r}"
        os.write(writer, result.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        result = pipe.read()
    os.waitpid(pid, 0)
    return result


def failing(first: int, last: int, number: int, work):
    """Do work() while the disk refuses its first-th to last-th change in the home.

    `number` is an errno: a full disk still removes and renames, a read-only one does
    not. Returns how many changes were asked for.
    """
    home, seen = str(stages.home()), [0]

    def hook(event, arguments):
        if not arguments or not str(arguments[0]).startswith(home):
            return
        if event == "open":
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            refused = bool(writes)
        else:
            refused = event in (NEEDS_ROOM if number == errno.ENOSPC else CHANGES)
        if refused:
            seen[0] += 1
            if first <= seen[0] <= last:
                raise OSError(number, os.strerror(number), str(arguments[0]))

    sys.addaudithook(hook)
    work()
    if seen[0] < first:
        raise SystemExit("the disk was never asked")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("lasting", [True, False], ids=["for good", "once"])
@pytest.mark.parametrize("start", ["first time", "mending", "measuring again"])
@pytest.mark.parametrize("name", ["sft", "lora"])
def test_a_disk_that_fails_at_any_write_leaves_the_stage_as_it_was(
    course,  # noqa: F811
    finished_home,  # noqa: F811
    number,
    lasting,
    start,
    name,
):
    first, results = 0, []
    while not results or "never asked" not in results[-1]:
        first += 1
        assert first < 100
        profile = fresh(finished_home)
        if start == "first time":
            shutil.rmtree(folder(name))
        elif start == "mending":
            spoil(name)
        last = 10**9 if lasting else first
        results.append(
            in_child(
                lambda first=first, last=last, profile=profile: failing(
                    first, last, number, lambda: remake(name, profile, 2)
                )
            )
        )
        try:
            kept = stages.open_stage(name, profile).measured
        except StageError as error:
            assert start != "measuring again" and NOTEBOOKS[name] in str(error)
            kept = None
        # what was measured stays beside a stage that is made again with other content
        before = {"accuracy": 0.5} if start == "measuring again" else None
        succeeded = results[-1] == "done" or "never asked" in results[-1]
        assert kept == {"version": 2} or (kept == before and not succeeded)
        # with the disk in order again, the next run mends what was left
        remake(name, profile, 3)
        assert stages.open_stage(name, profile).measured == {"version": 3}
        assert visible() == WHOLE
    told = [r for r in results if r != "done" and "never asked" not in r]
    assert len(told) >= (2 if start == "measuring again" else 4)
    for sentence in told:
        assert sentence.startswith(f"The stage {name} ") and "\n" not in sentence
        assert "COURSE_HOME" in sentence or NOTEBOOKS[name] in sentence


@pytest.mark.parametrize("room", [0, 1, 7, 20, 500, 1200])
def test_a_file_that_ends_in_the_middle_is_no_stage(course, room):  # noqa: F811
    """No file may grow beyond `room` bytes: what a quota does in mid-write."""
    spoil("sft")

    def write():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        make("sft", course)

    assert in_child(write).startswith("The stage sft cannot be written")
    assert NOTEBOOKS["sft"] in refusal("sft", course)
    assert visible() == WHOLE


@pytest.mark.parametrize("room", [0, 1, 50, 120])
def test_metrics_that_end_in_the_middle_leave_those_before(course, room):  # noqa: F811
    stage = stages.open_stage("sft", course)

    def write():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        stages.write_metrics(stage, {"accuracy": 0.75})

    assert in_child(write).startswith("The stage sft cannot be written")
    assert stages.open_stage("sft", course) == stage
    assert visible() == WHOLE


def test_a_home_that_cannot_be_made_is_one_sentence(course, tmp_path, monkeypatch):  # noqa: F811
    template = stages.open_stage("template", course)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "file" / "home"))
    for attempt in (
        lambda: checkpoints.claim(checkpoints.folder("sft", course, template)),
        lambda: stages.write_stage("base", course).__enter__(),
        lambda: stages.check_disk("lora", 2**60),
    ):
        with pytest.raises(StageError, match="COURSE_HOME"):
            attempt()


# --- The embedded base model, and its tokenizer ---------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> Path:
    """A models folder with a small stand-in for the embedded model, and its list."""
    models = tmp_path_factory.mktemp("models")
    model = models / "tiny"
    model.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (model / name).write_bytes(name.encode() * 9)
    (model / "README.md").write_text("a card")
    (models / "SHA256SUMS").write_text(base_model.sums(model))
    return models


@given(data=st.data())
@SLOW
def test_a_damaged_base_model_makes_no_stage(
    tmp_path_factory, monkeypatch, shipped, data
):
    root = tmp_path_factory.mktemp("damaged")
    monkeypatch.setenv("COURSE_HOME", str(root / "home"))
    shutil.copytree(shipped, root / "models")
    profile = replace(PROFILES["cpu"], model_name=str(root / "models" / "tiny"))
    if data.draw(st.booleans(), label="after the stage was made"):
        make("base", profile)
    path = data.draw(
        st.sampled_from(
            [p for p in (root / "models" / "tiny").iterdir() if p.suffix != ".md"]
        )
    )
    damages = [d for d in DAMAGES if d not in (swap, into_link)]
    damage = data.draw(st.sampled_from(damages), label="damage")
    damage(path, data)
    hidden = [p for p in path.parent.iterdir() if p.name.startswith(".")]
    made = sorted((root / "home").glob("stages/base-*"))
    if hidden:
        return  # a hidden file is no part of a model
    for attempt in (make, lambda name, profile: stages.check_base_model(profile)):
        with pytest.raises(StageError) as error:
            attempt("base", profile)
        assert path.name in str(error.value) or damage.__name__ in ("add", "rename")
    assert refusal("base", profile)
    assert sorted((root / "home").glob("stages/base-*")) == made


def test_the_embedded_model_is_the_listed_one():
    model = paths.REPO / "models" / "tiny-qwen3"
    assert (model.parent / "SHA256SUMS").read_text() == base_model.sums(model)
    base_model.check_sums(model)


def test_a_model_of_ones_own_needs_no_list(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"x")
    base_model.check_sums(tmp_path / "mine")
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  other/model.safetensors\n")
    base_model.check_sums(tmp_path / "mine")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(bytes(200)),
        lambda path: path.write_bytes(b"\xff" + path.read_bytes()),
        lambda path: path.write_bytes(path.read_bytes()[:70]),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
def test_the_list_of_a_model_of_ours_cannot_be_switched_off(
    tmp_path, monkeypatch, damage
):
    model = tmp_path / "tiny"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_text("weights")
    (tmp_path / "SHA256SUMS").write_text(base_model.sums(model))
    monkeypatch.setattr(base_model, "MODELS", tmp_path)
    base_model.check_sums(model)
    damage(tmp_path / "SHA256SUMS")
    with pytest.raises(base_model.Flaw, match="tiny/"):
        base_model.check_sums(model)
