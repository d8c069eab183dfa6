"""A language model that reasons and a diffusion transformer that paints, with adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo.core.files import read_json
from unigrpo.study.facts import BackboneFacts

if TYPE_CHECKING:
    from unigrpo.models.backbones.llm_dit.pair import LlmDit
    from unigrpo.study.config import ModelConfig, RunConfig

KIND = "llm_dit"  # in model.json
FACTS = BackboneFacts(
    released=True,
    language_model=True,
    adapters_only=True,
    splits=False,
    recomputes=False,
    gradient_through_trace=False,
)
FILES = ("model.json", FACTS.weights, FACTS.tokenizer)
TELLS = ("language_model", "pipeline", "lora_rank")
LICENCE = "other", "The adapters: Apache-2.0, see `LICENSE`. The two released models have other licences."
WHAT = """\
Adapters of rank {lora_rank} for the language model `{language_model}`, which writes a reasoning trace, and the
pipeline `{pipeline}`, which paints prompt and trace as an image of {image_size} x {image_size} pixels. Trained with
unigrpo, a reproduction of UniGRPO ([arXiv 2603.23500](https://arxiv.org/abs/2603.23500)).

`language_model/` is for peft, `pytorch_lora_weights.safetensors` for a diffusers pipeline's `load_lora_weights`; the
other files are for unigrpo. The two released models are not in this folder."""
PARTS = {"llm": "text", "transformer": "image"}  # first words of the adapters' names


def holds(folder: Path) -> bool:
    """Whether ``folder`` is a checkpoint of this backbone: its model.json says so."""
    path = folder / "model.json"
    return path.exists() and read_json(path).get("backbone") == KIND


def load(folder: Path, device, expected: ModelConfig | None) -> LlmDit:
    """The model of a folder. Raises UserError."""
    from unigrpo.models.backbones.llm_dit import pair_files  # diffusers takes seconds to import

    return pair_files.load(folder, device, expected)


def adopt(cfg: RunConfig, folder: Path, info: dict) -> None:
    """Make ``folder`` a model of the two releases that ``cfg`` names, with fresh adapters. Raises UserError."""
    from unigrpo.models.backbones.llm_dit import pair_files

    pair_files.adopt(cfg, folder, info)


def convert(folder: Path, out: Path) -> None:
    """Write the adapters of ``folder`` into ``out`` as peft and diffusers read them. Raises UserError."""
    from unigrpo.models.backbones.llm_dit import adapters

    adapters.convert(folder, out)


def skeleton(cfg: RunConfig, base: RunConfig) -> LlmDit:
    """The model of a run without numbers, for plans, of the two releases that ``base`` names. Raises UserError where
    their sizes are not known."""
    from unigrpo.models.backbones.llm_dit import pair_skeleton

    return pair_skeleton.skeleton(cfg, base)


def part_of(name: str) -> str | None:
    """Whose a tensor of the weights is, by its name."""
    return PARTS.get(name.partition(".")[0])


def summary(card: dict) -> str:
    """The architecture in one line, from model.json. Raises KeyError."""
    return f"adapters of rank {card['lora_rank']} for {card['language_model']} and {card['pipeline']}"
