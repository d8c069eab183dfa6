"""Validation images of runs whose gold judge peaked: at the peak and at the end, the same prompts and noise."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from unigrpo.core.errors import UserError
from unigrpo.core.records import SHEET_COLUMNS
from unigrpo.core.seeding import numpy_generator
from unigrpo.report.pictures import WIDTH
from unigrpo.report.rows import Sources
from unigrpo.report.validations import Course, course, sheet
from unigrpo.world.prompts import prompt_set

TAGS = ("single_object", "counting", "position", "color_attr", "compound", "compound")


def drawn(found: Course) -> list[int]:
    """Places in the sheet of one prompt for each of TAGS, by a draw that depends on the set of prompts alone."""
    rng, places = numpy_generator(0, "sheets"), []
    for tag in TAGS:
        left = [i for i, t in enumerate(found.tags) if t == tag and i not in places]
        if left:
            places.append(left[rng.integers(len(left))])
    return places


def tile(page: np.ndarray, place: int) -> np.ndarray:
    """The image at ``place`` of a sheet (H, W, 3)."""
    side = page.shape[1] // SHEET_COLUMNS
    row, column = divmod(place, SHEET_COLUMNS)
    return page[side * row : side * (row + 1), side * column : side * (column + 1)]


def sheets(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """Two lines a run, the first seed's images at the validation where mean gold peaks and at the last."""
    folder, rows = sources.folder, []
    courses = {run: course(run, folder) for run in spec["runs"]}
    shown = next((found for found in courses.values() if found is not None), None)
    if shown is None:
        raise UserError(f"{folder.root / 'runs'}: none of {', '.join(spec['runs'])} has validation records")
    places, texts = drawn(shown), {p.id: p.text for p in prompt_set("val")}
    figure, axes = plt.subplots(
        2 * len(spec["runs"]), len(places), figsize=(WIDTH, 0.5 + 2 * len(spec["runs"]) * (WIDTH / 8)), squeeze=False
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.set_box_aspect(1)
    for number, (run, found) in enumerate(courses.items()):
        pair = axes[2 * number : 2 * number + 2]
        if found is None:
            name = "\n".join(textwrap.wrap(folder.label(run), 18))
            pair[0, 0].set_ylabel(f"{name}\nnot available", fontsize=6, rotation=0, ha="right", va="center")
            continue
        for line, at, when in zip(pair, (found.peak(), -1), ("gold peaks", "end"), strict=True):
            update = found.updates[at]
            name = "\n".join(textwrap.wrap(folder.label(run), 18))
            line[0].set_ylabel(f"{name}\n{when}: {update}", fontsize=6, rotation=0, ha="right", va="center")
            path = sheet(run, found.seeds[0], update, folder)
            try:
                page = np.asarray(Image.open(path).convert("RGB"))
            except OSError as error:
                raise UserError(f"{path}: cannot be read as a picture ({error})") from None
            for axis, place in zip(line, places, strict=True):
                axis.imshow(tile(page, place), interpolation="bicubic")
                gold = found.values["gold"][0, at, place]
                axis.set_xlabel(f"gold {gold:.2f}", fontsize=5.5, labelpad=1.5)
                rows.append((run, found.seeds[0], update, when, found.prompts[place], gold))
    for axis, place in zip(axes[0], places, strict=True):
        text = texts.get(shown.prompts[place], shown.prompts[place])
        axis.set_title(textwrap.fill(text.removeprefix("a photo of "), 20), fontsize=6.2, pad=3)
    return figure, pd.DataFrame(rows, columns=["run", "seed", "update", "when", "prompt_id", "gold"])
