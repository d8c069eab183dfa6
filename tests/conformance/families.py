"""Our maths and our backbone against stored vectors, numbers recorded from running other codes.

A folder holds vector files, recognised by name (``sde_steps.json`` + ``.safetensors`` and so on; prefixes and suffixes
are allowed, as in ``b_sde_steps.json``). A *feature* is a file family plus one convention in it, e.g.
``sde_steps/sde``. One line of the report for each feature says how many cases passed and how far the worst number lies
off; features found in the files but not in IMPLEMENTED are listed as not implemented yet. One module for each family
turns a file into cases.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.conformance import (
    autoencoder_vectors,
    bagel_sections,
    extra_algos,
    geneval_vectors,
    ratio_norm,
    sde_steps,
    text_grpo,
)
from tests.conformance.checking import Case, Check, Settings
from unigrpo.core.errors import UserError

IMPLEMENTED = (
    "sde_steps/sde",
    "sde_steps/sde-no-normalizer",
    "sde_steps/sde-mixed-time",
    "sde_steps/cps",
    "sde_steps/cps-no-normalizer",
    "sde_steps/cps-mixed-time",
    "sde_steps/dance",
    "sde_steps/dance-no-normalizer",
    "ratio_norm/plain",
    "ratio_norm/identity",
    "ratio_norm/latent_kl",
    "ratio_norm/velocity_mse",
    "text_grpo/grpo-token",
    "text_grpo/grpo-token+kl",
    "text_grpo/grpo-sequence",
    "text_grpo/grpo-sequence+kl",
    "text_grpo/bnpo-token",
    "text_grpo/bnpo-token+kl",
    "text_grpo/bnpo-sequence",
    "text_grpo/bnpo-sequence+kl",
    "text_grpo/dr_grpo-token",
    "text_grpo/dr_grpo-token+kl",
    "text_grpo/dr_grpo-sequence",
    "text_grpo/dr_grpo-sequence+kl",
    "text_grpo/dapo-token",
    "text_grpo/dapo-token+kl",
    "text_grpo/dapo-sequence",
    "text_grpo/dapo-sequence+kl",
    "text_grpo/grpo-token+kl+bias-corrected",
    "text_grpo/grpo-token+delta",
    "text_grpo/grpo-token+entropy-bonus",
    "text_grpo/dapo-token+entropy-bonus",
    "text_grpo/bnpo-token+entropy-quantile",
    "text_grpo/cispo-token",
    "text_grpo/sapo-token",
    "extra_algos/advantages",
    "extra_algos/schedules",
    "extra_algos/ema",
    "extra_algos/mixgrpo",
    "extra_algos/fpo",
    "extra_algos/awm",
    "extra_algos/nft",
    "extra_algos/nft_decay",
    "geneval_cases/official",
    "geneval_cases/strict",
    "geneval_filter_cases",
    "bagel_tiny/A",
    "bagel_tiny/A2",
    "bagel_tiny/B",
    "bagel_tiny/C",
    "bagel_tiny/D-unguided",
    "bagel_tiny/D-text-guided",
    "bagel_tiny/D-thinking",
    "bagel_tiny/D-renorm",
    "bagel_tiny/E",
    "bagel_tiny/F",
    "bagel_tiny/G",
    "bagel_tiny_vae",
)

FAMILIES: tuple[tuple[str, Callable[[Path], Iterator[Case]]], ...] = (  # name pattern; the first that fits wins
    (r"sde_steps.*\.(json|safetensors)", sde_steps.cases),
    (r"ratio_norm.*\.(json|safetensors)", ratio_norm.cases),
    (r"text_grpo.*\.(json|safetensors)", text_grpo.cases),
    (r"extra_algos.*\.(json|safetensors)", extra_algos.cases),
    (r"geneval_cases.*\.jsonl", geneval_vectors.verdict_cases),
    (r"geneval_filter_cases.*\.jsonl", geneval_vectors.filter_cases),
    (r"bagel_.*vae.*\.(json|safetensors)", autoencoder_vectors.cases),
    (r"bagel_.*\.(json|safetensors)", bagel_sections.cases),
)
SHOWN_FAILURES = 5


@dataclass
class Tally:
    """Results of one feature. ``worst`` is the check that lies furthest off relative to its tolerance."""

    cases: int = 0
    passed: int = 0
    worst: Check | None = None
    failures: list[str] = field(default_factory=list)

    def add(self, source: str, checks: list[Check]) -> None:
        self.cases += 1
        failed = [check for check in checks if not check.passed]
        self.passed += not failed
        self.failures += [f"{source}: {c.quantity} off by {c.error:.3g}" for c in failed]
        self.worst = max([*checks, *([self.worst] if self.worst else [])], key=_excess, default=None)


def _excess(check: Check) -> float:
    """Error in units of the tolerance."""
    if check.tolerance == 0:
        return math.inf if check.error else 0.0
    return check.error / check.tolerance


def find(folder: Path) -> list[tuple[Path, Callable[[Path], Iterator[Case]]]]:
    """The vector files of a folder, one path per .json/.safetensors pair, with the reader of their family."""
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder of vector files, found none")
    found = {}
    for path in sorted(folder.iterdir()):
        for pattern, read in FAMILIES:
            if re.fullmatch(rf"(.*_)?{pattern}", path.name):
                found.setdefault(path.with_suffix(""), (path, read))
                break
    if not found:
        raise UserError(f"{folder}: no vector files here; expected e.g. sde_steps.json or geneval_cases.jsonl")
    return list(found.values())


def run(path: Path, read: Callable[[Path], Iterator[Case]]) -> tuple[dict[str, Tally], dict[str, int]]:
    """Of one file: results of the implemented features, and the number of cases of the others. Raises UserError, also
    for a setting that no check has used."""
    tallies: dict[str, Tally] = {}
    others: dict[str, int] = {}
    used: dict[int, Case] = {}
    where = str(path)
    try:
        for case in read(path):
            where = f"{path}: case {case.name} of {case.feature}"
            if case.feature in IMPLEMENTED:
                tallies.setdefault(case.feature, Tally()).add(f"{path.name} case {case.name}", case.run())
                used[id(case.settings)] = case
            else:
                others[case.feature] = others.get(case.feature, 0) + 1
    except KeyError as error:
        raise UserError(f"{where}: the key {error} is missing") from error
    except UserError as error:
        raise UserError(str(error) if str(path.parent) in str(error) else f"{where}: {error}") from None
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise UserError(f"{where}: not readable as such vectors ({error})") from error
    for case in used.values():
        if isinstance(case.settings, Settings) and (unread := case.settings.unread(case.notes)):
            raise UserError(f"{path}: case {case.name}: the setting {unread[0]} is not used by any check")
    if not tallies and not others:
        raise UserError(f"{path}: holds no cases")
    return tallies, others


def lines(tallies: dict[str, Tally], others: dict[str, int]) -> Iterator[str]:
    """The report: a line for each feature, and below it what failed."""
    width = max(map(len, [*IMPLEMENTED, *others]))
    for feature, tally in tallies.items():
        verdict = "FAIL" if tally.failures else "ok"
        worst = ""
        if tally.worst is not None:
            error, tolerance = tally.worst.error, tally.worst.tolerance
            worst = f", largest error {error:.1e}, tolerance {tolerance:.1e} ({tally.worst.quantity})"
        yield f"{verdict:<5}{feature:<{width}} {tally.cases:>5} cases {tally.passed:>5} passed{worst}"
        yield from (f"       {failure}" for failure in tally.failures[:SHOWN_FAILURES])
        if len(tally.failures) > SHOWN_FAILURES:
            yield f"       and {len(tally.failures) - SHOWN_FAILURES} more"
    yield from (f"-    {feature:<{width}} {cases:>5} cases, not implemented yet" for feature, cases in others.items())
