"""Ceilings: a perfect painter of given traces, and a model's pictures of right traces, as sets like any other."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests._support import tiny
from unigrpo.core.errors import UserError
from unigrpo.core.files import write_json
from unigrpo.core.settings import replace
from unigrpo.sampling import ceilings, sample_folder, sets
from unigrpo.sampling.engine import Decoding, Samples, sample, sample_guided
from unigrpo.sampling.validation_set import validation_jobs
from unigrpo.study import resolve
from unigrpo.study.benchmark_entry import Benchmark
from unigrpo.world import inspector, scenes, traces
from unigrpo.world.prompts import prompt_set

CHOSEN = {"think": Decoding(True, 2.0, 0.7), "direct": Decoding(False, 1.5, None)}


def test_a_painter_given_the_models_own_traces_paints_what_the_model_paints():
    jobs, settings = validation_jobs(2)[::9], tiny.run_config().sampling
    own = sample(tiny.model(), jobs, settings, CHOSEN["think"], 1)
    (given,) = sample_guided(tiny.model(), jobs, settings, [CHOSEN["think"]], 1, traces=own.traces)
    assert given.traces == own.traces and given.model_evaluations == own.model_evaluations
    assert np.abs(given.images.astype(int) - own.images).max() <= 1
    other = [own.traces[0], *own.traces[:-1]]
    (shifted,) = sample_guided(tiny.model(), jobs, settings, [CHOSEN["think"]], 1, traces=other)
    assert shifted.traces == other and not np.array_equal(shifted.images, own.images)


def test_perfect_traces_are_right_for_every_prompt():
    jobs = [(p, k) for name in ("geneval_eval", "ta_eval") for p in prompt_set(name) for k in range(2)]
    written = ceilings.perfect_traces(jobs, 2)
    assert all(
        traces.trace_matches(p.meta, traces.parse_trace(text)) for (p, _), text in zip(jobs, written, strict=True)
    )
    assert ceilings.perfect_traces(jobs[1:3], 2) == written[1:3]  # each of a stream of its own
    assert sum(a != b for a, b in zip(written[::2], written[1::2], strict=True)) > len(jobs) / 3  # other scenes


def test_the_perfect_painter_paints_what_is_planned(tmp_path):
    jobs = validation_jobs(1)
    texts = ceilings.perfect_traces(jobs, 5)
    odd = {0: "<think> red circle", 1: None, 2: "<think> red ring center , blue star center </think>"}
    texts = [odd.get(i, text) for i, text in enumerate(texts)]
    about = {"benchmark": "b", "version": "1", "mode": "think", "guidance_name": "tuned", "seed": 2}
    sample_folder.write(tmp_path / "set", jobs, Samples(np.zeros((len(jobs), 4, 4, 3), np.uint8), texts, 9), about)
    made = ceilings.painted(tmp_path / "set", jobs, 48, 2)
    assert made.images.shape == (len(jobs), 48, 48, 3) and made.model_evaluations == 0
    assert (made.images[:3] == scenes.BACKGROUND).all()
    for text, found in zip(texts[3:], inspector.inspect_images(made.images[3:]), strict=True):
        plan = traces.parse_trace(text)
        hits = traces.image_matches_trace(plan, found.detections, 48)
        assert len(found.detections) == len(plan) and all(map(all, hits))
    with pytest.raises(UserError, match="manifest.jsonl: expected the prompts of this study"):
        ceilings.painted(tmp_path / "set", jobs[1:], 48, 2)


def test_a_ceiling_has_the_sets_of_the_run_that_it_bounds(tmp_path, monkeypatch):
    entry = Benchmark(prompts="val", judge="official", images=1)
    far = Benchmark(prompts="five_objects", judge="official", images=1, group="far")
    monkeypatch.setattr(resolve, "benchmarks", lambda: {"held": entry, "far": far})
    run, cfg = tmp_path / "sft", tiny.run_config("sft")
    tiny.model().save(run, {})
    write_json(run / "run.json", {"ema": True})
    sets.sample_sets(tiny.model(), cfg, run, CHOSEN, ["think"], run / "samples")
    sets.sample_sets(tiny.model(), cfg, run, CHOSEN, ["think"], run / "samples_far", "far")
    names = [json.loads((run / each / "done.json").read_text())["sets"] for each in ("samples", "samples_far")]
    assert names == [[f"{each}.think.{name}" for name in ("unguided", "tuned")] for each in ("held", "far")]
    for kind in ("painter", "traces"):
        out = tmp_path / kind / "samples"
        sets.sample_sets(tiny.model(), replace(cfg, run=kind, ceiling=kind), run, CHOSEN, ["think"], out)
        record = json.loads((tmp_path / kind / "run.json").read_text())
        assert (record["run"], record["config"]["ceiling"], record["ema"]) == (kind, kind, True)
        for name in ("unguided", "tuned"):
            mine, theirs = (sample_folder.read(each / f"held.think.{name}") for each in (out, run / "samples"))
            same = [row["trace"] for row in mine.rows] == [row["trace"] for row in theirs.rows]
            assert same == (kind == "painter") and mine.protocol["ceiling"] == kind
            assert mine.protocol["checkpoint"] == theirs.protocol["checkpoint"]
            assert not np.array_equal(mine.images[:], theirs.images[:])
