"""Supervised stages: the loss against a computation one example at a time, its random choices, schedule and average."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from torch.nn.functional import cross_entropy

from tests._support import tiny
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json
from unigrpo.core.settings import replace
from unigrpo.models import checkpoint
from unigrpo.models.mot_model import MoTModel
from unigrpo.study.config import SupervisedConfig
from unigrpo.training import supervised_run
from unigrpo.training.examples import Example, Steps, bucketed, draw_examples, training_times
from unigrpo.training.supervised_run import learning_rate, supervised_losses
from unigrpo.world import prompts, render, scenes, traces
from unigrpo.world.gold import judge

SETTINGS = SupervisedConfig(condition_dropout=0.4, ce_weight=0.3, timestep_shift=2.0)


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def examples():
    return draw_examples(tiny.run_config("base", supervised=SupervisedConfig(batch_size=7)), 4)


# ---- loss --------------------------------------------------------------------------------------------------


def supervised_loss(*step):
    """The loss of a step, which is that of its buckets, and the parts of it."""
    found = list(supervised_losses(*step))
    parts = {name: sum(each[name] for each in found) for name in found[0]}
    return parts.pop("loss"), {name: value.item() for name, value in parts.items()}


def by_hand(model, examples, s, generator):
    """(flow, ce), example by example: no padding, no shared batch, the velocity target written out in pixels' latents.
    The random numbers are drawn as the loss draws them: shorter texts first, in two halves."""
    order = sorted(examples, key=lambda e: len(e.prompt.split()) + len((e.trace or "").split()))
    errors, nats, tokens = [], 0.0, 0
    for half in (order[: len(order) // 2], order[len(order) // 2 :]):
        noise = torch.randn(len(half), *model.latent_shape, generator=generator)
        times = 1 / (1 + torch.exp(-torch.randn(len(half), generator=generator)))
        times = s.timestep_shift * times / (1 + (s.timestep_shift - 1) * times)
        dropped = torch.rand(len(half), generator=generator) < s.condition_dropout
        for i, example in enumerate(half):
            ids = model.prompt_ids([example.prompt])
            trace = None if example.trace is None else model.trace_from_texts([example.trace])
            hidden, context = model.encode(ids, trace)
            if trace is not None:
                n = trace.tokens.shape[1]
                logits = model.mot.logits(hidden[0, :n])
                nats += cross_entropy(logits, trace.tokens[0], reduction="sum").item()
                tokens += n
            pixels = render.render([example.scene], model.image_size)
            data = model.encode_images(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)[0]
            x = data + times[i] * (noise[i] - data)
            seen = model.empty_context(1) if dropped[i] else context
            v = model.velocity(seen, x[None], times[i : i + 1])[0]
            errors.append((v - (noise[i] - data)).square().mean().item())
    return np.mean(errors), nats / max(tokens, 1)


@torch.no_grad()
def test_the_loss_is_that_of_the_examples_one_by_one(model, examples):
    assert {e.trace is None for e in examples} == {True, False}
    loss, parts = supervised_loss(model, bucketed(examples, model.image_size), SETTINGS, seeded())
    flow, ce = by_hand(model, examples, SETTINGS, seeded())
    assert parts["flow"] == pytest.approx(flow, rel=1e-5) and parts["ce"] == pytest.approx(ce, rel=1e-5)
    assert loss.item() == pytest.approx(flow + 0.3 * ce, rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("n", [1, 2])
def test_a_small_batch_without_traces_has_no_text_loss(model, examples, n):
    silent = [replace(e, trace=None) for e in examples[:n]]
    loss, parts = supervised_loss(model, bucketed(silent, model.image_size), SETTINGS, seeded())
    assert parts["ce"] == 0 and loss.item() == pytest.approx(by_hand(model, silent, SETTINGS, seeded())[0], rel=1e-5)


@torch.no_grad()
def test_the_condition_is_dropped_for_its_share_of_examples(model, monkeypatch):
    dropped, original = [], MoTModel.replay

    def watch(self, *read, dropped: torch.Tensor, to=dropped, **more):
        to.append(dropped)
        return original(self, *read, dropped=dropped, **more)

    monkeypatch.setattr(MoTModel, "replay", watch)
    scene = scenes.random_scene(np.random.default_rng(0), 1)
    batch = [Example("a photo of a circle", None, scene)] * 100
    for seed in range(10):
        supervised_loss(
            model, bucketed(batch, model.image_size), replace(SETTINGS, condition_dropout=0.3), seeded(seed)
        )
    count = int(torch.cat(dropped).sum())
    assert stats.binomtest(count, 1000, 0.3).pvalue > 1e-3


@torch.no_grad()
def test_without_its_condition_an_image_is_painted_from_nothing(model, examples):
    """All dropped: the flow loss forgets the prompt; none dropped: it does not."""
    other = [replace(e, prompt="a photo of a heart", trace=None) for e in examples[:1]]
    for share, same in ((1.0, True), (0.0, False)):
        s = replace(SETTINGS, condition_dropout=share)
        losses = [
            supervised_loss(model, bucketed([replace(e, trace=None)], model.image_size), s, seeded())[1]["flow"]
            for e in (examples[0], *other)
        ]
        assert (losses[0] == pytest.approx(losses[1], rel=1e-6)) == same


def test_gradients_reach_both_experts(model, examples):
    clone = copy.deepcopy(model)
    supervised_loss(clone, bucketed(examples, clone.image_size), SETTINGS, seeded())[0].backward()
    for part, parameters in clone.mot.expert_parameters().items():
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters), part
        assert sum(p.grad.abs().sum().item() for p in parameters) > 0


@pytest.mark.parametrize("shift", [1.0, 2.0, 5.0])
def test_times_follow_the_shifted_logit_normal(shift):
    """P(T <= u) = Phi(logit(u) - ln shift)."""
    t = training_times(20000, shift, seeded(1)).double().numpy()
    assert stats.kstest(t, lambda u: stats.norm.cdf(np.log(u / (1 - u)) - math.log(shift))).pvalue > 1e-3


# ---- examples ----------------------------------------------------------------------------------------------


def test_examples_are_a_function_of_seed_stage_and_step():
    cfg = tiny.run_config("sft")
    assert draw_examples(cfg, 3) == draw_examples(cfg, 3)
    assert draw_examples(cfg, 3) != draw_examples(cfg, 4)
    assert draw_examples(cfg, 3) != draw_examples(replace(cfg, seed=4), 3)


def test_sft_examples_follow_the_configured_shares():
    """Half without a trace; of the traces 30 % wrong for their prompt; scenes follow their trace, or else the prompt;
    categories equally often."""
    s = SupervisedConfig(batch_size=2000, no_thinking=0.5, wrong_traces=0.3, paint_noise=0.0)
    drawn = draw_examples(tiny.run_config("sft", supervised=s), 0)
    by_text = {p.text: p for p in prompts.prompt_set("train")}
    thinking = [e for e in drawn if e.trace is not None]
    assert stats.binomtest(len(thinking), 2000, 0.5).pvalue > 1e-3
    wrong = [not traces.trace_matches(by_text[e.prompt].meta, traces.parse_trace(e.trace)) for e in thinking]
    assert stats.binomtest(sum(wrong), len(wrong), 0.3).pvalue > 1e-3
    for e in drawn:
        if e.trace is None:
            assert judge(by_text[e.prompt].meta, scenes.truth(e.scene)).strict
        else:
            assert sorted(traces.plan_of(e.scene)) == sorted(traces.parse_trace(e.trace))
    tags = [by_text[e.prompt].tag for e in drawn]
    assert stats.chisquare([tags.count(tag) for tag in set(tags)]).pvalue > 1e-3 and len(set(tags)) == 7


def test_base_examples_follow_the_configured_shares():
    """With no imperfection a trace is the plan of its scene; with painter's habits alone, what they cover strays."""
    s = SupervisedConfig(batch_size=300, no_thinking=0.25)
    drawn = draw_examples(tiny.run_config("base", supervised=s), 0)
    thinking = [e for e in drawn if e.trace is not None]
    assert stats.binomtest(len(thinking), 300, 0.75).pvalue > 1e-3
    assert all(sorted(traces.parse_trace(e.trace)) == sorted(traces.plan_of(e.scene)) for e in thinking)
    habits = replace(s, painter_habits=1.0)
    strayed = 0
    for e in draw_examples(tiny.run_config("base", supervised=habits), 0):
        if e.trace is not None:
            plan = traces.parse_trace(e.trace)
            painted = sorted(traces.plan_of(e.scene))
            assert painted in (sorted(plan), sorted(traces.painted_by_habit(plan)))
            strayed += painted != sorted(plan)
    assert strayed > 10


