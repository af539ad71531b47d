"""What a trainer reports while it runs: one line of progress, and SwanLab's curves.

    callbacks=tracking_callbacks(profile, "grpo")     # for a trainer
    finish_tracking(stage)                            # when its stage is closed

Each training is an experiment of its own in one SwanLab project. The files are in
COURSE_HOME/swanlog; `make watch` shows them in a browser. A SwanLab that cannot start,
or fails on the way, costs one printed sentence and never the training.
"""

import importlib.util
import json
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import wraps
from pathlib import Path

from ..ground import stages
from ..ground.files import remove
from ..ground.session import masked, secret

PROJECT = "grpo-course"
MODES = {"local": "local", "offline": "offline", "cloud": "online"}
KEY = "SWANLAB_API_KEY"
RECORD = "swanlab.json"  # in a trainer's output_dir: which experiment it writes to
TABLE_EVERY = 10  # steps between two tables of completions; after RARELY steps RARELY
RARELY = 100
KEPT_FILES = 10  # of completions; older ones stay only where a table shows them
FIRST = (  # the first curves of the dashboard; the others follow as they are logged
    *("reward", "reward_std", "frac_reward_zero_std"),
    *("completions/mean_length", "completions/clipped_ratio", "entropy"),
    *("loss", "learning_rate", "tokens_per_second"),
)
UNSHOWN = ("step", "epoch", "total_flos", "clip_ratio/low", "clip_ratio/high")
UNSHOWN += ("completions/min", "completions/mean_terminated", "completions/max_term")
JUDGED = ("accuracy", "format_rate", "mean_completion_tokens")  # of an evaluation
BARS = "▁▂▃▄▅▆▇█"

_open = None  # the experiment of the training that began last


def tracking_callbacks(profile, name: str) -> list:
    """Callbacks for a Trainer with report_to="none", for the stage called `name`.

    The first keeps one line of progress up to date, the second lets go of old files of
    completions. The third logs to SwanLab as `profile.track` says. SwanLab's cloud is
    used for "cloud", and for "local" where SWANLAB_API_KEY is set and COURSE_TRACK is
    not.
    """
    callbacks = [_progress_line(), _few_files()]
    if profile.track != "disabled":
        callbacks.append(_curves(profile, name))
    return callbacks


def finish_tracking(stage: stages.Stage) -> None:
    """Add a stage's evaluation and manifest to its experiment, and close that.

    Does nothing where no experiment is open: tracking is off, or nothing was trained.
    """
    global _open
    experiment, _open = _open, None
    if experiment:
        experiment.finish(stage)


def swanlog() -> Path:
    """The folder of SwanLab's files."""
    return stages.home() / "swanlog"


def _harmless(method):
    """After an error say so once; from then on the experiment does nothing."""

    @wraps(method)
    def guarded(self, *args, **kwargs):
        if self.off:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.off = True
            print(f"\rNo SwanLab curves from here on: {_reason(error)}")

    return guarded


def _reason(error: Exception) -> str:
    if type(error).__name__ in ("SettingsError", "ValidationError"):
        names = sorted(n for n in os.environ if n.startswith("SWANLAB_") and n != KEY)
        return f"it cannot read its settings; unset {', '.join(names) or 'them'}."
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return masked(text)


