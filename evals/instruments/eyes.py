"""What GenEval sees of an image: the objects that a detector finds, and the colours that a CLIP reads off them.

Detectors are those of transformers. Mask2Former is GenEval's, and its instances are scored as by the official tool: the
100 best pairs of query and class, the class's share times the mean of the mask's probabilities inside it, the box
around the mask. (The library scores masks on a grid of 384x384 and lets them hide each other.) OWLv2, the alternative,
finds one class a box and no masks. Its thresholds are ours, on another scale, and not calibrated against GenEval's
detector: numbers made with it compare among themselves only.

Colours are zero-shot among GenEval's ten. As in the official tool, what an object's mask leaves out is filled with
grey, the rest cropped to its box, and each colour described by three sentences, two of which name the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from unigrpo.core import weights
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json
from unigrpo.core.records import Prompt
from unigrpo.models import torchvision_compat
from unigrpo.world import geneval_verdict as geneval

DETECTOR = "facebook/mask2former-swin-small-coco-instance"
CLIP = "timm/vit_large_patch14_clip_224.openai"
GREY = "#999999"
TEMPLATES = ("a photo of a {color} {cls}", "a photo of a {color}-colored {cls}", "a photo of a {color} object")
SHORT_SIDE, LONG_SIDE = 800, 1333  # pixels that images are resized to, as in the official configuration
MAX_INSTANCES = 100
SYNONYMS = {
    "mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard", "motorbike": "motorcycle",
    "aeroplane": "airplane", "sofa": "couch", "pottedplant": "potted plant", "diningtable": "dining table",
    "tvmonitor": "tv", "hair dryer": "hair drier", "doughnut": "donut",
}  # fmt: skip
"""Names of COCO's classes in published checkpoints -> GenEval's."""
Colours = dict[str, list[str]]


class Found(NamedTuple):
    """The instances of one image that pass the filter, class by class, best first: rows (x0, y0, x1, y1, score) in
    pixels, and beside each its mask (H, W) bool, None of a detector without masks."""

    boxes: dict[str, list[list[float]]]
    masks: dict[str, list[np.ndarray | None]]


def load_detector(name: str | Path = DETECTOR, device: str = "auto") -> Detector:
    """The detector in a folder or repository of the hub, of the kind that its config.json says. Raises UserError."""
    path = weights.folder(name)
    kind = read_json(path / "config.json", "model_type")["model_type"]
    if kind not in KINDS:
        raise UserError(f"{path / 'config.json'}: 'model_type' must be one of {', '.join(KINDS)}, found {kind!r}")
    torchvision_compat.ensure_torchvision()
    return KINDS[kind](path, weights.pick_device(device))


class Mask2Former:
    """COCO instances. ``name`` says which detector it is and at what size it looks, ``digest`` which weights it has."""

    def __init__(self, path: Path, device: torch.device):
        from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

        with weights.loading(path, "a Mask2Former"):
            self.processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
        model = weights.load_model(Mask2FormerForUniversalSegmentation, path, "a Mask2Former")
        labels = model.config.id2label
        found = tuple(SYNONYMS.get(labels[i], labels[i]) for i in sorted(labels))
        if found != geneval.CLASSES:
            odd = next((a for a, b in zip(found, geneval.CLASSES, strict=False) if a != b), f"{len(found)} classes")
            raise UserError(f"{path / 'config.json'}: 'id2label' must be COCO's 80 classes, found {odd!r}")
        self.model = model.to(device)
        self.size = {"shortest_edge": SHORT_SIDE, "longest_edge": LONG_SIDE}
        self.name, self.digest = f"mask2former-{SHORT_SIDE}x{LONG_SIDE}", weights.digest(path)

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image], tags: Sequence[str]) -> list[Found]:
        """The instances of each image that pass the filter: RGB ``images`` of one size, and their prompts' ``tags``, by
        which the official filter chooses its threshold."""
        inputs = self.processor(images=list(images), size=self.size, return_tensors="pt").to(self.model.device)
        output = self.model(pixel_values=inputs["pixel_values"], pixel_mask=inputs["pixel_mask"])
        seen, size = inputs["pixel_values"].shape[-2:], (images[0].height, images[0].width)
        rows = zip(output.class_queries_logits, output.masks_queries_logits, tags, strict=True)
        least = geneval.THRESHOLDS[0]
        return [keep(*instances(classes, masks, seen, size, least), tag) for classes, masks, tag in rows]


def instances(
    classes: Tensor, masks: Tensor, seen: tuple[int, int], size: tuple[int, int], least: float
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Rows (n, 5), labels (n,) and masks n x (H, W) of one image that score above ``least``. ``classes`` (Q, C + 1) and
    ``masks`` (Q, h, w) are logits; ``seen`` is the size of the network's input, ``size`` (H, W) that of the image. A
    class's share bounds the score, so pairs at or below ``least`` are not looked at."""
    shares = classes.float().softmax(-1)[:, :-1]  # (Q, C); the last class is no object
    top, place = shares.flatten().topk(min(MAX_INSTANCES, shares.numel()))
    top, place = top[top > least], place[top > least]
    queries, labels = place // shares.shape[1], place % shares.shape[1]
    rows, names, insides = [], [], []
    for share, query, label in zip(top, queries, labels, strict=True):
        logits = interpolate(masks[query].float()[None, None], seen, mode="bilinear", align_corners=False)
        logits = interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0]
        inside = logits > 0
        score = share * (logits.sigmoid() * inside).sum() / (inside.sum() + 1e-6)
        if score > least:
            insides.append(inside.cpu().numpy())
            rows.append([*Image.fromarray(insides[-1]).getbbox(), score.item()])
            names.append(label.item())
    return np.asarray(rows, dtype=np.float32).reshape(-1, 5), np.asarray(names, dtype=int), insides


