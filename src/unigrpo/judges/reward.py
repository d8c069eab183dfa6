"""Rewards: a reward is a callable ``(images (B, 3, H, W) float in [0, 1], prompts) -> (B,) float32``.

``load("name", ...)`` finds the file ``rewards/name.py`` and calls its ``build(**options)``. What a file declares of
itself is its ``FACTS``. Scores must be finite. A reward that gives no such score, or raises, is called again after a
while; then the samples that it fails for are told apart, with their numbers and prompts.
"""

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from unigrpo.core import weights
from unigrpo.core.errors import Collapse, RewardFailed, UserError
from unigrpo.core.files import parse_json
from unigrpo.core.records import Prompt, check_text
from unigrpo.core.settings import check_options, require
from unigrpo.study.facts import REWARDS

Score = Callable[..., Tensor]  # images (B, 3, H, W), prompts, and what it sees beside them -> (B,)
ROUNDING = 1e-3  # that pixels may leave [0, 1] by
PAUSES = (0.5, 2.0)  # seconds, before each further try
BUGS = (TypeError, NameError, AttributeError, ImportError, AssertionError, NotImplementedError)  # come again


class Unscored(RewardFailed):
    """Samples without a score. ``problems``: why, by their numbers; ``scores`` (B,) by name, NaN where there is none.
    Raised by a reward, it says that no other try would help."""

    def __init__(self, message: str, problems: Mapping[int, str], scores: Mapping[str, Tensor] | None = None):
        super().__init__(message)
        self.problems, self.scores = problems, scores or {}


