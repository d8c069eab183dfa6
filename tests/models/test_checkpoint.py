"""Checkpoints: what is saved comes back, what is damaged or foreign is named, and nothing in them is ever executed."""

from __future__ import annotations

import ast
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests._support import tiny
from unigrpo.core.errors import UserError
from unigrpo.core.settings import replace
from unigrpo.models import checkpoint

PROMPTS = ["a photo of a red circle", "a photo of two hearts left of a blue star"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    tiny.model().save(folder, {"run": "tiny"})
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_a_saved_model_comes_back(saved):
    model = checkpoint.load_model(saved, expected=tiny.MODEL)
    for name, tensor in tiny.model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert model.mot.config == tiny.model().mot.config and model.image_size == 48
    assert model.prompt_ids(PROMPTS) == tiny.model().prompt_ids(PROMPTS)
    assert json.loads((saved / "model.json").read_text())["run"] == "tiny"
    x, t = torch.ones(2, *model.latent_shape), torch.tensor([0.3, 0.9])
    with torch.no_grad():
        ours, theirs = ((m, m.encode(m.prompt_ids(PROMPTS), None)[1]) for m in (model, tiny.model()))
        assert torch.equal(ours[0].velocity(ours[1], x, t), theirs[0].velocity(theirs[1], x, t))


def test_half_precision_is_for_the_disk_only(tmp_path):
    tiny.model().save(tmp_path, {}, half=True)
    assert all(v.dtype == torch.float16 for v in load_file(tmp_path / "model.safetensors").values())
    model = checkpoint.load_model(tmp_path)
    for name, tensor in tiny.model().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.half().float()), name


def test_equal_models_are_equal_files(saved, tmp_path):
    checkpoint.load_model(saved).save(tmp_path, {"run": "tiny"})
    for path in (p for p in saved.rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / path.relative_to(saved)).read_bytes(), path


# ---- damaged and foreign checkpoints -----------------------------------------------------------------------


def card(**changes):
    """Change keys of model.json; ``a__b`` is key b of a; None removes."""

    def edit(folder):
        path = folder / "model.json"
        data = json.loads(path.read_text())
        for key, value in changes.items():
            *outer, name = key.split("__")
            inner = data[outer[0]] if outer else data
            if value is None:
                del inner[name]
            else:
                inner[name] = value
        path.write_text(json.dumps(data))

    return edit


def cut(name, share):
    def edit(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return edit


def tensors(change):
    def edit(folder):
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path)

    return edit


def write(name, content):
    return lambda folder: (folder / name).write_text(content)


