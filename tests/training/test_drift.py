"""The drift against a direct computation, and what it must and must not see."""

from __future__ import annotations

import copy

import pytest
import torch

from tests._support import tiny
from unigrpo.core.settings import replace
from unigrpo.episodes.rollout import diversity
from unigrpo.objectives import flow
from unigrpo.training import drift
from unigrpo.world.prompts import prompt_set

PROMPTS = prompt_set("val")[:3]


@pytest.fixture(scope="module", params=[True, False], ids=["thinking", "no thinking"])
def probe(request):
    return drift.probe(tiny.model(), PROMPTS, replace(tiny.RL, train=("image",), thinking=request.param), 6)


def test_the_start_has_not_moved(probe):
    assert drift.drift(tiny.model(), probe) == pytest.approx([0.0] * tiny.RL.n_steps, abs=1e-12)


def test_states_are_the_starts_own_path(probe):
    times = [*probe.times.tolist(), 0.0]
    for k in range(tiny.RL.n_steps - 1):
        step = flow.euler_step(probe.latents[k], probe.velocities[k], times[k], times[k + 1])
        torch.testing.assert_close(probe.latents[k + 1], step)


def test_a_shifted_velocity_is_its_square(probe):
    moved = copy.deepcopy(tiny.model())
    with torch.no_grad():
        moved.mot.llm2vae.bias += 0.25
    assert drift.drift(moved, probe) == pytest.approx([0.0625] * tiny.RL.n_steps, rel=1e-4)


def test_a_changed_reasoning_expert_is_seen(probe):
    moved = copy.deepcopy(tiny.model())
    with torch.no_grad():
        for p in moved.mot.expert_parameters()["text"]:
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    assert min(drift.drift(moved, probe)) > 0


def test_diversity_by_hand():
    """Two groups: images 0 and 1 everywhere, and two equal ones."""
    images = torch.tensor([0.0, 1.0, 0.5, 0.5])[:, None, None, None].expand(4, 3, 2, 2)
    assert diversity(images, 2).item() == pytest.approx(0.5)


def test_diversity_is_the_mean_over_pairs_of_one_group():
    images = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    squares = [(images[i] - images[j]).square().mean() for i in range(4) for j in range(i)]
    assert diversity(images, 4).item() == pytest.approx(torch.stack(squares).mean().sqrt().item())
