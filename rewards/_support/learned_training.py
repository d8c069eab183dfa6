"""Training of the learned reward: ``unigrpo train-reward``.

Pairs are (prompt, render) with right and wrong scenes, labelled by the scene itself, and (prompt, SFT sample),
labelled by the inspector. The label is the gold score in [0, 1]; the loss is its cross-entropy, plus those of each
stated fact (at the word that states it) and, on renders, of what stands in each cell: without these the binding of
words to places is not learned in minutes. With an ``annotator`` the label is an answer to which of two images of a
prompt is better (``preferences.py``), in neighbouring pairs of a batch, and of samples nothing else is known.

report.json holds the AUC against the strict verdict on samples of validation prompts, per category: over all images,
and within prompts, where GRPO compares rewards; and how the score goes with gold and, within prompts, with objects.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from tqdm import tqdm

from rewards._support import preferences
from rewards._support.learned_model import CONTEXT, LearnedReward, save
from unigrpo.core import seeding
from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.files import write_json
from unigrpo.core.records import Prompt
from unigrpo.core.settings import require
from unigrpo.sampling import sample_folder
from unigrpo.study import provenance
from unigrpo.study.config import RewardConfig, RunConfig
from unigrpo.training.examples import training_prompts
from unigrpo.training.launch import accelerate_for
from unigrpo.training.validation import to_float
from unigrpo.world import geneval_verdict
from unigrpo.world.gold import Judgement, judge
from unigrpo.world.inspector import inspect_images
from unigrpo.world.render import render
from unigrpo.world.scenes import CLASSES, COLOR_NAMES, GRID, Scene, truth
from unigrpo.world.traces import Imperfection, annotate


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """Probability that a positive scores above a negative, ties counting half; None without both kinds."""
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    positive, negative = scores[labels], scores[~labels]
    if not len(positive) or not len(negative):
        return None
    return float(((positive[:, None] > negative).mean() + (positive[:, None] >= negative).mean()) / 2)


def within_prompts(aucs: Sequence[float]) -> dict:
    """Mean ``auc`` of the images of one prompt, 95 % interval ``lo`` to ``hi`` over ``prompts`` (Student's t, within
    [0, 1]; None for fewer than two, or where all are equal)."""
    n, spread = len(aucs), float(np.ptp(aucs)) if len(aucs) else 0.0
    mean = float(np.mean(aucs)) if n else None
    half = float(stats.t.ppf(0.975, n - 1) * np.std(aucs, ddof=1) / math.sqrt(n)) if spread else None
    ends = (None, None) if half is None else (max(0.0, mean - half), min(1.0, mean + half))
    return {"auc": mean, "lo": ends[0], "hi": ends[1], "prompts": n}


def correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Pearson's; None where one of them never varies."""
    return float(np.corrcoef(a, b)[0, 1]) if min(np.ptp(a), np.ptp(b)) > 0 else None


def fact_labels(prompt: Prompt, facts: Sequence[bool]) -> Tensor:
    """(CONTEXT,) verdict of the fact that each word states: a noun its count, an adjective its colour, the word after
    a noun its relation; NaN for all other words. ``facts`` in the judge's order."""
    labels, words = torch.full((CONTEXT,), torch.nan), prompt.text.split()
    verdicts = iter(facts)
    for clause in prompt.meta["include"]:
        noun = words.index(clause["class"] if clause["count"] == 1 else geneval_verdict.plural(clause["class"]))
        labels[noun] = next(verdicts)
        if "color" in clause:
            labels[noun - 1] = next(verdicts)
        if "position" in clause:
            labels[noun + 1] = next(verdicts)
    return labels


def cell_labels(scene: Scene) -> Tensor:
    """(2, 9) class (0 = nothing) and colour (-1 = nothing) of each cell."""
    labels = torch.stack([torch.zeros(GRID * GRID, dtype=torch.long), torch.full((GRID * GRID,), -1)])
    for o in scene.objects:
        labels[:, o.place] = torch.tensor([1 + CLASSES.index(o.cls), COLOR_NAMES.index(o.color)])
    return labels


class Labelled(NamedTuple):
    """n images (n, H, W, 3) uint8, their prompts, verdicts and numbers of objects; cells (n, 2, 9) for renders."""

    prompts: list[Prompt]
    images: np.ndarray
    verdicts: list[Judgement]
    objects: list[int]
    cells: Tensor | None = None

    def select(self, rows: Sequence[int]) -> Labelled:
        prompts, verdicts, objects = ([x[i] for i in rows] for x in (self.prompts, self.verdicts, self.objects))
        return Labelled(prompts, self.images[rows], verdicts, objects)

    def targets(self) -> tuple[Tensor, Tensor]:
        """gold (n,) and fact labels (n, CONTEXT)."""
        gold = torch.tensor([v.gold for v in self.verdicts])
        return gold, torch.stack([fact_labels(p, v.facts) for p, v in zip(self.prompts, self.verdicts, strict=True)])


