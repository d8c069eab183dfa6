"""RL stage: ``python -m unigrpo.train --config config.json --out RUN --init PARENT --reward DIR --decoding FILE``.

One loop: draw prompts, roll out, score, update, and now and then validate and checkpoint. A killed run continues
from its last checkpoint with the same numbers, because every random draw is named by (seed, rollout index).
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

import rewards
from unigrpo import checkpoint, cli, config, cost, provenance, seeding, tracking
from unigrpo.advantages import group_advantages
from unigrpo.config import RLConfig, RunConfig, to_dict
from unigrpo.files import write_json
from unigrpo.methods import grpo
from unigrpo.metrics import MetricsLog
from unigrpo.resolve import training_fingerprint
from unigrpo.rollout import Rollout, roll_out
from unigrpo.sampler import Decoding, read_decoding
from unigrpo.setup import accelerate_for
from unigrpo.types import Prompt, UserError
from unigrpo.validate import validate
from unigrpo.world import prompts as world_prompts
from unigrpo.world.pool import training_pool

COLLAPSE = 0.5  # a run has collapsed if its last validation gold is below this share of its first


def draw_prompts(seed: int, index: int, n: int, pool: list[Prompt] | None = None) -> list[Prompt]:
    """The prompts of rollout ``index``: distinct, categories equally often; the same for every run of a seed. From
    the world's training prompts without a ``pool``."""
    pool = world_prompts.prompt_set("train") if pool is None else pool
    tags = list(dict.fromkeys(p.tag for p in pool))
    rng = seeding.numpy_generator(seed, "prompts", index)
    offset = int(rng.integers(len(tags)))
    drawn: list[Prompt] = []
    for i in range(n):
        choices = [p for p in pool if p.tag == tags[(offset + i) % len(tags)] and p not in drawn]
        drawn.append(choices[rng.integers(len(choices))])
    return drawn


@torch.no_grad()
def score(rollout: Rollout, reward, verifier, mix: float) -> torch.Tensor:
    """Rewards (B,) float64: the reward, mixed with ``mix`` of the verifier where the scale asks for it."""
    total = reward(rollout.image.images, list(rollout.prompts)).double().cpu()
    if mix > 0:
        total = (1 - mix) * total + mix * verifier(rollout.image.images, list(rollout.prompts)).double().cpu()
    return total


def optimizer_for(model, rl: RLConfig) -> tuple[torch.optim.Optimizer, dict[str, list]]:
    """AdamW with one group per trained expert and its own learning rate; frozen experts need no gradient."""
    experts = model.mot.expert_parameters()
    trained = {part: experts[part] for part in ("text", "image") if part in rl.train}
    for part, parameters in experts.items():
        for p in parameters:
            p.requires_grad_(part in trained)
    rates = {"text": rl.lr_text, "image": rl.lr_image}
    groups = [{"params": parameters, "lr": rates[part]} for part, parameters in trained.items()]
    return torch.optim.AdamW(groups, weight_decay=0.0, fused=True), trained


def merged(parts: list[tuple[float, dict[str, torch.Tensor]]]) -> dict[str, float]:
    """Metrics of an optimiser step from (share, metrics) of its slices: weighted means, and maxima where so named."""
    whole = sum(share for share, _ in parts)
    result = {}
    for name in parts[0][1] if parts else ():
        values = [(share / whole, metrics[name].item()) for share, metrics in parts]
        greatest = name.endswith("_max")
        result[name] = max(v for _, v in values) if greatest else sum(weight * v for weight, v in values)
    return result


