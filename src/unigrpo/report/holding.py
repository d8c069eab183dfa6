"""What holds a reinforced run near its start, read from its configuration."""

from __future__ import annotations

from collections.abc import Mapping


def regulariser(config: Mapping) -> tuple[str | None, float | None]:
    """What holds a run near its start, in words, and its weight: of the image's regulariser, or where only the text
    has one of that. ("none", None) where nothing does; (None, None) without a configuration."""
    if not (rl := config.get("rl")):
        return None, None
    name, weight = _of_image(rl)
    if "text" not in rl["train"] or not rl["kl_text"]:
        return name, weight
    text = f"text KL at {rl['kl_text']:g}"
    return ("text KL", rl["kl_text"]) if name == "none" else (f"{name} + {text}", weight)


def _of_image(rl: Mapping) -> tuple[str, float | None]:
    if "image" not in rl["train"]:
        return "none", None
    if rl["method"] == "ddrl":
        return "flow matching on SFT's data (DDRL)", rl["data_weight"]
    if rl["method"] == "gardo":
        share = f"{rl['gardo_share']:.0%}"
        return f"velocity MSE on the {share} most uncertain, moving reference (GARDO)", rl["velocity_mse_weight"]
    names = {"latent_kl": "latent KL", "velocity_mse": "velocity MSE"}
    kind = rl["regulariser"]
    return (names[kind], rl[f"{kind}_weight"]) if kind in names else ("none", None)
