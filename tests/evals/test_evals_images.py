"""The command that judges real images: rows, summary, failures, resumption; GenEval-style from end to end."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals import images
from evals.benchmarks import geneval as geneval_style
from evals.instruments import pixel_statistics
from evals.instruments.eyes import Eyes, Found
from evals.instruments.picture_files import read
from tests._support import judges
from tests._support import rows as judged_rows
from tests.evals.test_evals_pictures import CUP, DOG, image, write_official, write_ours
from unigrpo.__main__ import call
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json, read_jsonl
from unigrpo.report.data import results
from unigrpo.study.facts import STATISTICS
from unigrpo.world import geneval_verdict

CARS = {
    "tag": "counting",
    "include": [{"class": "car", "count": 2}],
    "exclude": [{"class": "car", "count": 3}],
    "prompt": "a photo of two cars",
}


class Levels:
    """A judge whose only metric is an image's mean; keeps what it was shown, and can fail."""

    version, prompts = "levels-1", None

    def __init__(self, refuses=(), stops_after=None):
        self.seen, self.refuses, self.stops_after = [], refuses, stops_after

    def check(self, picture):
        if picture.prompt.text == "a photo of two cars":
            raise UserError("no cars")

    def judge(self, pictures, shown):
        if self.stops_after is not None and len(self.seen) >= self.stops_after:
            raise KeyboardInterrupt
        self.seen.append([p.name for p in pictures])
        assert len({i.size for i in shown}) == 1
        return [
            UserError("no answer")
            if picture.name in self.refuses
            else {"metrics": {"level": float(np.asarray(i).mean())}, "reason": ""}
            for picture, i in zip(pictures, shown, strict=True)
        ]


class Told:
    """``Levels`` with a summary."""

    def __init__(self, judge, prompts=None):
        self.version, self.prompts = judge.version, prompts

    def summary(self, rows):
        return {}, []


def judged(found, judge, out, batch=2):
    return images.run(found, judge, "geneval", out, batch)


def rows_of(out):
    return [row for _, row in read_jsonl(out / "images.jsonl")]


# ------------------------------------------------------------------------------------- the runner


def test_rows_stand_in_the_order_of_the_images_and_batches_are_of_one_size(tmp_path):
    write_official(tmp_path / "d", [CUP, DOG, CUP | {"prompt": "a red cup"}], per_prompt=3)
    sizes = [(20, 24), (30, 30), (20, 24), (30, 30), (40, 20), (20, 24), (30, 30), (20, 24), (40, 20)]
    for picture, size, seed in zip(read(tmp_path / "d").pictures, sizes, range(9), strict=True):
        image(seed, size).save(tmp_path / "d" / picture.name)
    judge = Levels()
    rows, failed = judged(read(tmp_path / "d"), judge, tmp_path / "out")
    assert [(r["image"][:5], r["sample"]) for r in rows] == [(f"0000{p}", s) for p in range(3) for s in range(3)]
    expected = [np.asarray(image(seed, size)).mean() for seed, size in enumerate(sizes)]
    assert [r["metrics"]["level"] for r in rows] == pytest.approx(expected) and not failed
    assert sorted(map(len, judge.seen)) == [1, 2, 2, 2, 2]


def test_many_sizes_wait_for_no_more_than_a_few_batches(tmp_path):
    write_official(tmp_path / "d", [CUP] * 4, per_prompt=5)
    for number, picture in enumerate(read(tmp_path / "d").pictures):
        image(0, (20 + number, 30)).save(tmp_path / "d" / picture.name)
    found, most = read(tmp_path / "d"), 0
    opened = []
    for group in images.batches(found, 2, {}, lambda picture: None, {}, {}):
        opened += [place for place, *_ in group]
        most = max(most, max(opened) + 1 - len(opened))
    assert sorted(opened) == list(range(20)) and most <= images.HELD * 2


