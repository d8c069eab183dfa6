"""Make a trained run shippable: ``python -m unigrpo.ship --run RUN --out assets/base``.

The weights are stored in half precision; the record of the training goes with them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from unigrpo import checkpoint, cli, files


def main() -> None:
    parser = argparse.ArgumentParser(prog="unigrpo.ship", description=__doc__.split(":")[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of the finished run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    card = files.read_json(args.run / "model.json")
    own = ("format", "architecture", "codec", "image_size")
    info = {key: value for key, value in card.items() if key not in own}
    records = {name: files.read_text(args.run / name) for name in ("metrics.jsonl", "run.json")}
    checkpoint.save_model(checkpoint.load_model(args.run), args.out, info, half=True)
    for name, text in records.items():
        files.write_text(args.out / name, text)


if __name__ == "__main__":
    cli.run(main)
