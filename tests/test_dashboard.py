"""`make watch` and `make screenshots`, without a dashboard and without a browser."""

import socket
import sqlite3
import subprocess
import sys

import pytest
from PIL import Image, ImageDraw

from tools.report import screenshots
from tools.run import watch


def test_a_port_in_use_is_not_taken():
    with socket.socket() as other:
        other.bind((watch.HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        assert watch.free_port(taken) not in (0, taken)


def test_without_experiments_nothing_is_started(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "Popen", None)  # calling it would fail
    for main in (watch.main, lambda: screenshots.experiments(tmp_path / "swanlog")):
        with pytest.raises(SystemExit) as end:
            main()
        assert str(tmp_path) in str(end.value)


def test_a_dashboard_that_does_not_start_ends_the_wait():
    process = subprocess.Popen([sys.executable, "-c", ""])
    with pytest.raises(SystemExit):
        watch.wait_for(f"http://{watch.HOST}:{watch.free_port()}", process)


def test_the_newest_finished_experiment_of_each_stage_is_shown(tmp_path):
    database = sqlite3.connect(tmp_path / "runs.swanlab")
    database.execute("create table experiment (id, name, status)")
    rows = [(1, "sft", 1), (2, "grpo", 1), (3, "grpo-2", 1), (4, "grpo-3", 0)]
    database.executemany("insert into experiment values (?, ?, ?)", rows)
    database.commit()
    database.close()
    assert screenshots.experiments(tmp_path) == {"sft": 1, "grpo": 3}


def test_the_end_of_a_page_is_cut_out():
    page = Image.new("RGB", (1400, 3000), "#f8fafc")
    ImageDraw.Draw(page).rectangle((330, 1500, 1380, 1960), fill="white")
    end = screenshots.end_of_page(page)
    assert end.getpixel((100, 100)) == (255, 255, 255)
    assert end.getpixel((100, end.height - 3)) == page.getpixel((0, 0))


def test_a_picture_stays_below_the_limit_or_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(screenshots.nbtools, "ROOT", tmp_path)
    noise = Image.effect_noise((1400, 700), 20).convert("RGB")
    page = Image.new("RGB", noise.size, "white")
    page.paste(noise.crop((0, 0, 700, 350)))
    screenshots.save(page, tmp_path / "page.png")
    assert Image.open(tmp_path / "page.png").size == (1200, 600)
    assert (tmp_path / "page.png").stat().st_size <= screenshots.MAX_BYTES
    with pytest.raises(SystemExit):
        screenshots.save(noise, tmp_path / "noise.png")
    assert not (tmp_path / "noise.png").exists()
