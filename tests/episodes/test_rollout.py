"""Rollout, replay and one update: the invariants that make the ratios mean what they should."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator

from tests._support import tiny
from unigrpo.core.errors import UserError
from unigrpo.core.settings import replace
from unigrpo.episodes import shares, slices
from unigrpo.episodes.rollout import Draw, replay, roll_out, stochastic_steps
from unigrpo.methods import grpo
from unigrpo.objectives import flow
from unigrpo.objectives.image_losses import ratio_norm_log_ratio
from unigrpo.sampling.engine import Decoding, sample, sample_guided
from unigrpo.sampling.painting import Guidance, paint
from unigrpo.training import learner, loop, task
from unigrpo.world.prompts import prompt_set

PROMPTS = task.draw_prompts(0, 0, 4)
MONITORED = {"text_mismatch", "text_mismatch_max", "image_mismatch", "image_mismatch_max", "image_log_ratio_floor"}


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def rollout(model):
    return roll_out(model, Draw(PROMPTS, tiny.RL, 8, 5, 2))


def networks(model, reference=None) -> slices.Networks:
    return slices.Networks(model, reference or model, reward=None)


def advantages(n: int = 12) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(1))


def test_a_rollout_is_a_function_of_seed_and_index(model, rollout):
    again = roll_out(model, Draw(PROMPTS, tiny.RL, 8, 5, 2))
    assert torch.equal(again.image.images, rollout.image.images) and torch.equal(
        again.trace.tokens, rollout.trace.tokens
    )
    other = roll_out(model, Draw(PROMPTS, tiny.RL, 8, 5, 3))
    assert not torch.equal(other.image.images, rollout.image.images)


@pytest.mark.parametrize("sizes", [(1, 1), (5, 2), (2, 5)], ids=str)
def test_a_rollout_made_in_parts_is_the_same(model, rollout, monkeypatch, sizes):
    """``sizes``: how many episodes the memory has room for while they are written, and while they are painted."""
    monkeypatch.setattr(model, "row_bytes", lambda ids, tokens: tuple(60 // n for n in sizes))
    parts = roll_out(model, Draw(PROMPTS, tiny.RL, 8, 5, 2, memory=60))
    assert model.trace_texts(parts.trace) == model.trace_texts(rollout.trace)
    assert parts.prompt_ids == rollout.prompt_ids and parts.jobs == rollout.jobs
    assert parts.model_evaluations == rollout.model_evaluations
    assert torch.allclose(parts.image.images, rollout.image.images, atol=1e-4)
    assert torch.equal(parts.image.noise, rollout.image.noise)


@pytest.mark.parametrize("settings", [{}, {"epoch_convention": "repeat"}, {"group_size": 4, "epochs": 4}], ids=str)
def test_processes_draw_the_episodes_of_one(model, monkeypatch, settings):
    """Each its own rows, which are equally many neighbours of every optimiser step, whole groups or not."""
    rl = replace(tiny.RL, **settings)
    whole, found = roll_out(model, Draw(PROMPTS, rl, 8, 5, 2)), []
    monkeypatch.setattr(shares.distributed, "count", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(shares.distributed, "rank", lambda rank=rank: rank)
        rows = shares.local_rows(4 * rl.group_size, rl)
        mine = roll_out(model, Draw(PROMPTS, rl, 8, 5, 2))
        assert mine.jobs == whole.select(rows).jobs
        assert model.trace_texts(mine.trace) == model.trace_texts(whole.trace.select(rows))
        assert torch.equal(mine.image.noise, whole.image.noise[rows])
        assert torch.allclose(mine.image.images, whole.image.images[rows], atol=1e-4)
        steps = [set(rows[i] for i in step) for step in slices.optimizer_steps(rl)]
        found.append((rows, steps))
    (first, steps), (second, others) = found
    assert sorted(first + second) == list(range(4 * rl.group_size))
    monkeypatch.undo()
    assert [a | b for a, b in zip(steps, others, strict=True)] == [set(step) for step in slices.optimizer_steps(rl)]


def test_episodes_that_share_a_trace_differ_in_their_noise_alone(model):
    rl = replace(tiny.RL, group_size=4, images_per_trace=2)
    r = roll_out(model, Draw(PROMPTS, rl, 8, 5, 2))
    texts = model.trace_texts(r.trace)
    assert texts[::2] == texts[1::2] and len(set(texts)) > 4
    assert torch.pdist(r.image.images.flatten(1)).min() > 0


def test_a_group_shares_its_first_noise_and_no_prompts_do(model):
    """With the window at step 0 the state before it is the initial noise."""
    rl = replace(tiny.RL, window_range=(0, 2))
    first = roll_out(model, Draw(PROMPTS, rl, 8, 5, 0)).image.latents[:, 0].unflatten(0, (4, 3))
    assert torch.equal(first[:, 0], first[:, 1]) and torch.equal(first[:, 0], first[:, 2])
    assert all(not torch.equal(first[i, 0], first[j, 0]) for i in range(4) for j in range(i))
    apart = roll_out(model, Draw(PROMPTS, replace(rl, same_noise=False), 8, 5, 0)).image.latents[:, 0]
    assert torch.pdist(apart.flatten(1)).min() > 1


def test_recorded_transitions_are_the_sde_steps_of_the_window(model, rollout):
    """Replay at the rollout's own weights returns the mean from which prev = mean + std * noise was drawn."""
    with torch.no_grad():
        again = replay(model, rollout, tiny.RL)
    prev = again.image.mean + again.image.std[None, :, None, None] * rollout.image.noise
    assert torch.allclose(prev, rollout.image.next_latents, atol=1e-5)
    assert torch.equal(rollout.image.latents[:, 1], rollout.image.next_latents[:, 0])  # the window is contiguous
    expected = (
        -0.5 * rollout.image.noise.square().mean((2, 3))
        - again.image.std.log()
        - 0.5 * torch.log(torch.tensor(2 * torch.pi))
    )
    assert torch.allclose(again.image.log_prob, expected, atol=1e-4)


