"""What one setting may be, whatever the others are: the types of a profile's fields."""

import difflib
import logging
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from .own_rewards import tried
from .paths import can_be_folder, local_path
from .session import masked

EXPORTS = "lora merged_16bit merged_4bit gguf_f16 gguf_q8_0 gguf_q4_k_m".split()
DATA_FILES = (".jsonl", ".json", ".csv", ".parquet")

NAME = r"\w([\w.-]*\w)?"
HUB_ID = rf"(?=.{{1,96}}$)(?!.*(--|\.\.|\.git$))({NAME}/)?{NAME}"  # as the hub has it
HUB_DATA = r"[\w.-]+/[\w.-]+(:[\w.-]+){1,2}"

log = logging.getLogger(__name__)


class ProfileError(ValueError):
    """A setting that cannot work; the message names the field and its value."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


def check_variables(environ: Mapping[str, str], known: list[str]) -> None:
    """Raise ProfileError for what misspells a setting, and a home that is no folder.

    COURSE_ID is close to nothing, so it is another's; COURSESEED means one of ours only
    letter by letter.
    """
    names = [name.removeprefix("COURSE_") for name in known]
    for variable in sorted(environ.keys() - {*known}):
        if match := re.fullmatch("COURSE(_?)(.+)", variable.upper()):
            least = 0.6 if match[1] else 1.0
            found = difflib.get_close_matches(match[2], names, n=1, cutoff=least)
            if found:
                meant = f"the closest is COURSE_{found[0]}"
                raise ProfileError(f"{variable} is no setting; {meant}.")
            if match[1]:
                log.warning(f"{variable} is no setting: ignored.")
    if not can_be_folder(home := environ.get("COURSE_HOME", "").strip()):
        raise ProfileError(f"COURSE_HOME={home!r} can be no folder: take another.")


def _must(works: Callable, problem: str) -> AfterValidator:
    def check(value):
        if works(value):
            return value
        raise ValueError(problem)

    return AfterValidator(check)


def _words(meanings: dict) -> BeforeValidator:
    """Reads these words, in any case, as these values."""
    return BeforeValidator(lambda value: meanings.get(str(value).lower(), value))


def _matches(pattern: str) -> Callable:
    return re.compile(pattern, re.ASCII).fullmatch


def _is_reward(text: str) -> bool:
    own = _matches(r"(.+\.py):\w+(, ?\w+)*(@[0-9a-f]{12})?")(text)
    return text in REWARDS or bool(own and local_path(own[1]))


def _data(embedded: str):
    def known(value: str) -> bool:
        if path := local_path(value):
            return path.suffix in DATA_FILES
        return value == embedded or bool(_matches(HUB_DATA)(value))

    files = ", ".join(DATA_FILES)
    problem = f"should be {embedded}, owner/name:split, or a local file ({files})"
    return Annotated[str, _must(known, problem)]


# Numbers. A larger one than these is a slip, not a wish.
Small = Annotated[int, Field(gt=0, le=4096)]
Count = Annotated[int, Field(gt=0, le=2**20)]
FewOrNone = Annotated[int, Field(ge=0, le=64)]
CountOrZero = Annotated[int, Field(ge=0, le=2**20)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # numpy takes no larger one
Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, le=1000)]
Positive = Annotated[float, Field(gt=0, le=1000)]
RateOrNone = Annotated[Rate | None, _words({"none": None})]
PositiveOrNone = Annotated[Positive | None, _words({"none": None})]

# Choices.
BOOLS = {"true": True, "1": True, "false": False, "0": False}
Checkpointing = Annotated[Literal[False, True, "unsloth"], _words(BOOLS)]
Dtype = Literal["float32", "bfloat16", "float16"]
Optim = Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"]
# TRL 1.15.0: GRPOConfig.loss_type and GRPOConfig.scale_rewards
Loss = Literal["grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"]
Scale = Literal["group", "batch", "none"]
Track = Literal["local", "cloud", "offline", "disabled"]  # SwanLab's mode

# Names.
REWARDS = ("course", "format", "random", "flawed", "fixed")
Reward = Annotated[
    str,
    _must(_is_reward, f"should be one of {', '.join(REWARDS)}, or ./file.py:function"),
    AfterValidator(lambda text: text if text in REWARDS else tried(text)[0]),
]
Model = Annotated[
    str,
    _must(
        lambda name: local_path(name) or _matches(HUB_ID)(name),
        "should be a hub id or a local folder",
    ),
]
SftData, GrpoData, EvalData = map(
    _data, ("embedded:sft", "embedded:grpo", "embedded:test")
)
Exports = Annotated[
    str,
    _must(
        lambda text: {name.strip() for name in text.split(",")} <= set(EXPORTS),
        f"should be some of {', '.join(EXPORTS)}, with commas",
    ),
]
HubRepo = Annotated[
    str,
    _must(lambda text: masked(text) == text, "looks like a key: take owner/name"),
    _must(_matches(rf"|(?=[^/]+/){HUB_ID}"), "should be owner/name, or empty"),
]
