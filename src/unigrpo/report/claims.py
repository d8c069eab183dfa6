"""The paper's claims as checks: what holds in these scores, what does not, and why.

A claim is made of comparisons, each a difference of two rows at tuned guidance, paired by prompt and seed, or of
training records (training_claims.py). The rule (verdicts.py, and RULE in words) stood before any outcome was known:

* a comparison is *yes* where its interval lies above 0 and its estimate is at least MARGIN; *no* where its interval
  lies below MARGIN, so that no difference that matters is left; else *undecided*
* a claim *holds* where every comparison is yes, *does not hold* where any is no, else it is *undecided at this n*
* where a row is missing the claim is *not available*, and the missing rows are named

    python -m unigrpo.report.claims --scores scores.csv --results results/cpu --out results/cpu
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from unigrpo.core import cli
from unigrpo.core.files import write_text
from unigrpo.core.seeding import numpy_generator
from unigrpo.report import page
from unigrpo.report.notes import MISSING, fates, is_world, mixed_code, scale_note
from unigrpo.report.results import PAPER, Folder, Paper, Scores
from unigrpo.report.rows import Row, Sources
from unigrpo.report.stats import rank_correlation
from unigrpo.report.training import ENDS
from unigrpo.report.training_claims import (
    Findings,
    hacked,
    higher_training_reward,
    lets_artefacts_in,
    runs_read,
    steady_and_best,
)
from unigrpo.report.verdicts import (
    ARTEFACT_MARGIN,
    MARGIN,
    NO,
    UNDECIDED,
    YES,
    Finding,
    answer,
    any_one,
    every_one,
    not_every_one,
    not_worse,
)

GUIDANCE = "tuned"
METRICS = {"TA": ("ta", "ta"), "GenEval": ("geneval", "official")}
"""As tables say it -> benchmark, metric."""

DESIGNED, FREE = "designed in", "could have failed"

Pair = tuple[str, str]
"""A row at tuned guidance: run, thinking."""


# ------------------------------------------------------------------------------------------ comparisons


def compared(better: Pair, than: Pair, metric: str, sources: Sources, said: Callable = answer) -> Finding:
    """``better`` - ``than`` in one of METRICS; ``said`` answers by the interval."""
    rows = [Row(*pair, GUIDANCE) for pair in (better, than)]
    first, second = map(sources.name, rows)
    what = f"{metric}: {first} − {second}"
    e = sources.gap(*rows, *METRICS[metric])
    if e is None:
        missing = tuple(sources.name(row) for row in rows if sources.cells(row, *METRICS[metric]) is None)
        return Finding(what, missing=missing or (f"a seed that {first} and {second} share",))
    return Finding.of(what, e, said(e))


def differences(
    *pairs: tuple[Pair, Pair], metrics: Sequence[str] = tuple(METRICS), said: Callable = answer
) -> Findings:
    """Comparisons of the first row of each pair with the second, in every metric."""
    return lambda sources: [compared(*pair, metric, sources, said) for metric in metrics for pair in pairs]


def highest(best: Pair) -> Findings:
    """Comparisons with every other row of the paper."""
    return lambda sources: differences(*[(best, row) for row in sources.paper.rows if row != best])(sources)


def collapsed_seeds(run: str) -> Findings:
    """The share of a run's seeds that collapsed: yes where all did, no where none did."""

    def count(sources: Sources) -> list[Finding]:
        label = sources.folder.label(run)
        what = f"collapsed seeds of {label}, of all"
        fell = [bool(r.get("collapsed")) for r in sources.folder.records(run) if not r.get("not_trained")]
        if not fell:
            return [Finding(what, missing=(label,))]
        said = YES if all(fell) else UNDECIDED if any(fell) else NO
        return [Finding(what, said, sum(fell) / len(fell), seeds=len(fell))]

    return count


def half_the_evaluations(run: str, guided: str) -> Findings:
    """Model evaluations for one image in training, of ``run`` over those of ``guided``: yes where exactly half."""

    def ratio(sources: Sources) -> list[Finding]:
        labels = {name: sources.folder.label(name) for name in (run, guided)}
        what = f"model evaluations for an image: {labels[run]} / {labels[guided]}"
        records = {name: [r for r in sources.folder.records(name) if r.get("images")] for name in labels}
        if not all(records.values()):
            return [Finding(what, missing=tuple(labels[name] for name in labels if not records[name]))]
        spent, images = (
            {name: sum(r[key] for r in records[name]) for name in labels} for key in ("model_evaluations", "images")
        )
        effect = spent[run] * images[guided] / (spent[guided] * images[run])
        return [Finding(what, YES if effect == 0.5 else NO, effect, seeds=min(map(len, records.values())))]

    return ratio