def read_samples(folder: Path) -> tuple[Labelled, Labelled]:
    """SFT samples of training prompts and of validation prompts, labelled by the inspector."""
    samples = sample_folder.read(folder)
    prompts = [Prompt(r["prompt_id"], r["prompt"], r["tag"], r["meta"]) for r in samples.rows]
    sample_folder.require_clauses(samples, geneval_verdict.check)
    images = samples.images[:]
    found = [inspection.detections for inspection in inspect_images(images)]
    verdicts = [judge(p.meta, detections) for p, detections in zip(prompts, found, strict=True)]
    for prompt, verdict, where in zip(prompts, verdicts, samples.where, strict=True):
        try:
            fact_labels(prompt, verdict.facts)
        except (ValueError, IndexError):
            raise UserError(f"{where}: 'prompt' must say what 'meta' includes, found {prompt.text!r}") from None
    everything = Labelled(prompts, images, verdicts, list(map(len, found)))
    validating = [p.id.startswith("val/") for p in prompts]
    if all(validating) or not any(validating):
        raise UserError(f"{folder / 'manifest.jsonl'}: expected samples of training and of validation prompts")
    return everything.select(np.flatnonzero(np.logical_not(validating))), everything.select(np.flatnonzero(validating))


def render_batch(n: int, image_size: int, pool: Sequence[Prompt], rng: np.random.Generator, each: int = 1) -> Labelled:
    """n renders for training prompts, ``each`` prompt for as many in a row: about half right, the rest wrong in a fact
    or made for another prompt."""
    prompts, scenes = [], []
    for i in range(n):
        prompt = shown = prompts[-1] if i % each else pool[rng.integers(len(pool))]
        if rng.random() < 0.1:
            same = [p for p in pool if p.tag == prompt.tag]
            shown = same[rng.integers(len(same))]
        prompts.append(prompt)
        scenes.append(annotate(shown.meta, rng, Imperfection(wrong_traces=0.4, paint_noise=0.3))[1])
    verdicts = [judge(p.meta, truth(s)) for p, s in zip(prompts, scenes, strict=True)]
    objects, cells = [len(s.objects) for s in scenes], torch.stack([cell_labels(s) for s in scenes])
    return Labelled(prompts, render(scenes, image_size), verdicts, objects, cells)


def reward_loss(
    model: LearnedReward,
    samples: Labelled,
    renders: Labelled,
    settings: RewardConfig,
    device,
    preferred: np.ndarray | None = None,
) -> Tensor:
    """Cross-entropies of the verdict, of each stated fact and, on renders, of each cell. With answers about neighbours
    (``preferred``, (m,)): of these in place of the verdict, and of the facts on renders alone."""
    images = to_float(np.concatenate([samples.images, renders.images]), device)
    verdict, fact, cells = model.heads(images, model.word_ids(samples.prompts + renders.prompts).to(device))
    parts = [part.targets() for part in (samples, renders)]
    gold, facts = (torch.cat(both).to(device) for both in zip(*parts, strict=True))
    whole = binary_cross_entropy_with_logits(verdict, gold)
    if preferred is not None:
        whole = preferences.pairwise_loss(verdict, torch.tensor(preferred, dtype=torch.float32, device=device))
        facts[: len(samples.prompts)] = torch.nan
    stated = ~facts.isnan()
    logits = cells[len(samples.prompts) :].flatten(0, 1)
    cls, color = (renders.cells[:, k].flatten().to(device) for k in (0, 1))
    split = 1 + len(CLASSES)
    reading = cross_entropy(logits[:, :split], cls) + cross_entropy(logits[:, split:], color, ignore_index=-1)
    return (
        whole
        + settings.facts_weight * binary_cross_entropy_with_logits(fact[stated], facts[stated])
        + settings.cells_weight * reading
    )


