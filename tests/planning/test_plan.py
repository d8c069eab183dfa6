"""The plan: what it says of a step is what real tensors take; its verdicts; its shortcuts change nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests._support import tiny
from unigrpo.core.errors import UserError
from unigrpo.core.settings import replace
from unigrpo.models import checkpoint
from unigrpo.models.backbones import bagel
from unigrpo.planning import phases, plan, tracker
from unigrpo.study.config import ModelConfig
from unigrpo.study.resolve import chosen_run
from unigrpo.training import drift, learner, loop, supervised_run
from unigrpo.training.examples import Steps
from unigrpo.world.prompts import prompt_set

MEDIUM = ModelConfig(
    hidden_size=128, intermediate_size=320, layers=5, heads=8, kv_heads=2, latent_channels=8, latent_patch=1,
    latent_downsample=4, max_latent_size=12,
)  # fmt: skip
RATES = tracker.Rates(1e12, 1e11, 1e-6)


def planned(cfg):
    return phases.training(cfg, cfg, RATES)


def highest(work) -> int:
    """Most bytes that torch's CPU allocator had handed out while ``work`` ran, above those before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


@pytest.fixture
def endless(monkeypatch):
    """Texts are as long as they may get."""

    def first(cumulative, draw, right):
        return torch.zeros_like(draw, dtype=torch.long)

    monkeypatch.setattr(torch, "searchsorted", first)


def real_run(cfg) -> learner.Learner:
    """A run in reinforcement at the start of its second rollout."""
    torch.set_num_threads(1)
    model = checkpoint.new_model(replace(cfg, stage="base", init=None, rl=None))
    nets = learner.networks(cfg, model, phases.Free())
    optimizer, experts = learner.optimizer_for(nets.model, cfg.rl)
    run = learner.Learner(cfg, nets, optimizer, experts, phases.plain(cfg))
    with tracker.Tracker(RATES) as counter:
        phases.prepare(counter, optimizer)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("parts", [("text", "image"), ("image",), ("text",)], ids="+".join)
@pytest.mark.parametrize("size", [tiny.MODEL, MEDIUM], ids=["tiny", "medium"])
def test_the_peak_of_a_step_is_that_of_real_tensors(endless, monkeypatch, size, parts):
    """The allocator's peak over a rollout and its updates, and everything that stands beside them."""
    monkeypatch.setattr(phases, "equally_long", lambda prompts: prompts)
    rl = replace(tiny.RL, train=parts, micro_batch=12, epochs=1, prompts_per_rollout=8, reward="jpeg")
    cfg = tiny.run_config(rl=rl, model=size)
    run = real_run(cfg)
    standing = sum(t.nbytes for t in phases.tensors(run.nets.model, run.nets.reference))
    standing += sum(t.nbytes for state in run.optimizer.state.values() for t in state.values())
    for at in drift.probe(run.nets.reference, prompt_set("val"), cfg):
        standing += at.latents.nbytes + at.velocities.nbytes
    real = standing + highest(lambda: loop.learn(run, 0))
    found = planned(cfg)
    most = max(found[name].cost.bytes for name in ("rollout", "reward", "replay", "update"))
    assert most == pytest.approx(real, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, {"regulariser": "none", "kl_text": 0.1}, {"method": "nft", "train": ("image",)}]
)
def test_operations_are_those_that_torch_counts(endless, monkeypatch, changes):
    """Also where slices, steps and tokens are left out."""
    monkeypatch.setattr(phases, "equally_long", lambda prompts: prompts)
    rl = replace(tiny.RL, micro_batch=1, reward="jpeg", same_noise=False, **changes)
    cfg = tiny.run_config(rl=rl)
    run = real_run(cfg)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loop.learn(run, 0)
    found = planned(cfg)
    total = sum(found[name].cost.counts["flops"] for name in ("rollout", "replay", "update"))
    assert total == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"epoch_convention": "repeat", "epochs": 3},
        {"train": ("image",), "thinking": False, "guidance": 2.0, "regulariser": "latent_kl"},
        {"method": "fpo", "same_noise": False, "matching_samples": 3},
        {"method": "refl", "train": ("image",), "thinking": False, "same_noise": False},
        {"method": "gardo"},
        {"method": "ddrl", "regulariser": "none"},
        {"lora_rank": 4},
        {"average": "beside"},
    ],
    ids=str,
)
def test_every_method_is_planned(changes):
    rl = replace(tiny.RL, reward="jpeg", **changes)
    found = planned(tiny.run_config(rl=rl))
    total = found["rollout"].total
    images = rl.rollouts * rl.prompts_per_rollout * rl.group_size
    assert total["image evaluations"] == images * rl.n_steps * rl.branches
    assert total["tokens"] == images * 8 * rl.thinking
    assert found["update"].times == rl.rollouts and found["update"].cost.bytes > 0
    if changes.get("lora_rank"):
        assert found["update"].cost.peak["optimiser"] < found["update"].cost.peak["weights"] / 2


@pytest.mark.slow
def test_supervision_is_planned(monkeypatch):
    cfg = tiny.run_config("sft")
    found = planned(cfg)
    assert found["update"].times == 6
    base = copy.deepcopy(tiny.model())
    optimizer, average = supervised_run.optimizer_for(base, cfg.supervised), copy.deepcopy(base.network)
    student = supervised_run.Student(cfg, base, average, optimizer, phases.plain(cfg), Steps(cfg))
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        supervised_run.learn(student, 0)
    assert found["update"].cost.counts["flops"] == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.slow
