"""Collecting scores, tables and figures, on a small study whose numbers are known."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from tests._support import study as study_support
from tests._support.command import unigrpo
from tests._support.study import score_rows, sources_of, write_jsonl, write_study
from unigrpo.core import code_identity
from unigrpo.core.errors import UserError
from unigrpo.core.files import write_json
from unigrpo.objectives import advantages, matching
from unigrpo.report.data import phrases, results
from unigrpo.report.data.results import PAPER as PAPER_FILE
from unigrpo.report.data.results import Row, Scores
from unigrpo.report.figures import progress
from unigrpo.report.pages import compare, drawing
from unigrpo.study import resolve
from unigrpo.study.facts import FIGURES, TABLES
from unigrpo.world.geneval_verdict import CATEGORIES
from unigrpo.world.prompts import prompt_set

ROWS = [["base", "no"], ["sft", "yes"], ["unigrpo", "yes"]]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = tmp_path_factory.mktemp("study") / "cpu"
    write_study(root, {"base": (0.4, 1), "sft": (0.6, 1), "unigrpo": (0.8, 3)})
    return root


def make_table(study, tmp_path, spec, name="table1"):
    return study_support.make_table(study, tmp_path / "tables", spec, name, study / "scores.csv", study / "paper.csv")


def raw(study, run, seed):
    lines = (study / "runs" / run / f"seed{seed}" / "scores.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# --------------------------------------------------------------------------------------- collecting


def test_scores_csv_has_one_row_a_metric(study):
    frame = pd.read_csv(study / "scores.csv")
    assert tuple(frame.columns) == results.COLUMNS
    rows = [
        r for run, seeds in (("base", 1), ("sft", 1), ("unigrpo", 3)) for s in range(seeds) for r in raw(study, run, s)
    ]
    assert len(frame) == sum(len(r["metrics"]) for r in rows)
    one = raw(study, "unigrpo", 2)[5]
    found = frame[
        (frame["run"] == "unigrpo")
        & (frame["seed"] == 2)
        & (frame["mode"] == one["mode"])
        & (frame["guidance"] == one["guidance"])
        & (frame["prompt_id"] == one["prompt_id"])
        & (frame["sample"] == one["sample"])
    ]
    assert dict(zip(found["metric"], found["value"], strict=True)) == pytest.approx(one["metrics"])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("unigrpo", "expected RUN=PATH"),
        ("=a/seed0", "expected RUN=PATH"),
        ("a=", "expected RUN=PATH"),
        ("a=b/seed1", "b/seed1/scores.jsonl"),
    ],
)
def test_bad_sources_are_named(tmp_path, argument, message):
    with pytest.raises(UserError, match=message):
        results.collect([argument], tmp_path / "scores.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_bad_score_line_is_named(tmp_path):
    row = next(score_rows("think", "tuned", 1, np.random.default_rng(0)))
    write_jsonl(tmp_path / "seed0" / "scores.jsonl", [row, {k: v for k, v in row.items() if k != "tag"}])
    with pytest.raises(UserError, match=r"scores.jsonl, line 2: tag: missing"):
        results.collect([f"a={tmp_path}/seed0"], tmp_path / "scores.csv")


def test_mixed_versions_and_repeated_seeds_are_refused(tmp_path):
    row = next(score_rows("think", "tuned", 1, np.random.default_rng(0)))
    write_jsonl(tmp_path / "a" / "seed0" / "scores.jsonl", [row])
    write_jsonl(tmp_path / "b" / "seed0" / "scores.jsonl", [row | {"version": "2"}])
    out = tmp_path / "scores.csv"
    results.collect([f"a={tmp_path}/a/seed0", f"b={tmp_path}/b/seed0"], out)
    with pytest.raises(UserError, match="'geneval' is in versions 1 and 2"):
        Scores(out)
    with pytest.raises(UserError, match="run 'a', seed 0 is given twice"):
        results.collect([f"a={tmp_path}/a/seed0", f"a={tmp_path}/b/seed0"], out)


def real(label, text, part="", sample=0):
    """A row of ``unigrpo judge``."""
    row = {"benchmark": "ta", "version": "1", "mode": "direct", "guidance": "as given", "prompt_id": label, "tag": ""}
    row |= {"sample": sample, "image": "a.png", "prompt": text, "metrics": {"ta": 0.5}, "reason": ""}
    return row | {"part": part}


def collected(tmp_path, *runs, **how):
    for number, rows in enumerate(runs):
        write_jsonl(tmp_path / f"{number}" / "seed0" / "scores.jsonl", rows)
    results.collect([f"r{k}={tmp_path}/{k}/seed0" for k in range(len(runs))], tmp_path / "scores.csv", **how)
    return pd.read_csv(tmp_path / "scores.csv", dtype=str)


def test_prompts_of_runs_are_paired_by_text_and_tag(tmp_path):
    table = collected(tmp_path, [real("0", "a cup"), real("1", "a  dog")], [real("x", "a dog "), real("y", "a cup")])
    assert table["prompt_id"].tolist() == ["0", "1", "1", "0"]
    message = "prompt '0': expected one text and tag for an id, found 'a cup'.*0/seed0.*'a cat'.*1/seed0"
    with pytest.raises(UserError, match=message):
        collected(tmp_path, [real("0", "a cup"), real("1", "a dog")], [real("0", "a cat"), real("1", "a dog")])


def test_a_part_of_a_benchmark_is_collected_only_when_asked_for_and_marked(tmp_path):
    whole, part = [real("0", "a cup"), real("1", "a dog")], [real("0", "a cup", "1 of 2 prompts")]
    with pytest.raises(UserError, match=r"1/seed0/scores.jsonl: has 1 of 2 prompts of ta, expected all, or --partial"):
        collected(tmp_path, whole, part)
    table = collected(tmp_path, whole, part, partial=True)
    assert table["version"].tolist() == ["1", "1", "1 (part: 1 of 2 prompts)"]
    assert Scores(tmp_path / "scores.csv").parts == {("r1", "ta"): "1 of 2 prompts"}


# --------------------------------------------------------------------------------------- tables


def by_hand(study, run, seeds, mode, metric, tag=None):
    """Mean over seeds of the mean over categories of the mean over images."""
    means = []
    for seed in range(seeds):
        rows = [
            r for r in raw(study, run, seed) if (r["mode"], r["guidance"]) == (mode, "tuned") and metric in r["metrics"]
        ]
        tags = [tag] if tag else sorted({r["tag"] for r in rows if r["benchmark"] == "geneval"}) or ["compound"]
        means.append(np.mean([np.mean([r["metrics"][metric] for r in rows if r["tag"] == t]) for t in tags]))
    return np.mean(means)


def test_main_table_holds_hand_computed_means_beside_the_papers(study, tmp_path):
    frame, text = make_table(study, tmp_path, {"kind": "main", "guidance": "tuned", "rows": ROWS})
    assert frame["run"].tolist() == ["base", "sft", "unigrpo"] and frame["thinking"].tolist() == [
        "no",
        "yes",
        "yes",
    ]
    uni = frame.iloc[2]
    assert uni["geneval"] == pytest.approx(by_hand(study, "unigrpo", 3, "think", "official"), abs=1e-4)
    assert uni["geneval_strict"] == pytest.approx(by_hand(study, "unigrpo", 3, "think", "strict"), abs=1e-4)
    assert uni["ta"] == pytest.approx(by_hand(study, "unigrpo", 3, "think", "ta"), abs=1e-4)
    assert uni["geneval_lo"] < uni["geneval"] < uni["geneval_hi"]
    assert (uni["seeds"], uni["n"], uni["prompts_ta"], uni["prompts_geneval"]) == (3, 3 * 7 * 3 * 2, 3, 18)
    assert uni[["model_evaluations", "images", "wall_seconds", "collapsed"]].tolist() == [2000, 200, 20, 0]
    costs = [cell.strip() for cell in text.splitlines()[6].split("|")][-5:-1]
    assert costs == ["200", "2,000", "20", "0"]
    assert (uni["paper_ta"], uni["paper_geneval"]) == (0.8381, 0.90)
    assert np.isnan(frame.iloc[1]["paper_ta"])  # this paper file has no SFT row
    for words in (
        "not a rerun of BAGEL-7B",
        "in-distribution",
        "66.7% of these runs' images",
        "| 0.8381",
        "steps 20",
    ):
        assert words in text
    assert text.count("1 (prompts only)") == 2


def test_the_html_table_holds_what_the_markdown_does(study, tmp_path):
    _, text = make_table(study, tmp_path, {"kind": "main", "title": "A < B", "rows": ROWS})
    page = (tmp_path / "tables/table1.html").read_text()
    head, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    expected = [cell.strip() for line in (head, *lines) for cell in line.strip("|").split("|")]
    cells = [
        re.sub("</?b>", "**", cell.replace("<small>", " ").replace("</small>", ""))
        for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", page)
    ]
    assert cells == expected
    assert "Table 1: A &lt; B, tuned guidance" in page and "Scale <code>cpu</code>." in page
    assert page.count("<li>") == text.count("\n* ")


def test_category_table_counts_prompts_and_keeps_both_verdicts(study, tmp_path):
    frame, text = make_table(study, tmp_path, {"kind": "categories", "rows": ROWS}, "table2")
    uni = frame.iloc[2]
    for tag in CATEGORIES:
        assert uni[tag] == pytest.approx(by_hand(study, "unigrpo", 3, "think", "official", tag), abs=1e-4)
        assert uni[f"{tag}_strict"] == pytest.approx(by_hand(study, "unigrpo", 3, "think", "strict", tag), abs=1e-4)
        assert uni[f"{tag}_n"] == 3
    assert (uni["paper_counting"], uni["paper_geneval"]) == (0.91, 0.90)
    assert "single object 3, two object 3, counting 3" in text and "(0.91)" in text


def test_a_benchmark_weighs_its_categories_equally(tmp_path):
    header = {"benchmark": "ta", "version": "1", "mode": "think", "guidance": "tuned", "sample": 0, "reason": ""}
    values = [("a", 1.0), ("b", 0.0), ("b", 0.0), ("b", 0.0)]
    rows = [header | {"tag": t, "prompt_id": f"p{i}", "metrics": {"ta": v}} for i, (t, v) in enumerate(values)]
    write_jsonl(tmp_path / "seed0" / "scores.jsonl", rows)
    results.collect([f"a={tmp_path}/seed0"], tmp_path / "scores.csv")
    sources = sources_of(tmp_path, tmp_path / "scores.csv")
    assert sources.estimate(Row("a", "yes", "tuned"), "ta", "ta").mean == pytest.approx(1 / 2)


def test_the_papers_numbers_are_complete():
    paper = pd.read_csv(PAPER_FILE)
    assert len(paper) == 15 and paper["collapsed"].tolist().count("yes") == 1
    kept = paper[paper["collapsed"] == "no"]
    assert kept["geneval"].tolist() == pytest.approx(kept[list(CATEGORIES)].mean(axis=1).tolist(), abs=0.0151)


def test_missing_rows_stay_visible(study, tmp_path):
    rows = [*ROWS, ["flow_grpo", "no"]]
    frame, text = make_table(study, tmp_path, {"kind": "main", "rows": rows})
    missing = frame.iloc[3]
    assert missing["run"] == "flow_grpo" and np.isnan(missing["ta"]) and missing["seeds"] == 0
    assert "not available" in text.splitlines()[7]


def test_collapse_is_said_in_words_beside_the_paper(study, tmp_path):
    folder = tmp_path / "cpu"
    shutil.copytree(study, folder, ignore=shutil.ignore_patterns("samples"))
    (folder / "paper.csv").write_text(PAPER_FILE.read_text())
    for run, seed, fate in (
        ("unigrpo", 1, {"collapsed": True, "collapse": "rollout 7: the image loss is not finite"}),
        ("unifpo", 0, {"collapsed": False, "not_trained": "its parent a collapsed (b)"}),
    ):
        path = folder / "runs" / run / f"seed{seed}" / "run.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"run": run, "seed": seed} | fate))
    spec = {"kind": "main", "rows": [*ROWS, ["unifpo", "yes"], ["nft", "yes"]]}
    frame, text = make_table(folder, tmp_path, spec)
    assert frame["collapsed"].tolist()[2:4] == [1, 0] and frame["paper_collapsed"].tolist()[2:4] == ["no", "yes"]
    cells = [line.split("|") for line in text.splitlines() if line.startswith("| unifpo")][0]
    assert cells[3].strip() == cells[4].strip() == "not available" and "collapsed" in cells[7]
    assert "**Collapsed**: UniGRPO, seed 1: rollout 7: the image loss is not finite. Its last finite" in text
    assert "**Not trained**: unifpo, seed 0: its parent a collapsed (b)." in text
    assert "Smallest true difference to UniGRPO" in text  # the last row that the paper has
    _, categories = make_table(folder, tmp_path, {**spec, "kind": "categories"})
    assert "not available (collapsed)" in categories


def test_unguided_table_reads_other_images(study, tmp_path):
    tuned, _ = make_table(study, tmp_path, {"kind": "main", "rows": ROWS})
    unguided, _ = make_table(study, tmp_path, {"kind": "main", "guidance": "unguided", "rows": ROWS})
    assert set(unguided["guidance"]) == {"unguided"} and not np.allclose(tuned["gold"], unguided["gold"])


def test_decoding_table_shows_sft_at_every_knob_beside_reinforcement(tmp_path):
    """Gold by hand: with thinking 0.1 above the guidance before it, a reinforced run at 0.9; without, 0.2 and 0.4."""
    folder, prompts = tmp_path / "cpu", prompt_set("val")
    level = {(False, 1.0, None): 0.2, (False, 3.0, None): 0.4, (True, 1.0, 1.0): 0.5, (True, 2.0, 1.0): 0.6}
    grid = [
        {"thinking": thinking, "guidance": guidance, "temperature": temperature, "official": gold / 2}
        | {"gold_by_prompt": {p.id: gold for p in prompts}}
        for (thinking, guidance, temperature), gold in reversed(level.items())
    ]
    chosen = {"think": {"guidance": 2.0, "temperature": 1.0}, "direct": {"guidance": 3.0}, "grid": grid}
    write_jsonl(folder / "starts/seed0/decoding.json", [chosen])
    tags = [p.tag for p in prompts]
    values = {m: np.full((1, 1, len(tags), 1), 0.9) for m in ("gold", "proxy", "artefact")}
    logs = [[{"kind": "validation", "rollout": 9, "update": 0, "images": 9, "gold": 0.9, "official": 0.8}]]
    study_support.write_validations(folder, "unigrpo", values, tags, logs=logs)
    path = folder / "runs/unigrpo/seed0/validation/000000.jsonl"
    rows = [
        json.loads(line) | {"prompt_id": p.id} for line, p in zip(path.read_text().splitlines(), prompts, strict=True)
    ]
    write_jsonl(path, rows)
    frame, text = study_support.make_table(folder, tmp_path, {"kind": "knobs", "runs": ["sft", "unigrpo"]})
    assert frame["run"].tolist() == ["sft"] * 4 + ["unigrpo"]
    shown = frame[["thinking", "guidance", "gold"]].to_numpy().tolist()
    assert shown[:4] == [["yes" if key[0] else "no", key[1], gold] for key, gold in level.items()]
    assert frame["gold"].iloc[4] == 0.9 and frame["official"].tolist() == [0.1, 0.2, 0.25, 0.3, 0.8]
    assert frame["chosen"].tolist()[:4] == [0, 1, 0, 1]
    assert frame["gold_gap"].tolist()[2:4] == pytest.approx([0.4, 0.3]) and frame["gold_gap"].isna().sum() == 3
    assert "gold: reinforced − this row" in text and "1 of 1" in text


def test_ceilings_are_said_to_be_no_methods(tmp_path):
    for scale, absent in (("cpu", False), ("paper", True)):
        folder = results.Folder(tmp_path, resolve.chosen_study(scale))
        (note,) = phrases.fates(["perfect_painter", "sft"], folder)
        assert note.startswith("**A ceiling, no method**: Ceiling: SFT's traces, perfect painter: its traces, painted")
        assert ("This scale has none" in note) == absent


def test_a_training_table_needs_no_scores(study, tmp_path):
    for run, seed in (("unigrpo", 0), ("unigrpo", 1)):
        shutil.copytree(study / "runs" / run / f"seed{seed}", tmp_path / f"cpu/runs/{run}/seed{seed}")
    untrained = tmp_path / "cpu/runs/text_grpo/seed0"
    untrained.mkdir(parents=True)
    (untrained / "metrics.jsonl").touch()
    (untrained / "run.json").write_text('{"seed": 0, "collapsed": false, "not_trained": "its parent a collapsed (b)"}')
    for seed, gold in ((0, 0.25), (1, 0.75)):
        path = tmp_path / f"cpu/runs/unigrpo/seed{seed}/metrics.jsonl"
        log = [json.loads(line) for line in path.read_text().splitlines()]
        late = [row for row in log if row["kind"] == "validation"][-2:]
        late[0]["average_gold"], late[1]["average_gold"] = 0.0, gold
        write_jsonl(path, log)
    spec = {"kind": "training_cost", "runs": ["unigrpo", "text_grpo", "nft"]}
    frame, text = study_support.make_table(tmp_path / "cpu", tmp_path, spec)
    frame = frame.set_index("run")
    logs = [(study / f"runs/unigrpo/seed{seed}/metrics.jsonl").read_text().splitlines() for seed in (0, 1)]
    gold, rewards = (
        [[row[name] for row in map(json.loads, log) if row["kind"] == kind] for log in logs]
        for kind, name in (("validation", "gold"), ("train", "proxy"))
    )
    expected = {
        "seeds": 2,
        "rollouts": 12,
        "model_evaluations": 1500,
        "images": 150,
        "wall_seconds": 15,
        "collapsed": 0,
        "gold_first": np.mean([g[0] for g in gold]),
        "gold_best": np.mean([max(g) for g in gold]),
        "gold_last": np.mean([g[-1] for g in gold]),
        "average_last": np.mean([0.25, 0.75]),
        "training_first": np.mean([r[:10] for r in rewards]),
        "training_last": np.mean([r[-10:] for r in rewards]),
    }
    assert frame.loc["unigrpo", list(expected)].astype(float).to_dict() == pytest.approx(expected, abs=1e-4)
    assert frame.loc["text_grpo", "seeds"] == frame.loc["nft", "seeds"] == 0
    assert np.isnan(frame.loc["text_grpo", "gold_first"]) and np.isnan(frame.loc["text_grpo", "images"])
    assert "**Not trained**: text_grpo, seed 0: its parent a collapsed (b)." in text
    assert [line.count("not available") for line in text.splitlines() if line.startswith("| nft")] == [13]
    assert "Scale `cpu`" in text and "guidance\n" not in text.splitlines()[0]


def test_a_later_stage_costs_what_all_stages_did(tmp_path):
    """SFT -> a (2 seeds) -> b: b's cost is a's and its own, by seed; c goes on from b at one seed."""
    spent = {"sft": [(None, 50)], "a": [(100, 10), (300, 30)], "b": [(7, 1), (9, 3)], "c": [(1000, 100)]}
    parents = {"sft": "base", "a": "sft", "b": "a", "c": "b"}
    for run, seeds in spent.items():
        for seed, (images, seconds) in enumerate(seeds):
            config = {"stage": "sft" if run == "sft" else "rl", "init": parents[run]}
            record = {"run": run, "seed": seed, "wall_seconds": seconds, "images": images, "config": config}
            write_json(tmp_path / f"runs/{run}/seed{seed}/run.json", record)
    sources = results.Sources(None, None, results.Folder(tmp_path))
    cost = {run: [sources.cost(run)[key] for key in ("images", "wall_seconds")] for run in spent}
    assert cost == {"sft": [None, 50], "a": [200, 20], "b": [(107 + 309) / 2, 22], "c": [1107, 111]}


def test_a_bad_training_record_is_named(study, tmp_path):
    log = tmp_path / "cpu/runs/a/seed0/metrics.jsonl"
    write_jsonl(log, [{"kind": "validation", "gold": 0.5, "proxy": 0.5}, {"kind": "train", "proxy": None}])
    with pytest.raises(UserError, match="metrics.jsonl, line 2: 'proxy' must be a number, found None"):
        study_support.make_table(tmp_path / "cpu", tmp_path, {"kind": "training_cost", "runs": ["a"]})
    with pytest.raises(UserError, match="cpu/scores.csv: cannot be read .*, expected a text"):
        unigrpo(f"table t --kind main --row a --results {tmp_path}/cpu")


@pytest.mark.parametrize("change, found", [({"seed": 1}, "base, seed 1"), ({"run": "sft"}, "sft, seed 0")])
def test_the_record_of_another_run_or_seed_is_refused(study, tmp_path, change, found):
    """A folder that was copied to another's place would show the one's cost beside the other's scores."""
    shutil.copytree(study / "runs/base/seed0", tmp_path / "runs/base/seed0")
    path = tmp_path / "runs/base/seed0/run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=f"run.json: expected base, seed 0, found {found}$"):
        results.Folder(tmp_path).records("base")


