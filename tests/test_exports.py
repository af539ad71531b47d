"""An export is a stage like the others, only larger: the disk is asked before."""

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest

from grpo_course.ground import files, manifests, paths, stages
from grpo_course.ground.profile import PROFILES
from grpo_course.ground.stages import StageError

CPU = PROFILES["cpu"]
GRPO = dict.fromkeys(manifests.IDENTITY, "a model")
PARENT = stages.Stage("grpo", None, GRPO)
OTHER = stages.Stage("grpo", None, GRPO | {"files": "others"})


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    return tmp_path


def export(name, parent=PARENT, needed=7):
    return stages.write_stage(name, CPU, parent, needed=needed)


def write(content=b"weights", parent=PARENT):
    """What notebook 06 does for an export that is not finished; its folder."""
    with export("merged_16bit", parent) as draft:
        (draft.path / "model.safetensors").write_bytes(content)
        (draft.path / "sub").mkdir()
        (draft.path / "sub" / "config.json").write_text("{}")
    return finished(parent).path


def visible():
    """What is beside the stages besides the locks, without digests."""
    names = [path.name for path in (stages.home() / "stages").iterdir()]
    return sorted(n.partition("-")[0] for n in names if not n.endswith(".lock"))


def finished(parent=PARENT):
    return stages.finished("merged_16bit", CPU, parent)


def test_what_was_written_is_whole_and_known_by_its_content(home):
    assert finished() is None
    path = write()
    first = finished()
    assert first.path == path and path.parent == home / "stages"
    (path / "sub" / "config.json").unlink()
    write()
    assert finished() == first
    (path / "sub" / "config.json").unlink()
    write(b"other")
    assert finished().digest != first.digest
    assert visible() == ["merged_16bit"]


def test_a_whole_export_is_not_written_again():
    before = write(), finished()
    write(b"other")
    assert (finished().path, finished()) == before


def test_an_export_of_another_stage_is_not_taken_for_this_one():
    write()
    assert finished(OTHER) is None
    write(parent=OTHER)  # and takes the place of the one that is not used any more
    assert finished(OTHER) and finished() is None
    assert visible() == ["merged_16bit"]


def _cut(file):
    file.write_bytes(file.read_bytes()[:-2])


def _flip(file):
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [_cut, _flip, lambda file: file.unlink()])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "sub/config.json", "manifest.json"]
)
def test_a_damaged_export_is_not_whole(damage, name):
    path = write()
    damage(path / name)
    assert finished() is None
    write()
    assert finished()


@pytest.mark.parametrize("record", ["", "[]", "null", '{"files": 3}', "\ufffd", "{"])
def test_a_record_of_any_shape_is_no_error(record):
    (write() / stages.MANIFEST).write_text(record)
    assert finished() is None


def test_extra_files_and_links_are_noticed():
    path = write()
    (path / "extra").write_text("")
    assert finished() is None
    (path / "extra").unlink()
    assert finished()
    (path / "link").symlink_to(path / "model.safetensors")
    assert finished() is None


@pytest.mark.parametrize("damaged", [True, False])
def test_a_failed_export_leaves_nothing(damaged):
    if damaged:
        _flip(write() / "model.safetensors")
    with pytest.raises(RuntimeError, match="stopped"):
        with export("merged_16bit") as draft:
            (draft.path / "model.safetensors").write_bytes(b"half")
            raise RuntimeError("stopped")
    assert finished() is None
    assert visible() == ["merged_16bit"] * damaged


def test_what_a_killed_process_left_is_cleared_away(home):
    left = home / "stages" / ".merged_16bit.new"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert finished() is None
    write()
    assert finished()
    assert visible() == ["merged_16bit"]


def test_a_second_process_may_not_write_the_same_export():
    with export("merged_16bit") as draft:
        (draft.path / "model.safetensors").write_bytes(b"mine")
        code = "from tests.test_exports import stages, write\n"
        code += "stages.WAIT = 0; write(b'theirs')"
        other = subprocess.run(
            [sys.executable, "-c", code],
            cwd=paths.REPO,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([".", *sys.path])},
            capture_output=True,
            text=True,
        )
        assert "StageError: The stage merged_16bit is being written" in other.stderr
        with export("lora") as another:
            (another.path / "adapter.safetensors").write_bytes(b"fine")
    assert (finished().path / "model.safetensors").read_bytes() == b"mine"


def test_an_export_that_cannot_be_put_in_place_is_absent(monkeypatch):
    def fails(source, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(StageError, match="COURSE_HOME"):
        write()
    assert finished() is None and visible() == []


def test_an_export_without_files_is_refused():
    with pytest.raises(StageError), export("lora", needed=0):
        pass
    assert stages.finished("lora", CPU, PARENT) is None


def test_a_full_disk_is_refused_before_anything_is_written(monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    usage = Usage(2**40, 0, stages.SPARE + 6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StageError) as error:
        write()
    assert "merged_16bit" in str(error.value) and "\n" not in str(error.value)
    assert visible() == []
    with pytest.raises(StageError):  # notebook 06 asks before the long step
        stages.check_disk("merged_16bit", 7)
    stages.check_disk("merged_16bit", 5)


def test_the_manifest_names_the_stage_and_every_file():
    write()
    manifest = finished().manifest
    assert manifest["parent"] == PARENT.digest
    assert set(manifest["files"]) == {"model.safetensors", "sub/config.json"}


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0.0 MiB"), (3 * 2**19, "1.5 MiB"), (2**34, "16.0 GiB")]
)
def test_sizes_are_written_for_a_reader(size, text):
    assert files.gib(size) == text
