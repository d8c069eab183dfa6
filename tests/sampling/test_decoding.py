"""The choice of decoding: one standard error, paired by prompt, categories weighing equally; each mode has its own."""

from __future__ import annotations

import numpy as np
import pytest

from tests._support import tiny
from unigrpo.core.choosing import choose
from unigrpo.core.settings import replace
from unigrpo.sampling import decoding
from unigrpo.sampling.decoding import PER_PROMPT, tune
from unigrpo.sampling.engine import Decoding, Samples, sample
from unigrpo.sampling.validation_set import SEED, by_category, judge_each, validation_jobs

TAGS = ["a"] * 4 + ["b"] * 4


@pytest.mark.parametrize(
    ("gain", "chosen"),
    [
        ([0.1] * 8, 2.0),  # the same gain on every prompt has no error: the better one
        ([0.0] * 8, 1.0),  # a tie: the one nearer to training
        ([0.4, -0.3, 0.4, -0.3, 0.0, 0.0, 0.0, 0.0], 1.0),  # mean 0.025, error 0.10
        ([0.4, 0.2, 0.3, 0.3, 0.0, 0.0, 0.0, 0.0], 2.0),  # mean 0.15, error 0.02
    ],
)
def test_the_first_within_one_error_of_the_best(gain, chosen):
    base = np.linspace(0.2, 0.5, 8)
    assert choose({1.0: base, 2.0: base + gain}, TAGS) == chosen


def test_the_error_is_that_of_the_stratified_mean():
    """By hand: differences 0, 0.2 in a (variance 0.02, two prompts) and 0.2 four times in b; mean (0.1 + 0.2) / 2 =
    0.15, error sqrt(0.01) / 2 = 0.05. Scaled so that mean and error are equal, the first is still taken."""
    tags = ["a", "a", "b", "b"]
    base = np.zeros(4)
    assert choose({1.0: base, 2.0: np.array([0.0, 0.2, 0.2, 0.2])}, tags) == 2.0
    edge = np.array([0.0, 0.2, 0.0, 0.0])  # mean 0.05, error 0.05
    assert choose({1.0: base, 2.0: edge}, tags) == 1.0
    assert choose({1.0: base, 2.0: edge + 0.001}, tags) == 2.0


def test_categories_weigh_equally():
    """Three prompts of one category lose a little, the only one of the other wins more: the mean of means decides."""
    tags = ["a", "a", "a", "b"]
    assert choose({1.0: np.zeros(4), 2.0: np.array([-0.1, -0.1, -0.1, 0.2])}, tags) == 2.0


GRIDS = {"guidance_grid": (1.0, 2.0, 3.0), "temperature_grid": (1.0, 0.5)}


def test_each_mode_has_the_choice_that_its_images_ask_for(monkeypatch):
    """Gold by hand: with thinking best at guidance 3 and temperature 0.5, greedy text above all; without at 2."""
    level = {(True, 1.0, 1.0): 0.2, (True, 2.0, 1.0): 0.3, (True, 3.0, 1.0): 0.4, (True, 3.0, 0.5): 0.5}
    level |= {(True, 3.0, 0.0): 0.9, (False, 1.0, None): 0.1, (False, 2.0, None): 0.3, (False, 3.0, None): 0.2}
    texts = []

    def sampled(model, jobs, settings, decodings, seed):
        texts.append((decodings[0].thinking, decodings[0].temperature))
        keys = [(d.thinking, d.guidance, d.temperature) for d in decodings]
        return [Samples(np.full(1, level[key]), [None] * len(jobs), 0) for key in keys]

    monkeypatch.setattr(decoding, "sample_guided", sampled)
    monkeypatch.setattr(decoding, "judge_each", lambda jobs, s: ([{"gold": float(s.images[0])} for _ in jobs], {}))
    cfg = tiny.run_config("sft")
    found = tune(None, replace(cfg, sampling=replace(cfg.sampling, **GRIDS)))
    assert (found["think"], found["direct"]) == ({"guidance": 3.0, "temperature": 0.5}, {"guidance": 2.0})
    assert {(row["thinking"], row["guidance"], row["temperature"]): row["gold"] for row in found["grid"]} == (
        pytest.approx(level)
    )
    assert sorted(texts, key=str) == [(False, None), (True, 0.0), (True, 0.5), (True, 1.0)]  # one for all guidances


def test_the_grid_is_what_each_decoding_samples_alone():
    cfg = tiny.run_config("sft")
    cfg = replace(cfg, sampling=replace(cfg.sampling, guidance_grid=(1.0, 2.0), temperature_grid=(1.0,), steps=2))
    jobs = validation_jobs(PER_PROMPT)
    for row in tune(tiny.model(), cfg)["grid"]:
        rows, _ = judge_each(jobs, sample(tiny.model(), jobs, cfg.sampling, Decoding(*[*row.values()][:3]), SEED))
        assert row["gold"] == pytest.approx(by_category(jobs, rows)["gold"], abs=1e-6)
        by_prompt = np.mean([[r["gold"] for r in rows[k::PER_PROMPT]] for k in range(PER_PROMPT)], axis=0)
        assert [*row["gold_by_prompt"].values()] == pytest.approx(by_prompt.tolist(), abs=1e-4)
