"""Several processes on one rollout: whose episodes are whose.

The prompts of a rollout are split among the processes, each with all episodes of its groups, and the prompts of every
optimiser step are split equally. The mean over processes of losses and gradients is then what one process would compute
on all episodes. Every process draws the random numbers of all episodes and takes its rows, so no noise is repeated, and
the episodes are those of one process. With one process, every function here is the identity.
"""

from __future__ import annotations

from torch import Tensor

from unigrpo.core import distributed
from unigrpo.study.config import RLConfig


def local_rows(n_prompts: int, rl: RLConfig, which: int | None = None) -> list[int]:
    """Numbers of the episodes that process ``which`` (this one) makes of a rollout of ``n_prompts`` prompts, in order.
    They are complete groups, and every optimiser step has equally many of them."""
    processes, which = distributed.count(), distributed.rank() if which is None else which
    parts = rl.epochs if rl.epoch_convention == "halves" and processes > 1 else 1
    each, mine = n_prompts // parts, n_prompts // parts // processes
    prompts = [part * each + which * mine + i for part in range(parts) for i in range(mine)]
    return [prompt * rl.group_size + k for prompt in prompts for k in range(rl.group_size)]


def gathered(values: Tensor, n_prompts: int, rl: RLConfig) -> Tensor:
    """Values (B, ...) of all episodes of a rollout from those (b, ...) of this process's, on the CPU."""
    if distributed.count() == 1:
        return values
    parts = distributed.collect([values.detach().cpu()])
    result = parts[0].new_empty(n_prompts * rl.group_size, *values.shape[1:])
    for which, part in enumerate(parts):
        result[local_rows(n_prompts, rl, which)] = part
    return result
