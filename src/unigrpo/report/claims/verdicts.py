"""The rule of the claims: what a difference's interval answers, and what answers come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from unigrpo.report.data.phrases import MISSING
from unigrpo.report.data.stats import Estimate

MARGIN = 0.02  # the smallest difference that matters, in TA, GenEval, gold and reward
ARTEFACT_MARGIN = 0.005  # in the share of image area: 12 of 48 x 48 pixels

YES, NO, UNDECIDED = "yes", "no", "undecided"
HOLDS, FAILS, OPEN = "holds", "does not hold", "undecided at this n"


def answer(difference: Estimate, margin: float = MARGIN) -> str:
    """What one comparison says of a gain."""
    if difference.lo > 0 and difference.mean >= margin:
        return YES
    return NO if difference.hi < margin else UNDECIDED


def not_worse(difference: Estimate) -> str:
    """What one comparison says where none is asked to gain: that nothing that matters is lost (non-inferiority)."""
    if difference.lo >= -MARGIN:
        return YES
    return NO if difference.hi < -MARGIN else UNDECIDED


def every_one(answers: Sequence[str]) -> str:
    """The verdict on a claim that needs every comparison."""
    if NO in answers:
        return FAILS
    return HOLDS if set(answers) == {YES} else OPEN


def not_every_one(answers: Sequence[str]) -> str:
    """The verdict on a claim that denies that every comparison is a gain."""
    return {HOLDS: FAILS, FAILS: HOLDS}.get(every_one(answers), OPEN)


def any_one(answers: Sequence[str]) -> str:
    """The verdict on a claim that one comparison is enough for."""
    if YES in answers:
        return HOLDS
    return FAILS if set(answers) == {NO} else OPEN


@dataclass(frozen=True)
class Finding:
    """How one comparison came out: its effect, the interval of a difference, and on how much it rests.

    ``missing`` names what it lacks; ``prompts`` (or what ``unit`` says instead) is 0 where it is a count over seeds.
    One that is not ``counted`` is shown and decides nothing.
    """

    what: str
    answer: str = MISSING
    effect: float | None = None
    lo: float | None = None
    hi: float | None = None
    seeds: int = 0
    prompts: int = 0
    missing: tuple[str, ...] = ()
    counted: bool = True
    unit: str = "prompts"

    @property
    def n(self) -> int:
        """Paired values: prompts times seeds, or the seeds counted."""
        return self.seeds * (self.prompts or 1)

    @property
    def weight(self) -> tuple[int, float]:
        """Sorts the weakest first: by its answer, then by its effect."""
        return (NO, UNDECIDED, YES).index(self.answer), self.effect

    @property
    def shown(self) -> str:
        if self.effect is None:
            return MISSING
        return f"{self.effect:.3f}" if self.lo is None else f"{self.effect:+.3f} [{self.lo:+.3f}, {self.hi:+.3f}]"

    @property
    def basis(self) -> str:
        if self.effect is None:
            return MISSING
        return f"{self.seeds} seed{'s' * (self.seeds != 1)}" + f" × {self.prompts} {self.unit}" * bool(self.prompts)

    @property
    def said(self) -> str:
        return self.answer + ", not counted" * (not self.counted)


def finding(what: str, e: Estimate | None, *missing: str, said: Callable = answer, **more) -> Finding:
    """That of an estimated difference, which ``said`` answers; without one, what is ``missing``."""
    if e is None:
        return Finding(what, missing=missing, **more)
    return Finding(what, said(e), e.mean, e.lo, e.hi, e.seeds, e.prompts, **more)
