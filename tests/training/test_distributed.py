"""Several processes make the update of one: the same episodes, the mean of gradients, one record."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from tests._support import command, several, tiny
from unigrpo.core import distributed, settings
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl, write_json
from unigrpo.core.settings import replace
from unigrpo.episodes import shares
from unigrpo.episodes.rollout import Draw
from unigrpo.objectives.advantages import group_advantages
from unigrpo.planning import phases, tracker
from unigrpo.study import config
from unigrpo.study.facts import METHODS
from unigrpo.training import launch, learner, loop, supervised_run, task
from unigrpo.training.examples import bucketed, draw_examples

pytestmark = pytest.mark.slow

TIMES = ("seconds_rollout", "seconds_update", "images_per_second")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, root):
    """What two processes made of every case, and what one makes of it, under ``one``."""
    folder = tmp_path_factory.mktemp("runs")
    tiny.write_start(folder)
    stores = [torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in range(32)]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared |= {several.STORES: " ".join(str(store.port) for store in stores), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    shared |= {"PYTHONPATH": f"{root / 'src'}:{root}", "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "tests._support.several", str(folder)]
    both = [
        subprocess.Popen(call, cwd=root, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]  # fmt: skip
    for cases in (several.CASES, several.SHARDED):
        for name in cases.keys() - {"joint"} if cases is several.SHARDED else cases:
            cfg = several.configured(name, cases, sharding=False)
            several.run(replace(cfg, precision="no"), folder / "one" / name, folder)
    several.run(several.fine_tuning(), folder / "one" / "sft", folder)
    for process in both:
        said, _ = process.communicate()
        assert process.returncode == 0, said[-3000:]
    return folder


def weights(folder):
    return load_file(folder / "model.safetensors")


def rows(folder):
    return [{k: v for k, v in row.items() if k not in TIMES} for _, row in read_jsonl(folder / "metrics.jsonl")]


def test_processes_agree_on_the_groups_that_are_dropped(folder):
    for path in (folder / "one", folder / "split"):
        assert json.loads((path / "dropped" / "run.json").read_text())["dropped_groups"] == 2
        (row,) = (row for row in rows(path / "dropped") if row["kind"] == "train")
        assert row["groups"] == 1 and row["dropped_groups"] == 2


@pytest.mark.parametrize(
    ("kind", "name"),
    [("split", name) for name in [*several.CASES, "sft"]]
    + [("sharded", name) for name in [*several.SHARDED, "sft"] if name != "bf16"],
)
def test_two_processes_make_the_update_of_one(folder, kind, name):
    start, one, two = weights(folder / "init"), weights(folder / "one" / name), weights(folder / kind / name)
    assert one.keys() == two.keys()
    moved = torch.cat([(one[k] - start[k]).flatten() for k in one])
    apart = torch.cat([(one[k] - two[k]).flatten() for k in one])
    near = 1e-2 if (kind, name) == ("sharded", "refl") else 2e-3  # AdamW moves by the sign of gradients near zero
    assert moved.norm() > 0 and apart.norm() < near * moved.norm()
    for mine, other in zip(rows(folder / "one" / name), rows(folder / kind / name), strict=True):
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            if key == "diversity" and name in (
                "groups",
                "dropped",
            ):  # each process measures it within its part of a group
                assert other[key] == pytest.approx(value, rel=0.05)
            elif isinstance(value, float):
                assert other[key] == pytest.approx(value, rel=2e-3, abs=2e-5), key
            else:
                assert other[key] == value, key


def test_a_split_network_in_half_precision_stays_close(folder):
    start, one, two = (weights(folder / name) for name in ("init", "one/bf16", "sharded/bf16"))
    moved = [torch.cat([(x[k] - start[k]).flatten() for k in one]) for x in (one, two)]
    assert {x.dtype for x in two.values()} == {torch.float32} and not torch.equal(*moved)
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.5
    first = [
        next(row for row in rows(folder / name) if row["kind"] == "train") for name in ("one/bf16", "sharded/bf16")
    ]
    assert first[1]["proxy"] == pytest.approx(first[0]["proxy"], abs=5e-3)


def test_fine_tuning_split_in_half_precision_stays_close(folder):
    start, one, two = (weights(folder / name) for name in ("init", "one/sft", "sharded/sft_bf16"))
    moved = [torch.cat([(x[k] - start[k]).flatten() for k in one]) for x in (one, two)]
    assert {x.dtype for x in two.values()} == {torch.float32} and not torch.equal(*moved)
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.5


def test_every_process_holds_its_share_of_a_split_network(folder):
    cfg = several.configured("bf16", several.SHARDED, processes=2)
    planned = phases.training(cfg, cfg, tracker.Rates(1e12, 1e11, 1e-6))["update"].cost.peak
    planned["reference"] = planned["copies"] - sum(t.nbytes for t in tiny.model().codec.buffers())
    planned["weights"] -= sum(t.nbytes for t in tiny.model().codec.buffers())  # it is not split
    for rank in range(2):
        told = json.loads((folder / f"held{rank}.json").read_text())
        for kind, measured in told.items():
            assert measured == pytest.approx(planned[kind], rel=0.05), kind  # the codec is whole everywhere


@pytest.mark.parametrize("kind", ["split", "sharded"])
@pytest.mark.parametrize(("calm", "killed"), [("joint", "killed"), ("joint", "stopped"), ("sft", "sft_killed")])
def test_a_killed_run_of_two_processes_ends_like_one_left_alone(folder, kind, calm, killed):
    calm, killed = folder / kind / calm, folder / kind / killed
    assert (calm / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    assert rows(calm) == rows(killed)


def test_one_process_writes(folder):
    """One line a rollout, one validation record an update, one run's record."""
    out = folder / "split" / "joint"
    assert [row["rollout"] for row in rows(out) if row["kind"] == "train"] == [0, 1]
    record = json.loads((out / "run.json").read_text())
    assert record["images"] == 24 and record["updates"] == 4 and record["config"]["processes"] == 2
    assert not list(out.rglob("*.tmp")) and [p.name for p in (out / "state").iterdir()] == ["state.safetensors"]
    reference = json.loads((folder / "one" / "joint" / "run.json").read_text())
    assert record["model_evaluations"] == reference["model_evaluations"]


