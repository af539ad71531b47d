"""Other people's data: whatever is in a local file is kept, or dropped and counted."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_course import problems, sft_data
from grpo_course.ground import data, rules
from grpo_course.ground.numerals import parse_number
from grpo_course.ground.paths import REPO
from grpo_course.ground.profile import PROFILES
from grpo_course.template import apply_template

FEW = settings(deadline=None, derandomize=True, database=None, max_examples=60)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["42", "What is 6*7?", "<SOLUTION>", "6*7=42.\n#### 42", "NaN"]),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
    st.just("long " * 300),
    st.just("\ud800"),
    st.just(10**400),
)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return apply_template(AutoTokenizer.from_pretrained(REPO / "models/tiny-qwen3"))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A function that writes rows (or ready lines) to a file and names it."""
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"

    def write(rows) -> str:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines))
        return str(path)

    return write


def rows_of(layout):
    columns = [*data.COLUMNS[layout], *data.GSM8K, "more"]
    row = st.dictionaries(st.sampled_from(columns), VALUES, max_size=6)
    return st.lists(row, min_size=1, max_size=8)


@given(rows=rows_of("grpo"))
@FEW
def test_any_rows_become_usable_prompts_or_are_counted(written, rows):
    try:
        table = data.load_rows(written(rows), "grpo")
    except data.DataError as error:
        assert "columns" in str(error)
        return
    kept, dropped = problems.usable_problems(table, [])
    assert len(kept) + sum(dropped.values()) == len(rows)
    for problem in kept:
        assert problem["prompt"][-1]["content"].strip()
        assert parse_number(problem["answer"]) is not None


@given(rows=rows_of("sft"))
@FEW
def test_any_rows_become_usable_examples_or_are_counted(written, tokenizer, rows):
    try:
        table = data.load_rows(written(rows), "sft")
        kept, dropped = sft_data.prepare_rows(table, tokenizer, 192)
    except data.DataError as error:
        assert "columns" in str(error) or "filter" in str(error)
        return
    assert len(kept) + sum(map(len, dropped.values())) == len(rows)
    assert all(row["tokens"] <= 192 and row["problem"] for row in kept)


GOOD = {"prompt": "What is 6*7?", "solution": "42"}


@pytest.mark.parametrize(
    "bad, filter_name",
    [
        ({"solution": "42"}, "no question"),
        ({"prompt": None, "solution": "42"}, "no question"),
        ({"prompt": math.nan, "solution": "42"}, "no question"),
        ({"prompt": " \n ", "solution": "42"}, "no question"),
        ({"prompt": ["What is 1+1?"], "solution": "2"}, "no question"),
        ({"prompt": "What is 1+1?"}, "no number"),
        ({"prompt": "What is 1+1?", "solution": None}, "no number"),
        ({"prompt": "What is 1+1?", "solution": math.nan}, "no number"),
        ({"prompt": "What is 1+1?", "solution": math.inf}, "no number"),
        ({"prompt": "What is 1+1?", "solution": True}, "no number"),
        ({"prompt": "What is 1+1?", "solution": "two"}, "no number"),
        ({"prompt": "What is  6*7? ", "solution": 42}, "duplicate"),
        ({"prompt": "What is 9*9?", "solution": "81"}, "held out"),
    ],
)
def test_each_kind_of_bad_row_is_counted_under_its_name(written, bad, filter_name):
    rows = data.load_rows(written([GOOD, bad]), "grpo")
    held_out = [problems.as_problem({"prompt": "What is 9*9?", "solution": "81"})]
    kept, dropped = problems.usable_problems(rows, held_out)
    assert [problem["answer"] for problem in kept] == ["42"]
    assert dropped.pop(filter_name) == 1 and not any(dropped.values())


MESSAGES = [{"role": "system", "content": "Be brief."}]
MESSAGES += [{"role": "user", "content": "What is 1+1?"}]
MESSAGES += [{"role": "assistant", "content": "2"}]
MESSAGES += [{"role": "user", "content": " What is 6*7? "}]


def test_of_a_prompt_of_messages_the_last_question_is_asked(written):
    row = {"prompt": MESSAGES, "solution": "42"}
    for rows in (data.load_rows(written([row]), "grpo"), [row]):
        [problem], _ = problems.usable_problems(rows, [])
        assert problem["prompt"][-1]["content"] == "What is 6*7?"
    for none in ([], [{"role": "assistant", "content": "42"}], [{"role": "user"}]):
        kept, dropped = problems.usable_problems([row | {"prompt": none}], [])
        assert not kept and dropped["no question"] == 1


FORMATS = {
    ".jsonl": lambda rows, path: path.write_text("\n".join(map(json.dumps, rows))),
    ".json": lambda rows, path: path.write_text(json.dumps(rows, indent=1)),
    ".csv": lambda rows, path: pd.DataFrame(rows).to_csv(path, index=False),
    ".parquet": lambda rows, path: pd.DataFrame(rows).to_parquet(path),
}


