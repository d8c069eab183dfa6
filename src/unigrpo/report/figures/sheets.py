"""Images of the first seed on the same validation prompts and noise, two lines a run: at the validation where mean gold
peaks, and at the last. A fixed rule draws the prompts (the paper's Figure 5).
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from unigrpo.core import errors, files, records
from unigrpo.core.code_identity import ROOT
from unigrpo.core.lazy import lazy
from unigrpo.report.data import logs, phrases, results
from unigrpo.report.pages import drawing
from unigrpo.study.facts import TRAINING, KindFacts

np = lazy("numpy")
Image = lazy("PIL.Image")
detector = lazy("unigrpo.judges.detector")
gold = lazy("unigrpo.world.gold")
inspector = lazy("unigrpo.world.inspector")
prompts = lazy("unigrpo.world.prompts")
FACTS = KindFacts("Validation images where gold peaks and at the end", __doc__, **TRAINING)
COLUMNS = ["run", "seed", "update", "when", "prompt_id", "gold", "disputed"]
TAGS = ("single_object", "counting", "position", "color_attr", "compound", "compound")


def tiles(path: Path, places: list[int]) -> list[np.ndarray]:
    """The images (side, side, 3) at these places of a sheet. Raises UserError where it cannot be read."""
    with files.opened(path) as file, errors.reading(path, "a sheet of pictures"):
        page = np.asarray(Image.open(file).convert("RGB"))
    side = page.shape[1] // records.SHEET_COLUMNS
    corners = [(side * (place // records.SHEET_COLUMNS), side * (place % records.SHEET_COLUMNS)) for place in places]
    return [page[y : y + side, x : x + side] for y, x in corners]


def disputed(shown: list[records.Prompt | None], images: list[np.ndarray]) -> list[bool]:
    """Of images of prompts (None: not one of the world's): do inspector and second evaluator differ in gold?"""
    found = inspector.inspect_images(np.stack(images))
    second = detector.load(ROOT / "assets" / "detector").detect(np.stack(images))
    pairs = zip(shown, found, second, strict=True)
    return [p is not None and gold.judge(p.meta, a.detections).gold != gold.judge(p.meta, b).gold for p, a, b in pairs]


def draw(spec: dict, sources: results.Sources) -> drawing.Drawn:
    folder, rows = sources.folder, []
    courses = logs.courses(spec["runs"], folder)
    shown = next(found for found in courses.values() if found is not None)
    places, known = drawing.drawn(shown.tags, TAGS, "sheets"), {p.id: p for p in prompts.prompt_set("val")}
    lines = 2 * len(courses)
    figure, axes = drawing.panels(lines, len(places), 0.5 + lines * (drawing.WIDTH / 8))
    for axis in axes.flat:
        drawing.bare(axis)
        axis.set_box_aspect(1)
    for pair, (run, found) in zip(axes.reshape(-1, 2, len(places)), courses.items(), strict=True):
        published = any(record.get("published") for record in folder.records(run)[:1])
        if found is None or published:
            _name(pair[0, 0], folder.label(run), phrases.PICTURELESS if published else phrases.MISSING)
            continue
        for line, at, when in zip(pair, (found.peak(), -1), ("gold peaks", "end"), strict=True):
            update = found.updates[at]
            _name(line[0], folder.label(run), f"{when}: {update}")
            sheet = folder.seed_folders(run)[found.seeds[0]] / "validation" / f"{update:06d}.png"
            images, ids = tiles(sheet, places), [found.prompts[place] for place in places]
            differ = disputed([known.get(name) for name in ids], images)
            for axis, place, image, name, odd in zip(line, places, images, ids, differ, strict=True):
                axis.imshow(image, interpolation="bicubic")
                value = found.values["gold"][0, at, place]
                axis.set_xlabel(f"gold {value:.2f}", fontsize=5.5, labelpad=1.5)
                rows.append((run, found.seeds[0], update, when, name, value, odd))
                if odd:
                    drawing.sign_disputed(axis)
    for axis, place in zip(axes[0], places, strict=True):
        name = shown.prompts[place]
        axis.set_title(drawing.subject(known[name].text if name in known else name, 20), fontsize=6.2, pad=3)
    return figure, rows


def _name(axis, label: str, below: str) -> None:
    """The run to the left of its line."""
    name = "\n".join(textwrap.wrap(label, 18))
    axis.set_ylabel(f"{name}\n{below}", fontsize=6, rotation=0, ha="right", va="center")
