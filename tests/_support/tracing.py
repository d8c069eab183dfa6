"""What a computation asks of a device, counted on tensors without numbers: no device is needed."""

from __future__ import annotations

from contextlib import contextmanager
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
FUSED = {torch.rms_norm, nn.functional.rms_norm, nn.functional.scaled_dot_product_attention}  # one kernel each
LITERALS = {torch.tensor, torch.as_tensor, torch.from_numpy}  # which bring numbers of the host
WITHOUT_KERNEL = ("prim.", "aten.empty", "aten.new_empty", "aten._unsafe_view", "aten.lift_fresh")
READING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "item")


class Ops(TorchDispatchMode):
    """Operations in order: ``kernels`` that are launched, ``readings`` that make the host wait for the device, and
    ``transfers`` of literals and other tensors of the host to it."""

    def __init__(self):
        super().__init__()
        self.kernels, self.readings, self.transfers, self.fused = [], [], [], 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        name, kwargs = str(op), kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(word in name for word in READING):
            self.readings.append(name)
        made = op(*args, **kwargs)
        found = [x for x in tree_leaves(made) if isinstance(x, torch.Tensor)]
        if any(x.device != DEVICE for x in found) and any(x.device == DEVICE for x in given):
            self.readings.append(name)
        if name.startswith("aten.lift_fresh") or (
            any(x.device == DEVICE for x in found) and any(x.device != DEVICE and x.dim() for x in given)
        ):
            self.transfers.append(name)
        if not self.fused and not is_view(op) and not name.startswith(WITHOUT_KERNEL):
            self.kernels.append(name)
        return made


class Fused(TorchFunctionMode):
    """Functions that have a kernel of their own on a device count as one of ``ops``, whatever they are made of here;
    ``masks`` are those of the attention."""

    def __init__(self, ops: Ops):
        super().__init__()
        self.ops, self.masks = ops, []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in LITERALS:
            self.ops.transfers.append(function.__name__)
        if function not in FUSED:
            return function(*args, **kwargs)
        if function is nn.functional.scaled_dot_product_attention:
            self.masks.append(args[3] if len(args) > 3 else kwargs.get("attn_mask"))
        if not self.ops.fused:
            self.ops.kernels.append(function.__name__)
        self.ops.fused += 1
        try:
            return function(*args, **kwargs)
        finally:
            self.ops.fused -= 1


def is_view(op) -> bool:
    """Whether an operation returns its argument's memory without writing."""
    found = [r.alias_info for r in op._schema.returns]
    return bool(found) and all(alias is not None and not alias.is_write for alias in found)


@contextmanager
def traced():
    """(ops, fused) of what is computed inside."""
    ops = Ops()
    with mock.patch.object(torch, "is_autocast_enabled", lambda *kind: False), ops, Fused(ops) as fused:
        yield ops, fused
