"""Which expert of the Mixture-of-Transformers a parameter belongs to, by its name. Imports no torch."""

from __future__ import annotations

IMAGE_ONLY = ("vae2llm", "llm2vae", "time_embedder")
ADAPTER = "lora_"  # in the names of adapters, which are trained in the place of the weights
FIXED = ("latent_pos_embed", "vit_pos_embed", "vit_model", "connector")  # position tables; what reads pictures


def expert_of(name: str) -> str | None:
    """``text`` = reasoning (understanding), ``image`` = denoising (generation); None for what is not trained."""
    if name.startswith(FIXED):
        return None
    return "image" if "_moe_gen" in name or name.startswith(IMAGE_ONLY) else "text"