def test_split_networks_hold_their_share(monkeypatch):
    whole = tiny.run_config(rl=replace(tiny.RL, reward="jpeg", prompts_per_rollout=4, group_size=4, micro_batch=2))
    alone, split = planned(whole), planned(replace(whole, processes=2, sharding=True))
    codec = sum(t.nbytes for t in tiny.model().codec.buffers())
    for kind in ("weights", "optimiser"):
        fixed = codec if kind == "weights" else 0
        halved = (alone["update"].cost.peak[kind] - fixed) / 2 + fixed
        assert split["update"].cost.peak[kind] == pytest.approx(halved, rel=0.05)
    assert split["rollout"].total["image evaluations"] == alone["rollout"].total["image evaluations"]
    assert not torch.distributed.is_initialized()


def test_answers_of_fake_numbers():
    """A number is 0, a condition holds, and whole numbers stay what they are."""
    with tracker.Tracker(RATES) as counter:
        x = tracker.fake(torch.zeros(3, 4))
        assert x.sum().item() == 0.0 and bool(torch.isfinite(x).all()) and x.mean(1).tolist() == [0.0] * 3
        assert x[torch.tensor([True, False, True])].shape == (2, 4)
        assert x.argmax(1).tolist() == [0, 0, 0]
        with counter.measure() as cost:
            (x @ x.T).sum()
    assert cost.counts["flops"] == 2 * 3 * 4 * 3 and cost.bytes == 4 * (12 + 9 + 1)


def test_memory_goes_with_the_last_tensor():
    with tracker.Tracker(RATES) as counter:
        x = tracker.fake(torch.zeros(100))
        with counter.measure() as cost:
            y = x + 1
            z = y.view(10, 10)[:5]
            del y
            held = counter.now[tracker.REST]
            del z
            x + 1
    assert held == cost.bytes == 400 + 0 * held and counter.now[tracker.REST] == 0


@pytest.mark.slow
def test_released_models_have_their_published_sizes():
    """BAGEL-7B-MoT to the last number: its experts in ema.safetensors; Qwen2.5-1.5B and Stable Diffusion 3.5 medium."""
    _, paper = chosen_run("paper", "unigrpo", 0, None)
    model = bagel.skeleton(paper, paper)
    counts = {part: sum(p.numel() for p in found) for part, found in model.expert_parameters().items()}
    d, token = 3584, 64
    text = 7_615_616_512 + 28 * 2 * 128  # Qwen2.5-7B with norms of queries and keys
    ends = 2 * d * token + d + token + (256 + 1) * d + (d + 1) * d  # latents in and out, the clock
    assert counts == {"text": text, "image": text - 2 * 152_064 * d + ends}
    _, pair = chosen_run("sd35", "unigrpo", 0, None)
    from unigrpo.models.backbones import llm_dit

    model = llm_dit.skeleton(pair, chosen_run("sd35", "base", 0, None)[1])
    released = [p.numel() for name, p in model.llm.named_parameters() if "lora_" not in name]
    assert sum(released) == 1_543_714_304
    painter = [t.numel() for n, t in model.transformer.state_dict().items() if "lora_" not in n]
    assert sum(painter) == 2_469_663_936
    encoders = [sum(p.numel() for p in encoder.parameters()) for encoder in model.encoders]
    assert encoders == [123_650_304, 694_659_840, 4_762_310_656]
    assert sum(p.numel() for p in model.vae.parameters()) == 83_819_683


@pytest.mark.slow
def test_a_plan_says_whether_it_fits_and_what_would_help():
    lines, fits = plan.plan("smoke", "unigrpo", None, plan.Device())
    assert fits and any(line.startswith("fits          yes") for line in lines) and "minutes" in lines[-2]
    lines, fits = plan.plan("smoke", "unigrpo", None, plan.Device(0.006))
    assert not fits and "    rl.micro_batch: 8 " in "\n".join(lines)


@pytest.mark.slow
def test_a_table_is_the_sum_of_its_runs():
    lines, fits = plan.table("smoke", "cfg", None, plan.Device())
    assert fits and [line.split()[0] for line in lines] == ["run", "base", "sft", "unigrpo", "unigrpo_cfg", "sum"]


@pytest.mark.parametrize(
    ("arguments", "memory", "words"),
    [
        (("paper", "base", None), 80, "this one is released"),
        (("smoke", "unigrpo", 3), 80, "--gpus 3: processes"),
        (("smoke", "unigrpo", None), -1, "--gpu-memory: expected a number above 0"),
    ],
)
def test_bad_questions_end_with_one_message(arguments, memory, words):
    with pytest.raises(UserError, match=words):
        plan.plan(*arguments, plan.Device(memory))


def test_unknown_tables_end_with_one_message():
    with pytest.raises(UserError, match="--table tabel1: expected one of table1"):
        plan.table("smoke", "tabel1", None, plan.Device())


def test_a_device_that_is_too_small_is_refused():
    cfg = tiny.run_config(rl=replace(tiny.RL, reward="jpeg"))
    with pytest.raises(UserError, match="needs about 0.0 GB on each of 1 devices"):
        plan.check_fits(cfg, 1000)
