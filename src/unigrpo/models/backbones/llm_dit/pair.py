"""A released language model that reasons and a released diffusion transformer that paints, as one policy.

The language model is any causal one of transformers, the painter a Stable Diffusion 3 or 3.5 pipeline of diffusers.
Both stay as they were released; what is trained are low-rank adapters (LoRA) in each. Between them stands text: the
pipeline's encoders read the prompt and, below it, the trace. So no gradient of the image loss can reach the
language model: the stage boundary is part of the model. Everything else is as for ``UnifiedModel``, whose methods these
are: latents are tokens (B, N, token_dim) of the transformer's patches, times are flow times in [0, 1], velocities are
noise - data, which is what the transformer predicts at 1000 t.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from unigrpo.models.torchvision_compat import ensure_torchvision

ensure_torchvision()  # the libraries below import it

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from unigrpo.core.errors import UserError
from unigrpo.core.files import write_json
from unigrpo.core.tensor_files import write_tensors
from unigrpo.models.base import PaintContext, States, Trace, chosen_logp, padded
from unigrpo.models.checkpoint import save_tokenizer
from unigrpo.models.mot_layers import patchify, unpatchify
from unigrpo.models.mot_sizes import ADAPTER
from unigrpo.models.writing import write_text

# the pipeline would warn of every text that is longer than what CLIP reads, which traces are meant to be
logging.getLogger("diffusers.pipelines.stable_diffusion_3").setLevel(logging.ERROR)

TEXT_TOKENS = 256  # that the pipeline's T5 reads, its default; its CLIP encoders read 77
TEXTS = 32  # encoded at once


@dataclass(frozen=True)
class Question:
    """A prompt, and the tokens that the language model is asked with."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Conditioning(PaintContext):
    """What the transformer reads of B texts: embeds (B, L, D) and pooled (B, P), with those of the empty text,
    (1, L, D) and (1, P). L does not depend on the texts. It carries no gradient."""

    embeds: Tensor
    pooled: Tensor
    empty: tuple[Tensor, Tensor]

    def map(self, fn) -> Conditioning:
        return Conditioning(fn(self.embeds), fn(self.pooled), self.empty)

    def drop(self, dropped: Tensor) -> Conditioning:
        """Samples with ``dropped`` (B,) True see the empty text."""
        embeds, pooled = self.empty
        return Conditioning(
            torch.where(dropped[:, None, None], embeds, self.embeds),
            torch.where(dropped[:, None], pooled, self.pooled),
            self.empty,
        )


@dataclass(frozen=True)
class Reading:
    """Traces after their questions, which the language model has not read yet: only trained text needs its logits."""

    questions: Sequence[Question]


