import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from grpo_course.ground import base_model, checkpoints, files, manifests, stages
from grpo_course.ground.profile import PROFILES
from grpo_course.ground.stages import NOTEBOOKS, StageError
from grpo_course.model import adapter_is_zero

ORDER = [*stages.ORDER, "lora"]  # and an export, which is a stage like the others
BEFORE = dict(zip(ORDER, [None, *ORDER], strict=False))

SLOW = settings(deadline=None, suppress_health_check=list(HealthCheck))


def make(name, profile, *, content="", **metrics):
    """What the notebook of a stage does: open the parent, write the stage, measure."""
    parent = opened(BEFORE[name], profile)
    with stages.write_stage(name, profile, parent) as draft:
        (draft.path / "adapter_model.safetensors").write_bytes(
            f"weights of {name} {content}".encode()
        )
        (draft.path / "adapter_config.json").write_text('{"r": 32}' + name)
        (draft.path / "tokenizer").mkdir()
        (draft.path / "tokenizer" / "tokenizer.json").write_text("[]" + name)
        draft.metrics["losses"] = [0.5, 0.25]
    stage = stages.finished(name, profile, parent)
    stages.write_metrics(stage, metrics or {"accuracy": 0.5})
    return stages.open_stage(name, profile)


def run_all(profile):
    """Run every notebook; a finished stage is used as it is."""
    for name in ORDER:
        parent = opened(BEFORE[name], profile)
        stage = stages.finished(name, profile, parent)
        if not stage:
            stage = make(name, profile)
        if stage.measured is None:
            stages.write_metrics(stage, {"accuracy": 0.5})
    return stages.open_stage(ORDER[-1], profile)


@pytest.fixture(scope="module", autouse=True)
def no_waiting_for_the_disk():
    """SIGKILL loses nothing that fsync would have kept, and fsync is slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def finished_home(tmp_path_factory):
    """All five stages, on a base model in a local folder; to be copied, not changed."""
    root = tmp_path_factory.mktemp("finished")
    model = root / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"base weights")
    profile = replace(PROFILES["cpu"], model_name=str(model))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_HOME", str(root / "home"))
        run_all(profile)
    return root


@pytest.fixture
def course(finished_home, tmp_path, monkeypatch):
    """The profile of a fresh copy of the finished home."""
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    return fresh(finished_home)


def fresh(finished_home):
    shutil.rmtree(stages.home(), ignore_errors=True)
    shutil.copytree(finished_home / "home", stages.home())
    return replace(PROFILES["cpu"], model_name=str(finished_home / "model"))


def folder(name) -> Path:
    """The folder of a stage; there is one of each name."""
    (found,) = (stages.home() / "stages").glob(f"{name}-{'[0-9a-f]' * 12}")
    return found


def opened(name, profile):
    """The opened stage; None is the parent of the first one."""
    return stages.open_stage(name, profile) if name else None


def refusal(name, profile) -> str:
    with pytest.raises(StageError) as error:
        stages.open_stage(name, profile)
    message = str(error.value)
    assert "\n" not in message and message.endswith(".")
    return message


def visible() -> list[str]:
    """Everything in the stages' folder but the locks, without digests."""
    found = (stages.home() / "stages").iterdir()
    names = (re.sub("-[0-9a-f]{12}", "", path.name) for path in found)
    return sorted(name for name in names if not name.endswith(".lock"))


WHOLE = sorted([*ORDER, *(f"{name}.metrics.json" for name in ORDER)])


# --- Damage: whatever is done to any file of any stage, opening refuses


def every_file(name):
    return sorted(p for p in folder(name).rglob("*") if p.is_file())


def metrics_file(name) -> Path:
    return folder(name).with_name(folder(name).name + ".metrics.json")


def flip(path, data):
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(raw) - 1), label="byte")
    raw[at] ^= 1 << data.draw(st.integers(0, 7), label="bit")
    path.write_bytes(raw)


def truncate(path, data):
    os.truncate(path, data.draw(st.integers(0, path.stat().st_size - 1), label="size"))


def insert(path, data):
    raw = path.read_bytes()
    at = data.draw(st.integers(0, len(raw)), label="at")
    extra = data.draw(st.binary(min_size=1, max_size=4), label="inserted")
    path.write_bytes(raw[:at] + extra + raw[at:])


