"""Before a long step: does it fit? Afterwards: what it took.

    memory.check("grpo", profile, model)  # a table, or TooLittle: what to lower
    with memory.watch("grpo", profile) as usage:
        trainer.train()  # out of memory in here gives the same advice
    usage["gib_peak"]

The needs are estimates for texts as long as allowed, within a factor of two or three of
what was measured.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..ground.hardware import GIB, free_memory, gpu_gib, machine
from ..ground.session import without_lines
from ..ground.stages import home
from ..scale_out import training_parts

CHECKPOINTS = 3  # on disk at a time: two are kept while the next one is written
SPARE_GIB = 1.0  # of disk, for logs and caches

# What takes the memory of each step, the most effective first.
LOWER = {
    "sft": ["sft_batch_size", "max_seq_length", "gpu_memory_utilization"],
    "grpo": ["grpo_batch_size", "max_completion_length", "gpu_memory_utilization"],
}


class TooLittle(MemoryError):
    """A step that does not fit; the message says what to lower."""


def check(step: str, profile, model):
    """What `step` ("sft" or "grpo") needs on top of the loaded model, as a DataFrame.

    Rows memory and disk, columns "needed (GiB)" and "there (GiB)". Raises TooLittle,
    one sentence, where there is less than is needed.
    """
    import pandas as pd

    disk = CHECKPOINTS * 12 * _trained(model) / GIB + SPARE_GIB
    needed = {"memory": estimate(step, profile, model), "disk": disk}
    disk = shutil.disk_usage(home()).free / GIB
    there = {"memory": free_memory(profile), "disk": disk}
    advice = {"memory": _advice(step, profile)}
    advice["disk"] = f"make room in {home()}, or set COURSE_HOME to a larger disk"
    for what in needed:
        if needed[what] > there[what]:
            raise TooLittle(
                f"This step needs about {needed[what]:.1f} GiB of {what} and "
                f"{there[what]:.1f} GiB are free: {advice[what]}."
            )
    return pd.DataFrame({"needed (GiB)": needed, "there (GiB)": there}).round(1)


@contextmanager
def watch(step: str, profile) -> Iterator[dict]:
    """Measure a long step, and answer a lack of GPU memory with advice; what Unsloth
    prints with every step is left out.

    Yields a dict for the stage's metrics: machine, profile, gib_held (`gpu_gib`),
    vllm_share, seconds_before (since this process started), and when it has ended
    minutes and gib_peak (on the GPU; None without one). Raises TooLittle in place of
    torch's OutOfMemoryError.
    """
    import psutil
    import torch

    usage = {"machine": machine(), "profile": profile.name}
    usage["seconds_before"] = time.time() - psutil.Process().create_time()
    usage |= {"gib_held": profile.gpu_gib, "gib_peak": None}
    usage["vllm_share"] = profile.gpu_memory_utilization
    started = time.monotonic()
    if profile.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        with without_lines("Unsloth: "):
            yield usage
    except torch.OutOfMemoryError as error:
        advice = _advice(step, profile)
        raise TooLittle(f"The GPU's memory was not enough: {advice}.") from error
    finally:
        usage["minutes"] = (time.monotonic() - started) / 60
        if profile.on_gpu:
            usage["gib_peak"] = gpu_gib(peak=True)


def estimate(step: str, profile, model) -> float:
    """GiB that training takes on top of the loaded model, roughly."""
    return sum(training_parts(step, profile, model.config, _trained(model)).values())


def _trained(model) -> int:
    return sum(w.numel() for w in model.parameters() if w.requires_grad)


def _advice(step: str, profile) -> str:
    lower = []
    for name in LOWER[step]:
        value = getattr(profile, name)
        if value not in (None, 1):
            half = round(value - 0.1, 2) if isinstance(value, float) else value // 2
            lower.append(f"COURSE_{name.upper()} (now {value}, try {half})")
    if step == "grpo":
        more = "and as many times more COURSE_GRPO_GRAD_ACCUM for a smaller batch"
        lower.append(more)
    return f"lower one of {', '.join(lower)}, restart the kernel and run again"
