"""Any reward of ``rewards/`` as a benchmark: its mean over prompts, by task; text rendering is the reward that reads.

What a prompt must hold is the reward's affair: an image whose prompt it refuses is that image's failure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evals.benchmarks import mean
from unigrpo.core.errors import UserError
from unigrpo.core.files import digest
from unigrpo.core.lazy import lazy
from unigrpo.study.facts import BenchmarkFacts
from unigrpo.study.training_inputs import named_files

if TYPE_CHECKING:
    from PIL.Image import Image

    from evals.instruments.picture_files import Picture
    from unigrpo.judges.reward import Reward

rewards = lazy("unigrpo.judges.reward")

FACTS = BenchmarkFacts(
    title="Mean reward",
    version="1",
    caveat="A reward that a run was trained on says little about that run: see the others beside it (unigrpo cross).",
)


class MeanReward:
    """The judge; ``column`` names the reward with its options, ``named`` are the files that these name. What counts of
    a checkpoint is what is read of it, wherever it lies: in a folder or in the hub's cache."""

    def __init__(self, column: str, reward: Reward, named: Sequence[Path] = ()):
        self.reward, self.prompts = reward, None
        options = column.partition("=")[2]
        known = f":{_short(options)}" if options else ""
        checkpoints = {path.parent for path in reward.files.values()}
        read = {*reward.files.values(), *(path for path in named if path.parent not in checkpoints)}
        known += f" weights:{_short(' '.join(sorted(set(map(digest, read)))))}" if read else ""
        self.version = f"reward-{FACTS.version} {reward.name}{known}"

    def check(self, picture: Picture) -> None:
        """Nothing is known before the reward is asked."""

    def judge(self, pictures: Sequence[Picture], images: Sequence[Image]) -> list[dict | UserError]:
        values = self.reward.judge(images, [picture.prompt for picture in pictures])
        return [v if isinstance(v, UserError) else {"metrics": {self.reward.name: v}, "reason": ""} for v in values]

    def summary(self, rows: Sequence[dict]) -> tuple[dict, list[str]]:
        tasks: dict[str, list[dict]] = {}
        for row in rows:
            tasks.setdefault(row["tag"], []).append(row)
        numbers = {
            "mean": mean(rows, self.reward.name),
            "tasks": {tag: {"mean": mean(t, self.reward.name), "images": len(t)} for tag, t in tasks.items()},
        }
        texts = {row["prompt"] for row in rows}
        numbers["cut_prompts"] = self.reward.cut(texts)
        lines = [f"{self.reward.name}: {numbers['mean']:.4f}", *rewards.cut_lines(numbers["cut_prompts"], len(texts))]
        return numbers, lines + [
            f"{t:<16} = {s['mean']:.4f} ({s['images']} images)" for t, s in numbers["tasks"].items()
        ]


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def build(
    reward: Annotated[str, typer.Option(help="Reward, with options as NAME={...} in JSON.")],
) -> MeanReward:
    """Raises UserError."""
    _, options = rewards.named(reward)
    return MeanReward(*rewards.held_out(reward), named_files(options))
