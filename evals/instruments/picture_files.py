"""The images that an evaluation judges, from a folder of samples or one in GenEval's official layout. Imports no torch.

The files in the folder decide what is read:

* a sample folder of this suite (``manifest.jsonl``, ``protocol.json``, images.npy or pictures)
* GenEval's layout: ``00000/metadata.jsonl`` with one row, ``00000/samples/0000.png``
* a JSON file ``{prompt: path of its image}``, GenEval 2's layout

Images are opened one after another, when they are judged: one that cannot be read is that image's failure alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from unigrpo.core.errors import UserError
from unigrpo.core.files import new_folder, read_json, read_jsonl
from unigrpo.core.records import Prompt
from unigrpo.sampling import sample_folder

KINDS = (".png", ".jpg", ".jpeg", ".webp")
MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}  # 8 bits a channel
LEAST_SIDE = 16  # pixels
GIVEN = {"mode": "direct", "guidance_name": "as given"}  # of images whose making is not known


@dataclass(frozen=True)
class Picture:
    """One image to judge: ``name`` for messages, its prompt, and ``open``, which raises UserError."""

    name: str
    prompt: Prompt
    sample: int
    open: Callable[[], Image.Image]

    @property
    def names(self) -> dict:
        """What its row in a file of results begins with."""
        prompt = self.prompt
        return {"prompt_id": prompt.id, "tag": prompt.tag, "sample": self.sample, "image": self.name}


@dataclass(frozen=True)
class Pictures:
    """Images, how they were made as far as known, and (name, problem) of what cannot be one."""

    protocol: dict
    pictures: list[Picture]
    broken: list[tuple[str, str]]


def read(path: Path) -> Pictures:
    """What lies at ``path``. Raises UserError where it holds no images in a known layout."""
    if path.suffix == ".json":
        return _mapped(path)
    if (path / "manifest.jsonl").exists():
        return _sampled(path)
    folders = sorted(p for p in path.glob("*") if p.is_dir() and p.name.isdigit())
    if not folders:
        expected = "a folder with manifest.jsonl, one with 00000/metadata.jsonl, or a .json file {prompt: image}"
        raise UserError(f"{path}: holds no images in a known layout, expected {expected}")
    return _official(folders)


def open_image(path: Path) -> Image.Image:
    """An image file as RGB, upright. Raises UserError where it cannot be read or is not 8 bits a channel."""
    try:
        with Image.open(path) as image:
            return as_rgb(ImageOps.exif_transpose(image), f"{path}")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from None


def as_rgb(image: Image.Image, name: str) -> Image.Image:
    """``image`` in RGB, an alpha channel dropped as by the official tool. Raises UserError for another kind of pixel,
    and for one too small to show anything."""
    if image.mode not in MODES:
        raise UserError(f"{name}: is of mode {image.mode}, expected 8 bits a channel ({', '.join(sorted(MODES))})")
    if min(image.size) < LEAST_SIDE:
        raise UserError(f"{name}: is {image.width}x{image.height}, expected at least {LEAST_SIDE} pixels a side")
    return image.convert("RGB")


def _sampled(folder: Path) -> Pictures:
    protocol, rows, _ = sample_folder.read_rows(folder)
    stack = None
    pictures, broken = [], []
    for row in rows:
        prompt = Prompt(row["prompt_id"], row["prompt"], row["tag"], row["meta"])
        if "image" in row:
            path = folder / str(row["image"])
            pictures.append(Picture(f"{row['image']}", prompt, row["sample"], lambda path=path: open_image(path)))
            continue
        stack = sample_folder.read_stack(folder / "images.npy") if stack is None else stack
        index = row.get("index")
        name = f"images.npy[{index}]"
        if not isinstance(index, int) or not 0 <= index < len(stack):
            broken.append((name, f"{folder / 'images.npy'} has images 0 to {len(stack) - 1}"))
            continue
        taken = stack[index]  # mapped, not read yet
        pictures.append(
            Picture(name, prompt, row["sample"], lambda a=taken, n=name: as_rgb(Image.fromarray(np.asarray(a)), n))
        )
    return Pictures(protocol, pictures, broken)


def _official(folders: Sequence[Path]) -> Pictures:
    pictures, broken = [], []
    for folder in folders:
        paths = sorted(p for p in (folder / "samples").glob("*") if p.suffix.lower() in KINDS)
        try:
            prompt = _official_prompt(folder)
        except UserError as error:
            broken += [(f"{folder.name}/samples/{p.name}", str(error)) for p in paths] or [(folder.name, str(error))]
            continue
        if not paths:
            broken.append((folder.name, f"{folder / 'samples'}: has no images, expected 0000.png and so on"))
        for sample, path in enumerate(paths):
            name = f"{folder.name}/samples/{path.name}"
            pictures.append(Picture(name, prompt, sample, lambda path=path: open_image(path)))
    return Pictures({"benchmark": "geneval"} | GIVEN, pictures, broken)


def _official_prompt(folder: Path) -> Prompt:
    path = folder / "metadata.jsonl"
    meta = next(iter(read_jsonl(path)))[1]
    for key in ("tag", "prompt"):
        if not isinstance(meta.get(key, ""), str) or (key == "prompt" and not meta.get(key)):
            raise UserError(f"{path}: '{key}' must be a text, found {meta.get(key)!r}")
    return Prompt(folder.name, meta["prompt"], meta.get("tag", ""), meta)


def _mapped(path: Path) -> Pictures:
    pictures, broken = [], []
    for number, (text, image) in enumerate(read_json(path).items()):
        if not isinstance(image, str):
            broken.append((text, f"{path}: expected the path of an image, found {image!r}"))
            continue
        file = path.parent / image
        prompt = Prompt(f"{number:05d}", text, "", {"prompt": text})
        pictures.append(Picture(image, prompt, 0, lambda file=file: open_image(file)))
    if not pictures and not broken:
        raise UserError(f"{path}: is empty, expected {{prompt: path of its image}}")
    return Pictures({"benchmark": ""} | GIVEN, pictures, broken)


def export(found: Pictures, out: Path) -> int:
    """Write images in GenEval's layout, a folder a prompt in order of appearance; returns their number. Raises
    UserError for the first image that cannot be read; the folder is then not made."""
    folders: dict[str, int] = {}
    with new_folder(out) as temporary:
        for picture in found.pictures:
            folder = temporary / f"{folders.setdefault(picture.prompt.id, len(folders)):05d}"
            (folder / "samples").mkdir(parents=True, exist_ok=True)
            meta = {"tag": picture.prompt.tag} | picture.prompt.meta | {"prompt": picture.prompt.text}
            (folder / "metadata.jsonl").write_text(json.dumps(meta) + "\n", encoding="utf-8")
            picture.open().save(folder / "samples" / f"{picture.sample:04d}.png")
    return len(found.pictures)


def convert(images: Path, out: Path) -> int:
    """:func:`export` of what lies at ``images``. Raises UserError, for what cannot be an image too."""
    found = read(images)
    if found.broken:
        raise UserError(f"{images}: {found.broken[0][0]}: {found.broken[0][1]}")
    return export(found, out)
