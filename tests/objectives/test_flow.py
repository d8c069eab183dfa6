"""Grids, windows, steps and guidance against closed forms and hand-computed values."""

import math
from collections import Counter
from itertools import combinations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from unigrpo.objectives.flow import (
    clean_estimate,
    draw_window,
    euler_step,
    guided_velocity,
    latent_kl_weight,
    moving_window,
    sde_step,
    time_grid,
)

KINDS = pytest.mark.parametrize("kind", ["sde", "cps", "dance"])


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(3)


def latents(rng, *shape, dtype=torch.float32):
    return torch.randn(*shape, generator=rng, dtype=dtype)


# ----------------------------------------------------------------------------------------------------- grids


def test_points_and_steps_differ_by_one_step():
    points = time_grid(10, 3.0, "points")
    steps = time_grid(10, 3.0, "steps")
    assert len(points) == 10 and len(steps) == 11
    expected = [1, 0.96, 21 / 23, 6 / 7, 15 / 19, 12 / 17, 0.6, 6 / 13, 3 / 11, 0]
    torch.testing.assert_close(points, torch.tensor(expected))
    torch.testing.assert_close(steps[[1, 5, 9]], torch.tensor([27 / 28, 0.75, 0.25]))


def test_diffusers_grid_is_shifted_twice_and_ends_in_zero():
    grid = time_grid(10, 3.0, "diffusers")
    expected = [1, 0.9601, 0.9133, 0.8577, 0.7904, 0.7073, 0.6022, 0.4649, 0.2780, 0.0089, 0]
    torch.testing.assert_close(grid, torch.tensor(expected), atol=6e-5, rtol=0)


@pytest.mark.parametrize("convention", ["points", "steps", "diffusers"])
@pytest.mark.parametrize("shift", [1.0, 1.7, 3.0, 7.3])
def test_every_grid_starts_at_exactly_one_ends_at_zero_and_falls(convention, shift):
    grid = time_grid(13, shift, convention)
    assert grid[0] == 1 and grid[-1] == 0 and (grid.diff() < 0).all()


# --------------------------------------------------------------------------------------------------- windows


def test_windows_are_contiguous_and_reach_every_start(rng):
    windows = [draw_window(rng, 3, (0, 5)) for _ in range(300)]
    counts = {start: sum(w == range(start, start + 3) for w in windows) for start in (0, 1, 2)}
    assert sum(counts.values()) == 300 and min(counts.values()) > 60


def test_a_window_as_wide_as_its_range_has_one_place(rng):
    assert draw_window(rng, 4, (2, 6)) == range(2, 6)


def test_scattered_windows_reach_every_subset_of_the_range(rng):
    counts = Counter(tuple(draw_window(rng, 3, (1, 6), scattered=True)) for _ in range(600))
    assert set(counts) == set(combinations(range(1, 6), 3)) and min(counts.values()) > 30


def test_a_moving_window_stays_moves_is_cut_at_the_end_and_starts_over():
    windows = [list(moving_window(i, 3, (1, 6), stay=lambda start: 2, shift=3)) for i in range(6)]
    assert windows == [[1, 2, 3], [1, 2, 3], [4, 5], [4, 5], [1, 2, 3], [1, 2, 3]]


def test_a_moving_window_may_overlap_and_stay_unequally_long():
    windows = [moving_window(i, 2, (0, 3), stay=lambda start: 3 - start, shift=1) for i in range(7)]
    assert [w.start for w in windows] == [0, 0, 0, 1, 1, 2, 0] and windows[5] == range(2, 3)


# ----------------------------------------------------------------------------------------------------- steps


def test_euler_with_the_true_velocity_reaches_the_data(rng):
    data, noise = latents(rng, 2, 5), latents(rng, 2, 5)
    x = noise
    for t, t_next in zip(*(time_grid(7, 3.0, "steps")[s] for s in (slice(-1), slice(1, None))), strict=True):
        torch.testing.assert_close(clean_estimate(x, noise - data, t), data)
        x = euler_step(x, noise - data, t, t_next)
    torch.testing.assert_close(x, data)


