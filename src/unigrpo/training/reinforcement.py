"""RL stage: ``python -m unigrpo.training.reinforcement --config config.json --out RUN --init PARENT --reward DIR --decoding FILE``.

One loop for every method (``unigrpo.methods``): draw prompts, roll out, score, update, and now and then validate and
checkpoint. A killed run continues from its last checkpoint with the same numbers, because every random draw is named by
(seed, rollout index).

The collapse rule, the same for every run: a run has collapsed if something it computed (images, a loss, a gradient) is
not finite, which ends it with the weights before that, or if its last validation gold is below half of its first. A
run whose parent has collapsed is not trained. Either way the run is finished and the workflow goes on.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

import rewards
from unigrpo.core import cli, distributed, seeding
from unigrpo.core.errors import Collapse, UserError
from unigrpo.core.files import read_json, write_json
from unigrpo.core.records import Prompt
from unigrpo.core.settings import replace, to_dict
from unigrpo.episodes import shares
from unigrpo.episodes.rollout import Rollout, diversity
from unigrpo.episodes.slices import Networks
from unigrpo.models import checkpoint, lora, sharding
from unigrpo.models.base import UnifiedModel
from unigrpo.objectives.advantages import group_advantages
from unigrpo.planning import cost
from unigrpo.planning import reinforcement_plan as plan
from unigrpo.sampling.engine import Decoding, read_decoding
from unigrpo.study import config, provenance, run_folder
from unigrpo.study.config import RLConfig, RunConfig
from unigrpo.study.facts import METHODS
from unigrpo.study.prompt_pool import training_pool
from unigrpo.study.resolve import training_fingerprint
from unigrpo.training import tracking
from unigrpo.training.drift import drift, probe
from unigrpo.training.examples import SupervisedData
from unigrpo.training.launch import accelerate_for, check_devices, check_launch, device_memory, join_others
from unigrpo.training.metrics_log import MetricsLog
from unigrpo.training.state import gather, load_state, restore, save_state
from unigrpo.training.update import accumulate
from unigrpo.training.validation import record, validate
from unigrpo.world import prompts as world_prompts

LEARNED = ("learned", "weak")  # rewards that are trained here, and read from a folder
COLLAPSE = 0.5  # share of the first validation gold below which the last one is a collapse


def draw_prompts(seed: int, index: int, n: int, pool: list[Prompt] | None = None) -> list[Prompt]:
    """The prompts of rollout ``index``: distinct, categories equally often; the same for every run of a seed. From
    the world's training prompts without a ``pool``."""
    pool = world_prompts.prompt_set("train") if pool is None else pool
    tags = list(dict.fromkeys(p.tag for p in pool))
    rng = seeding.numpy_generator(seed, "prompts", index)
    offset = int(rng.integers(len(tags)))
    least = min(sum(p.tag == tag for p in pool) for tag in tags)
    if n > least * len(tags):
        raise UserError(f"rl.prompts_per_rollout: expected at most {least * len(tags)} distinct prompts, got {n}")
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
    experts = model.expert_parameters()
    trained = {part: experts[part] for part in ("text", "image") if part in rl.train}
    for part, parameters in experts.items():
        for p in parameters:
            p.requires_grad_(part in trained)
    rates = {"text": rl.lr_text, "image": rl.lr_image}
    groups = [{"params": parameters, "lr": rates[part]} for part, parameters in trained.items()]
    return torch.optim.AdamW(groups, weight_decay=0.0, fused=True), trained


def plain(values: dict[str, torch.Tensor]) -> dict[str, float]:
    """Metrics as numbers, which processes can hand each other."""
    return {name: value.item() for name, value in values.items()}


