"""The whole workflow, started safely: ``python -m unigrpo.tools.reproduce --scale cpu --cores 2``.

One run at a time holds ``results/.lock``. Only its holder may release the lock that a killed Snakemake leaves
behind, so an interrupted reproduction is continued by typing the same command again. Ends by printing where
the results are.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from unigrpo.core import cli, files

ROOT = Path(__file__).resolve().parents[3]


def main() -> None:
    parser = cli.parser(
        "unigrpo.tools.reproduce", "Make everything of a scale, safely: an interrupted call is continued."
    )
    parser.add_argument("--scale", default="cpu", help="file in pipelines/scales")
    parser.add_argument("--cores", type=int, default=2, help="CPU cores to use")
    parser.add_argument("--seeds", type=int, help="number of seeds (default: the scale's)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--run", help="make only this run and its scores")
    what.add_argument("--group", help="make the tables and figures of this group, and the claims")
    what.add_argument("--ship-base", action="store_true", help="train the base and put it into assets/base")
    args = parser.parse_args()

    options, target = {"scale": args.scale}, "all"
    if args.seeds is not None:
        options["seeds"] = args.seeds
    if args.run:
        options["run"], target = args.run, "one_run"
    if args.group:
        options["group"], target = args.group, "one_group"
    if args.ship_base:
        target = "ship_base"
    snakemake = [sys.executable, "-m", "snakemake", "--cores", str(args.cores)]
    settings = ["--config", *(f"{key}={value}" for key, value in options.items())]
    with files.exclusive(ROOT / "results" / ".lock") as lock:
        if any((ROOT / ".snakemake" / "locks").glob("*")):
            _call([*snakemake, "--unlock", *settings], lock)
        _call([*snakemake, target, *settings], lock)
    print(_places(Path("results") / args.scale, args))


def _call(command: list[str], lock: int) -> None:
    """Run ``command`` in the checkout, holding the lock as long as it lives; exit with its error code."""
    child = subprocess.Popen(command, cwd=ROOT, pass_fds=[lock])
    # An interrupt from the terminal reaches the child too: let that end in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    if child.wait() != 0:
        raise SystemExit(child.returncode if child.returncode > 0 else 128 - child.returncode)


def _places(results: Path, args: argparse.Namespace) -> str:
    if args.ship_base:
        return "\nbase     assets/base"
    if args.run:
        return f"\nrun      {results}/runs/{args.run}/seed*/"
    places = {"claims": "claims.md", "tables": "tables/", "figures": "figures/", "gallery": "gallery/index.html"}
    return "\n" + "\n".join(f"{what:8} {results}/{place}" for what, place in places.items())


if __name__ == "__main__":
    cli.run(main)
