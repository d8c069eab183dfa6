"""Prompt sets: GenEval's six categories in its wording and metadata, and `compound` prompts in the role of TA.

The sets `train`, `val` and (`geneval_eval`, `ta_eval`) are disjoint *combinations*: what a prompt states, whatever its
wording ("a left of b" is "b right of a"). Single objects cannot be disjoint: every set has the same eight, so that
category is in-distribution. No training prompt has two groups that state a held-out two-group combination (two_object,
position, color_attr) in the very same way. The sets BEYOND are outside the distribution of training. Paper section 5;
GenEval: Ghosh et al. 2023. Imports no torch.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from unigrpo.core.errors import UserError, error_prefix
from unigrpo.core.files import read_jsonl
from unigrpo.core.records import Prompt
from unigrpo.world import geneval_verdict
from unigrpo.world.geneval_verdict import CATEGORIES, plural, with_article
from unigrpo.world.scenes import CLASSES, COLOR_NAMES, PLACES, RELATIONS, random_kind

VERSION = "1"
COMPOUND = "compound"
BEYOND = ("five_objects", "coloured_pairs", "long_prompts")  # sets outside the distribution of training
SETS = ("train", "val", "geneval_eval", "ta_eval", *BEYOND)
COUNTS = ("a", "two", "three", "four")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
# Texts in quotation marks; straight double ones count before all others.
QUOTED = (r"\"([^\"]+)\"", r"“([^”]+)”|(?<!\w)'([^']+)'(?!\w)|‘([^’]+)’")
_SEED = 260323500
_TRAIN_CAP = 400
_BEYOND = 40  # prompts of each set outside the distribution of training


@dataclass(frozen=True, slots=True)
class Group:
    """``count`` objects of one class, all of ``color`` where it is stated."""

    count: int
    color: str | None
    cls: str

    @property
    def noun(self) -> str:
        """'red circle', or 'red circles' for more than one."""
        noun = f"{self.color} {self.cls}" if self.color else self.cls
        return plural(noun) if self.count > 1 else noun

    @property
    def phrase(self) -> str:
        """'a red circle', 'an orange star', 'three hearts'; of at most four."""
        return with_article(self.noun) if self.count == 1 else f"{COUNTS[self.count - 1]} {self.noun}"


@dataclass(frozen=True, slots=True)
class Statement:
    """What a prompt states: groups in the order of the text; a relation is the first to the second."""

    groups: tuple[Group, ...]
    relation: str | None = None

    def combination(self) -> tuple:
        """Key that ignores wording: order of groups, and which of the two related objects is described."""
        rows = [(g.count, g.color or "", g.cls) for g in self.groups]
        if self.relation is None:
            return tuple(sorted(rows)), None
        forward = self.relation in ("left of", "above")
        first, second = rows[:2] if forward else rows[1::-1]
        return tuple(sorted(rows)), (self.relation if forward else OPPOSITE[self.relation], first, second)

    def parts(self) -> list[tuple]:
        """Keys of the statement and of every two of its groups (with the relation, if it is theirs)."""
        pairs = enumerate(itertools.combinations(self.groups, 2))
        smaller = (Statement(pair, None if number else self.relation) for number, pair in pairs)
        return [statement.combination() for statement in (self, *smaller)]

    def text(self) -> str:
        phrases = [group.phrase for group in self.groups]
        if self.relation:
            phrases[:2] = [f"{phrases[0]} {self.relation} {phrases[1]}"]
        return "a photo of " + " and ".join(phrases)

    def include(self) -> list[dict]:
        """GenEval's clauses. With a relation the reference comes first, as in GenEval."""
        clauses = [{"class": g.cls, "count": g.count} | ({"color": g.color} if g.color else {}) for g in self.groups]
        if self.relation:
            clauses[:2] = [clauses[1], clauses[0] | {"position": [self.relation, 0]}]
        return clauses


@cache
def _groups() -> dict[str, Group]:
    """Phrase -> the group that it names, of all groups."""
    kinds = itertools.product(range(1, len(COUNTS) + 1), (None, *COLOR_NAMES), CLASSES)
    return {group.phrase: group for group in itertools.starmap(Group, kinds)}