def clipped(parameters: list, largest: float) -> torch.Tensor:
    """Clip the gradients to a norm of ``largest``; the norm before."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, largest)
    return norm.full_tensor() if distributed.is_split(norm) else norm


def merged(parts: list[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """Metrics of an optimiser step from (share, metrics) of its slices: weighted means, and maxima where so named."""
    whole = sum(share for share, _ in parts)
    result = {}
    for name in parts[0][1] if parts else ():
        values = [(share / whole, metrics[name]) for share, metrics in parts]
        greatest = name.endswith("_max")
        result[name] = max(v for _, v in values) if greatest else sum(weight * v for weight, v in values)
    return result


def networks(cfg: RunConfig, model, reward, start: Callable[[], UnifiedModel] | None = None) -> Networks:
    """The policy and what its method needs beside it. ``start`` loads the frozen copy where the policy cannot be copied
    (split among processes). Raises UserError for a reward without the gradient it needs."""
    needs = cfg.rl.facts.needs
    if "reward_gradient" in needs and not getattr(reward, "differentiable", False):
        name = getattr(reward, "name", "of this run")
        raise UserError(
            f"{cfg.run}: rl.method: {cfg.rl.method} needs a differentiable reward, the reward {name} is not"
        )

    if cfg.backbone == "llm_dit" and model.origin.lora_rank != cfg.rl.lora_rank:
        held = model.origin.lora_rank
        raise UserError(
            f"{cfg.run}: rl.lora_rank: expected {held}, that of the parent's adapters, got {cfg.rl.lora_rank}"
        )

    rank, parts = added_rank(cfg), cfg.rl.train
    reference = lora.frozen_copy(model, model.parameters() if rank else ()) if start is None else start()
    if rank:
        lora.inject(model, rank, parts, cfg.seed)
    if cfg.activation_checkpointing:
        model.mot.checkpoint_activations()
    below = [p for p in model.parameters() if not p.requires_grad] if rank else ()
    old = None
    if "old_weights" in needs:
        old = lora.frozen_copy(model, below) if start is None else start().requires_grad_(False)
    data = SupervisedData(cfg.supervised) if "sft_data" in needs else None
    return Networks(model, reference.requires_grad_(False), reward, old, data)


def added_rank(cfg: RunConfig) -> int:
    """Rank of the adapters that a run gives its network; a pair of released models has its own."""
    return 0 if cfg.backbone == "llm_dit" else cfg.rl.lora_rank


def state_of(nets: Networks, cfg: RunConfig) -> dict[str, nn.Module]:
    """What a checkpoint of the run holds: its networks, or their adapters alone, as the rest is the parent's."""
    own = {"model": nets.model, "old": nets.old}
    if added_rank(cfg):
        return {name: lora.trained(net) for name, net in own.items() if net is not None}
    return {name: net for name, net in (own | {"reference": nets.reference}).items() if net is not None}


