"""BAGEL as a unified model: loaded from a release, saved as one.

In memory it is the same Mixture-of-Transformers, with a vision transformer and an autoencoder beside it, so everything
that trains and samples the world's model works on it. What differs is the system prompt: before a trace is written,
it stands in front of everything, a text piece like any other. ``system_prompt.txt`` in the model's folder replaces
this package's wording. The vision transformer, the connector and the autoencoder are not trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from transformers import Qwen2Tokenizer

from unigrpo.core.errors import UserError
from unigrpo.core.files import accessing, read_json, read_text, write_json, write_text
from unigrpo.core.settings import to_dict
from unigrpo.core.tensor_files import shapes_only, write_tensors
from unigrpo.models.backbones.bagel import bagel_files
from unigrpo.models.backbones.bagel.bagel_files import AUTOENCODER, NETWORK, TABLES
from unigrpo.models.backbones.bagel.multimodal import MultimodalMoT
from unigrpo.models.backbones.bagel.vae import Autoencoder, VaeConfig
from unigrpo.models.backbones.bagel.vit import VitConfig
from unigrpo.models.base import Trace
from unigrpo.models.checkpoint import save_tokenizer
from unigrpo.models.counting import Counting
from unigrpo.models.mot import MoT, MoTConfig
from unigrpo.models.mot_layers import Rotary, sincos_table
from unigrpo.models.mot_model import MoTModel
from unigrpo.models.mot_pieces import Context
from unigrpo.models.mot_sizes import expert_of
from unigrpo.study.config import ModelConfig

SYSTEM_PROMPT = "system_prompt.txt"
IMAGE_SIZE = 1024  # pixels a side, where a folder does not say; less where the position table is smaller


# of BAGEL-7B-MoT, for plans
VOCABULARY = {"vocab_size": 152_064, "bos_id": 151_644, "eos_id": 151_645}
VOCABULARY |= {"start_of_image_id": 151_652, "end_of_image_id": 151_653}
EYES = VitConfig(1152, 4304, 26, 16, 14, 70)
PICTURES = VaeConfig((128, 256, 512, 512), 2, 16)


class Bagel(MoTModel):
    """A unified model with a system prompt; ``cards`` are the configuration files that it was built from."""

    def __init__(
        self,
        mot: MultimodalMoT,
        codec: Autoencoder,
        tokenizer: Qwen2Tokenizer,
        image_size: int,
        system_prompt: str,
        cards: dict[str, dict],
    ):
        super().__init__(mot, codec, tokenizer, image_size)
        self.system_prompt, self.cards = system_prompt, cards
        self.system_ids = self.prompt_ids([system_prompt])[0]

    def with_network(self, mot: MoT) -> Bagel:
        return Bagel(mot, self.codec, self.tokenizer, self.image_size, self.system_prompt, self.cards)

    def framed(self, prompt_ids: list[list[int]], trace: Trace | None) -> list[list[int]]:
        """The system prompt precedes the prompts of those rows that have a trace."""
        thinks = [False] * len(prompt_ids) if trace is None else trace.mask.any(1).tolist()
        return [self.system_ids + p if t else p for p, t in zip(prompt_ids, thinks, strict=True)]

    def think(
        self, prompt_ids: list[list[int]], max_tokens: int, uniforms: Tensor | None, temperature: float
    ) -> tuple[Trace, Context]:
        """As for every model, after the system prompt."""
        return super().think([self.system_ids + ids for ids in prompt_ids], max_tokens, uniforms, temperature)

    def row_bytes(self, prompt_ids: list[list[int]], max_tokens: int) -> tuple[int, int]:
        """As for every model, after the system prompt."""
        return super().row_bytes([self.system_ids + ids for ids in prompt_ids], max_tokens)

    def weights(self) -> dict[str, Tensor]:
        return self.mot.state_dict()

    def save(self, folder: Path, info: dict, half: bool = False) -> None:
        """Write a release. ``half`` stores bf16, as the published file; otherwise nothing is rounded. ``info``
        (provenance) goes into ``model.json``, which is ours."""
        kind = torch.bfloat16 if half else None
        network = {name: tensor.to(kind or tensor.dtype) for name, tensor in self.weights().items()}
        write_tensors(folder / NETWORK, network, {"format": "pt"})
        write_tensors(folder / AUTOENCODER, self.codec.official(), {"format": "pt"})
        for name, card in self.cards.items():
            write_json(folder / name, card)
        write_text(folder / SYSTEM_PROMPT, self.system_prompt)
        with accessing(folder, "written"), TemporaryDirectory(dir=folder) as place:  # it would write through a link
            save_tokenizer(self.tokenizer, Path(place))
            for path in Path(place).iterdir():
                path.replace(folder / path.name)
        _write_card(folder, self.mot.config, self.codec, self.image_size, info)


def load(
    source: str | Path,
    *,
    expected: ModelConfig | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Bagel:
    """The model of a release: a folder, or an id of the hub.

    Images have the size of ``expected``, else that of the folder's model.json, else 1024 pixels a side. The network is
    loaded in ``dtype`` however it is stored, the autoencoder in fp32. Tensors are read one at a time, so that host
    memory holds about one copy of the network. Raises UserError, naming file, key or tensor, for anything missing,
    unexpected or contradictory, and for another architecture than ``expected``; the position tables alone may be
    missing.
    """
    folder, release, mot, codec, size = _checked(source, expected)
    stored = [name for name in mot.state_dict() if name in release.network.shapes]
    _fill(mot, release.network.read(stored), dtype, device)
    _fill(mot, _tables(mot, release.network), dtype, device)
    mot.rotary = Rotary(release.mot.hidden_size // release.mot.heads, release.mot.rope_theta).to(device)
    for name, parameter in mot.named_parameters():
        parameter.requires_grad_(expert_of(name) is not None)
    codec.to_empty(device=device).requires_grad_(False)
    places = codec.official()
    for name, tensor in release.autoencoder.read(list(places)):
        places[name].copy_(tensor)
    words = folder / SYSTEM_PROMPT if (folder / SYSTEM_PROMPT).exists() else Path(__file__).with_name(SYSTEM_PROMPT)
    return Bagel(mot, codec, release.tokenizer, size, read_text(words), release.cards)


def skeleton(model: ModelConfig) -> Bagel:
    """A model of these sizes without numbers, with the eyes, autoencoder and vocabulary of BAGEL-7B-MoT."""
    sizes = model.model_dump(exclude={"image_size", "latent_downsample"})
    with shapes_only():
        mot = MultimodalMoT(MoTConfig(**VOCABULARY, **sizes), EYES)
        codec = Autoencoder(PICTURES, model.latent_patch)
    mot.rotary = Rotary(model.hidden_size // model.heads, mot.config.rope_theta)
    codec.requires_grad_(False)
    for name, parameter in mot.named_parameters():
        parameter.requires_grad_(expert_of(name) is not None)
    return Bagel(mot, codec, Counting(), model.image_size, read_text(Path(__file__).with_name(SYSTEM_PROMPT)), {})


def adopt(source: str | Path, folder: Path, expected: ModelConfig, info: dict) -> None:
    """Make ``folder`` a release by links to the files of ``source``, after the checks of :func:`load`, with a
    ``model.json`` as :meth:`Bagel.save` writes it; a network in several files becomes one. Raises UserError."""
    origin, release, _, codec, _ = _checked(source, expected)
    if origin.resolve() == folder.resolve():
        raise UserError(f"{folder}: expected another folder than that of the released weights")
    if release.network.path.name != NETWORK:
        kind = bagel_files.dtype_of(release.network, "vae2llm.weight")
        return load(origin, expected=expected, dtype=kind).save(folder, info)
    names = {NETWORK, AUTOENCODER, *release.cards, *bagel_files.TOKENIZER, SYSTEM_PROMPT}
    with accessing(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
        for path in [p for p in sorted(origin.iterdir()) if p.name in names]:
            (folder / path.name).unlink(missing_ok=True)
            (folder / path.name).symlink_to(path.resolve())
    _write_card(folder, release.mot, codec, expected.image_size, info)


def _checked(
    source: str | Path, expected: ModelConfig | None
) -> tuple[Path, bagel_files.Release, MultimodalMoT, Autoencoder, int]:
    """Folder, content, network and autoencoder without memory, and image size of a release that can be loaded."""
    folder = bagel_files.fetch(source)
    release = bagel_files.read_release(folder)
    with shapes_only():
        mot = MultimodalMoT(release.mot, release.vit)
        codec = Autoencoder(release.vae, release.mot.latent_patch)
    release.network.check(mot.state_dict(), optional=TABLES)
    release.autoencoder.check(codec.official())
    if expected is not None:
        _check_architecture(folder, asdict(release.mot) | {"latent_downsample": codec.downsample}, expected)
    largest = release.mot.max_latent_size * codec.stride
    size = _image_size(folder, largest) if expected is None else expected.image_size
    if size % codec.stride or not 0 < size <= largest:
        raise UserError(f"{folder}: image_size: expected a multiple of {codec.stride} up to {largest}, got {size}")
    return folder, release, mot, codec, size


def _tables(mot: MultimodalMoT, stored: bagel_files.Stored) -> Iterable[tuple[str, Tensor]]:
    """The position tables that the file lacks, rounded as its other tensors are: the network has seen no others."""
    kind = bagel_files.dtype_of(stored, "vae2llm.weight")
    sides = {TABLES[0]: mot.config.max_latent_size, TABLES[1]: mot.vit.side}
    return ((k, sincos_table(n, mot.config.hidden_size).to(kind)) for k, n in sides.items() if k not in stored.shapes)


def _fill(
    module: nn.Module, tensors: Iterable[tuple[str, Tensor]], dtype: torch.dtype, device: torch.device | str
) -> None:
    """Put tensors in the place of parameters of ``module``, each in separate memory."""
    for name, tensor in tensors:
        owner, _, leaf = name.rpartition(".")
        copy = torch.empty(tensor.shape, dtype=dtype, device=device).copy_(tensor)
        setattr(module.get_submodule(owner), leaf, nn.Parameter(copy))


def _check_architecture(folder: Path, found: dict, expected: ModelConfig) -> None:
    for name, value in to_dict(expected).items():
        if name != "image_size" and found[name] != value:
            raise UserError(f"{folder}: {name}: expected {value}, the configuration's model.{name}, got {found[name]}")


def _image_size(folder: Path, largest: int) -> int:
    path, usual = folder / "model.json", min(IMAGE_SIZE, largest)
    size = read_json(path).get("image_size", usual) if path.exists() else usual
    if isinstance(size, bool) or not isinstance(size, int):
        raise UserError(f"{path}: image_size: expected a whole number, got {size!r}")
    return size


def _write_card(folder: Path, mot: MoTConfig, codec: Autoencoder, image_size: int, info: dict) -> None:
    sizes = {"channels": codec.channels, "patch": codec.patch, "downsample": codec.downsample}
    sizes |= {"scale": codec.config.scale, "shift": codec.config.shift}
    card = {"backbone": "bagel", "architecture": asdict(mot), "codec": sizes, "image_size": image_size}
    write_json(folder / "model.json", card | info)
