"""Exams: questions about an image with their expected answers, put to a vision-language model.

A prompt file has GenEval 2's rows, ``{prompt, vqa_list: [[question, answer], ...], atom_count?, skills?}``, one a line
(arXiv 2512.16853); ``unigrpo prompts ta`` writes such rows too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.files import digest, read_jsonl
from unigrpo.core.records import Prompt, check_text, same_text
from unigrpo.core.settings import Count, Device, Positive, Published, Share, Side, Url, annotations
from unigrpo.judges import Vlm
from unigrpo.judges.answers import ANSWERED, written

if TYPE_CHECKING:
    from PIL.Image import Image

DEFAULT = "Qwen/Qwen3-VL-8B-Instruct"


class Exam(NamedTuple):
    """The points of one prompt: questions, expected answers and skills, one each; ``atoms`` as its author counts."""

    prompt: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]
    skills: tuple[str, ...]
    atoms: int


def read_exams(path: Path) -> dict[str, Exam]:
    """Prompt, by ``same_text`` -> its exam. Raises UserError naming the line of the first row that is none."""
    exams: dict[str, Exam] = {}
    for where, row in read_jsonl(path):
        exam = parse(row, where)
        if exams.setdefault(same_text(exam.prompt), exam) is not exam:
            raise UserError(f"{where}: prompt {exam.prompt!r} stands twice")
    return exams


def parse(row: Mapping, where: str) -> Exam:
    """An exam from its row, which stands at ``where``. Raises UserError."""
    prompt, points = row.get("prompt"), row.get("vqa_list")
    if not isinstance(prompt, str) or not prompt:
        raise UserError(f"{where}: 'prompt' must be a text, found {prompt!r}")
    if not isinstance(points, list) or not points:
        raise UserError(f"{where}: 'vqa_list' must be a list of [question, answer], found {points!r}")
    for point in points:
        if not _are_texts(point, 2):
            raise UserError(f"{where}: 'vqa_list' must hold [question, answer], found {point!r}")
        written(point[1])
    skills = row.get("skills", ["any"] * len(points))
    if not _are_texts(skills, len(points)):
        raise UserError(f"{where}: 'skills' must be {len(points)} texts, one a question, found {skills!r}")
    atoms = row.get("atom_count", len(points))
    if type(atoms) is not int or atoms < 1:
        raise UserError(f"{where}: 'atom_count' must be a whole number above 0, found {atoms!r}")
    questions, answers = zip(*points, strict=True)
    return Exam(prompt, questions, answers, tuple(skills), atoms)


def _are_texts(values: object, length: int) -> bool:
    return isinstance(values, list) and len(values) == length and all(isinstance(v, str) and v for v in values)


def exam_of(exams: Mapping[str, Exam], prompt: Prompt, path: Path) -> Exam:
    """The exam of ``prompt``. Raises UserError where ``path``, from which ``exams`` were read, has none."""
    if (exam := exams.get(same_text(prompt.text))) is None:
        raise UserError(f"prompt {prompt.text!r} is not in {path}")
    return exam


def check_answers(vlm: Vlm, exams: Iterable[Exam], where: Path | str) -> None:
    """Raise UserError for the first text of ``exams``, which are of ``where``, that the model cannot be asked for."""
    for exam in exams:
        with error_prefix(f"{where}: prompt {exam.prompt[:80]!r}"):
            check_text(" ".join((exam.prompt, *exam.questions)))
            for answer in exam.answers:
                vlm.check(answer)


def prompts_version(path: Path) -> str:
    """How a version names a prompt file."""
    return f"prompts:{digest(path)[:8]}"


class Examiner:
    """A judge of images by what ``vlm`` answers."""

    vlm: Vlm
    put = had = 0  # questions about images that were not judged: put, and answered all the same

    def sit(self, images: Sequence[Image], exams: Sequence[Exam]) -> list[list[float] | UserError]:
        """Probability of the expected answer to each question of each image's exam, or why one could not be had."""
        shown = [image for image, exam in zip(images, exams, strict=True) for _ in exam.questions]
        asked = [f"{question} Answer in one word." for exam in exams for question in exam.questions]
        values = iter(self.vlm.ask(shown, asked, [answer for exam in exams for answer in exam.answers]))
        marks = [list(islice(values, len(exam.questions))) for exam in exams]
        rows = [next((mark for mark in row if isinstance(mark, UserError)), row) for row in marks]
        lost = [mark for row, found in zip(marks, rows, strict=True) if found is not row for mark in row]
        self.put, self.had = self.put + len(lost), self.had + sum(not isinstance(mark, UserError) for mark in lost)
        return rows

    def answered(self, rows: Sequence[dict]) -> tuple[dict, str]:
        """The share of questions that got an answer, also about images that were not judged, and its line."""
        judged = sum(len(row["points"]) for row in rows)
        share = (judged + self.had) / (judged + self.put)
        line = f"{100 * share:.4g} % of the questions got an answer"
        return {"questions": judged + self.put, "answered": share}, line


