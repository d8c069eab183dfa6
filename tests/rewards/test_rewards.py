"""Rewards: the registry, the verifier, the learned reward with its labels, its loss and its measure (AUC)."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy, cross_entropy

from rewards import verifier
from rewards._support import learned_model, learned_training
from tests._support import own_rewards, tiny
from tests._support.command import unigrpo
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json
from unigrpo.core.records import Prompt
from unigrpo.judges import reward as rewards
from unigrpo.sampling import sample_folder
from unigrpo.sampling.engine import Samples
from unigrpo.world.gold import judge
from unigrpo.world.inspector import inspect_images
from unigrpo.world.prompts import COMPOUND, Group, Statement, make_prompt, prompt_set
from unigrpo.world.render import render
from unigrpo.world.scenes import CLASSES, COLORS, PLACES, scene_for
from unigrpo.world.traces import Imperfection, annotate

POOL = prompt_set("train")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return learned_model.LearnedReward(tiny.REWARD, 48).eval()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reward")
    learned_model.save(model, folder)
    return folder


@pytest.fixture(scope="module")
def renders():
    return learned_training.render_batch(500, 48, POOL[::7], np.random.default_rng(0))


def pixels(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


# ---- registry ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no_such", "../verifier", "verifier.py", "", "learned_training", "_support", "a b"])
def test_only_rewards_can_be_loaded(name):
    with pytest.raises(UserError, match=f"^no reward is called {name!r}"):
        rewards.load(name)


def test_a_new_file_is_a_new_reward(tmp_path, monkeypatch):
    """Nothing else needs to be touched."""
    source = "def build(scale=1.0):\n    return lambda images, prompts: scale * images.mean((1, 2, 3))\n"
    own_rewards.add(monkeypatch, tmp_path, {"brightness": source})
    images = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    scores = rewards.load("brightness", scale=2.0)(images, POOL[:3])
    assert torch.allclose(scores, 2 * images.mean((1, 2, 3)))


# ---- what no reward judges ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pixel, why",
    [
        (255.0, "expected pixels in [0, 1], found 0.5 to 255"),
        (-0.1, "expected pixels in [0, 1], found -0.1 to 0.5"),
        (float("nan"), "expected pixels in [0, 1], found nan to nan"),
    ],
)
def test_pixels_outside_their_range_are_their_samples_failure(pixel, why):
    mine = rewards.Reward("mine", lambda images, prompts: images.mean((1, 2, 3)), True)
    images = torch.full((3, 3, 8, 8), 0.5)
    images[1, 2, 7, 7] = pixel
    with pytest.raises(rewards.Unscored, match=rf"^reward mine: sample 1 \({POOL[1].id}, .*: {re.escape(why)}$") as e:
        mine(images, POOL[:3])
    assert e.value.problems == {1: why} and e.value.scores["reward"].isnan().tolist() == [False, True, False]


def test_pixels_may_be_off_by_rounding():
    mine = rewards.Reward("mine", lambda images, prompts: images.mean((1, 2, 3)), True)
    for odd in (-5e-4, 1 + 5e-4):
        assert mine(torch.full((1, 3, 8, 8), odd), POOL[:1]).item() == pytest.approx(odd, rel=1e-4)


@pytest.mark.parametrize("text, named", [("a \ud83d cat", r"half of a character \(U\+D83D\)"), ("a\0cat", "NUL")])
def test_a_prompt_that_is_no_text_is_its_samples_failure(text, named):
    """Also for a tokenizer that takes it, or that raises whatever it raises."""
    mine = rewards.Reward("mine", lambda images, prompts: images.mean((1, 2, 3)), True)
    prompts = [Prompt("p/0", "a \U0001f63a cat", "x", {}), Prompt("p/1", text, "x", {})]
    picture = torch.full((2, 3, 8, 8), 0.5)
    with pytest.raises(rewards.Unscored, match=rf"^reward mine: sample 1 .*: expected a text .*found {named}") as error:
        mine(picture, prompts)
    assert error.value.problems.keys() == {1} and error.value.scores["reward"][0] == 0.5
    assert str(error.value).isascii()


# ---- verifier ----------------------------------------------------------------------------------------------


def test_the_verifier_is_the_judge_of_what_is_seen(renders):
    images = pixels(renders.images)
    scores = rewards.load("verifier")(images, renders.prompts)
    found = inspect_images(renders.images)
    expected = [judge(p.meta, f.detections).gold for p, f in zip(renders.prompts, found, strict=True)]
    assert scores.tolist() == pytest.approx(expected) and len(set(expected)) > 5
    assert verifier.score(images.requires_grad_(), renders.prompts).requires_grad is False


def test_the_verifier_gives_full_marks_to_what_was_asked():
    rng, chosen = np.random.default_rng(1), POOL[::9]
    images = render([scene_for(p.meta, rng) for p in chosen], 48)
    scores = rewards.load("verifier")(pixels(images), chosen)
    assert (scores == 1).float().mean() > 0.99


# ---- labels ------------------------------------------------------------------------------------------------


def test_labels_of_renders_agree_with_the_judge_of_their_pixels(renders):
    found = inspect_images(renders.images)
    seen = [judge(p.meta, f.detections) for p, f in zip(renders.prompts, found, strict=True)]
    pairs = list(zip(renders.verdicts, seen, strict=True))
    assert np.mean([a.gold == b.gold for a, b in pairs]) >= 0.99
    assert np.mean([a.facts == b.facts for a, b in pairs]) >= 0.99


def test_renders_are_right_and_wrong_about_equally(renders):
    strict = np.mean([v.strict for v in renders.verdicts])
    assert 0.35 < strict < 0.65 and min(v.gold for v in renders.verdicts) < 0.3


def test_each_fact_is_labelled_at_its_word():
    statement = Statement((Group(2, "red", "circle"), Group(1, "blue", "star"), Group(1, None, "cross")))
    prompt = make_prompt("x", COMPOUND, statement)
    assert prompt.text == "a photo of two red circles and a blue star and a cross"
    words = prompt.text.split()
    for verdicts in itertools.product((False, True), repeat=5):
        labels = learned_training.fact_labels(prompt, verdicts)
        told = {words[i]: bool(v) for i, v in enumerate(labels.tolist()) if v == v}
        assert told == dict(zip(("circles", "red", "star", "blue", "cross"), verdicts, strict=True))


def test_a_relation_is_labelled_after_the_noun_it_describes():
    prompt = make_prompt("x", "position", Statement((Group(1, None, "ring"), Group(1, None, "heart")), "left of"))
    assert prompt.text == "a photo of a ring left of a heart"
    labels = learned_training.fact_labels(prompt, [True, False, True])  # heart, ring, left
    words = prompt.text.split()
    assert {words[i]: v for i, v in enumerate(labels.tolist()) if v == v} == {"heart": 1, "ring": 0, "left": 1}


def test_every_training_prompt_has_all_its_facts_labelled(renders):
    for prompt, verdict in zip(renders.prompts, renders.verdicts, strict=True):
        labels = learned_training.fact_labels(prompt, verdict.facts)
        assert int((~labels.isnan()).sum()) == len(verdict.facts)
        assert sorted(labels[~labels.isnan()].tolist()) == sorted(map(float, verdict.facts))


def test_cells_are_labelled_by_place():
    scene = annotate(POOL[-1].meta, np.random.default_rng(2), Imperfection())[1]
    classes, colors = learned_training.cell_labels(scene).tolist()
    expected = {PLACES[o.place]: (o.cls, o.color) for o in scene.objects}
    assert len(expected) > 1
    for place, cls, color in zip(PLACES, classes, colors, strict=True):
        told = (CLASSES[cls - 1], list(COLORS)[color]) if cls else None
        assert told == expected.get(place) and (color == -1) == (cls == 0)


# ---- the learned reward ------------------------------------------------------------------------------------


def test_a_saved_reward_scores_as_before(model, folder, renders):
    images, prompts = pixels(renders.images[:9]), renders.prompts[:9]
    with torch.no_grad():
        expected = model(images, model.word_ids(prompts)).sigmoid()
        scores = rewards.load("learned", path=folder, device="cpu")(images, prompts)
    assert torch.equal(scores, expected) and expected.std() > 0
    assert read_json(folder / "model.json")["settings"]["width"] == 16


def test_a_score_does_not_depend_on_the_batch(model, renders):
    order = sorted(range(500), key=lambda i: len(renders.prompts[i].text))
    rows = [order[0], order[250], order[-1]]
    images, prompts = pixels(renders.images[rows]), [renders.prompts[i] for i in rows]
    with torch.no_grad():
        together = model(images, model.word_ids(prompts))
        alone = [model(images[i : i + 1], model.word_ids(prompts[i : i + 1])) for i in range(3)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_the_gradient_reaches_every_pixel_but_no_weight(folder, renders):
    images = pixels(renders.images[:3]).requires_grad_()
    scores = rewards.load("learned", path=folder, device="cpu")(images, renders.prompts[:3])
    scores[1].backward()
    assert (images.grad[1].abs().sum(0) > 0).all() and (images.grad[[0, 2]] == 0).all()
    epsilon = torch.zeros_like(images)
    epsilon[1, 0, 20, 20] = 1e-2
    reward = rewards.load("learned", path=folder, device="cpu")
    slope = (reward(images + epsilon, renders.prompts[:3]) - reward(images - epsilon, renders.prompts[:3]))[1] / 2e-2
    assert slope.item() == pytest.approx(images.grad[1, 0, 20, 20].item(), rel=0.1, abs=2e-5)


def test_prompts_outside_the_vocabulary_are_named(folder):
    reward = rewards.load("learned", path=folder, device="cpu")
    for text, message in (
        ("a photo of a dog", "prompt 'a photo of a dog': unknown word 'dog'"),
        ("", "prompt '': expected 1 to 24 words"),
        ("a photo of " + "a " * 22, "expected 1 to 24 words"),
    ):
        with pytest.raises(UserError, match=message):
            reward(torch.zeros(1, 3, 48, 48), [Prompt("x", text, "x", {})])


def test_the_loss_is_the_sum_of_its_cross_entropies(model, renders):
    """Verdict and facts on samples and renders, cells on renders alone; recomputed image by image."""
    samples, drawn = renders.select(range(5)), learned_training.render_batch(4, 48, POOL, np.random.default_rng(3))
    settings = tiny.REWARD
    with torch.no_grad():
        loss = learned_training.reward_loss(model, samples, drawn, settings, "cpu")
        verdicts, facts, cells = [], [], []
        for part in (samples, drawn):
            for i, (prompt, verdict) in enumerate(zip(part.prompts, part.verdicts, strict=True)):
                whole, fact, cell = model.heads(pixels(part.images[i : i + 1]), model.word_ids([prompt]))
                target = torch.tensor([verdict.gold], dtype=torch.float32)
                verdicts.append(binary_cross_entropy(whole.sigmoid(), target))
                labels = learned_training.fact_labels(prompt, verdict.facts)
                for logit, label in zip(fact[0], labels, strict=True):
                    if label == label:
                        facts.append(binary_cross_entropy(logit.sigmoid(), label))
                if part is drawn:
                    cells.append((cell[0], part.cells[i]))
        logits, targets = torch.cat([c for c, _ in cells]), torch.cat([t for _, t in cells], 1)
        full = targets[0] > 0
        reading = cross_entropy(logits[:, :9], targets[0]) + cross_entropy(logits[full][:, 9:], targets[1][full])
        expected = sum(verdicts) / 9 + settings.facts_weight * sum(facts) / len(facts) + settings.cells_weight * reading
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


# ---- measure -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_auc_counts_ordered_pairs(seed):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 6, 40) / 5, rng.random(40) < 0.3
    pairs = [(a, b) for a in scores[labels] for b in scores[~labels]]
    expected = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert learned_training.auc(scores, labels) == pytest.approx(expected)


def test_auc_within_prompts_is_a_mean_with_students_interval():
    """By hand: standard deviation 0.05 of three, and 4.303, the quantile at two degrees of freedom."""
    assert learned_training.within_prompts([0.8, 0.85, 0.9]) == pytest.approx(
        {"auc": 0.85, "lo": 0.85 - 4.303 * 0.05 / 3**0.5, "hi": 0.85 + 4.303 * 0.05 / 3**0.5, "prompts": 3}, abs=1e-4
    )
    for aucs, mean in (([], None), ([0.7], 0.7), ([1.0, 1.0], 1.0)):
        assert learned_training.within_prompts(aucs) == {"auc": mean, "lo": None, "hi": None, "prompts": len(aucs)}


def test_measures_of_one_kind_alone_do_not_exist():
    assert learned_training.auc([0.1, 0.2], [True, True]) is None and learned_training.auc([], []) is None
    assert learned_training.auc([0.1, 0.2], [False, True]) == 1 and learned_training.auc([0.3, 0.2], [False, True]) == 0
    assert learned_training.correlation([0.0, 0.0], [0.1, 0.3]) is None
    assert learned_training.correlation([0.0, 1.0, 2.0], [1.0, 3.0, 5.0]) == pytest.approx(1)


# ---- training ----------------------------------------------------------------------------------------------


def test_training_from_samples_to_a_reward(tmp_path, monkeypatch, capsys):
    """The command end to end: validation samples are for the report alone, and the result is a reward."""
    tiny.write_start(tmp_path)
    rng, chosen = np.random.default_rng(5), prompt_set("train")[::60] + prompt_set("val")[::2]
    scenes = [annotate(p.meta, rng, Imperfection(wrong_traces=0.5))[1] for p in chosen]
    samples = Samples(render(scenes, 48), [None] * len(chosen), 0)
    header = {"benchmark": "training", "version": "1", "mode": "mixed", "guidance_name": "unguided", "seed": 0}
    sample_folder.write(tmp_path / "data", [(p, k) for k, p in enumerate(chosen)], samples, header)
    training, held_out = learned_training.read_samples(tmp_path / "data")
    assert [p.id for p in held_out.prompts] == [p.id for p in prompt_set("val")[::2]]
    assert [p.id for p in training.prompts] == [p.id for p in prompt_set("train")[::60]]
    assert np.array_equal(held_out.images, samples.images[len(training.prompts) :])

    out = tmp_path / "out"
    unigrpo(f"train-reward --config {tmp_path / 'sft.json'} --data {tmp_path / 'data'} --out {out}")
    report = read_json(out / "report.json")
    assert report["n"]["overall"] == len(held_out.prompts) == sum(report["n"].values()) - report["n"]["overall"]
    assert report["strict_share"]["overall"] == pytest.approx(np.mean([v.strict for v in held_out.verdicts]))
    scores = rewards.load("learned", path=out, device="cpu")(pixels(held_out.images), held_out.prompts)
    strict = [v.strict for v in held_out.verdicts]
    assert report["auc"]["overall"] == pytest.approx(learned_training.auc(scores.tolist(), strict), abs=1e-6)
    assert report["within_prompts"]["overall"]["prompts"] == 0  # one sample of each prompt
    assert "held-out AUC within prompts: overall" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == ["model.json", "model.safetensors", "report.json", "run.json"]
