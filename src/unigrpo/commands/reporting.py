"""Verbs that make claims, tables, figures and the gallery from judged runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer()
PANEL = "Report"
Scale = Annotated[str, typer.Option(help="Scale, a file of pipelines/scales.")]
Results = Annotated[Path | None, typer.Option(help="Folder of the scale (default results/<scale>).")]
Scores = Annotated[Path | None, typer.Option(help="scores.csv (default that of the scale's folder).")]
Paper = Annotated[Path | None, typer.Option(help="The paper's numbers (default results/reference/paper.csv).")]
Out = Annotated[Path | None, typer.Option(help="Folder to write into (default one in the scale's folder).")]
Name = Annotated[str, typer.Argument(help="Entry of the catalogue; with --kind, name of the files.")]
Kind = Annotated[str | None, typer.Option(help="Kind to show --row in, in place of the catalogue's entry; see kinds.")]
Rows = Annotated[
    list[str] | None, typer.Option("--row", help="Run, or RUN:no where it was judged without thinking.", metavar="RUN")
]
Guidance = Annotated[Literal["tuned", "unguided"], typer.Option(help="Guidance of the images judged.")]


@app.command(rich_help_panel=PANEL)
def collect(
    sources: Annotated[list[str], typer.Argument(metavar="RUN=PATH", help="Run name and one of its seed folders.")],
    out: Annotated[Path, typer.Option(help="scores.csv to write.")],
) -> None:
    """Put all scores of a study into one tidy table."""
    from unigrpo.report.data.collect import collect

    collect(sources, out)


def _sources(scale: str, results: Path | None, scores: Path | None, paper: Path | None, judged: bool = True):
    """What a report is made from; no scores unless images are ``judged``."""
    from unigrpo.report.data import results as data
    from unigrpo.report.data.rows import Sources
    from unigrpo.study.run_choice import chosen_study

    root = results or Path("results") / scale
    table = data.Scores(scores or root / "scores.csv") if judged else None
    return Sources(table, data.Paper(paper or data.PAPER), data.Folder(root, chosen_study(scale)))


def _show(section: str, name: str, kind: str | None, rows: list[str] | None, guidance: str, out, *where) -> None:
    """Make one table or figure."""
    from unigrpo.core.errors import UserError
    from unigrpo.core.registry import nearest
    from unigrpo.report.pages import figure_files, table_files
    from unigrpo.study.catalogue import DOORS, facts_of
    from unigrpo.study.run_choice import CATALOGUE, chosen_study

    entries = chosen_study(where[0]).catalogue[section]
    if (kind is None) != (not rows):
        raise UserError("expected --kind and --row, or neither of them")
    if kind is not None:
        pairs = [(run, mode or "yes") for run, _, mode in (row.partition(":") for row in rows)]
        shows = DOORS[section].load(kind, "--kind").FACTS.shows
        spec = {"kind": kind, "guidance": guidance, shows: pairs if shows == "rows" else [run for run, _ in pairs]}
    elif name in entries:
        spec = entries[name]
    else:
        raise UserError(f"{CATALOGUE}: {section}.{name}: no such entry{nearest(name, entries)}")
    sources = _sources(*where, judged=facts_of(section, spec, "--row").scores)
    files = {"tables": table_files, "figures": figure_files}[section]
    files.write(name, spec, sources, out or sources.folder.root / section)


@app.command(rich_help_panel=PANEL)
def table(
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
    """Make one table, as CSV, Markdown, HTML and LaTeX."""
    _show("tables", name, kind, row, guidance, out, scale, results, scores, paper)


@app.command(rich_help_panel=PANEL)
def figure(
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
    """Make one figure, as PNG, PDF and CSV."""
    _show("figures", name, kind, row, guidance, out, scale, results, scores, paper)


@app.command(rich_help_panel=PANEL)
def kinds() -> None:
    """List the kinds of table and figure, and what each shows."""
    from unigrpo.study.catalogue import DOORS

    for section, door in DOORS.items():
        print(f"{section}:")
        for name in door.names():
            facts = door.load(name).FACTS
            print(f"  {name} ({facts.shows}{'' if facts.scores else ', of training'}): {facts.caption}")


@app.command(rich_help_panel=PANEL)
def claims(
    scale: Scale = "cpu",
    scores: Scores = None,
    results: Results = None,
    paper: Paper = None,
    out: Out = None,
) -> None:
    """Check the paper's claims: which hold here, which do not, which stay undecided."""
    from unigrpo.report.claims import outcomes

    sources = _sources(scale, results, scores, paper)
    outcomes.write(sources.folder.study.catalogue["claims"], sources, out or sources.folder.root)


@app.command(rich_help_panel=PANEL)
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="Run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Run to compare it with.")],
    scale: Scale = "cpu",
    thinking: Annotated[bool, typer.Option(help="Whether the images were made with a trace first.")] = True,
    guidance: Guidance = "tuned",
    scores: Scores = None,
    results: Results = None,
    paper: Paper = None,
    out: Out = None,
) -> None:
    """Compare two runs: paired differences, cost, curves, and images on which they differ."""
    from unigrpo.report.data.rows import Row
    from unigrpo.report.pages import compare

    sources = _sources(scale, results, scores, paper)
    rows = (Row(run, "yes" if thinking else "no", guidance) for run in (a, b))
    compare.write(*rows, sources, out or sources.folder.root / "compare")


@app.command(rich_help_panel=PANEL)
def gallery(
    scale: Scale = "cpu",
    guidance: Guidance = "tuned",
    results: Results = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write, replaced if it exists.")] = None,
    single: Annotated[Path | None, typer.Option(help="File to write: the page with its images inside.")] = None,
) -> None:
    """Show samples of all runs side by side, in a static page."""
    from unigrpo.report.pages.gallery import make

    folder = _sources(scale, results, None, None, judged=False).folder
    make(folder, out or folder.root / "gallery", single or folder.root / "gallery.html", guidance)
