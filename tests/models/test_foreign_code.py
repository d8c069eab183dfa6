"""A checkpoint may bring code of its own. No load runs it, not even where someone would say yes."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from evals.instruments import eyes
from rewards import clip_score
from unigrpo.core import weights
from unigrpo.core.errors import UserError
from unigrpo.judges.local import LocalVlm
from unigrpo.models.backbones.llm_dit import pair_files, pair_skeleton

CLASSES = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoProcessor")
CLASSES += ("AutoImageProcessor",)
CODE = """
from pathlib import Path
from transformers import PretrainedConfig
Path({sign!r}).write_text("executed")
class Thing(PretrainedConfig):
    model_type = "foreign"
"""
LOADS = {
    "a vision-language model": lambda path: LocalVlm(path, "cpu"),
    "a model": lambda path: weights.load_model(AutoModelForImageTextToText, path, "a model"),
    "a tokenizer": weights.tokenizer,
    "CLIP": lambda path: clip_score.build(str(path), device="cpu"),
    "a Mask2Former": lambda path: eyes.Mask2Former(path, torch.device("cpu")),
    "an OWLv2": lambda path: eyes.Owlv2(path, torch.device("cpu")),
    "a language model's card": lambda path: pair_skeleton._language_model(str(path)),
    "a language model": lambda path: pair_files._complete(pair_files.AutoModelForCausalLM, path, torch.float32),
}


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """(folder, the file that its code writes)."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder, sign = tmp_path / "foreign", tmp_path / "sign"
    folder.mkdir()
    named = {name: "code.Thing" for name in CLASSES} | {"AutoTokenizer": ["code.Thing", None]}
    card = json.dumps({"model_type": "foreign", "auto_map": named, "chat_template": "x"})
    for name in ("config", "tokenizer_config", "processor_config", "preprocessor_config"):
        (folder / f"{name}.json").write_text(card)
    (folder / "code.py").write_text(CODE.format(sign=str(sign)))
    save_file({"w": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
    return folder, sign


def test_the_trap_works(foreign):
    folder, sign = foreign
    AutoConfig.from_pretrained(folder)
    assert sign.read_text() == "executed"


@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_no_load_runs_a_checkpoint_s_code(foreign, load):
    folder, sign = foreign
    with pytest.raises((UserError, ValueError, AttributeError)) as caught:
        load(folder)
    assert not sign.exists()
    assert isinstance(caught.value, UserError) or load is LOADS["a language model's card"]