# ---------------------------------------------------------------------------------------------------- the parts
@pytest.mark.parametrize("convention", ["halves", "repeat"])
def test_every_episode_is_made_once_and_every_step_is_shared_equally(monkeypatch, convention):
    rl = replace(tiny.RL, prompts_per_rollout=12, group_size=3, epochs=2, epoch_convention=convention)
    monkeypatch.setattr(distributed, "count", lambda: 3)
    parts = [shares.local_rows(36, rl, which) for which in range(3)]
    assert sorted(i for own in parts for i in own) == list(range(36))
    for own in parts:
        steps = [own] if convention == "repeat" else [own[:6], own[6:]]
        assert len(own) == 12 and all(step == list(range(step[0], step[0] + len(step))) for step in steps)  # neighbours
        if convention == "halves":
            assert [i < 18 for i in own] == [True] * 6 + [False] * 6
    monkeypatch.setattr(distributed, "count", lambda: 1)
    assert shares.local_rows(36, rl, 0) == list(range(36))


def test_groups_may_be_split_and_their_rewards_come_together(monkeypatch):
    """Two prompts among three processes: what each gathers is in the order of all episodes."""
    rl = replace(tiny.RL, prompts_per_rollout=2, group_size=9, epochs=2)
    config.check_together(tiny.run_config("rl", rl=rl, processes=3))
    monkeypatch.setattr(distributed, "count", lambda: 3)
    everyone = torch.arange(18.0) ** 2
    parts = [everyone[shares.local_rows(18, rl, which)] for which in range(3)]
    monkeypatch.setattr(distributed, "collect", lambda items: parts)
    assert torch.equal(shares.gathered(parts[1], 18, rl), everyone)
    assert shares.local_rows(18, rl, 1) == [3, 4, 5, 12, 13, 14]


