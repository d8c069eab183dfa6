"""Update rules: the contract, ReFL's gradient, exact ratios, NFT's two weights, collapse, and every run of the paper
through train."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from scipy.stats import rankdata
from torch import nn

from evals import run as evals_run
from tests._support import command, tiny
from unigrpo.core import seeding
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl
from unigrpo.core.settings import replace
from unigrpo.episodes import slices
from unigrpo.episodes.noise_pairs import replay_pairs
from unigrpo.episodes.rollout import Draw
from unigrpo.episodes.slices import Networks
from unigrpo.judges import reward as rewards
from unigrpo.methods import awm, ddrl, fpo, gardo, nft, refl
from unigrpo.models import checkpoint
from unigrpo.objectives import flow
from unigrpo.report.data import results
from unigrpo.sampling.engine import Decoding
from unigrpo.study import config
from unigrpo.study.facts import METHODS, MethodFacts
from unigrpo.training import learner, loop, reinforcement_run, task
from unigrpo.training.examples import SupervisedData
from unigrpo.world.traces import parse_trace, trace_matches

IMAGE = {"train": ("image",), "thinking": False, "same_noise": False}
RUNS = {
    "grpo": {},
    "refl": IMAGE | {"method": "refl"},
    "refl_thinking": IMAGE | {"method": "refl", "thinking": True},
    "fpo": IMAGE | {"method": "fpo"},
    "unifpo": {"method": "fpo", "same_noise": False},
    "awm": IMAGE | {"method": "awm"},
    "nft": IMAGE | {"method": "nft"},
    "ddrl": {"method": "ddrl", "regulariser": "none"},
    "gardo": {"method": "gardo", "reference_every": 2},
}
WINDOWED = ("grpo", "ddrl", "gardo")
PROMPTS = task.draw_prompts(0, 0, 4)


def settings(name: str, **changes) -> config.RLConfig:
    pairs = {"matching_samples": 3} if RUNS[name].get("method") in ("fpo", "awm", "nft") else {}
    changes = {"rollouts": 1} | pairs | RUNS[name] | changes
    return replace(tiny.RL, **changes)


@pytest.fixture(scope="module")
def learned(start):
    return rewards.load("learned", path=start / "reward", device="cpu")


def launch(start, out, reward, rl, cfg=None) -> dict:
    """train() as its command calls it; returns run.json."""
    cfg = cfg or tiny.run_config("rl", rl=rl)
    decoding = Decoding(rl.thinking, 1.0, 1.0)
    reinforcement_run.train(cfg, out, start / "init", reward, decoding)
    return json.loads((out / "run.json").read_text())


def rows(out, kind):
    return [row for _, row in read_jsonl(out / "metrics.jsonl") if row["kind"] == kind]


def test_every_file_is_a_method_of_the_contract():
    for name in METHODS.names():
        method = METHODS.load(name)
        assert isinstance(method.FACTS, MethodFacts)
        wanted = ["roll_out", "make_slices", "losses"] + ["follow"] * bool(method.FACTS.copies)
        assert all(callable(getattr(method, function)) for function in wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "fpoo"}, "rl.method: no method is called 'fpoo'; did you mean fpo?"),
        ({"method": "fpo"}, "rl.same_noise: expected false for fpo"),
        (
            {"method": "fpo", "same_noise": False, "train": ("text",)},
            r"rl.train: expected \[image\] or \[text, image\]",
        ),
        ({"method": "refl", "same_noise": False}, r"rl.train: expected \[image\] for refl"),
        (IMAGE | {"method": "nft", "guidance": 2.0}, "rl.guidance: expected 1 for nft"),
        (IMAGE | {"method": "fpo", "regulariser": "latent_kl"}, "rl.regulariser: expected one without densities"),
        ({"method": "ddrl"}, "rl.regulariser: expected none for this method"),
        ({"method": "gardo", "regulariser": "none"}, "rl.regulariser: expected one for this method"),
        ({"method": "gardo", "train": ("text",)}, r"rl.train: expected \[image\] or \[text, image\] for gardo"),
        ({"method": "gardo", "gardo_share": 0.0}, "rl.gardo_share: expected more than 0, got 0.0"),
        (IMAGE | {"method": "nft", "nft_decay_largest": 1.0}, "rl.nft_decay_largest: expected less than 1, got 1.0"),
        (IMAGE | {"method": "fpo", "matching_samples": 0}, "rl.matching_samples: expected at least 1, got 0"),
        ({"matching_samples": 4}, "rl.matching_samples: unknown key"),  # of other methods
        ({"regulariser": "velocity_mes"}, "rl.regulariser: no regulariser is called 'velocity_mes'; did you mean"),
    ],
)
def test_what_a_method_cannot_work_with_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        replace(tiny.RL, **changes)


# ---- every run ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_updates_change_the_trained_experts_alone(start, learned, tmp_path, name):
    rl = settings(name)
    record = launch(start, tmp_path, learned, rl)
    (row,) = rows(tmp_path, "train")
    assert (record["updates"], record["collapsed"], record["collapse"]) == (2, False, None)
    assert row["update"] == 2 and row["images"] == 12 and row["model_evaluations"] == 12 * rl.n_steps
    assert ("window_start" in row, "late_step" in row) == (rl.method in WINDOWED, rl.method == "refl")
    before = tiny.model().mot
    after = checkpoint.load_model(tmp_path).mot
    for part, parameters in before.expert_parameters().items():
        moved = [not torch.equal(a, b) for a, b in zip(parameters, after.expert_parameters()[part], strict=True)]
        assert any(moved) == (part in rl.train), part


# ---- ReFL --------------------------------------------------------------------------------------------------


class Toy(nn.Module):
    """A velocity field and a decoder in double precision, with the members of a model that ReFL touches."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64).view(4, 3))
        self.expert_parameters = lambda: {"image": [self.weight]}
        self.device = torch.device("cpu")

    def replay(self, prompt_ids, pieces, branches, *, through):
        (states,) = pieces
        times = states.t[:, :, None, None].expand(*states.x.shape[:3], 1)
        return [{"full": torch.tanh(torch.cat([states.x, times], -1) @ self.weight)}]

    def decode(self, x):
        return torch.sigmoid(x)


