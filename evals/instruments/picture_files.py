"""The images that an evaluation judges, from a folder of samples or one in GenEval's official layout. Imports no torch.

What is there decides what is read:

* a sample folder of this suite (``manifest.jsonl``, ``protocol.json``, images.npy or pictures)
* GenEval's layout: ``00000/metadata.jsonl`` with one row, ``00000/samples/0000.png``
* a JSON file ``{prompt: path of its image}``, GenEval 2's layout

Images are opened one after another, when they are judged: one that cannot be read is that image's failure alone.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

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

Broken = tuple[str, str]
"""(name, problem) of what cannot be an image."""


class Picture(NamedTuple):
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


class Pictures(NamedTuple):
    """Images, how they were made as far as known, and what cannot be one."""

    protocol: dict
    pictures: list[Picture]
    broken: list[Broken]


def read(path: Path) -> Pictures:
    """What lies at ``path``. Raises UserError where it holds no images in a known layout."""
    if path.suffix == ".json":
        protocol, found = {"benchmark": ""} | GIVEN, _mapped(path)
    elif (path / "manifest.jsonl").exists():
        protocol, rows, _ = sample_folder.read_rows(path)
        found = _sampled(path, rows)
    elif folders := sorted(p for p in path.glob("*") if p.is_dir() and p.name.isdigit()):
        protocol, found = {"benchmark": "geneval"} | GIVEN, chain.from_iterable(map(_official, folders))
    else:
        expected = "a folder with manifest.jsonl, one with 00000/metadata.jsonl, or a .json file {prompt: image}"
        raise UserError(f"{path}: holds no images in a known layout, expected {expected}")
    items = list(found)
    pictures = [item for item in items if isinstance(item, Picture)]
    return Pictures(protocol, pictures, [item for item in items if not isinstance(item, Picture)])


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


def _sampled(folder: Path, rows: Sequence[dict]) -> Iterator[Picture | Broken]:
    stack = None
    for row in rows:
        prompt = Prompt(row["prompt_id"], row["prompt"], row["tag"], row["meta"])
        if "image" in row:
            path = folder / str(row["image"])
            yield Picture(f"{row['image']}", prompt, row["sample"], partial(open_image, path))
            continue
        stack = sample_folder.read_stack(folder / "images.npy") if stack is None else stack
        index = row.get("index")
        name = f"images.npy[{index}]"
        if isinstance(index, int) and 0 <= index < len(stack):
            yield Picture(name, prompt, row["sample"], partial(_of_array, stack[index], name))
        else:
            yield name, f"{folder / 'images.npy'} has images 0 to {len(stack) - 1}"


def _of_array(pixels: np.ndarray, name: str) -> Image.Image:
    return as_rgb(Image.fromarray(np.asarray(pixels)), name)  # mapped, read only now


def _official(folder: Path) -> Iterator[Picture | Broken]:
    paths = sorted(p for p in (folder / "samples").glob("*") if p.suffix.lower() in KINDS)
    names = [f"{folder.name}/samples/{path.name}" for path in paths]
    try:
        prompt = _official_prompt(folder)
    except UserError as error:
        yield from ((name, str(error)) for name in names or [folder.name])
        return
    if not paths:
        yield folder.name, f"{folder / 'samples'}: has no images, expected 0000.png and so on"
    for sample, (name, path) in enumerate(zip(names, paths, strict=True)):
        yield Picture(name, prompt, sample, partial(open_image, path))


def _official_prompt(folder: Path) -> Prompt:
    path = folder / "metadata.jsonl"
    meta = next(iter(read_jsonl(path)))[1]
    for key in ("tag", "prompt"):
        if not isinstance(meta.get(key, ""), str) or (key == "prompt" and not meta.get(key)):
            raise UserError(f"{path}: '{key}' must be a text, found {meta.get(key)!r}")
    return Prompt(folder.name, meta["prompt"], meta.get("tag", ""), meta)


def _mapped(path: Path) -> Iterator[Picture | Broken]:
    rows = read_json(path)
    if not rows:
        raise UserError(f"{path}: is empty, expected {{prompt: path of its image}}")
    for number, (text, image) in enumerate(rows.items()):
        if isinstance(image, str):
            prompt = Prompt(f"{number:05d}", text, "", {"prompt": text})
            yield Picture(image, prompt, 0, partial(open_image, path.parent / image))
        else:
            yield text, f"{path}: expected the path of an image, found {image!r}"


def convert(images: Path, out: Path) -> int:
    """Write what lies at ``images`` in GenEval's layout, a folder a prompt in order of appearance; returns the number
    of images. Raises UserError for the first that cannot be read; the folder is then not made."""
    found = read(images)
    if found.broken:
        raise UserError(f"{images}: {found.broken[0][0]}: {found.broken[0][1]}")
    folders: dict[str, int] = {}
    with new_folder(out) as temporary:
        for picture in found.pictures:
            folder = temporary / f"{folders.setdefault(picture.prompt.id, len(folders)):05d}"
            (folder / "samples").mkdir(parents=True, exist_ok=True)
            meta = {"tag": picture.prompt.tag} | picture.prompt.meta | {"prompt": picture.prompt.text}
            (folder / "metadata.jsonl").write_text(json.dumps(meta) + "\n", encoding="utf-8")
            picture.open().save(folder / "samples" / f"{picture.sample:04d}.png")
    return len(found.pictures)
