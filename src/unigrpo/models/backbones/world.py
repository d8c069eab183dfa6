"""The Mixture-of-Transformers of the synthetic world, trained from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unigrpo.core import seeding
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
SPECIAL_TOKENS = 5  # of the tokenizer
ROPE_THETA = 100.0  # sequences have a few dozen tokens

summary = mot_sizes.summary


def holds(folder: Path) -> bool:
    """Whether ``folder`` is a checkpoint of this backbone: its model.json names none."""
    path = folder / "model.json"
    return path.exists() and "backbone" not in read_json(path)


def load(folder: Path, device, expected: ModelConfig | None) -> mot_model.MoTModel:
    """The model of a folder. Raises UserError."""
    return mot_model.load(folder, device, expected)


def new_model(cfg: RunConfig) -> mot_model.MoTModel:
    """A model from scratch: fitted codec, word tokenizer, initialised network."""
    from unigrpo.world import prompts, render, traces

    m = cfg.model
    tokenizer = mot_model.build_tokenizer(prompts.vocabulary())
    frame = {key: tokenizer.convert_tokens_to_ids(token) for key, token in mot_model.FRAME.items()}
    sizes = m.model_dump(exclude={"image_size", "latent_downsample"})
    net = mot.MoT(mot.MoTConfig(vocab_size=len(tokenizer), rope_theta=ROPE_THETA, **sizes, **frame))
    net.initialise(seeding.generator(cfg.seed, "initialise"))
    patches = mot_model.PatchCodec(m.latent_channels, m.latent_patch, m.latent_downsample)
    rng = seeding.numpy_generator(cfg.seed, "codec")
    scenes = [traces.base_example(rng, False, traces.Imperfection())[2] for _ in range(4000)]
    patches.fit(render.render(scenes, m.image_size))
    return mot_model.MoTModel(net, patches, tokenizer, m.image_size)


def network(cfg: RunConfig) -> mot_sizes.Network:
    """Sizes for plans: the codec is a linear map of patches."""
    from unigrpo.world import prompts

    m, r = cfg.model, cfg.reward
    pixels, dim = 3 * (m.latent_patch * m.latent_downsample) ** 2, m.latent_patch**2 * m.latent_channels
    reward = 2 * r.layers * 12 * r.width**2 + r.fusion_layers * 12 * r.width**2
    vocabulary, codec = len(prompts.vocabulary()) + SPECIAL_TOKENS, pixels + pixels * dim + dim
    return mot_sizes.network(m, vocabulary=vocabulary, codec=codec, reward=reward)


def part_of(name: str) -> str | None:
    """Whose a tensor of the weights is, by its name."""
    room, _, rest = name.partition(".")
    return (mot_sizes.expert_of(rest) or "fixed") if room == "mot" else "fixed" if room == "codec" else None