@dataclass(frozen=True)
class Reward:
    """A reward by name; ``differentiable`` where its file, or what it built, says so; ``sees`` what it is called with
    beside images and prompts: ``traces`` (B texts or None), ``policy`` (the model). ``files`` are those of its
    checkpoints, as ``weights.watched`` names them."""

    name: str
    score: Score
    differentiable: bool
    sees: Sequence[str] = ()
    files: Mapping[str, Path] = field(default_factory=dict, compare=False)

    def __call__(self, images: Tensor, prompts: Sequence[Prompt], **seen) -> Tensor:
        """Raises UserError for images or scores of another shape or type; Unscored for samples that it fails for, and
        for those with pixels outside [0, 1] or a prompt that is no text."""
        who, n, shape = f"reward {self.name}", len(prompts), tuple(images.shape)
        fitting = images.is_floating_point() and len(shape) == 4 and shape[:2] == (n, 3)
        expected = f"images ({n}, 3, H, W) of floats in [0, 1], one for each prompt"
        require(fitting, who, f"{expected}, got {images.dtype} {shape}")
        tried, every, odd = partial(self._tried, images, prompts, seen), list(range(n)), _unfit(images, prompts)
        values, problems, again = (None, odd, False) if odd else tried(every)
        for pause in PAUSES:
            if problems and again:
                time.sleep(pause)
                values, problems, again = tried(every)
        if not problems:
            return values["reward"]
        if values is None and again and n > 1:  # which of them is it?
            problems = {i: why for i in every for why in tried([i])[1].values()}
        rest, failing = every, {prompts[i].id for i in problems}
        if self.relative or values is None:
            rest = [i for i in every if i not in problems and not (self.relative and prompts[i].id in failing)]
            values, fresh, _ = tried(rest) if rest else (None, {}, False)
            problems = problems | fresh
            if not problems:  # it has recovered
                return values["reward"]
        scores = {name: found.new_full((n,), torch.nan) for name, found in (values or {"reward": images}).items()}
        for name, found in (values or {}).items():
            scores[name][rest] = found.detach()
            scores[name][list(problems)] = torch.nan
        place, why = next(iter(problems.items()))
        sample = f"{who}: sample {place} ({prompts[place].id}, {prompts[place].text!r})"
        raise Unscored(f"{sample}: {why}", problems, scores)

    def _tried(self, images: Tensor, prompts: Sequence[Prompt], seen: Mapping, rows: list[int]):
        """A call for ``rows``: (scores by name or None, why by failing row, whether another try may help)."""
        if len(rows) < len(prompts):
            images, prompts = images[rows], [prompts[i] for i in rows]
            seen = {name: [v[i] for i in rows] if isinstance(v, list) else v for name, v in seen.items()}
        who, n = f"reward {self.name}", len(rows)
        try:
            with torch.autocast(images.device.type, enabled=False):  # in fp32 whatever the policy computes in
                scores = self.score(images, prompts, **seen)
        except Unscored as error:
            return error.scores or None, {rows[i]: why for i, why in error.problems.items()}, False
        except (UserError, Collapse, *BUGS):
            raise
        except Exception as error:  # a server, a device or a library: whatever it raises
            why = " ".join(f"{type(error).__name__}: {error}".split())
            return None, dict.fromkeys(rows, why), True
        kind = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        floats = isinstance(scores, Tensor) and scores.is_floating_point()
        require(floats, who, f"a tensor of scores, got {kind}")
        require(scores.shape == (n,), who, f"one score for each of {n} samples, got shape {tuple(scores.shape)}")
        bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
        problems = {rows[i]: f"expected a finite score, got {scores[i].item()}" for i in bad}
        return {"reward": scores} | self.parts, problems, True

    def judge(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[float | UserError]:
        """The scores of RGB ``images``, which are of one size; a UserError in the place of one that is refused. One
        that is refused together with others is shown alone."""
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
        try:
            with torch.no_grad():
                return self(pixels.permute(0, 3, 1, 2).float().div_(255), list(prompts)).tolist()
        except Unscored as error:
            why = {i: UserError(f"reward {self.name}: {prompts[i].id}: {why}") for i, why in error.problems.items()}
            return [why.get(i, value) for i, value in enumerate(error.scores["reward"].tolist())]
        except RewardFailed:  # nothing more is asked
            raise
        except UserError as error:
            if len(images) == 1:
                return [error]
        return [self.judge([image], [prompt])[0] for image, prompt in zip(images, prompts, strict=True)]

    def cut(self, texts: Iterable[str]) -> dict[str, int]:
        """How many of the distinct ``texts`` a model reads the beginning of alone, by what it reads: ``{"77 tokens that
        pickscore reads": 3}``; without those that have none."""
        counts = getattr(self.score, "cut", lambda texts: {})(list(dict.fromkeys(texts)))
        return {most: count for most, count in counts.items() if count}

    @property
    def relative(self) -> bool:
        """Whether a score depends on the images that are judged with it."""
        return getattr(self.score, "relative", False)

    @property
    def parts(self) -> dict[str, Tensor]:
        """Of a weighted sum: the scores (B,) of each part in the last call, by the part's name; empty of others."""
        return getattr(self.score, "parts", {})


def _unfit(images: Tensor, prompts: Sequence[Prompt]) -> dict[int, str]:
    """Why no reward can judge a sample, by its number."""
    low, high = (find(images.detach(), (1, 2, 3)) for find in (torch.amin, torch.amax))  # NaN where one is
    odd = (~((low >= -ROUNDING) & (high <= 1 + ROUNDING))).nonzero().flatten().tolist()
    found = {i: f"expected pixels in [0, 1], found {low[i].item():.4g} to {high[i].item():.4g}" for i in odd}
    for i, prompt in enumerate(prompts):
        try:
            check_text(prompt.text)
        except UserError as error:
            found[i] = str(error)
    return found


def cut_lines(cut: Mapping[str, int], prompts: int) -> list[str]:
    """What ``Reward.cut`` has found among so many ``prompts``, in words."""
    return [f"{count} of {prompts} prompts are longer than the {most}" for most, count in cut.items()]


def scores_of(reward: Score, images: Tensor, prompts: Sequence[Prompt], failure: str, **known) -> dict[str, Tensor]:
    """Scores (B,) by name: ``reward``, which is told what it asks to see of the ``known``, and the parts of a weighted
    sum. Where it fails for some, raises Unscored, or says so and gives NaN for them with the ``failure`` of a run that
    drops them."""
    seen = {name: known[name] for name in getattr(reward, "sees", ())}
    try:
        return {"reward": reward(images, prompts, **seen)} | getattr(reward, "parts", {})
    except Unscored as error:
        if failure == "fail":
            raise
        print(f"left out: {error}", file=sys.stderr)
        return dict(error.scores)


def load(name: str, **options) -> Reward:
    """The reward called ``name``. Raises UserError where no file is a reward of that name or it needs other options."""
    module = REWARDS.load(name)
    check_options(module.build, options, lambda option: f"reward {name}: {option}")
    with weights.watched() as files:
        score, facts = module.build(**options), module.FACTS
    differentiable = getattr(score, "differentiable", facts.differentiable)
    return Reward(name, score, differentiable, getattr(score, "sees", facts.sees), files)


def named(text: str) -> tuple[str, dict]:
    """(name, options) of a reward on a command line: ``NAME`` or ``NAME={"option": value}``. Raises UserError."""
    name, _, written = text.partition("=")
    return name, parse_json(written, f"--reward {name}: the options after '='") if written else {}


def held_out(text: str) -> tuple[str, Reward]:
    """(name of its column, reward) of ``text``, which :func:`named` takes, as a metric. Raises UserError, also for a
    reward whose scores depend on the images that are judged together, or on more than images and prompts."""
    name, options = named(text)
    reward = load(name, **options)
    if reward.relative:
        raise UserError(f"--reward {text}: its scores depend on the images judged together, expected normalise: none")
    if reward.sees:
        raise UserError(f"--reward {text}: expected a reward of images alone, it sees {', '.join(reward.sees)}")
    return text if options else name, reward
