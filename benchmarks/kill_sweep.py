"""Does a reproduction that is killed again and again end like one that was left alone?

    python benchmarks/kill_sweep.py

In a temporary clone of the last commit, with a catalogue of three runs, ``unigrpo reproduce --scale smoke`` runs
undisturbed once. Then the same command is started, killed at a moment of the plan, and started again, until it
finishes; what it leaves must be that of the undisturbed run, byte for byte (times and the record of sittings apart). A
moment is a phase of the write of a file: ``kill_hook.py`` makes the process that reaches it wait there for the kill.
A moment that a reproduction has passed is tried in the next one. Ends with exit code 1 on any finding.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from unigrpo.core.errors import UserError, in_one_line
from unigrpo.core.files import digest, read_json, read_jsonl, write_json, write_text
from unigrpo.study import provenance
from unigrpo.study.provenance import ROOT

HOOK = ROOT / "benchmarks" / "kill_hook.py"
COMMAND = ("-m", "unigrpo", "reproduce", "--scale", "smoke", "--seeds", "1")
CONTINUES = "the same command continues"
TIMES = ("wall_seconds", "wall seconds", r"\shortstack{wall\\seconds}")  # columns of tables
OF_SITTINGS = {"wall_seconds", "peak_memory_mb", "finished", "pieces"}  # keys of run.json
LONGEST = 1800.0  # seconds that a call may take to its end, or to reach its moment
LEFT_OUT = ("steps/", "logs/")  # what the sittings have used and said
SAID = re.compile(r"^(?:waiting|to train|error:|.* goes on).*$", re.MULTILINE)  # about what an earlier call has left

CATALOGUE = """
defaults: {method: grpo, regulariser: velocity_mse, reward: learned}
benchmarks:
  geneval: {label: GenEval, prompts: geneval_eval, judge: official, least_prompts: 8, also: {gold: gold}}
runs:
  base: {label: Base, evaluate: [no]}
  sft: {label: SFT, init: base, evaluate: [yes]}
  unigrpo: {label: UniGRPO, init: sft, train: [text, image], evaluate: [yes]}
tables:
  main: {kind: main, title: Scores, guidance: tuned, rows: [[base, no], [sft, yes], [unigrpo, yes]]}
  training: {kind: training_cost, runs: [unigrpo]}
figures:
  curves: {kind: curves, runs: [unigrpo]}
claims:
  C3:
    claim: RL beats SFT
    check: gains
    benchmarks: [geneval]
    pairs: [[[unigrpo, yes], [sft, yes]]]
    why: Nothing is designed.