# ------------------------------------------------------------------------------------------ the claims


@dataclass(frozen=True)
class Claim:
    """A claim of the paper. ``why`` says why the synthetic world designs it in, or what left it free to fail."""

    id: str
    text: str
    kind: str
    why: str
    findings: Findings
    verdict: Callable[[Sequence[str]], str] = every_one


UNIGRPO = ("unigrpo", "yes")
CLAIMS = (
    Claim(
        "C1",
        "UniGRPO has the highest TA and the highest GenEval of all rows of the paper",
        FREE,
        "SFT's data leave both parts something to learn, but nothing in them lets joint training learn more of it than "
        "any other row.",
        highest(UNIGRPO),
    ),
    Claim(
        "C2",
        "Joint beats each part alone: UniGRPO over FlowGRPO in either mode, and over TextGRPO",
        FREE,
        "Errors of traces and of painting were put into SFT's data so that either part can gain; that the gains add "
        "up was not, and one part's noise could spoil the other's advantages.",
        differences((UNIGRPO, ("flow_grpo", "no")), (UNIGRPO, ("flow_grpo", "yes")), (UNIGRPO, ("text_grpo", "yes"))),
    ),
    Claim(
        "C3",
        "SFT beats the base, in the same mode",
        DESIGNED,
        "SFT's data hold fewer wrong traces, annotator's habits, painter's habits and painting errors than the base's.",
        differences((("sft", "no"), ("base", "no")), (("sft", "yes"), ("base", "yes"))),
    ),
    Claim(
        "C4",
        "UniFPO does not converge",
        FREE,
        "The rule of collapse is the same for every run, and neither the world nor UniFPO's settings were made for it "
        "to fail.",
        collapsed_seeds("unifpo"),
    ),
    Claim(
        "C5",
        "Training without guidance ends equal or better than training with it, both evaluated with guidance",
        FREE,
        "Both runs have the same settings but guidance. Rollouts with guidance train on images nearer to those that "
        "are judged, which leans against the claim.",
        differences((UNIGRPO, ("unigrpo_cfg", "yes")), said=not_worse),
    ),
    Claim(
        "C6",
        "With guidance in training, the training reward itself is higher",
        FREE,
        "Guidance improves the images of SFT, so rollouts with it start higher; that they stay higher is open.",
        higher_training_reward("unigrpo_cfg", "unigrpo"),
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
        hacked,
    ),
    Claim(
        "C8",
        "Latent KL strong enough to lower the training reward clearly still lets artefacts in",
        FREE,
        "The learned reward was trained less until a run without a regulariser gave way to it; nothing was done for a "
        "latent KL to fail, and every weight of its sweep that lowers the reward counts.",
        lets_artefacts_in,
        any_one,
    ),
    Claim(
        "C9",
        "Velocity MSE trains stably and has the best validation reward of the three: none, latent KL, velocity MSE",
        FREE,
        "Both weights were chosen by one rule, the highest gold at the last validation of seed 0, which leans a little "
        "towards both against none, and towards neither against the other.",
        steady_and_best,
    ),
    Claim(
        "C10",
        "Before RL, thinking does not improve GenEval consistently (base, SFT)",
        FREE,
        "The world leans against it: traces are wrong in a stated share, which costs thinking, but a trace names the "
        "cell of every object, which helps a small painter more than it would help BAGEL.",
        differences((("base", "yes"), ("base", "no")), (("sft", "yes"), ("sft", "no")), metrics=("GenEval",)),
        not_every_one,
    ),
    Claim(
        "C11",
        "ReFL (w/ Thinking) + TextGRPO beats ReFL (w/ Thinking) and stays below UniGRPO",
        FREE,
        "The first half leans on the errors put into SFT's traces, which the second stage can unlearn; the second half "
        "is open, for the two stages together train on twice as many images as UniGRPO.",
        differences(
            (("refl_thinking_text_grpo", "yes"), ("refl_thinking", "yes")),
            (UNIGRPO, ("refl_thinking_text_grpo", "yes")),
        ),
    ),
    Claim(
        "C12",
        "Rollouts without guidance need half the model evaluations",
        DESIGNED,
        "Arithmetic: guidance evaluates the model twice a step; an exact count, so without an interval.",
        half_the_evaluations("unigrpo", "unigrpo_cfg"),
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


@dataclass(frozen=True)
class Outcome:
    """A claim with its comparisons, and what they come to."""

    claim: Claim
    findings: list[Finding]

    @property
    def counted(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.counted]

    @property
    def missing(self) -> list[str]:
        return list(dict.fromkeys(name for finding in self.counted for name in finding.missing))

    @property
    def verdict(self) -> str:
        if self.missing:
            return f"{MISSING}: {'; '.join(self.missing)}"
        return self.claim.verdict([finding.answer for finding in self.counted])

    @property
    def decisive(self) -> Finding:
        """The comparison that the verdict turns on; an empty one where any is missing."""
        turns = max if self.claim.verdict is any_one else min
        return Finding(MISSING) if self.missing else turns(self.counted, key=lambda finding: finding.weight)


# ------------------------------------------------------------------------------------------ text


def csv(outcomes: Sequence[Outcome]) -> str:
    """id, claim, effect, lo, hi, n, verdict, kind, why; empty cells where not available."""
    lines = []
    for o in outcomes:
        w, c = o.decisive, o.claim
        found = {"effect": w.effect, "lo": w.lo, "hi": w.hi, "n": w.n or None}
        lines.append({"id": c.id, "claim": c.text} | found | {"verdict": o.verdict, "kind": c.kind, "why": c.why})
    return pd.DataFrame(lines).astype({"n": "Int64"}).to_csv(index=False, float_format="%.4f")


def rankings(sources: Sources) -> Iterator[str]:
    """How far our order of rows is the paper's, a sentence a metric."""
    for name, (benchmark, metric) in METRICS.items():
        pairs = []
        for run, thinking in sources.paper.rows:
            theirs = sources.paper.value(run, thinking, benchmark)
            ours = sources.estimate(Row(run, thinking, GUIDANCE), benchmark, metric)
            if theirs and ours:
                pairs.append((ours.mean, float(theirs)))
        found = rank_correlation(*zip(*pairs, strict=True), numpy_generator(0, "ranks", name)) if pairs else None
        told = f"{found.rho:.2f} [{found.lo:.2f}, {found.hi:.2f}]" if found else MISSING
        yield f"{name}: Spearman's rank correlation of our rows with the paper's: {told}, n = {len(pairs)} rows."


def sections(outcomes: Sequence[Outcome], sources: Sources) -> list[tuple[str, pd.DataFrame | list[str]]]:
    """Heading and content of the page, in reading order."""
    runs = list(dict.fromkeys([*(run for run, _ in sources.paper.rows), "unigrpo_cfg", *runs_read(sources)]))
    summary = [
        {
            "id": o.claim.id,
            "claim": o.claim.text,
            "verdict": o.verdict,
            "kind": o.claim.kind,
            "turns on": o.decisive.what,
            "effect": o.decisive.shown,
            "n": o.decisive.basis,
        }
        for o in outcomes
    ]
    comparisons = [
        {"id": o.claim.id, "comparison": f.what, "effect": f.shown, "n": f.basis, "answer": f.said}
        for o in outcomes
        for f in o.findings
    ]
    return [
        ("", [scale_note(sources.folder.root.name, is_world(runs, sources))]),
        ("", pd.DataFrame(summary)),
        ("Why it was designed in, or could have failed", [f"**{o.claim.id}**: {o.claim.why}" for o in outcomes]),
        ("The order of rows", [*rankings(sources), "Brackets are 95 % intervals: bootstrap over rows."]),
        ("The rule", [*RULE, *fates(runs, sources), *mixed_code(runs, sources)]),
        ("All comparisons", pd.DataFrame(comparisons)),
    ]


def markdown(title: str, parts: Sequence[tuple[str, pd.DataFrame | list[str]]]) -> str:
    blocks = [f"# {title}"]
    for head, content in parts:
        blocks += [f"## {head}"] * bool(head)
        table = isinstance(content, pd.DataFrame)
        listed = (
            content.to_markdown(index=False, disable_numparse=True) if table else "\n".join(f"* {s}" for s in content)
        )
        blocks.append(listed)
    return "\n\n".join(blocks) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(
        "unigrpo.report.claims",
        "Check the paper's claims against the scores.",
        scores="scores.csv",
        results="folder of the scale, results/<scale>",
        out="folder for claims.csv, .md and .html",
    )
    parser.add_argument("--paper", type=Path, default=PAPER, help="the paper's numbers (default in results/reference)")
    args = parser.parse_args(argv)
    sources = Sources(Scores(args.scores), Paper(args.paper), Folder(args.results))
    outcomes = [Outcome(claim, claim.findings(sources)) for claim in CLAIMS]
    title, parts = f"The paper's claims, {GUIDANCE} guidance", sections(outcomes, sources)
    write_text(args.out / "claims.csv", csv(outcomes))
    write_text(args.out / "claims.md", markdown(title, parts))
    write_text(args.out / "claims.html", page.parts(title, parts))


if __name__ == "__main__":
    cli.run(main)
