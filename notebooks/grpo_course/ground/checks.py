"""What a profile's settings may be: checked before anything is loaded."""

import importlib.util
import os
import re
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import NamedTuple

from .session import masked

REPO = Path(__file__).resolve().parents[3]


class ProfileError(ValueError):
    """A setting that cannot work; the message names the field and its value."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


CHOICES = {
    "dtype": ("float32", "bfloat16", "float16"),
    "use_gradient_checkpointing": (False, True, "unsloth"),
    "template": ("course", "qwen3"),
    "optim": ("adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"),
    # TRL 1.15.0: GRPOConfig.loss_type and GRPOConfig.scale_rewards
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"),
    "scale_rewards": ("group", "batch", "none"),
    "reward": ("course", "format", "random", "flawed", "fixed"),
    "track": ("local", "cloud", "offline", "disabled"),
}
EXPORTS = ("lora", "merged_16bit", "merged_4bit")
EXPORTS += ("gguf_f16", "gguf_q8_0", "gguf_q4_k_m")

MAY_BE_ZERO = {"min_gpu_gib", "seed", "sft_examples", "sft_warmup_steps"}
MAY_BE_ZERO |= {"weight_decay", "beta", "grpo_warmup_ratio", "min_p"}
AT_MOST_ONE = {"gpu_memory_utilization", "grpo_warmup_ratio", "min_p", "epsilon"}
AT_MOST_ONE |= {"weight_decay", "sft_learning_rate", "grpo_learning_rate"}

EMBEDDED = ("embedded:sft", "embedded:grpo", "embedded:test")
HUB_MODEL = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
HUB_REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
HUB_DATA = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+){1,2}", re.ASCII)

BOOLS = {"true": True, "1": True, "false": False, "0": False}
PARSERS = {  # how the text of an override becomes a value, by the type of its field
    int: int,
    float: float,
    str: str,
    bool: lambda text: BOOLS[text.lower()],
    str | bool: lambda text: BOOLS.get(text.lower(), text),
    float | None: lambda text: None if text.lower() == "none" else float(text),
}


class Hardware(NamedTuple):
    """What the choice of a profile depends on."""

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


def local_path(name: str) -> Path | None:
    """The path that a model's or data set's name stands for; None for a hub name."""
    if name.startswith((".", "/", "~", "models/")):
        return Path(os.path.abspath(REPO / os.path.expanduser(name)))
    return None


def validate(profile, hardware: Hardware) -> None:
    """Raise ProfileError, one sentence, for the first setting that cannot work."""
    for field in fields(profile):
        problem = _problem_alone(field, getattr(profile, field.name))
        if problem:
            raise ProfileError(_sentence(profile, field.name, problem))
    for name, works, problem in _problems_together(profile, hardware):
        if not works:
            raise ProfileError(_sentence(profile, name, problem))


def _sentence(profile, name: str, problem: str) -> str:
    return f"{name}={getattr(profile, name)!r} {problem} (profile {profile.name})."


def _problem_alone(field: Field, value) -> str | None:
    """What is wrong with one value, whatever the others are."""
    name = field.name
    if name in CHOICES:
        return None if value in CHOICES[name] else f"must be one of {CHOICES[name]}"
    if name == "model_name" or name.endswith("_data"):
        path = local_path(value)
        if path is not None:
            there = os.path.isdir if name == "model_name" else os.path.isfile
            if not there(path):
                return f"does not exist ({path})"
            model = name != "model_name" or (path / "config.json").is_file()
            return None if model else f"is no model: {path} has no config.json"
        if name == "model_name":
            hub = HUB_MODEL.fullmatch(value) and _is_hub_id(value)
            return None if hub else "is no hub id or local path"
        if value in EMBEDDED or HUB_DATA.fullmatch(value):
            return None
        return f"must be one of {EMBEDDED}, owner/name:split, or a local path"
    if name == "hub_repo":
        works = not value or HUB_REPO.fullmatch(value) and _is_hub_id(value)
        return None if works else "is neither owner/name nor empty"
    if field.type in (int, float, float | None) and value is not None:
        if not (value > 0 or value == 0 and name in MAY_BE_ZERO):
            return f"must be {'0 or more' if name in MAY_BE_ZERO else 'above 0'}"
        high = 1 if name in AT_MOST_ONE else 2**32 - 1  # the largest seed of numpy
        if not value <= high:
            return f"must be at most {high}"
    return None


def _is_hub_id(name: str) -> bool:
    """Would the hub accept this as the name of a repository?"""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _problems_together(p, hardware: Hardware) -> Iterator[tuple]:
    """(field, does it work?, what to say if not), in the order to check them."""
    multiple = p.grpo_generation_batch % p.num_generations == 0
    yield "num_generations", p.num_generations >= 2, "must be at least 2, to compare"
    problem = f"times grpo_grad_accum={p.grpo_grad_accum} must be a multiple of "
    yield "grpo_batch_size", multiple, f"{problem}num_generations={p.num_generations}"
    room = p.max_completion_length < p.max_seq_length
    problem = f"leaves no room for a prompt in max_seq_length={p.max_seq_length}"
    yield "max_completion_length", room, problem
    above = p.epsilon_high is None or p.epsilon_high >= p.epsilon
    yield "epsilon_high", above, f"must not be below epsilon={p.epsilon}"
    known = set(p.export_formats) <= set(EXPORTS)
    yield "exports", known, f"must name some of {', '.join(EXPORTS)}, with commas"
    packed = p.load_in_4bit or "merged_4bit" not in p.export_formats
    yield "exports", packed, "has merged_4bit, which needs load_in_4bit=True and a GPU"

    if not p.on_gpu:
        for name in ("fast_inference", "load_in_4bit", "use_gradient_checkpointing"):
            yield name, not getattr(p, name), "must be False without a GPU"
        yield "dtype", p.dtype == "float32", "must be float32 without a GPU"
        hide = "is for no GPU: start with CUDA_VISIBLE_DEVICES= to hide the one here"
        yield "name", not hardware.gpu_gib, hide
    else:
        yield "name", hardware.gpu_gib > 0, "needs a CUDA GPU, and torch sees none"
        bf16 = p.dtype != "bfloat16" or hardware.bf16
        yield "dtype", bf16, "is unknown to this GPU: take float16"
        fits = p.gpu_gib is None or p.gpu_gib <= hardware.gpu_gib
        yield "gpu_gib", fits, f"is more than the {hardware.gpu_gib:.1f} GiB here"
    if p.fast_inference:
        yield "fast_inference", hardware.vllm, "needs the package vllm, not found here"
        share = p.gpu_memory_utilization is not None
        yield "gpu_memory_utilization", share, "must be a number with fast_inference"
