"""Settings of a run reach the mathematics that they name."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests._support import tiny
from tests._support.methods import train
from unigrpo.core.files import read_jsonl
from unigrpo.core.settings import replace
from unigrpo.episodes import rollout as episodes
from unigrpo.episodes import slices
from unigrpo.episodes.rollout import Draw, replay, roll_out
from unigrpo.methods import grpo
from unigrpo.models import checkpoint
from unigrpo.objectives.text_losses import TextObjective, text_grpo_loss
from unigrpo.training import learner
from unigrpo.training.task import advantages_of, draw_prompts

PROMPTS = draw_prompts(0, 0, 4)


def one_slice(rl, model=None, reference=None):
    """A slice of five episodes under slightly other weights than those that made it, and the replay under these."""
    start = model or tiny.model()
    rollout = roll_out(start, Draw(PROMPTS, rl, 8, 5, 1))
    nets = slices.Networks(start, reference or start, None)
    ones = torch.linspace(-1, 1, 12)
    s = grpo.make_slices(nets, rollout, dict.fromkeys(rl.train, ones), rl)[0][0]
    moved = copy.deepcopy(start)
    with torch.no_grad():
        s.before(replay(start, s.rollout, rl))
        for p in moved.parameters():
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(p))))
    return s, moved


@pytest.mark.parametrize(
    ("settings", "objective"),
    [
        ({"clip_text": 0.1}, {"clip_low": 0.1, "clip_high": 0.1}),
        ({"clip_text_low": 0.2, "clip_text_high": 0.28}, {"clip_low": 0.2, "clip_high": 0.28}),
        ({"text_level": "sequence"}, {"level": "sequence"}),
        ({"text_surrogate": "cispo"}, {"surrogate": "cispo"}),
        ({"text_surrogate": "sapo"}, {"surrogate": "sapo"}),
        ({"text_ratio_cap": 1.01}, {"ratio_cap": 1.01}),
        ({"text_reduction": "bnpo"}, {"reduction": "bnpo"}),
        ({"kl_text": 0.5, "kl_text_corrected": True}, {"kl_weight": 0.5, "kl_corrected": True}),
        ({"entropy_weight": 0.1}, {"entropy_weight": 0.1}),
        ({"entropy_share": 0.5}, {"entropy_share": 0.5}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_settings_of_the_text_are_those_of_its_loss(settings, objective):
    rl = replace(tiny.RL, train=("text",), **settings)
    s, moved = one_slice(rl)
    with torch.no_grad():
        new = replay(moved, s.rollout, rl)
        _, loss, _ = slices.text_loss(new, s, rl)
    wanted = TextObjective(**{"clip_low": rl.clip_text, "clip_high": rl.clip_text} | objective)
    reference = None if s.reference is None else s.reference.text.logp
    expected, _ = text_grpo_loss(
        new.text.logp,
        s.old.text.logp,
        s.rollout.trace.mask,
        s.advantages["text"],
        wanted,
        logp_ref=reference,
        entropy=new.text.entropy,
    )
    plain, _ = text_grpo_loss(
        new.text.logp, s.old.text.logp, s.rollout.trace.mask, s.advantages["text"], TextObjective(10.0, 10.0)
    )
    assert loss.item() == expected.item() and loss.item() != plain.item()


def test_the_entropy_bonus_has_a_gradient():
    rl = replace(tiny.RL, train=("text",), entropy_weight=0.3)
    s, moved = one_slice(rl)
    s.advantages["text"].zero_()
    new = replay(moved, s.rollout, rl)
    slices.text_loss(new, s, rl)[1].backward()
    ours = moved.mot.language_model.lm_head.weight.grad.clone()
    moved.zero_grad()
    hidden, _ = moved.encode(s.rollout.prompt_ids, s.rollout.trace)
    mask = s.rollout.trace.mask
    p = moved.mot.logits(hidden[:, : mask.shape[1]]).softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    (-0.3 * entropy[mask].mean()).backward()
    assert torch.allclose(ours, moved.mot.language_model.lm_head.weight.grad, atol=1e-6) and ours.abs().max() > 0


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_the_spread_of_the_advantage(scale):
    rl = replace(tiny.RL, advantage_scale=scale, advantage_eps=0.0, advantage_clip=1.2)
    rewards = torch.rand(12, generator=torch.Generator().manual_seed(3)).double()
    found, _ = advantages_of(grpo, {"reward": rewards}, rl)
    groups = rewards.view(4, 3)
    spread = {"group": groups.std(1, correction=0)[:, None], "batch": rewards.std(correction=0), "none": 1.0}[scale]
    expected = ((groups - groups.mean(1, keepdim=True)) / spread).clamp(-1.2, 1.2).flatten().float()
    assert torch.allclose(found["text"], expected) and found["text"] is found["image"]


def test_the_kl_of_flow_grpos_code_is_the_exact_one_times_the_step():
    rl = replace(tiny.RL, regulariser="latent_kl")
    s, moved = one_slice(rl)
    with torch.no_grad():
        new = replay(moved, s.rollout, rl)
        exact, theirs = (
            slices.window_penalty(new, s, replace(rl, latent_kl_variant=v), {}) for v in ("exact", "flow_grpo")
        )
    track = s.rollout.image
    steps = torch.stack([track.times[k] - track.times[k + 1] for k in track.window])
    assert torch.allclose(theirs, exact * steps, rtol=1e-4) and (exact > 0).all()


@pytest.mark.parametrize(
    "painting",
    [
        {"guidance": 3.0},
        {"guidance": 3.0, "renorm": "global"},
        {"guidance": 3.0, "renorm": "channel", "guidance_interval": (0.7, 1.0)},
        {"guidance": 3.0, "reasoning_guidance": 2.0, "renorm": "text_channel"},
        {"reasoning_guidance": 2.0},
        {"grid": "diffusers"},
        {"grid": "points"},
    ],
    ids=lambda value: " ".join(value),
)
def test_rollout_and_replay_paint_alike(painting):
    """The transitions of the replay are those that the sampler made, however it is guided and timed."""
    rl = replace(tiny.RL, **painting)
    rollout = roll_out(tiny.model(), Draw(PROMPTS, rl, 8, 5, 1))
    with torch.no_grad():
        again = replay(tiny.model(), rollout, rl).image
    plain = roll_out(tiny.model(), Draw(PROMPTS, tiny.RL, 8, 5, 1))
    assert torch.allclose(again.mean, rollout.image.means, atol=1e-5)
    assert not torch.allclose(rollout.image.images, plain.image.images, atol=1e-4)


def test_guidance_acts_inside_its_interval():
    """No time lies in an empty interval; evaluations count those inside: times after the start, up to the end."""
    rl = replace(tiny.RL, guidance=3.0)
    times = Draw(PROMPTS, rl, 8, 5, 1).times[:-1].tolist()
    for interval in ((0.0, 1.0), (times[2], times[1]), (0.0, times[-1] / 2)):
        painted = roll_out(tiny.model(), Draw(PROMPTS, replace(rl, guidance_interval=interval), 8, 5, 1))
        inside = sum(interval[0] < t <= interval[1] for t in times)
        assert painted.model_evaluations == 12 * (len(times) + inside)
        if inside == 0:
            unguided = roll_out(tiny.model(), Draw(PROMPTS, tiny.RL, 8, 5, 1))
            assert torch.equal(painted.image.images, unguided.image.images)


def test_the_penalty_may_compare_conditional_velocities():
    s, moved = one_slice(replace(tiny.RL, guidance=3.0))
    rl = replace(tiny.RL, guidance=3.0, velocity_mse_weight=1.0)
    with torch.no_grad():
        new = replay(moved, s.rollout, rl)
        guided, alone = (slices.window_penalty(new, s, replace(rl, penalty_guided=g), {}) for g in (True, False))
    mse = (new.image.conditional - s.reference.image.conditional).square().mean((2, 3))
    assert torch.allclose(alone, mse, rtol=1e-5) and not torch.allclose(guided, alone, rtol=1e-2)


def test_the_grid_of_diffusers_is_its_schedulers():
    rl = replace(tiny.RL, grid="diffusers", steps=10, shift=3.0, window_range=(0, 4))
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    assert torch.allclose(Draw(PROMPTS, rl, 8, 5, 1).times, scheduler.sigmas, atol=1e-6)


@pytest.mark.slow
def test_the_average_of_the_policy_is_saved(tmp_path):
    """mean <- d mean + (1 - d) weights after every optimiser step, d = min((1 + n) / (10 + n), decay)."""
    rl = replace(tiny.RL, rollouts=2, epochs=2, validate_every=2)
    seen, after_step = [], learner.Learner.after_step

    def watch(run, settings):
        after_step(run, settings)
        seen.append(run.nets.model.mot.llm2vae.weight.detach().clone())

    learner.Learner.after_step = watch
    try:
        _, averaged = train(tmp_path, replace(rl, average="judged", ema_decay=0.15))
    finally:
        learner.Learner.after_step = after_step
    mean = tiny.model().mot.llm2vae.weight.detach().clone()
    for n, weight in enumerate(seen):
        d = min((1 + n) / (10 + n), 0.15)
        mean = d * mean + (1 - d) * weight
    assert len(seen) == 4 and torch.allclose(averaged["mot.llm2vae.weight"], mean, atol=1e-6)
    assert not torch.equal(averaged["mot.llm2vae.weight"], seen[-1])


def test_the_average_beside_the_policy_changes_nothing_of_it(tmp_path):
    """In the last third of the course it is validated under names of its own, in the record and image by image."""
    rl = replace(tiny.RL, rollouts=3, epochs=2, validate_every=1)
    _, weights = train(tmp_path, rl)
    _, beside = train(tmp_path, replace(rl, average="beside"))
    assert all(torch.equal(beside[name], tensor) for name, tensor in weights.items())
    found = [row for _, row in read_jsonl(tmp_path / "grpo/metrics.jsonl") if row["kind"] == "validation"]
    assert ["average_gold" in row for row in found] == [False, False, False, True]
    assert {f"average_{name}" for name in ("gold", "strict", "proxy", "artefact")} <= found[-1].keys()
    images = [row for _, row in read_jsonl(tmp_path / "grpo/validation/000006.jsonl")]
    assert sum(row["average_artefact"] for row in images) != sum(row["artefact"] for row in images)


@pytest.mark.parametrize("rank", [0, 2])
def test_the_image_loss_alone_may_move_both_experts(tmp_path, rank):
    start = tiny.model().mot.expert_parameters()
    moved = {}
    for gradient in ("full", "auto"):
        rl = replace(tiny.RL, rollouts=1, train=("image",), context_gradient=gradient, lora_rank=rank)
        rows, _ = train(tmp_path, rl)
        trained = checkpoint.load_model(tmp_path / "grpo").mot.expert_parameters()
        moved[gradient] = {
            part: any(not torch.equal(a, b) for a, b in zip(start[part], trained[part], strict=True)) for part in start
        }
        assert ("text_grad_norm" in rows[0]) == (gradient == "full") and "text_loss" not in rows[0]
    assert moved == {"full": {"text": True, "image": True}, "auto": {"text": False, "image": True}}


def test_learning_rates_warm_up_to_their_peak():
    rl = replace(tiny.RL, warmup=3, lr_text=0.4, lr_image=0.8)
    optimizer, _ = learner.optimizer_for(copy.deepcopy(tiny.model()), rl)
    found = []
    for updates in range(5):
        learner.warm_up(optimizer, rl, updates)
        found.append([group["lr"] for group in optimizer.param_groups])
    assert [x for x, _ in found] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert [y / x for x, y in found] == pytest.approx([2] * 5)


def test_diversity_is_of_the_members_that_a_process_has():
    images = torch.rand(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    pairs = [(0, 1), (0, 2), (1, 2)]
    first = math.sqrt(sum((images[a] - images[b]).square().mean().item() for a, b in pairs) / 3)
    assert episodes.diversity(images[:4], [7, 7, 7, 9]) == [pytest.approx(first, rel=1e-5)]
    assert episodes.diversity(images[:1], [7]) == []
