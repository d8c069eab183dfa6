"""Images to judge: three layouts, what cannot be read, and the way into the official tool's layout and back."""

import json

import numpy as np
import pytest
from PIL import Image

from evals.instruments.picture_files import convert, read
from tests._support.command import unigrpo
from unigrpo.__main__ import call
from unigrpo.core.errors import UserError

CUP = {"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}], "prompt": "a photo of a red cup"}
DOG = {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"}


def image(seed, size=(20, 24)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


def write_official(root, metas=(CUP, DOG), per_prompt=2):
    for number, meta in enumerate(metas):
        folder = root / f"{number:05d}"
        (folder / "samples").mkdir(parents=True)
        (folder / "metadata.jsonl").write_text(json.dumps(meta) + "\n")
        for sample in range(per_prompt):
            image(10 * number + sample).save(folder / "samples" / f"{sample:04d}.png")
    return root


def write_ours(root):
    """Two images in an array, one as a picture."""
    root.mkdir()
    header = {"benchmark": "geneval", "version": "1", "mode": "think", "guidance_name": "tuned"}
    (root / "protocol.json").write_text(json.dumps(header))
    np.save(root / "images.npy", np.stack([np.asarray(image(s)) for s in (0, 1)]))
    image(10).save(root / "dog.png")
    rows = [
        {"prompt_id": f"p{meta['tag']}", "prompt": meta["prompt"], "tag": meta["tag"], "meta": meta, "sample": sample}
        for meta, sample in ((CUP, 0), (CUP, 1), (DOG, 0))
    ]
    places = ({"index": 0}, {"index": 1}, {"image": "dog.png"})
    lines = [json.dumps(row | place) + "\n" for row, place in zip(rows, places, strict=True)]
    (root / "manifest.jsonl").write_text("".join(lines))
    return root


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


def test_the_official_layout(tmp_path):
    write_official(tmp_path)
    (tmp_path / "notes").mkdir()
    found = read(tmp_path)
    assert not found.broken and found.protocol["mode"] == "direct"
    assert [(p.prompt.id, p.sample, p.prompt.tag) for p in found.pictures] == [
        ("a photo of a red cup (colors)", 0, "colors"),  # a folder's number is no id
        ("a photo of a red cup (colors)", 1, "colors"),
        ("a photo of a dog (single_object)", 0, "single_object"),
        ("a photo of a dog (single_object)", 1, "single_object"),
    ]
    assert found.pictures[2].prompt.meta == DOG and same(found.pictures[2].open(), image(10))
    assert found.pictures[3].name == "00001/samples/0001.png"


def test_the_official_layout_has_numbered_samples_and_metadata_of_any_lines(tmp_path):
    write_official(tmp_path, [CUP, DOG], per_prompt=1)
    (tmp_path / "00001").rename(tmp_path / "10")
    (tmp_path / "00000").rename(tmp_path / "9")
    (tmp_path / "9/metadata.jsonl").write_text(json.dumps(CUP, indent=2))
    for name in ("._0000.png", ".DS_Store", "Thumbs.db", "grid.png", "grid-0000.png", "0000.txt", "0000.png.part"):
        (tmp_path / "9/samples" / name).write_bytes(b"x")
    image(5).save(tmp_path / "9/samples/0010.JPG", format="PNG")
    image(6).save(tmp_path / "9/samples/2.png")
    found = read(tmp_path)
    assert [(p.name, p.sample) for p in found.pictures] == [
        ("9/samples/0000.png", 0),
        ("9/samples/2.png", 2),
        ("9/samples/0010.JPG", 10),
        ("10/samples/0000.png", 0),
    ]
    assert not found.broken and found.pictures[0].prompt.meta == CUP


def test_a_prompt_is_its_text_and_tag_and_its_samples_have_different_numbers(tmp_path):
    image(4).save(tmp_path / "a.png")
    (tmp_path / "map.json").write_text(json.dumps({"two  cats": "a.png", "a dog": "a.png", "two cats ": "a.png"}))
    found = read(tmp_path / "map.json").pictures
    assert [(p.prompt.id, p.prompt.text, p.sample) for p in found] == [
        ("two cats", "two  cats", 0),
        ("a dog", "a dog", 0),
        ("two cats", "two cats ", 1),
    ]
    manifest = write_ours(tmp_path / "set") / "manifest.jsonl"
    *cups, dog = manifest.read_text().splitlines()
    dog = json.dumps(json.loads(dog) | {"prompt_id": "pcolors", "sample": 9})
    manifest.write_text("\n".join([*cups, dog, ""]))
    with pytest.raises(
        UserError,
        match="'pcolors': expected one text and tag for an id, found 'a photo of a red cup'.*'a photo of a dog'",
    ):
        read(tmp_path / "set")


def test_paths_that_leave_the_folder_are_broken_images(tmp_path):
    (tmp_path / "d").mkdir()
    image(4).save(tmp_path / "a.png")
    (tmp_path / "d/map.json").write_text(json.dumps({"one": "../a.png", "two": str(tmp_path / "a.png")}))
    found = read(tmp_path / "d/map.json")
    assert not found.pictures and all("expected the path of an image in" in problem for _, problem in found.broken)


def test_a_sample_folder_of_ours(tmp_path):
    found = read(write_ours(tmp_path / "set"))
    assert found.protocol["guidance_name"] == "tuned"
    assert [p.name for p in found.pictures] == ["images.npy[0]", "images.npy[1]", "dog.png"]
    for picture, seed in zip(found.pictures, (0, 1, 10), strict=True):
        assert same(picture.open(), image(seed))


def test_a_map_of_prompts(tmp_path):
    image(4).save(tmp_path / "a.png")
    (tmp_path / "map.json").write_text(json.dumps({"two cats": "a.png", "one": str(tmp_path / "a.png"), "x": 3}))
    found = read(tmp_path / "map.json")
    assert [p.prompt.text for p in found.pictures] == ["two cats", "one"] and found.broken[0][0] == "x"
    assert all(same(p.open(), image(4)) for p in found.pictures)


def test_a_text_that_no_file_holds_is_one_broken_image(tmp_path, capsys):
    """Half an emoji, NUL: as a prompt and in a path; the others are judged."""
    for number in range(3):
        image(number).save(tmp_path / f"{number}.png")
    rows = {"a dog": "0.png", "a \ud83d cat": "1.png", "a\0cat": "2.png", "a cow": "\ud83d.png"}
    (tmp_path / "m.json").write_text(json.dumps(rows))
    found = read(tmp_path / "m.json")
    assert [p.prompt.text for p in found.pictures] == ["a dog"]
    assert [name for name, _ in found.broken] == ["1.png", "2.png", r"\ud83d.png"]
    assert call(["judge", "mean_reward", "--images", str(tmp_path / "m.json"), "--reward", "jpeg"]) == 1
    said = capsys.readouterr()
    assert "1 images judged, 3 could not be" in said.out and (said.out + said.err).isascii()


def test_export_is_what_the_official_tool_reads(tmp_path):
    assert convert(write_ours(tmp_path / "set"), tmp_path / "official") == 3
    files = sorted(str(p.relative_to(tmp_path / "official")) for p in (tmp_path / "official").rglob("*.*"))
    assert files == [
        "00000/metadata.jsonl",
        "00000/samples/0000.png",
        "00000/samples/0001.png",
        "00001/metadata.jsonl",
        "00001/samples/0000.png",
    ]
    back = read(tmp_path / "official")
    assert [p.prompt.meta for p in back.pictures] == [CUP, CUP, DOG]
    assert all(same(p.open(), image(seed)) for p, seed in zip(back.pictures, (0, 1, 10), strict=True))


def test_export_of_an_unreadable_image_leaves_nothing(tmp_path, capsys):
    write_ours(tmp_path / "set")
    (tmp_path / "set" / "dog.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="dog.png: cannot be read"):
        unigrpo(f"convert-images --images {tmp_path / 'set'} --out {tmp_path / 'official'}")
    assert not (tmp_path / "official").exists()
    image(10).save(tmp_path / "set" / "dog.png")
    unigrpo(f"convert-images --images {tmp_path / 'set'} --out {tmp_path / 'official'}")
    assert capsys.readouterr().out == f"{tmp_path / 'official'}: 3 images\n"


def test_folders_that_are_broken_are_told_and_others_read(tmp_path):
    write_official(tmp_path, [CUP, DOG, CUP, DOG])
    (tmp_path / "00000" / "metadata.jsonl").write_text("{")
    (tmp_path / "00001" / "metadata.jsonl").unlink()
    (tmp_path / "00002" / "metadata.jsonl").write_text(json.dumps({"prompt": 3}))
    found = read(tmp_path)
    assert [p.name[:5] for p in found.pictures] == ["00003"] * 2 and len(found.broken) == 6
    problems = dict(found.broken)
    assert "line 1: not valid JSON" in problems["00000/samples/0000.png"]
    assert "cannot be read" in problems["00001/samples/0001.png"]
    assert "'prompt' must be a text, found 3" in problems["00002/samples/0000.png"]


def test_two_files_of_one_sample_are_broken_images_and_others_are_read(tmp_path):
    """Which of them was meant, nobody knows: a folder that was converted has each image twice."""
    write_official(tmp_path, [CUP], per_prompt=2)
    image(5).save(tmp_path / "00000/samples/0000.jpg")
    image(5).save(tmp_path / "00000/samples/0.png")
    found = read(tmp_path)
    assert [p.name for p in found.pictures] == ["00000/samples/0001.png"]
    names = {f"00000/samples/{name}" for name in ("0.png", "0000.jpg", "0000.png")}
    assert dict(found.broken) == dict.fromkeys(names, "is one of several files of sample 0, expected one")


def test_an_image_of_a_blank_prompt_is_broken(tmp_path):
    write_official(tmp_path, [CUP, DOG | {"prompt": " "}], per_prompt=1)
    assert read(tmp_path).broken == [("00001/samples/0000.png", "its prompt is blank")]
    image(4).save(tmp_path / "a.png")
    (tmp_path / "map.json").write_text(json.dumps({"": "a.png", "a dog": "a.png"}))
    assert read(tmp_path / "map.json").broken == [("a.png", "its prompt is blank")]


def test_a_row_beyond_the_array_is_one_broken_image(tmp_path):
    write_ours(tmp_path / "set")
    np.save(tmp_path / "set" / "images.npy", np.asarray(image(0))[None])
    found = read(tmp_path / "set")
    assert len(found.pictures) == 2 and found.broken[0][0] == "images.npy[1]"


def test_nothing_to_judge_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no images in a known layout"):
        read(tmp_path)
    (tmp_path / "map.json").write_text("{}")
    with pytest.raises(UserError, match="map.json: is empty"):
        read(tmp_path / "map.json")