def remove(path, data):
    path.unlink()


def rename(path, data):
    path.rename(path.with_name("renamed.bin"))


def add(path, data):
    names = [".hidden", "extra.bin", path.name + ".bak", "manifest.json.tmp"]
    path.with_name(data.draw(st.sampled_from(names))).write_bytes(b"")


def into_link(path, data):
    path.rename(stages.home() / "elsewhere")
    path.symlink_to(stages.home() / "elsewhere")


def into_folder(path, data):
    path.unlink()
    path.mkdir()


def swap(path, data):
    others = [p for name in ORDER for p in every_file(name) if p != path]
    other = data.draw(st.sampled_from(others), label="swapped with")
    first, second = path.read_bytes(), other.read_bytes()
    path.write_bytes(second)
    other.write_bytes(first)


DAMAGES = [flip, truncate, insert, remove, rename, add, into_link, into_folder, swap]


@given(data=st.data())
@settings(SLOW, max_examples=100)
def test_damage_to_any_file_is_refused_and_mended(course, finished_home, data):
    profile = fresh(finished_home)
    name = data.draw(st.sampled_from(ORDER), label="stage")
    path = data.draw(st.sampled_from(every_file(name)), label="file")
    damage = data.draw(st.sampled_from(DAMAGES), label="damage")
    damage(path, data)

    message = refusal("lora", profile)
    assert any(notebook in message for notebook in NOTEBOOKS.values())
    if damage is not swap:
        assert f"stage {name} " in message and NOTEBOOKS[name] in message
        parent = opened(BEFORE[name], profile)
        assert stages.finished(name, profile, parent) is None
    run_all(profile)


MEASURED_ANEW = [flip, truncate, insert, remove, rename, into_folder]


@given(data=st.data())
@settings(SLOW, max_examples=60)
def test_damaged_metrics_are_measured_again_and_the_stage_stays(
    course, finished_home, data
):
    profile = fresh(finished_home)
    name = data.draw(st.sampled_from(ORDER), label="stage")
    path = metrics_file(name)
    damage = data.draw(st.sampled_from(MEASURED_ANEW), label="damage")
    damage(path, data)
    before = {file: file.read_bytes() for file in every_file(name)}
    message = refusal("lora", profile)
    assert path.name in message and NOTEBOOKS[name] in message
    parent = opened(BEFORE[name], profile)
    stage = stages.finished(name, profile, parent)
    assert stage.measured is None and stage.metrics == {"losses": [0.5, 0.25]}
    assert stages.write_metrics(stage, {"accuracy": 1.0}).metrics["accuracy"] == 1.0
    assert stages.open_stage("lora", profile)
    assert {file: file.read_bytes() for file in every_file(name)} == before


def test_metrics_of_another_stage_are_not_taken_for_this_ones(course):
    shutil.copy(metrics_file("sft"), metrics_file("grpo"))
    assert NOTEBOOKS["grpo"] in refusal("lora", course)


def leaves(value, path=()):
    """The paths of all values in a manifest, of containers too."""
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in items:
        yield (*path, key)
        yield from leaves(inner, (*path, key))


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


@given(data=st.data())
@settings(SLOW, max_examples=100)
def test_an_edited_manifest_is_refused(course, finished_home, data):
    profile = fresh(finished_home)
    name = data.draw(st.sampled_from(ORDER), label="stage")
    path = folder(name) / "manifest.json"
    manifest = json.loads(path.read_text())
    *way, last = data.draw(st.sampled_from(list(leaves(manifest))), label="where")
    inner = manifest
    for key in way:
        inner = inner[key]
    new = data.draw(JSON, label="new")
    action = data.draw(st.sampled_from(["set", "remove", "add"]), label="action")
    if action == "remove":
        del inner[last]
    elif action == "set":
        if json.dumps(inner[last]) == json.dumps(new):
            return
        inner[last] = new
    else:
        inner["added"] = new
    path.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    assert NOTEBOOKS[name] in refusal("lora", profile)


