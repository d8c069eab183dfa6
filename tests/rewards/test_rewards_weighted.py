"""Weighted sums, and how a run's line configures its reward: checked when it is read, recorded part by part."""

import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch

from tests._support import command, own_rewards, tiny
from tests._support.published import PROMPTS, images
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl, write_json
from unigrpo.core.settings import annotations, replace, to_dict
from unigrpo.judges import reward as rewards
from unigrpo.study import resolve
from unigrpo.study.catalogue import load_catalogue
from unigrpo.study.config import rl_config
from unigrpo.study.facts import REWARDS
from unigrpo.study.training_inputs import check_reward, named_files
from unigrpo.training import learner, task

OWN = {
    "red": "def build(gain: float = 1.0):\n    return lambda images, prompts: gain * images[:, 0].mean((1, 2))\n",
    "length": (
        "import torch\ndef build():\n"
        "    return lambda images, prompts: torch.tensor([float(len(p.text)) for p in prompts])\n"
    ),
    "lost": "def build():\n    return lambda images, prompts: images.mean((1, 2, 3)) * float('nan')\n",
    "strict": "def build(place, *, kind='a', **more):\n    return lambda images, prompts: images.mean((1, 2, 3))\n",
    "broken": "def build():\n    return (\n",
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Rewards of one's own, beside the shipped ones."""
    own_rewards.add(monkeypatch, tmp_path / "own", OWN, differentiable=("red",))


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
    with pytest.raises(UserError, match=r"^reward weighted: sample 0 \(p/0, 'a red cat'\): lost: expected a finite"):
        reward(images(), PROMPTS)


# ---- configuration -----------------------------------------------------------------------------------------

PARTS = "rl.reward_options.parts"
WRONG_PARTS = {
    "none": ({}, f"{PARTS}: expected a mapping of one or more parts"),
    "a list": ([1], f"{PARTS}: expected a mapping, got [1]"),
    "no weight": ({"red": {}}, f"{PARTS}.red.weight: missing"),
    "misspelt": ({"red": {"wieght": 1}}, f"{PARTS}.red.wieght: unknown key; did you mean weight?"),
    "text": ({"red": {"weight": "a lot"}}, f"{PARTS}.red.weight: expected a number, got 'a lot'"),
    "no spread": ({"red": {"weight": 1, "spread": 0}}, f"{PARTS}.red.spread: expected more than 0, got 0"),
    "not a part": ({"red": 2}, f"{PARTS}.red: expected a mapping, got 2"),
    "a taken name": ({"std": {"weight": 1}}, f"{PARTS}.std: expected a name of letters"),
    "no name": ({"a b": {"weight": 1}}, f"{PARTS}.a b: expected a name of letters"),
}


@pytest.mark.parametrize("parts, message", WRONG_PARTS.values(), ids=WRONG_PARTS)
def test_wrong_parts_are_named(own, parts, message):
    with pytest.raises(UserError) as error:
        check_reward("weighted", {"parts": parts}, "rl.reward", "rl.reward_options")
    assert str(error.value).startswith(message)


@pytest.fixture
def resolved(root, tmp_path):
    """The reinforcement settings of a run with this line."""

    def call(line):
        catalogue = tmp_path / "catalogue.yaml"
        catalogue.write_text(
            f"defaults: {json.dumps(tiny.DEFAULTS)}\nruns:\n  base: {{evaluate: [yes]}}\n"
            f"  sft: {{init: base, evaluate: [yes]}}\n  own: {{init: sft, train: [image], evaluate: [yes], {line}}}\n"
        )
        scale = resolve.load_scale(root / "pipelines/scales/smoke.yaml", tiny.DEFAULTS)
        return resolve.Study(load_catalogue(catalogue), "smoke", scale).resolve("own").rl

    return call


def test_options_stand_in_a_runs_line(own, resolved):
    rl = resolved("reward: red, reward_options: {gain: 2}")
    assert rl.reward_options == {"gain": 2} and resolved("reward: red").reward_options == {}
    assert rl_config(**to_dict(rl)) == rl
    assert resolved("reward: strict, reward_options: {place: here, anything: 1}").reward_options["anything"] == 1
    line = "reward: weighted, reward_options: {parts: {red: {weight: 1}, ink: {weight: 0.1, reward: jpeg}}}"
    assert list(resolved(line).reward_options["parts"]) == ["red", "ink"]


WRONG = {
    "reward: red, reward_options: {gian: 2}": "reward_options.gian: unknown option; did you mean gain?",
    "reward: red, reward_options: {gain: big}": "reward_options.gain: expected a number, got 'big'",
    "reward: red, reward_options: 3": "reward_options: expected a mapping, got 3",
    "reward: strict": "reward_options.place: missing",
    "reward: broken": "broken.py, line 4: not Python",
    "reward: weighted": "reward_options.parts: missing",
    "reward: weighted, reward_options: {parts: {blue: {weight: 1}}}": "parts.blue.reward: no reward is called 'blue'",
    "reward: weighted, reward_options: {parts: {red: {weight: 1, options: {gian: 1}}}}": (
        "reward_options.parts.red.options.gian: unknown option; did you mean gain?"
    ),
    "reward: weighted, reward_options: {parts: {learned: {weight: 1}}}": (
        "reward_options.parts.learned.options.path: missing"
    ),
    "reward: learned, reward_options: {path: nowhere}": "reward_options.path: expected the path of a file or folder",
    "reward: learned, reward_options: {device: gpu}": "reward_options.device: expected auto, cpu, cuda or cuda",
    "reward: learned, reward_options: {device: 'cuda:x'}": "reward_options.device: expected auto, cpu, cuda or cuda",
    "reward: jpeg, reward_options: {quality: 96}": "reward_options.quality: expected at most 95, got 96",
    "reward: jpeg, reward_options: {quality: 9.5}": "reward_options.quality: expected a whole number, got 9.5",
    "reward: pickscore, reward_options: {weights: ./none}": "reward_options.weights: expected a file or folder that is",
    "reward: pickscore, reward_options: {batch_size: 0}": "reward_options.batch_size: expected at least 1, got 0",
}
ENDPOINT = {  # options of vlm_endpoint beside url and model
    "url: 'localhost:8000/v1'": "reward_options.url: expected a URL, http:// or https:// with a host",
    "url: 'http:///v1'": "reward_options.url: expected a URL, http:// or https:// with a host",
    "url: 'http://x:port/v1'": "reward_options.url: expected a URL, http:// or https:// with a host",
    "url: 8000": "reward_options.url: expected text, got 8000",
    "timeout: 0": "reward_options.timeout: expected more than 0, got 0",
    "timeout: .inf": "reward_options.timeout: expected a finite number, got inf",
    "timeout: soon": "reward_options.timeout: expected a number, got 'soon'",
    "attempts: 0": "reward_options.attempts: expected at least 1, got 0",
    "attempts: 2.5": "reward_options.attempts: expected a whole number, got 2.5",
    "attempts: true": "reward_options.attempts: expected a whole number, got True",
    "answer: ratng": "reward_options.answer: expected 'yes', 'word' or 'rating', got 'ratng'; did you mean rating?",
    "question: Is it good?": "reward_options.question: expected a text that holds {prompt}",
    "timeuot: 3": "reward_options.timeuot: unknown option; did you mean timeout?",
}
WRONG |= {
    f"reward: vlm_endpoint, reward_options: {{model: m, {'' if 'url' in line else 'url: http://x/v1, '}{line}}}": said
    for line, said in ENDPOINT.items()
}


@pytest.mark.parametrize("line, message", WRONG.items())
def test_wrong_options_are_met_before_anything_runs(own, resolved, line, message):
    with pytest.raises(UserError) as error:
        resolved(line)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_every_shipped_option_has_a_type():
    for name in REWARDS.names():
        assert Any not in annotations(REWARDS.load(name).build).values(), name


# ---- a file in a copy of the project -----------------------------------------------------------------------

WARMTH = """
import torch
from unigrpo.core.settings import Positive
from unigrpo.study.facts import RewardFacts

FACTS = RewardFacts(what="red minus blue", differentiable=True)


def build(gain: Positive = 1.0):
    return lambda images, prompts: gain * (images[:, 0] - images[:, 2]).mean((1, 2))
"""
USE = """
import torch
from unigrpo.core.records import Prompt
from unigrpo.judges import reward
from unigrpo.study.resolve import chosen_run

rl = chosen_run("smoke", "mine", 0, None)[1].rl
score = reward.load(rl.reward, **rl.reward_options)
print(score(torch.ones(1, 3, 8, 8) * torch.tensor([1.0, 0, 0.25]).view(3, 1, 1), [Prompt("p", "x", "", {})]).item())
"""


@pytest.mark.slow
def test_a_reward_of_one_s_own_is_one_file(root, tmp_path):
    """In a copy of the project, with torch at its top: found, checked and used; under another name too."""
    for name in ("src", "rewards", "evals", "pipelines"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    catalogue, written = tmp_path / "pipelines/experiments.yaml", (root / "pipelines/experiments.yaml").read_text()
    variables = os.environ | {"PYTHONPATH": f"{tmp_path / 'src'}{os.pathsep}{tmp_path}"}

    def use(reward, gain):
        line = f"  mine: {{like: unigrpo, reward: {reward}, reward_options: {{gain: {gain}}}}}\n"
        catalogue.write_text(written.replace("runs:\n", f"runs:\n{line}", 1))
        return subprocess.run([sys.executable, "-c", USE], env=variables, cwd=tmp_path, capture_output=True, text=True)

    (tmp_path / "rewards/warmth.py").write_text(WARMTH)
    assert use("warmth", 2).stdout == "1.5\n"
    assert "runs.mine.reward_options.gain: expected more than 0, got -2" in use("warmth", -2).stderr
    (tmp_path / "rewards/warmth.py").rename(tmp_path / "rewards/glow.py")
    assert use("glow", 4).stdout == "3.0\n"
    assert "runs.mine.reward: no reward is called 'warmth'" in use("warmth", 2).stderr


# ---- training ----------------------------------------------------------------------------------------------


@pytest.mark.slow
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
    found = named_files(json.loads(json.dumps(options)))
    assert [path.name for path in found] == ["head.pth", "a.safetensors", "b.json"]
    assert named_files({"question": "Is it so? " * 100, "odd": "a\0b", "n": 3}) == []
    assert task.reward_source("jpeg", None, {"quality": 50}) == ({"quality": 50}, REWARDS.source("jpeg"))
    own, source = task.reward_source("learned", tmp_path, {"path": str(tmp_path / "clip"), "device": "cpu"})
    assert own == {"path": tmp_path / "clip", "device": "cpu"} and source.parent == tmp_path / "clip"