def test_a_row_with_another_mode_is_refused(study, tmp_path):
    with pytest.raises(UserError, match="--row: expected RUN, RUN:yes or RUN:no, got 'maybe' behind the colon"):
        unigrpo(f"table t --kind main --row base:maybe --results {study} --out {tmp_path}")


@pytest.mark.parametrize("words", ["table scores --out {0}", "table ../scores", "table paper --out {0}"])
def test_no_table_is_written_over_what_it_is_made_from(words, study, tmp_path):
    root = tmp_path / "cpu"
    shutil.copytree(study, root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="is what it is made from, expected another name or --out"):
        unigrpo(f"{words.format(root)} --kind main --row a --results {root} --paper {root}/paper.csv")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before


def test_tables_need_scores_only(study, tmp_path):
    bare = tmp_path / "cpu"
    bare.mkdir()
    for name in ("scores.csv", "paper.csv"):
        (bare / name).write_bytes((study / name).read_bytes())
    frame, text = make_table(bare, tmp_path, {"kind": "main", "rows": ROWS})
    full, _ = make_table(study, tmp_path, {"kind": "main", "rows": ROWS})
    assert frame["geneval_hi"].tolist() == full["geneval_hi"].tolist()
    assert "Protocol: not available" in text and np.isnan(frame["model_evaluations"]).all()