def test_each_process_learns_from_its_share_of_a_step(monkeypatch):
    """The mean of two shares' losses is the loss of all, and the shares differ."""
    cfg, model = several.fine_tuning(), tiny.model()

    def flow(which, of):
        monkeypatch.setattr(distributed, "count", lambda: of)
        monkeypatch.setattr(distributed, "mean", lambda value: value)
        generator = torch.Generator().manual_seed(0)
        share = bucketed(draw_examples(cfg, 0), model.image_size, which, of)
        found = supervised_run.supervised_losses(model, share, cfg.supervised, generator)
        return sum(each["flow"].item() for each in found)

    whole, first, second = flow(0, 1), flow(0, 2), flow(1, 2)
    assert (first + second) / 2 == pytest.approx(whole, rel=1e-5) and first != pytest.approx(second, rel=1e-3)


REFUSED = {
    "more than episodes": ({}, {"processes": 12}, "processes: expected a divisor of the 6 episodes .*, got 12"),
    "indivisible": ({"epoch_convention": "repeat"}, {"processes": 5}, "a divisor of the 12 episodes of an .*, got 5"),
    "halves": ({}, {"processes": 4}, "a divisor of the 6 episodes of an optimiser step, got 4"),
    "none": ({}, {"processes": 0}, "processes: expected at least 1, got 0"),
    "alone": ({}, {"sharding": True}, "sharding: expected false for processes: 1"),
    "adapters": ({"lora_rank": 2}, {"sharding": True, "processes": 2}, "rl.lora_rank: expected 0 with sharding"),
    "adapters of gardo": ({"lora_rank": 2, "method": "gardo"}, {}, "rl.lora_rank: expected 0 for gardo"),
}  # fmt: skip


def test_a_supervised_step_is_split_equally_or_refused():
    config.check_together(several.fine_tuning(processes=4))
    with pytest.raises(UserError, match="supervised.batch_size: expected a multiple of 2 x processes = 6, got 8"):
        config.check_together(several.fine_tuning(processes=3))
    with pytest.raises(UserError, match="sharding: expected false for processes: 1"):
        several.fine_tuning(sharding=True)
    base = tiny.run_config("base", processes=3, sharding=True)  # which has one process whatever a scale asks for
    config.check_together(base)
    assert (base.launched, several.fine_tuning(processes=4).launched) == (1, 4)


def test_the_commands_refuse_what_cannot_be_split(tmp_path, monkeypatch):
    """Before anything is loaded: unequal shares, and a base that was started in two."""
    write_json(tmp_path / "sft.json", settings.to_dict(several.fine_tuning(processes=3)))
    write_json(tmp_path / "base.json", settings.to_dict(tiny.run_config("base", processes=2)))
    words = {"sft": f"--init {tmp_path}", "base": ""}
    told = {"sft": "sft.json: supervised.batch_size: expected a multiple", "base": "processes: 1 by the configur"}
    monkeypatch.setenv("WORLD_SIZE", "2")
    for stage, more in words.items():
        with pytest.raises(UserError, match=told[stage]):
            command.unigrpo(f"train --config {tmp_path}/{stage}.json --out {tmp_path}/out {more}")


