"""Write tests/data/adversarial_completions.jsonl: completions that break parsers.

A line is {"kind", "answer", "parts"}; the completion is each part's text, repeated as
often as its number says, one after the other. Fixed seed: the file is reproducible.

    python tests/make_adversarial_completions.py

`attacks` makes any number more, at random, for tests that want tens of thousands. Those
are not stored: they would be megabytes, and the same seed makes them again.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TARGET = Path(__file__).parent / "data/adversarial_completions.jsonl"
START, END = "<start_working_out>", "<end_working_out>"
OPEN, CLOSE = "<SOLUTION>", "</SOLUTION>"
TAGS = (START, END, OPEN, CLOSE, "<|im_end|>", "<|endoftext|>")

# What may stand between the solution tags, by kind.
PAYLOADS = {
    "right": ["42", " 42\n", "42.0", "$42", "84/2", "4.2e1", "0042", "42%", "４２"],
    "wrong": ["41", "-42", "\u221242", "50", "1e9", "0", "0.42", "1/42", "4 2", "42-"],
    "many": ["41, 42", "41 or 42", r"\pm 42", "{41, 42}", "1 2 3 42", "42 42", "42/41"],
    "not a number": [".", ",", "-", "+", "$", "%", "1.2.3", "1/0", "nan", "-inf", "½"],
    "words": ["forty-two", "四十二", "сорок два", "اثنان وأربعون", "42 apples", "x"],
    "expression": ["6*7", "x = 42", r"\frac{84}{2}", r"\boxed{42}", "42!", "40 + 2"],
    "absurd": ["9**9**9", "9^{9^{9}}", "1e99999", "10^{10^{10}}", "1/1e999", "9" * 250],
    "control": ["\x00", "42\x00", "\x1b[31m42", "4\u200b2", "\u202e24", "\ufeff42"],
    "surrogate": ["\ud800", "42\udfff", "\udc0042", "\ud83d42\ude00"],
    "markup": ["**42**", "<b>42</b>", "`42`", "# 42", "&#52;2", "{42", "$42$", "$$"],
}
HUGE = {
    "spaces": " ",
    "digits": "9",
    "commas": "1,",
    "dots": ".",
    "minus signs": "-",
    "numbers": "42 ",
    "letters": "a",
    "braces": "{",
    "roots": r"\sqrt{",
    "fractions": r"\frac{1}{",
    "powers": "9**",
    "opening tags": OPEN,
    "closing tags": CLOSE,
    "reasoning tags": END,
    "half tags": "<SOLUTION",
    "surrogates": "\ud800",
    "slashes": "1/",
    "equals": "1=",
}
# Where the payload, written here as {}, may stand.
FRAMES = {
    "well-formed": f"6*7=42.{END}{OPEN}{{}}{CLOSE}",
    "with eos": f"6*7=42.{END}\n{OPEN}{{}}{CLOSE}<|im_end|>\n",
    "text after": f"6*7=42.{END}{OPEN}{{}}{CLOSE} I am sure.",
    "no reasoning end": f"6*7=42.{OPEN}{{}}{CLOSE}",
    "cut off": f"6*7=42.{END}{OPEN}{{}}",
    "answer first": f"{OPEN}{{}}{CLOSE}6*7=42.{END}",
    "nested": f"{END}{OPEN}{OPEN}{{}}{CLOSE}{CLOSE}",
    "twice": f"{END}{OPEN}{{}}{CLOSE}{OPEN}42{CLOSE}",
    "bare": "{}",
    "prompt copied": f"Solve this. {OPEN}...{CLOSE}{START}{END}{OPEN}{{}}{CLOSE}",
}


def entries():
    for kind, payloads in PAYLOADS.items():
        for payload in payloads:
            for frame, text in FRAMES.items():
                text = text.replace("{}", payload)
                yield f"{kind}, {frame}", "42", [[text, 1]]
    for name, unit in HUGE.items():
        for frame in ("well-formed", "cut off", "bare"):
            before, after = FRAMES[frame].split("{}")
            parts = [[before, 1], [unit, 100_000 // len(unit)], [after, 1]]
            yield f"huge {name}, {frame}", "42", parts
    for answer in ["0", "-42", "0.5", "1/3", "x+1", r"\frac{1}{2}", "", "9" * 300]:
        for guess in ["0", "42", "-40", ".5", "0.3333", "1+x", r"\frac12", "yes"]:
            text = FRAMES["well-formed"].replace("{}", guess)
            yield "other answers", answer, [[text, 1]]
    rng = random.Random(3407)
    words = [*TAGS, " ", "\n", *"6*7=42. 42 41 - , < > </ é 中".split()]
    for _ in range(400):
        text = "".join(rng.choices(words, k=rng.randint(0, 12)))
        yield "random", "42", [[text, 1]]


# --- Attacks at random ----------------------------------------------------------------

SCRIPTS = (  # first and last code point of ranges of many scripts, and of oddities
    (0x21, 0x7E),
    (0xA1, 0x24F),
    (0x370, 0x3FF),
    (0x400, 0x4FF),
    (0x531, 0x58F),
    (0x5D0, 0x5EA),
    (0x600, 0x6FF),
    (0x900, 0x97F),
    (0xE01, 0xE5B),
    (0x10A0, 0x10FF),
    (0x1100, 0x11FF),
    (0x1200, 0x137F),
    (0x3041, 0x30FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xFF01, 0xFF5E),
    (0x1D400, 0x1D7FF),
    (0x1F300, 0x1F64F),
    (0x0, 0x1F),  # control characters
    (0x7F, 0x9F),
    (0x200B, 0x200F),  # no width
    (0x202A, 0x202E),  # writing direction
    (0xD800, 0xDFFF),  # lone surrogates
)
PROMPT = (
    f"Write your working between {START} and {END}.\nThen give only the final answer "
    f"between {OPEN} and {CLOSE}."
)


ANSWERS = ["42"] * 5 + ["-7", "0", "1/2", "1234567", "x+1"]


class Attack(NamedTuple):
    """A completion: the frame with the payload in place of its only "{}"."""

    frame: str
    payload: str
    answer: str

    @property
    def text(self) -> str:
        return self.frame.replace("{}", self.payload)


def attacks(count: int, seed: int = 3407) -> Iterator[Attack]:
    """Attacks at random, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        answer = rng.choice(ANSWERS)
        payload = rng.choice(PAYLOAD_MAKERS)(rng, answer)
        if any(sign in payload for sign in r"\^([{*"):
            answer = "42"  # math-verify is slow: fewer pairs, and its cache helps
        yield Attack(rng.choice(FRAME_MAKERS)(rng), payload, answer)


