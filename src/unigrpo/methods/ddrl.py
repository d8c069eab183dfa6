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
from unigrpo.episodes import shares, slices
from unigrpo.methods import MethodFacts, without_gradient
from unigrpo.methods import Settings as Section
from unigrpo.objectives import matching
from unigrpo.world import render

if TYPE_CHECKING:
    from torch import Tensor

    from unigrpo.core.records import Prompt
    from unigrpo.episodes.rollout import Rollout
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
    evaluations=lambda rl: rl.window_size * (2 if rl.guidance > 1 else 1),
    needs=("sft_data",),
    extra_evaluations=lambda rl: 1,
    holds=("data (DDRL)", "data_weight"),
)


def make_slices(nets: Networks, rollout: Rollout, advantages: Tensor, rl: RLConfig) -> list[list[Slice]]:
    """GRPO's slices."""
    old, reference = (partial(episodes.replay, model, rl=rl) for model in (nets.model, nets.reference))
    return slices.slices(nets, rollout, advantages, rl, old, reference)


@without_gradient
def roll_out(nets: Networks, prompts: list[Prompt], rl: RLConfig, max_tokens: int, seed: int, index: int) -> Rollout:
    """GRPO's episodes, and an example of the data beside each: its prompt and trace, latents (B, *L), noise (B, *L)
    and times (B,)."""
    rollout = episodes.roll_out(nets.model, prompts, rl, max_tokens, seed, index)
    rng, model = seeding.numpy_generator(seed, "data", index), nets.model
    rows = shares.local_rows(len(prompts), rl)
    drawn = [nets.data.example(prompt, rng, rl.thinking) for prompt in prompts for _ in range(rl.group_size)]
    examples = [drawn[i] for i in rows]
    images = torch.from_numpy(render.render([e.scene for e in examples], model.image_size)).permute(0, 3, 1, 2) / 255
    clean = model.encode_images(images.float().to(model.device))
    generator = seeding.generator(seed, "data noise", index)
    noise = torch.randn(len(drawn), *clean.shape[1:], generator=generator)[rows].to(clean)
    times = nets.data.times(len(drawn), generator)[rows].to(clean)
    texts, traces = [e.prompt for e in examples], [e.trace for e in examples]
    return replace(rollout, columns={"texts": texts, "traces": traces, "clean": clean, "noise": noise, "times": times})


def data_loss(model: UnifiedModel, data: dict, through_context: bool) -> Tensor:
    """Flow-matching loss of the examples, a mean over numbers and examples; it reaches the reasoning expert where the
    image's loss does."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and through_context):
        _, context = model.encode(model.prompt_ids(data["texts"]), model.trace_from_texts(data["traces"]))
    noise, times = data["noise"][:, None], data["times"][:, None]
    x = matching.noised(data["clean"], noise, times)[:, 0]
    velocity = model.velocity(context if through_context else context.detach(), x, data["times"])
    return matching.flow_matching_loss(velocity[:, None], data["clean"], noise).mean()


def losses(nets: Networks, s: Slice, rl: RLConfig) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """GRPO's losses, the image's with the loss on the data."""
    new = episodes.replay(nets.model, s.rollout, rl)
    if "text" in rl.train:
        yield slices.text_loss(new, s, rl)
    loss, metrics = slices.window_loss(new, s, rl)
    on_data = data_loss(nets.model, s.rollout.columns, rl.gradient_through_context)
    metrics["data"] = on_data.detach()
    yield "image", rl.image_weight * loss + rl.image_weight * rl.data_weight * on_data, metrics
