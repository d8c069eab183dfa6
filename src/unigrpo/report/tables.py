"""Tables 1 and 2 beside the paper's numbers, and the table of decoding knobs: CSV, Markdown, HTML, LaTeX.

Kinds of table, chosen by ``kind`` in the table's specification:

* main (Table 1): TA, GenEval official and strict, gold, each the mean over seeds with its interval
* categories (Table 2): the six GenEval categories, official and strict, with their number of prompts
* decoding: what guidance and temperature alone bring the first runs, beside the last run, ``gold_gap`` =
the last run minus the row, paired by prompt and seed
* guidance: each run, with or without guidance in training, evaluated without and with it; see guidance.py
* training: what runs cost and how their rewards went; like the next two without scores, see training.py
* regularisers: where runs end and how far they moved, beside the first; see regularisers.py
* overoptimisation: how the reward trained on and the gold judge part; see overoptimisation.py

The CSV holds every number; Markdown and HTML a readable choice of them and the notes that belong beside it; LaTeX
what a paper prints. What is missing stands as an empty cell (CSV) or "not available" (elsewhere), never as a
missing row.

    python -m unigrpo.report.tables --name table1 --spec spec.json --scores scores.csv --results results/cpu
        --out results/cpu/tables
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import pandas as pd

from unigrpo.core import cli
from unigrpo.core.errors import UserError
from unigrpo.core.files import read_json, write_text
from unigrpo.report import endings, guidance, latex, overoptimisation, page, training
from unigrpo.report.lines import columns, interval, number, seeds
from unigrpo.report.notes import HEADS, MISSING, caption, notes
from unigrpo.report.results import CATEGORIES
from unigrpo.report.rows import Line, Row, Sources, add_source_options, read_sources
from unigrpo.study.catalogue import OF_TRAINING

DECODING = ("unguided", "tuned", "greedy")
NAMES = {"main": "Table 1: ", "categories": "Table 2: "}
TITLES = {
    "main": "Text alignment and GenEval",
    "categories": "GenEval by category",
    "decoding": "What decoding alone brings, beside reinforcement",
    "guidance": "Guidance in training",
    "training": "Cost and course of training",
    "regularisers": "Regularisers",
    "overoptimisation": "Over-optimisation of the reward",
}


# ------------------------------------------------------------------------------------------ CSV rows


def _head(row: Row, sources: Sources) -> Line:
    ta, geneval = (sources.cells(row, benchmark, "gold") for benchmark in ("ta", "geneval"))
    found = [c for c in (ta, geneval) if c is not None]
    return {
        "run": row.run,
        "label": sources.folder.label(row.run),
        "thinking": row.thinking,
        "guidance": row.guidance,
        "seeds": min((len(c.seeds) for c in found), default=0),
        "n": sources.scores.images(row.run, row.mode, row.guidance),
        "prompts_ta": len(ta.prompts) if ta else 0,
        "prompts_geneval": len(geneval.prompts) if geneval else 0,
    }


def _overall(row: Row, sources: Sources) -> Line:
    return (
        columns("ta", sources.estimate(row, "ta", "ta"))
        | columns("geneval", sources.estimate(row, "geneval", "official"))
        | columns("geneval_strict", sources.estimate(row, "geneval", "strict"))
        | columns("gold", sources.estimate(row, "geneval", "gold"))
    )


def _main_line(row: Row, rows: Sequence[Row], sources: Sources) -> Line:
    paper = {f"paper_{c}": sources.paper.value(row.run, row.thinking, c) or None for c in ("ta", "geneval")}
    collapsed = {"paper_collapsed": sources.paper.value(row.run, row.thinking, "collapsed") or None}
    return _head(row, sources) | _overall(row, sources) | paper | sources.cost(row.run) | collapsed


def _category_line(row: Row, rows: Sequence[Row], sources: Sources) -> Line:
    line = _head(row, sources)
    for tag in (None, *CATEGORIES):
        name = tag or "geneval"
        official = sources.estimate(row, "geneval", "official", tag)
        line |= {f"{name}_n": official and official.prompts} | columns(name, official)
        line |= columns(f"{name}_strict", sources.estimate(row, "geneval", "strict", tag))
        line[f"paper_{name}"] = sources.paper.value(row.run, row.thinking, name) or None
    return line | {"paper_collapsed": sources.paper.value(row.run, row.thinking, "collapsed") or None}


def _decoding_line(row: Row, rows: Sequence[Row], sources: Sources) -> Line:
    protocols = sources.folder.protocols(row.run, row.mode, row.guidance)
    knobs = {f"{k}_used": protocols[0].get(k) if protocols else None for k in ("guidance", "temperature")}
    best = next(r for r in rows if r.run == rows[-1].run and r.guidance == "tuned")
    gap = sources.gap(best, row, "geneval", "gold") if row.run != best.run else None
    return _head(row, sources) | knobs | _overall(row, sources) | columns("gold_gap", gap)


def _guidance_line(row: Row, rows: Sequence[Row], sources: Sources) -> Line:
    return _head(row, sources) | _overall(row, sources) | guidance.line(row.run, sources)


# ------------------------------------------------------------------------------------------ text


def _who(line: Mapping) -> Line:
    return {"run": line["label"], "thinking": line["thinking"]}


def _verdicts(line: Mapping) -> Line:
    names = {"TA": "ta", "GenEval": "geneval", "strict": "geneval_strict", "gold": "gold"}
    return {head: interval(line, name) for head, name in names.items()}


def _paper(line: Mapping, name: str) -> str:
    return line[f"paper_{name}"] or ("collapsed" if line["paper_collapsed"] == "yes" else "–")


def _main_text(line: Mapping) -> Line:
    costs = {"training images": "images", "model evaluations": "model_evaluations", "wall seconds": "wall_seconds"}
    return (
        _who(line)
        | _verdicts(line)
        | {
            "paper TA": _paper(line, "ta"),
            "paper GenEval": _paper(line, "geneval"),
            "seeds": seeds(line),
            "images": line["n"],
            **{head: MISSING if line[name] is None else f"{line[name]:,.0f}" for head, name in costs.items()},
            "collapsed seeds": MISSING if line["collapsed"] is None else str(line["collapsed"]),
        }
    )


def _category_text(line: Mapping) -> Line:
    text = _who(line)
    for name in ("geneval", *CATEGORIES):
        head = "overall" if name == "geneval" else HEADS[name]
        ours = f"{number(line, name)} / {number(line, f'{name}_strict')}"
        text[head] = f"{MISSING if line[name] is None else ours} ({_paper(line, name)})"
    return text | {"seeds": seeds(line)}


def _decoding_text(line: Mapping) -> Line:
    knobs = {k: MISSING if line[f"{k}_used"] is None else line[f"{k}_used"] for k in ("guidance", "temperature")}
    gap = {"gold: last run − this row": "" if line["gold_gap"] is None else interval(line, "gold_gap")}
    return {"run": line["label"], "decoding": line["guidance"]} | knobs | _verdicts(line) | gap | {"seeds": seeds(line)}


def _guidance_text(line: Mapping) -> Line:
    trained = "guidance in training"
    head = {"run": line["label"], "evaluated": line["guidance"], trained: number(line, "guidance_in_training", "g")}
    return head | _verdicts(line) | guidance.text(line) | {"seeds": seeds(line)}


# ------------------------------------------------------------------------------------------ LaTeX

BOOKKEEPING = ("images", "training images", "model evaluations", "wall seconds", "collapsed seeds")
"""Columns that a page has no room for."""


def _main_latex(line: Mapping) -> Line:
    text = _main_text(line) | {"seeds": line["seeds"]}
    return {name: value for name, value in text.items() if name not in BOOKKEEPING}


def _category_latex(line: Mapping) -> Line:
    """The official values with their intervals, which leave no room for strict ones."""
    text = _who(line)
    for name in ("geneval", *CATEGORIES):
        head = "overall" if name == "geneval" else HEADS[name]
        text[head] = f"{interval(line, name)} ({_paper(line, name)})"
    return text | {"seeds": line["seeds"]}


def _decoding_latex(line: Mapping) -> Line:
    return _decoding_text(line) | {"seeds": line["seeds"]}


def _guidance_latex(line: Mapping) -> Line:
    return _guidance_text(line) | {"seeds": line["seeds"]}


def _regularisers_latex(line: Mapping) -> Line:
    return endings.text(line) | {"seeds": line["seeds"]}


def _overoptimisation_latex(line: Mapping) -> Line:
    return overoptimisation.text(line) | {"seeds": line["seeds"]}


# ------------------------------------------------------------------------------------------ tables


@dataclass(frozen=True)
class Kind:
    """How a kind of table makes the row of its CSV, of its Markdown and of its LaTeX."""

    line: Callable[..., Line]
    text: Callable[[Mapping], Line]
    latex: Callable[[Mapping], Line]


KINDS = {
    "main": Kind(_main_line, _main_text, _main_latex),
    "categories": Kind(_category_line, _category_text, _category_latex),
    "decoding": Kind(_decoding_line, _decoding_text, _decoding_latex),
    "guidance": Kind(_guidance_line, _guidance_text, _guidance_latex),
    "training": Kind(training.line, training.text, training.text),
    "regularisers": Kind(endings.line, endings.text, _regularisers_latex),
    "overoptimisation": Kind(overoptimisation.line, overoptimisation.text, _overoptimisation_latex),
}


def read_rows(spec: Mapping, where: str) -> list[Row]:
    """The rows that a specification asks for. Raises UserError naming the key."""
    if spec.get("kind") not in KINDS:
        raise UserError(f"{where}: 'kind' must be one of {', '.join(KINDS)}, found {spec.get('kind')!r}")
    if spec["kind"] not in ("main", "categories"):
        if not spec.get("runs"):
            raise UserError(f"{where}: 'runs' must name at least one run")
        if spec["kind"] in OF_TRAINING:
            return [Row(run) for run in spec["runs"]]
        knobs = {run: DECODING[:2] for run in spec["runs"]}
        if spec["kind"] == "decoding":
            knobs[spec["runs"][0]] = DECODING
        return [Row(run, "yes", guidance) for run in spec["runs"] for guidance in knobs[run]]
    rows = []
    for index, entry in enumerate(spec.get("rows", [])):
        match entry:
            case [str(run), "yes" | "no" as thinking]:
                rows.append(Row(run, thinking, spec.get("guidance", "tuned")))
            case _:
                raise UserError(f"{where}: 'rows[{index}]' must be [run, yes or no], found {entry!r}")
    if not rows:
        raise UserError(f"{where}: 'rows' must name at least one run")
    return rows


@dataclass(frozen=True)
class Table:
    """One table in its four forms."""

    csv: str
    md: str
    html: str
    tex: str


def make(name: str, spec: Mapping, sources: Sources, where: str) -> Table:
    """The table of one specification; ``where`` is what an error names, ``name`` its LaTeX label."""
    rows = read_rows(spec, where)
    kind = KINDS[spec["kind"]]
    lines = [kind.line(row, rows, sources) for row in rows]
    title = spec.get("title", TITLES[spec["kind"]])
    if "rows" in spec:
        title += f", {rows[0].guidance} guidance"
    titled = NAMES.get(spec["kind"], "") + title
    text = pd.DataFrame([kind.text(line) for line in lines])
    below = notes(spec["kind"], rows, lines, sources)
    listed = "\n".join(f"* {note}" for note in below)
    printed = pd.DataFrame([kind.latex(line) for line in lines])
    return Table(
        csv=pd.DataFrame(lines).to_csv(index=False, float_format="%.4f"),
        md=f"# {titled}\n\n{text.to_markdown(index=False, disable_numparse=True)}\n\n{listed}\n",
        html=page.table(text, titled, below),
        tex=latex.table(printed, [f"{title}.", *caption(spec["kind"], rows, sources)], name),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.parser(
        "unigrpo.report.tables",
        "Make one table from the scores.",
        spec="JSON: the table's entry of the catalogue",
        results="folder of the scale, results/<scale>",
        out="folder for <name>.csv, .md, .html and .tex",
    )
    parser.add_argument("--name", required=True, help="name of the table's files")
    add_source_options(parser)
    args = parser.parse_args(argv)
    spec = read_json(args.spec)
    sources = read_sources(args, judged=spec.get("kind") not in OF_TRAINING)
    table = make(args.name, spec, sources, str(args.spec))
    for suffix, text in asdict(table).items():
        write_text(args.out / f"{args.name}.{suffix}", text)


if __name__ == "__main__":
    cli.run(main)
