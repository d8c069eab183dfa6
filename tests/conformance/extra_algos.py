"""Advantages, time grids, moving averages, windows and the objectives on the forward process; the rest is named."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch

from tests.conformance import matching_vectors as matching
from tests.conformance.checking import Case, Check, Settings, compare, read_pair, same
from unigrpo.objectives.advantages import group_advantages
from unigrpo.objectives.averaging import ema_share
from unigrpo.objectives.flow import moving_window, time_grid

NOTES = ("id", "source", "layout")


def cases(path: Path) -> Iterator[Case]:
    info, tensors = read_pair(path)
    sections = {
        "advantages": _advantages,
        "schedules": _schedule,
        "ema": _ema,
        "mixgrpo": _windows,
        "fpo": matching.fpo,
        "awm": matching.awm,
        "nft": matching.nft,
        "nft_decay": matching.nft_decay,
    }
    for section, entries in info.items():
        if not isinstance(entries, list):
            continue
        for index, entry in enumerate(map(Settings, entries)):
            check, prefix = sections.get(section), f"{section}{entry['id']:02d}." if "id" in entry else None
            own = {k.removeprefix(prefix): v for k, v in tensors.items() if prefix and k.startswith(prefix)}
            feature = f"extra_algos/{section}"
            if section == "mixgrpo" and entry["params"]["sample_strategy"] == "random":
                feature += "-random"
            yield Case(feature, str(index), lambda check=check, e=entry, own=own: check(e, own), entry, NOTES)


def _advantages(entry: dict, _: dict) -> list[Check]:
    """Flow-GRPO's per-prompt tracker (float64, ddof 0) or TRL (fp32, ddof 1)."""
    rewards = torch.tensor(entry["rewards"], dtype=torch.float64)
    if "scale_rewards" in entry:
        convention = {"ddof": 1, "scale": entry["scale_rewards"]}
        rounding = _fp32_rounding(rewards, entry["prompts"])
    else:
        convention = {"ddof": 0, "scale": "batch" if entry["global_std"] else "group"}
        rounding = torch.zeros_like(rewards)
    ours, _ = group_advantages(rewards, entry["prompts"], eps=1e-4, **convention)
    theirs = torch.tensor(entry["advantages"], dtype=torch.float64)
    theirs = torch.where((ours - theirs).abs() <= rounding, ours, theirs)
    return [compare(f"scale {convention['scale']}", ours, theirs, 1e-5)]


def _fp32_rounding(rewards: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """How far an fp32 group mean can move an advantage: an ulp of the rewards over (std + 1e-4)."""
    groups = defaultdict(list)
    for index, prompt in enumerate(prompts):
        groups[prompt].append(index)
    bound = torch.empty_like(rewards)
    for rows in groups.values():
        bound[rows] = torch.finfo(torch.float32).eps * rewards[rows].abs().max() / (rewards[rows].std() + 1e-4)
    return bound


def _schedule(entry: dict, _: dict) -> list[Check]:
    n, shift = entry["N"], entry["shift"]
    grids = {
        "bagel_linspace_N_points": time_grid(n, shift, "points"),
        "unirl_static": time_grid(n, shift, "steps"),
        "diffusers_set_timesteps": time_grid(n, shift, "diffusers"),
        "diffusers_timesteps": 1000 * time_grid(n, shift, "diffusers")[:-1],
    }
    return [
        compare(name, grid, torch.tensor(entry[name]), 1e-6, floor=1e-2)
        for name, grid in grids.items()
        if name in entry
    ]


def _ema(entry: dict, _: dict) -> list[Check]:
    values = torch.tensor(entry["params"])
    average, ours, interval, decay = values[0], [], entry["update_step_interval"], entry["decay"]
    for step, value in enumerate(values[1:]):
        if (step + 1) % interval == 0:  # theirs; ours is every step
            average = value.lerp(average, ema_share(step, decay))
        ours.append(average)
    return [compare("average", torch.stack(ours), torch.tensor(entry["ema"]), 1e-6)]


def _windows(entry: dict, _: dict) -> list[Check]:
    """MixGRPO's moving window. Its code counts the end of the range as one more start, with an empty window; there it
    stays for good without ``roll_back``."""
    params, end = entry["params"], entry["params"]["max_timesteps"]
    roll_back = params.get("roll_back")
    size, iterations = params["group_size"], params["iters_per_group"]
    shift = params.get("prog_overlap_step", 1) if params.get("prog_overlap") else size
    least = max(1, iterations // 4)
    stays = {
        "progressive": lambda start: iterations,
        "decay": lambda start: max(least, int(iterations + (least - iterations) * start / end)),
        "exp_decay": lambda start: math.ceil(iterations * math.exp(-0.1 * max(0, start - 13))),
    }
    stay = stays[params["sample_strategy"]]
    once = sum(map(stay, range(0, end + 1, shift)))
    ours = []
    for index in range(len(entry["windows"])):
        window = moving_window(index, size, (0, end + 1), stay=stay, shift=shift)
        ended = index >= once and not roll_back
        ours.append([] if ended else [step for step in window if step < end])
    return [same("windows", ours, entry["windows"])]
