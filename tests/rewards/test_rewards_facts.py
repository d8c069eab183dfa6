"""What each reward states of itself is what docs/rewards.md says, and what is so."""

import math
import os
import re
import subprocess
import sys

import pytest
import torch

import rewards as package
from tests._support import own_rewards, tiny
from unigrpo.core.errors import UserError
from unigrpo.judges import reward as rewards
from unigrpo.study import training_inputs
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
    facts, row = REWARDS.load(name).FACTS, rows[name]
    assert (row["what"], row["weights"], row["licence"]) == (facts.what, facts.weights, facts.licence)
    assert row["range"] == bounds(*facts.range) and facts.range[0] < facts.range[1]
    assert row["input"] == ("as it is" if facts.input_size is None else str(facts.input_size))
    limits = {f"{facts.most_tokens} tokens": facts.most_tokens, f"{facts.most_words} words": facts.most_words}
    assert row["reads of a prompt"] == next((words for words, limit in limits.items() if limit), "all")
    assert row["differentiable"] == ("yes" if facts.differentiable else "no")
    tests = re.findall(r"`(tests/[\w/]+\.py)`", row["tested how"])
    assert any(re.search(rf'["/. ]{name}["/. (]', (root / test).read_text()) for test in tests)


def test_a_file_that_leaves_something_out_is_named(monkeypatch, tmp_path):
    own_rewards.add(monkeypatch, tmp_path, {})
    (tmp_path / "terse.py").write_text("def build():\n    return None\n")
    with pytest.raises(UserError, match="terse.py: expected a reward to define FACTS$"):
        rewards.load("terse")


IMPORT = "from unigrpo.study.facts import RewardFacts as F\n"
BAD_FACTS = {
    "FACTS = F(what=3)": "line 2: FACTS.what: expected text, got 3",
    "FACTS = F('x', range='01')": "line 2: FACTS.range: expected a list, got '01'",
    "FACTS = F('x', range=(0, 1, 2))": "line 2: FACTS.range: expected",
    "FACTS = F('x', reads='texts')": "line 2: FACTS.reads: expected 'statements' or 'text', got 'texts'; did you mean",
    "FACTS = F('x', rnage=(0, 1))": "line 2: FACTS.rnage: unknown key; did you mean range?",
    "FACTS = F()": "line 2: FACTS.what: missing",
    "FACTS = {'what': 'x'}": "FACTS: expected RewardFacts, got {'what': 'x'}",
}


@pytest.mark.parametrize("line, message", BAD_FACTS.items(), ids=BAD_FACTS)
def test_facts_of_another_type_are_one_line(line, message, monkeypatch, tmp_path):
    own_rewards.add(monkeypatch, tmp_path, {})
    name = f"odd_{list(BAD_FACTS).index(line)}"
    (tmp_path / f"{name}.py").write_text(f"{IMPORT}{line}\ndef build():\n    return None\n")
    with pytest.raises(UserError) as refusal:
        rewards.load(name)
    assert f"{name}.py" in str(refusal.value) and message in str(refusal.value)


def test_the_rewards_that_the_workflow_trains_say_where():
    trained = {name: REWARDS.load(name).FACTS.trained for name in NAMES}
    folders = {"learned": "reward", "weak": "weak_reward", "preference": "preference_reward"}
    assert {name: folder for name, folder in trained.items() if folder} == folders
    assert all(training_inputs.trained_as(folder) == name for name, folder in folders.items())
    with pytest.raises(UserError, match="expected a file whose FACTS state trained='elsewhere'"):
        training_inputs.trained_as("elsewhere")


def test_a_broken_file_that_nobody_names_harms_no_other(tmp_path, monkeypatch):
    (tmp_path / "aaa.py").write_text("def build(:")
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert REWARDS.names()[0] == "aaa" and training_inputs.trained_as("reward") == "learned"
    with pytest.raises(UserError, match="aaa.py, line 1: not Python"):
        rewards.load("aaa")


def test_facts_are_read_without_what_rewards_compute_with():
    """The workflow reads them whenever it is parsed."""
    code = (
        "import sys\nfrom unigrpo.study.facts import REWARDS\n"
        "for name in REWARDS.names(): REWARDS.load(name)\n"
        "heavy = {'torch', 'transformers', 'open_clip', 'timm', 'rapidocr', 'PIL', 'scipy'}\n"
        "loaded = [name for name in heavy if type(sys.modules.get(name)).__name__ == 'module']\n"
        "assert not loaded and 'torch._C' not in sys.modules, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


@pytest.mark.parametrize("name", ["geneval_score", "verifier", "jpeg"])
def test_scores_lie_in_the_stated_range(name):
    from unigrpo.world.prompts import prompt_set

    prompts = prompt_set("val")[::5]
    pictures = torch.rand(len(prompts), 3, tiny.MODEL.image_size, tiny.MODEL.image_size)
    scores, (least, largest) = rewards.load(name)(pictures, prompts), REWARDS.load(name).FACTS.range
    assert least <= scores.min() and scores.max() <= largest


def test_the_weak_reward_is_the_learned_ones_network(tmp_path):
    from rewards._support import learned_model
    from unigrpo.world.prompts import prompt_set

    learned_model.save(learned_model.LearnedReward(tiny.REWARD, tiny.MODEL.image_size), tmp_path)
    prompts = prompt_set("val")[:2]
    pictures = torch.rand(2, 3, tiny.MODEL.image_size, tiny.MODEL.image_size)
    scores = [rewards.load(name, path=tmp_path, device="cpu")(pictures, prompts) for name in ("weak", "learned")]
    assert torch.equal(*scores) and rewards.load("weak", path=tmp_path).differentiable
