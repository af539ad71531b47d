"""Prompts and filters of the GRPO data, on rows as bad as they come."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_course import marking, problems
from grpo_course.ground.numerals import parse_number
from grpo_course.ground.profile import PROFILES
from grpo_course.template import SYSTEM_PROMPT

FEW = settings(deadline=None, derandomize=True, database=None)
TEXTS = st.none() | st.text(max_size=12) | st.sampled_from([" a  b", "a b", "a\nb\n"])
ANSWERS = TEXTS | st.integers(1, 99).map(str) | st.sampled_from(["x #### 7", "####"])
ROWS = st.lists(st.fixed_dictionaries({"prompt": TEXTS, "solution": ANSWERS}))


def row(prompt, solution="42"):
    return {"prompt": prompt, "solution": solution}


def question_of(problem):
    return problem["prompt"][-1]["content"]


# --- Single rows ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "solution, answer",
    [
        ("5 + 7 = 12\n#### 12", "12"),
        ("12", "12"),
        (" 12\n", "12"),
        (12, "12"),
        ("step 1 #### 5\nstep 2 #### 12 ", "12"),
        ("####12", "12"),
        ("12 ####", ""),
        ("####", ""),
        ("#####7", "7"),
        ("", ""),
        (None, ""),
        (0, "0"),
    ],
)
def test_answer_is_what_follows_the_last_hashes(solution, answer):
    assert marking.extract_hash_answer(solution) == answer


@FEW
@given(working=st.text(), answer=st.integers())
def test_answer_is_found_after_any_working(working, answer):
    assert marking.extract_hash_answer(f"{working}\n#### {answer}") == str(answer)


def test_problem_is_system_and_user_message_and_answer():
    problem = problems.as_problem(row(" What is 6*7?\n", "6*7=42 #### 42"))
    system, user = problem["prompt"]
    assert system == {"role": "system", "content": SYSTEM_PROMPT}
    assert user == {"role": "user", "content": "What is 6*7?"}
    assert problem["answer"] == "42"


# --- Filters --------------------------------------------------------------------------


def test_every_filter_counts_its_rows():
    held_out = [problems.as_problem(row("What is\n6*7?"))]
    rows = [
        row("1+1?", "2"),
        row(None),
        row(" \n\t"),
        row("2+2?", None),
        row("2+2?", "four"),
        row("2+2?", "nan"),
        row("2+2?", "1/0"),
        row("2+2?", "9" * 10_000),
        row("  What is 6*7? "),  # other white space, the same question
        row("What is 6*7?"),
        row("1+1? ", "2"),
        row("2+2?", "4"),  # its bad copies above were dropped: it is no duplicate
    ]
    kept, dropped = problems.usable_problems(rows, held_out)
    assert [question_of(problem) for problem in kept] == ["1+1?", "2+2?"]
    assert [problem["answer"] for problem in kept] == ["2", "4"]
    assert dropped == {
        "no question": 2,
        "no number": 5,
        "held out": 2,
        "duplicate": 1,
    }


@FEW
@given(rows=ROWS, held_out=ROWS)
def test_what_is_kept_is_usable_and_nothing_is_lost(rows, held_out):
    held_out = [problems.as_problem(row) for row in held_out]
    kept, dropped = problems.usable_problems(rows, held_out)
    assert len(kept) + sum(dropped.values()) == len(rows)
    questions = [" ".join(question_of(problem).split()) for problem in kept]
    assert all(questions)
    assert len(set(questions)) == len(questions)
    evaluated = {" ".join(question_of(problem).split()) for problem in held_out}
    assert not evaluated & set(questions)
    assert all(parse_number(problem["answer"]) is not None for problem in kept)
    places = [
        next(i for i, row in enumerate(rows) if problems.as_problem(row) == problem)
        for problem in kept
    ]
    assert places == sorted(places)


@FEW
@given(rows=ROWS)
def test_filtering_twice_is_filtering_once(rows):
    kept, _ = problems.usable_problems(rows, [])
    again = [row(question_of(problem), problem["answer"]) for problem in kept]
    assert problems.usable_problems(again, [])[0] == kept


@pytest.mark.parametrize("question", ["a" * 10**6, "</SOLUTION>", "\ud800", "٣+٤?"])
def test_strange_question_is_still_a_question(question):
    kept, _ = problems.usable_problems([row(question)], [])
    assert [question_of(problem) for problem in kept] == [question]


def test_no_rows_no_problems():
    kept, dropped = problems.usable_problems([], [])
    assert kept == []
    assert set(dropped.values()) == {0}


# --- Held-out problems ----------------------------------------------------------------


def test_held_out_problems_are_the_first_of_the_test_set():
    profile = replace(PROFILES["cpu"], eval_problems=5)
    few = problems.held_out_problems(profile)
    assert len(few) == 5
    more_than_there_are = replace(profile, eval_problems=10**6, seed=1)
    everything = problems.held_out_problems(more_than_there_are)
    assert 5 < len(everything) < 10**6
    assert everything[:5] == few


def test_with_rewards_of_ones_own_any_text_is_an_answer():
    rows = [row("Sort b a.") | {"solution": "a b"}, row("Sort.") | {"solution": " "}]
    rows += [row("How many?") | {"solution": "7"}]
    kept, dropped = problems.usable_problems(rows, [], any_text=True)
    assert [problem["answer"] for problem in kept] == ["a b", "7"]
    assert dropped["no number"] == 1
    assert len(problems.usable_problems(rows, [])[0]) == 1
