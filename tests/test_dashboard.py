"""`make watch` and `make screenshots`, without a browser."""

import os
import subprocess
from pathlib import Path

import pytest
import requests
from PIL import Image, ImageDraw

from grpo_course.ground.paths import REPO
from tools.report import screenshots


def make_watch(home: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["make", "-s", "--old-file=env", "watch", *options],
        env=os.environ | {"COURSE_HOME": str(home)},
        cwd=REPO,
        capture_output=True,
        text=True,
    )


def test_the_dashboard_is_of_the_course_home_and_for_this_machine_only(tmp_path):
    said = make_watch(tmp_path, "--dry-run").stdout
    assert f'swanlab watch "{tmp_path}/swanlog" --host 127.0.0.1' in said
    said = make_watch(Path("~/x"), "--dry-run").stdout
    assert f'watch "{Path.home()}/x/swanlog"' in said


def test_without_experiments_nothing_is_started(tmp_path, monkeypatch):
    done = make_watch(tmp_path)
    assert done.returncode and f"{tmp_path}/swanlog has no experiment" in done.stdout
    monkeypatch.setenv("COURSE_HOME", str(tmp_path))
    monkeypatch.setattr(screenshots.shutil, "which", lambda name: name)
    with pytest.raises(SystemExit, match=str(tmp_path)):
        screenshots.main()


def test_the_dashboard_starts_with_whatever_is_set_and_ends(tmp_path, monkeypatch):
    wrong = {"SWANLAB_PROJECT": "mine", "SWANLAB_MODE": "x", "SWANLAB_HOST": "0.0.0.0"}
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    with screenshots.dashboard(tmp_path) as address:
        assert requests.get(address, timeout=60).ok
    with pytest.raises(requests.ConnectionError):
        requests.get(address, timeout=60)


def test_a_dashboard_that_does_not_start_ends_the_wait(tmp_path):
    with pytest.raises(SystemExit), screenshots.dashboard(tmp_path / "missing"):
        pass


def test_the_newest_finished_experiment_of_each_stage_is_shown():
    runs = [(1, "sft", 1), (2, "grpo", 1), (3, "grpo-2", 1), (4, "grpo-3", 0)]
    runs = [dict(zip(("id", "name", "status"), run, strict=True)) for run in runs]
    assert screenshots.newest(runs) == {"sft": 1, "grpo": 3}
    with pytest.raises(SystemExit, match="sft"):
        screenshots.newest(runs[1:])


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
