"""What a report reads: scores.csv, the paper's numbers, and the small files in the runs' folders.

A row of scores.csv is one metric of one image, in COLUMNS. Every table and figure is made from this file, so a released
one stands in for all training: where a run's folder is missing, so are its protocol and its cost, and the report says
so. Loads numpy and pandas when they are used, not when it is imported.
"""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

from unigrpo.core.errors import UserError, reading
from unigrpo.core.files import csv_rows, read_result, replacing
from unigrpo.core.lazy import lazy
from unigrpo.core.records import Labels, Prompt
from unigrpo.report.data import stats
from unigrpo.report.data.rows import KEYS, check_range, range_of, read_course, read_scores
from unigrpo.sampling import decoding_file
from unigrpo.study import catalogue, provenance, resolve
from unigrpo.study.provenance import ROOT

if TYPE_CHECKING:
    from unigrpo.study.benchmark_entry import Benchmark

pd, sample_folder = lazy("pandas"), lazy("unigrpo.sampling.sample_folder")
benchmark_entry = lazy("unigrpo.study.benchmark_entry")
COLUMNS = ("run", "seed", *KEYS, "metric", "value")
EXPECTED = {int: "a whole number of at least 0", float: "a number"}
JUDGED = ("scores.jsonl", "images.jsonl")  # of a run, and of `unigrpo judge`
PARTIAL = " (part: "  # in a version: how much of the benchmark was judged stands behind it
PAPER = ROOT / "results" / "reference" / "paper.csv"

Line = dict[str, object]  # one row of a table's CSV: column -> value, None where not available

# ------------------------------------------------------------------------------------------ scores.csv


def source_of(text: str) -> tuple[str, str, int | None]:
    """(run, path, seed) of ``RUN=PATH``: the seed of the last folder ``seed<k>`` in the path, None without one. Raises
    UserError."""
    run, _, path = text.partition("=")
    if not run or not path:
        raise UserError(f"'{text}': expected RUN=PATH, the run's name and a folder")
    numbers = re.findall(r"(?:^|/)seed(\d+)(?=/|$)", path)
    return run, path, int(numbers[-1]) if numbers else None


def collect(arguments: Sequence[str], out: Path, partial: bool = False) -> None:
    """Write ``out`` from arguments ``RUN=PATH``, each run and seed once: scores.jsonl of a run, images.jsonl of judged
    images, or a folder with one. The seed is that of a folder ``seed<k>``, else 0 of a run that comes once."""
    sources = {}
    for argument in arguments:
        run, path, number = source_of(argument)
        seed = number or 0
        if (run, seed) in sources:
            raise UserError(
                f"run '{run}', seed {seed} is given twice; the seed is that of a folder called seed<number>"
            )
        files = [Path(path)] if path.endswith(".jsonl") else [Path(path, name) for name in JUDGED]
        sources[run, seed] = next((file for file in files if file.exists()), files[0])
    write_scores(sources, out, partial)


def write_scores(sources: Mapping[tuple[str, int], Path], out: Path, partial: bool = False) -> None:
    """Write ``out`` from the scores.jsonl of each run and seed; that of a run that was not trained is empty. Rows that
    hold their prompt's text are paired by it: ids are labels, and the first one is written. Raises UserError for one id
    with two texts, and, unless ``partial``, for a part of a benchmark, whose version then says so."""
    labels: dict[str, Labels] = defaultdict(Labels)  # by benchmark
    with replacing(out) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for (run, seed), path in sources.items():
            for _, row in read_scores(path):
                if (part := row.get("part")) and not partial:
                    raise UserError(f"{path}: has {part} of {row['benchmark']}, expected all, or --partial")
                if part:
                    row |= {"version": f"{row['version']}{PARTIAL}{part})"}
                if "prompt" in row:  # not of the world, where an id is a prompt
                    prompt = Prompt(row["prompt_id"], row["prompt"], row["tag"], {})
                    row |= {"prompt_id": labels[row["benchmark"]].of(prompt, path)}
                keys = [row[key] for key in KEYS]
                metrics = [(name, f"{float(value):.6g}") for name, value in row["metrics"].items()]
                writer.writerows((run, seed, *keys, *metric) for metric in metrics)


