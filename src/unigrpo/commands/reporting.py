"""Verbs that make claims, tables, figures and the gallery from judged runs."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Literal

import typer

from unigrpo import study
from unigrpo.commands import Scale, app, writes
from unigrpo.core import registry
from unigrpo.core.errors import UserError
from unigrpo.report import claims as claims_room
from unigrpo.report import data, pages

PANEL = "Report"
Results = Annotated[Path | None, typer.Option(help="Folder of the scale (default results/<scale>).")]
Scores = Annotated[Path | None, typer.Option(help="scores.csv (default that of the scale's folder).")]
Paper = Annotated[Path | None, typer.Option(help="The paper's numbers (default results/reference/paper.csv).")]
Out = Annotated[
    Path | None, writes("Folder to write into (default one in the scale's folder).", folder=True, shared=True)
]
Name = Annotated[str, typer.Argument(help="Entry of the catalogue; with --kind, name of the files.")]
Kind = Annotated[str | None, typer.Option(help="Kind to show --row in, in place of the catalogue's entry; see kinds.")]
Rows = Annotated[
    list[str] | None, typer.Option("--row", help="Run, or RUN:no where it was judged without thinking.", metavar="RUN")
]
Guidance = Annotated[Literal["tuned", "unguided"], typer.Option(help="Guidance of the images judged.")]


@app.command(rich_help_panel=PANEL)
def collect(
    sources: Annotated[list[str], typer.Argument(metavar="RUN=PATH", help="Run name and one of its seed folders.")],
    out: Annotated[Path, writes("scores.csv to write.", "scores.csv")],
    partial: Annotated[bool, typer.Option("--partial", help="Take parts of benchmarks, too; tables say so.")] = False,
) -> None:
    """Put all scores of a study into one tidy table."""
    data.results.collect(sources, out, partial)


def _sources(scale: str, results: Path | None, scores: Path | None, paper: Path | None, judged: bool = True):
    """What a report is made from; no scores unless images are ``judged``."""
    root = results or Path("results") / scale
    table = data.results.Scores(scores or root / "scores.csv") if judged else None
    published = data.results.Paper(paper or data.results.PAPER)
    return data.results.Sources(table, published, data.results.Folder(root, study.resolve.chosen_study(scale)))


def _entry(section: str, name: str, scale: str, kind: str | None, rows: list[str] | None, guidance: str) -> dict:
    """The entry ``name`` of the catalogue, or one that shows ``rows`` in a ``kind``. Raises UserError."""
    entries = study.resolve.chosen_study(scale).catalogue[section]
    if (kind is None) != (not rows):
        raise UserError("expected --kind and --row, or neither of them")
    if kind is not None:
        pairs = [(run, mode or "yes") for run, _, mode in (row.partition(":") for row in rows)]
        if odd := [mode for _, mode in pairs if mode not in study.resolve.MODES]:
            raise UserError(f"--row: expected RUN, RUN:yes or RUN:no, got {odd[0]!r} behind the colon")
        shows = study.catalogue.DOORS[section].load(kind, "--kind").FACTS.shows
        return {"kind": kind, "guidance": guidance, shows: pairs if shows == "rows" else [run for run, _ in pairs]}
    if name not in entries:
        missing = f"{section}.{name}: no such entry{registry.nearest(name, entries)}"
        raise UserError(f"{study.resolve.CATALOGUE}: {missing}")
    return entries[name]


def _add_verb(verb: str, section: str, files: ModuleType, does: str) -> None:
    """Add the verb that makes one entry of a section of the catalogue."""

    @app.command(verb, help=does, rich_help_panel=PANEL)
    def make(
        name: Name,
        scale: Scale = "cpu",
        kind: Kind = None,
        row: Rows = None,
        guidance: Guidance = "tuned",
        scores: Scores = None,
        results: Results = None,
        paper: Paper = None,
        out: Out = None,
    ) -> None:
        entry = _entry(section, name, scale, kind, row, guidance)
        facts = study.catalogue.facts_of(section, entry, "--row")
        sources = _sources(scale, results, scores, paper, facts.scores)
        place, root = out or sources.folder.root / section, sources.folder.root
        read = (path.resolve() for path in (scores or root / "scores.csv", paper or data.results.PAPER))
        if (place / f"{name}.csv").resolve() in read:
            raise UserError(f"{name}: {place / name}.csv is what it is made from, expected another name or --out")
        judged = kind and facts.scores and section == "tables"  # figures say so themselves
        if judged and not any(map(sources.scores.has, pages.page.rows_of(entry, facts))):
            raise UserError(f"--row: none is scored, expected one that is; there are {sources.scores.said()}")
        files.write(name, entry, sources, place)


_add_verb("table", "tables", pages.page, "Make one table, as CSV, Markdown, HTML and LaTeX.")
_add_verb("figure", "figures", pages.drawing, "Make one figure, as PNG, PDF and CSV.")


@app.command(rich_help_panel=PANEL)
def kinds() -> None:
    """List the kinds of table and figure, and what each shows."""
    for section, door in study.catalogue.DOORS.items():
        print(f"{section}:")
        for name in door.names():
            facts = door.load(name).FACTS
            print(f"  {name} ({facts.shows}{'' if facts.scores else ', of training'}): {facts.caption}")


@app.command(rich_help_panel=PANEL)
def claims(
    scale: Scale = "cpu", scores: Scores = None, results: Results = None, paper: Paper = None, out: Out = None
) -> None:
    """Check the paper's claims: which hold here, which do not, which stay undecided."""
    sources = _sources(scale, results, scores, paper)
    claims_room.outcomes.write(sources.folder.study.catalogue["claims"], sources, out or sources.folder.root)


