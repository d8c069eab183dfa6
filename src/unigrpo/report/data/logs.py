"""What training left beside the weights: metrics.jsonl, validations prompt by prompt, and how its seeds ended.

What is measured on validations, K seeds x U validations x P prompts, is Cells (K, P), paired by prompt and seed:

* rise: the end less the first validation; the end is the mean of the validations in the last third of the updates
* gap: the proxy's rise less gold's, each in units of the spread over the images of the first validation
* change_since_peak: the end less the best. The best of seed k is where the mean of the *other* seeds is highest, so
  that the choice of the best flatters nothing; with one seed there is none
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import numpy as np
import pandas as pd

from unigrpo.core.errors import UserError, reading
from unigrpo.report.data.results import Folder
from unigrpo.report.data.rows import read_validation
from unigrpo.report.data.stats import Cells, Estimate, difference, estimate
from unigrpo.study.facts import METHODS, REGULARISERS

ENDS = 10  # rollouts at either end of training
END = 1 / 3  # of the updates: validations that are averaged as the end of a course
METRICS = ("gold", "strict", "proxy", "artefact")  # of a validation image
COUNTS = ("extra", "wrong_hues")  # of its objects
SOME = ("image_given_trace", *COUNTS)  # that older validations lack, the first one those without a trace
NONE = "none"

# ------------------------------------------------------------------------------------------ metrics.jsonl


def column(rows: Sequence[tuple[str, dict]], kind: str, name: str) -> list[float]:
    """``name`` in the rows of this kind, in order. Raises UserError naming a row without it."""
    for where, row in rows:
        if row.get("kind") == kind and not isinstance(row.get(name), int | float):
            raise UserError(f"{where}: '{name}' must be a number, found {row.get(name)!r}")
    return [row[name] for _, row in rows if row.get("kind") == kind]


def ends(run: str, name: str, folder: Folder) -> tuple[float | None, float | None]:
    """Mean of ``name`` over the first and over the last ENDS rollouts, mean over seeds; None where no seed has it."""
    logs = [rows for rows in folder.metrics(run).values() if any(name in row for _, row in rows)]
    seeds = [values for rows in logs if (values := column(rows, "train", name))]
    if not seeds:
        return None, None
    return mean(mean(values[:ENDS]) for values in seeds), mean(mean(values[-ENDS:]) for values in seeds)


def validated(run: str, name: str, folder: Folder) -> dict[int, dict[int, float]]:
    """Seed -> update -> ``name`` of the validations that have it."""
    return {
        seed: {row["update"]: row[name] for _, row in rows if row.get("kind") == "validation" and name in row}
        for seed, rows in folder.metrics(run).items()
    }


def curve_data(runs: Sequence[str], folder: Folder) -> pd.DataFrame:
    """metrics.jsonl of all seeds of these runs -> run, seed, kind, update, images, metric, value; none of a seed that
    was not trained, nor of a supervised run, whose steps are no updates of these."""
    keys, rows = ["kind", "update", "images"], []
    for run in runs:
        seeds = folder.metrics(run)
        if not seeds:
            raise UserError(f"{folder.root / 'runs' / run}: no seed folder with a metrics.jsonl; train the run first")
        found = [(seed, *line, metric) for seed, log in seeds.items() for line in log for metric in ("proxy", "gold")]
        for seed, where, row, metric in found:
            if row.get(metric) is None or "step" in row:
                continue
            if not row.keys() >= set(keys):
                raise UserError(f"{where}: expected 'kind', 'update' and 'images' beside '{metric}'")
            rows.append((run, seed, *(row[key] for key in keys), metric, row[metric]))
    return pd.DataFrame(rows, columns=["run", "seed", *keys, "metric", "value"])


# ------------------------------------------------------------------------------------------ ends and anchors


def fallen(run: str, folder: Folder) -> list[int]:
    """The seeds that collapsed."""
    return [record["seed"] for record in folder.records(run) if record.get("collapsed")]


def fate(run: str, folder: Folder) -> str:
    """How many seeds collapsed and were not trained, in words; '' where all went well."""
    records = folder.records(run)
    counts = {key: sum(bool(record.get(key)) for record in records) for key in ("collapsed", "not_trained")}
    parts = [f"{count} of {len(records)} {key.replace('_', ' ')}" for key, count in counts.items() if count]
    return f" ({', '.join(parts)})" if parts else ""


class Anchor(NamedTuple):
    """What holds a run near its start, in words, the weight that is varied in it and its setting; both are None without
    a regulariser."""

    kind: str
    weight: float | None
    setting: str | None = None


def anchor(config: Mapping) -> Anchor:
    """The anchor of a reinforced run, by its method and regulariser. Raises UserError for a run of another stage."""
    if config.get("stage") != "rl":
        raise UserError(f"{config.get('run')}: expected a reinforced run, found stage {config.get('stage')!r}")
    with reading(f"{config.get('run')}: its configuration", "the settings of a reinforced run"):
        rl = config["rl"]
        holds, name = METHODS.load(rl["method"]).FACTS.holds, rl["regulariser"]
        facts = None if name == NONE else REGULARISERS.load(name).FACTS
        if holds is not None:
            setting = holds[1] or facts.weight
            return Anchor(holds[0], rl[setting], setting)
        if facts is None:
            return Anchor(NONE, None)
        if "text" in rl["train"] and rl["kl_text"] > 0:
            return Anchor(f"{facts.label} + text KL", rl["kl_text"], "kl_text")
        return Anchor(facts.label, rl[facts.weight], facts.weight)


# ------------------------------------------------------------------------------------------ validations


@dataclass(frozen=True)
class Course:
    """One run: ``values[metric]`` (K, U, P) are means over the images of a prompt, at each of K seeds and at each of
    the U validations that all of them reached, of METRICS and of those of SOME that all images have; ``updates`` (U,)
    increasing, from 0; ``spread[metric]`` is the standard deviation over the images of the first validation, mean over
    seeds."""

    run: str
    seeds: tuple[int, ...]
    updates: tuple[int, ...]
    prompts: tuple[str, ...]
    tags: tuple[str, ...]
    values: dict[str, np.ndarray]
    spread: dict[str, float]

    def late(self, part: float = END) -> np.ndarray:
        """(U,) which validations are in the last ``part`` of the updates."""
        return np.array(self.updates) >= round((1 - part) * self.updates[-1], 6)

    def cells(self, metric: str, at: int | np.ndarray) -> Cells:
        """The mean of the metric over the validations ``at``, for ``stats``."""
        values = self.values[metric][:, np.atleast_1d(at)].mean(1)
        within = None if metric in COUNTS else (0.0, 1.0)
        return Cells(values, self.seeds, self.prompts, self.tags, within)

    def end(self, metric: str, part: float = END) -> Cells:
        """The metric over the last ``part`` of the updates."""
        return self.cells(metric, self.late(part))

    @cached_property
    def means(self) -> dict[str, np.ndarray]:
        """metric -> (K, U), categories weighing equally."""
        tags = np.array(self.tags)
        groups = [tags == tag for tag in dict.fromkeys(self.tags)]
        return {m: np.mean([v[..., g].mean(-1) for g in groups], axis=0) for m, v in self.values.items()}

    def peak(self) -> int:
        """Number of the validation at which mean gold over seeds is highest, the first of equals."""
        return int(self.means["gold"].mean(0).argmax())


def _read(path: Path) -> dict[tuple[str, str], np.ndarray]:
    """(prompt, tag) -> METRICS and SOME of its images (M, I), NaN for what an image lacks: the proxy where the reward
    failed and the run went on."""
    images = defaultdict(list)
    for _, row in read_validation(path):
        images[row["prompt_id"], row["tag"]].append([row.get(m, math.nan) for m in (*METRICS, *SOME)])
    if not images:
        raise UserError(f"{path}: expected an image a line, found none")
    return {prompt: np.array(each).T.copy() for prompt, each in images.items()}


def course(run: str, folder: Folder) -> Course | None:
    """All seeds of the run that have validations; None without any. Raises UserError naming a damaged file, or one
    whose prompts differ from the others'."""
    paths = {
        (seed, int(path.stem)): path
        for seed, place in folder.seed_folders(run).items()
        for path in sorted((place / "validation").glob("*.jsonl"))
    }
    if not paths:
        return None
    seeds = tuple(dict.fromkeys(seed for seed, _ in paths))
    updates = tuple(sorted({update for _, update in paths if all((seed, update) in paths for seed in seeds)}))
    read = {key: _read(path) for key, path in paths.items() if key[1] in updates}
    prompts = list(next(iter(read.values())))
    for key, images in read.items():
        if list(images) != prompts:
            raise UserError(f"{paths[key]}: expected the prompts of {run}'s other validations, in their order")
    whole = [p for p in prompts if all(np.isfinite(images[p][: len(METRICS)]).all() for images in read.values())]
    if not whole:
        raise UserError(f"{folder.root / 'runs' / run}: no validation prompt has a proxy at every validation")
    read = {key: {p: images[p] for p in whole} for key, images in read.items()}
    means = {key: [each.mean(-1) for each in images.values()] for key, images in read.items()}
    stacked = np.array([[means[seed, update] for update in updates] for seed in seeds])  # (K, U, P, M)
    starts = [np.concatenate(list(read[seed, updates[0]].values()), axis=-1) for seed in seeds]
    values = dict(zip((*METRICS, *SOME), stacked.transpose(3, 0, 1, 2).copy(), strict=True))
    values = {metric: each for metric, each in values.items() if np.isfinite(each).all()}
    spread = np.mean([images[: len(METRICS)].std(-1) for images in starts], axis=0).tolist()
    spread = dict(zip(METRICS, spread, strict=True))
    return Course(run, seeds, updates, *zip(*whole, strict=True), values, spread)


