"""The four rewards: their scores, their invariants, and their patience."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grpo_course import rewards
from grpo_course.ground import equivalence
from grpo_course.template import (
    REASONING_END,
    REASONING_START,
    SOLUTION_END,
    SOLUTION_START,
)

settings.register_profile(
    "rewards", derandomize=True, deadline=None, database=None, max_examples=150
)
settings.load_profile("rewards")

CORPUS = Path(__file__).parent / "data" / "adversarial_completions.jsonl"
ALL = (
    rewards.match_format_exactly,
    rewards.match_format_approximately,
    rewards.check_answer,
    rewards.check_numbers,
)
POSSIBLE = (
    {0.0, 3.0},
    {-3.0, -1.5, 0.0, 1.5},
    {5.0, 3.5, 2.0, 1.5, -2.0, -2.5, -4.5},
    {3.5, 0.0, -1.5, -2.5},
)


def score_all(texts, answers):
    """One tuple of four scores for each text."""
    given_by_trl = {"prompts": ["?"] * len(texts), "answer": answers}
    columns = [reward(completions=texts, **given_by_trl) for reward in ALL]
    return list(zip(*columns, strict=True))


def score(text, answer):
    return score_all([text], [answer])[0]


def formed(solution):
    return f"6*7=42.{REASONING_END}{SOLUTION_START}{solution}{SOLUTION_END}"


# --- the scores, case by case


@pytest.mark.parametrize(
    ("solution", "answer", "by_answer", "by_numbers"),
    [
        ("72", "72", 5.0, 3.5),
        (" 72\n", "72", 3.5, 3.5),
        ("72.0", "72", 5.0, 3.5),
        (" 72.0", "72", 3.5, 3.5),
        ("$72", "72", 5.0, 3.5),
        ("-$5", "-5", 5.0, 3.5),
        ("72 €", "72", 5.0, 3.5),
        ("$72$", "72", 5.0, 3.5),
        (r"\$72", "72", 5.0, 3.5),
        ("1,234", "1234", 5.0, 3.5),
        ("1234", "1,234", 5.0, 3.5),
        ("1,234,567.50", "1234567.5", 5.0, 3.5),
        (r"1,\!234", "1234", 5.0, 3.5),
        (r"1\,234", "1234", 5.0, 3.5),
        ("1{,}234", "1234", 5.0, 3.5),
        ("1/2", "0.5", 5.0, 3.5),
        ("2/4", "1/2", 5.0, 3.5),
        ("\u22125", "-5", 5.0, 3.5),
        ("-5", "\u22125", 5.0, 3.5),
        ("1e5", "100000", 5.0, 3.5),
        ("1.5E-2", "0.015", 5.0, 3.5),
        ("50%", "50", 5.0, 3.5),
        (r"50\%", "0.5", 5.0, 3.5),
        ("50", "50%", 5.0, 3.5),
        ("0.5%", "50%", -2.5, -1.5),
        ("٧٢", "72", 5.0, 3.5),
        ("７２", "72", 5.0, 3.5),
        ("0", "0", 5.0, 3.5),
        ("0.00", "0", 5.0, 3.5),
        ("-0", "0", 5.0, 3.5),
        ("3", "0", -2.5, -1.5),
        ("0.0001", "0", -2.5, -1.5),
        ("0", "72", -2.5, -1.5),
        ("-95", "-100", 2.0, -1.5),
        ("-85", "-100", 1.5, -1.5),
        ("95", "-100", -2.5, -1.5),
        ("90", "100", 2.0, -1.5),
        ("110", "100", 2.0, -1.5),
        ("80", "100", 1.5, -1.5),
        ("120", "100", 1.5, -1.5),
        ("89.999", "100", 1.5, -1.5),
        ("79.999", "100", -2.5, -1.5),
        ("120.001", "100", -2.5, -1.5),
        ("1/3", "0.3", 1.5, -1.5),
        (".", "0", -4.5, -2.5),
        (",", "0", -4.5, -2.5),
        ("seventy-two", "72", -4.5, -2.5),
        ("72 apples", "72", -4.5, 3.5),
        ("-72 apples", "-72", -4.5, 3.5),
        ("1/2 cup", "0.5", -4.5, 3.5),
        ("- 72", "-72", 5.0, 3.5),
        ("72kg", "72", -4.5, 3.5),
        ("about 70 apples", "72", -4.5, -1.5),
        ("12,34", "1234", -4.5, 0.0),
        ("1.2.3", "1.2", -4.5, 0.0),
        ("1/0", "1", -4.5, 0.0),
        ("nan", "72", -4.5, -2.5),
        ("inf", "72", -4.5, -2.5),
        ("1e99999", "72", -4.5, 0.0),
        ("3 + 4 = 7", "7", -4.5, 0.0),
        ("3 of 7", "7", -4.5, 0.0),
        ("x = 72", "72", 5.0, 3.5),
        (r"\frac{1}{2}", "0.5", 5.0, 3.5),
        (r"\frac{7}{2}", "2", -2.5, -1.5),
        (r"\boxed{72}", "72", 5.0, 3.5),
        (r"\sqrt{4}", "2", -4.5, 0.0),
        ("2^{10}", "1024", -4.5, 0.0),
        ("2\\pi", r"\pi \cdot 2", 5.0, 3.5),
        ("1 + x", "x+1", 5.0, 3.5),
        ("72, 73", "72", -4.5, 0.0),
        (r"\pm 7", "7", -4.5, 0.0),
        ("yes", "yes", 5.0, 3.5),
        ("no", "yes", -4.5, -2.5),
        ("3", r"\pi", -2.5, 0.0),
        ("72", 72, 5.0, 3.5),
        ("72", 72.0, 5.0, 3.5),
        ("9" * 300, "9" * 300, 5.0, 3.5),
        ("9" * 300, "72", -4.5, 0.0),
    ],
)
def test_well_formed_solutions(solution, answer, by_answer, by_numbers):
    assert score(formed(solution), answer) == (3.0, 1.5, by_answer, by_numbers)


RIGHT = SOLUTION_START + "42" + SOLUTION_END


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{REASONING_END}{RIGHT}", (3.0, 1.5, 5.0, 3.5)),
        (f"w{REASONING_END}\nSo:\n{RIGHT}\n \n", (3.0, 1.5, 5.0, 3.5)),
        (f"w{REASONING_END}{RIGHT}<|im_end|>", (3.0, 1.5, 5.0, 3.5)),
        (f"w{REASONING_END}{RIGHT}\n<|endoftext|>\n", (3.0, 1.5, 5.0, 3.5)),
        (f"{REASONING_START}w{REASONING_END}{RIGHT}", (3.0, 1.5, 5.0, 3.5)),
        (f"w{REASONING_END}{RIGHT}<|im_end|><|im_end|>", (0.0, 1.5, -2.0, 3.5)),
        (f"w{REASONING_START}w{REASONING_END}{RIGHT}", (0.0, 1.5, -2.0, 3.5)),
        (f"w{REASONING_END}{RIGHT} Sure.", (0.0, 1.5, -2.0, 3.5)),
        (f"w{REASONING_END}{RIGHT}\nNo: 43.", (0.0, 1.5, -2.0, 3.5)),
        (f"{RIGHT}w{REASONING_END}", (0.0, 1.5, -2.0, 3.5)),
        (f"w{RIGHT}", (0.0, 0.0, -2.0, 3.5)),
        (f"w{REASONING_END}{SOLUTION_START}42", (0.0, 0.0, -2.0, 3.5)),
        (f"w{REASONING_END}{SOLUTION_START}42<|im_end|>", (0.0, 0.0, -2.0, 3.5)),
        (f"w{REASONING_END}{SOLUTION_START}42</SOLUT>", (0.0, 0.0, -2.0, 3.5)),
        (f"w{REASONING_END}{SOLUTION_START}41</ stamps 42>", (0.0, 0.0, -2.0, -1.5)),
        (f"w{REASONING_END}42{SOLUTION_END}", (0.0, 0.0, -2.0, -2.5)),
        (f"w{REASONING_END}{RIGHT}{RIGHT}", (0.0, -1.5, -2.0, -2.5)),
        (f"w{REASONING_END}{REASONING_END}{RIGHT}", (0.0, 0.0, -2.0, 3.5)),
        (f"w{REASONING_END}{SOLUTION_START} {SOLUTION_END}", (0.0, 1.5, -2.0, -2.5)),
        (f"w{REASONING_END}<solution>42</solution>", (0.0, -1.5, -2.0, -2.5)),
        ("42", (0.0, -3.0, -2.0, -2.5)),
        ("", (0.0, -3.0, -2.0, -2.5)),
    ],
)
def test_formats(text, expected):
    assert score(text, "42") == expected


def test_completions_come_as_messages_or_as_text():
    text = formed("42")
    shapes = [text, [{"role": "assistant", "content": text}]]
    empty = [[], [{"role": "assistant", "content": None}], [{"role": "assistant"}]]
    scores = score_all(shapes + empty, ["42"] * 5)
    assert scores[:2] == [(3.0, 1.5, 5.0, 3.5)] * 2
    assert scores[2:] == [score("", "42")] * 3


def test_every_prompt_is_scored_by_its_own_answer():
    texts = [formed("1"), formed("2"), formed("2")]
    assert rewards.check_answer(None, texts, ["1", "2", "9"]) == [5.0, 5.0, -2.5]


def test_answers_that_do_not_belong_to_the_completions_are_refused():
    with pytest.raises(ValueError):
        rewards.check_answer(["?"], ["a", "b"], ["1"])


# --- the scores, restated


@given(
    guess=st.integers(-300, 300),
    true=st.integers(-300, 300),
    padding=st.sampled_from(["", " ", "\n", "\t "]),
)
def test_integers_score_as_the_rules_say(guess, true, padding):
    by_answer = -2.5
    if guess == true:
        by_answer = 3.5 if padding else 5.0
    elif true != 0 and 9 * true * true <= 10 * guess * true <= 11 * true * true:
        by_answer = 2.0
    elif true != 0 and 8 * true * true <= 10 * guess * true <= 12 * true * true:
        by_answer = 1.5
    by_numbers = 3.5 if guess == true else -1.5
    expected = (3.0, 1.5, by_answer, by_numbers)
    assert score(formed(f"{padding}{guess}{padding}"), str(true)) == expected


WRITTEN = {
    "plain": lambda n: f"{n}",
    "thousands": lambda n: f"{n:,}",
    "decimals": lambda n: f"{n}.00",
    "fraction": lambda n: f"{3 * n}/3",
    "exponent": lambda n: f"{n}00e-2",
    "minus sign": lambda n: f"{n}".replace("-", "\u2212"),
    "dollars": lambda n: f"-${-n}" if n < 0 else f"${n}",
    "per cent": lambda n: f"{n}%",
    "mathematics": lambda n: f"${n}$",
    "arabic": lambda n: "".join(chr(0x660 + int(c)) if c != "-" else c for c in f"{n}"),
}


@given(st.integers(-(10**12), 10**12), st.sampled_from(sorted(WRITTEN)))
def test_every_notation_of_a_number_is_equal_to_it(number, notation):
    text = WRITTEN[notation](number)
    assert rewards.answers_equal(text, str(number))
    assert score(formed(text), str(number)) == (3.0, 1.5, 5.0, 3.5)
    assert not rewards.answers_equal(text, str(number + 1 if number != -1 else 7))


@given(st.fractions(), st.integers(0, 12))
def test_numbers_are_read_exactly(value, places):
    assert rewards.parse_number(f"{value.numerator}/{value.denominator}") == value
    decimal = f"{value.numerator}.{'7' * places}"
    assert rewards.parse_number(decimal) == Fraction(decimal)


@given(st.text(max_size=40))
def test_any_text_is_a_fraction_or_none(text):
    value = rewards.parse_number(text)
    assert value is None or isinstance(value, Fraction)


# --- what holds for every text

PIECES = st.one_of(
    st.sampled_from([REASONING_START, REASONING_END, SOLUTION_START, SOLUTION_END]),
    st.sampled_from(["<|im_end|>", "<|endoftext|>", RIGHT, "42", "41", " ", "\n"]),
    st.sampled_from(["<", "</SOL", "9**9", r"\frac{", "$", "-", "=", "1,2", "\ud800"]),
    st.text(st.characters(codec=None), max_size=12),
)
TEXTS = st.lists(PIECES, max_size=14).map("".join)
ANSWERS = st.sampled_from(["42", "-42", "0", "0.5", "x+1", ""])
TAG = re.compile(
    "|".join(map(re.escape, (REASONING_START, REASONING_END, RIGHT[:10], SOLUTION_END)))
)


def restated_solution(text):
    """The format once more, as a sequence of tags and of the texts between them."""
    tags, texts = TAG.findall(text), TAG.split(text)
    if tags[:1] == [REASONING_START] and not texts[0].strip():
        tags, texts = tags[1:], texts[1:]
    if tags != [REASONING_END, SOLUTION_START, SOLUTION_END]:
        return None
    ended = re.fullmatch(r"\s*(<\|im_end\|>|<\|endoftext\|>)?\s*", texts[3])
    return texts[2] if ended and texts[2].strip() else None


@given(TEXTS)
def test_the_format_is_what_its_restatement_says(text):
    assert rewards.extract_solution(text) == restated_solution(text)
    assert rewards.is_well_formed(text) == (restated_solution(text) is not None)


def check_scores(scores):
    for value, possible in zip(scores, POSSIBLE, strict=True):
        assert math.isfinite(value) and value in possible


@given(TEXTS, ANSWERS)
def test_every_text_has_a_score(text, answer):
    check_scores(score(text, answer))
    check_scores(score(formed(text), answer))


@given(st.lists(st.tuples(TEXTS, ANSWERS), min_size=1, max_size=5))
def test_scores_do_not_depend_on_the_batch(rows):
    texts, answers = map(list, zip(*rows, strict=True))
    alone = [score(text, answer) for text, answer in rows]
    assert score_all(texts, answers) == alone
    assert score_all(texts[::-1], answers[::-1]) == alone[::-1]


@given(TEXTS, TEXTS, st.sampled_from(["42", "41", "x", ""]))
def test_a_second_solution_never_pays(before, after, second):
    more = SOLUTION_START + second + SOLUTION_END
    for first in (before + SOLUTION_START + "42" + SOLUTION_END, formed(before)):
        with_one, with_two = (
            score(first + after, "42"),
            score(first + more + after, "42"),
        )
        assert sum(with_two) <= sum(with_one)


@given(TEXTS, TEXTS, st.one_of(st.integers(-99, 99).map(str), TEXTS))
def test_a_wrong_answer_never_beats_the_right_one_in_its_format(before, after, wrong):
    assume(not TAG.search(wrong) and not rewards.answers_equal(wrong, "42"))
    frame = before + " " + SOLUTION_START + "{}" + SOLUTION_END + " " + after
    right_sum = sum(score(frame.replace("{}", "42"), "42"))
    assert sum(score(frame.replace("{}", wrong), "42")) <= right_sum
    assert sum(score(formed(wrong), "42")) < sum(score(formed("42"), "42"))


# --- the committed corpus


def corpus():
    rows = [json.loads(line) for line in CORPUS.read_text().splitlines()]
    texts = ["".join(part * times for part, times in row["parts"]) for row in rows]
    return rows, texts, [row["answer"] for row in rows]


def test_the_corpus_is_scored():
    rows, texts, answers = corpus()
    results = score_all(texts, answers)
    for row, text, result in zip(rows, texts, results, strict=True):
        check_scores(result)
        assert (result[0] == 3.0) == (restated_solution(text) is not None)
        if row["kind"] in ("right, well-formed", "right, with eos"):
            assert sum(result) >= 11.5
        elif row["kind"].startswith(("wrong", "many", "not a number")):
            assert sum(result) < 11.5


# --- patience

HOSTILE = ["9^{9^{9}}", "{" * 200, "(" * 120 + "1" + ")" * 120, "9**9**9"]
PATIENCE = """
import test_rewards as t
rows, texts, answers = t.corpus()
huge = [text for text in texts if len(text) > 90_000]
assert len(huge) > 40
t.score_all(huge, ["42"] * len(huge))
t.score_all([t.formed(text) for text in t.HOSTILE], ["x+1"] * len(t.HOSTILE))
print(t.equivalence._worker.process.pid)
"""


def run_python(code, seconds):
    """Run code in a fresh interpreter, which must end by itself in that time."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), *sys.path]))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        timeout=seconds,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_hostile_texts_end_and_so_does_the_helper_process():
    # Some seconds on an idle machine; a catastrophic pattern would take hours.
    pid = int(run_python(PATIENCE, seconds=120))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_expressions_are_compared_in_threads():
    cases = [(rf"\frac{{{2 * n}}}{{2}}", str(n)) for n in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        texts = [formed(guess) for guess, _ in cases]
        scores = pool.map(score, texts, [true for _, true in cases])
        assert list(scores) == [(3.0, 1.5, 5.0, 3.5)] * len(cases)
        hopeless = pool.submit(score, formed("8^{8^{8^{8}}}"), "42").result()
    assert hopeless == (3.0, 1.5, -4.5, 0.0)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_helper_process_is_replaced(how, monkeypatch):
    assert equivalence.equivalent.__wrapped__("1+1", "2")
    with monkeypatch.context() as patch:
        patch.setattr(equivalence, "KILL_SECONDS", 2)
        os.kill(equivalence._worker.process.pid, how)
        equivalence.equivalent.__wrapped__("1+2", "3")  # asked of the lost: any answer
    assert equivalence.equivalent.__wrapped__("1+3", "4")


FORK = """
import os
from grpo_course.ground.equivalence import equivalent
assert equivalent("1+1", "2")
child = os.fork()
if child == 0:
    os._exit(0 if equivalent("1+2", "3") and not equivalent("1+2", "4") else 1)
assert equivalent("1+4", "5")
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert equivalent("1+5", "6")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_asks_a_helper_of_its_own():
    run_python(FORK, seconds=120)