# ---- training ----------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_then_falls_by_a_cosine_to_a_tenth():
    s = SupervisedConfig(steps=1000, warmup=100, lr=2.0)
    rates = [learning_rate(step, s) for step in range(1001)]
    assert rates[:100] == pytest.approx([2.0 * (i + 1) / 100 for i in range(100)])
    for share, expected in ((0, 2.0), (1 / 3, 2 * (0.1 + 0.9 * 0.75)), (0.5, 1.1), (2 / 3, 2 * (0.1 + 0.9 * 0.25))):
        assert rates[100 + round(900 * share)] == pytest.approx(expected, rel=1e-3)
    assert rates[1000] == pytest.approx(0.2) and all(a >= b for a, b in zip(rates[99:], rates[100:], strict=False))
    assert learning_rate(0, replace(s, warmup=0)) == 2.0


TRAINING = SupervisedConfig(steps=30, batch_size=8, warmup=3, lr=3e-3, ema_decay=0.6, validate_every=100)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, weights after each optimiser step, learning rates) of a short base run."""
    folder, weights, rates = tmp_path_factory.mktemp("base"), [], []
    original = torch.optim.AdamW.step

    def step(self, *args, **options):
        result = original(self, *args, **options)
        weights.append([p.detach().clone() for group in self.param_groups for p in group["params"]])
        rates.append(self.param_groups[0]["lr"])
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        supervised_run.train(tiny.run_config("base", supervised=TRAINING), folder, None)
    return folder, weights, rates


def test_what_is_saved_is_the_average(trained):
    """e_0 = w_0, e_n = d_n e_(n-1) + (1 - d_n) w_n with d_n = min(0.6, n / (9 + n)), n = 1, 2, ..."""
    folder, weights, _ = trained
    assert len(weights) == 30
    start = checkpoint.new_model(tiny.run_config("base", supervised=TRAINING)).network
    average = [p.detach().double() for p in start.parameters() if p.requires_grad]
    for n, step in enumerate(weights, 1):
        d = min(0.6, n / (9 + n))
        average = [d * e + (1 - d) * w.double() for e, w in zip(average, step, strict=True)]
    saved = load_file(folder / "model.safetensors")
    names = [name for name, p in tiny.model().named_parameters() if p.requires_grad]
    assert len(names) == len(average)
    for name, e in zip(names, average, strict=True):
        assert torch.allclose(saved[name].double(), e, atol=1e-6), name
    assert read_json(folder / "run.json")["ema"] is True


def test_training_uses_the_schedule_and_cleans_up(trained):
    folder, _, rates = trained
    assert rates == pytest.approx([learning_rate(step, TRAINING) for step in range(30)])
    assert sorted(p.name for p in folder.iterdir()) == [
        "metrics.jsonl", "model.json", "model.safetensors", "run.json", "tokenizer",
    ]  # fmt: skip


@torch.no_grad()
def test_training_lowers_the_loss(trained, model):
    """On examples of a step that training never saw; it starts from the seed's own initialisation."""
    cfg = tiny.run_config("base", supervised=replace(TRAINING, batch_size=64))
    after = checkpoint.load_model(trained[0])
    before = supervised_loss(model, bucketed(draw_examples(cfg, 10**6), model.image_size), TRAINING, seeded())[1]
    after = supervised_loss(after, bucketed(draw_examples(cfg, 10**6), after.image_size), TRAINING, seeded())[1]
    assert after["ce"] < 0.8 * before["ce"] and after["flow"] < 0.97 * before["flow"]


