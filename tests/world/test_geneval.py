"""GenEval: published hashes for the prompts, hand-worked scenes and a brute-force rule for the verdicts."""

import hashlib
import json
import math
from collections import Counter

import numpy as np
import pytest

from tests._support.command import unigrpo
from unigrpo.core.errors import UserError
from unigrpo.world import geneval_verdict
from unigrpo.world.geneval_verdict import exact_verdict, kept_indices, official_verdict, relative_position

PROMPTS_SHA256 = "55b6e3650e980c13daf30569eb666e000faf19bfc2b7b4cbe999fcdb7aa9d680"
METADATA_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"


def meta(*include, exclude=(), tag="two_object"):
    return {"tag": tag, "include": list(include), "exclude": list(exclude), "prompt": "p"}


def clause(cls, count=1, **facts):
    return {"class": cls, "count": count, **facts}


def box(x, y, size=10.0, score=0.95):
    """A square centred on (x, y)."""
    return [x - size / 2, y - size / 2, x + size / 2, y + size / 2, score]


# --------------------------------------------------------------------------------------- prompts


def test_printed_prompts_are_the_published_file_byte_for_byte(capsys):
    unigrpo("prompts geneval")
    printed = capsys.readouterr().out
    texts = "".join(json.loads(line)["prompt"] + "\n" for line in printed.splitlines())
    found = [hashlib.sha256(text.encode()).hexdigest() for text in (printed, texts)]
    assert found == [METADATA_SHA256, PROMPTS_SHA256]


def test_categories_have_the_published_sizes():
    sizes = Counter(row["tag"] for row in geneval_verdict.metadata())
    assert sizes == dict(zip(geneval_verdict.CATEGORIES, (80, 99, 80, 94, 100, 100), strict=True))


# --------------------------------------------------------------------------------------- filter


def test_filter_is_strict_in_float32_and_stricter_for_counting():
    just = float(np.float32(0.3))  # 0.30000001192...: above 0.3 in float64, equal to it in float32
    raw = [[0, 0, 1, 1, just], [0, 0, 2, 2, 0.31], [0, 0, 3, 3, 0.9], [0, 0, 4, 4, 0.91]]
    assert kept_indices(raw, "colors") == [3, 2, 1]
    assert kept_indices(raw, "counting") == [3]
    assert kept_indices(raw[:1], "colors") == kept_indices([], "colors") == []


def test_filter_keeps_the_sixteen_best():
    raw = [[0, 0, i, i, 0.4 + i / 100] for i in range(20)]
    assert kept_indices(raw, "colors") == list(range(19, 3, -1))


def test_filter_suppresses_overlap_only_when_asked():
    # inclusive pixels: 10x10 boxes shifted by 5 columns share 50 of 150 pixels, an overlap of exactly 1/3
    raw = [[0, 0, 9, 9, 0.9], [5, 0, 14, 9, 0.8], [100, 0, 109, 9, 0.7]]
    kept = {overlap: kept_indices(raw, "colors", overlap) for overlap in (1.0, 0.34, 1 / 3)}
    assert kept == {1.0: [0, 1, 2], 0.34: [0, 1, 2], 1 / 3: [0, 2]}


def test_a_suppressed_box_suppresses_nothing():
    raw = [[0, 0, 9, 9, 0.9], [4, 0, 13, 9, 0.8], [9, 0, 18, 9, 0.7]]
    assert kept_indices(raw, "colors", 0.2) == [0, 2]


# --------------------------------------------------------------------------------------- relations


def rule_by_rule(a, b):
    """The position rule written out one axis at a time, in plain floats."""
    d = [(a[i] + a[i + 2]) / 2 - (b[i] + b[i + 2]) / 2 for i in (0, 1)]
    sizes = [abs(a[i + 2] - a[i]) + abs(b[i + 2] - b[i]) for i in (0, 1)]
    r = [math.copysign(max(abs(d[i]) - 0.1 * sizes[i], 0), d[i]) for i in (0, 1)]
    if abs(r[0]) < 1e-3 and abs(r[1]) < 1e-3:
        return set()
    x, y = (v / math.hypot(*d) for v in r)
    words = {"left of": -x, "right of": x, "above": -y, "below": y}
    return {word for word, amount in words.items() if amount > 0.5}