def read_statement(text: str) -> Statement | None:
    """What ``text`` states; None where it is not worded as the world's prompts are."""
    first, *phrases = text.removeprefix("a photo of ").split(" and ")
    relation = next((r for r in RELATIONS if f" {r} " in first), None)
    groups = [_groups().get(phrase) for phrase in [*first.split(f" {relation} "), *phrases]]
    statement = Statement(tuple(groups), relation)
    return statement if None not in groups and statement.text() == text else None


def make_prompt(identity: str, tag: str, statement: Statement) -> Prompt:
    """The prompt of a statement. Counting excludes one more (GenEval)."""
    text, include = statement.text(), statement.include()
    more = [{"class": clause["class"], "count": clause["count"] + 1} for clause in include]
    exclude = {"exclude": more} if tag == "counting" else {}
    return Prompt(identity, text, tag, {"tag": tag, "include": include} | exclude | {"prompt": text})


def _plain(*classes: str, relation: str | None = None) -> Statement:
    """One object of each class, no colour stated."""
    return Statement(tuple(Group(1, None, cls) for cls in classes), relation)


def _distinct(rng: np.random.Generator, names: Sequence[str], n: int) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))[:n]]


def _random_color_attr(rng: np.random.Generator) -> Statement:
    pairs = zip(_distinct(rng, COLOR_NAMES, 2), _distinct(rng, CLASSES, 2), strict=True)
    return Statement(tuple(Group(1, color, cls) for color, cls in pairs))


def random_compound(rng: np.random.Generator) -> Statement:
    """2-4 objects in 2-3 groups of distinct classes stating at least four facts; never plain color_attr."""
    while True:
        family, share, relation = rng.random(), 0.75, None
        if family < 0.3:  # counts and colours of two groups
            counts, share = ((1, 2), (2, 1), (1, 3), (3, 1), (2, 2))[rng.integers(5)], 1.0
        elif family < 0.5:  # a relation with colours
            counts, relation = (1, 1), RELATIONS[rng.integers(4)]
        elif family < 0.85:  # a relation and a third group
            counts, relation = ((1, 1, 1), (1, 1, 2))[rng.integers(2)], RELATIONS[rng.integers(4)]
        else:
            counts = ((1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1))[rng.integers(4)]
        pairs = zip(counts, _distinct(rng, CLASSES, len(counts)), strict=True)
        groups = [Group(n, random_kind(rng)[1] if rng.random() < share else None, cls) for n, cls in pairs]
        facts = len(groups) + sum(group.color is not None for group in groups) + (relation is not None)
        if facts >= 4:
            return Statement(tuple(groups), relation)


FAMILIES: dict[str, Callable[[np.random.Generator], Statement]] = {
    "single_object": lambda rng: _plain(CLASSES[rng.integers(8)]),
    "two_object": lambda rng: _plain(*_distinct(rng, CLASSES, 2)),
    "counting": lambda rng: Statement((Group(int(rng.integers(2, 5)), None, CLASSES[rng.integers(8)]),)),
    "colors": lambda rng: Statement((Group(1, *random_kind(rng)[::-1]),)),
    "position": lambda rng: _plain(*_distinct(rng, CLASSES, 2), relation=RELATIONS[rng.integers(4)]),
    "color_attr": _random_color_attr,
    COMPOUND: random_compound,
}


Splits = dict[str, list[Statement]]
"""eval, val and train -> statements."""


def _split_counting(rng: np.random.Generator) -> Splits:
    """Every class has one of its counts in eval, half of the classes another in val; balanced counts."""
    out: Splits = {"eval": [], "val": [], "train": []}
    for rank, i in enumerate(rng.permutation(len(CLASSES))):
        for k, split in enumerate(("eval", "val" if rank % 2 else "train", "train")):
            out[split].append(Statement((Group(2 + (rank + k) % 3, None, CLASSES[i]),)))
    return out