@pytest.mark.parametrize(
    "raw",
    [b"", b"null", b"[]", b"3", b'"x"', b"{}", b"[" * 100_000, b"\xff\xfe", b"NaN"],
)
def test_any_other_bytes_as_manifest_are_refused(course, raw):
    (folder("sft") / "manifest.json").write_bytes(raw)
    assert NOTEBOOKS["sft"] in refusal("sft", course)


def test_a_rewritten_manifest_with_the_same_meaning_is_refused(course):
    path = folder("sft") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert NOTEBOOKS["sft"] in refusal("sft", course)


@given(st.permutations(ORDER))
@settings(SLOW, max_examples=30)
def test_exchanged_stage_folders_are_refused(course, finished_home, order):
    if order == ORDER:
        return
    profile = fresh(finished_home)
    folders = {name: folder(name) for name in ORDER}
    for path in folders.values():
        path.rename(path.with_suffix(".moved"))
    for name, other in zip(ORDER, order, strict=True):
        folders[name].with_suffix(".moved").rename(folders[other])
    refusal("lora", profile)


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize("kind", ["missing", "file", "link", "empty", "dead link"])
def test_a_stage_that_is_no_folder_is_refused_and_mended(course, name, kind):
    path, moved = folder(name), stages.home() / "moved"
    path.rename(moved)
    if kind == "file":
        path.write_text("x")
    elif kind == "empty":
        path.mkdir()
    elif kind != "missing":
        path.symlink_to(moved if kind == "link" else "/no/such")
    assert NOTEBOOKS[name] in refusal("lora", course)
    run_all(course)
    assert visible() == WHOLE
    assert moved.is_dir()


def test_a_link_to_a_folder_inside_a_stage_is_refused(course):
    (folder("sft") / "linked").symlink_to(folder("base"))
    assert NOTEBOOKS["sft"] in refusal("sft", course)


@pytest.mark.parametrize("name", ["../base/x", "/etc/hostname", "a/../../base/x"])
def test_a_manifest_that_lists_files_elsewhere_is_refused(course, name):
    path = folder("sft") / "manifest.json"
    manifest = files.read_sealed(path)
    manifest["files"][name] = {"sha256": "0" * 64, "size": 1}
    files.write_sealed(path, manifest)  # a forged seal
    assert NOTEBOOKS["sft"] in refusal("sft", course)


def test_a_forged_stage_is_refused_by_the_stage_after_it(course):
    folder_ = folder("template")
    (folder_ / "adapter_model.safetensors").write_bytes(b"forged")
    manifest = files.read_sealed(folder_ / "manifest.json")
    entry = files.file_entry(folder_ / "adapter_model.safetensors")
    manifest["files"]["adapter_model.safetensors"] = entry
    files.write_sealed(folder_ / "manifest.json", manifest)
    metrics_file("template").unlink()
    stages.write_metrics(
        stages.finished("template", course, opened("base", course)), {}
    )
    stages.open_stage("template", course)
    assert NOTEBOOKS["sft"] in refusal("sft", course)


def test_a_stage_of_another_course_is_refused(course, tmp_path, monkeypatch):
    here = stages.home()
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "other"))
    make("base", course, content="of another course")
    make("template", course)
    make("sft", course)
    theirs = folder("sft")
    monkeypatch.setenv("COURSE_HOME", str(here))
    shutil.rmtree(folder("sft"))
    shutil.copytree(theirs, here / "stages" / theirs.name)
    assert NOTEBOOKS["sft"] in refusal("sft", course)


# --- Parents, settings, base model


