"""The Mixture-of-Transformers of the synthetic world, trained from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo.core import seeding, tensor_files
from unigrpo.core.files import read_json
from unigrpo.models import mot, mot_model, mot_sizes  # which are loaded when they are used
from unigrpo.study.facts import BackboneFacts

if TYPE_CHECKING:
    from unigrpo.study.config import ModelConfig, RunConfig

FACTS = BackboneFacts(released=False, closed_vocabulary=True)
FILES = ("model.json", FACTS.weights, FACTS.tokenizer)
TELLS = ("architecture", "codec")
LICENCE = "apache-2.0", "Apache-2.0, see `LICENSE`."
WHAT = """\
A Mixture-of-Transformers that writes a reasoning trace and then paints an image of {image_size} x {image_size} pixels
by flow matching, in the synthetic world of unigrpo, a reproduction of UniGRPO
([arXiv 2603.23500](https://arxiv.org/abs/2603.23500)). Its prompts have the world's few words; it knows nothing
else."""
ROPE_THETA = 100.0  # sequences have a few dozen tokens

summary = mot_sizes.summary


def holds(folder: Path) -> bool:
    """Whether ``folder`` is a checkpoint of this backbone: its model.json names none."""
    path = folder / "model.json"
    return path.exists() and "backbone" not in read_json(path)


def load(folder: Path, device, expected: ModelConfig | None) -> mot_model.MoTModel:
    """The model of a folder. Raises UserError."""
    return mot_model.load(folder, device, expected)


def skeleton(cfg: RunConfig, base: RunConfig) -> mot_model.MoTModel:
    """The model of a run without numbers, for plans."""
    with tensor_files.shapes_only():
        return _built(cfg.model)


def new_model(cfg: RunConfig) -> mot_model.MoTModel:
    """A model from scratch: fitted codec, word tokenizer, initialised network."""
    from unigrpo.world import render, traces

    model = _built(cfg.model)
    model.mot.initialise(seeding.generator(cfg.seed, "initialise"))
    rng = seeding.numpy_generator(cfg.seed, "codec")
    scenes = [traces.base_example(rng, False, traces.Imperfection())[2] for _ in range(4000)]
    model.codec.fit(render.render(scenes, cfg.model.image_size))
    return model


def _built(m: ModelConfig) -> mot_model.MoTModel:
    from unigrpo.world import prompts

    tokenizer = mot_model.build_tokenizer(prompts.vocabulary())
    frame = {key: tokenizer.convert_tokens_to_ids(token) for key, token in mot_model.FRAME.items()}
    sizes = m.model_dump(exclude={"image_size", "latent_downsample"})
    net = mot.MoT(mot.MoTConfig(vocab_size=len(tokenizer), rope_theta=ROPE_THETA, **sizes, **frame))
    patches = mot_model.PatchCodec(m.latent_channels, m.latent_patch, m.latent_downsample)
    return mot_model.MoTModel(net, patches, tokenizer, m.image_size)


def part_of(name: str) -> str | None:
    """Whose a tensor of the weights is, by its name."""
    room, _, rest = name.partition(".")
    return (mot_sizes.expert_of(rest) or "fixed") if room == "mot" else "fixed" if room == "codec" else None
