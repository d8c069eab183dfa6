"""The algorithm on one page: a rollout and its updates, the same for every method (``unigrpo.methods``).

Each prompt gets G episodes: a reasoning trace, then an image painted in N steps with the trace in view. The reward of
the image is compared within the group. Its advantage weighs every token and every noisy step (paper, section 3):

    J = J_text + lambda J_image - what holds the policy near the checkpoint that it started from

``training.run_frame`` has what surrounds the steps: record, checkpoints, validation.
"""

from torch import Tensor

from unigrpo.episodes.monitor import require_match
from unigrpo.episodes.rollout import Draw
from unigrpo.episodes.shares import local_rows
from unigrpo.episodes.slices import Slice
from unigrpo.training.gradients import clipped, common_collapse, merged, reduced_once, require_finite
from unigrpo.training.learner import Learner, Outcome
from unigrpo.training.task import advantages_of, draw_prompts, score


def learn(run: Learner, index: int, mark=lambda phase: None) -> Outcome:
    """Rollout ``index`` of P prompts, hence B = P G episodes, and its updates. ``mark`` is called as a phase ends.
    Raises Collapse where something that is computed is not finite."""
    cfg, nets, method = run.cfg, run.nets, run.method
    rl = run.settings(index)

    prompts = draw_prompts(cfg.seed, index, rl.prompts_per_rollout, run.pool)
    draw = Draw(prompts, rl, cfg.sampling.max_trace_tokens, cfg.seed, index, cfg.sampling.memory * 2**20)

    with run.acting():  # the old policy thinks and paints
        rollout = method.roll_out(nets, draw)
    mark("rollout")

    rewards = score(rollout, nets, rl)  # (B,) by name

    advantages, spread = advantages_of(method, rewards, rl)  # (B,) by part
    mark("reward")

    mine = local_rows(draw.size, rl)
    with run.accelerator.autocast():  # what stays fixed during the updates: old and reference quantities
        steps = method.make_slices(nets, rollout, {part: a[mine] for part, a in advantages.items()}, rl)
    mark("replay")

    metrics: dict[str, float] = {}
    for number, slices in enumerate(steps):
        measured, norms = update(run, slices, rl)
        metrics |= {f"{name}_{number}" if number else name: value for name, value in measured.items()} | norms
        run.after_step(rl)
    if hasattr(method, "follow"):
        method.follow(nets, rl, run.counts["updates"])
    mark("update")
    return Outcome(rollout, rewards, spread, metrics)


def update(run: Learner, slices: list[Slice], rl) -> tuple[dict[str, float], dict[str, float]]:
    """One optimiser step: metrics of its slices, and the norm of each expert's gradient before clipping. Raises
    Collapse, without a step, where a loss or a gradient is not finite."""
    with common_collapse():
        parts = [(s.share, accumulate(run, s, rl)) for s in reduced_once(run.nets, slices, run.cfg.reduce_each_slice)]
    metrics = merged(parts)
    require_match(metrics, run.cfg.precision)
    norms = {name: clipped(parameters, rl.clip_norm) for name, parameters in run.experts.items()}
    require_finite(metrics, norms)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    return metrics, {f"{name}_grad_norm": norm.item() for name, norm in norms.items()}


def accumulate(run: Learner, s: Slice, rl) -> dict[str, Tensor]:
    """Add the gradients of one slice."""
    with run.accelerator.autocast():
        losses = list(run.method.losses(run.nets, s, rl))
    metrics = {}
    for part, loss, measured in losses:
        metrics |= {f"{part}_{name}": value for name, value in measured.items()} | {f"{part}_loss": loss.detach()}
    sum(loss * s.share for _, loss, _ in losses).backward()
    return metrics
