"""What is there: a checkpoint by its files, two runs side by side, the machine. Nothing is loaded."""

import json
import math
import os
import platform
from collections.abc import Callable
from pathlib import Path

from unigrpo.core.errors import UserError, reading
from unigrpo.core.files import digest, read_json
from unigrpo.core.settings import flat
from unigrpo.models.checkpoint import backbone_of
from unigrpo.study import provenance

ABSENT = "-"  # that side of a comparison says nothing of it


def parameters(path: Path, part_of: Callable[[str], str | None]) -> tuple[dict[str, int], list[str]]:
    """Numbers of parameters in ``text``, ``image`` and ``fixed`` (codec, position tables, what reads pictures), and the
    types they are stored in; of adapters, what is in the file. ``part_of``: the backbone's. Raises UserError for a
    file that is absent, damaged or not of this network."""
    from unigrpo.core.tensor_files import open_tensors

    counts, kinds = {"text": 0, "image": 0, "fixed": 0}, set()
    with open_tensors(path) as file:
        for name in file.keys():  # noqa: SIM118
            part = file.get_slice(name)
            if (owner := part_of(name)) is None:
                raise UserError(f"{path}: unexpected tensor {name}, expected those of a unigrpo model")
            counts[owner] += math.prod(part.get_shape())
            kinds.add(part.get_dtype())
    return counts, sorted(kinds)


def checkpoint(folder: Path) -> dict:
    """What a checkpoint is and where it comes from; None for what the folder does not record."""
    backbone = backbone_of(folder)
    card = read_json(folder / "model.json", "image_size", *backbone.TELLS)
    with reading(folder / "model.json", "the card of a model"):
        what = backbone.summary(card)
    weights = provenance.weights_file(folder)
    counts, kinds = parameters(weights, backbone.part_of)
    record, config = provenance.read_record(folder), provenance.configuration(folder)
    return {
        "what": what,
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


def checkpoint_lines(facts: dict) -> list[str]:
    """The facts of :func:`checkpoint` as lines for people."""
    n, none = facts["parameters"], "not recorded"
    origin = ", ".join(f"{key} {none if facts[key] is None else facts[key]}" for key in ("run", "seed", "stage"))
    settings = none if facts["config"] is None else f"{len(flat(facts['config']))} settings (see --json)"
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


def compare(a: dict, b: dict, everything: bool = False) -> list[tuple[str, str, str]]:
    """(key, value of a, value of b) as JSON, in a's order, then what only b has; equal ones with ``everything``."""
    sides = flat(a), flat(b)
    rows = [(key, *(json.dumps(s[key]) if key in s else ABSENT for s in sides)) for key in sides[0] | sides[1]]
    return [(key, one, other) for key, one, other in rows if everything or one != other]


def side_by_side(run_a: Path, run_b: Path, everything: bool = False) -> list[str]:
    """Lines for people: what differs between two runs, or all with ``everything``. Raises UserError for no run."""
    folders = (run_a, run_b)
    (_, a), (_, b) = map(provenance.needed_configuration, folders)
    records = map(provenance.read_record, folders)
    made = [{key: record[key] for key in provenance.PROVENANCE if key in record} for record in records]
    lines = []
    for title, pair in (("settings", (a, b)), ("provenance", made)):
        rows = compare(*pair, everything)
        widths = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
        lines.append(title if rows else f"{title}: no difference")
        lines += [f"  {key:<{widths[0]}}  {one:<{widths[1]}}  {other}" for key, one, other in rows]
    return lines


def machine() -> dict:
    """Code, versions, devices (memory in MB) and threads."""
    import torch  # alone knows which devices it can use

    cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    devices = {"cpu": {"name": platform.processor() or platform.machine(), "cores": os.cpu_count()}}
    devices |= {f"cuda:{i}": {"name": p.name, "memory_mb": p.total_memory // 2**20} for i, p in enumerate(cards)}
    return {
        "commit": provenance.commit(),
        "source_hash": provenance.source_hash(),
        "platform": platform.platform(),
        "versions": provenance.versions(),
        "devices": devices,
        "threads": {"torch": torch.get_num_threads(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")},
    }


def machine_lines(described: dict) -> list[str]:
    """The facts of :func:`machine` as lines for people."""
    rows = []
    for name, value in described.items():
        facts = [f"{k} {v}" for k, v in flat(value).items()] if isinstance(value, dict) else [str(value)]
        rows += [f"{name if i == 0 else '':<13}{fact}" for i, fact in enumerate(facts)]
    return rows
