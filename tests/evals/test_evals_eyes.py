"""Detectors: scores as the library and by hand, batches that change nothing, unfit checkpoints. Colours: what is cut
out, and the class whose description is nearest, computed a second time by hand."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from evals.instruments import eyes
from evals.instruments.eyes import TEMPLATES, ColourReader, Found, cut_out, instances, keep, load_detector
from tests._support import judges
from unigrpo.core.errors import UserError
from unigrpo.world.geneval_verdict import CLASSES, COLORS

RNG = np.random.default_rng(3)
IMAGES = [Image.fromarray(RNG.integers(0, 255, (64, 96, 3), dtype=np.uint8)) for _ in range(3)]
TAGS = ["colors", "counting", "position"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("detectors")
    return {"mask2former": judges.save_mask2former(root / "m"), "owlv2": judges.save_owlv2(root / "o")}


def logit(share: float) -> float:
    return float(np.log(share / (1 - share)))


# ------------------------------------------------------------------------------------- instances


def test_an_instance_by_hand():
    """Class share 0.8, a rectangle of probability 0.9: score 0.72; the box ends after the last pixel."""
    classes = torch.log(torch.tensor([[0.1, 0.8, 0.1]]))
    masks = torch.full((1, 8, 10), -5.0)
    masks[0, 2:5, 3:9] = logit(0.9)
    rows, labels, kept = instances(classes, masks, (8, 10), (8, 10), 0.3)
    assert rows.tolist() == [[3, 2, 9, 5, pytest.approx(0.72, abs=1e-6)]] and labels.tolist() == [1]
    assert np.array_equal(kept[0], (masks[0] > 0).numpy())


def test_an_empty_mask_is_nothing_and_a_query_may_be_of_two_classes():
    classes = torch.log(torch.tensor([[0.45, 0.45, 0.1], [0.9, 0.05, 0.05]]))
    masks = torch.stack([torch.full((4, 4), 9.0), torch.full((4, 4), -9.0)])
    rows, labels, _ = instances(classes, masks, (4, 4), (4, 4), 0.3)
    assert sorted(labels.tolist()) == [0, 1] and rows[:, 4] == pytest.approx([0.45, 0.45], abs=1e-3)
    assert instances(classes, masks, (4, 4), (4, 4), 0.46)[0].shape == (0, 5)


def test_instances_are_the_library_s_where_both_look_at_the_same_grid(folders):
    from transformers import Mask2FormerImageProcessor

    rng = torch.Generator().manual_seed(1)
    classes = torch.randn(12, 81, generator=rng) * 4
    masks = torch.randn(12, 24, 24, generator=rng) + torch.randn(12, 1, 1, generator=rng)
    output = SimpleNamespace(class_queries_logits=classes[None], masks_queries_logits=masks[None])
    theirs = Mask2FormerImageProcessor().post_process_instance_segmentation(
        output, threshold=0.3, target_sizes=[(384, 384)], return_binary_maps=True
    )[0]
    expected = [
        (segment["label_id"], segment["score"], mask.bool().numpy())
        for segment, mask in zip(theirs["segments_info"], theirs["segmentation"], strict=True)
    ]
    rows, labels, kept = instances(classes, masks, (384, 384), (384, 384), 0.3)
    assert len(rows) == len(expected) >= 4
    for label, score, mask in expected:
        (place,) = [i for i in range(len(rows)) if labels[i] == label and abs(rows[i, 4] - score) < 1e-5]
        assert np.array_equal(kept[place], mask)
        ys, xs = np.nonzero(mask)
        assert rows[place, :4].tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_masks_come_back_at_the_image_s_size():
    masks = torch.full((1, 4, 4), -8.0)
    masks[0, :, :2] = 8.0  # the left half, whatever the size
    rows, _, kept = instances(torch.tensor([[9.0, 0.0]]), masks, (32, 32), (50, 40), 0.3)
    assert kept[0].shape == (50, 40) and kept[0][:, :18].all() and not kept[0][:, 22:].any()
    assert rows[0, :4].tolist() == [0, 0, pytest.approx(20, abs=1), 50]


def test_the_official_filter_goes_over_each_class():
    rows = np.array([[0, 0, 9, 9, 0.5], [1, 1, 9, 9, 0.95], [2, 2, 9, 9, 0.91], [0, 0, 5, 5, 0.2]], dtype=np.float32)
    labels, masks = np.array([2, 2, 0, 0]), ["a", "b", "c", "d"]
    found = keep(rows, labels, masks, "colors")
    assert {cls: [b[0] for b in boxes] for cls, boxes in found.boxes.items()} == {"person": [2], "car": [1, 0]}
    assert found.masks == {"person": ["c"], "car": ["b", "a"]}
    assert keep(rows, labels, masks, "counting").masks == {"person": ["c"], "car": ["b"]}
    assert keep(rows, labels, masks, "colors", thresholds=(0.94, 0.94)).masks == {"car": ["b"]}
    assert keep(rows, labels, masks, "colors", max_overlap=0.5).masks == {"person": ["c"], "car": ["b"]}


# ------------------------------------------------------------------------------------- detectors


def load(folders, kind):
    """Mask2Former looks at small images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eyes, "SHORT_SIDE", 64)
        patch.setattr(eyes, "LONG_SIDE", 128)
        return load_detector(folders[kind], "cpu")


