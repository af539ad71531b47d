"""A callback that looks at what a training logs, and says when something is wrong.

What can be mended later is told once, in one sentence with something to try, and the
training goes on. Where going on is pointless, because the loss, the gradient or a
weight is no number any more, it ends in TrainingStopped, before anything is saved of
the broken model. A checkpoint of a healthy one is sealed (`stages.seal_checkpoint`), so
that a resumed run knows it again.
"""

import math
from pathlib import Path
from statistics import fmean, median, stdev

from ..ground.stages import seal_checkpoint

# With fp16 the gradient scaler starts at 2**16 and halves at every overflow, skipping
# that step. More than this many in a row would mean a scale below 1: no mere search.
FP16_OVERFLOWS = 20
# A gradient so far above what was usual, so often in a row, is no single odd batch.
EXPLODED, EXPLODED_STEPS, USUAL_STEPS = 100.0, 3, 10
# A healthy run near its best has one such step in two (measured: the course's own runs
# on a CPU, 4 groups a step): ten in a row are then one chance in a thousand.
NO_VARIANCE_STEPS = 10
# Some long answers are normal; hardly one that ends, five times in a row, is not.
CLIPPED, CLIPPED_STEPS = 0.95, 5
# The mean of 20 steps against that of the first 20, in standard errors of the
# difference: the course's reward passes by far, one that knows nothing does not.
FLAT_STEPS, FLAT_ERRORS = 20, 2.0

# Weights of a LoRA are well below 1. With such ones every answer is noise, and somewhat
# later the probabilities of the next token are no numbers any more.
HUGE = 100.0
NUMBERS = ("loss", "grad_norm", "reward")  # of a log entry: each must be finite


class TrainingStopped(RuntimeError):
    """A training that going on cannot mend; the message says what to try."""


def health_callback(profile):
    """A TrainerCallback for the SFTTrainer or GRPOTrainer of this profile.

    It prints what it notices. It raises TrainingStopped out of `trainer.train()` when a
    number is not finite; the checkpoints before that stay as they are.
    """
    from transformers import TrainerCallback

    class Health(TrainerCallback):
        told: set[str] = set()

        def on_train_begin(self, args, state, control, **kwargs):
            self.told = set()
            # Transformers would log a mean of the earlier losses in place of a NaN.
            args.logging_nan_inf_filter = False

        def on_log(self, args, state, control, logs=None, **kwargs):
            history = [entry for entry in state.log_history if "loss" in entry]
            allowed = FP16_OVERFLOWS if args.fp16 else 0
            if found := not_finite(history[-allowed - 1 :], allowed):
                self.stop(args, state, control, f"{found} is not finite")
            for name, sentence in symptoms(history, profile).items():
                if name not in self.told:
                    self.told.add(name)
                    print(f"\nStep {state.global_step}: {sentence}", flush=True)

        def on_step_end(self, args, state, control, model=None, **kwargs):
            if name := broken_weight(model):
                what = f"the weight {name} is above {HUGE:g} or not finite"
                self.stop(args, state, control, what)

        def on_save(self, args, state, control, **kwargs):
            name = f"checkpoint-{state.global_step}"
            seal_checkpoint(Path(args.output_dir) / name)

        def on_train_end(self, args, state, control, **kwargs):
            if state.global_step == 0:  # the trainer would only log a warning
                raise TrainingStopped(
                    "Not one step was taken: the data has fewer rows than a step "
                    "needs. See which filter dropped them, or lower the batch size."
                )

        def stop(self, args, state, control, what: str):
            control.should_training_stop = True
            kind = "grpo" if hasattr(args, "num_generations") else "sft"
            rate = getattr(profile, f"{kind}_learning_rate") / 2
            advice = f"Try COURSE_{kind.upper()}_LEARNING_RATE={rate:g}, half of now."
            if what.startswith("the reward"):
                advice = "Mend the reward function that returned NaN or infinity."
            raise TrainingStopped(
                f"Stopped at step {state.global_step}: {what}, so going on would be "
                f"pointless. {advice}"
            )

    return Health()


def not_finite(history: list[dict], allowed: int = 0) -> str | None:
    """The first of NUMBERS that is NaN or infinite in each of the last log entries.

    `allowed`: how many such entries in a row are still no reason to worry.
    """
    last = history[-allowed - 1 :]
    if len(last) <= allowed:
        return None
    for name in NUMBERS:
        if all(not math.isfinite(float(entry.get(name, 0))) for entry in last):
            return f"the {name}"
    return None


def broken_weight(model) -> str | None:
    """The name of a trained weight with a value that is NaN or above HUGE, or None."""
    import torch

    trained = [(n, w.detach()) for n, w in model.named_parameters() if w.requires_grad]
    largest = torch.stack([weight.abs().max().float() for _, weight in trained])
    good = (largest <= HUGE).tolist()  # one look at the GPU for all; a NaN is not good
    return None if all(good) else trained[good.index(False)][0]


def symptoms(history: list[dict], profile) -> dict[str, str]:
    """What is wrong with a training by its log entries: a name, and one sentence.

    history: one dict a step, as TRL logs them, oldest first.
    """
    found = {}
    if _exploded(_column(history, "grad_norm")):
        found["exploding gradient"] = (
            f"the gradient was over {EXPLODED:g} times its usual size, "
            f"{EXPLODED_STEPS} times in a row. Try half of the learning rate, or a "
            "longer warm-up."
        )
    equal = _column(history, "frac_reward_zero_std")[-NO_VARIANCE_STEPS:]
    if len(equal) == NO_VARIANCE_STEPS and min(equal) == 1:
        found["no variance"] = (
            f"in the last {NO_VARIANCE_STEPS} steps all completions of a group had "
            "equal rewards, and such groups teach nothing. Try easier problems if the "
            "reward is low and harder ones if it is high; if it is lowest, see whether "
            "the model knows the format."
        )
    clipped = _column(history, "completions/clipped_ratio")[-CLIPPED_STEPS:]
    if len(clipped) == CLIPPED_STEPS and min(clipped) >= CLIPPED:
        found["clipped"] = (
            f"in the last {CLIPPED_STEPS} steps hardly any completion came to its end. "
            "Try a COURSE_MAX_COMPLETION_LENGTH above "
            f"{profile.max_completion_length}, or see whether the warm-up taught the "
            "model to stop."
        )
    rewards = _column(history, "reward")
    if _flat(rewards):
        found["flat reward"] = (
            f"the reward of the last {FLAT_STEPS} steps is no higher, but for chance, "
            f"than that of the first {FLAT_STEPS}. Look at frac_reward_zero_std (near "
            "1: the problems are too easy or too hard), then try a "
            "higher COURSE_GRPO_LEARNING_RATE or more steps."
        )
    return found


def _column(history: list[dict], name: str) -> list[float]:
    return [float(entry[name]) for entry in history if name in entry]


def _exploded(norms: list[float]) -> bool:
    before, last = norms[:-EXPLODED_STEPS], norms[-EXPLODED_STEPS:]
    usual = [norm for norm in before if 0 < norm < math.inf]
    if len(usual) < USUAL_STEPS:
        return False
    return min(last) > EXPLODED * median(usual)


def _flat(rewards: list[float]) -> bool:
    if len(rewards) < 2 * FLAT_STEPS:
        return False
    first, last = rewards[:FLAT_STEPS], rewards[-FLAT_STEPS:]
    variance = stdev(first) ** 2 + stdev(last) ** 2
    error = math.sqrt(variance / FLAT_STEPS)
    return fmean(last) - fmean(first) <= FLAT_ERRORS * error
