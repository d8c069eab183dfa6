"""The Mixture-of-Transformers at tiny size against the official BAGEL code, under the official parameter
names.

A training forward with both losses and gradient norms; B text: prefill, cache, greedy continuation; C
velocities of one noise block; D sampling trajectories; E embeddings. Masks and positions are taken from the
running network by hooks, not rebuilt here. Tolerances are those stored with each tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unigrpo.backbones.mot import Context, MoT, MoTConfig, patchify, position_ids, unpatchify
from unigrpo.conformance.core import Case, Check, close, read_pair, same
from unigrpo.flow import euler_step, guided_velocity, time_grid
from unigrpo.types import UserError

SECTIONS = {  # feature -> a tensor that exists if the file holds it
    "A": "expected.A.last_hidden",
    "A2": "expected.A2.last_hidden",
    "B": "expected.B.prefill_logits",
    "C": "expected.C.velocity",
    "D-unguided": "expected.D.nocfg.x",
    "D-text-guided": "expected.D.cfg4.x",
    "D-thinking": "expected.D.think.x",
    "D-renorm": "expected.D.renorm_global",
    "E": "expected.E.time_embedding",
    "F": "expected.F.vit_output",
    "G": "expected.G.velocity",
}
OTHER_PARTS = ("vit_model.", "connector.", "vit_pos_embed.")  # of the checkpoint, not of the decoder
POSITION_TABLE = "latent_pos_embed.pos_embed"  # recomputed, not loaded


def cases(path: Path) -> Iterator[Case]:
    info, tensors = read_pair(path)
    checks = {
        "A": _training_forward,
        "B": _text,
        "C": _velocities,
        "D-unguided": _unguided,
        "D-text-guided": _text_guided,
        "E": _embeddings,
    }
    for section, tensor in SECTIONS.items():
        if tensor in tensors:
            check = checks.get(section)
            yield Case(f"bagel_tiny/{section}", section, lambda check=check: check(_Vectors(path, info, tensors)))


def vae_cases(path: Path) -> Iterator[Case]:
    """The autoencoder: named so that it is reported."""
    info, _ = read_pair(path)
    for name in info["tensors"]:
        if name.startswith("expected."):
            yield Case("bagel_tiny_vae", name.removeprefix("expected."), list)


class _Vectors:
    """One file: its model, its inputs, and comparison with what it expects."""

    def __init__(self, path: Path, info: dict, tensors: dict[str, Tensor]):
        self.info, self.tensors = info, tensors
        self.parameters = info["case_parameters"]
        self.model = _model(path, info["config"], tensors)

    def input(self, name: str) -> Tensor:
        return self.tensors[f"input.{name}"]

    def expected(self, name: str) -> Tensor:
        return self.tensors[f"expected.{name}"]

    def check(self, name: str, ours: Tensor) -> Check:
        tolerance = self.info["tensors"][f"expected.{name}"]["tolerance"]
        return close(name, ours, self.expected(name), tolerance.get("atol", 0), tolerance.get("rtol", 0))

    def framed(self, ids: Tensor) -> Tensor:
        """bos + ids + eos."""
        config = self.model.config
        return torch.cat([ids.new_tensor([config.bos_id]), ids, ids.new_tensor([config.eos_id])])

    def prompt(self) -> Context:
        """Context of case B's prompt, batch 1."""
        return _read(self.model, self.framed(self.input("B.prompt_ids")), None)[1]

    def grid(self) -> tuple[int, int]:
        rows, cols = self.input("C.grid").tolist()
        return rows, cols


def _model(path: Path, config: dict, tensors: dict[str, Tensor]) -> MoT:
    llm, special = config["llm_config"], config["special_token_ids"]
    model = MoT(
        MoTConfig(
            vocab_size=llm["vocab_size"],
            hidden_size=llm["hidden_size"],
            intermediate_size=llm["intermediate_size"],
            layers=llm["num_hidden_layers"],
            heads=llm["num_attention_heads"],
            kv_heads=llm["num_key_value_heads"],
            rope_theta=llm["rope_theta"],
            rms_norm_eps=llm["rms_norm_eps"],
            latent_channels=config["vae_config"]["z_channels"],
            latent_patch=config["latent_patch_size"],
            max_latent_size=config["max_latent_size"],
            bos_id=special["bos_token_id"],
            eos_id=special["eos_token_id"],
            start_of_image_id=special["start_of_image"],
            end_of_image_id=special["end_of_image"],
        )
    )
    weights = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(("input.", "expected.", *OTHER_PARTS)) and name != POSITION_TABLE
    }
    missing, unknown = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if name != POSITION_TABLE]
    if missing or unknown:
        raise UserError(f"{path}: weights do not fit the model (missing {missing}, unknown {unknown})")
    return model