def test_noise_level_zero_is_euler_and_has_no_log_prob(rng):
    x, v, noise = (latents(rng, 2, 3, 4) for _ in range(3))
    step = sde_step(x, v, 0.7, 0.6, noise_level=0, t_max=0.9, noise=noise)
    torch.testing.assert_close(step.prev, euler_step(x, v, 0.7, 0.6))
    assert step.log_prob is None and not step.std.any()


def test_first_step_has_std_a_and_shrinks_the_noise_by_half_a_squared(rng):
    grid = time_grid(25, 3.0, "steps")
    x, v = latents(rng, 1, 8), latents(rng, 1, 8)
    step = sde_step(x, 0 * v, grid[0], grid[1], noise_level=0.8, t_max=grid[1].item(), noise=0 * x)
    assert step.std.item() == pytest.approx(0.8, rel=1e-6)
    torch.testing.assert_close(step.mean, (1 - 0.8**2 / 2) * x)


def test_known_stds_of_25_and_24_steps():
    for n, convention, expected in (
        (25, "steps", [0.8000, 0.8166, 0.5814, 0.4779, 0.4166]),
        (25, "points", [0.8000, 0.8173, 0.5821, 0.4786, 0.4174]),
    ):
        grid = time_grid(n, 3.0, convention)
        x = torch.zeros(5, 1)
        step = sde_step(x, x, grid[:5], grid[1:6], noise_level=0.8, t_max=grid[1].item(), prev=x)
        torch.testing.assert_close(step.std, torch.tensor(expected), atol=6e-5, rtol=0)


@pytest.mark.parametrize("kind", ["sde", "dance"])
@pytest.mark.parametrize("noise_level", [0.3, 0.8])
def test_a_stochastic_step_keeps_the_marginal_to_second_order(noise_level, kind):
    """Data 0: x_t ~ N(0, t^2) and v = x / t, so the step must end at variance t_next^2 up to O(dt^2)."""
    t, errors = 0.6, []
    for dt in (0.02, 0.01):
        x = torch.ones(1, 1, dtype=torch.float64)
        step = sde_step(x, x / t, t, t - dt, noise_level=noise_level, t_max=0.9, kind=kind, noise=0 * x)
        variance = step.mean.item() ** 2 * t**2 + step.std.item() ** 2
        errors.append(abs(variance - (t - dt) ** 2))
    assert errors[1] < errors[0] / 3.5 and errors[0] < 1e-3


@pytest.mark.parametrize("noise_level", [0.2, 0.8, 1.0, 1.3])
@pytest.mark.parametrize(("t", "t_next"), [(1.0, 0.9), (0.6, 0.3), (0.2, 0.0)])
def test_a_cps_step_keeps_the_path_exactly(rng, noise_level, t, t_next):
    """With the true velocity: data (1 - t_next) x_0, and noise of variance t_next^2, part of it new."""
    data, eps = latents(rng, 1, 9, dtype=torch.float64), latents(rng, 1, 9, dtype=torch.float64)
    x = (1 - t) * data + t * eps
    step = sde_step(x, eps - data, t, t_next, noise_level=noise_level, t_max=None, kind="cps", noise=0 * x)
    old_noise = math.sqrt(t_next**2 - step.std.item() ** 2)
    torch.testing.assert_close(step.mean, (1 - t_next) * data + old_noise * eps)
    assert step.std.item() == pytest.approx(t_next * math.sin(noise_level * math.pi / 2))


def test_cps_without_noise_is_euler_and_dance_is_the_sde_of_constant_sigma(rng):
    x, v, noise = (latents(rng, 2, 6) for _ in range(3))
    still = sde_step(x, v, 0.7, 0.6, noise_level=0.0, t_max=None, kind="cps", noise=noise)
    torch.testing.assert_close(still.prev, euler_step(x, v, 0.7, 0.6))
    t, t_next, eta = torch.tensor([0.8, 0.3]), torch.tensor([0.7, 0.2]), 0.4
    dance = sde_step(x, v, t, t_next, noise_level=eta, t_max=None, kind="dance", noise=noise)
    same_sigma = eta * torch.sqrt((1 - t) / t)
    sde = sde_step(x, v, t, t_next, noise_level=same_sigma, t_max=0.9, noise=noise)
    assert torch.allclose(dance.sigma, torch.tensor(eta))
    for name in ("mean", "std", "prev", "log_prob"):
        torch.testing.assert_close(getattr(dance, name), getattr(sde, name))


