"""The prompts that reinforcement draws from: the world's training prompts, or a user's file. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl
from unigrpo.core.records import Prompt
from unigrpo.study.config import RLConfig, RunConfig
from unigrpo.study.facts import REWARDS, RewardFacts
from unigrpo.world.asked_text import asked_text
from unigrpo.world.prompts import prompt_set, read_prompts, vocabulary


def training_pool(cfg: RunConfig) -> list[Prompt]:
    """The prompts of ``rl.prompt_file`` (one JSON object a line, see ``read_prompts``), or the world's without one.

    Raises UserError naming file and line of a prompt that cannot be trained on: a word that the world's models do not
    know, an id given before, more words than the learned reward reads, nothing stated where a verdict is the reward, no
    text to render where it is read; and naming a tag with too few prompts to draw a rollout of distinct ones.
    """
    rl, judges = cfg.rl, _facts(cfg.rl)
    text = next((name for name, facts in judges.items() if facts.reads == "text"), None)
    if rl.prompt_file is None:
        if text:
            raise UserError(
                f"expected a file of prompts that ask for a text, which the world's do not (reward: {text})"
            )
        return prompt_set("train")
    path, words, ids = Path(rl.prompt_file), set(vocabulary()), set()
    prompts = read_prompts(path)
    stated = next((name for name, facts in judges.items() if facts.reads == "statements"), None)
    most_words = min((facts.most_words for facts in judges.values() if facts.most_words), default=None)
    for (where, _), prompt in zip(read_jsonl(path), prompts, strict=True):
        written = prompt.text.split()
        closed = cfg.backbone_facts.closed_vocabulary
        unknown = next((word for word in written if closed and word not in words), None)
        if unknown is not None:
            raise UserError(f"{where}: the word {unknown!r} is not in this world's vocabulary")
        if prompt.id in ids:
            raise UserError(f"{where}: 'id' {prompt.id!r} is given twice")
        if most_words and len(written) > most_words:
            raise UserError(f"{where}: expected at most {most_words} words for the learned reward, got {len(written)}")
        if stated and not prompt.meta["include"]:
            raise UserError(f"{where}: needs 'include', the clauses that the reward {stated} judges")
        if text:
            try:
                asked_text(prompt)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
        ids.add(prompt.id)
    tags = [prompt.tag for prompt in prompts]
    most = -(-rl.prompts_per_rollout // len(set(tags)))
    for tag in dict.fromkeys(tags):
        if tags.count(tag) < most:
            drawn = f"rl.prompts_per_rollout = {rl.prompts_per_rollout} over {len(set(tags))} tags"
            raise UserError(f"{path}: tag {tag!r}: expected at least {most} prompts ({drawn}), got {tags.count(tag)}")
    return prompts


def _facts(rl: RLConfig) -> dict[str, RewardFacts]:
    """The facts of the reward and of all that it is made of, by name."""
    found, waiting = {}, [(rl.reward, rl.reward_options)]
    while waiting:
        name, options = waiting.pop(0)
        facts = found[name] = REWARDS.load(name, "rl.reward").FACTS
        if facts.parts is not None:
            waiting += facts.parts(options).values()
    return found
