"""The learned reward after less training: a proxy that gives way, for the study of over-optimisation.

The network and the data are those of the learned reward. A scale's settings ``weak_reward`` say what it is denied
(steps, samples); otherwise they are those of ``reward``.
"""

from rewards._support.declarations import learned_facts
from unigrpo.core.settings import Device, ExistingPath
from unigrpo.study.config import RunConfig

FACTS = learned_facts(
    what="the world's learned reward after less training, for the study of over-optimisation", trained="weak_reward"
)


def build(path: ExistingPath, device: Device = "auto"):
    """The trained reward in folder ``path``. Raises UserError where it is absent, damaged or of another shape."""
    from rewards._support.learned_model import load

    return load(path, device)


def skeleton(cfg: RunConfig):
    """The network of a run's reward without numbers, and the reward that it makes, for plans. Raises UserError."""
    from rewards._support.learned_model import skeleton

    return skeleton(cfg.weak_reward, cfg.model.image_size)
