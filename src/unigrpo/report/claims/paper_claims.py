"""The paper's claims as checks. A claim is made of comparisons, each a difference of two rows at tuned guidance, paired
by prompt and seed, or of training records; the catalogue names the rows and runs that it reads.

The rule (``verdicts``, and RULE in words) stood before any outcome was known:

* a comparison is *yes* where its interval lies above 0 and its estimate is at least MARGIN; *no* where its interval
  lies below MARGIN, so that no difference that matters is left; else *undecided*
* a claim *holds* where every comparison is yes, *does not hold* where any is no, else it is *undecided at this n*
* where a row is missing the claim is *not available*, and the missing rows are named
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from unigrpo.report.claims.score_findings import (
    GUIDANCE,
    collapsed_seeds,
    differences,
    half_the_evaluations,
    highest,
)
from unigrpo.report.claims.training_findings import hacked, higher_training_reward, lets_artefacts_in, steady_and_best
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

DESIGNED, FREE = "designed in", "could have failed"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper. ``why`` says why the synthetic world designs it in, or what left it free to fail; ``paper``
    is the least that the paper's numbers show. ``findings(what the catalogue names under reads, sources)`` compares."""

    id: str
    text: str
    kind: str
    why: str
    paper: str
    reads: Literal["rows", "pairs", "runs"]
    findings: Callable[..., list[Finding]]
    verdict: Callable[[Sequence[str]], str] = every_one


CLAIMS = (
    Claim(
        "C1",
        "UniGRPO has the highest TA and the highest GenEval of all rows of the paper",
        FREE,
        "SFT's data leave both parts something to learn, but nothing in them lets joint training learn more of it than "
        "any other row.",
        "0.838 TA and 0.90 GenEval, the highest",
        "rows",
        highest,
    ),
    Claim(
        "C2",
        "Joint beats each part alone: UniGRPO over FlowGRPO in either mode, and over TextGRPO",
        FREE,
        "Errors of traces and of painting were put into SFT's data so that either part can gain; that the gains add "
        "up was not, and one part's noise could spoil the other's advantages.",
        "+0.017 TA, +0.02 GenEval or more",
        "pairs",
        differences,
    ),
    Claim(
        "C3",
        "SFT beats the base, in the same mode",
        DESIGNED,
        "SFT's data hold fewer wrong traces, annotator's habits, painter's habits and painting errors than the base's.",
        "+0.064 TA, +0.03 GenEval or more",
        "pairs",
        differences,
    ),
    Claim(
        "C4",
        "UniFPO does not converge",
        FREE,
        "The rule of collapse is the same for every run, and neither the world nor UniFPO's settings were made for it "
        "to fail.",
        "collapsed",
        "runs",
        collapsed_seeds,
    ),
    Claim(
        "C5",
        "Training without guidance ends equal or better than training with it, both evaluated with guidance",
        FREE,
        "Both runs have the same settings but guidance. Rollouts with guidance train on images nearer to those that "
        "are judged, which leans against the claim.",
        "Figure 4",
        "pairs",
        partial(differences, said=not_worse),
    ),
    Claim(
        "C6",
        "With guidance in training, the training reward itself is higher",
        FREE,
        "Guidance improves the images of SFT, so rollouts with it start higher; that they stay higher is open.",
        "Figure 4",
        "runs",
        higher_training_reward,
    ),
    Claim(
        "C7",
        "Without a regulariser the training reward rises while the validation reward falls after a peak",
        FREE,
        "The learned reward of these runs was trained less, until a run without a regulariser gave way to it: that "
        "leans towards the claim, which is checked at all seeds. Prompts of training differ between rollouts, so the "
        "rise is that of the reward trained on (proxy) on validation prompts. The paper's validation reward is the "
        "same reward model on held-out prompts; here the gold judge stands for it, and the paper's reading is shown "
        "without being counted.",
        "Figure 5",
        "runs",
        hacked,
    ),
    Claim(
        "C8",
        "Latent KL strong enough to lower the training reward clearly still lets artefacts in",
        FREE,
        "The learned reward was trained less until a run without a regulariser gave way to it; nothing was done for a "
        "latent KL to fail, and every weight of its sweep that lowers the reward counts.",
        "Figure 5",
        "runs",
        lets_artefacts_in,
        any_one,
    ),
    Claim(
        "C9",
        "Velocity MSE trains stably and has the best validation reward of the three: none, latent KL, velocity MSE",
        FREE,
        "Both weights were chosen by one rule, the highest gold at the last validation of seed 0, which leans a little "
        "towards both against none, and towards neither against the other.",
        "Figure 5",
        "runs",
        steady_and_best,
    ),
    Claim(
        "C10",
        "Before RL, thinking does not improve GenEval consistently (base, SFT)",
        FREE,
        "The world leans against it: traces are wrong in a stated share, which costs thinking, but a trace names the "
        "cell of every object, which helps a small painter more than it would help BAGEL.",
        "+0.01 GenEval (base), −0.01 (SFT)",
        "pairs",
        partial(differences, metrics=("GenEval",)),
        not_every_one,
    ),
    Claim(
        "C11",
        "ReFL (w/ Thinking) + TextGRPO beats ReFL (w/ Thinking) and stays below UniGRPO",
        FREE,
        "The first half leans on the errors put into SFT's traces, which the second stage can unlearn; the second half "
        "is open, for the two stages together train on twice as many images as UniGRPO.",
        "+0.018 TA, +0.04 GenEval; below by 0.039 and 0.03",
        "pairs",
        differences,
    ),
    Claim(
        "C12",
        "Rollouts without guidance need half the model evaluations",
        DESIGNED,
        "Arithmetic: guidance evaluates the model twice a step; an exact count, so without an interval.",
        "half",
        "runs",
        half_the_evaluations,
    ),
)
RULE = (
    f"A comparison is **yes** where its 95 % interval lies above 0 and its estimate is at least {MARGIN}; **no** where "
    f"its interval lies below {MARGIN}, so that no difference that matters is left; else **undecided**. Differences "
    f"are paired by prompt and seed, at {GUIDANCE} guidance.",
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
