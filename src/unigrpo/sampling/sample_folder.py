"""A folder of sampled images (protocol.json, manifest.jsonl, images.npy), read and checked. Imports no torch.

A manifest row names its image by ``index`` into images.npy, or, in a folder made by an outside method, by
``image``, a path of a picture relative to the folder.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from unigrpo.core.errors import UserError, error_prefix, reading
from unigrpo.core.files import opened, read_json, read_jsonl, replacing, write_json, write_text
from unigrpo.core.records import Prompt
from unigrpo.core.settings import CountOrNone, Settings, checked, distinct
from unigrpo.sampling.pictures import path_in, read_picture


class Protocol(Settings, extra="ignore"):
    """What is needed of protocol.json."""

    benchmark: str
    version: str
    mode: Literal["think", "direct", "mixed"]
    guidance_name: str
    guidance: float | None = None


class Row(Settings, extra="ignore"):
    """What is needed of a row of manifest.jsonl."""

    prompt_id: str
    prompt: str
    tag: str
    meta: dict
    sample: CountOrNone
    trace: str | None = None


@dataclass(frozen=True)
class Images(Sequence):
    """(n, H, W, 3) uint8, those of manifest ``rows`` (n) that stand at ``where`` (n): one by its number, an array by a
    slice. Read only then; raises UserError naming a row without an image, or with one of another size than the first's.
    """

    folder: Path
    where: list[str]
    rows: list[dict]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int | slice) -> np.ndarray:
        if isinstance(key, slice):
            return np.stack([self[number] for number in range(len(self))[key]])
        if (image := self._read(key)).shape != self.shape:
            raise UserError(f"{self.where[key]}: image of shape {image.shape}, the first row's is {self.shape}")
        return image

    @cached_property
    def stack(self) -> np.ndarray:
        return read_stack(self.folder / "images.npy")

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """(H, W, 3)"""
        return self._read(0).shape

    def _read(self, key: int) -> np.ndarray:
        with error_prefix(self.where[key]):
            if "image" in self.rows[key]:
                return np.asarray(read_picture(path_in(self.folder, self.rows[key]["image"])))
            index = self.rows[key].get("index")
            if type(index) is not int or not 0 <= index < len(self.stack):
                allowed = f"from 0 to {len(self.stack) - 1}, an image of {self.folder / 'images.npy'}"
                raise UserError(f"'index' must be {allowed}, found {index!r}")
            return self.stack[index]


@dataclass(frozen=True)
class SampleFolder:
    """``images`` (n, H, W, 3) uint8, their ``protocol``, manifest ``rows`` (n) and where these stand (n)."""

    protocol: dict
    rows: list[dict]
    where: list[str]
    images: Images


def read(folder: Path) -> SampleFolder:
    """Read and check a folder, but for its pictures. Raises UserError naming file and line of the first thing wrong."""
    protocol, rows, where = read_rows(folder)
    images = Images(folder, where, rows)
    for number, row in enumerate(rows):
        if "image" not in row:
            images[number]
    return SampleFolder(protocol, rows, where, images)


class Done(Settings):
    """done.json beside the folders of a run: their names and what is in each."""

    sets: list[str]
    digests: dict[str, str | None] = {}


def read_protocol(path: Path) -> dict:
    """protocol.json. Raises UserError."""
    return checked(Protocol, read_json(path), path)


def read_rows(folder: Path) -> tuple[dict, list[dict], list[str]]:
    """(protocol, manifest rows, where these stand) of a folder, its images unseen. Raises UserError as ``read``."""
    protocol = read_protocol(folder / "protocol.json")
    lines, shown = [], {}
    for place, row in distinct(Row, read_jsonl(folder / "manifest.jsonl"), "prompt_id", "sample"):
        image = str(row.get("image", row.get("index")))
        if shown.setdefault(image, place) != place:
            raise UserError(f"{place}: image {image} is already that of {shown[image]}")
        lines.append((place, row))
    where, rows = map(list, zip(*lines, strict=True))
    return protocol, rows, where


def require_clauses(samples: SampleFolder, check: Callable[[dict], None]) -> None:
    """Raise UserError naming the first row whose metadata states nothing, or that ``check`` refuses by a UserError."""
    for row, where in zip(samples.rows, samples.where, strict=True):
        if not row["meta"].get("include"):
            raise UserError(f"{where}: 'meta' needs 'include', the clauses to judge, found {row['meta']!r}")
        with error_prefix(where):
            check(row["meta"])


def read_stack(path: Path) -> np.ndarray:
    """(n, H, W, 3) uint8, mapped into memory. Raises UserError where the file is no such array."""
    with opened(path, "a numpy array"), reading(path, "a numpy array"):
        stack = np.load(path, mmap_mode="r", allow_pickle=False)
    if stack.ndim != 4 or stack.shape[-1] != 3 or stack.dtype != np.uint8:
        raise UserError(f"{path}: expected uint8 (n, H, W, 3), found {stack.dtype} {stack.shape}")
    return stack


def write(folder: Path, jobs: Sequence[tuple[Prompt, int]], samples, protocol: dict) -> None:
    """Write sampled images of ``jobs`` (prompt, sample number); ``samples`` has ``images`` (n, H, W, 3) uint8 and
    ``traces`` (n). The manifest comes last: a folder with one is complete."""
    content = io.BytesIO()  # numpy does not say why its writing to a file failed
    np.save(content, samples.images, allow_pickle=False)
    with replacing(folder / "images.npy") as temporary:
        temporary.write_bytes(content.getbuffer())
    write_json(folder / "protocol.json", protocol)
    rows = [
        {"index": i, "prompt_id": prompt.id, "prompt": prompt.text, "tag": prompt.tag, "meta": prompt.meta}
        | {"sample": number, "seed": protocol["seed"], "trace": trace}
        for i, ((prompt, number), trace) in enumerate(zip(jobs, samples.traces, strict=True))
    ]
    write_text(folder / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
