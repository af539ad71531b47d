"""Write tests/data/adversarial_completions.jsonl: completions that break parsers.

A line is {"kind", "answer", "parts"}; the completion is each part's text, repeated as
often as its number says, one after the other. Fixed seed: the file is reproducible.

    python tools/make_adversarial_completions.py
"""

import json
import random
from pathlib import Path

TARGET = Path(__file__).parents[1] / "tests/data/adversarial_completions.jsonl"
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


def main():
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    with TARGET.open("w", encoding="ascii") as file:
        for kind, answer, parts in entries():
            row = {"kind": kind, "answer": answer, "parts": parts}
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
