"""The embedded model, the generator of its problems, and the rows made from them."""

import json
import operator
import random
import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_course.ground import data, styles
from grpo_course.ground.generate import generate
from grpo_course.ground.paths import REPO
from grpo_course.sft_data import is_numeric_answer
from tools.tiny import arithmetic, rows

FOLDER = REPO / "models" / "tiny-qwen3"
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul}
EQUATION = re.compile(r"(\d+)([-+*])(\d+)=(\d+)")
ASSIGNED = st.characters(exclude_categories=("Cs", "Cn"))
FEW = settings(deadline=None, derandomize=True, database=None, max_examples=60)
SEEDS = st.integers(0, 2**32)


def problems_of(split, seed, count=12):
    return arithmetic.make_problems(count, split, seed)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model():
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)


# --- The files ------------------------------------------------------------------------


def test_model_is_a_small_qwen3(model):
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.config.head_dim == 64
    assert 4e6 < model.num_parameters() < 16e6


def test_weights_are_bfloat16_safetensors_and_small():
    from safetensors import safe_open

    names = {path.name for path in FOLDER.iterdir()}
    weights = {name for name in names if not name.endswith((".json", ".md"))}
    assert weights == {"model.safetensors"}
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 32 * 2**20
    with safe_open(FOLDER / "model.safetensors", "pt") as file:
        kinds = {file.get_slice(name).get_dtype() for name in file.keys()}
    assert kinds == {"BF16"}


def test_card_quotes_what_was_measured(model):
    card = (FOLDER / "README.md").read_text().replace(",", "")
    facts = json.loads((FOLDER / "training.json").read_text())
    assert facts["parameters"] == model.num_parameters()
    sampled, styles = facts.pop("sampled"), facts.pop("greedy_styles")
    figures = [*facts.values(), *styles.values()]
    figures += [value for row in sampled.values() for value in row.values()]
    assert [figure for figure in figures if str(figure) not in card] == []


# --- The tokenizer --------------------------------------------------------------------


@FEW
@given(text=st.text(ASSIGNED) | st.text("0123456789 .,<>|/imend_ks\n\t'"))
def test_any_text_comes_back(tokenizer, text):
    """As with Qwen's tokenizer: in Unicode's composed form (NFC)."""
    ids = tokenizer(text).input_ids
    assert max(ids, default=0) < len(tokenizer)
    assert tokenizer.decode(ids) == unicodedata.normalize("NFC", text)


@FEW
@given(digits=st.text("0123456789", min_size=1))
def test_every_digit_is_a_token(tokenizer, digits):
    assert len(tokenizer(digits).input_ids) == len(digits)


def test_special_tokens_are_those_of_qwen(tokenizer, model):
    assert [len(tokenizer(text).input_ids) for text in SPECIAL] == [1] * len(SPECIAL)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert tokenizer.bos_token is None
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert sorted(model.generation_config.eos_token_id) == sorted(ends)


def test_every_token_has_a_row_in_the_embedding(tokenizer, model):
    assert model.get_input_embeddings().num_embeddings >= len(tokenizer)


# --- What the model can do ------------------------------------------------------------


def test_model_solves_most_problems_in_its_own_form(model, tokenizer):
    problems = arithmetic.make_problems(40, "test", 0)
    completions = generate(
        model,
        tokenizer,
        [f"Question: {problem.question}\nAnswer:" for problem in problems],
        max_new_tokens=96,
    )
    right = [
        re.findall(r"The answer is (\d+)\.", completion.text)[-1:]
        == [str(problem.answer)]
        for problem, completion in zip(problems, completions, strict=True)
    ]
    assert sum(right) / len(right) > 0.7


# --- The generator --------------------------------------------------------------------


@FEW
@given(seed=SEEDS)
def test_splits_never_share_a_calculation_or_a_question(seed):
    found = [problems_of(split, seed) for split in arithmetic.SPLITS]
    for value in ("expression", "question"):
        sets = [{getattr(p, value) for p in problems} for problems in found]
        assert sum(map(len, sets)) == len(set().union(*sets))


@FEW
@given(seed=SEEDS, split=st.sampled_from(arithmetic.SPLITS))
def test_problem_is_what_its_question_says(seed, split):
    for problem in problems_of(split, seed):
        assert arithmetic.split_of(problem.expression) == split
        numbers = re.findall(r"\d+", problem.question)
        assert numbers == re.findall(r"\d+", problem.expression)
        assert eval(problem.expression) == problem.answer
        for left, sign, right, result in problem.steps:
            assert OPERATORS[sign](left, right) == result
            assert 1 <= result <= arithmetic.LARGEST
        assert 0 <= problem.difficulty <= len(problem.steps)


@FEW
@given(seed=SEEDS, style=st.sampled_from(styles.STYLES))
def test_working_is_right_and_ends_in_the_answer(seed, style):
    for problem in problems_of("sft", seed):
        text = arithmetic.working(problem, style)
        assert re.findall(r"\d+", text)[-1] == str(problem.answer)
        if style in ("steps", "detail"):
            for left, sign, right, result in EQUATION.findall(text):
                assert OPERATORS[sign](int(left), int(right)) == int(result)


