"""Run the notebooks in order, without a browser: `make course`, `make notebooks`.

    python -m tools.run.run_course                01 to 06; 04, which loads no model,
                                                  while Unsloth is imported
    python -m tools.run.run_course 01 02          these
    python -m tools.run.run_course --keep         all and the solutions, from an empty
                                                  COURSE_HOME of their own
    python -m tools.run.run_course --keep 04 05   these and their solutions

Executed copies go to COURSE_HOME/executed; with --keep, a notebook that ran to its end
is itself rewritten, its outputs clean and small. The run ends with the table of what
the model can do after each stage, or, at the first cell that fails, with that cell and
its error.
"""

import fcntl
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from grpo_course.ground import stages
from grpo_course.ground.paths import local_path
from grpo_course.ground.profile import ProfileError, load_profile
from tools.report import runs
from tools.run import nbtools, runner
from tools.run.kernels import Preloaded


def main(arguments: Sequence[str] = ()) -> None:
    home, keep = stages.home(), "--keep" in arguments
    numbers = [argument for argument in arguments if argument != "--keep"]
    paths = kept(numbers) if keep else chosen(numbers)
    if keep and not numbers:
        home /= "clean-run"
        shutil.rmtree(home, ignore_errors=True)
    lone = [] if keep else [p for p in paths if not runner.imports_unsloth(p)]
    rest = [path for path in paths if path not in lone]
    with guarded(home, ahead=bool(lone and rest)) as run:
        print(f"Running the course; everything it makes goes to {home}", flush=True)
        for path in lone + rest:  # 04 needs no stage, nor Unsloth, and need not wait
            notebook = run(path)
            if keep:
                nbtools.clean(notebook)
                nbtools.write(notebook, path)
    print("\n" + runs.as_text(home))


def chosen(numbers: Sequence[str]) -> list[Path]:
    """The notebooks with these numbers, in order; all but 00 if there are none."""
    known = {path.name[:2]: path for path in nbtools.FOLDER.glob("0[0-6]_*.ipynb")}
    for number in set(numbers) - known.keys():
        sys.exit(f"{number!r} is no notebook: take some of {', '.join(sorted(known))}.")
    return [known[number] for number in sorted(set(numbers) or known.keys() - {"00"})]


def kept(numbers: Sequence[str]) -> list[Path]:
    """What begins with these numbers, or all; the solutions after the notebooks."""
    paths = nbtools.notebooks(nbtools.FOLDER)
    return [path for path in paths if path.name.startswith(tuple(numbers) or "")]


@contextmanager
def guarded(
    home: Path, ahead: bool = False
) -> Iterator[Callable[[Path], nbtools.nbformat.NotebookNode]]:
    """Yield what runs a notebook; turn what can go wrong into one clear exit.

    Holds COURSE_HOME for one run at a time: a second one waits for the first. With
    `ahead`, Unsloth is imported while notebooks run that do without.
    """
    try:
        profile = load_profile()
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / ".lock").open("w")
    except (ProfileError, OSError) as error:
        sys.exit(f"The course cannot start: {error}")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another run is at work in {home}: waiting for it.", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        environment = runner.kernel_environment(home, offline=needs_no_hub(profile))
        try:
            with Preloaded(environment) as preloaded:
                forks = None if profile.on_gpu else preloaded
                if forks and ahead:
                    forks.begin()

                def run(path: Path) -> nbtools.nbformat.NotebookNode:
                    copy = home / "executed" / path.relative_to(nbtools.FOLDER)
                    return runner.execute(path, copy, environment, forks)

                yield run
        except runner.NotebookFailed as failure:
            sys.exit(f"\n{failure}")
        except runner.Stopped as stopped:
            print("\nStopped. The next run goes on from the last finished stage.")
            sys.exit(128 + stopped.args[0])
        except KeyboardInterrupt:
            sys.exit(130)


def needs_no_hub(profile) -> bool:
    """True if the model and all data of a profile are on this machine."""
    data = (profile.sft_data, profile.grpo_data, profile.eval_data)
    return local_path(profile.model_name) is not None and all(
        name.startswith("embedded:") or local_path(name) for name in data
    )


if __name__ == "__main__":
    main(sys.argv[1:])
