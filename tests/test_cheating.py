"""Notebook 04's flawed reward and its mended form, and the lists that profiles name."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_course import rewards
from grpo_course.gauges import evaluation
from grpo_course.ground import rules, styles
from grpo_course.ground.generate import Completion
from tools.tiny import arithmetic

TAIL = "<end_working_out><SOLUTION>{}</SOLUTION>"
ONE_LINE = "74-33+62+18=120." + TAIL.format(120)
IN_STEPS = "74-33=41. 41+62=103. 103+18=121." + TAIL.format(121)
NO_WORKING = "The answer is 72." + TAIL.format(72)


def total(name: str, completion: str, answer: str = "121") -> float:
    """What a list of rewards pays for one completion."""
    inputs = {"prompts": [""], "completions": [completion], "answer": [answer]}
    return sum(reward(**inputs)[0] for reward in rewards.REWARD_FUNCTIONS[name])


def test_every_choice_of_a_profile_is_a_list_of_rewards():
    assert set(rules.REWARDS) == set(rewards.REWARD_FUNCTIONS)
    for functions in rewards.REWARD_FUNCTIONS.values():
        names = [function.__name__ for function in functions]
        assert len(set(names)) == len(names) > 0  # TRL logs them by name


def test_the_flawed_reward_pays_silence_like_sound_work():
    assert total("flawed", NO_WORKING) == total("flawed", IN_STEPS)
    assert total("flawed", NO_WORKING) > total("flawed", ONE_LINE)


def test_the_mended_reward_pays_only_sound_work():
    assert total("fixed", IN_STEPS) > total("fixed", NO_WORKING)
    assert total("fixed", IN_STEPS) > total("fixed", ONE_LINE)
    lucky = "74-33+62+18=121." + TAIL.format(72)  # true, but not what was answered
    slip = "74-33=42. 42+62=103. 103+18=121." + TAIL.format(121)
    silent = TAIL.format(121)
    for completion in (lucky, slip, silent):
        assert total("fixed", completion) == total("fixed", NO_WORKING)


@given(st.integers(0, 10**6), st.sampled_from(styles.STYLES))
@settings(deadline=None)
def test_no_equation_of_a_true_solution_is_called_false(seed, style):
    problem = arithmetic.make_problem(random.Random(seed), "sft")
    text = arithmetic.working(problem, style) + TAIL.format(problem.answer)
    assert rewards.no_false_equation([text]) == [5.0]
    paid = rewards.sound_working([""], [text], [str(problem.answer)])
    assert paid == [5.0 if style != "none" else 0.0]


@given(st.integers(0, 10**6), st.sampled_from(styles.STYLES[1:]), st.data())
@settings(deadline=None)
def test_a_false_result_is_found_wherever_it_stands(seed, style, data):
    problem = arithmetic.make_problem(random.Random(seed), "sft")
    text = arithmetic.working(problem, style)
    found = rewards.equations(text)
    left, right = data.draw(st.sampled_from(found))
    wrong = text.replace(f"{left}={right}", f"{left}={int(right) + 1}")
    assert rewards.no_false_equation([wrong + TAIL.format(problem.answer)]) == [0.0]


@given(st.text("0123456789()+-*=. <\u0663a", max_size=80))
def test_any_equation_has_a_truth_value(text):
    for left, right in rewards.equations(text):
        assert rewards.is_true(left, right) in (True, False)
    assert rewards.no_false_equation([text])[0] in (0.0, 5.0)


@pytest.mark.parametrize(
    ("left", "right", "true"),
    [
        ("(3+4)*2", "14", True),
        ("2*3+4", "10", True),
        ("2*(3+4)", "10", False),
        ("9**9**9", "1", False),  # no powers
        ("(1)(2)", "2", False),
        ("1+", "1", False),
        ("007", "7", False),
    ],
)
def test_sides_are_worked_out_by_the_rules_of_arithmetic(left, right, true):
    assert rewards.is_true(left, right) is true


@pytest.mark.parametrize("name", ["flawed", "fixed"])
@pytest.mark.parametrize(
    "text",
    ["1" * 10**6, "1+" * 500_000 + "=3", "(" * 10**6 + "=1", "=1" * 500_000]
    + ["1=1 " * 250_000, "9**9**9=1", ""],
    ids=["digits", "sum", "brackets", "signs", "equations", "tower", "empty"],
)
def test_hostile_workings_get_a_finite_score(name, text):
    assert math.isfinite(total(name, text + TAIL.format(42), "42"))


def test_the_random_reward_is_a_fair_coin_that_a_seed_decides():
    random.seed(0)
    first = rewards.random_reward(["right", "wrong"] * 1000)
    random.seed(0)
    assert rewards.random_reward([""] * 2000) == first  # whatever is written
    assert set(first) == {0.0, 1.0}
    assert 900 < sum(first) < 1100


def test_right_answer_agrees_with_the_evaluation():
    texts = [IN_STEPS, ONE_LINE, NO_WORKING, "121", TAIL.format(" 121 ")]
    marked = evaluation.mark(
        [Completion(text, 9, False) for text in texts], ["121"] * 5
    )
    paid = rewards.right_answer([""] * 5, texts, ["121"] * 5)
    assert paid == marked.correct == [True, False, False, False, True]
