"""What a run needs that trains adapters of released models alone: the memory of both phases on one device.

As ``reinforcement_plan`` does it for the Mixture-of-Transformers: a rollout at once, all activations stored, episodes
alone divided among devices. Hours are left out: they hang on how fast the language model writes, which no formula here
knows. Imports no torch.
"""

from __future__ import annotations

from unigrpo.core.errors import UserError
from unigrpo.core.settings import replace
from unigrpo.planning import cost
from unigrpo.planning.layout import GUIDANCE, Device, batch, copies, heading, largest, table
from unigrpo.study.config import RunConfig
from unigrpo.study.facts import BACKBONES

KINDS = ("weights", "adapters", "activations", "KV cache", "latents")


def memory(cfg: RunConfig, sizes, gpus: int = 1) -> dict[str, dict[str, int]]:
    """Bytes on each of ``gpus`` devices by kind in each phase, ``rollout`` and ``update``; the reward's weights are
    left out. ``sizes``: what the backbone knows of its releases."""
    rl = cfg.rl
    episodes = rl.prompts_per_rollout * rl.group_size // gpus
    b = batch(cfg, min(rl.micro_batch, episodes // rl.epochs))
    return sizes.memory(cfg, b, episodes, 1 + copies(rl))


def report(cfg: RunConfig, base: RunConfig, gpus: int, device: Device) -> tuple[list[str], bool]:
    """The lines of a plan, and whether the run fits ``gpus`` such devices. ``base`` names the releases. Raises
    UserError for one whose sizes are not known."""
    if cfg.stage != "rl":
        raise UserError(f"--run {cfg.run}: expected a run that is reinforced for backbone: {cfg.backbone}")
    sizes = BACKBONES.load(cfg.backbone).sizes(cfg, base)
    phases, counts = memory(cfg, sizes, gpus), cost.reinforcement(cfg, GUIDANCE)
    lines = [heading(cfg, gpus, device), *sizes.lines(cfg, base)]
    lines += table(phases, KINDS, "   without the reward's weights")
    each = counts["updates"]
    evaluations, tokens = (counts[f"update_{kind}_at_most"] // each for kind in ("image_evaluations", "text_tokens"))
    image, text = sizes.flops(batch(cfg, 1).tokens)
    image *= counts["rollout_image_evaluations"] // each + 2 * evaluations
    text *= counts["rollout_text_tokens_at_most"] // each + 2 * tokens
    lines.append(
        f"an update     {evaluations:,} image evaluations with gradient and"
        f" {counts['rollout_image_evaluations'] // each:,} in its rollout, {tokens:,} tokens of traces at most;"
        f" {image:.2e} and {text:.2e} FLOPs"
    )
    fits = largest(phases) <= device.room
    lines.append(f"fits          {'yes' if fits else 'no'}: {largest(phases) / 1e9:.1f} GB")
    return lines if fits else [*lines, remedy(cfg, sizes, gpus, device.room)], fits


def remedy(cfg: RunConfig, sizes, gpus: int, room: float) -> str:
    """The settings that would make it fit: fewer episodes of a backward pass, then fewer of a rollout."""
    for prompts in range(cfg.rl.prompts_per_rollout, 0, -cfg.rl.epochs * gpus):
        for micro in range(cfg.rl.micro_batch, 0, -1):
            changed = replace(cfg, rl=replace(cfg.rl, micro_batch=micro, prompts_per_rollout=prompts))
            if largest(memory(changed, sizes, gpus)) <= room:
                return f"it would with rl.micro_batch: {micro}, rl.prompts_per_rollout: {prompts}"
    return "it would not with any batch: a larger device, a smaller release, or fewer pixels"
