"""What the contract of a method carries: each toy method uses one of the things that methods of the field need."""

from __future__ import annotations

import pytest
import torch

from tests._support import tiny
from tests._support.methods import brightness, train
from unigrpo.core.settings import replace
from unigrpo.episodes.rollout import Draw
from unigrpo.episodes.slices import Networks
from unigrpo.judges.reward import Reward
from unigrpo.methods import grpo
from unigrpo.study.facts import METHODS
from unigrpo.training.task import advantages_of, draw_prompts, score

PROMPTS = draw_prompts(0, 0, 4)
SHORT = replace(tiny.RL, rollouts=2, epochs=1, validate_every=2)
GRPO = "from unigrpo.methods.grpo import *\nimport torch\n"
GROUPS = """
from unigrpo.objectives.advantages import group_advantages

def within(rewards, rl):
    groups = [i // rl.group_size for i in range(len(rewards))]
    return group_advantages(rewards, groups, ddof=rl.advantage_ddof, eps=rl.advantage_eps)[0]
"""


class Parts:
    """A reward with two parts, as a weighted sum has them."""

    def __call__(self, images, prompts, **seen):
        self.parts = {"red": images[:, 0].mean((1, 2)), "blue": images[:, 2].mean((1, 2))}
        return sum(self.parts.values())


def made(model, rl, index: int = 0):
    """The rollout of a method, and its networks."""
    nets = Networks(model, model, brightness)
    return nets, METHODS.load(rl.method).roll_out(nets, Draw(PROMPTS, rl, 8, 3, index))


def test_a_reward_of_its_own_for_each_part(add, tmp_path):
    """Text learns from one reward and the image from another (arXiv 2606.14792)."""
    add("factorised", GRPO + GROUPS + """
def advantages(rewards, rl):
    return {"text": within(rewards["red"], rl), "image": within(rewards["blue"], rl)}
""")  # fmt: skip
    rl = replace(SHORT, method="factorised")
    method, (nets, rollout) = METHODS.load("factorised"), made(tiny.model(), rl)
    rewards = score(rollout, replace_reward(nets, Parts()), rl)
    by_part, _ = advantages_of(method, rewards, rl)
    shared, _ = advantages_of(grpo, {"reward": rewards["red"]}, rl)
    assert torch.equal(by_part["text"], shared["text"]) and not torch.equal(by_part["text"], by_part["image"])
    rows, _ = train(tmp_path, rl, Parts())
    assert {"reward_red", "reward_blue"} <= rows[0].keys()


def replace_reward(nets: Networks, reward) -> Networks:
    return Networks(nets.model, nets.reference, reward)


def test_several_rewards_standardised_apart(add):
    """GDPO (arXiv 2601.05242): each reward in its group, their sum over the batch. The scale of a part is nothing."""
    add("gdpo", GRPO + GROUPS + """
def advantages(rewards, rl):
    total = within(rewards["red"], rl) + within(rewards["blue"], rl)
    return dict.fromkeys(rl.train, (total - total.mean()) / (total.std() + rl.advantage_eps))
""")  # fmt: skip
    rl = replace(SHORT, method="gdpo", advantage_eps=0.0)
    draw = torch.Generator().manual_seed(0)
    red, blue = torch.rand(12, generator=draw).double(), torch.rand(12, generator=draw).double()
    ours, _ = advantages_of(METHODS.load("gdpo"), {"reward": red + blue, "red": red, "blue": blue}, rl)
    scaled = {"reward": red + blue, "red": 100 * red, "blue": blue}
    assert torch.allclose(advantages_of(METHODS.load("gdpo"), scaled, rl)[0]["text"], ours["text"], atol=1e-5)
    assert ours["image"].mean().abs() < 1e-6 and ours["image"].std() == pytest.approx(1)


