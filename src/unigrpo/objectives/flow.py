"""Flow matching: time grids, windows of stochastic steps, the Euler step, the stochastic step in three kinds, guidance.

UniGRPO's image policy, following Flow-GRPO (sde); CPS and DanceGRPO's step (dance) are settings of the same
function. Flow time runs from t = 1 (noise) to t = 0 (data): x_t = (1 - t) x_0 + t eps, v = eps - x_0,
dt = t_next - t < 0. Pure functions. Half precision is lifted to fp32 first: bf16 would round the mean of a
transition by more than two policies differ. A log-prob is the average over the latent elements of a sample,
never the sum: that is why the paper's clip range is as small as 1e-6.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TRAIN_TIMESTEPS = 1000  # diffusers' flow-matching schedulers discretise time this finely

Kind = Literal["sde", "cps", "dance"]


@dataclass(frozen=True)
class Transition:
    """Coefficients, (B,) each, of a Gaussian transition with mean x_coef * x + v_coef * v."""

    x_coef: Tensor
    v_coef: Tensor
    std: Tensor  # standard deviation of the transition
    sigma: Tensor  # diffusion coefficient std / sqrt|dt|; several public codes call this one "std_dev_t"


@dataclass(frozen=True)
class Step(Transition):
    """One transition x_t -> x_{t_next} of B samples."""

    mean: Tensor  # (B, *L) mean of the transition; the only part that carries gradient into log_prob
    prev: Tensor  # (B, *L) the latent at t_next (what samplers call the previous sample)
    log_prob: Tensor | None  # (B,) log-density of prev, nats per latent element; None for a float noise_level 0


def time_grid(n: int, shift: float, convention: Literal["points", "steps", "diffusers"] = "points") -> Tensor:
    """Decreasing times from 1 to 0, float32, with u -> shift * u / (1 + (shift - 1) * u).

    ``points``: n points, so n - 1 steps (BAGEL). ``steps``: n + 1 points, so n steps (UniRL). ``diffusers``:
    n + 1 points as its flow-matching Euler scheduler sets them: equally spaced between the *already shifted*
    extremes of its 1000 training times, shifted a second time, then 0. At least one step; shift > 0.
    """
    if convention == "diffusers":
        last = _shifted(torch.tensor(1 / TRAIN_TIMESTEPS, dtype=torch.float64), shift).item()
        times = _shifted(torch.linspace(1, last, n, dtype=torch.float64), shift)
        return torch.cat([times, times.new_zeros(1)]).float()
    points = n if convention == "points" else n + 1
    return _shifted(torch.linspace(1, 0, points, dtype=torch.float64), shift).float()


def draw_window(
    generator: torch.Generator, size: int, window_range: Sequence[int], *, scattered: bool = False
) -> Sequence[int]:
    """``size`` <= hi - lo increasing step numbers inside window_range = (lo, hi), hi excluded: the stochastic steps of
    a rollout (paper, section 3.2).

    One contiguous run (Flow-GRPO-Fast), whose start is uniform over the integers lo .. hi - size, both included: size
    3 in (0, 5) starts at 0, 1, 2. ``scattered``: any steps of the range, all subsets equally likely (UniRL).
    """
    lo, hi = window_range
    if scattered:
        return sorted((lo + torch.randperm(hi - lo, generator=generator)[:size]).tolist())
    start = int(torch.randint(lo, hi - size + 1, (), generator=generator))
    return range(start, start + size)


def moving_window(
    index: int, size: int, window_range: Sequence[int], *, stay: Callable[[int], int], shift: int
) -> range:
    """The window of rollout number ``index`` where it moves along the grid with training (MixGRPO). It starts at lo,
    stays stay(start) >= 1 rollouts, moves on by ``shift``, and starts over where it would begin at hi or later. A
    window that reaches past hi is cut there, so the last ones may be shorter than ``size``."""
    lo, hi = window_range
    starts = [start for start in range(lo, hi, shift) for _ in range(stay(start))]
    start = starts[index % len(starts)]
    return range(start, min(start + size, hi))


def euler_step(x: Tensor, v: Tensor, t: float | Tensor, t_next: float | Tensor) -> Tensor:
    """Deterministic step x + v * dt. x, v (B, *L); t, t_next floats or (B,)."""
    x, v = widen(x), widen(v)
    return x + v * column(_rows(t_next, x) - _rows(t, x), x)


def clean_estimate(x: Tensor, v: Tensor, t: float | Tensor) -> Tensor:
    """The data x_0 = x - t * v that a velocity implies. x, v (B, *L); t float or (B,)."""
    return euler_step(x, v, t, 0.0)


def transition(t: Tensor, t_next: Tensor, noise_level: Tensor, t_max: float | None, kind: Kind = "sde") -> Transition:
    """Coefficients of the stochastic step, all arguments (B,) except t_max; noise_level is called a.

    ``sde`` (Flow-GRPO eq. 9): sigma = a * sqrt(t / (1 - t)), x_coef = 1 + sigma^2 dt / (2 t), v_coef = (1 + sigma^2
    (1 - t) / (2 t)) dt. Where t == 1 exactly, 1 - t is taken at t_max, the grid's second value; std of this first step
    is then a. ``dance`` (DanceGRPO): the same with sigma = a at every time. ``cps`` (coefficient-preserving sampling):
    std = t_next sin(a pi / 2), and the mean is (1 - t_next) x_0 + sqrt(t_next^2 - std^2) eps with the data x_0 and the
    noise eps that v implies, so the noise has variance t_next^2 exactly; a in [0, 1], 1 replaces all of it.
    """
    dt = t_next - t
    if kind == "cps":
        std = t_next * torch.sin(noise_level * (math.pi / 2))
        old_noise = t_next * torch.cos(noise_level * (math.pi / 2)).abs()
        return Transition(1 - t_next + old_noise, old_noise * (1 - t) - (1 - t_next) * t, std, std / torch.sqrt(-dt))
    sigma = noise_level
    if kind == "sde":
        sigma = noise_level * torch.sqrt(t / (1 - torch.where(t == 1, t_max, t)))
    drift = sigma.square() / (2 * t)
    return Transition(1 + drift * dt, (1 + drift * (1 - t)) * dt, sigma * torch.sqrt(-dt), sigma)


def sde_step(
    x: Tensor,
    v: Tensor,
    t: float | Tensor,
    t_next: float | Tensor,
    *,
    noise_level: float | Tensor,
    t_max: float | None,
    kind: Kind = "sde",
    noise: Tensor | None = None,
    prev: Tensor | None = None,
) -> Step:
    """Sample (``noise`` given) or replay (``prev`` given: the recorded next latent) one stochastic step.

    x, v, noise, prev (B, *L); t, t_next, noise_level floats or (B,), so that one batch may mix times and mix
    stochastic with deterministic rows. t_max: the grid's second value, used by kind sde only. Gradient reaches
    log_prob through the mean only. noise_level 0 has no density: log_prob is None for a float 0, and rows whose std
    is 0 hold 0; for kinds sde and dance it is the Euler step, for cps the same up to rounding. The public CPS codes
    take -<(prev - mean)^2> for the log-prob, which scales log ratios by 2 std^2.
    """
    x, v = widen(x), widen(v)
    step = transition(_rows(t, x), _rows(t_next, x), _rows(noise_level, x), t_max, kind)
    mean = column(step.x_coef, x) * x + column(step.v_coef, x) * v
    if (noise is None) == (prev is None):
        raise ValueError("sde_step: give either noise (to sample) or prev (to replay)")
    if prev is None:
        prev = mean + column(step.std, x) * widen(noise)
    prev = widen(prev)
    if isinstance(noise_level, (int, float)) and noise_level == 0:
        return Step(**vars(step), mean=mean, prev=prev, log_prob=None)
    std = torch.where(step.std > 0, step.std, 1)
    log_prob = -(prev.detach() - mean).square().flatten(1).mean(1) / (2 * std.square())
    log_prob = torch.where(step.std > 0, log_prob - std.log() - 0.5 * math.log(2 * math.pi), 0)
    return Step(**vars(step), mean=mean, prev=prev, log_prob=log_prob)


def latent_kl_weight(t: float | Tensor, t_next: float | Tensor, *, noise_level: float, t_max: float) -> Tensor:
    """v_coef^2 / (2 std^2): the exact latent KL per element is this times the squared velocity difference. It spans
    three orders of magnitude over a trajectory (almost 0 near t = 1), which is the loophole that the paper's unweighted
    velocity MSE closes. Returns the shape of t."""
    t = torch.as_tensor(t, dtype=torch.float32)
    step = transition(t, torch.as_tensor(t_next, dtype=t.dtype), torch.full_like(t, noise_level), t_max)
    return step.v_coef.square() / (2 * step.std.square())


def guided_velocity(
    cond: Tensor,
    uncond: Tensor | None,
    scale: float,
    renorm: Literal["none", "global", "channel", "text_channel"] = "none",
    renorm_min: float = 0.0,
    image_uncond: Tensor | None = None,
    image_scale: float = 1.0,
) -> Tensor:
    """Classifier-free guidance g = uncond + scale * (cond - uncond) if scale > 1, else cond.

    cond, uncond, image_uncond (B, T, C). ``image_scale`` > 1 guides a second time, away from ``image_uncond``: g' =
    image_uncond + image_scale * (g - image_uncond). ``global`` multiplies the result by clamp(|cond| / (|result| +
    1e-8), renorm_min, 1) with norms over all tokens and channels of a sample; ``channel`` does the same per token,
    norms over the last axis; ``text_channel`` does that to g, before the second guidance. Source: BAGEL.
    """
    guided = cond = widen(cond)
    if scale <= 1 and image_scale <= 1:
        return cond
    if scale > 1:
        uncond = widen(uncond)
        guided = uncond + scale * (cond - uncond)
    if renorm == "text_channel":
        guided = _shortened(guided, cond, (-1,), renorm_min)
    if image_scale > 1:
        image_uncond = widen(image_uncond)
        guided = image_uncond + image_scale * (guided - image_uncond)
    if renorm in ("none", "text_channel"):
        return guided
    axes = {"global": tuple(range(1, cond.ndim)), "channel": (-1,)}[renorm]
    return _shortened(guided, cond, axes, renorm_min)


def _shortened(x: Tensor, model: Tensor, axes: tuple[int, ...], least: float) -> Tensor:
    """x, brought down to the norm of ``model`` over ``axes`` where it exceeds that, by a factor not below ``least``."""
    longest, norm = (torch.linalg.vector_norm(v, dim=axes, keepdim=True) for v in (model, x))
    return x * (longest / (norm + 1e-8)).clamp(least, 1)


def _shifted(u: Tensor, shift: float) -> Tensor:
    return shift * u / (1 + (shift - 1) * u)


def widen(x: Tensor) -> Tensor:
    """x in at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _rows(value: float | Tensor, x: Tensor) -> Tensor:
    """value as (B,) in the dtype and on the device of x."""
    filled = value if isinstance(value, Tensor) else x.new_full((), value)  # no transfer to a device
    return filled.to(x.dtype).expand(len(x))


def column(values: Tensor, x: Tensor) -> Tensor:
    """values, which have the first axes of x, with as many axes as x: (B,) -> (B, 1, ..., 1)."""
    return values.view(*values.shape, *[1] * (x.ndim - values.ndim))
