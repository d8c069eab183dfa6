"""The KL divergence between transitions, which UniGRPO replaces (paper, section 3.3)."""

from typing import Literal

from unigrpo.core.settings import NotNegative
from unigrpo.core.settings import Settings as Section
from unigrpo.objectives import image_losses
from unigrpo.study.facts import RegulariserFacts

FACTS = RegulariserFacts(weight="latent_kl_weight", label="latent KL", needs_noise=True)


class Settings(Section):
    """What a run may set of it."""

    latent_kl_weight: NotNegative = 20.0
    latent_kl_variant: Literal["exact", "flow_grpo"] = "exact"  # flow_grpo: of public code, |dt| times the exact one


def distance(new, reference, rl):
    """(B, S) nats per latent element, from means (B, S, *L) and standard deviations (S,) of the transitions."""
    std = new.std if rl.latent_kl_variant == "exact" else new.sigma
    return image_losses.latent_kl(new.mean, reference.mean, std)