def test_a_stage_before_its_parent_is_refused_and_nothing_written(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    assert NOTEBOOKS["base"] in refusal("grpo", PROFILES["cpu"])
    assert stages.finished("base", PROFILES["cpu"]) is None
    assert not stages.home().exists()


@pytest.mark.parametrize(
    ("field", "notebook"),
    [
        ("seed", "01"),
        ("lora_rank", "01"),
        ("sft_batch_size", "03"),
        ("grpo_steps", "05"),
    ],
)
def test_other_settings_are_refused_where_they_first_matter(course, field, notebook):
    other = replace(course, **{field: 7})
    message = refusal("lora", other)
    assert field in message and f"run {notebook}_" in message
    kept = {path: path.read_bytes() for path in every_file("sft")}
    run_all(other)
    stages.open_stage("lora", other)
    stages.open_stage("grpo", course)  # who goes back finds all as it was
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.parametrize("field", ["eval_problems", "save_steps", "eval_batch_size"])
def test_settings_without_effect_on_a_stage_do_not_refuse_it(course, field):
    other = replace(course, **{field: 7})
    assert stages.open_stage("lora", other).name == "lora"


def test_a_changed_base_model_is_refused(course, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(course.model_name, model)
    local = replace(course, model_name=str(model))
    run_all(local)
    (model / "README.md").write_text("a model card is no weight")
    (model / ".cache").mkdir()
    (model / ".cache" / "lock").write_text("")
    stages.open_stage("lora", local)
    (model / "model.safetensors").write_bytes(b"other weights")
    assert NOTEBOOKS["base"] in refusal("lora", local)
    run_all(local)
    shutil.rmtree(model)
    assert NOTEBOOKS["base"] in refusal("lora", local)


def download(cache: Path, revision: str) -> None:
    """What the hub's cache holds of Qwen3-8B after its `main` was downloaded."""
    model = cache / "models--Qwen--Qwen3-8B"
    snapshot = model / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (model / "refs").mkdir(exist_ok=True)
    (model / "refs" / "main").write_text(revision)


def test_a_hub_model_is_known_by_the_revision_that_was_downloaded(
    tmp_path, monkeypatch
):
    cache = tmp_path / "hub"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("COURSE_HOME", str(tmp_path / "home"))
    hub = replace(PROFILES["cpu"], model_name="Qwen/Qwen3-8B")
    stages.check_base_model(hub)
    download(cache, "a" * 40)
    run_all(hub)
    assert stages.open_stage("base", hub).manifest["revision"] == "a" * 40
    shutil.rmtree(cache)  # another machine, which has not downloaded it yet
    stages.open_stage("lora", hub)
    download(cache, "b" * 40)  # the model was changed on the hub
    assert NOTEBOOKS["base"] in refusal("lora", hub)


@pytest.mark.parametrize("name", ["./nothing", "models/tiny-qwen4"])
def test_a_model_that_is_not_there_is_one_sentence(name):
    with pytest.raises(StageError, match="cannot read its model"):
        stages.check_base_model(replace(PROFILES["cpu"], model_name=name))


def test_a_template_of_another_form_is_another_stage(course):
    other = replace(course, template="qwen3")
    assert stages.open_stage("base", other) == stages.open_stage("base", course)
    for name in ORDER[1:]:
        message = refusal(name, other)
        assert "template='course'" in message and NOTEBOOKS["template"] in message


def test_a_damaged_stage_made_again_with_the_same_result_keeps_its_children(course):
    digest = stages.open_stage("sft", course).digest
    for content in ("", "retrained"):
        every_file("sft")[0].unlink()
        again = make("sft", course, content=content, minutes=9.0)
        assert (again.digest == digest) == (not content)
    assert NOTEBOOKS["grpo"] in refusal("lora", course)


def test_a_whole_stage_is_never_written_again(course):
    before = {path: path.read_bytes() for path in every_file("sft")}
    make("sft", course, content="retrained")
    assert {path: path.read_bytes() for path in every_file("sft")} == before
    assert visible() == WHOLE


def test_other_facts_make_another_stage_and_the_one_used_last_is_opened(course, caplog):
    parent, given = stages.open_stage("template", course), {}
    for data in ("a", "b"):
        assert stages.finished("sft", course, parent, data=data) is None
        with stages.write_stage("sft", course, parent, data=data) as draft:
            (draft.path / "adapter_model.safetensors").write_text(data)
        given[data] = stages.finished("sft", course, parent, data=data)
        stages.write_metrics(given[data], {})
    assert "was made with other data" in caplog.text
    assert stages.open_stage("sft", course).path == given["b"].path
    assert NOTEBOOKS["grpo"] in refusal("grpo", course)
    assert stages.finished("sft", course, parent, data="a").path == given["a"].path
    assert stages.open_stage("sft", course).path == given["a"].path
    folders = {checkpoints.folder("sft", course, parent, data=d) for d in "ab"}
    assert len(folders) == 2


def test_old_stages_are_let_go_and_the_reader_is_told(course, caplog):
    profiles = [replace(course, sft_epochs=n) for n in range(4, 9)]
    for profile in profiles:
        make("sft", profile)
        stages.open_stage("sft", course)  # stays, for it is used
    for profile in (course, *profiles[-2:]):
        stages.open_stage("sft", profile)
    for profile in profiles[:-2]:
        refusal("sft", profile)
    removed = [r.message for r in caplog.records if "Removed" in r.message]
    assert len(removed) == 3 and all("Removed sft-" in line for line in removed)
    names = [name for name in visible() if name.startswith("sft")]
    assert names == ["sft"] * 3 + ["sft.metrics.json"] * 3


def test_only_the_latest_export_stays_for_they_are_large(course):
    for steps in (7, 8):
        run_all(replace(course, grpo_steps=steps))
    assert [name for name in visible() if name.startswith("lora")] == [
        "lora",
        "lora.metrics.json",
    ]


def test_what_somebody_keeps_beside_the_stages_stays(course):
    own = stages.home() / "stages" / "sft-of-yesterday"
    shutil.copytree(folder("sft"), own)
    for n in range(4, 9):
        make("sft", replace(course, sft_epochs=n))
    assert own.is_dir()


@pytest.mark.parametrize("name", ORDER)
def test_only_the_stage_before_is_a_parent(course, name):
    for parent in [None, *ORDER]:
        if parent != BEFORE[name]:
            writing = stages.write_stage(name, course, opened(parent, course))
            with pytest.raises(StageError), writing:
                pass


def test_a_finished_stage_is_not_made_again_and_a_refused_one_says_why(course, caplog):
    parent = stages.open_stage("template", course)
    assert stages.finished("sft", course, parent).name == "sft"
    assert not caplog.records
    other = replace(course, sft_epochs=9)
    assert stages.finished("sft", other, parent) is None
    assert "sft_epochs" in caplog.text


def test_tools_walk_all_stages_with_their_metrics(course):
    make("grpo", replace(course, grpo_steps=7), accuracy=0.75)
    (folder("template") / "manifest.json").write_text("{}")
    found = stages.every_stage(stages.home())
    assert sorted(s.name for s in found) == ["base", "grpo", "grpo", "lora", "sft"]
    assert found[-1].metrics == {"losses": [0.5, 0.25], "accuracy": 0.75}
    assert stages.every_stage(stages.home() / "nothing") == []


def test_the_manifest_says_what_the_stage_is(course):
    stage = stages.open_stage("grpo", course)
    manifest = stage.manifest
    assert stage.metrics == {"losses": [0.5, 0.25], "accuracy": 0.5}
    assert manifest["parent"] == stages.open_stage("sft", course).digest
    assert manifest["settings"] == course.settings_for("grpo")
    assert {"python", "torch", "trl", "unsloth"} <= manifest["packages"].keys()
    assert manifest["base_model"]["name"] == course.model_name
    assert "tokenizer/tokenizer.json" in manifest["files"]


# --- Writing: whole or absent


class Stop(BaseException):
    """Stands for a KeyboardInterrupt."""


@pytest.mark.parametrize("flaw", ["error", "stop", "nan", "object", "link", "nothing"])
def test_a_failed_write_leaves_nothing(course, flaw):
    other = replace(course, sft_epochs=9)
    parent = stages.open_stage("template", course)
    thrown = {"error": OSError, "stop": Stop}.get(flaw)
    expected = Stop if flaw == "stop" else StageError
    with (
        pytest.raises(expected),
        stages.write_stage("sft", other, parent) as draft,
    ):
        if flaw != "nothing":
            (draft.path / "adapter_model.safetensors").write_text("new")
        if thrown:
            raise thrown
        if flaw == "link":
            (draft.path / "link").symlink_to("/etc/hostname")
        values = {"nan": float("nan"), "object": object()}
        draft.metrics.update({"x": values[flaw]} if flaw in values else {})
    assert "sft_epochs" in refusal("sft", other)
    assert visible() == WHOLE


@pytest.mark.parametrize("value", [float("nan"), object()])
def test_metrics_that_are_not_plain_leave_those_that_were_there(course, value):
    stage = stages.open_stage("sft", course)
    with pytest.raises(StageError, match="plain JSON"):
        stages.write_metrics(stage, {"accuracy": value})
    assert stages.open_stage("sft", course) == stage


def killed_at(event_number, work) -> bool:
    """Run work() in a forked process that kills itself (SIGKILL) just before its n-th
    file operation in the course's home; False when it ended before that."""
    pid = os.fork()
    if pid == 0:
        home, seen = str(stages.home()), [0]

        def count(event, arguments):
            watched = event == "open" or event.startswith(("os.", "shutil."))
            if watched and any(str(a).startswith(home) for a in arguments):
                seen[0] += 1
                if seen[0] == event_number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


def spoil(name):
    """Damage a stage, so that it has to be made again."""
    every_file(name)[0].write_text("damaged")


def remake(name, profile, version):
    """What a notebook does: write the stage if it is not finished, then measure."""
    parent = opened(BEFORE[name], profile)
    stage = stages.finished(name, profile, parent)
    if not stage:
        with stages.write_stage(name, profile, parent) as draft:
            (draft.path / "adapter_model.safetensors").write_text(f"version {version}")
        stage = stages.finished(name, profile, parent)
    stages.write_metrics(stage, {"version": version})


@pytest.mark.parametrize("start", ["first time", "mending", "measuring again"])
def test_killed_anywhere_the_stage_is_whole_or_as_before(course, finished_home, start):
    profile, event, seen = course, 0, set()
    killed = True
    while killed:
        event += 1
        fresh(finished_home)
        if start == "first time":
            shutil.rmtree(folder("sft"))
            metrics = (stages.home() / "stages").glob("sft-*.metrics.json")
            [path.unlink() for path in metrics]
        elif start == "mending":
            spoil("sft")
        killed = killed_at(event, lambda: remake("sft", profile, 2))
        try:
            stage = stages.open_stage("sft", profile)
            seen.add(str(stage.measured))
        except StageError as error:
            assert start != "measuring again" and NOTEBOOKS["sft"] in str(error)
            seen.add("refused")
        if event % 5 == 0:  # the next run works, and clears what was left
            remake("sft", profile, 3)
            assert stages.open_stage("sft", profile).measured == {"version": 3}
            assert visible() == WHOLE
    before = "{'accuracy': 0.5}" if start == "measuring again" else "refused"
    assert seen == {before, "{'version': 2}"}
    assert event > 10


def test_a_second_process_is_refused_until_the_first_is_dead(course, monkeypatch):
    monkeypatch.setattr(stages, "WAIT", 0)
    shutil.rmtree(folder("sft"))
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            parent = stages.open_stage("template", course)
            with stages.write_stage("sft", course, parent) as draft:
                (draft.path / "adapter_model.safetensors").write_text("half")
                os.write(told, b"x")
                signal.pause()
        finally:
            os._exit(1)
    try:
        os.read(ready, 1)
        with pytest.raises(StageError, match="another process"):
            make("sft", course)
        make("base", replace(course, seed=9))  # another stage is free
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert make("sft", course, version=2).metrics["version"] == 2
    assert [name for name in visible() if name.startswith(".")] == []


def test_many_writers_leave_one_whole_stage(course):
    """Each of three processes writes until it has got through five times."""
    spoil("sft")

    def write_five():
        done = 0
        while done < 5:
            try:
                make("sft", course, content=str(os.getpid()), version=done)
                done += 1
            except StageError as error:
                assert "another process" in str(error)

    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            try:
                write_five()
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
    assert "version" in stages.open_stage("sft", course).metrics
    assert visible() == WHOLE


# --- What a forger or an odd file system may do


@pytest.mark.parametrize("value", [None, 5, [], "text", {}, {"name": "other"}])
@pytest.mark.parametrize("name", ["base", "sft"])
@pytest.mark.parametrize("part", ["base_model", "parent"])
def test_a_stage_of_another_base_or_parent_does_not_open(course, part, name, value):
    """Sealed anew, and in the folder that its words ask for."""
    manifest = files.read_sealed(folder(name) / "manifest.json")
    if manifest[part] == value:
        return
    files.write_sealed(folder(name) / "manifest.json", manifest | {part: value})
    right = folder(name).with_name(manifests.folder_name(manifest | {part: value}))
    folder(name).rename(right)
    assert NOTEBOOKS[name] in refusal("lora", course)


ODD = ["line\nbreak.bin", "\r.bin", "not utf-8 \udcff.bin", "\u2028", "a" * 200, " "]


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_a_file_of_any_name_in_a_model_or_a_stage_is_one_sentence(
    course, tmp_path, monkeypatch, name
):
    model = shutil.copytree(course.model_name, tmp_path / "model")
    (tmp_path / "SHA256SUMS").write_text(base_model.sums(model))
    local = replace(course, model_name=str(model))
    make("base", local)
    (model / name).write_bytes(b"")
    (folder("sft") / name).write_bytes(b"")
    for profile, notebook in ((local, "base"), (course, "sft")):
        message = refusal("lora", profile)
        assert NOTEBOOKS[notebook] in message and message.encode()


# --- Checkpoints


def checkpoint(root, step):
    path = root / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"x": np.ones(3)}, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text("{}")
    (path / "optimizer.pt").write_bytes(bytes(range(100)))
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    checkpoints.seal(path)
    return path


def test_each_setting_and_parent_has_its_own_checkpoints(course):
    template, sft = (stages.open_stage(name, course) for name in ("template", "sft"))
    path = checkpoints.folder("sft", course, template)
    assert path == checkpoints.folder("sft", replace(course), template)
    assert checkpoints.latest(path) is None

    def changed(name):
        settings = course.settings_for("sft") | {name: "another"}
        return SimpleNamespace(settings_for=lambda stage: settings)

    fields = list(course.settings_for("sft"))
    others = {
        checkpoints.folder("sft", course, sft),
        checkpoints.folder("grpo", course, template),
        checkpoints.folder("sft", course, template, data="x"),
        *(checkpoints.folder("sft", changed(name), template) for name in fields),
    }
    assert len(others) == len(fields) + 3 and path not in others


def claimed(path, **options):
    """What a notebook does right before the training."""
    checkpoints.claim(path, **options)
    return checkpoints.latest(path)


def test_to_look_for_a_checkpoint_changes_nothing(tmp_path):
    older, newer = (checkpoint(tmp_path, step) for step in (20, 40))
    (newer / checkpoints.SEAL).unlink()
    before = sorted(tmp_path.rglob("*"))
    assert checkpoints.latest(tmp_path) == older
    assert sorted(tmp_path.rglob("*")) == before


def test_the_newest_checkpoint_is_by_number(tmp_path):
    for step in (9, 20, 100):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "completions").mkdir()
    assert checkpoints.latest(tmp_path).name == "checkpoint-100"
    assert (tmp_path / "checkpoint-best").exists()


