"""Several processes on one rollout: whose episodes are whose.

The episodes of every optimiser step are split equally among the processes, whole groups or not: rewards are gathered
before they are compared. The mean over processes of losses and gradients is then what one process would compute on all
episodes. With one process, every function here is the identity.
"""

from torch import Tensor

from unigrpo.core import distributed
from unigrpo.study.config import RLConfig


def local_rows(n_episodes: int, rl: RLConfig, which: int | None = None) -> list[int]:
    """Numbers of the episodes that process ``which`` (this one) makes of a rollout of ``n_episodes``, in order: equally
    many neighbours of every optimiser step."""
    processes, which = distributed.count(), distributed.rank() if which is None else which
    steps = rl.epochs if rl.epoch_convention == "halves" else 1
    each, mine = n_episodes // steps, n_episodes // steps // processes
    return [step * each + which * mine + i for step in range(steps) for i in range(mine)]


def gathered(values: Tensor, n_episodes: int, rl: RLConfig) -> Tensor:
    """Values (B, ...) of all episodes of a rollout from those (b, ...) of this process's, on the CPU."""
    if distributed.count() == 1:
        return values
    parts = distributed.collect([values.detach().cpu()])
    result = parts[0].new_empty(n_episodes, *values.shape[1:])
    for which, part in enumerate(parts):
        result[local_rows(n_episodes, rl, which)] = part
    return result
