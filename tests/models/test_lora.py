"""Adapters: where they are, that they alone learn, the reference below them, and what a run with them leaves."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate.state import AcceleratorState

from tests._support import release, several, tiny
from unigrpo.core import tensor_files
from unigrpo.core.files import read_jsonl
from unigrpo.core.settings import replace
from unigrpo.episodes.rollout import Draw
from unigrpo.models import checkpoint, lora
from unigrpo.planning import phases, tracker
from unigrpo.study.facts import METHODS
from unigrpo.training import launch, learner, loop, task
from unigrpo.training.drift import probe
from unigrpo.world import prompts

RL = replace(tiny.RL, lora_rank=3, rollouts=2, validate_every=2, lr_text=0.01, lr_image=0.01)


def prepared(rl):
    return learner.networks(tiny.run_config("rl", rl=rl), copy.deepcopy(tiny.model()), several.brightness)


def outputs(model):
    """A trace, and the velocity after it."""
    ids = model.prompt_ids(["a photo of a red circle"])
    trace, context = model.think(ids, 6, None, 0.0)
    x = torch.linspace(-1, 1, model.latent_shape[0] * model.latent_shape[1]).reshape(1, *model.latent_shape)
    with torch.no_grad():
        return trace.tokens, model.velocity(context, x, torch.tensor([0.7]))


def disturb(model):
    """Adapters start with no effect; give them one."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("parts", [("text", "image"), ("image",), ("text",)], ids="+".join)
def test_every_linear_map_of_a_trained_expert_has_an_adapter_and_nothing_else_is_trained(parts):
    rl = replace(RL, train=parts)
    nets = prepared(rl)
    _, trained = learner.optimizer_for(nets.model, rl)
    learning = {name for name, p in nets.model.named_parameters() if p.requires_grad}
    assert learning and all("lora_" in name for name in learning)
    plain = [n for n, m in tiny.model().mot.named_modules() if isinstance(m, torch.nn.Linear) and "lm_head" not in n]
    image = [n for n in plain if "_moe_gen" in n or n.startswith(("vae2llm", "llm2vae", "time_embedder"))]
    wanted = {n for n in plain if ("image" in parts if n in image else "text" in parts)}
    assert {n.removeprefix("mot.").split(".lora_")[0] for n in learning} == wanted
    linear = dict(tiny.model().mot.named_modules())
    counted = 3 * sum(sum(linear[name].weight.shape) for name in wanted)
    assert sum(p.numel() for group in trained.values() for p in group) == counted


def test_the_reference_is_the_network_without_its_adapters(start):
    """The starting checkpoint to the last bit, in the same memory; it stays so when the adapters have learned."""
    nets, fresh = prepared(RL), checkpoint.load_model(start / "init")
    assert all(torch.equal(a, b) for a, b in zip(outputs(nets.model), outputs(fresh), strict=True))
    disturb(nets.model)
    assert all(torch.equal(a, b) for a, b in zip(outputs(nets.reference), outputs(fresh), strict=True))
    assert not torch.equal(outputs(nets.model)[1], outputs(fresh)[1])
    own = {p.data_ptr() for p in nets.model.parameters()}
    assert {p.data_ptr() for p in nets.reference.parameters()} <= own
    some = prompts.prompt_set("val")[:2]
    (ours,), (others,) = (probe(m, some, tiny.run_config(rl=RL)) for m in (nets.reference, fresh))
    assert torch.allclose(ours.velocities, others.velocities, atol=1e-5)


def test_what_is_saved_is_a_network_like_every_other(tmp_path, start):
    nets = prepared(RL)
    disturb(nets.model)
    tokens, velocity = outputs(nets.model)
    lora.merge(nets.model)
    merged = outputs(nets.model)
    assert torch.equal(merged[0], tokens) and torch.allclose(merged[1], velocity, atol=1e-5)
    nets.model.save(tmp_path, {})
    again = checkpoint.load_model(tmp_path, expected=tiny.MODEL)
    assert all(torch.equal(a, b) for a, b in zip(outputs(again), merged, strict=True))
    assert again.state_dict().keys() == checkpoint.load_model(start / "init").state_dict().keys()


