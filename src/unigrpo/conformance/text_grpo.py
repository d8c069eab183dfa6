"""Text losses as TRL's GRPOTrainer computes them for one micro-batch: loss, gradient, clip fractions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from unigrpo.conformance.core import Case, Check, compare, numbered, read_pair
from unigrpo.losses import text_grpo_loss


def cases(path: Path) -> Iterator[Case]:
    info, tensors = read_pair(path)
    for case in info["cases"]:
        options = {
            "+kl": case["beta"] != 0,
            "+bias-corrected": case["use_bias_correction_kl"],
            "+delta": case["delta"] is not None,
            "+entropy-quantile": case["top_entropy_quantile"] < 1,
            "+entropy-bonus": case["entropy_coef"] != 0,
        }
        feature = f"text_grpo/{case['loss_type']}-{case['importance_sampling_level']}"
        feature += "".join(name for name, on in options.items() if on)
        stored = numbered(tensors, case["id"])
        yield Case(feature, str(case["id"]), lambda case=case, stored=stored: _check(case, stored))


def _check(case: dict, stored: dict[str, Tensor]) -> list[Check]:
    new = stored["new"].requires_grad_()
    old = new.detach() if case["old_is_none"] else stored["old"]
    loss, metrics = text_grpo_loss(
        new,
        old,
        stored["mask"].bool(),
        stored["adv"],
        clip_low=case["epsilon_low"],
        clip_high=case["epsilon_high"],
    )
    loss = loss / case["grad_accum"]
    (gradient,) = torch.autograd.grad(loss, new)
    checks = [
        compare("loss", loss, stored["loss"].squeeze(), 1e-6),
        compare("grad", gradient, stored["grad_new"], 1e-6, "largest"),
    ]
    for ours, theirs in (("clip_low", "clip_ratio/low_mean"), ("clip_high", "clip_ratio/high_mean")):
        if theirs in case["metrics"]:
            checks.append(compare(ours, metrics[ours], torch.tensor(case["metrics"][theirs]), 1e-6))
    return checks
