"""COURSE_REWARD=./file.py:function: tried before all else, kept with its digest."""

import hashlib

import pytest

from grpo_course.ground import own_rewards
from grpo_course.ground import profile as profiles
from grpo_course.ground.hardware import Hardware

GOOD = """
def brief(completions, completion_ids, **kwargs):
    return [-len(ids) / 100 for ids in completion_ids]

def right(prompts, completions, answer, **kwargs):
    texts = [completion[-1]["content"] for completion in completions]
    return [1.0 if a in t else None for t, a in zip(texts, answer)]
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """load_profile with a reward file of this content and these names in it."""
    monkeypatch.setattr(profiles, "detect_hardware", Hardware)

    def load(content: str | None, names="brief", file="mine.py"):
        if content is not None:
            (tmp_path / file).write_text(content)
        return profiles.load_profile({"COURSE_REWARD": f"{tmp_path / file}:{names}"})

    return load


def test_the_functions_are_those_of_the_file(load, tmp_path):
    profile = load(GOOD, "brief,right")
    digest = hashlib.sha256(GOOD.encode()).hexdigest()[:12]
    assert profile.reward == f"{tmp_path / 'mine.py'}:brief,right@{digest}"
    _, used = own_rewards.tried(profile.reward)
    assert [function.__name__ for function in used] == ["brief", "right"]
    call = own_rewards.PROBE | {"completion_ids": [[1], [], [1] * 50]}
    assert used[0](**call) == [-0.01, 0.0, -0.5] and used[1](**call)[0] == 1.0


def test_the_file_as_it_was_decides_the_stage_grpo(load):
    first, second = load(GOOD), load(GOOD + "\n# another\n")
    for stage in ("base", "template", "sft"):
        assert first.settings_for(stage) == second.settings_for(stage)
    assert first.settings_for("grpo") != second.settings_for("grpo")
    with pytest.raises(ValueError, match="has changed"):
        own_rewards.tried(first.reward)
    assert own_rewards.tried(second.reward)


def test_with_a_reward_of_ones_own_an_answer_may_be_any_text(load):
    assert load(GOOD).own_reward and not profiles.PROFILES["cpu"].own_reward


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "FileNotFoundError"),
        ("def other(completions, **kwargs): ...", "no function of that name"),
        ("brief = 7", "no function of that name"),
        ("def brief(completions) -> list", "SyntaxError"),
        ("import no_such_module", "no_such_module"),
        ("raise SystemExit(3)", "SystemExit"),
        (
            "def brief(text, **kwargs): return [0.0] * 3",
            "missing .* 'text'",
        ),
        ("def brief(completions): return [0.0] * 3", "unexpected .* and \\*\\*kwargs"),
        ("def brief(**kwargs): return 1 / 0", "ZeroDivisionError"),
        ("def brief(**kwargs): raise RuntimeError('a\\nb')", "RuntimeError"),
        ("def brief(**kwargs): return [0.0, float('nan'), 1.0]", "nan"),
        ("def brief(**kwargs): return [0.0, float('inf'), 1.0]", "inf"),
        ("def brief(**kwargs): return [0.0, 1.0]", "for 3 completions"),
        ("def brief(**kwargs): return ['a', 'b', 'c']", "TypeError"),
        ("def brief(**kwargs): return 1.0", "TypeError"),
        ("def brief(**kwargs): return None", "TypeError"),
        ("async def brief(**kwargs): return [0.0] * 3", "TypeError"),
        (
            "def brief(completions, **kwargs): return [c[1] for c in completions]",
            "Index",
        ),
    ],
)
def test_each_kind_of_mistake_is_one_sentence(load, content, said):
    with pytest.raises(profiles.ProfileError, match=said) as refusal:
        load(content)
    message = str(refusal.value)
    assert "mine.py" in message and "COURSE_REWARD" in message
    assert "\n" not in message and message.endswith(".")


@pytest.mark.parametrize(
    "reward",
    ["mine.py:brief", "./mine.py", "./mine.py:", "./mine.txt:brief", "./a.py:b c"],
)
def test_what_names_no_function_of_a_local_file_is_refused(reward):
    with pytest.raises(profiles.ProfileError, match="./file.py:function"):
        profiles.load_profile({"COURSE_REWARD": reward, "COURSE_PROFILE": "cpu"})
