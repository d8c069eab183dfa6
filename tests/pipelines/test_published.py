"""Published lines, as a study in instalments meets them: training, sampling and judging are faked with made-up numbers
that depend on settings and inputs alone; tables, figures and the gallery are real."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pipelines.test_workflow import make_checkout, plan

FAKE = """
import hashlib, json, os, random, sys
from pathlib import Path
from unigrpo.core import files
from unigrpo.study import provenance, resolve, standing

words = sys.argv[1:]
REAL = ("collect", "table", "figure", "gallery", "claims", "index", "publish", "ship", "reproduce", "run")
if {words[0], *words[4:5]} & {*REAL}:
    from unigrpo.front import main
    main()
record, about, (verb, *words) = Path(words[1]), json.loads(words[3]), words[4:]
word = lambda key: words[words.index(key) + 1]
settings = about.get("settings") or standing.settings_of(record.stem, resolve.chosen_study("smoke"))
given = [os.environ["MACHINE"], settings, [standing.content(path) for path in about["inputs"]]]
draw = random.Random(hashlib.sha256(json.dumps(given).encode()).hexdigest())
out = Path(word("--out"))

def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\\n" for row in rows))

def train():
    cfg = resolve.chosen_run(word("--scale"), word("--run"), int(word("--seed")), None)[1]
    if cfg.run == "unigrpo":
        import unigrpo.world.render
    number = {"proxy": draw.random(), "gold": draw.random(), "strict": 0.5, "artefact": draw.random()}
    kinds = ("validation", "train", "train", "validation") * (cfg.stage == "rl")
    rows = [{"kind": kind, "update": i, "images": 9 * i} | number for i, kind in enumerate(kinds)]
    write(out / "metrics.jsonl", *rows)
    for i in (0, 3):
        image = {"prompt_id": "val/0", "tag": "counting", "sample": 0} | number
        write(out / f"validation/{i:06d}.jsonl", image, image | {"sample": 1})
    for name in ("model.safetensors", "model.json", "tokenizer/t"):
        write(out / name, draw.random())
    facts = {"device": "cpu", "wall_seconds": 9, "images": 9, "model_evaluations": 99, "collapsed": False}
    files.write_json(out / "run.json", provenance.record(cfg, **facts))

def sample():
    import numpy as np
    from unigrpo.world.prompts import prompt_set
    for mode in [each for key, each in zip(words, words[1:]) if key == "--mode"]:
        for benchmark in ("ta", "geneval"):
            for guidance in ("tuned", "unguided"):
                place = out / f"{benchmark}.{mode}.{guidance}"
                prompts = prompt_set(f"{benchmark}_eval")[::9]
                rows = [{"index": i, "prompt_id": p.id, "prompt": p.text, "tag": p.tag, "meta": p.meta, "sample": 0,
                    "seed": 0, "trace": None} for i, p in enumerate(prompts)]
                named = {"benchmark": benchmark, "version": "1", "mode": mode, "guidance_name": guidance}
                write(place / "protocol.json", named)
                write(place / "manifest.jsonl", *rows)
                np.save(place / "images.npy", np.full((len(rows), 16, 16, 3), draw.randrange(255), np.uint8))
    write(out / "done.json", {"checkpoint": draw.random()})

def score():
    rows = []
    for path in sorted(Path(word("--samples")).glob("*/manifest.jsonl")):
        protocol = json.loads(path.with_name("protocol.json").read_text())
        for line in path.read_text().splitlines():
            row = json.loads(line) | protocol | {"guidance": protocol["guidance_name"], "reason": ""}
            metrics = ("ta", "official", "strict", "gold", "second")
            rows.append(row | {"metrics": {metric: float(draw.random() < 0.5) for metric in metrics}})
    write(out, *rows)

def learn():
    write(out / "run.json", {"auc": 0.5})
    write(out / "model.json", {})
    write(out / "model.safetensors", draw.random())
    write(out / "report.json", {"auc": {"overall": 0.5}, "steps": 9})

def others():
    write(out, {"chosen": draw.random()}) if verb == "tune" else write(out / "manifest.jsonl", draw.random())
    write(out / "images.npy", draw.random()) if verb == "reward-data" else None

with provenance.recorded(record, verb, standing.begun(record, **about)):
    {"train": train, "sample-sets": sample, "score": score, "train-reward": learn}.get(verb, others)()
"""

CATALOGUE = """
defaults: {method: grpo, regulariser: none, reward: learned}
benchmarks:
  ta: {label: TA, prompts: ta_eval, judge: exam_points, least_prompts: 40}
  geneval: {label: GenEval, prompts: geneval_eval, judge: official, also: {strict: strict, gold: gold}}
runs:
  base: {evaluate: [no]}
  sft: {init: base, evaluate: [no, yes]}
  unigrpo: {init: sft, train: [text, image], evaluate: [yes]}
  text_grpo: {init: sft, train: [text], evaluate: [yes]}
tables:
  main: {kind: main, rows: [[sft, yes], [unigrpo, yes], [text_grpo, yes]]}
  cost: {kind: training_cost, runs: [unigrpo, text_grpo]}
