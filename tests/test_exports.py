import errno
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple

import pytest

from grpo_course.ground import exports, files, paths, stages
from grpo_course.ground.exports import ExportError

PARENT = stages.Stage("grpo", None, {"digest": "a" * 64})
OTHER = stages.Stage("grpo", None, {"digest": "b" * 64})


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    return tmp_path


def write(content=b"weights", parent=PARENT):
    with exports.write_export("merged_16bit", parent, needed=7) as folder:
        (folder / "model.safetensors").write_bytes(content)
        (folder / "sub").mkdir()
        (folder / "sub" / "config.json").write_text("{}")
    return exports.folder("merged_16bit")


def visible(folder):
    """What is in a folder besides the locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def finished(parent=PARENT):
    return exports.finished("merged_16bit", parent)


def test_what_was_written_is_whole_and_known_by_its_content(home):
    assert finished() is None
    path = write()
    first = finished()
    assert home / first["folder"] == path
    assert first["bytes"] == len(b"weights{}")
    write()
    assert finished() == first
    write(b"other")
    assert finished()["digest"] != first["digest"]
    assert visible(path.parent) == ["merged_16bit"]


def test_an_export_of_another_stage_is_not_taken_for_this_one():
    write()
    assert finished(OTHER) is None
    write(parent=OTHER)
    assert finished(OTHER) and finished() is None


def _cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file):
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("damage", [_cut, _flip, lambda file: file.unlink()])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "sub/config.json", "export.json"]
)
def test_a_damaged_export_is_not_whole(damage, name):
    path = write()
    damage(path / name)
    assert finished() is None
    write()
    assert finished()


@pytest.mark.parametrize("record", ["", "[]", "null", '{"files": 3}', "\ufffd", "{"])
def test_a_record_of_any_shape_is_no_error(record):
    (write() / exports.RECORD).write_text(record)
    assert finished() is None


def test_extra_files_and_links_are_noticed():
    path = write()
    (path / "extra").write_text("")
    assert finished() is None
    (path / "extra").unlink()
    assert finished()
    (path / "link").symlink_to(path / "model.safetensors")
    assert finished() is None


def test_a_failed_export_leaves_the_older_one_and_nothing_else():
    path = write()
    before = finished()
    with pytest.raises(RuntimeError, match="stopped"):
        with exports.write_export("merged_16bit", PARENT, needed=7) as folder:
            (folder / "model.safetensors").write_bytes(b"half")
            raise RuntimeError("stopped")
    assert finished() == before
    assert visible(path.parent) == [path.name]


def test_what_a_killed_process_left_is_cleared_away():
    left = exports.folder(".merged_16bit.new")
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert finished() is None
    path = write()
    assert finished()
    assert visible(path.parent) == [path.name]


def test_a_second_process_may_not_write_the_same_export():
    with exports.write_export("merged_16bit", PARENT, needed=7) as folder:
        (folder / "model.safetensors").write_bytes(b"mine")
        code = "from tests.test_exports import write; write(b'theirs')"
        other = subprocess.run(
            [sys.executable, "-c", code],
            cwd=paths.REPO,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([".", *sys.path])},
            capture_output=True,
            text=True,
        )
        assert "ExportError: The export merged_16bit is being written" in other.stderr
        with exports.write_export("lora", PARENT, needed=7) as another:
            (another / "adapter.safetensors").write_bytes(b"fine")
    path = exports.folder("merged_16bit")
    assert (path / "model.safetensors").read_bytes() == b"mine" and finished()


def test_the_older_export_stays_when_the_new_one_cannot_be_put_in_place(monkeypatch):
    write()
    before, replace = finished(), os.replace

    def fails(source, target):
        if str(source).endswith(".new"):
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fails)
    with pytest.raises(ExportError, match="COURSE_HOME"):
        write(b"newer")
    assert finished() == before
    monkeypatch.undo()


def test_killed_between_the_two_renames_the_older_export_comes_back():
    path = write()
    before = finished()
    path.rename(exports.folder(".merged_16bit.old"))
    with pytest.raises(RuntimeError):
        with exports.write_export("merged_16bit", PARENT, needed=7):
            raise RuntimeError("stopped")
    assert finished() == before and visible(path.parent) == [path.name]


def test_an_export_without_files_is_refused():
    with pytest.raises(ExportError), exports.write_export("lora", PARENT, needed=0):
        pass
    assert exports.finished("lora", PARENT) is None


def test_a_full_disk_is_refused_before_anything_is_written(monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    usage = Usage(2**40, 0, exports.SPARE + 6)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ExportError) as error:
        write()
    assert "merged_16bit" in str(error.value) and "\n" not in str(error.value)
    assert not exports.folder("merged_16bit").exists()


def test_the_record_names_the_stage_and_every_file():
    record = json.loads((write() / exports.RECORD).read_text())
    assert record["parent"] == PARENT.digest
    assert set(record["files"]) == {"model.safetensors", "sub/config.json"}


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0.0 MiB"), (3 * 2**19, "1.5 MiB"), (2**34, "16.0 GiB")]
)
def test_sizes_are_written_for_a_reader(size, text):
    assert exports.gib(size) == text
