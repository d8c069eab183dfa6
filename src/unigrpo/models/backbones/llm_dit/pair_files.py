"""The files behind ``LlmDit``: two releases, which stay where they are, and a run's folder with the adapters.

A release is a folder or an id of the hub, in the layout of its library: a causal language model of transformers with
its tokenizer, and a StableDiffusion3Pipeline of diffusers. ``model.json`` names both, with a fingerprint of their
files, so that adapters never meet other weights than those they were trained on; ``model.safetensors`` holds the
adapters alone.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unigrpo.models.torchvision_compat import ensure_torchvision

ensure_torchvision()  # the libraries below import it

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPTextModelWithProjection,
    PreTrainedModel,
    T5EncoderModel,
)

from unigrpo.core import seeding, weights
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json, read_text
from unigrpo.core.settings import from_dict, require
from unigrpo.core.tensor_files import load_weights, read_tensors
from unigrpo.models.backbones.llm_dit import adapters
from unigrpo.models.backbones.llm_dit.pair import ADAPTER, LlmDit
from unigrpo.study.config import ModelConfig, RunConfig

PIPELINE = "StableDiffusion3Pipeline"
PARTS = {  # of the pipeline: class, and whether it may be absent
    "transformer": (SD3Transformer2DModel, False),
    "vae": (AutoencoderKL, False),
    "text_encoder": (CLIPTextModelWithProjection, False),
    "text_encoder_2": (CLIPTextModelWithProjection, False),
    "text_encoder_3": (T5EncoderModel, True),
}
INSTRUCTION = "reasoning_prompt.txt"
KINDS = {"no": torch.float32, "bf16": torch.bfloat16}
WANTED = (*weights.TEXTS, "*.safetensors")  # of a language model's repository


@dataclass(frozen=True)
class Card:
    """What ``model.json`` says of the model; its other keys say where the adapters come from."""

    backbone: Literal["llm_dit"]
    language_model: str  # folder or hub id
    language_model_files: str  # fingerprint
    pipeline: str
    pipeline_files: str
    lora_rank: int
    precision: Literal["no", "bf16"]  # of the released weights
    image_size: int  # pixels a side
    instruction: str  # what the language model reads before every prompt

    def __post_init__(self):
        require(self.lora_rank > 0, "lora_rank", f"more than 0, got {self.lora_rank}")
        require(self.image_size > 0, "image_size", f"more than 0, got {self.image_size}")


def adopt(cfg: RunConfig, folder: Path, info: dict) -> None:
    """Make ``folder`` a model of the two releases that ``cfg`` names, with fresh adapters, which change nothing yet.
    ``info`` (provenance) goes into model.json. Raises UserError for a release that is absent, incomplete or of another
    kind."""
    sources = {"language_model": cfg.language_model, "pipeline": cfg.released}
    found = {"language_model": _language_model(cfg.language_model), "pipeline": _pipeline(cfg.released)}
    # a folder is named in full: runs are started from anywhere
    named = {k: str(Path(v).resolve()) if Path(v).is_dir() else v for k, v in sources.items()}
    card = Card(
        backbone="llm_dit",
        language_model=named["language_model"],
        language_model_files=fingerprint(found["language_model"]),
        pipeline=named["pipeline"],
        pipeline_files=fingerprint(found["pipeline"]),
        lora_rank=cfg.rl.lora_rank,
        precision=cfg.precision,
        image_size=cfg.model.image_size,
        instruction=read_text(Path(__file__).with_name(INSTRUCTION)),
    )
    model = _build(card, found["language_model"], found["pipeline"], None, cfg.model)
    _draw(model, cfg.seed)
    model.save(folder, info)


def load(folder: Path, device: torch.device | str, expected: ModelConfig | None) -> LlmDit:
    """The model of a run's folder. Raises UserError for anything missing or damaged, for releases whose files are not
    those that the adapters were trained on, and for other image and latent sizes than ``expected``."""
    path, weights = folder / "model.json", folder / "model.safetensors"
    data = read_json(path, *Card.__dataclass_fields__)
    try:
        card = from_dict(Card, {name: data[name] for name in Card.__dataclass_fields__})
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    stored = read_tensors(weights)
    places = _language_model(card.language_model), _pipeline(card.pipeline)
    stated = {"language_model": card.language_model_files, "pipeline": card.pipeline_files}
    for (name, trained_on), place in zip(stated.items(), places, strict=True):
        if fingerprint(place) != trained_on:
            raise UserError(f"{path}: {name}: {place} does not hold the files that this model was made from")
    model = _build(card, *places, folder / "tokenizer", expected)
    load_weights(model, stored, weights)
    return model.to(device)


def fingerprint(folder: Path) -> str:
    """Equal where the configuration files are equal, and the weight files equally large."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(_files(folder)):
        content = str(path.stat().st_size).encode() if path.suffix == ".safetensors" else path.read_bytes()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    rooms = [folder / name for name in PARTS] if (folder / "model_index.json").exists() else [folder]
    for room in rooms:
        if room.is_dir():
            yield from (p for p in room.iterdir() if p.suffix == ".safetensors" or p.name.endswith("config.json"))


# ---------------------------------------------------------------------------------------------------- fetching
def _language_model(source: str) -> Path:
    what = "a causal language model"
    return _own(source, "config.json", what) or weights.repository(source, what, WANTED)


