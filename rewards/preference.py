"""The preference reward: a learned reward of which of two images of a prompt an annotator prefers.

The network and the data are those of the learned reward. Its score is the sigmoid of the utility that explains the
answers of a simulated annotator, who errs and is swayed by fuller pictures (``_support/preferences.py``): a proxy with
a fault of a known kind, for the study of over-optimisation.
"""

from rewards._support.declarations import learned_facts
from unigrpo.core.settings import Device, ExistingPath
from unigrpo.study.config import RunConfig

FACTS = learned_facts(
    what="the world's reward of preferences between pairs, by an annotator who likes objects",
    trained="preference_reward",
)


def build(path: ExistingPath, device: Device = "auto"):
    """The trained reward in folder ``path``. Raises UserError where it is absent, damaged or of another shape."""
    from rewards._support.learned_model import load

    return load(path, device)


def skeleton(cfg: RunConfig):
    """The network of a run's reward without numbers, and the reward that it makes, for plans. Raises UserError."""
    from rewards._support.learned_model import skeleton

    return skeleton(cfg.preference_reward, cfg.model.image_size)
