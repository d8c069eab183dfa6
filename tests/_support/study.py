"""Small studies on disk, as the workflow leaves them: one of made-up numbers, one of real scenes and verdicts."""

import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from evals.run import inspected
from tests._support.tiny import DEFAULTS
from unigrpo.core.settings import to_dict
from unigrpo.report.data import results
from unigrpo.report.data.results import PAPER as PAPER_FILE
from unigrpo.report.data.results import Folder, Paper, Scores, Sources
from unigrpo.report.pages import page
from unigrpo.study import resolve
from unigrpo.study.config import rl_config
from unigrpo.world.geneval_verdict import CATEGORIES
from unigrpo.world.prompts import prompt_set
from unigrpo.world.render import render
from unigrpo.world.scenes import random_scene
from unigrpo.world.traces import Imperfection, annotate

BENCHMARKS = ("ta", "geneval")  # of these studies, whatever else the catalogue has
TAGS = (*CATEGORIES, "compound")
LABELS = {
    "base": "Base",
    "sft": "SFT",
    "flow_grpo": "FlowGRPO",
    "text_grpo": "TextGRPO",
    "unigrpo": "UniGRPO",
}
PAPER = (
    "run,thinking,method,ta,geneval,single_object,two_object,counting,colors,position,color_attr,collapsed\n"
    "base,no,Bagel,0.6810,0.78,0.98,0.96,0.78,0.84,0.52,0.58,no\n"
    "unigrpo,yes,UniGRPO,0.8381,0.90,0.99,0.99,0.91,0.91,0.73,0.86,no\n"
)


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def score_rows(mode, guidance, level, rng, prompts=3, samples=2):
    """Verdicts that are right with probability ``level``."""
    for tag in TAGS:
        ta = tag == "compound"
        for prompt in range(prompts):
            for sample in range(samples):
                right = float(rng.random() < level)
                metrics = {
                    "strict": right * (rng.random() < 0.8),
                    "soft": (1 + right) / 2,
                    "artefact": 0.01,
                    "proxy": level,
                }
                metrics["gold"] = 0.5 * metrics["strict"] + 0.5 * metrics["soft"]
                metrics |= (
                    {"ta": metrics["soft"], "atoms": 6}
                    if ta
                    else {"official": right, "second": right if prompt else 1 - right}
                )
                yield {
                    "benchmark": "ta" if ta else "geneval",
                    "version": "1",
                    "mode": mode,
                    "guidance": guidance,
                    "prompt_id": f"{tag}/{prompt:03d}",
                    "tag": tag,
                    "sample": sample,
                    "metrics": metrics,
                    "reason": "" if right else "expected more\nthan this",
                }


def write_samples(folder, benchmark, mode, guidance, rng, prompts=3, samples=2):
    tags = ("compound",) if benchmark == "ta" else CATEGORIES
    keys = [(tag, p, s) for tag in tags for p in range(prompts) for s in range(samples)]
    folder = folder / "samples" / f"{benchmark}.{mode}.{guidance}"
    rows = [
        {
            "index": i,
            "prompt_id": f"{tag}/{p:03d}",
            "prompt": f"a photo of two red circles left of a blue square ({tag} {p})",
            "tag": tag,
            "meta": {"include": []},
            "sample": s,
            "seed": i,
            "trace": "<think> red circle upper-left , red circle middle-left , blue square center </think>"
            if mode == "think"
            else None,
        }
        for i, (tag, p, s) in enumerate(keys)
    ]
    write_jsonl(folder / "manifest.jsonl", rows)
    np.save(folder / "images.npy", render([random_scene(rng, 1 + i % 4) for i in range(len(keys))], 48))
    protocol = {"benchmark": benchmark, "version": "1", "prompt_hash": "ab" * 32, "mode": mode}
    protocol |= {"guidance_name": guidance, "guidance": 2.0, "steps": 20, "grid": "steps", "shift": 3.0}
    protocol |= {"temperature": 0.7, "resolution": 48, "seed": 0, "ema": True}
    (folder / "protocol.json").write_text(json.dumps(protocol))


def write_study(root, runs, updates=12, prompts=3):
    """results/<scale> with scores, curves and samples: runs is name -> (level, seeds)."""
    rng = np.random.default_rng(0)
    for run, (level, seeds) in runs.items():
        for seed in range(seeds):
            folder = root / "runs" / run / f"seed{seed}"
            rows = []
            for mode, shift in (("think", 0.0), ("direct", -0.1)):
                for guidance in ("tuned", "unguided"):
                    rows += score_rows(mode, guidance, level + shift, rng, prompts)
                    for benchmark in ("ta", "geneval"):
                        write_samples(folder, benchmark, mode, guidance, rng, prompts)
            write_jsonl(folder / "scores.jsonl", rows)
            (folder / "config.json").write_text(
                json.dumps(
                    {
                        "label": LABELS.get(run, run),
                        "backbone": "world",
                        "stage": run if run in ("base", "sft") else "rl",
                    }
                )
            )
            record = {
                "run": run,
                "seed": seed,
                "source_hash": "h",
                "model_evaluations": 1000 * (seed + 1),
                "images": 100 * (seed + 1),
                "wall_seconds": 10.0 * (seed + 1),
                "collapsed": False,
            }
            (folder / "run.json").write_text(json.dumps(record))
            curve = []
            for update in range(updates):
                now = 0.4 + 0.3 * (1 - np.exp(-4 * update / updates)) + 0.02 * rng.normal()
                curve.append(
                    {
                        "kind": "train",
                        "rollout": update,
                        "update": 2 * update,
                        "images": 100 * update,
                        "proxy": now,
                        "gold": now - 0.1,
                    }
                )
                if update % 3 == 0:
                    curve.append(curve[-1] | {"kind": "validation", "official": now, "strict": now - 0.2})
            write_jsonl(folder / "metrics.jsonl", curve)
    sources = [f"{run}={root}/runs/{run}/seed{seed}" for run, (_, seeds) in runs.items() for seed in range(seeds)]
    results.collect(sources, root / "scores.csv")
    (root / "paper.csv").write_text(PAPER)


