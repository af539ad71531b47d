"""The settings of a run: what there is to set, and how it is chosen.

A profile names everything that a notebook would otherwise hard-code: model, lengths,
batch sizes, learning rates, data. The numbers are in profiles.toml, one table for each
kind of machine; `load_profile()` picks one by the hardware. To choose another, or to
change one value, set an environment variable before Jupyter starts:

    COURSE_PROFILE=l4                 another profile
    COURSE_GRPO_STEPS=20              one field of it (COURSE_ + the field in capitals)
"""

import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import ConfigDict, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from . import rules
from .hardware import Hardware, conditions_here, detect_hardware
from .paths import local_path
from .rules import ProfileError

STAGES = ("base", "template", "sft", "grpo")  # in the order they are made
ROOM = 64  # tokens for a prompt, at least: the system prompt takes most of them


# Marks a field with the first stage that it decides. A field without a mark costs
# memory or time, or says what is measured and reported; the stages stay as they are.
T = TypeVar("T")
Base, Template, Sft, Grpo = (Annotated[T, stage] for stage in STAGES)
CONFIG = ConfigDict(allow_inf_nan=False, hide_input_in_errors=True)


@dataclass(frozen=True, config=CONFIG)
class Profile:
    """The settings of one run. The defaults are what the GPU profiles share."""

    name: str
    description: str
    min_gpu_gib: float  # memory of the smallest GPU it is meant for; 0: no GPU

    # The base model and its adapter (notebook 01)
    model_name: Base[rules.Model] = "Qwen/Qwen3-8B"  # hub id or local folder
    dtype: Base[rules.Dtype] = "bfloat16"
    load_in_4bit: Base[bool] = False
    fast_inference: bool = True  # generate with vLLM
    gpu_memory_utilization: rules.RateOrNone = 0.7  # vLLM's share of the GPU
    gpu_gib: rules.PositiveOrNone = None  # act as a GPU with so many GiB
    max_seq_length: Base[rules.Count] = 2048  # tokens of prompt and completion together
    lora_rank: Base[rules.Small] = 32
    lora_alpha: Base[rules.Small] = 64
    use_gradient_checkpointing: rules.Checkpointing = "unsloth"
    seed: Base[rules.Seed] = 3407

    # The chat template (notebook 02): ours, or Qwen3's own <think> form
    template: Template[Literal["course", "qwen3"]] = "course"

    # Supervised warm-up (notebook 03); GRPO uses the same optimizer
    optim: Sft[rules.Optim] = "adamw_8bit"
    weight_decay: Sft[rules.Share] = 0.01
    sft_data: Sft[rules.SftData] = "unsloth/OpenMathReasoning-mini:cot"
    own_answers: Sft[rules.FewOrNone] = 4  # sampled a problem; 0: the data's solutions
    sft_examples: Sft[rules.CountOrZero] = 1200  # at most so many; 0: all
    sft_epochs: Sft[rules.Small] = 1
    sft_batch_size: Sft[rules.Small] = 1  # examples per micro-batch
    sft_grad_accum: Sft[rules.Small] = 16
    sft_learning_rate: Sft[rules.Rate] = 1e-4
    sft_warmup_steps: Sft[rules.CountOrZero] = 5

    # GRPO (notebook 05)
    grpo_data: Grpo[rules.GrpoData] = "open-r1/DAPO-Math-17k-Processed:en:train"
    reward: Grpo[rules.Reward] = "course"  # or functions of your own: own_rewards
    grpo_steps: Grpo[rules.Count] = 50  # optimizer steps
    num_generations: Grpo[rules.Small] = 8  # completions per prompt: a group's size
    grpo_batch_size: Grpo[rules.Small] = 4  # completions per micro-batch
    grpo_grad_accum: Grpo[rules.Small] = 64  # micro-batches per optimizer step
    grpo_learning_rate: Grpo[rules.Rate] = 4e-5
    grpo_warmup_ratio: Grpo[rules.ShareBelowOne] = 0.1  # share of the steps
    temperature: Grpo[rules.Positive] = 1.0
    min_p: Grpo[rules.Share] = 0.0
    max_completion_length: Grpo[rules.Count] = 1024  # tokens
    beta: Grpo[rules.Weight] = 0.0  # weight of the KL term; 0: no reference model
    loss_type: Grpo[rules.Loss] = "dapo"
    scale_rewards: Grpo[rules.Scale] = "group"  # divide advantages by the std of: ...
    epsilon: Grpo[rules.Rate] = 0.2  # clip range of the ratio
    epsilon_high: Grpo[rules.PositiveOrNone] = None  # None: see clip_high
    mask_truncated: Grpo[bool] = False  # leave cut-off completions out of the loss
    pass_samples: Grpo[rules.FewOrNone] = 4  # to drop problems always or never solved

    # Export (notebook 06)
    exports: rules.Exports = "lora,merged_16bit"  # formats, with commas
    hub_repo: rules.HubRepo = ""  # owner/name to upload to, private; empty: no upload

    # Evaluation (notebooks 01, 03, 05 and 06), checkpoints and tracking
    save_steps: rules.Count = 25  # steps between checkpoints
    train_anyway: bool = False  # begin GRPO although it can learn nothing
    eval_data: rules.EvalData = "openai/gsm8k:main:test"
    eval_problems: rules.Count = 300
    eval_batch_size: rules.Small = 64
    track: rules.Track = "local"  # SwanLab's mode

    @model_validator(mode="after")
    def _fits_together(self):
        require(self, _conditions(self))
        return self

    @property
    def on_gpu(self) -> bool:
        """False for the cpu profile, the only one that runs without CUDA."""
        return self.name != "cpu"

    @property
    def model_source(self) -> str:
        """What `from_pretrained` gets: the hub id, or the full path of the folder."""
        return str(local_path(self.model_name) or self.model_name)

    @property
    def own_reward(self) -> bool:
        """Does `reward` name functions of a file? Then answers may be any text."""
        return ":" in self.reward

    @property
    def grpo_prompts(self) -> int:
        """Prompts per optimizer step."""
        return self.grpo_generation_batch // self.num_generations

    @property
    def grpo_generation_batch(self) -> int:
        """Completions per optimizer step (prompts x num_generations)."""
        return self.grpo_batch_size * self.grpo_grad_accum

    @property
    def clip_high(self) -> float:
        """`epsilon_high`, or what goes with the loss: CISPO's is the largest ratio."""
        usual = 5.0 if self.loss_type == "cispo" else self.epsilon
        return usual if self.epsilon_high is None else self.epsilon_high

    @property
    def export_formats(self) -> tuple[str, ...]:
        """`exports` as a tuple, each format once."""
        return tuple(dict.fromkeys(map(str.strip, self.exports.split(","))))

    def settings_for(self, stage: str) -> dict:
        """The fields that decide what a stage contains, by field name.

        Made with other values of these, a stage is another stage: its own fields and
        those of the stages before it. Raises ValueError for a name that is no stage.
        """
        marks = set(STAGES[: STAGES.index(stage) + 1])
        fields = Profile.__pydantic_fields__.items()
        return {n: getattr(self, n) for n, f in fields if marks & {*f.metadata}}

    def table(self):
        """All settings as a DataFrame: one row a field, with the variable to set."""
        import pandas as pd

        rows = {n: (value, SETTABLE.get(n, "")) for n, value in vars(self).items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "change"])


