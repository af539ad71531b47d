"""A callback that looks at what a training logs, and says when something is wrong.

What can be mended later costs one sentence, once. Where going on is pointless, the
training ends in TrainingStopped, before anything is saved of the broken model.
"""

import math
from pathlib import Path

from ..ground import checkpoints
from ..reading_runs import TROUBLES, symptoms

NUMBERS = ("loss", "grad_norm", "reward")  # of a log entry: each must be finite
FP16_OVERFLOWS = 20  # in a row: the scaler's 2**16, halved by each, would be below 1
HUGE = 100.0  # for a LoRA's weight, usually well below 1: every answer is noise then
NO_STEP = """Not one step was taken: the data has fewer rows than a step needs. \
See which filter dropped them, or lower the batch size."""


class TrainingStopped(RuntimeError):
    """A training that going on cannot mend; the message says what to try."""


def health_callback(profile):
    """A TrainerCallback that prints what it notices; it may raise TrainingStopped.

    It also seals the checkpoints of a healthy model, for a resumed run to know them.
    """
    from transformers import TrainerCallback

    class Health(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.untold = set(TROUBLES)
            args.logging_nan_inf_filter = False  # it would hide a NaN behind a mean

        def on_log(self, args, state, control, **kwargs):
            history = [entry for entry in state.log_history if "loss" in entry]
            if name := not_finite(history, FP16_OVERFLOWS if args.fp16 else 0):
                stop(args, state, f"the {name} is not finite")
            for name in self.untold.intersection(symptoms(history)):
                self.untold.remove(name)
                sentence = TROUBLES[name].format(limit=profile.max_completion_length)
                print(f"\nStep {state.global_step}: {sentence}", flush=True)

        def on_step_end(self, args, state, control, model=None, **kwargs):
            if name := broken_weight(model):
                stop(args, state, f"the weight {name} is above {HUGE:g} or not finite")

        def on_save(self, args, state, control, **kwargs):
            name = f"checkpoint-{state.global_step}"
            checkpoints.seal(Path(args.output_dir) / name)

        def on_train_end(self, args, state, control, **kwargs):
            if state.global_step == 0:  # the trainer would only log a warning
                raise TrainingStopped(NO_STEP)

    def stop(args, state, what: str):
        kind = "grpo" if hasattr(args, "num_generations") else "sft"
        rate = getattr(profile, f"{kind}_learning_rate") / 2
        advice = f"Try COURSE_{kind.upper()}_LEARNING_RATE={rate:g}, half of now."
        if what.startswith("the reward"):
            advice = "Mend the reward function that returned NaN or infinity."
        what = f"Stopped at step {state.global_step}: {what}, so going on is pointless."
        raise TrainingStopped(f"{what} {advice}")

    return Health()


def not_finite(history: list[dict], allowed: int = 0) -> str | None:
    """The first of NUMBERS that is none in each of the last `allowed` + 1 entries."""
    last = history[-allowed - 1 :] if len(history) > allowed else [{}]
    finite = {n: [math.isfinite(float(e.get(n, 0))) for e in last] for n in NUMBERS}
    return next((name for name in NUMBERS if not any(finite[name])), None)


def broken_weight(model) -> str | None:
    """The name of a trained weight with a value that is NaN or above HUGE, or None."""
    import torch

    trained = [(n, w.detach()) for n, w in model.named_parameters() if w.requires_grad]
    largest = torch.stack([weight.abs().max().float() for _, weight in trained])
    if hasattr(largest, "full_tensor"):  # a model in parts, of FSDP2
        largest = largest.full_tensor()
    good = (largest <= HUGE).tolist()  # one look at the GPU for all; a NaN is not good
    return None if all(good) else trained[good.index(False)][0]
