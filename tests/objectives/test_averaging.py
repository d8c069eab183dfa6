"""The moving average against its closed form."""

import torch
from torch import nn

from unigrpo.objectives.averaging import average_into, ema_update


def test_the_average_is_the_weighted_sum_of_what_it_saw():
    """Warm-up weights 1/10, 2/11 of the past, then at most the decay."""
    start, *values = torch.tensor([[1.0], [2.0], [3.0], [5.0]])
    average = start
    for step, value in enumerate(values):
        average = ema_update(average, value, step, 0.15)
    first = 0.1 * 1 + 0.9 * 2
    torch.testing.assert_close(average, torch.tensor([0.15 * (0.15 * first + 0.85 * 3) + 0.85 * 5]))


def test_every_parameter_of_a_network_is_averaged_but_shared_ones():
    average, model = nn.Linear(2, 1), nn.Linear(2, 1)
    model.bias = average.bias
    expected = {"weight": 0.75 * average.weight + 0.25 * model.weight, "bias": average.bias.clone()}
    average_into(average, model, 100, 0.75)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(average, name), value)
    assert model.bias is average.bias