class LlmDit(nn.Module):
    """``llm`` and the pipeline's transformer have adapters, which alone are trained, copied and found in the state
    dict; ``instruction`` precedes every prompt that the language model is given; ``origin`` is what a checkpoint says
    of the two releases."""

    def __init__(
        self,
        llm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        transformer: nn.Module,
        pipeline: StableDiffusion3Pipeline,
        image_size: int,
        instruction: str,
        origin: object = None,
    ):
        super().__init__()
        self.llm, self.transformer = llm, transformer
        self.tokenizer, self.image_size, self.instruction, self.origin = tokenizer, image_size, instruction, origin
        self.pipeline, self.vae = pipeline, pipeline.vae
        encoders = (pipeline.text_encoder, pipeline.text_encoder_2, pipeline.text_encoder_3)
        self.encoders = nn.ModuleList(e for e in encoders if e is not None)
        self.patch = transformer.config.patch_size
        self.downsample = 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
        side = image_size // (self.patch * self.downsample)
        self.grid = (side, side)  # latent tokens
        self.ends = ends_of(llm, tokenizer)
        self.register_state_dict_post_hook(_keep_adapters)
        self.register_load_state_dict_post_hook(_miss_adapters_only)

    def __deepcopy__(self, memo: dict) -> LlmDit:
        """A copy with separate adapters; everything that was released is shared."""
        for policy in (self.llm, self.transformer):
            memo |= {id(t): t for t in policy.buffers()}
            memo |= {id(p): p for name, p in policy.named_parameters() if ADAPTER not in name}
        parts = copy.deepcopy(self.llm, memo), self.tokenizer, copy.deepcopy(self.transformer, memo)
        return LlmDit(*parts, self.pipeline, self.image_size, self.instruction, self.origin)

    @property
    def device(self) -> torch.device:
        return self.transformer.proj_out.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the released weights; adapters are fp32."""
        return self.transformer.proj_out.weight.dtype

    @property
    def network(self) -> LlmDit:
        """What an average of weights is taken of."""
        return self

    def with_network(self, network: LlmDit) -> LlmDit:
        return network

    def expert_parameters(self) -> dict[str, list[nn.Parameter]]:
        """Adapter weights: ``text`` = of the language model, ``image`` = of the transformer."""
        policies = {"text": self.llm, "image": self.transformer}
        return {part: [p for n, p in m.named_parameters() if ADAPTER in n] for part, m in policies.items()}

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(tokens, numbers per token) of one image."""
        return self.grid[0] * self.grid[1], self.patch**2 * self.transformer.config.in_channels

    # -- text ----------------------------------------------------------------------------------------------------

    def prompt_ids(self, prompts: list[str]) -> list[Question]:
        """Prompts as the language model is asked: by its chat template, where it has one. Raises UserError for an empty
        prompt."""
        rows = []
        for text in prompts:
            if not text.strip():
                raise UserError("prompt: expected some words, got an empty text")
            asked = f"{self.instruction.strip()}\n\n{text}"
            if self.tokenizer.chat_template is None:
                ids = self.tokenizer(f"{asked}\n\n").input_ids
            else:
                message = [{"role": "user", "content": asked}]
                framed = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
                ids = self.tokenizer(framed, add_special_tokens=False).input_ids
            rows.append(Question(text, tuple(ids)))
        return rows

    def trace_from_texts(self, texts: list[str | None]) -> Trace:
        """Given traces as token tracks, end token included; None is a row without a trace."""
        end = self.ends[0]
        rows = [[] if t is None else [*self.tokenizer(t, add_special_tokens=False).input_ids, end] for t in texts]
        return Trace(*padded(rows, end, self.device))

    def trace_texts(self, trace: Trace) -> list[str]:
        """Readable traces, without special tokens."""
        rows = [tokens[mask] for tokens, mask in zip(trace.tokens.cpu(), trace.mask.cpu(), strict=True)]
        return [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]

    def read_prompts(self, questions: Sequence[Question], trace: Trace | None = None) -> Conditioning:
        """The context of prompts alone, whether or not a trace follows."""
        return self._condition([q.text for q in questions])

    def encode(self, questions: Sequence[Question], trace: Trace | None) -> tuple[Reading | None, Conditioning]:
        """What :meth:`text_logp` needs (None without traces), and the context for painting: the prompt, and below it
        the trace where there is one."""
        if trace is None:
            return None, self.read_prompts(questions)
        written = self.trace_texts(trace)
        texts = [f"{q.text}\n{text}" if text else q.text for q, text in zip(questions, written, strict=True)]
        return Reading(questions), self._condition(texts)

    def text_logp(
        self, reading: Reading, trace: Trace, temperature: float, entropy_gradient: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities (B, T) in nats of the trace's tokens under softmax(logits / temperature), and their
        entropies (B, T), without gradient; both fp32, 0 where the mask is False."""
        ids, asked = self._left_padded(reading.questions)
        mask = torch.cat([asked, trace.mask], 1)
        logits = self.llm(
            input_ids=torch.cat([ids, trace.tokens.masked_fill(~trace.mask, self.ends[0])], 1),
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=trace.tokens.shape[1] + 1,
            use_cache=False,
        ).logits
        return chosen_logp(logits[:, :-1], trace, temperature, entropy_gradient)

    @torch.no_grad()
    def think(
        self, questions: Sequence[Question], max_tokens: int, uniforms: Tensor | None, temperature: float
    ) -> tuple[Trace, Conditioning]:
        """Write a trace after each of B questions; uniforms (B, max_tokens), not read at temperature 0, which takes the
        arg-max. Penalties and cut tails among a release's settings are not used: they would sample from another policy
        than the one whose log-probabilities are trained. Returns also the context for painting, as :meth:`encode` makes
        it from the same traces."""
        ids, asked = self._left_padded(questions)
        cache, length = DynamicCache(), asked.sum(1, keepdim=True)
        visible = torch.cat([asked, asked.new_ones(len(ids), max_tokens)], 1)[:, None, None]  # of the questions and all

        def read(token: Tensor, alive: Tensor) -> Tensor:
            """The questions, then the tokens; a mask of four axes is taken as it is, without a look at its numbers."""
            done = cache.get_seq_length()
            given = {"input_ids": token[:, None], "position_ids": length + done - ids.shape[1]}
            given["attention_mask"] = visible[..., : done + 1]
            if done == 0:
                steps = (asked.cumsum(1) - 1).clamp(min=0)
                given = {"input_ids": ids, "position_ids": steps, "attention_mask": asked.long()}
            return self.llm(**given, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]

        trace, _, _ = write_text(read, ids[:, -1], self.ends, max_tokens, uniforms, temperature)
        return trace, self.encode(questions, trace)[1]

    def _left_padded(self, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
        """ids and mask (B, W): what follows stands in the same column for all."""
        width = max(len(q.ids) for q in questions)
        ids = torch.tensor([[self.ends[0]] * (width - len(q.ids)) + list(q.ids) for q in questions])
        mask = torch.arange(width) >= width - torch.tensor([len(q.ids) for q in questions])[:, None]
        return ids.to(self.device), mask.to(self.device)

    def replay(
        self,
        questions: Sequence[Question],
        pieces: Sequence[Trace | States],
        branches: Sequence[str],
        *,
        through: bool,
        dropped: Tensor | None = None,
    ) -> list[Reading | dict[str, Tensor]]:
        """See :class:`unigrpo.models.base.UnifiedModel`; the context never has a gradient."""
        found: list[Reading | dict[str, Tensor]] = []
        prompt = context = None
        for piece in pieces:
            if isinstance(piece, Trace):
                reading, context = self.encode(questions, piece)
                found.append(reading)
                continue
            if context is None or "prompt" in branches:
                prompt = self.read_prompts(questions)
            b, s = piece.t.shape
            full = context or prompt
            seen = {"full": full if dropped is None else full.drop(dropped), "prompt": prompt}
            seen["empty"] = self.empty_context(b)
            rows = torch.arange(b, device=piece.t.device).repeat_interleave(s)
            x, t = piece.x.flatten(0, 1), piece.t.flatten()
            velocities = {name: self.velocity(seen[name].select(rows), x, t) for name in branches}
            found.append({name: v.unflatten(0, (b, s)) for name, v in velocities.items()})
        return found

    def row_bytes(self, questions: Sequence[Question], max_tokens: int) -> tuple[int, int]:
        """See :class:`unigrpo.models.base.UnifiedModel`. Keys and values of the text, and the vocabulary's
        probabilities; the transformer's widest layer over texts and latents."""
        c, width = self.llm.config, torch.finfo(self.dtype).bits // 8
        tokens = max(len(q.ids) for q in questions) + max_tokens
        cached = tokens * c.num_hidden_layers * 2 * c.hidden_size // c.num_attention_heads * c.num_key_value_heads
        inner = self.transformer.config.num_attention_heads * self.transformer.config.attention_head_dim
        block = (self.latent_shape[0] + TEXT_TOKENS + 77) * 14 * inner
        return cached * width + 16 * c.vocab_size, block * width

    # -- images --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _condition(self, texts: list[str]) -> Conditioning:
        """Equal texts, as the prompts of a group are, are encoded once; the empty one always."""
        numbers = {text: i for i, text in enumerate(dict.fromkeys(["", *texts]))}
        unique, encoded = list(numbers), []
        for start in range(0, len(unique), TEXTS):
            part = unique[start : start + TEXTS]
            embeds, _, pooled, _ = self.pipeline.encode_prompt(
                part, part, part, self.device, do_classifier_free_guidance=False, max_sequence_length=TEXT_TOKENS
            )
            encoded.append((embeds.to(self.dtype), pooled.to(self.dtype)))
        embeds, pooled = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        which = torch.tensor([numbers[text] for text in texts], device=self.device)
        return Conditioning(embeds[which], pooled[which], (embeds[:1], pooled[:1]))

    def empty_context(self, batch: int) -> Conditioning:
        """The unconditional branch of guidance: the empty prompt, as in the pipeline."""
        return self._condition([""] * batch)

    def velocity(self, context: Conditioning, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (noise - data) fp32 of latent tokens x (B, N, token_dim) at flow times t (B,)."""
        predicted = self.transformer(
            hidden_states=unpatchify(x, self.patch, *self.grid).to(self.dtype),
            timestep=t * self.pipeline.scheduler.config.num_train_timesteps,
            encoder_hidden_states=context.embeds,
            pooled_projections=context.pooled,
            return_dict=False,
        )[0]
        return patchify(predicted, self.patch).float()

    def encode_images(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> latent tokens (B, N, token_dim), of the posterior's mode, in fp32 whatever the
        transformer computes in."""
        config, kind = self.vae.config, self.vae.dtype
        with torch.autocast(images.device.type, enabled=False):
            latents = self.vae.encode((2 * images - 1).to(kind)).latent_dist.mode()
        return patchify((latents - (config.shift_factor or 0)) * config.scaling_factor, self.patch).float()

    def decode(self, tokens: Tensor) -> Tensor:
        """Latent tokens (B, N, token_dim) -> images (B, 3, H, W) in [0, 1], in fp32 like them; differentiable."""
        config, kind = self.vae.config, self.vae.dtype
        latents = unpatchify(tokens, self.patch, *self.grid) / config.scaling_factor + (config.shift_factor or 0)
        with torch.autocast(tokens.device.type, enabled=False):
            return (self.vae.decode(latents.to(kind)).sample.float() * 0.5 + 0.5).clamp(0, 1)

    # -- files ---------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        return self.state_dict()

    def save(self, folder: Path, info: dict, half: bool = False) -> None:
        """Write a run's folder: adapters in fp32 whatever ``half`` says, the language model's tokenizer, and what
        ``origin`` says of the two releases, beside ``info`` (provenance)."""
        save_tokenizer(self.tokenizer, folder / "tokenizer")
        write_tensors(folder / "model.safetensors", self.weights())
        write_json(folder / "model.json", asdict(self.origin) | info)


def ends_of(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end an answer, the tokenizer's first. Raises UserError where there is none."""
    of_model = llm.generation_config.eos_token_id
    stated = [tokenizer.eos_token_id, *(of_model if isinstance(of_model, list) else [of_model])]
    ends = list(dict.fromkeys(token for token in stated if token is not None))
    if not ends:
        raise UserError(f"{llm.name_or_path}: no end token, expected one in tokenizer or generation_config.json")
    return ends


def _keep_adapters(module: nn.Module, state: dict, prefix: str, _) -> None:
    for name in [n for n in state if n.startswith(prefix) and ADAPTER not in n]:
        del state[name]


def _miss_adapters_only(module: nn.Module, keys) -> None:
    keys.missing_keys[:] = [name for name in keys.missing_keys if ADAPTER in name]
