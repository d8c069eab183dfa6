"""A trained run made shippable: weights in half precision, with the record of the training."""

from __future__ import annotations

from pathlib import Path

from unigrpo.core import files
from unigrpo.models import checkpoint


def ship(run: Path, out: Path) -> None:
    """Write the finished run in ``run`` to ``out``. Raises UserError where it lacks something."""
    card = files.read_json(run / "model.json")
    of_model = ("format", "architecture", "codec", "image_size")
    info = {key: value for key, value in card.items() if key not in of_model}
    records = {name: files.read_text(run / name) for name in ("metrics.jsonl", "run.json")}
    checkpoint.save_model(checkpoint.load_model(run), out, info, half=True)
    for name, text in records.items():
        files.write_text(out / name, text)
