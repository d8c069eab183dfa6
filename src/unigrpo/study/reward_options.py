"""Options of a reward, checked when the catalogue is read."""

from __future__ import annotations

from dataclasses import dataclass, field

from unigrpo.core.settings import from_dict, require
from unigrpo.study.facts import REWARDS


@dataclass(frozen=True)
class RewardPart:
    """One reward of a weighted sum: it adds weight * (score - centre) / spread."""

    weight: float
    reward: str | None = None  # name of a file in rewards/; none = the name of the part
    centre: float = 0.0
    spread: float = 1.0
    options: dict = field(default_factory=dict)  # what its `build` is called with


TAKEN_NAMES = ("mean", "std")  # a part is recorded as reward_<name>; these columns are the sum's


def reward_parts(parts: object, where: str) -> dict[str, RewardPart]:
    """The parts of a weighted sum by name, from ``rl.reward_options.parts``. Raises UserError naming the key."""
    require(isinstance(parts, dict) and len(parts) > 0, where, "a mapping of one or more parts, name: {weight: ...}")
    for name in parts:
        usable = str(name).isidentifier() and name not in TAKEN_NAMES
        require(usable, f"{where}.{name}", f"a name of letters, digits and _, none of {', '.join(TAKEN_NAMES)}")
    made = {name: from_dict(RewardPart, part, f"{where}.{name}") for name, part in parts.items()}
    for name, part in made.items():
        require(part.spread > 0, f"{where}.{name}.spread", f"more than 0, got {part.spread}")
    return made


def check_reward(name: str, options: dict, key: str, options_key: str) -> None:
    """Raise UserError for a reward that is not there."""
    REWARDS.source(name, key)
