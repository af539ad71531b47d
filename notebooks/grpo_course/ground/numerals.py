r"""Read a number as people and models write it: exactly, or not at all.

What is read is one number that somebody has worked out: digits, one fraction, a mixed
number, a power of ten, a scale word, and around it the marks that do not change its
value (currency, \boxed, $, `x =`, a unit in \text, a full stop). A sum, a list, a range
or a tautology has a value too, but not one that was worked out: it is no number here.
Per cent counts as hundredths. Scripts may differ, as long as the digits are decimal.
"""

import re
from fractions import Fraction

MAX_LENGTH = 256  # characters; what is longer is no short final answer

MARKS = {"{,}": ",", r"\!": "", "\N{MINUS SIGN}": "-"}
SPACE = re.compile(r"(?:\\(?:[,;: ]|thinspace\b)|~|[^\S\n])+")  # LaTeX's, Unicode's
NAME = r"(?:\\(?:alpha|beta|gamma|theta|lambda|mu|phi)|[a-zA-Z]|[a-zA-Z]{3,})"
NAME = rf"(?!minus|negative|half|twice|not\b){NAME}(?:_\w|_\{{\w+\}})? *="  # x =
BRACED = r"\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"  # up to two braces deeper
LAYER = re.compile(
    rf"\\(?:boxed|text|textbf|mathbf|mathrm) *{BRACED}"
    r"|\\\(((?:(?!\\\)).)*)\\\)|\\\[((?:(?!\\\]).)*)\\\]"
    r"|\(([^()]*)\)|\\left *\(([^()]*)\\right *\)"
    rf"|{NAME}(.*)|(.*[^.])\.",  # the last: a full stop
    re.DOTALL,
)

DIGITS = r"(?:\d+|[1-9]\d{0,2}(?:,\d{3})+)"  # 1234 or 1,234
PLAIN = rf"(?:(?:{DIGITS}(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{{1,3}})?)"
SPACED = r"(?:[1-9]\d{0,2}(?: \d{3})+(?:\.\d*)?)"  # 1 234
ARGUMENT = rf" *(?:\{{ *([+-]?(?:{PLAIN}|{SPACED})) *\}}|(\d))"
FRAC = re.compile(rf"\\[dt]?frac{ARGUMENT}{ARGUMENT}")
FRACTION = rf"(?:(?P<whole>{DIGITS}) +)?(?P<top>{PLAIN}) */ *(?P<bottom>{PLAIN})"
TIMES = rf"(?:(?P<factor>{PLAIN}) *(?:\\times|\\cdot|[x×·*]) *)?"
POWER = rf"{TIMES}10 *(?:\^|\*\*) *(?P<power>[+-]?\d{{1,3}}|\{{ *[+-]?\d{{1,3}} *\}})"
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
SCALE = rf"(?: *(?:\\text *\{{ *)?\b(?P<scale>{'|'.join(SCALES)})\b(?: *\}})?)?"
UNIT = r"(?: *\\(?:text|mathrm|mbox) *\{(?P<unit>[^{}]*)\}(?:\^\{?[23]\}?)?"
UNIT += r"| *(?:\^ *(?:\\circ|\{ *\\circ *\})|°))?"
NUMBER = re.compile(
    r"(?P<sign>[+-]? *\\?[$€£¥]? *|\\?[$€£¥] *[+-])"  # -$5 or $-5
    rf"(?:{FRACTION}|{POWER}|(?P<literal>{PLAIN}|{SPACED}))"
    rf"{SCALE} *(?:\\?(?P<mark>[%$€£¥]))?{UNIT}"
)

# Words that change the number beside them: "7 dozen" is not 7, nor is "minus 7".
WORDS = r"""zero one two three four five six seven eight nine ten eleven twelve
[a-z]{3,5}teen (?:twen|thir|for|fif|six|seven|eigh|nine)ty dozens? score gross
hundre(?:d|ds|dths?) thousan(?:d|ds|dths?) [a-z]{1,6}illi(?:on|ard)[a-z]{0,3}
tausend mil(?:le)? lakhs? crores? mi?o mrd mln bn mn half halves thirds? fourths?
quarters? fifths? sixths? sevenths? eighths? ninths? tenths? twice double triple
squared? cubed? roots? power factorial log ln pi mod plus minus negative times over
divided less more least most than point base and or not no never but except either
neither [a-z]+n't"""
CHANGES = re.compile(
    rf"(?i:\b(?:{'|'.join(WORDS.split())})\b)"
    r"|\b(?![aghlmsIL]\b)[A-Za-z]\b"  # a variable, or k, M, B
    r"|[^A-Za-z\s,.;:'\"`()~≈/]|(?<![A-Za-z])/"
)


def tidy(text: str) -> str:
    """A short answer without the marks that do not change its value."""
    for mark, plain in MARKS.items():
        text = text.replace(mark, plain)
    return SPACE.sub(" ", text).strip().strip("$").removesuffix("\\").strip()


def unwrap(text: str) -> str:
    """What a short answer says, without boxes, brackets, `x =` and a full stop."""
    text = tidy(text)
    while layer := LAYER.fullmatch(text):
        text = tidy(layer[layer.lastindex])
    return text


def changes_a_number(words: str) -> bool:
    """May these words, beside a number, make another number of it?"""
    return CHANGES.search(words) is not None


def parse_number(text: str) -> Fraction | None:
    r"""The exact value of a text that is one number and nothing else; None otherwise.

    Understands 1,234  1 234  -5  72.0  .5  1/2  \frac{1}{2}  1 1/2  1e5  3 \cdot 10^{4}
    6 million  $72  50% (one half)  \boxed{72}  x = 72  72 \text{ cm}.
    """
    if len(text) > MAX_LENGTH:
        return None
    found = NUMBER.fullmatch(FRAC.sub(_in_one_line, unwrap(text)).strip())
    if not found or changes_a_number(found["unit"] or ""):
        return None
    try:
        value = _value(found) * 10 ** SCALES.get(found["scale"], 0)
    except (ValueError, ZeroDivisionError):  # 5 7/2, 1/0
        return None
    value = -value if "-" in found["sign"] else value
    return value / 100 if found["mark"] == "%" else value


def _in_one_line(frac: re.Match) -> str:
    r"""\frac{2,000}{8} as " 2000/8 "."""
    top, bottom = (re.sub("[, ]", "", part) for part in frac.groups() if part)
    return f" {top}/{bottom} "


def _exact(digits: str) -> Fraction:
    return Fraction(re.sub("[, ]", "", digits))


def _value(found: re.Match) -> Fraction:
    """The unsigned value of what NUMBER found; ValueError where it has none."""
    if found["literal"]:
        return _exact(found["literal"])
    if not found["top"]:
        power = int(found["power"].strip("{ }"))
        return _exact(found["factor"] or "1") * Fraction(10) ** power
    part = _exact(found["top"]) / _exact(found["bottom"])
    if found["whole"] is None:
        return part
    if not (found["top"].isdigit() and found["bottom"].isdigit() and 0 < part < 1):
        raise ValueError("This is no mixed number.")
    return _exact(found["whole"]) + part
