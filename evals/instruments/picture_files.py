"""The images that an evaluation judges, from a folder of samples or one in GenEval's official layout. Imports no torch.

What is there decides what is read:

* a sample folder of this suite (``manifest.jsonl``, ``protocol.json``, images.npy or pictures)
* GenEval's layout: ``00000/metadata.jsonl`` with one object, ``00000/samples/0000.png``; other names are not looked at
* a JSON file ``{prompt: path of its image}``, GenEval 2's layout

Images are opened one after another, when they are judged: one that cannot be read is that image's failure alone.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from unigrpo.core.errors import UserError
from unigrpo.core.files import new_folder, read_json
from unigrpo.core.records import Labels, Prompt, check_text, same_text
from unigrpo.sampling import sample_folder
from unigrpo.sampling.pictures import as_rgb, path_in, read_picture

KINDS = (".png", ".jpg", ".jpeg", ".webp")
GIVEN = {"mode": "direct", "guidance_name": "as given"}  # of images whose making is not known

Broken = tuple[str, str]
"""(name, problem) of what cannot be an image."""


class Picture(NamedTuple):
    """One image to judge: ``name`` for messages, its prompt, and ``open``, which raises UserError."""

    name: str
    prompt: Prompt
    sample: int
    open: Callable[[], Image.Image]
    trace: str | None = None

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
    """What lies at ``path``. Raises UserError where it holds no images in a known layout, or one id has two texts."""
    if path.suffix == ".json":
        protocol, found = {"benchmark": ""} | GIVEN, _mapped(path)
    elif (path / "manifest.jsonl").exists():
        protocol, rows, _ = sample_folder.read_rows(path)
        found = _sampled(path, rows)
    elif folders := [p for p in path.glob("*") if re.fullmatch("[0-9]+", p.name) and p.is_dir()]:
        folders.sort(key=lambda folder: int(folder.name))
        protocol, found = {"benchmark": "geneval"} | GIVEN, chain.from_iterable(map(_official, folders))
    else:
        expected = "a folder with manifest.jsonl, one with 00000/metadata.jsonl, or a .json file {prompt: image}"
        raise UserError(f"{path}: holds no images in a known layout, expected {expected}")
    return gathered(path, protocol, found)


def gathered(path: Path, protocol: dict, found: Iterable[Picture | Broken]) -> Pictures:
    """What was ``found`` at ``path``; images of one prompt get one id, its first, and different sample numbers. Raises
    UserError where one id has two texts."""
    labels, taken = Labels(), {}
    read = Pictures(protocol, [], [])
    for item in found:
        if not isinstance(item, Picture) or not same_text(item.prompt.text):
            read.broken.append((item.name, "its prompt is blank") if isinstance(item, Picture) else item)
            continue
        prompt, label = item.prompt, labels.of(item.prompt, path)
        numbers = taken.setdefault(label, set())
        number = item.sample if item.sample not in numbers else max(numbers) + 1
        numbers.add(number)
        prompt = prompt if label == prompt.id else replace(prompt, id=label)
        read.pictures.append(item._replace(prompt=prompt, sample=number))
    return read


def _sampled(folder: Path, rows: Sequence[dict]) -> Iterator[Picture | Broken]:
    stack = None
    for row in rows:
        prompt = Prompt(row["prompt_id"], row["prompt"], row["tag"], row["meta"])
        if "image" in row:
            yield _picture(folder, row["image"], prompt, row["sample"], row.get("trace"))
            continue
        stack = sample_folder.read_stack(folder / "images.npy") if stack is None else stack
        index = row.get("index")
        name = f"images.npy[{index}]"
        if type(index) is int and 0 <= index < len(stack):
            yield Picture(name, prompt, row["sample"], partial(_of_array, stack, index, name), row.get("trace"))
        else:
            yield name, f"{folder / 'images.npy'} has images 0 to {len(stack) - 1}"


def _picture(folder: Path, name: object, prompt: Prompt, sample: int, trace: str | None = None) -> Picture | Broken:
    try:
        check_text(f"{name}{prompt.text}")
        return Picture(f"{name}", prompt, sample, partial(read_picture, path_in(folder, name)), trace)
    except UserError as error:
        return ascii(name if isinstance(name, str) else prompt.text)[1:-1], f"{error}"


def _of_array(stack: np.ndarray, index: int, name: str) -> Image.Image:
    return as_rgb(Image.fromarray(np.asarray(stack[index])), name)  # mapped, read only now


def _official(folder: Path) -> Iterator[Picture | Broken]:
    files = [p.name for p in (folder / "samples").glob("*") if p.suffix.lower() in KINDS]
    files = [name for name in files if re.fullmatch("[0-9]+", Path(name).stem)]
    names = [f"{folder.name}/samples/{name}" for name in sorted(files, key=_number)]
    try:
        prompt = _official_prompt(folder)
    except UserError as error:
        yield from ((name, str(error)) for name in names or [folder.name])
        return
    if not names:
        yield folder.name, f"{folder / 'samples'}: has no images, expected 0000.png and so on"
    numbers = [_number(Path(name).name) for name in names]
    several = {number for number, count in Counter(numbers).items() if count > 1}
    for name, number in zip(names, numbers, strict=True):
        doubled = name, f"is one of several files of sample {number}, expected one"
        yield doubled if number in several else _picture(folder.parent, name, prompt, number)


def _number(name: str) -> int:
    return int(name.partition(".")[0])


def _official_prompt(folder: Path) -> Prompt:
    path = folder / "metadata.jsonl"
    meta = read_json(path)
    for key in ("tag", "prompt"):
        if not isinstance(meta.get(key, ""), str) or (key == "prompt" and not meta.get(key)):
            raise UserError(f"{path}: '{key}' must be a text, found {meta.get(key)!r}")
    text, tag = meta["prompt"], meta.get("tag", "")  # the folder's number is a place, which no other folder shares
    return Prompt(f"{same_text(text)} ({tag})" if tag else same_text(text), text, tag, meta)


def _mapped(path: Path) -> Iterator[Picture | Broken]:
    rows = read_json(path, halves=True)
    if not rows:
        raise UserError(f"{path}: is empty, expected {{prompt: path of its image}}")
    for text, image in rows.items():  # which has no label but its text
        yield _picture(path.parent, image, Prompt(same_text(text), text, "", {"prompt": text}), 0)


def convert(images: Path, out: Path) -> int:
    """Write what lies at ``images`` in GenEval's layout, a folder a prompt in order of appearance; returns the number
    of images. Raises UserError for the first that cannot be read; the folder is then not made."""
    found = read(images)
    if found.broken:
        raise UserError(f"{images}: {found.broken[0][0]}: {found.broken[0][1]}")
    folders: dict[tuple, int] = {}
    with new_folder(out) as temporary:
        for picture in found.pictures:
            folder = temporary / f"{folders.setdefault(picture.prompt.key, len(folders)):05d}"
            (folder / "samples").mkdir(parents=True, exist_ok=True)
            meta = {"tag": picture.prompt.tag} | picture.prompt.meta | {"prompt": picture.prompt.text}
            (folder / "metadata.jsonl").write_text(json.dumps(meta) + "\n", encoding="utf-8")
            picture.open().save(folder / "samples" / f"{picture.sample:04d}.png")
    return len(found.pictures)
