"""Colours by CLIP: what is cut out, and the class whose description is nearest, computed a second time by hand."""

import numpy as np
import pytest
import torch
from PIL import Image

from evals.instruments.eyes import TEMPLATES, ColourReader, cut_out
from tests._support import judges
from unigrpo.core.errors import UserError
from unigrpo.world.geneval_verdict import COLORS

RNG = np.random.default_rng(5)
CROPS = [Image.fromarray(RNG.integers(0, 255, (40, 30, 3), dtype=np.uint8)) for _ in range(6)]
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