def close(a: Found, b: Found):
    assert a.boxes.keys() == b.boxes.keys()
    for cls, boxes in a.boxes.items():
        assert np.allclose(boxes, b.boxes[cls], atol=1e-3)
        for first, second in zip(a.masks[cls], b.masks[cls], strict=True):
            assert first is second is None or (first != second).mean() < 1e-3


@pytest.mark.parametrize("kind", ["mask2former", "owlv2"])
def test_batches_find_what_images_alone_show(folders, kind):
    detector = load(folders, kind)
    together = detector.detect(IMAGES, TAGS)
    assert any(found.boxes for found in together) and together[0].boxes != together[2].boxes
    for image, tag, found in zip(IMAGES, TAGS, together, strict=True):
        close(found, detector.detect([image], [tag])[0])
        assert set(found.boxes) <= set(CLASSES)
        for boxes in found.boxes.values():
            assert all(0 <= x0 < x1 <= 96 and 0 <= y0 < y1 <= 64 for x0, y0, x1, y1, _ in boxes)


def test_owlv2_is_asked_as_the_library_asks(folders):
    detector = load(folders, "owlv2")
    texts = [f"a photo of {'an' if c[0] in 'aeiou' else 'a'} {c}" for c in CLASSES]
    inputs = detector.processor(text=[texts], images=IMAGES[:1], return_tensors="pt")
    with torch.inference_mode():
        output = detector.model(**inputs)
    (theirs,) = detector.processor.post_process_grounded_object_detection(
        output, threshold=0.2, target_sizes=[(64, 96)]
    )
    expected = {}
    for box, score, label in zip(theirs["boxes"], theirs["scores"], theirs["labels"], strict=True):
        box = box.clamp(min=0).minimum(torch.tensor([96.0, 64, 96, 64]))
        if min(box[2] - box[0], box[3] - box[1]) >= 1:
            expected.setdefault(CLASSES[label], []).append([*box.tolist(), score.item()])
    (found,) = detector.detect(IMAGES[:1], ["colors"])
    for cls, boxes in found.boxes.items():
        best = max(expected[cls], key=lambda box: box[4])
        assert np.allclose(boxes[0], best, atol=1e-3)
    assert found.boxes.keys() == expected.keys()


def test_the_name_says_what_was_seen(folders):
    assert load(folders, "mask2former").name == "mask2former-64x128"
    assert load_detector(folders["mask2former"], "cpu").name == "mask2former-800x1333"


# ------------------------------------------------------------------------------------- bad input


def changed(folder, tmp_path, **config):
    shutil.copytree(folder, tmp_path / "changed")
    told = json.loads((folder / "config.json").read_text())
    (tmp_path / "changed" / "config.json").write_text(json.dumps(told | config))
    return tmp_path / "changed"


