"""The files of a BAGEL release: what they say of the network, and their tensors, read one at a time.

A release is a folder with ``llm_config.json``, ``vit_config.json``, ``ema.safetensors`` (all of the network),
``ae.safetensors`` and a Qwen2 tokenizer. Some of what the network needs is in no configuration and is read off the
tensors. Sizes, names and shapes are compared before a tensor is loaded. Source: the public BAGEL-7B-MoT release.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import Qwen2Tokenizer

from unigrpo.core import weights
from unigrpo.core.errors import UserError, reading
from unigrpo.core.files import read_json
from unigrpo.core.settings import from_dict, require
from unigrpo.core.tensor_files import open_tensors
from unigrpo.models.backbones.bagel.vae import VaeConfig, sizes_of
from unigrpo.models.backbones.bagel.vit import VitConfig
from unigrpo.models.mot import MoTConfig
from unigrpo.models.mot_model import FRAME

NETWORK, AUTOENCODER, LLM, VIT = "ema.safetensors", "ae.safetensors", "llm_config.json", "vit_config.json"
CARD = "model.json"  # ours, beside the release's files
INDEX = "model.safetensors.index.json"  # of a network in several files
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
TABLES = ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed")  # fixed: computed where a file lacks them
FLOATS = ("F32", "BF16", "F16")  # how a tensor may be stored
TABLE_SIDE = 64  # of the latents' table, where the file lacks it
UNSUPPORTED = {  # what the published network does not use, and no value but these can be loaded
    LLM: {
        "hidden_act": "silu",
        "rope_scaling": None,
        "use_sliding_window": False,
        "qk_norm": True,
        "tie_word_embeddings": False,
    },
    VIT: {"hidden_act": "gelu_pytorch_tanh", "num_channels": 3},
}


@dataclass(frozen=True)
class LlmCard:
    """What is used of ``llm_config.json``; its token ids are not those that BAGEL uses."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6

    def __post_init__(self):
        _require_positive(self)
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        require(self.hidden_size % (2 * heads) == 0, "hidden_size", "an even number a head (num_attention_heads)")
        require(heads % kv_heads == 0, "num_attention_heads", "a multiple of num_key_value_heads")


