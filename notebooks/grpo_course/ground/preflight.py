"""Before a long step: does it fit, and how long does it take? Afterwards: what it took.

    preflight.tiers("grpo")  # what was measured, for each profile
    preflight.check("grpo", profile)  # a table, or TooLittle, which says what to lower
    with preflight.watch("grpo", profile) as usage:
        trainer.train()  # out of memory in here gives the same advice
    usage["gib_peak"]

Measured needs come from results/, where this profile has been run with this model, or
with random weights of its size; otherwise they are estimated from the dimensions.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

from .paths import REPO
from .profile import PROFILES
from .session import without_lines
from .stages import home

MEASURED = REPO / "results" / "gpu-usage.json"  # long steps: time and memory
TIERS = "gpu-tiers.json"  # beside it: the same with random weights
GIB = 2**30
CHECKPOINTS = 3  # on disk at a time: two are kept while the next one is written
SPARE_GIB = 1.0  # of disk, for logs and caches

# What takes the memory of each step, the most effective first.
LOWER = {
    "sft": ["sft_batch_size", "max_seq_length", "gpu_memory_utilization"],
    "grpo": ["grpo_batch_size", "max_completion_length", "gpu_memory_utilization"],
}


# How long it lasts hangs on these as well.
LASTS = {
    "sft": ["sft_data", "sft_examples", "sft_epochs", "sft_grad_accum"],
    "grpo": ["grpo_data", "grpo_steps", "grpo_grad_accum"],
}


class TooLittle(MemoryError):
    """A step that does not fit; the message says what to lower."""


def tiers(stage: str):
    """Memory, model and minutes of a notebook for each profile, as a DataFrame.

    stage: what is evaluated in it, "base" (notebook 02), "sft" or "grpo". Minutes and
    the peak of the GPU's memory in its training come from results/, where this profile
    has been run with its own model (the peak: or with random weights of its size).
    """
    import pandas as pd

    rows = {}
    for name, profile in PROFILES.items():
        found = _minutes(stage, name)
        minutes = "{:.1f} ({})".format(*found) if found else "not measured"
        memory = f"{profile.min_gpu_gib:.0f} GiB" if profile.on_gpu else "none"
        rows[name] = {"GPU memory": memory, "model": profile.model_name}
        if stage in LOWER:
            peak = _measured(stage, profile).get("gib_peak")
            missing = "not measured" if profile.on_gpu else "none"
            rows[name]["at the peak"] = f"{peak:.1f} GiB" if peak else missing
        rows[name]["minutes"] = minutes
    return pd.DataFrame.from_dict(rows, orient="index")


def _minutes(stage: str, name: str) -> tuple[float, str] | None:
    """Minutes of a notebook with a profile and its own model, and on which machine.

    The median of the runs on the machine that was measured last.
    """
    own = {"stage": stage, "model": PROFILES[name].model_name}
    found = [row for row in _stage_rows(name) if own.items() <= row.items()]
    if not found:
        return None
    machine = found[-1]["machine"]
    taken = [row["minutes"] for row in found if row["machine"] == machine]
    return median(taken), machine


def _stage_rows(profile: str) -> list[dict]:
    """The evaluated stages in results/ that a profile made."""
    if profile == "cpu":
        cpu = {"model": PROFILES["cpu"].model_name, "machine": "2 CPU cores"}
        return [row | cpu for row in _read("cpu.json")]
    return [row for row in _read("gpu.json") if row["profile"] == profile]


def _read(name: str) -> list[dict]:
    path = MEASURED.with_name(name)
    return json.loads(path.read_text()) if path.is_file() else []


def check(step: str, profile, model):
    """What `step` ("sft" or "grpo") needs on top of the loaded model, as a DataFrame.

    Rows memory and disk (GiB) and time (minutes, of the step, or of the whole notebook
    if only that was measured); columns needed, there and source.
    Raises TooLittle, one sentence, if memory or disk is certain not to suffice.
    """
    import pandas as pd

    measured, memory = _measured(step, profile), _estimate(step, profile, model)
    source, lasts = "estimated", {"needed": "not measured", "there": "", "source": ""}
    if measured:
        source = f"measured on {measured['machine']}"
        memory = measured["gib_peak"] - measured["gib_before"]
    if "minutes" in measured:
        lasts |= {"needed": round(measured["minutes"], 1), "source": source}
    elif _as_in_the_table(step, profile) and (found := _minutes(step, profile.name)):
        notebook = f"the whole notebook, on {found[1]}"
        lasts |= {"needed": round(found[0], 1), "source": notebook}
    disk = CHECKPOINTS * 12 * _adapter_parameters(model) / GIB + SPARE_GIB
    free = shutil.disk_usage(home()).free / GIB
    there = _free_memory(profile)
    if memory > there:
        raise TooLittle(
            f"This step needs about {memory:.1f} GiB more memory and {there:.1f} GiB "
            f"are free: {_advice(step, profile)}."
        )
    if disk > free:
        raise TooLittle(
            f"This step needs about {disk:.1f} GiB of disk and {home()} has {free:.1f} "
            "GiB free: make room, or set COURSE_HOME to a larger disk."
        )
    rows = {
        "memory (GiB)": (round(memory, 1), round(there, 1), source),
        "disk (GiB)": (round(disk, 1), round(free, 1), "estimated"),
        "time (minutes)": tuple(lasts.values()),
    }
    columns = ["needed", "there", "source"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


@contextmanager
def watch(step: str, profile) -> Iterator[dict]:
    """Measure a long step, and answer a lack of GPU memory with advice; what Unsloth
    prints with every step is left out.

    Yields a dict for the stage's metrics: machine, profile, gib_held (`gpu_gib`),
    seconds_before (since this process started), and when it has ended minutes,
    gib_before and gib_peak (on the GPU; None without one). Raises TooLittle in place of
    torch's OutOfMemoryError.
    """
    import psutil
    import torch

    usage = {"machine": machine(), "profile": profile.name}
    usage["seconds_before"] = time.time() - psutil.Process().create_time()
    usage |= {"gib_held": profile.gpu_gib, "gib_before": None, "gib_peak": None}
    started = time.monotonic()
    if profile.on_gpu:
        torch.cuda.reset_peak_memory_stats()
        usage["gib_before"] = gpu_gib(peak=False)
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


def gpu_gib(peak: bool) -> float:
    """GiB of GPU memory in use, now or at the peak since the last reset.

    What torch has reserved (vLLM's cache and weights included), and what CUDA itself
    takes beside it.
    """
    import torch

    now, most = torch.cuda.memory_reserved(), torch.cuda.max_memory_reserved()
    return (_gpu_bytes() - now + (most if peak else now)) / GIB


def _gpu_bytes() -> int:
    """Bytes of GPU memory that this process holds now.

    Where the driver does not tell the processes apart, as in many containers, those of
    all processes on the GPU.
    """
    import pynvml
    import torch

    try:
        pynvml.nvmlInit()
        uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
        gpu = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu):
            if process.pid == os.getpid() and process.usedGpuMemory:
                return process.usedGpuMemory
    except pynvml.NVMLError:
        pass
    free, total = torch.cuda.mem_get_info()
    return total - free


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


def _advice(step: str, profile) -> str:
    lower = []
    for name in LOWER[step]:
        value = getattr(profile, name)
        if value is None or value == 1:
            continue
        half = round(value - 0.1, 2) if isinstance(value, float) else value // 2
        lower.append(f"COURSE_{name.upper()} (now {value}, try {half})")
    again = "and as many times more COURSE_GRPO_GRAD_ACCUM for a smaller batch, "
    again = again if step == "grpo" else ""
    return f"lower one of {', '.join(lower)}, {again}restart the kernel and run again"


def _measured(step: str, profile) -> dict:
    """The last measurement of this step with this profile and model; {} if none.

    gib_before, gib_peak, machine, and minutes where the whole step was run. A profile
    with other values of what takes memory has not been measured.
    """
    if not _as_in_the_table(step, profile):
        return {}
    same = {"step": step, "profile": profile.name, "model": profile.model_name}
    tiers = [
        row | {"gib_before": row["gib_loaded"], "model": profile.model_name}
        for row in _read(TIERS)
        if "error" not in row
    ]
    rows = [*tiers, *_read(MEASURED.name)]
    return next((row for row in rows[::-1] if same.items() <= row.items()), {})


def _as_in_the_table(step: str, profile) -> bool:
    """Is all that takes memory or time as in PROFILES, with nothing overridden?"""
    table = PROFILES[profile.name]
    names = ("model_name", "max_seq_length", *LOWER[step], *LASTS[step])
    return all(getattr(profile, name) == getattr(table, name) for name in names)


def _estimate(step: str, profile, model) -> float:
    """GiB that training takes on top of the loaded model, roughly.

    Adapter: gradient, two Adam averages, a copy: 16 bytes a weight. Activations: the
    inputs of all layers, and the inside of each, or with gradient checkpointing of one.
    Scores over the vocabulary: in 32 bits, three times (scores, their softmax, the
    gradient). Unsloth's checkpointing moves the inputs to the computer's memory, and
    its loss never has more than a small part of the scores at a time.
    """
    config, width = model.config, 4 if profile.dtype == "float32" else 2
    rows, length = profile.sft_batch_size, profile.max_seq_length // 2
    if step == "grpo":
        rows, length = profile.grpo_batch_size, profile.max_seq_length
    tokens, layers = rows * length, config.num_hidden_layers
    offloads = profile.use_gradient_checkpointing == "unsloth"
    kept = 1 if profile.use_gradient_checkpointing else layers
    inside = 4 * config.hidden_size + 4 * config.intermediate_size
    inputs = 0 if offloads else layers * config.hidden_size
    activations = tokens * width * (inputs + kept * inside)
    scores = 0 if offloads else tokens * config.vocab_size * 4 * 3
    return (16 * _adapter_parameters(model) + activations + scores) / GIB


def _adapter_parameters(model) -> int:
    return sum(w.numel() for w in model.parameters() if w.requires_grad)


def _free_memory(profile) -> float:
    import psutil
    import torch

    if not profile.on_gpu:
        return psutil.virtual_memory().available / GIB
    free = torch.cuda.mem_get_info()[0] / GIB
    if profile.gpu_gib is None:
        return free
    return min(free, profile.gpu_gib - gpu_gib(peak=False))
