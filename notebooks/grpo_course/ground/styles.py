"""The four styles in which the tiny model and its data work a problem out.

none        The answer is 42.
expression  2*8+26=42.
steps       2*8=16. 16+26=42.
detail      2*8=16. 16+26: 16+20=36, 36+6=42.
"""

import re

STYLES = ("none", "expression", "steps", "detail")
_SPLIT_UP = re.compile(r"\d+[-+*]\d+: ")


def solution_style(text: str) -> str:
    """Which style a completion's working is written in, right or wrong.

    The most detailed sign wins: "a+b: ..." is detail, more than one "=" is steps, one
    "=" is expression or a single step, none is none.
    """
    if _SPLIT_UP.search(text):
        return "detail"
    equations = re.findall(r"[\d)][-+*][\d(][^=.]*=", text)
    if len(equations) > 1:
        return "steps"
    return "expression" if equations else "none"
