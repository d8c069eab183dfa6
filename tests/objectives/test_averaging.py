"""The moving average against its closed form."""

import pytest
import torch
from torch import nn

from unigrpo.objectives.averaging import average_into, ema_share


def averaged(values: list[float], decay: float) -> float:
    """The average after an optimiser step that left each of these, the first before any."""
    average, model = nn.Linear(1, 1), nn.Linear(1, 1)
    for step, value in enumerate(values, start=-1):
        nn.init.constant_(model.weight, value)
        average_into(average, model, 0.0 if step < 0 else ema_share(step, decay))
    return average.weight.item()


def test_the_average_is_the_weighted_sum_of_what_it_saw():
    """Warm-up weights 1/10, 2/11 of the past, then at most the decay."""
    first = 0.1 * 1 + 0.9 * 2
    assert averaged([1.0, 2.0, 3.0, 5.0], 0.15) == pytest.approx(0.15 * (0.15 * first + 0.85 * 3) + 0.85 * 5)


def test_without_a_bound_it_lags_a_tenth_of_the_course_behind():
    """Weights that grow by one a step: the average is that of n / 10 steps ago, however long the course."""
    for n in (100, 400):
        assert (n - averaged(list(range(n + 1)), 1.0)) / n == pytest.approx(0.1, abs=0.01)


def test_every_parameter_of_a_network_is_averaged_but_shared_ones():
    average, model = nn.Linear(2, 1), nn.Linear(2, 1)
    model.bias = average.bias
    expected = {"weight": 0.75 * average.weight + 0.25 * model.weight, "bias": average.bias.clone()}
    average_into(average, model, 0.75)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(average, name), value)
    assert model.bias is average.bias
