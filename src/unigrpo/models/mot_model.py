"""The Mixture-of-Transformers as a unified model: network, image codec and tokenizer, and the folder that holds them.

``model.json`` + ``model.safetensors`` + ``tokenizer/``: the world's model. BAGEL is a subclass with other files. What
the methods are for is said in :class:`unigrpo.models.base.UnifiedModel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from unigrpo.core.errors import UserError, error_prefix, reading
from unigrpo.core.files import read_json, write_json
from unigrpo.core.settings import from_dict, require, to_dict
from unigrpo.core.tensor_files import check_weights, load_weights, read_tensors, shapes_only, write_tensors
from unigrpo.models.base import States, Trace, chosen_logp, padded
from unigrpo.models.checkpoint import save_tokenizer
from unigrpo.models.mot import MoT, MoTConfig
from unigrpo.models.mot_layers import patchify, unpatchify
from unigrpo.models.mot_pieces import Context
from unigrpo.study.config import ModelConfig

FORMAT = 1
FRAME = {  # special tokens around text pieces and image blocks, as in BAGEL
    "bos_id": "<|im_start|>",
    "eos_id": "<|im_end|>",
    "start_of_image_id": "<|vision_start|>",
    "end_of_image_id": "<|vision_end|>",
}
UNKNOWN = "<unk>"


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
        net, codec = self.architecture, self.codec
        for where, sizes in (("architecture.", asdict(net)), ("codec.", asdict(codec))):
            for name, size in sizes.items():
                if name.endswith("_id"):
                    require(0 <= size < net.vocab_size, where + name, f"a token below vocab_size, got {size}")
                else:
                    require(size > 0, where + name, f"a number > 0, got {size}")
        require(net.hidden_size % net.heads == 0, "architecture.hidden_size", "a multiple of heads")
        require(net.heads % net.kv_heads == 0, "architecture.heads", "a multiple of kv_heads")
        latents = net.latent_channels, net.latent_patch
        require((codec.channels, codec.patch) == latents, "codec", f"channels and patch {latents}, the architecture's")
        side, rest = divmod(self.image_size, codec.patch * codec.downsample)
        fits = rest == 0 and 0 < side <= net.max_latent_size
        require(fits, "image_size", f"1 to {net.max_latent_size} tokens of the codec a side")


class PatchCodec(nn.Module):
    """Fixed linear image codec of the synthetic world: per-patch principal components in the autoencoder's place.

    A patch of ``stride`` pixels a side becomes one latent token; its numbers are laid out as a latent image
    (C, patch, patch), so that the network sees the same interface as with BAGEL's autoencoder. Linear, hence
    differentiable both ways. encode: images (B, 3, H, W) in [0, 1] -> latents (B, C, h, w) of about unit scale;
    decode: back, clamped.
    """

    def __init__(self, channels: int, patch: int, downsample: int):
        super().__init__()
        self.channels, self.patch, self.downsample = channels, patch, downsample
        self.stride = patch * downsample  # pixels a token side
        pixels, dim = 3 * self.stride**2, channels * patch**2
        self.register_buffer("mean", torch.zeros(pixels))
        self.register_buffer("basis", torch.zeros(pixels, dim))  # orthonormal columns
        self.register_buffer("scale", torch.ones(dim))

    @torch.no_grad()
    def fit(self, images: np.ndarray) -> float:
        """Principal components of uint8 images (n, H, W, 3); returns the share of variance that they explain. Their
        relative variances become the square roots of what they were."""
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        x = patchify(x, self.stride).flatten(0, 1).double()
        self.mean.copy_(x.mean(0))
        variance, vectors = torch.linalg.eigh(torch.cov(x.T))
        keep = torch.arange(variance.numel() - 1, variance.numel() - 1 - self.basis.shape[1], -1)
        std = variance[keep].clamp_min(1e-10).sqrt()
        signs = vectors[:, keep].sum(0).sign()  # eigenvectors are defined up to sign
        self.basis.copy_(vectors[:, keep] * torch.where(signs == 0, 1.0, signs))
        scale = std.sqrt()
        self.scale.copy_(scale * ((std / scale) ** 2).mean().sqrt())
        return float(variance[keep].sum() / variance.sum())

    def encode(self, images: Tensor) -> Tensor:
        rows, cols = images.shape[-2] // self.stride, images.shape[-1] // self.stride
        tokens = (patchify(images, self.stride) - self.mean) @ self.basis / self.scale
        return unpatchify(tokens, self.patch, rows, cols)

    def decode(self, latents: Tensor) -> Tensor:
        rows, cols = latents.shape[-2] // self.patch, latents.shape[-1] // self.patch
        pixels = (patchify(latents, self.patch) * self.scale) @ self.basis.T + self.mean
        return unpatchify(pixels, self.stride, rows, cols).clamp(0, 1)


class MoTModel(nn.Module):
    """Text and images from one network; ``mot`` is trained, ``codec`` is fixed: it encodes and decodes images as
    ``PatchCodec`` does."""

    def __init__(self, mot: MoT, codec: nn.Module, tokenizer: PreTrainedTokenizerFast, image_size: int):
        super().__init__()
        self.mot, self.codec, self.tokenizer, self.image_size = mot, codec, tokenizer, image_size
        side = image_size // codec.stride
        self.grid = (side, side)  # latent tokens

    @property
    def device(self) -> torch.device:
        return self.mot.vae2llm.weight.device

    @property
    def network(self) -> MoT:
        return self.mot

    def expert_parameters(self) -> dict[str, list[nn.Parameter]]:
        return self.mot.expert_parameters()

    def with_network(self, mot: MoT) -> MoTModel:
        return MoTModel(mot, self.codec, self.tokenizer, self.image_size)

    @property
    def latent_shape(self) -> tuple[int, int]:
        return self.grid[0] * self.grid[1], self.mot.config.token_dim

    def prompt_ids(self, prompts: list[str]) -> list[list[int]]:
        """Framed prompt pieces bos + ids + eos. Raises UserError for an empty prompt or an unknown word."""
        config, unknown = self.mot.config, self.tokenizer.unk_token_id
        rows = []
        for text in prompts:
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            if not ids:
                raise UserError("prompt: expected some words, got an empty text")
            if unknown is not None and unknown in ids:
                words = text.split()
                bad = next((w for w in words if unknown in self.tokenizer.encode(w, add_special_tokens=False)), text)
                raise UserError(f"prompt {text!r}: the word {bad!r} is not in this model's vocabulary")
            rows.append([config.bos_id, *ids, config.eos_id])
        return rows

    def trace_from_texts(self, texts: list[str | None]) -> Trace:
        eos = self.mot.config.eos_id
        rows = [[] if t is None else [*self.tokenizer.encode(t, add_special_tokens=False), eos] for t in texts]
        return Trace(*padded(rows, eos, self.device))

    def trace_texts(self, trace: Trace) -> list[str]:
        keep = trace.mask & (trace.tokens != self.mot.config.eos_id)
        return [self.tokenizer.decode(t[m]) for t, m in zip(trace.tokens, keep, strict=True)]

    def encode(self, prompt_ids: list[list[int]], trace: Trace | None) -> tuple[Tensor | None, Context]:
        """Prompt pieces, then trace pieces, as one causal text: hidden (B, L, D) of the trace pieces, whose k-th column
        predicts the k-th token of the trace (None without traces), and the context for painting."""
        context = self.read_prompts(prompt_ids, trace)
        if trace is None:
            return None, context
        return self.mot.encode_text(*self.trace_pieces(trace), context)

    def framed(self, prompt_ids: list[list[int]], trace: Trace | None) -> list[list[int]]:
        """What is read before a trace, or before an image without one."""
        return prompt_ids

    def different(self, prompt_ids: list[list[int]]) -> tuple[tuple[Tensor, Tensor | None], Tensor]:
        """ids and mask (P, T) of the different ones of B prompts, as the episodes of a group have equal ones, and which
        (B,) of them each is. There is no mask without padding."""
        numbers: dict[tuple[int, ...], int] = {}
        which = [numbers.setdefault(tuple(ids), len(numbers)) for ids in prompt_ids]
        ids, mask = padded(list(numbers), self.mot.config.eos_id, self.device)
        ragged = len({len(ids) for ids in numbers}) > 1
        return (ids, mask if ragged else None), torch.tensor(which, device=self.device)

    def read_prompts(self, prompt_ids: list[list[int]], trace: Trace | None = None) -> Context:
        prompts, which = self.different(self.framed(prompt_ids, trace))
        return self.mot.encode_text(*prompts)[1].select(which)

    def trace_pieces(self, trace: Trace) -> tuple[Tensor, Tensor | None]:
        """ids and mask (B, L), L <= T + 2, of the pieces bos + tokens + eos. A trace cut at its length limit gets its
        end token here, unscored; a row whose mask is all False has no piece. A single trace has no padding, hence no
        mask."""
        eos, counts = self.mot.config.eos_id, trace.mask.sum(1)
        first = torch.full_like(counts, self.mot.config.bos_id)[:, None]
        ids = torch.cat([first, trace.tokens.masked_fill(~trace.mask, eos), torch.full_like(first, eos)], 1)
        ended = (trace.mask & (trace.tokens == eos)).any(1)
        lengths = torch.where(counts > 0, counts + 2 - ended.long(), 0)
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        width = int(lengths.max())
        return ids[:, :width], mask[:, :width] if len(ids) > 1 else None

    def text_logp(
        self, hidden: Tensor, trace: Trace, temperature: float, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        logits = self.mot.logits(hidden[:, : trace.tokens.shape[1]])
        return chosen_logp(logits, trace, temperature, entropy_gradient)

    @torch.no_grad()
    def think(
        self, prompt_ids: list[list[int]], max_tokens: int, uniforms: Tensor | None, temperature: float
    ) -> tuple[Trace, Context]:
        context = self.read_prompts(prompt_ids)
        return self.mot.generate_text(context, max_tokens, temperature=temperature, uniforms=uniforms)

    def replay(
        self,
        prompt_ids: list,
        pieces: Sequence[Trace | States],
        branches: Sequence[str],
        *,
        through: bool,
        dropped: Tensor | None = None,
    ) -> list[Tensor | dict[str, Tensor]]:
        first = next((piece for piece in pieces if isinstance(piece, Trace)), None)
        prompts, which = self.different(self.framed(prompt_ids, first))
        read = [self.trace_pieces(p) if isinstance(p, Trace) else (p.x, p.t) for p in pieces]
        found = self.mot.replay(prompts, which, read, self.grid, branches, through, dropped)
        return [x if torch.is_tensor(x) else {name: v.float() for name, v in x.items()} for x in found]

    def row_bytes(self, prompt_ids: list[list[int]], max_tokens: int) -> tuple[int, int]:
        """Keys and values of the text, and of a block that joins a copy of them; the vocabulary's probabilities; the
        widest layer."""
        c, width = self.mot.config, torch.finfo(self.mot.vae2llm.weight.dtype).bits // 8
        tokens = max(len(ids) for ids in prompt_ids) + max_tokens + 2
        cached = tokens * c.layers * 2 * c.hidden_size // c.heads * c.kv_heads * width
        block = (self.latent_shape[0] + 2) * (2 * c.hidden_size + 3 * c.intermediate_size) * width
        return cached + 16 * c.vocab_size, 2 * cached + block

    def empty_context(self, batch: int) -> Context:
        return self.mot.empty_context(batch)

    def velocity(self, context: Context, x: Tensor, t: Tensor) -> Tensor:
        return self.mot.velocity(context, x, t, self.grid).float()

    def encode_images(self, images: Tensor) -> Tensor:
        """In fp32 whatever the network computes in, as :meth:`decode`."""
        with torch.autocast(images.device.type, enabled=False):
            return patchify(self.codec.encode(images), self.mot.config.latent_patch)

    def decode(self, tokens: Tensor) -> Tensor:
        with torch.autocast(tokens.device.type, enabled=False):
            return self.codec.decode(unpatchify(tokens, self.mot.config.latent_patch, *self.grid))

    def weights(self) -> dict[str, Tensor]:
        return self.state_dict()

    def save(self, folder: Path, info: dict, half: bool = False) -> None:
        """Write the model's folder; ``half`` stores fp16."""
        save_tokenizer(self.tokenizer, folder / "tokenizer")
        tensors = {name: tensor.half() if half else tensor for name, tensor in self.weights().items()}
        write_tensors(folder / "model.safetensors", tensors)
        codec = CodecCard(self.codec.channels, self.codec.patch, self.codec.downsample)
        write_json(folder / "model.json", asdict(Card(FORMAT, self.mot.config, codec, self.image_size)) | info)


