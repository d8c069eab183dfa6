"""Judge the images of a run: every sample set under a folder -> one scores.jsonl, a row an image (section 4).

A judge is a function ``(benchmark, prompts, images) -> one dict of metrics an image``. Where a verdict of the world
judges a benchmark, so do the second evaluator and the learned reward; else a reward judges. The rewards that the
catalogue reports besides judge all, and so do the numbers that need no judge. The world's detections are decisions, not
confidences, so GenEval's score thresholds are not applied to them.
"""

import json
import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch

from evals.instruments import pixel_statistics
from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.files import read_json, replacing
from unigrpo.core.records import Prompt
from unigrpo.core.settings import checked
from unigrpo.judges import reward as rewards
from unigrpo.judges.detector import Detector
from unigrpo.judges.detector import load as load_detector
from unigrpo.sampling import sample_folder
from unigrpo.sampling.sample_folder import SampleFolder
from unigrpo.study import standing
from unigrpo.study.benchmark_entry import Benchmark
from unigrpo.study.resolve import benchmarks
from unigrpo.study.training_inputs import trained_as
from unigrpo.world import geneval_verdict
from unigrpo.world.gold import judge
from unigrpo.world.inspector import inspect_images

BATCH = 256

Judge = Callable[[Benchmark, Sequence[Prompt], np.ndarray], list[dict]]


def inspected(benchmark: Benchmark, prompts: Sequence[Prompt], images: np.ndarray) -> list[dict]:
    """Of the objects that the world's inspector finds: the benchmark's verdict (``official``, or ``ta`` with its
    ``atoms``) and the world's ``strict``, ``soft`` and ``gold``; also the ``artefact`` area."""
    rows = []
    for prompt, inspection in zip(prompts, inspect_images(images), strict=True):
        world = judge(prompt.meta, inspection.detections)
        more = {"strict": float(world.strict), "soft": world.soft, "gold": world.gold, "artefact": inspection.artefact}
        rows.append(benchmark.verdict(prompt.meta, inspection.detections) | more)
    return rows


def second(detector: Detector, benchmark: Benchmark, prompts: Sequence[Prompt], images: np.ndarray) -> list[dict]:
    """The benchmark's verdict on what an independent detector finds, so that no single instrument decides."""
    found = detector.detect(images)
    headline = benchmark.metrics[0]
    return [{"second": benchmark.verdict(p.meta, d)[headline]} for p, d in zip(prompts, found, strict=True)]


def rewarded(
    metric: str, reward: rewards.Score, benchmark: Benchmark, prompts: Sequence[Prompt], images: np.ndarray
) -> list[dict]:
    """The reward's score as ``metric``; ``proxy`` is the learned reward, the number that training maximised."""
    with torch.no_grad():
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
        return [{metric: value} for value in reward(pixels, list(prompts)).tolist()]


@cache
def by_reward(name: str, options: str) -> Judge:
    """A reward, its options in JSON, as the only judge of a benchmark; loaded once. Raises UserError."""
    return partial(rewarded, name, rewards.held_out(f"{name}={options}")[1])


def score_set(samples: SampleFolder, benchmark: Benchmark, judges: Sequence[Judge]) -> list[dict]:
    """One scores.jsonl row an image. Raises UserError for a metric that is not a finite number."""
    protocol, rows, scored, miniatures = samples.protocol, samples.rows, [], []
    header = {key: protocol[key] for key in ("benchmark", "version", "mode")} | {"guidance": protocol["guidance_name"]}
    header |= {"part": protocol["part"]} if protocol.get("part") else {}
    for start in range(0, len(rows), BATCH):
        part = slice(start, start + BATCH)
        prompts = [Prompt(row["prompt_id"], row["prompt"], row["tag"], row["meta"]) for row in rows[part]]
        images = samples.images[part]
        with error_prefix(f"{samples.where[start]} or below"):
            judged = [look(benchmark, prompts, images) for look in judges]
        miniatures += map(pixel_statistics.miniature, images)
        judged.append(pixel_statistics.measured(images))
        for row, where, *dicts in zip(rows[part], samples.where[part], *judged, strict=True):
            metrics = {name: value for d in dicts for name, value in d.items()}
            reason = metrics.pop("reason", "")
            for name, value in metrics.items():
                if not math.isfinite(value):
                    raise UserError(f"{where}: metric '{name}' is {value}, not a finite number")
            names = {key: row[key] for key in ("prompt_id", "tag", "sample")}
            scored.append(header | names | {"metrics": metrics, "reason": reason})
    for row, unlike in zip(scored, pixel_statistics.diversity([r["prompt_id"] for r in rows], miniatures), strict=True):
        row["metrics"] |= unlike
    return scored


def score_folder(root: Path, judges: Sequence[Judge], out: Path) -> None:
    """Score every sample folder (one with a manifest.jsonl) under ``root`` into ``out``; none where ``done.json`` says
    that the run has none. ``judges`` are those of a verdict. Raises UserError for an unknown benchmark, and metadata
    that cannot be judged."""
    folders, path = sorted(path.parent for path in root.glob("*/manifest.jsonl")), root / "done.json"
    done = checked(sample_folder.Done, read_json(path), path) if path.exists() else {"sets": None}
    if not folders and done["sets"] != []:
        raise UserError(f"{root}: no sample set, expected folders with a manifest.jsonl")
    for name, digest in done.get("digests", {}).items():
        if standing.content(root / name) != digest:
            raise UserError(f"{root / name}: is not what {path} says, expected the set that was sampled; sample again")
    with replacing(out) as temporary, temporary.open("w") as file:
        for folder in folders:
            samples = sample_folder.read(folder)
            if (name := samples.protocol["benchmark"]) not in benchmarks():
                known = ", ".join(benchmarks())
                raise UserError(f"{folder / 'protocol.json'}: 'benchmark' must be one of {known}, found {name!r}")
            benchmark, those = benchmarks()[name], judges
            if benchmark.verdict:
                sample_folder.require_clauses(samples, geneval_verdict.check)
            else:
                those = [by_reward(benchmark.judge, json.dumps(benchmark.judge_options))]
            those = [*those, *(by_reward(name, json.dumps(more)) for name, more in benchmark.also_report.items())]
            file.writelines(json.dumps(row) + "\n" for row in score_set(samples, benchmark, those))


def score_run(samples: Path, reward: Path, detector: Path, out: Path) -> None:
    """Score the sample sets of a run with all judges; ``reward`` and ``detector`` are the folders of the learned reward
    and of the second evaluator. Raises UserError."""
    learned = rewards.load(trained_as("reward"), path=reward, device="cpu")
    judges = [inspected, partial(second, load_detector(detector)), partial(rewarded, "proxy", learned)]
    score_folder(samples, judges, out)
