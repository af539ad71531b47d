"""The rewards under attack: 20,000 completions made at random, and Hypothesis.

The attacks come from tests/make_adversarial_completions.py with a fixed seed; they are
made here and not stored (they would be megabytes). Each meets every invariant.
"""

import math
import random
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_adversarial_completions import CLOSE, OPEN, TAGS, attacks

from grpo_course import rewards
from grpo_course.ground import equivalence

COUNT = 20_000
COURSE = rewards.REWARD_FUNCTIONS["course"]
OTHERS = ("format", "flawed", "fixed")  # every reward but the coin
FIELDS = ("text", "answer")
TAG = re.compile("|".join(map(re.escape, TAGS)))


def sums(texts, answers, functions=COURSE):
    """The sum of the rewards of each text."""
    given_by_trl = {"prompts": ["?"] * len(texts), "answer": answers}
    columns = [function(completions=texts, **given_by_trl) for function in functions]
    return [sum(scores) for scores in zip(*columns, strict=True)]


@pytest.fixture(scope="module")
def corpus():
    return list(attacks(COUNT))


@pytest.fixture(scope="module")
def scores(corpus):
    return sums([a.text for a in corpus], [a.answer for a in corpus])


def test_the_attacks_are_many_and_of_many_kinds(corpus):
    texts = {attack.text for attack in corpus}
    assert len(corpus) == COUNT and len(texts) > COUNT / 2
    assert corpus == list(attacks(COUNT))
    assert any(rewards.is_well_formed(text) for text in texts)
    assert max(map(len, texts)) > 20_000 and "" in {a.frame[2:-2] for a in corpus}
    assert any("\ud800" <= c <= "\udfff" for text in texts for c in text)


def test_every_attack_has_a_finite_score_within_the_rewards_range(scores):
    assert len(scores) == COUNT
    assert all(math.isfinite(score) and -10 <= score <= 13 for score in scores)


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_rewards_stand_it_too(corpus, name):
    texts, answers = [a.text for a in corpus], [a.answer for a in corpus]
    found = sums(texts, answers, rewards.REWARD_FUNCTIONS[name])
    assert len(found) == COUNT and all(map(math.isfinite, found))


def test_scores_do_not_depend_on_the_batch(corpus, scores):
    order = list(range(COUNT))
    random.Random(1).shuffle(order)
    for start in range(0, COUNT, 1000):
        some = order[start : start + 1000]
        answers = [corpus[i].answer for i in some]
        assert sums([corpus[i].text for i in some], answers) == [
            scores[i] for i in some
        ]
    for i in order[:200]:
        assert sums([corpus[i].text], [corpus[i].answer]) == [scores[i]]


def test_no_attack_outscores_the_right_answer_in_the_same_format(corpus, scores):
    """In every frame that holds the answer apart from all else, well-formed or not."""
    apart = re.compile(rf"{OPEN}\s*\{{\}}\s*({CLOSE}|$)")
    texts = [attack._replace(payload=attack.answer).text for attack in corpus]
    best = sums(texts, [attack.answer for attack in corpus])
    tried = [
        (score, top, attack)
        for score, top, attack in zip(scores, best, corpus, strict=True)
        if apart.search(attack.frame) and not TAG.search(attack.payload)
    ]
    assert len(tried) > COUNT / 2
    for score, top, attack in tried:
        assert score <= top, attack


def test_a_wrong_answer_in_the_format_is_worse_than_the_right_one(corpus):
    wrong = [
        attack._replace(frame=f"6*7=42.{TAGS[1]}{OPEN}{{}}{CLOSE}")
        for attack in corpus
        if not TAG.search(attack.payload)
        and not rewards.answers_equal(attack.payload, attack.answer)
    ]
    assert len(wrong) > COUNT / 4
    answers = [attack.answer for attack in wrong]
    found = sums([attack.text for attack in wrong], answers)
    best = sums(
        [attack._replace(payload=attack.answer).text for attack in wrong], answers
    )
    assert all(score < top for score, top in zip(found, best, strict=True))


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("3/2", "1 1/2", "1 3/2"),
        ("1000", "1\u202f000", "5\u202f1000"),
        ("1/2", "1 / 2", "3 / 2"),
        ("42", "42", "- 42"),
        ("-42", "- 42", "- 43"),
        ("2", "2", "1 / 2"),
    ],
)
def test_a_wrong_number_is_never_better_than_a_right_one_written_alike(
    answer, right, wrong
):
    texts = [f"6*7=42.{TAGS[1]}{OPEN}{number}{CLOSE}" for number in (right, wrong)]
    best, worse = sums(texts, [answer] * 2)
    assert worse <= best
    assert rewards.check_numbers(None, texts, [answer] * 2)[1] < 3.5


@pytest.mark.parametrize("second", ["42", "41", ""])
def test_adding_a_second_solution_never_pays(corpus, second):
    once = [a for a in corpus if a.text.count(OPEN) and a.text.count(CLOSE)]
    answers = [attack.answer for attack in once]
    more = f"{OPEN}{second}{CLOSE}"
    for place in (CLOSE, OPEN):
        twice = [
            a.text.replace(CLOSE, CLOSE + more)
            if place == CLOSE
            else a.text.replace(OPEN, more + OPEN)
            for a in once
        ]  # after each solution, or before
        pairs = zip(
            sums(twice, answers), sums([a.text for a in once], answers), strict=True
        )
        assert all(with_two <= with_one for with_two, with_one in pairs)


@given(st.lists(st.text(st.characters(codec=None), max_size=60), max_size=6), st.data())
@settings(max_examples=300, deadline=None)
def test_any_texts_at_all_have_finite_scores(texts, data):
    answers = data.draw(st.lists(st.text(), min_size=len(texts), max_size=len(texts)))
    for functions in rewards.REWARD_FUNCTIONS.values():
        assert all(map(math.isfinite, sums(texts, answers, functions)))


def test_time_limits_hold_in_threads_other_than_the_main_one():
    """math-verify's own limit is an alarm, which only a main thread can set."""
    tower = "8^{8^{8^{8}}}"
    with ThreadPoolExecutor(3) as pool:
        cases = [(tower + "+1", "42"), ("1+1", "2"), (tower, "43"), (r"\frac42", "2")]
        jobs = [
            pool.submit(equivalence.equivalent.__wrapped__, *case) for case in cases
        ]
        assert [job.result() for job in jobs] == [False, True, False, True]
