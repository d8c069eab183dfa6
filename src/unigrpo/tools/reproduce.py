"""The workflow, started and stopped safely, and what its steps have used.

One run at a time holds ``results/.lock``. Only its holder may release the lock that a killed Snakemake leaves behind,
so that an interrupted reproduction is continued by typing the same command again. Snakemake has a session apart: a
Ctrl-C reaches this process alone, which ends the steps first and Snakemake after them.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from unigrpo.core import files
from unigrpo.core.sitting import SIGNALS
from unigrpo.study.provenance import ROOT
from unigrpo.study.resolve import CATALOGUE, SCALES, load_study
from unigrpo.study.standing import TO_TRAIN, about, duration

STOPS = (*SIGNALS, signal.SIGHUP)
TICK = 0.1  # seconds between two looks
CONTINUES = "the same command continues"  # as a training that stops says too


def reproduce(target: str, cores: int, scale: str, words: Sequence[str] | None = None, **options: object) -> None:
    """Make ``target`` of the Snakefile in this checkout at ``scale`` with ``cores`` CPU cores, after the steps of a
    killed call have ended. ``options`` are further ones of ``--config``, absent where None. Raises UserError without
    such a study, SystemExit with Snakemake's code where it fails, 128 + the number of the signal that stops it."""
    given = {key: value for key, value in ({"scale": scale} | options).items() if value is not None}
    given |= {key: value for key, _, value in (word.partition("=") for word in words or ())}
    load_study(CATALOGUE, SCALES, given)  # bad input is refused in one line
    settings = [f"{key}={value}" for key, value in given.items()]
    results, own = ROOT / "results" / scale, ROOT / ".snakemake"
    with files.exclusive(ROOT / "results" / ".lock") as lock:
        caught = _signals()
        _wait_for_steps(results, caught)
        for left in (own / "locks", own / "incomplete"):  # by a killed one; a step's record says whether it has ended
            shutil.rmtree(left, ignore_errors=True)
            left.mkdir(parents=True)
        TO_TRAIN.unlink(missing_ok=True)
        command = [sys.executable, "-m", "snakemake", "--cores", str(cores), target, "--config", *settings]
        child = subprocess.Popen(command, cwd=ROOT, pass_fds=[lock], start_new_session=True)
        begun: list[str] = []
        while child.poll() is None and not caught:
            begun += _announce(begun, scale)
            time.sleep(TICK)
        if child.poll() is None:
            _stop(psutil.Process(child.pid), results, caught)
            child.wait()
            raise SystemExit(128 + caught[0])
    if child.returncode != 0:
        raise SystemExit(child.returncode if child.returncode > 0 else 128 - child.returncode)


def _signals() -> list[int]:
    """The numbers of the signals that ask this process to end, as they arrive from now on."""
    caught: list[int] = []
    for number in STOPS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, lambda number, _: caught.append(number))
    return caught


def _wait_for_steps(results: Path, caught: list[int]) -> None:
    """Wait for steps whose Snakemake was killed alone. A signal ends the waiting and leaves them."""
    announced = set()
    while steps := dict(files.workers(results / "steps")):
        for step in steps.keys() - announced:
            _say(f"waiting for {step} (process {steps[step]}) of an earlier call")
            announced.add(step)
        if caught:
            for step, process in steps.items():
                _say(f"{step} goes on; `kill {process}` stops it")
            raise SystemExit(128 + caught[0])
        time.sleep(TICK)


def _announce(begun: list[str], scale: str) -> list[str]:
    """The trainings that have begun since, after a line on each: its number, and the time left where that is known."""
    at_work = {step for step, _ in files.workers(ROOT / "results" / scale / "steps")}
    trainings = files.read_json(TO_TRAIN) if at_work and TO_TRAIN.exists() else {"steps": []}
    new = [step for step in trainings["steps"] if step in at_work and step not in begun]
    for number, step in enumerate(new, len(begun) + 1):
        left = [other for other in trainings["steps"] if other in at_work or other not in begun]
        seconds = duration(left, scale, trainings["at_once"])
        how_long = "" if seconds is None else f", {about(seconds)} of training left"
        _say(f"{step} is training {number} of {len(trainings['steps'])}{how_long}")
    return new


def _stop(snakemake: psutil.Process, results: Path, caught: list[int]) -> None:
    """End Snakemake and all below it in one line. Until a second signal, steps may write what they continue from."""
    snakemake.suspend()  # starts and prints nothing more
    asked: dict[int, str] = {}
    time.sleep(5 * TICK)
    del caught[1:]  # of one stop: make hands on what the terminal has sent too
    while len(caught) == 1:
        below = {process.pid: process for process in snakemake.children(recursive=True)}
        steps = {process: step for step, process in files.workers(results / "steps") if process in below}
        if not steps:
            break
        for process in steps.keys() - asked.keys():
            with suppress(psutil.NoSuchProcess):
                below[process].parent().suspend()  # a shell or launcher, which would report how its process ended
                below[process].terminate()
        asked |= steps
        time.sleep(TICK)
    tees = []  # they have the last words of the steps
    for process in [snakemake, *snakemake.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            tees.append(process) if process.name() == "tee" else process.kill()
    psutil.wait_procs(tees, timeout=1)
    logs = [results / "logs" / f"{step}.log" for step in asked.values()]
    if not any(path.exists() and CONTINUES in files.read_text(path)[-1000:] for path in logs):
        _say(f"\nstopped; {CONTINUES}")  # below a progress bar


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def collect_steps(folder: Path) -> None:
    """Write ``steps.csv`` of a scale, what each of its steps has used."""
    from unigrpo.report.pages.index import used_by_steps

    files.write_text(folder / "steps.csv", used_by_steps(folder).round(2).to_csv())
