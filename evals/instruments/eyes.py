"""What GenEval sees of an image: the objects that a detector finds, and the colours that a CLIP reads off them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL.Image import Image

from evals.instruments import colours, detectors
from evals.instruments.colours import ColourReader, cut_out
from evals.instruments.detectors import Detector, Found
from unigrpo.core.records import Prompt
from unigrpo.world.geneval_verdict import Boxes

Colours = dict[str, list[str]]


@dataclass(frozen=True)
class Eyes:
    """Both instruments."""

    detector: Detector
    reader: ColourReader

    @property
    def version(self) -> str:
        return f"{self.detector.name}:{self.detector.digest} clip:{self.reader.digest}"

    def look(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[tuple[Boxes, Colours]]:
        """(boxes, colours) of each image, as the verdicts take them."""
        found = self.detector.detect(images, [prompt.tag for prompt in prompts])
        return [(seen.boxes, c) for seen, c in zip(found, self._colours(prompts, images, found), strict=True)]

    def _colours(self, prompts: Sequence[Prompt], images: Sequence[Image], found: Sequence[Found]) -> list[Colours]:
        """Of the objects whose class a prompt gives a colour; all crops of the images are read together."""
        crops, classes, owners = [], [], []
        for number, (prompt, image, seen) in enumerate(zip(prompts, images, found, strict=True)):
            for cls in dict.fromkeys(c["class"] for c in prompt.meta["include"] if "color" in c):
                for box, mask in zip(seen.boxes.get(cls, ()), seen.masks.get(cls, ()), strict=True):
                    crops.append(cut_out(image, box, mask))
                    classes.append(cls)
                    owners.append(number)
        colors: list[Colours] = [{} for _ in prompts]
        for owner, cls, color in zip(owners, classes, self.reader.read(crops, classes), strict=True):
            colors[owner].setdefault(cls, []).append(color)
        return colors


def build(detector: str | None = None, clip: str | None = None, device: str = "auto") -> Eyes:
    """The instruments with these checkpoints: folders, or repositories of the hub. Raises UserError."""
    return Eyes(detectors.load(detector or detectors.DEFAULT, device), ColourReader(clip or colours.DEFAULT, device))
