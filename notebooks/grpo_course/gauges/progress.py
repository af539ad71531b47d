"""One line of progress while a trainer runs, and few files of completions on disk."""

import math
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from transformers import TrainerCallback

KEPT_FILES = 10  # of completions; older ones stay only where a table shows them
BARS, WIDTH = "▁▂▃▄▅▆▇█", 16  # of a curve in one line


class Progress(TrainerCallback):
    """Prints "step 20 of 50 | loss 0.003 | reward 9.250 ▁▂▄▆█", over itself.

    And of TRL's files of completions, one for each step, it keeps only a few.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        self.values = {"loss": [], "reward": []}

    def on_step_end(self, args, state, control, **kwargs):
        print(self.line(state), end="", flush=True)
        old = state.global_step - KEPT_FILES
        if old > 0 and not has_table(old):
            completions_file(args, old).unlink(missing_ok=True)

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name, values in self.values.items():
            if (value := finite((logs or {}).get(name))) is not None:
                values.append(value)

    def on_train_end(self, args, state, control, **kwargs):
        print(self.line(state))

    def line(self, state) -> str:
        shown = [f" | {name} {v[-1]:.3f}" for name, v in self.values.items() if v]
        shown += [sparkline(self.values["reward"])]
        return f"\rstep {state.global_step} of {state.max_steps}" + "".join(shown)


def sparkline(values: list[float]) -> str:
    """A curve in one line of text: means of WIDTH stretches; "" for fewer values."""
    if len(values) < WIDTH:
        return ""
    ends = [round(i * len(values) / WIDTH) for i in range(WIDTH + 1)]
    means = [fmean(values[a:b]) for a, b in pairwise(ends)]
    scale = (len(BARS) - 1) / (max(means) - min(means) or 1)
    return " " + "".join(BARS[round((mean - min(means)) * scale)] for mean in means)


def finite(value) -> float | None:
    """What a log has as a number or as text; None for NaN, infinity and all else."""
    with suppress(TypeError, ValueError):
        return float(value) if math.isfinite(float(value)) else None


def completions_file(args, step: int) -> Path:
    """Where TRL writes what the model said at a step."""
    return Path(args.output_dir, "completions", f"completions_{step:05d}.parquet")


def has_table(step: int) -> bool:
    """Is there a table of completions for this step? Rarer as a training grows long."""
    return step == 1 or step % (10 if step < 100 else 100) == 0
