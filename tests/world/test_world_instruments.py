"""Inspector, judge and second evaluator against renders, a set drawn by another program, and cases judged by
hand.
"""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from unigrpo.core.errors import UserError
from unigrpo.core.records import Detection
from unigrpo.judges import detector
from unigrpo.world import prompts, scenes
from unigrpo.world.geneval_verdict import boxes_and_colors
from unigrpo.world.gold import VERDICTS, judge, wrong_hues
from unigrpo.world.inspector import inspect_images
from unigrpo.world.render import render

SIZE = 48


@pytest.fixture(scope="module")
def drawn():
    """600 random scenes and their renders."""
    rng = np.random.default_rng(17)
    world = [scenes.random_scene(rng, 1 + i % 4) for i in range(600)]
    return world, render(world, SIZE)


def kinds(items):
    return Counter((item.cls, item.color) for item in items)


def readable(world, inspections):
    """Share of images in which every class, colour and count is right."""
    return np.mean([kinds(s.objects) == kinds(i.detections) for s, i in zip(world, inspections, strict=True)])


def pil_points(o, size, scale):
    """Outline of an object as PIL would be given it, in pixels of the enlarged canvas."""
    cx, cy, r = (v * size * scale for v in (o.x, o.y, o.radius))
    unit = {
        "triangle": [(0, -1), (1, 1), (-1, 1)],
        "diamond": [(0, -1), (1, 0), (0, 1), (-1, 0)],
        "star": [
            (
                (1 if k % 2 == 0 else 0.45) * np.sin(k * np.pi / 5),
                -(1 if k % 2 == 0 else 0.45) * np.cos(k * np.pi / 5),
            )
            for k in range(10)
        ],
        "heart": [  # the well-known parametric heart, not the renderer's two lobes
            (
                16 * np.sin(t) ** 3 / 16,
                -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16,
            )
            for t in np.linspace(0, 2 * np.pi, 60)
        ],
    }[o.cls]
    return [(cx + r * x, cy + r * y) for x, y in unit]


def pil_scene(scene, size, scale):
    """Draw with PIL primitives on a canvas `scale` times larger and reduce it with a Lanczos filter."""
    image = Image.new("RGB", (size * scale, size * scale), scenes.BACKGROUND)
    draw = ImageDraw.Draw(image)
    for o in scene.objects:
        cx, cy, r = (v * size * scale for v in (o.x, o.y, o.radius))
        color = scenes.COLORS[o.color]
        box = (cx - r, cy - r, cx + r - 1, cy + r - 1)
        if o.cls == "circle":
            draw.ellipse(box, fill=color)
        elif o.cls == "ring":
            draw.ellipse(box, outline=color, width=round(r / 2))
        elif o.cls == "square":
            draw.rectangle([v + s * 0.12 * r for v, s in zip(box, (1, 1, -1, -1), strict=True)], fill=color)
        elif o.cls == "cross":
            draw.rectangle((cx - r, cy - r / 3, cx + r - 1, cy + r / 3 - 1), fill=color)
            draw.rectangle((cx - r / 3, cy - r, cx + r / 3 - 1, cy + r - 1), fill=color)
        else:
            draw.polygon(pil_points(o, size, scale), fill=color)
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))


def test_inspector_reads_clean_renders(drawn):
    world, images = drawn
    inspections = inspect_images(images)
    assert readable(world, inspections) >= 0.995
    assert max(i.artefact for i in inspections) < 0.002
    for scene, inspection in zip(world, inspections, strict=True):
        for o in scene.objects:
            center = np.array([o.x, o.y]) * SIZE
            error = [max(abs(np.mean(d.box[axis::2]) - center[axis]) for axis in (0, 1)) for d in inspection.detections]
            assert min(error) < 1  # pixels


def test_inspector_boxes_are_sub_pixel():
    """A square of known corners: the box is right to a fifth of a pixel, whatever its place on the pixel
    grid.
    """
    for shift in np.linspace(0, 1, 5):
        o = scenes.Obj("square", "blue", (20 + shift) / SIZE, (24 - shift) / SIZE, 0.12)
        half = 0.88 * 0.12 * SIZE
        (inspection,) = inspect_images(render([scenes.Scene((o,))], SIZE))
        expected = 20 + shift - half, 24 - shift - half, 20 + shift + half, 24 - shift + half
        np.testing.assert_allclose(inspection.detections[0].box, expected, atol=0.2)


