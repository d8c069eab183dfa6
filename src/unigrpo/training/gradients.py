"""From losses to an optimiser step: what processes agree on, and what is recorded."""

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from unigrpo.core import distributed
from unigrpo.core.errors import Collapse
from unigrpo.episodes.slices import Networks, Slice


def reduced_once(nets: Networks, slices: list[Slice], each: bool = False) -> Iterator[Slice]:
    """The slices of an optimiser step, one after the other; a network that is split sums its gradients over processes
    at the last of them alone, or at ``each``."""
    units = [module for module in nets.model.modules() if hasattr(module, "set_requires_gradient_sync")]
    for number, s in enumerate(slices, 1):
        for unit in units:
            unit.set_requires_gradient_sync(each or number == len(slices), recurse=False)
        yield s


common_collapse = partial(distributed.common, Collapse)  # of one process, of all


def merged(parts: list[tuple[float, dict[str, Tensor]]]) -> dict[str, float]:
    """Metrics of an optimiser step from (share, metrics) of the slices of all processes: weighted means, and maxima
    where so named."""
    parts = distributed.collect([(share, {name: v.item() for name, v in values.items()}) for share, values in parts])
    total = sum(share for share, _ in parts)
    result = {}
    for name in parts[0][1] if parts else ():
        values = [(share / total, metrics[name]) for share, metrics in parts]
        greatest = name.endswith("_max")
        result[name] = max(v for _, v in values) if greatest else sum(weight * v for weight, v in values)
    return result


def clipped(parameters: list[nn.Parameter], largest: float) -> Tensor:
    """Average the gradients over processes and clip them to a norm of ``largest``; the norm before."""
    distributed.average_gradients(parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, largest)
    return norm.full_tensor() if distributed.is_split(norm) else norm


def require_finite(metrics: dict[str, float], norms: dict[str, Tensor]) -> None:
    """Raise Collapse for the first expert whose loss, or else whose gradient, is not finite."""
    for name in norms:
        if not math.isfinite(metrics.get(f"{name}_loss", 0.0)):
            raise Collapse(f"the {name} loss is not finite")
    for name, norm in norms.items():
        if not torch.isfinite(norm):
            raise Collapse(f"the gradient of the {name} expert is not finite")
