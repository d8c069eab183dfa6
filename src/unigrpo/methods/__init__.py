"""Update rules of the image part: one file per rule that differs in kind, found by its name (``rl.method``).

A file ``methods/<name>.py`` provides

    NEEDS                         what it asks for beyond the policy: "old" (a second copy of the weights that makes the
                                  rollouts), "reward_gradient" (a differentiable reward) and "data" (examples of
                                  supervised fine-tuning)
    roll_out(nets, prompts, rl, max_tokens, seed, index) -> Rollout of this process's episodes (``shares.local_rows``:
                                  all of them where there is one); numbers are drawn for all, so that none is repeated
    make_slices(nets, rollout, advantages, rl) -> slices per optimiser step: what stays fixed during the updates
    losses(nets, slice, rl) -> (part, loss, metrics) of each trained part, "text" first
    follow(nets, rl, updates)       where anything follows the policy (old weights, the reference): moves it, after the
                                  updates of a rollout; ``updates`` counts those of the run

and ``train`` does the rest, the same for all: prompts, rewards, advantages, backward, optimiser, validation,
checkpoints. The text part has one rule, GRPO, which every file that trains text takes from here (``text_loss``).
"""

from __future__ import annotations

from types import ModuleType

from unigrpo.study.facts import METHODS, MethodFacts

__all__ = ["MethodFacts", "load"]


def load(name: str) -> ModuleType:
    """The update rule called ``name``. Raises UserError as :class:`unigrpo.core.registry.Door`."""
    return METHODS.load(name)