def test_relative_position_against_the_rule_written_out():
    rng = np.random.default_rng(0)
    seen = Counter()
    for _ in range(2000):
        corners = rng.integers(0, 60, size=(2, 2, 2))
        a, b = ([*c.min(0).tolist(), *(c.max(0) + 1).tolist()] for c in corners)
        found = relative_position(a, b)
        assert found == rule_by_rule(a, b)
        seen[len(found)] += 1
    assert min(seen[0], seen[1], seen[2]) > 50  # none, one and two relations all occur


def test_near_boxes_stand_in_no_relation():
    # 2.5 px apart, each 10 px wide: 2.5 - 0.1 * 20 leaves 0.5, a fifth of the distance
    assert relative_position(box(22.5, 20), box(20, 20)) == set()
    assert relative_position(box(20, 20), box(20, 20)) == set()
    assert relative_position(box(25, 20), box(20, 20)) == {"right of"}


# --------------------------------------------------------------------------------------- verdicts


def test_extra_objects_pass_the_official_rule_and_fail_the_exact_one():
    found = {"cup": [box(5, 5), box(25, 5), box(45, 5)]}
    assert official_verdict(meta(clause("cup")), found, {}).correct
    exact = exact_verdict(meta(clause("cup")), found, {})
    assert not exact.correct and exact.reason == "expected cup==1, found 3"
    assert exact.score == pytest.approx(1 - 2)  # not clamped


def test_exclude_caps_the_official_count_only():
    rule = meta(clause("cup", 2), exclude=[clause("cup", 3)], tag="counting")
    three = {"cup": [box(5, 5), box(25, 5), box(45, 5)]}
    assert official_verdict(rule, {"cup": three["cup"][:2]}, {}).correct
    assert official_verdict(rule, three, {}).reason == "expected cup<3, found 3"
    other = meta(clause("cup"), exclude=[clause("fork", 1)])
    assert exact_verdict(other, {"cup": [box(5, 5)], "fork": [box(9, 9)]}, {}).correct


def test_missing_objects_give_one_reason_a_clause():
    verdict = official_verdict(meta(clause("cup"), clause("fork", 2)), {"fork": [box(5, 5)]}, {})
    assert verdict.reason == "expected cup>=1, found 0\nexpected fork>=2, found 1"


def test_official_colors_look_at_the_best_boxes_only():
    found, colors = {"cup": [box(5, 5), box(25, 5)]}, {"cup": ["pink", "red"]}
    verdict = official_verdict(meta(clause("cup", color="red")), found, colors)
    assert verdict.reason == "expected red cup>=1, found 0 red; and 1 pink"
    assert official_verdict(meta(clause("cup", color="pink")), found, colors).correct


def test_colors_are_listed_in_palette_order():
    found = {"cup": [box(5, 5), box(25, 5), box(45, 5)]}
    verdict = exact_verdict(meta(clause("cup", 3, color="red")), found, {"cup": ["white", "orange", "red"]})
    assert verdict.reason == "expected red cup>=3, found 1 red; and 1 red, 1 orange, 1 white"
    assert verdict.score == pytest.approx((1 + 1 / 3) / 2)


ABOVE = meta(clause("cup"), clause("fork", position=["above", 0]), tag="position")


