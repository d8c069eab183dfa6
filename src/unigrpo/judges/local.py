"""A vision-language model of transformers as a judge, with a gradient in the pixels where its processor keeps one."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property
from pathlib import Path

import torch
from PIL.Image import Image, new
from torch import Tensor

from unigrpo.core import weights
from unigrpo.core.errors import UserError
from unigrpo.core.records import check_text
from unigrpo.judges.answers import ANSWERED, PROBE, is_counted, meaning, require_answered, written
from unigrpo.models import torchvision_compat

SIDE = 112  # pixels a side of the images by which a model is tried
Values = list[Tensor | UserError]


class LocalVlm:
    """Any model of ``AutoModelForImageTextToText`` with a chat template, from a folder or the hub. ``device``: auto is
    CUDA where there is one. ``dtype``: float32, bfloat16, float16; auto is bfloat16 on CUDA, else float32.
    ``batch_size`` questions are asked at once; ``answered`` is as of ``Vlm``. Raises UserError where it cannot be
    loaded, or does not answer a question about a red square."""

    def __init__(self, name: str | Path, device: str = "auto", dtype: str = "auto", batch_size=8, answered=ANSWERED):
        torchvision_compat.ensure_torchvision()
        from transformers import AutoModelForImageTextToText, AutoProcessor

        path = weights.folder(name)
        self.device = weights.pick_device(device)
        dtype = ("bfloat16" if self.device.type == "cuda" else "float32") if dtype == "auto" else dtype
        self.dtype, self.batch_size, self.answered = getattr(torch, dtype), batch_size, answered
        kind = "a vision-language model"
        with weights.loading(path, kind):
            self.processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
        if getattr(self.processor, "chat_template", None) is None:
            expected = "a model that is asked in turns (an instruct model)"
            raise UserError(f"{path}: has no chat template, expected {expected}")
        self.model = weights.load_model(AutoModelForImageTextToText, path, kind, dtype=self.dtype).to(self.device)
        tokenizer = self.processor.tokenizer
        tokenizer.padding_side = "right"  # positions are then those of a question asked alone
        self.name, self.digest = str(name), weights.digest(path)
        self._keeps = "logits_to_keep" in inspect.signature(self.model.forward).parameters
        self._words = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
        self._masses = cache(self._accepted)
        own = [getattr(self.processor, f"{kind}_token", None) for kind in ("image", "video")]
        special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._reserved = [*special, *filter(None, own)]  # texts that the model does not read as text
        (value,) = self.ask([new("RGB", (SIDE, SIDE), "red")], [PROBE], ["yes"])
        if isinstance(value, UserError):
            raise value

    def check(self, answer: str) -> list[int]:
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

    def ask(self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]) -> list[float | UserError]:
        """As ``Vlm.ask``. What fails alone is a question with a token of the model's own, or one that it answers with
        numbers that are not finite."""
        with torch.no_grad():  # processors cache what they make, which gradients go through later
            values = self._ask([image.convert("RGB") for image in images], questions, answers, rescale=True)
        return [value if isinstance(value, UserError) else value.item() for value in values]

    @cached_property
    def differentiable(self) -> bool:
        """Whether the model's processor keeps a gradient in the pixels; measured."""
        pixels = torch.full((1, 3, SIDE, SIDE), 0.5, device=self.device, requires_grad=True)
        with torch.enable_grad():
            return self._inputs(list(pixels), ["?"], rescale=False)["pixel_values"].requires_grad

    def probabilities(self, images: Tensor, questions: Sequence[str], answers: Sequence[str]) -> Values:
        """As :meth:`ask`, of images (B, 3, H, W) in [0, 1]: numbers in float32, differentiable in the images. Raises
        UserError where a gradient is asked for that the model's processor does not keep."""
        values = self._ask(list(images), questions, answers, rescale=False)
        given = images.requires_grad and torch.is_grad_enabled()
        if given and any(isinstance(value, Tensor) and not value.requires_grad for value in values):
            raise UserError(f"{self.name}: its image processor keeps no gradient in the pixels")
        return values

    def _ask(self, images: list, questions: Sequence[str], answers: Sequence[str], rescale: bool) -> Values:
        if not len(images) == len(questions) == len(answers):
            raise ValueError(f"{len(images)} images, {len(questions)} questions, {len(answers)} answers")
        ids = {answer: (self.check(answer), *self._masses(answer)) for answer in answers}
        found: dict[int, Tensor | UserError] = {}
        for place, question in enumerate(questions):
            with self._noted(found, place, question):
                check_text(question)
                if own := next((token for token in self._reserved if token in question), None):
                    raise UserError(f"holds {own!r}, a token of the model's own")
        fit = [place for place in range(len(images)) if place not in found]
        for start in range(0, len(fit), self.batch_size):
            places = fit[start : start + self.batch_size]
            shares = self._first_token([images[i] for i in places], [questions[i] for i in places], rescale)
            for place, share in zip(places, shares, strict=True):
                expected, accepted, counted = ids[answers[place]]
                score, best = share[expected].sum(), int(share.argmax())
                masses = [share[tokens].sum().item() for tokens in (accepted, counted)]
                with self._noted(found, place, questions[place]):
                    if not score.isfinite():
                        raise UserError(f"its answer has no finite probability, in {self.dtype}".replace("torch.", ""))
                    likeliest = self.processor.tokenizer.decode([best])
                    require_answered(*masses, self.answered, likeliest, share[best].item())
                    found[place] = score
        return [found[place] for place in range(len(images))]

    @contextmanager
    def _noted(self, found: dict, place: int, question: str) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            found[place] = UserError(f"{self.name}: question {question[:200]!r}: {error}")

    def _accepted(self, answer: str) -> tuple[Tensor, Tensor]:
        """Tokens that are an accepted answer where ``answer`` is expected, and those that scores count."""
        found = [i for i, word in enumerate(self._words) if meaning(word, answer) is not None]
        counted = [i for i in found if is_counted(self._words[i], answer)]
        return tuple(torch.tensor(ids, device=self.device) for ids in (found, counted))

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
