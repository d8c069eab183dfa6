"""Shipped starts: what fits is laid out and counts as done, and no wrong start comes in silently."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json, write_json, write_text
from unigrpo.study import resolve, standing, starts

RESULTS = Path("results/smoke")
BASE = f"{RESULTS}/runs/base/seed0/model.safetensors"
SFT = f"{RESULTS}/runs/sft/seed{{}}/model.safetensors"
DATA = f"{RESULTS}/starts/seed{{}}/reward_data/images.npy"
REWARD = f"{RESULTS}/starts/seed{{}}/reward/model.safetensors"
DECODING = f"{RESULTS}/starts/seed{{}}/decoding.json"
RESTS_ON = {SFT: BASE, DATA: SFT, REWARD: DATA, DECODING: SFT}
STEP = {SFT: "sft.sft.{}", DATA: "reward_data.{}", REWARD: "reward.{}", DECODING: "tune.{}"}


def study(**changes) -> resolve.Study:
    """Scale smoke with two replicates, and with some of SFT's settings changed."""
    chosen = resolve.chosen_study("smoke")
    return replace(chosen, scale=chosen.scale | {"seeds": 2, "sft": chosen.scale["sft"] | changes})


def record(step: str) -> Path:
    return RESULTS / f"steps/{step}.jsonl"


def make(step: str, output: str, *inputs: str, content: str = "made", code=None) -> None:
    """The output of a step and its record, as the workflow leaves them."""
    write_text(Path(output), f"{content} {step}")
    if output.endswith("model.safetensors"):
        write_json(Path(output).with_name("run.json"), {"step": step})
    outputs = [output, *map(str, Path(output).parent.glob("run.json"))]
    made = {"settings": json.loads(json.dumps(standing.settings_of(step, study()))), "code": code or {}}
    made |= {"inputs": {p: standing.content(p) for p in inputs}, "outputs": {p: standing.content(p) for p in outputs}}
    write_text(record(step), json.dumps({"step": step, "seconds": 9, "made": made}) + "\n")


def make_all(**options) -> None:
    make("pretrain.base.0", BASE, **options)
    for k in (0, 1):
        for output, rests_on in RESTS_ON.items():
            make(STEP[output].format(k), output.format(k), rests_on.format(k), **options)


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A fresh clone: starts of two replicates are shipped, results are empty."""
    monkeypatch.chdir(tmp_path)
    make_all()
    said = list(starts.ship(study()))
    assert sum("shipped, " in line for line in said) == 9 and said.count("weak_reward.0: not there") == 1
    RESULTS.rename("made")


def counting() -> set[str]:
    """Steps that count as done now."""
    found = {path.stem: standing.read(path) for path in RESULTS.glob("steps/*.jsonl")}
    return {step for step, made in found.items() if not standing.differences(made, standing.settings_of(step, study()))}


ALL = {"pretrain.base.0", *(step.format(k) for step in STEP.values() for k in (0, 1))}


def test_what_is_shipped_counts_as_done_with_its_files_but_for_the_rewards_data(shipped):
    starts.lay_out(study())
    assert counting() == ALL
    files = [BASE, *(output.format(k) for output in (SFT, REWARD, DECODING) for k in (0, 1))]
    assert all(Path(path).read_bytes() == Path("made", *Path(path).parts[2:]).read_bytes() for path in files)
    assert not Path(DATA.format(0)).exists() and Path("assets/starts/seed1/sft/model.safetensors").exists()
    starts.lay_out(study())
    assert counting() == ALL and standing.damaged(RESULTS) == {}


def test_another_setting_of_sft_is_named_and_what_rests_on_it_counts_no_more(shipped, capsys):
    starts.lay_out(study())
    starts.lay_out(study(lr=5e-4))
    assert capsys.readouterr().err == "not as shipped, made here: sft.sft.0, sft.sft.1: supervised.lr\n"
    assert counting() == {"pretrain.base.0"}
    starts.lay_out(study())
    assert counting() == ALL


def test_a_parent_that_was_made_here_and_differs_leaves_no_start_that_rests_on_it(shipped):
    starts.lay_out(study())
    make("sft.sft.1", SFT.format(1), BASE, content="other")
    starts.lay_out(study())
    assert counting() == ALL - {step.format(1) for step in STEP.values()} | {"sft.sft.1"}


def test_the_rewards_data_may_be_drawn_anew_for_another_reward_and_round_otherwise(shipped):
    starts.lay_out(study())
    make("reward_data.0", DATA.format(0), SFT.format(0), content="rounded")
    starts.lay_out(study())
    assert counting() == ALL and standing.read(record("reward.0"))["shipped"]


def test_other_code_makes_a_start_anew_only_where_starts_are_trained(shipped):
    path = starts.STEPS / "sft.sft.0.jsonl"
    row = read_json(path)
    row["made"]["code"] = {"unigrpo.world.render": "another"}
    write_text(path, json.dumps(row) + "\n")
    starts.lay_out(study())
    assert counting() == ALL
    starts.lay_out(study(), anew=True)
    assert counting() == ALL - {step.format(0) for step in STEP.values()}


@pytest.mark.parametrize("name", ["base/model.safetensors", "starts/seed1/decoding.json", "starts/seed0/sft/run.json"])
def test_a_shipped_file_that_was_changed_is_refused_by_name(shipped, name):
    write_text(starts.ASSETS / name, "edited")
    with pytest.raises(UserError, match=f"^assets/{name}: is not the file that was shipped"):
        starts.lay_out(study())


def test_what_is_shipped_for_one_scale_is_none_of_anothers(shipped):
    starts.lay_out(replace(study(), scale_name="other"))
    assert not Path("results/other").exists()


def test_what_is_out_of_date_is_not_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_all()
    with pytest.raises(UserError, match=r"^sft.sft.0: is out of date \(supervised.lr\)"):
        list(starts.ship(study(lr=5e-4)))
