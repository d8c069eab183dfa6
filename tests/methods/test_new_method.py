"""The door for a method: a file is found by its name, trains and costs what it declares; a broken one is refused."""

from __future__ import annotations

import re

import pytest
import torch

from tests._support import tiny
from tests._support.methods import train
from unigrpo.core.errors import UserError
from unigrpo.core.settings import replace, to_dict
from unigrpo.planning import phases, tracker
from unigrpo.study.facts import METHODS

VARIANT = "from unigrpo.methods.grpo import *\n"
TUPLE = """
import torch
from unigrpo.methods import grpo
FACTS, roll_out, make_slices, losses = grpo.FACTS, grpo.roll_out, grpo.make_slices, grpo.losses
"""


def shown(root, name: str) -> str:
    """The code of a file that docs/extending.md shows."""
    page = (root / "docs/extending.md").read_text()
    return re.search(rf"methods/{name}\.py`.*?```python\n(.*?)```", page, re.DOTALL)[1]


@pytest.mark.slow
def test_the_shown_method_trains_and_costs_what_it_declares(root, add, tmp_path):
    add("mine", shown(root, "mine"))
    rl = replace(tiny.RL, method="mine", train=("image",), same_noise=False, thinking=False, matching_samples=2)
    rows, _ = train(tmp_path, rl)
    assert all(row["image_velocity_mse"] >= 0 and row["image_grad_norm"] > 0 for row in rows)
    found = phases.training(tiny.run_config(rl=rl), None, tracker.Rates(1e12, 1e11, 1e-6))
    images = rl.prompts_per_rollout * rl.group_size
    assert found["update"].total["image evaluations"] == 2 * images * rl.rollouts
    with pytest.raises(UserError, match="rl.same_noise: expected false for mine"):
        replace(rl, same_noise=True)
    with pytest.raises(UserError, match=r"rl.train: expected \[image\] for mine, got \[text, image\]"):
        replace(rl, train=("text", "image"), thinking=True)
    with pytest.raises(UserError, match="rl.matching_samples: expected at least 1, got 0"):
        replace(rl, matching_samples=0)


@pytest.mark.slow
def test_the_shown_variant_halves_the_image_loss(root, add, tmp_path):
    add("plain", shown(root, "plain"))
    rl = replace(tiny.RL, rollouts=1, epochs=1, train=("image",))
    (ours,), _ = train(tmp_path, replace(rl, method="plain"))
    (grpo,), _ = train(tmp_path, rl)
    assert ours["image_grad_norm"] == pytest.approx(grpo["image_grad_norm"] / 2, abs=1e-6)


@pytest.mark.slow
def test_the_readmes_method_learns_from_good_episodes_alone(root, add, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    add("mine", next(block for block in blocks if "def make_slices" in block))
    rl = replace(tiny.RL, rollouts=1, epochs=1)
    (ours,), _ = train(tmp_path, replace(rl, method="mine"))
    (grpo,), _ = train(tmp_path, rl)
    assert ours["text_loss"] < grpo["text_loss"] - 0.1  # minus the mean of advantages, which GRPO centres


@pytest.mark.slow
@pytest.mark.parametrize("source", [VARIANT, TUPLE], ids=["star", "assignment"])
@pytest.mark.parametrize(
    "changes",
    [
        {"same_noise": True},
        {"regulariser": "latent_kl"},
        {"train": ("text",)},
        {"train": ("image",), "thinking": False, "guidance": 2.0},
        {"transition": "cps", "window": "scattered", "ratio": "plain"},
    ],
    ids=["joint", "latent kl", "text", "guided", "transitions"],
)
def test_a_variant_by_re_export_is_the_baseline_to_the_bit(add, tmp_path, source, changes):
    add("my_grpo", source)
    baseline = replace(tiny.RL, rollouts=2, validate_every=2, **changes)
    variant = replace(baseline, method="my_grpo")
    assert to_dict(variant) == to_dict(baseline) | {"method": "my_grpo"}
    (rows, weights), (other_rows, others) = train(tmp_path, baseline), train(tmp_path, variant)
    timeless = [[{k: v for k, v in row.items() if "second" not in k} for row in r] for r in (rows, other_rows)]
    assert timeless[0] == timeless[1]
    assert weights.keys() == others.keys() and all(torch.equal(weights[k], others[k]) for k in weights)


@pytest.mark.parametrize("key", ["first", "second"])
def test_two_files_of_one_name_in_turn_have_their_own_settings(add, key):
    add(
        "mine",
        VARIANT + f"from unigrpo.methods import Settings as Section\nclass Settings(Section):\n    {key}: int = 3",
    )
    assert getattr(replace(tiny.RL, method="mine"), key) == 3
    assert type(replace(tiny.RL)) is type(tiny.RL)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def roll_out(:", "mine.py, line 1: not Python"),
        ("import nowhere", "mine.py, line 1: cannot be imported (ModuleNotFoundError: No module named 'nowhere')"),
        ("x = 1\ny = x / 0", "mine.py, line 2: cannot be imported (ZeroDivisionError: division by zero)"),
        (
            "from unigrpo.methods.grpo import FACTS, roll_out, losses",
            "mine.py: expected a method to define make_slices",
        ),
        (
            VARIANT + "from unigrpo.methods import Settings\nclass Settings(Settings):\n    guidance: float = 2.0",
            "unigrpo.methods.mine: Settings.guidance: expected another name, it is a common setting",
        ),
        (
            VARIANT
            + "from unigrpo.methods import Settings\nclass Settings(Settings):\n    latent_kl_weight: float = 2.0",
            "Settings.latent_kl_weight: expected another name, it is a setting of unigrpo.methods.mine",
        ),
    ],
    ids=["syntax", "import", "error", "half", "common key", "a regulariser's key"],
)
def test_a_broken_file_is_refused_in_one_line(add, source, message):
    add("mine", source)
    with pytest.raises(UserError) as refusal:
        replace(tiny.RL, method="mine")
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_other_methods_do_not_see_a_broken_file(add):
    add("mine", "def roll_out(:")
    assert "mine" in METHODS.names() and replace(tiny.RL, rollouts=1).method == "grpo"