def toy_reward(images, prompts):
    return (images[..., 0] * images[..., 1] - images[..., 2].square()).mean(1)


def test_refl_has_the_gradient_of_the_reward():
    """Against central differences of -s R(decode(x - t v)) + w <(v - v_ref)^2>, written out."""
    rl = settings("refl", image_scale=1.7, velocity_mse_weight=0.4, image_weight=0.5)
    toy, reference = Toy(), Toy()
    with torch.no_grad():
        reference.weight.add_(0.1)
    x, t = torch.linspace(-2, 2, 30, dtype=torch.float64).view(5, 2, 3).sin(), torch.tensor(0.25, dtype=torch.float64)
    track = refl.LateTrack(4, t, x, None)
    part = SimpleNamespace(prompts=range(5), prompt_ids=None, trace=None, image=track, segments=(track,))
    nets = slices.Networks(toy, reference, toy_reward)
    with torch.no_grad():
        s = slices.Slice(part, None, 1.0, None, refl.replay_late(reference, part, rl), None)
    ((name, loss, _),) = refl.losses(nets, s, rl)

    def by_hand(weight):
        times = t.expand(5, 2, 1)
        v, v_ref = (torch.tanh(torch.cat([x, times], -1) @ w) for w in (weight, reference.weight))
        reward = toy_reward(torch.sigmoid(x - 0.25 * v), None).mean()
        return (0.5 * (-1.7 * reward + 0.4 * (v - v_ref).square().mean())).item()

    assert name == "image" and loss.item() == pytest.approx(by_hand(toy.weight))
    (gradient,) = torch.autograd.grad(loss, toy.weight)
    for i in range(4):
        for j in range(3):
            nudge = torch.zeros(4, 3, dtype=torch.float64)
            nudge[i, j] = 1e-5
            slope = (by_hand(toy.weight + nudge) - by_hand(toy.weight - nudge)) / 2e-5
            assert gradient[i, j].item() == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_the_late_step_is_uniform_over_the_last_quarter():
    for n, first in ((40, 30), (10, 8), (6, 5), (2, 1), (1, 0)):
        drawn = [refl.draw_step(seeding.generator(0, "test", i), n) for i in range(60 * (n - first))]
        assert set(drawn) == set(range(first, n))
        assert min(drawn.count(k) for k in set(drawn)) > 30


