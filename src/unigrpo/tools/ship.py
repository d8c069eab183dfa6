"""Make a trained run shippable: ``python -m unigrpo.tools.ship --run RUN --out assets/base``.

The weights are stored in half precision; the record of the training goes with them.
"""

from __future__ import annotations

from unigrpo.core import cli, files
from unigrpo.models import checkpoint


def main() -> None:
    parser = cli.parser(
        "unigrpo.tools.ship",
        "Make a trained run shippable: weights in half precision, with the record of the training.",
        run="folder of the finished run",
        out="folder to write",
    )
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
