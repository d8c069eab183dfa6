"""Supervised stages, base and SFT: steps on examples, in the common frame.

Loss = flow matching on the image, ``|v(x_t, t, context) - (noise - x_0)|^2`` averaged over elements, plus
``ce_weight`` times the cross-entropy of the reasoning trace. Times are logit-normal with a shift. A share of the
examples loses its context, so that guidance has an unconditional branch (BAGEL, section on training).

Every random choice of step n comes from streams named by (seed, n), so a resumed run repeats the same numbers. Each
of several processes draws all of them and learns from its share of the examples; together they make the update of one.
"""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unigrpo.core import distributed, seeding
from unigrpo.core.errors import UserError
from unigrpo.core.files import write_json
from unigrpo.models import checkpoint, sharding
from unigrpo.models.base import States, UnifiedModel
from unigrpo.objectives.averaging import average_into, ema_share
from unigrpo.sampling.engine import Decoding
from unigrpo.study import provenance
from unigrpo.study.config import SUPERVISED_VALIDATION_IMAGES, RunConfig, SupervisedConfig
from unigrpo.study.facts import BACKBONES
from unigrpo.training.examples import Bucket, Steps, training_times
from unigrpo.training.launch import start_model
from unigrpo.training.run_frame import Frame
from unigrpo.training.validation import validate

LOGGED = 50  # steps between two rows of the record


def supervised_losses(
    model: UnifiedModel, buckets: list[Bucket], settings: SupervisedConfig, generator: torch.Generator
) -> Iterator[dict[str, Tensor]]:
    """``flow``, the flow-matching loss (mean over elements), ``ce``, the cross-entropy (mean over trace tokens), and
    the ``loss``, flow + ce_weight * ce, of each bucket: its part of this process's share of a step. Their sums' means
    over processes are those of all examples."""
    total = sum(bucket.size for bucket in buckets)
    traces = [model.trace_from_texts([e.trace for e in bucket.examples]) for bucket in buckets]
    tokens = sum(trace.mask.sum() for trace in traces)
    tokens = max(distributed.mean(tokens).item(), 1)
    for bucket, trace in zip(buckets, traces, strict=True):
        noise = torch.randn(bucket.size, *model.latent_shape, generator=generator)[bucket.local]
        t = training_times(bucket.size, settings.timestep_shift, generator)[bucket.local]
        dropped = torch.rand(bucket.size, generator=generator)[bucket.local] < settings.condition_dropout
        data = model.encode_images(bucket.images.to(model.device).permute(0, 3, 1, 2).float() / 255)
        noise, t, dropped = noise.to(data), t.to(data), dropped.to(model.device)

        x = (1 - t)[:, None, None] * data + t[:, None, None] * noise
        pieces = [trace, States(x[:, None], t[:, None])]
        ids = model.prompt_ids([e.prompt for e in bucket.examples])
        hidden, velocity = model.replay(ids, pieces, ("full",), through=True, dropped=dropped)
        logp, _ = model.text_logp(hidden, trace, 1.0)
        error = velocity["full"][:, 0] - (noise - data)
        flow, ce = error.square().mean() * (bucket.size / total), -logp.sum() / tokens
        yield {"loss": flow + settings.ce_weight * ce, "flow": flow, "ce": ce}


def learning_rate(step: int, s: SupervisedConfig) -> float:
    """Linear warm-up, then a cosine to a tenth of the peak."""
    if step < s.warmup:
        return s.lr * (step + 1) / s.warmup
    progress = (step - s.warmup) / max(1, s.steps - s.warmup)
    return s.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass(frozen=True)
class Student:
    """A model in supervised training, with the moving average of its network, which is evaluated and saved."""

    cfg: RunConfig
    model: UnifiedModel
    average: nn.Module
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    steps: Steps  # their examples

    @property
    def averaged(self) -> UnifiedModel:
        """The model with averaged weights."""
        return self.model.with_network(self.average)


