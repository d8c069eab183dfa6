"""Prompt sets: GenEval's six categories in its wording and metadata, and `compound` prompts in the role of
TA.

The sets `train`, `val` and (`geneval_eval`, `ta_eval`) are disjoint *combinations*: what a prompt states,
whatever its wording ("a left of b" is "b right of a"). Single objects cannot be disjoint: every set has the
same eight, so that category is in-distribution. No training prompt has two groups that state a held-out
two-group combination (two_object, position, color_attr) in the very same way. Paper section
5; GenEval: Ghosh et al. 2023.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from unigrpo.core.errors import UserError
from unigrpo.core.files import read_jsonl
from unigrpo.core.records import Prompt
from unigrpo.world.scenes import CLASSES, COLORS, PLACES, RELATIONS, random_kind

BENCHMARKS = {"geneval": "geneval_eval", "ta": "ta_eval"}  # as evaluations say it -> its prompt set
VERSION = "1"
GENEVAL_TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COMPOUND = "compound"
SETS = ("train", "val", "geneval_eval", "ta_eval")
COUNTS = ("a", "two", "three", "four")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_SEED = 260323500
_TRAIN_CAP = 400


@dataclass(frozen=True, slots=True)
class Group:
    """``count`` objects of one class, all of ``color`` where it is stated."""

    count: int
    color: str | None
    cls: str


@dataclass(frozen=True, slots=True)
class Statement:
    """What a prompt states: groups in the order of the text; a relation is the first to the second."""

    groups: tuple[Group, ...]
    relation: str | None = None

    def combination(self) -> tuple:
        """Key that ignores wording: order of groups, and which of the two related objects is described."""
        return _key(self.groups, self.relation)

    def parts(self) -> list[tuple]:
        """Keys of the statement and of every two of its groups (with the relation, if it is theirs)."""
        pairs = itertools.combinations(range(len(self.groups)), 2)
        return [self.combination()] + [
            _key((self.groups[i], self.groups[j]), self.relation if (i, j) == (0, 1) else None) for i, j in pairs
        ]

    def facts(self) -> int:
        """Number of stated facts: a count per group, its colour, the relation."""
        return len(self.groups) + sum(g.color is not None for g in self.groups) + (self.relation is not None)

    def text(self) -> str:
        phrases = [group_phrase(group) for group in self.groups]
        if self.relation:
            phrases[:2] = [f"{phrases[0]} {self.relation} {phrases[1]}"]
        return "a photo of " + " and ".join(phrases)

    def include(self) -> list[dict]:
        """GenEval's clauses. With a relation the reference comes first, as in GenEval."""
        clauses = [{"class": g.cls, "count": g.count} | ({"color": g.color} if g.color else {}) for g in self.groups]
        if self.relation:
            clauses[:2] = [clauses[1], clauses[0] | {"position": [self.relation, 0]}]
        return clauses


def _key(groups: Sequence[Group], relation: str | None) -> tuple:
    rows = [(g.count, g.color or "", g.cls) for g in groups]
    if relation is None:
        return (tuple(sorted(rows)), None)
    first, second = rows[:2] if relation in ("left of", "above") else rows[1::-1]
    return (
        tuple(sorted(rows)),
        (relation if relation in ("left of", "above") else OPPOSITE[relation], first, second),
    )


def plural(cls: str) -> str:
    return cls + ("es" if cls.endswith("s") else "s")


def group_phrase(group: Group) -> str:
    """'a red circle', 'an orange star', 'three hearts'."""
    words = ([group.color] if group.color else []) + [group.cls if group.count == 1 else plural(group.cls)]
    number = COUNTS[group.count - 1]
    if group.count == 1 and words[0][0] in "aeiou":
        number = "an"
    return " ".join([number, *words])


@cache
def _groups() -> dict[str, Group]:
    """Phrase -> the group that it names, of all groups."""
    kinds = itertools.product(range(1, len(COUNTS) + 1), (None, *COLORS), CLASSES)
    return {group_phrase(group): group for group in itertools.starmap(Group, kinds)}


def read_statement(text: str) -> Statement | None:
    """What ``text`` states; None where it is not worded as the world's prompts are."""
    first, *phrases = text.removeprefix("a photo of ").split(" and ")
    relation = next((r for r in RELATIONS if f" {r} " in first), None)
    groups = [_groups().get(phrase) for phrase in [*first.split(f" {relation} "), *phrases]]
    statement = Statement(tuple(groups), relation)
    return statement if None not in groups and statement.text() == text else None