def train(
    cfg: RunConfig,
    out: Path,
    init: Path,
    reward,
    verifier,
    decoding: Decoding,
    settings: str,
    tracker: str | None = None,
) -> None:
    """Run all rollouts; writes model, metrics.jsonl and run.json into ``out``. Resumes from ``out/state`` where that
    was saved under the same ``settings``. ``tracker`` names one that follows metrics.jsonl."""
    rl, pool = cfg.rl, training_pool(cfg.rl)
    accelerator, started = accelerate_for(cfg, **tracking.options(tracker, out)), time.monotonic()
    model = checkpoint.load_model(init, accelerator.device, cfg.model)
    reference = copy.deepcopy(model).requires_grad_(False)
    optimizer, trained = optimizer_for(model, rl)
    first, counts = 0, {"updates": 0, "images": 0, "model_evaluations": 0, "wall_seconds": 0.0}
    state = checkpoint.load_state(out / "state", settings)
    if state is not None:
        first, tensors, counts = state
        checkpoint.restore(tensors, {"model": model, "reference": reference}, optimizer)
    log = MetricsLog(out / "metrics.jsonl", "rollout", first, tracking.follower(accelerator, cfg, "rollout", first))
    earlier = counts["wall_seconds"]

    def check(index: int) -> dict[str, float]:
        scores = validate(model, cfg, decoding, per_prompt=rl.validation_images, proxy=reward)
        log.write(kind="validation", rollout=index, update=counts["updates"], images=counts["images"], **scores)
        return scores

    if first == 0:
        check(-1)
    bar = tqdm(
        range(first, rl.rollouts),
        initial=first,
        total=rl.rollouts,
        desc=f"{cfg.run}/{cfg.seed}",
        mininterval=5,
    )
    for index in bar:
        begun = time.monotonic()
        batch = draw_prompts(cfg.seed, index, rl.prompts_per_rollout, pool)
        rollout = roll_out(model, batch, rl, cfg.sampling.max_trace_tokens, cfg.seed, index)
        total = score(rollout, reward, verifier, rl.verifier_mix)
        advantages, spread = group_advantages(
            total,
            [i // rl.group_size for i in range(len(total))],
            ddof=rl.advantage_ddof,
            eps=rl.advantage_eps,
        )
        rolled = time.monotonic()
        metrics: dict[str, float] = {}
        for number, slices in enumerate(grpo.make_slices(model, reference, rollout, advantages, rl)):
            measured = merged([(part.share, grpo.accumulate(model, part, rl, accelerator)) for part in slices])
            metrics |= {f"{name}_{number}" if number else name: value for name, value in measured.items()}
            for name, parameters in trained.items():
                norm = torch.nn.utils.clip_grad_norm_(parameters, rl.clip_norm)
                if not torch.isfinite(norm):
                    raise UserError(f"{cfg.run}: rollout {index}: gradient of the {name} expert is not finite")
                metrics[f"{name}_grad_norm"] = norm.item()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            counts["updates"] += 1
        counts["images"] += len(total)
        counts["model_evaluations"] += rollout.model_evaluations
        log.write(
            kind="train",
            rollout=index,
            update=counts["updates"],
            images=counts["images"],
            model_evaluations=counts["model_evaluations"],
            proxy=total.mean(),
            **{k: v for k, v in spread.items() if k != "reward_mean"},
            window_start=rollout.image.window.start,
            trace_tokens=0 if rollout.trace is None else rollout.trace.mask.sum() / len(total),
            seconds_rollout=rolled - begun,
            seconds_update=time.monotonic() - rolled,
            **metrics,
        )
        bar.set_postfix(proxy=f"{total.mean().item():.3f}")
        if (index + 1) % rl.validate_every == 0 or index + 1 == rl.rollouts:
            scores = check(index)
            tqdm.write(
                f"{cfg.run}/{cfg.seed} rollout {index + 1}: " + " ".join(f"{k} {v:.3f}" for k, v in scores.items())
            )
        if (index + 1) % rl.checkpoint_every == 0 and index + 1 < rl.rollouts:
            counts["wall_seconds"] = earlier + time.monotonic() - started
            tensors = checkpoint.gather({"model": model, "reference": reference}, optimizer)
            checkpoint.save_state(out / "state", index + 1, tensors, counts, settings)

    gold = log.column("gold", kind="validation")
    counts["wall_seconds"] = earlier + time.monotonic() - started
    record = provenance.record(
        cfg, device=str(accelerator.device), ema=False, collapsed=gold[-1] < COLLAPSE * gold[0], **counts
    )
    checkpoint.save_model(model, out, {"run": cfg.run, "seed": cfg.seed, "stage": cfg.stage})
    write_json(out / "run.json", record)
    shutil.rmtree(out / "state", ignore_errors=True)
    accelerator.end_training()


def reward_source(name: str, folder: Path | None) -> tuple[dict, Path]:
    """Options that the reward is built with, and the file that decides it: its weights, or the source of one without.
    ``folder`` is that of the learned reward, which alone needs it. Raises UserError where it is missing."""
    if name != "learned":
        return {}, rewards.source(name)
    if folder is None:
        raise UserError("--reward: expected the folder of the learned reward (rl.reward: learned)")
    return {"path": folder, "device": "auto"}, folder / "model.safetensors"


def main() -> None:
    parser = cli.parser(
        "unigrpo.train",
        "GRPO of the text part, the image part, or both.",
        config="resolved run configuration (JSON)",
        out="run folder to write",
        init="folder of the parent run",
        decoding="decoding.json, for validation",
    )
    parser.add_argument(
        "--reward", type=Path, metavar="PATH", help="folder of the learned reward, for rl.reward: learned"
    )
    cli.add_training_options(parser, tracking.NAMES)
    args = parser.parse_args()
    cfg = config.load(args.config)
    if cfg.stage != "rl":
        raise UserError(f"{args.config}: stage: expected 'rl', got {cfg.stage!r}; see unigrpo.pretrain")
    decoding = replace(read_decoding(args.decoding), thinking=cfg.rl.thinking)
    if args.dry_run:
        print(json.dumps({"config": to_dict(cfg), "cost": cost.reinforcement(cfg, decoding.guidance)}, indent=2))
        return
    options, source = reward_source(cfg.rl.reward, args.reward)
    reward, verifier = rewards.load(cfg.rl.reward, **options), rewards.load("verifier")
    inputs = [args.init / "model.safetensors", source, args.decoding]
    inputs += [] if cfg.rl.prompt_file is None else [Path(cfg.rl.prompt_file)]
    train(cfg, args.out, args.init, reward, verifier, decoding, training_fingerprint(cfg, *inputs), args.tracker)


if __name__ == "__main__":
    cli.run(main)
