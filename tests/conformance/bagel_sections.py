"""BAGEL's network at tiny size against the official code, under the official parameter names.

A training forward with both losses and gradient norms, A2 the same with pictures between the texts; B text: prefill,
cache, greedy continuation; C velocities of one noise block; D sampling trajectories and guidance (``bagel_guided``);
E embeddings; F a picture read through the ViT, G editing (``bagel_pictures``). Masks and positions are taken from the
running network by hooks, not rebuilt here. Tolerances are those stored with each tensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.conformance import bagel_guided, bagel_pictures
from tests.conformance.bagel_vectors import Vectors, in_sequence, inputs_of, read
from tests.conformance.checking import Case, Check, Settings, read_pair, same
from unigrpo.models.mot_layers import patchify, position_ids, unpatchify
from unigrpo.models.mot_pieces import Context, Piece

READ_BY = {  # case parameter -> the section that reads it
    "A_shift": "A",
    "A2_shift": "A2",
    "cfg4_interval": "D-text-guided",
    "think": "D-thinking",
    **dict.fromkeys(("D_t", "D_text", "D_img"), "D-renorm"),
    **dict.fromkeys(("G_t", "G_text", "G_img"), "G"),
}
NOTES = (  # of the inputs, and of what no case here depends on
    *(f"case_parameters.{name}" for name in ("E_t", "A_logits", "A2_logits", "C_t")),
    *("config.llm_config.max_position_embeddings", "config.vit_config.image_size", "config.vae_config.downsample"),
)


def cases(path: Path) -> Iterator[Case]:
    info, tensors = read_pair(path)
    settings = Settings({name: info[name] for name in ("config", "case_parameters")})
    sections = {  # feature -> a tensor that exists if the file holds it, and the checks
        "A": ("A.last_hidden", lambda file: _training_forward(file, "A")),
        "A2": ("A2.last_hidden", lambda file: _training_forward(file, "A2")),
        "B": ("B.prefill_logits", _text),
        "C": ("C.velocity", _velocities),
        "D-unguided": ("D.nocfg.x", bagel_guided.unguided),
        "D-text-guided": ("D.cfg4.x", bagel_guided.text_guided),
        "D-thinking": ("D.think.x", bagel_guided.thinking),
        "D-renorm": ("D.renorm_global", bagel_guided.renorms),
        "E": ("E.time_embedding", _embeddings),
        "F": ("F.vit_output", bagel_pictures.seeing),
        "G": ("G.velocity", bagel_pictures.editing),
    }
    present = {name: check for name, (tensor, check) in sections.items() if f"expected.{tensor}" in tensors}
    notes = (*NOTES, *(f"case_parameters.{name}" for name, section in READ_BY.items() if section not in present))
    for section, check in present.items():

        def compute(check=check) -> list[Check]:
            return check(Vectors(path, info, tensors, settings))

        yield Case(f"bagel_tiny/{section}", section, compute, settings, notes)


def _embeddings(file: Vectors) -> list[Check]:
    model, latent = file.model, file.input("E.latent")[None]
    patch = model.config.latent_patch
    rows, cols = latent.shape[-2] // patch, latent.shape[-1] // patch
    tokens = patchify(latent, patch)
    places = position_ids(rows, cols, model.config.max_latent_size)
    return [
        file.check("E.freq_embedding", model.time_embedder.features(file.input("E.t"))),
        file.check("E.time_embedding", model.time_embedder(file.input("E.t"))),
        file.check("E.patchified", tokens[0]),
        file.check("E.unpatchified", unpatchify(tokens, patch, rows, cols)),
        file.check("E.latent_position_ids", places),
        file.check("E.latent_pos_embed", model.latent_pos_embed(places)),
    ]


def _text(file: Vectors) -> list[Check]:
    model, framed = file.model, file.framed(file.input("B.prompt_ids"))
    hidden, context = read(model, framed, None)
    return [
        file.check("B.packed_text_ids", framed),
        file.check("B.prefill_logits", model.logits(hidden)),
        file.check("B.cache_k", torch.stack(context.keys)[:, 0].transpose(1, 2)),
        file.check("B.cache_v", torch.stack(context.values)[:, 0].transpose(1, 2)),
        file.check("B.next_position", context.rope[0]),
        *file.greedy("B", context),
    ]


def _velocities(file: Vectors) -> list[Check]:
    model, x, times = file.model, file.input("C.x")[None], file.input("C.t")
    context, empty = file.prompt(), model.empty_context(1)
    block = model.embed_block(x, times[:1], file.grid())
    with inputs_of(model.rotary, 1) as positions:
        hidden, _ = model.read_block(context, list(zip(("", "_moe_gen"), block, strict=True)))
    velocities = {
        name: torch.cat([model.velocity(given, x, t[None], file.grid()) for t in times])
        for name, given in (("C.velocity", context), ("C.velocity_empty_context", empty))
    }
    return [
        file.check("C.block_embeddings", in_sequence(block)),
        file.check("C.block_hidden", in_sequence(hidden)),
        file.check("C.block_position_ids", in_sequence([p[None] for p in positions])),
        *(file.check(name, ours) for name, ours in velocities.items()),
    ]


@dataclass(frozen=True)
class _Piece:
    """One piece of a packed sample: its streams before and after the decoder, and the context with it."""

    embedded: list[Tensor]
    hidden: list[Tensor]
    context: Context


class _Packed:
    """The inputs of a packed training case, handed out piece by piece in packing order. ``found`` collects what the
    pieces say of the packing: which kind of token is where."""

    def __init__(self, file: Vectors, name: str):
        self.file, self.name = file, name
        u, shift = file.input(f"{name}.timestep_logits").sigmoid(), file.parameters[f"{name}_shift"]
        self.t = shift * u / (1 + (shift - 1) * u)
        places, ids = (file.input(f"{name}.packed_text_{kind}").tolist() for kind in ("indexes", "ids"))
        self.words = dict(zip(places, ids, strict=True))  # slot -> token
        self.texts: list[list[int]] = []  # handed out so far, like `targets`
        self.targets: list[Tensor] = []
        self.latents = list(
            zip(file.inputs(f"{name}.latent"), file.input(f"{name}.latent_grids").tolist(), strict=True)
        )
        self.pictures = [file.tensors[k] for k in sorted(file.tensors) if k.startswith(f"input.{name}.vit_image")]
        self.found: dict[str, list[int]] = defaultdict(list)

    def run(self, segment: dict, slots: Tensor, context: Context) -> _Piece:
        """The next piece, which is of the segment's type and fills ``slots``, after ``context``."""
        model, config = self.file.model, self.file.model.config
        if segment["type"] == "text":
            self.texts.append([self.words[slot] for slot in slots[1:-1].tolist()])
            ids = self.file.framed(torch.tensor(self.texts[-1]))
            self._note("packed_text", slots, ids)
            hidden, after = read(model, ids, context)
            return _Piece([model.language_model.model.embed_tokens(ids)[None]], [hidden[None]], after)
        self._note("packed_text", slots[[0, -1]], torch.tensor([config.start_of_image_id, config.end_of_image_id]))
        block = self._picture(slots) if segment["type"] == "vit_image" else self._latent(slots, segment["loss"])
        hidden, after = model.read_block(context, list(zip(("", "_moe_gen"), block, strict=False)))
        return _Piece(block, hidden, after)

    def _picture(self, slots: Tensor) -> list[Tensor]:
        vit, pixels = self.file.model.vit, self.pictures.pop(0)
        places = position_ids(*(n // vit.patch for n in pixels.shape[-2:]), vit.side)
        self._note("packed_vit_token", slots[1:-1])
        self.found["packed_vit_position_ids"] += places.tolist()
        self.found["vit_token_seqlens"].append(len(places))
        return [self.file.model.embed_picture(pixels[None])]

    def _latent(self, slots: Tensor, loss: str) -> list[Tensor]:
        """The next latent at its time: clean where that is 0."""
        model, first = self.file.model, len(self.found["packed_vae_token_indexes"])
        latent, grid = self.latents.pop(0)
        tokens = patchify(latent[None], model.config.latent_patch)
        rows = slice(first, first + tokens.shape[1])
        self._note("packed_vae_token", slots[1:-1])
        self.found["packed_latent_position_ids"] += position_ids(*grid, model.config.max_latent_size).tolist()
        time, noise = self.t[rows][:1], self.file.input(f"{self.name}.noise")[rows][None]
        if loss == "loss":
            self.targets.append((noise - tokens)[0])
        return list(model.embed_block((1 - time) * tokens + time * noise, time, tuple(grid)))

    def _note(self, kind: str, slots: Tensor, ids: Tensor | None = None) -> None:
        self.found[f"{kind}_indexes"] += slots.tolist()
        if ids is not None:
            self.found[f"{kind}_ids"] += ids.tolist()


def _visible(piece: Piece, tokens: int) -> Tensor:
    """Which keys each of the tokens of a piece sees, by the mask that a layer is given."""
    return torch.tensor(True) if piece.mask is None else (piece.mask[0, 0, :tokens] == 0).expand(tokens, -1)


def _training_forward(file: Vectors, name: str) -> list[Check]:
    """Packed samples piece by piece; a noise block leaves no trace for what follows it."""
    model, packed = file.model, _Packed(file, name)
    embedded, hiddens, positions, visibles = [], [], [], []
    for sample in file.info["training_layouts"][name]:
        length = sum(segment["length"] for segment in sample["segments"])
        visible = torch.zeros(length, length, dtype=torch.bool)
        context, start, cached = model.empty_context(1), 0, []  # cached: places of the context's tokens, in its order
        for segment in sample["segments"]:
            slots = torch.arange(start, start + segment["length"])
            with inputs_of(model.rotary, 1) as places, inputs_of(model.language_model.model.layers[0], 2) as masks:
                piece = packed.run(segment, slots + sum(map(len, visibles)), context)
            start += segment["length"]
            own = slots.tolist() if len(piece.hidden) == 1 else [*slots[[0, -1]].tolist(), *slots[1:-1].tolist()]
            visible[slots[:, None], torch.tensor(cached + own)] = _visible(masks[0][0], len(slots))
            if segment["attention"] != "noise":
                context, cached = piece.context, cached + own
            embedded.append(in_sequence(piece.embedded))
            hiddens.append(in_sequence(piece.hidden))
            positions.append(in_sequence([p[None] for p in places]))
        visibles.append(visible)
    hidden = torch.cat(hiddens)
    predicted = model.llm2vae(hidden[file.input(f"{name}.mse_loss_indexes")])
    mse = (predicted - torch.cat(packed.targets)).square()
    logits = model.logits(hidden[file.input(f"{name}.ce_loss_indexes")])
    ce = F.cross_entropy(logits, file.input(f"{name}.packed_label_ids"), reduction="none")
    (mse.mean() + ce.mean()).backward()
    parameters = dict(model.named_parameters())
    names = file.info["tensors"][f"expected.{name}.grad_l2"]["grad_names"]
    norms = torch.stack([parameters[parameter].grad.norm() for parameter in names])
    stored = file.input(f"{name}.packed_position_ids").tolist()
    return [
        *(file.check(f"{name}.attention_mask_{number}", visible) for number, visible in enumerate(visibles)),
        same(f"{name}.text", all(text.tolist() in packed.texts for text in file.inputs(f"{name}.text")), True),
        same(f"{name}.sample_lens", [len(visible) for visible in visibles], file.input(f"{name}.sample_lens").tolist()),
        same(f"{name}.packed_position_ids", torch.cat(positions).tolist(), stored),
        *(same(f"{name}.{k}", v, file.input(f"{name}.{k}").tolist()) for k, v in packed.found.items()),
        file.check(f"{name}.t", packed.t),
        file.check(f"{name}.packed_embeddings", torch.cat(embedded)),
        file.check(f"{name}.last_hidden", hidden),
        file.check(f"{name}.mse", mse),
        file.check(f"{name}.mse_reduced", mse.mean()),
        file.check(f"{name}.ce", ce),
        file.check(f"{name}.ce_reduced", ce.mean()),
        file.check(f"{name}.grad_l2", norms),
    ]
