"""What a trainer reports while it runs: one line of progress, and SwanLab's curves."""

import importlib.util

from .stages import home

PROJECT = "grpo-course"
MODES = {"local": "local", "offline": "offline", "cloud": "online"}


def tracking_callbacks(profile, name: str) -> list:
    """Callbacks for a Trainer with report_to="none", for the run called `name`.

    The first keeps one line of progress up to date. The second logs to SwanLab in the
    mode `profile.track` (files go to COURSE_HOME/swanlog); where SwanLab cannot start,
    one printed sentence says why, and the training goes on without it.
    """
    callbacks = [_progress_line()]
    if profile.track != "disabled":
        try:
            callbacks.append(_swanlab(name, MODES[profile.track]))
        except Exception as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            print(f"No SwanLab curves this time: {reason}")
    return callbacks


def _swanlab(name: str, mode: str):
    if mode == "local" and importlib.util.find_spec("swanboard") is None:
        raise ImportError("pip install 'swanlab[dashboard]' adds what they need.")
    import swanlab
    from IPython.utils.capture import capture_output
    from swanlab.integration.transformers import SwanLabCallback

    folder = home() / "swanlog"
    folder.mkdir(parents=True, exist_ok=True)
    with capture_output():  # its greetings
        if swanlab.has_run():  # an earlier training of this notebook
            swanlab.finish()
        swanlab.init(
            project=PROJECT,
            name=name,
            mode=mode,
            log_dir=str(folder),
            settings=swanlab.Settings(
                interactive=False,  # never ask for a key in the middle of a notebook
                terminal={"proxy_type": "none"},
                probe={"requirements": False, "git": False, "runtime": False},
            ),
        )
    return SwanLabCallback()


def _progress_line():
    from transformers import TrainerCallback

    class ProgressLine(TrainerCallback):
        """Prints "step 20 of 120 | loss 0.131", over itself."""

        text = ""

        def on_step_end(self, args, state, control, **kwargs):
            step = f"\rstep {state.global_step} of {state.max_steps}"
            print(step + self.text, end="", flush=True)

        def on_log(self, args, state, control, logs=None, **kwargs):
            shown = [name for name in ("loss", "reward") if name in (logs or {})]
            if shown:
                self.text = "".join(f" | {n} {float(logs[n]):.3f}" for n in shown)

        def on_train_end(self, args, state, control, **kwargs):
            print(f"\rstep {state.global_step} of {state.max_steps}{self.text}")

    return ProgressLine()
