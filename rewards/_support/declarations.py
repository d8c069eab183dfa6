"""What the declarations of several rewards share: the facts of those that the workflow trains, a type of option."""

from functools import partial
from typing import Annotated

from pydantic import AfterValidator

from unigrpo.core.settings import expect
from unigrpo.study.facts import RewardFacts

MOST_WORDS = 24  # of a prompt, for the learned reward

learned_facts = partial(
    RewardFacts,
    weights="none published: trained by the workflow",
    licence="Apache-2.0",
    range=(0.0, 1.0),
    input_size=None,  # images must have the size that it was trained on
    differentiable=True,
    most_words=MOST_WORDS,
)
Question = Annotated[str, AfterValidator(expect("a text that holds {prompt}", lambda text: "{prompt}" in text))]
"""To a vision-language model about an image, with ``{prompt}`` where its prompt goes."""
