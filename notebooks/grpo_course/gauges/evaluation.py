"""One evaluation for every stage: the same prompts, template and decoding.

The base model, the warmed-up one and the one that GRPO trained answer the same held-out
problems, and one criterion decides (`marking.answers_equal` on the answer inside the
solution tags), so that the stages can be compared problem by problem.
"""

from dataclasses import dataclass

from ..ground.generate import Completion, generate, merged
from ..ground.statistics import wilson_interval
from ..ground.styles import solution_style
from ..marking import answers_equal
from ..template import extract_solution


@dataclass(frozen=True)
class Evaluation:
    """The completions for n problems and what they amount to.

    `correct` and `formatted` have one bool a problem, in the problems' order.
    """

    completions: list[Completion]
    correct: list[bool]
    formatted: list[bool]

    def summary(self) -> dict:
        """n, accuracy with its 95 % interval, format rate, mean tokens, truncated."""
        n, right = len(self.correct), sum(self.correct)
        low, high = wilson_interval(right, n)
        tokens = [completion.tokens for completion in self.completions]
        return {
            "n": n,
            "accuracy": right / n,
            "ci_low": low,
            "ci_high": high,
            "format_rate": sum(self.formatted) / n,
            "mean_completion_tokens": sum(tokens) / n,
            "truncated_rate": sum(c.truncated for c in self.completions) / n,
        }


def evaluate(model, tokenizer, problems, profile, **how) -> Evaluation:
    """Let the model answer problems and mark its answers; **how: as for `complete`.

    `problems`: rows with "prompt" (messages: system and user) and "answer" (str).
    """
    form = {"tokenize": False, "add_generation_prompt": True}
    prompts = [tokenizer.apply_chat_template(p["prompt"], **form) for p in problems]
    completions = complete(model, tokenizer, prompts, profile, **how)
    return mark(completions, [row["answer"] for row in problems])


def complete(
    model,
    tokenizer,
    prompts: list[str],
    profile,
    *,
    sampled: bool = False,
    adapter: str | None = None,
) -> list[Completion]:
    """Complete rendered prompts as each stage is measured.

    Greedy, or with `sampled=True` at the temperature and min_p of GRPO's rollouts.
    """
    with merged(model):
        return generate(
            model,
            tokenizer,
            prompts,
            max_new_tokens=profile.max_completion_length,
            temperature=profile.temperature if sampled else 0.0,
            min_p=profile.min_p if sampled else 0.0,
            batch_size=profile.eval_batch_size,
            seed=profile.seed,
            adapter=adapter,
        )


def mark(
    completions: list[Completion], answers: list[str], answer_of=extract_solution
) -> Evaluation:
    """Set completions against the true answers, one for one.

    answer_of: finds the answer in a text; None where there is none.
    """
    solutions = [answer_of(completion.text) for completion in completions]
    return Evaluation(
        completions,
        correct=[
            solution is not None and answers_equal(solution, answer)
            for solution, answer in zip(solutions, answers, strict=True)
        ],
        formatted=[solution is not None for solution in solutions],
    )


def conditions(profile) -> dict:
    """The settings that an evaluation depends on: equal ones can be compared."""
    names = ["eval_data", "eval_problems", "max_completion_length"]
    names += ["temperature", "min_p", "own_reward"]  # which lets any text be an answer
    return {name: getattr(profile, name) for name in names}


def report(model, tokenizer, problems, profile, *, adapter: str | None = None) -> dict:
    """What a stage's manifest keeps of its evaluation, greedy and sampled.

    Keys: `evaluation` (the two summaries), and of the greedy one `correct` (0 or 1 a
    problem), `style_of` (the style of each completion) and some `samples`.
    """
    asked = (model, tokenizer, problems, profile)
    greedy = evaluate(*asked, adapter=adapter)
    results = {"greedy": greedy}
    results["sampled"] = evaluate(*asked, sampled=True, adapter=adapter)
    texts = [completion.text for completion in greedy.completions]
    return {
        "evaluation": {kind: result.summary() for kind, result in results.items()},
        "correct": [int(right) for right in greedy.correct],
        "style_of": [solution_style(text) for text in texts],
        "samples": [
            {"problem": p["prompt"][-1]["content"], "answer": p["answer"], "text": text}
            for p, text in zip(problems[:6], texts, strict=False)
        ],
    }
