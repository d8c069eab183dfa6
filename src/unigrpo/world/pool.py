"""The prompts that reinforcement draws from: the world's training prompts, or a user's file. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from unigrpo.config import RLConfig
from unigrpo.files import read_jsonl
from unigrpo.types import Prompt, UserError
from unigrpo.world.prompts import prompt_set, read_prompts, vocabulary

REWARD_WORDS = 24  # longest prompt that the learned reward reads


def training_pool(rl: RLConfig) -> list[Prompt]:
    """The prompts of ``rl.prompt_file`` (one JSON object a line, see ``read_prompts``), or the world's without one.

    Raises UserError naming file and line of a prompt that cannot be trained on: an unknown word, an id given before,
    more words than the learned reward reads, or nothing stated where the verifier judges; and naming a tag with too
    few prompts to draw a rollout of distinct ones.
    """
    if rl.prompt_file is None:
        return prompt_set("train")
    path, words, ids = Path(rl.prompt_file), set(vocabulary()), set()
    prompts = read_prompts(path)
    judged = rl.reward == "verifier" or rl.verifier_mix > 0
    for (where, _), prompt in zip(read_jsonl(path), prompts, strict=True):
        told = prompt.text.split()
        unknown = next((word for word in told if word not in words), None)
        if unknown is not None:
            raise UserError(f"{where}: the word {unknown!r} is not in this world's vocabulary")
        if prompt.id in ids:
            raise UserError(f"{where}: 'id' {prompt.id!r} is given twice")
        if rl.reward == "learned" and len(told) > REWARD_WORDS:
            raise UserError(f"{where}: expected at most {REWARD_WORDS} words for the learned reward, got {len(told)}")
        if judged and not prompt.meta["include"]:
            raise UserError(f"{where}: needs 'include', the clauses that the verifier judges")
        ids.add(prompt.id)
    tags = [prompt.tag for prompt in prompts]
    most = -(-rl.prompts_per_rollout // len(set(tags)))
    for tag in dict.fromkeys(tags):
        if tags.count(tag) < most:
            drawn = f"rl.prompts_per_rollout = {rl.prompts_per_rollout} over {len(set(tags))} tags"
            raise UserError(f"{path}: tag {tag!r}: expected at least {most} prompts ({drawn}), got {tags.count(tag)}")
    return prompts
