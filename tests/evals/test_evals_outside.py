"""Images that another program has made become the sets of a run: what is taken, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from evals import outside
from tests._support.command import unigrpo
from unigrpo.core.errors import UserError
from unigrpo.core.settings import replace
from unigrpo.study import catalogue, resolve


@pytest.fixture
def study():
    """Scale smoke with one benchmark of the first prompts of another, and a line ``theirs``."""
    found = resolve.chosen_study("smoke")
    line = {"label": "Theirs", "images": "unused", "thinking": "no", "seeds": 1, "partial": False}
    lines = found.catalogue["runs"] | {"theirs": line | {"stage": catalogue.OUTSIDE, "init": None, "evaluate": ["no"]}}
    name, entry = next(iter(found.catalogue["benchmarks"].items()))
    few = replace(entry, least_prompts=1, images=2)
    return resolve.replace(found, catalogue=found.catalogue | {"runs": lines, "benchmarks": {name: few}})


@pytest.fixture
def side(study):
    return study.resolve("base").model.image_size


def paint(folder, texts, side, each=2, suffix="png"):
    """``{prompt: image}`` cannot hold two images of a prompt: GenEval's layout, in reversed order."""
    for number, (text, tag) in enumerate(reversed(texts)):
        place = folder / f"{number:05d}"
        (place / "samples").mkdir(parents=True)
        (place / "metadata.jsonl").write_text(json.dumps({"prompt": f"  {text} ", "tag": tag}) + "\n")
        for k in range(each):
            color = (texts.index((text, tag)) % 256, k, 9)
            Image.new("RGB", (side, side), color).save(place / f"samples/{k:04d}.{suffix}")


def prompts_of(study):
    ((_, entry),) = study.catalogue["benchmarks"].items()
    return [(prompt.text, prompt.tag) for prompt in entry.pool()]


def taken(study, folder, out):
    return outside.take(study, "theirs", 0, folder, out / "samples")


def test_every_image_is_that_of_its_prompt_whatever_its_folder_is_called(study, side, tmp_path):
    texts = prompts_of(study)
    paint(tmp_path / "in", texts, side)
    taken(study, tmp_path / "in", tmp_path)
    ((name, entry),) = study.catalogue["benchmarks"].items()
    folder = tmp_path / f"samples/{name}.direct.tuned"
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert [(row["prompt_id"], row["sample"]) for row in rows] == [(p.id, k) for p, k in entry.jobs(1)]
    for row in rows:
        pixel = np.asarray(Image.open(folder / row["image"]))[0, 0].tolist()
        assert pixel == [texts.index((row["prompt"], row["tag"])) % 256, row["sample"], 9]
    record = json.loads((tmp_path / "run.json").read_text())
    assert f"{len(texts)} of {len(texts)} prompts" in record["outside"] and record["config"]["label"] == "Theirs"


def test_a_prompt_without_images_is_refused_by_its_text_and_taken_where_the_line_says_partial(study, side, tmp_path):
    texts = prompts_of(study)
    paint(tmp_path / "in", texts[1:], side)
    with pytest.raises(UserError, match=f"{len(texts) - 1} of {len(texts)} prompts, .*partial: true.*{texts[0][0]}"):
        taken(study, tmp_path / "in", tmp_path)
    assert not (tmp_path / "samples/done.json").exists()
    study.catalogue["runs"]["theirs"]["partial"] = True
    taken(study, tmp_path / "in", tmp_path)
    (protocol,) = tmp_path.glob("samples/*/protocol.json")
    assert json.loads(protocol.read_text())["part"].startswith(f"{len(texts) - 1} of {len(texts)} prompts, ")


def test_one_missing_image_is_refused_and_fewer_of_every_prompt_are_not(study, side, tmp_path):
    texts = prompts_of(study)
    paint(tmp_path / "in", texts, side)
    (tmp_path / "in/00000/samples/0001.png").unlink()
    message = f"{len(texts)} of {len(texts)} prompts, .*true in the line; too few of: {texts[-1][0]}$"
    with pytest.raises(UserError, match=message):
        taken(study, tmp_path / "in", tmp_path)
    paint(tmp_path / "one", texts, side, each=1)
    taken(study, tmp_path / "one", tmp_path)
    (protocol,) = tmp_path.glob("samples/*/protocol.json")
    assert json.loads(protocol.read_text())["part"] == ""


def test_the_size_is_that_of_the_world_and_is_checked_at_the_first_picture(study, side, tmp_path):
    paint(tmp_path / "in", prompts_of(study), side + 8)
    with pytest.raises(UserError, match=f"expected {side} x {side} pixels, .* found {side + 8} x {side + 8}"):
        taken(study, tmp_path / "in", tmp_path)


def test_pictures_of_other_prompts_are_none_of_ours(study, side, tmp_path):
    study.catalogue["runs"]["theirs"]["partial"] = True
    paint(tmp_path / "in", [("a photo of nothing that we ask for", "t")], side)
    with pytest.raises(UserError, match="no image of a prompt of ours; `unigrpo prompts world`"):
        taken(study, tmp_path / "in", tmp_path)


def test_prompts_of_two_benchmarks_are_written_once(tmp_path):
    found = resolve.chosen_study("smoke")
    entries = [entry for entry in found.catalogue["benchmarks"].values() if not entry.group]  # of every run
    rows = outside.wanted(found)
    assert len(rows) == len({p.key for entry in entries for p in entry.pool()})
    unigrpo(f"prompts world --scale smoke --out {tmp_path / 'w'}")
    folders = sorted((tmp_path / "w").iterdir())
    assert [json.loads((f / "metadata.jsonl").read_text()) for f in folders] == rows


def test_lossy_files_are_said_and_older_sets_go(study, side, tmp_path):
    texts = prompts_of(study)
    stale = tmp_path / "samples/other.direct.tuned"
    stale.mkdir(parents=True)
    (stale / "manifest.jsonl").write_text("{}\n")
    paint(tmp_path / "in", texts, side, suffix="jpg")
    (line,) = taken(study, tmp_path / "in", tmp_path)
    assert line.endswith(f"{2 * len(texts)} of {2 * len(texts)} images, {2 * len(texts)} of them from lossy files")
    assert not stale.exists()
    with pytest.raises(UserError, match="holds no images in a known layout"):
        taken(study, tmp_path / "nothing", tmp_path)
    assert (tmp_path / "samples/done.json").exists() and len(list(tmp_path.glob("samples/*/manifest.jsonl"))) == 1
    (tmp_path / "in/00000/samples/0001.jpg").unlink()
    with pytest.raises(UserError, match="too few of"):
        taken(study, tmp_path / "in", tmp_path)
    assert not (tmp_path / "samples/done.json").exists()  # what was there is gone, and nothing says that it is not