def test_a_scattered_window_leaves_euler_steps_between(model):
    """Each kept pair is one stochastic step, and the steps between two of them are deterministic."""
    rl = replace(tiny.RL, window="scattered", window_range=(0, 5), window_size=2)
    windows = [stochastic_steps(rl, 5, index) for index in range(20)]
    index = next(i for i, (first, last) in enumerate(windows) if last - first == 3)
    r = roll_out(model, Draw(PROMPTS, rl, 8, 5, index))
    first, last = r.image.window
    with torch.no_grad():
        _, context = model.encode(r.prompt_ids, r.trace)
        x = r.image.next_latents[:, 0]
        for k in range(first + 1, last):
            t, t_next = r.image.times[k], r.image.times[k + 1]
            x = flow.euler_step(x, model.velocity(context, x, t.expand(len(x))), t, t_next)
        again = replay(model, r, rl)
    assert torch.allclose(x, r.image.latents[:, 1], atol=1e-5)
    prev = again.image.mean + again.image.std[None, :, None, None] * r.image.noise
    assert torch.allclose(prev, r.image.next_latents, atol=1e-5)


def test_a_progressive_window_moves_with_the_rollouts(model):
    rl = replace(tiny.RL, window="progressive", window_rollouts=2, window_size=3, window_range=(0, 5))
    assert [list(stochastic_steps(rl, 5, i)) for i in range(5)] == [[0, 1, 2]] * 2 + [[3, 4]] * 2 + [[0, 1, 2]]
    r = roll_out(model, Draw(PROMPTS, rl, 8, 5, 2))
    assert list(r.image.window) == [3, 4] and r.image.noise.shape[1] == r.image.latents.shape[1] == 2


def test_outside_the_window_painting_is_euler(model):
    ids = model.prompt_ids(["a photo of a circle"])
    times = flow.time_grid(4, 3.0, "steps")
    x0 = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, context = model.encode(ids, None)
        painted, kept = paint(model, {"full": context}, x0, times, Guidance())
        x = x0
        for t, t_next in zip(times[:-1], times[1:], strict=True):
            x = x + (t_next - t) * model.velocity(context, x, t[None])
    assert kept == [] and torch.allclose(painted, x, atol=1e-6)


