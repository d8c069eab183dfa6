"""What it costs to start the commands, in processor time.

    python benchmarks/startup.py [--repeats 3]

Calls every verb of ``unigrpo`` with ``--help``, plans the workflow, and loads what training and judging need, in turn
and ``repeats`` times after one unmeasured round. Medians of user and system time show what is paid before anything is
done. Prints a table in Markdown and writes all of it as JSON.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from typer.main import get_command

from unigrpo.__main__ import app
from unigrpo.core.errors import UserError, in_one_line
from unigrpo.core.files import write_json
from unigrpo.study import provenance
from unigrpo.study.provenance import ROOT

VARIABLES = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
LOADED = {
    "(an empty program)": ("-c", "pass"),
    "(import torch)": ("-c", "import torch"),
    "unigrpo --help": ("-m", "unigrpo", "--help"),
    "snakemake -n": ("-m", "snakemake", "-n"),
    "(what training loads)": ("-c", "from unigrpo.training.loop import learn"),
    "(what the learned reward loads)": ("-c", "from rewards._support.learned_model import LearnedReward"),
}


def verbs() -> list[str]:
    """The verbs of ``unigrpo``, as its command line has them."""
    return sorted(get_command(app).commands)


def seconds(arguments: tuple[str, ...]) -> float:
    """Processor time of one process of this interpreter. Raises UserError where it fails."""
    begun = spent()
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=VARIABLES, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"{' '.join(arguments)}: {done.stderr.strip()}")
    return spent() - begun


def spent() -> float:
    """Processor seconds of all finished children of this process."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(names: list[str], repeats: int) -> dict:
    """Medians with extremes of every command, and of an empty program and torch alone for comparison."""
    work = LOADED | {f"unigrpo {name} --help": ("-m", "unigrpo", name, "--help") for name in names}
    rounds = [{name: seconds(arguments) for name, arguments in work.items()} for _ in range(1 + repeats)][1:]
    taken = {name: [laps[name] for laps in rounds] for name in work}
    return {
        "repeats": repeats,
        "warm_up": 1,
        "commands": {
            name: {"seconds": statistics.median(laps), "fastest": min(laps), "slowest": max(laps)}
            for name, laps in taken.items()
        },
        "provenance": {
            "source_hash": provenance.source_hash(),
            "commit": provenance.commit(),
            "versions": provenance.versions(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }


def table(result: dict) -> str:
    """The medians as a Markdown table, slowest first."""
    lines = ["| command | seconds |", "|---|---:|"]
    for name, row in sorted(result["commands"].items(), key=lambda item: -item[1]["seconds"]):
        lines.append(f"| {name if name.startswith('(') else f'`{name}`'} | {row['seconds']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what it costs to start the commands.")
    parser.add_argument("--repeats", type=int, default=3, help="measured rounds (default: 3)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "startup.json")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error("--repeats: expected at least 1")
    result = measure(verbs(), args.repeats)
    write_json(args.out, result)
    print(table(result))


if __name__ == "__main__":
    in_one_line(main)
