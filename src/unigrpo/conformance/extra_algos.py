"""Advantages and time grids; the other sections of these files are named so that they can be reported."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch

from unigrpo.advantages import group_advantages
from unigrpo.conformance.core import Case, Check, compare, read_pair
from unigrpo.flow import time_grid


def cases(path: Path) -> Iterator[Case]:
    info, _ = read_pair(path)
    sections = {"advantages": _advantages, "schedules": _schedule}
    for section, entries in info.items():
        if not isinstance(entries, list):
            continue
        for index, entry in enumerate(entries):
            check = sections.get(section)
            yield Case(f"extra_algos/{section}", str(index), lambda check=check, entry=entry: check(entry))


def _advantages(entry: dict) -> list[Check]:
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


def _schedule(entry: dict) -> list[Check]:
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
