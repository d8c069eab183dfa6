"""Images that another program has made, as the sample sets of a run: from then on they are judged, tabulated, compared
and shown like those of a trained one.

An image belongs to every benchmark that has its prompt (text and tag). Of each prompt as many are taken as our runs
have, in the order in which they lie there.
"""

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from evals.instruments.picture_files import Picture, read
from unigrpo.core.errors import UserError
from unigrpo.core.files import new_folder, write_json, write_text
from unigrpo.core.records import Prompt
from unigrpo.study import provenance, resolve, standing
from unigrpo.study.benchmark_entry import Benchmark, of_group
from unigrpo.study.catalogue import BASE
from unigrpo.world.prompts import prompt_hash

SHOWN = 3  # prompts without an image that a message names

Chosen = Sequence[tuple[Prompt, int, Picture]]
"""Our prompt, number of the sample, image."""


def take(study: resolve.Study, run: str, seed: int, path: Path, out: Path) -> list[str]:
    """Write the images at ``path`` as the sets of ``run`` at ``seed`` below ``out``, in place of those there, and
    run.json beside it; returns a line about each. Raises UserError for an image that cannot be read or differs in size,
    and for prompts with fewer images than others, unless the run's line says that it is partial."""
    line, about, digests = study.catalogue["runs"][run], [], {}
    found, pictures = read(path), defaultdict(list)
    if found.broken:
        raise UserError(f"{path}: {found.broken[0][0]}: {found.broken[0][1]}")
    (out / "done.json").unlink(missing_ok=True)
    for old in out.glob("*/manifest.jsonl"):
        shutil.rmtree(old.parent)
    for picture in found.pictures:
        pictures[picture.prompt.key].append(picture)
    sampling = study.resolve(BASE).sampling
    for name, entry in of_group(study.catalogue["benchmarks"]).items():
        pool, jobs = entry.pool(), entry.jobs(sampling.images_per_prompt)
        mine = {prompt.id: pictures.get(prompt.key) or pictures.get((prompt.key[0], ""), []) for prompt in pool}
        chosen = [(prompt, k, mine[prompt.id][k]) for prompt, k in jobs if k < len(mine[prompt.id])]
        most, wanted = max(map(len, mine.values())), Counter(prompt.id for prompt, _ in jobs)
        lacking = [prompt.text for prompt in pool if len(mine[prompt.id]) < max(1, min(most, wanted[prompt.id]))]
        had = sum(map(bool, mine.values()))
        about.append(f"{name}: {had} of {len(pool)} prompts, {len(chosen)} of {len(jobs)} images")
        if lacking and not line["partial"]:
            texts = "; ".join(lacking[:SHOWN])
            raise UserError(f"{path}: {about[-1]}, expected all, or partial: true in the line; too few of: {texts}")
        if chosen:
            folder = f"{name}.{resolve.MODES[line['thinking']]}.tuned"
            side = study.resolve(BASE).model.image_size if entry.verdict else None
            part = about[-1].removeprefix(f"{name}: ") if lacking else ""
            lossy = _write(out / folder, chosen, side, _protocol(name, entry, pool, folder, path) | {"part": part})
            about[-1] += f", {lossy} of them from lossy files" * bool(lossy)
            digests[folder] = standing.content(out / folder)
    if not digests:
        raise UserError(f"{path}: has no image of a prompt of ours; `unigrpo prompts world` writes them")
    write_json(out / "done.json", {"sets": [*digests], "digests": digests})
    record = {"run": run, "seed": seed, "scale": study.scale_name, "parent": None, "outside": "; ".join(about)}
    made = {"source_hash": provenance.source_hash(), "commit": provenance.commit()}
    write_json(out.parent / "run.json", record | made | {"config": study.config(run, seed)})
    return about


def wanted(study: resolve.Study) -> list[dict]:
    """GenEval's metadata of every prompt of the catalogue's benchmarks, with the number of ``images`` wanted."""
    rows: dict[tuple, dict] = {}
    for entry in of_group(study.catalogue["benchmarks"]).values():
        for prompt, k in entry.jobs(study.resolve(BASE).sampling.images_per_prompt):
            about = {"tag": prompt.tag} | prompt.meta | {"prompt": prompt.text}
            rows[prompt.key] = about | {"images": max(k + 1, rows.get(prompt.key, {}).get("images", 0))}
    return list(rows.values())


def size_wanted(study: resolve.Study) -> str:
    """A line about the size that images must have."""
    side = study.resolve(BASE).model.image_size
    return f"scale {study.scale_name}: {side} x {side} pixels, where the world judges; elsewhere any one size"


def hand_out(rows: Sequence[Mapping], out: Path) -> str:
    """Write metadata in GenEval's layout, for another program to fill; returns a line about it."""
    with new_folder(out) as temporary:
        for number, row in enumerate(rows):
            write_text(temporary / f"{number:05d}" / "metadata.jsonl", json.dumps(row) + "\n")
            (temporary / f"{number:05d}" / "samples").mkdir()
    return f"{out}: {len(rows)} folders; paint the prompt in metadata.jsonl as samples/0000.png and so on, without loss"


def _protocol(name: str, entry: Benchmark, pool: Sequence[Prompt], folder: str, path: Path) -> dict:
    _, mode, guidance = folder.rsplit(".", 2)
    about = {"benchmark": name, "version": entry.version, "prompt_hash": prompt_hash(pool), "prompts": len(pool)}
    return about | {"mode": mode, "guidance_name": guidance, "outside": str(path)}


def _write(folder: Path, chosen: Chosen, side: int | None, protocol: Mapping) -> int:
    """Write a set of images, as files; returns how many were stored with loss."""
    wanted, rows, lossy = None if side is None else (side, side), [], 0
    with new_folder(folder) as temporary:
        for number, (prompt, sample, picture) in enumerate(chosen):
            image, name = picture.open(), f"{number:05d}.png"
            wanted = wanted or image.size
            if image.size != wanted:
                sizes = [f"{width} x {height} pixels" for width, height in (wanted, image.size)]
                raise UserError(
                    f"{picture.name}: expected {sizes[0]}, as the others or the world has, found {sizes[1]}"
                )
            lossy += "lossy" in image.info
            image.save(temporary / name, compress_level=1)
            row = {"image": name, "prompt_id": prompt.id, "prompt": prompt.text, "tag": prompt.tag, "meta": prompt.meta}
            rows.append(row | {"sample": sample, "given_as": picture.name, "trace": picture.trace})
        write_json(temporary / "protocol.json", protocol)
        write_text(temporary / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return lossy
