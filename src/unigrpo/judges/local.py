"""A vision-language model of transformers as a judge, with a gradient in the pixels where its processor keeps one."""

import inspect
import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor

from unigrpo.core import weights
from unigrpo.core.errors import UserError
from unigrpo.judges import written
from unigrpo.models import torchvision_compat

PROBE = 112  # pixels a side of the image by which differentiability is measured


class LocalVlm:
    """Any model of ``AutoModelForImageTextToText`` with a chat template, from a folder or the hub. ``device``: auto is
    CUDA where there is one. ``dtype``: float32, bfloat16, float16; auto is bfloat16 on CUDA, else float32.
    ``batch_size`` questions are asked at once. Raises UserError where it cannot be loaded."""

    def __init__(self, name: str | Path, device: str = "auto", dtype: str = "auto", batch_size: int = 8):
        torchvision_compat.ensure_torchvision()
        from transformers import AutoModelForImageTextToText, AutoProcessor

        path = weights.folder(name)
        self.device = weights.pick_device(device)
        dtype = ("bfloat16" if self.device.type == "cuda" else "float32") if dtype == "auto" else dtype
        self.dtype, self.batch_size = getattr(torch, dtype), batch_size
        kind = "a vision-language model"
        with weights.loading(path, kind):
            self.processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
        if getattr(self.processor, "chat_template", None) is None:
            expected = "a model that is asked in turns (an instruct model)"
            raise UserError(f"{path}: has no chat template, expected {expected}")
        self.model = weights.load_model(AutoModelForImageTextToText, path, kind, dtype=self.dtype).to(self.device)
        self.processor.tokenizer.padding_side = "right"  # positions are then those of a question asked alone
        self.name, self.digest = str(name), weights.digest(path)
        self._keeps = "logits_to_keep" in inspect.signature(self.model.forward).parameters

    def check(self, answer: str) -> None:
        """As ``Vlm.check``: an answer has to be a token."""
        self.answer_ids(answer)

    def ask(self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]) -> list[float | UserError]:
        """As ``Vlm.ask``. What fails alone is an image that the model answers with numbers that are not finite."""
        with torch.inference_mode():
            values = self._ask([image.convert("RGB") for image in images], questions, answers, rescale=True).tolist()
        return [value if math.isfinite(value) else UserError(self._not_finite()) for value in values]

    @cached_property
    def differentiable(self) -> bool:
        """Whether the model's processor keeps a gradient in the pixels; measured."""
        pixels = torch.full((1, 3, PROBE, PROBE), 0.5, device=self.device, requires_grad=True)
        with torch.enable_grad():
            return self._inputs(list(pixels), ["?"], rescale=False)["pixel_values"].requires_grad

    def probabilities(self, images: Tensor, questions: Sequence[str], answers: Sequence[str]) -> Tensor:
        """(B,) float32 in [0, 1] of images (B, 3, H, W) in [0, 1]; differentiable in the images. Raises UserError
        where a gradient is asked for that the model's processor does not keep, and for a probability that is not
        finite, naming its place."""
        values = self._ask(list(images), questions, answers, rescale=False)
        if odd := (~torch.isfinite(values)).nonzero().flatten().tolist():
            raise UserError(f"sample {odd[0]}: {self._not_finite()}")
        if images.requires_grad and torch.is_grad_enabled() and not values.requires_grad:
            raise UserError(f"{self.name}: its image processor keeps no gradient in the pixels")
        return values

    def _not_finite(self) -> str:
        return f"{self.name}: its answer has no finite probability, in {str(self.dtype).removeprefix('torch.')}"

    def _ask(self, images: list, questions: Sequence[str], answers: Sequence[str], rescale: bool) -> Tensor:
        if not len(images) == len(questions) == len(answers):
            raise ValueError(f"{len(images)} images, {len(questions)} questions, {len(answers)} answers")
        ids = [self.answer_ids(answer) for answer in answers]
        values = []
        for start in range(0, len(images), self.batch_size):
            part = slice(start, start + self.batch_size)
            shares = self._first_token(images[part], questions[part], rescale)
            values += [share[chosen].sum() for share, chosen in zip(shares, ids[part], strict=True)]
        return torch.stack(values) if values else torch.zeros(0)

    def answer_ids(self, answer: str) -> list[int]:
        """Tokens that are a way to write ``answer``, with and without a blank before. Raises UserError without any."""
        tokenizer, found = self.processor.tokenizer, []
        for form in written(answer):
            for text in (form, f" {form}"):
                ids = tokenizer.encode(text, add_special_tokens=False)
                if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
                    found.append(ids[0])
        if not found:
            raise UserError(f"{self.name}: answer {answer!r}: is no single token of its tokenizer, however written")
        return list(dict.fromkeys(found))

    def _first_token(self, images: list, questions: Sequence[str], rescale: bool) -> Tensor:
        """(B, V) float32: the share of each token to be the answer's first."""
        inputs = self._inputs(images, questions, rescale)
        last = inputs["attention_mask"].sum(1) - 1  # (B,)
        rows = torch.arange(len(last), device=last.device)
        if self._keeps:  # logits of the last tokens alone: those of all tokens fill a GPU
            places, place = last.unique(return_inverse=True)
            logits = self.model(**inputs, logits_to_keep=places).logits[rows, place]
        else:
            logits = self.model(**inputs).logits[rows, last]
        return logits.float().softmax(-1)

    def _inputs(self, images: list, questions: Sequence[str], rescale: bool):
        """What the model reads: an image and a question a turn, up to where the answer begins."""
        turns = []
        for image, question in zip(images, questions, strict=True):
            content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
            turns.append([{"role": "user", "content": content}])
        asked = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        options = {"padding": True, "do_rescale": rescale}
        read = self.processor.apply_chat_template(turns, **asked, processor_kwargs=options)
        return read.to(self.device, self.dtype)