def answerer(
    vlm: Annotated[Published, typer.Option(help="Model of transformers: folder, or hub id.")] = DEFAULT,
    endpoint: Annotated[Url | None, typer.Option(help="A server's base URL, ending in /v1, in place of --vlm.")] = None,
    model: Annotated[str | None, typer.Option(help="The model that the server is asked for.")] = None,
    by_text: Annotated[
        bool, typer.Option("--by-text", help="Read the server's words, where it gives no probabilities.")
    ] = False,
    timeout: Annotated[Positive, typer.Option(help="Seconds that a try may take.")] = 60.0,
    tries: Annotated[Count, typer.Option(help="Tries a question.")] = 5,
    answered: Annotated[Share, typer.Option(help="Least probability that the first token is an answer.")] = ANSWERED,
    longest_side: Annotated[Side | None, typer.Option(help="Pixels of a picture that a server gets, at most.")] = None,
    format: Annotated[Literal["png", "jpeg", "webp"], typer.Option(help="Of pictures that a server gets.")] = "png",
    concurrency: Annotated[Count, typer.Option(help="Questions under way at once.")] = 8,
    device: Annotated[Device, typer.Option(help="cpu, cuda, cuda:1 ...; auto is CUDA where there is one.")] = "auto",
) -> Vlm:
    """Who answers: a model of transformers, or one behind a server. Raises UserError."""
    if endpoint is None:
        if model or by_text or longest_side or format != "png":
            raise UserError("--model, --by-text, --longest-side, --format: belong to a server, which --endpoint names")
        from unigrpo.judges.local import LocalVlm

        return LocalVlm(vlm, device, answered=answered)
    from unigrpo.judges.endpoint import Endpoint

    if not model:
        raise UserError("--endpoint: needs --model, the name of the model that the server is asked for")
    limits = {"timeout": timeout, "tries": tries, "concurrency": concurrency, "answered": answered}
    return Endpoint(endpoint, model, by_text, longest_side=longest_side, format=format, **limits)


def answered(make: Callable) -> Callable:
    """``make(vlm, ...)`` of a benchmark as its ``build``: the options of :func:`answerer` stand in the place of the
    first argument."""
    _, *rest = inspect.signature(make).parameters.values()
    options = inspect.signature(answerer).parameters

    def build(**values: Any):
        vlm = answerer(**{name: values.pop(name) for name in options if name in values})
        return make(vlm, **values)

    hints = annotations(make) | annotations(answerer)
    parameters = [p.replace(kind=p.KEYWORD_ONLY, annotation=hints[p.name]) for p in (*rest, *options.values())]
    build.__signature__ = inspect.Signature(parameters)
    return build


def judge_version(vlm: Vlm) -> str:
    """How a version names the one who answers, in one word."""
    who = f"{vlm.name.rstrip('/').split('/')[-1]}:{vlm.digest}" if vlm.digest else vlm.name.replace(" ", "_")
    return who if vlm.answered == ANSWERED else f"{who} answered:{vlm.answered:g}"
