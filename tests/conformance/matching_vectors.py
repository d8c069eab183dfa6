"""FPO, AWM and DiffusionNFT: losses, their parts and gradients against the sections of ``extra_algos``."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.conformance.checking import Check, Settings, compare, same, supported
from unigrpo.objectives.image_losses import latent_kl, velocity_mse
from unigrpo.objectives.matching import (
    flow_matching_loss,
    matching_log_ratio,
    matching_loss,
    nft_loss,
    old_decay,
    surrogate_log_prob,
)

WEIGHTS = {"Uniform": "uniform", "t": "t", "t**2": "t2", "huber": "huber", "ghuber": "ghuber"}
ELBO_NOISE = 0.7  # AWM's noise level in its ELBO weighting
MODES = {  # what DiffusionNFT's advantage modes make of an advantage
    "all": lambda a: a,
    "positive_only": lambda a: a.clamp(min=0),
    "negative_only": lambda a: a.clamp(max=0),
    "one_only": lambda a: (a > 0).to(a),
    "binary": torch.sign,
}
DECAYS = {
    0: {"rate": 0.0, "largest": 0.0},
    1: {"rate": 1e-3, "largest": 0.5},
    2: {"rate": 7.5e-3, "largest": 0.999, "flat": 75},
}


def fpo(entry: Settings, x: dict[str, Tensor]) -> list[Check]:
    new = x["cfm_new"].double().requires_grad_()
    over = "mean" if entry["average_losses_before_exp"] else "each"
    log_ratio = matching_log_ratio(-new, -x["cfm_old"].double(), over)
    loss = matching_loss(log_ratio, x["adv"].double(), clip_range=entry["clip"])[0].mean()
    (grad,) = torch.autograd.grad(loss, new)
    return [
        same("sizes", list(new.shape), [entry["B"], entry["mc_samples"]]),
        compare("ratio", log_ratio.exp(), x["rho"], 1e-5),
        compare("loss", loss[None], x["loss"], 1e-5),
        compare("gradient", grad, x["grad_cfm_new"], 5e-5, relative_to="largest"),
    ]


def awm(entry: Settings, x: dict[str, Tensor]) -> list[Check]:
    """Rows are time-major; ours are sample-major. The two velocity penalties are the peer's beta terms."""
    b, weight, power = entry["B"], WEIGHTS[entry["weighting"]], entry.get("ghuber_power")
    if weight == "ghuber" and power is not None:
        supported(entry, ghuber_power=0.25)

    def by_sample(rows: Tensor) -> Tensor:
        return rows.double().unflatten(0, (-1, b)).transpose(0, 1)

    noise, t, ref, ema, old = (by_sample(x[name]) for name in ("noise", "t", "v_ref", "v_ema", "v_old"))
    clean = by_sample(x["clean"])[:, 0]
    v = by_sample(x["v_new"]).requires_grad_()

    def log_prob(velocity: Tensor) -> Tensor:
        return surrogate_log_prob(flow_matching_loss(velocity, clean, noise), t, weight)

    def penalty(other: Tensor, kind: str) -> Tensor:
        if kind == "Uniform":
            return velocity_mse(v, other).mean()
        return latent_kl(v, other, ELBO_NOISE * (t / (1 - t)).sqrt()).mean()

    bound = entry["adv_clip_max"]
    advantages = x["adv"].double().clamp(-bound, bound) / bound * entry["advantage_max"]
    new = log_prob(v)
    over = "each" if entry["loss_type"] == "exp_first" else "mean"
    log_ratio = matching_log_ratio(new, log_prob(old), over)
    policy = matching_loss(log_ratio, advantages, clip_range=entry["clip_range"])[0].mean()
    kl, ema_kl = penalty(ref, entry["kl_weight"]), penalty(ema, entry["kl_ema_weight"])
    loss = policy + entry["beta"] * kl + entry["ema_beta"] * ema_kl
    (grad,) = torch.autograd.grad(loss, v)
    ratio = log_ratio.exp() if over == "mean" else log_ratio.exp().T.flatten()
    return [
        same("time steps", t.shape[1], entry["train_timesteps"]),
        compare("log-prob", new.T.flatten(), x["log_prob"], 1e-5),
        compare("ratio", ratio.flatten(), x["ratio"].flatten(), 1e-5),
        compare("policy loss", policy[None], x["policy_loss"], 1e-5),
        compare("distance to the reference", kl[None], x["kl_loss"], 1e-5),
        compare("distance to the average", ema_kl[None], x["ema_kl_loss"], 1e-5),
        compare("loss", loss[None], x["loss"], 1e-5),
        compare("gradient", grad.transpose(0, 1).flatten(0, 1), x["grad_v"], 5e-5, relative_to="largest"),
    ]


def nft(entry: Settings, x: dict[str, Tensor]) -> list[Check]:
    noise, old, ref = (x[name].double()[:, None] for name in ("noise", "v_old", "v_ref"))
    v = x["v_new"].double()[:, None].requires_grad_()
    advantages = MODES[entry["adv_mode"]](x["adv"].double())
    t, clip = x["t"].double()[:, None], entry["adv_clip_max"]
    terms, _ = nft_loss(v, old, x["x0"].double(), noise, t, advantages, beta=entry["beta"], advantage_clip=float(clip))
    policy, kl = terms.mean(), velocity_mse(v, ref).mean()
    loss = policy + entry["kl_beta"] * kl
    (grad,) = torch.autograd.grad(loss, v)
    return [
        same("episodes", len(t), entry["B"]),
        compare("policy loss", policy[None], x["policy_loss"], 1e-5),
        compare("distance to the reference", kl[None], x["kl"], 1e-5),
        compare("loss", loss[None], x["loss"], 1e-5),
        compare("gradient", grad[:, 0], x["grad_v"], 5e-5, relative_to="largest"),
    ]


def nft_decay(entry: Settings, _: dict[str, Tensor]) -> list[Check]:
    ours = old_decay(entry["step"], **DECAYS[entry["decay_type"]])
    return [compare("decay", torch.tensor([ours]), torch.tensor([entry["decay"]]), 1e-6)]
