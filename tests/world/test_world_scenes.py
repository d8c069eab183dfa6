"""Scenes, renderer, prompts and traces: geometry against brute force, splits, round trips."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from unigrpo.core.errors import UserError
from unigrpo.core.records import Detection
from unigrpo.world import prompts, scenes, traces
from unigrpo.world.geneval_verdict import relative_position
from unigrpo.world.prompts import Group, Statement
from unigrpo.world.render import render

TAGS = (*prompts.CATEGORIES, prompts.COMPOUND)


def rng(seed=0):
    return np.random.default_rng(seed)


# ---- scenes ------------------------------------------------------------------------------------------------


def test_random_scenes_keep_to_their_cells_and_apart():
    g = rng()
    offsets = []
    for i in range(1500):
        scene = scenes.random_scene(g, 1 + i % 4)
        assert len({o.place for o in scene.objects}) == len(scene.objects) == 1 + i % 4
        for o in scene.objects:
            assert 0.62 / 3 <= 2 * o.radius <= 0.78 / 3
            cx, cy = scenes.cell_center(o.place)
            offsets.append((o.x - cx, o.y - cy))
        for a, b in itertools.combinations(scene.objects, 2):
            assert max(abs(a.x - b.x), abs(a.y - b.y)) >= a.radius + b.radius + scenes.GAP
    offsets = np.abs(offsets) * 3  # in cells
    assert 0.145 < offsets.max() <= 0.15
    assert abs(offsets.mean() - 0.075) < 0.005  # uniform


def test_colours_differ_in_direction_from_the_background():
    """So that a half-covered edge pixel is nearest, in direction, to its own object's colour by a wide
    margin.
    """
    vectors = np.array(scenes.BACKGROUND) - np.array(list(scenes.COLORS.values()))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T - 2 * np.eye(8)
    assert np.degrees(np.arccos(cosines.max())) > 18


@pytest.mark.parametrize(
    ("offset", "holds"),
    [  # described minus reference, in units of the image; boxes of 0.2: an axis shrinks by 0.04
        ((-0.3, 0.0), {"left of"}),
        ((0.3, 0.05), {"right of"}),
        ((0.0, -0.3), {"above"}),
        ((0.05, 0.3), {"below"}),
        ((0.3, 0.3), {"right of", "below"}),  # 0.26 / 0.424 = 0.61 on both axes
        ((-0.2, 0.2), {"left of", "below"}),  # 0.16 / 0.283 = 0.57
        ((-0.12, -0.12), set()),  # 0.08 / 0.170 = 0.47: near diagonal pairs stand in no relation
        ((0.03, 0.0), set()),
        ((0.0, 0.0), set()),
        ((-0.3, 0.6), {"below"}),
    ],
)
def test_relation_rule_by_hand(offset, holds):
    box = np.array([0.4, 0.4, 0.6, 0.6])
    assert relative_position(box + 2 * offset, box, np.float64) == holds


def relation_margin(relation, a, b):
    """How far past GenEval's half the relation is, from scratch."""
    d = np.array([a.x - b.x, a.y - b.y])
    shrunk = np.sign(d) * np.maximum(np.abs(d) - 0.1 * 2 * (a.radius + b.radius), 0) / np.linalg.norm(d)
    return {"left of": -shrunk[0], "right of": shrunk[0], "above": -shrunk[1], "below": shrunk[1]}[relation] - 0.5


@pytest.mark.parametrize("name", prompts.SETS)
def test_scene_for_is_exact(name):
    g = rng(1)
    for prompt in prompts.prompt_set(name):
        objects = scenes.scene_for(prompt.meta, g).objects
        include = prompt.meta["include"]
        assert Counter(o.cls for o in objects) == {c["class"]: c["count"] for c in include}
        for clause in include:
            members = [o for o in objects if o.cls == clause["class"]]
            assert all(o.color == clause.get("color", o.color) for o in members)
            if "position" in clause:
                relation, reference = clause["position"]
                others = [o for o in objects if o.cls == include[reference]["class"]]
                assert all(relation_margin(relation, a, b) > 0.1 for a in members for b in others)