@contextmanager
def _inputs_of(module: nn.Module, argument: int) -> Iterator[list]:
    """Collects one positional argument of every call of ``module``."""
    seen: list = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[argument]))
    try:
        yield seen
    finally:
        handle.remove()


def _read(model: MoT, ids: Tensor, context: Context | None) -> tuple[Tensor, Context]:
    """One text piece (T,) after ``context`` -> hidden (T, D), context."""
    hidden, context = model.encode_text(ids[None], torch.ones_like(ids, dtype=torch.bool)[None], context)
    return hidden[0], context


def _block(und: Tensor, gen: Tensor) -> Tensor:
    """Rows of an image block in sequence order [start, latents, end]; und (1, 2, D), gen (1, N, D)."""
    return torch.cat([und[0, :1], gen[0], und[0, 1:]])


def _embeddings(file: _Vectors) -> list[Check]:
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


def _text(file: _Vectors) -> list[Check]:
    model, framed = file.model, file.framed(file.input("B.prompt_ids"))
    hidden, context = _read(model, framed, None)
    steps = len(file.expected("B.greedy_logits"))
    tokens = model.generate_text(context, steps, temperature=0)[0][0]
    fed = torch.cat([tokens.new_tensor([model.config.bos_id]), tokens[:-1]])  # the last token is never returned
    return [
        file.check("B.packed_text_ids", framed),
        file.check("B.prefill_logits", model.logits(hidden)),
        file.check("B.cache_k", torch.stack(context.keys)[:, 0].transpose(1, 2)),
        file.check("B.cache_v", torch.stack(context.values)[:, 0].transpose(1, 2)),
        file.check("B.next_position", context.rope[0]),
        file.check("B.greedy_tokens", fed),
        file.check("B.greedy_logits", model.logits(_read(model, fed, context)[0])),
    ]


def _velocities(file: _Vectors) -> list[Check]:
    model, x, times = file.model, file.input("C.x")[None], file.input("C.t")
    context, empty = file.prompt(), model.empty_context(1)
    und, gen = model.embed_block(x, times[:1], file.grid())
    with _inputs_of(model.rotary, 1) as positions:
        hidden = model.encode_block(context, und, gen)
    velocities = {
        name: torch.cat([model.velocity(given, x, t[None], file.grid()) for t in times])
        for name, given in (("C.velocity", context), ("C.velocity_empty_context", empty))
    }
    return [
        file.check("C.block_embeddings", _block(und, gen)),
        file.check("C.block_hidden", _block(*hidden)),
        file.check("C.block_position_ids", _block(*positions)),
        *(file.check(name, ours) for name, ours in velocities.items()),
    ]


def _unguided(file: _Vectors) -> list[Check]:
    return _trajectory(file, "D.nocfg", scale=1.0, interval=(0.0, 1.0))


def _text_guided(file: _Vectors) -> list[Check]:
    scale = file.expected("D.cfg4.text_scale_used").max().item()
    return _trajectory(file, "D.cfg4", scale, file.parameters["cfg4_interval"])


@torch.no_grad()
def _trajectory(file: _Vectors, name: str, scale: float, interval: tuple[float, float]) -> list[Check]:
    """Euler sampling after the prompt, guided against no context at all where lo < t <= hi."""
    model, x = file.model, file.input("D.init_noise")[None]
    context, empty = file.prompt(), model.empty_context(1)
    points = len(file.expected(f"{name}.x"))
    grid = time_grid(points, _shift_of(file.expected(f"{name}.t")), "points")
    states, velocities, scales = [x], [], []
    for t, t_next in zip(grid[:-1], grid[1:], strict=True):
        used = scale if interval[0] < t <= interval[1] else 1.0
        v, v_empty = (model.velocity(given, x, t[None], file.grid()) for given in (context, empty))
        v = guided_velocity(v, v_empty, used, "global")
        x = euler_step(x, v, t, t_next)
        states.append(x)
        velocities.append(v)
        scales.append(used)
    return [
        file.check(f"{name}.t", grid[:-1]),
        file.check(f"{name}.text_scale_used", torch.tensor(scales)),
        file.check(f"{name}.v", torch.cat(velocities)),
        file.check(f"{name}.x", torch.cat(states)),
    ]


