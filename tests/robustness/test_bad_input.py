"""Bad input to the commands: one message that names the place and what was expected, and nothing written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests._support import command, own_rewards, tiny
from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.judges import reward as rewards
from unigrpo.sampling import sample_folder
from unigrpo.sampling.engine import Samples, read_decoding
from unigrpo.world.prompts import prompt_set, read_prompts


@pytest.fixture
def folder(start, tmp_path):
    """A copy of what runs start from, to be damaged."""
    return Path(shutil.copytree(start, tmp_path / "start"))


def set_json(path: Path, key: str, value) -> None:
    """Set ``section.key`` of a JSON file; Ellipsis removes it."""
    data = json.loads(path.read_text())
    *outer, name = key.split(".")
    inner = data[outer[0]] if outer else data
    if value is ...:
        del inner[name]
    else:
        inner[name] = value
    path.write_text(json.dumps(data))


COMMANDS = {
    "train rl": "--config rl.json --init init --reward reward --decoding decoding.json --out new/out",
    "train sft": "--config sft.json --init init --out new/out",
    "tune": "--config sft.json --model init --out new/decoding.json",
    "reward-data": "--config sft.json --init init --out new/data",
    "sample-sets": "--config rl.json --model init --decoding decoding.json --mode think --out new/samples",
    "train-reward": "--config sft.json --data data --out new/reward",
}


def begin(verb: str, arguments: str = "") -> None:
    """Run a verb of COMMANDS, or one with these arguments."""
    command.unigrpo(f"{verb.split()[0]} {arguments or COMMANDS[verb]}")


def call(monkeypatch, folder: Path, verb: str, arguments: str = "") -> str:
    """Run a command in ``folder``; returns the message it refuses with, nothing being written."""
    monkeypatch.chdir(folder)
    with pytest.raises(UserError) as refusal:
        begin(verb, arguments)
    assert not (folder / "new").exists()
    return str(refusal.value)


# ---- configurations ----------------------------------------------------------------------------------------

SETTINGS = {
    "misspelt": ("rl.group_sise", 3, r"rl.group_sise: unknown key; did you mean group_size\?"),
    "unknown": ("colour", 3, "colour: unknown key"),
    "missing": ("seed", ..., "seed: missing"),
    "type": ("rl.steps", "ten", "rl.steps: expected a whole number, got 'ten'"),
    "fraction": ("rl.rollouts", 2.5, "rl.rollouts: expected a whole number, got 2.5"),
    "switch": ("rl.epochs", True, "rl.epochs: expected a whole number, got True"),
    "section": ("rl", [1], r"rl: expected a mapping, got \[1\]"),
    "not a number": ("rl.lr_text", float("nan"), "rl.json, line 1: cannot be read .NaN is no finite number"),
    "endless": ("rl.clip_image", float("inf"), "rl.json, line 1: cannot be read .Infinity is no finite number"),
    "group of one": (
        "rl.group_size",
        1,
        "rl.group_size: expected at least 2, got 1",
    ),
    "empty window": ("rl.window_size", 0, "rl.window_size: expected at least 1, got 0"),
    "no room": ("rl.window_range", [2, 2], "rl.window_range: expected 0 <= start < end <= 5"),
    "outside": ("rl.window_range", [2, 6], "rl.window_range: expected 0 <= start < end <= 5"),
    "too wide": ("rl.window_size", 5, "rl.window_size: expected at most 4, the width of rl.window_range"),
    "one bound": ("rl.window_range", [2], r"rl.window_range\[1\]: missing"),
    "halves": ("rl.epochs", 3, "rl.prompts_per_rollout: expected a multiple of rl.epochs for `halves`"),
    "progress": ("rl.window_rollouts", 0, "rl.window_rollouts: expected at least 1, got 0"),
    "text KL": ("rl.kl_text", -0.1, "rl.kl_text: expected at least 0, got -0.1"),
    "choice": ("rl.ratio", "norm", "rl.ratio: expected 'plain' or 'ratio_norm', got 'norm'"),
    "nothing trained": ("rl.train", [], "rl.train: expected text, image or both"),
    "guidance": ("rl.guidance", 0.5, "rl.guidance: expected at least 1, got 0.5"),
    "temperature": ("rl.temperature", 0, "rl.temperature: expected more than 0, got 0"),
    "micro batch": ("rl.micro_batch", 0, "rl.micro_batch: expected at least 1, got 0"),
    "checkpoints": ("rl.checkpoint_every", 0, "rl.checkpoint_every: expected at least 1, got 0"),
    "learning rate": ("rl.lr_image", -1e-3, "rl.lr_image: expected more than 0, got -0.001"),
    "one point": ("sampling.steps", 1, "sampling.steps: expected at least 2, got 1"),
    "grid": ("sampling.grid", "pixels", "sampling.grid: expected 'points', 'steps' or 'diffusers', got 'pixels'"),
    "shift": ("sampling.shift", 0, "sampling.shift: expected more than 0"),
    "memory": ("sampling.memory", 0, "sampling.memory: expected at least 1, got 0"),
    "no scales": ("sampling.guidance_grid", [], "sampling.guidance_grid: expected 1 values, got "),
    "heads": ("model.heads", 3, "model.hidden_size: expected a multiple of model.heads"),
    "no heads": ("model.heads", 0, "model.heads: expected at least 1, got 0"),
    "reward share": (
        "reward.sample_share",
        1.0,
        "reward.sample_share: expected a share that leaves samples and renders",
    ),
    "more prompts than there are": (
        "rl.prompts_per_rollout",
        58,
        "rl.prompts_per_rollout: expected at most 56 distinct prompts, got 58",
    ),
    "device": ("device", "tpu", "device: expected 'auto', 'cpu' or 'cuda', got 'tpu'"),
}


@pytest.mark.parametrize("key, value, message", SETTINGS.values(), ids=SETTINGS)
def test_a_bad_setting_is_named(folder, monkeypatch, key, value, message):
    set_json(folder / "rl.json", key, value)
    said = call(monkeypatch, folder, "train rl")
    assert re.search(message, said)
    assert said.startswith("rl.json")


@pytest.mark.parametrize(
    "content, message", [("{", "line 1: not valid JSON"), ("3", "expected a JSON object, found int")]
)
@pytest.mark.parametrize("verb", ["train rl", "tune", "train-reward"])
def test_a_damaged_configuration_is_named(folder, monkeypatch, verb, content, message):
    for name in ("rl.json", "sft.json"):
        (folder / name).write_text(content)
    said = call(monkeypatch, folder, verb)
    assert said.startswith(("rl.json, ", "sft.json, ")) and message in said


FOR_STAGE = {
    "--config rl.json --init init": "--decoding: expected decoding.json for the stage of rl.json",
    "--config sft.json": "--init: expected the folder of the parent run for the stage of sft.json",
    "--config base.json --init init": "--init: expected nothing for the stage of base.json",
    "--config sft.json --init init --decoding decoding.json": "--decoding: expected nothing for the stage of sft.json",
    "--scale smoke --config sft.json": "expected either --scale and --run, or --config",
    "--scale smoke": "expected either --scale and --run, or --config",
    "--run sft": "expected either --scale and --run, or --config",
}


@pytest.mark.parametrize("options, message", FOR_STAGE.items())
def test_each_stage_takes_what_it_needs(folder, monkeypatch, options, message):
    assert call(monkeypatch, folder, "train sft", f"{options} --out new") == message


@pytest.mark.parametrize(
    "options, message",
    [
        ("--scale smok --run sft", "--scale smok: no such file in "),
        ("--scale smoke --run sfd", "no run is called 'sfd'"),
    ],
)
def test_a_run_that_is_not_there_is_named(folder, monkeypatch, options, message):
    said = call(monkeypatch, folder, "train sft", f"{options} --init init --out new")
    assert message in said and "did you mean" in said


# ---- models, rewards, decodings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb",
    [
        "train rl",
        "train sft",
        "tune",
        "sample-sets",
    ],
)
def test_a_model_of_another_architecture_is_refused(folder, monkeypatch, verb):
    for name in ("rl.json", "sft.json"):
        set_json(folder / name, "model.layers", 4)
    said = call(monkeypatch, folder, verb)
    assert said == "init/model.json: layers: expected 4, the configuration's model.layers, got 2"


@pytest.mark.parametrize("verb", [m for m in COMMANDS if "init" in COMMANDS[m]])
def test_a_missing_model_is_named(folder, monkeypatch, verb):
    shutil.rmtree(folder / "init")
    assert call(monkeypatch, folder, verb).startswith("init/model.")


def poison(path: Path) -> None:
    """Make one weight of a checkpoint NaN."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[-1] = float("nan")
    save_file(tensors, path)


