"""One of several processes of a reinforced run on a split network, which counts the collectives of its optimiser steps.
``python collectives.py FOLDER CASE``."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from unittest import mock

import torch
from torch.distributed.fsdp._fully_shard import _fsdp_param_group

from tests._support import several
from unigrpo.core.files import write_json
from unigrpo.training import loop

CASES = {
    "joint": {},
    "regularised": {"kl_text": 0.1},
    "boundary": {"context_gradient": "stage_boundary"},
    "image": {"train": ("image",)},
    "text": {"train": ("text",), "regulariser": "none"},
}


def units_of(net) -> dict[int, str]:
    """Module, by id -> the unit that its parameters belong to: a layer, or the rest."""
    units = {id(module): "rest" for module in net.modules()} | {id(net.language_model.lm_head): "head"}
    for i, layer in enumerate(net.language_model.model.layers):
        units |= {id(module): f"layer {i}" for module in layer.modules()}
    return units


def main() -> None:
    folder, case = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    settings = {"sharding": True}
    cfg = several.configured("case", {"case": (CASES[case] | {"rollouts": 1, "micro_batch": 1}, settings)}, processes=2)
    counts, steps = Counter(), []

    def counting(kind: str, function):
        def call(params, *args, **kwargs):
            counts[kind, id(params[0]._module_info.module)] += 1
            return function(params, *args, **kwargs)

        return call

    def update(run, slices, rl, original=loop.update):
        counts.clear()
        found = original(run, slices, rl)
        units, row = units_of(run.nets.model.mot), Counter({"slices": len(slices)})
        for (kind, module), n in counts.items():
            row[f"{kind} {units[module]}"] += n
        steps.append(dict(sorted(row.items())))
        return found

    group = _fsdp_param_group
    with (
        mock.patch.object(group, "foreach_all_gather", counting("gather", group.foreach_all_gather)),
        mock.patch.object(group, "foreach_reduce", counting("reduce", group.foreach_reduce)),
        mock.patch.object(loop, "update", update),
    ):
        os.environ[several.STORES] = os.environ["MASTER_PORT"]
        several.run(cfg, folder / case, folder)
    if os.environ["RANK"] == "0":
        write_json(folder / f"{case}.json", steps)


if __name__ == "__main__":
    main()
