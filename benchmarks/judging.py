"""How fast folders of images are judged, and in how much memory.

    python benchmarks/judging.py [--small 20000] [--large 400]

Paints folders in GenEval's layout, of 48 and of 512 pixels a side, and judges them by ``unigrpo judge mean_reward``
with two cheap rewards: JPEG compressibility, and the mean of all pixels, which stands in this file. Beside them is the
rate at which one thread reads the same pictures and does nothing else. Rates are without start-up, which is the same
command on a folder with one picture. Prints a table in Markdown and writes all of it as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from unigrpo.core.errors import UserError, in_one_line
from unigrpo.core.files import write_json
from unigrpo.sampling.pictures import read_picture
from unigrpo.study import provenance
from unigrpo.study.provenance import ROOT

VARIABLES = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
LEVEL = """from unigrpo.study.facts import RewardFacts
FACTS = RewardFacts(what="mean of all pixels", range=(0.0, 1.0))
def build():
    return lambda images, prompts: images.mean((1, 2, 3))
"""
JUDGE = "import rewards, sys; rewards.__path__.append({!r}); from unigrpo.__main__ import main; main()"
EACH = 4  # images of a prompt
COARSE = 8  # times that noise is enlarged to a picture: its PNG file is then as large as a painting's


class Spent(NamedTuple):
    """Seconds of real and of processor time (user and system), and largest resident memory in MB."""

    wall: float
    processor: float
    memory: float


def paint(root: Path, count: int, side: int) -> Path:
    """A folder of ``count`` pictures in GenEval's layout."""
    rng = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"{number // EACH:05d}"
        if number % EACH == 0:
            (folder / "samples").mkdir(parents=True)
            meta = {"tag": "any", "prompt": f"a photo of thing {number // EACH}"}
            (folder / "metadata.jsonl").write_text(json.dumps(meta) + "\n")
        coarse = rng.integers(0, 255, (side // COARSE, side // COARSE, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        picture.save(folder / "samples" / f"{number % EACH:04d}.png")
    return root


def judged(images: Path, reward: str, own: Path, out: Path) -> Spent:
    """The command, in a process of its own. Raises UserError where it fails."""
    arguments = ["judge", "mean_reward", "--images", str(images), "--reward", reward, "--out", str(out)]
    begun = time.perf_counter()
    command = [sys.executable, "-c", JUDGE.format(str(own)), *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=VARIABLES, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise UserError(f"unigrpo {' '.join(arguments)}: ended with status {status}")
    return Spent(time.perf_counter() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def decoded(images: Path) -> Spent:
    """All pictures, read one after another in this process."""
    paths = sorted(images.rglob("*.png"))
    begun, used = time.perf_counter(), time.process_time()
    for path in paths:
        read_picture(path)
    return Spent(time.perf_counter() - begun, time.process_time() - used, 0.0)


def measure(sizes: dict[int, int]) -> list[dict]:
    """A row a size (pixels a side -> pictures) and reward."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "own").mkdir()
        (folder / "own" / "level.py").write_text(LEVEL)
        for side, count in sizes.items():
            one, images = paint(folder / f"one{side}", 1, side), paint(folder / f"{side}", count, side)
            for reward in ("jpeg", "level"):
                alone = decoded(images)
                start = judged(one, reward, folder / "own", folder / f"start.{side}.{reward}")
                whole = judged(images, reward, folder / "own", folder / f"out.{side}.{reward}")
                row = {"side": side, "images": count, "reward": reward, "memory": round(whole.memory)}
                for kind in ("wall", "processor"):
                    seconds = getattr(whole, kind) - getattr(start, kind)
                    row |= {f"{kind}_start": getattr(start, kind), f"{kind}_rate": count / seconds}
                    row |= {f"{kind}_decoding": count / getattr(alone, kind)}
                rows.append(row)
    return rows


def table(recorded: dict) -> str:
    """Its rows as Markdown."""
    kinds = {"wall": "real", "processor": "processor"}
    heads = [f"{what}, {of} time" for of in kinds.values() for what in ("images/s", "of decoding alone")]
    lines = [f"| pixels | reward | {' | '.join(heads)} | MB |", f"|---:|---|{'---:|' * (len(heads) + 1)}"]
    for row in recorded["rows"]:
        cells = [f"{row[f'{k}_rate']:,.0f} | {row[f'{k}_rate'] / row[f'{k}_decoding']:.0%}" for k in kinds]
        lines.append(f"| {row['side']} | {row['reward']} | {' | '.join(cells)} | {row['memory']} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast folders of images are judged.")
    parser.add_argument("--small", type=int, default=20_000, help="pictures of 48 pixels (default: 20000)")
    parser.add_argument("--large", type=int, default=400, help="pictures of 512 pixels (default: 400)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "judging.json")
    args = parser.parse_args()
    if min(args.small, args.large) < EACH:
        parser.error(f"--small, --large: expected at least {EACH}")
    rows = measure({48: args.small, 512: args.large})
    made = {"source_hash": provenance.source_hash(), "commit": provenance.commit(), "versions": provenance.versions()}
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    recorded = {"rows": rows, "load": os.getloadavg(), "provenance": made | {"finished": finished}}
    write_json(args.out, recorded)
    print(table(recorded))


if __name__ == "__main__":
    in_one_line(main)
