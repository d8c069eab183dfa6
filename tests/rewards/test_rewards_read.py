"""What is read off an image without a learned score: text (rapidocr's own models), a file's size, GenEval's verdict."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from evals.instruments import text_reader
from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.judges import reward as rewards
from unigrpo.world import geneval_verdict
from unigrpo.world.inspector import inspect_images
from unigrpo.world.prompts import asked_text, prompt_set
from unigrpo.world.render import render
from unigrpo.world.scenes import COLORS, Obj, Scene


def prompt(words, **meta):
    return Prompt("p/0", words, "x", meta)


def rendered(text):
    """The words on white, as a tensor (1, 3, 64, 160)."""
    picture = Image.new("RGB", (160, 64), "white")
    ImageDraw.Draw(picture).text((12, 12), text, fill="black", font=ImageFont.load_default(36))
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float() / 255


# ---- text --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader():
    return rewards.load("ocr", detection_side=160)


@pytest.mark.parametrize(
    "shown, score",
    [("OPEN", 1.0), ("OPENED", 1.0), ("OPAL", 0.5), ("KIWI", 0.0), ("", 0.0)],
    ids=["exact", "contained", "partial", "wrong", "empty"],
)
def test_rendered_text_is_read(reader, shown, score):
    assert reader(rendered(shown), [prompt('a shop sign that says "Open"')]).item() == score


@pytest.mark.parametrize("size", [(16, 600), (600, 16), (1200, 64)])
def test_a_long_image_is_enlarged_to_a_bounded_size(monkeypatch, size):
    """By the pixels that the detector is handed; a picture up to 4 times as long as broad has no border."""
    from rapidocr.ch_ppocr_det import TextDetector

    shown, detect = [], TextDetector.get_preprocess
    monkeypatch.setattr(
        TextDetector, "get_preprocess", lambda self: lambda image: shown.append(out := detect(self)(image)) or out
    )
    assert text_reader.reader(64)(np.full((*size, 3), 255, np.uint8)) == ""
    long, short = max(shown[0].shape[2:]), min(shown[0].shape[2:])
    assert long <= max(size) + 32 and long <= 4 * (short + 32)  # the library rounds to 32
    banner = np.full((max(size), max(size) // 4, 3), 255, np.uint8)
    assert np.array_equal(text_reader.bordered(banner), banner)


@pytest.mark.parametrize("height", [256, 100])
def test_a_banner_is_read(height):
    picture = Image.new("RGB", (1024, height), "white")
    font = ImageFont.load_default(60)
    ImageDraw.Draw(picture).text((300, height // 2 - 40), "FRESH BREAD", fill="black", font=font)
    read = text_reader.reader(320)(np.asarray(picture))
    assert "".join(read.lower().split()) == "freshbread"


def brute_force(a, b):
    """Levenshtein by its recursive definition."""
    if not a or not b:
        return len(a) + len(b)
    change = brute_force(a[1:], b[1:]) + (a[0] != b[0])
    return min(change, brute_force(a[1:], b) + 1, brute_force(a, b[1:]) + 1)


def test_edit_distance_is_its_definition():
    words = ["".join(w) for n in range(4) for w in itertools.product("ab", repeat=n)] + ["kitten", "sitting"]
    for a, b in itertools.product(words, repeat=2):
        assert text_reader.edit_distance(a, b) == brute_force(a, b), (a, b)


def test_agreement_at_its_ends():
    assert text_reader.agreement("New York", "NEWYORK city") == 1
    assert text_reader.agreement("abc", "a much longer text without them in order") == 0
    assert text_reader.agreement("abcd", "abxd") == 0.75 and text_reader.agreement("abcd", "") == 0


@pytest.mark.parametrize(
    "words, asked",
    [
        ('a sign "Fresh Bread" and "Hot Tea"', "Fresh Bread"),
        ("in the '90s, the kids' sign says \"OPEN\"", "OPEN"),
        ("a sign that says 'it is late' by the baker's door", "it is late"),
        ("a mug with “Mum” on it", "Mum"),
    ],
)
def test_the_asked_text_stands_in_quotation_marks(words, asked):
    assert asked_text(prompt(words)) == asked
    assert asked_text(prompt(words, text="other")) == "other"


@pytest.mark.parametrize("asking", [prompt("the baker's dog's tail"), prompt('says " "'), prompt("x", text=3)])
def test_a_prompt_that_asks_for_no_text_is_named(reader, asking):
    with pytest.raises(UserError, match=r"^reward ocr: prompt p/0: expected a text to render"):
        reader(rendered("A"), [asking])
    with pytest.raises(UserError, match="^reward ocr: detection_side: expected at least 1, got 0"):
        rewards.load("ocr", detection_side=0)


# ---- size --------------------------------------------------------------------------------------------------


def test_compressibility_is_the_size_of_the_file(tmp_path):
    even, noise = torch.full((1, 3, 64, 64), 0.5), torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    scores = rewards.load("jpeg")(torch.cat([even, noise]), [prompt("a")] * 2)
    path = tmp_path / "noise.jpg"
    Image.fromarray((noise[0] * 255).round().byte().permute(1, 2, 0).numpy()).save(path, quality=95)
    assert scores[1].item() == pytest.approx(-path.stat().st_size / 1000)
    assert 0 > scores[0] > scores[1]
    assert rewards.load("jpeg", quality=20)(noise, [prompt("a")]) > scores[1]
    for quality in (0, 96, 50.0):
        with pytest.raises(UserError, match=r"^reward jpeg: quality: expected (at least 1|at most 95|a whole number)"):
            rewards.load("jpeg", quality=quality)


# ---- GenEval -----------------------------------------------------------------------------------------------


def test_geneval_is_its_verdict_on_what_the_inspector_finds():
    red, blue = list(COLORS)[:2]
    scene = Scene((Obj("circle", red, 1 / 6, 1 / 6, 0.12), Obj("circle", blue, 5 / 6, 5 / 6, 0.12)))
    pixels = render([scene])
    picture = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    found = geneval_verdict.boxes_and_colors(inspect_images(pixels)[0].detections)
    for count, official, exact in [(1, 1.0, 0.0), (2, 1.0, 1.0), (4, 0.0, 0.5)]:
        meta = {"include": [{"class": "circle", "count": count}], "prompt": "x"}
        asking = Prompt("p", "x", "counting", meta)
        assert rewards.load("geneval_score", rule="official")(picture, [asking]).item() == official
        assert rewards.load("geneval_score")(picture, [asking]).item() == exact
        assert geneval_verdict.exact_verdict(meta, *found).score == exact


def test_geneval_takes_the_worlds_prompts():
    prompts = prompt_set("val")[:5]
    scores = rewards.load("geneval_score")(torch.zeros(5, 3, 48, 48), prompts)
    assert len(scores) == 5 and scores.max() <= 1 and math.isfinite(scores.sum())
    with pytest.raises(UserError, match=r"^reward geneval_score: detector: expected 'world' or 'real', got 'eyes'"):
        rewards.load("geneval_score", detector="eyes")
    with pytest.raises(UserError, match=r"^reward geneval_score: rule: expected 'exact' or 'official', got 'mine'"):
        rewards.load("geneval_score", rule="mine")
    with pytest.raises(
        UserError, match=r"^reward geneval_score: detector_options.side: unknown key; known: clip, detector, device"
    ):
        rewards.load("geneval_score", detector="real", detector_options={"side": 800})
    assert torch.equal(rewards.load("geneval_score", batch_size=2)(torch.zeros(5, 3, 48, 48), prompts), scores)


def test_geneval_on_real_images_is_the_evaluation_s_verdict(tmp_path):
    from evals.instruments import eyes
    from tests._support import judges

    told = {"detector": str(judges.save_owlv2(tmp_path / "o")), "clip": str(judges.save_clip(tmp_path / "c"))}
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels = (pictures * 255).round().byte().permute(0, 2, 3, 1).numpy()
    shown = [Image.fromarray(image) for image in pixels]
    asking = [Prompt("p", "x", "colors", {"include": [{"class": "cup", "count": 1, "color": "red"}]})] * 2
    seen = eyes.build(**told, device="cpu").look(shown, asking)
    classes = sorted(seen[0][0])  # what the first image shows is asked of both
    asking = [Prompt("p", "x", "colors", {"include": [{"class": c, "count": 1} for c in classes or ["cup"]]})] * 2
    reward = rewards.load("geneval_score", rule="official", detector="real", detector_options=told | {"device": "cpu"})
    expected = [
        float(geneval_verdict.official_verdict(p.meta, *found).correct) for p, found in zip(asking, seen, strict=True)
    ]
    assert reward(pictures, asking).tolist() == expected and expected[0] == float(bool(classes))
