"""The plan: its formulas against what real models hold, keep and compute; its verdicts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tests._support import several, tiny
from unigrpo.core.errors import UserError
from unigrpo.core.settings import replace
from unigrpo.episodes.rollout import Draw
from unigrpo.methods import grpo
from unigrpo.models import mot_sizes as sizes
from unigrpo.models.backbones.bagel.multimodal import MultimodalMoT
from unigrpo.models.backbones.bagel.vae import Autoencoder, VaeConfig
from unigrpo.models.backbones.bagel.vit import VitConfig
from unigrpo.models.checkpoint import new_model
from unigrpo.models.mot import MoTConfig
from unigrpo.objectives.advantages import group_advantages
from unigrpo.planning import cost, layout, supervised_plan
from unigrpo.planning import plan as plans
from unigrpo.planning import reinforcement_plan as plan
from unigrpo.study.catalogue import load_catalogue
from unigrpo.study.config import ModelConfig, SupervisedConfig
from unigrpo.study.facts import METHODS
from unigrpo.study.resolve import load_scale, resolve
from unigrpo.training import learner, supervised_run, task
from unigrpo.training.examples import bucketed
from unigrpo.training.examples import draw_examples as examples_of

MEDIUM = ModelConfig(
    hidden_size=128, intermediate_size=320, layers=5, heads=8, kv_heads=2, latent_channels=8, latent_patch=1,
    latent_downsample=4, max_latent_size=12,
)  # fmt: skip


def configured(root, scale, run="unigrpo"):
    catalogue = load_catalogue(root / "pipelines/experiments.yaml")
    return resolve(catalogue, load_scale(root / f"pipelines/scales/{scale}.yaml", catalogue["defaults"]), scale, run, 0)


def update(model_config, train_parts=("text", "image"), trace=8):
    """A model and one slice of an update of it, with what the formula is told of the slice."""
    torch.set_num_threads(1)
    rl = replace(tiny.RL, epochs=1, micro_batch=12, train=train_parts)
    cfg = tiny.run_config(rl=rl, model=model_config)
    model = copy.deepcopy(tiny.model()) if model_config == tiny.MODEL else new_model(replace(cfg, stage="base"))
    nets = learner.networks(cfg, model, None)
    learner.optimizer_for(model, rl)
    drawn = task.draw_prompts(3, 0, rl.prompts_per_rollout)
    rollout = grpo.roll_out(nets, Draw(drawn, rl, trace, 3, 0))
    advantages, _ = group_advantages(torch.rand(12).double(), [i // 3 for i in range(12)], ddof=0, eps=1e-4)
    ((part,),) = grpo.make_slices(nets, rollout, tiny.both(advantages), rl)
    longest = max(map(len, rollout.prompt_ids))
    told = sizes.Batch(12, 4, longest, model.trace_pieces(rollout.trace)[0].shape[1], model.latent_shape[0], 2)
    return cfg, model, nets, part, replace(told, steps=2 if "image" in train_parts else 0)


def kept(model, work) -> int:
    """Bytes that autograd saves while ``work`` runs, each storage once, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    held = {}

    def pack(tensor):
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            held[place] = tensor  # keeps the storage, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.slow
@pytest.mark.parametrize("size", [tiny.MODEL, MEDIUM], ids=["tiny", "medium"])
@pytest.mark.parametrize("parts", [("text", "image"), ("image",), ("text",)], ids="+".join)
def test_activations_are_those_that_autograd_keeps(size, parts):
    cfg, model, nets, part, told = update(size, parts)
    measured = kept(model, lambda: list(grpo.losses(nets, part, cfg.rl)))
    text = "text" in parts or cfg.rl.gradient_through_context
    assert sizes.activations(layout.network(cfg), told, text) == pytest.approx(measured, rel=0.12)


