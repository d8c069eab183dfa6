"""The sampler for people: a trace on the terminal, a picture in a file, or one message."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests._support import tiny
from tests._support.command import unigrpo
from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.sampling.engine import Decoding, sample
from unigrpo.study.config import SamplingConfig
from unigrpo.tools.api import GAP

TEXT = "a photo of a red circle left of a blue square"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.model().save(folder, {})
    return folder


@pytest.fixture
def run(model, capsys):
    """Call the command; returns what it prints, line by line."""

    def call(out, *arguments, prompt=TEXT, folder=model):
        asked = [] if "--prompts" in arguments else [prompt]
        unigrpo(
            shlex.join(
                ["sample", str(folder), *asked, "--out", str(out), "--steps", "4", "--max-tokens", "24", *arguments]
            )
        )
        return capsys.readouterr().out.splitlines()

    return call


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_it_prints_the_trace_and_paints_what_the_sampler_paints(run, tmp_path):
    out = tmp_path / "new" / "x.png"
    lines = run(out, "--seed", "5", "--guidance", "2", "--temperature", "0.7", "--enlarge", "1")
    jobs, settings = [(Prompt("prompt", TEXT, "custom", {}), 0)], SamplingConfig(steps=4)
    expected = sample(tiny.model(), jobs, settings, Decoding(True, 2.0, 0.7), 5)
    assert lines == [*expected.traces, f"wrote {out}"]
    assert np.array_equal(read(out), expected.images[0])
    assert [p.name for p in out.parent.iterdir()] == ["x.png"]


def test_a_file_of_prompts_makes_one_image_each(run, tmp_path):
    texts = [TEXT, "a photo of two hearts", "a photo of a star"]
    file, out = tmp_path / "prompts.jsonl", tmp_path / "x.png"
    file.write_text("".join(f'{{"prompt": "{text}"}}\n' for text in texts))
    lines = run(out, "--prompts", str(file), "--enlarge", "1")
    assert [line.split(":")[0] for line in lines[:-1]] == texts
    assert read(out).shape == (2 * 48 + GAP, 2 * 48 + GAP, 3)
    file.write_text('{"prompt": "a photo of a star"}\n{"prompt": " "}\n')
    with pytest.raises(UserError, match="line 2: expected .*non-empty"):
        run(out, "--prompts", str(file))


def test_the_seed_decides_and_thinking_can_be_left_out(run, tmp_path):
    a, b, c, d = (tmp_path / f"{name}.png" for name in "abcd")
    assert run(a, "--seed", "1")[:-1] == run(b, "--seed", "1")[:-1]
    run(c, "--seed", "2")
    assert run(d, "--seed", "1", "--no-thinking") == [f"wrote {d}"]
    assert a.read_bytes() == b.read_bytes() and not np.array_equal(read(a), read(c))


def test_a_grid_holds_distinct_samples(run, tmp_path):
    lines = run(tmp_path / "x.png", "--grid", "2", "--enlarge", "1")
    sheet, side = read(tmp_path / "x.png"), 48 + GAP
    assert len(lines) == 5 and sheet.shape == (98, 98, 3)
    parts = [sheet[r : r + 48, c : c + 48] for r in (0, side) for c in (0, side)]
    assert all(not np.array_equal(parts[i], parts[j]) for i in range(4) for j in range(i))
    assert (sheet[48:side] == 255).all() and (sheet[:, 48:side] == 255).all()


@pytest.mark.parametrize("ending, kind", [("jpg", "JPEG"), ("WEBP", "WEBP"), ("bmp", "BMP")])
def test_the_ending_chooses_the_format(run, tmp_path, ending, kind):
    run(tmp_path / f"x.{ending}")
    with Image.open(tmp_path / f"x.{ending}") as picture:
        assert picture.format == kind and picture.size == (48 * 8, 48 * 8)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("x", {}, r"--out .*x: expected the ending of a picture format, such as .png"),
        ("x.txt", {}, "expected the ending of a picture format"),
        ("x.psd", {}, "expected the ending of a picture format"),  # can be read, but not written
        ("x.xbm", {}, "expected the ending of a picture format"),  # has no colours
        ("x.png", {"--guidance": "0.5"}, "guidance: expected at least 1, got 0.5"),
        ("x.png", {"--guidance": "nan"}, "guidance: expected at least 1, got nan"),
        ("x.png", {"--temperature": "inf"}, "temperature: expected at least 0, got inf"),
        ("x.png", {"--steps": "1"}, "steps: expected at least 2, got 1"),
        ("x.png", {"--grid": "0"}, "Invalid value for '--grid'"),
        ("x.png", {"--seed": "-1"}, "seed: expected at least 0, got -1"),
        ("x.png", {"--prompts": "a.jsonl", "prompt": "b"}, "expected either a prompt or --prompts"),
        ("x.png", {"prompt": ""}, "prompt: expected some words, got an empty text"),
        ("x.png", {"prompt": "a photo of a dog"}, "the word 'dog' is not in this model's vocabulary"),
        ("x.png", {"folder": "nowhere"}, "nowhere"),
    ],
)
def test_bad_input_is_one_message_and_no_picture(run, tmp_path, name, arguments, message):
    named = {key: value for key, value in arguments.items() if not key.startswith("--")}
    options = [word for key, value in arguments.items() if key.startswith("--") for word in (key, value)]
    if "--prompts" in arguments:
        options.append(named.pop("prompt"))
    with pytest.raises(UserError, match=message):
        run(tmp_path / name, *options, **named)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_process_ends_with_the_message_alone(root, model, tmp_path):
    words = ["sample", model, "two dogs", "--out", tmp_path / "x.png"]
    process = subprocess.run(
        [sys.executable, "-m", "unigrpo", *map(str, words)],
        env=os.environ | {"PYTHONPATH": f"{root / 'src'}:{root}"},
        capture_output=True,
        text=True,
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == "error: prompt 'two dogs': the word 'dogs' is not in this model's vocabulary\n"
    assert not list(tmp_path.iterdir())
