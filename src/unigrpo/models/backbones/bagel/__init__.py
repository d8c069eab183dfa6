"""BAGEL, as released."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo.models import mot_sizes
from unigrpo.study.facts import BackboneFacts

if TYPE_CHECKING:
    from unigrpo.models.backbones.bagel.bagel_backbone import Bagel
    from unigrpo.study.config import ModelConfig, RunConfig

FACTS = BackboneFacts(released=True, weights="ema.safetensors", tokenizer="tokenizer.json")
FILES = (
    *("model.json", FACTS.weights, "ae.safetensors", "llm_config.json", "vit_config.json", "system_prompt.txt"),
    *("tokenizer.json", "tokenizer_config.json"),
)
TELLS = ("architecture", "codec")
LICENCE = "apache-2.0", "Apache-2.0, as BAGEL's, see `LICENSE`."
WHAT = """\
BAGEL, a Mixture-of-Transformers that writes a reasoning trace and then paints an image of {image_size} x {image_size}
pixels by flow matching, trained with unigrpo, a reproduction of UniGRPO
([arXiv 2603.23500](https://arxiv.org/abs/2603.23500)). The files are those of a release of BAGEL, and one more."""

summary = mot_sizes.summary


def holds(folder: Path) -> bool:
    """Whether ``folder`` is a release of BAGEL."""
    return (folder / "llm_config.json").exists()


def load(folder: Path, device, expected: ModelConfig | None) -> Bagel:
    """The model of a folder. Raises UserError."""
    from unigrpo.models.backbones.bagel import bagel_backbone  # diffusers takes seconds to import

    return bagel_backbone.load(folder, device=device, expected=expected)


def adopt(cfg: RunConfig, folder: Path, info: dict) -> None:
    """Make ``folder`` the release that ``cfg`` names, by links to its files. Raises UserError."""
    from unigrpo.models.backbones.bagel import bagel_backbone

    bagel_backbone.adopt(cfg.released, folder, cfg.model, info)


def skeleton(cfg: RunConfig, base: RunConfig) -> Bagel:
    """The model of a run without numbers, for plans."""
    from unigrpo.models.backbones.bagel import bagel_backbone

    return bagel_backbone.skeleton(cfg.model)


def part_of(name: str) -> str | None:
    """Whose a tensor of the weights is, by its name."""
    return mot_sizes.expert_of(name) or "fixed"
