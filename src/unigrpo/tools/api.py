"""The suite from Python: ``unigrpo.load("assets/base").generate("a photo of a red circle").judge()``."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.core.settings import from_dict, replace, require
from unigrpo.models import checkpoint
from unigrpo.models.base import UnifiedModel
from unigrpo.sampling.engine import Decoding, Samples, sample
from unigrpo.sampling.validation_set import judge_each
from unigrpo.study import provenance
from unigrpo.study.config import SamplingConfig
from unigrpo.training.launch import hold
from unigrpo.world.prompts import make_prompt, read_statement

GAP = 2  # pixels between the images of a sheet
LONGEST = 1000  # tokens of a trace of a model that no run says more of
LEAST = {"guidance": 1, "temperature": 0, "steps": 2, "seed": 0}  # of each option


@dataclass(frozen=True)
class Painting:
    """An ``image`` (RGB) for a ``prompt``, and the ``trace`` that was written before it; None without thinking."""

    prompt: Prompt
    trace: str | None
    image: Image.Image

    def judge(self, reward: str | None = None, **options) -> dict[str, float]:
        """The verdict of the synthetic world: ``gold`` and ``soft`` in [0, 1], ``strict`` and ``official`` (GenEval's)
        0 or 1, ``artefact``, the share of the area that is no object, and ``trace_correct`` where there is a trace.
        With the name of a file in ``rewards/``, what that reward says, built with ``options`` (``path`` of a learned
        one). Raises UserError for a prompt that states nothing, and an unknown reward."""
        pixels = np.asarray(self.image)[None]  # (1, H, W, 3) uint8
        if reward is None:
            if not self.prompt.meta.get("include"):
                raise UserError(f"prompt {self.prompt.text!r}: expected the wording of the synthetic world's prompts")
            rows, _ = judge_each([(self.prompt, 0)], Samples(pixels, [self.trace], 0))
            return rows[0]
        from unigrpo.judges import reward as rewards

        images = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            return {reward: rewards.load(reward, **options)(images, [self.prompt]).item()}


judge = Painting.judge


@dataclass(frozen=True)
class Model:
    """A loaded checkpoint, and the ``settings`` and the ``precision`` that it samples in."""

    network: UnifiedModel
    settings: SamplingConfig = field(default_factory=SamplingConfig)
    precision: str = "no"

    def generate(self, prompt: str, **options) -> Painting:
        """Think about ``prompt`` and paint it. ``options`` are those of :meth:`generate_all`."""
        return self.generate_all([(as_prompt(prompt), 0)], **options)[0]

    def generate_all(
        self,
        jobs: Sequence[tuple[Prompt, int]],
        *,
        thinking: bool = True,
        guidance: float = 1.0,
        temperature: float = 1.0,
        steps: int | None = None,
        seed: int = 0,
    ) -> list[Painting]:
        """A painting of each (prompt, sample number). ``thinking``: write a trace first; ``temperature`` of its text, 0
        is greedy; ``guidance``: scale of classifier-free guidance, 1 is none; denoising ``steps``, None: those of
        ``settings``; ``seed`` of text and noise. Raises UserError for an option out of range and for a prompt that the
        model cannot read."""
        steps = self.settings.steps if steps is None else steps
        given = {"guidance": guidance, "temperature": temperature, "steps": steps, "seed": seed}
        for name, value in given.items():
            if not LEAST[name] <= value < math.inf:
                raise UserError(f"{name}: expected at least {LEAST[name]}, got {value}")
        decoding = Decoding(thinking, guidance, temperature)
        with torch.autocast(self.network.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            samples = sample(self.network, list(jobs), replace(self.settings, steps=steps), decoding, seed)
        parts = zip(jobs, samples.traces, samples.images, strict=True)
        return [Painting(prompt, trace, Image.fromarray(image)) for (prompt, _), trace, image in parts]


def load(
    folder: str | Path, device: str | None = None, precision: str | None = None, max_tokens: int | None = None
) -> Model:
    """The model in ``folder``: a run, an exported one, or ``assets/base``. ``device`` is cpu, cuda or auto, CUDA where
    there is one; ``precision`` no (fp32) or bf16; ``max_tokens`` the longest trace. What is None is as in the run's
    configuration, where the folder has one, else auto, bf16 on CUDA alone, and 1000. Raises UserError for a folder that
    is no model and for an option out of range."""
    _, run = provenance.configuration(Path(folder)) or ("", {})
    found = torch.cuda.is_available()
    device = device or ("auto" if run.get("device") == "cuda" and not found else run.get("device", "auto"))
    require(device in ("auto", "cpu", "cuda"), "device", f"auto, cpu or cuda, got {device}")
    require(device != "cuda" or found, "device", "cpu on this machine, which has no CUDA device")
    on_cuda = device != "cpu" and found
    precision = precision or run.get("precision", "bf16" if on_cuda else "no")
    require(precision in ("no", "bf16"), "precision", f"no or bf16, got {precision}")
    settings = {key: value for key, value in run.get("sampling", {}).items() if key in SamplingConfig.model_fields}
    longest = settings.get("max_trace_tokens", LONGEST) if max_tokens is None else max_tokens
    sampling = from_dict(SamplingConfig, settings | {"max_trace_tokens": longest}, "sampling")
    model = checkpoint.load_model(Path(folder), torch.device("cuda" if on_cuda else "cpu")).eval()
    if precision == "bf16":
        hold(model, torch.bfloat16)
    return Model(model, sampling, precision)


def as_prompt(text: str) -> Prompt:
    """A text as a prompt: with what it states, where it is worded as the world's prompts are."""
    statement = read_statement(text)
    return Prompt("prompt", text, "custom", {}) if statement is None else make_prompt("prompt", "custom", statement)


def picture_sheet(images: Sequence[Image.Image], columns: int, enlarge: int) -> Image.Image:
    """Images of one size in rows of ``columns``, each enlarged by an integer factor."""
    width, height = images[0].size
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * (width + GAP), i // columns * (height + GAP)))
    return sheet.resize((sheet.width * enlarge, sheet.height * enlarge), Image.Resampling.BICUBIC)


def picture_format(path: Path) -> str:
    """The format that the ending of ``path`` names. Raises UserError for one that no picture can be written in."""
    try:
        name = Image.registered_extensions()[path.suffix.lower()]
        Image.new("RGB", (1, 1)).save(io.BytesIO(), format=name)
    except (KeyError, OSError, ValueError):
        raise UserError(f"--out {path}: expected the ending of a picture format, such as .png") from None
    return name
