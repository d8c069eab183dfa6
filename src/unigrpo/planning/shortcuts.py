"""What the plan leaves out of the real code, because it costs exactly as much as what it does: repetitions.

Calls of a model without gradient are made once for each form of their inputs. Of the slices of an optimiser step the
first two and the last are computed, of the tokens of a text the first and the last: what lies between grows evenly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from math import prod
from unittest.mock import patch

import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils._pytree import tree_map

from unigrpo.core import distributed
from unigrpo.models.base import States, Trace, UnifiedModel
from unigrpo.models.mot import MoT
from unigrpo.models.mot_model import MoTModel
from unigrpo.planning.tracker import Cost, Tracker, outline
from unigrpo.training import loop, validation

FEW = (1, 3, 5)  # tokens that another network than ours writes
REPEATED = ("velocity", "replay", "text_logp", "decode", "encode_images")  # calls of a model


@contextmanager
def shortcuts(tracker: Tracker, model: UnifiedModel) -> Iterator[None]:
    """Within it the code of training and sampling takes the ways that this module describes, and what it does is
    counted: image evaluations and tokens of texts."""
    kind, known = type(model), {}
    think = kind.think if isinstance(model, MoTModel) else short(tracker, kind.think)
    changes = [(kind, name, once(tracker, counted(tracker, name, getattr(kind, name)), known)) for name in REPEATED]
    one_by_one = {type(m) for m in model.modules() if hasattr(m, "_decode")}  # pictures, by diffusers' autoencoders
    changes += [(each, "_decode", once(tracker, each._decode, known)) for each in one_by_one]
    changes += [
        (kind, "think", counted(tracker, "think", think)),
        (MoT, "write", ends(tracker, MoT.write)),
        (loop, "update", alike(tracker, loop.update)),
        (loop, "reduced_once", few(tracker, loop.reduced_once)),
        (loop, "require_finite", lambda metrics, norms: None),
        (loop, "require_match", lambda *_: None),
        (validation, "judge_each", lambda jobs, samples: ([{} for _ in samples.images], {})),  # by the host
        (validation, "by_category", lambda jobs, rows: {}),
        (distributed, "collect", lambda items: items * distributed.count()),
        (distributed, "collect_in_main", lambda items: items * distributed.count()),
        (dist, "barrier", lambda: None),
    ]
    with ExitStack() as stack:
        for place, name, function in changes:
            stack.enter_context(patch.object(place, name, function))
        yield


def counted(tracker: Tracker, name: str, method: Callable) -> Callable:
    """The method, which adds to the image evaluations and tokens by what it is asked."""

    def call(model, *args, **kwargs):
        if name == "velocity":
            tracker.count(**{"image evaluations": len(args[1])})
        elif name == "think":
            tracker.count(tokens=len(args[0]) * args[1])
        elif name == "replay":
            for piece in args[1]:
                if isinstance(piece, States):
                    tracker.count(**{"image evaluations": piece.t.numel() * len(args[2])})
                elif isinstance(piece, Trace):
                    tracker.count(tokens=int(piece.mask.sum()))
        return method(model, *args, **kwargs)

    return call


def form(x):
    """What the cost of a call depends on in an input."""
    if isinstance(x, Tensor):
        return tuple(x.shape), x.dtype
    if is_dataclass(x):
        return type(x), *(form(value) for value in vars(x).values())
    if isinstance(x, dict):
        return tuple((name, form(value)) for name, value in x.items())
    if isinstance(x, list | tuple):
        if all(isinstance(n, int) for n in x):
            return len(x)
        return len({str(row) for row in x if isinstance(row, list)}), *map(form, x)
    return x


def once(tracker: Tracker, method: Callable, known: dict) -> Callable:
    """The method, computed once for each form of its inputs where it takes no gradient."""

    def call(model, *args, **kwargs):
        if torch.is_grad_enabled():
            return method(model, *args, **kwargs)
        key = method, id(model), form(args), form(kwargs)
        before = Counter(tracker.now)
        if key not in known:
            with tracker.measure() as cost:
                out = method(model, *args, **kwargs)
            more = {kind: size - before[kind] for kind, size in cost.peak.items()}
            empty = tree_map(lambda x: outline(x) if isinstance(x, Tensor) else x, out)
            known[key] = more, cost.counts, empty
            return out
        more, counts, empty = known[key]
        out = tree_map(lambda x: tracker.new(x) if isinstance(x, Tensor) else x, empty)
        tracker.spend(Cost({kind: before[kind] + more.get(kind, 0) for kind in {*before, *more}}, counts))
        return out

    return call


def ends(tracker: Tracker, write: Callable) -> Callable:
    """``MoT.write`` of the first token and of the last; those between take what these take in the mean."""
    first: dict[int, tuple[Cost, Tensor]] = {}

    def call(net, growing, ids, present):
        left = growing.keys[0].shape[2] - growing.length - ids.shape[1]
        if id(growing) in first and left > 2:
            growing.mask[:, growing.length : growing.length + 1] = present
            growing.length, growing.rope = growing.length + 1, growing.rope + present.sum(1)
            first[id(growing)][2].update(skipped=1)
            return torch.empty_like(first[id(growing)][1])
        with tracker.measure() as cost:
            hidden = write(net, growing, ids, present)
        if id(growing) in first:
            begun, _, between = first.pop(id(growing))
            tracker.spend(Cost(counts=begun.then(cost).times(between["skipped"] / 2).counts))
        elif left > 2:
            first[id(growing)] = cost, hidden, Counter()
        return hidden

    return call


def short(tracker: Tracker, think: Callable) -> Callable:
    """``think`` of another network: what a few tokens cost, continued, as costs are quadratic in their number."""

    def call(model, prompts, max_tokens, uniforms, temperature):
        if max_tokens <= max(FEW):
            return think(model, prompts, max_tokens, uniforms, temperature)
        total, peak = Counter(), {}
        for n in FEW:
            with tracker.measure(apart=True) as cost:
                think(model, prompts, n, uniforms, temperature)
            others = [m for m in FEW if m != n]
            weight = prod((max_tokens - m) / (n - m) for m in others)
            total.update({name: weight * value for name, value in cost.counts.items()})
            peak = cost.peak
        tracker.spend(Cost(peak, total))
        ones = torch.ones(len(prompts), max_tokens)
        trace = Trace(torch.zeros_like(ones, dtype=torch.long), ones.bool(), tracker.new(ones))
        with tracker.measure(apart=True):
            return trace, model.encode(prompts, trace)[1]

    return call


def alike(tracker: Tracker, update: Callable) -> Callable:
    """The update of the first optimiser step, in the place of all that have as many slices."""
    known: dict[tuple, tuple] = {}

    def call(run, slices, rl):
        if (key := (len(slices), repr(rl))) not in known:
            with tracker.measure() as cost:
                known[key] = cost, update(run, slices, rl)
        else:
            tracker.spend(known[key][0])
        return known[key][1]

    return call


def few(tracker: Tracker, slices: Callable) -> Callable:
    """``reduced_once`` with the first two slices of a step and the last, the second in the place of those between."""

    def call(nets, every, *how):
        chosen = [every[0], every[1], every[-1]] if len(every) > 3 else every
        trained = [p for p in nets.model.parameters() if p.requires_grad]
        for number, s in enumerate(slices(nets, chosen, *how)):
            with tracker.measure() as cost:
                yield s
            tracker.label("gradients", [p.grad for p in trained if p.grad is not None])
            if number == 1:
                tracker.spend(Cost(counts=cost.times(len(every) - len(chosen)).counts))

    return call
