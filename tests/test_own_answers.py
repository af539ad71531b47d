"""Notebook 03: a warm-up on the model's own right answers."""

import json

from grpo_course import own_answers
from grpo_course.ground.generate import Completion
from grpo_course.marking import native_answer


def answers(*texts: str, truncated: bool = False) -> list[Completion]:
    return [Completion(text, len(text), truncated) for text in texts]


class Model:
    """Answers each prompt with the prompt and a running number; can be interrupted."""

    def __init__(self, stop_after: int = 10**6) -> None:
        self.asked, self.stop_after = [], stop_after

    def __call__(self, prompts: list[str]) -> list[Completion]:
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += prompts
        return answers(*(f"{prompt} {i}" for i, prompt in enumerate(prompts)))


def sample(path, model: Model) -> list[list[str]]:
    prompts = [f"q{i}" for i in range(7)]
    found = own_answers.sample_answers(prompts, 2, model, path, batch=2)
    return [[completion.text for completion in group] for group in found]


def test_each_prompt_gets_its_own_samples_in_order(tmp_path):
    groups = sample(tmp_path / "some" / "own.jsonl", Model())
    assert [[text.split()[0] for text in group] for group in groups] == [
        [f"q{i}"] * 2 for i in range(7)
    ]


def test_an_interrupted_sampling_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "own.jsonl"
    first = Model(stop_after=8)
    try:
        sample(path, first)
    except KeyboardInterrupt:
        pass
    with path.open("a") as file:  # killed in the middle of a line
        file.write('[{"text": "q4')
    second = Model()
    groups = sample(path, second)
    assert second.asked == [f"q{i}" for i in (4, 5, 6) for _ in range(2)]
    assert [len(group) for group in groups] == [2] * 7
    third = Model()
    assert sample(path, third) == groups and third.asked == []


def test_only_right_and_finished_answers_are_kept():
    assert own_answers.own_solution(answers("It is 41.", "It is 43."), "42") is None
    cut = answers("It is 42.", truncated=True)
    assert own_answers.own_solution(cut, "42") is None
    assert own_answers.own_solution(answers("No idea.", "6*7=42."), "42") == "6*7=42."


def test_of_several_right_ones_the_middling_is_taken():
    texts = ("42", "So it is 42", "So, all things considered, it is 42")
    assert own_answers.own_solution(answers(*texts), "42") == "So it is 42"


def test_the_box_gives_way_to_what_stands_in_it():
    own = own_answers.own_solution(answers(r"Thus \boxed{\frac{1}{2}}."), "1/2")
    assert own == r"Thus \frac{1}{2}."


def test_rows_without_a_right_answer_drop_out():
    rows = [{"problem": str(i), "expected_answer": 42, "other": i} for i in range(2)]
    sampled = [answers("It is 42."), answers("It is 7.")]
    found = own_answers.in_own_words(rows, sampled)
    kept = {"problem": "0", "expected_answer": 42, "other": 0}
    assert found == [kept | {"generated_solution": "It is 42."}]
    assert json.dumps(found)


def test_the_last_box_counts_and_else_the_last_number():
    assert native_answer(r"\boxed{1} or \boxed{1{,}000}, of 5") == "1{,}000"
    assert native_answer("First 7, then 8.") == "8"
    assert native_answer("It is 42.\nQuestion: what is 5+5?") == "42"
    assert native_answer("No idea") is None
