"""The reward that a run's line names, and its options, checked when the catalogue is read."""

from __future__ import annotations

from collections.abc import Mapping

from unigrpo.core import options as typed
from unigrpo.study.facts import REWARDS


def check_reward(name: str, options: Mapping, key: str, options_key: str, part: bool = False) -> None:
    """Raise UserError, in one line with the key, for a reward that is not there or cannot be built with ``options``;
    the same of the parts of a weighted sum. The workflow gives a reward that it trains its ``path``, but no part."""
    module = REWARDS.load(name, key)
    supplied = ("path",) if module.FACTS.trained is not None and not part else ()
    typed.check(module.build, options, lambda option: f"{options_key}.{option}", supplied)
    if module.FACTS.parts is not None:
        for inner, (reward, inner_options) in module.FACTS.parts(options).items():
            where = f"{options_key}.parts.{inner}"
            check_reward(reward, inner_options, f"{where}.reward", f"{where}.options", part=True)