@pytest.mark.parametrize(("rl", "run", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_split_is_refused(rl, run, message):
    with pytest.raises(UserError, match=message):
        config.check_together(tiny.run_config("rl", rl=replace(tiny.RL, **rl), **run))


def test_another_number_of_processes_than_configured_is_refused(monkeypatch):
    cfg = tiny.run_config("rl", processes=2)
    for asked in (cfg, several.fine_tuning(processes=2)):
        told = "processes: 2 by the configuration, 1 started; start with accelerate launch .*-m unigrpo train$"
        with pytest.raises(UserError, match=told):
            launch.check_launch(asked)
    monkeypatch.setenv("WORLD_SIZE", "2")
    launch.check_launch(cfg)


def test_fewer_devices_than_processes_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="processes: 2 here need a CUDA device each, there are 1; or set"):
        launch.check_devices(tiny.run_config("rl", processes=2, device="auto"))


# ---------------------------------------------------------------------------------------------------- one process
def gradients(rl, at_once=None, **run):
    """The rollout, ``at_once`` episodes painted together, and by name the gradients of its first optimiser step."""
    cfg = tiny.run_config("rl", rl=rl, **run)
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the precision of its first use
    nets = learner.networks(cfg, copy.deepcopy(tiny.model()), several.brightness)
    _, trained = learner.optimizer_for(nets.model, rl)
    method, accelerator = METHODS.load(rl.method), launch.accelerate_for(cfg)
    drawn = task.draw_prompts(3, 0, rl.prompts_per_rollout)
    with accelerator.autocast():
        memory = 2**30
        if at_once is not None:
            nets.model.row_bytes = lambda ids, tokens: (1, memory // at_once)
        rollout = method.roll_out(nets, Draw(drawn, rl, 8, 3, 0, memory))
    rewards = several.brightness(rollout.image.images, list(rollout.prompts)).double()
    advantages, _ = group_advantages(rewards, [i // 3 for i in range(12)], ddof=0, eps=1e-4)
    with accelerator.autocast():
        slices = method.make_slices(nets, rollout, tiny.both(advantages), rl)[0]
    for part in slices:
        loop.accumulate(tiny.learner(nets, rl, accelerator=accelerator), part, rl)
    return rollout, {name: p.grad for name, p in nets.model.named_parameters() if p.grad is not None}


def close(a, b, rel):
    assert a.keys() == b.keys()
    apart = torch.stack([(a[k] - b[k]).square().sum() for k in a]).sum().sqrt()
    return apart < rel * torch.stack([x.square().sum() for x in a.values()]).sum().sqrt()


@pytest.mark.parametrize("case", [{}, several.UNIFPO, several.IMAGE | {"method": "refl"}])
def test_a_rollout_in_parts_is_the_same(case):
    rl = replace(tiny.RL, epochs=1, **case)
    (at_once, large), (in_parts, small) = gradients(rl), gradients(rl, at_once=5)
    assert in_parts.prompts == at_once.prompts and in_parts.prompt_ids == at_once.prompt_ids
    assert torch.equal(*(r.trace.tokens.where(r.trace.mask, 0)[:, :6] for r in (at_once, in_parts)))
    for name in at_once.image.__dataclass_fields__:
        a, b = getattr(at_once.image, name), getattr(in_parts.image, name)
        assert torch.allclose(a, b, atol=1e-5) if isinstance(a, torch.Tensor) else a == b, name
    assert in_parts.model_evaluations == at_once.model_evaluations and close(large, small, 1e-3)


def test_half_precision_computes_in_it_and_learns_in_fp32():
    (plain, exact), (half, rounded) = gradients(tiny.RL), gradients(tiny.RL, precision="bf16")
    assert {g.dtype for g in rounded.values()} == {torch.float32}
    assert not torch.equal(plain.image.latents, half.image.latents)
    assert half.image.images.dtype == torch.float32
    assert torch.allclose(plain.image.latents, half.image.latents, atol=0.1) and not close(exact, rounded, 1e-4)
    flat = [torch.cat([g[k].flatten() for k in exact]) for g in (exact, rounded)]
    assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.5


@pytest.mark.parametrize("case", [{}, {"train": ("image",)}])
def test_layers_computed_again_give_the_same_gradients(case):
    rl = replace(tiny.RL, **case)
    (_, kept), (_, again) = gradients(rl), gradients(rl, activation_checkpointing=True)
    assert close(kept, again, 1e-6)