def test_fixed_parts_stay_as_they_were(trained, model):
    saved = load_file(trained[0] / "model.safetensors")
    for name in ("codec.mean", "codec.basis", "codec.scale", "mot.latent_pos_embed.pos_embed"):
        assert torch.equal(saved[name], model.state_dict()[name]), name


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    tiny.model().save(tmp_path / "init", {})
    nothing = torch.tensor(torch.nan, requires_grad=True)
    monkeypatch.setattr(supervised_run, "supervised_losses", lambda *_: iter([{"loss": nothing * 1}]))
    with pytest.raises(UserError, match="tiny: loss is nan at step 0; lower supervised.lr"):
        supervised_run.train(tiny.run_config("sft"), tmp_path / "out", tmp_path / "init")
    assert not (tmp_path / "out/model.safetensors").exists()


@pytest.mark.slow
def test_workers_prepare_the_same_steps(monkeypatch):
    """Ahead of the training, and again from where it continues."""
    cfg = tiny.run_config("base", device="auto", supervised=SupervisedConfig(batch_size=6, steps=5))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    ahead, directly = Steps(cfg), Steps(replace(cfg, device="cpu"))
    for step in (0, 1, 3, 4):
        for ours, theirs in zip(ahead(step), directly(step), strict=True):
            assert ours.examples == theirs.examples and torch.equal(ours.images, theirs.images)