@pytest.mark.parametrize("kind", ["table", "compare"])
def test_code_mixtures_are_pointed_out(study, tmp_path, kind):
    """By module and run: those that two runs share, and those that have changed since; other files say nothing."""
    steps, now = study / "steps", code_identity.hash_of(Path(advantages.__file__))
    shared, own = "unigrpo.objectives.advantages", "unigrpo.objectives.matching"
    steps.mkdir()

    def made(run, **code):
        row = {"settings": {}, "inputs": {}, "outputs": {}, "code": code}
        (steps / f"train.{run}.0.jsonl").unlink(missing_ok=True)
        (steps / f"train.{run}.0.jsonl").write_text(json.dumps({"made": row}) + "\n")

    def text():
        if kind == "table":
            return make_table(study, tmp_path, {"kind": "main", "rows": ROWS})[1]
        a, b = (results.Row(run, "yes", "tuned") for run in ("sft", "unigrpo"))
        sources = sources_of(study, study / "scores.csv", study / "paper.csv")
        return compare.markdown(a, b, compare.compare(a, b, sources), sources)

    try:
        made("sft", **{shared: now})
        made("unigrpo", **{shared: now, own: code_identity.hash_of(Path(matching.__file__))})
        assert "code**" not in text()
        made("sft", **{shared: "another"})
        assert "**Mixed code**: `advantages` was another one for SFT, seed 0 than for the other runs." in text()
        assert "**Older code**: `advantages` has changed since SFT, seed 0 was made." in text()
        both = {shared: "another", own: "another"}
        made("sft", **both)
        assert "**Older code**: `advantages`, `matching` have changed since SFT, seed 0 was made." in text()
        later = steps / "score.sft.0.jsonl"
        later.write_text((steps / "train.sft.0.jsonl").read_text().replace("another", "a third one"))
        made("unigrpo", **both)
        later.with_name("score.unigrpo.0.jsonl").write_text(later.read_text())
        assert "**Mixed code**" not in text()  # both were trained by one, and judged by another
    finally:
        shutil.rmtree(steps)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("table t --kind pie --row base", "--kind: no kind of table is called 'pie'; known: .*main"),
        ("figure t --kind pie --row base", "--kind: no kind of figure is called 'pie'; known: .*curves"),
        ("table t --kind main", "expected --kind and --row, or neither"),
        ("table tabel1", "tables.tabel1: no such entry; did you mean table1"),
        ("table table1 --scale smok", "--scale smok: no such file in .*; did you mean smoke"),
        ("figure t --kind marked_traces --row base --row sft", "--row.runs: expected at most 1, got base, sft"),
    ],
)
def test_bad_requests_are_named(words, message):
    with pytest.raises(UserError, match=message):
        unigrpo(words)


