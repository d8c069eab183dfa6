"""What holds a run near its start, in words, from its configuration and the facts of its method and regulariser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unigrpo.core.errors import UserError
from unigrpo.study.facts import METHODS, REGULARISERS

NONE = "none"


@dataclass(frozen=True)
class Anchor:
    """A regulariser in words, and the weight that is varied in it; None without a regulariser."""

    kind: str
    weight: float | None


def anchor(config: Mapping) -> Anchor:
    """The anchor of a reinforced run. Raises UserError for a run of another stage."""
    if config.get("stage") != "rl":
        raise UserError(f"{config.get('run')}: expected a reinforced run, found stage {config.get('stage')!r}")
    rl = config["rl"]
    holds, name = METHODS.load(rl["method"]).FACTS.holds, rl["regulariser"]
    facts = None if name == NONE else REGULARISERS.load(name).FACTS
    if holds is not None:
        return Anchor(holds[0], rl[holds[1] or facts.weight])
    if facts is None:
        return Anchor(NONE, None)
    if "text" in rl["train"] and rl["kl_text"] > 0:
        return Anchor(f"{facts.label} + text KL", rl["kl_text"])
    return Anchor(facts.label, rl[facts.weight])