def _shift_of(times: Tensor) -> float:
    """The shift behind a stored grid of n times (the final 0 left out), from its second value."""
    if len(times) < 2:
        return 1.0
    u, t = 1 - 1 / len(times), times[1].item()
    return round(t * (1 - u) / (u * (1 - t)), 3)


def _training_forward(file: _Vectors) -> list[Check]:
    """Packed samples of text pieces and noise blocks; a block leaves no trace for what follows it."""
    model = file.model
    shift = file.parameters["A_shift"]
    u = file.input("A.timestep_logits").sigmoid()
    t = shift * u / (1 + (shift - 1) * u)
    texts = _numbered(file, "A.text")
    latents = _numbered(file, "A.latent")
    images = list(zip(latents, file.input("A.latent_grids").tolist(), strict=True))
    pieces, hiddens, positions, targets, checks = [], [], [], [], [file.check("A.t", t)]
    first_latent = 0  # rows of the packed latents used so far
    for number, sample in enumerate(file.info["training_layouts"]["A"]):
        context, length = None, sum(segment["length"] for segment in sample["segments"])
        visible, start, text_slots = torch.zeros(length, length, dtype=torch.bool), 0, []
        for segment in sample["segments"]:
            with (
                _inputs_of(model.rotary, 1) as seen_positions,
                _inputs_of(model.language_model.model.layers[0], 2) as seen_masks,
            ):
                if segment["type"] == "text":
                    ids = file.framed(texts.pop(0))
                    hidden, context = _read(model, ids, context)
                    pieces.append(model.language_model.model.embed_tokens(ids))
                    positions.append(seen_positions[0][0])
                else:
                    latent, grid = images.pop(0)
                    tokens = patchify(latent[None], model.config.latent_patch)
                    rows = slice(first_latent, first_latent + tokens.shape[1])
                    first_latent = rows.stop
                    time, noise = t[rows][:1], file.input("A.noise")[rows][None]
                    block = model.embed_block((1 - time) * tokens + time * noise, time, tuple(grid))
                    hidden = _block(*model.encode_block(context, *block))
                    pieces.append(_block(*block))
                    positions.append(_block(*(p[..., None] for p in seen_positions))[:, 0])
                    targets.append((noise - tokens)[0])
            own = list(range(start, start + segment["length"]))
            mask = seen_masks[0][0, 0].expand(len(own), -1)
            visible[torch.tensor(own)[:, None], torch.tensor(text_slots + own)] = mask
            if segment["type"] == "text":
                text_slots += own
            start += segment["length"]
            hiddens.append(hidden)
        checks.append(file.check(f"A.attention_mask_{number}", visible))
    hidden = torch.cat(hiddens)
    predicted = model.llm2vae(hidden[file.input("A.mse_loss_indexes")])
    mse = (predicted - torch.cat(targets)).square()
    logits = model.logits(hidden[file.input("A.ce_loss_indexes")])
    ce = F.cross_entropy(logits, file.input("A.packed_label_ids"), reduction="none")
    (mse.mean() + ce.mean()).backward()
    parameters = dict(model.named_parameters())
    names = file.info["tensors"]["expected.A.grad_l2"]["grad_names"]
    norms = torch.stack([parameters[name].grad.norm() for name in names])
    return [
        *checks,
        same(
            "A.packed_position_ids",
            torch.cat(positions).tolist(),
            file.input("A.packed_position_ids").tolist(),
        ),
        file.check("A.packed_embeddings", torch.cat(pieces)),
        file.check("A.last_hidden", hidden),
        file.check("A.mse", mse),
        file.check("A.mse_reduced", mse.mean()),
        file.check("A.ce", ce),
        file.check("A.ce_reduced", ce.mean()),
        file.check("A.grad_l2", norms),
    ]


def _numbered(file: _Vectors, name: str) -> list[Tensor]:
    """input.<name>_0, _1, ... in order."""
    found = []
    while f"input.{name}_{len(found)}" in file.tensors:
        found.append(file.input(f"{name}_{len(found)}"))
    return found
