"""Intervals, the paired test, marking, and generation with the tiny model."""

import itertools
import math
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_course.gauges import evaluation
from grpo_course.ground.generate import Completion, generate, merged
from grpo_course.ground.paths import REPO
from grpo_course.ground.profile import PROFILES
from grpo_course.ground.statistics import (
    paired_p_value,
    wilson_interval,
)
from grpo_course.reading_runs import pass_at_k
from grpo_course.template import apply_template, as_prompt

FEW = settings(deadline=None, derandomize=True, database=None)
SHARES = st.integers(1, 5000).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n))
)

# --- The interval ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "right, n, low, high",
    [  # Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_has_the_published_values(right, n, low, high):
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=5e-5)


@FEW
@given(SHARES)
def test_interval_holds_the_share_and_stays_in_bounds(share):
    right, n = share
    low, high = wilson_interval(right, n)
    assert 0 <= low <= right / n <= high <= 1
    assert low < high
    mirrored = wilson_interval(n - right, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@FEW
@given(SHARES)
def test_interval_narrows_with_more_problems(share):
    right, n = share
    low, high = wilson_interval(right, n)
    lower, higher = wilson_interval(4 * right, 4 * n)
    assert higher - lower < high - low


@pytest.mark.parametrize("right, n", [(0, 0), (3, 2), (-1, 5), (1, -1)])
def test_interval_of_no_share_is_refused(right, n):
    with pytest.raises(ValueError):
        wilson_interval(right, n)


# --- The paired test ------------------------------------------------------------------


def pairs(gained, lost, same=0):
    before = [False] * gained + [True] * lost + [True, False] * same
    after = [True] * gained + [False] * lost + [True, False] * same
    return before, after


@pytest.mark.parametrize("gained, lost", itertools.product(range(5), repeat=2))
def test_p_value_counts_the_cases_at_least_as_extreme(gained, lost):
    """Every way in which chance could have turned the changed problems."""
    ways = list(itertools.product((1, -1), repeat=gained + lost))
    extreme = sum(abs(sum(way)) >= abs(gained - lost) for way in ways)
    assert paired_p_value(*pairs(gained, lost)) == extreme / len(ways)


@FEW
@given(st.lists(st.tuples(st.booleans(), st.booleans())))
def test_p_value_is_symmetric_and_ignores_what_stayed(outcomes):
    before, after = [b for b, _ in outcomes], [a for _, a in outcomes]
    p = paired_p_value(before, after)
    assert 0 < p <= 1
    assert paired_p_value(after, before) == p
    assert paired_p_value([*before, True, False], [*after, True, False]) == p


def test_p_value_of_many_problems_is_finite():
    assert paired_p_value(*pairs(600, 600)) == 1.0
    assert 0 < paired_p_value(*pairs(600, 300)) < 1e-20


def test_p_value_needs_the_same_problems():
    with pytest.raises(ValueError):
        paired_p_value([True, False], [True])


# --- pass@k ---------------------------------------------------------------------------


@pytest.mark.parametrize("samples, right", [(1, 0), (1, 1), (5, 0), (5, 2), (5, 5)])
def test_pass_at_k_counts_the_draws_with_a_right_answer(samples, right):
    answers = [True] * right + [False] * (samples - right)
    for k in range(1, samples + 1):
        draws = [any(draw) for draw in itertools.combinations(answers, k)]
        found = pass_at_k(samples, right, k)
        assert found == pytest.approx(sum(draws) / len(draws))


@FEW
@given(n=st.integers(1, 40), p=st.fractions(0, 1, max_denominator=50), data=st.data())
def test_pass_at_k_has_no_bias(n, p, data):
    """Its mean over all outcomes of n samples is the true chance, 1 - (1 - p)^k."""
    k = data.draw(st.integers(1, n))
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    values = [pass_at_k(n, c, k) for c in range(n + 1)]
    mean = sum(float(w) * v for w, v in zip(chances, values, strict=True))
    assert mean == pytest.approx(float(1 - (1 - p) ** k), abs=1e-9)


def test_pass_at_k_of_many_samples():
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(0.5)


@pytest.mark.parametrize("samples, right, k", [(4, 1, 0), (4, 1, 5), (4, 5, 1)])
def test_pass_at_k_of_impossible_counts_is_refused(samples, right, k):
    with pytest.raises(ValueError):
        pass_at_k(samples, right, k)


# --- Marking --------------------------------------------------------------------------

RIGHT = "6*7=42.<end_working_out><SOLUTION>42</SOLUTION>"
COMPLETIONS = [
    Completion(RIGHT, 20, False),
    Completion(RIGHT.replace("42<", "42.0<"), 22, False),  # the same number
    Completion(RIGHT.replace("42<", "41<"), 20, False),  # well-formed and wrong
    Completion("The answer is 42.", 6, False),  # right, but not where it belongs
    Completion(RIGHT.removesuffix("</SOLUTION>"), 128, True),  # cut off
    Completion("", 1, False),
]


def test_marks_and_summary_of_handmade_completions():
    result = evaluation.mark(COMPLETIONS, ["42"] * 6)
    assert result.correct == [True, True, False, False, False, False]
    assert result.formatted == [True, True, True, False, False, False]
    low, high = wilson_interval(2, 6)
    assert result.summary() == {
        "n": 6,
        "accuracy": 2 / 6,
        "ci_low": low,
        "ci_high": high,
        "format_rate": 3 / 6,
        "mean_completion_tokens": 197 / 6,
        "truncated_rate": 1 / 6,
    }


def test_completions_and_answers_must_be_as_many():
    with pytest.raises(ValueError):
        evaluation.mark(COMPLETIONS, ["42"] * 5)


# --- Generation -----------------------------------------------------------------------

QUESTIONS = [
    "Ana has 30 pens. Ana gives away 12. Then Ana finds 5 pens. How many pens now?",
    "6*7?",
    "Ben buys 3 bags of 9 eggs. Ben sells 4 of them. How many eggs does Ben have now?",
]
PROMPTS = [f"Question: {question}\nAnswer:" for question in QUESTIONS]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return apply_template(AutoTokenizer.from_pretrained(REPO / "models/tiny-qwen3"))


@pytest.fixture(scope="module")
def model():
    import torch
    from transformers import AutoModelForCausalLM

    folder = REPO / "models/tiny-qwen3"
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_greedy_keeps_the_order_whatever_the_batches(model, tokenizer):
    found = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    assert len({completion.text for completion in found}) == len(PROMPTS)
    for size in (1, 2):
        backwards = generate(
            model,
            tokenizer,
            PROMPTS[::-1],
            max_new_tokens=8,
            batch_size=size,
            seed=size,
        )
        assert backwards[::-1] == found


def test_completion_ends_at_the_limit_or_at_an_end_token(model, tokenizer):
    cut = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    assert [(c.tokens, c.truncated) for c in cut] == [(8, True)] * len(PROMPTS)
    whole = generate(model, tokenizer, PROMPTS, max_new_tokens=120)
    for short, long in zip(cut, whole, strict=True):
        assert not long.truncated
        assert long.text.startswith(short.text)
        written = tokenizer(long.text).input_ids
        assert long.tokens == len(written) + 1  # and the end token


def test_sampling_repeats_with_its_seed(model, tokenizer):
    options = {"max_new_tokens": 8, "temperature": 1.0, "min_p": 0.1}
    first, second = (
        generate(model, tokenizer, PROMPTS, seed=7, **options) for _ in range(2)
    )
    assert first == second


def test_no_prompts_no_completions(model, tokenizer):
    assert generate(model, tokenizer, [], max_new_tokens=8) == []


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_model_and_tokenizer_are_left_as_they_were(model, tokenizer, training, side):
    model.train(training)
    tokenizer.padding_side = side
    generate(model, tokenizer, PROMPTS[:1], max_new_tokens=1)
    assert (model.training, tokenizer.padding_side) == (training, side)


def test_also_after_an_error(model, tokenizer, monkeypatch):
    def fail(**inputs):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(model, "generate", fail)
    model.train()
    tokenizer.padding_side = "right"
    with pytest.raises(RuntimeError):
        generate(model, tokenizer, PROMPTS, max_new_tokens=1)
    assert (model.training, tokenizer.padding_side) == (True, "right")


@pytest.mark.parametrize(
    "dtype, engine", [("float32", False), ("bfloat16", False), ("float32", True)]
)
def test_a_merged_adapter_scores_the_same_and_leaves_no_trace(tokenizer, dtype, engine):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(
        REPO / "models/tiny-qwen3", dtype=getattr(torch, dtype)
    )
    # Seven projections would prove no more.
    peft = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    torch.manual_seed(0)
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    if engine:
        peft.vllm_engine = SimpleNamespace()
    before = {name: w.detach().clone() for name, w in peft.named_parameters()}
    inputs = tokenizer(PROMPTS[0], return_tensors="pt")
    layer = peft.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    with torch.inference_mode():
        with peft.disable_adapter():
            without = peft(**inputs).logits
        scores = peft(**inputs).logits
    with pytest.raises(KeyboardInterrupt), merged(peft), merged(peft):
        assert layer.merged == (dtype == "float32" and not engine)
        with torch.inference_mode():
            change = (peft(**inputs).logits - scores).abs().max()
        assert change <= 1e-3 < (scores - without).abs().max()
        raise KeyboardInterrupt
    assert not layer.merged
    for name, weight in peft.named_parameters():
        assert torch.equal(weight, before[name]), name


def test_report_holds_what_a_manifest_needs(model, tokenizer):
    from dataclasses import replace

    profile = replace(PROFILES["cpu"], max_completion_length=8)
    problems = [{"prompt": as_prompt(q), "answer": "42"} for q in 3 * QUESTIONS]
    report = evaluation.report(model, tokenizer, problems, profile)
    assert {kind: found["n"] for kind, found in report["evaluation"].items()} == {
        "greedy": 9,
        "sampled": 9,
    }
    assert report["correct"] == [0] * 9
    assert len(report["style_of"]) == len(report["correct"])
    assert [sample["problem"] for sample in report["samples"]] == 2 * QUESTIONS
