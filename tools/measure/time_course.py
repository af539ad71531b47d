"""How long does each notebook take, cold and warm? It matters on a GPU.

    python -m tools.measure.time_course FOLDER

Runs notebooks 01 to 06 in FOLDER/cold, where no compiler has left anything yet, and
then again in FOLDER/warm, which gets the caches of the first run and nothing else: as
on a rented machine whose COURSE_HOME survives. A row a notebook goes to
results/gpu-course.json; that of 05 also has the seconds from the start of its process
to the end of the first GRPO step.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from tools.report import gpu_run, tables
from tools.run import run_course

SHARED = ("machine", "profile", "model", "gib_held")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    cold, warm = homes = folder / "cold", folder / "warm"
    if there := [home for home in homes if home.exists()]:
        sys.exit(f"{there[0]} is there already: name a folder without it.")
    for home in homes:
        if home == warm:
            shutil.copytree(cold / "cache", warm / "cache")
        rows: list[dict] = []
        try:
            run(home, rows)
        finally:  # if a notebook failed, what the others took is kept
            for long in gpu_run.usage_rows(home)[-1:]:  # tells what the machine is
                new = [{key: long[key] for key in SHARED} | row for row in rows]
                for row in new:
                    if row["notebook"].startswith("05"):
                        row["to_first_step_s"] = long.get("to_first_step_s")
                tables.add("gpu-course.json", new, (*SHARED, "start", "notebook"))


def run(home: Path, rows: list[dict]) -> None:
    """Run all notebooks in a COURSE_HOME; each is a new row, as soon as it is done."""
    os.environ["COURSE_HOME"] = str(home)
    with run_course.guarded(home) as execute:
        for path in run_course.chosen(()):
            begun = time.monotonic()
            execute(path)
            seconds = round(time.monotonic() - begun, 1)
            rows.append({"start": home.name, "notebook": path.stem, "seconds": seconds})
            print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