def update(
    nets: Networks, slices: list, rl: RLConfig, optimizer, trained: dict[str, list], accelerator
) -> tuple[dict[str, float], dict[str, float]]:
    """One optimiser step: metrics of its slices, and the norm of each expert's gradient before clipping. Raises
    Collapse, without a step, where a loss or a gradient is not finite."""
    method, parts, failed = METHODS.load(rl.method), [], []
    try:
        parts = [(part.share, accumulate(method, nets, part, rl, accelerator)) for part in slices]
    except Collapse as reason:
        failed = [str(reason)]
    for reason in distributed.collect(failed):
        raise Collapse(reason)
    metrics = merged(distributed.collect([(share, plain(values)) for share, values in parts]))
    for parameters in trained.values():
        distributed.average_gradients(parameters)
    norms = {name: clipped(parameters, rl.clip_norm) for name, parameters in trained.items()}
    for name in trained:
        if not math.isfinite(metrics.get(f"{name}_loss", 0.0)):
            raise Collapse(f"the {name} loss is not finite")
    for name, norm in norms.items():
        if not torch.isfinite(norm):
            raise Collapse(f"the gradient of the {name} expert is not finite")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return metrics, {f"{name}_grad_norm": norm.item() for name, norm in norms.items()}


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
    rl, method, pool = cfg.rl, METHODS.load(cfg.rl.method), training_pool(cfg)
    join_others(cfg)
    accelerator, started = accelerate_for(cfg, **tracking.options(tracker, out)), time.monotonic()
    if cfg.sharding:

        def start() -> tuple[UnifiedModel, UnifiedModel]:
            return sharding.load(
                lambda: checkpoint.load_model(init, "cpu", cfg.model), accelerator.device, cfg.precision == "bf16"
            )

        model, form = start()
        nets = networks(cfg, model, reward, lambda: start()[0])
    else:
        model = checkpoint.load_model(init, accelerator.device, cfg.model)
        nets = networks(cfg, model, reward)
    kept = state_of(nets, cfg)
    with sharding.gathered(nets.reference):
        yardstick = probe(nets.reference, world_prompts.prompt_set("val"), rl, cfg.sampling.max_trace_tokens)
    optimizer, trained = optimizer_for(model, rl)
    first, counts = 0, {"updates": 0, "images": 0, "model_evaluations": 0, "wall_seconds": 0.0}
    state = load_state(out / "state", settings)
    if state is not None:
        first, tensors, counts = state
        restore(tensors, kept, optimizer, out / "state")
    main = distributed.is_main()
    record_file = out / "metrics.jsonl" if main else None
    log = MetricsLog(record_file, "rollout", first, tracking.follower(accelerator, cfg, "rollout", first))
    earlier = counts["wall_seconds"]

    def check(index: int) -> dict[str, float]:
        with sharding.gathered(model):
            validation = validate(model, cfg, decoding, per_prompt=rl.validation_images, proxy=reward)
        if main:
            record(validation, out / "validation", counts["updates"])
        moved = drift(model, yardstick)
        distances = {"drift": sum(moved) / len(moved)} | {f"drift_{k}": value for k, value in enumerate(moved)}
        so_far = {"update": counts["updates"], "images": counts["images"]}
        log.write(kind="validation", rollout=index, **so_far, **validation.means, **distances)
        return validation.means

    def learn(index: int) -> float:
        """One rollout and its updates. Returns the mean reward."""
        begun = time.monotonic()
        batch = draw_prompts(cfg.seed, index, rl.prompts_per_rollout, pool)
        with sharding.gathered(model if nets.old is None else nets.old), accelerator.autocast():
            rollout = method.roll_out(nets, batch, rl, cfg.sampling.max_trace_tokens, cfg.seed, index)
        if not all(distributed.collect([bool(torch.isfinite(rollout.image.images).all())])):
            raise Collapse("the images are not finite")
        total = shares.gathered(score(rollout, reward, verifier, rl.verifier_mix), len(batch), rl)
        parts = {f"reward_{name}": scores.mean() for name, scores in getattr(reward, "parts", {}).items()}
        advantages, spread = group_advantages(
            total,
            [i // rl.group_size for i in range(len(total))],
            ddof=rl.advantage_ddof,
            eps=rl.advantage_eps,
        )
        own = advantages[shares.local_rows(len(batch), rl)]
        rolled = time.monotonic()
        metrics: dict[str, float] = {}
        with accelerator.autocast():
            steps = method.make_slices(nets, rollout, own, rl)
        for number, slices in enumerate(steps):
            measured, norms = update(nets, slices, rl, optimizer, trained, accelerator)
            metrics |= {f"{name}_{number}" if number else name: value for name, value in measured.items()} | norms
            counts["updates"] += 1
        if hasattr(method, "follow"):
            method.follow(nets, rl, counts["updates"])
        counts["images"] += len(total)
        counts["model_evaluations"] += sum(distributed.collect([rollout.model_evaluations]))
        tokens = torch.zeros(()) if rollout.trace is None else rollout.trace.mask.sum() / len(own)
        log.write(
            kind="train",
            rollout=index,
            update=counts["updates"],
            images=counts["images"],
            model_evaluations=counts["model_evaluations"],
            proxy=total.mean(),
            **{k: v for k, v in spread.items() if k != "reward_mean"},
            **parts,
            diversity=distributed.mean(diversity(rollout.image.images, rl.group_size)),
            **rollout.image.drawn,
            trace_tokens=0 if rollout.trace is None else distributed.mean(tokens),
            seconds_rollout=rolled - begun,
            seconds_update=time.monotonic() - rolled,
            **metrics,
        )
        return total.mean().item()

    if first == 0:
        check(-1)
    collapse = None
    bar = tqdm(
        range(first, rl.rollouts),
        initial=first,
        total=rl.rollouts,
        desc=f"{cfg.run}/{cfg.seed}",
        mininterval=5,
        disable=not main,
    )
    for index in bar:
        try:
            bar.set_postfix(proxy=f"{learn(index):.3f}")
        except Collapse as reason:
            collapse = f"rollout {index}: {reason}"
            log.write(kind="collapse", rollout=index, update=counts["updates"], reason=str(reason))
            break
        if (index + 1) % rl.validate_every == 0 or index + 1 == rl.rollouts:
            scores = " ".join(f"{k} {v:.3f}" for k, v in check(index).items())
            if main:
                tqdm.write(f"{cfg.run}/{cfg.seed} rollout {index + 1}: {scores}")
        if (index + 1) % rl.checkpoint_every == 0 and index + 1 < rl.rollouts:
            counts["wall_seconds"] = earlier + time.monotonic() - started
            tensors = gather(kept, optimizer)
            if main:
                save_state(out / "state", index + 1, tensors, counts, settings)

    if cfg.sharding:
        model = sharding.whole(model, form)
    if added_rank(cfg):
        lora.merge(model)
    if main:
        close(cfg, out, model, accelerator.device, log, collapse, counts, earlier + time.monotonic() - started)
    accelerator.end_training()


def close(cfg: RunConfig, out: Path, model, device, log: MetricsLog, collapse: str | None, counts, seconds) -> None:
    """The end of a run, by the main process: whether it collapsed, its model and its record."""
    gold = log.column("gold", kind="validation")
    if collapse is None and gold[-1] < COLLAPSE * gold[0]:
        collapse = f"validation gold fell from {gold[0]:.3f} to {gold[-1]:.3f}"
    counts["wall_seconds"] = seconds
    finish(cfg, out, model, device, collapsed=collapse is not None, collapse=collapse, **counts)
    if collapse is not None:
        print(f"{cfg.run}/{cfg.seed} collapsed: {collapse}")


def finish(cfg: RunConfig, out: Path, model, device, *, wall_seconds: float = 0.0, **facts) -> None:
    """Write the run's model and record; nothing is left to resume from."""
    checkpoint.save_model(model, out, {"run": cfg.run, "seed": cfg.seed, "stage": cfg.stage})
    facts = provenance.record(cfg, device=str(device), wall_seconds=wall_seconds, ema=False, **facts)
    write_json(out / "run.json", facts)
    shutil.rmtree(out / "state", ignore_errors=True)


def reward_source(name: str, folder: Path | None, options: dict | None = None) -> tuple[dict, Path]:
    """Options that the reward is built with, and the file that decides it: its weights, or the source of one without.
    ``folder`` is that of a learned reward, which alone needs it. Raises UserError where it is missing."""
    options = options or {}
    if name not in LEARNED:
        return options, rewards.source(name)
    folder = Path(options["path"]) if "path" in options else folder
    if folder is None:
        raise UserError(f"--reward: expected the folder of the learned reward (rl.reward: {name})")
    return {"device": "auto"} | options | {"path": folder}, folder / "model.safetensors"


def fate_of(parent: Path) -> str | None:
    """Why a run must not start from ``parent``, or None: it collapsed, or was itself not trained."""
    if not (parent / "run.json").exists():
        return None
    record = read_json(parent / "run.json")
    if record.get("collapsed"):
        return f"its parent {record.get('run')} collapsed ({record.get('collapse')})"
    return f"its parent {record.get('run')} was not trained" if record.get("not_trained") else None


def pass_on(cfg: RunConfig, out: Path, init: Path, reason: str) -> None:
    """Finish a run that is not trained: the parent's weights, an empty training record, and why."""
    MetricsLog(out / "metrics.jsonl", "rollout", 0)
    finish(cfg, out, checkpoint.load_model(init, "cpu", cfg.model), "cpu", collapsed=False, not_trained=reason)
    print(f"{cfg.run}/{cfg.seed} is not trained: {reason}")


def main() -> None:
    parser = cli.parser(
        "unigrpo.training.reinforcement",
        "Reinforcement of the text part, the image part, or both.",
        config="resolved run configuration (JSON)",
        out="run folder to write",
        init="folder of the parent run",
        decoding="decoding.json, for validation",
    )
    parser.add_argument(
        "--reward", type=Path, metavar="PATH", help="folder of the learned reward, for rl.reward: learned or weak"
    )
    cli.add_training_options(parser, tracking.NAMES)
    args = parser.parse_args()
    cfg = config.load(args.config)
    if cfg.stage != "rl":
        raise UserError(f"{args.config}: stage: expected 'rl', got {cfg.stage!r}; see unigrpo.training.supervised")
    try:
        config.check_processes(cfg)
        draw_prompts(cfg.seed, 0, cfg.rl.prompts_per_rollout, training_pool(cfg))
    except UserError as error:
        raise UserError(f"{args.config}: {error}") from None
    decoding = replace(read_decoding(args.decoding), thinking=cfg.rl.thinking)
    if args.dry_run:
        told = {"config": to_dict(cfg), "cost": cost.reinforcement(cfg, decoding.guidance)}
        if cfg.backbone != "llm_dit":  # whose sizes stand in its releases
            told["memory"] = plan.memory(cfg, plan.as_it_is(cfg, cfg.processes))
        print(json.dumps(told, indent=2))
        return
    check_launch(cfg)
    check_devices(cfg)
    if cfg.backbone != "llm_dit":
        plan.check_fits(cfg, device_memory(cfg))
    join_others(cfg)  # before a reward is loaded onto this process's device
    if (reason := fate_of(args.init)) is not None:
        return pass_on(cfg, args.out, args.init, reason) if distributed.is_main() else None
    options, source = reward_source(cfg.rl.reward, args.reward, cfg.rl.reward_options)
    reward, verifier = rewards.load(cfg.rl.reward, **options), rewards.load("verifier")
    inputs = [run_folder.weights(args.init), source, args.decoding]
    inputs += [] if cfg.rl.prompt_file is None else [Path(cfg.rl.prompt_file)]
    inputs += rewards.inputs(cfg.rl.reward_options)
    train(cfg, args.out, args.init, reward, verifier, decoding, training_fingerprint(cfg, *inputs), args.tracker)


if __name__ == "__main__":
    cli.run(main)