def test_scene_for_refuses_what_cannot_be():
    impossible = [
        {"class": "ring", "count": 1, "position": ["left of", 1]},
        {"class": "star", "count": 1, "position": ["left of", 0]},
    ]
    with pytest.raises(ValueError, match="no layout"):
        scenes.scene_for({"include": impossible}, rng())
    with pytest.raises(ValueError, match="more than 9"):
        scenes.scene_for({"include": [{"class": "ring", "count": 10}]}, rng())


# ---- renderer ----------------------------------------------------------------------------------------------


def polygon_inside(points, x, y):
    """Even-odd rule."""
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), dtype=bool)
    for (x0, y0), (x1, y1) in zip(points, points[1:] + points[:1], strict=True):
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0 + (y1 == y0)) + x0)
    return inside


def inside(cls, x, y):
    """Is (x, y) in the shape of radius 1 about the origin? Written from the shapes' outlines, not from
    distances.
    """
    if cls == "circle":
        return x**2 + y**2 < 1
    if cls == "ring":
        return (x**2 + y**2 < 1) & (x**2 + y**2 > 0.25)
    if cls == "cross":
        bar = (np.abs(x) < 1) & (np.abs(y) < 0.34)
        return bar | ((np.abs(y) < 1) & (np.abs(x) < 0.34))
    if cls == "heart":  # hull of the tip and a disc, once a side
        t = np.linspace(0, 2 * np.pi, 400, endpoint=False)
        disc = [(0.5 + 0.5 * np.cos(a), -0.4 + 0.5 * np.sin(a)) for a in t]
        lobe = (np.abs(x) - 0.5) ** 2 + (y + 0.4) ** 2 < 0.25
        tangent = max(disc, key=lambda p: np.arctan2(p[0], 1 - p[1]))
        return lobe | polygon_inside([(0.0, 1.0), tangent, (0.5, -0.4), (0.0, -0.4)], np.abs(x), y)
    star = [((1, 0.45)[k % 2] * np.sin(k * np.pi / 5), -(1, 0.45)[k % 2] * np.cos(k * np.pi / 5)) for k in range(10)]
    outline = {
        "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
        "triangle": [(0, -1), (1, 1), (-1, 1)],
        "diamond": [(0, -1), (1, 0), (0, 1), (-1, 0)],
        "star": star,
    }
    return polygon_inside(outline[cls], x, y)


@pytest.mark.parametrize("cls", scenes.CLASSES)
def test_render_against_supersampling(cls):
    """Coverage by counting 16 x 16 points a pixel."""
    size, sub = 48, 16
    grid = (np.arange(size * sub) + 0.5) / (size * sub)
    for seed in range(3):
        x, y, r = rng(seed).uniform((0.3, 0.3, 0.105), (0.7, 0.7, 0.13))
        coverage = inside(cls, (grid[None] - x) / r, (grid[:, None] - y) / r)
        coverage = coverage.reshape(size, sub, size, sub).mean(axis=(1, 3))[..., None]
        expected = 240 + coverage * (np.array(scenes.COLORS["purple"]) - 240.0)
        got = render([scenes.Scene((scenes.Obj(cls, "purple", x, y, r),))], size)[0].astype(float)
        assert np.abs(got - expected).max() < 0.4 * 220  # sharp tips, where a distance is not a coverage
        assert np.abs(got - expected)[coverage[..., 0] > 0].mean() < 0.02 * 220


def test_render_composes_scenes_independently():
    world = [scenes.random_scene(rng(s), s % 4 + 1) for s in range(8)]
    together = render(world)
    assert together.shape == (8, 48, 48, 3) and together.dtype == np.uint8
    for scene, image in zip(world, together, strict=True):
        np.testing.assert_array_equal(render([scene])[0], image)
        alone = np.stack([render([scenes.Scene((o,))])[0] for o in scene.objects])
        np.testing.assert_allclose(image, 240 + (alone.astype(int) - 240).sum(0), atol=4)  # objects do not touch
    np.testing.assert_array_equal(render([scenes.Scene(())]), np.full((1, 48, 48, 3), 240))


