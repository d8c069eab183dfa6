"""A file of BAGEL vectors: its network, its inputs, comparison with what it expects, and the pieces of a sequence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.conformance.checking import Check, Settings, close, supported
from unigrpo.core.errors import UserError
from unigrpo.models.backbones.bagel.multimodal import MultimodalMoT
from unigrpo.models.backbones.bagel.vit import VitConfig
from unigrpo.models.mot import MoTConfig
from unigrpo.models.mot_pieces import Context

TABLES = ("latent_pos_embed.pos_embed", "vit_pos_embed.pos_embed")  # recomputed, not loaded


class Vectors:
    """One file: its model, its inputs, and comparison with what it expects."""

    def __init__(self, path: Path, info: dict, tensors: dict[str, Tensor], settings: Settings):
        self.info, self.tensors = info, tensors
        self.parameters = settings["case_parameters"]
        self.model = _model(path, settings["config"], tensors)

    def input(self, name: str) -> Tensor:
        return self.tensors[f"input.{name}"]

    def inputs(self, name: str) -> list[Tensor]:
        """input.<name>_0, _1, ... in order."""
        found = []
        while f"input.{name}_{len(found)}" in self.tensors:
            found.append(self.input(f"{name}_{len(found)}"))
        return found

    def expected(self, name: str) -> Tensor:
        return self.tensors[f"expected.{name}"]

    def check(self, name: str, ours: Tensor) -> Check:
        return against(self.info, self.tensors, name, ours)

    def framed(self, ids: Tensor) -> Tensor:
        """bos + ids + eos."""
        config = self.model.config
        return torch.cat([ids.new_tensor([config.bos_id]), ids, ids.new_tensor([config.eos_id])])

    def read(self, ids: Tensor, context: Context | None = None) -> Context:
        """The context after one more text piece, given without its frame; batch 1."""
        return read(self.model, self.framed(ids), context)[1]

    def prompt(self) -> Context:
        """Context of case B's prompt."""
        return self.read(self.input("B.prompt_ids"))

    def grid(self) -> tuple[int, int]:
        rows, cols = self.input("C.grid").tolist()
        return rows, cols

    def greedy(self, name: str, context: Context) -> list[Check]:
        """Greedy text after ``context``, with the logits of its steps."""
        steps = len(self.expected(f"{name}.greedy_logits"))
        tokens = self.model.generate_text(context, steps, temperature=0)[0].tokens[0]
        start = tokens.new_tensor([self.model.config.bos_id])
        fed = torch.cat([start, tokens[:-1]])  # the last token is never returned
        return [
            self.check(f"{name}.greedy_tokens", fed),
            self.check(f"{name}.greedy_logits", self.model.logits(read(self.model, fed, context)[0])),
        ]


def against(info: dict, tensors: dict[str, Tensor], name: str, ours: Tensor) -> Check:
    """Comparison with ``expected.<name>`` at the tolerance stored with it."""
    tolerance = info["tensors"][f"expected.{name}"]["tolerance"]
    return close(name, ours, tensors[f"expected.{name}"], tolerance.get("atol", 0), tolerance.get("rtol", 0))


def _model(path: Path, config: Settings, tensors: dict[str, Tensor]) -> MultimodalMoT:
    llm, vit, special = config["llm_config"], config["vit_config"], config["special_token_ids"]
    layer = "Qwen2MoTDecoderLayer"
    fixed = {"hidden_act": "silu", "tie_word_embeddings": False, "qk_norm": True, "layer_module": layer}
    supported(llm, "config.llm_config.", **fixed)
    supported(vit, "config.vit_config.", hidden_act="gelu_pytorch_tanh", num_channels=3, rope=False)
    supported(config, "config.", connector_act="gelu_pytorch_tanh")
    model = MultimodalMoT(
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
        ),
        VitConfig(
            hidden_size=vit["hidden_size"],
            intermediate_size=vit["intermediate_size"],
            layers=vit["num_hidden_layers"],
            heads=vit["num_attention_heads"],
            patch=vit["patch_size"],
            side=config["vit_max_num_patch_per_side"],
            layer_norm_eps=vit["layer_norm_eps"],
        ),
    )
    weights = {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith(("input.", "expected.")) and name not in TABLES
    }
    missing, unknown = model.load_state_dict(weights, strict=False)
    missing = [name for name in missing if name not in TABLES]
    if missing or unknown:
        raise UserError(f"{path}: weights do not fit the model (missing {missing}, unknown {unknown})")
    return model


@contextmanager
def inputs_of(module: nn.Module, argument: int) -> Iterator[list]:
    """Collects one positional argument of every call of ``module``."""
    seen: list = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[argument]))
    try:
        yield seen
    finally:
        handle.remove()


def read(model: MultimodalMoT, ids: Tensor, context: Context | None) -> tuple[Tensor, Context]:
    """One text piece (T,) after ``context`` -> hidden (T, D), context."""
    hidden, context = model.encode_text(ids[None], torch.ones_like(ids, dtype=torch.bool)[None], context)
    return hidden[0], context


def in_sequence(parts: list[Tensor]) -> Tensor:
    """Rows of a piece in sequence order: of its only stream (1, L, ...), or [start, latents, end] of the two streams
    (1, 2, ...) and (1, N, ...) of a block with latents."""
    if len(parts) == 1:
        return parts[0][0]
    und, gen = parts
    return torch.cat([und[0, :1], gen[0], und[0, 1:]])