def test_guidance_follows_its_formula_and_counts_double(model):
    rl = replace(tiny.RL, guidance=3.0)
    r = roll_out(model, Draw(PROMPTS, rl, 8, 5, 0))
    assert r.model_evaluations == 2 * roll_out(model, Draw(PROMPTS, tiny.RL, 8, 5, 0)).model_evaluations
    with torch.no_grad():
        _, context = model.encode(r.prompt_ids, r.trace)
        x, t = r.image.latents[:, 0], r.image.times[r.image.window[0]].expand(12)
        cond, uncond = model.velocity(context, x, t), model.velocity(model.empty_context(12), x, t)
        assert torch.allclose(replay(model, r, rl).image.velocity[:, 0], uncond + 3 * (cond - uncond), atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ratio": "plain"},
        {"context_gradient": "stage_boundary"},
        {"transition": "cps"},
        {"transition": "cps", "ratio": "plain"},
        {"transition": "dance", "noise_level": 0.3},
        {"transition": "dance", "ratio": "plain"},
        {"window": "scattered"},
        {"window": "progressive", "window_rollouts": 1},
        {"kl_text": 0.1, "text_reduction": "dapo"},
    ],
    ids=str,
)
def test_every_ratio_is_exactly_one_before_the_first_update(model, settings):
    """Bitwise: old quantities come from a replay over the very slices that are updated."""
    rl = replace(tiny.RL, **settings)
    rollout = roll_out(model, Draw(PROMPTS, rl, 8, 5, 2))
    steps = grpo.make_slices(networks(model), rollout, tiny.both(advantages()), rl)
    assert len(steps) == rl.epochs
    for s in steps[0] + steps[1]:
        new = replay(model, s.rollout, rl)
        old = s.before(new)
        assert torch.equal(new.text.logp, old.text.logp)
        assert torch.equal(new.image.mean, old.image.mean) and torch.equal(new.image.log_prob, old.image.log_prob)
        assert (ratio_norm_log_ratio(new.image.mean, old.image.mean, s.rollout.image.noise) == 0).all()
        assert torch.equal(new.image.velocity, s.reference.image.velocity) and torch.equal(
            new.text.logp, s.reference.text.logp
        )


@pytest.mark.parametrize(
    "settings, replayed",
    [({}, [False, True]), ({"epochs": 1}, [False]), ({"epochs": 1, "epoch_convention": "repeat"}, [False])]
    + [({"epoch_convention": "repeat"}, [False, False]), ({"epochs": 4}, [False, True, True, True])],
    ids=str,
)
def test_what_the_first_step_uses_is_not_replayed_under_old_weights(model, rollout, settings, replayed):
    steps = grpo.make_slices(networks(model), rollout, tiny.both(advantages()), replace(tiny.RL, **settings))
    assert [[s.old is not None for s in step] for step in steps] == [
        [kept] * len(step) for kept, step in zip(replayed, steps, strict=True)
    ]


@pytest.mark.parametrize(
    "settings",
    [{}, {"ratio": "plain"}, {"kl_text": 0.1, "text_reduction": "dapo"}, {"epoch_convention": "repeat", "epochs": 3}],
    ids=str,
)
def test_on_policy_losses_and_gradients_are_those_of_an_explicit_replay(model, rollout, settings):
    """Over all steps of a rollout, an update after each."""
    rl, reference = replace(tiny.RL, **settings), perturbed(model)

    def updates(explicit: bool):
        clone, losses, grads = copy.deepcopy(model), [], []
        nets, (optimizer, _) = networks(clone, reference), learner.optimizer_for(clone, rl)
        steps = grpo.make_slices(nets, rollout, tiny.both(advantages()), rl)
        for s in steps[0]:
            assert s.old is None
            if explicit:
                with torch.no_grad():
                    s.old = replay(clone, s.rollout, rl)
        for step in steps:
            losses += [loop.accumulate(tiny.learner(nets, rl, accelerator=Accelerator(cpu=True)), s, rl) for s in step]
            grads += [p.grad.clone() for p in clone.mot.parameters() if p.grad is not None]
            optimizer.step()
            optimizer.zero_grad()
        return [{k: v for k, v in loss.items() if k not in MONITORED} for loss in losses], grads

    (losses, grads), (explicit_losses, explicit_grads) = updates(False), updates(True)
    assert losses == explicit_losses
    assert all(torch.equal(a, b) for a, b in zip(grads, explicit_grads, strict=True))
    assert losses[-1]["text_approx_kl"] > 0


