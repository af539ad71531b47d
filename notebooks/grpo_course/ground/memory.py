"""Before a long step: does it fit? Afterwards: what it took.

    memory.check("grpo", profile, model)  # a table, or TooLittle: what to lower
    with memory.watch("grpo", profile) as usage:
        trainer.train()  # out of memory in here gives the same advice
    usage["gib_peak"]

The needs are estimates for texts as long as allowed, within a factor of two or three of
what was measured.
"""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .session import without_lines
from .stages import home

GIB = 2**30
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


def gpu_gib(peak: bool = False) -> float:
    """GiB of GPU memory in use, now or at the peak since the last reset.

    What torch has reserved (vLLM's cache and weights included), and what CUDA itself,
    or another process on the same GPU, takes beside it.
    """
    import torch

    free, total = torch.cuda.mem_get_info()
    now, most = torch.cuda.memory_reserved(), torch.cuda.max_memory_reserved()
    return (total - free - now + (most if peak else now)) / GIB


def free_memory(profile) -> float:
    """GiB that are free, on the GPU if the profile is for one."""
    import psutil
    import torch

    if not profile.on_gpu:
        return psutil.virtual_memory().available / GIB
    free, total = (size / GIB for size in torch.cuda.mem_get_info())
    return free - (total - profile.gpu_gib if profile.gpu_gib else 0)


def machine() -> str:
    """The GPU's name, or the number of CPU cores."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{os.cpu_count()} CPU cores"


def vllm_share(profile) -> float:
    """vLLM's share of the whole GPU, 0 to 1.

    With `gpu_gib` set this process is also held to so much memory, as if the GPU were a
    smaller one: torch refuses more, and vLLM's share is one of the smaller GPU.
    """
    import torch

    share = profile.gpu_memory_utilization
    if profile.gpu_gib is None:
        return share
    total = torch.cuda.get_device_properties(0).total_memory / GIB
    torch.cuda.set_per_process_memory_fraction(profile.gpu_gib / total)
    return share * profile.gpu_gib / total


def estimate(step: str, profile, model) -> float:
    """GiB that training takes on top of the loaded model, roughly."""
    return sum(training_parts(step, profile, model.config, _trained(model)).values())


def training_parts(step: str, profile, config, trained: int) -> dict[str, float]:
    """The same, in GiB by parts. trained: how many weights the adapter has.

    Adapter: gradient, two Adam averages, a copy: 16 bytes a weight. Activations: the
    inputs of all layers, and the inside of each, or with gradient checkpointing of one.
    Scores over the vocabulary: in 32 bits, three times (scores, their softmax, the
    gradient); on a GPU Unsloth's loss never has more than a small part of them at a
    time. Its checkpointing moves the inputs to the computer's memory.
    """
    width = 4 if profile.dtype == "float32" else 2
    tokens = profile.sft_batch_size * profile.max_seq_length // 2
    if step == "grpo":
        tokens = profile.grpo_batch_size * profile.max_seq_length
    offloads = profile.use_gradient_checkpointing == "unsloth"
    kept = 1 if profile.use_gradient_checkpointing else config.num_hidden_layers
    inside = 4 * config.hidden_size + 4 * config.intermediate_size
    inputs = 0 if offloads else config.num_hidden_layers * config.hidden_size
    activations = tokens * width * (inputs + kept * inside)
    scores = 0 if profile.on_gpu else tokens * config.vocab_size * 4 * 3
    found = {"adapter": 16 * trained, "activations": activations, "scores": scores}
    return {name: size / GIB for name, size in found.items()}


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