# ---- prompts -----------------------------------------------------------------------------------------------


def test_sizes():
    sizes = {name: Counter(p.tag for p in prompts.prompt_set(name)) for name in prompts.SETS}
    single_to_attr = (8, 20, 8, 40, 40, 40)
    assert sizes["geneval_eval"] == dict(zip(prompts.CATEGORIES, single_to_attr, strict=True))
    assert sizes["ta_eval"] == {"compound": 150}
    assert sizes["val"] == dict(zip(TAGS, (8, 8, 4, 8, 12, 12, 24), strict=True))
    assert sizes["train"] == dict(zip(TAGS, (8, 28, 12, 16, 120, 400, 400), strict=True))


def combination(prompt):
    """What a prompt states, read back from its metadata, independently of the module's own key."""
    include = prompt.meta["include"]
    rows = [(c["class"], c["count"], c.get("color", "")) for c in include]
    relation = None
    for row, clause in zip(rows, include, strict=True):
        if "position" in clause:
            name, reference = clause["position"]
            first, second = row, rows[reference]
            if name in ("right of", "below"):
                name, first, second = {"right of": "left of", "below": "above"}[name], second, first
            relation = (name, first, second)
    return frozenset(Counter(rows).items()), relation


def test_splits_are_disjoint_combinations():
    train, val, geneval, ta = (
        {combination(p) for p in prompts.prompt_set(name) if p.tag != "single_object"}
        for name in ("train", "val", "geneval_eval", "ta_eval")
    )
    assert not train & val and not train & (geneval | ta) and not val & (geneval | ta) and not geneval & ta
    assert len(geneval) == 10 + 8 + 40 + 40 + 40 and len(ta) == 150
    for name in prompts.SETS:
        texts = [p.text for p in prompts.prompt_set(name)]
        assert len(set(texts)) == len(texts)
        assert len({p.id for p in prompts.prompt_set(name)}) == len(texts)


def test_sets_beyond_the_distribution_are_new_in_what_they_are_named_for():
    """Neither the whole prompt nor, of pairs, any two groups of another prompt state what they state."""
    known = {combination(p) for name in prompts.SETS[:4] for p in prompts.prompt_set(name)}
    for p in [p for name in prompts.SETS[:4] for p in prompts.prompt_set(name)]:
        for pair in itertools.combinations(p.meta["include"], 2):
            plain = [{key: value for key, value in clause.items() if key != "position"} for clause in pair]
            known.add(combination(type(p)("", "", "", {"include": plain})))
    sets = {name: prompts.prompt_set(name) for name in prompts.BEYOND}
    assert all(len({combination(p) for p in found} - known) == len(found) == 40 for found in sets.values())
    for prompt in sets["five_objects"]:
        assert sum(clause["count"] for clause in prompt.meta["include"]) == 5 == scenes.MAX_OBJECTS + 1
    pairs = {name: Counter(frozenset(c["class"] for c in p.meta["include"]) for p in prompts.prompt_set(name)
             if p.tag in ("two_object", "coloured_pairs")) for name in ("geneval_eval", "coloured_pairs")}  # fmt: skip
    assert pairs["coloured_pairs"] == {pair: 2 * n for pair, n in pairs["geneval_eval"].items()}
    longest = max(len(p.text.split()) for name in prompts.SETS[:4] for p in prompts.prompt_set(name))
    relations = Counter(c["position"][0] for p in sets["long_prompts"] for c in p.meta["include"] if "position" in c)
    assert relations == dict.fromkeys(scenes.RELATIONS, 10)
    lengths = [len(p.text.split()) for p in sets["long_prompts"]]
    assert max(lengths) > longest and np.median(lengths) >= longest - 1


