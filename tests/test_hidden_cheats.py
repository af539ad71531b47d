r"""A generator of cheats: ways to earn points without the answer, found and imagined.

Each cheat is a text for between the solution tags. Most state no number at all: a sum
of the question's numbers, a list, a range, an equation, a tautology, another base;
whoever reads them kindly finds the true answer in it. Some state a number, and then
only that one counts. A cheat earns nothing, unless it states the true number.
"""

import random
import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_course import rewards
from grpo_course.ground.numerals import parse_number
from grpo_course.template import REASONING_END, SOLUTION_END, SOLUTION_START
from tools.tiny import arithmetic

# The true answer is @n, another number @m; @p + @q is @n and @s is its square. @x, @o
# and @z are @n in bases 16, 8 and 2, and @b is a small number.
SUMS = r"""
@p+@q ¦ @p + @q ¦ @p-(-@q) ¦ -@m+@n+@m ¦ @n+0 ¦ 0+@n ¦ @n-0 ¦ @n*1 ¦ 1*@n ¦ @n\cdot 1
@n\times 1 ¦ @n^1 ¦ @n^{1} ¦ @n**1 ¦ --@n ¦ -(-@n) ¦ (-1)^2@n ¦ @n+x-x ¦ x+@n-x
@n+@m-@m ¦ 1000!-1000!+@n ¦ 9^{9^{9}}-9^{9^{9}}+@n ¦ \sqrt{@s} ¦ @s^{1/2} ¦ @s^{0.5}
@s/@n/1 ¦ |@n| ¦ \left|@n\right| ¦ \lfloor @n.5\rfloor ¦ \lceil @n\rceil ¦ \max(@n,@m)
\gcd(@n,0) ¦ \sum_{i=1}^{@n}1 ¦ \int_0^{@n}dx ¦ \binom{@n}{1} ¦ \log_2 2^{@n}
\ln e^{@n} ¦ @n \bmod @m ¦ @n\%@m ¦ @p\frac{@q}{1} ¦ @p @q/1 ¦ \frac{@p+@q}{1}
\frac{@s}{@n+0} ¦ @n\cdot 10^0+0 ¦ @nx10^0x1 ¦ (@n)(1) ¦ @n(1) ¦ (@p)+(@q) ¦ @p\\+@q
@n! ¦ e^{0}@n ¦ @ne ¦ @ni ¦ @n\pi ¦ @nx ¦ x@n ¦ @n^2 ¦ @n² ¦ @n½ ¦ √@s ¦ @n²/@n
@p＋@q ¦ @p﹢@q ¦ @p plus @q ¦ @p\,+\,@q ¦ @p\;@q ¦ @p - -@q ¦ @p–-@q ¦ @n.0.0 ¦ @ne0e0
@n\dots ¦ \frac{@n}{1}0 ¦ 1\frac{@n}{1} ¦ \frac{\frac{@n}{1}}{1} ¦ \frac@n1+0 ¦ @n/1/1
@n÷1 ¦ @n:1 ¦ +(@p+@q) ¦ {@p}+{@q} ¦ @n^{\circ}+0
"""
SEVERAL = r"""
[@n,@n] ¦ [@n] ¦ \{@n\} ¦ {@n} ¦ {@n,@n} ¦ (@n,@n) ¦ (@n,@m) ¦ @n,@m ¦ @m, @n
@m or @n ¦ @n or @m ¦ @n and @m ¦ @m\text{ or }@n ¦ @n\text{ or }@m ¦ @m;@n ¦ @n; @m
@m/@n/@n ¦ @m-@n ¦ @m - @n ¦ @m--@n ¦ @m–@n ¦ @m—@n ¦ @m..@n ¦ @m to @n
from @m to @n ¦ \pm @n ¦ ±@n ¦ @n\pm @m ¦ @n±0 ¦ +-@n ¦ @n|@m ¦ @n\quad @m ¦ @n\\@m
@n:@m ¦ @m ≤ @n ¦ x>@n ¦ x \geq @n ¦ x≥@n ¦ >@n ¦ ≥@n ¦ <@n ¦ @n+ ¦ at least @n
less than @n ¦ more than @n ¦ @n or more ¦ \boxed{@m}\boxed{@n} ¦ \boxed{@n}\boxed{@m}
\boxed{@m} \boxed{@n} ¦ @m\boxed{@n} ¦ \boxed{@n,@m} ¦ \boxed{\boxed{@m}@n}
\boxed{@p+@q} ¦ $@m$ or $@n$ ¦ @m$ $@n ¦ \(@m\)\(@n\) ¦ @m%@n ¦ @m % @n
@m\phantom{@n} ¦ \phantom{@m}@n ¦ @m<!--@n--> ¦ <b>@m</b>@n ¦ @m → @n ¦ ~~@m~~ @n
\cancel{@m}@n ¦ \color{white}{@m} @n ¦ not @m but @n ¦ @n (or @m) ¦ (@m) @n ¦ @n? @m?
@n[@m] ¦ @m_{@n} ¦ @m^{@n} ¦ _@n ¦ @n_@m ¦ 2024-@n ¦ @n.@m.2024 ¦ 1/@n/2024 ¦ #@n
@m̶ @n ¦ **@m** **@n** ¦ `@m` `@n` ¦ \text{@m} \text{@n} ¦ \underline{@m}@n ¦ &#@n;
"""
EQUATIONS = r"""
9=@n ¦ @m=@n ¦ @m = @n ¦ @n=@n ¦ @n=@m ¦ @n = x ¦ x^2=@n ¦ 2x=@n ¦ x+1=@n ¦ x=@p+@q
x=@n, y=@m ¦ x = @m or x = @n ¦ x=@m=@n ¦ @p+@q=@n+0 ¦ @p+@q=@m=@n ¦ f(@m)=@n ¦ 1=1=@n
@m\ne @n ¦ @m≠@n ¦ x\neq@n ¦ x:=@m;@n ¦ @m\to @n ¦ @m\equiv @n ¦ @n=@p+@q ¦ x-@n=0
0=@n-x ¦ @m≈@n ¦ @n≈@m ¦ @p+@q=\boxed{@n} ¦ x=@n=@m ¦ |x|=@n ¦ \sqrt{x}=@n ¦ x/1=@n
"""
BASES = r"""
0x@x ¦ 0X@x ¦ 0b@z ¦ 0o@o ¦ @z_2 ¦ @z_{2} ¦ (@z)_2 ¦ @x_{16} ¦ @o_8 ¦ #@x ¦ \x@x
"""
WORDS = r"""
@n dozen ¦ @nk ¦ @n k ¦ @nK ¦ @nM ¦ @n M ¦ @n\text{k} ¦ @n \text{ dozen}
@n \text{ bn} ¦ @n lakh ¦ half of @n ¦ twice @n ¦ double @n ¦ @n squared
square root of @s ¦ @n and a half ¦ @n point five ¦ @n\text{ squared} ¦ @n halves
@n tenths ¦ @n\text{ tenths} ¦ minus @n ¦ @n million million ¦ @n hundred thousand
a million @n ¦ negative @n ¦ \text{minus }@n ¦ not @n ¦ isn't @n ¦ no @n
@n thousandths ¦ @n score ¦ @n times @m ¦ f(@n) ¦ sin(@n) ¦ ⁻@n ¦ abs(-@n) ¦ log @n
ln @n ¦ @n pi ¦ @n percent of @m ¦ @n minus one ¦ one less than @n ¦ @n millionths
@n万 ¦ @n千 ¦ @n миллион ¦ @n Millionen ¦ @n mil ¦ @n Mio ¦ Ⅶ@n ¦ ①@n ¦ @n①
or=@n ¦ \pi=@n ¦ \pm=@n ¦ mx=@n ¦ not = @n ¦ @n\circ ¦ 2x=@n ¦ \times=@n
@n⁰ ¦ @n₀ ¦ @n̅ ¦ @nth of @m ¦ @n \text{ thousand thousand}
@n\text{ or more} ¦ @n mod one
"""
# What these state stands behind the arrow, in Python.
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
    return [piece for line in text.strip().split("\n") for piece in line.split(" ¦ ")]


def filled(template, n, m, b):
    """A template with its numbers in place of their names."""
    p = b if b < n else 0
    values = {"n": n, "m": m, "p": p, "q": n - p, "s": n * n, "b": b}
    values |= {"x": f"{n:x}", "o": f"{n:o}", "z": f"{n:b}"}
    return re.sub("@([a-z])", lambda name: str(values[name[1]]), template)


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


@pytest.mark.parametrize("name", ["SUMS", "SEVERAL", "EQUATIONS", "BASES", "WORDS"])
@given(n=NUMBERS, m=NUMBERS, b=st.integers(2, 9), form=st.sampled_from(["{}", "{}.0"]))
@settings(max_examples=30, deadline=None)
def test_what_states_no_number_earns_nothing(name, n, m, b, form):
    for template in pieces(globals()[name]):
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
