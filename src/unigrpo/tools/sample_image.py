"""A sampler for people: prints the reasoning trace and writes the picture.

``python -m unigrpo.tools.sample_image --checkpoint assets/base --prompt "a photo of a red circle and a star" --out x.png``
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from unigrpo.core import cli
from unigrpo.core.errors import UserError
from unigrpo.core.files import replacing
from unigrpo.core.records import Prompt
from unigrpo.models import checkpoint
from unigrpo.sampling.engine import Decoding, sample
from unigrpo.study.config import SamplingConfig
from unigrpo.world.prompts import read_prompts

GAP = 2  # pixels between the images of a grid


def contact_sheet(images: np.ndarray, columns: int, enlarge: int) -> Image.Image:
    """Images (n, H, W, 3) uint8 in rows of ``columns``, each enlarged by a whole factor."""
    n, height, width, _ = images.shape
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    return Image.fromarray(sheet).resize((sheet.shape[1] * enlarge, sheet.shape[0] * enlarge), Image.Resampling.BICUBIC)


def picture_format(path: Path) -> str:
    """The format that the ending of ``path`` names. Raises UserError for one that no picture can be written in."""
    try:
        name = Image.registered_extensions()[path.suffix.lower()]
        Image.new("RGB", (1, 1)).save(io.BytesIO(), format=name)
    except (KeyError, OSError, ValueError):
        raise UserError(f"--out {path}: expected the ending of a picture format, such as .png") from None
    return name


def main() -> None:
    parser = cli.parser(
        "unigrpo.tools.sample_image",
        "Write a trace and paint a picture for a prompt, or for every prompt of a file.",
        checkpoint="model folder: a run, an exported one, or assets/base",
        out="picture to write (its ending chooses the format)",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", help="what to paint")
    what.add_argument(
        "--prompts", type=Path, help="a file with one JSON object a line, its key `prompt`: one image each"
    )
    parser.add_argument("--seed", type=int, default=0, help="of noise and text")
    parser.add_argument("--guidance", type=float, default=1.0, help="classifier-free guidance scale, 1 = none")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the trace, 0 = greedy")
    parser.add_argument("--steps", type=int, default=SamplingConfig.steps, help="denoising steps")
    parser.add_argument("--no-thinking", action="store_true", help="paint from the prompt alone")
    parser.add_argument("--grid", type=int, default=1, metavar="N", help="paint N x N samples of the prompt")
    parser.add_argument("--enlarge", type=int, default=8, help="pixels per pixel in the file")
    args = parser.parse_args()
    for name, low in (
        ("guidance", 1),
        ("temperature", 0),
        ("steps", 2),
        ("grid", 1),
        ("enlarge", 1),
        ("seed", 0),
    ):
        if not low <= getattr(args, name) < math.inf:
            raise UserError(f"--{name}: expected at least {low}, got {getattr(args, name)}")
    picture = picture_format(args.out)
    model = checkpoint.load_model(args.checkpoint).eval()
    if args.prompts is not None:
        jobs = [(prompt, 0) for prompt in read_prompts(args.prompts)]
        columns = math.ceil(math.sqrt(len(jobs)))
        try:
            model.prompt_ids([prompt.text for prompt, _ in jobs])
        except UserError as error:
            raise UserError(f"{args.prompts}: {error}") from None
    else:
        jobs = [(Prompt("prompt", args.prompt, "custom", {}), k) for k in range(args.grid**2)]
        columns = args.grid
    settings = SamplingConfig(steps=args.steps)
    samples = sample(model, jobs, settings, Decoding(not args.no_thinking, args.guidance, args.temperature), args.seed)
    for (prompt, _), trace in zip(jobs, samples.traces, strict=True):
        told = f"{prompt.text}: " if args.prompts is not None else ""
        if told or trace is not None:
            print(f"{told}{trace or ''}")
    with replacing(args.out) as temporary:
        contact_sheet(samples.images, columns, args.enlarge).save(temporary, format=picture)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    cli.run(main)