def test_position_is_read_from_the_clause_to_its_target():
    assert official_verdict(ABOVE, {"cup": [box(30, 50)], "fork": [box(30, 10)]}, {}).correct
    wrong = {"cup": [box(30, 10)], "fork": [box(50, 30)]}  # 45 degrees: below and right of
    assert official_verdict(ABOVE, wrong, {}).reason == "expected fork above target, found below and right of target"
    verdict = exact_verdict(ABOVE, wrong, {})
    assert not verdict.correct and verdict.score == pytest.approx((1 + 1 + 0 + 1) / 4)


def test_a_wrong_color_ends_the_clause():
    both = meta(clause("cup"), clause("fork", color="red", position=["above", 0]))
    found = {"cup": [box(30, 30)], "fork": [box(30, 50)]}
    assert official_verdict(both, found, {"fork": ["red"]}).reason == "expected fork above target, found below target"
    assert official_verdict(both, found, {"fork": ["pink"]}).reason == "expected red fork>=1, found 0 red; and 1 pink"


def test_every_pair_must_stand_in_the_relation():
    pairs = meta(clause("cup"), clause("fork", 2, position=["above", 0]))
    found = {"cup": [box(30, 30)], "fork": [box(30, 10), box(30, 50)]}
    assert official_verdict(pairs, found, {}).reason == "expected fork above target, found below target"


def test_a_failed_target_leaves_no_target():
    red_cup = meta(clause("cup", color="red"), clause("fork", position=["above", 0]))
    found, colors = {"cup": [box(30, 50)], "fork": [box(30, 10)]}, {"cup": ["blue"]}
    reason = official_verdict(red_cup, found, colors).reason
    assert reason == "expected red cup>=1, found 0 red; and 1 blue\nno target for fork to be above"
    assert exact_verdict(red_cup, found, colors).score == pytest.approx((1 + 0 + 1 + 0) / 4)


def test_a_clause_without_its_objects_scores_zero_for_its_other_facts():
    assert exact_verdict(ABOVE, {"cup": [box(30, 50)]}, {}).score == pytest.approx((1 + 0 + 0) / 3)


def test_nothing_asked_is_correct():
    assert official_verdict({"prompt": "p"}, {"cup": [box(5, 5)]}, {}).correct
    assert exact_verdict({"prompt": "p"}, {}, {}).score == 0


@pytest.mark.parametrize("position", [["above", 1], ["above", 2], ["above", -1], ["above"], "above"])
def test_position_must_point_to_an_earlier_clause(position):
    bad = meta(clause("cup"), clause("fork", position=position))
    with pytest.raises(UserError, match=r"include\[1\] \(fork\).*earlier clause"):
        official_verdict(bad, {"cup": [box(30, 50)], "fork": [box(30, 10)]}, {})


def test_check_finds_what_a_verdict_might_not_reach():
    ahead = meta(clause("cup", position=["above", 1]), clause("fork"))
    assert not official_verdict(ahead, {}, {}).correct  # no cup: its position is never looked at
    with pytest.raises(UserError, match=r"include\[0\] \(cup\)"):
        geneval_verdict.check(ahead)
    for strange in ({"class": "cup"}, ["cup"], None):
        with pytest.raises(UserError, match="include must be a list of clauses"):
            geneval_verdict.check({"include": strange})
    with pytest.raises(UserError, match=r"exclude\[0\] needs 'count'"):
        geneval_verdict.check(meta(clause("cup"), exclude=[{"class": "cup"}]))
    for row in geneval_verdict.metadata():
        geneval_verdict.check(row)


@pytest.mark.parametrize(
    ("bad", "key"), [({"count": 1}, "class"), ({"class": "cup"}, "count"), (clause("cup", 0), "count")]
)
def test_incomplete_clauses_are_named(bad, key):
    with pytest.raises(UserError, match=rf"include\[0\] needs '{key}'"):
        exact_verdict(meta(bad), {}, {})


def test_a_color_clause_needs_a_color_for_every_box():
    with pytest.raises(UserError, match=r"'cup'.*found 0"):
        official_verdict(meta(clause("cup", color="red")), {"cup": [box(5, 5)]}, {})
