"""The text benchmark: rapidocr's own models on rendered words, through the command; its prompt file."""

import json

import pytest
from PIL import Image, ImageDraw, ImageFont

from tests._support.rows import verdict
from unigrpo.__main__ import call
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json, read_jsonl

SHOWN = {'a sign that says "Open"': "OPEN", 'a sign that says "Closed"': "CLOSER", 'the word "kiwi"': ""}


def write_pictures(folder, shown=SHOWN):
    """A JSON file {prompt: image} of words on white."""
    folder.mkdir()
    paths = {}
    for number, (prompt, text) in enumerate(shown.items()):
        picture = Image.new("RGB", (200, 64), "white")
        ImageDraw.Draw(picture).text((12, 12), text, fill="black", font=ImageFont.load_default(36))
        paths[prompt] = str(folder / f"{number}.png")
        picture.save(paths[prompt])
    (folder / "images.json").write_text(json.dumps(paths))
    return folder / "images.json"


def judged(source, out, *options):
    code = call(["judge", "text", "--images", str(source), "--out", str(out), "--detection-side", "160", *options])
    if code:
        raise SystemExit(code)
    return [row for _, row in read_jsonl(out / "images.jsonl")], read_json(out / "summary.json")


def test_words_are_read_and_compared(tmp_path, capsys):
    rows, summary = judged(write_pictures(tmp_path / "d"), tmp_path / "out")
    assert [row["read"].upper() for row in rows] == ["OPEN", "CLOSER", ""]
    assert [verdict(row) for row in rows] == [
        {"similar": 1.0, "exact": 1.0}, {"similar": pytest.approx(5 / 6), "exact": 0.0}, {"similar": 0.0, "exact": 0.0},
    ]  # fmt: skip
    assert rows[0]["reason"] == "" and rows[1]["reason"] == "asked 'Closed', read 'CLOSER'"
    assert summary["similar"] == pytest.approx(11 / 18) and summary["exact"] == pytest.approx(1 / 3)
    assert summary["version"].startswith("text-2 rapidocr-") and summary["version"].endswith(":160")
    assert "similar: 0.6111; exact: 33.33%" in capsys.readouterr().out


def test_prompts_of_a_file_are_part_of_the_version(tmp_path):
    source, prompts = write_pictures(tmp_path / "d"), tmp_path / "p.txt"
    prompts.write_text("\n".join([*list(SHOWN)[:2], ""]))
    with pytest.raises(SystemExit) as end:
        judged(source, tmp_path / "out", "--prompts", str(prompts))
    assert end.value.code == 1
    (failed,) = [row for _, row in read_jsonl(tmp_path / "out/failed.jsonl")]
    assert "is not in" in failed["problem"]
    summary = read_json(tmp_path / "out/summary.json")
    assert (summary["images"], summary["failed"]) == (2, 1) and " prompts:" in summary["version"]
    prompts.write_text("\n")
    with pytest.raises(UserError, match="has no prompt, expected one a line"):
        judged(source, tmp_path / "again", "--prompts", str(prompts))
    prompts.write_text('a sign "A"\na sign "\0"\n')
    with pytest.raises(UserError, match="p.txt: expected a text of whole characters, found NUL"):
        judged(source, tmp_path / "again", "--prompts", str(prompts))


def test_a_prompt_without_a_text_is_that_image_s_failure(tmp_path):
    with pytest.raises(SystemExit):
        judged(write_pictures(tmp_path / "d", {"a dog": "DOG", 'it says "no"': "NO"}), tmp_path / "out")
    (failed,) = [row for _, row in read_jsonl(tmp_path / "out/failed.jsonl")]
    assert "expected a text to render, in quotation marks" in failed["problem"]
