"""What a reinforced run's line names besides its settings: the reward with its options, and the prompts. They, and
those of a benchmark, are checked when the catalogue is read. Imports no torch."""

import errno
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.files import read_jsonl
from unigrpo.core.records import Prompt
from unigrpo.core.registry import declarations
from unigrpo.core.settings import check_options
from unigrpo.study.config import RunConfig
from unigrpo.study.facts import REWARDS, RewardFacts
from unigrpo.world.prompts import asked_text, prompt_set, read_prompts, vocabulary


def check_reward(name: str, options: Mapping, key: str, options_key: str, part: bool = False) -> None:
    """Raise UserError, in one line with the key, for a reward that is not there or cannot be built with ``options``;
    the same of the parts of a weighted sum. The workflow gives a reward that it trains its ``path``, but no part."""
    module = REWARDS.load(name, key)
    supplied = ("path",) if module.FACTS.trained is not None and not part else ()
    check_options(module.build, options, lambda option: f"{options_key}.{option}", supplied)
    if module.FACTS.parts is not None:
        for inner, (reward, inner_options) in module.FACTS.parts(options).items():
            where = f"{options_key}.parts.{inner}"
            check_reward(reward, inner_options, f"{where}.reward", f"{where}.options", part=True)


@declarations()
def trained_as(folder: str) -> str:
    """The reward whose weights the workflow trains into ``folder`` of a scale's results. A file that cannot be loaded
    is passed over, as no run may name it. Raises UserError where there is none."""
    for name in REWARDS.names():
        with suppress(UserError):
            if REWARDS.load(name).FACTS.trained == folder:
                return name
    raise UserError(f"rewards: expected a file whose FACTS state trained={folder!r}")


def training_pool(cfg: RunConfig) -> list[Prompt]:
    """The prompts of ``rl.prompt_file``, or the world's without one. Raises UserError as ``read_pool``, and naming a
    tag with too few prompts to draw a rollout of distinct ones."""
    rl, judges = cfg.rl, judging(cfg.rl.reward, cfg.rl.reward_options)
    if rl.prompt_file is None:
        if text := next((name for name, facts in judges.items() if facts.reads == "text"), None):
            asking = "prompts that ask for a text, which the world's do not"
            raise UserError(f"expected a file of {asking} (reward: {text})")
        return list(prompt_set("train"))
    prompts = read_pool(Path(rl.prompt_file), judges, cfg.backbone_facts.closed_vocabulary)
    tags = [prompt.tag for prompt in prompts]
    most = -(-rl.prompts_per_rollout // len(set(tags)))
    for tag in dict.fromkeys(tags):
        if (there := tags.count(tag)) < most:
            drawn = f"rl.prompts_per_rollout = {rl.prompts_per_rollout} over {len(set(tags))} tags"
            raise UserError(f"{rl.prompt_file}: tag {tag!r}: expected at least {most} prompts ({drawn}), got {there}")
    return prompts


def read_pool(path: Path, judges: Mapping[str, RewardFacts], closed_vocabulary: bool) -> list[Prompt]:
    """The prompts of a file (see ``read_prompts``) whose images these judge. Raises UserError naming file and line of
    one that they cannot judge, as the messages say, and of a word that a closed vocabulary lacks."""
    ids, prompts = set(), read_prompts(path)
    words = set(vocabulary()) if closed_vocabulary else None
    text = next((name for name, facts in judges.items() if facts.reads == "text"), None)
    stated = next((name for name, facts in judges.items() if facts.reads == "statements"), None)
    most_words = min((facts.most_words for facts in judges.values() if facts.most_words), default=None)
    for (where, _), prompt in zip(read_jsonl(path), prompts, strict=True):
        written = prompt.text.split()
        if words is not None and (unknown := [word for word in written if word not in words]):
            raise UserError(f"{where}: the word {unknown[0]!r} is not in this world's vocabulary")
        if prompt.id in ids:
            raise UserError(f"{where}: 'id' {prompt.id!r} is given twice")
        if most_words and len(written) > most_words:
            raise UserError(f"{where}: expected at most {most_words} words for the learned reward, got {len(written)}")
        if stated and not prompt.meta["include"]:
            raise UserError(f"{where}: needs 'include', the clauses that {stated} judges")
        if text:
            with error_prefix(where):
                asked_text(prompt)
        ids.add(prompt.id)
    return prompts


def judging(name: str, options: dict) -> dict[str, RewardFacts]:
    """The facts of a reward and of all that it is made of, by name."""
    found = {name: REWARDS.load(name, "rl.reward").FACTS}
    if found[name].parts is not None:
        for part in found[name].parts(options).values():
            found |= judging(*part)
    return found


def named_files(options: Mapping) -> list[Path]:
    """The files that a reward's ``options`` name, at any depth, and those directly in folders that they name: its
    weights, where these are local. A run is resumed only while they stay what they are."""
    found = []
    for value in options.values():
        if isinstance(value, Mapping):
            found += named_files(value)
        elif isinstance(value, str):
            path = Path(value)
            try:
                found += [inner for inner in (sorted(path.iterdir()) if path.is_dir() else [path]) if inner.is_file()]
            except OSError as error:
                if error.errno != errno.ENAMETOOLONG:  # a text, such as a question
                    raise UserError(f"{path}: cannot be read ({error})") from None
    return found
