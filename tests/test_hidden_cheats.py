r"""The generator of cheats against the course's own readers: none is paid.

Some texts state a number after all, and then only that one counts (STATED). A cheat
earns nothing, unless it states the true number.
"""

import random
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_course import rewards
from grpo_course.arena import FORMS, filled
from grpo_course.ground.numerals import parse_number
from grpo_course.template import REASONING_END, SOLUTION_END, SOLUTION_START
from tools.tiny import arithmetic

# What these state stands behind the arrow, in Python; @n is n, as in cheats.toml.
STATED = r"""
@n ⇒ n ¦ x = @n ⇒ n ¦ \boxed{@n} ⇒ n ¦ \boxed{\boxed{@n}} ⇒ n ¦ \[@n\] ⇒ n ¦ (@n) ⇒ n
@n. ⇒ n ¦ @n\text{ apples} ⇒ n ¦ -@n ⇒ -n ¦ −@n ⇒ -n ¦ @n.5 ⇒ n + F(1, 2) ¦ \$@n ⇒ n
@n\frac12 ⇒ n + F(1, 2) ¦ @n 1/2 ⇒ n + F(1, 2) ¦ \frac{@n}{2} ⇒ F(n, 2)
@n/3 ⇒ F(n, 3) ¦ @ne3 ⇒ n * 1000 ¦ @ne-3 ⇒ F(n, 1000) ¦ @n \times 10^{2} ⇒ n * 100
10^{-@b} ⇒ F(1, 10**b) ¦ 10^{@b} ⇒ 10**b ¦ @n million ⇒ n * 10**6
@n \text{ million} ⇒ n * 10**6 ¦ 0@n ⇒ n ¦ \text{@n thousand} ⇒ n * 1000
@n/7/ ⇒ None ¦ @n×10**3 ⇒ n * 1000 ¦ 0.@n ⇒ F(f"0.{n}")
"""
NUMBERS = (st.integers(1, 60) | st.integers(1, 10**6)).filter(
    lambda n: str(n).strip("0") != "1"  # 10^1 is a number
)


def pieces(text):
    """The texts that stand between broken bars."""
    return re.split(" ¦ |\n", text.strip())


def paid(guess, answer):
    """What a solution earns: right or not, by the working too, and by its number."""
    text = f"1=1.{REASONING_END}{SOLUTION_START}{guess}{SOLUTION_END}"
    inputs = {"prompts": [""], "completions": [text], "answer": [answer]}
    names = ("right_answer", "sound_working", "check_numbers")
    scores = [getattr(rewards, name)(**inputs)[0] for name in names]
    return rewards.answers_equal(guess, answer), *scores


def earns_nothing(guess, answer):
    equal, right, sound, number = paid(guess, answer)
    return not equal and right == sound == 0.0 and number <= 0.0


@pytest.mark.parametrize("kind", FORMS)
@given(n=NUMBERS, m=NUMBERS, b=st.integers(2, 9), form=st.sampled_from(["{}", "{}.0"]))
@settings(max_examples=30, deadline=None)
def test_what_states_no_number_earns_nothing(kind, n, m, b, form):
    for template in FORMS[kind]:
        guess = filled(template, n, m, b)
        assert parse_number(guess) != n, guess
        assert earns_nothing(guess, form.format(n)), guess


@given(n=NUMBERS, b=st.integers(2, 9), answer=NUMBERS)
@settings(max_examples=200, deadline=None)
def test_only_the_number_that_is_stated_counts(n, b, answer):
    for piece in pieces(STATED):
        template, value = piece.split(" ⇒ ")
        guess = filled(template, n, answer, b)
        stated = eval(value, {"F": Fraction, "n": n, "b": b})
        assert parse_number(guess) == stated, guess
        if stated is not None:
            assert paid(guess, str(stated)) == (True, 1.0, 5.0, 3.5), guess
        for true in {answer, n, -n, b} - {stated}:
            assert earns_nothing(guess, str(true)), (guess, true)


@given(st.integers(0, 10**6), st.randoms())
@settings(max_examples=150, deadline=None)
def test_the_numbers_of_the_question_with_signs_are_no_answer(seed, rng):
    problem = arithmetic.make_problem(random.Random(seed), "test")
    numbers = re.findall(r"\d+", problem.question)
    for _ in range(20):
        signs = [rng.choice("+-*/") for _ in numbers]
        copied = "".join(map("".join, zip(signs, numbers, strict=True))).lstrip("+*/")
        if parse_number(copied) != problem.answer:  # one fraction is a number
            assert earns_nothing(copied, str(problem.answer)), copied


ONE_NUMBER = re.compile(r"(\d[\d, .]*|\.\d+)")
SCRAPS = [
    "\\frac",
    "\\boxed",
    "\\text",
    "\\times",
    "\\cdot",
    "10^",
    "{",
    "}",
    "million",
]
SCRAPS += [*"0123456789" * 2, *"+-*/=()[].,^ x%$e", "\\", "or", "\u2009", "\\ ", "²"]


