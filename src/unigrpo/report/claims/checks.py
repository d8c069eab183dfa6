"""The checks of claims, by the names that the catalogue's entries give.

A claim is made of comparisons, each a difference of two rows at tuned guidance, paired by prompt and seed, or of
training records. The rule (``verdicts``, and RULE in words) stood before any outcome was known:

* a comparison is *yes* where its interval lies above 0 and its estimate is at least MARGIN; *no* where its interval
  lies below MARGIN, so that no difference that matters is left; else *undecided*
* a claim *holds* where every comparison is yes, *does not hold* where any is no, else it is *undecided at this n*
* where a row is missing the claim is *not available*, and the missing rows are named
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from unigrpo.report.claims import score_findings as scores
from unigrpo.report.claims import training_findings as training
from unigrpo.report.claims.verdicts import (
    ARTEFACT_MARGIN,
    MARGIN,
    Finding,
    any_one,
    every_one,
    not_every_one,
    not_worse,
)
from unigrpo.report.data.logs import ENDS


@dataclass(frozen=True)
class Check:
    """``findings(what the entry names under READS, sources)`` compares; ``verdict`` of the comparisons' answers."""

    findings: Callable[..., list[Finding]]
    verdict: Callable[[Sequence[str]], str] = every_one


CHECKS = {
    "highest": Check(scores.highest),
    "gains": Check(scores.differences),
    "no_losses": Check(partial(scores.differences, said=not_worse)),
    "not_all_gains": Check(partial(scores.differences, metrics=("GenEval",)), not_every_one),
    "all_collapsed": Check(scores.collapsed_seeds),
    "half_the_evaluations": Check(scores.half_the_evaluations),
    "higher_training_reward": Check(training.higher_training_reward),
    "hacked": Check(training.hacked),
    "lets_artefacts_in": Check(training.lets_artefacts_in, any_one),
    "steady_and_best": Check(training.steady_and_best),
}
RULE = (
    f"A comparison is **yes** where its 95 % interval lies above 0 and its estimate is at least {MARGIN}; **no** where "
    f"its interval lies below {MARGIN}, so that no difference that matters is left; else **undecided**. Differences "
    f"are paired by prompt and seed, at {scores.GUIDANCE} guidance.",
    f"Where no gain is claimed (C5, and last − peak in C9) it is **yes** where the interval lies above −{MARGIN}, so "
    f"that nothing that matters is lost, **no** where it lies below −{MARGIN}, else **undecided**.",
    "A claim **holds** where every comparison is yes, **does not hold** where any is no, else it is **undecided at "
    "this n**. C10, which denies a gain, holds where any comparison is no and does not hold where all are yes. C4 "
    "holds where all seeds collapsed and does not hold where none did. C12 holds where the ratio is exactly one half.",
    f"C6 pairs mean training rewards by seed and rollout, whose prompts are the same, over the last {ENDS} rollouts "
    "that all seeds reached. C7 to C9 pair validations by prompt and seed. The peak of a seed is where the mean of the "
    "*other* seeds is highest, so that its choice does not make a fall. What is *not counted* decides nothing.",
    "C8 asks of every weight of the latent KL whether the proxy at the last validation is lower than without a "
    "regulariser, by a yes; of those that lower it, whether artefacts rise, by a yes with a margin of "
    f"{ARTEFACT_MARGIN} of the image's area. It holds where any does and does not hold where all are no.",
    "The effect of a claim is that of its weakest comparison, C8's that of its strongest; n is seeds times prompts "
    "there. Each interval is for one comparison: the more of them a claim has, the likelier one of them errs. With one "
    "seed, as base and SFT have, it covers prompts only.",
)