def _pipeline(source: str) -> Path:
    what = f"a {PIPELINE}"
    found = _own(source, "model_index.json", what)
    folder = found or weights.fetch(source, what, DiffusionPipeline.download)
    kind = read_json(folder / "model_index.json", "_class_name")["_class_name"]
    if kind != PIPELINE:
        raise UserError(f"{folder / 'model_index.json'}: _class_name: expected {PIPELINE}, got {kind!r}")
    return folder


def _own(source: str, file: str, what: str) -> Path | None:
    """The folder of a release that is on this machine, None where ``source`` is no folder. Raises UserError where it
    lacks ``file``."""
    folder = Path(source)
    if folder.is_dir() and not (folder / file).exists():
        raise UserError(f"{folder / file}: not found, expected {what}")
    return folder if folder.is_dir() else None


# ---------------------------------------------------------------------------------------------------- building
def _build(
    card: Card, language_model: Path, pipeline: Path, tokenizer: Path | None, expected: ModelConfig | None
) -> LlmDit:
    """The model with adapters as peft draws them. ``tokenizer``: a folder, that of the run or of the language model."""
    kind, index = KINDS[card.precision], read_json(pipeline / "model_index.json")
    if expected is not None:
        _check_sizes(pipeline, card, expected)
    words = _read(
        lambda: AutoTokenizer.from_pretrained(
            tokenizer or language_model, local_files_only=True, trust_remote_code=False
        ),
        language_model,
    )
    llm = _complete(AutoModelForCausalLM, language_model, kind)
    parts: dict[str, nn.Module | None] = {}
    for name, (cls, optional) in PARTS.items():
        if optional and index.get(name, [None])[0] is None:
            parts |= {name: None, "tokenizer_3": None}
            continue
        # the autoencoder stays in fp32: its pixels are what rewards judge
        parts[name] = _complete(cls, pipeline / name, torch.float32 if name == "vae" else kind)
    painter = _read(
        lambda: StableDiffusion3Pipeline.from_pretrained(
            pipeline, image_encoder=None, feature_extractor=None, local_files_only=True, **parts
        ),
        pipeline,
    )
    return assembled(llm, words, painter, card.lora_rank, card.image_size, card.instruction, card)


def assembled(
    llm: PreTrainedModel, words, painter: StableDiffusion3Pipeline, rank: int, image_size: int, instruction: str, origin
) -> LlmDit:
    """The two releases as one model, with adapters of ``rank`` as peft draws them; the rest as ``LlmDit`` takes it."""
    painter.vae.enable_slicing()  # one picture at a time: the decoder's activations are large
    for module in (llm, *(m for name in PARTS if (m := getattr(painter, name)) is not None)):
        module.requires_grad_(False).eval()
    for module, settings in zip((llm, painter.transformer), adapters.settings(rank), strict=True):
        module.add_adapter(settings)
        for name, p in module.named_parameters():
            if ADAPTER in name:  # in fp32 whatever the type of the base: updates are small
                p.data = p.data.float()
                p.requires_grad_(True)
    return LlmDit(llm, words, painter.transformer, painter, image_size, instruction, origin)


@torch.no_grad()
def _draw(model: LlmDit, seed: int) -> None:
    """Fresh adapters: A uniform as peft draws it, but from a named stream; B zero, so that they change nothing."""
    generator = seeding.generator(seed, "adapters")
    for name, p in model.named_parameters():
        if f"{ADAPTER}A" in name:
            bound = p.shape[1] ** -0.5
            p.copy_(torch.rand(p.shape, generator=generator) * 2 * bound - bound)
        elif ADAPTER in name:
            p.zero_()


def _check_sizes(pipeline: Path, card: Card, expected: ModelConfig) -> None:
    """The configuration's picture and latent sizes are those of the files."""
    where = {name: pipeline / name / "config.json" for name in ("transformer", "vae")}
    transformer = read_json(where["transformer"], "in_channels", "patch_size", "pos_embed_max_size")
    vae = read_json(where["vae"], "block_out_channels")
    found = {
        "latent_channels": (transformer["in_channels"], "transformer"),
        "latent_patch": (transformer["patch_size"], "transformer"),
        "max_latent_size": (transformer["pos_embed_max_size"], "transformer"),
        "latent_downsample": (2 ** (len(vae["block_out_channels"]) - 1), "vae"),
    }
    for name, (value, place) in found.items():
        size = getattr(expected, name)
        if value != size:
            raise UserError(f"{where[place]}: {name}: expected {size}, the configuration's model.{name}, got {value}")
    if card.image_size != expected.image_size:
        raise UserError(
            f"image_size: expected {expected.image_size}, the configuration's model.image_size, got {card.image_size}"
        )


def _complete(cls, folder: Path, kind: torch.dtype) -> PreTrainedModel | nn.Module:
    """A module with all its weights, from safetensors alone; one that the files lack is an error, not a new draw."""
    if not (folder / "config.json").exists():
        raise UserError(f"{folder / 'config.json'}: not found, expected a saved {cls.__name__}")
    ours = cls.__module__.startswith("transformers")
    named = {"dtype": kind, "trust_remote_code": False} if ours else {"torch_dtype": kind}
    options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    module, info = _read(lambda: cls.from_pretrained(folder, **named, **options), folder)
    for problem in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if names := sorted(map(str, info[problem])):
            raise UserError(f"{folder}: tensor {names[0]}: {problem.split('_')[0]} (of {len(names)})")
    return module


def _read(load, folder: Path):
    try:
        return load()
    except Exception as error:  # the libraries raise many kinds for a file that is absent, damaged or foreign
        raise UserError(f"{folder}: cannot be loaded ({weights.sentence(error)})") from None
