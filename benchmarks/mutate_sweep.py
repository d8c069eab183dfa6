"""Is bad input refused by one clear message, whatever is bad about it?

    python benchmarks/mutate_sweep.py [--cases 400] [--seed 0]

Files that a user may write, edit or damage are changed at random, one change a case, and handed to the command that
reads them, in this process. The command must either refuse by a UserError of one line that names a file (the damaged
one, its folder, or the one that it contradicts) and leave no unfinished file behind, or work: by ending well, or by
still being at it after ``LIMIT`` seconds. Weights that are not finite must be refused. Everything else is a finding;
any ends with exit code 1. Needs nothing but the checkout.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from accelerate.state import AcceleratorState

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for what is not installed

from benchmarks import mutations
from benchmarks.mutations import Mutation, Random
from tests._support import tiny
from unigrpo import __main__ as unigrpo
from unigrpo.core import seeding
from unigrpo.core.errors import UserError, in_one_line
from unigrpo.core.files import digest, write_json, write_text
from unigrpo.core.settings import to_dict
from unigrpo.core.yaml_files import read_yaml
from unigrpo.models import checkpoint
from unigrpo.report.pages.page import rows_of
from unigrpo.sampling import sample_folder
from unigrpo.sampling.engine import Samples
from unigrpo.study import config, provenance, resolve
from unigrpo.study.catalogue import BASE, facts_of, runs_in_use
from unigrpo.study.provenance import ROOT
from unigrpo.study.resolve import load_study
from unigrpo.training import state
from unigrpo.training.learner import optimizer_for
from unigrpo.world.prompts import prompt_set

LIMIT = 4.0  # seconds
SAMPLES = "samples/geneval.think.tuned"
PROTOCOL = {"benchmark": "geneval", "version": "1", "mode": "think", "guidance_name": "tuned", "seed": 0}
COUNTS = {"updates": 2, "images": 12, "model_evaluations": 72, "wall_seconds": 1.0}
FILE_NAME = re.compile(r"\w\.(json|jsonl|yaml|npy|safetensors)\b")
OUTPUT = "new"  # what a command writes; removed after each case


# ---- what is changed, and who reads it ---------------------------------------------------------------------


def command(words: str) -> Callable[[], None]:
    """Runs a verb with its arguments."""

    def call() -> None:
        unigrpo.call(words.split())

    return call


def parse_study() -> None:
    """What the workflow asks of the catalogue and the scale while it is parsed."""
    study = load_study(Path("experiments.yaml"), Path("scales"), {"scale": "smoke"})
    runs_in_use(study.catalogue)
    for run in study.runs():
        study.modes(run)
        for seed in study.seeds(run)[:2]:
            settings = study.config(run, seed)
            [resolve.fingerprint(resolve.part(settings, part)) for part in resolve.PARTS]
            if run != BASE:
                study.parent(run, seed)
    for name, spec in study.catalogue["tables"].items():
        rows_of(spec, facts_of("tables", spec, f"experiments.yaml: tables.{name}"))


def mutate_yaml(data: bytes, rng: Random) -> tuple[bytes, str]:
    """One place of a YAML file, as a value."""
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(data)
        file.flush()
        value, what = mutations.mutate_value(read_yaml(file.name), rng)
    return json.dumps(value, ensure_ascii=False).encode(), what  # JSON is YAML


YAML: tuple[Mutation, ...] = (mutate_yaml, mutate_yaml, mutations.mutate_text)


@dataclass(frozen=True)
class Subject:
    """A file, how it may be damaged, and what reads it."""

    kind: str
    file: str
    damage: tuple[Mutation, ...]
    use: Callable[[], None]


TRAIN = command("train --config rl.json --init init --reward reward --decoding decoding.json --out new/out")
RESUME = command("train --config rl.json --init init --reward reward --decoding decoding.json --out begun")
SAMPLE = command("sample init --prompts prompts.jsonl --steps 2 --out new/picture.png")
SCORE = command("score --samples samples --reward reward --detector detector --out new/scores.jsonl")
SUPERVISE = command("train --config sft.json --init init --out new/out")
BEGIN = command("train --config base.json --out new/out")
LEARN = command("train-reward --config sft.json --data data --out new/reward")
SETS = command("sample-sets --config rl.json --model init --decoding decoding.json --mode think --out new/samples")
SUBJECTS = (
    Subject("catalogue", "experiments.yaml", YAML, parse_study),
    Subject("scale", "scales/smoke.yaml", YAML, parse_study),
    Subject("configuration", "rl.json", mutations.JSON, TRAIN),
    Subject("configuration", "sft.json", mutations.JSON, SUPERVISE),
    Subject("configuration", "base.json", mutations.JSON, BEGIN),
    Subject("configuration", "decoding.json", mutations.JSON, SETS),
    Subject("prompts", "prompts.jsonl", mutations.JSON_LINES, SAMPLE),
    Subject("samples", f"{SAMPLES}/manifest.jsonl", mutations.JSON_LINES, SCORE),
    Subject("samples", f"{SAMPLES}/protocol.json", mutations.JSON, SCORE),
    Subject("samples", f"{SAMPLES}/images.npy", mutations.ARRAY, SCORE),
    Subject("samples", "data/manifest.jsonl", mutations.JSON_LINES, LEARN),
    Subject("checkpoint", "init/model.json", mutations.JSON, SAMPLE),
    Subject("checkpoint", "init/model.safetensors", mutations.WEIGHTS, SAMPLE),
    Subject("checkpoint", "init/tokenizer/tokenizer.json", mutations.JSON, SAMPLE),
    Subject("checkpoint", "init/tokenizer/tokenizer_config.json", mutations.JSON, SAMPLE),
    Subject("checkpoint", "init/run.json", mutations.JSON, SETS),
    Subject("checkpoint", "reward/model.json", mutations.JSON, SCORE),
    Subject("checkpoint", "reward/model.safetensors", mutations.WEIGHTS, SCORE),
    Subject("checkpoint", "detector/detector.json", mutations.JSON, SCORE),
    Subject("checkpoint", "detector/detector.safetensors", mutations.WEIGHTS, SCORE),
    Subject("checkpoint", "begun/state/state.safetensors", mutations.WEIGHTS, RESUME),
    Subject("checkpoint", "begun/metrics.jsonl", mutations.JSON_LINES, RESUME),
)  # fmt: skip


def write_start(folder: Path) -> None:
    """One good file of every subject, and what else their commands read."""
    tiny.write_start(folder)
    shutil.copy(ROOT / "pipelines/experiments.yaml", folder / "experiments.yaml")
    (folder / "scales").mkdir()
    shutil.copy(ROOT / "pipelines/scales/smoke.yaml", folder / "scales/smoke.yaml")
    shutil.copytree(ROOT / "assets/detector", folder / "detector")
    write_json(folder / "init/run.json", {"run": "sft", "ema": True})
    shown = prompt_set("train")[::300] + prompt_set("val")[::20]
    pictures = np.random.default_rng(0).integers(256, size=(len(shown), 48, 48, 3), dtype=np.uint8)
    for name in (SAMPLES, "data"):
        jobs = [(prompt, 0) for prompt in shown]
        sample_folder.write(folder / name, jobs, Samples(pictures, [None] * len(shown), 0), PROTOCOL)
    rows = [{"id": p.id, **p.meta} for p in prompt_set("val")[::20]]
    write_text(folder / "prompts.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    _write_begun(folder, folder / "begun")


def _write_begun(folder: Path, out: Path) -> None:
    """A run of rl.json that was killed after its first rollout."""
    cfg = config.load(folder / "rl.json")
    model = checkpoint.load_model(folder / "init")
    tensors = state.gather({"model": model}, optimizer_for(model, cfg.rl)[0])
    names = {"parent": "init/model.safetensors", "reward": "reward/model.safetensors", "decoding": "decoding.json"}
    now = state.Identity.of(to_dict(cfg), {what: digest(folder / name) for what, name in names.items()})
    notes = state.Notes(1, cfg.rl.rollouts, now.settings, now.inputs, [], True, COUNTS)
    state.save_state(out / "state", tensors, notes)
    log = [{"kind": "validation", "rollout": -1, "gold": 0.1}, {"kind": "train", "rollout": 0, "proxy": 0.5}]
    write_text(out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in log))


# ---- one case ----------------------------------------------------------------------------------------------


class Enough(BaseException):
    """The time is up, and the command is still at work."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises Enough inside the block after ``seconds``."""

    def stop(*_) -> None:
        raise Enough

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing printed, nothing warned of."""
    unread = io.StringIO()
    with (
        contextlib.redirect_stdout(unread),
        contextlib.redirect_stderr(unread),
        warnings.catch_warnings(action="ignore"),
    ):
        yield


def judge(file: str, what: str, use: Callable[[], None]) -> tuple[str, str]:
    """(outcome, message) of ``use`` after the change ``what`` of ``file``: ``refused``, ``accepted``, or a finding."""
    try:
        with silence(), time_limit(LIMIT):
            use()
    except Enough:
        return "accepted", ""
    except UserError as error:
        return _refusal(file, str(error)), str(error)
    except (Exception, SystemExit) as error:
        where = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in where if Path(frame.filename).is_relative_to(ROOT)][-1]
        return "crashed", f"{type(error).__name__}: {error} ({Path(own.filename).name}:{own.lineno})"
    return ("swallowed" if mutations.NOT_FINITE in what else "accepted"), ""


def _refusal(file: str, message: str) -> str:
    """``refused``, or what is wrong with the message. Of two files that disagree, it may name the other."""
    path = Path(file)
    if "\n" in message:
        return "several lines"
    names = [path.name, *(parent.name for parent in path.parents if parent.name)]
    return "refused" if any(name in message for name in names) or FILE_NAME.search(message) else "unplaced"


def run_case(subject: Subject, rng: Random) -> tuple[str, str, str]:
    """Damage the subject's file, use it, and put everything back -> (what was done, outcome, message)."""
    before = {
        path: path.read_bytes() for folder in (Path("begun"), Path(subject.file).parent) for path in _files(folder)
    }
    good = Path(subject.file).read_bytes()
    changed, what = mutations.pick(subject.damage, rng)(good, rng)
    if changed == good:
        return what, "unchanged", ""
    Path(subject.file).write_bytes(changed)
    AcceleratorState._reset_state(True)  # one process stands for many
    outcome, message = judge(subject.file, what, subject.use)
    if outcome == "refused" and list(Path().rglob(".*.tmp")):
        outcome, message = "unfinished file", f"{list(Path().rglob('.*.tmp'))[0]} after: {message}"
    shutil.rmtree(OUTPUT, ignore_errors=True)
    shutil.rmtree("begun", ignore_errors=True)
    for path, data in before.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return what, outcome, message


