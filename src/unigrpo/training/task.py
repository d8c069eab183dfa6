"""What a rollout is asked, and what it earns: the prompts drawn for it, the rewards of its images and their source."""

from pathlib import Path

import torch
from torch import Tensor

from unigrpo.core import distributed, seeding
from unigrpo.core.errors import Collapse, RewardFailed, UserError
from unigrpo.core.records import Prompt
from unigrpo.episodes import shares
from unigrpo.episodes.rollout import Rollout
from unigrpo.episodes.slices import Networks
from unigrpo.judges.reward import scores_of
from unigrpo.objectives.advantages import group_advantages
from unigrpo.study.config import RLConfig
from unigrpo.study.facts import REWARDS
from unigrpo.world import prompts as world_prompts


def draw_prompts(seed: int, index: int, n: int, pool: list[Prompt] | None = None) -> list[Prompt]:
    """The prompts of rollout ``index``: distinct, categories equally often; the same for every run of a seed. From
    the world's training prompts without a ``pool``."""
    by_tag: dict[str, list[Prompt]] = {}
    for prompt in world_prompts.prompt_set("train") if pool is None else pool:
        by_tag.setdefault(prompt.tag, []).append(prompt)
    tags, least = list(by_tag), min(map(len, by_tag.values()))
    rng = seeding.numpy_generator(seed, "prompts", index)
    offset = int(rng.integers(len(tags)))
    if n > least * len(tags):
        raise UserError(f"rl.prompts_per_rollout: expected at most {least * len(tags)} distinct prompts, got {n}")
    drawn: list[Prompt] = []
    for i in range(n):
        choices = by_tag[tags[(offset + i) % len(tags)]]
        drawn.append(choices.pop(rng.integers(len(choices))))
    return drawn


@torch.no_grad()
def score(rollout: Rollout, nets: Networks, rl: RLConfig) -> dict[str, Tensor]:
    """Rewards (B,) float64 of the episodes of all processes, by name: ``reward``, what is trained on, and the parts of
    a weighted sum. A reward is told what it asks for: the traces, the policy. Of a group with an image that it fails
    for they are NaN where the settings drop it. Raises, in all processes, RewardFailed otherwise, and where no group is
    left; Collapse where an image is not finite."""
    images, reward = rollout.image.images, nets.reward
    if not all(distributed.collect([bool(torch.isfinite(images).all())])):
        raise Collapse("the images are not finite")
    traces = [None] * len(images) if rollout.trace is None else nets.model.trace_texts(rollout.trace)
    with distributed.common(RewardFailed):
        scores = scores_of(reward, images, rollout.prompts, rl.reward_failure, policy=nets.model, traces=traces)
    if drops := rl.reward_failure == "drop":  # a process without any score knows of no parts
        none = images.new_full((len(images),), torch.nan)
        scores = {name: scores.get(name, none) for name in dict.fromkeys(distributed.collect([*scores]))}
    n = rl.prompts_per_rollout * rl.group_size
    found = {name: shares.gathered(values.double().cpu(), n, rl) for name, values in scores.items()}
    if drops:
        lost = found["reward"].view(-1, rl.group_size).isnan().any(1)
        if lost.all():
            raise RewardFailed(f"reward {rl.reward}: failed for every prompt of the rollout")
        rows = lost.repeat_interleave(rl.group_size)
        found = {name: values.masked_fill(rows, torch.nan) for name, values in found.items()}
    return found


def advantages_of(method, rewards: dict[str, Tensor], rl: RLConfig) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Advantages (B,) of each trained part: those that the method makes of the rewards, or the one that all parts share
    (UniGRPO, section 2). Beside them the spread of the rewards. Groups that are dropped have no part in either; their
    advantages are NaN, by which methods leave them out."""
    every, drops = rewards["reward"], rl.reward_failure == "drop"
    rows = (~every.isnan()).nonzero().flatten() if drops else torch.arange(len(every))
    rewards = {name: values[rows] for name, values in rewards.items()}
    groups = [i // rl.group_size for i in rows.tolist()]
    settings = {"ddof": rl.advantage_ddof, "eps": rl.advantage_eps, "scale": rl.advantage_scale}
    shared, spread = group_advantages(rewards["reward"], groups, clip=rl.advantage_clip, **settings)
    parts = method.advantages(rewards, rl) if hasattr(method, "advantages") else dict.fromkeys(rl.train, shared)
    if drops:
        spread["dropped_groups"] = (len(every) - len(rows)) // rl.group_size
        parts = {part: a.new_full((len(every),), torch.nan).index_copy(0, rows, a) for part, a in parts.items()}
    return parts, spread


def reward_source(name: str, folder: Path | None, options: dict | None = None) -> tuple[dict, Path]:
    """Options that the reward is built with, and the file that decides it: its weights, or the source of one without.
    ``folder`` holds a reward that the workflow trains; others need none. Raises UserError where it is missing."""
    options = options or {}
    if REWARDS.load(name).FACTS.trained is None:
        return options, REWARDS.source(name)
    folder = Path(options["path"]) if "path" in options else folder
    if folder is None:
        raise UserError(f"--reward: expected the folder of the learned reward (rl.reward: {name})")
    return {"device": "auto"} | options | {"path": folder}, folder / "model.safetensors"
