"""Does a reproduction that is killed again and again end like one that was left alone?

    python benchmarks/kill_sweep.py [--kills 30] [--seed 0]

In a temporary clone of the last commit, ``unigrpo reproduce --scale smoke --seeds 1`` runs undisturbed once. Then the
same command is started, all its processes are ended at a random moment by SIGKILL, and it is started again, until it
finishes; its scores, tables (wall seconds apart) and weights must be those of the undisturbed run, byte for byte. A
reproduction that finishes before all kills are spent is deleted and another begun. Ends with exit code 1 on any
difference.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from unigrpo.core import seeding
from unigrpo.core.errors import UserError, in_one_line
from unigrpo.core.files import digest, write_json
from unigrpo.study import provenance
from unigrpo.study.provenance import ROOT

COMMAND = ("-m", "unigrpo", "reproduce", "--scale", "smoke", "--seeds", "1")
COMPARED = ("scores.csv", "tables/*.csv", "tables/*.md", "runs/*/seed*/model.safetensors")
WALL = ("wall_seconds", "wall seconds")
LONGEST = 0.15  # of the undisturbed time: the longest that an attempt may run before it is killed
RULE = re.compile(r"^(?:local)?rule (\w+):$", re.MULTILINE)


def moments(seed: int, kills: int, longest: float) -> Iterator[float]:
    """Seconds from the start of an attempt to its kill, uniform in [0, longest)."""
    return (seeding.numpy_generator(seed, "kill", n).random() * longest for n in range(kills))


def timeless(table: str) -> str:
    """A table, CSV or Markdown, without its column of wall seconds: the one thing that a kill may change."""
    rows = table.splitlines()
    lines = [row.split("|") if row.startswith("|") else next(csv.reader([row]), []) for row in rows]
    head = next((cells for cells in lines if any(cell.strip() in WALL for cell in cells)), None)
    if head is None:
        return table
    dropped = next(i for i, cell in enumerate(head) if cell.strip() in WALL)
    return "\n".join(
        "|".join(c for i, c in enumerate(line) if i != dropped or len(line) != len(head)) for line in lines
    )


def fingerprints(results: Path) -> dict[str, str]:
    """Relative path -> sha256 of every compared file; of a table, without its wall seconds."""
    found = (path for pattern in COMPARED for path in sorted(results.glob(pattern)))
    return {
        path.relative_to(results).as_posix(): hashlib.sha256(timeless(path.read_text()).encode()).hexdigest()
        if path.parent.name == "tables"
        else digest(path)
        for path in found
    }


def differences(calm: dict[str, str], other: dict[str, str]) -> list[str]:
    """Names of the files that are missing, surplus, or of other content."""
    return sorted(name for name in calm.keys() | other.keys() if calm.get(name) != other.get(name))


def last_rule(log: str) -> str:
    """The rule that Snakemake named last, or what was done before it named one."""
    found = RULE.findall(log)
    return found[-1] if found else "starting"


def attempt(checkout: Path, log: Path, seconds: float | None) -> bool:
    """Start the command; True where it finished, False where it was killed after ``seconds``. Raises UserError with
    the end of its output where it failed by itself."""
    environment = os.environ | {"PYTHONPATH": f"{checkout}{os.pathsep}{checkout / 'src'}"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *COMMAND],
            cwd=checkout,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        _end_group(process)
    if code:
        raise UserError(f"the reproduction ended with exit code {code}:\n{log.read_text()[-3000:]}")
    return code == 0


def _end_group(process: subprocess.Popen) -> None:
    """Kill whatever of the process group lives, and wait until nothing does."""
    try:
        while True:
            os.killpg(process.pid, signal.SIGKILL)
            process.poll()
            time.sleep(0.01)
    except ProcessLookupError:
        process.wait()


def sweep(folder: Path, kills: int, seed: int, out: Path) -> dict:
    """Kill and compare; the result so far goes to ``out`` after every kill and every finished reproduction."""
    checkout, log = folder / "checkout", folder / "log"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    results = checkout / "results" / "smoke"
    started = time.monotonic()
    attempt(checkout, log, None)
    seconds = time.monotonic() - started
    calm = fingerprints(results)
    shutil.rmtree(results)
    print(f"undisturbed: {seconds:.0f} s, {len(calm)} files to compare", flush=True)
    result = {
        "seed": seed,
        "undisturbed_seconds": round(seconds, 1),
        "compared": len(calm),
        "kills": [],
        "reproductions": [],
        "provenance": {"commit": provenance.commit(checkout), "versions": provenance.versions()},
    }

    def finished() -> None:
        done = {"kills": survived, "differences": differences(calm, fingerprints(results))}
        result["reproductions"].append(done)
        print(f"finished after {survived} kills: {', '.join(done['differences']) or 'no difference'}", flush=True)
        shutil.rmtree(results)

    survived = 0
    for number, moment in enumerate(moments(seed, kills, LONGEST * seconds), 1):
        while attempt(checkout, log, moment):
            finished()
            survived = 0
        survived += 1
        rule = last_rule(log.read_text())
        result["kills"].append({"seconds": round(moment, 2), "rule": rule})
        print(f"kill {number:3d} of {kills}: after {moment:6.2f} s, {rule}", flush=True)
        write_json(out, result)
    attempt(checkout, log, None)
    finished()
    result["provenance"]["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(out, result)
    return result


def summary(result: dict) -> str:
    """One line: how many kills, in which rules, and how the reproductions ended."""
    rules = {kill["rule"] for kill in result["kills"]}
    ended = result["reproductions"]
    different = sum(bool(done["differences"]) for done in ended)
    return (
        f"{len(result['kills'])} kills in {len(rules)} rules, {len(ended)} reproductions of {result['compared']} "
        f"compared files each: {different} with differences"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill reproductions at random moments and compare how they end.")
    parser.add_argument("--kills", type=int, default=30, help="kills in all (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "kill_sweep.json")
    args = parser.parse_args()
    if args.kills < 1 or args.seed < 0:
        parser.error("--kills: expected at least 1, and --seed at least 0")
    with tempfile.TemporaryDirectory(prefix="kill_sweep.") as folder:
        result = sweep(Path(folder), args.kills, args.seed, args.out)
    print(summary(result))
    if any(done["differences"] for done in result["reproductions"]):
        raise SystemExit(1)


if __name__ == "__main__":
    in_one_line(main)