def build_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """The world's tokenizer: one id per word; words are separated by white space."""
    vocabulary = {word: i for i, word in enumerate([*FRAME.values(), UNKNOWN, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bos, eos = FRAME["bos_id"], FRAME["eos_id"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=eos, unk_token=UNKNOWN
    )


def load(folder: Path, device: torch.device | str, expected: ModelConfig | None) -> MoTModel:
    """The model of a folder that :meth:`MoTModel.save` wrote. Raises UserError for anything missing or damaged, and for
    another architecture than ``expected``."""
    path, weights = folder / "model.json", folder / "model.safetensors"
    names = Card.__dataclass_fields__
    data = read_json(path, *names)
    with error_prefix(path):
        card = from_dict(Card, {name: data[name] for name in names})
        if expected is not None:
            sizes = {"latent_downsample": card.codec.downsample, "image_size": card.image_size}
            found = asdict(card.architecture) | sizes
            for name, value in to_dict(expected).items():
                require(found[name] == value, name, f"{value}, the configuration's model.{name}, got {found[name]}")
    tokenizer = _load_tokenizer(folder / "tokenizer", card.architecture.vocab_size)

    def build() -> MoTModel:
        return MoTModel(MoT(card.architecture), PatchCodec(**asdict(card.codec)), tokenizer, card.image_size)

    tensors = read_tensors(weights)
    with shapes_only():
        check_weights(build(), tensors, weights)
    model = build()
    load_weights(model, tensors, weights)
    return model.to(device)


def _load_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    path = folder / "tokenizer.json"
    read_json(path, "model", "added_tokens")
    with reading(path, "a saved fast tokenizer"):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    for name in ("is_local", "local_files_only"):  # how it was read: nothing to save again
        tokenizer.init_kwargs.pop(name, None)
    if len(tokenizer) > vocab_size:
        raise UserError(f"{path}: expected at most {vocab_size} words, the model's vocab_size, got {len(tokenizer)}")
    return tokenizer