def test_what_cannot_be_judged_is_told_and_the_rest_is_judged(tmp_path):
    write_official(tmp_path / "d", [CUP, DOG, CARS])
    (tmp_path / "d/00000/samples/0001.png").write_bytes(b"no image")
    (tmp_path / "d/00003").mkdir()
    rows, failed = judged(read(tmp_path / "d"), Levels(refuses=["00001/samples/0000.png"]), tmp_path / "out")
    assert [r["image"] for r in rows] == ["00000/samples/0000.png", "00001/samples/0001.png"]
    problems = {f["image"]: f["problem"] for f in failed}
    assert "cannot be read" in problems.pop("00000/samples/0001.png")
    assert set(problems) == {
        "00001/samples/0000.png",
        "00002/samples/0000.png",
        "00002/samples/0001.png",
        "00003",
    }
    assert problems["00002/samples/0000.png"] == "no cars" and problems["00001/samples/0000.png"] == "no answer"


def test_a_run_that_ends_early_goes_on_where_it_was(tmp_path):
    write_official(tmp_path / "d", [CUP, DOG, CUP, DOG])
    whole, _ = judged(read(tmp_path / "d"), Levels(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        judged(read(tmp_path / "d"), Levels(stops_after=2), tmp_path / "out")
    part = tmp_path / "out" / images.PART
    part.write_text(part.read_text() + '{"cut o')
    image(99).save(tmp_path / "d/00000/samples/0000.png")  # changed in between
    judge = Levels()
    rows, _ = judged(read(tmp_path / "d"), judge, tmp_path / "out")
    assert [name for names in judge.seen for name in names] == [
        "00000/samples/0000.png",
        *(f"0000{p}/samples/000{s}.png" for p in (2, 3) for s in (0, 1)),
    ]
    apart = [[row["metrics"].pop("diversity") for row in found] for found in (rows, whole)]
    assert rows[1:] == whole[1:] and rows[0]["metrics"]["level"] == pytest.approx(np.asarray(image(99)).mean())
    assert [a == b for a, b in zip(*apart, strict=True)] == [row["prompt"] != rows[0]["prompt"] for row in rows]


def test_another_version_starts_anew(tmp_path):
    write_official(tmp_path / "d")
    judged(read(tmp_path / "d"), Levels(), tmp_path / "out")
    other = Levels()
    other.version = "levels-2"
    rows, _ = judged(read(tmp_path / "d"), other, tmp_path / "out")
    assert len(other.seen) == 2 and {r["version"] for r in rows} == {"levels-2"}
    (tmp_path / "out" / images.PART).write_text("not ours\n{}\n")
    assert len(judged(read(tmp_path / "d"), Levels(), tmp_path / "out")[0]) == 4


@pytest.mark.parametrize("odd", [float("nan"), "three", None])
def test_what_goes_wrong_with_an_image_is_its_failure_alone(tmp_path, odd):
    write_official(tmp_path / "d")

    def judge_all(pictures, shown):
        if any(p.name == "00000/samples/0001.png" for p in pictures) and odd is None:
            raise RuntimeError("out of\nmemory")
        return [
            {"metrics": {"level": odd if p.name == "00000/samples/0001.png" else 1.0}, "reason": ""} for p in pictures
        ]

    judge = Levels()
    judge.judge = judge_all
    rows, failed = judged(read(tmp_path / "d"), judge, tmp_path / "out")
    assert [row["image"] for row in rows] == [
        "00000/samples/0000.png",
        "00001/samples/0000.png",
        "00001/samples/0001.png",
    ]
    assert [row["image"] for row in failed] == ["00000/samples/0001.png"] and "\n" not in failed[0]["problem"]
    assert (
        "out of memory"
        if odd is None
        else "level: expected a number from -inf to inf, got nan"
        if odd != odd
        else "TypeError"
    ) in failed[0]["problem"]


def test_rows_are_scores_that_tables_read(tmp_path):
    seed = tmp_path / "seed0"
    seed.mkdir()
    rows, _ = judged(read(write_ours(tmp_path / "set")), Levels(), tmp_path / "out")
    (seed / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    results.collect([f"run={seed}"], tmp_path / "scores.csv")
    tidy = (tmp_path / "scores.csv").read_text().splitlines()[1:]
    tidy = [line for line in tidy if line.split(",")[-2] not in STATISTICS]
    assert len(tidy) == 3
    assert tidy[0].startswith("run,0,geneval,levels-1,think,tuned,pcolors,colors,0,")


# --------------------------------------------------------------------------------- GenEval-style


class FakeDetector:
    """Finds what the red of an image's first pixel says; every object has a mask."""

    name, digest = "fake", "d1"
    scenes = {0: {}, 1: {"cup": [[0, 0, 9, 9, 0.9]]}, 2: {"car": [[0, 0, 9, 9, 0.95], [9, 0, 19, 9, 0.93]]},
              3: {"dog": [[0, 0, 9, 9, 0.9], [9, 0, 19, 9, 0.8]]}}  # fmt: skip

    def detect(self, shown, tags):
        found = [self.scenes[np.asarray(i)[0, 0, 0] // 10] for i in shown]
        return [Found(boxes, {c: [np.ones(i.size[::-1], bool)] * len(b) for c, b in boxes.items()})
                for i, boxes in zip(shown, found, strict=True)]  # fmt: skip


class FakeReader:
    digest = "c1"

    def read(self, crops, classes):
        return ["red" if np.asarray(crop)[0, 0, 1] else "blue" for crop in crops]


def painted(root, cases):
    """A folder in the official layout: (metadata, first pixel's red and green) an image."""
    metas = [meta | {"prompt": f"{meta['prompt']} {number}"} for number, (meta, _) in enumerate(cases)]
    write_official(root, metas, per_prompt=1)
    for number, (_, (scene, green)) in enumerate(cases):
        Image.new("RGB", (20, 20), (10 * scene, green, 0)).save(root / f"{number:05d}/samples/0000.png")
    return read(root)


def test_verdicts_and_the_official_summary(tmp_path):
    cases = [(CUP, (1, 9)), (CUP, (1, 0)), (CUP, (0, 0)), (CARS, (2, 0)), (CARS, (1, 0)), (DOG, (0, 0))]
    judge = geneval_style.GenEval(Eyes(FakeDetector(), FakeReader()))
    rows, failed = judged(painted(tmp_path / "d", cases), judge, tmp_path / "out", batch=3)
    assert not failed and [r["metrics"]["official"] for r in rows] == [1, 0, 0, 1, 0, 0]
    assert rows[1]["reason"] == "expected red cup>=1, found 0 red; and 1 blue" and rows[1]["colors"] == {
        "cup": ["blue"]
    }
    assert rows[3]["colors"] == {} and rows[3]["detections"]["car"][1] == [9, 0, 19, 9, 0.93]
    assert {r["version"] for r in rows} == {"geneval-style-1 fake:d1 clip:c1"}
    numbers, lines = judge.summary(rows)
    assert numbers["tasks"] == {
        "colors": {"score": pytest.approx(1 / 3), "exact": pytest.approx(1 / 3), "images": 3},
        "counting": {"score": 0.5, "exact": 0.5, "images": 2},
        "single_object": {"score": 0, "exact": 0, "images": 1},
    }
    assert numbers["overall"] == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)
    assert numbers["correct_images"] == pytest.approx(2 / 6) and numbers["correct_prompts"] == pytest.approx(2 / 6)
    assert "overall (mean over tasks): 0.27778" in lines[-1]


def test_intervals_are_of_the_mean_over_tasks_of_the_prompts_means():
    row = {"prompt_id": "a", "tag": "colors", "metrics": {"official": 1.0, "atoms": 3}}
    rows = [row, row | {"metrics": {"official": 0.0}}, row | {"prompt_id": "b"}]
    rows += [row | {"prompt_id": "c", "tag": "counting", "metrics": {"official": 0.0}}]
    found = images.intervals(rows, True, "geneval")
    assert set(found) == {"official"} and found["official"].mean == pytest.approx((0.75 + 0) / 2)
    assert found["official"].lo < found["official"].mean < found["official"].hi and found["official"].prompts == 3
    assert images.intervals(rows, False, "geneval")["official"].mean == pytest.approx((0.5 + 1 + 0) / 3)


def level_rows(rng, most_prompts=8):
    """Rows of a few tasks and prompts, each prompt with its own number of images."""
    rows = []
    for prompt in range(rng.integers(1, most_prompts)):
        tag, often = f"t{rng.integers(3)}", rng.integers(1, 5)
        for sample in range(often):
            value = float(rng.integers(2))
            row = {"prompt_id": f"{prompt}", "prompt": f"p{prompt}", "tag": tag, "sample": sample, "image": f"{sample}"}
            rows.append(row | {"metrics": {"official": value, "exact": value}})
    return rows


def test_the_headline_lies_in_its_interval_and_the_official_average_is_named_where_it_differs(tmp_path):
    judge, facts = geneval_style.GenEval(Eyes(FakeDetector(), FakeReader())), geneval_style.FACTS
    rng, differing = np.random.default_rng(3), 0
    for _ in range(60):
        rows = level_rows(rng)
        lines = images.write(rows, [], judge, facts, "geneval", tmp_path / "out")
        summary = read_json(tmp_path / "out/summary.json")
        mean, lo, hi = summary["intervals"]["official"]
        by_prompt = {}
        for row in rows:
            by_prompt.setdefault((row["tag"], row["prompt_id"]), []).append(row["metrics"]["official"])
        tasks = [[np.mean(v) for (t, _), v in by_prompt.items() if t == tag] for tag in {t for t, _ in by_prompt}]
        assert summary["overall"] == pytest.approx(mean) == pytest.approx(np.mean([np.mean(task) for task in tasks]))
        assert lo is None if len(by_prompt) == 1 else lo - 1e-9 <= mean <= hi + 1e-9
        pictures = [[r["metrics"]["official"] for r in rows if r["tag"] == tag] for tag in {t for t, _ in by_prompt}]
        official = np.mean([np.mean(task) for task in pictures])
        said = [line for line in lines if line.startswith("as the official tool averages: ")]
        assert bool(said) == (abs(official - mean) > 1e-9) and "alone (one replicate)" in " ".join(lines)
        if said:
            differing += 1
            assert (
                summary["as_official"]["official"] == pytest.approx(official) and f"official {official:.4f}" in said[0]
            )
    assert 10 < differing < 60


def test_how_much_of_a_benchmark_was_judged_is_said_recorded_and_marked_in_the_rows(tmp_path):
    known = {f"prompt {k}": "counting" if k < 5 else "position" for k in range(8)}
    row = {"prompt_id": "a", "tag": "", "metrics": {"level": 1.0}}
    rows = [
        row | {"prompt_id": str(k), "prompt": f" prompt  {k}", "sample": s}
        for k, n in ((0, 1), (7, 4))
        for s in range(n)
    ]
    rows.append(row | {"prompt": "prompt 9", "sample": 0})
    lines = images.write(rows, [], Told(Levels(), known), geneval_style.FACTS, "geneval", tmp_path)
    said = "2 of 8 prompts, 1 to 4 images each; categories: counting 1 of 5, position 1 of 3"
    assert f"{said}; 1 images of prompts that are not the benchmark's; a part: 2 of 8 prompts" in lines
    found = read_json(tmp_path / "summary.json")["coverage"]
    assert (found["prompts"], found["of"], found["images"], found["expected"]) == (2, 8, [1, 4], 4)
    assert found["categories"] == {"counting": [1, 5], "position": [1, 3]} and found["outside"] == 1
    assert {row["part"] for row in rows_of(tmp_path)} == {"2 of 8 prompts"} == {found["part"]}


@pytest.mark.parametrize(("each", "known", "part"), [
    ([4, 4], 2, ""), ([4, 3], 2, "7 of 8 images"), ([1, 1], 2, "2 of 8 images"), ([5, 4], None, ""),
    ([4], 2, "1 of 2 prompts"), ([], 2, "0 of 2 prompts"),
])  # fmt: skip
def test_what_is_a_part(each, known, part):
    prompts = known and {f"{k}": "" for k in range(known)}
    rows = [{"prompt": f"{k}"} for k, often in enumerate(each) for _ in range(often)]
    assert images.covered(rows, prompts, 4, {})["part"] == part
    if prompts is None:  # where it is not known, metadata may say how many there should be
        assert images.covered(rows, None, 4, {"0": 5, "1": 6})["part"] == "9 of 11 images", each


def test_geneval_has_553_prompts_of_four_images():
    judge = geneval_style.GenEval(Eyes(FakeDetector(), FakeReader()))
    assert len(judge.prompts) == 553 and geneval_style.FACTS.samples == 4
    assert images.covered([{"prompt": next(iter(judge.prompts))}], judge.prompts, 4, {})["part"] == "1 of 553 prompts"


def test_lossy_images_are_counted(tmp_path):
    write_official(tmp_path / "d", [CUP, DOG], per_prompt=1)
    image(3).save(tmp_path / "d/00000/samples/0001.jpg")
    rows, _ = judged(read(tmp_path / "d"), Levels(), tmp_path / "out")
    lines = images.write(rows, [], Told(Levels()), geneval_style.FACTS, "geneval", tmp_path / "out")
    assert "1 of 3 images are lossy (JPEG)" in lines and read_json(tmp_path / "out/summary.json")["lossy"] == 1


def test_one_dog_too_many_is_officially_right_and_not_exactly(tmp_path):
    judge = geneval_style.GenEval(Eyes(FakeDetector(), FakeReader()))
    (row,), _ = judged(painted(tmp_path / "d", [(DOG, (3, 0))]), judge, tmp_path / "out")
    assert judged_rows.verdict(row) == {"official": 1, "exact": 0} and row["reason"] == ""
    numbers, _ = judge.summary([row])
    assert (numbers["overall"], numbers["overall_exact"]) == (1, 0)


def test_a_prompt_is_correct_where_any_of_its_images_is():
    judge = geneval_style.GenEval(Eyes(FakeDetector(), FakeReader()))
    row = {"prompt_id": "a", "tag": "colors"}
    rows = [row | {"metrics": {"official": v, "exact": v}} for v in (0.0, 1.0, 0.0)]
    rows.append(row | {"prompt_id": "b", "metrics": {"official": 0.0, "exact": 0.0}})
    numbers, _ = judge.summary(rows)
    assert (numbers["correct_images"], numbers["correct_prompts"], numbers["prompts"]) == (0.25, 0.5, 2)


@pytest.mark.parametrize(
    ("meta", "problem"),
    [
        (CUP | {"include": [{"class": "circle", "count": 1}]}, "class 'circle' is none of GenEval's 80"),
        (CUP | {"include": [{"class": "cup", "count": 1, "color": "teal"}]}, "color 'teal' is none of GenEval's 10"),
        (CUP | {"include": []}, "needs 'include'"),
        (CUP | {"include": [{"class": "cup", "count": 0}]}, "needs 'count'"),
    ],
)
def test_prompts_that_are_not_geneval_s_are_told(tmp_path, meta, problem):
    found = painted(tmp_path / "d", [(meta, (0, 0)), (DOG, (0, 0))])
    rows, failed = judged(found, geneval_style.GenEval(Eyes(FakeDetector(), FakeReader())), tmp_path / "out")
    assert len(rows) == 1 and problem in failed[0]["problem"]


def test_the_command_from_checkpoints_to_the_summary(tmp_path, capsys):
    """Tiny checkpoints through the real loaders; an unreadable image is counted and makes the exit code 1."""
    write_official(tmp_path / "d", [CUP, DOG, CARS])
    detector, clip = judges.save_owlv2(tmp_path / "owl"), judges.save_clip(tmp_path / "clip")
    command = ["--images", str(tmp_path / "d"), "--detector", str(detector), "--clip", str(clip), "--device", "cpu"]
    assert call(["judge", "geneval", *command]) == 0
    out = tmp_path / "d.geneval"
    told, summary, rows = capsys.readouterr().out, read_json(out / "summary.json"), rows_of(out)
    assert sorted(p.name for p in out.iterdir()) == ["images.jsonl", "summary.json"]
    assert len(rows) == summary["images"] == 6 and summary["failed"] == 0
    assert summary["version"] in told and summary["version"].startswith("geneval-style-1 owlv2:")
    assert "17.7 points" in told and "17.7 points" in summary["caveat"]
    for row in rows:
        meta = {m["prompt"]: m for m in (CUP, DOG, CARS)}[row["prompt"]]
        verdict = geneval_verdict.official_verdict(meta, row["detections"], row["colors"])
        assert (row["metrics"]["official"], row["reason"]) == (float(verdict.correct), verdict.reason)

    (tmp_path / "d/00001/samples/0001.png").write_bytes(b"no image")
    assert call(["judge", "geneval", *command, "--batch", "1", "--out", str(tmp_path / "again")]) == 1
    told = capsys.readouterr()
    assert "5 images judged, 1 could not be" in told.out and "not judged: 00001/samples/0001.png" in told.err
    assert [row["image"] for _, row in read_jsonl(tmp_path / "again/failed.jsonl")] == ["00001/samples/0001.png"]
    kept = {row["image"]: row for row in rows}
    for row in rows_of(tmp_path / "again"):  # one by one as in batches
        assert (
            judged_rows.verdict(row) == judged_rows.verdict(kept[row["image"]])
            and row["colors"] == kept[row["image"]]["colors"]
        )


def test_a_failure_that_is_gone_leaves_no_file(tmp_path):
    write_official(tmp_path / "d")
    facts, judge = geneval_style.FACTS, geneval_style.GenEval(Eyes(FakeDetector(), FakeReader()))
    images.write([], [{"image": "a", "problem": "b"}], judge, facts, "geneval", tmp_path / "out")
    assert (tmp_path / "out/failed.jsonl").exists() and read_json(tmp_path / "out/summary.json")["images"] == 0
    judged(read(tmp_path / "d"), judge := Levels(), tmp_path / "out")
    assert not (tmp_path / "out/failed.jsonl").exists() and not (tmp_path / "out/summary.json").exists()
    assert (tmp_path / "out" / images.PART).exists() and len(judge.seen) == 2


def test_a_second_run_judges_only_what_failed_or_is_new(tmp_path):
    write_official(tmp_path / "d", [CUP, DOG])
    first = Levels(refuses=["00000/samples/0001.png"])
    rows, failed = judged(read(tmp_path / "d"), first, tmp_path / "out", batch=1)
    images.write(rows, failed, Told(first), geneval_style.FACTS, "geneval", tmp_path / "out")
    assert len(rows) == 3 and not (tmp_path / "out" / images.PART).exists()
    (tmp_path / "d/00001").rename(tmp_path / "d/00009")  # a label
    image(7).save(tmp_path / "d/00000/samples/0002.png")
    again, failed = judged(read(tmp_path / "d"), second := Levels(), tmp_path / "out", batch=1)
    assert second.seen == [["00000/samples/0001.png"], ["00000/samples/0002.png"]] and not failed
    assert [row["image"] for row in again[3:]] == ["00009/samples/0000.png", "00009/samples/0001.png"]
    assert [row["metrics"] for row in again[3:]] == [row["metrics"] for row in rows[1:]]


def test_a_folder_may_be_the_one_we_are_in(tmp_path, monkeypatch):
    write_official(tmp_path / "d")
    (tmp_path / "link").symlink_to("d")
    monkeypatch.setattr(geneval_style, "build", lambda: geneval_style.GenEval(Eyes(FakeDetector(), FakeReader())))
    monkeypatch.setattr(FakeDetector, "detect", lambda self, shown, tags: [Found({}, {}) for _ in shown])
    monkeypatch.chdir(tmp_path / "d")
    assert call(["judge", "geneval", "--images", "."]) == 0
    assert read_json(tmp_path / "d.geneval/summary.json")["images"] == 4
    for told, expected in ((".", "d"), ("00000/..", "d"), ("../link", "link"), ("00001", "d/00001")):
        assert images.beside(Path(told), "ta") == tmp_path / f"{expected}.ta"


def test_a_hub_that_cannot_be_reached_is_told_before_anything_is_written(tmp_path, monkeypatch, capsys):
    def unreachable(*_, **__):
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    write_official(tmp_path / "d")
    with pytest.raises(UserError, match="hf download facebook/mask2former-swin-small-coco-instance --local-dir DIR"):
        call(["judge", "geneval", "--images", str(tmp_path / "d")])
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_every_image_is_measured_without_a_judge_too(tmp_path, capsys):
    """Numbers of the pictures as they are; an only image of its prompt has no other to differ from."""
    write_official(tmp_path / "d")
    (tmp_path / "d/00001/samples/0001.png").unlink()
    rows, _ = judged(read(tmp_path / "d"), Levels(), tmp_path / "out")
    for row in rows:
        alone = row["image"].startswith("00001")
        assert row["metrics"].keys() == {"level", *STATISTICS} - ({"diversity"} if alone else set())
        with Image.open(tmp_path / "d" / row["image"]) as picture:
            expected = pixel_statistics.measured([picture.convert("RGB")])[0]
        assert expected.items() <= row["metrics"].items()
    again, _ = judged(read(tmp_path / "d"), Levels(), tmp_path / "out")
    assert again == rows
