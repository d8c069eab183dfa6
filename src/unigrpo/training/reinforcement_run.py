"""Reinforcement of the reasoning part, the image part, or both: rollouts (``training.loop``) in the common frame, and
what is measured beside them.

The collapse rule is the same for every run. A run has collapsed if something that it computed (images, a loss, a
gradient) is not finite; that ends it, with the weights before. A run has also collapsed if its last validation gold is
below half of its first. A run whose parent has collapsed is not trained. In all cases the run is finished and the
workflow goes on.
"""

import shutil
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import mean

import torch

from unigrpo.core import distributed
from unigrpo.core.errors import UserError
from unigrpo.core.sitting import alone
from unigrpo.core.tensor_files import write_tensors
from unigrpo.episodes.rollout import diversity
from unigrpo.episodes.shares import local_rows
from unigrpo.judges.reward import cut_lines
from unigrpo.models import checkpoint, lora, sharding
from unigrpo.sampling.engine import Decoding
from unigrpo.study.config import RunConfig
from unigrpo.study.provenance import read_record, weights_file
from unigrpo.study.training_inputs import training_pool
from unigrpo.training.drift import Probe, drift, probe
from unigrpo.training.launch import start_model
from unigrpo.training.learner import Learner, added_rank, networks, optimizer_for, state_of, warm_up
from unigrpo.training.loop import learn
from unigrpo.training.metrics_log import MetricsLog
from unigrpo.training.run_frame import Frame, finish
from unigrpo.training.validation import record, validate
from unigrpo.world import prompts as world_prompts

COLLAPSE = 0.5  # share of the first validation gold below which the last one is a collapse


def train(
    cfg: RunConfig, out: Path, init: Path, reward, decoding: Decoding, inputs: Mapping[str, Path] | None = None, **words
) -> None:
    """Run all rollouts; writes model, metrics.jsonl and run.json into ``out``. ``inputs`` are the files that decide the
    run beside the parent's weights, by what they are; they and the ``words`` of a Frame say what of ``out`` is
    continued."""
    files = {"parent": weights_file(init), **(inputs or {})}
    with Frame(cfg, out, "rollout", cfg.rl.rollouts, files, **words) as frame:
        if not frame.finished:
            reinforce(frame, init, reward, decoding)


def reinforce(frame: Frame, init: Path, reward, decoding: Decoding) -> None:
    """The run of a frame."""
    cfg = frame.cfg
    rl, pool = cfg.rl, training_pool(cfg)
    texts = {prompt.text for prompt in pool}
    cut = reward.cut(texts) if hasattr(reward, "cut") else {}
    if frame.main and cut:
        print("\n".join(cut_lines(cut, len(texts))), file=sys.stderr)
    start = partial(start_model, cfg, init, frame.accelerator.device)
    model, form = start()
    nets = networks(cfg, model, reward, (lambda: start()[0]) if cfg.sharding else None)
    saved = state_of(nets, cfg)
    with sharding.gathered(nets.reference):
        yardstick = probe(nets.reference, world_prompts.prompt_set("val"), cfg)
    optimizer, experts = optimizer_for(model, rl)
    run = Learner(cfg, nets, optimizer, experts, frame.accelerator, pool, frame.counts)

    check = partial(check_policy, frame, run, decoding, yardstick)
    if frame.resume(saved, optimizer) == 0:
        check(-1)
    warm_up(optimizer, rl, frame.counts["updates"])
    collapse = frame.run(rl, partial(learn_and_record, frame, run), check, keep=rl.keep_state)

    model = run.judged
    if form is not None:
        model = sharding.unsplit(model, form)
    if added_rank(cfg):
        lora.merge(model)
    collapse = collapse or fallen(frame)
    keep = rl.keep_state and collapse is None
    ends = {"collapsed": collapse is not None, "collapse": collapse, "best_update": best(frame) if frame.main else None}
    frame.close(model, keep, ema=False, **ends, **({"cut_prompts": cut} if cut else {}))