def test_a_checkpoint_at_the_end_of_the_training_is_not_continued(tmp_path):
    older, last = (checkpoint(tmp_path, step) for step in (20, 40))
    assert claimed(tmp_path, steps=41) == last
    assert claimed(tmp_path, steps=40) == older
    assert not last.exists()
    assert claimed(tmp_path, steps=20) is None


def test_a_folder_that_is_nearly_a_checkpoint_is_none(tmp_path):
    for step in (10, 20):
        checkpoint(tmp_path, step)
    for name in ("checkpoint-020", "checkpoint-0", "checkpoint-20x"):
        (tmp_path / name).mkdir()
    assert checkpoints.latest(tmp_path).name == "checkpoint-20"


def test_what_can_be_written_can_be_opened(course):
    numbers = {"by step": {9: 1, 10: 2}}  # JSON has no numbers as keys
    other = replace(course, seed=9)
    with stages.write_stage("base", other, more=numbers) as draft:
        save_file({"weight": np.ones(1)}, draft.path / "adapter_model.safetensors")
        draft.metrics["noted"] = numbers
    stages.write_metrics(stages.finished("base", other, more=numbers), numbers)
    texts = {"by step": {"9": 1, "10": 2}}
    assert stages.open_stage("base", other).metrics == texts | {"noted": texts}


