"""Images with their traces and verdicts, as figures show them.

Prompts are drawn by a fixed rule, not picked; always the first seed and sample.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence

from unigrpo.core.errors import UserError
from unigrpo.core.seeding import numpy_generator
from unigrpo.report.data.results import Sources
from unigrpo.report.data.samples import Sample, read_samples
from unigrpo.report.pages.drawing import bare

MOST_LINES = 4
VERDICTS = {  # verdict -> its words, colour and line: greyscale keeps them apart too
    True: ("✓ right", "#1b7837", "-"),
    False: ("✗ wrong", "#b2182b", "--"),
    None: ("not judged", "#7f7f7f", ":"),
}


def drawn(tags: Sequence[str], wanted: Sequence[str], stream: str) -> list[int]:
    """Places in ``tags`` of one prompt for each of ``wanted``, none twice, by a draw that depends on the tags alone."""
    rng, places = numpy_generator(0, stream), []
    for tag in wanted:
        left = [i for i, t in enumerate(tags) if t == tag and i not in places]
        if left:
            places.append(left[rng.integers(len(left))])
    return places


def drawn_prompts(samples: Mapping[str, Sample], wanted: Sequence[str]) -> list[str]:
    """Ids of prompts of the ``wanted`` tags, each once."""
    ids = [s.prompt_id for s in samples.values()]
    return [ids[i] for i in drawn([s.tag for s in samples.values()], wanted, "grid")]


def read(run: str, spec: Mapping, sources: Sources) -> dict[str, Sample]:
    """The run's first samples, with thinking. Raises UserError without any."""
    guidance = spec.get("guidance", "tuned")
    found = read_samples(sources.folder, run, "think", guidance)
    if not found:
        raise UserError(f"{sources.folder.root / 'runs' / run}: no images with thinking at guidance '{guidance}'")
    return found


def record(run: str, sample: Sample) -> tuple:
    """The row of the figure's CSV."""
    return sample.prompt_id, sample.prompt, run, sample.trace or "", sample.correct, sample.reason


def wrapped(texts: Iterable[str], width: int) -> list[str]:
    """The texts in at most MOST_LINES lines, with a sign that there were more."""
    lines = [part for text in texts for part in textwrap.wrap(text, width)]
    return [*lines[: MOST_LINES - 1], lines[MOST_LINES - 1] + " …"] if len(lines) > MOST_LINES else lines


def draw_sample(axis, sample: Sample) -> None:
    """The image in a frame of its verdict."""
    axis.imshow(sample.image, interpolation="bicubic")
    bare(axis)
    _, color, style = VERDICTS[sample.correct]
    for spine in axis.spines.values():
        spine.set(visible=True, color=color, linewidth=1.2, linestyle=style)
