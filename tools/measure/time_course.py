"""How long does each notebook take, cold and warm? It matters on a GPU.

    python -m tools.measure.time_course FOLDER

Runs notebooks 01 to 06 in FOLDER/cold, where no compiler has left anything yet, and
then again in FOLDER/warm, which gets the caches of the first run and nothing else: as
on a rented machine whose COURSE_HOME survives. A row a notebook goes to
results/gpu-course.json; that of 05 also has the seconds from the start of its process
to the end of the first GRPO step.
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

from tools.report import gpu_run, tables
from tools.run import run_course

KEY = ("machine", "profile", "model", "gib_held", "start", "notebook")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--output", type=Path, default=tables.RESULTS / "gpu-course.json"
    )
    options = parser.parse_args()
    homes = {start: options.folder.resolve() / start for start in ("cold", "warm")}
    if there := [home for home in homes.values() if home.exists()]:
        sys.exit(f"{there[0]} is there already: name a folder without it.")
    for start, home in homes.items():
        if start == "warm":
            shutil.copytree(homes["cold"] / "cache", home / "cache")
        seconds: dict[str, float] = {}
        try:
            run(home, seconds)
        finally:  # if a notebook failed, what the others took is kept
            rows = [row | {"start": start} for row in rows_of(home, seconds)]
            tables.add(options.output.resolve(), rows, KEY)


def run(home: Path, seconds: dict[str, float]) -> None:
    """Run all notebooks in a COURSE_HOME; tell the seconds of each, as soon as known.

    They are printed, and go to `seconds` by the notebook's name.
    """
    os.environ["COURSE_HOME"] = str(home)
    with run_course.guarded(home) as execute:
        for path in run_course.chosen(()):
            begun = time.monotonic()
            execute(path)
            seconds[path.stem] = round(time.monotonic() - begun, 1)
            print(json.dumps({path.stem: seconds[path.stem]}), flush=True)


def rows_of(home: Path, seconds: dict[str, float]) -> list[dict]:
    """A row a notebook, by what the long steps' manifests say of the machine."""
    usage = gpu_run.usage_rows(home)
    if not usage:
        return []
    last = usage[-1]
    shared = {key: last[key] for key in ("machine", "profile", "model", "gib_held")}
    rows = [shared | {"notebook": n, "seconds": s} for n, s in seconds.items()]
    for row in rows:
        if row["notebook"].startswith("05"):
            row["to_first_step_s"] = last.get("to_first_step_s")
    return rows


if __name__ == "__main__":
    main()
