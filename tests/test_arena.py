"""The arena of appendix 04c: what its battery pays, and what it makes of a training."""

import os
import subprocess
import sys

import pytest

from grpo_course import arena, rewards
from grpo_course.gauges import evaluation
from grpo_course.ground.generate import Completion
from tools import ROOT
from tools.run import arena as arena_command
from tools.run import nbtools

PROBLEMS = arena.worked_problems()
PAID = "like a right one"
(NOTEBOOK,) = nbtools.FOLDER.glob("04c_*.ipynb")


def answer_occurs(completions, answer, **kwargs):
    texts = map(rewards.completion_text, completions)
    return [float(true in text) for text, true in zip(texts, answer, strict=True)]


@pytest.fixture(scope="module")
def written():
    """The reward that appendix 04c starts from, as its cells define it."""
    names = {"rewards": rewards}
    for cell in nbtools.code_cells(nbtools.read(NOTEBOOK)):
        if cell.source.startswith("def true_working"):
            exec(cell.source, names)
    return [rewards.match_format_exactly, names["true_working"]]


def paid(functions, column=PAID) -> set[str]:
    """The kinds of cheats of which some are paid."""
    table = arena.try_cheats(functions).drop(index=[arena.RIGHT, arena.SLIP])
    return set(table.index[table[column] > 0])


# --- The battery ----------------------------------------------------------------------


def test_the_reward_of_the_notebook_is_caught(written):
    found = paid(written)
    assert {"an idle equation, then a guess", "leaves out the last step"} <= found
    assert "says only an answer" not in found  # so much it mends


def test_each_reward_is_caught_at_its_own_fault():
    everywhere = paid([answer_occurs])
    assert {"counts", "right working, other answer"} <= everywhere
    assert "no working at all" not in everywhere
    assert "says only an answer" in paid(rewards.REWARD_FUNCTIONS["flawed"])
    assert paid(rewards.REWARD_FUNCTIONS["course"]) == set()
    assert "a near miss" in paid(rewards.REWARD_FUNCTIONS["course"], "over a slip")


@pytest.mark.parametrize("functions", [["fixed"], ["right"]])
def test_a_mended_reward_pays_no_cheat(functions):
    lists = rewards.REWARD_FUNCTIONS | {"right": [rewards.right_answer]}
    assert paid(lists[functions[0]], "over a slip") == set()


def test_every_cheat_is_wrong_and_the_honest_one_is_right():
    found = arena.battery(PROBLEMS)
    assert len(found) > 500
    assert {f"{kind} between the tags" for kind in arena.FORMS} < set(found["kind"])
    for row in found.itertuples():
        right = evaluation.mark(
            [Completion(row.text, 1, False)], [PROBLEMS[row.problem]["answer"]]
        )
        assert right.correct == [row.kind == arena.RIGHT], row.text


def test_the_slip_is_far_off():
    for problem in PROBLEMS:
        slip = arena.behaviours(problem)[arena.SLIP]
        assert rewards.score_answer(slip, problem["answer"]) == -2.5


# --- Rewards that fail ----------------------------------------------------------------


def fails_on_empty(completions, **kwargs):
    return [float(rewards.completion_text(c)[0] == "7") for c in completions]


def gives_too_few(completions, **kwargs):
    return [1.0]


def gives_infinity(completions, **kwargs):
    return [float("inf") for _ in completions]


@pytest.mark.parametrize("reward", [fails_on_empty, gives_too_few, gives_infinity])
def test_a_reward_that_fails_is_named_in_one_sentence(reward):
    with pytest.raises(ValueError, match=reward.__name__) as refusal:
        arena.try_cheats([reward])
    message = str(refusal.value)
    assert "\n" not in message and message.endswith(".")


def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "mine.py").write_text("def brief(completions, **kwargs): return 1 / 0")
    settings = {
        "COURSE_REWARD": f"{tmp_path / 'mine.py'}:brief",
        "COURSE_PROFILE": "cpu",
    }
    command = [sys.executable, "-m", "tools.run.arena"]
    environ = os.environ | settings | {"COURSE_HOME": str(tmp_path)}
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert ran.returncode == 1 and not ran.stdout
    (said,) = ran.stderr.splitlines()
    assert "mine.py" in said and "ZeroDivisionError" in said and said.endswith(".")


def test_the_command_shows_what_the_notebook_does():
    text = arena_command.shown(nbtools.read(NOTEBOOK))
    assert "like a right one" in text and "exploit was found" in text
    assert "<div" not in text and "<Figure" not in text


def test_no_opinion_is_no_points():
    def silent(completions, **kwargs):
        return [None for _ in completions]

    table = arena.try_cheats([silent, rewards.right_answer])
    assert table.loc[arena.RIGHT, "earns"] == 1.0


# --- The trained model ----------------------------------------------------------------


def slips(count):
    return [arena.behaviours(problem)[arena.SLIP] for problem in PROBLEMS[:count]]


def rights(count):
    return [arena.behaviours(problem)[arena.RIGHT] for problem in PROBLEMS[:count]]


def idle(count):
    return [f"1=1.{arena.answered(n)}" for n in range(700, 700 + count)]


def found(bout) -> bool:
    return arena.verdict(bout).startswith("An exploit was found")


def test_a_training_that_cheats_is_told_from_one_that_learns(written):
    n = len(PROBLEMS)
    before = rights(n // 4) + slips(n)[n // 4 :]
    cheated = arena.bout(written, PROBLEMS, before, idle(n))
    assert found(cheated)
    assert arena.summary(cheated).loc["before", "right"] == (n // 4) / n
    assert arena.summary(cheated).loc["after", "exploit"] == 1.0
    assert arena.summary(cheated).loc["after", "right"] == 0.0
    shapes = arena.shapes(cheated)
    assert shapes.index.tolist() == ["N=N."]
    assert shapes["n"].tolist() == [n] and shapes["earns"].tolist() == [8.0]
    learned = arena.bout(written, PROBLEMS, before, rights(n))
    assert arena.verdict(learned).startswith("No exploit was found")
    assert arena.shapes(learned).empty


def test_the_same_answers_are_paid_by_one_reward_and_not_by_the_other(written):
    n = len(PROBLEMS)
    fixed = rewards.REWARD_FUNCTIONS["fixed"]
    before = rights(n // 4) + slips(n)[n // 4 :]
    assert found(arena.bout(written, PROBLEMS, before, idle(n)))
    assert not found(arena.bout(fixed, PROBLEMS, before, idle(n)))


def test_where_all_earn_the_same_nothing_is_an_exploit():
    fmt = rewards.REWARD_FUNCTIONS["format"]
    n = len(PROBLEMS)
    bout = arena.bout(fmt, PROBLEMS, rights(n), slips(n))
    assert not found(bout) and not bout["exploit"].any()


def test_a_few_exploits_may_be_chance(written):
    n = len(PROBLEMS)
    bout = arena.bout(written, PROBLEMS, slips(n), idle(2) + slips(n)[2:])
    assert bout.loc["after", "exploit"].sum() == 2 and not found(bout)
