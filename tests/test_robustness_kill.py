"""SIGKILL at random moments: what is finished stays, what is not goes on the same way.

The notebooks 03, 05 and 06 run as plain processes, forked from one that has imported
Unsloth: each executes a notebook's cells, and can be killed. Two homes start from the
same stages: in one nothing is disturbed, in the other processes are killed at random
moments and started again. What comes out must be the same, and every step on the way.

`pytest -m slow` does the same with more seeds.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from grpo_course.ground import stages
from tools.run import nbtools

SECRET = "hf_PlantedTokenThatMustNotGetOut0003"
SETTINGS = {
    "HF_TOKEN": SECRET,
    "SWANLAB_API_KEY": SECRET,
    "COURSE_PROFILE": "cpu",
    "COURSE_EVAL_PROBLEMS": "8",
    "COURSE_SFT_EPOCHS": "1",
    "COURSE_GRPO_STEPS": "8",
    "COURSE_GRPO_BATCH_SIZE": "8",
    "COURSE_NUM_GENERATIONS": "4",
    "COURSE_MAX_COMPLETION_LENGTH": "48",
    "COURSE_SAVE_STEPS": "3",
    "COURSE_TRAIN_ANYWAY": "true",  # so short a warm-up and limit teach nothing
    "COURSE_TRACK": "disabled",
    "COURSE_EXPORTS": "lora",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
}
# What a log says of the machine and not of the model, or depends on that.
CLOCK = {"step_time", "minutes", "seconds_before", "tokens a second"}
CLOCK |= {"seal"}
END = "(the notebook is through)"


# --- What a forked process does -------------------------------------------------------


def run_cells(notebook: str) -> None:
    """Execute the code of a notebook in this process."""
    import torch

    torch.set_num_threads(1)
    (path,) = nbtools.FOLDER.glob(f"{notebook}_*.ipynb")
    names = {"__name__": "__main__"}
    for cell in nbtools.code_cells(nbtools.read(path)):
        exec(compile(cell.source, f"{notebook}:{cell.id}", "exec"), names)
        sys.stdout.flush()
    print(END, flush=True)


# --- Runs, and kills ------------------------------------------------------------------


class Server:
    """Runs notebooks one after the other, and kills some of them."""

    def __init__(self, folder: Path, preloaded):
        self.folder, self.preloaded = folder, preloaded

    def log(self, home: Path, notebook: str) -> Path:
        return self.folder / f"{home.name}-{notebook}.log"

    def run(self, home: Path, notebook: str, kill=None) -> float | None:
        """Run a notebook in a home; its seconds, or None when it was killed.

        `kill` is called with the log's path in a thread; when it returns, SIGKILL.
        """
        log, begun, over = self.log(home, notebook), time.monotonic(), threading.Event()
        said = len(log.read_text()) if log.exists() else 0
        child = self.preloaded.start(
            command=[Path(__file__).stem, notebook],
            cwd=str(nbtools.FOLDER),
            env=os.environ | SETTINGS | {"COURSE_HOME": str(home)},
            log=str(log),
        )

        def execution():
            kill(log, over)
            with contextlib.suppress(ProcessLookupError):
                if not over.is_set():
                    os.killpg(child.pid, signal.SIGKILL)

        executioner = threading.Thread(target=execution if kill else lambda: None)
        executioner.start()
        child.wait()
        over.set()
        executioner.join()
        if END in (text := log.read_text()[said:]):
            return time.monotonic() - begun
        assert kill and "Traceback" not in text, text[-4000:]
        return None


def at_second(seconds: float):
    return lambda log, over: over.wait(seconds)


def after_step(step: int, seconds: float):
    """So many seconds after the progress line of a training shows that step again."""

    def kill(log, over):
        shown = f"step {step} of"
        begin = len(log.read_text()) if log.exists() else 0
        while not over.wait(0.02):
            if log.exists() and shown in log.read_text()[begin:]:
                over.wait(seconds)
                return

    return kill


def contents(folder: Path) -> dict[str, str]:
    """sha256 of each file; of a manifest by its values, without those of the clock."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".lock":
            name, raw = str(path.relative_to(folder)), {"": path.read_bytes()}
            if path.name == "manifest.json" or path.name.endswith(".metrics.json"):
                told = without_clock(json.loads(raw[""]))
                told |= told.pop("metrics")
                raw = {f": {k}": repr(v).encode() for k, v in told.items()}
            for key, value in raw.items():
                found[name + key] = hashlib.sha256(value).hexdigest()
    return found


def without_clock(value):
    if isinstance(value, dict):
        return {k: without_clock(v) for k, v in value.items() if k not in CLOCK}
    return [without_clock(v) for v in value] if isinstance(value, list) else value


def log_of(home: Path, stage: str) -> list[dict]:
    latest = {found.name: found for found in stages.every_stage(home)}[stage]
    return without_clock(latest.metrics["log_history"])


@pytest.fixture(scope="module")
def server(tmp_path_factory, preloaded):
    return Server(tmp_path_factory.mktemp("kill"), preloaded)


@pytest.fixture(scope="module")
def undisturbed(server):
    """A home in which all ran through at once, and the seconds that each took."""
    home = server.folder / "undisturbed"
    seconds = {number: server.run(home, number) for number in ("01", "02")}
    shutil.copytree(home, server.folder / "prepared")
    seconds |= {number: server.run(home, number) for number in ("03", "05", "06")}
    return home, seconds


def kill_and_run(server, undisturbed, seed: int, kills: dict[str, list]) -> list[str]:
    """Kill notebooks, start them again until they are through, then compare.

    kills: for each notebook the steps of its training after which it is killed, one
    start after the other; None is any moment from its first second to its last.
    Returns the steps that the training of notebook 05 showed, all starts together.
    """
    calm, seconds = undisturbed
    home = server.folder / f"killed-{seed}"
    shutil.copytree(server.folder / "prepared", home)
    rng, killed, shown = random.Random(seed), 0, ""
    for notebook, steps in kills.items():
        for step in steps:
            before = contents(home / "stages")
            moment = at_second(rng.uniform(0, seconds[notebook]))
            if step:
                moment = after_step(step, rng.uniform(0, 1))
            killed += server.run(home, notebook, moment) is None
            now = contents(home / "stages")
            assert {name: now[name] for name in before} == before
        if notebook == "05":  # the machine is gone; here is a copy of its COURSE_HOME
            shown = server.log(home, "05").read_text()
            home = shutil.move(home, server.folder / f"elsewhere-{seed}")
        server.run(home, notebook)
    assert contents(home / "stages") == contents(calm / "stages")
    for stage in ("sft", "grpo"):
        assert log_of(home, stage) == log_of(calm, stage)
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert killed >= sum(map(len, kills.values())) / 2
    shown += server.log(home, "05").read_text()
    return re.findall(r"step (\d+) of", shown)


def test_killed_at_random_moments_the_course_ends_as_if_undisturbed(
    server, undisturbed
):
    kills = {"03": [14], "05": [2, 6, None], "06": [None]}
    steps = kill_and_run(server, undisturbed, 1, kills)
    assert steps.count("1") < 1 + len(kills["05"])  # it went on from a checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
def test_killed_again_and_again(server, undisturbed, seed):
    rng = random.Random(seed)
    kills = {
        "03": [rng.choice([None, *range(1, 31)]) for _ in range(3)],
        "05": [rng.choice([None, None, *range(1, 9)]) for _ in range(6)],
        "06": [None] * 3,
    }
    kill_and_run(server, undisturbed, seed, kills)


if __name__ == "__main__":
    run_cells(sys.argv[1])
