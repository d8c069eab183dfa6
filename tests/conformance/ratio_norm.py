"""The whole image chain v -> step -> log ratio -> loss -> d loss / dv, with its regularisers.

Only batches of one are compared with ``flow_grpo_guard``: for larger ones that code adds one bias for the
whole batch instead of one per sample. The recorded codes take the ratio through fp32 log-probs and leave
noise of about 1e-7 in it, so samples this close to a clip boundary are left out of the gradients. Likewise
their latent KL subtracts fp32 means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from tests.conformance.checking import Case, Check, Settings, compare, numbered, read_pair
from unigrpo.objectives.flow import Step, sde_step
from unigrpo.objectives.image_losses import (
    flow_grpo_loss,
    latent_kl,
    plain_log_ratio,
    ratio_norm_log_ratio,
    velocity_mse,
)

RATIO_NOISE = 5e-7  # two fp32 log-probs of order 1, subtracted, and an fp32 ratio


NOTES = ("id", "num_steps", "shift", "step", "delta", "identity_max_abs_err")  # of the inputs
NOTES += ("verl_omni_ratio_mean", "verl_omni_clipfrac")  # recorded, not compared


def cases(path: Path) -> Iterator[Case]:
    info, tensors = read_pair(path)
    for case in map(Settings, info["cases"]):
        stored, name = numbered(tensors, case["id"]), str(case["id"])
        for check in (_plain, _identity, _latent_kl, _velocity_mse):
            feature = f"ratio_norm/{check.__name__.strip('_')}"
            yield Case(feature, name, lambda check=check, case=case, stored=stored: check(case, stored), case, NOTES)


def _steps(case: dict, stored: dict[str, Tensor]) -> tuple[Tensor, Step, Step]:
    """The new velocity (a leaf), and the recorded transition replayed under the new and the old velocity."""
    v_new = stored["v_new"].clone().requires_grad_()
    new, old = (
        sde_step(
            stored["x"],
            v,
            stored["sigma"],
            stored["sigma_next"],
            noise_level=case["noise_level"],
            t_max=stored["sigma_max"].item(),
            prev=stored["prev"],
        )
        for v in (v_new, stored["v_old"])
    )
    return v_new, new, old


def _noise(step: Step) -> Tensor:
    return (step.prev - step.mean) / step.std.view(-1, *[1] * (step.mean.ndim - 1))


def _dt(stored: dict[str, Tensor]) -> Tensor:
    return stored["sigma_next"] - stored["sigma"]


def _against(
    peer: str,
    case: dict,
    stored: dict[str, Tensor],
    v: Tensor,
    log_ratio: Tensor,
    clipped: bool,
    dt: Tensor | None,
) -> list[Check]:
    """Ratio, loss and gradient of one recorded code. log_ratio (B, 1)."""
    bound = case["adv_clip_max"]
    advantages = stored["adv"].clamp(-bound, bound) if clipped else stored["adv"]
    per_sample, _ = flow_grpo_loss(log_ratio, advantages, clip_range=case["clip_range"])
    length = 1 if dt is None else dt.abs()  # GRPO-Guard's reweighting divides by it
    per_sample = per_sample[:, 0] / length
    loss = (per_sample - advantages / length).mean()
    (gradient,) = torch.autograd.grad(per_sample.mean(), v, retain_graph=True)
    edges = [math.log1p(sign * case["clip_range"]) for sign in (1, -1)]
    clear = torch.stack([(log_ratio[:, 0] - edge).abs() > RATIO_NOISE for edge in edges]).all(0)
    checks = [
        compare(
            f"{peer} loss",
            loss,
            stored[f"{peer}.loss"].squeeze(),
            1e-6,
            floor=(advantages / length).abs().max().clamp(min=1),
        ),
        compare(f"{peer} grad_v", gradient[clear], stored[f"{peer}.grad_v"][clear], 5e-5, "largest"),
    ]
    if f"{peer}.ratio" in stored:
        ratio = stored[f"{peer}.ratio"].double().log()
        checks.append(compare(f"{peer} log ratio", log_ratio[:, 0], ratio, RATIO_NOISE))
    return checks


def _plain(case: dict, stored: dict[str, Tensor]) -> list[Check]:
    v, new, old = _steps(case, stored)
    log_ratio = plain_log_ratio(new.log_prob[:, None], old.log_prob[:, None])
    checks = [
        compare("new mean", new.mean, stored["new_mean"], 1e-5),
        compare("old mean", old.mean, stored["old_mean"], 1e-5),
        compare("new log_prob", new.log_prob, stored["new_log_prob"], 1e-5),
        compare("old log_prob", old.log_prob, stored["old_log_prob"], 1e-5),
        compare("sigma", new.sigma, stored["std_dev_t"], 1e-5, floor=1e-3),
        compare("sqrt|dt|", new.std / new.sigma, stored["sqrt_dt"], 1e-5, floor=1e-3),
    ]
    for peer in ("flow_grpo_plain", "verl_omni_flow"):
        checks += _against(peer, case, stored, v, log_ratio, clipped=True, dt=None)
    return checks


def _identity(case: dict, stored: dict[str, Tensor]) -> list[Check]:
    v, new, old = _steps(case, stored)
    log_ratio = ratio_norm_log_ratio(new.mean[:, None], old.mean[:, None], _noise(old)[:, None])
    checks = _against("indep_unirl", case, stored, v, log_ratio, clipped=False, dt=None)
    for peer in ("verl_omni_guard", "flow_grpo_guard")[: 2 if case["B"] == 1 else 1]:
        checks += _against(peer, case, stored, v, log_ratio, clipped=True, dt=_dt(stored))
    return checks


def _reference_mean(case: dict, stored: dict[str, Tensor]) -> Tensor:
    return _steps(case, stored | {"v_old": stored["v_ref"]})[2].mean


def _latent_kl(case: dict, stored: dict[str, Tensor]) -> list[Check]:
    v, new, _ = _steps(case, stored)
    reference = _reference_mean(case, stored)
    exact = latent_kl(new.mean[:, None], reference[:, None], new.std[:, None])
    loss = (exact[:, 0] * _dt(stored).abs()).mean()  # Flow-GRPO's code divides by sigma^2 in the place of std^2
    rounding = torch.finfo(torch.float32).eps * new.mean.abs().max() / (new.mean - reference).abs().max()
    return _regulariser("flow_grpo_kl", loss, v, stored, 5e-5 + rounding.item())


def _velocity_mse(case: dict, stored: dict[str, Tensor]) -> list[Check]:
    v = stored["v_new"].clone().requires_grad_()
    loss = velocity_mse(v[:, None], stored["v_ref"][:, None]).mean()
    return _regulariser("indep_velocity_mse", loss, v, stored, 5e-5)


def _regulariser(key: str, loss: Tensor, v: Tensor, stored: dict[str, Tensor], tolerance: float) -> list[Check]:
    (gradient,) = torch.autograd.grad(loss, v)
    return [
        compare("loss", loss, stored[f"{key}.loss"].squeeze(), 5e-5, "largest"),
        compare("grad_v", gradient, stored[f"{key}.grad_v"], tolerance, "largest"),
    ]
