"""Data regularisation (DDRL, arXiv 2512.04332), an alternative to a reference: GRPO, and in place of its penalty the
flow-matching loss on the data of supervised fine-tuning, which is a forward KL from the data to the policy.

Every episode gets one example of those data for its prompt, with a noise and a time, drawn with the rollout. The paper
also transforms rewards (-exp of minus the advantage). Here the advantages are GRPO's, so that a comparison with the
penalties is one of regularisers alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from pydantic import model_validator

from unigrpo.core import seeding
from unigrpo.core.lazy import lazy
from unigrpo.core.settings import Positive, require
from unigrpo.episodes import rollout as episodes
from unigrpo.episodes import slices
from unigrpo.methods import MethodFacts, without_gradient
from unigrpo.methods import Settings as Section
from unigrpo.models import base
from unigrpo.objectives import matching
from unigrpo.sampling import engine
from unigrpo.world import render

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.episodes.rollout import Draw, Rollout
    from unigrpo.episodes.slices import Networks, Slice
    from unigrpo.models.base import UnifiedModel
    from unigrpo.study.config import RLConfig

torch = lazy("torch")


class Settings(Section):
    """What a run may set of it."""

    data_weight: Positive = 1.0  # of the flow-matching loss on SFT's data

    @model_validator(mode="after")
    def _takes_the_place(self):
        require(self.regulariser == "none", "rl.regulariser", "none for this method: its loss on data takes the place")
        return self


FACTS = MethodFacts(
    trains=(("image",), ("text", "image")),
    noise_inside=True,
    needs=("sft_data",),
    holds=("data (DDRL)", "data_weight"),
)


def make_slices(nets: Networks, rollout: Rollout, advantages: dict[str, Tensor], rl: RLConfig) -> list[list[Slice]]:
    """GRPO's slices."""
    old, reference = (partial(episodes.replay, model, rl=rl) for model in (nets.model, nets.reference))
    return slices.slices(nets, rollout, advantages, rl, old, reference)


@without_gradient
def roll_out(nets: Networks, draw: Draw) -> Rollout:
    """GRPO's episodes, and an example of the data beside each: its prompt and trace, latents (B, *L), noise (B, *L)
    and times (B,)."""
    rollout, model, seed = episodes.roll_out(nets.model, draw), nets.model, draw.seed
    names = [job.name for job in rollout.jobs]
    streams = [seeding.numpy_generator(seed, "data", *name) for name in names]
    thinking = draw.rl.thinking
    examples = [nets.data.example(p, rng, thinking) for p, rng in zip(rollout.prompts, streams, strict=True)]
    images = torch.from_numpy(render.render([e.scene for e in examples], model.image_size)).permute(0, 3, 1, 2) / 255
    clean = model.encode_images(images.float().to(model.device))
    noise = engine.normal(seed, "data noise", names, clean.shape[1:]).to(clean)
    times = torch.cat([nets.data.times(1, seeding.generator(seed, "data time", *name)) for name in names]).to(clean)
    texts, traces = [e.prompt for e in examples], [e.trace for e in examples]
    return replace(rollout, columns={"texts": texts, "traces": traces, "clean": clean, "noise": noise, "times": times})


def data_loss(model: UnifiedModel, data: dict, through_context: bool) -> Tensor:
    """Flow-matching loss of the examples, a mean over numbers and examples; it reaches the reasoning expert where the
    image's loss does."""
    noise, times = data["noise"][:, None], data["times"][:, None]
    states = base.States(matching.noised(data["clean"], noise, times), times)
    trace = model.trace_from_texts(data["traces"])
    ids = model.prompt_ids(data["texts"])
    velocity = model.replay(ids, [trace, states], ("full",), through=through_context)[1]["full"]
    return matching.flow_matching_loss(velocity, data["clean"], noise).mean()


def losses(nets: Networks, s: Slice, rl: RLConfig) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """GRPO's losses, the image's with the loss on the data."""
    new = episodes.replay(nets.model, s.rollout, rl)
    if "text" in rl.train:
        yield slices.text_loss(new, s, rl)
    loss, metrics = slices.window_loss(new, s, rl)
    on_data = data_loss(nets.model, s.rollout.columns, rl.gradient_through_context)
    metrics["data"] = on_data.detach()
    yield "image", rl.image_weight * loss + rl.image_weight * rl.data_weight * on_data, metrics
