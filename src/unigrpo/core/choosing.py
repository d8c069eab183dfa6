"""The one-standard-error rule: noise does not pick among settings that are as good as each other."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

Setting = TypeVar("Setting")


def choose(gold: Mapping[Setting, np.ndarray], tags: Sequence[str]) -> Setting:
    """The first setting of ``gold`` that is within one standard error of the best.

    gold: setting -> (P,) mean gold per prompt, settings in order of preference; tags (P,): categories weigh equally.
    The error is that of the paired difference to the best, prompts being drawn within categories.
    """
    strata = [np.flatnonzero(np.array(tags) == tag) for tag in dict.fromkeys(tags)]

    def mean(values: np.ndarray) -> float:
        return float(np.mean([values[rows].mean() for rows in strata]))

    best = max(gold, key=lambda setting: mean(gold[setting]))
    for setting, values in gold.items():
        difference = gold[best] - values
        variances = [difference[rows].var(ddof=1) / len(rows) if len(rows) > 1 else 0.0 for rows in strata]
        if mean(difference) <= np.sqrt(np.sum(variances)) / len(strata):
            return setting
    return best
