"""Every reader against files that are not what they should be: it gives a value, or one line that names the file.

A valid file is changed in a drawn way, or is noise: cut, spliced, re-encoded; keys dropped, doubled, renamed; values
swapped with odd ones. Nothing else may be raised, and nothing be written.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from evals.benchmarks import dpg
from evals.instruments import exams, picture_files
from evals.run import score_folder
from tests._support import study as study_support
from tests._support import tiny
from tests._support.study import write_jsonl
from unigrpo.core.errors import UserError
from unigrpo.core.tensor_files import read_tensors
from unigrpo.judges import reward as rewards
from unigrpo.models import checkpoint
from unigrpo.report.data import logs, phrases, results, rows
from unigrpo.report.data.samples import read_samples
from unigrpo.sampling import sample_folder
from unigrpo.sampling.engine import read_decoding
from unigrpo.study import published, resolve, standing
from unigrpo.study.config import load
from unigrpo.study.facts import REWARDS
from unigrpo.study.training_inputs import read_pool
from unigrpo.tools.describe import checkpoint as described
from unigrpo.training import state
from unigrpo.training.metrics_log import MetricsLog
from unigrpo.world.prompts import read_prompts

EXAMPLES = 80  # of each reader; a slow one says how many
RUN, SEED = "cpu/runs/a", "cpu/runs/a/seed0"
SAMPLES = f"{SEED}/samples/ta.think.tuned"
ROW = results.Row("a", "yes", "tuned")


class Reader(NamedTuple):
    """What reads ``path``, in the folder that it is called with; ``names``: of the file in its messages."""

    path: str
    read: Callable[[Path], object]
    examples: int = EXAMPLES
    names: tuple[str, ...] = ()


def scored(folder):
    scores = results.Scores(folder / "cpu/scores.csv")
    return [scores.cells(ROW, benchmark, metric) for benchmark in ("ta", "geneval") for metric in ("ta", "official")]


def collected(folder):
    out = folder / "new.csv"
    results.collect([f"a={folder / SEED}"], out)
    out.unlink()


def shown(folder):
    found = results.Folder(folder / "cpu", chosen=["ta"])
    return read_samples(found, "a", "think", "tuned"), found.protocols("a", "think", "tuned")


def recorded(folder):
    found = results.Folder(folder / "cpu")
    logs.fate("a", found), logs.fallen("a", found), found.label("a"), phrases.fates(["a"], found)
    phrases.scale_of(["a"], found)
    if found.config("a").get("stage") == "rl":
        logs.anchor(found.config("a"))
    return results.Sources(None, None, found).cost("a")


def resumed(folder):
    now = state.Identity.of(json.loads((folder / "start/rl.json").read_text()), {})
    return state.standing(folder / SEED, now, 3, keep_code=True)


def logged(folder):
    found = results.Folder(folder / "cpu")
    logs.curve_data(["a"], found), logs.ends("a", "proxy", found), logs.validated("a", "gold", found)
    return MetricsLog(None, "rollout", 0).path or rows.read_course(folder / SEED / "metrics.jsonl")


def continued(folder):
    path = folder / SEED / "metrics.jsonl"
    before = path.read_bytes() if path.is_file() else None
    try:
        MetricsLog(path, "rollout", 2)
    except UserError:
        assert before == (path.read_bytes() if path.is_file() else None)
        raise


def finished(folder):
    score_folder(folder / SEED / "done", [], folder / "new")
    (folder / "new").unlink()


def stepped(folder):
    record = folder / "cpu/steps/train.a.0.jsonl"
    made = standing.read(record)
    standing.damaged(folder / "cpu"), standing.lengthened(record, {standing.LENGTH: 9}, [standing.LENGTH])
    return made and standing.reasons(record, "out", {}), standing.codes_of(folder / "cpu", "a", 0)


def checked_prompts(folder):
    judges = {name: REWARDS.load(name).FACTS for name in ("verifier", "learned")}
    return read_pool(folder / "prompts.jsonl", judges, closed_vocabulary=True)


def opened(path):
    found = picture_files.read(path)
    return [picture.open() for picture in found.pictures]


def composed(folder):
    study = resolve.load_study(folder / "runs.yaml", folder / "scales", {"scale": "cpu"})
    return [study.config(run, 0) for run in study.runs()]


def with_reward(folder):
    return rewards.named("vlm_yes=" + (folder / "options.json").read_text(errors="surrogateescape"))


READERS = {
    "prompts": Reader("prompts.jsonl", lambda f: read_prompts(f / "prompts.jsonl")),
    "training pool": Reader("prompts.jsonl", checked_prompts),
    "manifest": Reader(f"{SAMPLES}/manifest.jsonl", lambda f: sample_folder.read(f / SAMPLES), names=("images.npy",)),
    "protocol": Reader(f"{SAMPLES}/protocol.json", lambda f: sample_folder.read(f / SAMPLES)),
    "images.npy": Reader(f"{SAMPLES}/images.npy", lambda f: sample_folder.read(f / SAMPLES)),
    "done": Reader(f"{SEED}/done/done.json", finished, names=("done",)),
    "collect": Reader(f"{SEED}/scores.jsonl", collected),
    "gallery": Reader(f"{SEED}/scores.jsonl", shown),
    "gallery's protocol": Reader(f"{SAMPLES}/protocol.json", shown),
    "scores": Reader("cpu/scores.csv", scored, 120),
    "paper": Reader("cpu/paper.csv", lambda f: results.Paper(f / "cpu/paper.csv"), 120),
    "curves": Reader(f"{SEED}/metrics.jsonl", logged),
    "resumed record": Reader(f"{SEED}/metrics.jsonl", continued),
    "validation": Reader(
        f"{SEED}/validation/000020.jsonl", lambda f: logs.course("a", results.Folder(f / "cpu")), names=("runs/a",)
    ),
    "run.json": Reader(f"{SEED}/run.json", recorded, 160, names=("its configuration",)),
    "run.json, resumed": Reader(f"{SEED}/run.json", resumed),
    "report.json": Reader(
        "cpu/starts/seed0/reward/report.json", lambda f: phrases._held_out("reward", results.Folder(f / "cpu"))
    ),
    "decoding.json": Reader("start/decoding.json", lambda f: read_decoding(f / "start/decoding.json")),
    "configuration": Reader("start/rl.json", lambda f: load(f / "start/rl.json")),
    "step": Reader("cpu/steps/train.a.0.jsonl", stepped),
    "published line": Reader("lines/a.seed0.json", lambda f: published._unpack(f / "lines/a.seed0.json")),
    "packed line": Reader(
        "lines/a.seed0.xz", lambda f: published._unpack(f / "lines/a.seed0.json"), names=("a.seed0.json",)
    ),
    "model.json": Reader("start/init/model.json", lambda f: checkpoint.load_model(f / "start/init"), 30, ("init",)),
    "description": Reader("start/init/model.json", lambda f: described(f / "start/init"), 60, ("init",)),
    "safetensors": Reader("start/init/model.safetensors", lambda f: read_tensors(f / "start/init/model.safetensors")),
    "learned reward": Reader(
        "start/reward/model.json",
        lambda f: rewards.load("learned", path=str(f / "start/reward"), device="cpu"),
        40,
        ("model.safetensors",),
    ),
    "state": Reader("state/state.safetensors", lambda f: state.load_state(f / "state")),
    "exams": Reader("exams.jsonl", lambda f: exams.read_exams(f / "exams.jsonl")),
    "dpg": Reader("dpg.csv", lambda f: dpg.read_graphs(f / "dpg.csv")),
    "GenEval's metadata": Reader("geneval/00000/metadata.jsonl", lambda f: opened(f / "geneval")),
    "map of images": Reader("geneval/map.json", lambda f: opened(f / "geneval/map.json"), names=("geneval",)),
    "sampled images": Reader(f"{SAMPLES}/manifest.jsonl", lambda f: opened(f / SAMPLES), names=("ta.think",)),
    "catalogue": Reader("runs.yaml", composed, 30, names=("cpu.yaml",)),
    "scale": Reader("scales/cpu.yaml", composed, 30, names=("runs.yaml", "scale=cpu")),
    "options of a reward": Reader("options.json", with_reward, names=("--reward vlm_yes",)),
}
assert sum(reader.examples for reader in READERS.values()) >= 2000

VALIDATION = [
    {"prompt_id": f"p{i}", "tag": "t", "sample": 0, "gold": 0.5, "strict": 0.0, "artefact": 0.1, "proxy": i / 9}
    for i in range(3)
]
PROMPTS = [
    {"prompt": "a photo of a red circle", "id": "p", "tag": "t", "include": [{"class": "circle", "count": 1}]},
    {"prompt": "a photo of a ring left of a star", "include": [{"class": "star", "count": 1}]},
]
PROMPTS[1]["include"].append({"class": "ring", "count": 1, "color": "red", "position": ["left of", 0]})
EXAMS = {"prompt": "a cat", "vqa_list": [["Is there a cat?", "yes"], ["How many?", "one"]], "skills": ["a", "b"]}
DPG = "item_id,text,proposition_id,dependency,category_broad,question_natural_language\n"
DPG += '1,"a cat, and a dog",1,0,entity,Is there a cat?\n1,"a cat, and a dog",2,"1,0",entity,Is there a dog?\n'
CATALOGUE = """
defaults: {method: grpo, regulariser: velocity_mse, reward: learned}
runs:
  base: {label: Base, evaluate: [no, yes]}
  sft: {init: base, evaluate: [no, yes]}
  joint: {label: Joint, init: sft, train: [text, image], evaluate: [yes]}