@FEW
@given(seed=SEEDS, style=st.sampled_from(styles.STYLES))
def test_style_of_a_working_is_recognised(seed, style):
    for problem in problems_of("grpo", seed):
        found = styles.solution_style(arithmetic.working(problem, style))
        # Where no operation is hard, "detail" has nothing to add to "steps".
        plain = style == "detail" and problem.difficulty == 0
        assert found == ("steps" if plain else style)


@FEW
@given(text=st.text() | st.text("0123456789+-*=:.() "))
def test_every_text_has_one_style(text):
    assert styles.solution_style(text) in styles.STYLES


def test_same_seed_gives_the_same_problems_in_any_number():
    many = problems_of("grpo", 1, count=30)
    assert problems_of("grpo", 1, count=10) == many[:10]
    assert problems_of("grpo", 2, count=30) != many
    assert len({problem.question for problem in many}) == 30


def test_unknown_split_and_style_are_refused():
    problem = arithmetic.make_problem(random.Random(0), "sft")
    with pytest.raises(ValueError, match="'validation'"):
        arithmetic.make_problem(random.Random(0), "validation")
    with pytest.raises(ValueError, match="'prose'"):
        arithmetic.working(problem, "prose")


# --- Rows -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Where `datasets` keeps its copy of a file that it read."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def written(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_rows_that_come_with_the_course_are_what_the_generator_writes(tmp_path):
    rows.write_rows(tmp_path, rows.SEED)
    for name in ("sft", "grpo", "test"):
        shipped = (data.SHIPPED / f"{name}.jsonl").read_bytes()
        assert (tmp_path / f"{name}.jsonl").read_bytes() == shipped


@pytest.mark.parametrize(
    "name, layout", [("sft", "sft"), ("grpo", "grpo"), ("test", "grpo")]
)
def test_generated_rows_have_the_columns_and_depend_on_the_seed(name, layout):
    shipped = data.load_rows(f"embedded:{name}", layout).to_list()
    assert set(data.COLUMNS[layout]) <= set(shipped[0])
    assert shipped == rows.rows_of(rows.SEED)[name]
    assert (shipped == rows.rows_of(2)[name]) == (name == "test")


def test_embedded_sets_share_no_question():
    sft = set(data.load_rows("embedded:sft", "sft")["problem"])
    grpo = set(data.load_rows("embedded:grpo", "grpo")["prompt"])
    test = set(data.load_rows("embedded:test", "grpo")["prompt"])
    assert len(sft | grpo | test) == len(sft) + len(grpo) + len(test)


def test_embedded_warm_up_has_a_few_useless_rows(tokenizer):
    warm_up = data.load_rows("embedded:sft", "sft")
    words = [not is_numeric_answer(answer) for answer in warm_up["expected_answer"]]
    solutions = warm_up["generated_solution"][:]
    lengths = [len(ids) for ids in tokenizer(solutions).input_ids]
    too_long = [length > 384 // 2 for length in lengths]  # half of max_seq_length
    for useless in (words, too_long):
        assert 0 < sum(useless) < len(warm_up) / 10


@pytest.mark.parametrize("source", ["embedded:validation", "embedded:", "./none.jsonl"])
def test_source_that_does_not_exist_is_refused(source):
    with pytest.raises(data.DataError):
        data.load_rows(source, "grpo")


GSM8K_ROW = {
    "question": "Ana has 2 boxes of 8 pens and gets 26. How many now?",
    "answer": "In boxes: 2*8=<<2*8=16>>16.\n16+26=<<16+26=42>>42\n#### 42",
}


def test_gsm8k_rows_become_warm_up_rows(tmp_path):
    source = written(tmp_path, [GSM8K_ROW, {"question": "?", "answer": None}])
    row, empty = data.load_rows(source, "sft")
    assert row == {
        "problem": GSM8K_ROW["question"],
        "generated_solution": "In boxes: 2*8=16.\n16+26=42",
        "expected_answer": "42",
    }
    assert empty["expected_answer"] == empty["generated_solution"] == ""


def test_gsm8k_rows_become_prompts(tmp_path):
    [row] = data.load_rows(written(tmp_path, [GSM8K_ROW]), "grpo")
    assert row == {"prompt": GSM8K_ROW["question"], "solution": GSM8K_ROW["answer"]}


@pytest.mark.parametrize("layout", data.COLUMNS)
def test_file_with_the_columns_is_read_as_it_is(tmp_path, layout):
    rows = [dict.fromkeys((*data.COLUMNS[layout], "more"), "1")]
    assert data.load_rows(written(tmp_path, rows), layout).to_list() == rows


@pytest.mark.parametrize("layout", data.COLUMNS)
def test_other_columns_are_refused_by_name(tmp_path, layout):
    source = written(tmp_path, [{"question": "1+1?", "reply": "2"}])
    with pytest.raises(data.DataError, match="reply"):
        data.load_rows(source, layout)


@pytest.mark.parametrize("name, layout", [("grpo", "sft"), ("sft", "grpo")])
def test_embedded_set_of_the_other_layout_is_refused(name, layout):
    with pytest.raises(data.DataError, match="columns"):
        data.load_rows(f"embedded:{name}", layout)


@pytest.mark.parametrize("content", ["", "not json\n", '["a list"]\n'])
def test_file_that_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / "broken.jsonl"
    path.write_text(content)
    with pytest.raises(data.DataError):
        data.load_rows(str(path), "sft")
