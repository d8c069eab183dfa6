"""TA, text alignment, on real images: a prompt's exam points as questions to a vision-language model.

Without a prompt file, the points are those of ``unigrpo.world.exam_points``: one a fact that the metadata states. A
point counts where the model gives its expected answer at least even odds; an image's score is the share of points, the
benchmark's the mean over images (the paper's section 4). ``ta_soft`` is the same from the probabilities themselves.
"""

from __future__ import annotations

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
    parse,
    prompts_version,
    read_exams,
)
from unigrpo.core.errors import UserError
from unigrpo.core.settings import ExistingPath
from unigrpo.judges import Vlm
from unigrpo.study.facts import BenchmarkFacts
from unigrpo.world import exam_points, geneval_verdict

if TYPE_CHECKING:
    from PIL.Image import Image

    from evals.instruments.picture_files import Picture

FACTS = BenchmarkFacts(
    title="TA-style",
    version="2",
    caveat="The paper's prompts and judge are closed: levels depend on both, and compare within one version only.",
    shares=("ta", "ta_soft"),
    averages_pictures=True,
)
EVEN = 0.5


class TextAlignment(Examiner):
    """The judge; ``path`` is the user's prompt file, where one was given."""

    def __init__(self, vlm: Vlm, path: Path | None = None):
        self.vlm, self.path = vlm, path
        self.exams = read_exams(path) if path else {}
        self.prompts = dict.fromkeys(self.exams, "") if path else None
        check_answers(vlm, self.exams.values(), path or "")
        points = prompts_version(path) if path else f"points:{exam_points.VERSION}"
        self.version = f"ta-style-{FACTS.version} {points} {judge_version(vlm)}"

    def exam(self, picture: Picture) -> Exam:
        """Raises UserError for a prompt without one."""
        prompt = picture.prompt
        if self.path:
            return exam_of(self.exams, prompt, self.path)
        if not prompt.meta.get("include"):
            raise UserError("metadata needs 'include', the facts to ask for, or a prompt file has to be given")
        geneval_verdict.check(prompt.meta)
        return parse(exam_points.row(prompt), picture.name)

    def check(self, picture: Picture) -> None:
        exam = self.exam(picture)
        if not self.path:  # of a file's exams it is known
            check_answers(self.vlm, [exam], picture.name)

    def judge(self, pictures: Sequence[Picture], images: Sequence[Image]) -> list[dict | UserError]:
        exams = [self.exam(picture) for picture in pictures]
        rows: list[dict | UserError] = []
        for exam, marks in zip(exams, self.sit(images, exams), strict=True):
            if isinstance(marks, UserError):
                rows.append(marks)
                continue
            points = zip(exam.questions, exam.answers, exam.skills, marks, strict=True)
            right = [float(mark >= EVEN) for mark in marks]
            rows.append(
                {
                    "metrics": {"ta": fmean(right), "ta_soft": fmean(marks), "atoms": len(marks)},
                    "reason": "\n".join(q for q, ok in zip(exam.questions, right, strict=True) if not ok),
                    "points": [[q, a, s, round(mark, 6)] for q, a, s, mark in points],
                }
            )
        return rows

    def summary(self, rows: Sequence[dict]) -> tuple[dict, list[str]]:
        skills: dict[str, list[float]] = {}
        for row in rows:
            for _, _, skill, mark in row["points"]:
                skills.setdefault(skill, []).append(float(mark >= EVEN))
        numbers = {name: mean(rows, name) for name in ("ta", "ta_soft")}
        numbers["skills"] = {skill: {"share": fmean(v), "points": len(v)} for skill, v in sorted(skills.items())}
        lines = [f"TA: {numbers['ta']:.4f}; from probabilities: {numbers['ta_soft']:.4f}"]
        lines += [f"{skill:<16} = {s['share']:.2%} ({s['points']} points)" for skill, s in numbers["skills"].items()]
        counted, line = self.answered(rows)
        return numbers | counted, [*lines, line]


@answered
def build(
    vlm: Vlm,
    prompts: Annotated[
        ExistingPath | None, typer.Option(help="Exams in GenEval 2's format (default: the metadata's).")
    ] = None,
) -> TextAlignment:
    """Raises UserError."""
    return TextAlignment(vlm, None if prompts is None else Path(prompts))