def keep(rows: np.ndarray, labels: np.ndarray, masks: Sequence[np.ndarray | None], tag: str, **rule) -> Found:
    """The official filter on the detections of one image, or one by a ``rule`` of one's own for
    ``geneval.kept_indices``; ``labels`` are indices of GenEval's classes."""
    found = Found({}, {})
    for label in np.unique(labels):
        inside = np.flatnonzero(labels == label)
        chosen = [inside[i] for i in geneval.kept_indices(rows[inside], tag, **rule)]
        if chosen:
            found.boxes[geneval.CLASSES[label]] = [rows[i].tolist() for i in chosen]
            found.masks[geneval.CLASSES[label]] = [masks[i] for i in chosen]
    return found


class Owlv2:
    """Open vocabulary, asked for GenEval's 80 classes as "a photo of a ...", which are embedded once; used as
    ``Mask2Former`` is."""

    rule = {"thresholds": (0.2, 0.3), "max_overlap": 0.5}  # thresholds of all prompts but counting, and of counting

    def __init__(self, path: Path, device: torch.device):
        from transformers import AutoProcessor, Owlv2ForObjectDetection

        with weights.loading(path, "an OWLv2"):
            self.processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
        self.model = weights.load_model(Owlv2ForObjectDetection, path, "an OWLv2").to(device)
        self.name, self.digest = "owlv2", weights.digest(path)
        asked = [f"a photo of {geneval.with_article(name)}" for name in geneval.CLASSES]
        text = self.processor(text=[asked], return_tensors="pt").to(device)
        with torch.inference_mode():
            read = self.model.owlv2.text_model(text["input_ids"], text["attention_mask"]).pooler_output
            self.queries = self.model.owlv2.text_projection(read)  # (80, D)

    @torch.inference_mode()
    def detect(self, images: Sequence[Image.Image], tags: Sequence[str]) -> list[Found]:
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"].to(self.model.device)
        features, _ = self.model.image_embedder(pixels)  # (B, h, w, D)
        flat = features.flatten(1, 2)
        logits, _ = self.model.class_predictor(flat, self.queries.expand(len(images), -1, -1))
        output = SimpleNamespace(logits=logits, pred_boxes=self.model.box_predictor(flat, features))
        width, height = images[0].size
        decode = self.processor.post_process_grounded_object_detection
        found = decode(output, threshold=self.rule["thresholds"][0], target_sizes=[(height, width)] * len(images))
        limits = torch.tensor([width, height, width, height], device=self.model.device)
        filtered = []
        for seen, tag in zip(found, tags, strict=True):
            boxes = seen["boxes"].clamp(min=0).minimum(limits)  # the network sees a square that the image fills in part
            large = (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)
            rows = torch.cat([boxes, seen["scores"][:, None]], 1)[large].cpu().numpy()
            labels = seen["labels"][large].cpu().numpy()
            filtered.append(keep(rows, labels, [None] * len(rows), tag, **self.rule))
        return filtered


Detector = Mask2Former | Owlv2
KINDS = {"mask2former": Mask2Former, "owlv2": Owlv2}
"""``model_type`` in a checkpoint's config.json -> its detector."""


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
            colors += [geneval.COLORS[i] for i in best.tolist()]
        return colors

    def _described(self, cls: str) -> Tensor:
        """(D, 10): each colour's mean description, of length 1."""
        from open_clip import build_zero_shot_classifier

        templates = [lambda color, text=text: text.format(color=color, cls=cls) for text in TEMPLATES]
        return build_zero_shot_classifier(self.model, self.tokenizer, geneval.COLORS, templates, device=self.device)


class Eyes(NamedTuple):
    """Both instruments."""

    detector: Detector
    reader: ColourReader

    @property
    def version(self) -> str:
        return f"{self.detector.name}:{self.detector.digest} clip:{self.reader.digest}"

    def look(self, images: Sequence[Image.Image], prompts: Sequence[Prompt]) -> list[tuple[geneval.Boxes, Colours]]:
        """(boxes, colours) of each image, as the verdicts take them. Colours are of the objects whose class a prompt
        gives a colour; all crops of the images are read together."""
        found = self.detector.detect(images, [prompt.tag for prompt in prompts])
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
        return [(seen.boxes, read) for seen, read in zip(found, colors, strict=True)]


def build(detector: str | None = None, clip: str | None = None, device: str = "auto") -> Eyes:
    """The instruments with these checkpoints: folders, or repositories of the hub. Raises UserError."""
    return Eyes(load_detector(detector or DETECTOR, device), ColourReader(clip or CLIP, device))
