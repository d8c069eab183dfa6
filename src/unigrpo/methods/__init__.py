"""Update rules of the image part: one file per rule that differs in kind, found by its name (``rl.method``).

A file ``methods/<name>.py`` provides

    FACTS                         a :class:`MethodFacts`: the parts that it trains, whether it draws noise inside the
                                  trajectory, what it needs, and what an episode costs
    Settings                      where it has settings: a subclass of :class:`Settings` with types and ranges
    roll_out(nets, draw) -> Rollout of this process's episodes (all of them where there is one process); ``draw`` is a
                                  :class:`unigrpo.episodes.rollout.Draw`, whose jobs it may replace
    make_slices(nets, rollout, advantages, rl) -> slices per optimiser step: what stays fixed during the updates
    losses(nets, slice, rl) -> (part, loss, metrics) of each trained part, "text" first

and may provide

    follow(nets, rl, updates)     moves what follows the policy (its copies, the reference), after the updates of a
                                  rollout; ``updates`` counts those of the run
    phase(rl, index)              the settings of rollout ``index``, where these change on the way (``train``, ...)
    advantages(rewards, rl) -> advantages (B,) of each part, from the rewards (B,) of all episodes by name: ``reward``,
                                  what is trained on, and the parts of a weighted sum

and ``training`` does the rest, the same for all: prompts, rewards, advantages, backward, optimiser, validation,
checkpoints. The text part has one rule, GRPO, which every file that trains text takes from ``episodes.slices``. A
variant may take over what it does not change: ``from unigrpo.methods.grpo import *``. The workflow reads facts and
settings whenever it is parsed, so the files here import modules that load when they are first used.
"""

from collections.abc import Callable
from functools import wraps

from unigrpo.core.lazy import lazy
from unigrpo.core.settings import Settings
from unigrpo.study.facts import MethodFacts

__all__ = ["MethodFacts", "Settings", "without_gradient"]

torch = lazy("torch")


def without_gradient(function: Callable) -> Callable:
    """The function, run without recording gradients; torch is loaded when it is called."""

    @wraps(function)
    def call(*args, **kwargs):
        with torch.no_grad():
            return function(*args, **kwargs)

    return call