@KINDS
def test_sigma_is_the_std_per_square_root_of_time(rng, kind):
    x = latents(rng, 3, 2)
    step = sde_step(x, x, 0.6, 0.45, noise_level=0.5, t_max=0.9, kind=kind, noise=x)
    torch.testing.assert_close(step.sigma * math.sqrt(0.15), step.std)


def test_a_step_to_the_data_has_no_gaussian_density_in_cps(rng):
    x, prev = latents(rng, 2, 6), latents(rng, 2, 6)
    setting = {"noise_level": 0.8, "t_max": None, "kind": "cps", "prev": prev}
    assert not sde_step(x, x, 0.1, 0.0, **setting).log_prob.any()


@KINDS
def test_log_prob_is_the_mean_gaussian_log_density(rng, kind):
    x, v, noise = (latents(rng, 3, 4, 5) for _ in range(3))
    step = sde_step(x, v, 0.7, 0.6, noise_level=0.8, t_max=0.9, kind=kind, noise=noise)
    density = Normal(step.mean, step.std.view(3, 1, 1)).log_prob(step.prev)
    torch.testing.assert_close(step.log_prob, density.mean((1, 2)))


@KINDS
def test_replaying_a_sampled_step_gives_the_same_step(rng, kind):
    x, v, noise = (latents(rng, 2, 6) for _ in range(3))
    sampled = sde_step(x, v, 0.9, 0.8, noise_level=0.8, t_max=0.95, kind=kind, noise=noise)
    replayed = sde_step(x, v, 0.9, 0.8, noise_level=0.8, t_max=0.95, kind=kind, prev=sampled.prev)
    assert torch.equal(sampled.mean, replayed.mean) and torch.equal(sampled.log_prob, replayed.log_prob)
    recovered = (sampled.prev - sampled.mean) / sampled.std[:, None]
    torch.testing.assert_close(recovered, noise, atol=1e-5, rtol=0)


def test_sampling_and_replaying_at_once_is_refused(rng):
    x = latents(rng, 1, 2)
    for given in ({}, {"noise": x, "prev": x}):
        with pytest.raises(ValueError, match="either noise"):
            sde_step(x, x, 0.9, 0.8, noise_level=0.8, t_max=0.95, **given)


@KINDS
def test_a_batch_may_mix_times_and_noise_levels(rng, kind):
    x, v, noise = (latents(rng, 4, 6) for _ in range(3))
    v.requires_grad_()
    t, t_next = torch.tensor([1.0, 0.9, 0.4, 0.4]), torch.tensor([0.95, 0.85, 0.2, 0.2])
    levels = torch.tensor([0.8, 0.8, 0.3, 0.0])
    mixed = sde_step(x, v, t, t_next, noise_level=levels, t_max=0.95, kind=kind, noise=noise)
    for i in range(4):
        row = slice(i, i + 1)
        alone = sde_step(
            x[row],
            v[row],
            t[i].item(),
            t_next[i].item(),
            noise_level=levels[i].item(),
            t_max=0.95,
            kind=kind,
            noise=noise[row],
        )
        torch.testing.assert_close(mixed.prev[row], alone.prev)
        if alone.log_prob is not None:
            torch.testing.assert_close(mixed.log_prob[row], alone.log_prob)
    mixed.log_prob.sum().backward()
    assert mixed.log_prob[3] == 0 and v.grad.isfinite().all() and not v.grad[3].any() and v.grad[:3].any()


@KINDS
def test_gradient_of_the_log_prob_matches_finite_differences(rng, kind):
    x, v, prev = (latents(rng, 2, 4, dtype=torch.float64) for _ in range(3))
    v.requires_grad_()

    def log_prob(velocity):
        return sde_step(x, velocity, 0.8, 0.7, noise_level=0.8, t_max=0.9, kind=kind, prev=prev).log_prob

    assert torch.autograd.gradcheck(log_prob, v)