figures:
  curves: {kind: curves, runs: [unigrpo, text_grpo]}
  grid: {kind: grid, runs: [sft, unigrpo]}
  sheets: {kind: sheets, default: false, runs: [unigrpo]}
claims:
  C1: {claim: RL gains, check: gains, benchmarks: [ta], pairs: [[[unigrpo, yes], [sft, yes]]], why: so it was made}
"""
USE = ("--config", "scale=smoke", "published=use")
REPORT = {"collect": 1, "table": 2, "figure": 2, "gallery": 1, "claims": 1, "index": 1, "all": 1}
PARENTS = {"pretrain": 1, "sft": 1, "tune": 1, "reward_data": 1, "learned_reward": 1}  # whose weights are not published


def call(folder: Path, *words: str, fails: bool = False, **variables: str) -> str:
    """What a command in a checkout says, errors too."""
    environment = os.environ | {"PYTHONPATH": str(folder / "src"), "MACHINE": ""} | variables
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environment, timeout=300, **pipes)
    assert (done.returncode != 0) == fails, done.stdout
    return done.stdout


def make(folder: Path, *words: str, target: str = "all", **variables: str) -> str:
    return call(folder, "snakemake", target, "--cores", "2", "--config", "scale=smoke", *words, **variables)


def misfits(folder: Path) -> list[str]:
    """The published lines that do not fit, each with what it says, by a dry run that uses them."""
    said = call(folder, "snakemake", "-n", "--config", "scale=smoke", "published=use")
    return [line.removeprefix("published line ") for line in said.splitlines() if line.startswith("published line ")]


def publish(folder: Path, *words: str, fails: bool = False) -> list[str]:
    return call(folder, "unigrpo", "publish", "--scale", "smoke", *words, fails=fails).splitlines()


def published(folder: Path) -> Path:
    return folder / "results/reference/smoke/published"


def reported(folder: Path) -> dict[str, bytes]:
    """The data of all tables, of the figures without pictures, and of the claims."""
    paths = [path for path in (folder / "results/smoke").glob("**/*.csv") if path.name != "grid.csv"]
    return {path.name: path.read_bytes() for path in paths}


def clone(folder: Path, place: Path, leave_out: str = "") -> Path:
    """The checkout with what is published, but for a run, and without results."""
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns(".snakemake", "smoke"))
    shutil.copytree(published(folder), published(place), ignore=shutil.ignore_patterns(f"{leave_out}.*"))
    return place


@contextmanager
def edited(path: Path, old: str, new: str) -> Iterator[None]:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    yield
    path.write_text(text)


@pytest.fixture(scope="module")
def study(root, tmp_path_factory):
    """A finished and published study."""
    folder = make_checkout(root, tmp_path_factory.mktemp("study") / "checkout")
    (folder / "pipelines/experiments.yaml").write_text(CATALOGUE)
    (folder / "src/unigrpo/__main__.py").write_text(FAKE)
    shutil.copy(root / "results/reference/paper.csv", folder / "results/reference")
    make(folder)
    names = ("start.seed0", "base.seed0", "sft.seed0", "unigrpo.seed0", "text_grpo.seed0")
    assert publish(folder) == [f"{name}: published" for name in names]
    return folder


@pytest.fixture(scope="module")
def used(study, tmp_path_factory):
    """A fresh clone that has made everything from published lines."""
    folder = clone(study, tmp_path_factory.mktemp("used") / "clone")
    assert "to train: nothing; up to date: 0; published lines: 4" in make(folder, "published=use")
    return folder


@pytest.mark.slow
def test_published_lines_make_the_same_tables_without_weights_or_pictures(study, used):
    assert reported(used) == reported(study)
    results = used / "results/smoke"
    assert not [*results.glob("runs/**/model.safetensors"), *results.glob("runs/**/images.npy")]
    assert "3 of 3 runs, seeds counted, are published lines" in (results / "tables/main.md").read_text()
    assert "Published without pictures: base, sft" in (results / "gallery.html").read_text()
    assert (results / "figures/grid.csv").read_text().count("\n") == 1
    call(used, "unigrpo", "figure", "sheets", "--scale", "smoke")
    assert (results / "figures/sheets.csv").read_text().count("\n") == 1
    assert plan(used, *USE) == {"index": 1, "all": 1}  # the front page names the figure that was made by hand


@pytest.mark.slow
def test_a_call_that_does_not_ask_for_published_lines_trains(used):
    trained = {"pretrain": 1, "sft": 1, "train": 2, "sample": 4, "score": 4}
    assert plan(used, "--config", "scale=smoke") == PARENTS | trained | REPORT


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "name, old, new, cause",
    [
        ("pipelines/experiments.yaml", "[text, image]", "[text, image], noise_level: 0.7", "rl.noise_level"),
        ("src/unigrpo/world/render.py", "\n\n\ndef ", "\n\n\nEDITED = 1\n\n\ndef ", "code: render"),
    ],
)
def test_a_line_of_another_setting_or_code_is_named_and_its_run_is_trained(study, tmp_path, name, old, new, cause):
    folder = clone(study, tmp_path / "clone")
    with edited(folder / name, old, new):
        assert misfits(folder) == [f"unigrpo.seed0 does not fit: train.unigrpo.0: {cause}"]
        assert plan(folder, *USE) == PARENTS | {"train": 1, "sample": 1, "score": 1} | REPORT


@pytest.mark.slow
@pytest.mark.long
def test_parents_are_trained_for_their_weights_and_other_weights_are_noticed(study, tmp_path):
    """On a machine that rounds alike what they make is the same, and the other lines still count."""
    folder = clone(study, tmp_path / "clone", leave_out="unigrpo.seed0")
    other = clone(folder, tmp_path / "other")
    make(folder, "published=use")
    assert reported(folder) == reported(study) and misfits(folder) == []
    make(other, "published=use", "run=unigrpo", target="one_run", MACHINE="another")
    assert "start.seed0.json: is published with other content; --replace" in publish(other, fails=True)[0]
    (found,) = misfits(other)
    sft = "results/smoke/runs/sft/seed0/model.safetensors"
    assert found.startswith(f"text_grpo.seed0 does not fit: train.text_grpo.0: input {sft}, ")


@pytest.mark.slow
@pytest.mark.long
def test_a_run_that_is_not_published_starts_from_shipped_starts_beside_published_lines(study, tmp_path):
    """Its parents are neither trained nor judged, whatever call came before."""
    whole = tmp_path / "whole"
    shutil.copytree(study, whole)
    call(whole, "unigrpo", "ship", "--scale", "smoke")
    folder = clone(whole, tmp_path / "clone", leave_out="unigrpo.seed0")
    assert not {*PARENTS} & {*plan(folder, "--config", "scale=smoke")}
    left = {"train": 1, "sample": 1, "score": 1} | REPORT
    assert plan(folder, *USE) == plan(folder, *USE) == left and misfits(folder) == []
    with edited(folder / "src/unigrpo/training/supervised_run.py", "\n\n\ndef ", "\n\n\nEDITED = 1\n\n\ndef "):
        assert plan(folder, *USE) == left


@pytest.mark.slow
@pytest.mark.long
def test_halves_of_two_machines_are_merged_by_git(study, tmp_path):
    """The first call publishes what runs share; each machine adds its run."""
    first = clone(study, tmp_path / "first")
    git = lambda *words: subprocess.run(["git", *words], cwd=first, check=True, capture_output=True)  # noqa: E731
    git("init", "--initial-branch", "main")
    git("config", "user.name", "a")
    git("config", "user.email", "a@b")
    for run in ("unigrpo", "text_grpo"):
        for path in published(first).glob(f"{run}.*"):
            path.unlink()
    git("add", "results")
    git("commit", "--message", "shared")
    for run in ("unigrpo", "text_grpo"):
        git("checkout", "-b", run, "main")
        shutil.copytree(study / "results/smoke", first / "results/smoke")
        assert publish(first, run) == [
            "start.seed0: published before",
            f"{run}.seed0: published",
        ]
        git("add", "results/reference")
        git("commit", "--message", run)
        shutil.rmtree(first / "results/smoke")
    git("merge", "unigrpo")
    make(first, "published=use")
    assert reported(first) == reported(study)


@pytest.mark.slow
def test_publishing_again_writes_the_same_bytes_and_nothing_that_has_changed(study):
    lines = {path.name: path.read_bytes() for path in published(study).iterdir()}
    publish(study, "--replace")
    assert {path.name: path.read_bytes() for path in published(study).iterdir()} == lines
    assert "unigrpo.seed0: published before" in publish(study, "unigrpo")
    with edited(study / "pipelines/experiments.yaml", "[text, image]", "[text, image], noise_level: 0.7"):
        assert publish(study, "unigrpo")[-1] == "unigrpo.seed0: not published, train.unigrpo.0: rl.noise_level"
    with edited(study / "results/smoke/runs/unigrpo/seed0/scores.jsonl", "0.0", "1.0"):
        changed = "score.unigrpo.0: its outputs differ from its record"
        assert publish(study, "unigrpo")[-1] == f"unigrpo.seed0: not published, {changed}"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "end, damage",
    [
        ("json", lambda content: content[:-9]),
        ("json", lambda content: content.replace(b'"images": 9', b'"images": 8', 1)),
        ("xz", lambda content: content[:-9]),
        ("xz", lambda content: content[:99] + b"?" + content[100:]),
    ],
)
def test_a_damaged_line_is_refused_by_name(study, tmp_path, end, damage):
    folder = clone(study, tmp_path / "clone")
    path = published(folder) / f"unigrpo.seed0.{end}"
    path.write_bytes(damage(path.read_bytes()))
    said = call(folder, "snakemake", "-n", "--config", "scale=smoke", "published=use", fails=True)
    assert f"error: {path.relative_to(folder)}" in said and "Traceback" not in said