@pytest.mark.parametrize("settings", [{}, {"train": ("text",)}, {"train": ("image",)}, {"ratio": "plain"}], ids=str)
def test_the_replay_is_compared_with_the_sampler_once_before_any_update(model, settings):
    """Of every part that is trained, and there is nothing but rounding between the two."""
    rl = replace(tiny.RL, epoch_convention="repeat", regulariser="none", **settings)
    rollout = roll_out(model, Draw(PROMPTS, rl, 8, 5, 2))
    clone = copy.deepcopy(model)
    run = tiny.learner(networks(clone), rl, accelerator=Accelerator(cpu=True))
    steps = grpo.make_slices(run.nets, rollout, tiny.both(advantages()), rl)
    first, second = ([loop.accumulate(run, s, rl) for s in step] for step in steps)
    measured = {name for name in MONITORED if name.split("_")[0] in rl.train}
    assert all(MONITORED & set(metrics) == measured for metrics in first)
    assert not any(MONITORED & set(metrics) for metrics in second)
    assert all(metrics[name] < 1e-4 for metrics in first for name in measured if "mismatch" in name)


@pytest.mark.parametrize(
    "part, changes",
    [("text", {"temperature": 0.3}), ("image", {"guidance": 50.0}), ("image", {"noise_level": 0.4})],
    ids=str,
)
def test_a_replay_that_sees_something_else_stops_the_run(model, part, changes):
    rl = replace(tiny.RL, train=(part,), regulariser="none")
    rollout = roll_out(model, Draw(PROMPTS, rl, 8, 5, 2))
    clone, other = copy.deepcopy(model), replace(rl, **changes)
    optimizer, experts = learner.optimizer_for(clone, rl)
    run = tiny.learner(networks(clone), rl, optimizer, experts, Accelerator(cpu=True))
    step = grpo.make_slices(run.nets, rollout, tiny.both(advantages()), rl)[0]
    with pytest.raises(UserError, match=f"^{part}: the replay before any update differs from what the sampler did by"):
        loop.update(run, step, other)


def test_a_shared_prompt_gives_what_one_of_its_own_gives(model, rollout):
    """Slices that hold parts of groups, and whole ones: log-probs, velocities and gradients of a replay that reads each
    prompt once are those of episodes replayed one by one."""
    weights = torch.randn(12, generator=torch.Generator().manual_seed(3))

    def replayed(parts: list[list[int]]):
        clone, kept = copy.deepcopy(model), []
        for rows in parts:
            new, part = replay(clone, rollout.select(rows), tiny.RL), weights[rows]
            (part @ new.text.logp.sum(1) + part @ new.image.velocity.square().mean((1, 2, 3))).backward()
            kept += zip(new.text.logp.detach().sum(1), new.image.velocity.detach(), strict=True)
        grads = {name: p.grad for name, p in clone.mot.named_parameters() if p.grad is not None}
        return [torch.stack(x) for x in zip(*kept, strict=True)], grads

    alone, alone_grads = replayed([[i] for i in range(12)])
    for parts in ([list(range(12))], [list(range(k, k + 4)) for k in (0, 4, 8)]):
        together, grads = replayed(parts)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(together, alone, strict=True))
        for name, grad in alone_grads.items():
            assert torch.allclose(grads[name], grad, atol=1e-5 + 1e-4 * grad.abs().max().item()), name