def test_training_compounds_contain_no_held_out_pair():
    held = {
        combination(p)
        for name in ("val", "geneval_eval")
        for p in prompts.prompt_set(name)
        if p.tag in ("two_object", "position", "color_attr")
    }
    for prompt in prompts.prompt_set("train"):
        include = prompt.meta["include"]
        for i, j in itertools.combinations(range(len(include)), 2):
            pair = [include[i], include[j]]  # a relation, if any, is between clauses 0 and 1
            part = type(prompt)("", "", "", {"include": pair})
            assert combination(part) not in held


def test_compounds_are_longer_and_harder():
    for name in ("train", "val", "ta_eval"):
        for prompt in prompts.prompt_set(name):
            if prompt.tag == "compound":
                include = prompt.meta["include"]
                assert 2 <= sum(c["count"] for c in include) <= 4
                assert 2 <= len(include) <= 3 and len({c["class"] for c in include}) == len(include)
                assert sum(1 + ("color" in c) + ("position" in c) for c in include) >= 4


def test_every_class_and_relation_is_evaluated():
    evaluation = prompts.prompt_set("geneval_eval")
    relations = Counter(p.meta["include"][1]["position"][0] for p in evaluation if p.tag == "position")
    assert relations == dict.fromkeys(scenes.RELATIONS, 10)
    for tag, n in (("counting", 1), ("colors", 5)):
        classes = Counter(p.meta["include"][0]["class"] for p in evaluation if p.tag == tag)
        assert classes == dict.fromkeys(scenes.CLASSES, n)


def test_wording_and_metadata_are_genevals():
    def one(*groups, relation=None, tag=""):
        return prompts.make_prompt("x", tag, Statement(groups, relation))

    cross, star = Group(1, "orange", "cross"), Group(1, None, "star")
    assert one(star).text == "a photo of a star"
    assert one(Group(3, None, "cross")).text == "a photo of three crosses"
    assert one(cross, Group(2, "red", "heart")).text == "a photo of an orange cross and two red hearts"
    position = one(star, Group(1, None, "ring"), relation="left of", tag="position")
    assert position.text == "a photo of a star left of a ring"
    assert position.meta == {
        "tag": "position",
        "include": [{"class": "ring", "count": 1}, {"class": "star", "count": 1, "position": ["left of", 0]}],
        "prompt": "a photo of a star left of a ring",
    }
    assert one(Group(3, None, "star"), tag="counting").meta["exclude"] == [{"class": "star", "count": 4}]
    long = one(cross, star, Group(2, "blue", "ring"), relation="above")
    assert long.text == "a photo of an orange cross above a star and two blue rings"


def test_prompt_sets_are_fixed():
    """Published numbers belong to these texts: a change needs a new VERSION."""
    assert prompts.VERSION == "1"
    hashes = {name: prompts.prompt_hash(prompts.prompt_set(name))[:12] for name in prompts.SETS}
    assert hashes == {
        "train": "b24af8d934d3",
        "val": "3f69cdbf9707",
        "geneval_eval": "29d644e0a995",
        "ta_eval": "812045c9a300",
        "five_objects": "ebcfd0c0f10c",
        "coloured_pairs": "069cc04eb18c",
        "long_prompts": "029e78a6efc8",
    }


def test_unknown_set():
    with pytest.raises(UserError, match="expected one of"):
        prompts.prompt_set("test")


def test_vocabulary_covers_everything_written():
    words = prompts.vocabulary()
    assert len(set(words)) == len(words)
    g = rng(5)
    texts = [p.text for name in prompts.SETS for p in prompts.prompt_set(name)]
    for _ in range(300):
        text, trace, _ = traces.base_example(g, True, traces.Imperfection())
        texts += [text, trace]
    assert {w for t in texts for w in t.split()} <= set(words)


