"""The second evaluator: a small convolutional detector trained on renders only, outside every training loop.

It shares nothing with the inspector but the list of names, so that one instrument's blind spot cannot carry a
claim. Per cell of a 6x6 grid (8 px of 48) it predicts whether an object is centred there, its class, colour,
centre and radius. Training scenes are not laid out on the world's 3x3 grid; they are blurred, noisy, tinted
and strewn with patches that are no objects.
"""

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json, write_json
from unigrpo.core.records import Detection
from unigrpo.core.tensor_files import load_weights, read_tensors, write_tensors
from unigrpo.world.render import render
from unigrpo.world.scenes import CLASSES, COLOR_NAMES, RADIUS, Obj, Scene, random_scene

LR = 3e-3
SIZE = 48
STRIDE = 8
CELLS = SIZE // STRIDE
BATCH = 256  # images that are looked at together
MIN_SCORE = 0.5
MIN_SHARE = 0.1  # least objectness of a cell that is looked at
SAME_OBJECT = 0.6  # strides between two predicted centres below which they are one object
_HEADS = (1, len(CLASSES), len(COLOR_NAMES), 2, 1)  # objectness, class, colour, centre within the cell, radius


class Detector(nn.Module):
    """Images (B, 3, 48, 48) in [0, 1] -> (B, 20, 6, 6): logits, then centre and radius in units of the stride."""

    def __init__(self) -> None:
        super().__init__()
        widths = ((3, 24, 2), (24, 48, 1), (48, 64, 2), (64, 64, 1), (64, 96, 2), (96, 96, 1))
        layers: list[nn.Module] = []
        for before, after, stride in widths:
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Conv2d(96, sum(_HEADS), 1))

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images * 2 - 1)

    @torch.inference_mode()
    def detect(self, images: np.ndarray) -> list[list[Detection]]:
        """Detections in square uint8 images (n, H, W, 3), boxes in their pixels; other sizes than 48 are resampled.
        Raises ValueError for another shape or type."""
        if images.ndim != 4 or images.shape[1] != images.shape[2] or images.dtype != np.uint8:
            raise ValueError(f"expected uint8 images (n, H, H, 3), got {images.dtype} {images.shape}")
        scale = images.shape[1] / SIZE
        found = []
        for part in torch.from_numpy(images).split(BATCH):
            pixels = part.permute(0, 3, 1, 2).float() / 255
            if scale != 1:
                pixels = F.interpolate(pixels, (SIZE, SIZE), mode="bilinear", antialias=True)
            found += _decode(self(pixels), scale)
        return found


def _decode(output: Tensor, scale: float) -> list[list[Detection]]:
    """Detections of network outputs (B, 20, 6, 6), strongest first; cells that point to one centre add up."""
    objectness, cls, color, center, radius = output.split(_HEADS, dim=1)
    score = objectness[:, 0].sigmoid()
    images, rows, columns = torch.nonzero(score > MIN_SHARE, as_tuple=True)
    at = (images, slice(None), rows, columns)
    centers = torch.stack([columns, rows], dim=1) + center[at]
    cells = (images, score[images, rows, columns], cls[at].argmax(1), color[at].argmax(1), centers, radius[at][:, 0])
    table = zip(*(values.tolist() for values in cells), strict=True)
    merged: list[list[list]] = [[] for _ in output]  # [score, class, colour, (x, y), radius] of each object
    for image, share, *rest in sorted(table, key=lambda row: -row[1]):
        x, y = rest[2]
        near = (o for o in merged[image] if (x - o[3][0]) ** 2 + (y - o[3][1]) ** 2 < SAME_OBJECT**2)
        if other := next(near, None):
            other[0] += share
        else:
            merged[image].append([share, *rest])
    unit = STRIDE * scale

    def detection(total: float, k: int, c: int, at: list[float], r: float) -> Detection:
        box = tuple(v * unit for v in (at[0] - r, at[1] - r, at[0] + r, at[1] + r))
        return Detection(CLASSES[k], COLOR_NAMES[c], box, min(total, 1.0))

    found = ([detection(*o) for o in objects if o[0] > MIN_SCORE] for objects in merged)
    return [sorted(detections, key=lambda d: -d.score) for detections in found]


def scattered_scene(rng: np.random.Generator, n_objects: int) -> Scene:
    """Up to ``n_objects`` shapes anywhere in the image, of more sizes than the world's, side by side."""
    objects: list[Obj] = []
    for _ in range(n_objects):
        x, y, draw = rng.random(3).tolist()
        x, y = 0.1 + 0.8 * x, 0.1 + 0.8 * y
        radius = 0.85 * RADIUS[0] + (1.1 * RADIUS[1] - 0.85 * RADIUS[0]) * draw
        if all(max(abs(x - o.x), abs(y - o.y)) > radius + o.radius - 0.01 for o in objects):
            cls, color = CLASSES[rng.integers(len(CLASSES))], COLOR_NAMES[rng.integers(len(COLOR_NAMES))]
            objects.append(Obj(cls, color, x, y, radius))
    return Scene(tuple(objects))


