"""The workflow, started safely, and what its steps have used.

One run at a time holds ``results/.lock``. Only its holder may release the lock that a killed Snakemake leaves behind,
so that an interrupted reproduction is continued by typing the same command again.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from unigrpo.core import files
from unigrpo.core.errors import UserError
from unigrpo.study.provenance import ROOT


def reproduce(target: str, cores: int, **options: object) -> None:
    """Make ``target`` of the Snakefile in this checkout with ``cores`` CPU cores. ``options`` are those of
    ``--config``, absent where None. Raises SystemExit with Snakemake's exit code where it fails."""
    snakemake = [sys.executable, "-m", "snakemake", "--cores", str(cores)]
    settings = ["--config", *(f"{key}={value}" for key, value in options.items() if value is not None)]
    with files.exclusive(ROOT / "results" / ".lock") as lock:
        if any((ROOT / ".snakemake" / "locks").glob("*")):
            _call([*snakemake, "--unlock", *settings], lock)
        _call([*snakemake, target, *settings], lock)


def _call(command: list[str], lock: int) -> None:
    """Run ``command`` in the checkout, holding the lock as long as it lives; exit with its error code."""
    child = subprocess.Popen(command, cwd=ROOT, pass_fds=[lock])
    # An interrupt from the terminal reaches the child too: let that end in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    if child.wait() != 0:
        raise SystemExit(child.returncode if child.returncode > 0 else 128 - child.returncode)


def collect_steps(folder: Path) -> None:
    """Write ``steps.csv`` into the results of a scale from ``steps/<step>.jsonl``, a row a step: of several
    processes the time of the longest, the sum of their processor times, and the largest memory. Raises UserError where
    there is none."""
    import pandas as pd

    joined = {"seconds": "max", "cpu_seconds": "sum", "max_rss_mb": "max"}
    paths = sorted((folder / "steps").glob("*.jsonl"))
    if not paths:
        raise UserError(f"{folder / 'steps'}: expected a file of each step that has run")
    used = {path.stem: pd.DataFrame(row for _, row in files.read_jsonl(path)).agg(joined) for path in paths}
    table = pd.DataFrame(used.values(), index=pd.Index(used, name="step"))
    files.write_text(folder / "steps.csv", table.round(2).to_csv())