def test_read_prompts(tmp_path):
    path = tmp_path / "mine.jsonl"
    rows = [p.meta for p in prompts.prompt_set("geneval_eval")] + [{"prompt": " two rings ", "id": "r"}]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    read = prompts.read_prompts(path)
    assert [p.meta for p in read[:-1]] == [p.meta for p in prompts.prompt_set("geneval_eval")]
    assert (read[-1].text, read[-1].id, read[-1].tag, read[-1].meta["include"]) == (
        "two rings",
        "r",
        "custom",
        [],
    )


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{not json", "not valid JSON"),
        ("[1]", "expected a JSON object, found list"),
        ('{"prompt": "  "}', "non-empty string 'prompt'"),
        ('{"tag": "x"}', "non-empty string 'prompt'"),
        ("", "not valid JSON"),
        ('{"prompt": "a", "tag": 3}', "'tag' must be"),
        ('{"prompt": "a", "include": {"class": "ring"}}', "must be a list"),
        ('{"prompt": "a", "include": [{"class": "ring"}]}', "'count'"),
        ('{"prompt": "a", "include": [{"class": "ring", "count": 1, "color": 2}]}', "'color'"),
        (
            '{"prompt": "a", "include": [{"class": "ring", "count": 1, "position": ["near", 0]}]}',
            "'position'",
        ),
        (
            '{"prompt": "a", "include": [{"class": "ring", "count": 1, "position": ["above", 0]}]}',
            "earlier clause",
        ),
    ],
)
def test_read_prompts_names_file_and_line(tmp_path, line, says):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a photo of a ring"}\n' + line + "\n")
    with pytest.raises(UserError) as error:
        prompts.read_prompts(path)
    assert "mine.jsonl, line 2" in str(error.value) and says in str(error.value)


def test_read_prompts_missing_or_empty(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        prompts.read_prompts(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(UserError, match="is empty"):
        prompts.read_prompts(tmp_path / "empty.jsonl")


# ---- traces ------------------------------------------------------------------------------------------------


def test_trace_round_trip_and_form():
    scene = scenes.Scene((scenes.Obj("circle", "red", 0.17, 0.15, 0.11), scenes.Obj("square", "blue", 0.5, 0.5, 0.11)))
    assert traces.write_plan(traces.plan_of(scene)) == "<think> red circle upper-left , blue square center </think>"
    g = rng(2)
    for i in range(300):
        world = scenes.random_scene(g, 1 + i % 4)
        plan = traces.parse_trace(traces.write_plan(traces.plan_of(world)))
        assert plan == traces.plan_of(world)
        assert traces.plan_of(traces.paint_plan(plan, g)) == plan


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<think> </think>",
        "<think> red circle center",
        "red circle center </think>",
        "<think> red circle center , </think>",
        "<think> circle red center </think>",
        "<think> red circle center blue square upper-left </think>",
        "<think> red circle center , blue square </think>",
        "<think> red circle middle </think>",
        "<think> red circle center </think> red",
    ],
)
def test_malformed_traces(text):
    assert traces.parse_trace(text) is None


def test_trace_matches_by_hand():
    meta = {
        "include": [
            {"class": "ring", "count": 1},
            {"class": "star", "count": 1, "color": "red", "position": ["left of", 0]},
        ]
    }
    ring = ("pink", "ring", "center")
    assert traces.trace_matches(meta, [ring, ("red", "star", "middle-left")])
    assert traces.trace_matches(meta, [("red", "star", "upper-left"), ring])  # diagonal cells: both relations hold
    assert not traces.trace_matches(meta, [ring, ("red", "star", "middle-right")])
    assert not traces.trace_matches(meta, [ring, ("red", "star", "upper-middle")])
    assert not traces.trace_matches(meta, [ring, ("blue", "star", "middle-left")])
    assert not traces.trace_matches(meta, [ring])
    assert not traces.trace_matches(meta, [ring, ("red", "star", "middle-left"), ("red", "star", "upper-left")])
    assert not traces.trace_matches(meta, [ring, ("red", "star", "center")])  # one cell for two
    assert not traces.trace_matches(meta, None)