"""
SETTINGS = {  # of scale smoke, so that every training has many states
    "checkpoint_every: 20": "checkpoint_every: 4",
    "rollouts: 2": "rollouts: 8",
    "validate_every: 1": "validate_every: 4",
}

TARGETS = ("step", "all", "wrapper", "snakemake")
OF_TRAINING = ("state", "record", "weights")
RUNS = ("base", "sft", "unigrpo")
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
RESTART = {  # who is killed -> moments of a start, by who reaches them
    "step": [("written", r"steps/[^/]*\.lock$"), ("before", r"seed0/\.lock$")],
    "snakemake": [("read", r"Snakefile$"), ("before", r"seed0/\.lock$")],
    "wrapper": [("read", r"Snakefile$"), ("written", r"steps/[^/]*\.lock$"), ("before", r"results/\.lock$")],
    "all": [("before", r"results/\.lock$"), ("read", r"Snakefile$"), ("before", r"seed0/\.lock$")],
}
MOMENTS = {  # what is hit -> phases of writes that the kills take in turn; of a run, where it says RUN
    "state": [
        ("written", r"RUN/seed0/state/state\.safetensors$"),
        ("before", r"RUN/seed0/state/"),
        ("written", r"RUN/seed0/state/"),
        ("after", r"RUN/seed0/state/state\.safetensors$"),
    ],
    "record": [
        ("torn", r"RUN/seed0/metrics\.jsonl$"),
        ("written", r"RUN/seed0/run\.json$"),
        ("after", r"RUN/seed0/metrics\.jsonl$"),
        ("before", r"RUN/seed0/run\.json$"),
        ("torn", r"steps/[a-z]*(\.RUN)?[^/]*\.jsonl$"),
    ],
    "weights": [(phase, r"(RUN/seed0|reward)/model\.safetensors$") for phase in ("written", "before", "after")],
    "scores": [
        ("written", r"RUN/seed0/scores\.jsonl$"),
        ("before", r"RUN/seed0/scores\.jsonl$"),
        ("after", r"RUN/seed0/scores\.jsonl$"),
        ("written", r"smoke/scores\.csv$"),
    ],
    "table": [
        ("written", r"tables/main\.md$"),
        ("before", r"tables/[a-z]*\.html$"),
        ("after", r"tables/[a-z]*\.csv$"),
        ("written", r"smoke/claims\.md$"),
        ("written", r"figures/curves\.(png|csv)$"),
    ],
}


class Kill(NamedTuple):
    """A signal to the ``target`` at the ``phase`` of what is done to a file whose path ``pattern`` finds. ``hit`` is
    the file's kind. Targets: the ``step`` at work on it, ``snakemake`` alone, the ``wrapper`` alone, which is the
    command that was typed, or ``all``."""

    hit: str
    phase: str
    pattern: str
    target: str
    signal: signal.Signals


def kill(number: int, hit: str, target: str) -> Kill:
    """Of reproduction ``number``: a file kind has each of its moments in turn, and each target each signal. The wrapper
    gets none that it cannot answer. The runs that are hit begin at another one in each reproduction."""
    turn = TARGETS.index(target)
    signals = {"step": SIGNALS[number], "all": SIGNALS[number - 2], "snakemake": SIGNALS[number - 1]}
    moments = RESTART[target] if hit == "restart" else MOMENTS[hit]
    phase, pattern = moments[(number if hit == "restart" else len(TARGETS) * number + turn) % len(moments)]
    runs = RUNS[number if target != "snakemake" and hit in OF_TRAINING else 0 :]
    asking = SIGNALS[1 + (number + len(hit)) % 2]
    return Kill(hit, phase, pattern.replace("RUN", f"({'|'.join(runs)})"), target, signals.get(target, asking))


def plan() -> list[Kill]:
    """The kills of each reproduction, in the order of the workflow, a restart among every six. A step that outlives
    Snakemake comes to its end: those are others than the run that is hit otherwise."""
    planned = []
    for number, run in enumerate(RUNS):
        alone = [kill(number, hit, "snakemake") for hit in OF_TRAINING]
        trained = [kill(number, hit, target) for hit in OF_TRAINING for target in TARGETS[:-1]]
        reported = [kill(number, hit, target) for hit in ("scores", "table") for target in TARGETS]
        kills = [*alone, *trained, *reported] if run == RUNS[-1] else [*trained, *alone, *reported]
        for n, target in enumerate(TARGETS):
            kills.insert(6 * n + 2, kill(number, "restart", target))
        planned += kills
    planned.append(Kill("table", "after", r"tables/", "wrapper", signal.SIGKILL))  # its Snakemake makes the rest
    return planned


def timeless(table: str) -> str:
    """A table in any of its formats without its column of wall seconds, which a kill may change."""
    rows = re.sub(r"</t[hd]>\s*<t[hd][^>]*>", "|", table).splitlines()
    lines = [next((row.split(mark) for mark in ("|", " & ") if mark in row), None) or _cells(row) for row in rows]
    head = next((cells for cells in lines if any(cell.strip() in TIMES for cell in cells)), None)
    if head is None:
        return table
    dropped = next(i for i, cell in enumerate(head) if cell.strip() in TIMES)
    return "\n".join(
        "|".join(c for i, c in enumerate(line) if i != dropped or len(line) != len(head)) for line in lines
    )


def _cells(row: str) -> list[str]:
    return next(csv.reader([row]), [])


def without_sittings(path: Path) -> str:
    """run.json or metrics.jsonl without what sittings decide: how long they were, when, and how many."""
    if path.suffix == ".json":
        return json.dumps({key: value for key, value in read_json(path).items() if key not in OF_SITTINGS})
    rows = ({k: v for k, v in row.items() if "second" not in k} for _, row in read_jsonl(path))
    return "".join(json.dumps(row) + "\n" for row in rows)


def fingerprints(results: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file of the results of a scale, without times and sittings."""
    found = {}
    for path in sorted(path for path in results.rglob("*") if path.is_file()):
        name = path.relative_to(results).as_posix()
        if name.startswith(LEFT_OUT) or path.name in (".lock", ".snakemake_timestamp") or path.parent.name == "state":
            continue
        text = None
        if path.name in ("run.json", "metrics.jsonl"):
            text = without_sittings(path)
        elif path.parent.name == "tables":
            text = timeless(path.read_text())
        found[name] = digest(path) if text is None else hashlib.sha256(text.encode()).hexdigest()
    return found


