"""The front page of a scale: what was run, what the claims came to, every table and figure of the catalogue that is
there, the gallery, and what it all took. The report of the workflow opens on the same words (index.rst).
"""

import io
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from unigrpo.core import files
from unigrpo.core.errors import UserError, reading
from unigrpo.report.data import phrases
from unigrpo.report.data.results import Folder
from unigrpo.report.pages import page
from unigrpo.study.catalogue import BASE, DOORS
from unigrpo.study.standing import read

NEEDED = ("id", "claim", "verdict")
SHOWN = (*NEEDED, "comparisons", "kind")  # columns of claims.csv
SUFFIXES = {"tables": ("html", ""), "figures": ("png", "png")}  # of a result's address, and of its picture
REPORT = ("collect", "table", "figure", "claims", "gallery", "compare")  # steps that make results of scores
BASES = {"shipped": "the one that ships with the project", "train": "trained here", "released": "a published release"}
MOST_NAMED = 4  # runs


def used_by_steps(folder: Path) -> pd.DataFrame:
    """steps/<step>.jsonl of a scale, a row a step: of several processes the longest time, the sum of processor times
    and the largest memory; none whose outputs the project ships. Raises UserError without any."""
    joined = {"seconds": "max", "cpu_seconds": "sum", "max_rss_mb": "max"}
    paths = [path for path in sorted((folder / "steps").glob("*.jsonl")) if not (read(path) or {}).get("shipped")]
    if not paths:
        raise UserError(f"{folder / 'steps'}: expected a file of each step that has run")
    used = {path.stem: pd.DataFrame(row for _, row in files.read_jsonl(path)).agg(joined) for path in paths}
    return pd.DataFrame(used.values(), index=pd.Index(used, name="step"))


def what_was_run(folder: Folder) -> list[str]:
    """Sentences: the scale, its runs and their replicates, the base, the time."""
    records = {run: found for run in folder.runs if (found := folder.records(run))}
    replicates = defaultdict(list)
    for run, found in records.items():
        replicates[len(found)].append(run)
    each = [f"{count} of {_named(runs, folder)}" for count, runs in sorted(replicates.items(), reverse=True)]
    modes = Counter(run for run in records for _ in folder.study.catalogue["runs"][run]["evaluate"])
    used = used_by_steps(folder.root)
    shipped = (read(folder.root / f"steps/pretrain.{BASE}.0.jsonl") or {}).get("shipped")
    source = "shipped" if shipped else folder.study.scale["base"].get("source", "train")
    return [
        phrases.scale_of([*records], folder),
        f"**Runs**: {len(records)}, which make {modes.total()} rows, with and without thinking counted apart.",
        f"**Replicates**: {'; '.join(each)}.",
        f"**Base**: {BASES[source]}.",
        f"**Time**: {len(used)} steps, {used['seconds'].sum() / 60:,.0f} minutes one after the other, "
        f"{used['cpu_seconds'].sum() / 60:,.0f} minutes of a processor.",
    ]


def _named(runs: list[str], folder: Folder) -> str:
    """A few runs by their labels, many by their number."""
    many = len(runs) > MOST_NAMED
    return f"{len(runs)} runs" if many else ", ".join(phrases.escaped(folder.label(run)) for run in runs)


def claims(folder: Folder) -> pd.DataFrame:
    """The claims and what they came to, from claims.csv; none without it."""
    path = folder.root / "claims.csv"
    if not path.exists():
        return pd.DataFrame()
    with reading(path, "the claims of a scale, with id, claim and verdict"):
        table = pd.read_csv(io.StringIO(files.read_result(path)), dtype=str, keep_default_na=False)
        return table[[name for name in SHOWN if name in table or name in NEEDED]]


def counted(table: pd.DataFrame) -> str:
    """How many claims came to each verdict, in words."""
    found = Counter(verdict.partition(":")[0].partition(" (")[0] for verdict in table["verdict"])
    return f"Of {len(table)} claims: {', '.join(f'{count} {verdict}' for verdict, count in found.most_common())}."


def cards(section: str, folder: Folder) -> Iterator[page.Card]:
    """The tables or figures of the catalogue that are there, in its order."""
    suffix, picture = SUFFIXES[section]
    for name, spec in folder.study.catalogue[section].items():
        address = f"{section}/{name}"
        if (folder.root / f"{address}.{suffix}").exists():
            facts = DOORS[section].load(spec["kind"]).FACTS
            runs = spec.get("runs", ())
            whose = f" Runs: {', '.join(map(folder.label, runs))}." if 0 < len(runs) <= MOST_NAMED else ""
            shown = f"{address}.{picture}" if picture else ""
            yield page.Card(page.title_of(spec, facts), facts.caption + whose, f"{address}.{suffix}", shown)


def galleries(folder: Folder) -> Iterator[page.Card]:
    """Those that are there: of the benchmarks of every run, and of those of a group."""
    for path in sorted(folder.root.glob("gallery*/index.html")):
        group = path.parent.name.partition("_")[2]
        yield page.Card(f"Gallery{group and f' of {group}'}", phrases.GALLERY, f"{path.parent.name}/index.html")


def cost(folder: Folder) -> pd.DataFrame:
    """What each kind of step took."""
    used = used_by_steps(folder.root)
    kinds = [kind if (kind := step.partition(".")[0]) not in REPORT else "report" for step in used.index]
    by_kind = used.assign(steps=1).groupby(kinds, sort=False)
    table = by_kind.agg({"steps": "sum", "seconds": "sum", "cpu_seconds": "sum", "max_rss_mb": "max"})
    rows = table.sort_values("seconds", ascending=False).itertuples()
    return pd.DataFrame(
        (row.Index, row.steps, f"{row.seconds / 60:,.1f}", f"{row.cpu_seconds / 60:,.1f}", f"{row.max_rss_mb:,.0f}")
        for row in rows
    ).set_axis(["step", "number", "minutes", "processor minutes", "largest memory in MB"], axis=1)


def write(folder: Folder) -> None:
    """Write index.html and index.rst into the folder."""
    said, table, shown = what_was_run(folder), claims(folder), [*galleries(folder)]
    verdicts = [counted(table)] if len(table) else []
    rule = "[All comparisons, the rule and the reasons](claims.html)"
    scores = ["[Every score of every image](scores.csv)"] * (folder.root / "scores.csv").exists()
    sections = [
        ("What was run", said),
        *[("Claims", [phrases.CLAIMS, *verdicts, rule]), ("", table)] * (len(table) > 0),
        *((name.capitalize(), found) for name in DOORS if (found := [*cards(name, folder)])),
        *[("Gallery", shown)] * bool(shown),
        ("Cost", cost(folder)),
        ("", ["Steps that ran at the same time are counted apart.", *scores]),
    ]
    files.write_text(folder.root / "index.html", page.parts(f"UniGRPO: results of scale {folder.root.name}", sections))
    words = [page.rendered(each, phrases.of_rst, "**{}**", "``{}``") for each in [*said, *verdicts]]
    words += [phrases.of_rst(f"{row.id}, {row.verdict}: {row.claim}") for row in table.itertuples()]
    files.write_text(folder.root / "index.rst", "".join(f"* {each}\n" for each in words))
