"""How large a released language model and pipeline are as one policy, and an update of their adapters, in closed form.

What ``mot_sizes`` is for the Mixture-of-Transformers. Sizes are read from the configuration
files and the headers of the weight files of the two releases where these are folders, and known here for two ids of the
hub. Activations are what autograd keeps when nothing but adapters is trained: no input of a frozen map, but the input
of every adapter, copied to fp32 where the weights are bf16. Imports no torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json
from unigrpo.models.mot_sizes import FLOAT, Batch
from unigrpo.study.config import RunConfig

BYTES = {"no": 4, "bf16": 2}  # of a released number, by precision
TEXT_TOKENS = 77 + 256  # that the transformer reads: of CLIP and of T5
WIDEST_ENCODER = 3 * 10_240 + 2 * 4_096  # numbers of a token of T5-XXL, the largest encoder there is, on its way
ENCODED = 32 * 256  # its tokens at once
DECODER_CHANNELS = 256  # of the autoencoder at full resolution


@dataclass(frozen=True)
class Painter:
    """A pipeline: its transformer's sizes and numbers, and those of its text encoders and autoencoder. ``dual``: layers
    in which the image attends to itself a second time."""

    width: int
    heads: int
    layers: int
    dual: int
    transformer: int
    encoders: int
    autoencoder: int

    def adapters(self, rank: int) -> int:
        """Numbers of adapters: q, k, v and output of both streams, the last layer's text output left out."""
        return rank * 2 * self.width * (8 * self.layers - 1 + 4 * self.dual)


@dataclass(frozen=True)
class Reasoner:
    """A language model with gated MLPs; ``queries`` and ``kv`` are the widths of its projections."""

    width: int
    intermediate: int
    layers: int
    heads: int
    queries: int
    kv: int
    vocabulary: int
    numbers: int

    def adapters(self, rank: int) -> int:
        """Numbers of adapters: q, k, v, output, gate, up and down."""
        ends = 2 * (self.width + self.queries) + 2 * (self.width + self.kv) + 3 * (self.width + self.intermediate)
        return rank * self.layers * ends


KNOWN: dict[str, Painter | Reasoner] = {
    "stabilityai/stable-diffusion-3.5-medium": Painter(
        1536, 24, 24, 13, 2_469_663_936, 123_650_304 + 694_659_840 + 4_762_310_656, 83_819_683
    ),
    "Qwen/Qwen2.5-1.5B-Instruct": Reasoner(1536, 8960, 28, 12, 1536, 256, 151_936, 1_543_714_304),
}


def painter(source: str) -> Painter:
    """Sizes of a pipeline: of a folder, or of an id that is known here. Raises UserError for another one."""
    folder = Path(source)
    if not folder.is_dir():
        return _known(source, Painter)
    names = ("num_attention_heads", "attention_head_dim", "num_layers")
    card = read_json(folder / "transformer" / "config.json", *names)
    heads, layers = card["num_attention_heads"], card["num_layers"]
    dual = len(card.get("dual_attention_layers") or ())
    encoders = [folder / name for name in ("text_encoder", "text_encoder_2", "text_encoder_3")]
    read = sum(numbers(place) for place in encoders if place.exists())
    parts = numbers(folder / "transformer"), read, numbers(folder / "vae")
    return Painter(heads * card["attention_head_dim"], heads, layers, dual, *parts)


def reasoner(source: str) -> Reasoner:
    """Sizes of a language model: of a folder, or of an id that is known here. Raises UserError for another one."""
    folder = Path(source)
    if not folder.is_dir():
        return _known(source, Reasoner)
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    card = read_json(folder / "config.json", *names)
    width, intermediate, layers, heads, vocabulary = (card[name] for name in names)
    head = card.get("head_dim") or width // heads
    kv = head * (card.get("num_key_value_heads") or heads)
    return Reasoner(width, intermediate, layers, heads, head * heads, kv, vocabulary, numbers(folder))


def _known(source: str, kind: type):
    if not isinstance(KNOWN.get(source), kind):
        names = ", ".join(name for name, sizes in KNOWN.items() if isinstance(sizes, kind))
        raise UserError(f"{source}: its sizes are not known, expected {names}, or the folder of a release")
    return KNOWN[source]