def test_refl_finishes_the_image_that_it_judges_late(learned):
    """After the last step the estimate is the finished image."""
    model, rl = tiny.model(), settings("refl")
    rollout = refl.roll_out(slices.Networks(model, model, learned), Draw(PROMPTS, rl, 8, 5, 0))
    track = rollout.image
    assert track.step == rl.n_steps - 1 and track.time == flow.time_grid(rl.steps, rl.shift, rl.grid)[track.step]
    with torch.no_grad():
        v = refl.replay_late(model, rollout, rl).image.velocity[:, 0]
        estimate = model.decode(flow.clean_estimate(track.latents, v, track.time))
    assert torch.allclose(estimate, track.images, atol=1e-5)


def test_refl_is_refused_where_the_reward_has_no_gradient(start, learned, tmp_path):
    assert learned.differentiable and not rewards.load("verifier").differentiable
    with pytest.raises(UserError, match="rl.method: refl needs a differentiable reward, the reward verifier is not"):
        launch(start, tmp_path / "run", rewards.load("verifier"), settings("refl"))
    assert not (tmp_path / "run").exists()


# ---- FPO and NFT -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fpo", "unifpo", "awm"])
def test_every_ratio_is_exactly_one_before_the_first_update(name):
    model, rl = tiny.model(), settings(name)
    nets = slices.Networks(model, model, None)
    rollout = fpo.roll_out(nets, Draw(PROMPTS, rl, 8, 5, 0))
    advantages = torch.randn(12, generator=torch.Generator().manual_seed(0))
    for s in sum(fpo.make_slices(nets, rollout, tiny.both(advantages), rl), []):
        with torch.no_grad():
            new = replay_pairs(model, s.rollout, rl)
            ratios, _ = fpo.log_ratio(new, s.before(new), s.rollout.image, rl)
        assert (ratios == 0).all() and torch.equal(new.image.velocity, s.reference.image.velocity)
        assert ratios.shape[1] == (rl.matching_samples if name == "awm" else 1)


@pytest.mark.parametrize("name", ["fpo", "unifpo", "awm"])
def test_fpo_on_policy_is_an_explicit_replay(name):
    """The first of two steps; the second has its old losses, the rule with weights of its own has them in both."""
    rl, weights = settings(name), torch.randn(12, generator=torch.Generator().manual_seed(0))
    nets = slices.Networks(tiny.model(), tiny.model(), None)
    rollout = fpo.roll_out(nets, Draw(PROMPTS, rl, 8, 5, 0))
    first, second = fpo.make_slices(nets, rollout, tiny.both(weights), rl)
    assert all(s.old is None for s in first) and all(s.old is not None for s in second)
    s = first[0]
    with torch.no_grad():
        explicit = replace(s, old=replay_pairs(nets.model, s.rollout, rl))

    def gradient(s):
        loss = sum(loss for _, loss, _ in fpo.losses(nets, s, rl))
        return [loss, *torch.autograd.grad(loss, nets.model.expert_parameters()["image"])]

    assert all(torch.equal(a, b) for a, b in zip(gradient(s), gradient(explicit), strict=True))
    own = replace(nets, copies={"old": nets.model})
    steps = nft.make_slices(own, rollout, tiny.both(weights), settings("nft"))
    assert all(s.old is not None for step in steps for s in step)