@dataclass(frozen=True)
class VitCard:
    """What is used of ``vit_config.json``. Its last layer is not part of the network."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    layer_norm_eps: float = 1e-6

    def __post_init__(self):
        _require_positive(self)
        require(self.hidden_size % self.num_attention_heads == 0, "hidden_size", "a multiple of num_attention_heads")


def _require_positive(card: LlmCard | VitCard) -> None:
    for field in fields(card):
        value = getattr(card, field.name)
        require(value > 0, field.name, f"more than 0, got {value}")


@dataclass(frozen=True)
class Release:
    """A release, read up to its tensors: architecture, tokenizer, and where every tensor is."""

    mot: MoTConfig
    vit: VitConfig
    vae: VaeConfig
    tokenizer: Qwen2Tokenizer
    network: Stored
    autoencoder: Stored
    cards: dict[str, dict]  # the two configuration files as they are


@dataclass(frozen=True)
class Stored:
    """Tensors of one or several files: name -> file, name -> shape. ``path`` is what messages call them."""

    path: Path
    files: Mapping[str, Path]
    shapes: Mapping[str, tuple[int, ...]]

    def read(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        """These tensors, one at a time, as they are stored. Raises UserError for one that is not finite."""
        for path in sorted({self.files[name] for name in names}):
            with open_tensors(path) as file:
                for name in (n for n in names if self.files[n] == path):
                    tensor = file.get_tensor(name)
                    if not torch.stack(tensor.aminmax()).isfinite().all():  # the minimum with a NaN is NaN
                        raise UserError(f"{path}: tensor {name}: expected finite numbers, got NaN or infinity")
                    yield name, tensor

    def check(self, expected: Mapping[str, Tensor], optional: tuple[str, ...] = ()) -> None:
        """Raise UserError naming the first tensor that is missing, unexpected or of another shape."""
        missing = sorted(expected.keys() - self.shapes.keys() - set(optional))
        unexpected = sorted(self.shapes.keys() - expected.keys())
        for names, wrong in ((missing, "is missing"), (unexpected, "is unexpected")):
            if names:
                more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
                raise UserError(f"{self.path}: tensor {names[0]}{more} {wrong}; not the network of {LLM} and {VIT}?")
        for name, shape in self.shapes.items():
            right = tuple(expected[name].shape)
            if shape != right:
                raise UserError(f"{self.path}: tensor {name}: expected shape {right} by {LLM} and {VIT}, got {shape}")


def fetch(source: str | Path) -> Path:
    """The folder of a release: ``source`` itself, or the hub's repository of that id, in the hub's cache. Raises
    UserError where there is neither."""
    if Path(source).is_dir():
        return Path(source)
    wanted = f"a BAGEL release ({LLM}, {VIT}, {NETWORK}, {AUTOENCODER})"
    return weights.repository(source, wanted, ("*.json", "*.txt", "*.safetensors"))


def read_release(folder: Path) -> Release:
    """Everything but the tensors. Raises UserError naming file and key, or tensor."""
    llm, llm_data = _card(folder / LLM, LlmCard)
    vit, vit_data = _card(folder / VIT, VitCard)
    network, autoencoder = _stored(folder, NETWORK), _stored(folder, AUTOENCODER)
    try:
        vae = sizes_of(autoencoder.shapes)
    except KeyError as name:
        raise UserError(f"{autoencoder.path}: tensor {name} is missing") from None
    vae = replace(vae, **_scaling(folder / CARD))
    tokenizer, ids = read_tokenizer(folder, llm.vocab_size)
    config = MoTConfig(
        vocab_size=llm.vocab_size,
        hidden_size=llm.hidden_size,
        intermediate_size=llm.intermediate_size,
        layers=llm.num_hidden_layers,
        heads=llm.num_attention_heads,
        kv_heads=llm.num_key_value_heads,
        rope_theta=llm.rope_theta,
        rms_norm_eps=llm.rms_norm_eps,
        latent_channels=vae.latent_channels,
        latent_patch=_side(network, "vae2llm.weight", 1, vae.latent_channels),
        max_latent_size=_side(network, TABLES[0], 0) if TABLES[0] in network.shapes else TABLE_SIDE,
        **ids,
    )
    seeing = VitConfig(
        hidden_size=vit.hidden_size,
        intermediate_size=vit.intermediate_size,
        layers=vit.num_hidden_layers - 1,
        heads=vit.num_attention_heads,
        patch=vit.patch_size,
        side=vit.image_size // vit.patch_size,
        layer_norm_eps=vit.layer_norm_eps,
    )
    return Release(config, seeing, vae, tokenizer, network, autoencoder, {LLM: llm_data, VIT: vit_data})


def read_tokenizer(folder: Path, vocab_size: int) -> tuple[Qwen2Tokenizer, dict[str, int]]:
    """The tokenizer, and the ids of the four tokens that frame text pieces and image blocks, by their names in
    MoTConfig. Raises UserError."""
    if not (folder / "tokenizer.json").exists() and not (folder / "vocab.json").exists():
        raise UserError(f"{folder}: no tokenizer, expected tokenizer.json, or vocab.json and merges.txt")
    with reading(folder, "a Qwen2 tokenizer"):
        tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
    for name in ("is_local", "local_files_only"):  # how it was read: nothing to save again
        tokenizer.init_kwargs.pop(name, None)
    known = tokenizer.get_vocab()
    for token in FRAME.values():
        if token not in known:
            raise UserError(f"{folder}: the tokenizer has no token {token}: of another model?")
    if max(known.values()) >= vocab_size:
        raise UserError(f"{folder}: the tokenizer has {max(known.values()) + 1} tokens, {LLM} only {vocab_size}")
    return tokenizer, {role: known[token] for role, token in FRAME.items()}


def _card(path: Path, kind: type) -> tuple:
    data = read_json(path)
    for key, value in UNSUPPORTED[path.name].items():
        if data.get(key, value) != value:
            raise UserError(f"{path}: {key}: expected {value!r}, got {data[key]!r}")
    used = {field.name: data[field.name] for field in fields(kind) if field.name in data}
    try:
        return from_dict(kind, used), data
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _scaling(path: Path) -> dict[str, float]:
    """Scale and shift of the autoencoder's latents, where our card states them."""
    codec = read_json(path).get("codec", {}) if path.exists() else {}
    require(isinstance(codec, dict), f"{path}: codec", "a mapping")
    stated = {name: codec[name] for name in ("scale", "shift") if name in codec}
    for name, value in stated.items():
        number = isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
        positive = number and (name == "shift" or value > 0)
        require(positive, f"{path}: codec.{name}", f"a number{' above 0' if name == 'scale' else ''}, got {value!r}")
    return stated


def _stored(folder: Path, name: str) -> Stored:
    """The tensors of a file, or of the several that the folder's index names in its place."""
    path, index = folder / name, folder / INDEX
    if path.exists() or name != NETWORK or not index.exists():
        paths = [path]
    else:
        path = index
        places = read_json(index, "weight_map")["weight_map"]
        require(isinstance(places, dict) and len(places) > 0, f"{index}: weight_map", "names of tensors and files")
        paths = sorted({folder / str(place) for place in places.values()})
    files, shapes = {}, {}
    for part in paths:
        with open_tensors(part) as file:
            for tensor in file.keys():  # noqa: SIM118
                stored = file.get_slice(tensor)
                if stored.get_dtype() not in FLOATS:
                    raise UserError(f"{part}: tensor {tensor}: expected {FLOATS}, got {stored.get_dtype()}: quantised?")
                files[tensor], shapes[tensor] = part, tuple(stored.get_shape())
    return Stored(path, files, shapes)


def _side(stored: Stored, name: str, axis: int, depth: int = 1) -> int:
    """The side of a square that an axis of a tensor holds, ``depth`` numbers a cell."""
    if name not in stored.shapes:
        raise UserError(f"{stored.path}: tensor {name} is missing; not a BAGEL network?")
    shape = stored.shapes[name]
    cells, rest = divmod(shape[axis], depth) if len(shape) == 2 else (0, 1)
    if rest or cells < 1 or math.isqrt(cells) ** 2 != cells:
        raise UserError(f"{stored.path}: tensor {name}: expected {depth} times a square on axis {axis}, got {shape}")
    return math.isqrt(cells)


def dtype_of(stored: Stored, name: str) -> torch.dtype:
    """How a tensor is stored."""
    with open_tensors(stored.files[name]) as file:
        return file.get_slice(name)[:0].dtype
