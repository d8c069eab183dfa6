"""What surrounds the steps of every training: its processes, record, checkpoints, progress and end.

``frame.run`` is the loop of all stages. A stopped run continues from its last state with the same numbers, because
every random draw is named by (seed, step).
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Self

import torch
from torch import nn
from tqdm import tqdm

from unigrpo.core import code_identity, distributed
from unigrpo.core.errors import Collapse, RewardFailed, UserError
from unigrpo.core.files import digest, write_json
from unigrpo.core.settings import to_dict
from unigrpo.core.sitting import Stopped, alone, stoppable
from unigrpo.models.base import UnifiedModel
from unigrpo.study import provenance
from unigrpo.study.config import RunConfig
from unigrpo.training import tracking
from unigrpo.training.launch import accelerate_for, join_others
from unigrpo.training.metrics_log import MetricsLog
from unigrpo.training.state import PREVIOUS, Identity, Notes, gather, piece, restore, save_state, standing


class Frame:
    """The frame of a run of ``total`` steps that writes into ``out``, which nobody else may do within it. ``key`` is
    what a step is called in the record; ``inputs`` are the files that the run starts from, by what they are; ``counts``
    are of all sittings of the run. What is in ``out`` and does not fit is refused; ``anew`` gives it up, ``keep_code``
    lets other code go on. ``finished``: there is nothing to do."""

    def __init__(
        self,
        cfg: RunConfig,
        out: Path,
        key: str,
        total: int,
        inputs: Mapping[str, Path],
        *,
        anew: bool = False,
        keep_code: bool = False,
    ):
        join_others(cfg)
        self.cfg, self.out, self.key, self.total = cfg, out, key, total
        self.name = f"{cfg.run}/{cfg.seed}"
        self.counts = {"updates": 0, "images": 0, "model_evaluations": 0, "wall_seconds": 0.0}
        self.main, self.started = distributed.is_main(), time.monotonic()
        self.identity = Identity.of(to_dict(cfg), {what: digest(path) for what, path in inputs.items()})
        self.anew, self.keep_code = anew, keep_code

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self.main:
                stack.enter_context(alone(self.out))
            self.signals = stack.enter_context(stoppable())
            self.finished, self.saved = self._standing()
            if self.finished and self.main:
                print(f"{self.name} is finished already")
            self.accelerator = accelerate_for(self.cfg, **tracking.options(self.cfg.tracker, self.out))
            self.leaving = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        self.leaving.close()

    def _standing(self) -> tuple:
        """What is there and fits. A run that has failed may have left a state that does beside an older record."""
        for given_up in ("run.json", "state"):
            try:
                return standing(self.out, self.identity, self.total, self.keep_code)
            except UserError:
                if not self.anew:
                    raise
            distributed.collect([])  # nobody reads any more
            if self.main:
                (self.out / "run.json").unlink(missing_ok=True)
                shutil.rmtree(self.out / "state", ignore_errors=True) if given_up == "state" else None
            distributed.collect([])
        return False, None

    def resume(self, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
        """Restore what was saved, if anything, and open the record. Returns the first step to do."""
        self.modules, self.optimizer, self.first, self.pieces, self.validated = modules, optimizer, 0, [], True
        if self.saved is not None:
            notes, tensors = self.saved
            self.first, self.pieces, self.validated = notes.step, notes.pieces, notes.validated
            self.counts |= notes.counts
            restore(tensors, modules, optimizer, self.out / "state")
        self.modules_seen = len(sys.modules)
        self.piece = piece(self.cfg, str(self.accelerator.device), self.first)
        self.saved_at, self.saved_when = self.first, time.monotonic()
        self.earlier, self.saved = self.counts["wall_seconds"], None
        follow = tracking.follower(self.accelerator, self.cfg, self.key, self.first)
        self.log = MetricsLog(self.out / "metrics.jsonl" if self.main else None, self.key, self.first, follow)
        return self.first

    def run(self, settings, learn: Callable[[int], dict], validate: Callable[[int], None], keep: bool) -> str | None:
        """The steps that are left, validated and checkpointed as often as ``settings`` say; with ``keep`` the last one
        leaves a state too. ``learn`` returns numbers to show. Returns why the run collapsed, or None. Where a signal
        asks for it the process ends, after a state was written."""
        if not self.validated:
            validate(self.first - 1)
            self.saved_at = None
        shown = {"initial": self.first, "total": self.total, "mininterval": 5, "dynamic_ncols": True}
        for index in (bar := tqdm(range(self.first, self.total), desc=self.name, disable=not self.main, **shown)):
            done = index + 1
            try:
                self.mark("step")
                with self.kept(index):
                    bar.set_postfix(learn(index), refresh=False)
            except Stopped:
                bar.close()  # the last word is the line on the stop
                self.stop(index)
            except Collapse as reason:
                row = {self.key: index, "update": self.counts["updates"], "reason": str(reason)}
                self.log.write(kind="collapse", **row)
                return f"{self.key} {index}: {reason}"
            if done % settings.validate_every == 0 or done == self.total:
                if self.asked():
                    bar.close()
                    self.stop(done, validated=False)
                with self.kept(done, validated=False):
                    validate(index)
            late = distributed.collect([time.monotonic() - self.saved_when > 60 * settings.checkpoint_minutes])[0]
            if done < self.total and (done % settings.checkpoint_every == 0 or late):
                self.save(done)
        if keep and self.saved_at != self.total:
            self.save(self.total)
        return None

    def asked(self) -> int:
        """The signal by which one of the processes was asked to stop, 0 without one."""
        return max(distributed.collect(self.signals or [0]))

    def mark(self, phase: str) -> None:
        """The end of a phase of a step. Raises Stopped where it is time to end and the step has changed nothing yet."""
        if phase != "update" and self.asked():
            raise Stopped

    def stop(self, done: int, validated: bool = True) -> None:
        """End the process after ``done`` steps, with a state to resume from."""
        if done not in (0, self.saved_at):
            self.save(done, validated)
        number = self.asked()
        if self.main:
            tqdm.write(f"{self.name} stopped at {self.key} {done} of {self.total}; the same command continues")
        self.leave()
        raise SystemExit(128 + number)

    @contextmanager
    def kept(self, done: int, validated: bool = True) -> Iterator[None]:
        """Where a reward fails within it, before anything is learned, the state after ``done`` steps is saved."""
        updates = self.counts["updates"]
        try:
            yield
        except RewardFailed:
            if done not in (0, self.saved_at) and updates == self.counts["updates"]:
                self.save(done, validated)
            raise

    def report(self, done: int, scores: dict[str, float], how: str = "") -> None:
        """Print the scores of a validation above the progress bar."""
        if self.main:
            numbers = " ".join(f"{name} {score:.3f}" for name, score in scores.items())
            tqdm.write(f"{self.name} {self.key} {done}{how}: {numbers}")

    def save(self, done: int, validated: bool = True) -> None:
        """Write what the run resumes from after ``done`` steps."""
        self.counts["wall_seconds"] = self.seconds()
        tensors = gather(self.modules, self.optimizer)
        if self.main:
            made = asdict(self.identity) | {"pieces": self.origin(done), "counts": self.counts}
            save_state(self.out / "state", tensors, Notes(done, self.total, validated=validated, **made))
        self.saved_at, self.saved_when = done, time.monotonic()

    def origin(self, done: int) -> list[dict]:
        """The pieces of the run up to ``done``, by the processes that made them."""
        if len(sys.modules) != self.modules_seen:  # some are loaded late
            self.piece["code"] |= code_identity.loaded()
            self.modules_seen = len(sys.modules)
        return [*self.pieces, *([self.piece | {"to": done}] if done > self.first else [])]

    def seconds(self) -> float:
        """Wall-clock time of the run so far, over all of its sittings."""
        return self.earlier + time.monotonic() - self.started

    def leave(self) -> None:
        """The end of working together, and of trackers."""
        distributed.leave()
        self.accelerator.end_training()

    def close(self, model: UnifiedModel, keep: bool = False, **facts) -> None:
        """The end of a run: the main process writes model and record, with ``facts``; ``keep``: a run can go on."""
        self.counts["wall_seconds"] = self.seconds()
        if self.main:
            made = {"inputs": self.identity.inputs, "pieces": self.origin(self.total)}
            finish(self.cfg, self.out, model, self.accelerator.device, **facts, **self.counts, **made)
            if keep:
                (self.out / "state" / PREVIOUS).unlink(missing_ok=True)
            else:
                shutil.rmtree(self.out / "state", ignore_errors=True)
            if facts.get("collapse"):
                print(f"{self.name} collapsed: {facts['collapse']}")
        self.leave()


def finish(cfg: RunConfig, out: Path, model: UnifiedModel, device, *, wall_seconds: float, **facts) -> None:
    """Write a run's model and record."""
    half = cfg.stage != "rl" and cfg.supervised.half
    model.save(out, {"run": cfg.run, "seed": cfg.seed, "stage": cfg.stage}, half)
    facts |= {"weights": digest(provenance.weights_file(out))}
    write_json(out / "run.json", provenance.record(cfg, device=str(device), wall_seconds=wall_seconds, **facts))
