"""What GenEval sees of an image: the objects that a detector finds, and the colours that a CLIP reads off them.

Colours are zero-shot among GenEval's ten, on the object cut out of its image. As in the official tool, what its mask
leaves out is filled with grey, the rest cropped to its box, and each colour described by three sentences, two of which
name the object's class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evals.instruments import detectors
from evals.instruments.detectors import Detector, Found
from unigrpo.core import weights
from unigrpo.core.records import Prompt
from unigrpo.models import torchvision_compat
from unigrpo.world.geneval_verdict import COLORS, Boxes

CLIP = "timm/vit_large_patch14_clip_224.openai"
GREY = "#999999"
TEMPLATES = ("a photo of a {color} {cls}", "a photo of a {color}-colored {cls}", "a photo of a {color} object")

Colours = dict[str, list[str]]


def cut_out(image: Image.Image, box: Sequence[float], mask: np.ndarray | None) -> Image.Image:
    """The object of ``box`` (x0, y0, x1, y1, ...), grey where its ``mask`` (H, W) is not; at least a pixel."""
    if mask is not None:
        image = Image.composite(image, Image.new("RGB", image.size, GREY), Image.fromarray(mask))
    x0, y0, x1, y1 = (round(value) for value in box[:4])
    return image.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)))


class ColourReader:
    """An open_clip model from a folder or the hub (open_clip_config.json beside its weights). Raises UserError."""

    def __init__(self, name: str | Path = CLIP, device: str = "auto", batch_size: int = 64):
        torchvision_compat.ensure_torchvision()
        import open_clip

        path = weights.folder(name, ("open_clip_config.json",))
        self.device = weights.pick_device(device)
        with weights.loading(path, "an open_clip model"):
            model, self.transform = open_clip.create_model_from_pretrained(f"local-dir:{path}", device=self.device)
            self.tokenizer = open_clip.get_tokenizer(f"local-dir:{path}")
        self.model = model.eval().requires_grad_(False)
        self.batch_size, self.digest = batch_size, weights.digest(path)
        self._classifier = lru_cache(maxsize=None)(self._described)

    @torch.inference_mode()
    def read(self, crops: Sequence[Image.Image], classes: Sequence[str]) -> list[str]:
        """The colour of each crop, whose object is of the class beside it."""
        colors = []
        for start in range(0, len(crops), self.batch_size):
            part = slice(start, start + self.batch_size)
            pixels = torch.stack([self.transform(crop) for crop in crops[part]]).to(self.device)
            seen = self.model.encode_image(pixels, normalize=True)  # (b, D)
            described = torch.stack([self._classifier(cls) for cls in classes[part]])  # (b, D, 10)
            best = torch.einsum("bd,bdc->bc", seen, described).argmax(1)
            colors += [COLORS[i] for i in best.tolist()]
        return colors

    def _described(self, cls: str) -> Tensor:
        """(D, 10): each colour's mean description, of length 1."""
        from open_clip import build_zero_shot_classifier

        templates = [lambda color, text=text: text.format(color=color, cls=cls) for text in TEMPLATES]
        return build_zero_shot_classifier(self.model, self.tokenizer, COLORS, templates, device=self.device)


@dataclass(frozen=True)
class Eyes:
    """Both instruments."""

    detector: Detector
    reader: ColourReader

    @property
    def version(self) -> str:
        return f"{self.detector.name}:{self.detector.digest} clip:{self.reader.digest}"

    def look(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> list[tuple[Boxes, Colours]]:
        """(boxes, colours) of each image, as the verdicts take them."""
        found = self.detector.detect(images, [prompt.tag for prompt in prompts])
        return [(seen.boxes, c) for seen, c in zip(found, self._colours(prompts, images, found), strict=True)]

    def _colours(
        self, prompts: Sequence[Prompt], images: Sequence[Image.Image], found: Sequence[Found]
    ) -> list[Colours]:
        """Of the objects whose class a prompt gives a colour; all crops of the images are read together."""
        colors: list[Colours] = [{} for _ in prompts]
        crops, classes, owners = [], [], []
        for prompt, image, seen, owner in zip(prompts, images, found, colors, strict=True):
            for cls in dict.fromkeys(c["class"] for c in prompt.meta["include"] if "color" in c):
                for box, mask in zip(seen.boxes.get(cls, ()), seen.masks.get(cls, ()), strict=True):
                    crops.append(cut_out(image, box, mask))
                    classes.append(cls)
                    owners.append(owner)
        for owner, cls, color in zip(owners, classes, self.reader.read(crops, classes), strict=True):
            owner.setdefault(cls, []).append(color)
        return colors


def build(detector: str | None = None, clip: str | None = None, device: str = "auto") -> Eyes:
    """The instruments with these checkpoints: folders, or repositories of the hub. Raises UserError."""
    return Eyes(detectors.load(detector or detectors.DEFAULT, device), ColourReader(clip or CLIP, device))