class Scores:
    """scores.csv in memory, ready to hand out cells. ``parts``: (run, benchmark) -> how much of the benchmark was
    judged, where it was not all. Raises UserError for a file that is not one."""

    def __init__(self, path: Path):
        frame = _table(path, f"the columns {', '.join(COLUMNS)}", seed=int, sample=int, value=float)
        if tuple(frame.columns) != COLUMNS:
            raise UserError(f"{path}: expected the columns {', '.join(COLUMNS)}")
        for name, allowed in {"mode": [*resolve.MODES.values()], "run": sorted({*frame["run"]} - {""})}.items():
            for line, value in frame[name][~frame[name].isin(allowed)].items():
                expected = " or ".join(allowed) if name == "mode" else "a run's name"
                raise UserError(f"{path}, line {line + 2}: {name}: expected {expected}, got {value!r}")
        if len(odd := frame[frame.duplicated([c for c in COLUMNS if c != "value"])]):
            raise UserError(f"{path}, line {odd.index[0] + 2}: expected every metric of an image once, found it twice")
        for (benchmark, metric), values in frame.groupby(["benchmark", "metric"])["value"]:
            for index in (values.idxmin(), values.idxmax()):
                check_range(f"{path}, line {index + 2}", benchmark, metric, values[index])
        versions = frame[["run", "benchmark", "version"]].drop_duplicates().itertuples(index=False)
        self.parts = {(run, name): v.split(PARTIAL)[1][:-1] for run, name, v in versions if PARTIAL in v}
        frame["version"] = frame["version"].map({v: v.split(PARTIAL)[0] for v in frame["version"].unique()})
        for benchmark, versions in frame.groupby("benchmark")["version"].unique().items():
            if len(versions) > 1:
                mixed = " and ".join(sorted(versions))
                raise UserError(f"{path}: '{benchmark}' is in versions {mixed}; score every run with the same one")
        frame = frame.astype({c: "category" for c in COLUMNS if frame[c].dtype.kind not in "if"})
        self._path, self._frame = path, frame
        self.cells = cache(self.cells)  # a row is compared with many
        self._parts = dict(iter(frame.groupby(["run", "benchmark", "mode", "guidance", "metric"], observed=True)))

    def said(self) -> str:
        """What is scored, in words."""
        found = {f"{run} ({benchmark}, {mode}, {how})" for run, benchmark, mode, how, _ in self._parts}
        return "; ".join(sorted(found)[:6]) or "none"

    def has(self, row: Row) -> bool:
        return any(run == row.run and how == [row.mode, row.guidance] for run, _, *how, _ in self._parts)

    def cells(self, row: Row, benchmark: str, metric: str) -> stats.Cells | None:
        """Means over images, seeds x prompts, prompts in a fixed order; None where nothing was scored. Raises UserError
        naming a prompt that a seed lacks."""
        part = self._parts.get((row.run, benchmark, row.mode, row.guidance, metric))
        if part is None:
            return None
        table = part.pivot_table("value", "seed", ["tag", "prompt_id"], aggfunc="mean", observed=True)
        if table.isna().to_numpy().any():
            seed, _, prompt = table.isna().stack(["tag", "prompt_id"]).loc[lambda absent: absent].index[0]
            where = f"{self._path}: {row.run}, seed {seed}: {benchmark}, {row.mode}, {row.guidance}: {metric}"
            raise UserError(f"{where}: prompt {prompt!r} is missing, which another seed has")
        tags, prompts = zip(*table.columns, strict=True)
        return stats.Cells(table.to_numpy(), tuple(map(int, table.index)), prompts, tags, range_of(benchmark, metric))

    def widths(self, benchmark: str, metric: str) -> list[float]:
        """Of every row's interval, about: 4 standard errors of the mean over prompts."""
        parts = [part for (_, name, *_, m), part in self._parts.items() if (name, m) == (benchmark, metric)]
        means = [part.groupby(["tag", "prompt_id"], observed=True)["value"].mean() for part in parts]
        return [4 * float(each.std()) / len(each) ** 0.5 for each in means if len(each) > 1]

    def images(self, row: Row, benchmarks: Mapping[str, Benchmark]) -> int:
        """Images scored for a row, over these benchmarks and all seeds."""
        where = row.mode, row.guidance
        return sum(len(self._parts.get((row.run, name, *where, b.metrics[0]), ())) for name, b in benchmarks.items())

    def agreement(self, runs: Sequence[str], benchmarks: Sequence[str]) -> float | None:
        """Share of these runs' images on which inspector and second evaluator give the same official verdict."""
        frame = self._frame[self._frame["run"].isin(list(runs)) & self._frame["benchmark"].isin(list(benchmarks))]
        index = ["run", "seed", "benchmark", "mode", "guidance", "prompt_id", "sample"]
        first, second = (frame[frame["metric"] == m].set_index(index)["value"] for m in ("official", "second"))
        both = second.index.intersection(first.index)
        return float((first[both] == second[both]).mean()) if len(both) else None