benchmarks:
  held_out: {prompts: geneval_eval, judge: official, images: 2, also: {gold: gold}}
tables:
  main: {kind: main, rows: [[sft, no], [joint, yes]]}
"""
SCALE = """
seeds: 2
threads: 2
backbone: world
device: cpu
model: {hidden_size: 64}
base: {steps: 50}
sft: {steps: 20, lr: 1e-4}
sampling: {steps: 8}
rl: {steps: 8, lr_text: 2e-4, group_size: 4, window_range: [0, 4]}
reward: {steps: 9}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, start):
    """A valid file for each reader."""
    root = tmp_path_factory.mktemp("readers")
    shutil.copytree(start, root / "start")
    study_support.write_study(root / "cpu", {"a": (0.5, 1)}, updates=4, prompts=1)
    seed = root / SEED
    for number in (0, 20):
        write_jsonl(seed / f"validation/{number:06d}.jsonl", VALIDATION)
    config = json.loads((root / "start/rl.json").read_text())
    record = {"run": "a", "seed": 0, "collapsed": True, "collapse": "x", "not_trained": None, "ema": False, "images": 8}
    record |= {"model_evaluations": 9, "wall_seconds": 1.5, "inputs": {}, "weights": "w", "dropped_groups": 1}
    record |= {"pieces": [{"from": 0, "code": {"m": "h"}}], "config": config}
    (seed / "run.json").write_text(json.dumps(record))
    (seed / "done").mkdir()
    (seed / "done/done.json").write_text(json.dumps({"sets": [], "digests": {"a": None}}))
    (root / "cpu/starts/seed0/reward").mkdir(parents=True)
    within = {"auc": 0.5, "lo": None, "hi": None, "prompts": 1}
    report = {"steps": 9, "within_prompts": {"overall": within}}
    (root / "cpu/starts/seed0/reward/report.json").write_text(json.dumps(report))
    made = {"settings": {"rl.rollouts": 3}, "inputs": {"x": None}, "outputs": {"results/cpu/y": "d"}, "versions": {}}
    write_jsonl(
        root / "cpu/steps/train.a.0.jsonl",
        [{"step": "train", "seconds": 1.5, "cpu_seconds": 1.5, "max_rss_mb": 9.0, "made": made | {"code": {"m": "h"}}}],
    )
    line, packed = published._pack({"runs/a/seed0/run.json": json.dumps(record), "scores.jsonl": "{}\n"})
    (root / "lines").mkdir()
    (root / "lines/a.seed0.json").write_text(line)
    (root / "lines/a.seed0.xz").write_bytes(packed)
    notes = state.Notes(1, 3, {"a": 1}, {}, [], False, {"images": 3})
    state.save_state(root / "state", {"w": tiny.torch.ones(3)}, notes)
    write_jsonl(root / "prompts.jsonl", PROMPTS)
    write_jsonl(root / "exams.jsonl", [EXAMS, EXAMS | {"prompt": "a dog", "atom_count": 3}])
    (root / "dpg.csv").write_text(DPG)
    (root / "geneval/00000/samples").mkdir(parents=True)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(root / "geneval/00000/samples/0000.png")
    write_jsonl(root / "geneval/00000/metadata.jsonl", [PROMPTS[0]])
    (root / "geneval/map.json").write_text(json.dumps({"a cat": "00000/samples/0000.png"}))
    (root / "runs.yaml").write_text(CATALOGUE)
    (root / "scales").mkdir()
    (root / "scales/cpu.yaml").write_text(SCALE)
    (root / "options.json").write_text(json.dumps({"question": "Is it {prompt}?", "revision": None}))
    return root


