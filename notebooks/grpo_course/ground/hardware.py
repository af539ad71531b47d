"""What this machine has, and what it lacks for a profile."""

import importlib.util
import os
from collections.abc import Iterator
from typing import NamedTuple

from .paths import local_path


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
        gpu_gib=torch.cuda.get_device_properties(0).total_memory / 2**30,
        bf16=torch.cuda.get_device_capability(0) >= (8, 0),
        vllm=importlib.util.find_spec("vllm") is not None,
    )


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
