"""Checkpoints: safetensors + JSON, each file replaced as a whole. Loading one never executes code.

``model.json`` + ``model.safetensors`` + ``tokenizer/`` are a finished model of the world, or the adapters of released
ones (``llm_dit``); a BAGEL is a folder of the files of its release.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json, replacing, write_json
from unigrpo.core.settings import from_dict, require, to_dict
from unigrpo.models.base import UnifiedModel
from unigrpo.models.codec import PatchCodec
from unigrpo.models.mot import MoT, MoTConfig
from unigrpo.models.sharding import like
from unigrpo.study.config import ModelConfig

FORMAT = 1


@dataclass(frozen=True)
class CodecCard:
    """Arguments of the codec."""

    channels: int
    patch: int
    downsample: int


@dataclass(frozen=True)
class Card:
    """What model.json says of the network; its other keys say where the weights come from."""

    format: int
    architecture: MoTConfig
    codec: CodecCard
    image_size: int

    def __post_init__(self):
        require(self.format == FORMAT, "format", f"{FORMAT}, got {self.format}")
        own, codec = self.architecture, self.codec
        for where, sizes in (("architecture.", asdict(own)), ("codec.", asdict(codec))):
            for name, size in sizes.items():
                if name.endswith("_id"):
                    require(0 <= size < own.vocab_size, where + name, f"a token below vocab_size, got {size}")
                else:
                    require(size > 0, where + name, f"a number > 0, got {size}")
        require(own.hidden_size % own.heads == 0, "architecture.hidden_size", "a multiple of heads")
        require(own.heads % own.kv_heads == 0, "architecture.heads", "a multiple of kv_heads")
        latents = own.latent_channels, own.latent_patch
        require((codec.channels, codec.patch) == latents, "codec", f"channels and patch {latents}, the architecture's")
        side, rest = divmod(self.image_size, codec.patch * codec.downsample)
        fits = rest == 0 and 0 < side <= own.max_latent_size
        require(fits, "image_size", f"1 to {own.max_latent_size} tokens of the codec a side")


def write_tensors(path: Path, tensors: dict[str, Tensor], notes: dict[str, str] | None = None) -> None:
    """Write safetensors, whole or not at all; ``notes`` go into its header."""
    with replacing(path) as temporary:
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, notes)
        except SafetensorError as error:
            raise UserError(f"{path}: cannot be written ({error})") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors. Raises UserError where the file is absent or damaged."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: not found, expected a safetensors file") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged or truncated, expected a complete safetensors file ({error})") from None


def check_weights(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Raise UserError naming the first of ``tensors`` that is not finite or not of ``module``: name, shape, kind."""
    own = module.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors:
            raise UserError(f"{path}: tensor {name} is missing: a checkpoint of another architecture?")
        if name not in own:
            raise UserError(f"{path}: unexpected tensor {name}: a checkpoint of another architecture?")
        if own[name].shape != tensors[name].shape:
            expected, got = tuple(own[name].shape), tuple(tensors[name].shape)
            raise UserError(f"{path}: tensor {name}: expected shape {expected}, got {got}")
        if own[name].is_floating_point() != tensors[name].is_floating_point():
            raise UserError(f"{path}: tensor {name}: expected {own[name].dtype}, got {tensors[name].dtype}")
        if not tensors[name].isfinite().all():
            raise UserError(f"{path}: tensor {name}: expected finite numbers, got NaN or infinity")


def load_weights(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load ``tensors`` into ``module`` (cast to its dtypes). Raises UserError naming the first that differs."""
    check_weights(module, tensors, path)
    own = module.state_dict()
    module.load_state_dict({k: like(own[k], v.to(own[k].dtype)) for k, v in tensors.items()})


def save_model(model: UnifiedModel, folder: Path, info: dict, half: bool = False) -> None:
    """Write a finished model; ``half`` stores fp16 (BAGEL: bf16). ``info`` (provenance) goes into model.json."""
    if model.backbone == "bagel":
        from unigrpo.models.backbones.bagel import bagel_backbone  # diffusers takes seconds to import

        return bagel_backbone.save(model, folder, info, half)
    if model.backbone == "llm_dit":
        from unigrpo.models.backbones.llm_dit import pair_files

        return pair_files.save(model, folder, info)
    save_tokenizer(model.tokenizer, folder / "tokenizer")
    tensors = model.state_dict()
    write_tensors(folder / "model.safetensors", {k: v.half() if half else v for k, v in tensors.items()})
    codec = CodecCard(model.codec.channels, model.codec.patch, model.codec.downsample)
    write_json(folder / "model.json", asdict(Card(FORMAT, model.mot.config, codec, model.image_size)) | info)


def load_model(
    folder: str | Path, device: torch.device | str = "cpu", expected: ModelConfig | None = None
) -> UnifiedModel:
    """Rebuild a model from its folder alone. Raises UserError for absent, damaged or foreign checkpoints, and for
    another architecture than ``expected``."""
    folder = Path(folder)
    if (folder / "llm_config.json").exists():
        from unigrpo.models.backbones.bagel import bagel_backbone  # diffusers takes seconds to import

        return bagel_backbone.load(folder, device=device, expected=expected)
    path, weights = folder / "model.json", folder / "model.safetensors"
    names = Card.__dataclass_fields__
    if read_json(path).get("backbone") == "llm_dit":
        from unigrpo.models.backbones.llm_dit import pair_files

        return pair_files.load(folder, device, expected)
    data = read_json(path, *names)
    try:
        card = from_dict(Card, {name: data[name] for name in names})
        if expected is not None:
            _check_architecture(card, expected)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    tokenizer = _load_tokenizer(folder / "tokenizer", card.architecture.vocab_size)

    def build() -> UnifiedModel:
        codec = PatchCodec(**asdict(card.codec))
        return UnifiedModel(MoT(card.architecture), codec, tokenizer, card.image_size)

    tensors = read_tensors(weights)
    with torch.device("meta"):  # a wrong size is met before memory is asked for
        check_weights(build(), tensors, weights)
    model = build()
    load_weights(model, tensors, weights)
    return model.to(device)


def _check_architecture(card: Card, expected: ModelConfig) -> None:
    found = asdict(card.architecture) | {"latent_downsample": card.codec.downsample, "image_size": card.image_size}
    for name, value in to_dict(expected).items():
        require(found[name] == value, name, f"{value}, the configuration's model.{name}, got {found[name]}")


def _load_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    path = folder / "tokenizer.json"
    read_json(path, "model", "added_tokens")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise UserError(f"{path}: expected a saved fast tokenizer ({error})") from None
    for name in ("is_local", "local_files_only"):  # how it was read: nothing to save again
        tokenizer.init_kwargs.pop(name, None)
    if len(tokenizer) > vocab_size:
        raise UserError(f"{path}: expected at most {vocab_size} words, the model's vocab_size, got {len(tokenizer)}")
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a tokenizer's files into ``folder``. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # the tokenizers library raises nothing narrower
        raise UserError(f"{folder}: cannot be written ({error})") from None