# ------------------------------------------------------------------------------------------ changes

ODD = [  # values, as JSON and YAML spell them
    *("null", "true", "-1", "0", "2", "70", "0.5", "1e999", "NaN", "-Infinity", ".inf", "1e308", "1" + "0" * 25),
    *("9" * 4301, "9" * 400, '""', '"1"', '"\\u0000"', '"\\ud800"', '"a\\nb"', '"../../x"', '"é"', "[]", "{}", "[1]"),
    *('{"a": 1}', '{"a": 1, "a": 2}', "[" * 30 + "]" * 30, "[" * 3000 + "]" * 3000, "0x" + "f" * 4000, "nonsense"),
    *('"' + "x" * 5000 + '"', "[null]", '[["x", "y"]]', '[{"class": 3}]', "-0", "1.0", "&a [*a]", "!!python/name:os"),
]
BYTES = [
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\n\n",
    b'"',
    b",",
    b"{",
    b"}",
    b"]",
    b"\xed\xa0\x80",
    b"9" * 50,
]
MARK = "\ue000"


def places(node: object, path: tuple = ()) -> list[tuple]:
    """The paths of all values of a JSON document."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path] * bool(path) + [place for key, value in inner for place in places(value, (*path, key))]


def changed_json(draw, text: str) -> str:
    document = json.loads(text)
    *outer, key = draw(st.sampled_from(places(document)))
    parent = document
    for step in outer:
        parent = parent[step]
    odd, way = draw(st.sampled_from(ODD)), draw(st.sampled_from(["swap", "swap", "swap", "drop", "double", "rename"]))
    if way == "swap" or isinstance(parent, list):
        parent[key] = MARK
    elif way == "drop":
        del parent[key]
    elif way == "double":
        parent[MARK] = 0
        odd = f"{json.dumps(key)}: {odd}, {json.dumps(key)}"
        return json.dumps(document).replace(json.dumps(MARK), odd)
    else:
        parent[draw(st.sampled_from(["", "x", "\x00", "метка"]))] = parent.pop(key)
    return json.dumps(document).replace(json.dumps(MARK), odd)


def changed_cell(draw, text: str) -> str:
    lines = text.split("\n")
    number = draw(st.integers(0, len(lines) - 1))
    cells = lines[number].split(",")
    at = draw(st.integers(0, len(cells) - 1))
    odd = draw(st.sampled_from([*ODD, "", " ", "nan", "inf", "-0.5", "1.5", "yes", "a b"]))
    cells[at : at + draw(st.integers(0, 1))] = [odd] * draw(st.integers(0, 2))
    lines[number] = ",".join(cells)
    return "\n".join(lines)


def changed_yaml(draw, text: str) -> str:
    words = text.split(" ")
    at = draw(st.integers(0, len(words) - 1))
    tail = "".join(c for c in words[at] if c in "\n:{}[],")
    words[at] = draw(st.sampled_from([*ODD, ""])) + tail
    return " ".join(words)


def changed_bytes(draw, content: bytes) -> bytes:
    at, size = draw(st.integers(0, len(content))), draw(st.integers(0, 40))
    spliced = content[:at] + draw(st.sampled_from(BYTES) | st.binary(max_size=8)) + content[at + size :]
    again = content[:at] + content[max(0, at - size) :]
    encoded = content.decode("utf-8", "replace").encode(draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32"])))
    header = struct.pack("<Q", draw(st.sampled_from([0, 2**63, len(content)]))) + content[8:]
    noise = draw(st.binary(max_size=60))
    return draw(st.sampled_from([content[:at], spliced, spliced, again, encoded, header, noise, content * 2]))


@st.composite
def changes(draw, content: bytes, suffix: str) -> bytes:
    structured = {".json": changed_json, ".csv": changed_cell, ".yaml": changed_yaml, ".jsonl": changed_json}
    if suffix not in structured or draw(st.integers(0, 2)) == 0:
        return changed_bytes(draw, content)
    text = content.decode()
    if suffix != ".jsonl":
        return structured[suffix](draw, text).encode("utf-8", "surrogatepass")
    lines = text.removesuffix("\n").split("\n")
    at = draw(st.integers(0, len(lines) - 1))
    lines[at : at + 1] = draw(
        st.sampled_from([[lines[at]] * 2, [], ["", lines[at]], *[[changed_json(draw, lines[at])]] * 7])
    )
    return "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")


# ------------------------------------------------------------------------------------------ the sweep


def outcome(reader: Reader, folder: Path) -> None:
    """Read; what is refused is one line that names the file."""
    there = {path for path in folder.rglob("*")}
    try:
        reader.read(folder)
    except UserError as refusal:
        said = str(refusal)
        assert said.isprintable() and len(said) < 3000, said
        assert any(name in said for name in (Path(reader.path).name, *reader.names)), said
    assert {path for path in folder.rglob("*")} == there


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_reader_gives_a_value_or_one_line(name, folder):
    reader = READERS[name]
    path = folder / reader.path
    valid = path.read_bytes()
    reader.read(folder)
    path.write_bytes(valid)

    @settings(
        max_examples=reader.examples,
        derandomize=True,
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(content=changes(valid, path.suffix))
    def sweep(content):
        path.write_bytes(content)
        outcome(reader, folder)

    try:
        sweep()
    finally:
        path.write_bytes(valid)


@pytest.mark.parametrize("kind", ["pipe", "folder", "nothing"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_named_and_waited_for_by_nobody(name, kind, folder):
    reader = READERS[name]
    path = folder / reader.path
    valid = path.read_bytes()
    path.unlink()
    try:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        if name != "options of a reward":  # a test's file
            outcome(reader, folder)
    finally:
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(valid)
