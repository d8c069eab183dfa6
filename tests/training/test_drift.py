"""The drift against a direct computation, and what it must and must not see."""

from __future__ import annotations

import copy
import statistics

import pytest
import torch

from tests._support import tiny
from unigrpo.core.settings import replace
from unigrpo.episodes.rollout import diversity
from unigrpo.objectives import flow
from unigrpo.training import drift
from unigrpo.world.prompts import prompt_set

PROMPTS = prompt_set("val")[:3]


def config(thinking):
    return tiny.run_config(rl=replace(tiny.RL, train=("image",), thinking=thinking))


@pytest.fixture(scope="module", params=[True, False], ids=["thinking", "no thinking"])
def probe(request):
    return drift.probe(tiny.model(), PROMPTS, config(request.param))


def test_the_start_has_not_moved(probe):
    assert drift.drift(tiny.model(), probe) == pytest.approx([0.0] * tiny.RL.n_steps, abs=1e-12)


def test_states_are_the_starts_own_path(probe):
    (probe,) = probe
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


@pytest.mark.parametrize("thinking", [True, False])
def test_a_probe_in_parts_or_of_several_processes_is_the_same(monkeypatch, thinking):
    start, moved = tiny.model(), copy.deepcopy(tiny.model())
    with torch.no_grad():
        for p in moved.mot.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    cfg = config(thinking)
    (whole,) = drift.probe(start, PROMPTS, cfg)
    expected = drift.drift(moved, [whole])
    with monkeypatch.context() as patch:
        patch.setattr(start, "row_bytes", lambda ids, tokens: (cfg.sampling.memory * 2**20,) * 2)
        parts = drift.probe(start, PROMPTS, cfg)
    assert len(parts) == 3
    assert drift.drift(moved, parts) == pytest.approx(expected, rel=1e-4)

    shares = []
    for rank in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr(drift.distributed, "count", lambda: 2)
            patch.setattr(drift.distributed, "rank", lambda rank=rank: rank)
            shares += drift.probe(start, PROMPTS, cfg)
    assert [len(part.prompt_ids) for part in shares] == [1, 2]
    assert drift.drift(moved, shares) == pytest.approx(expected, rel=1e-4)


def test_diversity_by_hand():
    """Two groups: images 0 and 1 everywhere, and two equal ones."""
    images = torch.tensor([0.0, 1.0, 0.5, 0.5])[:, None, None, None].expand(4, 3, 2, 2)
    assert statistics.mean(diversity(images, [0, 0, 1, 1])) == pytest.approx(0.5)


def test_an_image_alone_in_its_group_has_none_to_differ_from():
    """A process may hold parts of groups."""
    images = torch.tensor([0.0, 1.0, 0.3])[:, None, None, None].expand(3, 3, 2, 2)
    assert diversity(images, [4, 4, 5]) == [pytest.approx(1.0)]
    assert diversity(images, [4, 5, 6]) == []


def test_diversity_is_the_mean_over_pairs_of_one_group():
    images = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    squares = [(images[i] - images[j]).square().mean() for i in range(4) for j in range(i)]
    assert diversity(images, [7] * 4) == [pytest.approx(torch.stack(squares).mean().sqrt().item())]