def _split_colors(rng: np.random.Generator) -> Splits:
    """Diagonals of a Latin square: 5 eval, 1 val, 2 train, so every colour and class is equally often in each."""
    colors, classes = rng.permutation(COLOR_NAMES).tolist(), rng.permutation(CLASSES).tolist()
    pairs = [(colors[i], classes[(i + shift) % 8]) for shift in range(8) for i in range(8)]
    statements = [Statement((Group(1, *pair),)) for pair in pairs]
    return {"eval": statements[:40], "val": statements[40:48], "train": statements[48:]}


def _split_two_object(rng: np.random.Generator) -> Splits:
    """10 eval, 4 val and 14 train pairs, each in both orders."""
    pairs = list(itertools.combinations(CLASSES, 2))
    both = [_plain(*wording) for i in rng.permutation(len(pairs)) for wording in (pairs[i], pairs[i][::-1])]
    return {"eval": both[:20], "val": both[20:28], "train": both[28:]}


def _split_position(rng: np.random.Generator) -> Splits:
    """40 eval and 12 val relations, each in one wording, the four relations equally often; train in both wordings."""
    out: Splits = {"eval": [], "val": [], "train": []}
    ordered = list(itertools.permutations(CLASSES, 2))
    for relation in ("left of", "above"):
        for rank, i in enumerate(rng.permutation(len(ordered))):
            a, b = ordered[i]
            wordings = [_plain(a, b, relation=relation), _plain(b, a, relation=OPPOSITE[relation])]
            if rank < 26:
                out["eval" if rank < 20 else "val"].append(wordings[rank % 2])
            else:
                out["train"] += wordings
    return out


def _split_drawn(rng: np.random.Generator, family: str, sizes: dict[str, int], held_out: set[tuple]) -> Splits:
    """Distinct random statements; training ones contain none of ``held_out``, to which those of eval and val go."""
    out: Splits = {}
    seen: set[tuple] = set()
    for split, size in sizes.items():
        out[split] = []
        while len(out[split]) < size:
            statement = FAMILIES[family](rng)
            if statement.combination() in seen or (split == "train" and not held_out.isdisjoint(statement.parts())):
                continue
            seen.add(statement.combination())
            out[split].append(statement)
        if split != "train":
            held_out.update(s.combination() for s in out[split])
    return out


@cache
def _splits() -> tuple[dict[str, Splits], set[tuple]]:
    """(tag -> its statements, combinations of eval and val but the single objects); the same on every machine."""
    rng = np.random.Generator(np.random.PCG64(_SEED))
    splits = {
        "two_object": _split_two_object(rng),
        "counting": _split_counting(rng),
        "colors": _split_colors(rng),
        "position": _split_position(rng),
    }
    held_out = {s.combination() for by_set in splits.values() for split in ("eval", "val") for s in by_set[split]}
    for tag, test, validation in (("color_attr", 40, 12), (COMPOUND, 150, 24)):
        sizes = {"eval": test, "val": validation, "train": _TRAIN_CAP}
        splits[tag] = _split_drawn(rng, tag, sizes, held_out)
    single = dict.fromkeys(("eval", "val", "train"), [_plain(cls) for cls in CLASSES])
    return {"single_object": single} | splits, held_out


def _coloured(
    rng: np.random.Generator, counts: Sequence[int], classes: Sequence[str] = (), relation: str | None = None
):
    """Groups of these counts, each of another colour and class."""
    classes = classes or _distinct(rng, CLASSES, len(counts))
    named = zip(counts, _distinct(rng, COLOR_NAMES, len(counts)), classes, strict=True)
    return Statement(tuple(Group(*each) for each in named), relation)