def targets(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cell (m, 3: image, row, column), class (m,), colour (m,), and centre and radius (m, 3) in strides."""
    objects = [(i, o) for i, scene in enumerate(scenes) for o in scene.objects]
    rows = [(i, min(int(o.y * CELLS), CELLS - 1), min(int(o.x * CELLS), CELLS - 1), o) for i, o in objects]
    cell = torch.tensor([row[:3] for row in rows]).reshape(-1, 3)
    cls = torch.tensor([CLASSES.index(o.cls) for *_, o in rows], dtype=torch.long)
    color = torch.tensor([COLOR_NAMES.index(o.color) for *_, o in rows], dtype=torch.long)
    geometry = [(o.x * CELLS - column, o.y * CELLS - row, o.radius * CELLS) for _, row, column, o in rows]
    return cell, cls, color, torch.tensor(geometry).reshape(-1, 3)


def augment(images: np.ndarray, rng: np.random.Generator) -> Tensor:
    """uint8 renders (B, 48, 48, 3) -> (B, 3, 48, 48) in [0, 1]: patches, tint, blur and noise. Patches of a random
    colour are pasted faintly: clutter is no object. Half of a batch is blurred alike; noise differs per image."""
    pixels, n = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, len(images)
    for i in np.flatnonzero(rng.random(n) < 0.25):
        height, width = rng.integers(2, 10, 2)
        top, left = rng.integers(0, SIZE - 10, 2)
        patch = pixels[i, :, top : top + height, left : left + width]
        shade = torch.tensor(rng.random((3, 1, 1)), dtype=torch.float32)
        patch += rng.uniform(0.1, 0.4) * (shade - patch)
    pixels = pixels + torch.tensor(rng.normal(0, 0.02, (n, 3, 1, 1)), dtype=torch.float32)
    sigma = rng.uniform(0.3, 1.1)
    kernel = torch.exp(-(torch.arange(-3, 4).float() ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 7)
    blurred = F.pad(pixels[: n // 2], (3, 3, 3, 3), mode="replicate")
    blurred = F.conv2d(F.conv2d(blurred, kernel, groups=3), kernel.transpose(2, 3), groups=3)
    pixels = torch.cat([blurred, pixels[n // 2 :]])
    strength = torch.tensor(rng.uniform(0, 0.08, (n, 1, 1, 1)), dtype=torch.float32)
    noise = torch.from_numpy(rng.standard_normal(pixels.shape, dtype=np.float32))
    return (pixels + strength * noise).clamp(0, 1)


def loss(output: Tensor, scenes: Sequence[Scene]) -> Tensor:
    """Objectness over all cells; class, colour, centre and radius where an object is centred."""
    cell, cls, color, geometry = targets(scenes)
    objectness, cls_logits, color_logits, center, radius = output.split(_HEADS, dim=1)
    wanted = torch.zeros(objectness[:, 0].shape)
    image, row, column = cell.unbind(1)
    wanted[image, row, column] = 1
    at = (image, slice(None), row, column)
    return (
        10 * F.binary_cross_entropy_with_logits(objectness[:, 0], wanted)
        + F.cross_entropy(cls_logits[at], cls)
        + F.cross_entropy(color_logits[at], color)
        + 5 * F.smooth_l1_loss(torch.cat([center[at], radius[at]], dim=1), geometry, beta=0.1)
    )


def train(steps: int, batch: int, seed: int) -> Detector:
    """Train on fresh renders: half scattered, half laid out as in the world."""
    torch.manual_seed(seed)  # of the initial weights
    rng = np.random.default_rng(seed)
    model = Detector()
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        layouts = itertools.cycle([(random_scene, 5), (scattered_scene, 7)])
        drawn = [draw(rng, int(rng.integers(1, end))) for draw, end in itertools.islice(layouts, batch)]
        scenes = [drawn[i] for i in rng.permutation(batch)]
        value = loss(model(augment(render(scenes, SIZE), rng)), scenes)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            print(f"step {step}: loss {value.item():.4f}", flush=True)
    return model.eval()


def accuracy(model: Detector, n: int, seed: int) -> dict[str, float]:
    """Share of ``n`` held-out world renders read exactly (every class, colour and count): clean, and augmented."""
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, int(rng.integers(1, 5))) for _ in range(n)]
    images = render(scenes, SIZE)
    harder = (augment(images, rng) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    truth = [Counter((o.cls, o.color) for o in scene.objects) for scene in scenes]
    result = {}
    for name, pixels in (("clean", images), ("augmented", harder)):
        read = [Counter((d.cls, d.color) for d in found) for found in model.detect(pixels)]
        result[name] = float(np.mean([a == b for a, b in zip(truth, read, strict=True)]))
    return result


def load(path: Path) -> Detector:
    """Load a detector folder. Raises UserError where it is absent, damaged or of other names."""
    info = read_json(path / "detector.json")
    if (info.get("classes"), info.get("colors")) != (list(CLASSES), list(COLOR_NAMES)):
        raise UserError(f"{path / 'detector.json'}: expected the classes and colours of this world")
    model = Detector()
    load_weights(model, read_tensors(path / "detector.safetensors"), path / "detector.safetensors")
    return model.eval()


def make(out: Path, steps: int, batch: int, seed: int) -> dict:
    """Train a detector and write detector.safetensors and detector.json into ``out``; returns the latter's content."""
    started = time.perf_counter()
    model = train(steps, batch, seed).half()
    seconds = time.perf_counter() - started
    write_tensors(out / "detector.safetensors", model.state_dict())
    info = {"classes": list(CLASSES), "colors": list(COLOR_NAMES), "trained_on": "renders only"}
    info |= {"steps": steps, "batch": batch, "seed": seed, "wall_seconds": round(seconds, 1)}
    info["parameters"] = sum(p.numel() for p in model.parameters())
    info["accuracy"] = {"images": 2000} | accuracy(model.float(), 2000, seed=seed + 1)  # of the stored weights
    write_json(out / "detector.json", info)
    return info
