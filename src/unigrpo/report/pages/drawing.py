"""What all figures share: sizes, colours, lines, images with their traces and verdicts; and one figure as files."""

import io
import re
import sys
import textwrap
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, NullFormatter

from unigrpo.core.errors import UserError
from unigrpo.core.files import replacing, write_text
from unigrpo.core.seeding import numpy_generator
from unigrpo.report.data.phrases import MISSING, PICTURELESS
from unigrpo.report.data.results import Sources
from unigrpo.report.data.samples import Key, Sample, read_samples
from unigrpo.study.facts import FIGURES

Drawn = tuple[Figure, pd.DataFrame | list[tuple]]  # a figure, and the rows of its CSV
WIDTH = 6.4  # inches: the text width of a page
GREY, DARK, RED = "#444444", "#08306b", "#c0392b"
# Apart in hue and in lightness, so that greyscale keeps them apart; line styles or markers say the same again.
LOOKS = {
    "color": (DARK, RED, "#f0a830", "#5b8c5a", "#9b7fb8", "#8c8c8c"),
    "linestyle": ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1))),
    "marker": ("o", "s", "^", "D", "v", "P", "<", "h", ">", "p", "d", "*"),
}
FONTS = (  # of letters that matplotlib's own font lacks, as systems have them
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei", "Droid Sans Fallback", "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB",
    "Arial Unicode MS", "Noto Emoji", "Symbola",
)  # fmt: skip
INSTALLED = [name for name in FONTS if name in {font.name for font in fontManager.ttflist}]
matplotlib.rcParams["text.parse_math"] = False  # a dollar in a prompt, a trace or a label is a dollar
matplotlib.rcParams["font.family"] = ["sans-serif", *INSTALLED]
STYLE = Path(__file__).with_suffix(".mplstyle")
PICTURES = "samples/done.json"  # that a kind reads which shows them
MOST_LINES = 4  # of a trace or a verdict
VERDICTS = {  # verdict -> its words, colour and line: greyscale keeps them apart too
    True: ("✓ right", "#1b7837", "-"),
    False: ("✗ wrong", "#b2182b", "--"),
    None: ("not judged", "#7f7f7f", ":"),
}
DISPUTED = "≠"  # sign of a picture that the two instruments judge differently
DISAGREE = f"{DISPUTED}  the two instruments disagree"


def look(number: int, *parts: str) -> dict:
    """Colour, ``marker`` and ``linestyle``, as far as asked for, of the line number ``number``."""
    return {part: LOOKS[part][number % len(LOOKS[part])] for part in ("color", *parts)}


def panels(rows: int, columns: int, height: float, **more):
    """A figure of the page's width, and its axes (rows, columns)."""
    return plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, **more)


def say_missing(axis) -> None:
    """An empty panel."""
    axis.text(0.5, 0.5, MISSING, ha="center", va="center", transform=axis.transAxes)


def bare(axis) -> None:
    """A panel for a picture: no ticks, no grid."""
    axis.set(xticks=[], yticks=[])
    axis.grid(False)


def band(axis, x, each, color: str) -> None:
    """The range of lines ``each`` (K, N) over ``x`` (N,)."""
    axis.fill_between(x, each.min(0), each.max(0), color=color, alpha=0.15, linewidth=0)


def by_seed(data: pd.DataFrame, run: str, kind: str, metric: str, index: str) -> tuple[pd.DataFrame, pd.Series]:
    """A run's curve of ``logs.curve_data`` over ``index``: a column a seed, and their mean as long as all go on."""
    part = data[(data["run"] == run) & (data["kind"] == kind) & (data["metric"] == metric)]
    table = part.pivot_table(values="value", index=index, columns="seed")
    return table, table.dropna().mean(axis=1)


def key(label: str, **look) -> Line2D:
    """An entry of a legend."""
    return Line2D([], [], label=label, **look)


def legend(figure: Figure, entries: Sequence, columns: int | None = None, **more) -> None:
    """The legend below all panels."""
    figure.legend(handles=entries, loc="outside lower center", ncols=columns or len(entries), **more)


def subject(prompt: str, width: int) -> str:
    """A prompt as the title of its picture."""
    return textwrap.fill(prompt.removeprefix("a photo of "), width)


def drawn(tags: Sequence[str], wanted: Iterable[str], stream: str) -> list[int]:
    """Places in ``tags`` of a prompt for each of ``wanted``, none twice, by a draw that depends on the tags alone."""
    rng, places = numpy_generator(0, stream), []
    for tag in wanted:
        left = [i for i, t in enumerate(tags) if t == tag and i not in places]
        if left:
            places.append(left[rng.integers(len(left))])
    return places


