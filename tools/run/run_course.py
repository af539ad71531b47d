"""Run notebooks 01 to 06 in order, without a browser: `make course`.

    python -m tools.run.run_course            all
    python -m tools.run.run_course 01 02      these, in their order

Executed copies are kept in COURSE_HOME/executed. Ends with the table of what the model
can do after each stage, or, at the first cell that fails, with that cell and its error.
"""

import fcntl
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

from grpo_course.ground import profiles, stages
from tools.report import runs
from tools.run import nbtools


def main(numbers: Sequence[str] = ()) -> None:
    home, paths = stages.home(), chosen(numbers)
    with guarded(home) as environment:
        print(f"Running the course; everything it makes goes to {home}", flush=True)
        for path in paths:
            nbtools.execute(path, home / "executed" / path.name, environment)
    print("\n" + runs.as_text(home))


def chosen(numbers: Sequence[str]) -> list[Path]:
    """The notebooks with these numbers, in order; all but 00 if there are none."""
    known = {path.name[:2]: path for path in nbtools.FOLDER.glob("0[0-6]_*.ipynb")}
    for number in set(numbers) - known.keys():
        sys.exit(f"{number!r} is no notebook: take some of {', '.join(sorted(known))}.")
    return [known[number] for number in sorted(set(numbers) or known.keys() - {"00"})]


@contextmanager
def guarded(home: Path):
    """Yield the kernels' environment; turn what can go wrong into one clear exit.

    Holds COURSE_HOME for one run at a time: a second one waits for the first.
    """
    try:
        profile = profiles.load_profile()
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / ".lock").open("w")
    except (profiles.ProfileError, OSError) as error:
        sys.exit(f"The course cannot start: {error}")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"Another run is at work in {home}: waiting for it.", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield nbtools.kernel_environment(home, offline=needs_no_hub(profile))
    except nbtools.NotebookFailed as failure:
        sys.exit(f"\n{failure}")
    except nbtools.Stopped as stopped:
        print("\nStopped. The next run goes on from the last finished stage.")
        sys.exit(128 + stopped.args[0])
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        lock.close()


def needs_no_hub(profile) -> bool:
    """True if the model and all data of a profile are on this machine."""
    data = (profile.sft_data, profile.grpo_data, profile.eval_data)
    return profiles.local_path(profile.model_name) is not None and all(
        name.startswith("embedded:") or profiles.local_path(name) for name in data
    )


if __name__ == "__main__":
    main(sys.argv[1:])