def differences(calm: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of the files that are missing, surplus, or of other content."""
    return sorted(name for name in calm.keys() | other.keys() if calm.get(name) != other.get(name))


def at_work(checkout: Path) -> list[psutil.Process]:
    """The living processes whose working folder is the checkout."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(checkout):
                found.append(process)
    return found


class Calls:
    """Calls of the command in ``checkout``; on ``desk`` the hook and this process meet."""

    def __init__(self, folder: Path):
        self.checkout, self.desk = (folder / "checkout").resolve(), folder / "desk"
        self.number, self.killed = 0, {}
        self.desk.mkdir()

    def call(self, kill: Kill | None = None) -> dict | None:
        """One call of the command. Returns what the kill hit and how the call ended; None where its end came before the
        moment of the kill. Raises UserError with the end of its output where it failed by itself."""
        self.number += 1
        write_json(self.desk / "armed.json", [self.number, *(kill[1:3] if kill else ("", ""))])
        log, hit = self.desk / f"log.{self.number}", self.desk / f"hit.{self.number}"
        paths = os.pathsep.join(map(str, (self.checkout, self.checkout / "src")))
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, *COMMAND],
                cwd=self.checkout,
                env=os.environ | {"PYTHONPATH": paths, "KILL_SWEEP": str(self.desk)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._until(lambda: process.poll() is not None or hit.exists())
        struck = self._strike(kill, process, read_json(hit)) if hit.exists() else None
        started = time.monotonic()
        self._until(lambda: process.poll() is not None)
        seconds, text = time.monotonic() - started, log.read_text()
        self.killed.setdefault("next_call", SAID.findall(text))
        if struck is None and process.returncode:
            raise UserError(f"a call that nobody killed ended with exit code {process.returncode}:\n{text[-3000:]}")
        if struck is not None:
            lines = text.strip().splitlines() or [""]
            struck |= {"exit_code": process.returncode, "last_line": lines[-1], "seconds_to_end": round(seconds, 1)}
            struck["faults"] = faults(struck, text, len(at_work(self.checkout)))
            self.killed = struck
        return struck

    def close(self) -> None:
        """Leave no process behind."""
        left = at_work(self.checkout)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)

    def _until(self, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + LONGEST
        while not ready():
            if time.monotonic() > end:
                raise UserError(f"call {self.number}: neither its moment nor its end came within {LONGEST:.0f} s")
            time.sleep(0.02)

    def _strike(self, kill: Kill, wrapper: subprocess.Popen, hit: dict) -> dict:
        """Send the signal to whom the kill says; what the kill hit."""
        (snakemake, *_) = [*psutil.Process(wrapper.pid).children(), None]
        alone = {"step": psutil.Process(hit["process"]), "snakemake": snakemake, "wrapper": wrapper}
        targets = at_work(self.checkout) if kill.target == "all" else [alone[kill.target]]
        suspending = [signal.SIGSTOP] * (kill.target == "all" and kill.signal == signal.SIGKILL)
        for number in (*suspending, kill.signal):  # nobody answers to the end of another
            for target in targets:
                with suppress(ProcessLookupError):
                    os.kill(target.pid, number)
        if kill.target == "snakemake" or kill.signal == signal.SIGKILL:
            (self.desk / f"release.{self.number}").touch()  # for a process that nobody asks to end
        words = hit["words"]
        who = words[words.index("--made") + 2] if "--made" in words else words[2]
        file = os.path.relpath(self.checkout / hit["path"], self.checkout)
        what = {"hit": kill.hit, "phase": kill.phase, "file": file, "process": who}
        return what | {"target": kill.target, "signal": kill.signal.name}


def faults(struck: dict, text: str, left: int) -> list[str]:
    """How a call that was asked to end, and said ``text``, has not ended as it should; ``left`` processes live on."""
    number = signal.Signals[struck["signal"]]
    if struck["target"] != "wrapper" or number == signal.SIGKILL:
        return []
    begun = not struck["file"].endswith("results/.lock")  # before, Python ends it
    wrong = [f"says {word!r}" for word in ("Traceback", "Error in rule") if word in text]
    wrong += [f"{left} processes live on"] * bool(left)
    wrong += [f"ends in {struck['last_line']!r}"] * (begun and not struck["last_line"].endswith(CONTINUES))
    codes = (128 + number,) if begun else (128 + number, -number)
    return wrong + [f"exit code {struck['exit_code']}"] * (struck["exit_code"] not in codes)


def prepare(checkout: Path) -> None:
    """Clone the last commit, with the small study and the hook."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    write_text(checkout / "pipelines" / "experiments.yaml", CATALOGUE)
    scale = checkout / "pipelines" / "scales" / "smoke.yaml"
    text = scale.read_text()
    for before, after in SETTINGS.items():
        if before not in text:
            raise UserError(f"{scale}: expected {before!r}")
        text = text.replace(before, after)
    write_text(scale, text)
    shutil.copy(HOOK, checkout / "sitecustomize.py")


def until_done(calls: Calls, queue: deque[Kill]) -> Iterator[dict]:
    """The kills that one reproduction survives: those at the head of ``queue``, which they leave, until the moment of
    one has passed or all are spent."""
    while (struck := calls.call(queue[0] if queue else None)) is not None:
        queue.popleft()
        yield struck


def sweep(folder: Path, kills: Sequence[Kill], out: Path) -> dict:
    """Kill and compare; what was found goes to ``out`` after every kill. A kill whose moment has passed is tried in the
    next reproduction."""
    with closing(Calls(folder)) as calls:
        prepare(calls.checkout)
        result = kill_and_compare(calls, kills, out)
        write_json(out, result)
    return result


def kill_and_compare(calls: Calls, kills: Sequence[Kill], out: Path) -> dict:
    """The result of a sweep in a checkout that is prepared."""
    queue = deque(kills)
    results = calls.checkout / "results" / "smoke"
    started = time.monotonic()
    calls.call()
    commit = provenance.commit(calls.checkout).removesuffix("-dirty")  # the small study
    about = {"commit": commit, "versions": provenance.versions()}
    result = {
        "undisturbed_seconds": round(time.monotonic() - started, 1),
        "reproductions": [],
        "never": [],
        "kills": [],
    }
    calm = fingerprints(results)
    shutil.rmtree(results)
    print(f"undisturbed: {result['undisturbed_seconds']} s, {len(calm)} files to compare", flush=True)
    while queue:
        survived = 0
        for struck in until_done(calls, queue):
            survived += 1
            result["kills"].append(struck)
            print(f"kill {len(result['kills'])} of {len(kills)}:", *struck.values(), flush=True)
            write_json(out, counts(result["kills"]) | result)
        if survived == 0 and queue:
            result["never"].append(queue.popleft())
        different = differences(calm, fingerprints(results))
        shutil.rmtree(results)
        result["reproductions"].append({"kills": survived, "compared": len(calm), "differences": different})
        print(f"finished after {survived} kills: {', '.join(different) or 'no difference'}", flush=True)
    return counts(result["kills"]) | result | {"provenance": about}


def counts(kills: list[dict]) -> dict:
    """How many kills hit what, and how; how many steps outlived their Snakemake until the next call; the seconds from a
    signal to the wrapper to its end."""
    stops = sorted(k["seconds_to_end"] for k in kills if k["target"] == "wrapper" and k["signal"] != "SIGKILL")
    return {
        "hits": dict(Counter(k["hit"] for k in kills)),
        "victims": dict(Counter(f"{k['target']} {k['signal']}" for k in kills)),
        "waited_for": sum("waiting for" in line for k in kills for line in k.get("next_call", [])),
        "seconds_to_stop": {"median": stops[len(stops) // 2], "longest": stops[-1]} if stops else {},
    }


def wrong(result: dict) -> list[str]:
    """A line for each thing that was not as it should be."""
    lines = [
        f"kill {n} ({k['target']} {k['signal']}): {fault}"
        for n, k in enumerate(result["kills"], 1)
        for fault in k["faults"]
    ]
    lines += [
        f"after {done['kills']} kills: {name}" for done in result["reproductions"] for name in done["differences"]
    ]
    return lines + [f"no process came to {kill}" for kill in result["never"]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill reproductions at chosen moments and compare how they end.")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "kill_sweep.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill_sweep.") as folder:
        result = sweep(Path(folder), plan(), args.out)
    print(*wrong(result), json.dumps(counts(result["kills"])), sep="\n")
    if wrong(result):
        raise SystemExit(1)


if __name__ == "__main__":
    in_one_line(main)
