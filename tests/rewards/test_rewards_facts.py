"""What each reward states of itself is what docs/rewards.md says, and what is so."""

import math
import re

import pytest
import torch

from unigrpo.judges import reward as rewards
from tests._support import tiny
from unigrpo.core.errors import UserError
from unigrpo.study.facts import REWARDS

NAMES = REWARDS.names()


@pytest.fixture(scope="module")
def rows(root):
    """Reward -> its row of the table."""
    lines = (root / "docs/rewards.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| reward | what | weights"))
    head = [cell.strip() for cell in lines[start].strip("|").split("|")]
    table = {}
    for line in lines[start + 2 :]:
        if not line:
            return table
        row = dict(zip(head, (cell.strip() for cell in line.strip("|").split("|")), strict=True))
        table[row["reward"].strip("`")] = row
    raise AssertionError("the table has no end")


def bounds(least, largest):
    """A range in the table's words."""
    if math.isinf(least):
        return "unbounded" if math.isinf(largest) else f"at most {largest:g}"
    return f"{least:g} to {largest:g}"


def test_every_reward_has_a_row(rows):
    assert sorted(rows) == NAMES and len(NAMES) >= 13


@pytest.mark.parametrize("name", NAMES)
def test_the_row_says_what_the_file_says(rows, name, root):
    facts, row = rewards.facts(name), rows[name]
    assert (row["what"], row["weights"], row["licence"]) == (facts.what, facts.weights, facts.licence)
    assert row["range"] == bounds(*facts.range) and facts.range[0] < facts.range[1]
    assert row["input"] == ("as it is" if facts.input_size is None else str(facts.input_size))
    assert row["differentiable"] == ("yes" if facts.differentiable else "no")
    tests = re.findall(r"`(tests/[\w/]+\.py)`", row["tested how"])
    assert any(re.search(rf'["/. ]{name}["/. (]', (root / test).read_text()) for test in tests)


def test_a_file_that_leaves_something_out_is_named(monkeypatch, tmp_path):
    (tmp_path / "terse.py").write_text("WHAT = 'x'\ndef build():\n    return None\n")
    monkeypatch.setattr(rewards, "__path__", [*rewards.__path__, str(tmp_path)])
    with pytest.raises(UserError, match="^reward terse: expected its file to state WEIGHTS, LICENCE, RANGE, INP"):
        rewards.facts("terse")


@pytest.mark.parametrize("name", ["geneval", "verifier", "jpeg"])
def test_scores_lie_in_the_stated_range(name):
    from unigrpo.world.prompts import prompt_set

    prompts = prompt_set("val")[::5]
    pictures = torch.rand(len(prompts), 3, tiny.MODEL.image_size, tiny.MODEL.image_size)
    scores, (least, largest) = rewards.load(name)(pictures, prompts), rewards.facts(name).range
    assert least <= scores.min() and scores.max() <= largest


def test_the_weak_reward_is_the_learned_ones_network(tmp_path):
    from rewards._support import learned_model
    from unigrpo.world.prompts import prompt_set

    learned_model.save(learned_model.LearnedReward(tiny.REWARD, tiny.MODEL.image_size), tmp_path)
    prompts = prompt_set("val")[:2]
    pictures = torch.rand(2, 3, tiny.MODEL.image_size, tiny.MODEL.image_size)
    scores = [rewards.load(name, path=tmp_path, device="cpu")(pictures, prompts) for name in ("weak", "learned")]
    assert torch.equal(*scores) and rewards.load("weak", path=tmp_path).differentiable
