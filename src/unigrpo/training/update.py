"""Gradients of one slice: the loss of each part, and where it reaches."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

from torch import Tensor

from unigrpo.episodes.slices import Networks, Slice
from unigrpo.study.config import RLConfig


def accumulate(method: ModuleType, nets: Networks, s: Slice, rl: RLConfig, accelerator) -> dict[str, Tensor]:
    """Add the gradients of one slice. At a stage boundary the image loss reaches the denoising expert only."""
    metrics, joint = {}, []
    for part, loss, measured in in_precision(method.losses(nets, s, rl), accelerator):
        metrics |= {f"{part}_{name}": value for name, value in measured.items()} | {f"{part}_loss": loss.detach()}
        if part == "image" and not rl.gradient_through_context:
            backward_into(nets, "image", loss * s.share, accelerator)
        else:
            joint.append(loss * s.share)
    if joint:
        accelerator.backward(sum(joint))
    return metrics


def backward_into(nets: Networks, part: str, loss: Tensor, accelerator) -> None:
    """Add the gradients of one expert alone."""
    experts = nets.model.expert_parameters()
    inputs = [p for p in experts.pop(part) if p.requires_grad]
    if not nets.even:
        return accelerator.backward(loss, inputs=inputs)
    others = [(p, None if p.grad is None else p.grad.clone()) for rest in experts.values() for p in rest]
    accelerator.backward(loss)  # the parts of a split network are no leaves of the graph
    for parameter, before in others:
        parameter.grad = before


def in_precision(items: Iterator, accelerator) -> Iterator:
    """The items of an iterator, each computed under the accelerator's autocast; what is done with one is not."""
    while True:
        with accelerator.autocast():
            item = next(items, None)
        if item is None:
            return
        yield item
