"""UniGRPO's regulariser: the mean squared difference of velocities (paper, section 3.3)."""

from unigrpo.core.settings import NotNegative
from unigrpo.core.settings import Settings as Section
from unigrpo.objectives import image_losses
from unigrpo.study.facts import RegulariserFacts

FACTS = RegulariserFacts(weight="velocity_mse_weight", label="velocity MSE")


class Settings(Section):
    """What a run may set of it."""

    velocity_mse_weight: NotNegative = 1.0


def distance(new, reference, rl):
    """(B, S) mean over latent elements, from velocities (B, S, *L)."""
    return image_losses.velocity_mse(new.velocity, reference.velocity)
