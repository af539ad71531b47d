"""What this machine has, what of its memory is in use, what it lacks for a profile."""

import importlib.util
import os
from collections.abc import Iterator
from typing import NamedTuple

from .paths import local_path

GIB = 2**30


class Hardware(NamedTuple):
    """The first GPU, and whether vLLM can use it."""

    gpu_gib: float = 0.0  # total memory of the first GPU; 0: no CUDA
    bf16: bool = False
    vllm: bool = False


def detect_hardware() -> Hardware:
    """Look at the first CUDA device, and whether vLLM is installed."""
    import torch

    if not torch.cuda.is_available():
        return Hardware()
    return Hardware(
        gpu_gib=torch.cuda.get_device_properties(0).total_memory / GIB,
        bf16=torch.cuda.get_device_capability(0) >= (8, 0),
        vllm=importlib.util.find_spec("vllm") is not None,
    )


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


def conditions_here(p, hardware: Hardware) -> Iterator[tuple]:
    """(field of the profile, does it work here?, what to say if not), in order."""
    if not p.on_gpu:
        hide = "is for no GPU: start with CUDA_VISIBLE_DEVICES= to hide the one here"
        yield "name", not hardware.gpu_gib, hide
    else:
        yield "name", hardware.gpu_gib > 0, "needs a CUDA GPU, and torch sees none"
        bf16 = p.dtype != "bfloat16" or hardware.bf16
        yield "dtype", bf16, "is unknown to this GPU: take float16"
        fits = p.gpu_gib is None or p.gpu_gib <= hardware.gpu_gib
        yield "gpu_gib", fits, f"is more than the {hardware.gpu_gib:.1f} GiB here"
        vllm = hardware.vllm or not p.fast_inference
        yield "fast_inference", vllm, "needs the package vllm, not found here"
    if folder := local_path(p.model_name):
        yield "model_name", os.path.isdir(folder), f"is no folder ({folder})"
        model = os.path.isfile(folder / "config.json")
        yield "model_name", model, f"is no model: {folder} has no config.json"
    for name in ("sft_data", "grpo_data", "eval_data"):
        if path := local_path(getattr(p, name)):
            yield name, os.path.isfile(path), f"is no file that exists ({path})"