def _table(path: Path, what: str, **kinds: type) -> pd.DataFrame:
    """A CSV, whose line n is row n - 2; those in ``kinds`` of its columns are numbers. Raises UserError."""
    text = read_result(path)
    for _ in csv_rows(text, path):
        pass
    with reading(path, what):
        frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
        for name, kind in kinds.items():
            numbers = pd.to_numeric(frame[name], errors="coerce")
            wrong = (numbers % 1 != 0) | (numbers < 0) if kind is int else numbers.isna()
            for line, odd in frame[name][wrong].items():
                raise UserError(f"{path}, line {line + 2}: {name}: expected {EXPECTED[kind]}, got {odd!r}")
            frame[name] = numbers.astype(kind)
    return frame


# ------------------------------------------------------------------------------------------ other files


class Paper:
    """The paper's Tables 1 and 2: ``rows`` are (run, thinking) -> column -> the text printed, in the paper's order."""

    def __init__(self, path: Path):
        frame = _table(path, "the paper's numbers")
        self.columns = tuple(frame.columns)
        with reading(path, "one row for each run and thinking"):
            self.rows = frame.set_index(["run", "thinking"]).to_dict("index")
        for name in set(self.columns) - {"run", "method"}:
            number = pd.to_numeric(frame[name], errors="coerce").between(0, 1)
            said = name in ("thinking", "collapsed")
            right = frame[name].isin(["yes", "no"]) if said else number
            for line, value in frame[name][~right & (frame[name] != "")].items():
                expected = "yes or no" if said else "a number from 0 to 1"
                raise UserError(f"{path}, line {line + 2}: {name}: expected {expected}, got {value!r}")

    def value(self, run: str, thinking: str, column: str) -> str:
        """'' where the paper has no such row or no number in it."""
        return self.rows.get((run, thinking), {}).get(column, "")


