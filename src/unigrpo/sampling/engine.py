"""The one sampler: prompts become traces and images, for rollouts, validation, choices and evaluation alike.

A job is one image. Its draws come from streams named by the job, so it is the same whatever else is sampled with it,
and a process draws for its own jobs only. Work is done in parts that a memory budget allows: many rows write text
together, fewer are painted together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from unigrpo.core import distributed, seeding
from unigrpo.core.records import Prompt
from unigrpo.models.base import Trace, UnifiedModel
from unigrpo.objectives import flow
from unigrpo.sampling import decoding_file
from unigrpo.sampling.painting import Contexts, Guidance, contexts, evaluations, guidance_of, paint
from unigrpo.study.config import SamplingConfig

Name = tuple[str | int, ...]  # of a stream of draws, below a seed and the purpose
Jobs = list[tuple[Prompt, int]]  # images to make: of a prompt, the sample number


@dataclass(frozen=True)
class Job:
    """One image to make. ``text`` names the draws of its trace (None: painted without one), ``start`` those of its
    initial noise, ``name`` all others. Jobs of one prompt with one ``text`` have one trace; equal starts are equal. A
    ``trace`` that is given takes the place of one that is written; then all jobs have one."""

    prompt: Prompt
    text: Name | None
    start: Name
    name: Name
    trace: str | None = None


@dataclass(frozen=True)
class Manner:
    """How jobs are done: ``temperature`` of the text (0 = greedy), ``max_tokens`` of a trace, the time grid ``times``
    (N+1,) on the CPU, guidance, and the ``memory`` in bytes that a part may take."""

    temperature: float
    max_tokens: int
    times: Tensor
    guidance: Guidance
    memory: int


@dataclass(frozen=True)
class Start:
    """B jobs with their traces (None where no job has one) and without an image yet; x (B, N, token_dim) noise."""

    jobs: tuple[Job, ...]
    prompt_ids: list
    trace: Trace | None
    seen: Contexts
    x: Tensor

    def select(self, rows: list[int]) -> Start:
        index = torch.tensor(rows, device=self.x.device)
        trace = None if self.trace is None else self.trace.select(index)
        seen = {name: context.select(index) for name, context in self.seen.items()}
        return Start(tuple(self.jobs[i] for i in rows), [self.prompt_ids[i] for i in rows], trace, seen, self.x[index])


def normal(seed: int, purpose: str, names: Sequence[Name], shape: Sequence[int]) -> Tensor:
    """Standard normal numbers (len(names), *shape) on the CPU, a stream each."""
    return torch.stack([torch.randn(shape, generator=seeding.generator(seed, purpose, *name)) for name in names])


@torch.no_grad()
def think(model: UnifiedModel, jobs: Sequence[Job], manner: Manner, seed: int) -> Start:
    """Write the traces of B jobs, each once, and draw their initial noise."""
    prompt_ids = model.prompt_ids([job.prompt.text for job in jobs])
    keys = [None if job.text is None else (job.prompt.text, *job.text) for job in jobs]
    first = {key: i for i, key in reversed(list(enumerate(keys))) if key is not None}  # which row writes a trace
    rows = sorted(first.values())
    trace = None
    if jobs[0].trace is not None:
        trace = model.trace_from_texts([job.trace for job in jobs])
        full = model.encode(prompt_ids, trace)[1]
    elif not rows:
        full = model.read_prompts(prompt_ids)
    else:
        draws = [torch.rand(manner.max_tokens, generator=seeding.generator(seed, "text", *jobs[i].text)) for i in rows]
        uniforms = torch.stack(draws).to(model.device) if manner.temperature > 0 else None
        asked = [prompt_ids[i] for i in rows]
        trace, full = model.think(asked, manner.max_tokens, uniforms, manner.temperature)
        if len(rows) < len(jobs):
            place = {i: k for k, i in enumerate(rows)}
            which = torch.tensor([0 if key is None else place[first[key]] for key in keys], device=model.device)
            trace, full = trace.select(which), full.select(which)
            if None in keys:
                without = torch.tensor([key is None for key in keys], device=model.device)
                trace = replace(trace, mask=trace.mask & ~without[:, None])
                full = model.encode(prompt_ids, trace)[1]
    x = normal(seed, "start", [job.start for job in jobs], model.latent_shape).to(model.device)
    return Start(tuple(jobs), prompt_ids, trace, contexts(model, prompt_ids, trace, full, manner.guidance), x)


def at_once(model: UnifiedModel, prompts: Sequence[Prompt], max_tokens: int, memory: int) -> tuple[int, int]:
    """How many rows write together, and how many are painted together, each in half of ``memory`` bytes."""
    sizes = model.row_bytes(model.prompt_ids([prompt.text for prompt in prompts]), max_tokens)
    return tuple(max(1, memory // 2 // size) for size in sizes)


def parts(model: UnifiedModel, jobs: Sequence[Job], manner: Manner, seed: int) -> Iterator[Start]:
    """All jobs in order, begun, as many together as are painted together. Jobs that share a trace begin together."""
    if not jobs:
        return
    tokens = manner.max_tokens if any(job.text is not None or job.trace is not None for job in jobs) else 0
    writing, painting = at_once(model, [job.prompt for job in jobs], tokens, manner.memory)
    start = 0
    while start < len(jobs):
        end = min(start + max(writing, painting), len(jobs))
        while end < len(jobs) and jobs[end].text is not None and jobs[end].text == jobs[end - 1].text:
            end += 1
        begun = think(model, jobs[start:end], manner, seed)
        if tokens and begun.trace is None:  # others have one
            empty = torch.zeros(end - start, 0, device=model.device)
            begun = replace(begun, trace=Trace(empty.long(), empty.bool(), empty))
        for row in range(0, end - start, painting):
            yield begun.select(list(range(row, min(row + painting, end - start))))
        start = end


# ------------------------------------------------------------------------------------------------------ evaluation


@dataclass(frozen=True)
class Decoding:
    """Knobs of sampling. guidance 1 = none; temperature of the text, 0 = greedy, None where none is written."""

    thinking: bool
    guidance: float
    temperature: float | None


def read_decoding(path: str | Path) -> dict[str, Decoding]:
    """The choice in decoding.json of each mode, ``think`` and ``direct``, which has no temperature. Raises UserError
    naming a key that is missing or out of range."""
    file = decoding_file.read(path)
    think = Decoding(True, file.think.guidance, file.think.temperature)
    return {"think": think, "direct": Decoding(False, file.direct.guidance, None)}


@dataclass(frozen=True)
class Samples:
    """images (n, H, W, 3) uint8; traces, None without thinking; network evaluations spent on images."""

    images: np.ndarray
    traces: list[str | None]
    model_evaluations: int


def sample(
    model: UnifiedModel, jobs: Jobs, settings: SamplingConfig, decoding: Decoding, seed: int, progress: str = ""
) -> Samples | None:
    """One image per (prompt, sample number). The noise and the text draws of a job depend on nothing else, so the
    same prompt and sample number start alike for every run. Each process makes its share of the jobs; the main process
    gets the samples of all, the others None. ``progress`` names a progress bar."""
    made = sample_guided(model, jobs, settings, [decoding], seed, progress)
    return made and made[0]


@torch.no_grad()
def sample_guided(
    model: UnifiedModel,
    jobs: Jobs,
    settings: SamplingConfig,
    decodings: list[Decoding],
    seed: int,
    progress: str = "",
    traces: Sequence[str] | None = None,
) -> list[Samples] | None:
    """What :func:`sample` returns for each of ``decodings``, which differ in guidance alone: one text does for all.
    ``traces`` (len(jobs)) are painted after in place of texts of the model's."""
    times = flow.time_grid(settings.steps, settings.shift, settings.grid)
    guidances = [guidance_of(settings, decoding.guidance) for decoding in decodings]
    widest = max(guidances, key=lambda guidance: len(guidance.branches))
    memory = settings.memory * 2**20
    manner = Manner(decodings[0].temperature, settings.max_trace_tokens, times, widest, memory)
    mine = distributed.share([*zip(jobs, traces or [None] * len(jobs), strict=True)])
    writes = decodings[0].thinking and traces is None
    named = [Job(p, (p.id, k) if writes else None, (p.id, k), (p.id, k), trace) for (p, k), trace in mine]
    made: list[tuple[list[np.ndarray], list[str | None]]] = []  # images by scale, and traces, of each part
    with tqdm(total=len(mine), desc=progress, disable=not progress or not distributed.is_main(), mininterval=5) as bar:
        for begun in parts(model, named, manner, seed):
            painted = [model.decode(paint(model, begun.seen, begun.x, times, g)[0]) for g in guidances]
            images = [(x.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy() for x in painted]
            written = [None] * len(begun.jobs) if begun.trace is None else model.trace_texts(begun.trace)
            made.append((images, written))
            bar.update(len(begun.jobs))
    everyone = distributed.collect_in_main(made)
    if not distributed.is_main():
        return None
    texts = [text for _, written in everyone for text in written]
    return [
        Samples(np.concatenate([images[i] for images, _ in everyone]), texts, len(jobs) * evaluations(times, guidance))
        for i, guidance in enumerate(guidances)
    ]
