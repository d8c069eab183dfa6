"""DPG-style: dense prompts as graphs of yes/no questions, where a question counts only if those it rests on do.

The prompt file is DPG-Bench's CSV (arXiv 2403.05135): a row a question, with ``item_id``, ``text`` (the prompt),
``proposition_id``, ``dependency`` (the ids it rests on, commas between, 0 for none), ``category_broad`` and
``question_natural_language``. An image's score is the share of its questions that count: those answered yes whose
premises count, too, in the order of the rows. A category's share is that of its questions answered yes, whatever they
rest on. Both are as in the official tool, whose judge is mPLUG-large; ours is any vision-language model, hence
"-style". Two things differ on purpose: the official tool never asks the first row of the file, and its categories are
of the last of a prompt's pictures alone.

Pictures of one's own have the layouts of every benchmark, or the official one: a file ``<item_id>.png`` a prompt, in
which four pictures stand side by side and one below another (``--grid 2``).
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer
from PIL.Image import Image

from evals.benchmarks import mean
from evals.instruments import picture_files
from evals.instruments.exams import Exam, Examiner, answered, check_answers, judge_version, prompts_version
from evals.instruments.picture_files import Picture, Pictures
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_text
from unigrpo.core.records import Prompt, same_text
from unigrpo.core.settings import Count, ExistingPath
from unigrpo.judges import Vlm
from unigrpo.sampling.pictures import read_picture
from unigrpo.study.facts import BenchmarkFacts

FACTS = BenchmarkFacts(
    title="DPG-style",
    version="3",
    caveat="The official judge is mPLUG-large: numbers made with another model compare among themselves only.",
    shares=("dpg",),
)
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "category_broad", "question_natural_language")
EVEN = 0.5


@dataclass(frozen=True)
class Graph:
    """An exam whose questions have ids, and the ids that each rests on."""

    exam: Exam
    ids: tuple[int, ...]
    rests_on: tuple[tuple[int, ...], ...]


def read_graphs(path: Path) -> dict[str, Graph]:
    """item_id -> its graph. Raises UserError naming the line of the first row that is none."""
    reader = csv.DictReader(io.StringIO(read_text(path).removeprefix("\ufeff")))
    rows: dict[str, list[tuple[str, int, tuple[int, ...], str, str]]] = {}
    texts: dict[str, str] = {}
    try:
        if odd := [column for column in COLUMNS if [*(reader.fieldnames or ())].count(column) != 1]:
            raise UserError(f"{path}, line 1: expected each of {', '.join(COLUMNS)} once, found otherwise '{odd[0]}'")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                found = [text for text in row.values() if isinstance(text, str)] + row.get(None, [])
                raise UserError(f"{where}: expected {len(reader.fieldnames)} cells, found {len(found)}")
            parents = row["dependency"].removesuffix(",").split(",")
            number, *parents = (_number(text) for text in (row["proposition_id"], *parents))
            if number is None or None in parents:
                found = f"{row['proposition_id'][:40]!r} and {row['dependency'][:40]!r}"
                raise UserError(f"{where}: 'proposition_id' and 'dependency' must be numbers, found {found}")
            if not row["question_natural_language"] or not row["item_id"]:
                raise UserError(f"{where}: 'item_id' and 'question_natural_language' must be texts")
            text = texts[row["item_id"]] = texts.get(row["item_id"]) or row["text"]
            if row["text"] and same_text(row["text"]) != same_text(text):
                raise UserError(f"{where}: 'item_id' {row['item_id']} has another text than in the lines before")
            premises = tuple(parent for parent in parents if parent)
            point = (where, number, premises, row["category_broad"] or "any", row["question_natural_language"])
            rows.setdefault(row["item_id"], []).append(point)
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num + 1}: expected a row of CSV ({error})") from None
    if not rows:
        raise UserError(f"{path}: is empty, expected a row a question")
    return {item: _graph(texts[item], points) for item, points in rows.items()}


def _number(text: str) -> int | None:
    """Of a cell, also as a spreadsheet writes it (1.0); None where it is no whole number."""
    written = re.fullmatch(r"(\d{1,9})(\.0*)?", text.strip(), re.ASCII)
    return int(written[1]) if written else None


def _graph(text: str, points: Sequence[tuple[str, int, tuple[int, ...], str, str]]) -> Graph:
    seen: set[int] = set()
    known = {number for _, number, *_ in points}
    for where, number, parents, *_ in points:
        if number in seen:
            raise UserError(f"{where}: 'proposition_id' {number} stands twice")
        if odd := [p for p in parents if p not in known or p == number]:
            raise UserError(f"{where}: 'dependency' {odd[0]} is no other question of this prompt")
        seen.add(number)
    _, ids, rests_on, skills, questions = zip(*points, strict=True)
    return Graph(Exam(text, questions, ("yes",) * len(ids), skills, len(ids)), ids, rests_on)


def settled(graph: Graph, right: Sequence[bool]) -> list[bool]:
    """Which questions count: answered ``right``, and so do those that they rest on. As in the official tool, rows are
    gone through once: a refusal goes on to the rows below, and a row that stands above its premise sees its answer."""
    counts = dict(zip(graph.ids, right, strict=True))
    for number, parents in zip(graph.ids, graph.rests_on, strict=True):
        counts[number] = counts[number] and all(counts[p] for p in parents)
    return list(counts.values())


def read(images: Path, prompts: str, grid: int = 1, **_) -> Pictures:
    """What lies at ``images``; of a folder of ``<item_id>.png``, ``grid`` x ``grid`` pictures of a file, row by row."""
    kinds = picture_files.KINDS
    files = sorted(p for p in images.glob("[!.]*") if p.suffix.lower() in kinds) if images.is_dir() else []
    if not files or (images / "manifest.jsonl").exists():
        if grid > 1:
            raise UserError(f"--grid: expected a folder of <item_id>.png at {images}")
        return picture_files.read(images)
    graphs, found = read_graphs(Path(prompts)), []
    for path in files:
        if path.stem not in graphs:
            found.append((path.name, f"'item_id' {path.stem!r} is not in {prompts}"))
            continue
        prompt = Prompt(path.stem, graphs[path.stem].exam.prompt, "", {})
        for place in range(grid**2):
            name = f"{path.name}[{place}]" if grid > 1 else path.name
            found.append(Picture(name, prompt, place, partial(_tile, path, grid, place)))
    return picture_files.gathered(images, {"benchmark": "dpg"} | picture_files.GIVEN, found)


def _tile(path: Path, grid: int, place: int) -> Image:
    image = read_picture(path)
    if image.width % grid or image.height % grid:
        raise UserError(f"{path}: expected {grid} x {grid} pictures of one size, found {image.width}x{image.height}")
    width, height = image.width // grid, image.height // grid
    down, right = divmod(place, grid)
    return image.crop((right * width, down * height, (right + 1) * width, (down + 1) * height))


class QuestionGraphs(Examiner):
    """The judge. A picture's graph is found by its prompt's text."""

    def __init__(self, vlm: Vlm, path: Path):
        self.vlm, self.path, self.graphs = vlm, path, read_graphs(path)
        check_answers(vlm, (graph.exam for graph in self.graphs.values()), path)
        self.by_text: dict[str, set[Graph]] = {}
        for graph in self.graphs.values():
            self.by_text.setdefault(same_text(graph.exam.prompt), set()).add(graph)
        self.prompts = dict.fromkeys(self.by_text, "")
        self.version = f"dpg-style-{FACTS.version} {prompts_version(path)} {judge_version(vlm)}"

    def check(self, picture: Picture) -> Graph:
        prompt = picture.prompt
        graphs = [*self.by_text.get(same_text(prompt.text), ())]
        if len(graphs) != 1:
            found = f"is that of {len(graphs)} items" if graphs else "is not"
            raise UserError(f"prompt {prompt.text[:80]!r} ({prompt.id}) {found} in {self.path}")
        return graphs[0]

    def judge(self, pictures: Sequence[Picture], images: Sequence[Image]) -> list[dict | UserError]:
        graphs = [self.check(picture) for picture in pictures]
        sat = self.sit(images, [graph.exam for graph in graphs])
        pairs = zip(graphs, sat, strict=True)
        return [marks if isinstance(marks, UserError) else _row(graph, marks) for graph, marks in pairs]

    def summary(self, rows: Sequence[dict]) -> tuple[dict, list[str]]:
        kinds: dict[str, list[float]] = {}
        prompts: dict[str, list[float]] = {}
        for row in rows:
            prompts.setdefault(row["prompt_id"], []).append(row["metrics"]["dpg"])
            for _, skill, _, right, _ in row["points"]:
                kinds.setdefault(skill, []).append(float(right))
        shares = {kind: {"share": fmean(v), "points": len(v)} for kind, v in sorted(kinds.items())}
        score = mean(rows, "dpg")
        lines = [f"DPG-style score: {score:.2%} over {len(prompts)} prompts"]
        lines += [f"{kind:<16} = {s['share']:.2%} ({s['points']} questions)" for kind, s in shares.items()]
        counted, line = self.answered(rows)
        return {"dpg": score, "prompts": len(prompts), "categories": shares} | counted, [*lines, line]


def _row(graph: Graph, marks: Sequence[float]) -> Mapping:
    right = [mark >= EVEN for mark in marks]
    counts = settled(graph, right)
    points = zip(graph.exam.questions, graph.exam.skills, marks, right, counts, strict=True)
    return {
        "metrics": {"dpg": fmean(map(float, counts)), "atoms": len(marks)},
        "reason": "\n".join(q for q, c in zip(graph.exam.questions, counts, strict=True) if not c),
        "points": [[q, skill, round(mark, 6), yes, c] for q, skill, mark, yes, c in points],
    }


@answered
def build(
    vlm: Vlm,
    prompts: Annotated[ExistingPath, typer.Option(help="dpg_bench.csv, or rows like it.")],
    grid: Annotated[Count, typer.Option(help="A file <item_id>.png holds N x N pictures; officially 2.")] = 1,
) -> QuestionGraphs:
    """``grid`` is :func:`read`'s. Raises UserError."""
    return QuestionGraphs(vlm, Path(prompts))