def test_a_detector_of_other_classes_is_refused(folders, tmp_path):
    labels = json.loads((folders["mask2former"] / "config.json").read_text())["id2label"]
    labels |= {"3": labels["4"], "4": labels["3"]}
    with pytest.raises(UserError, match="'id2label' must be COCO's 80 classes, found 'airplane'"):
        load_detector(changed(folders["mask2former"], tmp_path, id2label=labels), "cpu")


def test_another_kind_of_model_is_refused(folders, tmp_path):
    with pytest.raises(UserError, match="'model_type' must be one of mask2former, owlv2, found 'detr'"):
        load_detector(changed(folders["owlv2"], tmp_path, model_type="detr"), "cpu")


def test_missing_weights_are_one_line(folders, tmp_path):
    shutil.copytree(folders["owlv2"], tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(UserError, match=r"bare: has no weights, expected \*.safetensors"):
        load_detector(tmp_path / "bare", "cpu")


# --------------------------------------------------------------------------------------- colours

CROP_RNG = np.random.default_rng(5)
CROPS = [Image.fromarray(CROP_RNG.integers(0, 255, (40, 30, 3), dtype=np.uint8)) for _ in range(6)]
CROPS += [Image.new("RGB", (20, 50), color) for color in ("red", "blue", "white")]
NAMES = ["cup", "dog", "cup", "bus", "dog", "cup", "cup", "bus", "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return judges.save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def reader(folder):
    return ColourReader(folder, "cpu", batch_size=4)


def test_what_the_mask_leaves_out_is_grey():
    image = Image.new("RGB", (8, 6), "red")
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:5, 1:4] = True
    cut = np.asarray(cut_out(image, [1, 2, 6, 5, 0.9], mask))
    assert cut.shape == (3, 5, 3)
    assert (cut[:, :3] == [255, 0, 0]).all() and (cut[:, 3:] == 0x99).all()
    assert (np.asarray(cut_out(image, [1.4, 1.6, 5.6, 5.2, 0.9], None)) == [255, 0, 0]).all()
    assert cut_out(image, [1.4, 1.6, 5.6, 5.2, 0.9], None).size == (5, 3)
    assert cut_out(image, [3, 3, 3, 3, 0.9], None).size == (1, 1)


def test_the_colour_is_the_nearest_description(folder, reader):
    import open_clip  # after tests._support.judges, which makes torchvision importable

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    expected = []
    with torch.no_grad():
        for crop, cls in zip(CROPS, NAMES, strict=True):
            seen = model.encode_image(transform(crop)[None])[0]
            closeness = []
            for color in COLORS:
                sentences = [f"a photo of a {color} {cls}", f"a photo of a {color}-colored {cls}"]
                said = model.encode_text(open_clip.tokenize([*sentences, f"a photo of a {color} object"]))
                mean = torch.stack([s / s.norm() for s in said]).mean(0)
                closeness.append(torch.cosine_similarity(seen, mean, dim=0).item())
            expected.append(COLORS[int(np.argmax(closeness))])
    assert reader.read(CROPS, NAMES) == expected and len(set(expected)) > 1
    assert len(TEMPLATES) == 3


def test_batches_read_what_crops_alone_show(reader):
    together = reader.read(CROPS, NAMES)
    assert together == [reader.read([crop], [cls])[0] for crop, cls in zip(CROPS, NAMES, strict=True)]
    assert reader.read([], []) == []


def test_a_checkpoint_that_is_not_whole_is_named(folder, tmp_path):
    with pytest.raises(UserError, match="open_clip_config.json: is missing"):
        ColourReader(tmp_path, "cpu")
    (tmp_path / "open_clip_config.json").write_bytes((folder / "open_clip_config.json").read_bytes())
    with pytest.raises(UserError, match="has no weights"):
        ColourReader(tmp_path, "cpu")
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be loaded as an open_clip model"):
        ColourReader(tmp_path, "cpu")
