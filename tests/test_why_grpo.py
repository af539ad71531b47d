"""Notebooks 00 and 00b: our arithmetic against TRL's and Unsloth's own, and itself.

Both are called in a process of their own: TRL must not be imported before Unsloth in a
process that trains, and other tests train.
"""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_course import grpo_by_hand as by_hand
from grpo_course import grpo_dialects as dialects

NOTEBOOKS = Path(by_hand.__file__).parents[1]
LOSS_TYPES = ("grpo", "bnpo", "dapo", "dr_grpo", "cispo", "sapo")

ASK = """
import sys, torch, unsloth
from grpo_course.grpo_dialects import trl_advantages, trl_loss, unsloth_loss

questions = torch.load(sys.argv[1])
judges = {"trl": trl_loss, "unsloth": unsloth_loss}
answers = {name: [] for name in [*judges, "advantages"]}
for batch, loss_type, options in questions["loss"]:
    batch[0].requires_grad_()
    for name, judge in judges.items():
        loss = judge(*batch, loss_type, **options)
        gradient = torch.autograd.grad(loss, batch[0])[0]
        answers[name].append((loss.detach(), gradient))
for arguments in questions["advantages"]:
    answers["advantages"].append(trl_advantages(*arguments))
torch.save(answers, sys.argv[2])
"""


def random_batch(seed: int, size: int = 6, length: int = 9):
    """Policy, old and reference log-probs, advantages, mask; in double precision."""
    generator = torch.Generator().manual_seed(seed)
    policy, old, reference = -2 * torch.rand(
        3, size, length, generator=generator, dtype=torch.float64
    )
    advantages = torch.randn(size, generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, length + 1, (size, 1), generator=generator)
    mask = (torch.arange(length) < lengths).double()
    return (policy, old, advantages, mask), reference


def loss_questions() -> list:
    """Each loss type off-policy, with and without KL, clip-higher and GSPO's ratio."""
    questions = []
    for seed, (name, level) in enumerate(
        itertools.product(LOSS_TYPES, ("token", "sequence"))
    ):
        for beta, high in ((0.0, None), (0.1, 0.28), (0.04, 5.0)):
            batch, reference = random_batch(seed)
            options = {"beta": beta, "epsilon_high": high, "level": level}
            options |= {"ref_logps": reference, "max_length": 12, "num_items": 70}
            questions.append((batch, name, options))
    empty, reference = random_batch(99)
    empty[3][2] = 0  # a completion with no token at all, as when it is masked out
    questions += [(empty, name, {"max_length": 9}) for name in LOSS_TYPES]
    return questions


def advantage_questions() -> list:
    """Random rewards, with a group in which all did equally well, at each scale."""
    generator = torch.Generator().manual_seed(0)
    questions = []
    for scale, size in itertools.product(("group", "batch", "none"), (2, 4, 8)):
        rewards = 5 * torch.rand(3 * size, generator=generator)
        rewards[:size] = 2.0
        questions.append((rewards, size, scale))
    return questions


@pytest.fixture(scope="module")
def their_answers(tmp_path_factory):
    """What TRL's and Unsloth's own code makes of all questions, in order."""
    folder = tmp_path_factory.mktemp("judges")
    asked, answered = folder / "questions.pt", folder / "answers.pt"
    torch.save({"loss": loss_questions(), "advantages": advantage_questions()}, asked)
    command = [sys.executable, "-c", ASK, asked, answered]
    run = subprocess.run(command, cwd=NOTEBOOKS, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return torch.load(answered)


@pytest.mark.parametrize("number", range(len(loss_questions())))
@pytest.mark.parametrize("judge", ["trl", "unsloth"])
def test_loss_and_gradient_are_theirs(their_answers, judge, number):
    batch, name, options = loss_questions()[number]
    batch[0].requires_grad_()
    loss = by_hand.grpo_loss(*batch, name, **options)
    gradient = torch.autograd.grad(loss, batch[0])[0]
    their_loss, their_gradient = their_answers[judge][number]
    torch.testing.assert_close(loss.detach(), their_loss)
    torch.testing.assert_close(gradient, their_gradient)


def test_questions_reach_the_clipped_and_the_free_parts():
    """A comparison of losses proves little if no token is clipped."""
    (policy, old, advantages, mask), _ = random_batch(0)
    ratio = by_hand.policy_ratio(policy, old, mask)
    rising = (ratio > 1.28) & (advantages > 0).unsqueeze(1) & mask.bool()
    falling = (ratio < 0.8) & (advantages < 0).unsqueeze(1) & mask.bool()
    assert rising.any() and falling.any() and not (rising | falling).all()


@pytest.mark.parametrize("number", range(len(advantage_questions())))
def test_advantages_are_trls(their_answers, number):
    ours = by_hand.group_advantages(*advantage_questions()[number])
    torch.testing.assert_close(ours, their_answers["advantages"][number])


def test_micro_batches_of_dapo_add_up_to_the_whole_batch():
    batch, _ = random_batch(3)
    whole = by_hand.grpo_loss(*batch, "dapo")
    tokens = batch[3].sum()
    parts = [[x[:2] for x in batch], [x[2:] for x in batch]]
    dapo = sum(by_hand.grpo_loss(*part, "dapo", num_items=tokens) for part in parts)
    bnpo = sum(by_hand.grpo_loss(*part, "bnpo") for part in parts) / 2
    torch.testing.assert_close(dapo, whole)
    assert not torch.isclose(bnpo, whole)


@pytest.mark.parametrize("name", ("grpo", "bnpo", "dapo", "dr_grpo"))
def test_on_policy_the_clip_range_changes_nothing(name):
    gradients = []
    for epsilon in (0.01, 0.2, 1e6):
        (policy, _, advantages, mask), _ = random_batch(5)
        policy.requires_grad_()
        batch = (policy, policy.detach(), advantages, mask)
        loss = by_hand.grpo_loss(*batch, name, epsilon=epsilon, max_length=9)
        gradients.append(torch.autograd.grad(loss, policy)[0])
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[1], gradients[2])
    assert gradients[0].abs().max() > 0


