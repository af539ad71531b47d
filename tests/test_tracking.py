"""What a trainer reports: progress always, SwanLab where it can start."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from grpo_course.profiles import PROFILES
from grpo_course.tracking import tracking_callbacks

CPU = PROFILES["cpu"]


def test_disabled_tracking_leaves_the_progress_line(capsys):
    callbacks = tracking_callbacks(replace(CPU, track="disabled"), "sft")
    assert len(callbacks) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("track", ["local", "offline", "cloud"])
def test_without_swanlab_the_training_goes_on(track, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "swanlab", None)  # importing it fails
    callbacks = tracking_callbacks(replace(CPU, track=track), "sft")
    assert len(callbacks) == 1
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_progress_line_tells_step_and_loss(capsys):
    [line] = tracking_callbacks(replace(CPU, track="disabled"), "sft")
    state = SimpleNamespace(global_step=20, max_steps=120)
    line.on_log(None, state, None, logs={"loss": "0.5", "epoch": 1})
    line.on_step_end(None, state, None)
    line.on_log(None, state, None, logs={"train_runtime": 3.0})
    line.on_train_end(None, state, None)
    *_, last = capsys.readouterr().out.rstrip().split("\r")
    assert "20" in last and "120" in last and "0.5" in last
