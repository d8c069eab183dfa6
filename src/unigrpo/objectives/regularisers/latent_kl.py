"""The KL divergence between transitions, which UniGRPO replaces (paper, section 3.3)."""

from __future__ import annotations

from unigrpo.core.settings import NotNegative
from unigrpo.core.settings import Settings as Section
from unigrpo.objectives import image_losses
from unigrpo.study.facts import RegulariserFacts

FACTS = RegulariserFacts(weight="latent_kl_weight", label="latent KL", needs_noise=True)


class Settings(Section):
    """What a run may set of it."""

    latent_kl_weight: NotNegative = 20.0


def distance(new, reference):
    """(B, S) nats per latent element, from means (B, S, *L) and standard deviations (S,) of the transitions."""
    return image_losses.latent_kl(new.mean, reference.mean, new.std)
