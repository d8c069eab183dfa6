"""Supervised examples of the world: a prompt, often with its trace, and the scene that an annotator painted for it."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from unigrpo.core import distributed, seeding
from unigrpo.core.records import Prompt
from unigrpo.study.config import LENGTH_BUCKETS, RunConfig, SupervisedConfig
from unigrpo.world import prompts, render, scenes, traces


@dataclass(frozen=True)
class Example:
    """``trace`` is None where the image was painted without one."""

    prompt: str
    trace: str | None
    scene: scenes.Scene


@cache
def training_prompts() -> tuple[tuple[Prompt, ...], ...]:
    """Training prompts by category."""
    pool = prompts.prompt_set("train")
    return tuple(tuple(p for p in pool if p.tag == tag) for tag in dict.fromkeys(p.tag for p in pool))


def imperfection(s: SupervisedConfig, thinking: bool) -> traces.Imperfection:
    """The errors in the data of a stage: those of painting, and with thinking those of traces."""
    painting = traces.Imperfection(painter_habits=s.painter_habits, paint_noise=s.paint_noise)
    return replace(painting, wrong_traces=s.wrong_traces, habitual_errors=s.habitual_errors) if thinking else painting


def annotated(prompt: Prompt, s: SupervisedConfig, rng: np.random.Generator, thinking: bool) -> Example:
    """An example of SFT's data for ``prompt``, whose metadata must say what to paint."""
    trace, scene = traces.annotate(prompt.meta, rng, imperfection(s, thinking))
    return Example(prompt.text, trace if thinking else None, scene)


@dataclass(frozen=True)
class SupervisedData:
    """The data of a supervised stage, as reinforcement may ask for them."""

    settings: SupervisedConfig

    def example(self, prompt: Prompt, rng: np.random.Generator, thinking: bool) -> Example:
        """An example for ``prompt``, with its trace where ``thinking``."""
        return annotated(prompt, self.settings, rng, thinking)

    def times(self, n: int, generator: torch.Generator) -> Tensor:
        """(n,) flow times in (0, 1), as that stage draws them."""
        return training_times(n, self.settings.timestep_shift, generator)


def training_times(n: int, shift: float, generator: torch.Generator) -> Tensor:
    """(n,) flow times: sigmoid of a standard normal, shifted towards noise by t' = s t / (1 + (s - 1) t)."""
    t = torch.randn(n, generator=generator).sigmoid()
    return shift * t / (1 + (shift - 1) * t)


def draw_examples(cfg: RunConfig, step: int) -> list[Example]:
    """The examples of one training step: random captions for the base, training prompts for SFT."""
    s = cfg.supervised
    rng = seeding.numpy_generator(cfg.seed, cfg.stage, "examples", step)
    examples = []
    for _ in range(s.batch_size):
        thinking = rng.random() >= s.no_thinking
        if cfg.stage == "base":
            examples.append(Example(*traces.base_example(rng, thinking, imperfection(s, thinking))))
            continue
        category = training_prompts()[rng.integers(len(training_prompts()))]  # categories equally often
        examples.append(annotated(category[rng.integers(len(category))], s, rng, thinking))
    return examples


@dataclass(frozen=True)
class Bucket:
    """Examples of a step whose texts are of similar length, which are padded together: ``size`` of them, of which this
    process has the ``local`` ones, with images (b, H, W, 3) uint8."""

    size: int
    local: slice
    examples: list[Example]
    images: Tensor


def bucketed(examples: list[Example], image_size: int, rank: int = 0, processes: int = 1) -> list[Bucket]:
    """The examples of a step in buckets, rendered, as process ``rank`` needs them."""
    by_length = sorted(examples, key=lambda e: len(e.prompt.split()) + len((e.trace or "").split()))
    ends = [k * len(examples) // LENGTH_BUCKETS for k in range(LENGTH_BUCKETS + 1)]
    local, buckets = slice(rank, None, processes), []
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        if part := by_length[start:end][local]:
            images = torch.from_numpy(render.render([e.scene for e in part], image_size))
            buckets.append(Bucket(end - start, local, part, images))
    return buckets


class Steps:
    """The examples of every step of a run. On an accelerator as many workers as the run has threads draw and render
    them ahead; the numbers are the same, as those of a step come from its own stream."""

    def __init__(self, cfg: RunConfig):
        self.cfg, self.place = cfg, (distributed.rank(), distributed.count())
        self.expected, self.ahead = -1, iter(())

    def __getitem__(self, step: int) -> list[Bucket]:
        return bucketed(draw_examples(self.cfg, step), self.cfg.model.image_size, *self.place)

    def __call__(self, step: int) -> list[Bucket]:
        """Those of a step; the steps are asked for in order."""
        if self.cfg.device == "cpu" or not torch.cuda.is_available():
            return self[step]
        if step != self.expected:
            rest = range(step, self.cfg.supervised.steps)
            self.ahead = iter(DataLoader(self, batch_size=None, sampler=rest, num_workers=self.cfg.threads))
        self.expected = step + 1
        return next(self.ahead)
