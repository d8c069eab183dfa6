"""Networks split among processes: torch's FSDP2, one decoder layer a unit, the head of the vocabulary another.

Each process holds its share of every tensor, of its gradient and of its optimiser state; a layer is put together when
it is computed. Writing a trace token by token would put the network together at every token, so the policy is
gathered once for a rollout (``gathered``). With bf16 the parts are put together, and computed with, in bf16; the
shares that the optimiser changes stay fp32.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch import distributed as dist

from unigrpo.core import distributed
from unigrpo.models.base import UnifiedModel

ENTRANCES = ("encode_text", "velocity", "replay", "empty_context")  # what is called of a network from outside


def load(read: Callable[[], UnifiedModel], device: torch.device, bf16: bool) -> tuple[UnifiedModel, UnifiedModel]:
    """The model that ``read`` returns, on the CPU, split among all processes, and its empty form for :func:`unsplit`.
    Processes read one after the other, so that one complete copy exists at a time."""
    from torch.distributed.device_mesh import init_device_mesh  # these modules take long to import
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    narrow = torch.bfloat16 if bf16 else None
    policy = MixedPrecisionPolicy(param_dtype=narrow, reduce_dtype=torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(device.type, (distributed.count(),))
    for turn in range(distributed.count()):
        if turn == distributed.rank():
            model = read()
            empty = {id(p): nn.Parameter(p.detach().to("meta"), p.requires_grad) for p in model.mot.parameters()}
            form = copy.deepcopy(model, empty)
            words = model.mot.language_model
            for unit in (*words.model.layers, words.lm_head, model.mot):
                fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
            for name in ENTRANCES:
                register_fsdp_forward_method(model.mot, name)
        dist.barrier()
    if device.type != "cpu":  # where it was read
        model.codec.to(device)
    return model, form


@contextmanager
def gathered(model: UnifiedModel) -> Iterator[None]:
    """Within it every process has the complete network, and processes may call it unequally often, without gradient.
    Changes nothing for a network that is not split."""
    units = [module for module in model.modules() if hasattr(module, "unshard")]  # as torch's FSDPModule
    for unit in units:
        unit.set_reshard_after_forward(False, recurse=False)
        unit.unshard()
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
            unit.set_reshard_after_forward(True, recurse=False)


def full(tensor: Tensor) -> Tensor:
    """All of a split tensor on the CPU of the main process, nothing elsewhere; others as they are."""
    if not distributed.is_split(tensor):
        return tensor
    put_together = tensor.detach().full_tensor()
    return put_together.cpu() if distributed.is_main() else put_together.new_empty(0)


def unsplit(model: UnifiedModel, form: UnifiedModel) -> UnifiedModel:
    """A split model put together on the CPU of the main process, in its ``form``; elsewhere that stays empty."""
    tensors = {name: full(tensor) for name, tensor in model.mot.state_dict().items()}
    if distributed.is_main():
        form.mot.load_state_dict(tensors, assign=True)
    return form
