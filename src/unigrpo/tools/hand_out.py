"""Sample folders for another program to fill.

For each benchmark it writes ``<benchmark>.direct.tuned/`` with protocol.json and a manifest that names, for every
prompt and sample, the picture that is expected: ``{"image": "00000.png", "prompt": ...}``. Once the pictures are there,
the folder is judged like those of our runs.
"""

from __future__ import annotations

import json
from pathlib import Path

from unigrpo.core.files import write_json, write_text
from unigrpo.world import prompts as world_prompts


def lines(benchmark: str, images_per_prompt: int) -> list[dict]:
    """The manifest of a benchmark, in the order of its prompts; images per prompt as in our runs."""
    jobs = world_prompts.evaluation_jobs(benchmark, images_per_prompt)
    return [
        {"image": f"{i:05d}.png", "prompt_id": p.id, "prompt": p.text, "tag": p.tag, "meta": p.meta, "sample": k}
        for i, (p, k) in enumerate(jobs)
    ]


def hand_out(out: Path, images_per_prompt: int) -> list[str]:
    """Write the folders into ``out``; returns a line about each."""
    summary = []
    for benchmark in world_prompts.BENCHMARKS:
        folder = out / f"{benchmark}.direct.tuned"
        described = {"benchmark": benchmark, "version": world_prompts.VERSION, "mode": "direct"}
        write_json(folder / "protocol.json", described | {"guidance_name": "tuned"})
        rows = lines(benchmark, images_per_prompt)
        write_text(folder / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        summary.append(f"{folder}: {len(rows)} pictures expected, named in manifest.jsonl")
    return summary