class _Experiment:
    """One SwanLab experiment, from the start of a training to its evaluation."""

    def __init__(self, profile, name: str) -> None:
        self.profile, self.name, self.off = profile, name, False
        self.last_step = 0

    @_harmless
    def start(self, output_dir: Path, history: list[dict]) -> None:
        """Open it. `history` has what an interrupted training logged before.

        In the cloud the same experiment goes on. On disk SwanLab cannot reopen one, so
        a new one takes the place of the old and gets its curves first.
        """
        _finish_run()  # of an earlier training in this notebook
        parent, mode = self._parent(), self._mode()
        record = output_dir / RECORD
        earlier = _read_record(record)
        try:
            goes_on = mode == "cloud" and self._init(mode, parent, earlier, history)
        except Exception:
            mode = "local"
            print(f"SwanLab's cloud does not take this {KEY} now: see `make watch`.")
        if mode != "cloud":
            _forget(earlier)
            goes_on = self._init(mode, parent)
        output_dir.mkdir(parents=True, exist_ok=True)
        facts = {"id": self.run.id, "mode": mode, "folder": Path(self.run.dir).name}
        record.write_text(json.dumps(facts) + "\n")
        self.before = None if goes_on else parent
        for entry in [] if goes_on else history:
            self._log(entry, entry["step"])

    @_harmless
    def log(self, entry: Mapping, step: int) -> None:
        """The finite numbers of one entry of a trainer's log."""
        self._log(entry, step)

    @_harmless
    def table(self, rows: list[tuple], step: int) -> None:
        """A table of two columns, captions and texts."""
        import swanlab

        items = [swanlab.Text(text, caption=caption) for caption, text in rows]
        self._send({"completions": items}, step)

    @_harmless
    def finish(self, stage: stages.Stage) -> None:
        self._log_evaluation(stage.metrics, self.last_step)
        self.run.config.update({"stage": _facts(stage)})
        _finish_run()

    def _mode(self) -> str:
        chosen = self.profile.track
        if chosen == "local" and "COURSE_TRACK" not in os.environ:
            return "cloud" if secret(KEY) else "local"
        return chosen

    def _init(self, mode: str, parent, earlier=(), history=()) -> bool:
        """Start a run in SwanLab; True where it is the earlier one that goes on."""
        if mode == "local" and importlib.util.find_spec("swanboard") is None:
            raise ImportError("pip install 'swanlab[dashboard]' adds what they need.")
        import swanlab

        swanlog().mkdir(parents=True, exist_ok=True)
        before = set(swanlog().iterdir())
        known = history and earlier.get("mode") == mode and earlier.get("id")
        key = {"api_key": secret(KEY)} if mode == "cloud" else {}
        config = {"profile": asdict(self.profile)}
        if parent:
            config["parent"] = _facts(parent)
        try:
            with _no_greetings():
                self.run = swanlab.init(
                    project=PROJECT,
                    name=self.name,
                    mode=MODES[mode],
                    id=known or None,
                    resume="allow" if known else "never",
                    log_dir=str(swanlog()),
                    config=config,
                    settings=swanlab.Settings(
                        **key,
                        interactive=False,  # never ask for a key in the middle
                        terminal={"proxy_type": "none"},
                        probe={"requirements": False, "git": False, "runtime": False},
                    ),
                )
        except BaseException:
            for folder in set(swanlog().glob("run-*")) - before:
                remove(folder)
            raise
        return self.run.id == known

    def _parent(self) -> stages.Stage | None:
        try:
            before = stages.ORDER[stages.ORDER.index(self.name) - 1]
            return stages.open_stage(before, self.profile)
        except (ValueError, stages.StageError):
            return None

    def _log(self, entry: Mapping, step: int) -> None:
        names = [n for n in entry if not n.startswith(("train_", *UNSHOWN))]
        order = dict.fromkeys([*(n for n in FIRST if n in names), *names])
        self._send({n: v for n in order if (v := _finite(entry[n])) is not None}, step)
        if self.before:  # now that the first curves are those of the training
            self._log_evaluation(self.before.metrics, step=0)
            self.before = None

    def _log_evaluation(self, metrics: dict, step: int) -> None:
        found = {
            f"evaluation/{kind}/{name}": summary[name]
            for kind, summary in metrics.get("evaluation", {}).items()
            for name in JUDGED
            if name in summary
        }
        self._send(found, step)

    def _send(self, values: dict, step: int) -> None:
        import swanlab

        self.last_step = max(self.last_step, step)
        if values:
            swanlab.log(values, step=step)


def _finite(value) -> float | None:
    try:
        return float(value) if math.isfinite(float(value)) else None
    except (TypeError, ValueError):
        return None


def _facts(stage: stages.Stage) -> dict:
    """What an experiment's configuration says of a stage."""
    names = ("stage", "digest", "base_model", "settings", "facts", "packages")
    return {name: stage.manifest.get(name) for name in names}


def _finish_run() -> None:
    import swanlab

    if swanlab.has_run():
        with _no_greetings():
            swanlab.finish()


def _no_greetings():
    from IPython.utils.capture import capture_output

    return capture_output()


def _read_record(path: Path) -> dict:
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _forget(record: dict) -> None:
    """Remove an experiment on disk, and what the dashboard's database knows of it."""
    folder, mode = str(record.get("folder", "")), record.get("mode")
    if not folder.startswith("run-") or mode == "cloud":
        return
    remove(swanlog() / Path(folder).name)
    if mode == "local" and (swanlog() / "runs.swanlab").is_file():
        from swanboard.db import connect
        from swanboard.db.models import Chart, Experiment, Source

        connect(path=str(swanlog()))
        Experiment.delete().where(Experiment.run_id == folder).execute()
        drawn = Source.select(Source.chart_id)
        Chart.delete().where(Chart.id.not_in(drawn)).execute()


# --- Transformers' callbacks ----------------------------------------------------------


