"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: what is trained in the place of the weights.

Every linear map of a trained expert but the vocabulary's head gets one. The weights underneath stay as they are and are
shared with the frozen reference, which is the same network without adapters. A finished run is saved with its adapters
merged into the weights, so that nothing downstream knows of them.
"""

import copy
from collections.abc import Iterable

import torch
from torch import nn

from unigrpo.core import seeding
from unigrpo.models.base import UnifiedModel
from unigrpo.models.mot_sizes import expert_of
from unigrpo.models.torchvision_compat import ensure_torchvision

HEAD = "language_model.lm_head"


def lora_config(rank: int, **where):
    """peft's settings of every adapter, of scale alpha / rank = 2."""
    ensure_torchvision()  # peft imports it through transformers
    from peft import LoraConfig  # takes seconds to import

    return LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, **where)


def inject(model: UnifiedModel, rank: int, parts: Iterable[str], seed: int) -> None:
    """Give the network adapters of ``rank`` that change nothing yet; only they are trained from now on."""
    linear = [name for name, module in model.mot.named_modules() if isinstance(module, nn.Linear) and name != HEAD]
    config = lora_config(rank, target_modules=[name for name in linear if expert_of(name) in parts])
    from peft import inject_adapter_in_model

    with torch.random.fork_rng():
        torch.manual_seed(seeding.stream(seed, "adapters"))
        inject_adapter_in_model(config, model.mot)


def merge(model: UnifiedModel) -> None:
    """Put every adapter into the weights underneath, which the reference shares: for the end of a run."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.mot.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            owner, _, leaf = name.rpartition(".")
            setattr(model.mot.get_submodule(owner), leaf, module.get_base_layer())


def frozen_copy(model: UnifiedModel, shared: Iterable[nn.Parameter] = ()) -> UnifiedModel:
    """A copy that is not trained; it holds the ``shared`` parameters themselves."""
    return copy.deepcopy(model, {id(p): p for p in shared}).requires_grad_(False)


def trained(model: UnifiedModel) -> nn.ParameterList:
    """The adapters, as a checkpoint names them: by number."""
    return nn.ParameterList(p for part in model.expert_parameters().values() for p in part)