def stated_facts(include: Sequence[dict]) -> list[str]:
    """One sentence a stated fact, in the order of the clauses: count, colour, relation."""
    points = []
    for clause in include:
        one = clause["count"] == 1
        noun = clause["class"] if one else plural(clause["class"])
        points.append(f"exactly {clause['count']} {noun}")
        if "color" in clause:
            points.append(f"the {noun} {'is' if one else 'are'} {clause['color']}")
        if "position" in clause:
            relation, reference = clause["position"]
            points.append(f"the {noun} {'is' if one else 'are'} {relation} the {include[reference]['class']}")
    return points


def make_prompt(identity: str, tag: str, statement: Statement) -> Prompt:
    """The prompt of a statement. Counting excludes one more (GenEval)."""
    text, include = statement.text(), statement.include()
    meta: dict = {"tag": tag, "include": include}
    if tag == "counting":
        meta["exclude"] = [{"class": c["class"], "count": c["count"] + 1} for c in include]
    meta["prompt"] = text
    return Prompt(identity, text, tag, meta)


# ---- random statements, one family a category --------------------------------------------------------------


def _classes(rng: np.random.Generator, n: int) -> list[str]:
    return [CLASSES[i] for i in rng.permutation(len(CLASSES))[:n]]


def _maybe_color(rng: np.random.Generator, share: float) -> str | None:
    return random_kind(rng)[1] if rng.random() < share else None


def _random_color_attr(rng: np.random.Generator) -> Statement:
    colors = list(COLORS)
    picks = rng.permutation(len(colors))[:2]
    return Statement(tuple(Group(1, colors[i], cls) for i, cls in zip(picks, _classes(rng, 2), strict=True)))


def _random_position(rng: np.random.Generator) -> Statement:
    return Statement(tuple(Group(1, None, cls) for cls in _classes(rng, 2)), RELATIONS[rng.integers(4)])


def random_compound(rng: np.random.Generator) -> Statement:
    """2-4 objects in 2-3 groups of distinct classes stating at least four facts; never plain color_attr."""
    while True:
        family, share = rng.random(), 0.75
        relation = None
        if family < 0.3:  # counts and colours of two groups
            counts, share = ((1, 2), (2, 1), (1, 3), (3, 1), (2, 2))[rng.integers(5)], 1.0
        elif family < 0.5:  # a relation with colours
            counts, relation = (1, 1), RELATIONS[rng.integers(4)]
        elif family < 0.85:  # a relation and a third group
            counts, relation = ((1, 1, 1), (1, 1, 2))[rng.integers(2)], RELATIONS[rng.integers(4)]
        else:
            counts = ((1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1))[rng.integers(4)]
        groups = tuple(
            Group(n, _maybe_color(rng, share), cls) for n, cls in zip(counts, _classes(rng, len(counts)), strict=True)
        )
        statement = Statement(groups, relation)
        if statement.facts() >= 4:
            return statement


FAMILIES: dict[str, Callable[[np.random.Generator], Statement]] = {
    "single_object": lambda rng: Statement((Group(1, None, CLASSES[rng.integers(8)]),)),
    "two_object": lambda rng: Statement(tuple(Group(1, None, cls) for cls in _classes(rng, 2))),
    "counting": lambda rng: Statement((Group(int(rng.integers(2, 5)), None, CLASSES[rng.integers(8)]),)),
    "colors": lambda rng: Statement((Group(1, *random_kind(rng)[::-1]),)),
    "position": _random_position,
    "color_attr": _random_color_attr,
    COMPOUND: random_compound,
}


# ---- splits ------------------------------------------------------------------------------------------------


def _split_counting(rng: np.random.Generator) -> dict[str, list[Statement]]:
    """Every class has one of its counts in eval, half of the classes another in val; balanced counts."""
    out: dict[str, list[Statement]] = {"eval": [], "val": [], "train": []}
    for rank, i in enumerate(rng.permutation(len(CLASSES))):
        statements = [Statement((Group(2 + (rank + k) % 3, None, CLASSES[i]),)) for k in range(3)]
        for split, statement in zip(("eval", "val" if rank % 2 else "train", "train"), statements, strict=True):
            out[split].append(statement)
    return out


