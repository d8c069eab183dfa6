"""A benchmark of the catalogue: the prompts that images are made of, how many images, and who judges them. Imports no
torch."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from unigrpo.core.errors import UserError
from unigrpo.core.files import digest
from unigrpo.core.records import Prompt
from unigrpo.core.registry import nearest
from unigrpo.core.settings import Count, Settings, check_options
from unigrpo.study.facts import REWARDS, STATISTICS, RewardFacts
from unigrpo.study.provenance import ROOT
from unigrpo.study.training_inputs import check_reward, read_pool, trained_as
from unigrpo.world import prompts as world_prompts
from unigrpo.world.gold import MEANINGS, VERDICTS

Reports = Annotated[
    dict[str, dict[str, Any]],
    BeforeValidator(lambda value: {name: {} for name in value} if isinstance(value, list | tuple) else value),
]
"""Rewards by name, each with its options; a list of names where none has any."""


class Benchmark(Settings):
    """An entry under ``benchmarks``; every evaluated run is judged on each, but for those of a ``group``, on which the
    runs of the group's tables are judged. Categories weigh equally in its numbers."""

    prompts: str  # a set of the world, or a file of prompts (JSON lines), relative to the checkout
    judge: str  # a verdict of the world (``unigrpo.world.gold.VERDICTS``), or a reward
    judge_options: dict[str, Any] = {}  # of a reward
    images: Count | None = None  # of a prompt; without it as many as the scale says
    least_prompts: Count = 1  # a category with fewer gets as many images as one with so many
    label: str = ""  # as tables say it; the entry's name without it
    also: dict[str, str] = {}  # further columns of tables: head -> metric of the verdict, or of any image
    also_report: Reports = {}  # rewards that judge its images beside the judge, each a further column
    note: str | None = None  # a sentence below tables
    group: Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")] | None = None  # of the tables that it is made for alone

    @property
    def verdict(self) -> Callable | None:
        """None where a reward judges."""
        return VERDICTS[self.judge][0] if self.judge in VERDICTS else None

    @property
    def metrics(self) -> list[str]:
        """As scores call them: its headline, and those of its verdict that tables show beside it."""
        return [VERDICTS[self.judge][1] if self.verdict else self.judge, *self.also.values()]

    def columns(self, name: str) -> dict[str, tuple[str, str]]:
        """Head of a table's cell -> column of its CSV, metric; ``name`` is the entry's, and the headline's column."""
        also = {head: (re.sub(r"\W+", "_", head.lower()), metric) for head, metric in self.also.items()}
        reports = {f"{self.label}, {reward}": (f"{name}_{reward}", reward) for reward in self.also_report}
        return {self.label: (name, self.metrics[0])} | also | reports

    @property
    def version(self) -> str:
        """Of its prompts: numbers of different versions never share a table."""
        return world_prompts.VERSION if self.built_in else digest(ROOT / self.prompts)[:12]

    @property
    def built_in(self) -> bool:
        """Whether its prompts are a set of the world."""
        return self.prompts in world_prompts.SETS

    def pool(self) -> list[Prompt]:
        """Its prompts, in order."""
        if self.built_in:
            return list(world_prompts.prompt_set(self.prompts))
        return world_prompts.read_prompts(ROOT / self.prompts)

    def categories(self) -> list[str]:
        """Of its prompts, in order."""
        return list(dict.fromkeys(prompt.tag for prompt in self.pool()))

    def jobs(self, images: int) -> list[tuple[Prompt, int]]:
        """(prompt, sample number) of every image, prompt by prompt; ``images`` are those of a prompt at this scale."""
        pool = self.pool()
        more = {tag: -(-self.least_prompts // size) for tag, size in Counter(prompt.tag for prompt in pool).items()}
        return [(prompt, k) for prompt in pool for k in range((self.images or images) * more[prompt.tag])]

    def check(self, where: str, closed_vocabulary: bool = False) -> None:
        """Raise UserError, which begins with the key or the file, unless the judge is there and can judge every prompt;
        where a vocabulary is closed, all words must be the world's."""
        known = [*VERDICTS, *REWARDS.names()]
        if self.judge not in known:
            raise UserError(f"{where}.judge: no judge is called {self.judge!r}{nearest(self.judge, known)}")
        if self.verdict:
            check_options(lambda: None, self.judge_options, lambda option: f"{where}.judge_options.{option}")
        else:
            check_reward(self.judge, self.judge_options, f"{where}.judge", f"{where}.judge_options", part=True)
        facts = RewardFacts("", reads="statements") if self.verdict else REWARDS.load(self.judge).FACTS
        if facts.sees:
            raise UserError(f"{where}.judge: expected a judge of images, {self.judge} sees {' and '.join(facts.sees)}")
        given = STATISTICS | (MEANINGS if self.verdict else {})
        for head, metric in self.also.items():
            if metric not in given:
                raise UserError(f"{where}.also.{head}: {self.judge} gives no {metric!r}{nearest(metric, given)}")
        reports = {}
        for name, options in self.also_report.items():
            check_reward(name, options, f"{where}.also_report", f"{where}.also_report.{name}", part=True)
            reports[name] = REWARDS.load(name).FACTS
            if reports[name].sees or name == self.judge or (self.built_in and reports[name].reads == "text"):
                expected = f"another reward than the judge, of images and {where}.prompts alone"
                raise UserError(f"{where}.also_report: expected {expected}, got {name}")
        if not self.built_in:
            if not (ROOT / self.prompts).is_file():
                expected = f"a file or one of {', '.join(world_prompts.SETS)}"
                raise UserError(f"{where}.prompts: expected {expected}, got {self.prompts!r}")
            also = [trained_as("reward")] if self.verdict else []
            judges = {self.judge: facts} | reports | {name: REWARDS.load(name).FACTS for name in also}
            read_pool(ROOT / self.prompts, judges, closed_vocabulary)


def of_group(benchmarks: Mapping[str, Benchmark], group: str | None = None) -> dict[str, Benchmark]:
    """The benchmarks of a group; without one those that every evaluated run is judged on."""
    return {name: each for name, each in benchmarks.items() if each.group == group}
