"""Several processes on one run: whose episodes are whose, and what they agree on.

The prompts of a rollout are split among the processes, whole groups each, and those of every optimiser step equally,
so that the mean over processes of losses and gradients is what one process would compute on all of them. Random numbers
are drawn for the whole rollout by every process, which takes its own rows: nobody repeats another's noise, and the
episodes are those of one process. With one process, every function here is the identity.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch import distributed as dist

from unigrpo.core.errors import UserError
from unigrpo.study.config import RLConfig, RunConfig


def count() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this one, from 0."""
    return dist.get_rank() if count() > 1 else 0


def is_main() -> bool:
    """Whether this one writes files and tells of progress."""
    return rank() == 0


def check_launch(cfg: RunConfig) -> None:
    """Raise UserError where another number of processes was started than the configuration asks for."""
    started, asked = int(os.environ.get("WORLD_SIZE", 1)), cfg.launched
    if started != asked:
        how = f"accelerate launch --num_processes {asked}" if asked > 1 else "python"
        module = "unigrpo.training.reinforcement" if cfg.stage == "rl" else "unigrpo.training.supervised"
        raise UserError(f"processes: {asked} by the configuration, {started} started; start with {how} -m {module}")


def episodes(n_prompts: int, rl: RLConfig, which: int | None = None) -> list[int]:
    """Numbers of the episodes that process ``which`` (this one) makes of a rollout of ``n_prompts`` prompts, in order.
    They belong to whole groups, and to every optimiser step in equal number."""
    of, which = count(), rank() if which is None else which
    parts = rl.epochs if rl.epoch_convention == "halves" and of > 1 else 1
    each, own = n_prompts // parts, n_prompts // parts // of
    prompts = [part * each + which * own + i for part in range(parts) for i in range(own)]
    return [prompt * rl.group_size + k for prompt in prompts for k in range(rl.group_size)]


def collect(items: list) -> list:
    """The lists of all processes, one after the other, the same in all of them. Items are pickled."""
    if count() == 1:
        return items
    found: list = [None] * count()
    dist.all_gather_object(found, items)
    return [item for part in found for item in part]


def whole(values: Tensor, n_prompts: int, rl: RLConfig) -> Tensor:
    """Values (B, ...) of all episodes of a rollout from those (b, ...) of this process's, on the CPU."""
    if count() == 1:
        return values
    parts = collect([values.detach().cpu()])
    result = parts[0].new_empty(n_prompts * rl.group_size, *values.shape[1:])
    for which, part in enumerate(parts):
        result[episodes(n_prompts, rl, which)] = part
    return result


def mean(value: Tensor) -> Tensor:
    """The mean over processes of a 0-d value, in float64 where there are several."""
    return value if count() == 1 else torch.stack(collect([value.detach().double().cpu()])).mean()


def share(items: list) -> list:
    """This process's part of a list: a run of neighbours. ``collect`` puts the parts together again."""
    return items[rank() * len(items) // count() : (rank() + 1) * len(items) // count()]


def is_split(tensor: Tensor) -> bool:
    """Whether each process holds a part of it, as torch's DTensor (whose module takes long to import)."""
    return hasattr(tensor, "full_tensor")


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their means over processes. One that no process has stays absent, as with one process.
    Those of split parameters are means already."""
    parameters = [p for p in parameters if not is_split(p)]
    if count() == 1 or not parameters:
        return
    present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
    dist.all_reduce(present, dist.ReduceOp.MAX)
    for parameter, somewhere in zip(parameters, present.tolist(), strict=True):
        if somewhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= count()
