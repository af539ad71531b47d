"""YOUR_TASK.md does what it says: its files are written, its commands run."""

import json
import os
import re
import shutil
import subprocess

from grpo_course.ground.paths import REPO

PAGE = (REPO / "YOUR_TASK.md").read_text()
FEW = {"COURSE_EVAL_PROBLEMS": 6, "COURSE_GRPO_STEPS": 2, "COURSE_SFT_EXAMPLES": 16}
MORE = {"COURSE_TRACK": "disabled", "CUDA_VISIBLE_DEVICES": ""}
MORE["COURSE_TRAIN_ANYWAY"] = "true"  # so few examples teach too little to begin
NOT_THE_COURSE = ("course-home", "my_task", "__pycache__", "tests", ".*")


def test_the_page_trains_on_its_own_rows_and_rewards(tmp_path):
    root = tmp_path / "course"
    shutil.copytree(REPO, root, ignore=shutil.ignore_patterns(*NOT_THE_COURSE))
    (root / ".venv").symlink_to(REPO / ".venv")
    (root / "my_task").mkdir()
    names = re.findall(r"`(my_task/\w+\.py)`", PAGE)
    files = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert names == ["my_task/make_rows.py", "my_task/my_rewards.py"]
    for name, content in zip(names, files, strict=True):
        (root / name).write_text(content)
    [commands] = re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for name, few in FEW.items():
        commands, found = re.subn(rf"{name}=\d+", f"{name}={few}", commands)
        assert found == 1
    clean = {k: v for k, v in os.environ.items() if not k.startswith("COURSE_")}
    done = subprocess.run(
        ["bash", "-ec", commands],
        cwd=root,
        env=clean | MORE,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "grpo" in done.stdout.splitlines()[-1]
    [manifest] = root.glob("my_task/home/stages/grpo-*/manifest.json")
    settings = json.loads(manifest.read_text())["settings"]
    assert re.search(r"my_rewards\.py:\w+,\w+@[0-9a-f]{12}$", settings["reward"])
    assert settings["grpo_data"] == "./my_task/grpo.jsonl"
