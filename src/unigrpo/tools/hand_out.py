"""A sample folder for another program to fill: ``python -m unigrpo.tools.hand_out --out RUN/samples``.

For each benchmark it writes ``<benchmark>.direct.tuned/`` with protocol.json and a manifest that names, for every
prompt and sample, the picture that is expected: ``{"image": "00000.png", "prompt": ...}``. Once the pictures are there
the folder is judged like ours.
"""

from __future__ import annotations

import json
from pathlib import Path

from unigrpo.core import cli
from unigrpo.core.files import write_json, write_text
from unigrpo.study.config import SamplingConfig
from unigrpo.world import prompts as world_prompts


def lines(benchmark: str, images_per_prompt: int) -> list[dict]:
    """The manifest of a benchmark, in the order of its prompts; images per prompt as our own runs are given."""
    jobs = world_prompts.evaluation_jobs(benchmark, images_per_prompt)
    return [
        {"image": f"{i:05d}.png", "prompt_id": p.id, "prompt": p.text, "tag": p.tag, "meta": p.meta, "sample": k}
        for i, (p, k) in enumerate(jobs)
    ]


def main() -> None:
    parser = cli.parser(
        "unigrpo.tools.hand_out",
        "Write the prompts of the benchmarks as folders that another program fills with pictures.",
        out="folder of sample sets, results/<scale>/runs/<name>/seed<k>/samples",
    )
    default = SamplingConfig.images_per_prompt
    parser.add_argument("--images-per-prompt", type=int, default=default, metavar="N", help="as the scale's sampling")
    args = parser.parse_args()
    if args.images_per_prompt < 1:
        parser.error("--images-per-prompt: expected at least 1")
    for benchmark in world_prompts.BENCHMARKS:
        folder: Path = args.out / f"{benchmark}.direct.tuned"
        described = {"benchmark": benchmark, "version": world_prompts.VERSION, "mode": "direct"}
        write_json(folder / "protocol.json", described | {"guidance_name": "tuned"})
        rows = lines(benchmark, args.images_per_prompt)
        write_text(folder / "manifest.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        print(f"{folder}: {len(rows)} pictures expected, named in manifest.jsonl")


if __name__ == "__main__":
    cli.run(main)
