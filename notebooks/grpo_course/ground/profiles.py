"""One table of settings for each kind of machine, and the checks on them.

A profile names everything that a notebook would otherwise hard-code: model, lengths,
batch sizes, learning rates, data. `load_profile()` picks one by the hardware. To choose
another, or to change one value, set an environment variable before Jupyter starts:

    COURSE_PROFILE=l4                 another profile
    COURSE_GRPO_STEPS=20              one field of it (COURSE_ + the field in capitals)
    COURSE_MODEL_NAME=~/my-qwen3      a hub id or a local folder
    COURSE_TEMPLATE=qwen3             Qwen3's own <think> form (notebook 02)

Paths are local when they begin with ".", "/" or "~" (or with "models/"), and relative
ones start at the repository's root. Data is written in one of three ways:

    embedded:sft                      generated here by grpo_course.ground.arithmetic
    owner/name:split                  a hub data set (or owner/name:config:split)
    ./my.jsonl                        a local file, one JSON object a line
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields, replace

from .checks import (
    PARSERS,
    Hardware,
    ProfileError,
    detect_hardware,
    local_path,
    validate,
)


@dataclass(frozen=True)
class Profile:
    """The settings of one run. The defaults are what the GPU profiles share."""

    name: str
    description: str
    min_gpu_gib: float  # memory of the smallest GPU it is meant for; 0: no GPU

    # The base model and its adapter (notebook 01)
    model_name: str = "Qwen/Qwen3-8B"  # hub id or local folder
    dtype: str = "bfloat16"
    load_in_4bit: bool = False
    fast_inference: bool = True  # generate with vLLM
    gpu_memory_utilization: float | None = 0.7  # vLLM's share of the GPU, 0 to 1
    gpu_gib: float | None = None  # act as a GPU with so many GiB; None: take it all
    max_seq_length: int = 2048  # tokens of prompt and completion together
    lora_rank: int = 32
    lora_alpha: int = 64
    use_gradient_checkpointing: str | bool = "unsloth"
    seed: int = 3407

    # The chat template (notebook 02)
    template: str = "course"  # or "qwen3", Qwen3's own <think> form

    # Supervised warm-up (notebook 03); GRPO uses the same optimizer
    optim: str = "adamw_8bit"
    weight_decay: float = 0.01
    sft_data: str = "unsloth/OpenMathReasoning-mini:cot"
    sft_examples: int = 0  # at most so many; 0: all
    sft_epochs: int = 2
    sft_batch_size: int = 1  # examples per micro-batch
    sft_grad_accum: int = 1
    sft_learning_rate: float = 2e-4
    sft_warmup_steps: int = 5

    # GRPO (notebook 05)
    grpo_data: str = "open-r1/DAPO-Math-17k-Processed:en:train"
    reward: str = "course"  # a list of rewards.REWARD_FUNCTIONS: format, random, ...
    grpo_steps: int = 100  # optimizer steps
    num_generations: int = 8  # completions per prompt: the size of a group
    grpo_batch_size: int = 4  # completions per micro-batch
    grpo_grad_accum: int = 8  # micro-batches per optimizer step
    grpo_learning_rate: float = 5e-6
    grpo_warmup_ratio: float = 0.1  # share of the steps
    temperature: float = 1.0
    min_p: float = 0.1
    max_completion_length: int = 1024  # tokens
    beta: float = 0.0  # weight of the KL term; 0: no reference model
    loss_type: str = "dapo"
    scale_rewards: str = "group"  # divide advantages by the std of: group, batch, none
    epsilon: float = 0.2  # clip range of the ratio
    epsilon_high: float | None = None  # None: the same as epsilon
    mask_truncated: bool = False  # leave cut-off completions out of the loss

    # Export (notebook 06)
    exports: str = "lora,merged_16bit"  # formats of checks.EXPORTS, with commas
    hub_repo: str = ""  # owner/name to upload them to, private; empty: no upload

    # Evaluation (notebooks 01, 03, 05 and 06), checkpoints and tracking
    save_steps: int = 25  # steps between checkpoints
    eval_data: str = "openai/gsm8k:main:test"
    eval_problems: int = 300
    eval_batch_size: int = 64
    track: str = "local"  # SwanLab's mode: local, cloud, offline, disabled

    @property
    def on_gpu(self) -> bool:
        """False for the cpu profile, the only one that runs without CUDA."""
        return self.name != "cpu"

    @property
    def model_source(self) -> str:
        """What `from_pretrained` gets: the hub id, or the full path of the folder."""
        return str(local_path(self.model_name) or self.model_name)

    @property
    def grpo_generation_batch(self) -> int:
        """Completions per optimizer step (prompts x num_generations)."""
        return self.grpo_batch_size * self.grpo_grad_accum

    @property
    def export_formats(self) -> tuple[str, ...]:
        """`exports` as a tuple, each format once."""
        return tuple(dict.fromkeys(name.strip() for name in self.exports.split(",")))

    def settings_for(self, stage: str) -> dict:
        """The fields that decide what a stage contains, by field name.

        Made with other values of these, a stage is another stage: its own fields and
        those of the stages before it. Raises KeyError for a name that is no stage.
        """
        names = [field.name for field in fields(self)]
        until = names.index(LAST_FIELD[stage]) + 1
        return {n: getattr(self, n) for n in names[:until] if n not in NO_EFFECT}

    def table(self):
        """All settings as a DataFrame: one row a field, with the variable to set."""
        import pandas as pd

        rows = {
            f.name: (getattr(self, f.name), "" if f.name in FIXED else _variable(f))
            for f in fields(self)
        }
        return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "change"])


# --- The table. Edit numbers here; a field not named has its default above. -----------

TINY = {  # the embedded model, its data and its rates, on any hardware
    "model_name": "models/tiny-qwen3",
    "max_seq_length": 384,
    "sft_data": "embedded:sft",
    "sft_examples": 240,
    "sft_epochs": 3,
    "sft_batch_size": 8,
    "sft_learning_rate": 2e-3,
    "grpo_data": "embedded:grpo",
    "grpo_steps": 50,
    "grpo_learning_rate": 1e-3,
    "max_completion_length": 128,
    "eval_data": "embedded:test",
}
PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="cpu",
            description="A tiny embedded model on any laptop, in minutes.",
            min_gpu_gib=0,
            **TINY,
            dtype="float32",
            fast_inference=False,
            gpu_memory_utilization=None,
            use_gradient_checkpointing=False,
            optim="adamw_torch",
            grpo_batch_size=32,
            grpo_grad_accum=1,
            save_steps=20,
            eval_batch_size=100,
        ),
        Profile(
            name="gpu-tiny",
            description="The tiny model with vLLM: tries a GPU set-up in minutes.",
            min_gpu_gib=8,
            **TINY,
            gpu_memory_utilization=0.2,
            grpo_batch_size=16,
            grpo_grad_accum=2,
        ),
        Profile(
            name="t4",
            description="16 GB without bfloat16 (Colab, Kaggle). Memory measured on a "
            "larger GPU; speed and accuracy not.",
            min_gpu_gib=14,
            model_name="Qwen/Qwen3-1.7B",
            dtype="float16",
            gpu_memory_utilization=0.65,
            max_seq_length=1536,
            max_completion_length=768,
            grpo_batch_size=2,
            grpo_grad_accum=16,
        ),
        Profile(
            name="l4",
            description="24 GB, the 4B model. Memory measured on a larger GPU; speed "
            "and accuracy not.",
            min_gpu_gib=20,
            model_name="Qwen/Qwen3-4B",
        ),
        Profile(
            name="a100-40",
            description="40 GB, the 8B model. Memory measured on a larger GPU; speed "
            "and accuracy not.",
            min_gpu_gib=36,
        ),
        Profile(
            name="a100",
            description="80 GB, the course's own: the tutorial's rates, with groups of "
            "8 and 64 completions a step. Memory and speed measured on an H100; "
            "accuracy not.",
            min_gpu_gib=70,
            grpo_batch_size=8,
        ),
        Profile(
            name="a100-tutorial",
            description="80 GB, the values of the tutorial this course grew from. What "
            "it leaves unsaid is TRL's default of today. Speed measured on an H100; "
            "accuracy not.",
            min_gpu_gib=70,
            num_generations=4,
            grpo_batch_size=4,  # it says 1, which Unsloth raises to a whole group
            grpo_grad_accum=1,
            max_completion_length=1840,  # it takes what the longest prompt leaves
            save_steps=100,
        ),
    )
}
BY_HARDWARE = ("a100", "a100-40", "l4", "t4")  # the first that fits is taken

# --- What can be overridden, and what belongs to a stage ------------------------------

FIXED = {"name", "description", "min_gpu_gib"}  # facts about a profile, not settings
OTHER_VARIABLES = {"COURSE_PROFILE", "COURSE_HOME"}

# A stage depends on the fields from the first one to this, but for those in NO_EFFECT,
# which cost memory or time and leave the result what it is.
LAST_FIELD = {"base": "seed", "template": "template", "sft": "sft_warmup_steps"}
LAST_FIELD |= {"grpo": "mask_truncated", "export": "exports"}
NO_EFFECT = FIXED | {"fast_inference", "gpu_memory_utilization", "gpu_gib"}
NO_EFFECT |= {"use_gradient_checkpointing"}


def load_profile(environ: Mapping[str, str] = os.environ) -> Profile:
    """Choose a profile, apply the COURSE_* overrides, and check the result.

    Nothing is loaded or downloaded. Raises ProfileError for a COURSE_* variable that
    does not exist and for any value that cannot work.
    """
    settable = {_variable(f): f for f in fields(Profile) if f.name not in FIXED}
    known = sorted(OTHER_VARIABLES | settable.keys())
    given = {name: text for name, text in environ.items() if name.startswith("COURSE_")}
    for variable in sorted(given.keys() - set(known)):
        closest = difflib.get_close_matches(variable.upper(), known, n=1, cutoff=0)[0]
        raise ProfileError(f"{variable} is no setting; the closest is {closest}.")

    if os.path.expanduser(given.get("COURSE_HOME", "")).startswith("~"):
        raise ProfileError(f"COURSE_HOME={given['COURSE_HOME']!r}: no such user.")

    hardware = detect_hardware()
    name = given.get("COURSE_PROFILE", _fitting(hardware))
    if name not in PROFILES:
        choices = ", ".join(PROFILES)
        raise ProfileError(f"COURSE_PROFILE={name!r} is no profile: take {choices}.")

    overrides = {}
    for variable in sorted(given.keys() & settable.keys()):
        field, text = settable[variable], given[variable]
        try:
            overrides[field.name] = PARSERS[field.type](text)
        except (KeyError, ValueError):
            kind = getattr(field.type, "__name__", field.type)
            problem = f"cannot be read as {kind}"
            raise ProfileError(f"{variable}={text!r} {problem}.") from None
    profile = replace(PROFILES[name], **overrides)
    validate(profile, hardware)
    return profile


def _fitting(hardware: Hardware) -> str:
    """The name of the largest profile that this hardware can run."""
    for name in BY_HARDWARE:
        profile = PROFILES[name]
        known = hardware.bf16 or profile.dtype != "bfloat16"
        if known and hardware.gpu_gib >= profile.min_gpu_gib:
            return name
    return "cpu"


def _variable(field: Field) -> str:
    return f"COURSE_{field.name.upper()}"