@pytest.mark.slow
def test_checkpointed_layers_keep_their_inputs():
    """Of the real model; the formula adds one layer computed again."""
    cfg, model, nets, part, told = update(MEDIUM)
    inputs = {}

    def hold(layer, given):
        streams, ropes, mask, past = given
        for tensor in [x for _, x in streams] + [x for pair in ropes for x in pair] + [mask, *(past or ())]:
            inputs[tensor.untyped_storage().data_ptr()] = tensor  # torch holds these outside of its hooks

    model.mot.checkpoint_activations()
    for layer in model.mot.language_model.model.layers:
        layer.register_forward_pre_hook(hold)
    measured = kept(model, lambda: list(grpo.losses(nets, part, cfg.rl)))
    measured += sum(tensor.untyped_storage().nbytes() for tensor in inputs.values())
    planned = sizes.activations(layout.network(cfg), told, True, checkpointing=True)
    whole = sizes.activations(layout.network(cfg), told, True)
    one_layer = (whole - sizes.activations(layout.network(cfg), replace(told, steps=0), True)) / MEDIUM.layers
    assert planned - one_layer == pytest.approx(measured, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("size", [tiny.MODEL, MEDIUM], ids=["tiny", "medium"])
def test_what_stands_in_memory_is_as_large_as_planned(size):
    """Weights, the frozen copy, gradients and optimiser state after an update; keys and values of a rollout."""
    cfg, model, nets, part, told = update(size)
    optimizer, trained = learner.optimizer_for(model, cfg.rl)
    planned = plan.memory(cfg, plan.as_it_is(cfg, 1))["update"]
    weights = sum(t.nbytes for t in [*model.parameters(), *model.codec.buffers()])
    assert planned["weights"] == planned["reference"] == weights
    sum(loss for _, loss, _ in grpo.losses(nets, part, cfg.rl)).backward()
    held = [p for group in trained.values() for p in group]
    assert planned["gradients"] == sum(p.nbytes for p in held)
    optimizer.step()
    state = sum(t.nbytes for s in optimizer.state.values() for t in s.values() if t.dim())
    assert planned["optimiser"] == pytest.approx(state, rel=0.05)  # rows without a gradient have none
    context = model.read_prompts(part.rollout.prompt_ids)
    cached = sum(t.nbytes for t in [*context.keys, *context.values])
    assert cached == sizes.cache(layout.network(cfg), told.episodes, told.prompt)


@pytest.mark.slow
def test_parameters_of_the_models_there_are(root):
    """The world's, in miniature and at every scale, and BAGEL-7B-MoT to the last number."""
    for cfg in (tiny.run_config("base"), configured(root, "smoke", "base"), configured(root, "cpu", "base")):
        model = new_model(cfg)
        counted = sizes.parameters(layout.network(cfg))
        assert {k: counted[k] for k in ("text", "image")} == {
            k: sum(p.numel() for p in part) for k, part in model.mot.expert_parameters().items()
        }
        assert sum(counted.values()) == sum(t.numel() for t in model.state_dict().values())
    ids = (151644, 151645, 151652, 151653)
    with torch.device("meta"):
        mot = MultimodalMoT(
            MoTConfig(152064, 3584, 18944, 28, 28, 4, 16, 2, 64, *ids), VitConfig(1152, 4304, 26, 16, 14, 70)
        )
        codec = Autoencoder(VaeConfig((128, 256, 512, 512), 2, 16), 2)
    counted = sizes.parameters(layout.network(configured(root, "paper")))
    assert {k: sum(p.numel() for p in v) for k, v in mot.expert_parameters().items()} == {
        k: counted[k] for k in ("text", "image")
    }
    assert sum(counted.values()) == sum(t.numel() for part in (mot, codec) for t in part.parameters())


CASES = {
    "grpo": ({}, 2),
    "guided": ({"guidance": 2.0}, 4),
    "refl": ({"method": "refl", "train": ("image",), "same_noise": False}, 1),
    "fpo": ({"method": "fpo", "same_noise": False, "matching_samples": 5}, 5),
    "nft": ({"method": "nft", "train": ("image",), "same_noise": False, "matching_samples": 5}, 5),
    "ddrl": ({"method": "ddrl", "regulariser": "none"}, 3),
    "gardo": ({"method": "gardo"}, 2),
}


@pytest.mark.parametrize(("changes", "evaluations"), CASES.values(), ids=CASES)
def test_image_evaluations_of_an_update_by_method(monkeypatch, changes, evaluations):
    """Counted as the network makes them with gradient, an image at a time."""
    rl = replace(tiny.RL, epochs=1, micro_batch=12, **changes)
    cfg = tiny.run_config(rl=rl)
    told = cost.reinforcement(cfg, 1.0)["update_image_evaluations_at_most"]
    assert told == rl.rollouts * 12 * evaluations and layout.batch(cfg, 12).steps == evaluations
    counted, nets = [], learner.networks(cfg, copy.deepcopy(tiny.model()), several.brightness)
    original = type(nets.model.mot).block

    def counting(self, x, *rest):
        if torch.is_grad_enabled() and self is nets.model.mot:
            counted.append(len(x))
        return original(self, x, *rest)

    monkeypatch.setattr(type(nets.model.mot), "block", counting)
    learner.optimizer_for(nets.model, rl)
    method, advantages = METHODS.load(rl.method), torch.tensor([1.0, -1.0, 0.5] * 4)
    rollout = method.roll_out(nets, Draw(task.draw_prompts(3, 0, 4), rl, 8, 3, 0))
    for part in method.make_slices(nets, rollout, tiny.both(advantages), rl)[0]:
        list(method.losses(nets, part, rl))
    assert sum(counted) == 12 * evaluations


def test_flops_are_those_of_the_matrices():
    cfg = tiny.run_config(model=MEDIUM)
    model, net = new_model(replace(cfg, stage="base")).eval(), layout.network(cfg)
    context = model.read_prompts(model.prompt_ids(["a photo of a red circle"]))
    tokens, seen = model.latent_shape[0] + 2, int(context.rope[0]) + model.latent_shape[0] + 2
    x, t = torch.randn(1, *model.latent_shape), torch.tensor([0.5])
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # all of it counted
        model.velocity(context, x, t)
    assert sizes.flops(net, tokens, seen) == pytest.approx(counter.get_total_flops(), rel=0.05)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):  # all of it counted
        hidden, _ = model.mot.encode_text(torch.zeros(1, 9, dtype=torch.long), torch.ones(1, 9).bool())
        model.mot.logits(hidden)
    assert sizes.flops(net, 9, 9, head=True) == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("size", [tiny.MODEL, MEDIUM], ids=["tiny", "medium"])
