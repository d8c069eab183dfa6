"""Supervised stages, base and SFT: ``python -m unigrpo.training.supervised --config config.json --out RUN [--init PARENT]``.

Loss = flow matching on the image, ``|v(x_t, t, context) - (noise - x_0)|^2`` averaged over elements, plus
``ce_weight`` times the cross-entropy of the reasoning trace. Times are logit-normal with a shift; the whole context
is dropped for a share of examples, so that guidance has an unconditional branch (BAGEL, section on training).

Every random choice of step n is drawn from streams named by (seed, n): a resumed run repeats the same numbers. Of
several processes each draws all of them and learns from its share of the examples, so that together they make the
update of one.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from unigrpo.core import cli, distributed, seeding
from unigrpo.core.errors import UserError
from unigrpo.core.files import write_json
from unigrpo.core.settings import to_dict
from unigrpo.models import checkpoint, sharding
from unigrpo.models.base import UnifiedModel
from unigrpo.models.codec import PatchCodec
from unigrpo.models.mot import MoT, MoTConfig
from unigrpo.models.word_tokenizer import BOS, END_OF_IMAGE, EOS, START_OF_IMAGE, build_tokenizer
from unigrpo.planning import cost
from unigrpo.planning import supervised_plan as plan
from unigrpo.sampling.engine import Decoding
from unigrpo.study import config, provenance, run_folder
from unigrpo.study.config import LENGTH_BUCKETS, RunConfig, SupervisedConfig
from unigrpo.study.resolve import training_fingerprint
from unigrpo.training import tracking
from unigrpo.training.examples import Example, draw_examples, training_times
from unigrpo.training.launch import accelerate_for, check_devices, check_launch, device_memory, join_others
from unigrpo.training.metrics_log import MetricsLog
from unigrpo.training.state import gather, load_state, restore, save_state
from unigrpo.training.validation import validate
from unigrpo.world import prompts, render, traces


def supervised_loss(
    model: UnifiedModel, examples: list[Example], settings: SupervisedConfig, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """Flow-matching loss (mean over elements) + ce_weight * cross-entropy (mean over trace tokens). ``examples`` are
    all of a step; the loss is that of this process's share, whose mean over processes is the loss of all."""
    by_length = sorted(examples, key=lambda e: len(e.prompt.split()) + len((e.trace or "").split()))
    own = slice(distributed.rank(), None, distributed.count())
    flow, ce, tokens = 0.0, 0.0, 0
    for k in range(LENGTH_BUCKETS):  # texts of similar length together: little padding
        bucket = by_length[k * len(examples) // LENGTH_BUCKETS : (k + 1) * len(examples) // LENGTH_BUCKETS]
        if not bucket:
            continue
        noise = torch.randn(len(bucket), *model.latent_shape, generator=generator)[own]
        t = training_times(len(bucket), settings.timestep_shift, generator)[own]
        dropped = torch.rand(len(bucket), generator=generator)[own] < settings.condition_dropout
        part = bucket[own]
        images = torch.from_numpy(render.render([e.scene for e in part], model.image_size)).to(model.device)
        data = model.encode_images(images.permute(0, 3, 1, 2).float() / 255)
        noise, t = noise.to(data), t.to(data)

        trace = model.trace_from_texts([e.trace for e in part])
        hidden, context = model.encode(model.prompt_ids([e.prompt for e in part]), trace)
        logp, _ = model.text_logp(hidden, trace, 1.0)
        ce, tokens = ce - logp.sum(), tokens + int(trace.mask.sum())
        x = (1 - t)[:, None, None] * data + t[:, None, None] * noise
        error = model.velocity(context.drop(dropped.to(model.device)), x, t) - (noise - data)
        flow = flow + error.square().mean() * (len(bucket) / len(examples))
    ce = ce / max(distributed.mean(torch.tensor(tokens)).item(), 1)
    parts = {name: distributed.mean(value.detach()).item() for name, value in (("flow", flow), ("ce", ce))}
    return flow + settings.ce_weight * ce, parts


def new_model(cfg: RunConfig) -> UnifiedModel:
    """A model from scratch: fitted codec, word tokenizer, initialised network."""
    m = cfg.model
    tokenizer = build_tokenizer(prompts.vocabulary())
    ids = tokenizer.convert_tokens_to_ids
    mot = MoT(
        MoTConfig(
            vocab_size=len(tokenizer),
            hidden_size=m.hidden_size,
            intermediate_size=m.intermediate_size,
            layers=m.layers,
            heads=m.heads,
            kv_heads=m.kv_heads,
            latent_channels=m.latent_channels,
            latent_patch=m.latent_patch,
            max_latent_size=m.max_latent_size,
            bos_id=ids(BOS),
            eos_id=ids(EOS),
            start_of_image_id=ids(START_OF_IMAGE),
            end_of_image_id=ids(END_OF_IMAGE),
            rope_theta=100.0,  # sequences of a few dozen tokens
        )
    )
    mot.initialise(seeding.generator(cfg.seed, "initialise"))
    codec = PatchCodec(m.latent_channels, m.latent_patch, m.latent_downsample)
    rng = seeding.numpy_generator(cfg.seed, "codec")
    codec.fit(
        render.render([traces.base_example(rng, False, traces.Imperfection())[2] for _ in range(4000)], m.image_size)
    )
    return UnifiedModel(mot, codec, tokenizer, m.image_size)


def learning_rate(step: int, s: SupervisedConfig) -> float:
    """Linear warm-up, then a cosine to a tenth of the peak."""
    if step < s.warmup:
        return s.lr * (step + 1) / s.warmup
    progress = (step - s.warmup) / max(1, s.steps - s.warmup)
    return s.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def main() -> None:
    parser = cli.parser(
        "unigrpo.training.supervised",
        "Supervised stages, base and SFT.",
        config="resolved run configuration (JSON)",
        out="run folder to write",
    )
    parser.add_argument("--init", type=Path, help="folder of the parent run (none: from scratch)")
    cli.add_training_options(parser, tracking.NAMES)
    args = parser.parse_args()
    cfg = config.load(args.config)
    if cfg.stage == "rl":
        raise UserError(f"{args.config}: stage: expected 'base' or 'sft', got 'rl'; see unigrpo.training.reinforcement")
    if (cfg.stage == "sft") != (args.init is not None):
        expected = "the folder of the parent run" if cfg.stage == "sft" else "nothing, the base starts from scratch"
        raise UserError(f"--init: expected {expected} (stage {cfg.stage!r} of {args.config})")
    try:
        config.check_processes(cfg)
    except UserError as error:
        raise UserError(f"{args.config}: {error}") from None
    if args.dry_run:
        told = {} if cfg.source == "released" else cost.supervised(cfg)
        print(json.dumps({"config": to_dict(cfg), "cost": told}, indent=2))
        return
    check_launch(cfg)
    check_devices(cfg)
    if cfg.source == "released":
        return adopt(cfg, args.out)
    if cfg.backbone != "llm_dit":  # whose sizes stand in its releases
        plan.check_fits(cfg, device_memory(cfg))
    train(cfg, args.out, args.init, args.tracker)


def adopt(cfg: RunConfig, out: Path) -> None:
    """The base of a scale that starts from published weights, which are checked: links to their files, or fresh
    adapters beside their names; and a record."""
    started, info = time.monotonic(), {"run": cfg.run, "seed": cfg.seed, "stage": cfg.stage}
    if cfg.backbone == "llm_dit":
        from unigrpo.models.backbones.llm_dit import pair_files

        pair_files.adopt(cfg, out, info)
    else:
        from unigrpo.models.backbones.bagel import bagel_backbone  # diffusers takes seconds to import

        bagel_backbone.adopt(cfg.released, out, cfg.model, info)
    facts = {"images": 0, "model_evaluations": 0, "updates": 0, "ema": True, "collapsed": False}
    seconds = time.monotonic() - started
    write_json(out / "run.json", provenance.record(cfg, device="none", wall_seconds=seconds, **facts))


def train(cfg: RunConfig, out: Path, init: Path | None, tracker: str | None = None) -> None:
    """Train to ``supervised.steps``; resumes from ``out/state``. Writes model, metrics and run.json. ``tracker`` names
    one that follows the metrics."""
    s = cfg.supervised
    if cfg.stage == "sft":
        join_others(cfg)
    accelerator, started = accelerate_for(cfg, **tracking.options(tracker, out)), time.monotonic()
    if cfg.stage == "sft" and cfg.sharding:

        def start() -> tuple[UnifiedModel, UnifiedModel]:
            return sharding.load(
                lambda: checkpoint.load_model(init, "cpu", cfg.model), accelerator.device, cfg.precision == "bf16"
            )

        (model, form), ema = start(), averaging(nn.Module(), s.ema_decay)
        ema.module = start()[0].network  # a split network cannot be copied
    else:
        model = new_model(cfg) if init is None else checkpoint.load_model(init, expected=cfg.model)
        model = model.to(accelerator.device)
        ema = averaging(model.network, s.ema_decay)
    if cfg.activation_checkpointing:
        model.mot.checkpoint_activations()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=s.lr, weight_decay=s.weight_decay, betas=(0.9, 0.99), fused=True)
    first, earlier, main = 0, 0.0, distributed.is_main()
    settings = training_fingerprint(cfg, *([] if init is None else [run_folder.weights(init)]))
    state = load_state(out / "state", settings)
    if state is not None:
        first, tensors, data = state
        earlier = data["wall_seconds"]
        restore(tensors, {"model": model, "ema": ema}, optimizer, out / "state")
    record_file = out / "metrics.jsonl" if main else None
    log = MetricsLog(record_file, "step", first, tracking.follower(accelerator, cfg, "step", first))
    steps = range(first, s.steps)
    shown = {"mininterval": 5, "dynamic_ncols": True, "disable": not main}
    bar = tqdm(steps, initial=first, total=s.steps, desc=cfg.run, **shown)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, s)
        generator = seeding.generator(cfg.seed, cfg.stage, "noise", step)
        with accelerator.autocast():
            loss, parts = supervised_loss(model, draw_examples(cfg, step), s, generator)
        whole = distributed.mean(loss.detach())
        if not torch.isfinite(whole):
            raise UserError(f"{cfg.run}: loss is {whole.item()} at step {step}; lower supervised.lr")
        accelerator.backward(loss)
        distributed.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, s.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update_parameters(model.network)
        if (step + 1) % 50 == 0:
            bar.set_postfix(flow=f"{parts['flow']:.4f}", ce=f"{parts['ce']:.4f}")
            log.write(kind="train", step=step, lr=learning_rate(step, s), loss=whole, **parts)
        if (step + 1) % s.validate_every == 0 or step + 1 == s.steps:
            images = cost.SUPERVISED_VALIDATION_IMAGES
            for thinking in (True, False):
                decoding = Decoding(thinking, 1.0, 1.0)
                with sharding.gathered(ema):
                    scores = validate(averaged(model, ema), cfg, decoding, per_prompt=images).means
                log.write(kind="validation", step=step, thinking=thinking, **scores)
                if main:
                    told = " ".join(f"{k} {v:.3f}" for k, v in scores.items())
                    tqdm.write(f"{cfg.run} step {step + 1} thinking={thinking}: {told}")
        if (step + 1) % s.checkpoint_every == 0 and step + 1 < s.steps:
            tensors = gather({"model": model, "ema": ema}, optimizer)
            taken = {"wall_seconds": earlier + time.monotonic() - started}
            if main:
                save_state(out / "state", step + 1, tensors, taken, settings)

    finished = averaged(model, ema)
    if cfg.stage == "sft" and cfg.sharding:
        finished = sharding.whole(finished, form)
    if main:
        close(cfg, out, finished, accelerator.device, earlier + time.monotonic() - started)
    accelerator.end_training()


def close(cfg: RunConfig, out: Path, model: UnifiedModel, device: torch.device, seconds: float) -> None:
    """Write the model and the record of a finished run; nothing is left to resume from."""
    s = cfg.supervised
    record = provenance.record(
        cfg,
        device=str(device),
        wall_seconds=seconds,
        images=s.steps * s.batch_size,
        model_evaluations=s.steps * s.batch_size,
        updates=s.steps,
        ema=True,
        collapsed=False,
    )
    checkpoint.save_model(model, out, {"run": cfg.run, "seed": cfg.seed, "stage": cfg.stage})
    write_json(out / "run.json", record)
    shutil.rmtree(out / "state", ignore_errors=True)


def averaging(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of weights, which starts as a copy."""
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))


def averaged(model: UnifiedModel, ema: AveragedModel) -> UnifiedModel:
    """The model with averaged weights: what is evaluated and saved."""
    return model.with_network(ema.module)


if __name__ == "__main__":
    cli.run(main)