@app.command(rich_help_panel=PANEL)
def index(scale: Scale = "cpu", results: Results = None) -> None:
    """Make the front page of a scale: what was run, claims, tables, figures, gallery, cost."""
    pages.index.write(_sources(scale, results, None, None, judged=False).folder)


@app.command(rich_help_panel=PANEL)
def reference(scale: Scale = "cpu", results: Results = None, out: Out = None) -> None:
    """Write results/reference/<scale>, to commit: claims, tables, figures; every cell and course, compressed."""
    folder = _sources(scale, results, None, None, judged=False).folder
    data.reference.write(folder, out or Path("results/reference") / folder.root.name)


@app.command(rich_help_panel=PANEL)
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Run to compare it with.")],
    scale: Scale = "cpu",
    thinking: Annotated[
        bool | None,
        typer.Option(help="Whether traces came first (default: as both are evaluated, else as each is)."),
    ] = None,
    guidance: Guidance = "tuned",
    scores: Scores = None,
    results: Results = None,
    paper: Paper = None,
    out: Out = None,
) -> None:
    """Compare two runs: paired differences and cost."""
    sources = _sources(scale, results, scores, paper)
    modes = ["yes", "no"] if thinking is None else ["yes" if thinking else "no"]
    rows = pages.compare.rows_of(a, b, modes, guidance, sources.scores)
    pages.compare.write(*rows, sources, out or sources.folder.root / "compare")


@app.command(rich_help_panel=PANEL)
def gallery(
    scale: Scale = "cpu",
    guidance: Guidance = "tuned",
    group: Annotated[str | None, typer.Option(help="Group of benchmarks; those of every run without it.")] = None,
    results: Results = None,
    out: Annotated[Path | None, writes("Folder to write, replaced if it exists.", "index.html", folder=True)] = None,
    single: Annotated[Path | None, writes("File to write: the page with its images inside.", "gallery.html")] = None,
) -> None:
    """Show samples of all runs side by side, in a static page."""
    folder = _sources(scale, results, None, None, judged=False).folder
    known = folder.study.catalogue["benchmarks"]
    chosen = [*study.benchmark_entry.of_group(known, group)]
    if group and not chosen:
        hint = registry.nearest(group, {each.group for each in known.values() if each.group})
        raise UserError(f"--group {group}: no benchmark is of this group{hint}")
    place = folder.root / (f"gallery_{group}" if group else "gallery")
    pages.gallery.make(replace(folder, chosen=chosen), out or place, single or place.with_suffix(".html"), guidance)
