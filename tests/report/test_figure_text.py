"""Text in figures is drawn as it is: dollars and backslashes are no mathematics, and missing letters are said."""

import dataclasses
import io
import re
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.text import Text

from unigrpo.report.data.samples import Sample
from unigrpo.report.figures import grid, marked_traces
from unigrpo.report.pages import drawing

ODD = [
    r"The count is $$\boxed{2}$$", r"The angle is $\theta_{\frac$", "a script with `$a` and `$b`", "cost_$5_$6",
    "A tag says $5 and another says $10", r"100 % of \$x", "a | b & c",
]  # fmt: skip
CELL = Sample("p", "a photo of a cup", "t", "geneval", "official", {"include": []}, np.zeros((8, 8, 3), np.uint8), None)


def drawn_width(text):
    figure = plt.figure()
    box = figure.text(0, 0, text).get_window_extent()
    plt.close(figure)
    return box.width


@pytest.mark.parametrize("text", ODD)
def test_odd_text_is_drawn_as_it_is(text):
    """As wide as its characters; as mathematics a part of them vanishes, or the figure stops."""
    font = get_font(findfont(FontProperties(family=["sans-serif"])))
    font.set_size(plt.rcParams["font.size"], 100)
    font.set_text(text)
    assert drawn_width(text) == pytest.approx(font.get_width_height()[0] / 64, rel=0.03)
    for draw in (partial(grid._under, width=28), marked_traces._beside):
        figure, axis = plt.subplots()
        draw(axis, dataclasses.replace(CELL, prompt=text, trace=text, correct=False, reason=text))
        axis.plot([1], [1], label=text)
        axis.set(title=text, ylabel=text)
        axis.set_xticks([1], [text])
        axis.legend(title=text)
        figure.suptitle(text)
        figure.savefig(io.BytesIO(), format="pdf")
        assert not any(each.get_parse_math() for each in figure.findobj(Text))
        plt.close(figure)


def test_powers_on_axes_stay_numbers(tmp_path):
    figure, axis = plt.subplots()
    axis.plot([1e-4, 1e-2], [1, 2])
    axis.set_xscale("log")
    drawing.save(figure, pd.DataFrame({"a": [1]}), tmp_path, "f")
    labels = [label.get_text() for label in axis.get_xticklabels() if label.get_text()]
    assert labels and all(float(label.replace(chr(0x2212), "-")) > 0 for label in labels)


def test_letters_without_a_font_are_said_in_one_line(tmp_path, capsys, recwarn):
    figure = plt.figure()
    figure.text(0.5, 0.5, "\U000f0001 and \U000f0002", fontfamily=["DejaVu Sans"])  # of private use: in no font
    drawing.save(figure, pd.DataFrame({"a": [1]}), tmp_path, "f")
    said = capsys.readouterr().err
    assert re.fullmatch(r".*/f: no font here has \U000f0001 \U000f0002; install a font such as .*\n", said)
    assert not [each for each in recwarn if "Glyph" in str(each.message)]


@pytest.mark.skipif(not drawing.INSTALLED, reason="no font of Chinese letters is installed")
def test_chinese_is_drawn_where_a_font_has_it(tmp_path, capsys):
    figure = plt.figure()
    figure.text(0.5, 0.5, "两个红色的圆")
    figure.text(0.5, 0.2, "两个红色的圆", family=["monospace", *drawing.INSTALLED])
    drawing.save(figure, pd.DataFrame({"a": [1]}), tmp_path, "f")
    assert capsys.readouterr().err == ""
