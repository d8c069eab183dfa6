"""What is known of a Mixture-of-Transformers without torch: whose a parameter is, and its card in words."""

TIME_FEATURES = 256
IMAGE_ONLY = ("vae2llm", "llm2vae", "time_embedder")
ADAPTER = "lora_"  # in the names of adapters, which are trained in the place of the weights
FIXED = ("latent_pos_embed", "vit_pos_embed", "vit_model", "connector")  # position tables; what reads pictures


def expert_of(name: str) -> str | None:
    """``text`` = reasoning (understanding), ``image`` = denoising (generation); None for what is not trained."""
    if name.startswith(FIXED):
        return None
    return "image" if "_moe_gen" in name or name.startswith(IMAGE_ONLY) else "text"


def summary(card: dict) -> str:
    """The network in one line, from model.json. Raises KeyError."""
    a = card["architecture"]
    sizes = f"{a['layers']} layers, hidden size {a['hidden_size']}, {a['heads']} heads, {a['vocab_size']} tokens"
    return f"Mixture-of-Transformers, {sizes}"