def test_one_fpo_update_fits_what_was_rewarded():
    model, rl = copy.deepcopy(tiny.model()), settings("fpo", regulariser="none")
    nets = Networks(model, tiny.model(), None)
    optimizer, _ = learner.optimizer_for(model, rl)
    rollout, advantages = fpo.roll_out(nets, Draw(PROMPTS, rl, 8, 5, 0)), torch.tensor([1.0, -0.5, -0.5] * 4)
    slices = fpo.make_slices(nets, rollout, tiny.both(advantages), rl)[0]
    with torch.no_grad():
        replays = [replay_pairs(model, s.rollout, rl) for s in slices]
    for s in slices:
        loop.accumulate(tiny.learner(nets, rl, accelerator=Accelerator(cpu=True)), s, rl)
    optimizer.step()
    gain = 0.0
    for s, before in zip(slices, replays, strict=True):
        with torch.no_grad():
            ratios, _ = fpo.log_ratio(replay_pairs(model, s.rollout, rl), before, s.rollout.image, rl)
        gain += (ratios[:, 0] * s.advantages["image"]).sum().item()
    assert gain > 0


def test_awm_pulls_to_an_average_of_its_weights():
    """The gradient of its loss less FPO's with the same settings is that of <(v - v_avg)^2>, replayed by hand."""
    rl, model, recent = settings("awm", regulariser="none", image_scale=3.0), tiny.model(), copy.deepcopy(tiny.model())
    with torch.no_grad():
        recent.mot.llm2vae.bias.add_(0.5)  # every velocity of the copy is 0.5 higher
    nets = Networks(model, model, None, {"recent": recent})
    rollout = awm.roll_out(nets, Draw(PROMPTS, rl, 8, 5, 0))
    s = awm.make_slices(nets, rollout, tiny.both(torch.linspace(-1, 1, 12)), rl)[0][0]
    weight = model.mot.llm2vae.bias

    def gradient(method, rl):
        ((_, loss, metrics),) = method.losses(nets, s, rl)
        return torch.autograd.grad(loss, weight)[0], metrics

    (ours, metrics), (without, _) = gradient(awm, replace(rl, pull_weight=2.0)), gradient(fpo, rl)
    assert metrics["pull"].item() == pytest.approx(0.25, rel=1e-4)
    # the mean of (b - b_avg)^2 over the latent's channels, each of which has one bias: -2 * 0.5 / channels
    assert torch.allclose(ours - without, torch.full_like(weight, -3.0 * 2.0 / len(weight)), rtol=1e-3)
    assert torch.equal(gradient(awm, replace(rl, pull_weight=0.0))[0], without)


def test_awm_s_average_keeps_a_share_that_grows_to_its_bound():
    model, recent, rl = copy.deepcopy(tiny.model()), copy.deepcopy(tiny.model()), settings("awm", pull_decay_rate=0.1)
    nets, value = Networks(model, model, None, {"recent": recent}), recent.mot.llm2vae.bias.detach().clone()
    for updates, share in ((2, 0.2), (4, 0.3), (6, 0.3)):
        with torch.no_grad():
            model.mot.llm2vae.bias.add_(1.0)
        awm.follow(nets, rl, updates)
        value = share * value + (1 - share) * model.mot.llm2vae.bias
        assert torch.allclose(recent.mot.llm2vae.bias, value)