def _curves(profile, name: str):
    from transformers import TrainerCallback

    class Curves(TrainerCallback):
        """Passes on what the trainer logs, with the speed, the memory and samples."""

        def on_train_begin(self, args, state, control, **kwargs):
            global _open
            _open = self.experiment = _Experiment(profile, name)
            self.answers = _answers(kwargs.get("train_dataloader"))
            self.folder = Path(args.output_dir) / "completions"
            self.experiment.start(Path(args.output_dir), state.log_history)
            for step in range(1, state.global_step + 1):
                self._table(step)
            self.before = time.monotonic(), None if state.global_step else 0.0

        def on_log(self, args, state, control, logs=None, **kwargs):
            entry = dict(logs or {})
            if "learning_rate" in entry:  # a step, not the summary at the end
                entry |= self._speed(entry) | _memory()
                state.log_history[-1] |= entry  # a resumed training finds it there
            self.experiment.log(entry, state.global_step)

        def on_step_begin(self, args, state, control, **kwargs):
            self._table(state.global_step)  # TRL writes it after on_log

        def on_train_end(self, args, state, control, **kwargs):
            self._table(state.global_step)

        def _speed(self, entry: dict) -> dict:
            """Tokens that the trainer processed in a second since the last entry."""
            (then, had), now = self.before, time.monotonic()
            total = _finite(entry.get("num_tokens"))
            self.before = now, total
            if had is None or total is None or total < had or now <= then:
                return {}
            return {"tokens_per_second": (total - had) / (now - then)}

        def _table(self, step: int) -> None:
            path = completions_file(self.folder, step)
            if has_table(step) and path.is_file():
                self.experiment.table(completions_table(path, self.answers), step)

    return Curves()


def _few_files():
    from transformers import TrainerCallback

    class FewFiles(TrainerCallback):
        """TRL writes a file of completions at each step: keep few, however long."""

        def on_step_begin(self, args, state, control, **kwargs):
            old = state.global_step - KEPT_FILES
            if old > 0 and not has_table(old):
                folder = Path(args.output_dir) / "completions"
                completions_file(folder, old).unlink(missing_ok=True)

    return FewFiles()


def _memory() -> dict:
    """GiB in use by this process, and at most by the GPU's tensors so far."""
    import psutil
    import torch

    found = {"memory/process_gib": psutil.Process().memory_info().rss / 2**30}
    if torch.cuda.is_available():
        found["memory/gpu_peak_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return found


def completions_file(folder: Path, step: int) -> Path:
    """Where TRL writes what the model said at a step."""
    return folder / f"completions_{step:05d}.parquet"


def has_table(step: int) -> bool:
    """Is there a table of completions for this step? Rarer as a training grows long."""
    return step == 1 or step % (TABLE_EVERY if step < RARELY else RARELY) == 0


def _answers(dataloader) -> dict:
    """question -> true answer, where the trainer's data set has one."""
    dataset = getattr(dataloader, "dataset", None)
    if {"prompt", "answer"} <= set(getattr(dataset, "column_names", None) or ()):
        pairs = zip(dataset["prompt"], dataset["answer"], strict=True)
        return {_text(prompt): answer for prompt, answer in pairs}
    return {}


def _text(messages) -> str:
    """The last message of a conversation, or the text that stands for it."""
    return messages if isinstance(messages, str) else messages[-1]["content"]


def completions_table(path: Path, answers: Mapping[str, str]) -> list[tuple]:
    """What is in one of TRL's completions files, as pairs (caption, text).

    Group by group, those that teach most first: the prompt, its true answer, and each
    completion, with its advantage as the caption and its rewards after the text.
    """
    import pandas as pd

    rows = pd.read_parquet(path)
    groups = list(rows.groupby(rows["prompt"].map(_text), sort=False))
    groups.sort(key=lambda pair: -pair[1]["advantage"].abs().sum())
    table = []
    for question, group in groups:
        answer = answers.get(question, "not known")
        table += [("prompt", question), ("answer", str(answer))]
        rewards = group.drop(columns=["step", "prompt", "completion", "advantage"])
        for place in group.index:
            scores = [f"{name} {value:g}" for name, value in rewards.loc[place].items()]
            text = _text(group.at[place, "completion"]).strip()
            caption = f"advantage {group.at[place, 'advantage']:+.2f}"
            table.append((caption, f"{text}   [{', '.join(scores)}]"))
    return table


def _progress_line():
    from transformers import TrainerCallback

    class ProgressLine(TrainerCallback):
        """Prints "step 20 of 50 | loss 0.003 | reward 9.250 ▁▂▄▆█", over itself."""

        def on_train_begin(self, args, state, control, **kwargs):
            self.values = {}

        def on_step_end(self, args, state, control, **kwargs):
            print(self._line(state), end="", flush=True)

        def on_log(self, args, state, control, logs=None, **kwargs):
            for name in ("loss", "reward"):
                if (value := _finite((logs or {}).get(name))) is not None:
                    self.values.setdefault(name, []).append(value)

        def on_train_end(self, args, state, control, **kwargs):
            print(self._line(state))

        def _line(self, state) -> str:
            shown = [f" | {name} {v[-1]:.3f}" for name, v in self.values.items()]
            shown += [sparkline(self.values.get("reward", []))]
            return f"\rstep {state.global_step} of {state.max_steps}" + "".join(shown)

    return ProgressLine()


def sparkline(values: list[float], width: int = 16) -> str:
    """A curve in one line of text: means of `width` stretches; "" for fewer values."""
    if len(values) < width:
        return ""
    ends = [round(i * len(values) / width) for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(ends, ends[1:], strict=False)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0
    return " " + "".join(BARS[round((mean - low) * scale)] for mean in means)