def write_validations(root, run, values, tags=("a", "a", "a", "b"), rl=None, label=None, logs=None, step=20):
    """A finished reinforced run with validations: ``values[metric]`` is (K, U, P, I), seeds x validations (every
    ``step`` updates) x prompts, whose categories are ``tags``, x images of a prompt. ``rl`` are settings of RLConfig,
    ``logs`` the rows of metrics.jsonl of every seed."""
    for seed in range(len(values["gold"])):
        folder = root / "runs" / run / f"seed{seed}"
        for number in range(values["gold"].shape[1]):
            rows = [
                {"prompt_id": f"{tag}/{p}", "tag": tag, "sample": i, "strict": 0.0}
                | {metric: float(given[seed, number, p, i]) for metric, given in values.items()}
                for p, tag in enumerate(tags)
                for i in range(values["gold"].shape[3])
            ]
            write_jsonl(folder / "validation" / f"{number * step:06d}.jsonl", rows)
        config = {
            "label": label or run,
            "backbone": "world",
            "stage": "rl",
            "rl": to_dict(rl_config(**DEFAULTS | (rl or {}))),
        }
        (folder / "config.json").write_text(json.dumps(config))
        record = {"run": run, "seed": seed, "source_hash": "h", "collapsed": False}
        (folder / "run.json").write_text(json.dumps(record))
        if logs:
            write_jsonl(folder / "metrics.jsonl", logs[seed])


def flat_course(seeds=3, prompts=4, images=2, noise=0.002, **levels):
    """Values for ``write_validations``: of each metric its level at every validation, and a little noise. Artefacts are
    a little more: there are none below 0."""
    rng = np.random.default_rng(zlib.crc32(repr(levels).encode()))  # else differences of runs would have no noise
    shape = (seeds, prompts, images)
    least = {"artefact": 5 * noise}
    return {
        metric: np.stack([least.get(metric, 0) + x + noise * rng.standard_normal(shape) for x in given], axis=1)
        for metric, given in levels.items()
    }


def write_scenes(root: Path, runs: dict[str, Imperfection | None], per_tag: int = 2) -> None:
    """results/<scale> of runs whose traces and images are as imperfect as stated, judged by the real instruments.

    None stands for a run that cannot write yet: malformed traces and images of noise.
    """
    for number, (run, imperfection) in enumerate(runs.items()):
        folder, scores = root / "runs" / run / "seed0", []
        for benchmark in ("geneval", "ta"):
            prompts = prompt_set(f"{benchmark}_eval")
            tags = [p.tag for p in prompts]
            prompts = [p for i, p in enumerate(prompts) if tags[:i].count(p.tag) < per_tag]
            rng = np.random.default_rng(number)
            if imperfection is None:
                texts = ["<think> " + "red upper-left , star " * 12 for _ in prompts]
                images = rng.integers(0, 255, (len(prompts), 48, 48, 3), dtype=np.uint8)
            else:
                texts, scenes = zip(*[annotate(p.meta, rng, imperfection) for p in prompts], strict=True)
                images = render(list(scenes), 48)
            target = folder / "samples" / f"{benchmark}.think.tuned"
            names = [{"prompt_id": p.id, "prompt": p.text, "tag": p.tag, "sample": 0} for p in prompts]
            rows = [
                name | {"index": i, "meta": p.meta, "seed": 0, "trace": text}
                for i, (name, p, text) in enumerate(zip(names, prompts, texts, strict=True))
            ]
            write_jsonl(target / "manifest.jsonl", rows)
            np.save(target / "images.npy", images)
            header = {"benchmark": benchmark, "version": "1", "mode": "think"}
            (target / "protocol.json").write_text(json.dumps(header | {"guidance_name": "tuned"}))
            for name, metrics in zip(names, inspected(resolve.benchmarks()[benchmark], prompts, images), strict=True):
                reason = metrics.pop("reason")
                named = {key: name[key] for key in ("prompt_id", "tag", "sample")}
                scores.append(header | {"guidance": "tuned"} | named | {"metrics": metrics, "reason": reason})
        write_jsonl(folder / "scores.jsonl", scores)
        config = {"label": LABELS[run], "backbone": "world", "stage": run if run in ("base", "sft") else "rl"}
        (folder / "config.json").write_text(json.dumps(config))
    results.collect([f"{run}={root}/runs/{run}/seed0" for run in runs], root / "scores.csv")


def sources_of(root, scores=None, paper=None):
    """What reports of this folder are made from; no scores without a file of them."""
    return Sources(scores and Scores(scores), Paper(paper or PAPER_FILE), Folder(root, chosen=BENCHMARKS))


def make_table(root, out, spec, name="t", scores=None, paper=None):
    """The CSV of a table, by pandas, and its Markdown."""
    page.write(name, spec, sources_of(root, scores, paper), out)
    return pd.read_csv(out / f"{name}.csv"), (out / f"{name}.md").read_text()
