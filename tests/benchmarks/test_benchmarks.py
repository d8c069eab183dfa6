"""The benchmarks run, their tables are complete and what they count is what was done. No time is asserted."""

import copy
import json
import sys

import pytest
import torch

from benchmarks import judging, peers, phases, scaling, startup
from unigrpo.core.settings import replace, to_dict
from unigrpo.episodes.rollout import Draw
from unigrpo.episodes.slices import Networks
from unigrpo.methods import grpo
from unigrpo.models.checkpoint import new_model
from unigrpo.training.launch import accelerate_for
from unigrpo.training.learner import Learner, optimizer_for
from unigrpo.training.task import draw_prompts

STEP = {
    "text rollout": {"tokens"},
    "image rollout": {"images", "model evaluations"},
    "reward": {"images"},
    "replay": {"episodes"},
    "update": {"episodes", "optimiser steps"},
    "validation": {"images"},
}
OTHERS = {"supervised step": {"examples"}, "inspector": {"images"}}


PROVENANCE = {"source_hash", "commit", "versions", "finished"}


def run(benchmark, out, *arguments) -> dict:
    """What the command writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["benchmark", *arguments, "--repeats", "1", "--out", str(out)])
        benchmark.main()
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return run(phases, tmp_path_factory.mktemp("benchmark") / "phases.json", "--scale", "smoke")


@pytest.mark.slow
def test_every_phase_is_measured(result):
    for group, expected in (("phases", STEP), ("others", OTHERS)):
        assert {name: set(row["per_second"]) for name, row in result[group].items()} == expected
        for row in result[group].values():
            assert 0 < row["fastest"] <= row["seconds"] <= row["slowest"]
    assert result["peak_memory_mb"] > 0
    assert PROVENANCE | {"device", "threads"} <= set(result["provenance"])


@pytest.mark.slow
def test_judging_is_measured_beside_reading_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["benchmark", "--small", "40", "--large", "8", "--out", str(tmp_path / "out.json")]
    )
    judging.main()
    result = json.loads((tmp_path / "out.json").read_text())
    assert [(row["side"], row["images"], row["reward"]) for row in result["rows"]] == [
        (side, count, reward) for side, count in ((48, 40), (512, 8)) for reward in ("jpeg", "level")
    ]
    assert all(row["memory"] > 0 and row["wall_decoding"] > 0 for row in result["rows"])
    assert set(result["provenance"]) >= PROVENANCE and len(capsys.readouterr().out.splitlines()) == 6


def test_shares_sum_to_one(result):
    assert sum(row["share"] for row in result["phases"].values()) == pytest.approx(1)


def test_speeds_count_what_was_done(result):
    """Smoke: 16 episodes of 8 tokens and 10 denoising steps; two optimiser steps that halve the episodes."""
    assert (result["trace_tokens"], result["sizes"]["episodes"], result["sizes"]["denoising_steps"]) == (8, 16, 10)
    done = {
        name: {what: row["seconds"] * speed for what, speed in row["per_second"].items()}
        for name, row in result["phases"].items()
    }
    assert done["text rollout"] == pytest.approx({"tokens": 16 * 8})
    assert done["image rollout"] == pytest.approx({"images": 16, "model evaluations": 16 * 10})
    assert done["update"] == pytest.approx({"episodes": 16, "optimiser steps": 2})
    assert done["validation"] == pytest.approx({"images": 76})


def test_validation_counts_in_part():
    cost = {"update": {"seconds": 3.0}, "validation": {"seconds": 10.0}}
    assert phases.shares(cost, 10) == pytest.approx({"update": 0.75, "validation": 0.25})


def test_medians_and_extremes():
    laps = [phases.Lap(seconds, {"images": 6}) for seconds in (3.0, 1.0, 2.0)]
    expected = {"seconds": 2.0, "fastest": 1.0, "slowest": 3.0, "per_second": {"images": 3.0}}
    assert phases.summary(laps) == expected


def test_the_warm_up_is_not_measured():
    calls = []

    def work(index):
        calls.append(index)
        return {"work": phases.Lap(100.0 if index == 0 else 1.0, {"rounds": 1})}

    assert phases.repeat(work, 2)["work"]["slowest"] == 1.0
    assert calls == [0, 1, 2]


@pytest.mark.parametrize("benchmark", [phases, scaling, startup, peers, judging], ids=lambda m: m.__name__)
def test_the_readme_shows_the_recorded_run(root, benchmark):
    recorded = json.loads((root / f"benchmarks/results/{benchmark.__name__.split('.')[-1]}.json").read_text())
    assert benchmark.table(recorded) in (root / "benchmarks/README.md").read_text()
    assert set(recorded["provenance"]) >= PROVENANCE


# ---- scaling -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scaling_moves_one_axis_at_a_time_and_measures_each_point(tmp_path, monkeypatch):
    """Smoke: 4 prompts x 4 episodes, 8 steps, width 32. In this process, with models that are not saved first."""
    models = {}
    monkeypatch.setattr(phases, "load_fresh", lambda cfg, device: models.setdefault(cfg.model, new_model(cfg)))
    monkeypatch.setattr(scaling, "alone", lambda cfg, repeats: scaling.measure(to_dict(cfg), repeats))
    result = run(scaling, tmp_path / "scaling.json", "--scale", "smoke")
    assert {axis: [row["value"] for row in rows] for axis, rows in result["axes"].items()} == {
        "group size": [2, 4, 8],
        "prompts": [2, 4, 8],
        "denoising steps": [10, 20, 40],
        "model width": [16, 32, 64],
        "guidance": [1, 2],
    }
    own = dict(zip(result["axes"], (4, 4, 8, 32, 1), strict=True))
    base = [row for axis, rows in result["axes"].items() for row in rows if row["value"] == own[axis]]
    assert all({**row, "value": None} == {**base[0], "value": None} for row in base)
    for axis, rows in result["axes"].items():
        for row in rows:
            images = row["images_per_second"] * row["seconds"]
            assert images == pytest.approx(4 * row["value"] if axis in ("group size", "prompts") else 16)
            assert row["seconds"] == pytest.approx(sum(phase["seconds"] for phase in row["phases"].values()))
            assert set(row["phases"]) == set(STEP) - {"validation"} and row["peak_memory_mb"] > 0
    assert set(result["provenance"]) >= PROVENANCE
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert len(scaling.table(result).splitlines()) == 2 + 14


# ---- start-up ----------------------------------------------------------------------------------------------


def test_every_verb_is_found():
    found = startup.verbs()
    assert {"reproduce", "train", "sample", "judge", "plan"} <= set(found) and len(found) == len(set(found)) > 20


def test_start_up_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "verbs", lambda: ["diff"])
    monkeypatch.setattr(startup, "LOADED", {"(an empty program)": ("-c", "pass")})
    result = run(startup, tmp_path / "startup.json")
    assert set(result["commands"]) == {"unigrpo diff --help", "(an empty program)"}
    assert all(0 < row["fastest"] <= row["seconds"] <= row["slowest"] for row in result["commands"].values())
    assert "| `unigrpo diff --help` |" in startup.table(result)


# ---- peers -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", peers.PEERS)
def test_peers_are_measured(tmp_path, name):
    pytest.importorskip("torch" if name == "flow_grpo" else name)
    row = run(peers, tmp_path / "peers.json", "--only", name)["pairs"][name]
    for side in ("peer", "ours"):
        assert 0 < row[side]["fastest"] <= row[side]["seconds"] <= row[side]["slowest"]
    assert row["ratio"] == pytest.approx(row["ours"]["seconds"] / row["peer"]["seconds"])
    assert row["parameters"] == {"flow_grpo": 281232, "trl": 107072}[name]


@pytest.mark.slow
def test_the_restated_loop_does_the_same_work():
    """One step of plain gradient descent from the same weights and draws, clipping out of reach: the same weights."""
    cfg = peers.image_settings(phases.configurations("cpu", None)[0])
    rl, accelerator, start = replace(cfg.rl, clip_norm=1e9, clip_image=0.5), accelerate_for(cfg), new_model(cfg)
    reference = copy.deepcopy(start)
    with torch.no_grad():
        for k, p in enumerate(reference.mot.parameters()):
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(k)))
    prompts, moved = draw_prompts(0, 1, peers.PROMPTS), []
    for ours in (True, False):
        nets = Networks(copy.deepcopy(start), reference, peers.redness)
        _, trained = optimizer_for(nets.model, rl)
        optimizer = torch.optim.SGD(trained["image"], lr=1e3)  # far enough to be read from fp32 weights
        if ours:
            rollout = grpo.roll_out(nets, Draw(prompts, rl, 0, peers.SEED, 1))
            rewards = peers.redness(rollout.image.images, [])
            run = Learner(replace(cfg, rl=rl), nets, optimizer, trained, accelerator)
            peers.learn(run, rollout, rewards)
        else:
            peers.flow_grpo_loop(nets, prompts, rl, 1, optimizer, trained)
        moved.append([p - q for p, q in zip(trained["image"], start.mot.expert_parameters()["image"], strict=True)])
    for a, b in zip(*moved, strict=True):
        assert a.abs().max() > 0 and torch.allclose(a, b, atol=1e-3 * a.abs().max().item())
