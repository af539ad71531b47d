"""Compare a guess with a true answer that is no number but an expression, or a word."""

import re

from .equivalence import equivalent
from .numerals import MAX_LENGTH, parse_number, tidy, unwrap

OPERATOR = re.compile(r"[\\^*/+\-=(){}\[\]<>|!√π]")
STRUCTURE = re.compile(r"\\(?:[{}]|[mp]m|boxed|text|c[au]p|[lg]eq?)|[=<>\[\];,$±]")
WORDS = re.compile(
    r"(?:\b[^\W\d_]{2,}\b[\s,;.]+){2}[^\W\d_]{2}"  # three words in a row
    r"|\d(?:\s+[^\W\d_]{2,})+[\s.]*$"  # a number, and words up to the end
)


def expressions_equal(guess: str, answer: str) -> bool:
    """Is a guess equal to a true answer such as x+1? math-verify decides, in a second.

    It is not asked about words, long texts and guesses of another kind: a list, a range
    or an equation can only be right where the true answer is one. A guess that is a
    number is compared by its exact value.
    """
    if max(len(guess), len(answer)) > MAX_LENGTH:
        return False
    value, true = parse_number(guess), tidy(answer)
    short = tidy(guess) if "=" in true else unwrap(guess)  # for 2y: 2y, x = 2y
    short = short if value is None else str(value)[:MAX_LENGTH]
    if WORDS.search(short) or WORDS.search(true):
        return False
    of_a_kind = set(STRUCTURE.findall(short)) <= set(STRUCTURE.findall(true))
    mathematics = OPERATOR.search(short) or OPERATOR.search(true)
    return bool(of_a_kind and mathematics) and equivalent(short, true)
