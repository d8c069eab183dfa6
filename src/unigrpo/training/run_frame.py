"""What surrounds the steps of every training: its processes, record, checkpoints, progress and end.

``frame.run`` is the loop of all stages. A killed run continues from its last checkpoint with the same numbers, because
every random draw is named by (seed, step).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from unigrpo.core import distributed
from unigrpo.core.errors import Collapse
from unigrpo.core.files import write_json
from unigrpo.models.base import UnifiedModel
from unigrpo.study import provenance
from unigrpo.study.config import RunConfig
from unigrpo.training import tracking
from unigrpo.training.launch import accelerate_for, join_others
from unigrpo.training.metrics_log import MetricsLog
from unigrpo.training.state import gather, load_state, restore, save_state


class Frame:
    """The frame of a run that writes into ``out``. ``key`` is what a step is called in the record; ``tracker``, where
    one is named, follows the record; ``counts`` are of all sittings of the run."""

    def __init__(self, cfg: RunConfig, out: Path, key: str, tracker: str | None = None):
        join_others(cfg)
        self.cfg, self.out, self.key = cfg, out, key
        self.counts = {"updates": 0, "images": 0, "model_evaluations": 0, "wall_seconds": 0.0}
        self.accelerator = accelerate_for(cfg, **tracking.options(tracker, out))
        self.main, self.started = distributed.is_main(), time.monotonic()

    def resume(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, settings: str) -> int:
        """Restore what was saved under the same ``settings``, if anything, and open the record. Returns the first
        step to do."""
        self.modules, self.optimizer, self.settings, self.first = modules, optimizer, settings, 0
        saved = load_state(self.out / "state", settings)
        if saved is not None:
            self.first, tensors, counts = saved
            self.counts |= counts
            restore(tensors, modules, optimizer, self.out / "state")
        self.earlier = self.counts["wall_seconds"]
        follow = tracking.follower(self.accelerator, self.cfg, self.key, self.first)
        self.log = MetricsLog(self.out / "metrics.jsonl" if self.main else None, self.key, self.first, follow)
        return self.first

    def run(self, settings, total: int, learn: Callable[[int], dict], validate: Callable[[int], None]) -> str | None:
        """Steps ``first`` to ``total`` - 1, validated and checkpointed as often as ``settings`` say. ``learn`` returns
        numbers to show. Returns why the run collapsed, or None."""
        name = f"{self.cfg.run}/{self.cfg.seed}"
        shown = {"initial": self.first, "total": total, "mininterval": 5, "dynamic_ncols": True}
        bar = tqdm(range(self.first, total), desc=name, disable=not self.main, **shown)
        for index in bar:
            done = index + 1
            try:
                bar.set_postfix(learn(index), refresh=False)
            except Collapse as reason:
                row = {self.key: index, "update": self.counts["updates"], "reason": str(reason)}
                self.log.write(kind="collapse", **row)
                return f"{self.key} {index}: {reason}"
            if done % settings.validate_every == 0 or done == total:
                validate(index)
            if done % settings.checkpoint_every == 0 and done < total:
                self.save(done)
        return None

    def report(self, done: int, scores: dict[str, float], how: str = "") -> None:
        """Print the scores of a validation above the progress bar."""
        if self.main:
            numbers = " ".join(f"{name} {score:.3f}" for name, score in scores.items())
            tqdm.write(f"{self.cfg.run}/{self.cfg.seed} {self.key} {done}{how}: {numbers}")

    def save(self, done: int) -> None:
        """Write what the run resumes from after ``done`` steps."""
        self.counts["wall_seconds"] = self.seconds()
        tensors = gather(self.modules, self.optimizer)
        if self.main:
            save_state(self.out / "state", done, tensors, self.counts, self.settings)

    def seconds(self) -> float:
        """Wall-clock time of the run so far, over all of its sittings."""
        return self.earlier + time.monotonic() - self.started

    def close(self, model: UnifiedModel, **facts) -> None:
        """The end of a run: the main process writes its model and its record, with ``facts``."""
        self.counts["wall_seconds"] = self.seconds()
        if self.main:
            finish(self.cfg, self.out, model, self.accelerator.device, **facts, **self.counts)
            if facts.get("collapse"):
                print(f"{self.cfg.run}/{self.cfg.seed} collapsed: {facts['collapse']}")
        distributed.leave()
        self.accelerator.end_training()  # of its trackers


def finish(cfg: RunConfig, out: Path, model: UnifiedModel, device, *, wall_seconds: float, **facts) -> None:
    """Write a run's model and record; nothing is left to resume from."""
    model.save(out, {"run": cfg.run, "seed": cfg.seed, "stage": cfg.stage})
    write_json(out / "run.json", provenance.record(cfg, device=str(device), wall_seconds=wall_seconds, **facts))
    shutil.rmtree(out / "state", ignore_errors=True)