def _split_colors(rng: np.random.Generator) -> dict[str, list[Statement]]:
    """Diagonals of a Latin square: 5 eval, 1 val, 2 train, so every colour and class is equally often in
    each.
    """
    colors, classes = rng.permutation(list(COLORS)), rng.permutation(CLASSES)
    diagonals = [
        [Statement((Group(1, str(colors[i]), str(classes[(i + shift) % 8])),)) for i in range(8)] for shift in range(8)
    ]
    return {"eval": sum(diagonals[:5], []), "val": diagonals[5], "train": sum(diagonals[6:], [])}


def _split_two_object(rng: np.random.Generator) -> dict[str, list[Statement]]:
    """10 eval, 4 val and 14 train pairs, each in both orders."""
    pairs = list(itertools.combinations(CLASSES, 2))
    order = rng.permutation(len(pairs))
    both = [
        [Statement(tuple(Group(1, None, cls) for cls in wording)) for wording in (pairs[i], pairs[i][::-1])]
        for i in order
    ]
    return {"eval": sum(both[:10], []), "val": sum(both[10:14], []), "train": sum(both[14:], [])}


def _split_position(rng: np.random.Generator) -> dict[str, list[Statement]]:
    """40 eval and 12 val relations, each in one wording and the four relations equally often; train in both
    wordings.
    """
    out: dict[str, list[Statement]] = {"eval": [], "val": [], "train": []}
    ordered = list(itertools.permutations(CLASSES, 2))
    for relation in ("left of", "above"):
        for rank, i in enumerate(rng.permutation(len(ordered))):
            groups = tuple(Group(1, None, cls) for cls in ordered[i])
            wordings = [Statement(groups, relation), Statement(groups[::-1], OPPOSITE[relation])]
            if rank < 26:
                out["eval" if rank < 20 else "val"].append(wordings[rank % 2])
            else:
                out["train"] += wordings
    return out


def _split_drawn(
    rng: np.random.Generator, family: str, sizes: dict[str, int], held_out: frozenset
) -> dict[str, list[Statement]]:
    """Distinct random statements; training ones contain no held-out part."""
    out: dict[str, list[Statement]] = {}
    seen: set[tuple] = set()
    blocked = set(held_out)
    for split, size in sizes.items():
        out[split] = []
        while len(out[split]) < size:
            statement = FAMILIES[family](rng)
            if statement.combination() in seen or (split == "train" and not blocked.isdisjoint(statement.parts())):
                continue
            seen.add(statement.combination())
            out[split].append(statement)
        if split != "train":
            blocked.update(s.combination() for s in out[split])
    return out


@cache
def _splits() -> dict[str, dict[str, list[Statement]]]:
    """tag -> split (eval, val, train) -> statements; the same on every machine."""
    rng = np.random.Generator(np.random.PCG64(_SEED))
    single = [Statement((Group(1, None, cls),)) for cls in CLASSES]
    splits = {
        "single_object": {"eval": single, "val": single, "train": single},
        "two_object": _split_two_object(rng),
        "counting": _split_counting(rng),
        "colors": _split_colors(rng),
        "position": _split_position(rng),
        "color_attr": _split_drawn(rng, "color_attr", {"eval": 40, "val": 12, "train": _TRAIN_CAP}, frozenset()),
    }
    blocked = frozenset(
        s.combination() for t in GENEVAL_TAGS[1:] for split in ("eval", "val") for s in splits[t][split]
    )
    splits[COMPOUND] = _split_drawn(rng, COMPOUND, {"eval": 150, "val": 24, "train": _TRAIN_CAP}, blocked)
    return splits


@cache
def held_out() -> frozenset:
    """Combinations of val and eval prompts (all but the single objects)."""
    splits = _splits()
    tags = [tag for tag in splits if tag != "single_object"]
    return frozenset(s.combination() for tag in tags for split in ("eval", "val") for s in splits[tag][split])


def is_held_out(statement: Statement) -> bool:
    """Is the statement, or two of its groups as they stand, a val or eval combination?"""
    return not held_out().isdisjoint(statement.parts())


