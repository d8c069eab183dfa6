"""Stochastic steps: mean, std, next latent, log-prob and its gradient, in sampling and in replay mode."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from tests.conformance.checking import Case, Check, Settings, compare, numbered, read_pair
from unigrpo.objectives.flow import Step, sde_step

NOTES = ("id", "source", "shape", "num_steps", "num_points", "shift", "step", "signature", "note")  # of the inputs


def cases(path: Path) -> Iterator[Case]:
    info, tensors = read_pair(path)
    for case in map(Settings, info["cases"]):
        feature = f"sde_steps/{_kind(case)}"
        if case.get("mixed_batch"):
            feature += "-mixed-time"
        if not case.get("log_prob_normalizer", True) or case.get("reduction"):
            feature += "-no-normalizer"
        stored = numbered(tensors, case["id"])
        yield Case(feature, str(case["id"]), lambda case=case, stored=stored: _check(case, stored), case, NOTES)


def _kind(case: dict) -> str:
    """Codes give DanceGRPO's step several names that begin so."""
    return "dance" if case["kind"].startswith("dance") else case["kind"]


def _log_prob(case: dict, step: Step) -> Tensor:
    """In the code's own measure: CPS takes the squared error, some leave the Gaussian's constants out."""
    if case["kind"] == "cps":
        return -(step.prev.detach() - step.mean).square().flatten(1).mean(1)
    if case.get("log_prob_normalizer", True):
        return step.log_prob
    return torch.where(step.std > 0, step.log_prob + step.std.log() + 0.5 * math.log(2 * math.pi), 0)


def _check(case: dict, stored: dict[str, Tensor]) -> list[Check]:
    one_sample = case.get("reduction", "").startswith("mean over ALL")  # (tokens, channels), no batch axis
    latents = {
        name: stored[name][None] if one_sample else stored[name]
        for name in ("x", "v", "prev", "mean", "noise", "grad_v")
        if name in stored
    }
    sample = case["mode"] == "sample"
    v = latents["v"].requires_grad_()
    step = sde_step(
        latents["x"],
        v,
        stored["sigma"],
        stored["sigma_next"],
        noise_level=case["noise_level"],
        t_max=case["sigma_max"],
        kind=_kind(case),
        noise=latents["noise"] if sample else None,
        prev=None if sample else latents["prev"],
    )
    std = step.std if case["std_is"].startswith("transition std") else step.sigma
    checks = [
        compare("mean", step.mean, latents["mean"], 1e-5),
        compare("prev", step.prev, latents["prev"], 1e-5),
        compare("std", std, stored["std"], 1e-5, floor=1e-3),
    ]
    if case["finite_log_prob"]:
        log_prob = _log_prob(case, step)
        checks.append(compare("log_prob", log_prob, stored["log_prob"], 1e-5))
        if "grad_w" in stored:
            (stored["grad_w"] * log_prob).sum().backward()
            checks.append(compare("grad_v", v.grad, latents["grad_v"], 5e-5, "largest"))
    return checks
