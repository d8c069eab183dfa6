"""Checkpoints of the hub by revision, from a cache laid out as the hub's client lays it, without a network."""

import json

import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests._support import published, tiny
from unigrpo import training
from unigrpo.__main__ import call
from unigrpo.commands import workflow
from unigrpo.core import weights
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json
from unigrpo.core.settings import check_options
from unigrpo.judges import reward as rewards

OLD, NEW = "a" * 40, "b" * 40
PROMPT = '{"a red cat": "cat.png"}'


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Two commits of someone/clip, whose weights differ; main is the newer one, v1 the older one."""
    folder = tmp_path_factory.mktemp("hub")
    repo = folder / "models--someone--clip"
    for commit, scale in ((OLD, 1.0), (NEW, 2.0)):
        clip = published.clip(repo / "snapshots" / commit)
        tensors = load_file(clip / "model.safetensors")
        tensors["logit_scale"] = tensors["logit_scale"] * scale
        save_file(tensors, clip / "model.safetensors", {"format": "pt"})
    for name, commit in (("main", NEW), ("v1", OLD)):
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / name).write_text(commit)
    return folder


@pytest.fixture(autouse=True)
def offline(cache, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


@pytest.mark.parametrize(
    "name, commit",
    [("someone/clip", NEW), ("someone/clip@main", NEW), ("someone/clip@v1", OLD), (f"someone/clip@{OLD}", OLD)],
)
def test_a_revision_is_its_commit(name, commit):
    with weights.watched() as found:
        path = weights.folder(name)
        assert weights.file(name, "config.json") == path / "config.json"
    assert path.name == commit and all(name.startswith(f"someone/clip@{commit}/") for name in found)
    assert found[f"someone/clip@{commit}/model.safetensors"] == path / "model.safetensors"
    assert f"someone/clip@{commit}/vocab.json" in found or f"someone/clip@{commit}/tokenizer.json" in found


def test_a_revision_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match="^someone/clip@v2: no such folder .*`hf download someone/clip --revision v2 "):
        weights.folder("someone/clip@v2")
    with pytest.raises(UserError, match="^someone/clip@: no such file or folder, expected a checkpoint, or a repos"):
        weights.folder("someone/clip@")
    for name in ("someone/clip@", "clip@v1", "someone/clip@v 1"):
        with pytest.raises(UserError, match="^weights: expected a file or folder .*owner/name@revision"):
            check_options(rewards.REWARDS.load("pickscore").build, {"weights": name}, str)


def version(tmp_path, **options):
    """Of pickscore's mean over one picture, with its weights as the summary has them."""
    Image.new("RGB", (32, 32), "red").save(tmp_path / "cat.png")
    (tmp_path / "images.json").write_text(PROMPT)
    reward = f"pickscore={json.dumps(options | {'device': 'cpu'})}"
    assert call(["judge", "mean_reward", "--images", str(tmp_path / "images.json"), "--reward", reward]) == 0
    summary = read_json(tmp_path / "images.json.mean_reward/summary.json")
    return summary["version"].split(" weights:")[1], summary["weights"]


def test_two_revisions_never_share_a_version(cache, tmp_path, monkeypatch):
    """The weights' content decides: of an id, of a folder of equal files, and of the weights that nobody names."""
    old, new = (f"someone/clip@{commit}" for commit in ("v1", "main"))
    first, files = version(tmp_path, weights=old, tokenizer=old)
    second, _ = version(tmp_path, weights=new, tokenizer=new)
    assert first != second and f"someone/clip@{OLD}/model.safetensors" in files and NEW not in str(files)
    local = cache / "models--someone--clip/snapshots" / OLD
    assert version(tmp_path, weights=str(local)) == (first, [])
    module = rewards.REWARDS.load("pickscore")
    monkeypatch.setattr(module.build, "__defaults__", ("someone/clip", "someone/clip", 64, "auto"))
    again, files = version(tmp_path)
    assert again == second and f"someone/clip@{NEW}/model.safetensors" in files


def test_a_reward_knows_the_files_of_all_of_its_parts(cache):
    options = {"weights": "someone/clip@v1", "tokenizer": "someone/clip", "device": "cpu"}
    alone = rewards.load("pickscore", **options)
    whole = rewards.load("weighted", parts={"pickscore": {"weight": 1.0, "options": options}})
    assert whole.files == alone.files and f"someone/clip@{OLD}/model.safetensors" in whole.files
    assert any(name.startswith(f"someone/clip@{NEW}/") for name in alone.files)
    with weights.watched() as found:
        pass
    assert found == {} and rewards.load("jpeg").files == {}


def test_a_run_records_the_files_of_the_hub_and_goes_on_with_them_alone(cache, tmp_path, monkeypatch):
    options = {"weights": "someone/clip@v1", "tokenizer": "someone/clip@v1", "device": "cpu"}
    cfg = tiny.run_config(rl=tiny.RL.changed({"reward": "pickscore", "reward_options": options}))
    given = {}
    run = training.reinforcement_run
    monkeypatch.setattr(run, "train", lambda cfg, out, init, reward, decoding, inputs: given.update(inputs))
    monkeypatch.setattr(run, "fate_of", lambda init: None)
    workflow._reinforce(cfg, tmp_path / "out", tmp_path, None, tmp_path / "decoding.json", None)
    path = cache / "models--someone--clip/snapshots" / OLD / "model.safetensors"
    assert given[f"someone/clip@{OLD}/model.safetensors"] == path
