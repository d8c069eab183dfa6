"""What a training run will cost, counted from its configuration alone. Imports no torch.

An image evaluation is one image through the image part once; guidance doubles them. Text is counted in tokens of
traces. "At most": a trace may end early, and episodes without advantage are not replayed where no
regulariser needs them. "Replays" are without gradient (old and reference weights), "updates" with it.
"""

from __future__ import annotations

from unigrpo.study.config import SUPERVISED_VALIDATION_IMAGES, RLConfig, RunConfig, SamplingConfig
from unigrpo.world.prompts import prompt_set


def reinforcement(cfg: RunConfig, validation_guidance: float) -> dict[str, int]:
    """Updates, images, image evaluations and text tokens of an RL run, in rollouts, replays and updates, in
    validation, and for the drift measured beside it."""
    rl = cfg.rl
    images = rl.rollouts * rl.prompts_per_rollout * rl.group_size
    checks = 1 + validations(rl.rollouts, rl.validate_every)
    prompts = len(prompt_set("val"))
    judged, probed = checks * prompts * rl.validation_images, (1 + checks) * prompts * rl.n_steps
    trace = cfg.sampling.max_trace_tokens if rl.thinking else 0
    with_gradient = images * (rl.epochs if rl.epoch_convention == "repeat" else 1)
    without = images * rl.needs_reference + rl.rollouts * old_replays(rl)
    guided, windows = 2 if rl.guidance > 1 else 1, evaluations(rl)
    return {
        "rollouts": rl.rollouts,
        "updates": rl.rollouts * rl.epochs,
        "images": images,
        "rollout_image_evaluations": images * rl.n_steps * guided,
        "rollout_text_tokens_at_most": images * trace,
        "replay_image_evaluations_at_most": without * windows,
        "update_image_evaluations_at_most": with_gradient
        * (windows + rl.facts.extra_evaluations(rl) * ("image" in rl.train)),
        "replay_text_tokens_at_most": without * trace,
        "update_text_tokens_at_most": with_gradient * trace,
        "validation_images": judged,
        "validation_image_evaluations": judged * sampling_steps(cfg.sampling) * (2 if validation_guidance > 1 else 1),
        "validation_text_tokens_at_most": judged * trace,
        "drift_image_evaluations": probed,
        "drift_text_tokens_at_most": prompts * trace,
    }


def supervised(cfg: RunConfig) -> dict[str, int]:
    """Updates, images, image evaluations and text tokens of a supervised run, in training and validation."""
    s = cfg.supervised
    checks = validations(s.steps, s.validate_every)
    judged = checks * len(prompt_set("val")) * SUPERVISED_VALIDATION_IMAGES
    return {
        "updates": s.steps,
        "images": s.steps * s.batch_size,
        "update_image_evaluations": s.steps * s.batch_size,
        "validation_images": 2 * judged,
        "validation_image_evaluations": 2 * judged * sampling_steps(cfg.sampling),
        "validation_text_tokens_at_most": judged * cfg.sampling.max_trace_tokens,
    }


def evaluations(rl: RLConfig) -> int:
    """Image evaluations of an episode, each time that it is replayed."""
    return rl.facts.evaluations(rl) if "image" in rl.train else 0


def validations(steps: int, every: int) -> int:
    """Validations during ``steps``: after each ``every``, and after the last."""
    return -(-steps // every)


def old_replays(rl: RLConfig) -> int:
    """Episodes of a rollout that are replayed under the old weights: all where these are a separate copy,
    otherwise those that the first optimiser step does not use, and none for a rule without a ratio."""
    episodes = rl.prompts_per_rollout * rl.group_size
    if "old_weights" in rl.facts.needs:
        return episodes
    if not rl.facts.ratio or rl.epoch_convention == "repeat":
        return 0
    return episodes - episodes // rl.epochs


def sampling_steps(sampling: SamplingConfig) -> int:
    """Evaluations of one image at evaluation, without guidance."""
    return sampling.steps - 1 if sampling.grid == "points" else sampling.steps