def test_half_precision_is_lifted(rng):
    x, v, noise = (latents(rng, 1, 4).bfloat16() for _ in range(3))
    step = sde_step(x, v, 0.9, 0.8, noise_level=0.8, t_max=0.95, noise=noise)
    wide = sde_step(x.float(), v.float(), 0.9, 0.8, noise_level=0.8, t_max=0.95, noise=noise.float())
    assert step.prev.dtype == torch.float32 and torch.equal(step.prev, wide.prev)


def test_latent_kl_weight_is_the_kl_of_the_two_transitions(rng):
    grid = time_grid(25, 3.0, "steps")
    weights = latent_kl_weight(grid[:-1], grid[1:], noise_level=0.8, t_max=grid[1].item())
    torch.testing.assert_close(
        weights[:5], torch.tensor([1.5e-4, 2.7e-4, 6.0e-4, 1.0e-3, 1.5e-3]), atol=5e-5, rtol=0.02
    )
    x, v, v_ref = (latents(rng, 1, 5, dtype=torch.float64) for _ in range(3))
    for k in (0, 7, 20):
        new, ref = (
            sde_step(x, u, grid[k], grid[k + 1], noise_level=0.8, t_max=grid[1].item(), prev=x) for u in (v, v_ref)
        )
        kl = kl_divergence(Normal(new.mean, new.std[:, None]), Normal(ref.mean, ref.std[:, None]))
        torch.testing.assert_close(kl, weights[k].double() * (v - v_ref).square(), rtol=1e-4, atol=1e-9)


# -------------------------------------------------------------------------------------------------- guidance


def test_guidance_acts_only_above_scale_one(rng):
    cond, uncond = latents(rng, 2, 3, 4), latents(rng, 2, 3, 4)
    assert torch.equal(guided_velocity(cond, uncond, 1.0, "global"), cond)
    torch.testing.assert_close(guided_velocity(cond, uncond, 2.5), uncond + 2.5 * (cond - uncond))


@pytest.mark.parametrize("renorm_min", [0.0, 0.6, 1.0])
def test_renormalisation_limits_the_norm_per_sample_or_per_token(rng, renorm_min):
    cond, uncond = latents(rng, 2, 3, 4), latents(rng, 2, 3, 4)
    uncond[1] = 1.2 * cond[1]  # here guidance shortens the velocity, and nothing lengthens it again
    plain = guided_velocity(cond, uncond, 4.0)
    by_sample = guided_velocity(cond, uncond, 4.0, "global", renorm_min)
    by_token = guided_velocity(cond, uncond, 4.0, "channel", renorm_min)
    for b in range(2):
        factor = min(max((cond[b].norm() / plain[b].norm()).item(), renorm_min), 1)
        torch.testing.assert_close(by_sample[b], factor * plain[b])
        for n in range(3):
            factor = min(max((cond[b, n].norm() / plain[b, n].norm()).item(), renorm_min), 1)
            torch.testing.assert_close(by_token[b, n], factor * plain[b, n])


def test_two_guidances_go_away_from_two_contexts_in_turn():
    cond, no_text, no_picture = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(8))
    text = no_text + 4 * (cond - no_text)
    both = no_picture + 1.5 * (text - no_picture)
    torch.testing.assert_close(guided_velocity(cond, no_text, 4.0, "none", 0.0, no_picture, 1.5), both)
    alone = guided_velocity(cond, None, 1.0, "none", 0.0, no_picture, 1.5)
    torch.testing.assert_close(alone, no_picture + 1.5 * (cond - no_picture))
    assert torch.equal(guided_velocity(cond, no_text, 1.0, "none", 0.0, no_picture, 1.0), cond)
    first = text * (cond.norm(dim=-1, keepdim=True) / text.norm(dim=-1, keepdim=True)).clamp(max=1)
    shortened = guided_velocity(cond, no_text, 4.0, "text_channel", 0.0, no_picture, 1.5)
    torch.testing.assert_close(shortened, no_picture + 1.5 * (first - no_picture))
