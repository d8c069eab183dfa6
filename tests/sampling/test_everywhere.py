"""Steps that sample a model run in all processes and in the precision of the run: two make what one makes."""

from __future__ import annotations

import copy
import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState

from tests._support import command, tiny
from unigrpo.core import distributed
from unigrpo.core.files import write_json
from unigrpo.core.settings import replace, to_dict
from unigrpo.sampling import sample_folder
from unigrpo.sampling.engine import Decoding, sample
from unigrpo.sampling.validation_set import validation_jobs
from unigrpo.training import launch

STEPS = {
    "tune": "--model {init} --out {out}/decoding.json",
    "reward-data": "--init {init} --out {out}/data",
    "sample-sets": "--model {init} --decoding {init}/../decoding.json --mode think --mode direct --out {out}/sets",
}
TWO = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, root):
    """What each step makes in one process and in two."""
    folder = tmp_path_factory.mktemp("steps")
    tiny.write_start(folder)
    write_json(folder / "init" / "run.json", {"ema": True})
    cfg = tiny.run_config("sft", processes=2)
    sampling = replace(cfg.sampling, guidance_grid=(1.0, 2.0), temperature_grid=(1.0, 0.5), memory=1)
    write_json(folder / "run.json", to_dict(replace(cfg, sampling=sampling)))
    paths = os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}", "OMP_NUM_THREADS": "1"}
    for name, options in STEPS.items():
        made = {n: options.format(init=folder / "init", out=folder / n) for n in ("one", "two")}
        call = f"{name} --config {folder / 'run.json'} "
        started = [sys.executable, "-m", "accelerate.commands.launch", *TWO.split(), "-m", "unigrpo"]
        both = subprocess.Popen(started + shlex.split(call + made["two"]), env=paths, cwd=root, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        command.unigrpo(call + made["one"])
        said, _ = both.communicate()
        assert both.returncode == 0, said[-3000:]
    return folder


def close(one, two):
    """Equal but for rounding: pixels within a level of 256."""
    assert one.shape == two.shape
    assert np.abs(one.astype(int) - two).max() <= 1


@pytest.mark.slow
def test_the_choice_of_decoding_is_the_same(folder):
    one, two = (json.loads((folder / n / "decoding.json").read_text()) for n in ("one", "two"))
    assert {k: v for k, v in one.items() if k != "grid"} == {k: v for k, v in two.items() if k != "grid"}
    for a, b in zip(one["grid"], two["grid"], strict=True):
        assert a.pop("gold_by_prompt") == pytest.approx(b.pop("gold_by_prompt"), abs=2e-3)
        assert a == pytest.approx(b, abs=2e-3)


@pytest.mark.slow
def test_samples_are_the_same_and_in_order(folder):
    sets = [path.parent.relative_to(folder / "one") for path in sorted((folder / "one").rglob("manifest.jsonl"))]
    assert len(sets) == 9  # the reward's data; two benchmarks, two modes, two guidances
    for name in sets:
        one, two = (sample_folder.read(folder / n / name) for n in ("one", "two"))
        assert (one.rows, one.protocol) == (two.rows, two.protocol)
        close(one.images[:], two.images[:])
    done = [json.loads((folder / n / "sets" / "done.json").read_text()) for n in ("one", "two")]
    assert done[0]["sets"] == done[1]["sets"]  # digests are of pixels, which round otherwise


@pytest.mark.parametrize("jobs", [0, 1, 5])
def test_shares_come_together_in_order(monkeypatch, jobs):
    """Three processes, one after the other; some have fewer parts than others, or none."""
    everything = [f"job {i}" for i in range(jobs)]
    monkeypatch.setattr(distributed, "count", lambda: 3)
    shares, gathered = [], []
    for which in range(3):
        monkeypatch.setattr(distributed, "rank", lambda which=which: which)
        shares.append(distributed.share(everything))
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    monkeypatch.setattr(distributed, "collect", lambda items: [len(s) for s in shares])
    monkeypatch.setattr(distributed, "_over_hosts", lambda world: None)

    def gather(item, row, group):
        row[:] = [s[len(gathered) : len(gathered) + 1] for s in shares]
        gathered.append(item)

    monkeypatch.setattr(torch.distributed, "gather_object", gather)
    assert distributed.collect_in_main(shares[0]) == everything
    assert all(len(item) <= 1 for item in gathered)  # a part at a time


def test_weights_held_in_half_precision_sample_what_autocast_samples(tmp_path):
    """To the bit, and no weight is cast any more."""
    exact, jobs = copy.deepcopy(tiny.model()), validation_jobs(1)[::16]
    settings, decoding = tiny.run_config().sampling, Decoding(True, 2.0, 0.7)
    with torch.autocast("cpu", torch.bfloat16):
        expected = sample(exact, jobs, settings, decoding, 1)
        launch.hold(exact, torch.bfloat16)
        held = sample(exact, jobs, settings, decoding, 1)
    assert held.traces == expected.traces and np.array_equal(held.images, expected.images)
    kinds = {name: p.dtype for name, p in exact.mot.named_parameters()}
    assert {kind for name, kind in kinds.items() if "_proj" in name or "head" in name} == {torch.bfloat16}
    assert {kind for name, kind in kinds.items() if "norm" in name or "embed_tokens" in name} == {torch.float32}
    assert not np.array_equal(expected.images, sample(tiny.model(), jobs, settings, decoding, 1).images)


def test_a_step_samples_in_the_precision_of_its_run(tmp_path):
    tiny.model().save(tmp_path, {})
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps the precision of its first use
    with launch.sampler(tiny.run_config("sft", precision="bf16"), tmp_path) as model:
        assert torch.is_autocast_enabled("cpu") and model.mot.llm2vae.weight.dtype == torch.bfloat16
    AcceleratorState._reset_state(reset_partial_state=True)