def learn_and_record(frame: Frame, run: Learner, index: int) -> dict[str, float]:
    """Rollout ``index``, its updates and its row in the record. Returns the mean reward, to be shown."""
    ends, start, rl = {}, time.monotonic(), run.cfg.rl

    def mark(phase: str) -> None:
        ends[phase] = time.monotonic()
        frame.mark(phase)

    done = learn(run, index, mark)
    rollout, trace = done.rollout, done.rollout.trace
    run.counts["images"] += len(done.rewards["reward"])
    run.counts["model_evaluations"] += sum(distributed.collect([rollout.model_evaluations]))
    if (dropped := done.spread.get("dropped_groups")) is not None:
        run.counts["dropped_groups"] = run.counts.get("dropped_groups", 0) + dropped
    means = {name: values[values.isfinite()].mean() for name, values in done.rewards.items()}
    groups = [i // rl.group_size for i in local_rows(len(done.rewards["reward"]), rl)]
    tokens = torch.zeros(()) if trace is None else trace.mask.sum() / len(rollout.prompts)
    frame.log.write(
        kind="train",
        rollout=index,
        update=run.counts["updates"],
        images=run.counts["images"],
        model_evaluations=run.counts["model_evaluations"],
        proxy=means["reward"],
        **{f"reward_{name}": mean for name, mean in means.items() if name != "reward"},
        **{k: v for k, v in done.spread.items() if k != "reward_mean"},
        diversity=mean(distributed.collect(diversity(rollout.image.images, groups)) or [0.0]),
        **rollout.image.drawn,
        trace_tokens=0 if trace is None else distributed.mean(tokens),
        seconds_rollout=ends["reward"] - start,
        seconds_update=(end := time.monotonic()) - ends["reward"],
        images_per_second=len(done.rewards["reward"]) / (end - start),
        **done.metrics,
    )
    return {"proxy": means["reward"].item()}


def check_policy(frame: Frame, run: Learner, decoding: Decoding, yardstick: Probe, index: int) -> None:
    """Validate the policy after rollout ``index`` (-1: before the first), and measure its drift from the start."""
    counts, judge = run.counts, partial(validate, cfg=run.cfg, decoding=decoding, proxy=run.nets.reward)
    judge = partial(judge, per_prompt=run.cfg.rl.validation_images)
    with sharding.gathered(run.judged), run.accelerator.autocast():
        validation = judge(run.judged)
        moved = drift(run.judged, yardstick)
    if (average := run.beside(index)) is not None:
        with sharding.gathered(average), run.accelerator.autocast():
            averaged = judge(average)
    if validation is not None:
        frame.report(index + 1, validation.means)
        validation = validation if average is None else validation.beside(averaged)
        record(validation, frame.out / "validation", counts["updates"])
        distances = {"drift": sum(moved) / len(moved)} | {f"drift_{k}": value for k, value in enumerate(moved)}
        so_far = {"update": counts["updates"], "images": counts["images"]}
        frame.log.write(kind="validation", rollout=index, **so_far, **validation.means, **distances)
    keep_weights(frame, run)


def keep_weights(frame: Frame, run: Learner) -> None:
    """Keep the weights of the policy that was validated last as ``validation/<update>.safetensors``, the adapters alone
    where the run has given it some: of every validation, or of the best so far in place of the one before it."""
    which, update = run.cfg.rl.keep_weights, run.counts["updates"]
    chosen = which == "all" or (which == "best" and frame.main and best(frame) == update)
    if not distributed.collect([chosen])[0]:
        return
    adapters = added_rank(run.cfg) > 0
    tensors = lora.trained(run.judged).state_dict() if adapters else run.judged.weights()
    tensors = {name: sharding.full(tensor) for name, tensor in tensors.items()}
    if frame.main:
        path = frame.out / "validation" / f"{update:06d}.safetensors"
        write_tensors(path, tensors)
        for earlier in set(path.parent.glob("*.safetensors")) - {path} if which == "best" else ():
            earlier.unlink()


def best(frame: Frame) -> int:
    """The update whose validation has the highest gold, the first of several."""
    rows = [frame.log.column(name, kind="validation") for name in ("gold", "update")]
    return max(zip(*rows, strict=True), key=lambda row: row[0])[1]


def fallen(frame: Frame) -> str | None:
    """Whether validation gold has fallen so far that the run counts as collapsed: why, or None."""
    if not frame.main:
        return None
    gold = frame.log.column("gold", kind="validation")
    return f"validation gold fell from {gold[0]:.3f} to {gold[-1]:.3f}" if gold[-1] < COLLAPSE * gold[0] else None


def fate_of(parent: Path) -> str | None:
    """Why a run must not start from ``parent``, or None: it collapsed, or was itself not trained."""
    record = read_record(parent)
    if record.get("collapsed"):
        return f"its parent {record.get('run')} collapsed ({record.get('collapse')})"
    return f"its parent {record.get('run')} was not trained" if record.get("not_trained") else None


def pass_on(cfg: RunConfig, out: Path, init: Path, reason: str, anew: bool = False) -> None:
    """Finish a run that is not trained: the parent's weights, an empty training record, and why. Raises UserError where
    ``out`` holds the state of one that was trained and ``anew`` does not give it up."""
    with alone(out):
        if (out / "state").exists() and not anew:
            raise UserError(f"{out / 'state'}: written before {reason}: start anew with state=anew")
        shutil.rmtree(out / "state", ignore_errors=True)
        MetricsLog(out / "metrics.jsonl", "rollout", 0)
        parent = checkpoint.load_model(init, "cpu", cfg.model)
        finish(cfg, out, parent, "cpu", wall_seconds=0.0, ema=False, collapsed=False, not_trained=reason)
    print(f"{cfg.run}/{cfg.seed} is not trained: {reason}")
