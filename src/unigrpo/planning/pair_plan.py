"""What a run of adapters needs (``backbone: llm_dit``), for ``unigrpo.planning``: the memory of both phases on one device.

As ``reinforcement`` does it for the Mixture-of-Transformers: a rollout at once, all activations kept, episodes alone
divided among devices. Hours are not told: they hang on how fast the language model writes, which no formula here
knows. Imports no torch.
"""

from __future__ import annotations

from unigrpo.core.settings import replace
from unigrpo.planning import cost, pair_sizes, sizes
from unigrpo.planning.layout import GUIDANCE, Device, check_split, heading, largest, table
from unigrpo.planning.pair_sizes import BYTES, Painter, Reasoner
from unigrpo.planning.sizes import FLOAT
from unigrpo.study.config import RunConfig

DECODER_CHANNELS = 256  # of the autoencoder at full resolution
KINDS = ("weights", "adapters", "activations", "KV cache", "latents")


def memory(cfg: RunConfig, p: Painter, r: Reasoner, gpus: int = 1) -> dict[str, dict[str, int]]:
    """Bytes on each of ``gpus`` devices by kind in each phase, ``rollout`` and ``update``; the reward's weights are
    left out."""
    rl, kind, image = cfg.rl, BYTES[cfg.precision], "image" in cfg.rl.train
    episodes = rl.prompts_per_rollout * rl.group_size // gpus
    b = sizes.batch(cfg, min(rl.micro_batch, episodes // rl.epochs))
    held = pair_sizes.adapters(cfg, p, r)
    trained, everything = sum(held[part] for part in rl.train), sum(held.values())
    copies = 3 if rl.method == "nft" else 2  # policy and reference
    pixels, token = cfg.model.image_size**2, cfg.model.latent_patch**2 * cfg.model.latent_channels
    standing = {
        "weights": kind * (p.transformer + p.encoders + r.numbers) + FLOAT * p.autoencoder,
        # the window's states and noise, what old and reference weights say of them, and the pictures
        "latents": episodes * FLOAT * (7 * b.tokens * token * max(b.steps, 1) + 3 * pixels),
    }
    seen = b.tokens + pair_sizes.TEXT_TOKENS
    transient = max(
        episodes * seen * 10 * p.width * kind,  # a layer's MLP of all pictures
        pair_sizes.ENCODED * pair_sizes.WIDEST_ENCODER * kind,
        3 * DECODER_CHANNELS * pixels * FLOAT,
    )
    rollout = {
        "adapters": FLOAT * copies * everything,
        "activations": transient,
        "KV cache": episodes * (b.prompt + b.trace) * r.layers * 2 * r.kv * kind,
    }
    rank, rows = rl.lora_rank, b.steps * b.episodes
    learning = pair_sizes.image_activations(p, rank, cfg.precision, rows, b.tokens) if image else 0
    if "text" in rl.train:
        learning += pair_sizes.text_activations(r, rank, cfg.precision, b)
        learning += 2 * FLOAT * b.episodes * b.trace * r.vocabulary  # logits and their gradient
    update = {
        "adapters": FLOAT * (copies * everything + 3 * trained),  # gradients and both moments
        "activations": learning,
        "KV cache": 0,
    }
    return {name: standing | phase for name, phase in (("rollout", rollout), ("update", update))}


def report(cfg: RunConfig, base: RunConfig, gpus: int, device: Device) -> tuple[list[str], bool]:
    """The lines that the command prints, and whether the run fits ``gpus`` such devices. ``base`` names the two
    releases. Raises UserError for one whose sizes are not known."""
    p, r = pair_sizes.painter(base.released), pair_sizes.reasoner(base.language_model)
    check_split(cfg, gpus)
    phases, told = memory(cfg, p, r, gpus), cost.reinforcement(cfg, GUIDANCE)
    held, b = pair_sizes.adapters(cfg, p, r), sizes.batch(cfg, 1)
    lines = [heading(cfg, gpus, device)]
    lines.append(f"language model  {r.numbers:,} numbers, adapters {held['text']:,}: {base.language_model}")
    lines.append(f"pipeline        {p.transformer:,} numbers, adapters {held['image']:,}: {base.released}")
    lines.append(f"  and           {p.encoders:,} in its text encoders, {p.autoencoder:,} in its autoencoder")
    lines += table(phases, KINDS, "   without the reward's weights")
    each = told["updates"]
    evaluations, tokens = (told[f"update_{kind}_at_most"] // each for kind in ("image_evaluations", "text_tokens"))
    image = pair_sizes.image_flops(p, b.tokens) * (told["rollout_image_evaluations"] // each + 2 * evaluations)
    text = pair_sizes.text_flops(r) * (told["rollout_text_tokens_at_most"] // each + 2 * tokens)
    lines.append(
        f"an update     {evaluations:,} image evaluations with gradient and"
        f" {told['rollout_image_evaluations'] // each:,} in its rollout, {tokens:,} tokens of traces at most;"
        f" {image:.2e} and {text:.2e} FLOPs"
    )
    fits = largest(phases) <= device.room
    lines.append(f"fits          {'yes' if fits else 'no'}: {largest(phases) / 1e9:.1f} GB")
    if not fits:
        lines.append(remedy(cfg, p, r, gpus, device.room))
    return lines, fits


def remedy(cfg: RunConfig, p: Painter, r: Reasoner, gpus: int, room: float) -> str:
    """The settings that would make it fit: fewer episodes of a backward pass, then fewer of a rollout."""

    def need(**changes) -> int:
        return largest(memory(replace(cfg, rl=replace(cfg.rl, **changes)), p, r, gpus))

    for prompts in range(cfg.rl.prompts_per_rollout, 0, -cfg.rl.epochs * gpus):
        for micro in range(cfg.rl.micro_batch, 0, -1):
            if need(micro_batch=micro, prompts_per_rollout=prompts) <= room:
                return f"it would with rl.micro_batch: {micro}, rl.prompts_per_rollout: {prompts}"
    return "it would not with any batch: a larger device, a smaller release, or fewer pixels"