@cache
def _prompt_set(name: str) -> tuple[Prompt, ...]:
    if name not in SETS:
        raise UserError(f"prompt set {name!r}: expected one of {', '.join(SETS)}")
    tags = {"geneval_eval": GENEVAL_TAGS, "ta_eval": (COMPOUND,)}.get(name, (*GENEVAL_TAGS, COMPOUND))
    split = "eval" if name.endswith("_eval") else name
    return tuple(
        make_prompt(f"{name}/{tag}/{i:03d}", tag, statement)
        for tag in tags
        for i, statement in enumerate(_splits()[tag][split])
    )


def prompt_set(name: str) -> list[Prompt]:
    """The prompts of `train`, `val`, `geneval_eval` or `ta_eval`, category by category, always in the same
    order.

    Raises UserError for another name.
    """
    return list(_prompt_set(name))


def samples_per_prompt(name: str, base: int = 4) -> list[int]:
    """Images per prompt, in the order of ``prompt_set(name)``.

    ``base`` each, except where an evaluation category has fewer than 40 prompts: then so many that every
    category has at least 40 x base images.
    """
    prompts = prompt_set(name)
    if name != "geneval_eval":
        return [base] * len(prompts)
    sizes = {tag: sum(p.tag == tag for p in prompts) for tag in GENEVAL_TAGS}
    return [base * -(-40 // sizes[p.tag]) for p in prompts]


def evaluation_jobs(benchmark: str, base: int) -> list[tuple[Prompt, int]]:
    """(prompt, sample number) for every image of one of BENCHMARKS, prompt by prompt."""
    name = BENCHMARKS[benchmark]
    numbers = samples_per_prompt(name, base)
    return [(p, k) for p, n in zip(prompt_set(name), numbers, strict=True) for k in range(n)]


def prompt_hash(prompts: Sequence[Prompt]) -> str:
    """sha256 of the texts, one a line."""
    return hashlib.sha256("\n".join(p.text for p in prompts).encode()).hexdigest()


def vocabulary() -> list[str]:
    """Every word that a prompt or a trace can hold, without duplicates, in a fixed order."""
    words = ["<think>", "</think>", ",", "photo", "of", "and", "an", *COUNTS, *COLORS, *CLASSES]
    words += [*map(plural, CLASSES), *(w for r in RELATIONS for w in r.split()), *PLACES]
    return list(dict.fromkeys(words))


def read_prompts(path: str | Path) -> list[Prompt]:
    """A user's prompts: one JSON object a line with `prompt`, optionally `id` and GenEval's `tag`, `include`,
    `exclude`.

    Raises UserError naming file and line for a line that is not such an object or has an empty prompt.
    """
    return [_read_prompt(where, number, row) for number, (where, row) in enumerate(read_jsonl(path), 1)]


def _read_prompt(where: str, number: int, row: dict) -> Prompt:
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise UserError(f"{where}: expected a JSON object with a non-empty string 'prompt'")
    for key in ("id", "tag"):
        if key in row and (not isinstance(row[key], str) or not row[key]):
            raise UserError(f"{where}: '{key}' must be a non-empty string")
    for key in ("include", "exclude"):
        for index, clause in enumerate(_clauses(row.get(key, []), f"{where}: '{key}'")):
            _check_clause(clause, index, f"{where}: '{key}'")
    tag = row.get("tag", "custom")
    meta = {"tag": tag, "include": []} | {k: v for k, v in row.items() if k != "id"}
    return Prompt(row.get("id", f"custom/{number:03d}"), row["prompt"].strip(), tag, meta)


def _clauses(value: object, where: str) -> list:
    if not isinstance(value, list):
        raise UserError(f"{where} must be a list of clauses, not {type(value).__name__}")
    return value


def _check_clause(clause: object, index: int, where: str) -> None:
    valid = isinstance(clause, dict) and isinstance(clause.get("class"), str)
    if not valid or not isinstance(clause.get("count"), int) or clause["count"] < 1:
        raise UserError(f"{where} needs clauses with a 'class' and a 'count' of at least 1, got {clause!r}")
    if "color" in clause and not isinstance(clause["color"], str):
        raise UserError(f"{where}: 'color' must be a string, got {clause['color']!r}")
    if "position" in clause:
        position = clause["position"]
        if (
            not isinstance(position, list)
            or len(position) != 2
            or position[0] not in RELATIONS
            or position[1] not in range(index)
        ):
            raise UserError(
                f"{where}: 'position' must be [relation, index of an earlier clause] with a relation among "
                f"{', '.join(RELATIONS)}; got {position!r}"
            )