def test_copies_of_the_weights_that_follow(add, tmp_path):
    """A moving reference beside an average: both are copies, saved with the run, moved by ``follow``."""
    add("followers", GRPO + """
from dataclasses import replace
FACTS = replace(FACTS, copies=("average", "lagging"))

@torch.no_grad()
def follow(nets, rl, updates):
    for name, share in (("average", 0.5), ("lagging", 1.0)):
        for copy, policy in zip(nets.copies[name].parameters(), nets.model.parameters(), strict=True):
            copy.lerp_(policy, share)
    for reference, lagging in zip(nets.reference.parameters(), nets.copies["lagging"].parameters(), strict=True):
        reference.copy_(lagging)
""")  # fmt: skip
    rows, _ = train(tmp_path, replace(SHORT, method="followers", epochs=2))
    ordinary, _ = train(tmp_path, replace(SHORT, epochs=2))
    times = dict.fromkeys(("seconds_rollout", "seconds_update", "images_per_second"))
    assert rows[0] | times == ordinary[0] | times
    assert rows[1]["image_velocity_mse"] < ordinary[1]["image_velocity_mse"]  # the reference has come along


def test_a_reference_at_another_guidance(add):
    """CRD's anchor: the reference's guided velocity, the policy's own."""
    add("anchored", GRPO + """
from functools import partial
from unigrpo.episodes import rollout as episodes, slices
from unigrpo.sampling.painting import Guidance

def make_slices(nets, rollout, advantages, rl):
    old = partial(episodes.replay, nets.model, rl=rl)
    reference = partial(episodes.replay, nets.reference, rl=rl, guidance=Guidance(4.5))
    return slices.slices(nets, rollout, advantages, rl, old, reference)
""")  # fmt: skip
    rl = replace(SHORT, method="anchored")
    nets, rollout = made(tiny.model(), rl)
    zero = dict.fromkeys(rl.train, torch.ones(12))
    found = [
        METHODS.load(name).make_slices(nets, rollout, zero, rl)[0][0].reference.image for name in ("anchored", "grpo")
    ]
    guided, plain = (r.velocity for r in found)
    empty = nets.model.replay(rollout.prompt_ids[:5], [rollout.trace.select(range(5)), states(rollout)], ("empty",),
                              through=False)[1]["empty"]  # fmt: skip
    assert torch.allclose(guided, empty + 4.5 * (plain - empty), atol=1e-4)


def states(rollout):
    from unigrpo.episodes.rollout import window_states

    return window_states(rollout.image.select(range(5)))


def test_a_share_of_a_group_without_a_trace(add, tmp_path):
    """PromptRL (arXiv 2602.01382): some episodes of a group paint from the bare prompt."""
    add("bare", GRPO + """
from dataclasses import replace
from unigrpo.methods import grpo

def roll_out(nets, draw):
    jobs = [replace(job, text=None) if i % draw.rl.group_size == 0 else job for i, job in enumerate(draw.jobs)]
    return grpo.roll_out(nets, replace(draw, jobs=tuple(jobs)))
""")  # fmt: skip
    rl = replace(SHORT, method="bare")
    nets, rollout = made(tiny.model(), rl)
    assert rollout.trace.mask.any(1).tolist() == [False, True, True] * 4
    _, ordinary = made(tiny.model(), SHORT)
    alone = nets.model.read_prompts(rollout.prompt_ids)
    x, t = rollout.image.latents[:, 0], rollout.image.times[list(rollout.image.window)][:1].expand(12)
    _, context = nets.model.encode(rollout.prompt_ids, rollout.trace)
    bare, seen = nets.model.velocity(alone, x, t), nets.model.velocity(context, x, t)
    assert torch.allclose(bare[::3], seen[::3], atol=1e-5) and not torch.allclose(bare[1::3], seen[1::3], atol=1e-3)
    assert torch.equal(rollout.trace.tokens[1::3], ordinary.trace.tokens[1::3])
    rows, _ = train(tmp_path, rl)
    assert all(row["text_grad_norm"] > 0 and row["image_mismatch"] < 1e-3 for row in rows)


