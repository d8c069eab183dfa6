"""The learned reward: P(the image shows what the prompt asks), in [0, 1], differentiable in the pixels.

It plays the role of the paper's RewardDance model (section 4.1). Its network is ``_support/learned_model.py``, and its
training ``_support/learned_training.py``.
"""

from rewards._support.declarations import learned_facts
from unigrpo.core.settings import Device, ExistingPath
from unigrpo.study.config import RunConfig

FACTS = learned_facts(what="the world's learned reward: P(the image shows what the prompt asks)", trained="reward")


def build(path: ExistingPath, device: Device = "auto"):
    """The trained reward in folder ``path``. Raises UserError where it is absent, damaged or of another shape."""
    from rewards._support.learned_model import load

    return load(path, device)


def skeleton(cfg: RunConfig):
    """The network of a run's reward without numbers, and the reward that it makes, for plans. Raises UserError."""
    from rewards._support.learned_model import skeleton

    return skeleton(cfg.reward, cfg.model.image_size)