@cache
def _beyond(name: str) -> list[Statement]:
    """Statements of one of BEYOND; their groups stand together in no prompt of another set, in whatever relation: five
    objects in two or three groups; two classes that two_object holds out for evaluation, with colours; and long
    prompts: a relation and two more groups, or a relation of several objects and another group."""
    splits = _splits()[0]
    seen = {part[0] for sets in splits.values() for some in sets.values() for each in some for part in each.parts()}
    pairs = [tuple(group.cls for group in pair.groups) for pair in splits["two_object"]["eval"]]
    counts = {
        "five_objects": ((2, 3), (3, 2), (1, 4), (4, 1), (1, 2, 2), (2, 1, 2), (2, 2, 1), (1, 1, 3), (3, 1, 1)),
        "coloured_pairs": ((1, 1),),
        "long_prompts": ((1, 1, 1, 1), (2, 1, 1), (1, 1, 1, 1), (1, 2, 1), (1, 1, 1, 1)),
    }[name]
    rng, found = np.random.Generator(np.random.PCG64([_SEED, BEYOND.index(name)])), []
    while (k := len(found)) < _BEYOND:
        classes = pairs[k % len(pairs)] if name == "coloured_pairs" else ()
        relation = RELATIONS[k % len(RELATIONS)] if name == "long_prompts" else None
        statement = _coloured(rng, counts[k % len(counts)], classes, relation)
        groups, _ = statement.combination()
        if groups not in seen:
            seen.add(groups)
            found.append(statement)
    return found


def is_held_out(statement: Statement) -> bool:
    """Is the statement, or two of its groups as they stand, a val or eval combination?"""
    return not _splits()[1].isdisjoint(statement.parts())


@cache  # the workflow asks for the training prompts once a run
def prompt_set(name: str) -> tuple[Prompt, ...]:
    """The prompts of one of SETS, category by category, always in the same order. Raises UserError for another name."""
    if name not in SETS:
        raise UserError(f"prompt set {name!r}: expected one of {', '.join(SETS)}")
    if name in BEYOND:
        return tuple(make_prompt(f"{name}/{i:03d}", name, statement) for i, statement in enumerate(_beyond(name)))
    tags = {"geneval_eval": CATEGORIES, "ta_eval": (COMPOUND,)}.get(name, (*CATEGORIES, COMPOUND))
    split = "eval" if name.endswith("_eval") else name
    rows = [(tag, i, statement) for tag in tags for i, statement in enumerate(_splits()[0][tag][split])]
    return tuple(make_prompt(f"{name}/{tag}/{i:03d}", tag, statement) for tag, i, statement in rows)


def prompt_hash(prompts: Sequence[Prompt]) -> str:
    """sha256 of the texts, one a line."""
    return hashlib.sha256("\n".join(p.text for p in prompts).encode()).hexdigest()


def vocabulary() -> list[str]:
    """Every word that a prompt or a trace can hold, without duplicates, in a fixed order."""
    words = ["<think>", "</think>", ",", "photo", "of", "and", "an", *COUNTS, *COLOR_NAMES, *CLASSES]
    words += [*map(plural, CLASSES), *(w for r in RELATIONS for w in r.split()), *PLACES]
    return list(dict.fromkeys(words))


def read_prompts(path: str | Path) -> list[Prompt]:
    """A user's prompts, one JSON object a line: `prompt`, optionally `id` and GenEval's `tag`, `include`, `exclude`.
    Raises UserError naming file and line for a line that is not such an object or has an empty prompt."""
    prompts = []
    for number, (where, row) in enumerate(read_jsonl(path), 1):
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise UserError(f"{where}: expected a JSON object with a non-empty string 'prompt'")
        for key in ("id", "tag"):
            if key in row and (not isinstance(row[key], str) or not row[key]):
                raise UserError(f"{where}: '{key}' must be a non-empty string")
        meta = {"tag": "custom", "include": []} | {k: v for k, v in row.items() if k != "id"}
        with error_prefix(where):
            geneval_verdict.check(meta)
        prompts.append(Prompt(row.get("id", f"custom/{number:03d}"), row["prompt"].strip(), meta["tag"], meta))
    return prompts


def asked_text(prompt: Prompt) -> str:
    """The text to see in the image: ``meta["text"]``, or what stands between the prompt's first quotation marks, as
    Flow-GRPO (arXiv 2505.05470) has it, whose prompts use straight double ones. Raises UserError for a prompt that asks
    for no text."""
    text = prompt.meta.get("text")
    if text is None:
        found = next((match for marks in QUOTED if (match := re.search(marks, prompt.text))), None)
        text = "" if found is None else next(group for group in found.groups() if group)
    if not isinstance(text, str) or not text.strip():
        expected = "expected a text to render, in quotation marks or as meta's 'text'"
        raise UserError(f"prompt {prompt.id}: {expected}, in {prompt.text!r}")
    return text