@dataclass(frozen=True)
class Folder:
    """The results of one scale, ``root/runs/<run>/seed<k>/``, and the study that they belong to, where there is one.
    ``chosen`` are the benchmarks to show, None for all."""

    root: Path
    study: resolve.Study | None = None
    chosen: Sequence[str] | None = None

    @cached_property
    def benchmarks(self) -> dict[str, Benchmark]:
        """Those to show, of the study or of this checkout's catalogue."""
        known = self.study.catalogue["benchmarks"] if self.study else resolve.benchmarks()
        return {name: known[name] for name in self.chosen or benchmark_entry.of_group(known)}

    @cached_property
    def runs(self) -> list[str]:
        """Those of the study or of this checkout's catalogue, in its order, whether they have a folder or not."""
        return list(self.study.catalogue["runs"] if self.study else resolve.runs())

    @property
    def trial(self) -> bool:
        """Whether the numbers of its scale mean nothing."""
        return bool(self.study and self.study.scale.get("trial"))

    def strays(self) -> list[str]:
        """Folders of runs that the catalogue does not know: no report shows them."""
        found = {path.parent.name for path in (self.root / "runs").glob("*/seed[0-9]*")}
        return sorted(found - set(self.runs))

    def seed_folders(self, run: str) -> dict[int, Path]:
        paths = (self.root / "runs" / run).glob("seed[0-9]*")
        return {int(path.name[4:]): path for path in sorted(paths) if path.name[4:].isdecimal() and path.is_dir()}

    def _files(self, run: str, pattern: str) -> list[Path]:
        """Those of all seeds."""
        return [path for folder in self.seed_folders(run).values() for path in sorted(folder.glob(pattern))]

    def config(self, run: str) -> dict:
        """The configuration that the run's first seed was trained with, else that of the study; empty without one."""
        for folder in self.seed_folders(run).values():
            if found := provenance.configuration(folder):
                return found[1]
        return self.study.config(run, 0) if self.study and run in self.study.runs() else {}

    def stages_before(self, run: str) -> list[str]:
        """The reinforced runs that this one goes on from, the last first."""
        found: list[str] = []
        parent = self.config(run).get("init")
        while parent not in (None, run, *found) and (config := self.config(parent)).get("stage") == "rl":
            found.append(parent)
            parent = config.get("init")
        return found

    def label(self, run: str) -> str:
        """The run's label in the catalogue, else in its configuration, else its name."""
        if self.study and run in self.study.runs():
            return self.study.catalogue["runs"][run]["label"]
        return self.config(run).get("label", run)

    def records(self, run: str) -> list[dict]:
        """run.json of every seed that has one. Raises UserError for that of another run or seed."""
        found = {seed: record for seed, f in self.seed_folders(run).items() if (record := provenance.read_record(f))}
        for seed, record in found.items():
            if (named := (record.get("run", run), record.get("seed", seed))) != (run, seed):
                where = self.seed_folders(run)[seed] / "run.json"
                raise UserError(f"{where}: expected {run}, seed {seed}, found {named[0]}, seed {named[1]}")
        return list(found.values())

    def without_pictures(self, run: str) -> bool:
        """Whether the run was sampled elsewhere: its published line has no pictures."""
        protocols, pictures = (self._files(run, f"samples/*/{name}") for name in ("protocol.json", "manifest.jsonl"))
        return bool(protocols) and not pictures

    def metrics(self, run: str) -> dict[int, list[tuple[str, dict]]]:
        """metrics.jsonl of every seed that has one: ("file, line n", row) each; no rows of a run that was not trained.
        Raises UserError naming the line that is damaged or comes twice."""
        paths = {seed: folder / "metrics.jsonl" for seed, folder in self.seed_folders(run).items()}
        return {seed: list(read_course(path)) for seed, path in paths.items() if path.exists()}

    def decodings(self) -> dict[int, decoding_file.DecodingFile]:
        """decoding.json of every start. Raises UserError naming one that is damaged."""
        paths = sorted((self.root / "starts").glob("seed*/decoding.json"))
        return {int(path.parent.name[4:]): decoding_file.read(path) for path in paths}

    def protocols(self, run: str, mode: str, guidance: str) -> list[dict]:
        """protocol.json of every seed and benchmark of a table's row."""
        paths = self._files(run, f"samples*/*.{mode}.{guidance}/protocol.json")
        return list(map(sample_folder.read_protocol, paths))


# ------------------------------------------------------------------------------------------ rows


@dataclass(frozen=True)
class Row:
    """A run, judged with thinking (yes) or without (no) at one guidance; both are '' where training alone is shown."""

    run: str
    thinking: str = ""
    guidance: str = ""

    @property
    def mode(self) -> str:
        return resolve.MODES[self.thinking]