def test_nft_paints_with_the_old_weights_which_follow_slowly():
    old, new, rl = tiny.model(), copy.deepcopy(tiny.model()), settings("nft", nft_decay_rate=0.2)
    with torch.no_grad():
        for p in new.mot.parameters():
            p.add_(0.01)
    nets = slices.Networks(new, old, None, {"old": copy.deepcopy(old)})
    painted = [
        nft.roll_out(slices.Networks(m, old, None, {"old": old}), Draw(PROMPTS, rl, 8, 5, 0)).image.images
        for m in (old, new)
    ]
    assert torch.equal(*painted)
    nft.follow(nets, rl, 2)
    for a, b, c in zip(old.parameters(), new.parameters(), nets.copies["old"].parameters(), strict=True):
        assert torch.allclose(c, 0.4 * a + 0.6 * b)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes"),
    [("nft", {"nft_decay_rate": 0.1}), ("awm", {"pull_decay_rate": 0.1}), ("gardo", {"reference_every": 1})],
)
def test_what_follows_the_policy_resumes_bit_for_bit(start, learned, tmp_path, monkeypatch, name, changes):
    """Killed after the updates of its 2nd rollout; old weights and a reference that moved are part of the state."""
    rl, method, calls = settings(name, rollouts=3, **changes), METHODS.load(name), []
    follow = method.follow
    launch(start, tmp_path / "calm", learned, rl)

    def deadly(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        follow(*arguments)

    monkeypatch.setattr(method, "follow", deadly)
    with pytest.raises(KeyboardInterrupt):
        launch(start, tmp_path / "killed", learned, rl)
    launch(start, tmp_path / "killed", learned, rl)
    one, other = (
        [{k: v for k, v in row.items() if "second" not in k} for _, row in read_jsonl(tmp_path / f / "metrics.jsonl")]
        for f in ("calm", "killed")
    )
    weights = [(tmp_path / f / "model.safetensors").read_bytes() for f in ("calm", "killed")]
    assert len(calls) == 4 and one == other and weights[0] == weights[1]
    assert one[-1]["drift"] > 0  # measured from where the run started


# ---- data in place of a reference --------------------------------------------------------------------------


def networks(reward=None, **supervised):
    model = copy.deepcopy(tiny.model())
    data = SupervisedData(config.SupervisedConfig(**supervised))
    return slices.Networks(model, tiny.model(), reward, data=data)


def test_the_loss_on_data_is_the_mean_of_flow_matching_one_by_one():
    nets, rl = networks(wrong_traces=0.5), settings("ddrl")
    data = ddrl.roll_out(nets, Draw(PROMPTS, rl, 8, 5, 0)).select([7, 0, 3]).columns
    model, each = nets.model, []
    for i in range(3):
        _, context = model.encode(model.prompt_ids([data["texts"][i]]), model.trace_from_texts([data["traces"][i]]))
        t, noise, clean = data["times"][i], data["noise"][i], data["clean"][i]
        v = model.velocity(context, ((1 - t) * clean + t * noise)[None], t[None])
        each.append((v[0] - (noise - clean)).square().mean())
    assert ddrl.data_loss(model, data, True).item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)
    assert (data["times"] > 0).all() and (data["times"] < 1).all()


def test_examples_are_of_the_episodes_own_prompts_and_of_the_stated_data():
    rl = settings("ddrl")
    right, wrong = (ddrl.roll_out(networks(wrong_traces=w), Draw(PROMPTS, rl, 8, 5, 0)) for w in (0.0, 1.0))
    assert right.columns["texts"] == [p.text for p in right.prompts]
    judged = [
        [trace_matches(p.meta, parse_trace(t)) for p, t in zip(r.prompts, r.columns["traces"], strict=True)]
        for r in (right, wrong)
    ]
    assert all(judged[0]) and not any(judged[1])
    directly = ddrl.roll_out(networks(), Draw(PROMPTS, replace(rl, thinking=False, train=("image",)), 8, 5, 0))
    assert set(directly.columns["traces"]) == {None}


@pytest.mark.parametrize("boundary", [True, False])
def test_the_loss_on_data_reaches_the_reasoning_expert_where_the_images_does(boundary):
    gradients = []
    for weight in (1e-30, 5.0):
        rl = settings("ddrl", data_weight=weight, context_gradient="stage_boundary" if boundary else "full")
        nets = networks()
        rollout = ddrl.roll_out(nets, Draw(PROMPTS, rl, 8, 5, 0))
        for s in ddrl.make_slices(nets, rollout, tiny.both(torch.linspace(-1, 1, 12)), rl)[0]:
            loop.accumulate(tiny.learner(nets, rl, accelerator=Accelerator(cpu=True)), s, rl)
        experts = nets.model.mot.expert_parameters()
        gradients.append(
            {part: torch.cat([p.grad.flatten() for p in experts[part] if p.grad is not None]) for part in experts}
        )
    same = {part: torch.allclose(gradients[0][part], gradients[1][part], atol=1e-7) for part in ("text", "image")}
    assert same == {"text": boundary, "image": False}


