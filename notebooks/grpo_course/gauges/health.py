"""A callback that looks at what a training logs, and says when something is wrong.

What can be mended later costs one sentence, once. Where going on is pointless, the
training ends in TrainingStopped, before anything is saved of the broken model.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, median, stdev

from ..ground import checkpoints

NUMBERS = ("loss", "grad_norm", "reward")  # of a log entry: each must be finite
FP16_OVERFLOWS = 20  # in a row: the scaler's 2**16, halved by each, would be below 1
HUGE = 100.0  # for a LoRA's weight, usually well below 1: every answer is noise then
NO_STEP = """Not one step was taken: the data has fewer rows than a step needs. \
See which filter dropped them, or lower the batch size."""
TROUBLES = {
    "exploding gradient": """the gradient was over 100 times its usual size, 3 times \
in a row. Try half of the learning rate, or a longer warm-up.""",
    "no variance": """in the last 10 steps all completions of a group had equal \
rewards, and such groups teach nothing. Try easier problems if the reward is low and \
harder ones if it is high; if it is lowest, see whether the model knows the format.""",
    "clipped": """in the last 5 steps hardly any completion came to its end. Try a \
COURSE_MAX_COMPLETION_LENGTH above {limit}, or see if the warm-up taught it to stop.""",
    "flat reward": """the reward of the last 20 steps is no higher, but for chance, \
than that of the first 20. Look at frac_reward_zero_std (near 1: too easy or too hard \
problems), then try a higher COURSE_GRPO_LEARNING_RATE or more steps.""",
}


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


def symptoms(history: list[dict]) -> Iterator[str]:
    """Which of TROUBLES a training is in. history: one dict a step, oldest first.

    Ten steps without variance: in a healthy run near its best one is in two (measured
    with the course's own, on a CPU), and ten in a row one chance in a thousand.
    """

    def column(name: str, last: int = 0) -> list[float]:
        return [float(entry[name]) for entry in history if name in entry][-last:]

    norms, equal = column("grad_norm"), column("frac_reward_zero_std", 10)
    usual = [norm for norm in norms[:-3] if 0 < norm < math.inf]
    if len(usual) >= 10 and min(norms[-3:]) > 100 * median(usual):
        yield "exploding gradient"
    if len(equal) == 10 and min(equal) == 1:
        yield "no variance"
    clipped = column("completions/clipped_ratio", 5)
    if len(clipped) == 5 and min(clipped) >= 0.95:
        yield "clipped"
    if len(rewards := column("reward")) >= 40:
        first, last = rewards[:20], rewards[-20:]
        error = math.hypot(stdev(first), stdev(last)) / math.sqrt(20)
        if fmean(last) - fmean(first) <= 2 * error:
            yield "flat reward"