def train(cfg: RunConfig, section: str, data: Path, out: Path) -> None:
    """Train on the sample folder ``data`` of the SFT run ``cfg`` with the settings in a ``section`` of its
    configuration, and write the reward and its report into ``out``. Raises UserError."""
    started = time.monotonic()
    settings, device = getattr(cfg, section), accelerate_for(cfg).device
    training, held_out = read_samples(data)
    with torch.random.fork_rng(devices=[]):  # open_clip initialises from the global generator
        torch.manual_seed(seeding.stream(cfg.seed, "reward", "initialise"))
        model = LearnedReward(settings, cfg.model.image_size)
    with error_prefix(data / "manifest.jsonl"):
        model.word_ids(training.prompts + held_out.prompts)
    model = model.to(device)
    losses = optimise(model, training, cfg, section, device)

    model.eval()
    report = {"train_loss": float(np.mean(losses[-100:])), "steps": settings.steps} | evaluate(model, held_out, device)
    write_json(out / "report.json", report)
    facts = provenance.record(cfg, device=str(device), wall_seconds=time.monotonic() - started, updates=settings.steps)
    write_json(out / "run.json", facts)
    save(model, out)
    measured = {tag: found["auc"] for tag, found in report["within_prompts"].items()}
    shown = " ".join(f"{tag} {value if value is None else round(value, 3)}" for tag, value in measured.items())
    print(f"learned reward, held-out AUC within prompts: {shown}")


def balanced() -> list[Prompt]:
    """The training prompts, repeated so that all categories have equally many."""
    size = max(map(len, training_prompts()))
    return [p for group in training_prompts() for p in (group * math.ceil(size / len(group)))[:size]]


def optimise(model: LearnedReward, data: Labelled, cfg: RunConfig, section: str, device) -> list[float]:
    """All steps, on samples and on renders for training prompts; returns their losses."""
    pool, settings = balanced(), getattr(cfg, section)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.02, fused=True)
    from_samples, annotator = round(settings.sample_share * settings.batch_size), settings.annotator
    units, each = np.arange(len(data.prompts))[:, None], 1  # rows that are drawn together
    if annotator is not None:  # who answers once for each pair of samples
        rng = seeding.numpy_generator(cfg.seed, "reward", "pairs")
        units, each = preferences.pairs_of_prompts([p.id for p in data.prompts], rng), 2
        require(len(units) > 0, f"{section}.samples", "so many that a prompt has several")
        answers = preferences.answer(data.verdicts, data.objects, units, annotator, rng)
    losses: list[float] = []
    bar = tqdm(range(settings.steps), desc="learned reward", mininterval=5)
    for step in bar:
        rng = seeding.numpy_generator(cfg.seed, "reward", step)
        chosen, preferred = rng.choice(len(units), from_samples // each), None
        samples = data.select(units[chosen].ravel())
        renders = render_batch(settings.batch_size - from_samples, cfg.model.image_size, pool, rng, each)
        if annotator is not None:
            neighbours = np.arange(len(renders.prompts)).reshape(-1, 2)
            about_renders = preferences.answer(renders.verdicts, renders.objects, neighbours, annotator, rng)
            preferred = np.concatenate([answers[chosen], about_renders])
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step / settings.steps)))
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * min(1, (step + 1) / 100) * cosine
        loss = reward_loss(model, samples, renders, settings, device, preferred)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 50 == 49:
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}")
    return losses


@torch.no_grad()
def evaluate(model: LearnedReward, data: Labelled, device) -> dict:
    """Held-out AUC per category and overall against the strict verdict, over all images and within prompts that have
    right and wrong ones; correlation of scores with gold, and with objects less the means of their prompt."""
    scores: list[float] = []
    for i in range(0, len(data.prompts), 256):
        ids = model.word_ids(data.prompts[i : i + 256]).to(device)
        scores += model(to_float(data.images[i : i + 256], device), ids).sigmoid().tolist()
    columns = {"tag": [p.tag for p in data.prompts], "score": scores, "strict": [v.strict for v in data.verdicts]}
    table = pd.DataFrame(columns | {"prompt": [p.id for p in data.prompts], "objects": data.objects})
    apart = table[["score", "objects"]] - table.groupby("prompt")[["score", "objects"]].transform("mean")
    groups = {"overall": table, **dict(iter(table.groupby("tag", sort=False)))}
    each = {tag: [auc(rows.score, rows.strict) for _, rows in group.groupby("prompt")] for tag, group in groups.items()}
    return {
        "auc": {tag: auc(rows.score, rows.strict) for tag, rows in groups.items()},
        "within_prompts": {tag: within_prompts([a for a in found if a is not None]) for tag, found in each.items()},
        "n": {tag: len(rows) for tag, rows in groups.items()},
        "strict_share": {tag: float(rows.strict.mean()) for tag, rows in groups.items()},
        "correlation_with_gold": correlation(scores, [v.gold for v in data.verdicts]),
        "correlation_with_objects": correlation(apart.score, apart.objects),
    }
