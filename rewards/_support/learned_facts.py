"""What the rewards that the workflow trains share: their facts, but for what each is and where it lies."""

from __future__ import annotations

from functools import partial

from unigrpo.study.facts import RewardFacts

MOST_WORDS = 24  # of a prompt

facts = partial(
    RewardFacts,
    weights="none published: trained by the workflow",
    licence="Apache-2.0",
    range=(0.0, 1.0),
    input_size=None,  # images must have the size that it was trained on
    differentiable=True,
    most_words=MOST_WORDS,
)