@pytest.mark.parametrize(
    "case", [{}, several.IMAGE | {"method": "nft", "matching_samples": 2}], ids=["grpo", "nft with old weights"]
)
def test_a_run_learns_and_resumes(tmp_path, start, case):
    """Killed after its first rollout it ends like one left alone; its state holds adapters only."""
    cfg = tiny.run_config("rl", rl=replace(RL, **case))
    several.run(cfg, tmp_path / "calm", start)
    original, out = task.draw_prompts, tmp_path / "killed"
    with pytest.MonkeyPatch.context() as patch:

        def deadly(seed, index, n, pool):
            if index == 1:
                raise several.Killed
            return original(seed, index, n, pool)

        patch.setattr(loop, "draw_prompts", deadly)
        with pytest.raises(several.Killed):
            several.run(cfg, out, start)
    state = out / "state" / "state.safetensors"
    names = tensor_files.read_tensors(state)
    assert not [n for n in names if n.startswith("reference")]
    adapters = sum(p.numel() for name, p in prepared(cfg.rl).model.named_parameters() if "lora_" in name)
    assert sum(t.numel() for n, t in names.items() if n.startswith("model/")) == adapters
    several.run(cfg, out, start)
    assert (tmp_path / "calm/model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    begun, ended = (checkpoint.load_model(f) for f in (start / "init", out))
    assert not torch.equal(outputs(begun)[1], outputs(ended)[1])
    drifts = [row["drift"] for _, row in read_jsonl(out / "metrics.jsonl") if row["kind"] == "validation"]
    assert drifts[0] < 1e-12 < drifts[-1]


def test_memory_is_that_of_adapters():
    cfg = tiny.run_config("rl", rl=RL)
    nets = prepared(RL)
    optimizer, trained = learner.optimizer_for(nets.model, RL)
    held = [p for group in trained.values() for p in group]
    for p in held:
        p.grad = torch.ones_like(p)
    optimizer.step()
    planned = phases.training(cfg, cfg, tracker.Rates(1e12, 1e11, 1e-6))["update"].cost.peak
    assert planned.get("gradients", 0) <= sum(p.nbytes for p in held)
    assert planned["optimiser"] == sum(t.nbytes for s in optimizer.state.values() for t in s.values())
    weights = {p.data_ptr(): p.nbytes for net in (nets.model, nets.reference) for p in net.parameters()}
    buffers = sum(t.nbytes for net in (nets.model, nets.reference) for t in net.buffers())
    assert planned["weights"] + planned["copies"] == sum(weights.values()) + buffers


@pytest.fixture
def another_precision():
    """Accelerate keeps the precision of its first use."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_of_a_release_too(tmp_path, another_precision):
    """Load, think, paint, one update of adapters and of half precision, save, load: a release again."""
    folder, rl = release.write(tmp_path / "release"), replace(RL, epochs=1, micro_batch=12)
    cfg = tiny.run_config("rl", rl=rl, backbone="bagel", model=release.MODEL, precision="bf16")
    model, accelerator = checkpoint.load_model(folder, expected=release.MODEL), launch.accelerate_for(cfg)
    nets = learner.networks(cfg, model, several.brightness)
    optimizer, trained = learner.optimizer_for(model, rl)
    fixed = {n for n, p in model.named_parameters() if p.requires_grad and ("vit" in n or "connector" in n)}
    with accelerator.autocast():
        rollout = METHODS.load("grpo").roll_out(nets, Draw(task.draw_prompts(3, 0, 4), rl, 6, 3, 0))
        advantages = torch.linspace(-1, 1, 12)
        (slices,) = METHODS.load("grpo").make_slices(nets, rollout, tiny.both(advantages), rl)
    _, norms = loop.update(tiny.learner(nets, rl, optimizer, trained, accelerator), slices, rl)
    assert not fixed and all(norm > 0 for norm in norms.values())
    lora.merge(model)
    model.save(tmp_path / "saved", {})
    again = checkpoint.load_model(tmp_path / "saved", expected=release.MODEL)
    assert all(torch.equal(a, b) for a, b in zip(outputs(again), outputs(model), strict=True))
    start = checkpoint.load_model(folder, expected=release.MODEL)
    assert again.state_dict().keys() == start.state_dict().keys()
    assert not torch.equal(outputs(again)[1], outputs(start)[1])