def drawn_prompts(samples: Mapping[Key, Sample], spec: Mapping) -> list[Key]:
    """Prompts of the categories that the entry names, else one of each, none twice."""
    tags = [s.tag for s in samples.values()]
    return [list(samples)[i] for i in drawn(tags, spec.get("categories", dict.fromkeys(tags)), "grid")]


def first_samples(run: str, spec: Mapping, sources: Sources) -> dict[Key, Sample]:
    """The first samples of the run's first seed, with thinking. Raises UserError without any."""
    guidance = spec.get("guidance", "tuned")
    found = read_samples(sources.folder, run, "think", guidance)
    if not found:
        raise UserError(f"{sources.folder.root / 'runs' / run}: no images with thinking at guidance '{guidance}'")
    return found


def record(run: str, sample: Sample) -> tuple:
    """The row of the figure's CSV."""
    return sample.prompt_id, sample.prompt, run, sample.trace or "", sample.correct, sample.reason, sample.disputed


def wrapped(texts: Iterable[str], width: int) -> list[str]:
    """The texts in at most MOST_LINES lines, with a sign that there were more."""
    lines = [part for text in texts for part in textwrap.wrap(text, width, break_on_hyphens=False)]
    return [*lines[: MOST_LINES - 1], lines[MOST_LINES - 1] + " …"] if len(lines) > MOST_LINES else lines


def draw_sample(axis, sample: Sample) -> None:
    """The image in a frame of its verdict."""
    axis.imshow(sample.image, interpolation="bicubic")
    bare(axis)
    _, color, style = VERDICTS[sample.correct]
    for spine in axis.spines.values():
        spine.set(visible=True, color=color, linewidth=1.2, linestyle=style)
    if sample.disputed:
        sign_disputed(axis)


def sign_disputed(axis) -> None:
    """The sign in the upper right corner of a picture; :func:`draw` says what it means."""
    box = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": GREY, "linewidth": 0.5}
    axis.text(0.97, 0.97, DISPUTED, transform=axis.transAxes, ha="right", va="top", fontsize=6, color=GREY, bbox=box)


def save(figure: Figure, data: pd.DataFrame, out: Path, name: str) -> None:
    """<name>.png, <name>.pdf (without a date, so that equal data give equal files) and <name>.csv."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if axis.get_scale() in ("log", "symlog"):  # matplotlib's own labels of powers are markup
            axis.set_major_formatter(LogFormatter())
            axis.set_minor_formatter(NullFormatter())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for suffix, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
            with replacing(out / f"{name}.{suffix}") as temporary, io.BytesIO() as buffer:
                figure.savefig(buffer, format=suffix, metadata=metadata)
                temporary.write_bytes(buffer.getvalue())
    plt.close(figure)
    said = [(each, re.match(r"Glyph (\d+) .*missing from", str(each.message))) for each in caught]
    for each in (each for each, glyph in said if not glyph):
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    if missing := dict.fromkeys(chr(int(glyph[1])) for _, glyph in said if glyph):
        font = f"install a font such as {FONTS[0]} and remove matplotlib's cache of fonts"
        print(f"{out / name}: no font here has {' '.join(missing)}; {font}", file=sys.stderr)
    write_text(out / f"{name}.csv", data.to_csv(index=False, float_format="%.6g"))


def draw(spec: Mapping, sources: Sources) -> tuple[Figure, pd.DataFrame]:
    """The figure of one entry of the catalogue, and its data. Below it stand the runs without the pictures that it
    needs, and what the sign of disputed pictures means where it is shown."""
    kind, folder = FIGURES.load(spec["kind"]), sources.folder
    absent = [run for run in spec["runs"] if folder.without_pictures(run)] if kind.FACTS.reads == PICTURES else []
    shown = spec | {"runs": [run for run in spec["runs"] if run not in absent]} if absent else spec
    none = shown.get("runs") == []
    figure, rows = (plt.figure(figsize=(WIDTH, 1)), []) if none else kind.draw(shown, sources.of(spec))
    data = pd.DataFrame(rows, columns=kind.COLUMNS)
    notes = [DISAGREE] if "disputed" in data and data["disputed"].any() else []
    notes += [f"{PICTURELESS}: {', '.join(map(folder.label, absent))}"] if absent else []
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=7)
    return figure, data


def write(name: str, spec: Mapping, sources: Sources, out: Path) -> None:
    """Write the figure's files."""
    with plt.style.context(STYLE):
        save(*draw(spec, sources), out, name)
