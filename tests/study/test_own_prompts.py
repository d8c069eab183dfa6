"""Training on a user's own prompts and by a reward of their own: checked when a run is resolved, then trained on."""

from __future__ import annotations

import importlib
import itertools
import json
from pathlib import Path

import pytest
import torch

from tests._support import command, own_rewards, tiny
from unigrpo.core import seeding
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl, write_json
from unigrpo.core.records import Prompt
from unigrpo.core.settings import replace, to_dict
from unigrpo.judges import reward as rewards
from unigrpo.study import resolve
from unigrpo.study.catalogue import load_catalogue
from unigrpo.study.facts import REWARDS
from unigrpo.study.training_inputs import training_pool
from unigrpo.training import reinforcement_run, task
from unigrpo.world.prompts import prompt_set, read_prompts

RING, STARS = {"include": [{"class": "ring", "count": 1}]}, {"include": [{"class": "star", "count": 2}]}
OWN = [
    {"prompt": "a photo of a ring", "tag": "rings"} | RING,
    {"prompt": "a photo of two stars", "tag": "stars"} | STARS,
    {"prompt": "a photo of a red ring", "tag": "rings"} | RING,
    {"prompt": "a photo of two blue stars", "tag": "stars"} | STARS,
    {"prompt": "a photo of a pink ring", "tag": "rings"} | RING,
]


@pytest.fixture
def file(tmp_path):
    """A file of the user's prompts: three rings and two stars."""
    return write(tmp_path / "own.jsonl", OWN)


def own(file, **settings):
    return tiny.run_config(rl=replace(tiny.RL, prompt_file=str(file), **settings))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ---- the pool ----------------------------------------------------------------------------------------------


def test_a_file_takes_the_place_of_the_worlds_prompts(file):
    assert training_pool(tiny.run_config()) == list(prompt_set("train"))
    pool = training_pool(own(file))
    assert pool == read_prompts(file) and [p.text for p in pool] == [row["prompt"] for row in OWN]


def test_rollouts_draw_from_the_pool_and_from_the_world_without_one(file):
    pool = read_prompts(file)
    drawn = [task.draw_prompts(3, index, 4, pool) for index in range(40)]
    for prompts in drawn:  # four distinct ones, two of each tag
        assert sorted(p.tag for p in prompts) == ["rings", "rings", "stars", "stars"] and len({*prompts}) == 4
    assert {p.text for prompts in drawn for p in prompts} == {row["prompt"] for row in OWN}
    assert task.draw_prompts(3, 1, 4) == task.draw_prompts(3, 1, 4, prompt_set("train"))


def plain_draw(seed, index, n, pool):
    """The rule as one says it: the tags in turn from a drawn one, each time any prompt of the tag not drawn before."""
    tags = list(dict.fromkeys(p.tag for p in pool))
    rng = seeding.numpy_generator(seed, "prompts", index)
    first, drawn = int(rng.integers(len(tags))), []
    for i in range(n):
        left = [p for p in pool if p.tag == tags[(first + i) % len(tags)] and p not in drawn]
        drawn.append(left[rng.integers(len(left))])
    return drawn


