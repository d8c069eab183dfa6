"""The words that a verdict turned on, against cases worked out by hand, and the figure that shows them."""

import numpy as np
import pytest

from evals.run import inspected
from unigrpo.core.records import Prompt
from unigrpo.report.data.samples import denied, marked
from unigrpo.study import resolve
from unigrpo.world.prompts import prompt_set
from unigrpo.world.render import render
from unigrpo.world.traces import Imperfection, annotate

RINGS = {"include": [{"class": "ring", "count": 3}], "exclude": [{"class": "ring", "count": 4}]}
CROSS = {"include": [{"class": "cross", "count": 1, "color": "red"}]}
LEFT = {"include": [{"class": "star", "count": 1}, {"class": "heart", "count": 1, "position": ["left of", 0]}]}
LEFT_RED = {"include": [LEFT["include"][0] | {"color": "red"}, LEFT["include"][1]]}


def marks(trace, judge, meta, reason):
    """'word:mark' of all marked words."""
    lines = marked(f"<think> {trace} </think>", judge, meta, reason)
    return [f"{word}:{mark}" for line in lines for word, mark in line if mark]


@pytest.mark.parametrize(
    ("trace", "judge", "meta", "reason", "expected"),
    [
        ("red ring center , red ring upper-left", "official", RINGS, "expected ring>=3, found 2", 2 * ["ring:plan"]),
        (" , ".join(["red ring center"] * 4), "official", RINGS, "expected ring<4, found 4", 4 * ["ring:plan"]),
        (" , ".join(["red ring center"] * 3), "official", RINGS, "expected ring>=3, found 2", 3 * ["ring:paint"]),
        (" , ".join(["red ring center"] * 3), "official", RINGS, "", []),
        ("red square center", "official", CROSS, "expected cross>=1, found 0", ["square:plan"]),
        ("blue cross center", "official", CROSS, "expected red cross>=1, found 0 red; and 1 blue", ["blue:plan"]),
        ("red cross center", "official", CROSS, "expected red cross>=1, found 0 red; and 1 blue", ["red:paint"]),
        ("blue cross center", "official", CROSS, "", ["blue:plan"]),  # painted right in spite of its trace
        (
            "red star upper-left , red heart upper-right",
            "official",
            LEFT,
            "expected heart left of target, found right of target",
            ["upper-left:plan", "upper-right:plan"],
        ),
        (
            "red heart upper-left , red star upper-right",
            "exam_points",
            LEFT,
            "Is the heart left of the star?",
            ["upper-left:paint", "upper-right:paint"],
        ),
        # a relation whose one side is missing failed for that
        ("blue heart upper-left , blue star upper-right", "exam_points", LEFT_RED, "", ["blue:plan"]),
        ("blue star upper-left", "exam_points", LEFT, "Is there a heart in the image?", []),
    ],
)
def test_marks_worked_out_by_hand(trace, judge, meta, reason, expected):
    assert marks(trace, judge, meta, reason) == expected


@pytest.mark.parametrize("trace", [None, "", "<think> red </think>", "I think of a red ring."])
def test_a_trace_without_a_plan_has_no_marks(trace):
    assert marked(trace, "official", RINGS, "expected ring>=3, found 0") is None


@pytest.mark.parametrize("benchmark", ["geneval", "ta"])
def test_every_reason_of_the_real_verdicts_denies_a_fact(benchmark):
    """Nothing that a verdict says is lost, but for a relation without its target."""
    rng = np.random.default_rng(0)
    prompts = prompt_set(f"{benchmark}_eval")[:80]
    wrong = [Prompt(p.id, p.text, p.tag, q.meta) for p, q in zip(prompts, prompts[1:], strict=False)]
    scenes = [annotate(p.meta, rng, Imperfection(wrong_traces=1))[1] for p in prompts[:-1]]
    rows = inspected(resolve.benchmarks()[benchmark], wrong, render(scenes, 48))
    reasons = [(p.meta, line) for p, row in zip(wrong, rows, strict=True) for line in row["reason"].splitlines()]
    assert len(reasons) > 30
    for meta, line in reasons:
        assert denied(meta, line) or line.startswith("no target for")
