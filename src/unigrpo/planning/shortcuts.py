"""What the plan leaves out of the real code, because it costs exactly as much as what it does: repetitions.

Calls of a model without gradient are made once for each form of their inputs. Of the slices of an optimiser step the
first two and the last are computed, of the tokens of a text the first and the last: what lies between grows evenly.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from functools import wraps
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
COUNTS = {  # what a call of a model is asked for
    "velocity": lambda _, context, x, t: {"image evaluations": len(x)},
    "think": lambda _, ids, most, *draws: {"tokens": len(ids) * most},
    "replay": lambda _, ids, pieces, branches, **how: {
        "image evaluations": sum(p.t.numel() for p in pieces if isinstance(p, States)) * len(branches),
        "tokens": sum(int(p.mask.sum()) for p in pieces if isinstance(p, Trace)),
    },
}


@contextmanager
def shortcuts(tracker: Tracker, model: UnifiedModel) -> Iterator[None]:
    """Within it the code of training and sampling takes the ways that this module describes, and what it does is
    counted: image evaluations and tokens of texts."""
    kind, known = type(model), {}
    think = kind.think if isinstance(model, MoTModel) else short(tracker, kind.think)
    one_by_one = {type(m) for m in model.modules() if hasattr(m, "_decode")}  # pictures, by diffusers' autoencoders
    repeated = [*((kind, name) for name in REPEATED), *((each, "_decode") for each in one_by_one)]
    changes = [(owner, name, once(tracker, getattr(owner, name), known, called)) for owner, name in repeated]
    changes += [
        (kind, "think", once(tracker, think, known, lambda *_: None)),
        (MoT, "write", ends(tracker, MoT.write)),
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


def form(x):
    """What the cost of a call depends on in an input."""
    if isinstance(x, Tensor):
        return tuple(x.shape), x.dtype
    if is_dataclass(x):
        return type(x), form(vars(x))
    if isinstance(x, dict):
        return tuple((name, form(value)) for name, value in x.items())
    if isinstance(x, list | tuple):
        if all(isinstance(n, int) for n in x):
            return len(x)
        return len({str(row) for row in x if isinstance(row, list)}), *map(form, x)
    return x


def called(model: UnifiedModel, *args, **kwargs) -> tuple | None:
    """The form of a call without gradient."""
    return None if torch.is_grad_enabled() else (id(model), form(args), form(kwargs))


def once(tracker: Tracker, function: Callable, known: dict, form_of: Callable) -> Callable:
    """The function, computed once for each form of its inputs, where they have one."""

    def call(*args, **kwargs):
        key, before = form_of(*args, **kwargs), Counter(tracker.now)
        if (at := (function, key)) not in known:
            with tracker.measure() as cost:
                tracker.count(**COUNTS.get(function.__name__, lambda *_, **__: {})(*args, **kwargs))
                out = function(*args, **kwargs)
            if key is not None:
                more = {kind: size - before[kind] for kind, size in cost.peak.items()}
                known[at] = more, cost.counts, tree_map(lambda x: outline(x) if isinstance(x, Tensor) else x, out)
            return out
        more, counts, empty = known[at]
        tracker.spend(Cost({kind: before[kind] + more.get(kind, 0) for kind in {*before, *more}}, counts))
        return tree_map(lambda x: tracker.new(x) if isinstance(x, Tensor) else x, empty)

    return call


def ends(tracker: Tracker, write: Callable) -> Callable:
    """``MoT.write`` of the first token and of the last; those between take what these take in the mean."""
    first: dict[int, list] = {}  # what the first token cost, its hidden state, how many were left out since

    def call(net, growing, ids, present):
        left = growing.keys[0].shape[2] - growing.length - ids.shape[1]
        if (begun := first.get(id(growing))) and left > 2:
            growing.mask[:, growing.length : growing.length + 1] = present
            growing.length, growing.rope = growing.length + 1, growing.rope + present.sum(1)
            begun[2] += 1
            return torch.empty_like(begun[1])
        with tracker.measure() as cost:
            hidden = write(net, growing, ids, present)
        if begun:
            tracker.spend(Cost(counts=begun[0].then(cost).times(begun[2] / 2).counts))
            del first[id(growing)]
        elif left > 2:
            first[id(growing)] = [cost, hidden, 0]
        return hidden

    return call


def short(tracker: Tracker, think: Callable) -> Callable:
    """``think`` of another network: what a few tokens cost, continued, as costs are quadratic in their number."""

    @wraps(think)
    def call(model, prompts, max_tokens, uniforms, temperature):
        if max_tokens <= max(FEW):
            return think(model, prompts, max_tokens, uniforms, temperature)
        total, peak = Counter(), {}
        for n in FEW:
            with tracker.measure(apart=True) as cost:
                think(model, prompts, n, uniforms, temperature)
            weight = prod((max_tokens - m) / (n - m) for m in FEW if m != n)
            total.update({name: weight * value for name, value in cost.counts.items()})
            peak = cost.peak
        tracker.spend(Cost(peak, total))
        ones = torch.ones(len(prompts), max_tokens)
        trace = Trace(torch.zeros_like(ones, dtype=torch.long), ones.bool(), tracker.new(ones))
        with tracker.measure(apart=True):
            return trace, model.encode(prompts, trace)[1]

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