@pytest.mark.parametrize(("sigma", "least"), [(8, 0.995), (16, 0.98)])
def test_inspector_under_noise(drawn, sigma, least):
    world, images = drawn
    noise = np.random.default_rng(0).normal(0, sigma, images.shape)
    noisy = np.clip(images + noise, 0, 255).round().astype(np.uint8)
    assert readable(world, inspect_images(noisy)) >= least


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_inspector_under_blur(drawn, sigma):
    world, images = drawn
    assert readable(world, inspect_images(ndimage.gaussian_filter(images, (0, sigma, sigma, 0)))) >= 0.99


@pytest.mark.parametrize(("scale", "least"), [(8, 0.99), (2, 0.98)])
def test_inspector_reads_another_programs_drawings(scale, least):
    rng = np.random.default_rng(3)
    world = [scenes.random_scene(rng, 1 + i % 4) for i in range(400)]
    images = np.stack([pil_scene(scene, SIZE, scale) for scene in world])
    assert readable(world, inspect_images(images)) >= least


def test_inspector_works_at_another_resolution():
    rng = np.random.default_rng(4)
    world = [scenes.random_scene(rng, 1 + i % 4) for i in range(100)]
    assert readable(world, inspect_images(render(world, 96))) == 1


def test_inspector_reports_what_is_no_object():
    images = np.full((5, SIZE, SIZE, 3), scenes.BACKGROUND, dtype=np.uint8)
    images[1, 10:22, 10:22] = (200, 200, 200)  # a pale grey
    images[2, :, 20:28] = scenes.COLORS["red"]  # a bar
    images[3] = 0  # all black
    images[4] = render([scenes.Scene((scenes.Obj("circle", "red", 0.5, 0.5, 0.12),))])[0]
    images[4] = np.rint(images[4] * 0.5 + 0.5 * 240)  # a ghost
    blank, grey, bar, black, ghost = inspect_images(images)
    assert [len(i.detections) for i in (blank, grey, bar, black, ghost)] == [0] * 5
    assert blank.artefact == 0
    assert grey.artefact == pytest.approx(144 / SIZE**2)
    assert bar.artefact == pytest.approx(8 / SIZE)
    assert black.artefact == 1
    assert ghost.artefact > 0.02


@pytest.mark.parametrize("outline", [(12, 8), (24, 12), (12, 6)])  # 3:2, two squares grown together, half a square
def test_inspector_refuses_what_is_nearly_an_object(outline):
    width, height = outline
    image = np.full((1, SIZE, SIZE, 3), scenes.BACKGROUND, dtype=np.uint8)
    image[0, 10 : 10 + height, 10 : 10 + width] = scenes.COLORS["green"]
    (inspection,) = inspect_images(image)
    assert inspection.detections == []
    assert inspection.artefact == pytest.approx(width * height / SIZE**2)


def test_two_touching_objects_of_different_colours_are_two():
    pair = [scenes.Obj("square", "red", 0.3, 0.5, 0.11), scenes.Obj("circle", "blue", 0.51, 0.5, 0.11)]
    (inspection,) = inspect_images(render([scenes.Scene(tuple(pair))]))
    assert kinds(inspection.detections) == kinds(pair)