@given(st.lists(st.sampled_from(SCRAPS), max_size=9).map("".join))
@settings(max_examples=3000, deadline=None)
def test_whatever_is_read_as_a_number_holds_no_arithmetic(text):
    if parse_number(text) is None:
        return
    rest = re.sub(r"[eE][+-]|(\^|\*\*) *\{? *[+-]|\{ *[+-]", "^", text)  # exponents
    rest = re.sub(r"^[^\d+-]*[+-]", "", rest)  # the sign
    assert not re.search(r"[+-]", rest), text
    assert rest.count("/") + rest.count("\\frac") <= 1, text
    assert re.sub(r"(x|\*|\\times|\\cdot) *10 *(\^|\*\*)", "", rest).count("*") == 0
    for left in rest.split("=")[:-1]:
        assert not re.search(r"\d", left.replace("_", "")) or "_" in left, text


EXPRESSIONS = [r"\sqrt{2}", r"2\pi", "x+1", r"\frac{\pi}{2}", "(1,2)", r"\{1,2\}"]
ABOUT = r"""
3=@t ¦ @t=@t ¦ @t=3 ¦ [@t,@t] ¦ \{@t\} ¦ \pm @t ¦ @t, 3 ¦ 3, @t ¦ @t;3 ¦ 3\boxed{@t}
x>@t ¦ \boxed{3}\boxed{@t} ¦ \boxed{@t}\boxed{3} ¦ 3$ or $@t ¦ @t$ or $3
@t\text{ or }3 ¦ @t or 3 ¦ 3 or @t ¦ 3 @t ¦ @t\\3 ¦ x^2=@t ¦ 3\text{ or }@t ¦ @t\cup 3
@t < 3 ¦ @t million ¦ @t\text{ million} ¦ 2(@t) ¦ -(@t) ¦ \boxed{@t+1} ¦ x=@t, y=3
@t\pm 1
"""


@pytest.mark.parametrize("true", EXPRESSIONS)
def test_cheats_about_expressions_earn_nothing(true):
    for template in pieces(ABOUT):
        guess = template.replace("@t", true)
        assert not rewards.answers_equal(guess, true), guess
    assert rewards.answers_equal(rf"\boxed{{{true}}}", true)


@pytest.mark.parametrize(
    ("guess", "true"),
    [
        ("10^{-12}", r"3 \cdot 10^{-11}\pi"),
        ("0", r"10^{-12}\pi"),
        ("1.4142", r"\sqrt{2}"),
        ("1e-12+0", r"10^{-12}\pi"),
    ],
)
def test_numbers_near_zero_are_not_equal_because_they_are_small(guess, true):
    assert not rewards.answers_equal(guess, true)


def test_the_cheats_of_which_we_know():
    """From reports on graders, and one of our own; each was paid in full once."""
    known = """5 1/2 ⇒ 3 ¦ 1 000+7 ⇒ 7 ¦ 10^{-12} ⇒ 0.00000000003 ¦ e-04 ⇒ 1e-04
6 \\text{ million} ⇒ 6 ¦ [7,7] ⇒ 7 ¦ \\{7\\} ⇒ 7 ¦ x^2=50 ⇒ 50 ¦ 9=7 ⇒ 7 ¦ x+7-x ⇒ 7
1000!-1000!+7 ⇒ 7 ¦ 4**2 ⇒ 42 ¦ 4`2 ⇒ 42 ¦ 74-33+62+18 ⇒ 121
1 = 42 ⇒ 42 ¦ 1e1000-1e1000+7 ⇒ 7"""
    for guess, answer in (piece.split(" ⇒ ") for piece in pieces(known)):
        assert earns_nothing(guess, answer), guess


def test_the_right_answers_that_were_refused():
    refused = r"""10^{-4} ⇒ 1e-04 ¦ x = 4,321 ⇒ 4321 ¦ \frac{2,000}{8} ⇒ 250 ¦ \[8\] ⇒ 8
\frac{12}{4} ⇒ 3. ¦ \frac{12}{4} ⇒ €3 ¦ 2\ 000 ⇒ 2000 ¦ 2\,000 ⇒ 2000 ¦ 2~000 ⇒ 2000
5 1/2 ⇒ 11/2 ¦ 5\tfrac12 ⇒ 5.5 ¦ 6 million ⇒ 6,000,000 ¦ 1.5 \times 10^{3} ⇒ 1500"""
    pairs = [piece.split(" ⇒ ") for piece in pieces(refused)]
    spaces = "\u00a0\u2007\u2009\u202f\u200a"
    for guess, answer in pairs + [[f"2{space}000", "2000"] for space in spaces]:
        assert paid(guess, answer) == (True, 1.0, 5.0, 3.5), guess