def optimizer_for(model: UnifiedModel, s: SupervisedConfig) -> torch.optim.Optimizer:
    """AdamW on all parameters that are trained."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, lr=s.lr, weight_decay=s.weight_decay, betas=(0.9, 0.99), fused=True)


def learn(student: Student, step: int) -> tuple[Tensor, dict[str, float]]:
    """One step: examples, loss, gradients, optimiser, average. Returns the loss, over all processes, and its parts.
    Raises UserError where it is not finite."""
    cfg, s, optimizer = student.cfg, student.cfg.supervised, student.optimizer
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, s)
    generator = seeding.generator(cfg.seed, cfg.stage, "noise", step)
    losses, found = supervised_losses(student.model, student.steps(step), s, generator), []
    with student.accelerator.autocast():
        for measured in losses:
            with torch.autocast(measured["loss"].device.type, enabled=False):
                measured["loss"].backward()  # a bucket at a time: its activations are the most that is held
            found.append({name: value.detach() for name, value in measured.items()})
    sums = {name: distributed.mean(sum(each[name] for each in found)) for name in found[0]}
    loss, parts = sums.pop("loss"), {name: value.item() for name, value in sums.items()}
    if not torch.isfinite(loss):
        raise UserError(f"{cfg.run}: loss is {loss.item()} at step {step}; lower supervised.lr")
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    distributed.average_gradients(parameters)
    torch.nn.utils.clip_grad_norm_(parameters, s.clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    average_into(student.average, student.model.network, ema_share(step, s.ema_decay))
    return loss, parts


def train(cfg: RunConfig, out: Path, init: Path | None, **words) -> None:
    """Train to ``supervised.steps``. Writes model, metrics and run.json. The ``words`` of a Frame say what of ``out``
    is continued."""
    inputs = {} if init is None else {"parent": provenance.weights_file(init)}
    with Frame(cfg, out, "step", cfg.supervised.steps, inputs, **words) as frame:
        if not frame.finished:
            teach(frame, init)


def teach(frame: Frame, init: Path | None) -> None:
    """The run of a frame."""
    cfg, s, device = frame.cfg, frame.cfg.supervised, frame.accelerator.device
    model, form = (checkpoint.new_model(cfg).to(device), None) if init is None else start_model(cfg, init, device)
    # a split network cannot be copied
    average = start_model(cfg, init, device)[0].network if form else copy.deepcopy(model.network)
    if cfg.activation_checkpointing:
        model.mot.checkpoint_activations()
    student = Student(cfg, model, average, optimizer_for(model, s), frame.accelerator, Steps(cfg))
    frame.resume({"model": model, "ema": average}, student.optimizer)
    frame.run(s, partial(learn_and_record, frame, student), partial(check_average, frame, student), keep=False)
    finished = student.averaged if form is None else sharding.unsplit(student.averaged, form)
    frame.close(finished, ema=True, collapsed=False)


def learn_and_record(frame: Frame, student: Student, step: int) -> dict[str, float]:
    """One step, and now and then its row in the record. Returns the parts of the loss, to be shown."""
    s = student.cfg.supervised
    loss, parts = learn(student, step)
    done = {"updates": 1, "images": s.batch_size, "model_evaluations": s.batch_size}
    frame.counts |= {name: frame.counts[name] + n for name, n in done.items()}
    if (step + 1) % LOGGED == 0:
        frame.log.write(kind="train", step=step, lr=learning_rate(step, s), loss=loss, **parts)
    return parts


def check_average(frame: Frame, student: Student, step: int) -> None:
    """Validate the averaged model after a step, with traces and without."""
    for thinking in (True, False):
        with sharding.gathered(student.average), student.accelerator.autocast():
            decoding, images = Decoding(thinking, 1.0, 1.0), SUPERVISED_VALIDATION_IMAGES
            validation = validate(student.averaged, student.cfg, decoding, per_prompt=images)
        if validation is not None:
            frame.log.write(kind="validation", step=step, thinking=thinking, **validation.means)
            frame.report(step + 1, validation.means, f" thinking={thinking}")


def adopt(cfg: RunConfig, out: Path) -> None:
    """The base of a scale that starts from published weights, which are checked: links to their files, or fresh
    adapters beside their names; and a record."""
    started, info = time.monotonic(), {"run": cfg.run, "seed": cfg.seed, "stage": cfg.stage}
    BACKBONES.load(cfg.backbone).adopt(cfg, out, info)
    facts = {"images": 0, "model_evaluations": 0, "updates": 0, "ema": True, "collapsed": False}
    seconds = time.monotonic() - started
    write_json(out / "run.json", provenance.record(cfg, device="none", wall_seconds=seconds, **facts))
