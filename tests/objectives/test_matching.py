"""Objectives on the forward process against their formulas written out in loops. Vectors: tests/test_conformance.py."""

from __future__ import annotations

import math

import pytest
import torch

from unigrpo.episodes.noise_pairs import draw_times
from unigrpo.objectives.flow import time_grid
from unigrpo.objectives.matching import (
    flow_matching_loss,
    matching_log_ratio,
    matching_loss,
    nft_loss,
    noised,
    old_decay,
    surrogate_log_prob,
)

B, M, SHAPE = 3, 4, (2, 5)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CLEAN, NOISE, V, V_OLD = (
    draw(B, *SHAPE),
    draw(B, M, *SHAPE, seed=1),
    draw(B, M, *SHAPE, seed=2),
    draw(B, M, *SHAPE, seed=3),
)
TIMES = torch.rand(B, M, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
ADVANTAGES = torch.tensor([1.5, -0.7, 0.2], dtype=torch.float64)


def pairs():
    return [(b, m) for b in range(B) for m in range(M)]


def test_forward_process_and_its_loss_by_hand():
    x, loss = noised(CLEAN, NOISE, TIMES), flow_matching_loss(V, CLEAN, NOISE)
    for b, m in pairs():
        t = TIMES[b, m].item()
        assert torch.allclose(x[b, m], (1 - t) * CLEAN[b] + t * NOISE[b, m])
        squares = [
            (v - (e - c)) ** 2
            for v, e, c in zip(V[b, m].view(-1), NOISE[b, m].view(-1), CLEAN[b].view(-1), strict=True)
        ]
        assert loss[b, m].item() == pytest.approx(sum(squares).item() / 10)


def test_the_noise_weight_is_the_loss_of_the_implied_noise():
    """FPO supervises the noise x_t + (1 - t) v that a velocity implies."""
    x, t = noised(CLEAN, NOISE, TIMES), TIMES[..., None, None]
    implied = (x + (1 - t) * V - NOISE).square().mean((2, 3))
    assert torch.allclose(-surrogate_log_prob(flow_matching_loss(V, CLEAN, NOISE), TIMES, "noise"), implied)


@pytest.mark.parametrize(
    ("weight", "formula"),
    [
        ("uniform", lambda x, t: -x),
        ("t", lambda x, t: -t * x),
        ("t2", lambda x, t: -t * t * x),
        ("huber", lambda x, t: -t * (math.sqrt(x + 1e-10) - 1e-5)),
        ("ghuber", lambda x, t: -t * 4 * ((x + 1e-10) ** 0.25 - 1e-10**0.25)),
    ],
)
def test_weights_by_hand(weight, formula):
    loss = flow_matching_loss(V, CLEAN, NOISE)
    ours = surrogate_log_prob(loss, TIMES, weight)
    for b, m in pairs():
        assert ours[b, m].item() == pytest.approx(formula(loss[b, m].item(), TIMES[b, m].item()))


@pytest.mark.parametrize("over", ["mean", "each"])
def test_the_clipped_objective_is_ppos(over):
    new, old = 0.3 * draw(B, M, seed=5), 0.3 * draw(B, M, seed=6)
    log_ratio = matching_log_ratio(new, old, over)
    loss, metrics = matching_loss(log_ratio, ADVANTAGES, clip_range=0.1)
    clipped = 0
    for b in range(B):
        rows = (new - old)[b].tolist() if over == "each" else [(new - old)[b].mean().item()]
        for k, row in enumerate(rows):
            r, a = math.exp(row), ADVANTAGES[b].item()
            expected = max(-a * r, -a * min(max(r, 0.9), 1.1))
            assert loss[b, k].item() == pytest.approx(expected)
            clipped += expected != -a * r
    assert metrics["clip_fraction"].item() == pytest.approx(clipped / loss.numel()) and clipped > 0


def test_single_ratios_are_bounded_and_a_clip_range_of_one_only_caps():
    assert matching_log_ratio(torch.tensor([[50.0, -50.0]]), torch.zeros(1, 2), "each").tolist() == [[3.0, -3.0]]
    loss, _ = matching_loss(torch.tensor([[3.0], [-3.0]]), torch.tensor([1.0, -1.0]), clip_range=1.0)
    assert loss.tolist() == [[-2.0], [pytest.approx(math.exp(-3))]]


def test_nft_by_hand():
    loss, metrics = nft_loss(V, V_OLD, CLEAN, NOISE, TIMES, ADVANTAGES, beta=0.3, advantage_clip=1.0)
    sums = {"positive": 0.0, "negative": 0.0}
    for b, m in pairs():
        t, r = TIMES[b, m], min(max(ADVANTAGES[b].item(), -1), 1) / 2 + 0.5
        x, sides = (1 - t) * CLEAN[b] + t * NOISE[b, m], {}
        for name, v in (
            ("positive", 0.3 * V[b, m] + 0.7 * V_OLD[b, m]),
            ("negative", 1.3 * V_OLD[b, m] - 0.3 * V[b, m]),
        ):
            error = x - t * v - CLEAN[b]
            sides[name] = (error.square().mean() / error.abs().mean()).item()
            sums[name] += sides[name] / (B * M)
        assert loss[b, m].item() == pytest.approx((r * sides["positive"] + (1 - r) * sides["negative"]) / 0.3)
    assert {k: metrics[k].item() for k in sums} == pytest.approx(sums)


def test_nft_draws_towards_good_images_and_away_from_bad_ones():
    """At v = v_old its gradient is along that of the flow-matching loss, with the sign of the advantage."""
    v = V_OLD.clone().requires_grad_()
    (nft,) = torch.autograd.grad(
        nft_loss(v, V_OLD, CLEAN, NOISE, TIMES, torch.tensor([2.0, -2.0, 0.0]), beta=1.0)[0].sum(), v
    )
    (matching,) = torch.autograd.grad(flow_matching_loss(v, CLEAN, NOISE).sum(), v)
    inner = (nft * matching).flatten(1).sum(1)
    assert inner[0] > 0 and inner[1] < 0 and nft[2].abs().max() < 1e-12


def test_the_old_weights_decay_linearly_up_to_a_largest_share():
    assert [old_decay(n, rate=0.1, largest=0.25) for n in (0, 1, 2, 3)] == [0, 0.1, 0.2, 0.25]
    assert old_decay(5, rate=0.1, largest=0.5, flat=6) == 0


@pytest.mark.parametrize("m", [1, 3, 6, 8])
def test_pair_times_are_stratified_and_uniform_over_the_grid(m):
    grid = time_grid(6, 3.0, "steps")
    times = draw_times(grid, m, 0, [(2, i) for i in range(6000)])
    shares = torch.stack([(times == t).float().mean() for t in grid])
    assert shares[-1] == 0 and torch.allclose(shares[:-1], torch.tensor(1 / 6), atol=0.015)
    if m == 6:
        assert torch.equal(times, grid[:-1].expand(6000, -1))
    assert (times.diff(dim=1) <= 0).all()
