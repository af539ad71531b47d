"""The course's rewards as verl calls them: one completion at a time."""

import sys
from pathlib import Path

COURSE = Path(__file__).parents[2]  # verl reads this file alone
sys.path.append(str(COURSE / "notebooks"))

from grpo_course import rewards  # noqa: E402


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    """`score`, which GRPO gets, and its parts, which verl logs.

    data_source names the reward: one of rewards.REWARD_FUNCTIONS.
    """
    asked = {"prompts": [None], "completions": [solution_str], "answer": [ground_truth]}
    functions = rewards.REWARD_FUNCTIONS[data_source]
    parts = {function.__name__: function(**asked)[0] for function in functions}
    right = rewards.right_answer(**asked)[0]
    return {"score": sum(parts.values()), "right": right} | parts
