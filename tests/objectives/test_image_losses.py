"""Image losses against hand-computed values, the textbook form in float64, and finite differences."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from unigrpo.objectives.flow import sde_step
from unigrpo.objectives.image_losses import (
    flow_grpo_loss,
    latent_kl,
    plain_log_ratio,
    ratio_norm_log_ratio,
    velocity_mse,
)


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(5)


# ----------------------------------------------------------------------------------------------------- image


def transitions(rng, shape=(4, 6, 5), dtype=torch.float64, drift=1e-2, kind="sde"):
    """A recorded step under an old velocity, and its replay under a slightly different new one."""
    x, v_old, noise, change = (torch.randn(shape, generator=rng, dtype=dtype) for _ in range(4))
    v = (v_old + drift * change).requires_grad_()
    setting = {"noise_level": 0.8, "t_max": 0.95, "kind": kind}
    old = sde_step(x, v_old, 0.9, 0.85, noise=noise, **setting)
    new = sde_step(x, v, 0.9, 0.85, prev=old.prev, **setting)
    return old, new, noise, v


KINDS = pytest.mark.parametrize("kind", ["sde", "cps", "dance"])


@KINDS
def test_ratio_norm_equals_its_definition_through_log_probs(rng, kind):
    old, new, noise, _ = transitions(rng, kind=kind)
    ours = ratio_norm_log_ratio(new.mean[:, None], old.mean[:, None], noise[:, None])[:, 0]
    bias = (new.mean - old.mean).square().mean((1, 2)) / (2 * new.std.square())
    defined = new.std * (plain_log_ratio(new.log_prob, old.log_prob) + bias)
    torch.testing.assert_close(ours, defined, rtol=1e-9, atol=1e-12)


@KINDS
def test_both_log_ratios_are_exactly_zero_before_any_update(rng, kind):
    old, new, noise, _ = transitions(rng, dtype=torch.float32, drift=0.0, kind=kind)
    assert not plain_log_ratio(new.log_prob, old.log_prob).any()
    assert not ratio_norm_log_ratio(new.mean[:, None], old.mean[:, None], noise[:, None]).any()


def test_ratio_norm_in_single_precision_resolves_far_below_the_clip_range(rng):
    old, new, noise, _ = transitions(rng, shape=(2, 64, 256), drift=1e-4)
    exact = ratio_norm_log_ratio(new.mean[:, None], old.mean[:, None], noise[:, None])
    single = ratio_norm_log_ratio(new.mean.float()[:, None], old.mean.float()[:, None], noise.float()[:, None])
    assert (exact - single).abs().max() < 1e-8


def test_image_loss_is_the_textbook_form_without_its_constant():
    log_ratio = torch.tensor([[-0.3, -0.05, 0.0], [0.05, 0.3, 0.1]], dtype=torch.float64)
    for sign in (1.0, -1.0):
        advantages = sign * torch.tensor([1.5, 2.0], dtype=torch.float64)
        loss, metrics = flow_grpo_loss(log_ratio, advantages, clip_range=0.1)
        ratio, a = log_ratio.exp(), advantages[:, None]
        textbook = torch.maximum(-a * ratio, -a * ratio.clamp(0.9, 1.1))
        torch.testing.assert_close(loss, textbook + a)
        binding = {1.0: ("clip_high", "clip_low"), -1.0: ("clip_low", "clip_high")}[sign]
        outside = 2 if sign > 0 else 1  # of 6: 0.3 and 0.1 > log 1.1; -0.3 < log 0.9
        assert metrics[binding[0]] == pytest.approx(outside / 6) and metrics[binding[1]] == 0


def test_image_gradient_vanishes_only_where_the_clip_binds():
    log_ratio = torch.tensor([[-3e-6, 5e-7, 3e-6]] * 2).requires_grad_()
    loss, _ = flow_grpo_loss(log_ratio, torch.tensor([2.0, -2.0]), clip_range=1e-6)
    loss.sum().backward()
    torch.testing.assert_close(log_ratio.grad, torch.tensor([[-2.0, -2.0, 0.0], [0.0, 2.0, 2.0]]))


def test_image_loss_keeps_its_precision_at_the_papers_clip_range():
    log_ratio = torch.tensor([[3.3e-8, 7.1e-7, 1.7e-6]])
    loss, _ = flow_grpo_loss(log_ratio, torch.tensor([1.0]), clip_range=1e-6)
    torch.testing.assert_close(loss, -torch.tensor([[3.3e-8, 7.1e-7, 1e-6]]), rtol=2e-6, atol=0)


def test_image_gradient_with_respect_to_the_velocity_matches_finite_differences(rng):
    old, _, noise, v = transitions(rng, shape=(2, 3, 2))
    x = torch.randn(2, 3, 2, generator=rng, dtype=torch.float64)
    advantages = torch.tensor([1.0, -1.0], dtype=torch.float64)

    def loss(velocity):
        mean = sde_step(x, velocity, 0.9, 0.85, noise_level=0.8, t_max=0.95, prev=old.prev).mean
        log_ratio = ratio_norm_log_ratio(mean[:, None], old.mean[:, None], noise[:, None])
        return flow_grpo_loss(log_ratio, advantages, clip_range=0.5)[0].mean()

    assert torch.autograd.gradcheck(loss, v)


# ----------------------------------------------------------------------------------------------- regularisers


def test_velocity_mse_is_a_mean_over_elements():
    v = torch.zeros(1, 2, 3, 4)
    v[0, 1, 0, 0] = 6.0
    assert velocity_mse(v, torch.zeros_like(v)).tolist() == [[0.0, 3.0]]


def test_latent_kl_is_the_divergence_of_normal_distributions(rng):
    mean, mean_ref = (torch.randn(2, 3, 4, 5, generator=rng) for _ in range(2))
    std = torch.tensor([0.8, 0.5, 0.3])
    scale = std.view(1, 3, 1, 1)
    true = kl_divergence(Normal(mean, scale), Normal(mean_ref, scale)).mean((2, 3))
    torch.testing.assert_close(latent_kl(mean, mean_ref, std), true)