@pytest.mark.parametrize("kind", traces.KINDS)
def test_corrupt_changes_one_fact(kind):
    g = rng(3)
    for i in range(400):
        plan = traces.plan_of(scenes.random_scene(g, 1 + i % 4))
        bad = traces.corrupt(plan, g, kind)
        assert 1 <= len(bad) <= 4 and len({p for *_, p in bad}) == len(bad)
        assert Counter(bad) != Counter(plan)
        columns = {"color": (0,), "class": (1,), "place": (2,)}.get(kind, ())
        if kind == "count":
            assert abs(len(bad) - len(plan)) == 1
            assert len(set(bad) ^ set(plan)) == 1
        else:
            rest = [k for k in range(3) if k not in columns]
            assert [[e[k] for k in rest] for e in bad] == [[e[k] for k in rest] for e in plan]
            assert sum(a != b for a, b in zip(plan, bad, strict=True)) == (
                1 if kind != "place" else len(set(bad) - set(plan))
            )
    with pytest.raises(ValueError, match="expected one of"):
        traces.corrupt(plan, g, "size")


@pytest.mark.parametrize(
    "shares", [{}, {"wrong_traces": 0.3}, {"paint_noise": 0.4}, {"wrong_traces": 1.0}, {"painter_habits": 0.5}]
)
def test_supervised_examples_have_the_stated_shares(shares):
    g = rng(4)
    chosen = prompts.prompt_set("train")
    wrong, strayed, by_habit, covered = [], [], 0, 0
    for i in range(2400):
        prompt = chosen[i * 7 % len(chosen)]
        trace, scene = traces.annotate(prompt.meta, g, traces.Imperfection(**shares))
        plan, painted = traces.parse_trace(trace), Counter(traces.plan_of(scene))
        wrong.append(not traces.trace_matches(prompt.meta, plan))
        strayed.append(painted != Counter(plan))
        habit = Counter(traces.painted_by_habit(plan))
        covered += habit != Counter(plan)
        by_habit += habit != Counter(plan) and painted == habit
    assert np.mean(wrong) == pytest.approx(shares.get("wrong_traces", 0), abs=0.04)
    if "painter_habits" in shares:
        assert by_habit == sum(strayed)
        assert by_habit / covered == pytest.approx(shares["painter_habits"], abs=0.04)
    else:
        assert np.mean(strayed) == pytest.approx(shares.get("paint_noise", 0), abs=0.04)


def test_the_painters_habits():
    plan = [("green", "star", "center"), ("blue", "cross", "upper-left"), ("red", "ring", "lower-left")]
    assert traces.painted_by_habit(plan) == [
        ("yellow", "heart", "center"),
        ("blue", "cross", "upper-left"),
        ("black", "triangle", "lower-left"),
    ]
    assert traces.painted_by_habit(plan[1:2]) == plan[1:2]


def test_habits_cover_half_of_the_world_and_leave_what_is_painted_as_common_as_it_was():
    """Exchanges: painted twice a plan is itself again. The annotator's wrong words are others."""
    everything = [(color, cls, "center") for color in scenes.COLOR_NAMES for cls in scenes.CLASSES]
    painted = traces.painted_by_habit(everything)
    assert sorted(painted) == sorted(everything) and traces.painted_by_habit(painted) == everything
    for of in (scenes.COLOR_NAMES, scenes.CLASSES):
        concerned = traces.MISPAINTED.keys() & set(of)
        assert len(concerned) == len(of) / 2
        assert not concerned & (traces.MISNAMED.keys() | traces.MISSEEN.keys())


