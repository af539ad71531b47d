"""What a trainer reports while it runs: one line of progress, and SwanLab's curves.

    callbacks=tracking_callbacks(profile, "grpo")     # for a trainer
    finish_tracking(stage, parent)                    # when its stage is closed

Each training is an experiment of its own in one SwanLab project. The files are in
COURSE_HOME/swanlog; `make watch` shows them in a browser. A SwanLab that cannot start,
or fails on the way, costs one printed sentence and never the training.
"""

import importlib.util
import os
from contextlib import suppress
from dataclasses import asdict
from functools import wraps
from pathlib import Path

import pandas as pd
from IPython.utils.capture import capture_output
from transformers import TrainerCallback

from ..ground import stages
from ..ground.files import remove
from ..ground.session import masked, secret
from .progress import Progress, completions_file, finite, has_table

KEY = "SWANLAB_API_KEY"
RECORD = "swanlab.txt"  # in a trainer's output_dir: which experiment it writes to
FIRST = ("reward", "reward_std", "frac_reward_zero_std", "completions/mean_length")
FIRST += ("completions/clipped_ratio", "entropy", "loss", "learning_rate")  # curves
UNSHOWN = ("step", "global_step", "epoch")
JUDGED = ("accuracy", "format_rate", "mean_completion_tokens")  # of an evaluation
FACTS = ("stage", "seal", "base_model", "settings", "facts", "packages")

_open = None  # the curves of the training that began last


def tracking_callbacks(profile, name: str) -> list:
    """Callbacks for a Trainer with report_to="none", for the stage called `name`.

    One prints progress, one logs to SwanLab as `profile.track` says. SwanLab's cloud is
    for "cloud", and for "local" where SWANLAB_API_KEY is set and COURSE_TRACK is not.
    """
    callbacks = [Progress()]
    if profile.track != "disabled":
        try:
            callbacks.append(_curves(profile, name))
        except Exception as error:
            _say(error)
    return callbacks


def finish_tracking(stage: stages.Stage, parent: stages.Stage) -> None:
    """Add a stage's evaluation, and its parent's at step 0, to its curves; close them.

    Does nothing where no experiment is open: tracking is off, or nothing was trained.
    """
    global _open
    curves, _open = _open, None
    if curves:
        curves.finish(stage, parent)


def _say(error: Exception) -> None:
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    hint = " COURSE_TRACK=local needs no account." if secret(KEY) else ""
    print(f"\rNo SwanLab curves from here on: {masked(text)}{hint}")


def _harmless(method):
    """After an error say so once; from then on the callback does nothing."""

    @wraps(method)
    def guarded(self, *args, **kwargs):
        try:
            if not self.off:
                method(self, *args, **kwargs)
        except Exception as error:
            self.off = True
            _say(error)

    return guarded


def _curves(profile, name: str) -> TrainerCallback:
    import swanlab
    from swanlab.integration.transformers import SwanLabCallback

    class Curves(SwanLabCallback):
        """SwanLab's callback: with TRL's names, samples, and one curve for a training.

        If that was killed, SwanLab's cloud goes on with the experiment. On disk it
        cannot: a new one gets what the trainer's log has, and takes its place.
        """

        off = False
        on_save = TrainerCallback.on_save  # no paths of checkpoints

        @_harmless
        def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
            global _open
            _open, self.step = self, 0
            self.answers = _answers(getattr(train_dataloader, "dataset", None))
            record = Path(args.output_dir, RECORD)
            before = record.read_text() if record.is_file() else ""
            kind, _, old = before.partition(" ")
            mode = "online" if profile.track == "cloud" else profile.track
            if mode == "local" and "COURSE_TRACK" not in os.environ and secret(KEY):
                mode = "online"
            known = old if state.log_history and kind == mode == "online" else None
            run = _init(name, mode, known)
            if kind != "online" and old.isalnum():
                _forget(old)
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(f"{mode} {run.id}")
            super().on_train_begin(args, state, control, **kwargs)
            self.update_config({"profile": asdict(profile)})
            if run.id != known:
                for entry in state.log_history:
                    self._log(entry, entry["step"])
                for step in range(1, state.global_step):
                    self.table(args, step)

        @_harmless
        def on_log(self, args, state, control, **kwargs):
            super().on_log(args, state, control, **kwargs)

        @_harmless
        def on_step_begin(self, args, state, control, **kwargs):
            self.table(args, state.global_step)  # TRL writes it after on_log

        @_harmless
        def on_train_end(self, args, state, control, **kwargs):
            self.table(args, state.global_step)

        @_harmless
        def finish(self, *made: stages.Stage) -> None:
            for stage, step in zip(made, (self.step, 0), strict=True):
                for kind, summary in stage.metrics.get("evaluation", {}).items():
                    found = {n: summary[n] for n in JUDGED if n in summary}
                    self._log({f"evaluation/{kind}/{n}": found[n] for n in found}, step)
            self.update_config({n: made[0].manifest.get(n) for n in FACTS})
            with capture_output():
                swanlab.finish()

        def table(self, args, step: int) -> None:
            path = completions_file(args, step)
            if has_table(step) and path.is_file():
                rows = completions_table(path, self.answers)
                texts = [swanlab.Text(text, caption=caption) for caption, text in rows]
                swanlab.log({"completions": texts}, step=step)

        def _log(self, payload, step: int) -> None:
            """The base class's, for finite numbers, in our order, without train/."""
            self.step = max(self.step, step)
            found = {n.removeprefix("train/"): finite(v) for n, v in payload.items()}
            order = sorted(found, key=lambda n: FIRST.index(n) if n in FIRST else 99)
            shown = [n for n in order if found[n] is not None and n not in UNSHOWN]
            if shown:
                super()._log({n: found[n] for n in shown}, step)

    return Curves()


