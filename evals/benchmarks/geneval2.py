"""GenEval 2 (arXiv 2512.16853): Soft-TIFA, per atom the probability of the expected answer under a VLM.

An image's arithmetic mean over its atoms (AM) estimates how well single facts are painted, the geometric mean (GM) how
well complete prompts are. The benchmark's numbers are their means over images: AM also by skill, GM also by the
prompt's number of atoms. The prompt file, ``geneval2_data.jsonl``, is its authors' (CC BY-NC 4.0) and not shipped here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from evals.benchmarks import mean
from evals.instruments.exams import (
    Exam,
    Examiner,
    answered,
    check_answers,
    exam_of,
    judge_version,
    prompts_version,
    read_exams,
)
from unigrpo.core.errors import UserError
from unigrpo.core.settings import ExistingPath
from unigrpo.judges import Vlm
from unigrpo.study.facts import BenchmarkFacts

if TYPE_CHECKING:
    from PIL.Image import Image

    from evals.instruments.picture_files import Picture

FACTS = BenchmarkFacts(
    title="GenEval 2, Soft-TIFA",
    version="2",
    caveat="Numbers depend on the model that answers; those published are of Qwen3-VL-8B-Instruct.",
    shares=("am", "gm"),
    averages_pictures=True,
)


class SoftTifa(Examiner):
    """The judge, over the exams of the prompt file ``path``."""

    def __init__(self, vlm: Vlm, path: Path):
        self.vlm, self.path, self.exams = vlm, path, read_exams(path)
        self.prompts = dict.fromkeys(self.exams, "")
        check_answers(vlm, self.exams.values(), path)
        self.version = f"geneval2-{FACTS.version} {prompts_version(path)} {judge_version(vlm)}"

    def check(self, picture: Picture) -> Exam:
        return exam_of(self.exams, picture.prompt, self.path)

    def judge(self, pictures: Sequence[Picture], images: Sequence[Image]) -> list[dict | UserError]:
        exams = [self.check(picture) for picture in pictures]
        return [
            marks if isinstance(marks, UserError) else _row(exam, marks)
            for exam, marks in zip(exams, self.sit(images, exams), strict=True)
        ]

    def summary(self, rows: Sequence[dict]) -> tuple[dict, list[str]]:
        skills: dict[str, list[float]] = {}
        sizes: dict[int, list[dict]] = {}
        for row in rows:
            sizes.setdefault(row["metrics"]["atoms"], []).append(row["metrics"])
            for _, _, skill, mark in row["points"]:
                skills.setdefault(skill, []).append(mark)
        numbers = {name: mean(rows, name) for name in ("am", "gm")}
        numbers["by_atoms"] = {
            str(atoms): {name: fmean(m[name] for m in metrics) for name in ("gm", "am")} | {"images": len(metrics)}
            for atoms, metrics in sorted(sizes.items())
        }
        numbers["by_skill"] = {skill: {"am": fmean(v), "points": len(v)} for skill, v in sorted(skills.items())}
        lines = [f"Soft-TIFA AM: {numbers['am']:.2%}; GM: {numbers['gm']:.2%}"]
        lines += [
            f"{atoms:>2} atoms: GM {s['gm']:.2%}, AM {s['am']:.2%} ({s['images']} images)"
            for atoms, s in numbers["by_atoms"].items()
        ]
        lines += [f"{skill:<16} = AM {s['am']:.2%} ({s['points']} atoms)" for skill, s in numbers["by_skill"].items()]
        counted, line = self.answered(rows)
        return numbers | counted, [*lines, line]


def geometric_mean(values: Sequence[float]) -> float:
    """Of at least one value in [0, 1]; 0 where any is 0."""
    return math.exp(sum(map(math.log, values)) / len(values)) if all(values) else 0.0


def _row(exam: Exam, marks: Sequence[float]) -> dict:
    points = zip(exam.questions, exam.answers, exam.skills, marks, strict=True)
    return {
        "metrics": {"am": fmean(marks), "gm": geometric_mean(marks), "atoms": exam.atoms},
        "reason": "\n".join(q for q, mark in zip(exam.questions, marks, strict=True) if mark < 0.5),
        "points": [[q, a, s, round(mark, 6)] for q, a, s, mark in points],
    }


@answered
def build(
    vlm: Vlm, prompts: Annotated[ExistingPath, typer.Option(help="geneval2_data.jsonl, or rows like it.")]
) -> SoftTifa:
    """Raises UserError."""
    return SoftTifa(vlm, Path(prompts))