def test_several_images_of_one_trace():
    rl = replace(SHORT, group_size=6, images_per_trace=3, same_noise=False)
    _, rollout = made(tiny.model(), rl)
    tokens, images = rollout.trace.tokens.unflatten(0, (4, 2, 3)), rollout.image.images.unflatten(0, (4, 2, 3))
    assert torch.equal(tokens, tokens[:, :, :1].expand_as(tokens)) and not torch.equal(tokens[:, 0], tokens[:, 1])
    assert (images[:, :, 0] != images[:, :, 1]).flatten(2).any(-1).all()


def test_alternating_phases(add, tmp_path):
    """SepGRPO (arXiv 2512.23568): the reasoner on a frozen painter, and the reverse."""
    add("turns", GRPO + """
from unigrpo.core.settings import replace

def phase(rl, index):
    return replace(rl, train=("text",) if index % 2 == 0 else ("image",))
""")  # fmt: skip
    rows, _ = train(tmp_path, replace(SHORT, method="turns"))
    assert [("text_loss" in row, "image_loss" in row) for row in rows] == [(True, False), (False, True)]
    assert [row["text_grad_norm"] > 0 for row in rows] == [True, False]
    assert [row["image_grad_norm"] > 0 for row in rows] == [False, True]


def test_a_reward_that_sees_the_policy(tmp_path):
    """Self-likelihood (arXiv 2605.12495): how likely the policy finds the prompt's trace."""
    seen = []

    def likelihood(images, prompts, *, policy, traces):
        seen.append(traces)
        given = policy.trace_from_texts(traces)
        hidden, _ = policy.encode(policy.prompt_ids([p.text for p in prompts]), given)
        return policy.text_logp(hidden, given, 1.0)[0].sum(1) / given.mask.sum(1).clamp(min=1)

    rows, _ = train(tmp_path, SHORT, Reward("likelihood", likelihood, False, ("policy", "traces")))
    validation, rollout = seen[:2]  # the first without thinking
    assert len(rollout) == 12 and all(isinstance(text, str) for text in rollout) and set(validation) == {None}
    assert rows[0]["proxy"] < 0


def test_pairs_of_trajectories(add, tmp_path):
    """FDFO (arXiv 2603.12893): two branches of one start; the direction between them is learned."""
    add("pairs", GRPO + """
from unigrpo.episodes import noise_pairs, rollout as episodes, slices
from unigrpo.methods import MethodFacts

FACTS = MethodFacts(trains=(("image",),), noise_inside=True, ratio=False)

def make_slices(nets, rollout, advantages, rl):
    return slices.slices(nets, rollout, advantages, rl, lambda part: None, None, keep_all=True)

def losses(nets, s, rl):
    new, images = episodes.replay(nets.model, s.rollout, rl).image, s.rollout.image
    final = images.next_latents[:, -1].unflatten(0, (-1, 2))
    direction = (final[:, 0] - final[:, 1]) / 2
    signs = torch.stack([direction, -direction], 1).flatten(0, 1)[:, None]
    yield "image", (s.advantages["image"][:, None] * (new.velocity * signs).mean((2, 3))).mean(), {}
""")  # fmt: skip
    rl = replace(SHORT, method="pairs", group_size=2, micro_batch=4, train=("image",), regulariser="none")
    _, rollout = made(tiny.model(), rl)
    first = rollout.image.latents[:, 0].unflatten(0, (4, 2))
    last = rollout.image.next_latents[:, -1].unflatten(0, (4, 2))
    assert rollout.image.window[0] > 0 or torch.equal(first[:, 0], first[:, 1])
    assert not torch.equal(last[:, 0], last[:, 1])
    rows, _ = train(tmp_path, rl)
    assert all(row["image_grad_norm"] > 0 for row in rows)