def test_a_worked_example():
    """The group 1, 1, 0, 1: mean 0.75 and deviation 0.5, done in the head."""
    advantages = by_hand.group_advantages(torch.tensor([1.0, 1, 0, 1]), 4)
    expected = torch.tensor([0.5, 0.5, -1.5, 0.5])
    torch.testing.assert_close(advantages, expected, atol=5e-4, rtol=0)


@given(
    st.lists(st.sampled_from([-4.5, -1.0, 0.0, 0.5, 2.0, 5.0]), min_size=8, max_size=8),
    st.sampled_from(["group", "batch", "none"]),
)
@settings(deadline=None)
def test_advantages_of_a_group_sum_to_zero_and_keep_the_order(rewards, scale):
    rewards = torch.tensor(rewards, dtype=torch.float64)
    groups = by_hand.group_advantages(rewards, 4, scale).view(2, 4)
    torch.testing.assert_close(groups.sum(1), torch.zeros(2, dtype=torch.float64))
    for group, given_rewards in zip(groups, rewards.view(2, 4), strict=True):
        assert (
            (given_rewards[:, None] > given_rewards) <= (group[:, None] > group)
        ).all()
        if given_rewards.unique().numel() == 1:
            assert group.abs().max() == 0


@given(st.floats(-20, 0), st.floats(-20, 0))
@settings(deadline=None)
def test_k3_is_never_negative(policy, reference):
    value = by_hand.k3(torch.tensor(policy).double(), torch.tensor(reference).double())
    assert value >= -1e-12


def test_k3_averages_to_the_kl_divergence():
    policy = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    reference = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    exact = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close(
        (policy * by_hand.k3(policy.log(), reference.log())).sum(), exact
    )


def test_mistakes_are_refused():
    batch, _ = random_batch(0)
    with pytest.raises(ValueError):
        by_hand.group_advantages(torch.ones(7), 4)
    with pytest.raises(ValueError):
        by_hand.grpo_loss(*batch, "dr_grpo")  # needs max_length
    with pytest.raises(ValueError):
        by_hand.average_tokens(batch[0], batch[3], "gropo")
    with pytest.raises(TypeError):
        by_hand.grpo_loss(*batch, "dapo", epsilon_hihg=0.28)


def test_value_of_the_prompt_is_the_mean_reward():
    correct = torch.tensor([0.1, 0.3, 0.6, 0.9])
    logits = torch.tensor([0.5, -0.2, 1.0])
    value = by_hand.state_values(correct, torch.sigmoid(logits))[0]
    generator = torch.Generator().manual_seed(0)
    rewards = by_hand.pocket_rollout(logits, correct, 200_000, generator)[2]
    assert abs(rewards.mean() - value) < 0.005


def test_probabilities_of_all_completions_sum_to_one():
    logits = torch.tensor([0.5, -0.2, 1.0], dtype=torch.float64)
    total = 0.0
    for steps in range(4):  # `steps` working steps, then the answer
        is_step = (torch.arange(3) < steps).unsqueeze(0)
        mask = (torch.arange(4) <= steps).unsqueeze(0)
        total += (dialects.pocket_logps(logits, is_step) * mask).sum().exp()
    torch.testing.assert_close(total, torch.tensor(1.0, dtype=torch.float64))


def test_masks_of_rollouts_cover_the_steps_and_the_answer():
    generator = torch.Generator().manual_seed(0)
    is_step, mask, rewards = by_hand.pocket_rollout(
        torch.zeros(5), torch.ones(6), 100, generator
    )
    for row, cover in zip(is_step.tolist(), mask.tolist(), strict=True):
        steps = row.index(False) if False in row else len(row)
        assert cover == [1.0] * (steps + 1) + [0.0] * (5 - steps)
    assert (rewards == 1).all()


def test_the_bandit_learns_from_rewards_and_only_from_rewards():
    start = torch.tensor([0.55, 0.30, 0.10, 0.05])
    success = torch.tensor([0.05, 0.20, 0.60, 0.90])
    learned = by_hand.train_bandit(success, start)[-1] @ success
    control = by_hand.train_bandit(torch.ones(4), start)[-1]  # nothing to compare
    assert (learned > start @ success + 0.3).all()
    torch.testing.assert_close(control, start.expand_as(control))


def test_without_clipping_reused_samples_can_ruin_a_run():
    start = torch.tensor([0.55, 0.30, 0.10, 0.05])
    success = torch.tensor([0.05, 0.20, 0.60, 0.90])
    reuse = {"updates": 16, "lr": 0.2, "steps": 25}
    worst = [
        (by_hand.train_bandit(success, start, epsilon=e, **reuse)[-1] @ success).min()
        for e in (0.2, 1e6)
    ]
    assert worst[0] > 0.8 > worst[1]