@pytest.mark.parametrize("value", [None, 5, [1], "text"])
@pytest.mark.parametrize("part", ["settings", "facts", "metrics", "files"])
def test_a_manifest_with_a_part_of_another_kind_is_refused(course, part, value):
    for name in ("base", "sft"):
        path = folder(name) / manifests.MANIFEST
        files.write_sealed(path, files.read_sealed(path) | {part: value})
        with pytest.raises(StageError, match="foreign"):
            stages.open_stage(name, course)


def test_no_checkpoints_at_all(tmp_path):
    assert checkpoints.latest(tmp_path / "none") is None


@given(data=st.data())
@settings(SLOW, max_examples=60)
def test_a_damaged_checkpoint_is_removed_for_the_one_before(tmp_path, data):
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    older, newer = (checkpoint(tmp_path / "run", step) for step in (20, 40))
    path = data.draw(st.sampled_from(sorted(newer.iterdir())), label="file")
    damages = [flip, truncate, insert, remove, rename, add, into_folder]
    data.draw(st.sampled_from(damages), label="damage")(path, data)
    assert claimed(tmp_path / "run") == older
    assert not newer.exists()


def test_a_checkpoint_without_its_seal_or_of_another_step_is_removed(tmp_path):
    older, newer = (checkpoint(tmp_path, step) for step in (20, 40))
    (newer / checkpoints.SEAL).unlink()
    shutil.copytree(older, tmp_path / "checkpoint-60")
    assert claimed(tmp_path) == older
    assert not newer.exists() and not (tmp_path / "checkpoint-60").exists()


