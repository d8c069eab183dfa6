"""The cross-reward table: every reward as a held-out metric on any images, so that hacking one shows on the others.

Rows are runs, columns rewards, a cell the mean over seeds and prompts with its 95 % interval. Below stand the
differences to the first run, paired by prompt: a run that was trained on one reward and rises there while the others
fall has hacked it. A run may be given several times, once a seed.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from evals.images import Results, batches, show_failed, sorted_out
from evals.instruments.picture_files import read
from unigrpo.core.errors import UserError
from unigrpo.core.files import write_text
from unigrpo.core.records import Labels, Prompt
from unigrpo.judges import reward as reward_files
from unigrpo.judges.reward import Reward
from unigrpo.report.data.lines import columns, interval
from unigrpo.report.data.phrases import MISSING, ONE_SEED, escaped
from unigrpo.report.data.results import source_of
from unigrpo.report.data.rows import range_of
from unigrpo.report.data.stats import Cells, difference, estimate, form
from unigrpo.report.pages import page
from unigrpo.study import provenance


class Source(NamedTuple):
    """The images of one seed of a run, and what that run was trained on: a reward's name, None where not known."""

    run: str
    seed: int
    path: Path
    trained_on: str | None


def parse_source(text: str, earlier: Sequence[Source]) -> Source:
    """``RUN=PATH``; the seed is that of a folder ``seed<k>`` above, else the number of times the run stood before."""
    run, path, number = source_of(text)
    same = [source for source in earlier if source.run == run]
    seed = len(same) if number is None else number
    if any(source.seed == seed or source.path.resolve() == Path(path).resolve() for source in same):
        raise UserError(f"'{text}': run '{run}', seed {seed} is given twice")
    return Source(run, seed, Path(path), trained_on(Path(path)))


def trained_on(path: Path) -> str | None:
    """The reward of the run in whose folder ``path`` lies."""
    for folder in [path, *path.parents]:
        if (folder / "run.json").exists() and (found := provenance.configuration(folder)):
            settings = found[1]
            return (settings.get("rl") or {}).get("reward") if settings.get("stage") == "rl" else None
    return None


def score(source: Source, judges: Sequence[tuple[str, Reward]], batch: int) -> tuple[list[dict], list[dict]]:
    """(a row an image with its prompt and a value a reward, {image, problem} of failures) of a source, ``batch`` images
    of one size judged at once. An image that cannot be read, or that a reward refuses, is a failure. Raises UserError
    where all are."""
    found = read(source.path)
    results: Results = {}
    for group in batches(found, batch, results, lambda picture: None, {}, {}):
        places, pictures, images, _ = zip(*group, strict=True)
        prompts = [picture.prompt for picture in pictures]
        scored = [reward.judge(images, prompts) for _, reward in judges]
        for place, picture, *values in zip(places, pictures, *scored, strict=True):
            scores = {name: value for (name, _), value in zip(judges, values, strict=True)}
            row = {"run": source.run, "seed": source.seed} | picture.names
            row |= {"prompt": picture.prompt.text, "scores": scores}
            results[place] = next((value for value in values if isinstance(value, UserError)), row)
    rows, failed = sorted_out(found, results)
    if not rows:
        first = f"{failed[0]['image']}: {failed[0]['problem']}"
        raise UserError(f"{source.path}: none of {len(failed)} images can be scored; {first}")
    return rows, failed


def paired(sources: Sequence[Source], each: Sequence[list[dict]]) -> pd.DataFrame:
    """The rows of all sources, each prompt with one id: prompts are the same by text and tag. Raises UserError for one
    id with two texts."""
    labels = Labels()
    for source, rows in zip(sources, each, strict=True):
        for row in rows:
            row["prompt_id"] = labels.of(Prompt(row["prompt_id"], row["prompt"], row["tag"], {}), source.path)
    return pd.DataFrame([row for rows in each for row in rows])


def cells(images: pd.DataFrame, reward: str) -> dict[str, Cells]:
    """Run -> means over its ``images`` (of ``paired``), seeds x the prompts that every seed of every run has."""
    values = images.assign(value=[scores[reward] for scores in images["scores"]])
    table = values.pivot_table("value", ["run", "seed"], "prompt_id", sort=False).dropna(axis=1).sort_index(axis=1)
    if table.empty:
        raise UserError("the runs share no prompt, expected images of the same prompts")
    found = {}
    for run, part in table.groupby("run", sort=False):
        tags = images[images["run"] == run].groupby("prompt_id")["tag"].last()[table.columns]
        seeds = part.index.get_level_values("seed").tolist()
        found[run] = Cells(part.to_numpy(), tuple(seeds), tuple(table.columns), tuple(tags), range_of("", reward))
    return found


def lines(images: pd.DataFrame, sources: Sequence[Source], failed: Sequence[dict], names: Sequence[str]) -> list[dict]:
    """A line a run and reward: mean and interval, and the difference to the first run; means over prompts."""
    found = {name: cells(images, name) for name in names}
    trained = {source.run: source.trained_on for source in reversed(sources)}
    first, rows = sources[0].run, []
    for run in images["run"].unique():
        prompts = images["prompt_id"][images["run"] == run]
        shared = prompts.isin(found[names[0]][run].prompts).sum()  # what the numbers rest on
        counts = {"images": int(shared), "failed": sum(row["run"] == run for row in failed)}
        counts["own_prompts"] = prompts.nunique()
        for name in names:
            mine, gap = found[name][run], None
            mean = estimate(mine, by_category=False)
            if run != first:
                gap = estimate(difference(mine, found[name][first]), by_category=False)
            head = {"run": run, "trained_on": trained[run], "reward": name}
            sizes = {"seeds": mean.seeds, "prompts": mean.prompts} | counts
            rows.append(head | columns("mean", mean) | columns("gap", gap) | sizes)
    return rows


