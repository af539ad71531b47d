"""`make watch`: SwanLab's dashboard of a COURSE_HOME, without a browser."""

import os
import shlex
import socket
import subprocess
import time
from pathlib import Path

import requests

from grpo_course.ground.paths import REPO


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


def test_without_experiments_nothing_is_started(tmp_path):
    done = make_watch(tmp_path)
    assert done.returncode and f"{tmp_path}/swanlog has no experiment" in done.stdout


def test_the_dashboard_starts_with_whatever_is_set(tmp_path):
    (tmp_path / "swanlog").mkdir()
    command = shlex.split(make_watch(tmp_path, "--dry-run").stdout.splitlines()[-1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        command[-1] = str(free.getsockname()[1])  # 5092 may be in use
    wrong = {"SWANLAB_PROJECT": "mine", "SWANLAB_MODE": "x", "SWANLAB_HOST": "0.0.0.0"}
    process = subprocess.Popen(command, cwd=REPO, env=os.environ | wrong)
    try:
        address, end = f"http://127.0.0.1:{command[-1]}", time.monotonic() + 300
        while process.poll() is None and time.monotonic() < end:
            try:
                assert requests.get(address, timeout=60).ok
                return
            except requests.ConnectionError:
                time.sleep(0.1)
        raise AssertionError("the dashboard did not start")
    finally:
        process.terminate()
        process.wait()