def test_draws_are_those_of_the_plain_rule_and_read_a_pool_once(file):
    uneven = [Prompt(f"{tag}/{i}", "a ring", tag, {}) for i in range(9) for tag in "abc"[: 3 - i // 4]]
    for pool, n in ((prompt_set("train"), 12), (read_prompts(file), 4), (uneven, 12)):
        for seed, index in itertools.product(range(3), range(20)):
            assert task.draw_prompts(seed, index, n, pool) == plain_draw(seed, index, n, pool)

    class Counted(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    each_its_own = Counted(Prompt(f"{i}", "a ring", f"tag {i}", {}) for i in range(20000))
    assert len({*task.draw_prompts(0, 0, 12, each_its_own)}) == 12 and each_its_own.passes == 1


BAD = {
    "no prompt": ({"text": "a photo of a ring"}, {}, "line 6: expected a JSON object with a non-empty string 'prompt'"),
    "word": ({"prompt": "a photo of a dog"}, {}, "line 6: the word 'dog' is not in this world's vocabulary"),
    "id": ({"prompt": "a photo of a heart", "id": "custom/002"}, {}, "line 6: 'id' 'custom/002' is given twice"),
    "long": ({"prompt": "a ring " * 13}, {}, "line 6: expected at most 24 words for the learned reward, got 26"),
    "verifier": (
        {"prompt": "a photo of a heart"},
        {"reward": "verifier"},
        "line 6: needs 'include', the clauses that verifier judges",
    ),
    "geneval": (
        {"prompt": "a photo of a heart"},
        {"reward": "geneval_score"},
        "line 6: needs 'include', the clauses that",
    ),
    "part": (
        {"prompt": "a photo of a heart"},
        {"reward": "weighted", "reward_options": {"parts": {"a": {"weight": 1, "reward": "geneval_score"}}}},
        "line 6: needs 'include', the clauses that geneval_score judges",
    ),
    "text": ({"prompt": "a photo of a heart"}, {"reward": "ocr"}, "line 1: prompt custom/001: expected a text to rend"),
    "tag": (
        {"prompt": "a photo of a heart", "tag": "hearts"},
        {},
        ": tag 'hearts': expected at least 2 prompts (rl.prompts_per_rollout = 4 over 3 tags), got 1",
    ),
}


@pytest.mark.parametrize("row, settings, message", BAD.values(), ids=BAD)
def test_a_line_that_cannot_be_trained_on_is_named(tmp_path, row, settings, message):
    file = write(tmp_path / "own.jsonl", [*OWN, row])
    with pytest.raises(UserError) as refusal:
        training_pool(own(file, **settings))
    assert str(refusal.value).removeprefix(f"{file}").removeprefix(", ").startswith(message)


def test_a_released_model_reads_any_words(tmp_path):
    file = write(tmp_path / "own.jsonl", [{"prompt": f'a dog with a "No. {n}" sign'} for n in range(4)])
    for reward in ("ocr", "clip_score"):
        with pytest.raises(UserError, match="line 1: the word 'dog' is not in this world's vocabulary"):
            training_pool(own(file, reward=reward))
        assert len(training_pool(replace(own(file, reward=reward), backbone="bagel"))) == 4
    with pytest.raises(UserError, match="expected a file of prompts that ask for a text, which the world's do not"):
        training_pool(tiny.run_config(rl=replace(tiny.RL, reward="ocr")))


def test_what_no_reward_judges_needs_no_clauses_and_may_be_long(tmp_path):
    file = write(tmp_path / "own.jsonl", [{"prompt": "a ring " * 13}] * 4)
    assert len(training_pool(own(file, reward="clip_score"))) == 4


# ---- resolving ---------------------------------------------------------------------------------------------


@pytest.fixture
def resolved(root, tmp_path):
    """resolve(line): the configuration of a run of the catalogue's UniGRPO with these settings."""
    scale = resolve.load_scale(root / "pipelines/scales/smoke.yaml", tiny.DEFAULTS)

    def call(line):
        catalogue = tmp_path / "catalogue.yaml"
        catalogue.write_text(
            "defaults: {method: grpo, regulariser: velocity_mse, reward: learned}\nruns:\n"
            "  base: {evaluate: [yes]}\n  sft: {init: base, evaluate: [yes]}\n"
            f"  own: {{init: sft, train: [image], evaluate: [yes], {line}}}\n"
        )
        return resolve.Study(load_catalogue(catalogue), "smoke", scale).resolve("own")

    return call


def test_both_are_settings_of_a_run(resolved, file):
    rl = resolved(f"prompt_file: {file}, reward: verifier").rl
    assert (rl.prompt_file, rl.reward) == (str(file), "verifier")
    plain = resolved("noise_level: 0.8").rl
    assert (plain.prompt_file, plain.reward) == (None, "learned")


def test_bad_ones_are_met_before_anything_runs(resolved, file):
    with pytest.raises(UserError, match=r"^runs.own.reward: no reward .*'verifer'; did you mean verifier\?$"):
        resolved("reward: verifer")
    with pytest.raises(UserError, match=r"^runs.own.prompt_file: nowhere.jsonl: cannot be read"):
        resolved("prompt_file: nowhere.jsonl")
    with file.open("a") as lines:
        lines.write('{"prompt": ""}\n')
    with pytest.raises(UserError, match=rf"^runs.own.prompt_file: {file}, line 6: expected .* non-empty"):
        resolved(f"prompt_file: {file}")


def test_rewards_are_the_files_that_build_one(monkeypatch, tmp_path):
    names = REWARDS.names()
    assert {"learned", "verifier", "clip_score"} <= set(names) and not {"__init__", "weights", "train_learned"} & {
        *names
    }
    assert all(REWARDS.source(name).exists() for name in names)
    own_rewards.add(monkeypatch, tmp_path, {"mine": "def build():\n    return None\n"})
    assert REWARDS.names() == sorted([*names, "mine"])


# ---- training ----------------------------------------------------------------------------------------------

REDNESS = """
import torch
seen = []
def build():
    def score(images, prompts):
        seen.append((images.clone(), list(prompts)))
        return images[:, 0].mean((1, 2)).float()
    return score
"""


def train_with(monkeypatch, folder, **settings):
    """``unigrpo train`` in ``folder``; returns the rows of its record."""
    rl = replace(tiny.RL, rollouts=2, train=("image",), **settings)
    write_json(folder / "rl.json", to_dict(tiny.run_config("rl", rl=rl)))
    monkeypatch.chdir(folder)
    command.unigrpo("train --config rl.json --init init --decoding decoding.json --out out")
    return [row for _, row in read_jsonl(folder / "out/metrics.jsonl")]


def test_a_run_is_trained_by_a_reward_of_ones_own_on_ones_own_prompts(tmp_path, file, monkeypatch):
    """A file in rewards/ and a file of prompts are all that is needed; no learned reward is asked for."""
    tiny.write_start(tmp_path)
    own_rewards.add(monkeypatch, tmp_path / "own", {"redness": REDNESS})
    rows = train_with(monkeypatch, tmp_path, reward="redness", prompt_file="own.jsonl")
    seen = importlib.import_module("rewards.redness").seen
    rollouts = [(images, prompts) for images, prompts in seen if prompts[0].id.startswith("custom/")]
    assert [len(prompts) for _, prompts in rollouts] == [12, 12]
    assert {p.text for _, prompts in rollouts for p in prompts} <= {row["prompt"] for row in OWN}
    recorded = [row["proxy"] for row in rows if row["kind"] == "train"]
    assert recorded == pytest.approx([images[:, 0].mean().item() for images, _ in rollouts], abs=1e-5)
    judged = [prompts for _, prompts in seen if prompts[0].id.startswith("val/")]
    assert len(judged) == sum(row["kind"] == "validation" for row in rows) == 2  # validation keeps the world's prompts
    assert not torch.equal(rollouts[0][0], rollouts[1][0])


def test_a_run_is_trained_by_the_verifier(tmp_path, file, monkeypatch):
    tiny.write_start(tmp_path)
    rows = train_with(monkeypatch, tmp_path, reward="verifier", prompt_file="own.jsonl")
    assert [row["kind"] for row in rows] == ["validation", "train", "train", "validation"]
    assert all(0 <= row["proxy"] <= 1 for row in rows)


def test_the_learned_reward_must_be_given(tmp_path, monkeypatch):
    tiny.write_start(tmp_path)
    with pytest.raises(UserError, match=r"^--reward: expected the folder of the learned reward \(rl.reward: learned\)"):
        train_with(monkeypatch, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_reward_that_needs_options_says_so():
    with pytest.raises(UserError, match="^reward learned: path: missing$"):
        rewards.load("learned")


def test_what_decides_a_run_are_its_inputs(tmp_path, file, monkeypatch):
    """A run is resumed only where reward and prompts are still the same; of a reward without weights the code is
    recorded."""
    options, source = task.reward_source("verifier", None)
    assert options == {} and source.name == "verifier.py"
    options, source = task.reward_source("learned", tmp_path)
    assert options["path"] == tmp_path and source == tmp_path / "model.safetensors"
    given = {}
    monkeypatch.setattr(reinforcement_run, "train", lambda *arguments, **words: given.update(arguments[5]))
    tiny.write_start(tmp_path)
    with pytest.raises(UserError, match="metrics.jsonl"):  # nothing was trained
        train_with(monkeypatch, tmp_path, reward="verifier", prompt_file="own.jsonl")
    assert given == {"decoding": Path("decoding.json"), "prompt_file": Path("own.jsonl")}
