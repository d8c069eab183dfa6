"""The validations of a reinforced run, prompt by prompt: what training left beside metrics.jsonl.

What is measured on them, K seeds x U validations x P prompts, is Cells (K, P), paired by prompt and seed:

* rise: the last validation less the first
* gap: the proxy's rise less gold's, each in units of the spread over the images of the first validation
* change_since_peak: the last validation less the best. The best of seed k is where the mean of the *other* seeds is
  highest, so that the choice of the best flatters nothing; with one seed there is none
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from unigrpo.core.errors import UserError
from unigrpo.core.files import json_lines, read_text
from unigrpo.core.seeding import numpy_generator
from unigrpo.report.data.results import Folder
from unigrpo.report.data.stats import Cells, Estimate, difference, estimate

METRICS = ("gold", "strict", "proxy", "artefact")


@dataclass(frozen=True)
class Course:
    """One run: ``values[metric]`` (K, U, P) are means over the images of a prompt, at each of K seeds and at each of
    the U validations that all of them reached; ``updates`` (U,) increasing, from 0; ``spread[metric]`` is the
    standard deviation over the images of the first validation, mean over seeds."""

    run: str
    seeds: tuple[int, ...]
    updates: tuple[int, ...]
    prompts: tuple[str, ...]
    tags: tuple[str, ...]
    values: dict[str, np.ndarray]
    spread: dict[str, float]

    def cells(self, metric: str, at: int) -> Cells:
        """The metric at validation number ``at``, for ``stats``."""
        return Cells(self.values[metric][:, at], self.seeds, self.prompts, self.tags)

    @cached_property
    def means(self) -> dict[str, np.ndarray]:
        """metric -> (K, U), categories weighing equally."""
        tags = np.array(self.tags)
        groups = [tags == tag for tag in dict.fromkeys(self.tags)]
        return {m: np.mean([v[..., g].mean(-1) for g in groups], axis=0) for m, v in self.values.items()}

    def peak(self, metric: str = "gold") -> int:
        """Number of the validation at which the mean over seeds is highest, the first of equals."""
        return int(self.means[metric].mean(0).argmax())


def _read(path: Path) -> tuple[list[str], list[str], dict[str, list[list[float]]]]:
    """Prompts, their tags, and of each metric the values of every prompt's images."""
    tags: dict[str, str] = {}
    values: dict[str, dict[str, list[float]]] = {metric: defaultdict(list) for metric in METRICS}
    for where, row in json_lines(read_text(path), path):
        try:
            tags[row["prompt_id"]] = row["tag"]
            for metric in METRICS:
                values[metric][row["prompt_id"]].append(float(row[metric]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{where}: expected prompt_id, tag, {', '.join(METRICS)} ({error!r})") from None
    if not tags:
        raise UserError(f"{path}: expected an image a line, found none")
    return list(tags), list(tags.values()), {m: [values[m][p] for p in tags] for m in METRICS}


def sheet(run: str, seed: int, update: int, folder: Folder) -> Path:
    """The picture with the first image of every validation prompt, in rows of ``validate.COLUMNS``."""
    return folder.seed_folders(run)[seed] / "validation" / f"{update:06d}.png"


def course(run: str, folder: Folder) -> Course | None:
    """All seeds of the run that have validations; None without any. Raises UserError naming a damaged file, or one
    whose prompts differ from the others'."""
    found = {seed: sorted((path / "validation").glob("*.jsonl")) for seed, path in folder.seed_folders(run).items()}
    found = {seed: paths for seed, paths in found.items() if paths}
    if not found:
        return None
    updates = sorted(set.intersection(*({int(path.stem) for path in paths} for paths in found.values())))
    first, values, spread = None, {m: [] for m in METRICS}, {m: [] for m in METRICS}
    for paths in found.values():
        read = [(path, *_read(path)) for path in paths if int(path.stem) in updates]
        for path, *keys, _ in read:
            first = first or keys
            if first != keys:
                raise UserError(f"{path}: expected the prompts of {run}'s other validations, in their order")
        for m in METRICS:
            values[m].append([[np.mean(images) for images in scores[m]] for *_, scores in read])
            spread[m].append(np.std(np.concatenate(read[0][-1][m])))
    arrays = {m: np.array(each) for m, each in values.items()}
    spreads = {m: float(np.mean(each)) for m, each in spread.items()}
    return Course(run, tuple(found), tuple(updates), *map(tuple, first), arrays, spreads)


def courses(runs: Sequence[str], folder: Folder) -> dict[str, Course | None]:
    """Run -> its validations. Raises UserError where no run has any."""
    found = {run: course(run, folder) for run in runs}
    if not any(found.values()):
        raise UserError(f"{folder.root / 'runs'}: none of {', '.join(runs)} has validation records")
    return found


# ------------------------------------------------------------------------------------------ measures


def rise(course: Course, metric: str) -> Cells:
    """Last validation - first."""
    values = course.values[metric]
    return Cells(values[:, -1] - values[:, 0], course.seeds, course.prompts, course.tags)


def gap(course: Course) -> Cells | None:
    """The proxy's rise - gold's, in units of the spread at the start; None where either has no spread."""
    if not (course.spread["proxy"] and course.spread["gold"]):
        return None
    proxy, gold = (rise(course, metric).values / course.spread[metric] for metric in ("proxy", "gold"))
    return Cells(proxy - gold, course.seeds, course.prompts, course.tags)


def change_since_peak(course: Course, metric: str = "gold") -> Cells | None:
    """Last validation - best, the best of each seed chosen on the others; None with one seed."""
    if len(course.seeds) == 1:
        return None
    means, values, changes = course.means[metric], course.values[metric], []
    for k in range(len(course.seeds)):
        best = np.delete(means, k, axis=0).mean(0).argmax()
        changes.append(values[k, -1] - values[k, best])
    return Cells(np.array(changes), course.seeds, course.prompts, course.tags)


def measured(cells: Cells | None, *names: str) -> Estimate | None:
    """Mean and interval of validation prompts, categories weighing equally; ``names`` choose the resamples."""
    return None if cells is None else estimate(cells, numpy_generator(0, "validation", *names))


def apart(a: Course | None, b: Course | None, metric: str) -> Cells | None:
    """``a`` - ``b`` at their last validations, paired by prompt and seed; None where no seed is shared."""
    if a is None or b is None or not set(a.seeds) & set(b.seeds):
        return None
    return difference(a.cells(metric, -1), b.cells(metric, -1), one_for_all=False)