def test_every_format_that_a_profile_allows_is_read():
    assert set(FORMATS) == set(rules.DATA_FILES)


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_rows_are_read_from_each_format(tmp_path, suffix):
    rows = [{"prompt": "How many, in \u00e9?\n1, 2", "solution": 2, "more": None}]
    rows += [{"prompt": 'Say "6*7"', "solution": 42, "more": "x"}]
    FORMATS[suffix](rows, tmp_path / f"rows{suffix}")
    read = data.load_rows(str(tmp_path / f"rows{suffix}"), "grpo").to_list()
    assert [row["prompt"] for row in read] == [row["prompt"] for row in rows]
    assert [row["solution"] for row in read] == ["2", "42"]


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "\xe9"}\n', "line 2 is not in UTF-8"),
        ("a.csv", b"prompt,solution\na,1\n\xe9,2\n", "line 3 is not in UTF-8"),
        ("a.csv", b"prompt,solution\na,1\nb,2,3\n", "line 3 is no CSV"),
        ("a.csv", b'prompt,solution\n"a,1\nb,2\n', "is no CSV"),
        ("a.csv", b"", "no rows"),
        ("a.csv", b"prompt,solution\n", "no rows"),
        ("a.json", b'[{"prompt": "a"},\n {"prompt"}]', "line 2 is no JSON"),
        ("a.json", b'[{"prompt": "a"}, 7]', "row 2 is no JSON object"),
        ("a.json", b'{"prompt": "a"}', "no list"),
        ("a.json", b"[]", "no rows"),
        ("a.parquet", b"PAR1 and nothing", "a.parquet"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_its_place(
    tmp_path, name, content, said
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(data.DataError) as refusal:
        data.load_rows(str(tmp_path / name), "grpo")
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
    assert name in str(refusal.value)


def test_numbers_and_texts_may_stand_in_one_column(written):
    rows = [GOOD | {"prompt": f"{n}?", "solution": n} for n in (7, 7.5, "7", -0.0)]
    read = data.load_rows(written(rows), "grpo")["solution"][:]
    assert read == ["7", "7.5", "7", "-0.0"]


@pytest.mark.parametrize(
    "lines, line",
    [
        (["", '{"prompt": "a"', ""], 2),
        (['{"prompt": "a", "solution": "1"}', "[1]"], 2),
        (["NaN"], 1),
        (["{" * 100_000], 1),
    ],
)
def test_a_line_that_is_no_object_is_named(written, lines, line):
    with pytest.raises(data.DataError, match=f"line {line}\\b"):
        data.load_rows(written(lines), "grpo")


@pytest.mark.parametrize("more", [1, 3000])
def test_a_row_may_have_any_other_columns(written, more):
    row = {"prompt": "What is 6*7?", "solution": "42", "\ud800": "x"}
    row |= {f"column {number}": number for number in range(more)}
    table = data.load_rows(written([row]), "grpo")
    assert table[0]["solution"] == "42" and len(table.column_names) < 30


def test_evaluation_problems_that_are_too_few_are_said_and_none_is_an_error(
    written, capsys
):
    rows = [{"prompt": "What is 6*7?", "solution": "42"}]
    rows += [{"prompt": "Why?", "solution": "words"}]
    profile = replace(PROFILES["cpu"], eval_data=written(rows))
    assert len(problems.held_out_problems(profile)) == 1
    assert "'no number': 1" in capsys.readouterr().out
    profile = replace(profile, eval_data=written(rows[1:]))
    with pytest.raises(data.DataError, match="'no number': 1"):
        problems.held_out_problems(profile)


def test_a_file_in_another_encoding_or_without_rows_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    for content in (b'{"prompt": "\xe9"}', b"\xff\xfe{\x00}\x00", b"", b"\n \n"):
        path.write_bytes(content)
        with pytest.raises(data.DataError, match="rows.jsonl"):
            data.load_rows(str(path), "grpo")
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "a", "solution": "1"}\r\n')  # Windows
    assert data.load_rows(str(path), "grpo").to_list() == [
        {"prompt": "a", "solution": "1"}
    ]


@pytest.mark.parametrize(
    "field, value, filter_name",
    [
        ("expected_answer", None, "missing value"),
        ("expected_answer", "many", "answer is no number"),
        ("generated_solution", "<SOLUTION>42</SOLUTION>", "tags inside"),
        ("generated_solution", "6*7=42. " * 300, "more than 192 tokens"),
    ],
)
def test_the_filter_that_left_nothing_is_named(
    written, tokenizer, field, value, filter_name
):
    row = {"problem": "6*7?", "generated_solution": "42", "expected_answer": "42"}
    rows = data.load_rows(written([row | {field: value}] * 3), "sft")
    with pytest.raises(data.DataError, match=filter_name):
        sft_data.prepare_rows(rows, tokenizer, 192)


@pytest.mark.parametrize("alike", ["why  \u00e9?", "Why e\u0301?", "WHY\n\u00c9?"])
def test_the_same_question_in_other_letters_is_the_same_question(tokenizer, alike):
    held_out = [problems.as_problem({"prompt": "Why \u00e9?", "solution": "1"})]
    rows = [{"prompt": text, "solution": "1"} for text in (alike, "Why \u00e8?")]
    kept, dropped = problems.usable_problems(rows, held_out)
    assert dropped["held out"] == 1 and len(kept) == 1
    rows = [{"problem": r["prompt"], "expected_answer": "1"} for r in rows]
    rows = [row | {"generated_solution": "One."} for row in rows]
    kept, dropped = sft_data.prepare_rows(rows, tokenizer, 300, held_out)
    assert len(dropped["held out"]) == 1 and len(kept) == 1


def test_evaluation_problems_of_ones_own_are_kept_out_of_training(written):
    rows = [{"question": f"{n}+1?", "answer": f"#### {n + 1}"} for n in range(10)]
    source = written(rows)
    profile = replace(PROFILES["cpu"], eval_data=source, eval_problems=4)
    held_out = problems.held_out_problems(profile)
    kept, dropped = problems.usable_problems(data.load_rows(source, "grpo"), held_out)
    assert len(held_out) == 4 and len(kept) == 6 and dropped["held out"] == 4