def remove(name):
    def edit(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return edit


def without(values, name):
    return {k: v for k, v in values.items() if k != name}


INCOMPLETE = "model.safetensors: cannot be read .*, expected a complete safetensors file"

NORM = "mot.language_model.model.norm.weight"
BAD = {
    "no model.json": (remove("model.json"), "model.json: not found"),
    "model.json cut": (cut("model.json", 0.5), r"model.json, line \d+: not valid JSON"),
    "model.json a list": (write("model.json", "[1]"), "model.json, line 1: expected a JSON object, found list"),
    "key missing": (card(codec=None), "model.json: 'codec' is missing"),
    "format": (card(format=9), "model.json: format: expected 1, got 9"),
    "architecture text": (card(architecture="big"), "model.json: architecture: expected a mapping"),
    "unknown part": (card(architecture__experts=3), "model.json: architecture.experts: unknown key"),
    "misspelt part": (card(architecture__head=2), r"architecture.head: unknown key"),
    "part missing": (card(architecture__layers=None), "model.json: architecture.layers: missing"),
    "type": (card(architecture__layers="2"), "model.json: architecture.layers: expected a whole number, got '2'"),
    "zero": (card(architecture__heads=0), "model.json: architecture.heads: expected a number > 0, got 0"),
    "negative codec": (card(codec__patch=-2), "model.json: codec.patch: expected a number > 0, got -2"),
    "heads": (card(architecture__heads=3), "model.json: architecture.hidden_size: expected a multiple of heads"),
    "kv heads": (card(architecture__kv_heads=4), "model.json: architecture.heads: expected a multiple of kv_heads"),
    "codec": (card(codec__channels=5), r"model.json: codec: expected channels and patch \(4, 2\)"),
    "image size": (card(image_size=50), "model.json: image_size: expected 1 to 4 tokens of the codec a side"),
    "large image": (card(image_size=480), "model.json: image_size: expected 1 to 4 tokens of the codec a side"),
    "token": (card(architecture__eos_id=5000), "model.json: architecture.eos_id: expected a token below vocab_size"),
    "wider": (
        card(architecture__hidden_size=64),
        r"model.safetensors: tensor \S+: expected shape \(.*64\), got \(.*32\)",
    ),
    "huge": (card(architecture__intermediate_size=10**13), r"model.safetensors: tensor \S+mlp\S+: expected shape"),
    "deeper": (card(architecture__layers=3), r"model.safetensors: tensor \S+layers.2\S+ is missing: .* architecture"),
    "shallower": (
        card(architecture__layers=1),
        r"model.safetensors: unexpected tensor \S+layers.1\S+: a checkpoint of",
    ),
    "fewer heads": (card(architecture__heads=1), r"model.safetensors: tensor \S+: expected shape"),
    "no weights": (remove("model.safetensors"), INCOMPLETE),
    "weights cut": (cut("model.safetensors", 0.9), INCOMPLETE),
    "header cut": (cut("model.safetensors", 0.001), INCOMPLETE),
    "empty": (cut("model.safetensors", 0), INCOMPLETE),
    "text": (write("model.safetensors", "hello, I am a model"), INCOMPLETE),
    "tensor lost": (tensors(lambda t: without(t, NORM)), f"model.safetensors: tensor {NORM} is missing"),
    "tensor more": (tensors(lambda t: t | {"extra": t[NORM] + 0}), "model.safetensors: unexpected tensor extra"),
    "integers": (tensors(lambda t: t | {NORM: t[NORM].long()}), f"{NORM}: expected torch.float32, got torch.int64"),
    "no tokenizer": (remove("tokenizer"), "tokenizer/tokenizer.json: cannot be read"),
    "no tokenizer.json": (remove("tokenizer/tokenizer.json"), "tokenizer/tokenizer.json: cannot be read"),
    "tokenizer cut": (cut("tokenizer/tokenizer.json", 0.5), r"tokenizer.json, line \d+: not valid JSON"),
    "tokenizer empty": (write("tokenizer/tokenizer.json", "{}"), "tokenizer.json: 'model' is missing"),
    "tokenizer foreign": (
        write("tokenizer/tokenizer.json", '{"version": "1.0", "model": {"type": "X"}, "added_tokens": []}'),
        "tokenizer.json: cannot be read .*, expected a saved fast tokenizer",
    ),
    "vocabulary": (card(architecture__vocab_size=30), "tokenizer.json: expected at most 30 words"),
}


@pytest.mark.parametrize("damage, message", BAD.values(), ids=BAD)
def test_a_bad_checkpoint_is_named(folder, damage, message):
    damage(folder)
    with pytest.raises(UserError, match=message) as refusal:
        checkpoint.load_model(folder)
    assert str(refusal.value).startswith(str(folder))


@pytest.mark.parametrize("key", ["hidden_size", "latent_downsample", "image_size", "max_latent_size"])
def test_a_model_of_another_size_than_configured_is_named(saved, key):
    expected = replace(tiny.MODEL, hidden_size=64) if key == "hidden_size" else tiny.MODEL
    changes = {"latent_downsample": 12, "image_size": 16, "max_latent_size": 5}
    if key in changes:
        expected = replace(expected, **{key: changes[key]})
    with pytest.raises(
        UserError, match=rf"model.json: {key}: expected {getattr(expected, key)}, the .*model.{key}, got"
    ):
        checkpoint.load_model(saved, expected=expected)


# ---- no code in checkpoints --------------------------------------------------------------------------------


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.write_text, (self.path, "executed")


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "tokenizer/tokenizer.json"])
def test_a_pickle_is_refused_unread(folder, tmp_path, name):
    sign = tmp_path / "sign"
    pickle.loads(pickle.dumps(Bomb(sign)))
    assert sign.read_text() == "executed"
    sign.unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(sign)))
    with pytest.raises(UserError, match=name):
        checkpoint.load_model(folder)
    torch.save({"w": Bomb(sign)}, folder / name)
    with pytest.raises(UserError, match=name):
        checkpoint.load_model(folder)
    assert not sign.exists()


FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "eval", "exec", "yaml.unsafe_load"}
FILES = sorted(p for f in ("src", "rewards", "evals") for p in (Path(__file__).parents[2] / f).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: "/".join(p.parts[-2:]))
def test_nothing_that_runs_code_from_files_is_used(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
            assert not names & FORBIDDEN_MODULES and not (names & {"load"} and "torch" in names)
        if isinstance(node, ast.Call):
            name, options = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            safely = name == "torch.load" and options.get("weights_only") == "True"  # a published file of a reward
            assert safely or name not in FORBIDDEN_CALLS, name
            asked = name.startswith("Auto") and name.endswith(".from_pretrained")  # None would ask whoever sits there
            assert options.get("trust_remote_code", None if asked else "False") == "False", f"line {node.lineno}"
            assert options.get("weights_only") != "False"
            if name in ("np.load", "numpy.load", "np.save", "numpy.save"):
                assert options.get("allow_pickle") == "False", f"line {node.lineno}"
            if name == "YAML":
                assert options.get("typ") == "'safe'", f"line {node.lineno}"