def courses(runs: Sequence[str], folder: Folder) -> dict[str, Course | None]:
    """Run -> its validations. Raises UserError where no run has any."""
    found = {run: course(run, folder) for run in runs}
    if not any(found.values()):
        raise UserError(f"{folder.root / 'runs'}: none of {', '.join(runs)} has validation records")
    return found


def drifts(course: Course, folder: Folder) -> np.ndarray:
    """(K, U) velocity MSE from the start at each of the validations; NaN where metrics.jsonl has none."""
    by_seed = validated(course.run, "drift", folder)
    return np.array([[by_seed.get(k, {}).get(u, math.nan) for u in course.updates] for k in course.seeds])


def drift_at_end(course: Course, folder: Folder) -> float | None:
    """Mean over seeds and over the validations of the end that have one; None where none has."""
    found = drifts(course, folder)[:, course.late()]
    return float(np.nanmean(found)) if np.isfinite(found).any() else None


def rise(course: Course, metric: str) -> Cells:
    """End - first validation."""
    return difference(course.end(metric), course.cells(metric, 0))


def gap(course: Course) -> Cells | None:
    """The proxy's rise - gold's, in units of the spread at the start; None where either has no spread."""
    if not (course.spread["proxy"] and course.spread["gold"]):
        return None
    proxy, gold = (rise(course, metric) for metric in ("proxy", "gold"))
    values = proxy.values / course.spread["proxy"] - gold.values / course.spread["gold"]
    return replace(proxy, values=values, within=None)


def at_peak(course: Course, metric: str) -> Cells | None:
    """The metric at the best validation of each seed, chosen on the others; None with one seed."""
    each = range(len(course.seeds))
    if len(each) == 1:
        return None
    best = [np.delete(course.means[metric], k, axis=0).mean(0).argmax() for k in each]
    return replace(course.cells(metric, 0), values=course.values[metric][each, best])


def change_since_peak(course: Course, metric: str = "gold") -> Cells | None:
    """End - best; None with one seed."""
    best = at_peak(course, metric)
    return best and replace(difference(course.end(metric), best), within=None)  # 0 where the end is best


def measured(cells: Cells | None) -> Estimate | None:
    """Mean and interval of validation prompts, categories weighing equally."""
    return None if cells is None else estimate(cells)


def at_end(course: Course | None, metric: str) -> Estimate | None:
    """The metric at the end."""
    return course and measured(course.end(metric))


def apart(a: Course | None, b: Course | None, metric: str) -> Cells | None:
    """``a`` - ``b`` at their ends, paired by prompt and seed; None where no seed is shared."""
    if a is None or b is None or not set(a.seeds) & set(b.seeds):
        return None
    return difference(a.end(metric), b.end(metric), one_for_all=False)
