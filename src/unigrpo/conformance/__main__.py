"""Command line of the conformance checks; see the package docstring."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unigrpo.conformance import IMPLEMENTED, bagel, extra_algos, geneval, ratio_norm, sde_steps, text_grpo, vae
from unigrpo.conformance.core import Case, Check
from unigrpo.core import cli
from unigrpo.core.errors import UserError

FAMILIES: tuple[tuple[str, Callable[[Path], Iterator[Case]]], ...] = (  # name pattern; the first that fits wins
    (r"sde_steps.*\.(json|safetensors)", sde_steps.cases),
    (r"ratio_norm.*\.(json|safetensors)", ratio_norm.cases),
    (r"text_grpo.*\.(json|safetensors)", text_grpo.cases),
    (r"extra_algos.*\.(json|safetensors)", extra_algos.cases),
    (r"geneval_cases.*\.jsonl", geneval.verdict_cases),
    (r"geneval_filter_cases.*\.jsonl", geneval.filter_cases),
    (r"bagel_.*vae.*\.(json|safetensors)", vae.cases),
    (r"bagel_.*\.(json|safetensors)", bagel.cases),
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


def run(folder: Path) -> tuple[dict[str, Tally], dict[str, int]]:
    """(results of the implemented features, number of cases of the others). Raises UserError."""
    tallies: dict[str, Tally] = {}
    others: dict[str, int] = {}
    for path, read in find(folder):
        where = str(path)
        try:
            for case in read(path):
                where = f"{path}: case {case.name} of {case.feature}"
                if case.feature in IMPLEMENTED:
                    tallies.setdefault(case.feature, Tally()).add(f"{path.name} case {case.name}", case.run())
                else:
                    others[case.feature] = others.get(case.feature, 0) + 1
        except KeyError as error:
            raise UserError(f"{where}: the key {error} is missing") from error
        except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
            raise UserError(f"{where}: not readable as such vectors ({error})") from error
    if not tallies and not others:
        raise UserError(f"{folder}: the vector files hold no cases")
    return tallies, others


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser("unigrpo.conformance", "Check the maths and the backbone against stored vectors.")
    parser.add_argument("folder", type=Path, help="folder with vector files")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    args = parser.parse_args(argv)
    tallies, others = run(args.folder)
    if args.json:
        print(json.dumps(_document(tallies, others), indent=2))
    else:
        print("\n".join(_lines(tallies, others)))
    if any(tally.failures for tally in tallies.values()):
        raise SystemExit(1)


def _lines(tallies: dict[str, Tally], others: dict[str, int]) -> Iterator[str]:
    width = max(map(len, [*tallies, *others]))
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


def _document(tallies: dict[str, Tally], others: dict[str, int]) -> dict:
    def finite(x: float) -> float | None:
        return x if math.isfinite(x) else None

    return {
        "passed": not any(tally.failures for tally in tallies.values()),
        "features": {
            feature: {
                "cases": tally.cases,
                "passed": tally.passed,
                "largest_error": finite(tally.worst.error) if tally.worst else 0.0,
                "tolerance": tally.worst.tolerance if tally.worst else 0.0,
                "quantity": tally.worst.quantity if tally.worst else None,
                "failures": tally.failures,
            }
            for feature, tally in tallies.items()
        },
        "not_implemented": others,
    }


if __name__ == "__main__":
    cli.run(main)
