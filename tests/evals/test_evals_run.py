"""Scoring a run: rendered scenes with known verdicts go in, scores.jsonl comes out; bad folders are named."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals import run
from unigrpo.__main__ import call
from unigrpo.core.errors import UserError
from unigrpo.core.records import Detection, Prompt
from unigrpo.study.facts import STATISTICS
from unigrpo.study.resolve import benchmarks
from unigrpo.world.render import render
from unigrpo.world.scenes import Obj, Scene

CIRCLE, SQUARE = Obj("circle", "red", 1 / 6, 0.5, 0.11), Obj("square", "blue", 5 / 6, 0.5, 0.11)
META = {
    "tag": "colors",
    "include": [{"class": "circle", "count": 1, "color": "red"}],
    "prompt": "a red circle",
}
LEFT = [{"class": "square", "count": 1}, {"class": "circle", "count": 1, "position": ["left of", 0]}]
JUDGED = {"official", "strict", "gold", "soft", "artefact", "second", "proxy"}


def scenes(*objects):
    return render([Scene(tuple(o)) for o in objects], 48)


def write_set(root, name, images=None, rows=(), **protocol):
    folder = root / name
    folder.mkdir(parents=True)
    benchmark, mode, guidance = name.split(".")
    header = {"benchmark": benchmark, "version": "1", "mode": mode, "guidance_name": guidance} | protocol
    (folder / "protocol.json").write_text(json.dumps(header))
    (folder / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    if images is not None:
        np.save(folder / "images.npy", images)
    return folder


def row(index=0, sample=0, meta=META, **more):
    base = {"index": index, "prompt_id": "p0", "prompt": meta["prompt"], "tag": meta["tag"], "meta": meta}
    return base | {"sample": sample, "seed": 0, "trace": None} | more


class FakeDetector:
    """Sees a red circle in every image."""

    def detect(self, images):
        return [[Detection("circle", "red", (0, 0, 9, 9), 1.0)] for _ in images]


def fake_reward(images, prompts):
    assert images.shape[1] == 3 and images.min() >= 0 and images.max() <= 1 and len(prompts) == len(images)
    return images[:, 0, :, :24].mean(dim=(1, 2))  # red of the left half


JUDGES = [run.inspected, partial(run.second, FakeDetector()), partial(run.rewarded, "proxy", fake_reward)]


def scored(tmp_path, judges=JUDGES):
    run.score_folder(tmp_path / "samples", judges, tmp_path / "scores.jsonl")
    return [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]


def test_rows_of_both_benchmarks_with_known_verdicts(tmp_path):
    images = scenes([CIRCLE], [CIRCLE, SQUARE], [SQUARE])
    write_set(tmp_path / "samples", "geneval.think.tuned", images, [row(i, i) for i in (2, 0, 1)])
    ta_meta = META | {"include": LEFT, "tag": "compound"}
    write_set(tmp_path / "samples", "ta.direct.unguided", images, [row(0, meta=ta_meta), row(1, 1, meta=ta_meta)])
    rows = scored(tmp_path)
    assert [(r["benchmark"], r["mode"], r["guidance"], r["sample"]) for r in rows] == [
        ("geneval", "think", "tuned", 2),
        ("geneval", "think", "tuned", 0),
        ("geneval", "think", "tuned", 1),
        ("ta", "direct", "unguided", 0),
        ("ta", "direct", "unguided", 1),
    ]
    wrong, right, cluttered, half, full = (r["metrics"] for r in rows)
    assert set(right) == JUDGED | STATISTICS.keys() and 0 < right["diversity"] < wrong["diversity"]  # the other class
    assert (right["official"], right["strict"], right["gold"], right["second"]) == (1, 1, 1, 1)
    assert (wrong["official"], wrong["strict"], wrong["second"]) == (0, 0, 1)
    assert (cluttered["official"], cluttered["strict"]) == (1, 0)
    assert rows[0]["reason"] == "expected circle>=1, found 0" and rows[1]["reason"] == ""
    assert right["proxy"] == pytest.approx(images[0, :, :24, 0].mean() / 255, abs=1e-5)
    assert (half["ta"], half["atoms"], full["ta"]) == (pytest.approx(1 / 3), 3, 1)
    assert "square" in rows[3]["reason"] and rows[0]["version"] == "1" and rows[0]["tag"] == "colors"


def test_outside_images_are_read_by_path(tmp_path):
    folder = write_set(tmp_path / "samples", "geneval.direct.tuned", rows=[row() | {"image": "a/0.png"}])
    (folder / "a").mkdir()
    Image.fromarray(scenes([CIRCLE])[0]).save(folder / "a" / "0.png")
    assert scored(tmp_path)[0]["metrics"]["official"] == 1


def test_batches_do_not_change_scores(tmp_path, monkeypatch):
    images = scenes([CIRCLE], [CIRCLE, SQUARE], [SQUARE])
    write_set(tmp_path / "samples", "geneval.think.tuned", images, [row(i, i) for i in range(3)])
    whole = scored(tmp_path)
    monkeypatch.setattr(run, "BATCH", 2)
    assert scored(tmp_path) == whole


GOOD = scenes([CIRCLE])


@pytest.mark.parametrize(
    ("images", "rows", "protocol", "message"),
    [
        (GOOD, [row(), row(1, 1)], {}, r"manifest.jsonl, line 2: 'index' must be from 0 to 0"),
        (GOOD, [row(None)], {}, r"line 1: 'index'"),
        (GOOD, [row(), row()], {}, r"line 2: prompt 'p0', sample 0 is already in .*line 1"),
        (GOOD, [row(), row(sample=1)], {}, r"line 2: image 0 is already that of .*line 1"),
        (None, [row(image="a.png"), row(sample=1, image="a.png")], {}, r"line 2: image a.png is already that of"),
        (GOOD, [row()], {"mode": "dream"}, r"protocol.json: mode: expected 'think', 'direct' or 'mixed', got 'dream'"),
        (GOOD, [row(sample="0")], {}, r"line 1: sample: expected a whole number, got '0'"),
        (GOOD, [row(meta=META | {"include": []})], {}, r"line 1: 'meta' needs 'include'"),
        (GOOD, [[1]], {}, r"line 1: expected a JSON object, found list"),
        (GOOD, [], {}, r"manifest.jsonl: is empty"),
        (GOOD.astype(np.float32), [row()], {}, r"images.npy: expected uint8 \(n, H, W, 3\), found float32"),
        (GOOD[0], [row()], {}, r"images.npy: expected uint8"),
        (None, [row()], {}, r"images.npy: cannot be read"),
        (GOOD, [row(meta=META | {"include": [{"class": "", "count": 1}]})], {}, r"line 1: .* needs 'class'"),
        (
            GOOD,
            [row(meta=META | {"include": [{"class": "ring", "count": 1, "color": ["red"]}]})],
            {},
            r"line 1: .*'color'",
        ),
        (
            GOOD,
            [row(meta=META | {"include": [LEFT[0], LEFT[1] | {"position": ["on", 0]}]})],
            {},
            r"line 1: .* among left of",
        ),
        (None, [row() | {"image": "none.png"}], {}, r"line 1: .*none.png: cannot be read"),
        (GOOD, [row()], {"version": 1}, r"protocol.json: version: expected text, got 1"),
        (
            GOOD,
            [row()],
            {"benchmark": "other"},
            r"protocol.json: 'benchmark' must be one of ta, geneval, .*found 'other'",
        ),
    ],
)
def test_bad_folders_are_named(tmp_path, images, rows, protocol, message):
    write_set(tmp_path / "samples", "geneval.think.tuned", images, rows, **protocol)
    with pytest.raises(UserError, match=message):
        scored(tmp_path)
    assert not (tmp_path / "scores.jsonl").exists()


def test_an_empty_file_of_images_is_named(tmp_path):
    folder = write_set(tmp_path / "samples", "geneval.think.tuned", rows=[row()])
    (folder / "images.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"images.npy: cannot be read \(.*, expected a numpy array"):
        scored(tmp_path)


def test_what_a_judge_refuses_is_placed(tmp_path):
    def refuse(benchmark, prompts, images):
        raise UserError("unknown word 'hoto'")

    write_set(tmp_path / "samples", "geneval.think.tuned", GOOD, [row()])
    with pytest.raises(UserError, match=r"manifest.jsonl, line 1 or below: unknown word 'hoto'"):
        scored(tmp_path, [refuse])


def test_a_broken_line_is_named(tmp_path):
    folder = write_set(tmp_path / "samples", "geneval.think.tuned", GOOD, [row()])
    with (folder / "manifest.jsonl").open("a") as file:
        file.write("{")
    with pytest.raises(UserError, match=r"manifest.jsonl, line 2: not valid JSON"):
        scored(tmp_path)


def test_images_of_two_sizes_are_refused(tmp_path):
    folder = write_set(tmp_path / "samples", "geneval.think.tuned", GOOD, [row(), row(sample=1, image="b.png")])
    Image.new("RGB", (19, 19)).save(folder / "b.png")
    with pytest.raises(UserError, match=r"line 2: image of shape \(19, 19, 3\), the first row's is \(48, 48, 3\)"):
        scored(tmp_path)


def test_a_metric_that_is_no_number_stops_the_scoring(tmp_path):
    write_set(tmp_path / "samples", "geneval.think.tuned", GOOD, [row()])
    with pytest.raises(UserError, match=r"geneval.think.tuned/manifest.jsonl, line 1: metric 'proxy' is nan"):
        scored(tmp_path, [lambda benchmark, prompts, images: [{"proxy": float("nan")} for _ in prompts]])


def test_metadata_that_cannot_be_judged_names_its_line(tmp_path):
    include = [{"class": "circle", "count": 1, "position": ["above", 3]}]
    write_set(tmp_path / "samples", "geneval.think.tuned", GOOD, [row(meta=META | {"include": include})])
    with pytest.raises(UserError, match=r"manifest.jsonl, line 1: .*include\[0\] \(circle\)"):
        scored(tmp_path)


def test_the_command_puts_the_instruments_together(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "unigrpo.judges.reward.load", lambda name, **options: asked.append((name, options)) or fake_reward
    )
    monkeypatch.setattr("evals.run.load_detector", lambda path: asked.append(path) or FakeDetector())
    write_set(tmp_path / "samples", "geneval.think.tuned", GOOD, [row()])
    arguments = {"samples": tmp_path / "samples", "reward": "r", "detector": "d", "out": tmp_path / "s.jsonl"}
    assert call(["score", *(f"--{key}={value}" for key, value in arguments.items())]) == 0
    metrics = json.loads((tmp_path / "s.jsonl").read_text())["metrics"]
    assert set(metrics) == JUDGED | STATISTICS.keys() - {"diversity"}  # the prompt has one image
    assert asked == [("learned", {"path": Path("r"), "device": "cpu"}), Path("d")]


def test_no_sets_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no sample set"):
        scored(tmp_path)


def test_prompts_carry_their_metadata_to_the_judges(tmp_path):
    write_set(tmp_path / "samples", "geneval.think.tuned", GOOD, [row()])
    seen = []

    def spy(benchmark, prompts, images):
        seen.append((benchmark, prompts, images.dtype))
        return [{} for _ in prompts]

    scored(tmp_path, [spy])
    assert seen == [(benchmarks()["geneval"], [Prompt("p0", "a red circle", "colors", META)], np.uint8)]
