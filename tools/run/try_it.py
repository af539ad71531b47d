"""What does a reward or a setting change? Seen in about a minute: `make try`.

    make try REWARD=./my_rewards.py:accuracy STEPS=15
    COURSE_GRPO_LEARNING_RATE=3e-3 make try

Goes on from the finished stage `sft` with the cells of notebook 05 up to its training,
with fewer steps, then marks 60 held-out problems. The curve stands beside that of the
try before. No stage is made or replaced: all of it is in COURSE_HOME/try.
"""

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

from grpo_course.ground import stages
from tools.report import runs
from tools.run import nbtools

STEPS, PROBLEMS, ROWS = "15", 60, 8  # ROWS: of the curve


def prepare(home: Path, place: Path) -> None:
    """Make `place` a COURSE_HOME with the stages up to sft, and set it."""
    for folder in ("stages", "checkpoints"):
        shutil.rmtree(place / folder, ignore_errors=True)
    runs.copy_stages(home, place, "sft")
    os.environ |= {"COURSE_HOME": str(place), "COURSE_TRACK": "disabled"}
    os.environ |= {"MPLBACKEND": "Agg", "TQDM_DISABLE": "1"}
    os.environ.setdefault("COURSE_GRPO_STEPS", STEPS)


def train(before: Callable[[dict], object] = lambda names: None) -> dict:
    """Run notebook 05 up to its training, without pictures; all names it has made.

    `before` gets those that there are when the training begins.
    """
    (path,) = nbtools.FOLDER.glob("05_*.ipynb")
    shell, code = InteractiveShell.instance(), nbtools.code_cells(nbtools.read(path))
    os.chdir(path.parent)
    for source in [cell.source for cell in code if "plt.show" not in cell.source]:
        if trains := "trainer.train(" in source:
            before(shell.user_ns)
        with redirect_stdout(sys.stdout if trains else io.StringIO()):
            shell.run_cell(source).raise_error()
        if trains:
            return shell.user_ns


def measure(names: dict) -> dict:
    """The share of right completions at each step, and the right held-out answers."""
    from grpo_course.gauges.evaluation import evaluate

    model, tokenizer, profile = (names[n] for n in ("model", "tokenizer", "profile"))
    problems = names["held_out"][:PROBLEMS]
    log = [entry for entry in names["trainer"].state.log_history if "reward" in entry]
    return {
        "curve": [float(entry["rewards/right/mean"]) for entry in log],
        "before": sum(names["parent"].metrics["correct"][: len(problems)]),
        "after": sum(evaluate(model, tokenizer, problems, profile).correct),
        "of": len(problems),
    }


def as_text(now: dict, last: dict | None) -> str:
    """Both curves, by groups of steps, and what came of them."""
    curves = [now["curve"], last["curve"] if last else []]
    size = -(-len(curves[0]) // ROWS)
    lines = ["\n\nsteps     right  the try before"]
    for start in range(0, len(curves[0]), size):
        parts = [curve[start : start + size] for curve in curves]
        shares = [f"{sum(part) / len(part):.0%}" if part else "-" for part in parts]
        lines.append(f"{start + 1:>3} ... {shares[0]:>8} {shares[1]:>15}")
    lines.append(f"held-out: {now['before']} of {now['of']} right before, ")
    lines[-1] += f"{now['after']} after" + (f" (then: {last['after']})" if last else "")
    return "\n".join(lines)


def main() -> None:
    place = stages.home() / "try"
    prepare(stages.home(), place)
    try:
        now = measure(train())
    except (stages.StageError, ValueError) as error:  # of settings, data and rewards
        sys.exit(str(error))
    record = place / "last.json"
    print(as_text(now, json.loads(record.read_text()) if record.exists() else None))
    record.write_text(json.dumps(now))


if __name__ == "__main__":
    main()