def _init(name: str, mode: str, known: str | None):
    import swanlab

    if mode == "local" and importlib.util.find_spec("swanboard") is None:
        raise ImportError("pip install 'swanlab[dashboard]' adds what they need.")
    swanlog = stages.home() / "swanlog"
    swanlog.mkdir(parents=True, exist_ok=True)
    with capture_output():  # its greetings
        return swanlab.init(
            reinit=True,  # ends that of an earlier training in this notebook
            **{"project": "grpo-course", "name": name, "mode": mode, "id": known},
            resume="allow" if known else "never",
            log_dir=str(swanlog),
            settings=swanlab.Settings(
                **{"api_key": secret(KEY)} if mode == "online" else {},
                interactive=False,  # never ask for a key in the middle
                terminal={"proxy_type": "none"},
                probe={"requirements": False, "git": False, "runtime": False},
            ),
        )


def _forget(run_id: str) -> None:
    """Remove an experiment on disk as SwanLab's dashboard does, through its own API."""
    with suppress(Exception):  # the dashboard would then list one without curves
        from fastapi.testclient import TestClient
        from swanboard.app import app

        dashboard = TestClient(app)
        project = dashboard.get("/api/v1/project").json()["data"]
        for run in project["experiments"]:
            if run["run_id"].endswith(f"-{run_id}"):
                dashboard.delete(f"/api/v1/experiment/{run['id']}")
    for folder in (stages.home() / "swanlog").glob(f"run-*-{run_id}"):
        remove(folder)


def _answers(dataset) -> dict:
    """question -> true answer, where the trainer's data set has one."""
    if {"prompt", "answer"} <= set(getattr(dataset, "column_names", None) or ()):
        return dict(zip(map(_text, dataset["prompt"]), dataset["answer"], strict=True))
    return {}


def _text(messages) -> str:
    """The last message of a conversation, or the text that stands for it."""
    return messages if isinstance(messages, str) else messages[-1]["content"]


def completions_table(path: Path, answers: dict) -> list[tuple[str, str]]:
    """What is in one of TRL's completions files, as pairs (caption, text).

    Group by group, those that teach most first: the prompt, its true answer, and each
    completion, with its advantage as the caption and its rewards after the text.
    """
    rows = pd.read_parquet(path)
    groups = list(rows.groupby(rows["prompt"].map(_text), sort=False))
    groups.sort(key=lambda pair: -pair[1]["advantage"].abs().sum())
    table = []
    for question, group in groups:
        table += [("prompt", question), ("answer", str(answers.get(question, "?")))]
        for row in group.drop(columns=["step", "prompt"]).to_dict("records"):
            text, advantage = _text(row.pop("completion")), row.pop("advantage")
            scores = ", ".join(f"{name} {value:g}" for name, value in row.items())
            table.append(
                (f"advantage {advantage:+.2f}", f"{text.strip()}   [{scores}]")
            )
    return table
