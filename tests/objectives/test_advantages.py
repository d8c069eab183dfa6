"""Advantages against values computed by hand."""

import pytest
import torch

from unigrpo.core.errors import UserError
from unigrpo.objectives.advantages import group_advantages


def test_population_and_sample_std():
    rewards = torch.tensor([1.0, 2.0, 3.0, 6.0])  # mean 3, squares 4 1 0 9: var 3.5 (ddof 0), 14/3 (ddof 1)
    for ddof, variance in ((0, 3.5), (1, 14 / 3)):
        advantages, _ = group_advantages(rewards, [0] * 4, ddof=ddof, eps=0)
        torch.testing.assert_close(advantages, (rewards - 3) / variance**0.5)


def test_eps_is_added_to_the_std():
    rewards = torch.tensor([0.0, 2.0])  # std 1
    added, _ = group_advantages(rewards, [0, 0], ddof=0, eps=0.5)
    torch.testing.assert_close(added, torch.tensor([-1.0, 1.0]) / 1.5)


def test_groups_of_any_order_size_and_key():
    rewards = torch.tensor([0.0, 10.0, 2.0, 30.0, 20.0])
    advantages, metrics = group_advantages(rewards, ["a", "b", "a", "b", "b"], ddof=0, eps=0)
    expected = torch.tensor([-1.0, -(1.5**0.5), 1.0, 1.5**0.5, 0.0])
    torch.testing.assert_close(advantages, expected)
    assert metrics["groups"] == 2 and metrics["reward_mean"] == pytest.approx(12.4)


def test_batch_spread_and_no_spread():
    rewards, groups = torch.tensor([0.0, 2.0, 10.0, 14.0]), [0, 0, 1, 1]
    centred = torch.tensor([-1.0, 1.0, -2.0, 2.0])
    batch, _ = group_advantages(rewards, groups, ddof=0, eps=0, scale="batch")
    torch.testing.assert_close(batch, centred / 32.75**0.5)  # mean 6.5, squares 42.25 20.25 12.25 56.25
    none, _ = group_advantages(rewards, groups, ddof=0, eps=0, scale="none")
    torch.testing.assert_close(none, centred)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_equal_rewards_give_exactly_zero_and_are_counted(scale):
    rewards = torch.tensor([0.1] * 3 + [0.0, 1.0, 0.0] + [0.7] * 3)
    advantages, metrics = group_advantages(rewards, [0] * 3 + [1] * 3 + [2] * 3, ddof=1, eps=0, scale=scale)
    assert not advantages[:3].any() and not advantages[6:].any() and advantages[3:6].all()
    assert metrics["zero_spread_groups"] == 2 and metrics["groups"] == 3


def test_advantages_of_a_group_do_not_depend_on_shift_and_scale():
    rewards = torch.tensor([0.2, 0.9, 0.4, 0.7])
    a, _ = group_advantages(rewards, [0] * 4, ddof=1, eps=0)
    b, _ = group_advantages(1e8 + 50 * rewards.double(), [0] * 4, ddof=1, eps=0)
    torch.testing.assert_close(a, b)
    assert a.dtype == b.dtype == torch.float32 and a.mean().abs() < 1e-7


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_non_finite_reward_names_its_sample(bad):
    with pytest.raises(UserError, match=r"sample 2 .*prompt-7"):
        group_advantages(torch.tensor([0.0, 1.0, bad]), ["prompt-7"] * 3, ddof=0, eps=1e-4)


def test_a_group_of_one_is_refused():
    with pytest.raises(UserError, match="single sample"):
        group_advantages(torch.tensor([0.0, 1.0, 2.0]), [0, 0, 1], ddof=0, eps=1e-4)


def test_other_numbers_of_rewards_and_keys_are_refused():
    with pytest.raises(UserError, match="group keys"):
        group_advantages(torch.zeros(3), [0, 0], ddof=0, eps=1e-4)