def _listed(rng, answer):
    return rng.choice(PAYLOADS[rng.choice(list(PAYLOADS))])


def _number(rng, answer):
    n = rng.choice([42, -42, rng.randint(-99, 99), rng.randint(-(10**9), 10**9)])
    forms = ["{}", "{:,}", "{}.0", "${}", "{}%", "{}/3", "{}e2", " {}\n", "{:+}", "{}."]
    return rng.choice(forms).format(n)


def _near(rng, answer):
    edit = rng.choice(["{}{}", "{}{}{}", "{} {}", "{}, {}", "{}={}", "({})({})"])
    return edit.format(*[answer] * edit.count("{}"))


def _script(rng, answer):
    first, last = rng.choice(SCRIPTS)
    return "".join(chr(rng.randint(first, last)) for _ in range(rng.randint(1, 12)))


def _mixed(rng, answer):
    return "".join(_script(rng, answer)[:2] for _ in range(rng.randint(1, 20)))


def _markup(rng, answer):
    return "".join(rng.choices([*TAGS, "42", " ", "<", "</", ">"], k=rng.randint(1, 9)))


def _latex(rng, answer, depth=2):
    if depth == 0:
        return rng.choice(["42", "x", "1", r"\pi"])
    forms = [r"\frac{%s}{2}", r"\sqrt{%s}", "(%s)", "%s+1", "2^{%s}", r"\text{%s}"]
    return rng.choice(forms) % _latex(rng, answer, depth - 1)


def _deep(rng, answer):
    unit = rng.choice(["{", "(", "[", r"\sqrt{", r"\frac{1}{", "-", "1/", "9**", "2^"])
    return unit * rng.choice([30, 400]) + rng.choice(["", "42"])


def _long(rng, answer):
    unit = rng.choice(list(HUGE.values()))
    return unit * rng.choice([100, 1000, 5000])


PAYLOAD_MAKERS = [_listed] * 4 + [_number] * 8 + [_near, _script, _mixed, _markup]
PAYLOAD_MAKERS += [_latex, _deep, _long]


def _known_frame(rng):
    return rng.choice(list(FRAMES.values()))


def _well_formed(rng):
    working = _script(rng, "").replace("{}", "")
    return f"{working} {END}{OPEN}{{}}{CLOSE}"


def _shuffled(rng):
    pieces = rng.choices([*TAGS, " ", "\n", "6*7=42."], k=rng.randint(0, 7))
    pieces.insert(rng.randint(0, len(pieces)), "{}")
    return "".join(pieces)


def _damaged(rng):
    frame = _known_frame(rng)
    before, after = frame.split("{}")
    at = rng.randint(0, len(before))
    more = rng.choice(["", "<", "\u200b", before[at : at + 9], before.upper()])
    return before[:at] + more + before[at + rng.randint(0, 2) :] + "{}" + after


def _copied(rng):
    times = rng.choice([1, 2, 30])
    return f"{PROMPT * times}{rng.choice(['', END])}{OPEN}{{}}{CLOSE}"


FRAME_MAKERS = [_known_frame, _known_frame, _well_formed, _shuffled, _damaged, _copied]


def main():
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with TARGET.open("w", encoding="ascii") as file:
        for kind, answer, parts in entries():
            row = {"kind": kind, "answer": answer, "parts": parts}
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