def test_each_prompt_of_a_group_is_read_once(model, rollout, monkeypatch):
    """Rows read in rollout and replay: 4 prompts, and the tokens of 12 traces."""
    read, text, write = [], model.mot.text, model.mot.write

    def reading(ids, mask, rope, sees, before):
        read.append(-len(ids) if sees else len(ids))
        return text(ids, mask, rope, sees, before)

    def writing(growing, ids, present):
        read.append(-len(ids))
        return write(growing, ids, present)

    monkeypatch.setattr(model.mot, "text", reading)
    monkeypatch.setattr(model.mot, "write", writing)
    for work in (lambda: roll_out(model, Draw(PROMPTS, tiny.RL, 8, 5, 2)), lambda: replay(model, rollout, tiny.RL)):
        read.clear()
        work()
        assert read[0] == 4 and set(read[1:]) == {-12}


@pytest.mark.parametrize("limit", [3, 8, 30])
def test_painting_sees_what_was_thought(model, limit):
    """The context that writing leaves is the one that reading prompts and traces gives: traces cut at the limit,
    traces that ended, and both."""
    ids = model.prompt_ids([p.text for p in PROMPTS for _ in range(4)])
    uniforms = torch.rand(16, limit, generator=torch.Generator().manual_seed(2))
    x = torch.randn(16, *model.latent_shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        trace, written = model.think(ids, limit, uniforms, 1.0)
        _, read = model.encode(ids, trace)
        seen = [model.velocity(context, x, torch.full((16,), 0.6)) for context in (written, read)]
    assert torch.equal(written.rope, read.rope) and torch.equal(written.mask.sum(1), read.mask.sum(1))
    assert torch.allclose(*seen, atol=1e-5)


@pytest.mark.parametrize("transition", ["cps", "dance"])
def test_every_transition_records_the_noise_of_its_gaussian(model, transition):
    """What RatioNorm's identity needs: next = mean + std * noise, under the density that the plain ratio takes."""
    rl = replace(tiny.RL, transition=transition, noise_level=0.6)
    r = roll_out(model, Draw(PROMPTS, rl, 8, 5, 2))
    with torch.no_grad():
        again = replay(model, r, rl)
    std = again.image.std[None, :, None, None]
    assert torch.allclose(again.image.mean + std * r.image.noise, r.image.next_latents, atol=1e-5)
    density = torch.distributions.Normal(again.image.mean, std).log_prob(r.image.next_latents).mean((2, 3))
    assert torch.allclose(again.image.log_prob, density, atol=1e-4)
    assert not torch.allclose(r.image.images, roll_out(model, Draw(PROMPTS, tiny.RL, 8, 5, 2)).image.images, atol=1e-3)


def test_halves_are_disjoint_whole_groups_and_repeat_repeats():
    halves = slices.optimizer_steps(tiny.RL)
    assert halves == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert slices.optimizer_steps(replace(tiny.RL, epoch_convention="repeat")) == [list(range(12))] * 2


def perturbed(model):
    clone = copy.deepcopy(model)
    with torch.no_grad():
        for i, p in enumerate(clone.mot.parameters()):
            p.add_(0.01 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return clone


def gradients(model, rollout, rl, weights, reference=None) -> dict[str, torch.Tensor]:
    """Of the first optimiser step."""
    clone = copy.deepcopy(model)
    for s in grpo.make_slices(networks(clone, reference or model), rollout, tiny.both(weights), rl)[0]:
        loop.accumulate(tiny.learner(networks(clone), rl, accelerator=Accelerator(cpu=True)), s, rl)
    return {name: p.grad.clone() for name, p in clone.mot.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reduction", ["grpo", "dr_grpo", "dapo"])
def test_micro_batches_accumulate_to_the_whole(model, rollout, reduction):
    reference = perturbed(model)
    rl = replace(tiny.RL, text_reduction=reduction, kl_text=0.5)
    whole = gradients(model, rollout, replace(rl, micro_batch=12), advantages(), reference)
    parts = gradients(model, rollout, replace(rl, micro_batch=2), advantages(), reference)
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.allclose(whole[name], parts[name], atol=1e-5 + 1e-4 * whole[name].abs().max().item()), name


@pytest.mark.parametrize(
    ("reduction", "weights"),
    [
        ("grpo", lambda mask: 1 / mask.sum(1) / len(mask)),
        ("dr_grpo", lambda mask: torch.full((len(mask),), 1 / (8 * len(mask)))),
        ("dapo", lambda mask: (1 / mask.sum()).expand(len(mask))),
    ],
)
def test_text_reductions_weigh_tokens(model, rollout, reduction, weights):
    """Before the update r = 1, so the gradient is that of -A log p, summed with one weight per row's tokens. Episodes
    without advantage count among the tokens, also where they are left out of the update."""
    rl = replace(tiny.RL, train=("text",), text_reduction=reduction)
    some = advantages()
    some[:3] = 0
    ours = gradients(model, rollout, rl, some)
    clone = copy.deepcopy(model)
    half = rollout.select([0, 1, 2, 3, 4, 5])
    new = replay(clone, half, rl)
    (-(weights(half.trace.mask) * some[:6])[:, None] * new.text.logp).sum().backward()
    for name, p in clone.mot.named_parameters():
        if p.grad is not None:
            assert torch.allclose(ours[name], p.grad, atol=1e-5 + 1e-4 * p.grad.abs().max().item()), name


def test_the_text_kl_pulls_towards_the_reference(model, rollout):
    """Alone it has the gradient of its closed form at the reference's log-probs; at the reference it has none."""
    rl = replace(tiny.RL, train=("text",), kl_text=2.0, micro_batch=12)
    still = gradients(model, rollout, rl, torch.zeros(12))
    assert all(not g.any() for g in still.values())
    reference, clone = perturbed(model), copy.deepcopy(model)
    pulled = gradients(model, rollout, rl, torch.zeros(12), reference)
    half = rollout.select([0, 1, 2, 3, 4, 5])
    with torch.no_grad():
        target = replay(reference, half, rl).text.logp
    new, mask = replay(clone, half, rl).text.logp, half.trace.mask
    gap = target - new
    (2.0 * ((gap.exp() - 1 - gap).sum(1) / mask.sum(1)).mean()).backward()
    for name, p in clone.mot.named_parameters():
        if p.grad is not None:
            assert torch.allclose(pulled[name], p.grad, atol=1e-6 + 1e-4 * p.grad.abs().max().item()), name
    assert any(g.abs().max() > 1e-4 for g in pulled.values())


def test_the_text_kl_leaves_the_image_loss_without_regulariser_as_it_is(model, rollout):
    rl = replace(tiny.RL, train=("image",), regulariser="none")
    plain, other = (gradients(model, rollout, replace(rl, kl_text=weight), advantages()) for weight in (0.0, 1.0))
    assert all(torch.equal(plain[name], other[name]) for name in plain)


def test_groups_without_spread_keep_their_share_but_need_no_replay(model, rollout):
    weights = advantages()
    weights[:3] = 0
    rl = replace(tiny.RL, train=("text",), micro_batch=12)
    (only,) = grpo.make_slices(networks(model), rollout, tiny.both(weights), rl)[0]
    assert len(only.rollout.prompts) == 3 and only.share == 0.5
    kept = gradients(model, rollout, rl, weights)
    with_all = replace(rl, train=("text", "image"), image_scale=0.0, velocity_mse_weight=0.0)
    full = gradients(model, rollout, with_all, weights)
    for name, grad in kept.items():
        assert torch.allclose(grad, full[name], atol=1e-6), name


def test_the_stage_boundary_keeps_the_image_loss_out_of_the_reasoning_expert(model, rollout):
    text_only = gradients(model, rollout, replace(tiny.RL, train=("text",)), advantages())
    stopped = gradients(model, rollout, replace(tiny.RL, context_gradient="stage_boundary"), advantages())
    through = gradients(model, rollout, replace(tiny.RL, image_scale=100.0), advantages())
    name = "language_model.model.layers.0.self_attn.k_proj.weight"
    assert torch.allclose(stopped[name], text_only[name], atol=1e-6)
    assert not torch.allclose(through[name], text_only[name], atol=1e-4)
    assert tiny.RL.gradient_through_context and not replace(tiny.RL, train=("image",)).gradient_through_context


def test_one_update_raises_the_probability_of_what_was_rewarded(model, rollout):
    clone = copy.deepcopy(model)
    weights = torch.tensor([1.0, -0.5, -0.5] * 4)
    rl = replace(tiny.RL, regulariser="none", image_scale=100.0)
    optimizer, _ = learner.optimizer_for(clone, rl)
    with torch.no_grad():
        before = replay(clone, rollout, rl)
    for s in grpo.make_slices(networks(clone, model), rollout, tiny.both(weights), rl)[0]:
        loop.accumulate(tiny.learner(networks(clone), rl, accelerator=Accelerator(cpu=True)), s, rl)
    optimizer.step()
    with torch.no_grad():
        after = replay(clone, rollout, rl)
    first_half = slice(0, 6)
    for old, new in (
        (before.text.logp.sum(1), after.text.logp.sum(1)),
        (before.image.log_prob.sum(1), after.image.log_prob.sum(1)),
    ):
        assert ((new - old)[first_half] * weights[first_half]).sum() > 0


def test_learning_rates_belong_to_experts():
    optimizer, trained = learner.optimizer_for(copy.deepcopy(tiny.model()), replace(tiny.RL, lr_text=1.0, lr_image=2.0))
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, 2.0] and list(trained) == ["text", "image"]
    clone = copy.deepcopy(tiny.model())
    learner.optimizer_for(clone, replace(tiny.RL, train=("image",)))
    experts = clone.mot.expert_parameters()
    assert all(p.requires_grad for p in experts["image"]) and not any(p.requires_grad for p in experts["text"])


@pytest.mark.parametrize("sizes", [(2**20, 2**20), (2**18, 2**19), (2**20, 2**18)])
def test_evaluation_samples_do_not_depend_on_what_is_made_together(model, monkeypatch, sizes):
    jobs = [(p, k) for p in prompt_set("val")[:3] for k in range(2)]
    settings = tiny.run_config().sampling
    decoding = Decoding(True, 2.0, 1.0)
    together = sample(model, jobs, settings, decoding, 7)
    monkeypatch.setattr(model, "row_bytes", lambda ids, tokens: sizes)
    apart = sample(model, jobs, replace(settings, memory=1), decoding, 7)
    assert together.traces == apart.traces
    assert abs(together.images.astype(int) - apart.images.astype(int)).max() <= 1
    assert together.model_evaluations == 6 * 4 * 2


def test_prompts_of_a_rollout_are_distinct_and_balanced():
    drawn = task.draw_prompts(1, 3, 14)
    assert len({p.id for p in drawn}) == 14
    assert all(n == 2 for n in {t: sum(p.tag == t for p in drawn) for t in {p.tag for p in drawn}}.values())
    assert [p.id for p in task.draw_prompts(1, 3, 14)] == [p.id for p in drawn]


def test_guidance_scales_that_share_their_text_paint_what_each_paints_alone(model):
    jobs = [(prompt, k) for prompt in prompt_set("val")[:3] for k in range(2)]
    settings, decoding = tiny.run_config().sampling, Decoding(True, 3.0, 1.0)
    decodings = [replace(decoding, guidance=scale) for scale in (1.0, 2.0)]
    shared = sample_guided(model, jobs, settings, decodings, 7)
    for each, made in zip(decodings, shared, strict=True):
        alone = sample(model, jobs, settings, each, 7)
        assert (made.images == alone.images).all() and made.traces == alone.traces
        assert made.model_evaluations == alone.model_evaluations
    assert (shared[0].images != shared[1].images).any()