@dataclass(frozen=True)
class Sources:
    """Everything a table is made from; no scores where it shows training alone."""

    scores: Scores | None
    paper: Paper
    folder: Folder

    def of(self, entry: Mapping) -> Sources:
        """The same with the benchmarks that an entry of the catalogue names, if it names any."""
        return replace(self, folder=replace(self.folder, chosen=entry.get("benchmarks", self.folder.chosen)))

    @property
    def benchmarks(self) -> dict[str, Benchmark]:
        return self.folder.benchmarks

    def divided(self) -> tuple[str, Benchmark]:
        """The benchmark with the most categories."""
        return max(self.benchmarks.items(), key=lambda pair: len(pair[1].categories()))

    @cached_property
    def memo(self) -> dict:
        """What was found before, by what was asked for."""
        return {}

    def in_paper(self) -> list[str]:
        """The benchmarks of which the paper has numbers."""
        return [name for name in self.benchmarks if name in self.paper.columns]

    def cells(self, row: Row, benchmark: str, metric: str, tag: str | None = None) -> stats.Cells | None:
        """Those of the row, of one category where ``tag`` is given; None where it was not scored. A base is one model,
        sampled with several seeds: one replicate, of their mean."""
        if (key := (row, benchmark, metric)) not in self.memo:
            cells = self.scores.cells(*key)
            one = cells and len(cells.seeds) > 1 and self.folder.config(row.run).get("stage") == catalogue.BASE
            self.memo[key] = replace(cells, values=cells.values.mean(0, keepdims=True), seeds=(0,)) if one else cells
        cells = self.memo[key]
        if cells is None or not tag:
            return cells
        return cells.only(tag) if tag in cells.tags else None

    def estimate(self, row: Row, benchmark: str, metric: str, tag: str | None = None) -> stats.Estimate | None:
        """The row's mean and interval; over one category where ``tag`` is given."""
        cells = self.cells(row, benchmark, metric, tag)
        return cells and stats.estimate(cells)

    def paired(self, a: Row, b: Row, benchmark: str, metric: str, tag: str | None = None) -> list[stats.Cells | None]:
        """The cells of both, of the prompts that both have where one was judged on a part of the benchmark."""
        found = [self.cells(row, benchmark, metric, tag) for row in (a, b)]
        if None in found or not {(row.run, benchmark) for row in (a, b)} & self.scores.parts.keys():
            return found
        shared = set(found[0].prompts) & set(found[1].prompts)
        return [cells.of(shared) for cells in found] if shared else [None, None]

    def gap(self, better: Row, row: Row, benchmark: str, metric: str, tag: str | None = None) -> stats.Estimate | None:
        """``better`` - ``row``, paired by prompt and seed, over one category where ``tag`` is given; None where either
        was not scored or no seed is shared. The only seed of a supervised run stands for all; one that is left of a
        reinforced run does not."""
        a, b = self.paired(better, row, benchmark, metric, tag)
        if a is None or b is None:
            return None
        single = [r.run for r, cells in ((better, a), (row, b)) if len(cells.seeds) == 1]
        left = any(self.folder.config(run).get("stage") == "rl" for run in single)
        if left and not set(a.seeds) & set(b.seeds):
            return None
        return stats.estimate(stats.difference(a, b, one_for_all=not left))

    def form(self, benchmark: str, metric: str) -> str:
        """How the metric's numbers are written, in every table of the study."""
        ends = range_of(benchmark, metric)
        return stats.form(ends, () if ends == (0, 1) else self.scores.widths(benchmark, metric))

    def name(self, row: Row) -> str:
        """The row in words."""
        return f"{self.folder.label(row.run)}{', thinking' if row.thinking == 'yes' else ''}"

    def cost(self, run: str) -> Line:
        """Training cost and number of collapsed seeds, from run.json; None without one. Of the seeds that were trained,
        with the reinforced stages before: mean model evaluations, median images and seconds."""
        records = [record for record in self.folder.records(run) if "outside" not in record]
        trained = [r for r in records if not r.get("not_trained")]
        middles = {"model_evaluations": mean, "images": median, "wall_seconds": median}
        stages = [{r.get("seed"): r for r in self.folder.records(each)} for each in self.folder.stages_before(run)]

        def spent(record: dict, key: str) -> float | None:
            seed = record.get("seed")
            parts = [r.get(key) for r in (record, *(stage.get(seed, stage.get(0, {})) for stage in stages))]
            return None if None in parts else sum(parts)

        given = {key: [cost for r in trained if (cost := spent(r, key)) is not None] for key in middles}
        cost = {key: middles[key](values) if values else None for key, values in given.items()}
        counts = {key: round(cost[key]) for key in ("model_evaluations", "images") if cost[key] is not None}
        return cost | counts | {"collapsed": sum(bool(r.get("collapsed")) for r in records) if records else None}