@pytest.mark.parametrize(
    "verb",
    ["train rl", "train sft", "sample-sets"],
)
def test_a_model_with_a_weight_that_is_no_number_is_refused(folder, monkeypatch, verb):
    poison(folder / "init/model.safetensors")
    for name in ("run.json", "metrics.jsonl"):
        (folder / "init" / name).write_text('{"ema": true}')
    said = call(monkeypatch, folder, verb)
    assert re.match(r"init/model.safetensors: tensor \S+: expected finite numbers, got NaN or infinity", said)


REWARD = {
    "missing": (lambda f: shutil.rmtree(f), "path: expected the path of a file or folder that is there, got 'reward'"),
    "weights cut": (lambda f: os.truncate(f / "model.safetensors", 999), "model.safetensors: cannot be read"),
    "card": (lambda f: set_json(f / "model.json", "settings", ...), "reward/model.json: 'settings' is missing"),
    "setting": (
        lambda f: set_json(f / "model.json", "settings.depth", 3),
        "reward/model.json: settings.depth: unknown",
    ),
    "side": (
        lambda f: set_json(f / "model.json", "image_size", 50),
        "model.json: image_size: expected a multiple of 3",
    ),
    "size": (lambda f: set_json(f / "model.json", "settings.layers", 2), r"model.safetensors: tensor \S+ is missing"),
    "values": (lambda f: poison(f / "model.safetensors"), r"model.safetensors: tensor \S+: expected finite numbers"),
}


