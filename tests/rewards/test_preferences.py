"""The simulated annotator, and the reward that learns from its answers about pairs."""

import json
from collections import Counter

import numpy as np
import pytest
import torch

from rewards._support import learned_model, learned_training, preferences
from tests._support import tiny
from tests._support.command import unigrpo
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json
from unigrpo.core.settings import from_dict, to_dict
from unigrpo.judges import reward as rewards
from unigrpo.sampling import sample_folder
from unigrpo.sampling.engine import Samples
from unigrpo.study.config import Annotator, RewardConfig
from unigrpo.world.gold import Judgement
from unigrpo.world.prompts import prompt_set
from unigrpo.world.render import render
from unigrpo.world.traces import Imperfection, annotate


def answers(gold, objects, bias=0.0, noise=0.0, seed=0):
    verdicts = [Judgement(g == 1, g, g, (), 0) for g in gold]
    pairs = np.arange(len(gold)).reshape(-1, 2)
    annotator = Annotator(noise=noise, bias=bias)
    return preferences.answer(verdicts, objects, pairs, annotator, np.random.default_rng(seed)).tolist()


def test_answers_by_hand():
    """0.4 with three objects against 0.5 with two; 1 against 0; two alike."""
    gold, objects = [0.4, 0.5, 0.0, 1.0, 0.3, 0.3], [3, 2, 2, 2, 1, 1]
    assert answers(gold, objects) == [0, 0, 0.5]
    assert answers(gold, objects, bias=0.2) == [1, 0, 0.5]
    assert answers(gold, objects, bias=0.2, noise=1.0) == [0, 1, 0.5]


def test_a_share_of_the_answers_is_flipped():
    flipped = 1 - np.mean(answers([1.0, 0.0] * 10_000, [1] * 20_000, noise=0.1))
    assert flipped == pytest.approx(0.1, abs=4 * (0.09 / 10_000) ** 0.5)


def test_pairs_are_of_one_prompt_and_leave_no_image_out():
    keys = list("abcabcabdaa")
    pairs = preferences.pairs_of_prompts(keys, np.random.default_rng(0))
    assert all(keys[i] == keys[j] and i != j for i, j in pairs)
    assert Counter(keys[i] for i, _ in pairs) == {"a": 4, "b": 2, "c": 1}  # a prompt of n images has n - 1
    assert set(pairs.ravel()) == set(range(11)) - {keys.index("d")}
    assert preferences.pairs_of_prompts(["a", "b"], np.random.default_rng(0)).shape == (0, 2)


def test_the_loss_is_that_of_bradley_and_terry():
    """Of answers that prefer the first in four of five, the least is where it is ahead by log 4."""
    ahead = torch.tensor([0.0, np.log(4.0), 2.0])
    preferred = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    losses = [preferences.pairwise_loss(torch.tensor([a, 0.0]).repeat(5).double(), preferred.double()) for a in ahead]
    by_hand = [-(4 * np.log(1 / (1 + np.exp(-a))) + np.log(1 / (1 + np.exp(a)))) / 5 for a in ahead.double().numpy()]
    assert [loss.item() for loss in losses] == pytest.approx(by_hand)
    assert losses[1] < min(losses[0], losses[2])


def test_of_samples_the_answers_alone_are_learned():
    torch.manual_seed(0)
    model = learned_model.LearnedReward(tiny.REWARD, 48).eval()
    rng, pool = np.random.default_rng(0), prompt_set("train")
    samples, drawn = (learned_training.render_batch(4, 48, pool, rng, each=2) for _ in range(2))
    assert [p.id for p in samples.prompts[::2]] == [p.id for p in samples.prompts[1::2]]
    wrong = samples._replace(verdicts=[Judgement(False, 0, 0, (False,) * len(v.facts), 0) for v in samples.verdicts])

    def loss(samples, preferred):
        return learned_training.reward_loss(model, samples, drawn, tiny.REWARD, "cpu", np.array(preferred)).item()

    assert loss(samples, [1, 0, 1, 1]) == loss(wrong, [1, 0, 1, 1]) != loss(samples, [0, 0, 1, 1])


def test_training_from_pairs_to_a_reward(tmp_path):
    tiny.write_start(tmp_path)
    config = read_json(tmp_path / "sft.json")
    config["preference_reward"] = config["reward"] | {"annotator": {"noise": 0.2, "bias": 0.3}}
    (tmp_path / "preference.json").write_text(json.dumps(config))
    chosen = prompt_set("train")[::60] + prompt_set("val")[::8]
    jobs, rng = [(p, k) for p in chosen for k in range(3)], np.random.default_rng(0)
    scenes = [annotate(p.meta, rng, Imperfection(wrong_traces=0.5))[1] for p, _ in jobs]
    header = {"benchmark": "training", "version": "1", "mode": "mixed", "guidance_name": "unguided", "seed": 0}
    for folder, kept in (("data", jobs), ("lone", [job for job in jobs if job[1] == 0])):
        samples = Samples(render(scenes[: len(kept)], 48), [None] * len(kept), 0)
        sample_folder.write(tmp_path / folder, kept, samples, header)
    command = f"train-reward --config {tmp_path / 'preference.json'} --out {tmp_path / 'out'}"
    command += " --settings preference_reward"
    unigrpo(f"{command} --data {tmp_path / 'data'}")
    report = read_json(tmp_path / "out/report.json")
    assert report["within_prompts"]["overall"]["prompts"] > 0 and -1 <= report["correlation_with_objects"] <= 1
    scores = rewards.load("preference", path=tmp_path / "out", device="cpu")(torch.rand(2, 3, 48, 48), chosen[:2])
    assert scores.shape == (2,) and scores.min() >= 0 and scores.max() <= 1
    with pytest.raises(UserError, match="preference_reward.samples: expected so many that a prompt has several"):
        unigrpo(f"{command} --data {tmp_path / 'lone'}")


def test_pairs_must_fill_a_batch():
    with pytest.raises(UserError, match="reward.batch_size: expected pairs of samples and of renders"):
        from_dict(RewardConfig, to_dict(tiny.REWARD) | {"batch_size": 6, "annotator": {}})