def test_a_second_process_may_not_train_in_the_same_folder(tmp_path):
    checkpoint(tmp_path, 20)
    newest = claimed(tmp_path)
    assert newest == claimed(tmp_path)  # the same process may
    code = "import sys; from grpo_course.ground import checkpoints, stages\n"
    code += "stages.WAIT = 0\n"
    code += "checkpoints.claim(sys.argv[1])\n"
    code += "print(checkpoints.latest(sys.argv[1]))"

    def ask():
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, str(tmp_path)]
        return subprocess.run(command, env=environ, capture_output=True, text=True)

    refused = ask()
    assert refused.returncode and "by another process: wait" in refused.stderr
    checkpoints._claimed.pop(tmp_path.resolve()).close()  # as if this process had ended
    assert ask().stdout.strip() == str(newest)


# --- Adapters and digests


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_adapter_is_zero_when_every_lora_b_is(tmp_path, dtype):
    file = tmp_path / "adapter_model.safetensors"
    weights = {
        f"model.{layer}.{part}.weight": np.zeros((4, 4), dtype)
        for layer in (0, 1)
        for part in ("lora_A", "lora_B")
    }
    weights["model.0.lora_A.weight"] += 1
    save_file(weights, file)
    assert adapter_is_zero(tmp_path)
    weights["model.1.lora_B.weight"][3, 3] = -1e-4
    save_file(weights, file)
    assert not adapter_is_zero(tmp_path)


def test_a_bfloat16_adapter_is_read(tmp_path):
    import torch
    from safetensors.torch import save_file as save_torch

    zero = torch.zeros(2, 2, dtype=torch.bfloat16)
    file = tmp_path / "adapter_model.safetensors"
    save_torch({"lora_B": zero}, file)
    assert adapter_is_zero(tmp_path)
    save_torch({"lora_B": zero + 1e-30}, file)
    assert not adapter_is_zero(tmp_path)


def test_a_file_without_lora_b_is_no_adapter(tmp_path):
    save_file({"weight": np.ones(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="no LoRA adapter"):
        adapter_is_zero(tmp_path)


def test_a_file_is_known_by_its_plain_sha256(course):
    import hashlib

    path = folder("sft") / "adapter_model.safetensors"
    entry = stages.open_stage("sft", course).manifest["files"][path.name]
    assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_home_is_in_the_clone_unless_said_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_HOME", raising=False)
    clone = Path(stages.__file__).parents[3]
    assert stages.home() == clone / "course-home"
    monkeypatch.setenv("COURSE_HOME", " ")
    assert stages.home() == clone / "course-home"
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    assert stages.home() == tmp_path
