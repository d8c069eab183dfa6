"""Questions to a vision-language model of transformers, answered as probabilities, differentiable in the pixels.

Images go through the model's own processor as tensors; most of transformers' processors work on tensors and let a
gradient pass. ``Vlm.differentiable`` is measured, not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rewards.weights import load_model, load_pretrained
from unigrpo import compat
from unigrpo.types import UserError

compat.ensure_torchvision()  # transformers imports it

from transformers import AutoModelForImageTextToText, AutoProcessor  # noqa: E402

PROBE = 112  # pixels a side of the image by which differentiability is measured


@dataclass(frozen=True)
class Vlm:
    """A model with its processor."""

    model: torch.nn.Module
    processor: object
    differentiable: bool

    def probability(self, images: Tensor, questions: Sequence[str], forms: Sequence[str]) -> Tensor:
        """(B,) in [0, 1]: that the first token of the answer is one of ``forms`` ("yes", "Yes"), each of which counts
        where it is a single token. Images (B, 3, H, W) in [0, 1]. Raises UserError where none of the forms is."""
        ids = self.single_tokens(forms)
        logits = self.model(**self.inputs(images, questions), logits_to_keep=1).logits[:, -1]
        return logits.float().softmax(-1)[:, ids].sum(-1)

    def single_tokens(self, forms: Sequence[str]) -> list[int]:
        """Ids of those ``forms`` that are one token, each once."""
        encoded = [self.processor.tokenizer.encode(form, add_special_tokens=False) for form in forms]
        ids = sorted({pieces[0] for pieces in encoded if len(pieces) == 1})
        if not ids:
            raise UserError(f"the tokenizer has no single token for any of {', '.join(forms)}")
        return ids

    def inputs(self, images: Tensor, questions: Sequence[str]) -> dict[str, Tensor]:
        """What the model reads: one image and one question a conversation, up to where the answer begins."""
        device = self.model.device
        asked = [[{"type": "image"}, {"type": "text", "text": question}] for question in questions]
        texts = [
            self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            for content in asked
        ]
        read = self.processor(
            text=texts,
            images=[[image] for image in images.float().to(device)],
            do_rescale=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        return {name: value.to(device) for name, value in read.items()}


def load(reward: str, weights: str, device: str, dtype: str = "auto") -> Vlm:
    """``weights``: hub id or folder; ``dtype``: as stored, or a name of torch. Raises UserError."""
    if dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UserError(f"reward {reward}: dtype: expected auto or a kind of torch, such as bfloat16, got {dtype!r}")
    model = load_model(reward, AutoModelForImageTextToText, weights, device, dtype=dtype)
    processor = load_pretrained(reward, AutoProcessor, weights)
    vlm = Vlm(model, processor, False)
    pixels = torch.full((1, 3, PROBE, PROBE), 0.5, requires_grad=True)
    with torch.enable_grad():
        passes = vlm.inputs(pixels, ["?"]).get("pixel_values")
    return Vlm(model, processor, passes is not None and passes.requires_grad)