@pytest.mark.slow
def test_without_weight_data_change_nothing(start, learned, tmp_path):
    launch(start, tmp_path / "ddrl", learned, settings("ddrl", data_weight=1e-30))
    launch(start, tmp_path / "grpo", learned, settings("grpo", regulariser="none"))
    one, other = ((tmp_path / f / "model.safetensors").read_bytes() for f in ("ddrl", "grpo"))
    assert one == other
    launch(start, tmp_path / "more", learned, settings("ddrl"))
    assert (tmp_path / "more/model.safetensors").read_bytes() != other


# ---- a gated penalty towards a reference that follows ------------------------------------------------------


def test_ranks_are_scipys():
    scores = torch.tensor([0.3, 0.1, 0.3, 0.9, 0.1, 0.1, -2.0])
    assert torch.equal(gardo.ranks(scores).double(), torch.from_numpy(rankdata(scores)) - 1)


def test_uncertain_are_those_that_fall_most_in_rank():
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    second = torch.tensor([0.1, 0.8, 0.75, 0.2, 0.9, 0.3])  # ranks 5 4 3 2 1 0 against 0 4 3 1 5 2
    assert gardo.gate(scores, second, 1 / 3).tolist() == [1, 0, 0, 1, 0, 0]
    assert gardo.gate(scores, second, 1.0).tolist() == [1, 0, 0, 1, 0, 0]  # a sample ranked no higher is certain
    assert gardo.gate(scores, second, 1 / 6).tolist() == [1, 0, 0, 0, 0, 0]
    assert gardo.gate(scores, scores, 1.0).sum() == 0


def test_a_score_that_rests_on_one_pixel_is_uncertain():
    """The reward counts images' exact white corner; noise takes it away, an even brightness stays."""

    def reward(images, prompts):
        return images.mean((1, 2, 3)) + 10.0 * (images[:, :, 0, 0].amin(1) == 1).float()

    images = torch.linspace(0.2, 0.6, 10)[:, None, None, None].repeat(1, 3, 8, 8)
    images[2, :, 0, 0] = 1
    second = gardo.second_opinion(reward, images, [None] * 10, 0, [(0, i) for i in range(10)])
    assert gardo.gate(reward(images, []), second, 0.1).argmax() == 2


@pytest.mark.slow
def test_with_all_uncertain_and_a_fixed_reference_it_is_grpo(start, learned, tmp_path, monkeypatch):
    launch(start, tmp_path / "grpo", learned, settings("grpo", rollouts=2))
    monkeypatch.setattr(gardo, "gate", lambda scores, second, share: torch.ones_like(scores))
    launch(start, tmp_path / "gardo", learned, settings("gardo", rollouts=2, reference_every=9))
    monkeypatch.setattr(gardo, "gate", lambda scores, second, share: torch.zeros_like(scores))
    launch(start, tmp_path / "open", learned, settings("gardo", rollouts=2, reference_every=9))
    launch(start, tmp_path / "none", learned, settings("grpo", rollouts=2, regulariser="none"))
    weights = {f: (tmp_path / f / "model.safetensors").read_bytes() for f in ("grpo", "gardo", "open", "none")}
    assert weights["grpo"] == weights["gardo"] and weights["gardo"] != weights["open"]
    loaded = [checkpoint.load_model(tmp_path / f).state_dict() for f in ("open", "none")]
    for name, value in loaded[0].items():
        assert torch.allclose(value, loaded[1][name], atol=1e-6), name


