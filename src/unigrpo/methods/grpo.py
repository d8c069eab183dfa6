"""GRPO on a rollout: FlowGRPO (image part), TextGRPO (text part) and UniGRPO (both) are settings of one update.

J = J_text + lambda J_flow - regularisers (paper, section 3); both parts share one advantage per episode. Old
quantities are the new ones where no update lies between, and come from a replay without gradient over the very slices
that are updated elsewhere, so every ratio is exactly 1 before the first update. Reference velocities are computed once
per rollout.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from unigrpo.episodes import rollout as episodes
from unigrpo.episodes import slices
from unigrpo.methods import MethodFacts

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.episodes.rollout import Draw, Rollout
    from unigrpo.episodes.slices import Networks, Slice
    from unigrpo.study.config import RLConfig


FACTS = MethodFacts(
    trains=(("text",), ("image",), ("text", "image")),
    noise_inside=True,
)


def roll_out(nets: Networks, draw: Draw) -> Rollout:
    """Episodes with a window of stochastic steps."""
    return episodes.roll_out(nets.model, draw)


def make_slices(nets: Networks, rollout: Rollout, advantages: dict[str, Tensor], rl: RLConfig) -> list[list[Slice]]:
    """Slices with the text and the window's steps under old and reference weights."""
    old, reference = (partial(episodes.replay, model, rl=rl) for model in (nets.model, nets.reference))
    return slices.slices(nets, rollout, advantages, rl, old, reference)


def losses(nets: Networks, s: Slice, rl: RLConfig) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """Losses are means over the slice, to be weighted by share."""
    new = episodes.replay(nets.model, s.rollout, rl)
    if "text" in rl.train:
        yield slices.text_loss(new, s, rl)
    if "image" in rl.train:
        loss, metrics = slices.window_loss(new, s, rl)
        if rl.regulariser != "none":
            loss = loss + slices.window_penalty(new, s, rl, metrics).mean()
        yield "image", rl.image_weight * loss, metrics
