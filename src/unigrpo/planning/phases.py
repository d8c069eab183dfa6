"""The steps of a run, as the real code does them, without numbers: what each costs, and how often it comes."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed._tools import fake_collectives  # noqa: F401 - which gives collectives a form without numbers
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from unigrpo.core import distributed
from unigrpo.core.errors import UserError
from unigrpo.core.records import Prompt
from unigrpo.core.settings import replace
from unigrpo.judges.reward import Reward
from unigrpo.models import sharding
from unigrpo.models.base import UnifiedModel
from unigrpo.planning.shortcuts import shortcuts
from unigrpo.planning.tracker import Cost, Rates, Tracker, without_numbers
from unigrpo.sampling import decoding, engine, sets
from unigrpo.sampling.engine import Decoding
from unigrpo.sampling.validation_set import validation_jobs
from unigrpo.study import resolve
from unigrpo.study.benchmark_entry import of_group
from unigrpo.study.config import SUPERVISED_VALIDATION_IMAGES, RunConfig
from unigrpo.study.facts import BACKBONES, REWARDS
from unigrpo.study.training_inputs import training_pool
from unigrpo.training import launch, learner, loop, reward_samples, supervised_run
from unigrpo.training.drift import drift, probe
from unigrpo.training.examples import Steps
from unigrpo.training.learner import Learner
from unigrpo.training.validation import validate
from unigrpo.world import prompts as world_prompts

GUIDANCE = 2.0  # of validation and evaluation: any scale above 1 costs as much


class Phase(NamedTuple):
    """What is done ``times`` times in a run, on each of ``devices``; ``cost`` is of one time on one device."""

    cost: Cost
    times: float
    devices: int

    @property
    def total(self) -> Counter:
        """Of all times; ``seconds`` is how long they take."""
        counts = self.cost.times(self.times).counts
        return Counter({name: n * (1 if name == "seconds" else self.devices) for name, n in counts.items()})


def plain(cfg: RunConfig) -> SimpleNamespace:
    """The part of an accelerator that training uses, on one process."""
    half = cfg.precision == "bf16"
    return SimpleNamespace(autocast=partial(torch.autocast, "cpu", torch.bfloat16) if half else nullcontext)


@contextmanager
def together(processes: int, rates: Rates) -> Iterator[Tracker]:
    """What this process does as the first of several, which are not there; torch's warnings of tensors without numbers
    are for those who expect some."""
    if processes > 1:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    shapes, tracker = ShardingPropagator._propagate_tensor_meta_non_cached, Tracker(rates)

    def uncounted(*args):  # it makes tensors of the whole network's shapes, to learn how a result is split
        with _disable_current_modes():
            return shapes(*args)

    shaping = patch.object(ShardingPropagator, "_propagate_tensor_meta_non_cached", uncounted)
    resizing = patch.object(torch.UntypedStorage, "resize_", lambda *how: tracker.resize(*how))
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning), shaping, resizing, tracker:
            yield tracker
    finally:
        if processes > 1:
            dist.destroy_process_group()


def training(cfg: RunConfig, base: RunConfig, rates: Rates) -> dict[str, Phase]:
    """The phases of a training on ``cfg.launched`` devices. Raises UserError where the backbone has no skeleton."""
    steps = reinforced if cfg.stage == "rl" else supervised
    with together(cfg.launched, rates) as tracker:
        read = partial(unfilled, cfg, base)
        split = partial(sharding.load, read, torch.device("cpu"), cfg.precision == "bf16")
        start = (lambda: split()[0]) if cfg.sharding else read
        return {name: Phase(*found, cfg.launched) for name, found in steps(cfg, start, tracker).items()}


def unfilled(cfg: RunConfig, base: RunConfig, learns: bool = True) -> UnifiedModel:
    """The model of a run without numbers, held as the steps that train or those that sample hold it."""
    backbone = BACKBONES.load(cfg.backbone)
    if not hasattr(backbone, "skeleton"):
        raise UserError(f"backbone {cfg.backbone}: expected a function skeleton(cfg, base), which plans run")
    model = backbone.skeleton(cfg, base)
    if cfg.precision == "bf16" and not learns:
        launch.hold(model, torch.bfloat16)
    return without_numbers(model)


def reinforced(cfg: RunConfig, start: Callable, tracker: Tracker) -> dict[str, tuple[Cost, float]]:
    """Rollouts and their updates, validation and drift."""
    rl, model = cfg.rl, start()
    nets = learner.networks(cfg, model, reward(cfg, tracker), start if cfg.sharding else None)
    for net in (nets.model, nets.reference, *nets.copies.values()):
        without_numbers(net)
    tracker.label("weights", tensors(nets.model))
    tracker.label("copies", tensors(nets.reference, *nets.copies.values()))
    optimizer, experts = learner.optimizer_for(nets.model, rl)
    prepare(tracker, optimizer)
    run, found = Learner(cfg, nets, optimizer, experts, plain(cfg), equally_long(training_pool(cfg))), {}
    with shortcuts(tracker, model):
        with sharding.gathered(nets.reference), tracker.measure() as once:
            yardstick = probe(nets.reference, world_prompts.prompt_set("val"), cfg)
        found["drift's start"] = once, 1
        checks = 1 + -(-rl.rollouts // rl.validate_every)
        with sharding.gathered(run.judged), run.accelerator.autocast():
            decoded = Decoding(rl.thinking, GUIDANCE, 1.0)
            with tracker.measure() as cost:
                validate(run.judged, cfg, decoded, per_prompt=rl.validation_images, proxy=nets.reward)
            found["validation"] = cost, checks
            with tracker.measure() as cost:
                drift(run.judged, yardstick)
            found["drift"] = cost, checks
        for index, times in rollouts(run).items():
            for name, cost in learned(tracker, run, index).items():
                found[name if name not in found else f"{name} {index}"] = cost, times
    return found


def equally_long(prompts: list[Prompt]) -> list[Prompt]:
    """The prompts, the last word of the shorter ones repeated until all have as many words as the longest."""
    most = max(len(p.text.split()) for p in prompts)
    return [replace(p, text=" ".join([*(words := p.text.split()), *words[-1:] * (most - len(words))])) for p in prompts]


def rollouts(run: Learner) -> dict[int, int]:
    """The first rollout of each kind of settings that the run goes through, and how many there are of it."""
    kinds: dict[str, list[int]] = {}
    for index in range(run.cfg.rl.rollouts):
        kinds.setdefault(repr(run.settings(index)), []).append(index)
    return {members[0]: len(members) for members in kinds.values()}


def learned(tracker: Tracker, run: Learner, index: int) -> dict[str, Cost]:
    """The costs of the phases of a rollout and its updates."""
    found, score = {}, loop.score

    def scored(rollout, *args):
        tracker.label("episodes", [x for s in rollout.segments for x in tree_leaves(vars(s)) if torch.is_tensor(x)])
        return score(rollout, *args)

    with ExitStack() as phase, patch.object(loop, "score", scored):
        cost = phase.enter_context(tracker.measure())

        def mark(name: str) -> None:
            nonlocal cost
            phase.close()
            found[name], cost = cost, phase.enter_context(tracker.measure())

        loop.learn(run, index, mark)
    return found


def supervised(cfg: RunConfig, start: Callable, tracker: Tracker) -> dict[str, tuple[Cost, float]]:
    """Updates, and validation of the average with traces and without."""
    s, model = cfg.supervised, start()
    average = start().network if cfg.sharding else without_numbers(supervised_run.copy.deepcopy(model.network))
    tracker.label("weights", tensors(model))
    tracker.label("copies", tensors(average))
    if cfg.activation_checkpointing:
        model.mot.checkpoint_activations()
    optimizer, examples = supervised_run.optimizer_for(model, s), Steps(cfg).__getitem__
    student = supervised_run.Student(cfg, model, average, optimizer, plain(cfg), examples)
    prepare(tracker, optimizer)
    checks, found = -(-s.steps // s.validate_every), {}
    with shortcuts(tracker, model):
        with tracker.measure() as cost:
            supervised_run.learn(student, 0)
        found["update"] = cost, s.steps
        for thinking in (True, False):
            with sharding.gathered(average), tracker.measure() as cost:
                images = SUPERVISED_VALIDATION_IMAGES
                validate(student.averaged, cfg, Decoding(thinking, 1.0, 1.0), per_prompt=images)
            found[f"validation, {'traces' if thinking else 'no traces'}"] = cost, checks
    return found


def sampling(cfg: RunConfig, base: RunConfig, rates: Rates, modes: list[str]) -> dict[str, Phase]:
    """What is sampled from a finished run: its evaluation in these ``modes``, and of the SFT model the choice of
    decoding and the data of the learned reward."""
    s, chosen = cfg.sampling, {mode: Decoding(mode == "think", GUIDANCE, 1.0) for mode in sets.MODES}
    asked: dict[str, list[tuple[list, list[Decoding]]]] = {"evaluation": []}
    for named in (sets.decodings(chosen[mode]) for mode in modes):
        for benchmark in of_group(resolve.benchmarks()).values():
            asked["evaluation"].append((benchmark.jobs(s.images_per_prompt), [*named.values()]))
    if cfg.stage == "sft":
        jobs, plainly = validation_jobs(decoding.PER_PROMPT), [replace(each, guidance=1.0) for each in chosen.values()]
        tried = [(jobs, [replace(each, guidance=g) for g in s.guidance_grid]) for each in chosen.values()]
        asked["choice of decoding"] = tried + [(jobs, [chosen["think"]])] * len(s.temperature_grid)
        held_out = validation_jobs(reward_samples.HELD_OUT_PER_PROMPT)
        half = (jobs * -(-cfg.reward.samples // len(jobs)))[: cfg.reward.samples // 2] + held_out[::2]
        asked["reward's data"] = [(half, [each]) for each in plainly]
    with together(cfg.launched, rates) as tracker:
        model = unfilled(cfg, base, learns=False)
        tracker.label("weights", tensors(model))
        with shortcuts(tracker, model), plain(cfg).autocast():
            costs = {name: sampled(tracker, model, cfg, several) for name, several in asked.items() if several}
    return {name: Phase(cost, 1, cfg.launched) for name, cost in costs.items()}


def sampled(tracker: Tracker, model: UnifiedModel, cfg: RunConfig, asked: list) -> Cost:
    """The cost of sampling several sets (jobs, decodings that differ in guidance alone), from one part of each."""
    total, known, s = Cost(), {}, cfg.sampling
    for jobs, decodings in asked:
        at_once = engine.at_once(model, [p for p, _ in jobs], s.max_trace_tokens, s.memory * 2**20)
        part = min(len(jobs), max(at_once) * distributed.count())
        how = part, decodings[0].thinking, tuple(each.guidance > 1 for each in decodings)
        if how not in known:
            with tracker.measure() as known[how]:
                engine.sample_guided(model, jobs[:part], s, decodings, 0)
        total = total.then(known[how].times(len(jobs) / part))
    return total


def reward(cfg: RunConfig, tracker: Tracker) -> Callable:
    """The run's reward without numbers, where its file has a ``skeleton`` that can judge the run's images; otherwise
    one that takes no memory."""
    module = REWARDS.load(cfg.rl.reward)
    if hasattr(module, "skeleton"):
        with suppress(UserError):
            network, score = module.skeleton(cfg)
            tracker.label("reward", tensors(without_numbers(network)))
            return Reward(cfg.rl.reward, score, module.FACTS.differentiable)
    return Free()


class Free:
    """A reward without weights."""

    differentiable = True

    def __call__(self, images: torch.Tensor, prompts: list, **_) -> torch.Tensor:
        return images.flatten(1).mean(1)


def tensors(*modules: nn.Module) -> list[torch.Tensor]:
    return [x for module in modules for x in (*module.parameters(), *module.buffers())]


def prepare(tracker: Tracker, optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter the optimiser's state, as it has after the first step."""
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    for p in trained:
        p.grad = torch.zeros_like(p)
        if not hasattr(p, "full_tensor"):
            p.register_post_accumulate_grad_hook(lambda p: tracker.label("gradients", [p.grad]))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    tracker.label("optimiser", [x for state in optimizer.state.values() for x in state.values() if torch.is_tensor(x)])
