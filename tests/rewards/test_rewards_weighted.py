"""Weighted sums, and how a run's line configures its reward: checked when it is read, recorded part by part."""

import importlib
import json
import sys

import pytest
import torch

from unigrpo.judges import reward as rewards
from tests._support import command, tiny
from tests._support.published import PROMPTS, images
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl, write_json
from unigrpo.core.settings import from_dict, replace, to_dict
from unigrpo.study import resolve
from unigrpo.study.catalogue import load_catalogue
from unigrpo.study.config import RLConfig
from unigrpo.study.facts import REWARDS
from unigrpo.study.reward_options import reward_parts
from unigrpo.training import learner, task

OWN = {
    "red": (
        "DIFFERENTIABLE = True\ndef build(gain: float = 1.0):\n"
        "    return lambda images, prompts: gain * images[:, 0].mean((1, 2))\n"
    ),
    "length": (
        "import torch\ndef build():\n"
        "    return lambda images, prompts: torch.tensor([float(len(p.text)) for p in prompts])\n"
    ),
    "lost": "def build():\n    return lambda images, prompts: images.mean((1, 2, 3)) * float('nan')\n",
    "strict": "def build(place, *, kind='a', **more):\n    return lambda images, prompts: images.mean((1, 2, 3))\n",
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of rewards of one's own, beside the shipped ones."""
    folder = tmp_path / "own"
    folder.mkdir()
    for name, text in OWN.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(rewards, "__path__", [*rewards.__path__, str(folder)])
    importlib.invalidate_caches()
    yield folder
    for name in OWN:
        sys.modules.pop(f"rewards.{name}", None)
        if hasattr(rewards, name):
            delattr(rewards, name)


@pytest.fixture
def known(own, monkeypatch):
    """The same, where configurations look them up, with the sum among them."""
    for name in ("weighted", "learned", "jpeg"):
        (own / f"{name}.py").write_text(REWARDS.source(name).read_text())
    (own / "broken.py").write_text("def build():\n    return (\n")
    monkeypatch.setattr(resolve, "REWARDS", own)
    return own


def weighted(**options):
    return rewards.load("weighted", **options)


def test_the_sum_is_its_definition(own):
    parts = {
        "red": {"weight": 2.0, "centre": 0.25, "spread": 0.5},
        "bright": {"weight": -1, "reward": "red", "options": {"gain": 3.0}},
        "length": {"weight": 0.1},
    }
    reward, pictures = weighted(parts=parts), images()
    means = pictures[:, 0].mean((1, 2))
    lengths = torch.tensor([float(len(p.text)) for p in PROMPTS])
    assert torch.allclose(reward(pictures, PROMPTS), 2 * (means - 0.25) / 0.5 - 3 * means + 0.1 * lengths, atol=1e-6)
    assert list(reward.parts) == ["red", "bright", "length"]
    assert torch.allclose(reward.parts["red"], means) and torch.allclose(reward.parts["bright"], 3 * means)
    assert torch.equal(reward.parts["length"], lengths)
    assert rewards.load("red").parts == {}


def test_normalised_parts_have_no_units(own):
    parts = {"red": {"weight": 1.0}, "length": {"weight": 1.0}}
    pictures = images(5)
    prompts = [*PROMPTS, *PROMPTS[:2]]
    plain = weighted(parts=parts, normalise="batch")(pictures, prompts)
    scaled = weighted(parts=parts | {"red": {"weight": 1.0, "options": {"gain": 1e4}}}, normalise="batch")
    assert torch.allclose(scaled(pictures, prompts), plain, atol=1e-4)
    assert plain.mean().item() == pytest.approx(0, abs=1e-6)
    one = weighted(parts={"red": {"weight": 3.0}}, normalise="batch")(pictures, prompts)
    assert one.std(correction=0).item() == pytest.approx(3, rel=1e-5)
    even = weighted(parts={"length": {"weight": 1.0}, "red": {"weight": 1.0}}, normalise="batch")
    same = even(pictures, [PROMPTS[0]] * 5)
    assert torch.allclose(same, one / 3, atol=1e-6)  # a part that is the same for all adds nothing


def test_a_sum_has_a_gradient_where_all_of_its_parts_have(own):
    both = {"red": {"weight": 2.0}, "bright": {"weight": 1.0, "reward": "red"}}
    for normalise in ("none", "batch"):
        reward = weighted(parts=both, normalise=normalise)
        x = images().requires_grad_()
        reward(x, PROMPTS).sum().backward()
        assert reward.differentiable and x.grad[:, 0].min() > 0 and not reward.parts["red"].requires_grad
    assert not weighted(parts=both | {"length": {"weight": 1.0}}).differentiable


def test_a_part_that_is_not_finite_is_named(own):
    reward = weighted(parts={"red": {"weight": 1.0}, "lost": {"weight": 0.0}})
    with pytest.raises(UserError, match=r"^reward lost: sample 0 \(p/0, 'a red cat'\): expected a finite score"):
        reward(images(), PROMPTS)


# ---- configuration -----------------------------------------------------------------------------------------

PARTS = "rl.reward_options.parts"
WRONG_PARTS = {
    "none": ({}, f"{PARTS}: expected a mapping of one or more parts"),
    "a list": ([1], f"{PARTS}: expected a mapping of one or more parts"),
    "no weight": ({"red": {}}, f"{PARTS}.red.weight: missing, expected a number"),
    "misspelt": ({"red": {"wieght": 1}}, f"{PARTS}.red.wieght: unknown key; did you mean {PARTS}.red.weight?"),
    "text": ({"red": {"weight": "a lot"}}, f"{PARTS}.red.weight: expected a number, got 'a lot'"),
    "no spread": ({"red": {"weight": 1, "spread": 0}}, f"{PARTS}.red.spread: expected more than 0, got 0.0"),
    "not a part": ({"red": 2}, f"{PARTS}.red: expected a mapping, got int"),
    "a taken name": ({"std": {"weight": 1}}, f"{PARTS}.std: expected a name of letters"),
    "no name": ({"a b": {"weight": 1}}, f"{PARTS}.a b: expected a name of letters"),
}


@pytest.mark.parametrize("parts, message", WRONG_PARTS.values(), ids=WRONG_PARTS)
def test_wrong_parts_are_named(parts, message):
    with pytest.raises(UserError) as error:
        reward_parts(parts, PARTS)
    assert str(error.value).startswith(message)


@pytest.fixture
def resolved(root, tmp_path):
    """The reinforcement settings of a run with this line."""

    def call(line):
        catalogue = tmp_path / "catalogue.yaml"
        catalogue.write_text(
            "runs:\n  base: {evaluate: [yes]}\n  sft: {init: base, evaluate: [yes]}\n"
            f"  own: {{init: sft, train: [image], evaluate: [yes], {line}}}\n"
        )
        scale = resolve.load_scale(root / "pipelines/scales/smoke.yaml")
        return resolve.resolve(load_catalogue(catalogue), scale, "smoke", "own", 0).rl

    return call


def test_options_stand_in_a_runs_line(known, resolved):
    rl = resolved("reward: red, reward_options: {gain: 2}")
    assert rl.reward_options == {"gain": 2} and resolved("reward: red").reward_options == {}
    assert from_dict(RLConfig, to_dict(rl)) == rl
    assert resolved("reward: strict, reward_options: {place: here, anything: 1}").reward_options["anything"] == 1
    line = "reward: weighted, reward_options: {parts: {red: {weight: 1}, ink: {weight: 0.1, reward: jpeg}}}"
    assert list(resolved(line).reward_options["parts"]) == ["red", "ink"]


UNUSABLE = {
    "reward: red, reward_options: {gian: 2}": "runs.own.reward_options.gian: not an option of the reward red; did",
    "reward: red, reward_options: 3": "runs.own.reward_options: expected object, got 3",
    "reward: strict": "runs.own.reward_options.place: missing, the reward strict needs it",
    "reward: broken": "broken.py, line 2: not Python",
    "reward: weighted": "runs.own.reward_options.parts: missing, the reward weighted needs it",
    "reward: weighted, reward_options: {parts: {blue: {weight: 1}}}": (
        "runs.own.reward_options.parts.blue.reward: no reward of this name in rewards/: 'blue'"
    ),
    "reward: weighted, reward_options: {parts: {red: {weight: 1, options: {gian: 1}}}}": (
        "runs.own.reward_options.parts.red.options.gian: not an option of the reward red"
    ),
    "reward: weighted, reward_options: {parts: {learned: {weight: 1}}}": (
        "runs.own.reward_options.parts.learned.options.path: missing, the reward learned needs it"
    ),
    "reward: weighted, reward_options: {parts: {red: {}}}": "runs.own.reward_options.parts.red.weight: missing",
}


@pytest.mark.parametrize("line, message", UNUSABLE.items(), ids=range(len(UNUSABLE)))
def test_wrong_options_are_met_before_anything_runs(known, resolved, line, message):
    with pytest.raises(UserError) as error:
        resolved(line)
    assert message in str(error.value)


def test_every_shipped_reward_can_be_configured():
    """What is read off a file is what its build takes."""
    import inspect

    for name in REWARDS.names():
        needed, taken = resolve._options_of(REWARDS.source(name).read_text(), REWARDS.source(name))
        signature = inspect.signature(importlib.import_module(f"rewards.{name}").build)
        assert taken == list(signature.parameters), name
        assert needed == [p.name for p in signature.parameters.values() if p.default is p.empty], name


# ---- training ----------------------------------------------------------------------------------------------


def test_a_run_records_the_parts(own, tmp_path, monkeypatch):
    options = {"parts": {"red": {"weight": 2.0}, "length": {"weight": 0.01}}}
    rl = replace(tiny.RL, rollouts=1, train=("image",), reward="weighted", reward_options=options)
    tiny.write_start(tmp_path)
    write_json(tmp_path / "rl.json", to_dict(tiny.run_config("rl", rl=rl)))
    monkeypatch.chdir(tmp_path)
    command.unigrpo("train --config rl.json --init init --decoding decoding.json --out out")
    (row,) = [row for _, row in read_jsonl("out/metrics.jsonl") if row["kind"] == "train"]
    assert row["proxy"] == pytest.approx(2 * row["reward_red"] + 0.01 * row["reward_length"], abs=1e-4)
    assert 0 < row["reward_red"] < 1 and row["reward_length"] > 5


def test_refl_refuses_a_sum_with_a_part_that_has_no_gradient(own):
    refl = {"method": "refl", "train": ("image",), "same_noise": False}
    cfg = tiny.run_config("rl", rl=replace(tiny.RL, **refl))
    reward = weighted(parts={"red": {"weight": 1.0}, "length": {"weight": 1.0}})
    with pytest.raises(UserError, match="refl needs a differentiable reward, the reward weighted is not"):
        learner.networks(cfg, tiny.model(), reward)


def test_local_files_of_the_options_decide_a_run(tmp_path):
    """By what they hold: a run is not resumed with others of the same names."""
    (tmp_path / "head.pth").write_text("1")
    (tmp_path / "clip").mkdir()
    for name in ("b.json", "a.safetensors"):
        (tmp_path / "clip" / name).write_text(name)
    options = {
        "parts": {
            "aesthetic": {
                "weight": 1.0,
                "options": {"weights": str(tmp_path / "head.pth"), "clip_weights": str(tmp_path / "clip")},
            }
        },
        "url": "http://nowhere",
    }
    found = rewards.inputs(json.loads(json.dumps(options)))
    assert [path.name for path in found] == ["head.pth", "a.safetensors", "b.json"]
    assert rewards.inputs({"question": "Is it so? " * 100, "odd": "a\0b", "n": 3}) == []
    assert task.reward_source("jpeg", None, {"quality": 50}) == ({"quality": 50}, REWARDS.source("jpeg"))
    own, source = task.reward_source("learned", tmp_path, {"path": str(tmp_path / "clip"), "device": "cpu"})
    assert own == {"path": tmp_path / "clip", "device": "cpu"} and source.parent == tmp_path / "clip"