def require(profile: Profile, conditions: Iterable[tuple]) -> None:
    """Raise ProfileError for the first of (field, works?, what to say if not)."""
    for name, works, problem in conditions:
        if not works:
            value = getattr(profile, name)
            raise ProfileError(_said(profile.name, name, value, problem))


def _conditions(p: Profile) -> Iterator[tuple]:
    """What several fields must be together, whatever the machine."""
    yield "num_generations", p.num_generations >= 2, "should be at least 2, to compare"
    multiple = p.grpo_generation_batch % p.num_generations == 0
    problem = f"times grpo_grad_accum={p.grpo_grad_accum} should be a multiple of "
    yield "grpo_batch_size", multiple, f"{problem}num_generations={p.num_generations}"
    room = max(p.max_seq_length - p.max_completion_length, 0)
    there = f"max_seq_length={p.max_seq_length} (COURSE_MAX_SEQ_LENGTH)"
    problem = f"leaves {room} tokens for a prompt in {there}"
    yield "max_completion_length", room >= ROOM, f"{problem}: {ROOM} are the least"
    least = 1.0 if p.loss_type == "cispo" else p.epsilon
    problem = f"should be at least {least} with loss_type={p.loss_type}"
    yield "epsilon_high", p.clip_high >= least, f"{problem}, epsilon={p.epsilon}"
    packed = p.load_in_4bit or "merged_4bit" not in p.export_formats
    yield "exports", packed, "has merged_4bit, which needs load_in_4bit=True and a GPU"
    if not p.on_gpu:
        for name in ("fast_inference", "load_in_4bit", "use_gradient_checkpointing"):
            yield name, not getattr(p, name), "should be False without a GPU"
        yield "dtype", p.dtype == "float32", "should be float32 without a GPU"
        yield "optim", "8bit" not in p.optim, "needs a GPU: take adamw_torch"
    share = not p.fast_inference or p.gpu_memory_utilization is not None
    yield "gpu_memory_utilization", share, "should be a number with fast_inference"


