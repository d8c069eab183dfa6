"""Data regularisation (DDRL, arXiv 2512.04332), an alternative to a reference: GRPO, and in place of its penalty the
flow-matching loss on the data of supervised fine-tuning, which is a forward KL from the data to the policy.

Every episode is given one example of those data for its own prompt, with a noise and a time, drawn with the rollout.
The paper also transforms rewards (-exp of minus the advantage); here the advantages are GRPO's, so that a comparison
with the penalties is one of regularisers alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unigrpo.core import seeding
from unigrpo.core.records import Prompt
from unigrpo.episodes import shares
from unigrpo.episodes.rollout import ImageTrack, Rollout
from unigrpo.episodes.slices import Networks, Slice
from unigrpo.methods import grpo
from unigrpo.models.base import UnifiedModel
from unigrpo.objectives.matching import flow_matching_loss, noised
from unigrpo.study.config import RLConfig
from unigrpo.world.render import render

NEEDS = ("data",)

make_slices = grpo.make_slices


@dataclass(frozen=True)
class DataTrack(ImageTrack):
    """B image trajectories, with an example each: its prompt and trace, latents (B, *L), noise (B, *L), times (B,)."""

    texts: list[str]
    traces: list[str | None]
    clean: Tensor
    data_noise: Tensor
    data_times: Tensor

    def select(self, rows: list[int]) -> DataTrack:
        lists = {name: [getattr(self, name)[i] for i in rows] for name in ("texts", "traces")}
        tensors = {name: getattr(self, name)[rows] for name in ("clean", "data_noise", "data_times")}
        return DataTrack(**vars(super().select(rows)), **lists, **tensors)


@torch.no_grad()
def roll_out(nets: Networks, prompts: list[Prompt], rl: RLConfig, max_tokens: int, seed: int, index: int) -> Rollout:
    """GRPO's episodes, and an example of the data beside each."""
    rollout = grpo.roll_out(nets, prompts, rl, max_tokens, seed, index)
    rng, model = seeding.numpy_generator(seed, "data", index), nets.model
    rows = shares.local_rows(len(prompts), rl)
    drawn = [nets.data.example(prompt, rng, rl.thinking) for prompt in prompts for _ in range(rl.group_size)]
    examples = [drawn[i] for i in rows]
    images = torch.from_numpy(render([e.scene for e in examples], model.image_size)).permute(0, 3, 1, 2) / 255
    clean = model.encode_images(images.float().to(model.device))
    generator = seeding.generator(seed, "data noise", index)
    noise = torch.randn(len(drawn), *clean.shape[1:], generator=generator)[rows].to(clean)
    times = nets.data.times(len(drawn), generator)[rows].to(clean)
    texts, traces = [e.prompt for e in examples], [e.trace for e in examples]
    return replace(rollout, image=DataTrack(**vars(rollout.image), texts=texts, traces=traces, clean=clean,
                                            data_noise=noise, data_times=times))  # fmt: skip


def data_loss(model: UnifiedModel, track: DataTrack, through_context: bool) -> Tensor:
    """Flow-matching loss of the examples, a mean over numbers and examples; it reaches the reasoning expert where the
    image's loss does."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and through_context):
        _, context = model.encode(model.prompt_ids(track.texts), model.trace_from_texts(track.traces))
    noise, times = track.data_noise[:, None], track.data_times[:, None]
    x = noised(track.clean, noise, times)[:, 0]
    velocity = model.velocity(context if through_context else context.detach(), x, track.data_times)
    return flow_matching_loss(velocity[:, None], track.clean, noise).mean()


def losses(nets: Networks, s: Slice, rl: RLConfig) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
    """GRPO's losses, the image's with the loss on the data."""
    for part, loss, metrics in grpo.losses(nets, s, rl):
        if part == "image":
            on_data = data_loss(nets.model, s.rollout.image, rl.gradient_through_context)
            metrics["data"] = on_data.detach()
            loss = loss + rl.image_weight * rl.data_weight * on_data
        yield part, loss, metrics
