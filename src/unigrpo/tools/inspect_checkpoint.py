"""What a checkpoint is, read from its files without loading it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from unigrpo.core.errors import UserError
from unigrpo.core.files import digest, read_json
from unigrpo.models.backbones import backbone_of
from unigrpo.study import run_folder


def parameters(path: Path, part_of: Callable[[str], str | None]) -> tuple[dict[str, int], list[str]]:
    """Numbers of parameters in ``text``, ``image`` and ``fixed`` (codec, position tables, what reads pictures), and the
    types they are stored in; of adapters, what is in the file. ``part_of``: the backbone's. Raises UserError for a
    file that is absent, damaged or not of this network."""
    counts, kinds = {"text": 0, "image": 0, "fixed": 0}, set()
    try:
        with safe_open(path, "numpy") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                if (owner := part_of(name)) is None:
                    raise UserError(f"{path}: unexpected tensor {name}, expected those of a unigrpo model")
                counts[owner] += math.prod(part.get_shape())
                kinds.add(part.get_dtype())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a complete safetensors file ({error})") from None
    return counts, sorted(kinds)


def describe(folder: Path) -> dict:
    """Everything that the command shows; None for what the folder does not record."""
    backbone = backbone_of(folder)
    card = read_json(folder / "model.json", "image_size", *backbone.TELLS)
    weights = run_folder.weights(folder)
    counts, kinds = parameters(weights, backbone.part_of)
    record, config = run_folder.record(folder), run_folder.configuration(folder)
    return {
        "what": backbone.summary(card),
        **{key: card[key] for key in backbone.TELLS},
        "image_size": card["image_size"],
        **{key: card.get(key) for key in ("run", "seed", "stage")},
        **{key: record.get(key) for key in ("parent", "commit", "source_hash", "versions", "finished")},
        "config": None if config is None else config[1],
        "parameters": counts,
        "stored_as": kinds,
        "bytes": weights.stat().st_size,
        "sha256": digest(weights),
    }


def lines(facts: dict) -> list[str]:
    """The facts of :func:`describe` as lines for people."""
    n, none = facts["parameters"], "not recorded"
    origin = ", ".join(f"{key} {none if facts[key] is None else facts[key]}" for key in ("run", "seed", "stage"))
    settings = none if facts["config"] is None else f"{len(run_folder.flat(facts['config']))} settings (see --json)"
    rows = {
        "what": f"{facts['what']}, images of {facts['image_size']} x {facts['image_size']} pixels",
        "from": f"{origin}, parent {facts['parent'] or none}",
        "commit": facts["commit"] or none,
        "finished": facts["finished"] or none,
        "config": settings,
        "parameters": f"reasoning expert {n['text']:,}, denoising expert {n['image']:,}, fixed {n['fixed']:,}",
        "file": f"{facts['bytes']:,} bytes, {' and '.join(facts['stored_as'])}",
        "sha256": facts["sha256"],
    }
    return [f"{name:<12}{value}" for name, value in rows.items()]