def _said(profile: str, name: str, value, problem: str) -> str:
    variable = SETTABLE.get(name, "COURSE_PROFILE")
    return f"{name}={value!r} {problem} ({variable}, profile {profile})."


SETTABLE = {  # each field that can be changed, and the variable that does it
    field.name: f"COURSE_{field.name.upper()}" for field in fields(Profile)[3:]
}
TABLES = tomllib.loads(Path(__file__).with_name("profiles.toml").read_text())
TINY = {True: TABLES.pop("tiny"), False: {}}
PROFILES = {
    name: Profile(name, **TINY[values.pop("tiny", False)] | values)
    for name, values in TABLES.items()
}
BY_HARDWARE = ("a100", "a100-40", "l4", "t4")  # the first that fits is taken


def load_profile(environ: Mapping[str, str] = os.environ) -> Profile:
    """Choose a profile, apply the COURSE_* overrides, and check the result.

    No model or data is loaded; a reward file of your own is tried. Raises
    ProfileError for any value that cannot work and for a variable that is a misspelt
    setting; of others like COURSE_ID it warns.
    """
    rules.check_variables(
        environ, ["COURSE_PROFILE", "COURSE_HOME", *SETTABLE.values()]
    )
    hardware = detect_hardware()
    name = environ.get("COURSE_PROFILE", _fitting(hardware))
    if name not in PROFILES:
        raise ProfileError(f"COURSE_PROFILE={name!r} is none of {', '.join(PROFILES)}.")
    given = {f: environ[v] for f, v in SETTABLE.items() if v in environ}
    try:
        profile = Profile(**vars(PROFILES[name]) | given)
    except ValidationError as error:
        raise ProfileError(_first_problem(error, name)) from None
    require(profile, conditions_here(profile, hardware))
    return profile


def _first_problem(error: ValidationError, profile: str) -> str:
    first = error.errors(include_url=False)[0]
    problem = str(first.get("ctx", {}).get("error") or first["msg"])
    if not first["loc"]:  # of several fields together: a sentence already
        return problem
    problem = problem.removeprefix("Input ")
    return _said(profile, first["loc"][0], first["input"], problem)


def _fitting(hardware: Hardware) -> str:
    """The name of the largest profile that this hardware can run."""
    for name in BY_HARDWARE:
        bf16 = hardware.bf16 or PROFILES[name].dtype != "bfloat16"
        if bf16 and hardware.gpu_gib >= PROFILES[name].min_gpu_gib:
            return name
    return "cpu"
