"""What holds a run near its start, in words, from its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unigrpo.core.errors import UserError

NONE, KL, MSE = "none", "latent KL", "velocity MSE"
TEXT, DATA, GATED = "velocity MSE + text KL", "data (DDRL)", "gated velocity MSE (GARDO)"
KINDS = (NONE, KL, MSE, TEXT, DATA, GATED)


@dataclass(frozen=True)
class Regulariser:
    """``kind``, one of KINDS, and the weight that is varied in it; None without a regulariser."""

    kind: str
    weight: float | None


def regulariser(config: Mapping) -> Regulariser:
    """The regulariser of a reinforced run. Raises UserError for a run of another stage."""
    if config.get("stage") != "rl":
        raise UserError(f"{config.get('run')}: expected a reinforced run, found stage {config.get('stage')!r}")
    rl = config["rl"]
    if rl["method"] == "ddrl":
        return Regulariser(DATA, rl["data_weight"])
    if rl["method"] == "gardo":
        return Regulariser(GATED, rl["velocity_mse_weight"])
    if rl["regulariser"] == "latent_kl":
        return Regulariser(KL, rl["latent_kl_weight"])
    if rl["regulariser"] == "velocity_mse":
        text = "text" in rl["train"] and rl["kl_text"] > 0
        return Regulariser(TEXT, rl["kl_text"]) if text else Regulariser(MSE, rl["velocity_mse_weight"])
    return Regulariser(NONE, None)