@pytest.mark.parametrize("damage, message", REWARD.values(), ids=REWARD)
def test_a_bad_learned_reward_is_named(folder, monkeypatch, damage, message):
    damage(folder / "reward")
    assert re.search(message, call(monkeypatch, folder, "train rl"))


THINK, DIRECT = '{"guidance": 2, "temperature": 1}', '{"guidance": 1}'
DECODING = [
    ("{", "decoding.json, line 1: not valid JSON"),
    ("[]", "decoding.json, line 1: expected a JSON object"),
    ("{}", "decoding.json: think: missing"),
    ('{"guidance": 2, "temperature": 1}', "decoding.json: think: missing"),  # as it was before each mode had its choice
    (f'{{"think": {THINK}}}', "decoding.json: direct: missing"),
    (f'{{"think": {DIRECT}, "direct": {DIRECT}}}', "decoding.json: think.temperature: missing"),
    *[
        (f'{{"think": {{"guidance": {guidance}, "temperature": {temperature}}}, "direct": {DIRECT}}}', message)
        for guidance, temperature, message in [
            ('"2"', 1, "decoding.json: think.guidance: expected a number, got '2'"),
            (0.5, 1, "decoding.json: think.guidance: expected at least 1, got 0.5"),
            ("true", 1, "decoding.json: think.guidance: expected a number, got True"),
            (2, -1, "decoding.json: think.temperature: expected at least 0, got -1"),
            (2, "NaN", "decoding.json, line 1: cannot be read (NaN is no finite number)"),
            ("Infinity", 1, "decoding.json, line 1: cannot be read (Infinity is no finite number)"),
        ]
    ],
    (
        f'{{"think": {THINK}, "direct": {{"guidance": 0}}}}',
        "decoding.json: direct.guidance: expected at least 1, got 0",
    ),
]


