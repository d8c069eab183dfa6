"""Several processes on one run: what they agree on. With one process, every function here is the identity."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch import distributed as dist

PATIENCE = timedelta(hours=3)  # of processes with each other: one saves or reads while the others wait


def count() -> int:
    """How many processes work on this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this one, from 0."""
    return dist.get_rank() if count() > 1 else 0


def is_main() -> bool:
    """Whether this one writes files and shows progress."""
    return rank() == 0


def collect(items: list) -> list:
    """The lists of all processes, one after the other, the same in all of them. Items are pickled."""
    if count() == 1:
        return items
    found: list = [None] * count()
    dist.all_gather_object(found, items, _over_hosts(dist.group.WORLD))
    return [item for part in found for item in part]


@contextmanager
def common(kind: type[Exception]) -> Iterator[None]:
    """An error of this ``kind`` within it, in one process, is one of all, with the first of their messages."""
    reasons = []
    try:
        yield
    except kind as reason:
        reasons = [str(reason)]
    for reason in collect(reasons):
        raise kind(reason)


def collect_in_main(items: list) -> list:
    """The same in the main process alone, nothing elsewhere; to save memory one item of each is under way at a time."""
    if count() == 1:
        return items
    found: list[list] = []
    for i in range(max(collect([len(items)]))):
        row = [None] * count() if is_main() else None
        dist.gather_object(items[i : i + 1], row, group=_over_hosts(dist.group.WORLD))
        found += [row] if row else []
    return [item for parts in zip(*found, strict=True) for part in parts for item in part]


@lru_cache(maxsize=1)
def _over_hosts(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """The processes of ``world``, who send each other what is pickled through the hosts' memory, not the devices'."""
    return world if dist.get_backend(world) == "gloo" else dist.new_group(backend="gloo", timeout=PATIENCE)


def leave() -> None:
    """The end of working together. A group that outlives it would end the process with an error."""
    if count() > 1:
        dist.barrier()
        _over_hosts.cache_clear()
        dist.destroy_process_group()


def mean(value: Tensor) -> Tensor:
    """The mean over processes of a 0-d value, in float64 where there are several."""
    return value if count() == 1 else torch.stack(collect([value.detach().double().cpu()])).mean()


def share(items: list) -> list:
    """This process's part of a list: a run of neighbours. ``collect`` puts the parts together again."""
    return items[rank() * len(items) // count() : (rank() + 1) * len(items) // count()]


def is_split(tensor: Tensor) -> bool:
    """Whether each process holds a part of it, as torch's DTensor (whose module takes long to import)."""
    return hasattr(tensor, "full_tensor")


def like(local: Tensor, full: Tensor) -> Tensor:
    """``full``, which every process has, split as ``local`` is."""
    if not is_split(local):
        return full
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(full.to(local.device), local.device_mesh, local.placements)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients, but those of split parameters, by means over processes. One that nobody has stays absent."""
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