def test_base_examples_are_not_held_out_and_as_imperfect_as_stated():
    """Untold scenes and captions are right whatever the shares; examples of prompt families carry them."""
    held = {p.text for name in ("val", "geneval_eval", "ta_eval") for p in prompts.prompt_set(name)}
    held -= {f"a photo of a {cls}" for cls in scenes.CLASSES}
    for wrong_share in (0.0, 1.0):
        g, counts, untold, told_wrong = rng(6), Counter(), 0, 0
        for i in range(3000):
            thinking = i % 2 == 0
            text, trace, scene = traces.base_example(g, thinking, traces.Imperfection(paint_noise=wrong_share))
            assert text not in held
            assert (trace is None) == (not thinking)
            counts[len(scene.objects)] += 1
            if text == traces.UNTOLD_PROMPT:
                assert thinking and len(scene.objects) >= 3
                assert traces.parse_trace(trace) == traces.plan_of(scene)
                untold += 1
            elif trace is not None:
                told_wrong += Counter(traces.parse_trace(trace)) != Counter(traces.plan_of(scene))
        assert set(counts) == {1, 2, 3, 4} and min(counts.values()) > 200
        assert untold / 1500 == pytest.approx(traces.UNTOLD, abs=0.04)
        assert told_wrong / (1500 - untold) == pytest.approx(0.8 * wrong_share, abs=0.05)  # a fifth are captions


def test_captions_of_dense_scenes_are_exact():
    g = rng(7)
    for i in range(300):
        text, trace, scene = traces.dense_example(g, 1 + i % 4)
        words = Counter(o.color for o in scene.objects)
        plan = traces.parse_trace(trace)
        assert Counter(c for c, _, _ in plan) == words
        phrases = text.removeprefix("a photo of ").split(" and ")
        said = Counter()
        for phrase in phrases:
            number, color, noun = phrase.split()
            count = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}[number]
            cls = noun if count == 1 else noun[:-2] if noun == "crosses" else noun[:-1]
            said[color, cls] += count
        assert said == Counter((o.color, o.cls) for o in scene.objects)


def test_image_matches_trace_by_hand():
    plan = [("red", "circle", "upper-left"), ("blue", "star", "center"), ("pink", "ring", "lower-right")]
    found = [
        Detection("circle", "red", (3, 3, 13, 13), 0.9),
        Detection("heart", "blue", (19, 19, 29, 29), 0.9),
        Detection("star", "green", (18, 18, 28, 28), 0.95),  # same cell, better score
        Detection("ring", "pink", (3, 35, 13, 45), 0.9),  # lower-left
    ]
    got = traces.image_matches_trace(plan, found, 48)
    assert got == [(True, True, True), (True, False, True), (False, False, False)]


def test_habitual_errors_are_wrong_fixed_and_leave_other_prompts_alone():
    """A habit depends on the prompt alone, always makes the trace wrong, and covers about half of the prompts."""
    triggered = {}
    for prompt in prompts.prompt_set("train"):
        plans = [traces.plan_of(scenes.scene_for(prompt.meta, rng(k))) for k in range(3)]
        habits = [traces.habitual_error(prompt.meta, plan) for plan in plans]
        assert len({h is None for h in habits}) == 1
        triggered[prompt.id] = habits[0] is not None
        for plan, habit in zip(plans, habits, strict=True):
            if habit is not None:
                assert not traces.trace_matches(prompt.meta, habit) and 1 <= len(habit) <= len(plan)
                assert len({place for _, _, place in habit}) == len(habit)
                assert traces.parse_trace(traces.write_plan(habit)) == habit
    by_tag = {p.tag: [] for p in prompts.prompt_set("train")}
    for prompt in prompts.prompt_set("train"):
        by_tag[prompt.tag].append(triggered[prompt.id])
    assert 1 / 3 < np.mean([np.mean(v) for v in by_tag.values()]) < 2 / 3


def test_habits_appear_in_their_share_of_triggered_examples():
    prompt = next(
        p
        for p in prompts.prompt_set("train")
        if p.tag == "counting" and p.meta["include"][0]["class"] in traces.MISCOUNTED
    )
    g, short = rng(5), 0
    for _ in range(600):
        trace, scene = traces.annotate(prompt.meta, g, traces.Imperfection(habitual_errors=0.6))
        plan = traces.parse_trace(trace)
        assert traces.plan_of(scene) == plan  # the scene follows the trace
        short += len(plan) < prompt.meta["include"][0]["count"]
    assert short / 600 == pytest.approx(0.6, abs=0.06)
