"""The choice of decoding: one standard error, paired by prompt, categories weighing equally."""

from __future__ import annotations

import numpy as np
import pytest

from unigrpo.sampling.decoding import choose

TAGS = ["a"] * 4 + ["b"] * 4


@pytest.mark.parametrize(
    ("gain", "chosen"),
    [
        ([0.1] * 8, 2.0),  # the same gain on every prompt has no error: the better one
        ([0.0] * 8, 1.0),  # a tie: the one nearer to training
        ([0.4, -0.3, 0.4, -0.3, 0.0, 0.0, 0.0, 0.0], 1.0),  # mean 0.025, error 0.10
        ([0.4, 0.2, 0.3, 0.3, 0.0, 0.0, 0.0, 0.0], 2.0),  # mean 0.15, error 0.02
    ],
)
def test_the_first_within_one_error_of_the_best(gain, chosen):
    base = np.linspace(0.2, 0.5, 8)
    assert choose({1.0: base, 2.0: base + gain}, TAGS) == chosen


def test_the_error_is_that_of_the_stratified_mean():
    """By hand: differences 0, 0.2 in a (variance 0.02, two prompts) and 0.2 four times in b; mean (0.1 + 0.2) / 2 =
    0.15, error sqrt(0.01) / 2 = 0.05. Scaled so that mean and error are equal, the first is still taken."""
    tags = ["a", "a", "b", "b"]
    base = np.zeros(4)
    assert choose({1.0: base, 2.0: np.array([0.0, 0.2, 0.2, 0.2])}, tags) == 2.0
    edge = np.array([0.0, 0.2, 0.0, 0.0])  # mean 0.05, error 0.05
    assert choose({1.0: base, 2.0: edge}, tags) == 1.0
    assert choose({1.0: base, 2.0: edge + 0.001}, tags) == 2.0


def test_categories_weigh_equally():
    """Three prompts of one category lose a little, the only one of the other wins more: the mean of means decides."""
    tags = ["a", "a", "a", "b"]
    assert choose({1.0: np.zeros(4), 2.0: np.array([-0.1, -0.1, -0.1, 0.2])}, tags) == 2.0