def test_a_supervised_step_keeps_and_holds_what_is_planned(size):
    torch.set_num_threads(1)
    cfg = tiny.run_config("sft", model=size, supervised=SupervisedConfig(batch_size=16, no_thinking=0.0))
    model, s = new_model(replace(cfg, stage="base", init=None)), cfg.supervised
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    average = copy.deepcopy(model.network)
    examples = examples_of(cfg, 0)
    by_length = sorted(examples, key=lambda e: len(e.prompt.split()) + len(e.trace.split()))
    told = [
        replace(supervised_plan.batch(cfg, 8), **{
            name: max(len(model.tokenizer.encode(getattr(e, name))) for e in half) + 2 for name in ("prompt", "trace")
        })
        for half in (by_length[:8], by_length[8:])
    ]  # fmt: skip
    losses = []
    measured = kept(
        model,
        lambda: losses.append(
            supervised_run.supervised_loss(
                model, bucketed(examples, model.image_size), s, torch.Generator().manual_seed(0)
            )[0]
        ),
    )
    counted = sum(sizes.activations(layout.network(cfg), half, True) for half in told)
    assert counted == pytest.approx(measured, rel=0.12)
    losses[0].backward()
    optimizer.step()
    planned = supervised_plan.memory(cfg, supervised_plan.as_it_is(cfg, 1))["update"]
    assert planned["weights"] == sum(t.nbytes for t in [*model.parameters(), *model.codec.buffers()])
    assert planned["average"] == sum(p.nbytes for p in average.parameters())
    assert planned["gradients"] == sum(p.nbytes for p in parameters)
    state = sum(t.nbytes for held in optimizer.state.values() for t in held.values() if t.dim())
    assert planned["optimiser"] == pytest.approx(state, rel=0.05)


def test_fine_tuning_split_has_its_shares(root):
    cfg = configured(root, "paper", "sft")
    one, eight = (supervised_plan.memory(cfg, supervised_plan.as_it_is(cfg, n))["update"] for n in (1, 8))
    codec = sizes.FLOAT * layout.network(cfg).codec
    assert eight["weights"] - codec == pytest.approx((one["weights"] - codec) / 8, abs=1)
    for kind in ("average", "gradients", "optimiser"):
        assert eight[kind] == pytest.approx(one[kind] / 8, abs=1)
    assert sum(one[kind] for kind in ("weights", "average", "gradients", "optimiser")) > 285e9
    plans.check_fits(cfg, 80_000_000_000)
    with pytest.raises(UserError, match="scale paper: sft needs about .* GB on each of 8 devices, there are 40.0"):
        plans.check_fits(cfg, 40_000_000_000)
    again = supervised_plan.work(cfg, supervised_plan.as_it_is(cfg, 8))["update"]
    kept_all = supervised_plan.work(cfg, replace(supervised_plan.as_it_is(cfg, 8), checkpointing=False))["update"]
    assert again == pytest.approx(4 / 3 * kept_all)


# ---------------------------------------------------------------------------------------------------- verdicts
def run(*words):
    """Whether the run fits, and what the plan says."""
    lines, fits = plans.plan(
        **{words[i].removeprefix("--").replace("-", "_"): words[i + 1] for i in range(0, len(words), 2)}
    )
    return fits, "\n".join(lines)


def test_a_small_scale_fits():
    fits, out = run("--scale", "cpu", "--gpu-memory", 8)
    assert fits and "fits          yes" in out and "what would make it fit" not in out


def test_the_papers_scale_fits_its_devices():
    fits, out = run("--scale", "paper")
    assert fits and "8 x 80 GB" in out and "fits          yes" in out
    assert "parameters" in out and "with checkpointing" in out and "FLOPs" in out and "hours" in out
    assert all(f"\n  {word}" in out for word in plan.KINDS)