def direction(line: dict) -> str:
    """up, down, or unclear where the difference's interval holds 0, or there is none; nothing for the first run."""
    if line["gap"] is None:
        return ""
    if line["gap_lo"] is None:
        return "unclear"
    return "up" if line["gap_lo"] > 0 else "down" if line["gap_hi"] < 0 else "unclear"


def notes(rows: Sequence[dict]) -> list[str]:
    """What stands below the table: how it is read, and what each run's training reward says beside the others."""
    rows = [line | {key: escaped(line[key]) for key in ("run", "reward")} for line in rows]
    first = rows[0]["run"]
    own = ", ".join(f"{count} ({run})" for run, count in {line["run"]: line["own_prompts"] for line in rows}.items())
    below = [
        "Means over prompts with 95 % intervals over seeds and prompts; differences are paired by prompt and seed.",
        ONE_SEED,
        f"All runs are judged on the {rows[0]['prompts']} prompts that every one of them has, by text, of {own}.",
    ]
    if failed := {line["run"]: line["failed"] for line in rows if line["failed"]}:
        counts = ", ".join(f"{count} of {run}" for run, count in failed.items())
        below.append(f"**Images that could not be scored**: {counts}.")
    for run in dict.fromkeys(line["run"] for line in rows if line["trained_on"] and line["run"] != first):
        lines_of_run = [line for line in rows if line["run"] == run]
        target = [line for line in lines_of_run if line["reward"].partition("=")[0] == line["trained_on"]]
        others = [f"{line['reward']} {direction(line)}" for line in lines_of_run if line not in target]
        on = ", ".join(direction(line) for line in target) or "not among the columns"
        trained = lines_of_run[0]["trained_on"]
        below.append(f"{run} was trained on {trained}: {on}; held out: {', '.join(others) or 'none'}.")
    return below


def table(rows: Sequence[dict], key: str) -> pd.DataFrame:
    """A row a run, a column a reward: its mean, or its gap to the first run with the direction, as text."""
    arrows = {"up": " ▲", "down": " ▼"} if key == "gap" else {}
    shown, widths = {}, defaultdict(list)
    for line in rows:
        widths[line["reward"]] += [line[f"{key}_hi"] - line[f"{key}_lo"]] if line[f"{key}_lo"] is not None else []
    for line in rows:
        row = shown.setdefault(line["run"], {"run": line["run"], "trained on": line["trained_on"] or MISSING})
        row[line["reward"]] = interval(
            line, key, form(range_of("", line["reward"]), widths[line["reward"]])
        ) + arrows.get(direction(line), "")
    sizes = {line["run"]: {"seeds": line["seeds"], "images": line["images"]} for line in rows}
    return pd.DataFrame([row | sizes[run] for run, row in shown.items()])


def write(rows: Sequence[dict], out: Path, below: Sequence[str] = ()) -> None:
    """Write ``cross.csv``, ``.md`` and ``.html`` into ``out``, of ``rows`` of :func:`lines`, with lines ``below``."""
    title, sections = "Rewards as held-out metrics", [("", table(rows, "mean"))]
    if others := [line for line in rows if line["gap"] is not None]:
        sections.append((f"Difference to {rows[0]['run']}", table(others, "gap")))
    sections.append(("", [*notes(rows), *below]))
    write_text(out / "cross.csv", pd.DataFrame(rows).to_csv(index=False, float_format="%.6g"))
    write_text(out / "cross.md", page.markdown(title, sections))
    write_text(out / "cross.html", page.parts(title, sections))


def compare(out: Path, sources: Sequence[str], rewards: Sequence[str], batch: int) -> int:
    """Score the images of each ``RUN=PATH`` by each reward (``NAME`` or ``NAME={...}``) and write the table and
    ``cross.jsonl`` (a row an image) into ``out``; returns the number of images that could not be scored. Raises
    UserError."""
    if len(set(rewards)) < len(rewards):
        raise UserError("--reward: one stands twice")
    parsed: list[Source] = []
    for text in sources:
        parsed.append(parse_source(text, parsed))
    judges = [reward_files.held_out(text) for text in rewards]
    each, failed = [], []
    for source in parsed:
        rows, problems = score(source, judges, batch)
        each.append(rows)
        failed += [{"run": source.run} | row for row in problems]
    images = paired(parsed, each)
    table_rows = lines(images, parsed, failed, [name for name, _ in judges])
    write_text(out / "cross.jsonl", "".join(json.dumps(row) + "\n" for rows in each for row in rows))
    texts = set(images["prompt"])
    cut = [line for _, reward in judges for line in reward_files.cut_lines(reward.cut(texts), len(texts))]
    write(table_rows, out, cut)
    print("\n".join([f"{out / 'cross.md'}: {len(judges)} rewards, {len(images)} images", *cut]))
    show_failed([row | {"image": f"{row['run']}: {row['image']}"} for row in failed], "scored")
    return len(failed)
