"""A reward that raises, or gives no number, is asked again; then a run ends, and goes on later, or drops the group."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from tests._support import several, tiny
from unigrpo.core.errors import RewardFailed, UserError
from unigrpo.core.files import read_json, read_jsonl
from unigrpo.core.records import Prompt
from unigrpo.core.settings import replace
from unigrpo.episodes.rollout import Draw
from unigrpo.judges import reward as rewards
from unigrpo.judges.reward import Reward, Unscored
from unigrpo.report.data import phrases
from unigrpo.report.data.results import Folder
from unigrpo.study.facts import METHODS
from unigrpo.training import launch, learner, loop, task
from unigrpo.world.prompts import prompt_set

PROMPTS = [Prompt(f"a/{i}", f"a photo of {i} rings", "x", {}) for i in (0, 1, 1, 2)]
IMAGES = torch.linspace(0, 1, 4)[:, None, None, None].expand(4, 3, 8, 8)
BRIGHTNESS = several.brightness
FULL = BRIGHTNESS(IMAGES, PROMPTS)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(rewards, "PAUSES", (0.0, 0.0))


class Unreliable:
    """Brightness; ``fails(call number from 1, prompts)`` -> what to raise, or the rows to answer with NaN."""

    def __init__(self, fails):
        self.fails, self.calls = fails, 0

    def __call__(self, images, prompts):
        self.calls += 1
        scores, failure = BRIGHTNESS(images, prompts), self.fails(self.calls, prompts)
        if isinstance(failure, Exception):
            raise failure
        scores[failure] = torch.nan
        return scores


def reward(fails) -> Reward:
    return Reward("mine", Unreliable(fails), True)


def for_prompt(found: str, failure=None):
    """Fails whenever the prompt is among those asked about."""

    def fails(call, prompts):
        rows = [i for i, p in enumerate(prompts) if p.id == found]
        return failure if rows and failure else rows

    return fails


# ---------------------------------------------------------------------------------------------------- the reward


@pytest.mark.parametrize("failure", [TimeoutError("timed out"), RuntimeError("out of memory"), [2], [0, 1, 2, 3]])
@pytest.mark.parametrize("times", [1, 2])
def test_a_reward_that_recovers_is_asked_again(failure, times):
    mine = reward(lambda call, prompts: failure if call <= times else [])
    assert torch.equal(mine(IMAGES, PROMPTS), FULL) and mine.score.calls == times + 1


def test_one_that_works_is_asked_once():
    mine = reward(lambda call, prompts: [])
    for mine.score.relative in (False, True):
        mine.score.calls = 0
        assert torch.equal(mine(IMAGES, PROMPTS), FULL) and mine.score.calls == 1


@pytest.mark.parametrize(
    "failure, why",
    [(TimeoutError("no\nreply"), "TimeoutError: no reply"), (None, "expected a finite score, got nan")],
)
def test_one_that_always_fails_for_a_prompt_is_told_apart_with_the_others_scores(failure, why):
    mine = reward(for_prompt("a/1", failure))
    with pytest.raises(RewardFailed) as caught:
        mine(IMAGES, PROMPTS)
    assert str(caught.value) == f"reward mine: sample 1 (a/1, 'a photo of 1 rings'): {why}"
    assert caught.value.problems == {1: why, 2: why}
    scores = caught.value.scores["reward"]
    assert scores.isnan().tolist() == [False, True, True, False] and torch.equal(scores[[0, 3]], FULL[[0, 3]])


def test_what_was_asked_often_enough_is_not_asked_again():
    """As an endpoint, which has its own tries: only the rest is, for its scores."""
    mine = reward(lambda call, prompts: Unscored("x", {0: "gone"}) if len(prompts) == 4 else [])
    with pytest.raises(Unscored, match="sample 0 .*: gone$") as caught:
        mine(IMAGES, PROMPTS)
    assert mine.score.calls == 2 and torch.equal(caught.value.scores["reward"][1:], FULL[1:])


@pytest.mark.parametrize("bug", [TypeError("a bug"), NameError("a bug"), UserError("a bug")])
def test_a_bug_or_a_refusal_is_no_failure(bug):
    mine = reward(lambda call, prompts: bug)
    with pytest.raises(type(bug), match="^a bug$"):
        mine(IMAGES, PROMPTS)
    assert mine.score.calls == 1


def test_scores_that_depend_on_the_batch_are_those_of_the_batch_without_the_group(monkeypatch):
    weighted = rewards.load("weighted", normalise="batch", parts={"jpeg": {"weight": 1.0}})
    alone = weighted(IMAGES[[0, 3]], [PROMPTS[0], PROMPTS[3]])
    part = weighted.score.rewards["jpeg"]
    picky = lambda images, prompts: part.score(images, prompts).masked_fill(  # noqa: E731
        torch.tensor([image.mean().item() == IMAGES[1].mean().item() for image in images]), torch.nan
    )
    weighted.score.rewards["jpeg"] = Reward("jpeg", picky, False)
    with pytest.raises(Unscored) as caught:
        weighted(IMAGES, PROMPTS)
    for name, values in caught.value.scores.items():
        expected = alone if name == "reward" else part.score(IMAGES[[0, 3]], PROMPTS[:2])
        assert values[1:3].isnan().all() and torch.equal(values[[0, 3]], expected), name


def test_a_judge_shows_the_failing_image_alone():
    from PIL import Image

    pictures = [Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(4)]
    values = reward(for_prompt("a/2", OSError("gone"))).judge(pictures, PROMPTS)
    assert [isinstance(v, float) for v in values] == [True, True, True, False]
    assert str(values[3]) == "reward mine: a/2: OSError: gone"


# ------------------------------------------------------------------------------------------------------- the run


def configured(**changes):
    return tiny.run_config("rl", rl=replace(tiny.RL, checkpoint_every=100, validate_every=3, **changes))


def train(cfg, out, start, monkeypatch, mine=BRIGHTNESS):
    monkeypatch.setattr(several, "brightness", mine)
    several.run(cfg, out, start)
    return load_file(out / "model.safetensors")


def drawn(rollout, place=0):
    """A prompt of a rollout of the tiny run, of the training prompts alone."""
    return task.draw_prompts(3, rollout, tiny.RL.prompts_per_rollout)[place]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def calm(start, tmp_path_factory):
    """The run whose reward never fails."""
    with pytest.MonkeyPatch.context() as patch:
        return train(configured(), tmp_path_factory.mktemp("runs") / "calm", start, patch)


def test_a_failure_ends_the_run_which_goes_on_from_its_last_update(start, calm, tmp_path, monkeypatch):
    found = drawn(2, 1)
    mine = reward(for_prompt(found.id, TimeoutError("no reply")))
    with pytest.raises(UserError) as caught:
        train(configured(), tmp_path, start, monkeypatch, mine)
    assert str(caught.value) == f"reward mine: sample 3 ({found.id}, {found.text!r}): TimeoutError: no reply"
    asked = []
    kept = train(
        configured(), tmp_path, start, monkeypatch, reward(lambda _, prompts: asked.append(len(prompts)) or [])
    )
    assert same(kept, calm) and asked == [12, 4]  # the third rollout, and a validation


def test_without_a_failure_dropping_changes_no_bit(start, calm, tmp_path, monkeypatch):
    kept = train(configured(reward_failure="drop"), tmp_path, start, monkeypatch)
    assert same(kept, calm) and read_json(tmp_path / "run.json")["dropped_groups"] == 0


def test_prompts_that_the_reward_reads_in_part_are_said_once_and_recorded(start, calm, tmp_path, monkeypatch, capsys):
    texts = {prompt.text for prompt in prompt_set("train")}
    mine = reward(lambda call, prompts: [])
    mine.score.cut = lambda texts: {"8 tokens that mine reads": sum(len(text) > 40 for text in texts), "none": 0}
    assert same(train(configured(), tmp_path, start, monkeypatch, mine), calm)
    count = sum(len(text) > 40 for text in texts)
    said = f"{count} of {len(texts)} prompts are longer than the 8 tokens that mine reads"
    assert capsys.readouterr().err.count(said) == 1 and 0 < count < len(texts)
    assert read_json(tmp_path / "run.json")["cut_prompts"] == {"8 tokens that mine reads": count}


def test_a_dropped_group_is_counted_and_said(start, calm, tmp_path, monkeypatch, capsys):
    found, seen = {drawn(0).id, drawn(2, 1).id}, prompt_set("val")[0].id
    mine = reward(lambda _, prompts: [i for i, p in enumerate(prompts) if p.id in found | {seen}])
    out = tmp_path / "runs/tiny/seed3"
    kept = train(configured(reward_failure="drop"), out, start, monkeypatch, mine)
    assert not same(kept, calm) and f"left out: reward mine: sample 0 ({drawn(0).id}, " in capsys.readouterr().err
    rows = [row for _, row in read_jsonl(out / "metrics.jsonl") if row["kind"] == "train"]
    expected = [len(found & {p.id for p in task.draw_prompts(3, i, 4)}) for i in range(3)]
    assert [row["dropped_groups"] for row in rows] == expected and rows[0]["groups"] == 4 - expected[0]
    assert all(isinstance(row["proxy"], float) and row["proxy"] == row["proxy"] for row in rows)
    assert read_json(out / "run.json")["dropped_groups"] == sum(expected)
    last = [json.loads(line) for line in max((out / "validation").glob("*.jsonl")).read_text().splitlines()]
    assert [row["prompt_id"] for row in last if "proxy" not in row] == [seen]
    note = f"**Incomplete**: Tiny, seed 3: {sum(expected)} of 12 groups left out: the reward failed."
    assert note in phrases.fates(["tiny"], Folder(tmp_path))


def test_a_rollout_without_any_reward_ends_the_run(start, tmp_path, monkeypatch):
    mine = reward(lambda _, prompts: ConnectionError("gone") if len(prompts) != 4 else [])
    with pytest.raises(UserError, match="^reward learned: failed for every prompt of the rollout$"):
        train(configured(reward_failure="drop"), tmp_path, start, monkeypatch, mine)


# ----------------------------------------------------------------------------------------------------- the update


@pytest.mark.parametrize(
    "changes",
    [
        {"advantage_scale": "batch"},
        {"text_reduction": "dapo", "micro_batch": 4},
        {"text_reduction": "dr_grpo"},
        several.UNIFPO,
        several.IMAGE | {"method": "nft", "matching_samples": 2},
        several.IMAGE | {"method": "refl"},
    ],
)
def test_a_dropped_group_leaves_the_update_of_the_others(changes):
    """Losses, metrics and gradients are those of a rollout that never had the group."""
    rl = tiny.reinforcement(epochs=1, reward_failure="drop", **changes)
    nets = learner.networks(tiny.run_config("rl", rl=rl), copy.deepcopy(tiny.model()), several.brightness)
    learner.optimizer_for(nets.model, rl)
    method = METHODS.load(rl.method)
    rollout = method.roll_out(nets, Draw(task.draw_prompts(3, 0, 4), rl, 8, 3, 0))
    nets = copy.copy(nets)
    object.__setattr__(nets, "reward", Reward("mine", several.brightness, True))
    few = rollout.select([*range(3), *range(6, 12)])

    def update(rollout, rl):
        nets.model.zero_grad(set_to_none=True)
        advantages, spread = task.advantages_of(method, task.score(rollout, nets, rl), rl)
        run = tiny.learner(nets, rl, accelerator=launch.accelerate_for(tiny.run_config("rl", rl=rl)))
        steps = method.make_slices(nets, rollout, advantages, rl)
        metrics = loop.merged([(s.share, loop.accumulate(run, s, rl)) for s in steps[0]])
        return {n: p.grad for n, p in nets.model.named_parameters() if p.grad is not None}, spread | metrics

    expected, measured = update(few, replace(rl, prompts_per_rollout=3))
    object.__setattr__(nets, "reward", reward(for_prompt(rollout.prompts[3].id)))
    found, told = update(rollout, rl)
    assert told.pop("dropped_groups") == 1 and measured.pop("dropped_groups") == 0
    assert told == pytest.approx(measured, rel=1e-4, abs=1e-6) and found.keys() == expected.keys()
    for name in found:
        assert torch.allclose(found[name], expected[name], rtol=1e-3, atol=1e-6), name


def test_settings_that_cannot_drop_say_so():
    with pytest.raises(UserError, match="^rl.reward_failure: expected fail with sharding"):
        tiny.run_config("rl", rl=replace(tiny.RL, reward_failure="drop"), sharding=True, processes=2)
    with pytest.raises(UserError, match="rl.reward_failure: expected fail for this method"):
        tiny.reinforcement(reward_failure="drop", method="gardo")