def _files(folder: Path) -> list[Path]:
    return [path for path in (folder.iterdir() if folder == Path() else folder.rglob("*")) if path.is_file()]


# ---- the sweep ---------------------------------------------------------------------------------------------

GOOD = ("accepted", "refused", "unchanged")


def sweep(cases: int, seed: int) -> dict:
    """``cases`` cases, the subjects in turn."""
    counts: dict[str, Counter] = {}
    findings = []
    home = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="mutate_sweep.") as folder:
        write_start(Path(folder))
        os.chdir(folder)
        try:
            for number in range(cases):
                subject = SUBJECTS[number % len(SUBJECTS)]
                rng = seeding.numpy_generator(seed, "mutate", subject.file, number)
                what, outcome, message = run_case(subject, rng)
                counts.setdefault(subject.kind, Counter())[outcome] += 1
                if outcome not in GOOD:
                    findings.append({"case": number, "file": subject.file, "change": what, outcome: message})
                    print(f"case {number}: {subject.file}: {what}: {outcome}: {message}", flush=True)
        finally:
            os.chdir(home)
    return {"cases": cases, "seed": seed, "outcomes": counts, "findings": findings}


def table(result: dict) -> str:
    """Cases by kind of file and outcome, as a Markdown table."""
    names = [*GOOD, *sorted({name for count in result["outcomes"].values() for name in count} - set(GOOD))]
    lines = [f"| file | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for kind, count in result["outcomes"].items():
        lines.append(f"| {kind} | {' | '.join(str(count.get(name, 0)) for name in names)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Damage input files at random and see how they are refused.")
    parser.add_argument("--cases", type=int, default=400, help="damaged files in all (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default: 0)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "mutate_sweep.json")
    args = parser.parse_args()
    if args.cases < 1 or args.seed < 0:
        parser.error("--cases: expected at least 1, and --seed at least 0")
    started = time.monotonic()
    result = sweep(args.cases, args.seed)
    result["provenance"] = {
        "source_hash": provenance.source_hash(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "seconds": round(time.monotonic() - started),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(args.out.resolve(), result)
    print(table(result))
    if result["findings"]:
        raise SystemExit(1)


if __name__ == "__main__":
    in_one_line(main)
