"""The split of a group's reward variance: hand-computed, unbiased on simulated data, and told by the painter itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests._support import tiny
from unigrpo.core import seeding
from unigrpo.core.settings import replace
from unigrpo.tools import variance
from unigrpo.world.prompts import prompt_set

T, M = 3, 4


def test_a_case_by_hand():
    """Traces (0, 2) and (4, 6): within 2; trace means 1 and 5 have variance 8, of which 2 / 2 is image noise."""
    between, within = variance.components(np.array([[[0.0, 2.0], [4.0, 6.0]]]))
    assert (between.tolist(), within.tolist()) == ([7.0], [2.0])


@pytest.mark.parametrize("trace_sd, image_sd", [(1.0, 0.5), (0.5, 2.0), (0.0, 1.0)])
def test_known_variances_come_back(trace_sd, image_sd):
    rng = np.random.default_rng(0)
    prompts = 20_000
    values = rng.normal(size=(prompts, 1, 1)) + trace_sd * rng.normal(size=(prompts, T, 1))
    between, within = variance.components(values + image_sd * rng.normal(size=(prompts, T, M)))
    for found, true in ((between, trace_sd**2), (within, image_sd**2)):
        assert found.mean() == pytest.approx(true, abs=4 * found.std() / np.sqrt(prompts))


def test_the_share_has_an_interval_around_it():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(200, T, 1)) + rng.normal(size=(200, T, M))
    found = variance.trace_share(values, np.random.default_rng(0))
    assert found["lo"] < found["share"] < found["hi"] and found["lo"] < 0.5 < found["hi"]


def painted(same_noise: bool, noise_level: float) -> torch.Tensor:
    """(P, T, M, pixels)"""
    prompts = prompt_set("val")[:2]
    rl = replace(tiny.RL, thinking=True, group_size=T, same_noise=same_noise, noise_level=noise_level)
    images = variance.paint_each(tiny.model(), prompts, rl, tiny.run_config().sampling.max_trace_tokens, M, 0)
    assert len(images) == len(prompts) * T * M
    return images.reshape(len(prompts), T, M, -1)


def test_without_noise_the_trace_decides_all():
    images = painted(same_noise=True, noise_level=1e-9)
    assert (images - images[:, :, :1]).abs().max() < 1e-4
    assert (images - images[:, :1]).abs().max() > 1e-3


@pytest.mark.parametrize("same_noise, noise_level", [(False, 1e-9), (True, 0.8)])
def test_noise_differs_from_image_to_image(same_noise, noise_level):
    images = painted(same_noise, noise_level)
    for k in range(1, M):
        assert (images[:, :, k] - images[:, :, 0]).abs().amax(-1).min() > 1e-4


def test_a_reward_of_the_noise_alone_is_no_matter_of_traces():
    draws = iter(range(100))

    def noise(images, prompts):
        return torch.rand(len(prompts), generator=seeding.generator(0, "noise", next(draws)))

    rl = replace(tiny.RL, thinking=True, group_size=T)
    found = variance.measure(tiny.model(), rl, 4, M, {"noise": noise})["noise"]
    assert abs(found["share"]) < 0.1 and found["variance_image"] == pytest.approx(1 / 12, rel=0.15)
