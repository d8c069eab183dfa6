"""Numbers of a picture that need no judge, on pictures whose numbers are known."""

import numpy as np
import pytest
from PIL import Image

from evals.instruments import pixel_statistics
from unigrpo.study.facts import STATISTICS


def flat(*color, size=(32, 32)):
    return np.full((*size, 3), color, dtype=np.uint8)


def halves(left, right):
    return np.concatenate([flat(*left, size=(32, 16)), flat(*right, size=(32, 16))], axis=1)


def test_every_number_that_is_declared_is_measured():
    found = pixel_statistics.measured([flat(0, 0, 0)])[0]
    assert found.keys() | {"diversity"} == STATISTICS.keys()


@pytest.mark.parametrize(
    ("picture", "edges", "dark", "entropy", "saturation"),
    [
        (flat(0, 0, 0), 0, 1, 0, 0),
        (flat(255, 255, 255), 0, 0, 0, 0),
        (flat(255, 0, 0), 0, 0, 0, 1),  # of brightness 0.299
        (flat(255, 127, 127), 0, 0, 0, 128 / 255),
        (halves((0, 0, 0), (255, 255, 255)), 1 / 32, 0.5, 1 / 9, 0),  # one column of 32 stands at the edge
        (halves((0, 0, 255), (255, 255, 255)), 1 / 32, 0.5, 1 / 9, 0.5),
    ],
)
def test_numbers_of_pictures_that_are_known(picture, edges, dark, entropy, saturation):
    found = pixel_statistics.measured([picture, flat(7, 7, 7)])[0]
    expected = {"edge_density": edges, "dark": dark, "color_entropy": entropy, "saturation": saturation}
    assert found == pytest.approx(expected, abs=1e-6)


def test_all_colours_equally_often_have_entropy_one():
    levels = np.arange(8, dtype=np.uint8) * 32
    picture = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(16, 32, 3)
    assert pixel_statistics.measured([picture])[0]["color_entropy"] == pytest.approx(1)


def test_a_file_and_its_pixels_have_the_same_numbers_and_a_large_picture_those_of_its_quarter():
    small = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    large = np.repeat(np.repeat(small, 4, axis=0), 4, axis=1)
    assert pixel_statistics.measured([small]) == pixel_statistics.measured([Image.fromarray(small)])
    assert pixel_statistics.measured([large]) == pixel_statistics.measured([small])


def test_diversity_is_the_mean_difference_to_the_others_of_the_prompt():
    black, white, grey = (pixel_statistics.miniature(flat(v, v, v)) for v in (0, 255, 51))
    pictures = {"a": [black, white, grey], "b": [black, black], "alone": [white]}
    prompts = [name for name, each in pictures.items() for _ in each]
    found = pixel_statistics.diversity(prompts, [each for those in pictures.values() for each in those])
    assert [each.get("diversity") for each in found] == [pytest.approx(v) for v in (0.6, 0.9, 0.5, 0, 0)] + [None]
