"""The prompts that reinforcement draws from: the world's training prompts, or a user's file. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl
from unigrpo.core.records import Prompt
from unigrpo.study.config import RLConfig, RunConfig, reward_parts
from unigrpo.world.asked_text import asked_text
from unigrpo.world.prompts import prompt_set, read_prompts, vocabulary

REWARD_WORDS = 24  # longest prompt that the learned reward reads


JUDGES = {"verifier", "geneval"}  # rewards that read what a prompt states


def training_pool(cfg: RunConfig) -> list[Prompt]:
    """The prompts of ``rl.prompt_file`` (one JSON object a line, see ``read_prompts``), or the world's without one.

    Raises UserError naming file and line of a prompt that cannot be trained on: a word that the world's models do not
    know, an id given before, more words than the learned reward reads, nothing stated where a verdict is the reward, no
    text to render where it is read; and naming a tag with too few prompts to draw a rollout of distinct ones.
    """
    rl, rewards = cfg.rl, _rewards(cfg.rl)
    if rl.prompt_file is None:
        if "ocr" in rewards:
            raise UserError("expected a file of prompts that ask for a text, which the world's do not (reward: ocr)")
        return prompt_set("train")
    path, words, ids = Path(rl.prompt_file), set(vocabulary()), set()
    prompts = read_prompts(path)
    judges = sorted(rewards & JUDGES) or (["verifier"] if rl.verifier_mix > 0 else [])
    for (where, _), prompt in zip(read_jsonl(path), prompts, strict=True):
        told = prompt.text.split()
        unknown = next((word for word in told if cfg.backbone == "world" and word not in words), None)
        if unknown is not None:
            raise UserError(f"{where}: the word {unknown!r} is not in this world's vocabulary")
        if prompt.id in ids:
            raise UserError(f"{where}: 'id' {prompt.id!r} is given twice")
        if rewards & {"learned", "weak"} and len(told) > REWARD_WORDS:
            raise UserError(f"{where}: expected at most {REWARD_WORDS} words for the learned reward, got {len(told)}")
        if judges and not prompt.meta["include"]:
            raise UserError(f"{where}: needs 'include', the clauses that the reward {judges[0]} judges")
        if "ocr" in rewards:
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


def _rewards(rl: RLConfig) -> set[str]:
    """The reward, or those that a weighted sum is made of."""
    if rl.reward != "weighted":
        return {rl.reward}
    return {part.reward or name for name, part in reward_parts(rl.reward_options.get("parts"), "parts").items()}