def numbers(folder: Path) -> int:
    """How many numbers the weight files of a folder hold, by their headers. Raises UserError without one."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise UserError(f"{folder}: no weights, expected .safetensors files")
    total = 0
    for path in paths:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


@dataclass(frozen=True)
class Pair:
    """The two releases as one policy."""

    painter: Painter
    reasoner: Reasoner

    def lines(self, cfg: RunConfig, base: RunConfig) -> list[str]:
        """What is trained and what is not, for people."""
        p, r, rank = self.painter, self.reasoner, cfg.rl.lora_rank
        return [
            f"language model  {r.numbers:,} numbers, adapters {r.adapters(rank):,}: {base.language_model}",
            f"pipeline        {p.transformer:,} numbers, adapters {p.adapters(rank):,}: {base.released}",
            f"  and           {p.encoders:,} in its text encoders, {p.autoencoder:,} in its autoencoder",
        ]

    def flops(self, tokens: int) -> tuple[int, int]:
        """Of one image evaluation of ``tokens``, and of one token of text."""
        return image_flops(self.painter, tokens), text_flops(self.reasoner)

    def memory(self, cfg: RunConfig, b: Batch, episodes: int, copies: int) -> dict[str, dict[str, int]]:
        """Bytes on a device with ``episodes`` of a rollout, by kind in each phase, ``rollout`` and ``update``; the
        reward's weights are left out. ``copies``: of the adapters, the policy's and the reference's among them."""
        p, r, rl, kind = self.painter, self.reasoner, cfg.rl, BYTES[cfg.precision]
        rank, rows = rl.lora_rank, b.steps * b.episodes
        numbers = {"text": r.adapters(rank), "image": p.adapters(rank)}
        everything, trained = sum(numbers.values()), sum(numbers[part] for part in rl.train)
        pixels, token = cfg.model.image_size**2, cfg.model.latent_patch**2 * cfg.model.latent_channels
        standing = {
            "weights": kind * (p.transformer + p.encoders + r.numbers) + FLOAT * p.autoencoder,
            # the window's states and noise, what old and reference weights say of them, and the pictures
            "latents": episodes * FLOAT * (7 * b.tokens * token * max(b.steps, 1) + 3 * pixels),
        }
        transient = max(
            episodes * (b.tokens + TEXT_TOKENS) * 10 * p.width * kind,  # a layer's MLP of all pictures
            ENCODED * WIDEST_ENCODER * kind,
            3 * DECODER_CHANNELS * pixels * FLOAT,
        )
        learning = image_activations(p, rank, cfg.precision, rows, b.tokens) if "image" in rl.train else 0
        if "text" in rl.train:
            learning += text_activations(r, rank, cfg.precision, b)
            learning += 2 * FLOAT * b.episodes * b.trace * r.vocabulary  # logits and their gradient
        rollout = {
            "adapters": FLOAT * copies * everything,
            "activations": transient,
            "KV cache": episodes * (b.prompt + b.trace) * r.layers * 2 * r.kv * kind,
        }
        update = {
            "adapters": FLOAT * (copies * everything + 3 * trained),  # gradients and both moments
            "activations": learning,
            "KV cache": 0,
        }
        return {name: standing | phase for name, phase in (("rollout", rollout), ("update", update))}


def image_activations(p: Painter, rank: int, precision: str, rows: int, tokens: int, text: int = TEXT_TOKENS) -> int:
    """Bytes that autograd keeps of ``rows`` evaluations of the transformer. A token keeps in a layer 14 times the width
    (in bf16 16 times, and 4 times in fp32 beside it), statistics of norms and attention, and its four adapters' inner
    numbers; a second attention adds about half of that; text leaves the last layer early."""
    wide, narrow, early = {"no": (56, 28, 28), "bf16": (48, 36, 16)}[precision]
    inner = FLOAT * (3 * p.heads + 4 * rank)
    layer = wide * p.width + inner + 4 * BYTES[precision]
    again = narrow * p.width + inner
    return rows * (p.layers * (tokens + text) * layer + p.dual * tokens * again - early * text * p.width)


def text_activations(r: Reasoner, rank: int, precision: str, b: Batch) -> int:
    """Bytes that autograd keeps of a forward pass over prompts and traces: in a layer 8 times the width and 4 times the
    MLP's (in bf16 with the adapters' inputs in fp32 beside them), the mask, statistics, the adapters' inner numbers;
    once the rotations and the log-probabilities of the vocabulary."""
    kind, tokens = BYTES[precision], b.prompt + b.trace
    wide, gated = {"no": (32, 16), "bf16": (40, 10)}[precision]
    layer = wide * r.width + gated * r.intermediate + kind * tokens + FLOAT * (7 * rank + r.heads + 2)
    ends = 2 * kind * r.queries // r.heads
    return b.episodes * (tokens * (r.layers * layer + ends) + FLOAT * b.trace * r.vocabulary)


def image_flops(p: Painter, tokens: int, text: int = TEXT_TOKENS) -> int:
    """Of one evaluation of the transformer; multiplications and additions counted apart."""
    both = tokens + text
    twice = tokens * (8 * p.width**2 + 4 * p.width * tokens)
    return p.layers * both * (24 * p.width**2 + 4 * p.width * both) + p.dual * twice


def text_flops(r: Reasoner) -> int:
    """Of one token of the language model, its attention left out."""
    return 2 * r.numbers
