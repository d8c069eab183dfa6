"""inspect, diff, env and export: what they tell of a run is what its files hold."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests._support import tiny
from tests._support.command import unigrpo
from unigrpo.core import files, settings, tensor_files
from unigrpo.core.errors import UserError
from unigrpo.core.settings import replace
from unigrpo.study import config, provenance
from unigrpo.tools import describe, export

CONFIG = tiny.run_config()


def write_run(folder: Path, cfg=CONFIG, **facts) -> Path:
    """A finished run of the tiny model."""
    tiny.model().save(folder, {"run": cfg.run, "seed": cfg.seed, "stage": cfg.stage})
    files.write_json(folder / "run.json", provenance.record(cfg, device="cpu", wall_seconds=1.0) | facts)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run") / "seed3")


@pytest.fixture
def folder(finished, tmp_path):
    """A copy, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "seed3"))


@pytest.fixture
def call(capsys):
    """Call a verb; returns what it prints."""

    def run(*words):
        unigrpo(shlex.join(map(str, words)))
        return capsys.readouterr().out

    return run


# ---- inspect -----------------------------------------------------------------------------------------------


def test_inspect_tells_what_the_loaded_model_has(finished, call):
    told = json.loads(call("inspect", finished, "--json"))
    model = tiny.model()
    experts = {name: sum(p.numel() for p in ps) for name, ps in model.mot.expert_parameters().items()}
    everything = sum(tensor.numel() for tensor in model.state_dict().values())
    assert told["parameters"] == experts | {"fixed": everything - sum(experts.values())}
    content = (finished / "model.safetensors").read_bytes()
    assert (told["bytes"], told["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert (told["run"], told["seed"], told["stage"], told["parent"]) == ("tiny", 3, "rl", "sft")
    assert told["commit"] == provenance.commit() and told["stored_as"] == ["F32"]
    assert settings.from_dict(config.RunConfig, told["config"]) == CONFIG


def test_inspect_tells_people_the_same(finished, call):
    lines = dict(line.split(maxsplit=1) for line in call("inspect", finished).splitlines())
    told = describe.checkpoint(finished)
    assert lines["from"] == "run tiny, seed 3, stage rl, parent sft" and lines["sha256"] == told["sha256"]
    assert f"denoising expert {told['parameters']['image']:,}" in lines["parameters"]


def test_inspect_says_what_is_not_recorded(root, folder, call):
    (folder / "run.json").unlink()
    assert describe.checkpoint(folder)["config"] is None
    assert re.search(r"^commit +not recorded$", call("inspect", folder), re.MULTILINE)
    assert "stage base" in call("inspect", root / "assets/base")


def test_inspect_names_a_file_that_is_no_model(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-10])
    with pytest.raises(UserError, match=r"model.safetensors: cannot be read .*, expected a complete safetensors file"):
        describe.checkpoint(folder)
    tensor_files.write_tensors(folder / "model.safetensors", {"towers.w": torch.zeros(2)})
    with pytest.raises(UserError, match=r"unexpected tensor towers.w, expected those of a unigrpo model"):
        describe.checkpoint(folder)
    with pytest.raises(UserError, match=r"nowhere"):
        describe.checkpoint(folder / "nowhere")


# ---- diff --------------------------------------------------------------------------------------------------


def test_diff_shows_what_differs_and_no_more(finished, tmp_path, call):
    changed = replace(CONFIG, seed=4, rl=replace(CONFIG.rl, lr_text=2e-3, train=("text",)))
    other = write_run(tmp_path / "other", changed, commit="abc", versions=provenance.versions() | {"numpy": "1.0"})
    lines = [line.split(maxsplit=1) for line in call("diff", finished, other).splitlines()]
    titles = [line[0] for line in lines]
    expected = ["settings", "seed", "rl.train", "rl.lr_text", "provenance", "commit", "versions.numpy"]
    assert titles == expected
    rows = {key: " ".join(value.split()) for key, value in (line for line in lines if len(line) == 2)}
    assert rows["seed"] == "3 4" and rows["rl.lr_text"] == "0.001 0.002"
    assert rows["rl.train"] == '["text", "image"] ["text"]'
    assert rows["versions.numpy"] == f'"{np.__version__}" "1.0"'


def test_diff_of_equal_runs_and_of_everything(finished, call):
    assert call("diff", finished, finished) == "settings: no difference\nprovenance: no difference\n"
    lines = call("diff", finished, finished, "--all").splitlines()
    own = settings.flat(settings.to_dict(CONFIG))
    assert [line.split()[0] for line in lines[1 : 1 + len(own)]] == list(own) and "rl.lr_text" in own
    assert any(line.split()[0] == "source_hash" for line in lines)


def test_a_setting_that_one_run_did_not_have_is_shown():
    assert describe.compare({"a": 1, "b": {"c": None}}, {"a": 1, "b": {"d": 2}}) == [
        ("b.c", "null", "-"),
        ("b.d", "-", "2"),
    ]


def test_runs_of_earlier_versions_have_their_configuration_beside_the_record(folder, call):
    record = json.loads((folder / "run.json").read_text())
    settings = record.pop("config")
    files.write_json(folder / "run.json", record)
    with pytest.raises(UserError, match=r"expected a run's configuration in run.json, training.json or config.json"):
        call("diff", folder, folder)
    files.write_json(folder / "config.json", settings | {"seed": 7})
    assert provenance.configuration(folder)[1]["seed"] == 7
    files.write_json(folder / "training.json", settings)
    assert provenance.configuration(folder) == (f"{folder / 'training.json'}", settings)
    with pytest.raises(UserError, match=r"nowhere: expected the folder of a run"):
        call("diff", folder, folder / "nowhere")


# ---- env ---------------------------------------------------------------------------------------------------


def test_env_tells_versions_devices_and_threads(call):
    told = json.loads(call("env", "--json"))
    assert told["versions"]["torch"] == torch.__version__ and told["source_hash"] == provenance.source_hash()
    assert len(told["devices"]) == 1 + torch.cuda.device_count() and told["devices"]["cpu"]["cores"] == os.cpu_count()
    assert told["threads"]["torch"] == torch.get_num_threads()
    assert f"torch {torch.__version__}" in call("env")


# ---- export ------------------------------------------------------------------------------------------------


def score_row(tag, number, sample, guidance, **metrics):
    names = {"benchmark": "ta" if "ta" in metrics else "geneval", "version": "1", "mode": "think", "guidance": guidance}
    return names | {"prompt_id": f"{tag}/{number}", "tag": tag, "sample": sample, "metrics": metrics, "reason": ""}


def test_export_is_a_model_that_stands_for_itself(finished, tmp_path, call):
    """Moved elsewhere, it paints what the run's model paints."""
    assert call("export", finished, tmp_path / "made") == f"wrote {tmp_path / 'made'}\n"
    moved = (tmp_path / "made").rename(tmp_path / "moved")
    assert sorted(p.name for p in moved.iterdir()) == sorted(
        ["LICENSE", "README.md", "config.json", "model.json", "model.safetensors", "run.json", "tokenizer"]
    )
    assert config.load(moved / "config.json") == CONFIG
    pictures = []
    for model in (moved, finished):
        call("sample", model, "a photo of a ring", "--steps", 3, "--out", tmp_path / f"{model.name}.png")
        with Image.open(tmp_path / f"{model.name}.png") as picture:
            pictures.append(np.asarray(picture))
    assert np.array_equal(*pictures)


def test_the_card_says_what_it_is(finished, tmp_path):
    export.export(finished, tmp_path / "made")
    text = (tmp_path / "made/README.md").read_text()
    assert text.startswith("---\nlicense: apache-2.0\n") and "\n# Tiny\n" in text
    rows = re.findall(r"^\| (\S+|[a-z ]+) \| (.*?) \|(.*)$", text, re.MULTILINE)
    cells = {name.strip("`"): value for name, value, _ in rows}
    assert (
        cells["method"] == "`grpo`: reinforcement of the reasoning and the denoising part"
        and cells["run"] == "tiny, seed 3, scale smoke"
    )
    assert cells["base"] == "the run `sft` of the same scale" and cells["rl.lr_image"] == "0.001"
    assert cells["weights"].strip("sha256 `") == files.digest(tmp_path / "made/model.safetensors")
    assert "rl.lr_text" in cells and "rl.epochs" not in cells and "supervised.steps" not in cells
    assert "## Scores\n\nNot measured.\n" in text and "unigrpo sample . " in text


def test_the_card_has_the_scores_of_a_judged_run(folder, tmp_path):
    """By hand: GenEval weighs categories equally, (1 + 0.5 / 2) / 2; TA weighs prompts equally."""
    rows = [score_row("colors", 0, k, "tuned", official=1.0, gold=1.0) for k in (0, 1)]
    rows += [
        score_row("position", n, k, "tuned", official=float(n == k == 1), gold=0.0) for n in (0, 1) for k in (0, 1)
    ]
    rows += [score_row("compound", n, 0, "tuned", ta=ta, gold=0.5) for n, ta in enumerate((0.25, 0.5, 0.9))]
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files.write_json(folder / "samples/geneval.think.tuned/protocol.json", {"guidance": 2.5})
    export.export(folder, tmp_path / "made")
    head, line = re.findall(r"^\| (thinking|yes) \| (.*) \|$", (tmp_path / "made/README.md").read_text(), re.MULTILINE)
    shown = dict(zip(head[1].split(" | "), line[1].split(" | "), strict=True))
    assert (shown["guidance"], shown["images"]) == ("tuned (2.5)", "9")
    assert shown["GenEval"].startswith("0.625 [") and shown["TA"].startswith("0.550 [")


@pytest.mark.parametrize(
    "train, method, part",
    [(["image"], "fpo", "denoising"), (["text"], "grpo", "reasoning"), (["image"], "nft", "denoising")],
)
def test_the_card_names_the_method_that_the_run_declares(folder, train, method, part):
    cfg = replace(CONFIG, rl=tiny.reinforcement(train=train, method=method, same_noise=False))
    assert f"| method | `{method}`: reinforcement of the {part} part |" in export.card(folder, cfg)
    base = tiny.run_config("base")
    assert "| method | supervised pretraining" in export.card(folder, base)
    assert "| base | none, trained from scratch |" in export.card(folder, base)


def test_the_configuration_is_that_of_the_training(folder, tmp_path):
    """Whatever else lies in the folder of the run, as the configuration of an earlier call."""
    record = files.read_json(folder / "run.json")
    record["config"]["rl"]["rollouts"] = 40
    files.write_json(folder / "run.json", record)
    for name in ("config.json", "training.json"):
        files.write_json(folder / name, record["config"] | {"rl": record["config"]["rl"] | {"rollouts": 2}})
    export.export(folder, tmp_path / "made")
    assert config.load(tmp_path / "made/config.json").rl.rollouts == 40
    assert "| `rl.rollouts` | 40 |" in (tmp_path / "made/README.md").read_text()


def test_export_is_whole_or_absent(folder, tmp_path, monkeypatch):
    out = tmp_path / "made"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(UserError, match=r"made: is there already, expected a new folder"):
        export.export(folder, out)
    assert [p.name for p in out.iterdir()] == ["mine"]
    with monkeypatch.context() as broken:
        broken.setattr(export, "write_text", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export.export(folder, tmp_path / "other")
    (folder / "run.json").unlink()
    files.write_json(folder / "config.json", settings.to_dict(CONFIG))
    with pytest.raises(UserError, match=r"run.json: not found, expected a finished run"):
        export.export(folder, tmp_path / "other")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made", "seed3"]


# ---- all ---------------------------------------------------------------------------------------------------


def test_they_start_without_torch(root):
    code = "import sys, unigrpo.tools.{0}; sys.exit('torch' in sys.modules)"
    variables = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    for name in ("describe", "export"):
        assert subprocess.run([sys.executable, "-c", code.format(name)], env=variables).returncode == 0, name
