"""A benchmark of the catalogue: the prompts that images are made of, how many images, and who judges them. Imports no
torch."""

from __future__ import annotations

from collections import Counter
from typing import Any

from unigrpo.core.errors import UserError
from unigrpo.core.files import digest
from unigrpo.core.records import Prompt
from unigrpo.core.registry import nearest
from unigrpo.core.settings import Count, Settings
from unigrpo.study.facts import REWARDS, RewardFacts
from unigrpo.study.provenance import ROOT
from unigrpo.study.training_inputs import check_reward, read_pool, trained_as
from unigrpo.world import prompts as world_prompts
from unigrpo.world.gold import MEANINGS, VERDICTS, Verdict


class Benchmark(Settings):
    """An entry under ``benchmarks``; every evaluated run is judged on each."""

    prompts: str  # a set of the world, or a file of prompts (JSON lines), relative to the checkout
    judge: str  # a verdict of the world (``unigrpo.world.gold.VERDICTS``), or a reward
    judge_options: dict[str, Any] = {}  # of a reward
    images: Count | None = None  # of a prompt; without it as many as the scale says
    least_prompts: Count = 1  # a category with fewer gets as many images as one with so many
    label: str = ""  # as tables say it; the entry's name without it
    also: dict[str, str] = {}  # further columns of tables: head -> metric of the verdict
    note: str | None = None  # a sentence below tables

    @property
    def verdict(self) -> Verdict | None:
        """None where a reward judges."""
        return VERDICTS.get(self.judge)

    @property
    def metric(self) -> str:
        """Its headline, as scores call it."""
        return self.verdict.metric if self.verdict else self.judge

    @property
    def what(self) -> str:
        """The headline in words."""
        return (
            self.verdict.what if self.verdict else f"the reward `{self.judge}`: {REWARDS.load(self.judge).FACTS.what}"
        )

    @property
    def by_category(self) -> bool:
        """Whether its number is the mean of its categories' means; else it is the mean over images."""
        return self.verdict is not None and self.verdict.by_category

    @property
    def version(self) -> str:
        """Of its prompts: numbers of different versions never share a table."""
        built_in = self.prompts in world_prompts.SETS
        return world_prompts.VERSION if built_in else digest(ROOT / self.prompts)[:12]

    @property
    def sampled(self) -> list:
        """What its images depend on, beside the run and the scale."""
        return [self.prompts, self.version, self.images, self.least_prompts]

    def pool(self) -> list[Prompt]:
        """Its prompts, in order."""
        if self.prompts in world_prompts.SETS:
            return world_prompts.prompt_set(self.prompts)
        return world_prompts.read_prompts(ROOT / self.prompts)

    def categories(self) -> list[str]:
        """Of its prompts, in order."""
        return list(dict.fromkeys(prompt.tag for prompt in self.pool()))

    def jobs(self, images: int) -> list[tuple[Prompt, int]]:
        """(prompt, sample number) of every image, prompt by prompt; ``images`` are those of a prompt at this scale."""
        pool = self.pool()
        sizes = Counter(prompt.tag for prompt in pool)
        more = {tag: -(-self.least_prompts // size) for tag, size in sizes.items()}
        return [(prompt, k) for prompt in pool for k in range((self.images or images) * more[prompt.tag])]

    def check(self, where: str, closed_vocabulary: bool = False) -> None:
        """Raise UserError, which begins with the key, unless the judge is there and can judge every prompt; where a
        vocabulary is closed, all words must be the world's."""
        if self.verdict is None:
            known = [*VERDICTS, *REWARDS.names()]
            if self.judge not in known:
                raise UserError(f"{where}.judge: no judge is called {self.judge!r}{nearest(self.judge, known)}")
            check_reward(self.judge, self.judge_options, f"{where}.judge", f"{where}.judge_options", part=True)
            judges = {self.judge: REWARDS.load(self.judge).FACTS}
            if sees := judges[self.judge].sees:
                raise UserError(f"{where}.judge: expected a judge of images alone, {self.judge} sees {', '.join(sees)}")
        else:
            learned = REWARDS.load(trained_as("reward")).FACTS  # judges too
            judges = {self.judge: RewardFacts("", reads="statements", most_words=learned.most_words)}
        for key in self.judge_options if self.verdict else ():
            raise UserError(f"{where}.judge_options.{key}: unknown option, {self.judge} has none")
        for head, metric in self.also.items():
            if metric not in (known := list(MEANINGS) if self.verdict else []):
                raise UserError(
                    f"{where}.also.{head}: no metric of {self.judge} is called {metric!r}{nearest(metric, known)}"
                )
        if self.prompts in world_prompts.SETS:
            return
        if not (ROOT / self.prompts).is_file():
            known = ", ".join(world_prompts.SETS)
            raise UserError(f"{where}.prompts: expected a file of prompts or one of {known}, got {self.prompts!r}")
        read_pool(ROOT / self.prompts, judges, closed_vocabulary)