@pytest.mark.parametrize("content, message", DECODING)
def test_a_bad_decoding_is_named(tmp_path, content, message):
    (tmp_path / "decoding.json").write_text(content)
    with pytest.raises(UserError) as refusal:
        read_decoding(tmp_path / "decoding.json")
    assert str(refusal.value).startswith(f"{tmp_path}/{message}")


def test_the_commands_read_decoding_so(folder, monkeypatch):
    (folder / "decoding.json").write_text("{}")
    for verb in ("train rl", "sample-sets"):
        assert call(monkeypatch, folder, verb).startswith("decoding.json: think: missing")


def test_a_run_without_its_record_is_named(folder, monkeypatch):
    (folder / "init" / "run.json").write_text('{"run": "sft"}')
    assert call(monkeypatch, folder, "sample-sets").startswith("init/run.json: ema: expected whether the weights")


@pytest.mark.slow
def test_a_folder_cannot_be_a_file_nor_a_file_a_folder(folder, monkeypatch):
    (folder / "taken").write_text("")
    (folder / "full").mkdir()
    said = call(
        monkeypatch,
        folder,
        "train rl",
        COMMANDS["train rl"].replace("new/out", "taken"),
    )
    assert said == "--out taken: expected a folder or a new name, found something else"
    said = call(
        monkeypatch,
        folder,
        "tune",
        COMMANDS["tune"].replace("new/decoding.json", "full"),
    )
    assert said == "--out full: expected a file or a new name, found something else"
    assert (folder / "taken").read_text() == "" and not list((folder / "full").iterdir())


# ---- scores ------------------------------------------------------------------------------------------------

PROMPTS = [Prompt("a/0", "a photo of a circle", "x", {}), Prompt("a/1", "a photo of two rings", "x", {})]

RETURNS = {
    "nan": (
        "torch.tensor([0.5, float('nan')])",
        r"sample 1 \(a/1, 'a photo of two rings'\): expected a finite score, got",
    ),
    "inf": ("torch.tensor([float('-inf'), 0.0])", r"sample 0 \(a/0, 'a photo of a circle'\): .*, got -inf"),
    "column": ("torch.zeros(2, 1)", r"expected one score for each of 2 samples, got shape \(2, 1\)"),
    "too few": ("torch.zeros(1)", r"expected one score for each of 2 samples, got shape \(1,\)"),
    "one for all": ("torch.tensor(0.3)", r"expected one score for each of 2 samples, got shape \(\)"),
    "list": ("[0.1, 0.2]", "expected a tensor of scores, got list"),
    "numbers": ("torch.zeros(2, dtype=torch.long)", "expected a tensor of scores, got torch.int64"),
}


@pytest.mark.parametrize("returned, message", RETURNS.values(), ids=RETURNS)
def test_bad_scores_are_named(tmp_path, monkeypatch, returned, message):
    source = f"import torch\ndef build():\n    return lambda images, prompts: {returned}\n"
    own_rewards.add(monkeypatch, tmp_path, {"bad": source})
    with pytest.raises(UserError, match=f"^reward bad: {message}"):
        rewards.load("bad")(torch.zeros(2, 3, 48, 48), PROMPTS)


@pytest.mark.slow
def test_a_reward_of_nan_ends_training_without_a_model(folder, monkeypatch):
    from safetensors.torch import load_file, save_file

    path = folder / "reward" / "model.safetensors"
    save_file({k: v * 1e30 for k, v in load_file(path).items()}, path)  # finite, but their products are not
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=r"reward learned: sample 0 \(val/\S+, 'a photo of .*'\): .* got nan"):
        begin("train rl")
    assert [p.name for p in (folder / "new/out").iterdir()] == ["metrics.jsonl"]


def test_a_reward_for_images_of_another_size_says_so(folder):
    reward = rewards.load("learned", path=folder / "reward", device="cpu")
    with pytest.raises(UserError, match=r"expected images \(n, 3, 48, 48\), got \(2, 3, 32, 32\)"):
        reward(torch.zeros(2, 3, 32, 32), PROMPTS)


# ---- data of the learned reward ----------------------------------------------------------------------------


