"""Preferences of a simulated annotator, for a reward that learns from pairs (Bradley and Terry, 1952).

Shown two images of one prompt, the annotator prefers the greater utility: gold plus ``bias`` for every object that the
image shows, asked for or not. A share ``noise`` of the answers is then flipped. An annotator who is swayed by fuller
pictures is a known fault of human labels; here it can be measured, as extra objects.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from unigrpo.study.config import Annotator
from unigrpo.world.gold import Judgement


def answer(
    verdicts: Sequence[Judgement],
    objects: Sequence[int],
    pairs: np.ndarray,
    annotator: Annotator,
    rng: np.random.Generator,
) -> np.ndarray:
    """(m,) to ``pairs`` (m, 2) of images with these verdicts and numbers of objects: 1 where the annotator prefers the
    first, 0 the second, 1/2 where they are alike."""
    utility = (np.array([v.gold for v in verdicts]) + annotator.bias * np.array(objects))[pairs]
    preferred = np.where(np.isclose(*utility.T), 0.5, utility[:, 0] > utility[:, 1])
    return np.where(rng.random(len(pairs)) < annotator.noise, 1 - preferred, preferred)


def pairs_of_prompts(keys: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """(m, 2) rows of images of one prompt, which have equal ``keys``: a prompt's in random order, each with the next. A
    prompt with a single image has none."""
    order = sorted(rng.permutation(len(keys)), key=lambda row: keys[row])
    pairs = [(a, b) for a, b in zip(order, order[1:], strict=False) if keys[a] == keys[b]]
    return np.array(pairs, dtype=int).reshape(-1, 2)


def pairwise_loss(logits: Tensor, preferred: Tensor) -> Tensor:
    """Mean of -log P of the answers ``preferred`` (m,), where P(first before second) = sigmoid(first - second); the
    ``logits`` (2 m,) of a pair are neighbours."""
    first, second = logits.view(-1, 2).unbind(1)
    return binary_cross_entropy_with_logits(first - second, preferred)