def test_the_reference_is_renewed_at_intervals_of_rollouts():
    rl, policy, reference = (
        settings("gardo", reference_every=3),
        copy.deepcopy(tiny.model()),
        copy.deepcopy(tiny.model()),
    )
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.5)
    renewed = []
    for rollout in range(1, 7):
        reference = copy.deepcopy(tiny.model())
        gardo.follow(slices.Networks(policy, reference, None), rl, rollout * rl.epochs)
        renewed.append(torch.equal(next(reference.mot.parameters()), next(policy.mot.parameters())))
    assert renewed == [False, False, True, False, False, True]


# ---- collapse ----------------------------------------------------------------------------------------------


def broken_gradient(images, prompts):
    """Finite scores whose gradient is not: the root's slope at 0."""
    return 0.5 + (images - images.detach()).sum((1, 2, 3)).abs().sqrt()


def test_a_gradient_that_is_not_finite_ends_the_run_with_its_last_weights(start, tmp_path):
    reward = rewards.Reward("broken", broken_gradient, True)
    record = launch(start, tmp_path, reward, settings("refl", rollouts=3))
    assert record["collapsed"] and record["collapse"] == "rollout 0: the gradient of the image expert is not finite"
    assert [row["reason"] for row in rows(tmp_path, "collapse")] == ["the gradient of the image expert is not finite"]
    assert len(rows(tmp_path, "validation")) == 1 and record["updates"] == 0
    assert (tmp_path / "model.safetensors").read_bytes() == (start / "init" / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_loss_that_is_not_finite_is_a_collapse_of_every_run(start, learned, tmp_path, monkeypatch, name):
    method, losses = METHODS.load(RUNS[name].get("method", "grpo")), []

    def poisoned(*arguments):
        for part, loss, metrics in original(*arguments):
            losses.append(part)
            yield part, loss * (1.0 if len(losses) < 8 else float("inf")), metrics

    original = method.losses
    monkeypatch.setattr(method, "losses", poisoned)
    record = launch(start, tmp_path, learned, settings(name, rollouts=4))
    assert record["collapsed"] and "loss is not finite" in record["collapse"] and record["updates"] > 0
    assert all(p.isfinite().all() for p in checkpoint.load_model(tmp_path).parameters())


def test_gold_below_half_of_the_first_is_a_collapse(start, learned, tmp_path, monkeypatch):
    gold = iter([0.8, 0.39])
    monkeypatch.setattr(reinforcement_run, "validate", lambda *a, **k: SimpleNamespace(means={"gold": next(gold)}))
    monkeypatch.setattr(reinforcement_run, "record", lambda *a: None)
    record = launch(start, tmp_path, learned, settings("fpo"))
    assert (record["collapsed"], record["collapse"]) == (True, "validation gold fell from 0.800 to 0.390")


def test_a_run_whose_parent_collapsed_is_not_trained_and_has_no_scores(start, tmp_path, monkeypatch, capsys):
    parent, run = tmp_path / "parent", tmp_path / "runs" / "child" / "seed0"
    tiny.model().save(parent, {})
    (parent / "run.json").write_text(json.dumps({"run": "refl", "collapsed": True, "collapse": "why"}))

    given = f"--config {start}/rl.json --decoding {start}/decoding.json"
    command.unigrpo(f"train {given} --init {parent} --reward {start}/reward --out {run}")
    record = json.loads((run / "run.json").read_text())
    assert record["not_trained"] == "its parent refl collapsed (why)" and not record["collapsed"]
    assert "tiny/3 is not trained: its parent refl collapsed (why)" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_text() == ""
    assert (
        reinforcement_run.fate_of(run) == "its parent tiny was not trained"
        and reinforcement_run.fate_of(start / "init") is None
    )

    command.unigrpo(f"sample-sets {given} --model {run} --mode think --out {run}/samples")
    assert json.loads((run / "samples/done.json").read_text())["sets"] == []
    evals_run.score_folder(run / "samples", [], run / "scores.jsonl")
    results.collect([f"child={run}"], tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text().splitlines() == [",".join(results.COLUMNS)]
