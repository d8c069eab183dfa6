"""What is known of a Mixture-of-Transformers without torch: whose a parameter is, how large it and an update are.

Sizes are in closed form, from a configuration alone: parameters, bytes in memory, FLOPs. Bytes are those of fp32.
Activations are what autograd keeps of the implementation in ``mot.py`` on a CPU; fused kernels keep less, so they are
an upper bound elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from unigrpo.study.config import ModelConfig

FLOAT = 4  # bytes
TIME_FEATURES = 256
IMAGE_ONLY = ("vae2llm", "llm2vae", "time_embedder")
ADAPTER = "lora_"  # in the names of adapters, which are trained in the place of the weights
FIXED = ("latent_pos_embed", "vit_pos_embed", "vit_model", "connector")  # position tables; what reads pictures


def expert_of(name: str) -> str | None:
    """``text`` = reasoning (understanding), ``image`` = denoising (generation); None for what is not trained."""
    if name.startswith(FIXED):
        return None
    return "image" if "_moe_gen" in name or name.startswith(IMAGE_ONLY) else "text"


@dataclass(frozen=True)
class Network:
    """Sizes of a Mixture-of-Transformers and what stands beside it."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    token_dim: int  # numbers of a latent token
    table: int  # rows of the latents' position table
    codec: int  # fixed numbers of what encodes and decodes pictures
    eyes: int = 0  # and of what reads them
    decoder: int = 0  # channels of the decoder at full resolution
    reward: int = 0  # numbers of a learned reward, assumed

    @property
    def kv(self) -> int:
        """Width of the keys, and of the values, of a token."""
        return self.hidden // self.heads * self.kv_heads

    @property
    def projections(self) -> int:
        """Numbers of one expert's matrices in one layer: what a token is multiplied with."""
        return 2 * self.hidden**2 + 2 * self.hidden * self.kv + 3 * self.hidden * self.intermediate

    @property
    def expert_layer(self) -> int:
        """Parameters of one expert in one layer, with biases and norms."""
        return self.projections + self.hidden + 2 * self.kv + 2 * self.hidden // self.heads + 2 * self.hidden


def network(model: ModelConfig, *, vocabulary: int, codec: int, **beside: int) -> Network:
    """Sizes of the network of a configuration, and what its backbone knows."""
    m, dim = model, model.latent_patch**2 * model.latent_channels
    sizes = m.hidden_size, m.intermediate_size, m.layers, m.heads, m.kv_heads
    return Network(*sizes, vocabulary, dim, m.max_latent_size**2, codec, **beside)


def summary(card: dict) -> str:
    """The network in one line, from model.json. Raises KeyError."""
    a = card["architecture"]
    sizes = f"{a['layers']} layers, hidden size {a['hidden_size']}, {a['heads']} heads, {a['vocab_size']} tokens"
    return f"Mixture-of-Transformers, {sizes}"


def parameters(net: Network) -> dict[str, int]:
    """Numbers of the reasoning expert (``text``), of the denoising expert (``image``), and of what is ``fixed``."""
    d = net.hidden
    decoder = net.layers * net.expert_layer + d
    ends = 2 * d * net.token_dim + d + net.token_dim
    clock = TIME_FEATURES * d + d + d * d + d
    fixed = net.table * d + net.eyes + net.codec
    return {"text": decoder + 2 * net.vocabulary * d, "image": decoder + ends + clock, "fixed": fixed}


def adapters(net: Network, rank: int, parts: tuple[str, ...]) -> int:
    """Parameters of the adapters of these parts: ``rank`` times the inputs and outputs of every linear map."""
    d, m = net.hidden, net.intermediate
    layer = 4 * d + 2 * (d + net.kv) + 3 * (d + m)  # queries and output; keys and values; the MLP
    ends = 2 * (net.token_dim + d) + (TIME_FEATURES + d) + 2 * d  # of the image part: latents in and out, the clock
    return rank * sum(net.layers * layer + (ends if part == "image" else 0) for part in parts)


@dataclass(frozen=True)
class Batch:
    """One backward pass: ``episodes`` of ``prompts`` different prompts; longest prompt and trace in tokens, framed;
    latent ``tokens`` of an image, and ``steps`` of it that are evaluated (0 = the image part is not trained)."""

    episodes: int
    prompts: int
    prompt: int
    trace: int
    tokens: int
    steps: int


def activations(net: Network, b: Batch, text: bool, checkpointing: bool = False) -> int:
    """Bytes that autograd stores for one backward pass: of a layer, around the attention and its norms 11 times the
    width, 4 times the MLP's, keys and values of what is seen, statistics, and the mask. ``text``: the text carries
    gradient, because it is trained or the image's gradient goes through the context. With ``checkpointing`` every layer
    keeps its input and the keys and values before it, and one layer at a time is computed again."""
    groups, context, head = net.heads // net.kv_heads, b.prompt + b.trace, net.hidden // net.heads
    streams = []  # rows, of so many tokens together, the keys that each token sees, queries that have a mask each
    if text:
        streams.append((b.prompts, b.prompt, b.prompt, groups * b.prompt))
        streams.append((b.episodes, b.trace, context, groups * b.trace))
    if b.steps:
        streams.append((b.steps * b.episodes, b.tokens + 2, context + b.tokens + 2, 1))
    token = 11 * net.hidden + 4 * net.intermediate + 2 * net.kv + 2 + 2 * net.heads + net.kv_heads
    layers = [rows * (length * token + 2 * keys * net.kv + masks * keys) for rows, length, keys, masks in streams]
    total = net.layers * sum(layers)
    if checkpointing:
        inputs = [rows * (length * net.hidden + 2 * (keys - length) * net.kv) for rows, length, keys, _ in streams]
        total = net.layers * sum(inputs) + max(layers)
    total += sum(rows * length * (3 * net.hidden + 2 * head) for rows, length, *_ in streams)  # last norm; rotations
    if text:
        total += b.episodes * b.trace * net.vocabulary  # log-probabilities of the vocabulary
    total += 8 * b.steps * b.episodes * b.tokens * net.token_dim  # latents, means, and what the losses keep
    return FLOAT * total


def cache(net: Network, rows: int, tokens: int) -> int:
    """Bytes of the keys and values of ``rows`` contexts of ``tokens``."""
    return FLOAT * rows * tokens * net.layers * 2 * net.kv


def evaluation(net: Network, rows: int, tokens: int) -> int:
    """Bytes that a forward pass without gradient needs at once for ``rows`` of ``tokens``: those of an MLP."""
    return FLOAT * rows * tokens * (2 * net.hidden + 3 * net.intermediate)


def flops(net: Network, tokens: int, keys: int, head: bool = False) -> int:
    """Of a forward pass of ``tokens`` that see ``keys`` each; multiplications and additions counted apart. With
    ``head`` also the vocabulary's logits."""
    token = net.layers * (2 * net.projections + 4 * net.hidden * keys)
    return tokens * (token + (2 * net.hidden * net.vocabulary if head else 0))
