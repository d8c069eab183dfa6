"""The replay is compared with the sampler: each of three faults is found and named, and a sound run passes."""

from __future__ import annotations

import pytest
import torch

from tests._support import tiny
from tests._support.methods import train
from unigrpo.core.errors import UserError
from unigrpo.core.settings import replace
from unigrpo.episodes import monitor
from unigrpo.episodes import rollout as episodes
from unigrpo.models.mot_model import MoTModel
from unigrpo.objectives import flow
from unigrpo.sampling.painting import Guidance, contexts

RL = replace(tiny.RL, rollouts=1, epochs=2, validate_every=9)


def hotter(monkeypatch):
    """The sampler writes at a fifth of the temperature."""
    think = MoTModel.think
    monkeypatch.setattr(MoTModel, "think", lambda self, ids, n, uniforms, t: think(self, ids, n, uniforms, t * 0.2))


def unshifted(monkeypatch):
    """The sampler paints on a grid without shift."""
    paint = episodes.paint

    def wrong(model, seen, x, times, guidance, **more):
        return paint(model, seen, x, flow.time_grid(len(times) - 1, 1.0, "steps"), guidance, **more)

    monkeypatch.setattr(episodes, "paint", wrong)


def guided(monkeypatch):
    """The sampler paints with guidance 4, the replay without."""
    paint = episodes.paint

    def wrong(model, seen, x, times, guidance, **more):
        strong = Guidance(4.0)
        ids = [[0]] * len(x)
        return paint(model, contexts(model, ids, None, seen["full"], strong), x, times, strong, **more)

    monkeypatch.setattr(episodes, "paint", wrong)


def test_a_sound_run_shows_rounding_alone(tmp_path):
    (row,), _ = train(tmp_path, RL)
    assert 0 <= row["text_mismatch"] <= row["text_mismatch_max"] < 1e-4
    assert 0 <= row["image_mismatch"] <= row["image_mismatch_max"] < 1e-4
    assert 0 <= row["image_log_ratio_floor"] < 1e-5 and "image_clip_fraction" in row
    assert "text_mismatch_1" not in row  # later updates are of other weights


@pytest.mark.parametrize(("fault", "part"), [(hotter, "text"), (unshifted, "image"), (guided, "image")])
def test_each_fault_stops_the_run_and_names_the_part(tmp_path, monkeypatch, fault, part):
    fault(monkeypatch)
    with pytest.raises(UserError, match=f"^{part}: the replay before any update differs from what the sampler did by"):
        train(tmp_path, RL)
    assert not (tmp_path / "grpo" / "model.safetensors").exists()


@pytest.mark.parametrize("ratio", ["ratio_norm", "plain"])
def test_the_floor_is_the_log_ratio_of_sampler_and_replay(ratio):
    """Of two means that differ by d in every number: <noise d> and -(<d^2> + 2 std <noise d>) / (2 std^2)."""
    draw = torch.Generator().manual_seed(0)
    noise, mean = (torch.randn(2, 3, 4, 5, generator=draw) for _ in range(2))
    std, d = torch.tensor([0.5, 0.7, 0.9]), 1e-3
    wide = std[None, :, None, None]
    track = episodes.ImageTrack(torch.zeros(4), range(3), mean, mean + wide * noise, noise, mean, torch.zeros(2))
    replay = episodes.ImageReplay(mean, mean, mean + d, None, std)
    found = monitor.image(track, replay, replace(tiny.RL, ratio=ratio))
    cross = (noise * d).mean((2, 3))
    expected = cross if ratio == "ratio_norm" else (2 * std * cross - d**2) / (2 * std**2)
    assert found["log_ratio_floor"] == pytest.approx(expected.square().mean().sqrt().item(), rel=1e-2)
    assert found["mismatch"] == pytest.approx((d / std).mean().item(), rel=1e-3)
    assert found["mismatch_max"] == pytest.approx(d / 0.5, rel=1e-3)
