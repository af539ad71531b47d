"""Both forms of the chat template: what a prompt is, and how a turn is closed."""

import json
import os
import subprocess
import sys
from importlib.resources import files

import pytest

from grpo_course.ground import paths
from grpo_course.ground import profile as profiles

CODE = """
import json, sys
from transformers import AutoTokenizer
from grpo_course import rewards, sft_data, template
tokenizer = template.apply_template(AutoTokenizer.from_pretrained(sys.argv[1]))
row = {"problem": "What is 6*7?", "working": "6*7=42.", "answer": "42"}
messages = sft_data.format_row(row)
prompt = tokenizer.apply_chat_template(
    messages[:-1], tokenize=False, add_generation_prompt=True
)
tokens = sft_data.tokenise_row(row, tokenizer)
learned = [t for t, m in zip(tokens["input_ids"], tokens["completion_mask"]) if m]
completion = tokenizer.decode(learned)
scores = [f([completion])[0] for f in rewards.REWARD_FUNCTIONS["format"]]
theirs = tokenizer.apply_chat_template(
    messages[:-1], chat_template=open(sys.argv[2]).read(),
    tokenize=False, add_generation_prompt=True,
)
print(json.dumps([template.REASONING_START, prompt, completion, scores, theirs]))
"""


def rendered(form: str) -> list:
    """What a process with COURSE_TEMPLATE=form makes of one row."""
    qwen3 = files("trl") / "chat_templates" / "qwen3.jinja"
    done = subprocess.run(
        [sys.executable, "-c", CODE, paths.REPO / "models" / "tiny-qwen3", qwen3],
        env=os.environ | {"COURSE_TEMPLATE": form},
        cwd=paths.REPO / "notebooks",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("form", ["course", "qwen3"])
def test_a_prompt_opens_the_reasoning_and_a_completion_closes_it(form):
    start, prompt, completion, scores, _ = rendered(form)
    assert prompt.endswith(start) and prompt.count("6*7?") == 1
    assert completion.startswith("6*7=42.") and completion.endswith("<|im_end|>")
    assert scores == [3.0, 1.5]


def test_the_second_form_is_qwen3s_own_with_the_thought_opened():
    start, prompt, *_, theirs = rendered("qwen3")
    assert prompt == theirs + start == theirs + "<think>"


def test_a_template_that_there_is_not_is_refused_before_anything_is_loaded():
    with pytest.raises(profiles.ProfileError, match="template='qwen'"):
        profiles.load_profile({"COURSE_TEMPLATE": "qwen"})
