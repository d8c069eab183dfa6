"""Counts what tensors do while the real code runs: memory by kind, floating-point operations, and the time they take.

Numbers of a network are fake: tensors of torch's FakeTensorMode have shapes and no memory. Whole numbers (tokens,
masks, positions) are real, so that the code decides by them as it always does. What it asks of fake numbers has one
answer: 0.0 for a number, yes for a condition, 0 for an index; so no text ends before its limit.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
FAKE = FakeTensorMode(allow_non_fake_inputs=True)
REAL = 2**16  # numbers of a tensor made from nothing, from which on it is fake
REST = "activations"  # what has no other kind: activations, caches, temporaries
RESIZE = torch.UntypedStorage.resize_
ANSWERS = {aten._local_scalar_dense.default: 0.0, aten.equal.default: True}


ATTENTION = "_scaled_dot_product_flash_attention"
FLOPS = flop_registry | {  # and of the operations that it becomes on a CPU
    getattr(aten, f"{ATTENTION}_for_cpu{way}"): flop_registry[getattr(aten, ATTENTION + way)]
    for way in ("", "_backward")
}


class Rates(NamedTuple):
    """What one device reaches: operations a second, bytes a second of its memory, and the seconds that an operation
    takes to start."""

    flops: float
    bandwidth: float
    start: float


@dataclass
class Cost:
    """``peak``: bytes in use by kind, where these were most; ``counts``: floating-point operations (``flops``),
    ``seconds`` on one device, and what else was counted."""

    peak: dict[str, int] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)

    @property
    def bytes(self) -> int:
        return sum(self.peak.values())

    def times(self, n: float) -> Cost:
        """The same ``n`` times, one after the other."""
        return Cost(self.peak, Counter({name: value * n for name, value in self.counts.items()}))

    def then(self, other: Cost) -> Cost:
        """One after the other."""
        return Cost(max(self.peak, other.peak, key=lambda kinds: sum(kinds.values())), self.counts + other.counts)


def fake(tensor: Tensor) -> FakeTensor:
    """A fake tensor on the CPU, of the shape and type of another."""
    return FakeTensor(FAKE, outline(tensor), torch.device("cpu"))


def outline(tensor: Tensor) -> Tensor:
    """The shape, strides and type of a tensor, as a tensor of torch's device meta."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def without_numbers(module: nn.Module) -> nn.Module:
    """The module with fake parameters and buffers."""
    made: dict[int, Tensor] = {}
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, x in tensors.items():
                if type(x) in (Tensor, nn.Parameter):
                    if id(x) not in made:
                        y = fake(x) if x.is_floating_point() else torch.zeros_like(x, device="cpu")
                        made[id(x)] = nn.Parameter(y, x.requires_grad) if isinstance(x, nn.Parameter) else y
                    tensors[name] = made[id(x)]
    return module


class Tracker(TorchDispatchMode):
    """Within it every operation is counted, of fake tensors and of real ones."""

    def __init__(self, rates: Rates):
        super().__init__()
        self.rates, self.costs = rates, [Cost()]
        self.held: dict[int, tuple[weakref.ref, int, str]] = {}  # by a storage's number: bytes and kind
        self.now: Counter = Counter()  # bytes by kind
        self.most = 0  # bytes at the peak of the innermost measurement

    @contextmanager
    def measure(self, apart: bool = False) -> Iterator[Cost]:
        """The cost of what is done within it; unless ``apart`` it counts in an outer measurement as well."""
        outer, cost = self.most, Cost(dict(self.now))
        self.costs.append(cost)
        self.most = cost.bytes
        try:
            yield cost
        finally:
            self.costs.pop()
            self.most = outer
            if not apart:
                self.spend(cost)

    def spend(self, cost: Cost) -> None:
        """Add what was measured apart."""
        self.costs[-1].counts.update(cost.counts)
        if cost.bytes > self.most:
            self.most, self.costs[-1].peak = cost.bytes, dict(cost.peak)

    def count(self, **numbers: float) -> None:
        self.costs[-1].counts.update(numbers)

    def new(self, like: Tensor) -> FakeTensor:
        """A fake tensor of the shape and type of another, counted."""
        tensor = fake(like)
        self.hold(tensor.untyped_storage(), REST)
        return tensor

    # -- memory --------------------------------------------------------------------------------------------------

    def label(self, kind: str, tensors: Iterable[Tensor]) -> None:
        """Count the storages of tensors as of a kind, where they have none yet."""
        for tensor in tensors:
            storage = getattr(tensor, "_local_tensor", tensor).untyped_storage()
            if self.held.get(id(storage), (None, 0, REST))[2] == REST:
                self.hold(storage, kind)

    def hold(self, storage: torch.UntypedStorage, kind: str) -> None:
        place, size = id(storage), storage.nbytes()
        self.release(place)
        self.held[place] = weakref.ref(storage, lambda _: self.release(place)), size, kind
        self.now[kind] += size
        if (total := sum(self.now.values())) > self.most:
            self.most, self.costs[-1].peak = total, dict(self.now)

    def release(self, place: int) -> None:
        if place in self.held:
            _, size, kind = self.held.pop(place)
            self.now[kind] -= size

    def resize(self, storage: torch.UntypedStorage, size: int) -> None:
        RESIZE(storage, size)
        if id(storage) in self.held:
            self.hold(storage, self.held[id(storage)][2])

    # -- operations ----------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if DTensor in types:
            return NotImplemented  # it calls operations on its local part
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        kwargs, inputs = kwargs or {}, [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        size = args[0] if args and not inputs and isinstance(args[0], list | tuple) else ()  # made from nothing
        large = prod(size) >= REAL and kwargs.get("device") != torch.device("meta")
        if faked := large or any(isinstance(x, FakeTensor) for x in inputs):
            if func in ANSWERS:
                return ANSWERS[func]
            if func is aten.index.Tensor:
                args = args[0], [place for index in args[1] for place in places(index)]
        with FAKE if faked else nullcontext():
            out = func(*args, **kwargs)
        out = tree_map(real_if_whole, out)
        outputs = [x for x in tree_leaves(out) if isinstance(x, Tensor) and x.device.type != "meta"]
        for x in outputs:
            storage = x.untyped_storage()
            if id(storage) not in self.held:
                self.hold(storage, REST)
        if not func.is_view:
            operation = FLOPS.get(func._overloadpacket)
            flops = operation(*args, **kwargs, out_val=out) if operation else 0
            moved = sum(x.nbytes for x in inputs + outputs)
            seconds = max(flops / self.rates.flops, moved / self.rates.bandwidth, self.rates.start)
            self.count(flops=flops, seconds=seconds)
        return out


def places(index: Tensor | None) -> tuple:
    """A condition in brackets as the numbers of the rows where it holds."""
    conditional = index is not None and index.dtype == torch.bool and not isinstance(index, FakeTensor)
    return index.nonzero(as_tuple=True) if conditional else (index,)


def real_if_whole(x):
    """Whole numbers made of fake ones are 0, conditions are met."""
    if not isinstance(x, FakeTensor) or x.is_floating_point() or x.is_complex():
        return x
    return torch.full(x.shape, x.dtype == torch.bool, dtype=x.dtype)
