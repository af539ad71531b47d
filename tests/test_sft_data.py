"""Filters, format and loss mask of the warm-up data, on rows as bad as they come."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_course import sft_data
from grpo_course.ground import data
from grpo_course.ground.paths import REPO
from grpo_course.template import (
    REASONING_START,
    SYSTEM_PROMPT,
    apply_template,
    extract_solution,
)

GOOD = {
    "problem": "What is 6*7?",
    "generated_solution": "<think>\n6*7=42.\n</think>\n",
    "expected_answer": "42",
}


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return apply_template(AutoTokenizer.from_pretrained(REPO / "models/tiny-qwen3"))


def names_with_rows(dropped):
    return [name for name, rows in dropped.items() if rows]


# --- Single rows ----------------------------------------------------------------------


@pytest.mark.parametrize("value", ["42", " 42\n", 42, np.int64(42)])
def test_field_is_read_as_text(value):
    assert sft_data.field_text(value) == "42"


@pytest.mark.parametrize(
    "value",
    [None, math.nan, math.inf, "", " \n\t", True, ["42"], {"a": 1}, b"42"]
    + [np.float32("nan")],
)
def test_field_without_a_value_is_empty(value):
    assert sft_data.field_text(value) == ""


@pytest.mark.parametrize(
    "text",
    [
        "6*7=42.",
        "<think>6*7=42.</think>",
        "<think>\n<think>6*7=</think>42.</think>\n",
        "</think><THINK>6*7=42.",
    ],
)
def test_think_tags_go_and_the_words_stay(text):
    assert sft_data.strip_think(text) == "6*7=42."


@pytest.mark.parametrize("answer", "42 -5 1,234 $72 1/2 50% \u22125".split())
def test_numbers_are_numeric_answers(answer):
    assert sft_data.is_numeric_answer(answer)


@pytest.mark.parametrize("answer", ["", "nan", "inf", "42 in all", "1/0", "1e9999"])
def test_other_texts_are_no_numeric_answers(answer):
    assert not sft_data.is_numeric_answer(answer)


def test_row_without_columns_is_cleaned_to_nothing():
    assert set(sft_data.clean_row({}).values()) == {""}


# --- Format and mask ------------------------------------------------------------------


def test_messages_hold_prompt_and_a_well_formed_answer():
    system, user, assistant = sft_data.format_row(sft_data.clean_row(GOOD))
    assert system == {"role": "system", "content": SYSTEM_PROMPT}
    assert user == {"role": "user", "content": "What is 6*7?"}
    assert extract_solution(assistant["content"]) == "42"


@pytest.mark.parametrize("working", ["6*7=42.", "(6*7)=42.", "\n6*7=42.", ">", "é 七"])
def test_prompt_tokens_are_those_of_generation(tokenizer, working):
    row = {"problem": "What is 6*7?", "working": working, "answer": "42"}
    tokens = sft_data.tokenise_row(row, tokenizer)
    prompt = tokenizer.apply_chat_template(
        sft_data.format_row(row)[:2], tokenize=False, add_generation_prompt=True
    )
    ids, mask = tokens["input_ids"], tokens["completion_mask"]
    border = mask.index(1)
    assert mask == [0] * border + [1] * (len(ids) - border)
    assert ids[:border] == tokenizer(prompt, add_special_tokens=False)["input_ids"]
    assert prompt.endswith(REASONING_START)
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[border:-1]).startswith(working)


def test_template_that_renders_prompts_differently_is_refused(tokenizer):
    from copy import deepcopy

    other = deepcopy(tokenizer)
    other.chat_template = "{{ 'ask' if add_generation_prompt else 'tell' }}"
    with pytest.raises(ValueError):
        sft_data.tokenise_row(sft_data.clean_row(GOOD), other)


# --- All filters ----------------------------------------------------------------------

BAD = {
    "missing value": [
        {"expected_answer": None},
        {"expected_answer": math.nan},
        {"problem": "  "},
        {"problem": ["What", "is", "6*7?"]},
        {"generated_solution": "<think> </think>"},
        {"generated_solution": None},
    ],
    "answer is no number": [{"expected_answer": "42 in all"}, {"expected_answer": "x"}],
    "tags inside": [
        {"generated_solution": "6*7=42.<SOLUTION>42</SOLUTION>"},
        {"generated_solution": "<thi<think>nk>6*7=42."},  # a tag that removal makes
        {"problem": "<start_working_out>6*7"},
        {"problem": "6*7<|im_end|>"},
    ],
    "duplicate": [{}, {"problem": " What  is\n6*7? "}],
    "more than 192 tokens": [{"problem": "What is" + " 6*7" * 200}],
}


@pytest.mark.parametrize(
    "name, change", [(name, change) for name, rows in BAD.items() for change in rows]
)
def test_each_bad_row_falls_to_its_filter(tokenizer, name, change):
    rows = [GOOD, GOOD | change]
    kept, dropped = sft_data.prepare_rows(rows, tokenizer, 192)
    assert [row["problem"] for row in kept] == ["What is 6*7?"]
    assert names_with_rows(dropped) == [name]


def test_every_row_is_kept_or_counted(tokenizer):
    rows = [GOOD] + [GOOD | change for found in BAD.values() for change in found]
    rows.append(GOOD | {"problem": " How many\nare left? "})
    held_out = [{"prompt": [{"role": "user", "content": "How many are  left?"}]}]
    kept, dropped = sft_data.prepare_rows(rows, tokenizer, 192, held_out)
    expected = {name: len(found) for name, found in BAD.items()} | {"held out": 1}
    assert {name: len(found) for name, found in dropped.items()} == expected
    assert len(kept) + sum(map(len, dropped.values())) == len(rows)


@pytest.mark.parametrize("name", [name for name in BAD if name != "duplicate"])
def test_filter_that_leaves_nothing_is_named(tokenizer, name):
    with pytest.raises(data.DataError, match=name):
        sft_data.prepare_rows([GOOD | BAD[name][0]] * 2, tokenizer, 192)


def test_no_rows_at_all_is_an_error(tokenizer):
    with pytest.raises(data.DataError):
        sft_data.prepare_rows([], tokenizer, 192)


def test_input_rows_are_left_alone(tokenizer):
    row = dict(GOOD)
    sft_data.prepare_rows([row], tokenizer, 192)
    assert row == GOOD


def test_embedded_data_gives_enough_examples(tokenizer):
    rows = data.load_rows("embedded:sft", "sft")
    kept, dropped = sft_data.prepare_rows(rows, tokenizer, 192)
    assert len(kept) >= 240
    assert len(names_with_rows(dropped)) >= 2  # the lesson shows rows of no use
    assert all(extract_solution(sft_data.format_row(r)[2]["content"]) for r in kept)


FIELD = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=30),
    st.lists(st.sampled_from(["<think>", "</think>", "42", "<SOLUTION>", " "])).map(
        "".join
    ),
)
ROW = st.fixed_dictionaries({name: FIELD for name in GOOD})


@settings(max_examples=100, deadline=None)
@given(st.lists(ROW, max_size=5))
def test_any_rows_give_learnable_examples(tokenizer, rows):
    kept, _ = sft_data.prepare_rows([GOOD, *rows], tokenizer, 192)
    for row in kept:
        tokens = sft_data.tokenise_row(row, tokenizer)
        assert len(tokens["input_ids"]) == len(tokens["completion_mask"]) <= 192
        text = sft_data.format_row(row)[2]["content"]
        assert extract_solution(text) == row["answer"]


def test_with_rewards_of_ones_own_any_text_is_an_answer(tokenizer):
    rows = [GOOD, GOOD | {"problem": "Sort b a.", "expected_answer": "a b"}]
    rows += [GOOD | {"problem": "Sort.", "expected_answer": " "}]
    kept, dropped = sft_data.prepare_rows(rows, tokenizer, 192, any_text=True)
    assert [row["answer"] for row in kept] == [GOOD["expected_answer"], "a b"]
    assert len(dropped["missing value"]) == 1