def test_every_kind_is_listed(capsys):
    assert unigrpo("kinds") == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} (" in listed for door in (TABLES, FIGURES) for name in door.names())


# --------------------------------------------------------------------------------------- figures


def make_figure(study, tmp_path, spec):
    sources = study_support.sources_of(study, study / "scores.csv", study / "paper.csv")
    drawing.write("f", spec, sources, tmp_path / "figures")
    for suffix in ("png", "pdf"):
        assert (tmp_path / "figures" / f"f.{suffix}").stat().st_size > 5000
    return pd.read_csv(tmp_path / "figures" / "f.csv")


def test_curves_csv_holds_every_point(study, tmp_path):
    data = make_figure(study, tmp_path, {"kind": "curves", "runs": ["unigrpo", "sft"]})
    rows = [json.loads(r) for r in (study / "runs/unigrpo/seed1/metrics.jsonl").read_text().splitlines()]
    found = data[(data["run"] == "unigrpo") & (data["seed"] == 1)]
    for kind, metric in (("train", "proxy"), ("validation", "gold")):
        part = found[(found["kind"] == kind) & (found["metric"] == metric)]
        expected = [(r["update"], r[metric]) for r in rows if r["kind"] == kind]
        assert part["update"].tolist() == [u for u, _ in expected]
        assert part["value"].tolist() == pytest.approx([v for _, v in expected], rel=1e-4)


def add_fates(study, folder):
    """A copy of the study in which one seed of UniGRPO collapsed and TextGRPO was not trained."""
    shutil.copytree(study, folder, ignore=shutil.ignore_patterns("samples"))
    fallen, untrained = folder / "runs/unigrpo/seed1", folder / "runs/text_grpo/seed0"
    lines = (fallen / "metrics.jsonl").read_text().splitlines(keepends=True)
    (fallen / "metrics.jsonl").write_text("".join(lines[:10]))
    (fallen / "run.json").write_text('{"seed": 1, "collapsed": true, "collapse": "rollout 7: x"}')
    untrained.mkdir(parents=True)
    (untrained / "metrics.jsonl").touch()
    (untrained / "run.json").write_text('{"seed": 0, "collapsed": false, "not_trained": "its parent a collapsed (b)"}')
    return folder


def drawn(kind, spec, folder):
    """The figure before it is saved, with the words in its first panel."""
    sources = study_support.sources_of(folder, folder / "scores.csv", folder / "paper.csv")
    figure, _ = drawing.draw({"kind": kind, **spec}, sources)
    plt.close(figure)
    return figure, [text.get_text() for text in figure.axes[0].texts]


def test_training_is_drawn_as_long_as_every_seed_goes_on(study, tmp_path):
    folder = add_fates(study, tmp_path / "cpu")
    runs = {"runs": ["unigrpo", "text_grpo"]}
    figure, words = drawn("progress", runs, folder)
    assert words == ["UniGRPO (1 of 3 collapsed)", "text_grpo (1 of 1 not trained)"]
    line, cross = figure.axes[0].lines[:2]
    assert line.get_xdata().tolist() == [0, 300, 600]  # of validations at 0, 300, 600 and 900 images
    assert cross.get_marker() == "x" and cross.get_xdata()[0] == 600
    data = make_figure(folder, tmp_path, {"kind": "progress", **runs})
    assert set(data["run"]) == {"unigrpo"} and set(data["metric"]) == {"gold"} and data["images"].max() == 900
    figure, _ = drawn("curves", runs, folder)
    assert "collapsed" in [text.get_text() for text in figure.legends[0].texts]
    assert [line.get_marker() for line in figure.axes[0].lines].count("x") == 1


def test_labels_are_moved_apart_in_order():
    heights = [0.5, 0.52, 0.99, 1.0, 0.0]
    placed = progress.spread(heights, 0.1)
    assert np.argsort(placed).tolist() == np.argsort(heights).tolist()
    assert np.diff(np.sort(placed)).min() > 0.0999 and placed.max() <= 1 and placed[4] == 0
    assert progress.spread([0.2, 0.8], 0.1).tolist() == [0.2, 0.8]


def test_category_dots_agree_with_the_table(study, tmp_path):
    data = make_figure(study, tmp_path, {"kind": "dots", "categories": CATEGORIES, "runs": ["base", "unigrpo"]})
    data = data.set_index(["run", "thinking", "metric"])
    table, _ = make_table(study, tmp_path, {"kind": "categories", "rows": ROWS}, "table2")
    for tag in CATEGORIES:
        ours = data.loc[("unigrpo", "yes", tag), ["value", "lo", "hi"]].tolist()
        assert ours == pytest.approx(table.iloc[2][[tag, f"{tag}_lo", f"{tag}_hi"]].tolist(), abs=1e-4)
    assert data.loc[("unigrpo", "yes", "paper_counting"), "value"] == 0.91


@pytest.mark.parametrize("shown", [{}, {"categories": CATEGORIES}])
def test_a_row_of_the_paper_that_was_not_scored_stays_visible(study, tmp_path, shown):
    folder = tmp_path / "cpu"
    shutil.copytree(study, folder, ignore=shutil.ignore_patterns("samples"))
    (folder / "paper.csv").write_text(PAPER_FILE.read_text())
    figure, words = drawn("dots", shown | {"runs": ["base", "unifpo", "text_grpo"]}, folder)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["Base", "Base, thinking", "unifpo, thinking", "text_grpo, thinking"]
    assert sorted(words) == ["ours: not available", "ours: not available", "paper: collapsed"]


def test_figures_are_reproducible(study, tmp_path):
    files = []
    for _ in range(2):
        make_figure(study, tmp_path, {"kind": "curves", "runs": ["unigrpo"]})
        files.append([(tmp_path / "figures" / f"f.{suffix}").read_bytes() for suffix in ("png", "pdf")])
    assert files[0] == files[1]


def test_grid_shows_the_same_prompts_for_every_run_with_traces(study, tmp_path):
    wanted = ["counting", "position", "compound", "compound"]
    data = make_figure(study, tmp_path, {"kind": "grid", "categories": wanted, "runs": ["base", "unigrpo"]})
    by_run = [data[data["run"] == run]["prompt_id"].tolist() for run in ("base", "unigrpo")]
    assert by_run[0] == by_run[1]
    assert [prompt.split("/")[0] for prompt in by_run[0]] == wanted
    assert len(set(by_run[0])) == len(by_run[0])
    assert data["trace"].str.contains("red circle upper-left").all()
    odd = data["prompt_id"].str.endswith("/000") & ~data["prompt_id"].str.startswith("compound")
    assert data["disputed"].tolist() == odd.tolist()
    scored = {
        r["prompt_id"]: r
        for r in raw(study, "base", 0)
        if (r["mode"], r["guidance"], r["sample"]) == ("think", "tuned", 0)
    }
    for _, row in data[data["run"] == "base"].iterrows():
        metrics = scored[row["prompt_id"]]["metrics"]
        assert row["correct"] == (metrics.get("official", metrics.get("ta")) == 1)


def test_many_prompts_of_a_grid_stand_in_bands(study):
    spec = {"kind": "grid", "categories": ["counting", "position", "compound"] * 3, "runs": ["base", "unigrpo"]}
    figure, data = drawing.draw(spec, sources_of(study))
    drawing.plt.close(figure)
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == len(data) == 18 and len({round(axis.get_position().y0, 6) for axis in shown}) == 4
    titles = [axis.get_title() for axis in shown]
    assert sum(map(bool, titles)) == 9 and {axis.get_ylabel() for axis in shown} == {"", "Base", "UniGRPO"}
    said = [" ".join(title.split()) for title in titles if title]
    assert said == [prompt.removeprefix("a photo of ") for prompt in data[data["run"] == "base"]["prompt"]]


def test_dots_csv_agrees_with_the_table(study, tmp_path):
    data = make_figure(study, tmp_path, {"kind": "dots", "runs": ["base", "unigrpo"]}).set_index(
        ["run", "thinking", "metric"]
    )
    table, _ = make_table(study, tmp_path, {"kind": "main", "rows": ROWS})
    uni = table.iloc[2]
    assert data.loc[("unigrpo", "yes", "official"), ["value", "lo", "hi"]].tolist() == pytest.approx(
        uni[["geneval", "geneval_lo", "geneval_hi"]].tolist(), abs=1e-4
    )
    assert data.loc[("unigrpo", "yes", "paper_ta"), "value"] == 0.8381
    assert ("base", "yes", "paper_ta") not in data.index  # no such row in this paper file


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"kind": "curves", "runs": ["text_grpo"]}, "text_grpo: no seed folder"),
        ({"kind": "grid", "runs": ["text_grpo"]}, "text_grpo: no images"),
        ({"kind": "dots", "runs": ["text_grpo"]}, "none of the runs text_grpo is scored"),
    ],
)
def test_bad_figures_are_named(study, tmp_path, spec, message):
    with pytest.raises(UserError, match=message):
        make_figure(study, tmp_path, spec)


