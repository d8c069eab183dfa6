"""Text losses as TRL's GRPOTrainer computes them for one micro-batch: loss, gradient, clip fractions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from tests.conformance.checking import Case, Check, Settings, compare, numbered, read_pair
from unigrpo.objectives.text_losses import TextObjective, text_grpo_loss

METRICS = (  # ours and TRL's names
    ("clip_low", "clip_ratio/low_mean"),
    ("clip_high", "clip_ratio/high_mean"),
    ("clip_high", "cispo_clip_ratio"),
    ("kl", "kl"),
)


NOTES = ("id", "metrics.*")


def cases(path: Path) -> Iterator[Case]:
    info, tensors = read_pair(path)
    for case in map(Settings, info["cases"]):
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
        yield Case(feature, str(case["id"]), lambda case=case, stored=stored: _check(case, stored), case, NOTES)


def _objective(case: dict) -> TextObjective:
    dapo_like = case["loss_type"] == "cispo"
    plain = case["loss_type"] in ("grpo", "bnpo", "dr_grpo", "dapo")
    return TextObjective(
        clip_low=case["epsilon_low"],
        clip_high=case["epsilon_high"] - 1 if dapo_like else case["epsilon_high"],  # cispo stores the bound itself
        surrogate="clip" if plain else case["loss_type"],
        level=case["importance_sampling_level"],
        ratio_cap=math.inf if case["delta"] is None else case["delta"],
        reduction=case["loss_type"] if plain else "dapo" if dapo_like else "grpo",
        kl_weight=case["beta"],
        kl_corrected=case["use_bias_correction_kl"],
        entropy_share=case["top_entropy_quantile"],
        entropy_weight=case["entropy_coef"],
    )


def _check(case: dict, stored: dict[str, Tensor]) -> list[Check]:
    new, objective = stored["new"].requires_grad_(), _objective(case)
    denominators = {
        "dr_grpo": len(new) * case["max_completion_length"],
        "dapo": case["num_items_in_batch"],
    }
    loss, metrics = text_grpo_loss(
        new,
        new.detach() if case["old_is_none"] else stored["old"],
        stored["mask"].bool(),
        stored["adv"],
        objective,
        logp_ref=stored["ref"],
        entropy=stored["ent"],
        denominator=denominators.get(objective.reduction),
    )
    accumulated = case["grad_accum"]
    if objective.reduction != "dapo":
        loss = loss / accumulated
    (gradient,) = torch.autograd.grad(loss, new)
    checks = [
        compare("loss", loss, stored["loss"].squeeze(), 1e-6),
        compare("grad", gradient, stored["grad_new"], 1e-6, "largest"),
    ]
    for name, theirs in METRICS:
        if theirs in case["metrics"]:
            checks.append(compare(name, metrics[name], torch.tensor(case["metrics"][theirs]), 1e-6))
    return checks
