"""Train the learned reward: ``python -m rewards.train_learned --config config.json --data DIR --out DIR``.

Pairs are (prompt, render) with right and wrong scenes, labelled by the scene itself, and (prompt, SFT sample),
labelled by the inspector. The label is the gold score in [0, 1]; the loss is its cross-entropy. report.json holds the
AUC against the strict verdict on samples of validation prompts, per category.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from rewards.learned import LearnedReward, describe
from unigrpo import config, provenance, sample_folder, seeding
from unigrpo.cli import run, write_json
from unigrpo.setup import accelerate_for
from unigrpo.types import Detection, Prompt
from unigrpo.world import prompts as world_prompts
from unigrpo.world.inspector import inspect_images
from unigrpo.world.judge import judge
from unigrpo.world.render import render
from unigrpo.world.scenes import Scene
from unigrpo.world.traces import sft_example


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """Probability that a positive scores above a negative, ties counting half; None without both kinds."""
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    positive, negative = scores[labels], scores[~labels]
    if not len(positive) or not len(negative):
        return None
    return float(((positive[:, None] > negative).mean() + (positive[:, None] >= negative).mean()) / 2)


def truth(scene: Scene) -> list[Detection]:
    """The objects of a scene as perfect detections, boxes in units of the image side."""
    return [
        Detection(o.cls, o.color, (o.x - o.radius, o.y - o.radius, o.x + o.radius, o.y + o.radius), 1.0)
        for o in scene.objects
    ]


@dataclass(frozen=True)
class Labelled:
    """Images (n, H, W, 3) uint8 with their prompts, gold labels in [0, 1] and strict verdicts."""

    prompts: list[Prompt]
    images: np.ndarray
    gold: list[float]
    strict: list[bool]


def read_samples(folder: Path) -> tuple[Labelled, Labelled]:
    """SFT samples of training prompts and of validation prompts, labelled by the inspector."""
    samples = sample_folder.read(folder)
    prompts = [Prompt(r["prompt_id"], r["prompt"], r["tag"], r["meta"]) for r in samples.rows]
    verdicts = [judge(p.meta, f.detections) for p, f in zip(prompts, inspect_images(samples.images), strict=True)]

    def part(held_out: bool) -> Labelled:
        rows = [i for i, p in enumerate(prompts) if p.id.startswith("val/") == held_out]
        return Labelled(
            [prompts[i] for i in rows],
            samples.images[rows],
            [verdicts[i].gold for i in rows],
            [verdicts[i].strict for i in rows],
        )

    return part(False), part(True)


def render_batch(
    n: int, image_size: int, pool, rng: np.random.Generator
) -> tuple[list[Prompt], np.ndarray, list[float]]:
    """n renders for training prompts: about half right, the rest wrong in a fact or made for another prompt."""
    prompts, scenes = [], []
    for _ in range(n):
        prompt = pool[rng.integers(len(pool))]
        shown = prompt
        if rng.random() < 0.1:
            same = [p for p in pool if p.tag == prompt.tag]
            shown = same[rng.integers(len(same))]
        prompts.append(prompt)
        scenes.append(sft_example(shown, rng, wrong_share=0.4, paint_noise=0.3)[1])
    return (
        prompts,
        render(scenes, image_size),
        [judge(p.meta, truth(s)).gold for p, s in zip(prompts, scenes, strict=True)],
    )


def pixels(images: np.ndarray, device) -> Tensor:
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255


def main() -> None:
    parser = argparse.ArgumentParser(prog="rewards.train_learned", description="Train the learned reward.")
    parser.add_argument("--config", type=Path, required=True, help="resolved configuration of the SFT run (JSON)")
    parser.add_argument("--data", type=Path, required=True, help="sample folder of the SFT run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    cfg, started = config.load(args.config), time.monotonic()
    settings, device = cfg.reward, accelerate_for(cfg).device
    data, held_out = read_samples(args.data)
    pool = world_prompts.prompt_set("train")
    by_tag = [[p for p in pool if p.tag == tag] for tag in dict.fromkeys(p.tag for p in pool)]
    size = max(map(len, by_tag))
    balanced = [p for group in by_tag for p in (group * math.ceil(size / len(group)))[:size]]

    with torch.random.fork_rng(devices=[]):  # open_clip initialises from the global generator
        torch.manual_seed(seeding.stream(cfg.seed, "reward", "initialise"))
        model = LearnedReward(settings, cfg.model.image_size)
    model = model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.02, fused=True)
    from_samples = round(settings.sample_share * settings.batch_size)
    losses: list[float] = []
    bar = tqdm(range(settings.steps), desc="learned reward", mininterval=5)
    for step in bar:
        rng = seeding.numpy_generator(cfg.seed, "reward", step)
        chosen = rng.choice(len(data.prompts), from_samples)
        batch_prompts, batch_images, labels = render_batch(
            settings.batch_size - from_samples, cfg.model.image_size, balanced, rng
        )
        batch_prompts = [data.prompts[i] for i in chosen] + batch_prompts
        labels = torch.tensor([data.gold[i] for i in chosen] + labels, device=device)
        progress = step / settings.steps
        for group in optimizer.param_groups:
            group["lr"] = (
                settings.lr * min(1, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
            )
        logits = model(
            pixels(np.concatenate([data.images[chosen], batch_images]), device),
            model.word_ids(batch_prompts).to(device),
        )
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 50 == 49:
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}")

    model.eval()
    report = {
        "train_loss": float(np.mean(losses[-100:])),
        "steps": settings.steps,
        **evaluate(model, held_out, device),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    temporary = args.out / "model.safetensors.tmp"
    save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, temporary)
    temporary.replace(args.out / "model.safetensors")
    write_json(args.out / "report.json", report)
    facts = provenance.record(cfg, device=str(device), wall_seconds=time.monotonic() - started, updates=settings.steps)
    write_json(args.out / "run.json", facts)
    write_json(args.out / "model.json", describe(settings, cfg.model.image_size))
    print(
        "learned reward, held-out AUC: "
        + " ".join(f"{k} {v if v is None else round(v, 3)}" for k, v in report["auc"].items())
    )


@torch.no_grad()
def evaluate(model: LearnedReward, data: Labelled, device) -> dict:
    """Held-out AUC per category and overall against the strict verdict; correlation with gold."""
    scores: list[float] = []
    for i in range(0, len(data.prompts), 256):
        ids = model.word_ids(data.prompts[i : i + 256]).to(device)
        scores += model(pixels(data.images[i : i + 256], device), ids).sigmoid().tolist()
    by_tag: dict[str, list[int]] = {"overall": list(range(len(data.prompts)))}
    for i, p in enumerate(data.prompts):
        by_tag.setdefault(p.tag, []).append(i)
    return {
        "auc": {tag: auc([scores[i] for i in rows], [data.strict[i] for i in rows]) for tag, rows in by_tag.items()},
        "n": {tag: len(rows) for tag, rows in by_tag.items()},
        "strict_share": {tag: float(np.mean([data.strict[i] for i in rows])) for tag, rows in by_tag.items()},
        "correlation_with_gold": float(np.corrcoef(scores, data.gold)[0, 1]),
    }


if __name__ == "__main__":
    run(main)
