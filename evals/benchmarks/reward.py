"""Any reward of ``rewards/`` as a benchmark: its mean over images, by task; text rendering is the reward that reads.

What a prompt must hold is the reward's affair: an image whose prompt it refuses is that image's failure.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

import rewards
from evals import held_out
from evals.benchmarks import mean
from evals.pictures import Picture
from rewards import Reward
from unigrpo.core.errors import UserError
from unigrpo.core.files import digest

TITLE = "Mean reward"
VERSION = "1"
CAVEAT = "A reward that a run was trained on says little about that run: see the others beside it (evals.cross)."


class MeanReward:
    """The judge; ``column`` names the reward with its options, ``weights`` are the files that these name."""

    def __init__(self, column: str, reward: Reward, weights: Sequence[Path] = ()):
        self.reward = reward
        options = column.partition("=")[2]
        known = f":{_short(options)}" if options else ""
        known += f" weights:{_short(' '.join(digest(path) for path in weights))}" if weights else ""
        self.version = f"reward-{VERSION} {reward.name}{known}"

    def check(self, picture: Picture) -> None:
        """Nothing is known before the reward is asked."""

    def judge(self, pictures: Sequence[Picture], images: Sequence[Image]) -> list[dict | UserError]:
        values = held_out.scores(self.reward, images, [picture.prompt for picture in pictures])
        return [v if isinstance(v, UserError) else {"metrics": {self.reward.name: v}, "reason": ""} for v in values]

    def summary(self, rows: Sequence[dict]) -> tuple[dict, list[str]]:
        tasks: dict[str, list[float]] = {}
        for row in rows:
            tasks.setdefault(row["tag"], []).append(row["metrics"][self.reward.name])
        numbers = {
            "mean": mean([value for own in tasks.values() for value in own]),
            "tasks": {tag: {"mean": mean(own), "images": len(own)} for tag, own in tasks.items()},
        }
        lines = [f"{self.reward.name}: {numbers['mean']:.4f}"]
        return numbers, lines + [
            f"{t:<16} = {s['mean']:.4f} ({s['images']} images)" for t, s in numbers["tasks"].items()
        ]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reward", required=True, metavar="NAME", help="reward, with options as NAME={...} in JSON")


def build(args: argparse.Namespace) -> MeanReward:
    _, options = held_out.named(args.reward)
    return MeanReward(*held_out.parse(args.reward), rewards.inputs(options))
