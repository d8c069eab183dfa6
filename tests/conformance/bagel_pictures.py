"""Cases F and G of the BAGEL vectors: text after a picture, and a picture painted after a picture (editing)."""

from __future__ import annotations

import torch

from tests.conformance.bagel_guided import Guidance, velocity
from tests.conformance.bagel_vectors import Vectors, in_sequence
from tests.conformance.checking import Check
from unigrpo.models.mot_layers import patchify, position_ids


def seeing(file: Vectors) -> list[Check]:
    """A picture through the ViT, and the greedy answer to a question about it."""
    model, pixels = file.model, file.input("F.image")[None]
    patches = patchify(pixels, model.vit.patch)
    places = position_ids(*(n // model.vit.patch for n in pixels.shape[-2:]), model.vit.side)
    seen = model.vit_model["vision_model"](patches, places)
    context = model.read_picture(model.empty_context(1), pixels)
    return [
        file.check("F.patches", patches[0]),
        file.check("F.vit_position_ids", places),
        file.check("F.vit_output", seen[0]),
        file.check("F.connector_output", model.connector(seen)[0]),
        file.check("F.block_embeddings", model.embed_picture(pixels)[0]),
        file.check("F.cache_k", torch.stack(context.keys)[:, 0].transpose(1, 2)),
        file.check("F.cache_v", torch.stack(context.values)[:, 0].transpose(1, 2)),
        file.check("F.question_position0", context.rope[0]),
        *file.greedy("F", file.read(file.input("F.question_ids"), context)),
    ]


def editing(file: Vectors) -> list[Check]:
    """Velocities after a picture, read as latents and through the ViT, and a prompt; with and without guidance."""
    model, latent, given = file.model, file.input("G.latent"), file.parameters
    patch = model.config.latent_patch
    grid = latent.shape[-2] // patch, latent.shape[-1] // patch
    tokens, empty = patchify(latent, patch), model.empty_context(1)
    block = model.embed_block(tokens, torch.zeros(1), grid)
    detailed = model.read_latents(empty, tokens, grid)
    keys = torch.stack([in_sequence([k[:, :2], k[:, 2:]]) for k in (k.transpose(1, 2) for k in detailed.keys)])
    pictured = model.read_picture(detailed, file.input("F.image")[None])
    contexts = [file.read(file.input("B.prompt_ids"), pictured), pictured, file.prompt()]
    x, t = file.input("G.x")[None], torch.tensor([given["G_t"]])
    guidance = Guidance(given["G_text"], given["G_img"], renorm="text_channel")
    return [
        file.check("G.vae_block_embeddings", in_sequence(block)),
        file.check("G.vae_block_cache_k", keys),
        file.check("G.positions", torch.cat([context.rope for context in contexts])),
        file.check("G.velocity", model.velocity(contexts[0], x, t, grid)),
        file.check("G.velocity_cfg", velocity(model, contexts, x, t, grid, guidance)),
    ]