def write_data(folder: Path, prompts) -> None:
    import numpy as np

    samples = Samples(np.zeros((len(prompts), 48, 48, 3), dtype=np.uint8), [None] * len(prompts), 0)
    header = {"benchmark": "training", "version": "1", "mode": "mixed", "guidance_name": "unguided", "seed": 0}
    sample_folder.write(folder / "data", [(p, 0) for p in prompts], samples, header)


@pytest.mark.parametrize(
    "meta, message",
    [
        ({}, "data/manifest.jsonl, line 2: 'meta' needs 'include', the clauses to judge, found {}"),
        ({"include": [{"class": "ring"}]}, "data/manifest.jsonl, line 2: "),
    ],
)
def test_samples_that_cannot_be_judged_are_named(folder, monkeypatch, meta, message):
    write_data(folder, [prompt_set("val")[0], Prompt("mine", "a photo of a ring", "x", meta)])
    assert call(monkeypatch, folder, "train-reward").startswith(message)


@pytest.mark.parametrize(
    "text, message",
    [
        ("a photo of two stars", "line 2: 'prompt' must say what 'meta' includes, found 'a photo of two stars'"),
        ("a fine circle", "learned reward: prompt 'a fine circle': unknown word 'fine'"),
    ],
)
def test_samples_that_the_reward_cannot_read_are_named(folder, monkeypatch, text, message):
    mine = Prompt("mine", text, "x", {"include": [{"class": "circle", "count": 1}]})
    write_data(folder, [prompt_set("val")[0], mine])
    said = call(monkeypatch, folder, "train-reward")
    assert said.startswith("data/manifest.jsonl") and message in said


def test_samples_of_both_kinds_are_needed(folder, monkeypatch):
    for name in ("val", "train"):
        write_data(folder, prompt_set(name)[:3])
        said = call(monkeypatch, folder, "train-reward")
        assert said == "data/manifest.jsonl: expected samples of training and of validation prompts"


# ---- prompts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"prompt": "a photo', "line 2: not valid JSON"),
        ('{"prompt": ""}', "line 2: expected a JSON object with a non-empty string 'prompt'"),
        ('{"prompt": 3}', "line 2: expected a JSON object with a non-empty string 'prompt'"),
        ('"a photo of a ring"', "line 2: expected a JSON object, found str"),
    ],
)
def test_a_bad_line_of_prompts_is_named(tmp_path, line, message):
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "a photo of a ring"}}\n{line}\n{{"prompt": "a photo of a star"}}\n')
    with pytest.raises(UserError) as refusal:
        read_prompts(path)
    assert str(refusal.value).startswith(f"{path}, {message}")


def test_a_file_of_prompts_the_model_cannot_read_is_named(folder, monkeypatch):
    (folder / "mine.jsonl").write_text('{"prompt": "a photo of a ring"}\n{"prompt": "a photo of a dog"}\n')
    said = call(monkeypatch, folder, "sample", "init --prompts mine.jsonl --out new/x.png")
    assert said == "mine.jsonl: prompt 'a photo of a dog': the word 'dog' is not in this model's vocabulary"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "prompt: expected some words, got an empty text"),
        (" \n ", "prompt: expected some words, got an empty text"),
        ("a photo of a dog", "prompt 'a photo of a dog': the word 'dog' is not in this model's vocabulary"),
        ("a photo of a Circle", "the word 'Circle' is not in this model's vocabulary"),
    ],
)
def test_a_prompt_the_model_cannot_read_is_named(text, message):
    with pytest.raises(UserError) as refusal:
        tiny.model().prompt_ids(["a photo of a circle", text])
    assert message in str(refusal.value)


# ---- as processes ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_process_ends_with_the_message_alone(root, folder):
    """No traceback, exit code 2, nothing written."""
    set_json(folder / "rl.json", "rl.group_size", 1)
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}"}
    command = [
        sys.executable,
        "-m",
        "unigrpo",
        "train",
        *COMMANDS["train rl"].split(),
    ]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (2, "")
    expected = "error: rl.json: rl.group_size: expected at least 2, got 1\n"
    assert process.stderr == expected
    assert not (folder / "new").exists()