def test_fine_tuning_at_the_papers_scale_fits_too():
    fits, out = run("--scale", "paper", "--run", "sft")
    assert fits and "8 x 80 GB" in out and "32 examples, 4 on each device" in out and "fits          yes" in out
    assert all(f"\n  {word}" in out for word in supervised_plan.KINDS)
    fits, out = run("--scale", "paper", "--run", "sft", "--gpus", 1, "--gpu-memory", 192)
    assert not fits and "what would make it fit" in out and "and still more: larger devices" in out


def test_smaller_devices_are_told_what_would_help():
    fits, out = run("--scale", "paper", "--gpu-memory", 74)
    assert not fits and "fits          no" in out and "rl.rollout_batch: " in out and "then about" in out
    fits, out = run("--scale", "paper", "--gpu-memory", 40)
    assert not fits and "and still more: larger devices" in out


def test_what_helps_is_enough(root):
    cfg = configured(root, "paper")
    plain = replace(cfg, processes=1, sharding=False, activation_checkpointing=False)
    cfg = replace(plain, rl=replace(cfg.rl, micro_batch=8, rollout_batch=0))
    room = 80e9 * (1 - layout.RESERVED)
    steps = plan.remedies(cfg, 8, room)
    needs = [plan.need(cfg, plan.as_it_is(cfg, 8)), *(plan.need(cfg, setup) for _, setup in steps)]
    assert needs[0] > room >= needs[-1] and all(a >= b for a, b in zip(needs, needs[1:], strict=False))
    assert plan.need(cfg, plan.remedies(cfg, 1, room)[-1][1]) > room  # one device is too small whatever is done


def test_more_in_a_batch_needs_more_and_costs_more(root):
    cfg = configured(root, "gpu")
    small = plan.as_it_is(cfg, 1)
    large = replace(small, micro=2 * small.micro)
    assert plan.need_update(cfg, large) > plan.need_update(cfg, small)
    guided = replace(cfg, rl=replace(cfg.rl, guidance=2.0))
    assert plan.work(guided, small)["rollout"] > plan.work(cfg, small)["rollout"]
    again = plan.work(cfg, replace(small, checkpointing=True))["update"]
    assert again == pytest.approx(4 / 3 * plan.work(cfg, small)["update"])


@pytest.mark.parametrize("scale", ["smoke", "cpu", "gpu", "paper"])
def test_all_devices_together_hold_what_one_does(root, scale):
    """Split, every device has its share of what stands, and fewer episodes either way."""
    cfg = replace(configured(root, scale), processes=2, sharding=True)
    one, two = (plan.memory(cfg, plan.as_it_is(cfg, n))["update"] for n in (1, 2))
    codec = sizes.FLOAT * layout.network(cfg).codec
    for kind in ("weights", "reference"):
        assert two[kind] == pytest.approx((one[kind] + codec) / 2, abs=1)
    for kind in ("gradients", "optimiser"):
        assert two[kind] == pytest.approx(one[kind] / 2, abs=1)
    assert two["latents"] == one["latents"] / 2
    whole = replace(cfg, sharding=False)
    assert plan.memory(whole, plan.as_it_is(whole, 2))["update"]["weights"] == one["weights"]


def test_a_scale_that_does_not_fit_is_refused(root):
    cfg = configured(root, "paper")
    plans.check_fits(cfg, 80_000_000_000)
    with pytest.raises(UserError, match="scale paper: unigrpo needs about .* GB on each of 8 devices, there are 24.0"):
        plans.check_fits(cfg, 24_000_000_000)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--scale", "huge"), "--config scale=huge: no such file"),
        (("--scale", "cpu", "--run", "nothing"), "--config run=nothing: no such run"),
        (("--scale", "paper", "--run", "base"), "--run base: expected a run that is trained, this one is released"),
        (
            ("--scale", "sd35", "--gpus", 3),
            "--gpus 3: processes: expected a divisor of the 50 episodes of an optimiser",
        ),
        (("--scale", "sd35", "--run", "sft"), "--run sft: expected a run that is reinforced for backbone: llm_dit"),
        (
            ("--scale", "paper", "--gpus", 3, "--run", "sft"),
            "--gpus 3: supervised.batch_size: expected a multiple",
        ),
        (("--scale", "cpu", "--gpus", 0), "--gpus: expected a number above 0, got 0"),
        (
            ("--scale", "paper", "--gpus", 5),
            "--gpus 5: processes: expected a divisor of the 384 episodes of an optimiser step, got 5",
        ),
        (("--scale", "cpu", "--gpu-memory", float("nan")), "--gpu-memory: expected a number above 0, got nan"),
    ],
)
def test_bad_options_are_named(words, message):
    with pytest.raises(UserError, match=message):
        run(*words)