def test_reports_never_import_torch():
    code = "import sys; import unigrpo.commands.reporting; from unigrpo.report.claims import outcomes\n"
    code += "from unigrpo.report.pages import compare, drawing, gallery, page\n"
    code += "outcomes.write, compare.compare, gallery.make, drawing.draw, page.write\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_reading_the_facts_of_kinds_loads_no_library():
    """The workflow reads them whenever it is parsed."""
    code = """
import sys
from unigrpo.study.facts import FIGURES, TABLES
for door in (TABLES, FIGURES):
    for name in door.names():
        door.load(name)
loaded = {"numpy._core", "pandas.core", "matplotlib.figure", "scipy.stats", "PIL.Image", "torch.nn"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_folders_of_judged_images_are_collected_and_a_table_of_nothing_is_refused(tmp_path):
    row = {"benchmark": "mean_reward", "version": "1", "mode": "direct", "guidance": "as given", "tag": "", "sample": 0}
    row |= {"prompt_id": "a cup", "prompt": "a cup", "metrics": {"jpeg": -1.5}, "reason": ""}
    for name in ("a", "b/seed1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "images.jsonl").write_text(json.dumps(row) + "\n")
    results.collect([f"a={tmp_path}/a", f"b={tmp_path}/b/seed1"], tmp_path / "scores.csv")
    table = pd.read_csv(tmp_path / "scores.csv")
    assert table[["run", "seed", "value"]].to_numpy().tolist() == [["a", 0, -1.5], ["b", 1, -1.5]]
    with pytest.raises(UserError, match=r"--row: none is scored, .* a \(mean_reward, direct, as given\)"):
        unigrpo(
            f"table t --kind main --row a:no --scores {tmp_path}/scores.csv --results {tmp_path} --out {tmp_path}/t"
        )