def recolored(images, *stripes):
    """Black renders with the black replaced: by one colour, or by several in stripes of 8 pixels from the left."""
    shade = np.array([stripes[x // 8 % len(stripes)] for x in range(SIZE)], dtype=float)  # (SIZE, 3)
    coverage = (240 - images.astype(float)) / 225
    return np.rint(240 - coverage * (240 - shade)).astype(np.uint8)


def between(first, second, share=0.5):
    """The colour whose difference to the background points between those of two colours."""
    ways = [240 - np.array(scenes.COLORS[name], dtype=float) for name in (first, second)]
    lengths = [np.linalg.norm(way) for way in ways]
    way = (1 - share) * ways[0] / lengths[0] + share * ways[1] / lengths[1]
    return 240 - way / np.linalg.norm(way) * np.dot(lengths, (1 - share, share))


NEIGHBOURS = [("red", "orange"), ("orange", "yellow"), ("pink", "purple"), ("green", "black"), ("blue", "purple")]


@pytest.mark.parametrize("pair", NEIGHBOURS)
def test_class_and_count_need_no_colour_that_has_a_name(pair):
    """Midway between two colours nothing is named; near one of them it is that one. Class and count are read anyway."""
    world = [scenes.Scene((scenes.Obj(c, "black", 0.2, 0.2, 0.12), scenes.Obj(c, "black", 0.7, 0.6, 0.11)))
             for c in scenes.CLASSES]  # fmt: skip
    images = render(world)
    for share, name in ((0.5, "unsure"), (0.2, pair[0]), (0.8, pair[1])):
        for scene, found in zip(world, inspect_images(recolored(images, between(*pair, share))), strict=True):
            assert [(d.cls, d.color) for d in found.detections] == [(scene.objects[0].cls, name)] * 2
            assert found.artefact < 0.002


@pytest.mark.parametrize("cls", scenes.CLASSES)
def test_an_object_that_changes_its_hue_is_one(cls):
    black = render([scenes.Scene((scenes.Obj(cls, "black", 0.5, 0.5, 0.12),))])
    image = recolored(black, scenes.COLORS["red"], scenes.COLORS["yellow"])
    (inspection,) = inspect_images(image)
    assert [(d.cls, d.color) for d in inspection.detections] == [(cls, "unsure")]


def test_of_two_touching_objects_one_may_have_an_odd_hue():
    left, right = (render([scenes.Scene((scenes.Obj("square", "black", x, 0.5, 0.11),))]) for x in (0.3, 0.49))
    image = np.minimum(recolored(left, between("orange", "yellow")), recolored(right, scenes.COLORS["blue"]))
    (inspection,) = inspect_images(image)
    assert kinds(inspection.detections) == {("square", "unsure"): 1, ("square", "blue"): 1}


def test_a_colour_that_has_no_name_is_wrong_only_where_one_is_asked():
    found = [at("ring", "unsure", 0, 0), at("ring", "red", 2, 0)]
    count = {"tag": "counting", "include": [{"class": "ring", "count": 2}], "exclude": [{"class": "ring", "count": 3}]}
    colored = {"tag": "colors", "include": [{"class": "ring", "count": 2, "color": "red"}]}
    for meta, right in ((count, True), (colored, False)):
        assert judge(meta, found).strict is right
        assert all(verdict(meta, found)[headline] == right for verdict, headline in VERDICTS.values()) is right


def test_inspector_refuses_other_images():
    with pytest.raises(ValueError, match="uint8"):
        inspect_images(np.zeros((1, SIZE, SIZE, 3), dtype=np.float32))


def test_boxes_and_colors_are_sorted_by_score():
    found = [
        Detection("ring", "red", (0, 0, 9, 9), 0.9),
        Detection("star", "blue", (20, 0, 29, 9), 0.95),
        Detection("ring", "pink", (0, 20, 9, 29), 0.97),
    ]
    boxes, colors = boxes_and_colors(found)
    assert boxes == {"ring": [[0, 20, 9, 29, 0.97], [0, 0, 9, 9, 0.9]], "star": [[20, 0, 29, 9, 0.95]]}
    assert colors == {"ring": ["pink", "red"], "star": ["blue"]}


# ---- judge -------------------------------------------------------------------------------------------------


def at(cls, color, column, row):
    """A detection of 11 px in the middle of a cell."""
    x, y = 16 * column + 8, 16 * row + 8
    return Detection(cls, color, (x - 5.5, y - 5.5, x + 5.5, y + 5.5), 0.98)


RED_STAR_LEFT_OF_RING = {
    "tag": "compound",
    "include": [
        {"class": "ring", "count": 1},
        {"class": "star", "count": 1, "color": "red", "position": ["left of", 0]},
        {"class": "heart", "count": 2, "color": "blue"},
    ],
}
HEARTS = [at("heart", "blue", 0, 2), at("heart", "blue", 2, 2)]
RING = at("ring", "pink", 2, 0)
STAR = at("star", "red", 0, 0)


@pytest.mark.parametrize(
    ("detections", "facts", "strict", "gold"),
    [  # facts: ring count | star count, colour, left of | heart count, colour
        ([RING, STAR, *HEARTS], "111111", True, 1.0),
        ([RING, at("star", "pink", 0, 0), *HEARTS], "110111", False, 0.5 * 5 / 6),
        ([RING, at("star", "red", 2, 1), *HEARTS], "111011", False, 0.5 * 5 / 6),
        ([RING, STAR, HEARTS[0]], "111100", False, 0.5 * 4 / 6),
        ([RING, STAR, *HEARTS, at("heart", "blue", 1, 2)], "111101", False, 0.5 * (5 / 6 - 0.2)),
        ([RING, STAR, *HEARTS, at("cross", "black", 1, 1)], "111111", False, 0.5 * (1 - 0.2)),
        ([RING, STAR, HEARTS[0], at("heart", "green", 2, 2)], "111110", False, 0.5 * 5 / 6),
        ([RING, STAR, at("star", "red", 2, 1), *HEARTS], "101011", False, 0.5 * (4 / 6 - 0.2)),
        ([STAR, *HEARTS], "011011", False, 0.5 * 4 / 6),
        ([], "000000", False, 0.0),
        ([at("cross", "black", i, j) for i in range(3) for j in range(3)], "000000", False, 0.0),
    ],
)
def test_judge_by_hand(detections, facts, strict, gold):
    verdict = judge(RED_STAR_LEFT_OF_RING, detections)
    assert "".join(str(int(ok)) for ok in verdict.facts) == facts
    assert verdict.strict is strict
    assert verdict.soft == pytest.approx(facts.count("1") / 6)
    assert verdict.gold == pytest.approx(gold)


@pytest.mark.parametrize(
    ("clauses", "kinds", "wrong"),
    [
        ([("star", "red")], [("star", "red"), ("star", "blue"), ("ring", "blue")], 1),  # nothing is said of rings
        ([("star", "red"), ("star", "blue")], [("star", "blue"), ("star", "green")], 1),
        ([("star", "red"), ("star", None)], [("star", "blue")], 0),  # one star may have any colour
        ([("star", None)], [("star", "unsure"), ("ring", "unsure")], 2),
    ],
)
def test_wrong_hues_are_of_classes_whose_colour_is_asked_or_cannot_be_named(clauses, kinds, wrong):
    include = [{"class": cls, "count": 1} | ({"color": color} if color else {}) for cls, color in clauses]
    found = [Detection(cls, color, (0, 0, 9, 9), 1.0) for cls, color in kinds]
    assert wrong_hues({"include": include}, found) == wrong


def test_judge_needs_something_to_judge():
    with pytest.raises(ValueError, match="states nothing"):
        judge({"include": []}, [])


@pytest.mark.parametrize("name", prompts.SETS)
def test_scenes_for_prompts_pass_the_whole_chain(name):
    """Prompt -> scene -> pixels -> detections -> verdict."""
    rng = np.random.default_rng(8)
    chosen = prompts.prompt_set(name)[::2]
    inspections = inspect_images(render([scenes.scene_for(p.meta, rng) for p in chosen]))
    verdicts = [judge(p.meta, i.detections) for p, i in zip(chosen, inspections, strict=True)]
    assert np.mean([v.strict and v.gold == 1 for v in verdicts]) >= 0.995


# ---- second evaluator --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second():
    return detector.load(Path(__file__).parents[2] / "assets" / "detector")


def agreement(world, found):
    return np.mean([kinds(s.objects) == kinds(d) for s, d in zip(world, found, strict=True)])


def test_second_evaluator_reads_renders(drawn, second):
    world, images = drawn
    found = second.detect(images)
    assert agreement(world, found) >= 0.99
    for scene, detections in zip(world, found, strict=True):
        for d in detections:
            center = np.mean(d.box[::2]) / SIZE, np.mean(d.box[1::2]) / SIZE
            assert min(max(abs(center[0] - o.x), abs(center[1] - o.y)) for o in scene.objects) < 1.5 / SIZE


def test_second_evaluator_reads_harder_images(second):
    rng = np.random.default_rng(3)
    world = [scenes.random_scene(rng, 1 + i % 4) for i in range(200)]
    images = render(world, SIZE)
    noisy = np.clip(images + rng.normal(0, 12, images.shape), 0, 255).round().astype(np.uint8)
    assert agreement(world, second.detect(noisy)) >= 0.97
    assert agreement(world, second.detect(np.stack([pil_scene(s, SIZE, 8) for s in world]))) >= 0.95
    assert agreement(world, second.detect(render(world, 96))) >= 0.97


@pytest.mark.parametrize(("instrument", "least"), [("inspector", (44, 39)), ("second", (43, 39))])
def test_instruments_agree_with_the_eye_on_model_samples(second, instrument, least):
    """96 images of two SFT models, 48 pixels a side in a sheet of 8 columns, labelled by eye before any instrument was
    asked: a line each, ``-`` for an empty image, ``?`` where the eye could not tell the colour. The second 48 were
    picked for pixels whose hue lies between two colours of the palette."""
    folder = Path(__file__).parents[1] / "labelled"
    sheet = np.asarray(Image.open(folder / "model_samples.png").convert("RGB"))
    images = sheet.reshape(-1, SIZE, 8, SIZE, 3).swapaxes(1, 2).reshape(-1, SIZE, SIZE, 3)
    labels = (folder / "model_samples.txt").read_text().splitlines()
    found = [i.detections for i in inspect_images(images)] if instrument == "inspector" else second.detect(images)
    alike = [seen_alike(*pair) for pair in zip(labels, found, strict=True)]
    assert (sum(alike[:48]) >= least[0]) and (sum(alike[48:]) >= least[1])


def seen_alike(label, detections):
    left = [(d.color, d.cls) for d in detections]
    stated = [] if label == "-" else [tuple(entry.split()) for entry in label.split(", ")]
    for color, cls in sorted(stated, key=lambda entry: entry[0] == "?"):
        fitting = [item for item in left if item[1] == cls and color in ("?", item[0])]
        if not fitting:
            return False
        left.remove(fitting[0])
    return not left


def test_second_evaluator_finds_nothing_in_nothing(second):
    assert second.detect(np.full((2, SIZE, SIZE, 3), 240, dtype=np.uint8)) == [[], []]


def test_second_evaluator_file_is_small_and_reports_itself():
    folder = Path(__file__).parents[2] / "assets" / "detector"
    assert (folder / "detector.safetensors").stat().st_size < 600_000
    assert json.loads((folder / "detector.json").read_text())["accuracy"]["clean"] >= 0.99


def test_second_evaluator_refuses_a_damaged_folder(tmp_path):
    with pytest.raises(UserError, match="detector.json"):
        detector.load(tmp_path)
    (tmp_path / "detector.json").write_text('{"classes": ["dog"], "colors": []}')
    with pytest.raises(UserError, match="classes and colours"):
        detector.load(tmp_path)


@pytest.mark.slow
def test_second_evaluator_learns(tmp_path, capsys):
    """A few steps lower the loss, and the same seed gives the same weights."""
    model, again = (detector.train(steps=40, batch=16, seed=3) for _ in range(2))
    first, last = (float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[:2])
    assert last < 0.7 * first
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_second_evaluator_targets():
    objects = (scenes.Obj("star", "pink", 0.30, 0.55, 0.11), scenes.Obj("heart", "red", 0.70, 0.20, 0.12))
    cell, cls, color, geometry = detector.targets([scenes.Scene(()), scenes.Scene(objects)])
    assert cell.tolist() == [[1, 3, 1], [1, 1, 4]]  # image, row, column of 6x6
    assert [scenes.CLASSES[i] for i in cls] == ["star", "heart"]
    assert [list(scenes.COLORS)[i] for i in color] == ["pink", "red"]
    torch.testing.assert_close(geometry, torch.tensor([[0.8, 0.3, 0.66], [0.2, 0.2, 0.72]]))
