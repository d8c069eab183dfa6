"""The paper's claims as checks: the rule on made-up intervals, the outcomes on a study whose levels are known."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from tests._support.study import LABELS, flat_course, score_rows, sources_of, write_jsonl, write_validations
from unigrpo.core.errors import UserError
from unigrpo.report.claims import outcomes, rule
from unigrpo.report.claims.outcomes import CHECKS, FAILS, HOLDS, OPEN
from unigrpo.report.claims.rule import NO, UNDECIDED, YES
from unigrpo.report.data import results
from unigrpo.report.data.results import Folder
from unigrpo.study.catalogue import READS, load_catalogue

LEVELS = {  # run -> share of right images with thinking, seeds; without thinking it is 0.1 less
    "base": (0.1, 1), "sft": (0.6, 4), "flow_grpo": (0.6, 4), "text_grpo": (0.6, 4), "unigrpo": (0.95, 4),
    "refl": (0.5, 4), "refl_thinking": (0.3, 4), "refl_thinking_text_grpo": (0.65, 4), "fpo": (0.5, 4),
    "unifpo": (0.2, 4), "unigrpo_cfg": (0.6, 4),
}  # fmt: skip
GOLD = {  # run -> gold, the proxy and pictures that follow their trace at four validations
    "unifpo": (0.5, 0.7, 0.6, 0.5), "unigrpo": (0.5, 0.6, 0.7, 0.7), "unigrpo_cfg": (0.5, 0.6, 0.7, 0.7),
    "flow_grpo_thinking": (0.5, 0.6, 0.6, 0.6),
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """All rows of the paper, far apart; UniFPO falls and collapsed at all seeds; guided rollouts cost twice as much."""
    root, rng = tmp_path_factory.mktemp("study") / "cpu", np.random.default_rng(0)
    for run, levels in GOLD.items():
        write_course(root, run, levels)
    for run, (level, seeds) in LEVELS.items():
        for seed in range(seeds):
            modes = [("think", level), ("direct", level - 0.1)]
            rows = [row for mode, share in modes for row in score_rows(mode, "tuned", share, rng, 30)]
            folder = record(root, run, seed)
            write_jsonl(folder / "scores.jsonl", rows)
            if run not in GOLD:
                stage = run if run in ("base", "sft") else "rl"
                config = {"label": LABELS.get(run, run), "backbone": "world", "stage": stage}
                (folder / "config.json").write_text(json.dumps(config))
    for seed in range(4):
        record(root, "unifpo", seed, collapsed=True, collapse="rollout 3: the images are not finite")
        record(root, "unigrpo", seed, images=100, model_evaluations=1000)
        record(root, "unigrpo_cfg", seed, images=100, model_evaluations=2000)
        for run, reward in (("unigrpo", 0.5), ("unigrpo_cfg", 0.6)):
            write_rewards(root, run, seed, [reward] * 12)
    places = [f"{run}={root}/runs/{run}/seed{seed}" for run, (_, seeds) in LEVELS.items() for seed in range(seeds)]
    results.collect(places, root / "scores.csv")
    write_long(root)
    return root


def write_course(root, run, levels, seeds=4):
    values = flat_course(seeds, gold=levels, proxy=levels, image_given_trace=levels, artefact=[0.0] * len(levels))
    write_validations(root, run, values, label=LABELS.get(run, run))


COURSES = {  # run -> settings, levels of four validations
    "long_none": ({"regulariser": "none"}, {"gold": (0.6, 0.7, 0.55, 0.4), "proxy": (0.5, 0.6, 0.7, 0.8)}),
    "long_kl": (
        {"regulariser": "latent_kl", "latent_kl_weight": 20},
        {"gold": (0.6, 0.65, 0.6, 0.5), "proxy": (0.5, 0.55, 0.6, 0.6)},
    ),
    "long_kl_other_1": (
        {"regulariser": "latent_kl", "latent_kl_weight": 1},
        {"gold": (0.6, 0.65, 0.6, 0.4), "proxy": (0.5, 0.6, 0.7, 0.79), "artefact": (0.001, 0.001, 0.001, 0.001)},
    ),
    "long_mse": ({"regulariser": "velocity_mse"}, {"gold": (0.6, 0.65, 0.7, 0.7), "proxy": (0.5, 0.6, 0.6, 0.6)}),
    "long_mse_less": (
        {"regulariser": "velocity_mse", "velocity_mse_weight": 0.5},
        {"gold": (0.6, 0.65, 0.66, 0.66), "proxy": (0.5, 0.6, 0.7, 0.7)},
    ),
    "long_kl_less": (
        {"regulariser": "latent_kl", "latent_kl_weight": 5},
        {"gold": (0.6, 0.6, 0.45, 0.45), "proxy": (0.5, 0.6, 0.66, 0.66)},
    ),
}
DRIFTS = {"long_mse": 0.01, "long_mse_less": 0.1, "long_kl": 0.01, "long_kl_less": 0.08}


def write_long(root, seeds=4, **changed):
    """The long runs, with some levels of some runs changed; the sweep's other weight at one seed."""
    for run, (rl, levels) in COURSES.items():
        levels = {"artefact": (0.001, 0.005, 0.01, 0.02)} | levels | changed.get(run, {})
        values = flat_course(seeds=1 if "other" in run else seeds, **levels)
        log = [{"kind": "validation", "update": u, "drift": DRIFTS.get(run, 1.0)} for u in (0, 20, 40, 60)]
        label = run.replace("long_", "Long ")
        write_validations(root, run, values, rl=rl, label=label, logs=[log] * len(values["gold"]))
    return root


def write_rewards(root, run, seed, rewards):
    rows = [{"kind": "train", "rollout": k, "proxy": reward} for k, reward in enumerate(rewards)]
    write_jsonl(root / "runs" / run / f"seed{seed}" / "metrics.jsonl", rows)


def record(root, run, seed, **facts):
    folder = root / "runs" / run / f"seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    known = {"run": run, "seed": seed, "source_hash": "h", "collapsed": False}
    (folder / "run.json").write_text(json.dumps(known | facts))
    return folder


@pytest.fixture(scope="module")
def entries(root):
    """The catalogue's, with these long runs."""
    shipped = load_catalogue(root / "pipelines/experiments.yaml")["claims"]
    runs = {"C7": ["long_none"], "C8": ["long_none", "long_kl", "long_kl_other_1"]}
    runs |= {"C9": ["long_mse", "long_mse", "long_mse_less", "long_none", "long_kl", "long_kl_less"]}
    return shipped | {name: shipped[name] | {"runs": named} for name, named in runs.items()}


@pytest.fixture
def check(entries):
    def check(study, out, scores=None):
        """claims.csv by id, and the text of claims.md."""
        outcomes.write(entries, sources_of(study, scores or study / "scores.csv"), out)
        return pd.read_csv(out / "claims.csv").set_index("id"), (out / "claims.md").read_text()

    return check


def without(study, tmp_path, run):
    """The study's scores.csv without one run."""
    frame = pd.read_csv(study / "scores.csv")
    frame[frame["run"] != run].to_csv(tmp_path / "scores.csv", index=False)
    return tmp_path / "scores.csv"


def test_the_catalogue_says_what_is_designed_in_and_what_one_comparison_decides(entries):
    assert list(entries) == [f"C{number}" for number in range(1, 14)]
    assert [name for name, entry in entries.items() if entry.get("designed")] == ["C3", "C7", "C10", "C12"]
    verdict_of = {name: CHECKS[entry["check"]][1] for name, entry in entries.items()}
    odd = {"C8": rule.any_one, "C10": rule.not_every_one}
    assert verdict_of == {name: odd.get(name, rule.every_one) for name in entries}


# --------------------------------------------------------------------------------------- outcomes


def test_outcomes_of_a_study_with_known_levels(study, tmp_path, check):
    frame, text = check(study, tmp_path)
    assert [*frame.columns] == ["claim", "effect", "lo", "hi", "n", "verdict", "comparisons", "kind", "why"]
    assert frame["verdict"].drop("C10").unique().tolist() == ["holds"]
    assert frame.loc["C10", "verdict"] in (FAILS, OPEN)  # thinking gains 0.1 in both rows
    assert frame.loc["C4", "effect"] == pytest.approx(0.15, abs=0.01) and frame.loc["C4", "n"] == 4  # prompts of a seed
    assert frame.loc["C12", ["effect", "n"]].tolist() == [0.5, 4] and pd.isna(frame.loc["C12", "lo"])
    assert frame.loc["C3", "n"] in (120, 720)  # four seeds of SFT; prompts of TA or of GenEval
    assert frame.loc["C13", "effect"] == pytest.approx(0.1, abs=0.01)
    comparisons = text.split("## All comparisons")[1].splitlines()
    shown = {name: sum(line.startswith(f"| {name} ") for line in comparisons) for name in frame.index}
    few = {"C4": 5, "C5": 2, "C6": 1, "C7": 3, "C8": 3, "C9": 4, "C10": 4, "C11": 4, "C12": 1, "C13": 1}
    assert shown == {"C1": 28, "C2": 6, "C3": 4} | few
    assert frame.loc["C1", "comparisons"] == "28 of 28 comparisons"
    assert "n = 14 rows" in text  # UniFPO has no numbers in the paper
    assert "**Collapsed**: unifpo, seed 0: rollout 3" in text
    assert "GenEval: UniGRPO, thinking − FlowGRPO" in text and "4 seeds × 180 prompts" in text


def test_ties_and_what_lies_behind_are_named(study, tmp_path, outcome):
    """UniGRPO with the scores of the two stages: with the same as FlowGRPO a tie, and TextGRPO far ahead."""
    frame = pd.read_csv(study / "scores.csv")
    frame = frame[~frame["run"].isin(("text_grpo", "unigrpo"))].replace({"run": {"refl_thinking_text_grpo": "unigrpo"}})
    ahead = pd.read_csv(study / "scores.csv").query("run == 'unigrpo'").assign(run="text_grpo")
    pd.concat([frame, ahead]).to_csv(tmp_path / "scores.csv", index=False)
    found = outcome("C2", study, tmp_path / "scores.csv")
    names = [f.short for f in found.findings if f.answer == UNDECIDED]
    ties = f"; ties: {', '.join(names)}" if names else ""
    behind = [f.short for f in found.findings if f.answer == NO]
    assert {"TA: TextGRPO, thinking", "GenEval: TextGRPO, thinking"} <= {*behind} and found.verdict == FAILS
    yes = 6 - len(names) - len(behind)
    assert found.count == f"{yes} of 6 comparisons{ties}; no: {', '.join(behind)}"


def test_thinking_is_compared_without_position_too(study, outcome):
    """Not counted, over the prompts of the other five categories."""
    found = outcome("C10", study, study / "scores.csv").findings
    assert [f.counted for f in found] == [True, False] * 2 and [f.e.prompts for f in found] == [180, 150] * 2
    frame = pd.read_csv(study / "scores.csv").query("run == 'base' and metric == 'official' and tag != 'position'")
    means = frame.groupby(["mode", "tag"])["value"].mean().groupby("mode").mean()
    assert found[1].e.mean == pytest.approx(means["think"] - means["direct"])


def test_the_effect_of_a_claim_is_that_of_its_weakest_comparison(study, tmp_path, check):
    frame, text = check(study, tmp_path)
    shown = [line.split("|") for line in text.split("## All comparisons")[1].splitlines() if line.startswith("| C2 ")]
    effects = [float(cells[3].split("[")[0]) for cells in shown]
    assert len(effects) == 6 and frame.loc["C2", "effect"] == pytest.approx(min(effects), abs=1e-3)


def test_a_missing_row_is_named(study, tmp_path, check):
    frame, text = check(study, tmp_path, without(study, tmp_path, "text_grpo"))
    for claim in ("C1", "C2"):
        assert frame.loc[claim, "verdict"] == "not available: TextGRPO, thinking" and pd.isna(
            frame.loc[claim, "effect"]
        )
    assert frame.loc["C3", "verdict"] == "holds"
    assert "| not available: TextGRPO, thinking " in text and "n = 13 rows" in text


@pytest.mark.parametrize(("moved", "verdict"), [(1, (OPEN, "holds (one")), (7, "not available: a seed that")])
def test_the_seed_that_is_left_of_a_reinforced_run_does_not_stand_for_all(study, tmp_path, moved, verdict, check):
    frame = pd.read_csv(study / "scores.csv")
    frame = frame[(frame["run"] != "refl_thinking_text_grpo") | (frame["seed"] == 1)]
    frame.loc[frame["run"] == "refl_thinking_text_grpo", "seed"] = moved
    frame.to_csv(tmp_path / "scores.csv", index=False)
    found, text = check(study, tmp_path, tmp_path / "scores.csv")
    assert found.loc["C11", "verdict"].startswith(verdict)
    shown = [line for line in text.split("## All comparisons")[1].splitlines() if line.startswith("| C11 ")]
    assert all(("1 seed × " if moved == 1 else "not available") in line for line in shown)


def test_a_verdict_that_rests_on_one_training_says_so(study, tmp_path, check):
    """Base is one for all, SFT is not. One run of three is enough where a claim needs every comparison."""
    frame = pd.read_csv(study / "scores.csv")
    for some, alone in ((frame["seed"] == 0, ["C1", "C2", "C3", "C5", "C11"]),
                        ((frame["run"] != "flow_grpo") | (frame["seed"] == 0), ["C1", "C2"])):  # fmt: skip
        frame[some].to_csv(tmp_path / "scores.csv", index=False)
        found, text = check(study, tmp_path, tmp_path / "scores.csv")
        said = found["verdict"].str.endswith(" (one replicate)")
        assert said[said].index.tolist() == alone
    assert "a verdict that turns on such a comparison says" in " ".join(text.split())


def test_one_prompt_decides_nothing(study, tmp_path):
    frame = pd.read_csv(study / "scores.csv")
    frame[frame["prompt_id"] == "compound/000"].to_csv(tmp_path / "scores.csv", index=False)
    sources = sources_of(study, tmp_path / "scores.csv").of({"benchmarks": ["ta"]})
    (found,) = outcomes.answered(outcomes.differences([(("unigrpo", "yes"), ("base", "no"))], sources))
    assert (found.answer, found.e.lo, found.e.hi, found.e.prompts, found.margin) == (UNDECIDED, None, None, 1, 0)
    assert found.shown.endswith(" (one prompt)") and found.shown[0] in "+-"


def test_images_of_one_seed_beside_four_trainings_are_one_replicate(study, tmp_path):
    """Base, from which all start, is not; images that another program made are."""
    sources = sources_of(study, study / "scores.csv").of({"benchmarks": ["ta"]})
    pair = [(("unigrpo", "yes"), ("base", "no"))]
    (found,) = outcomes.differences(pair, sources)
    assert (found.e.seeds, found.replicates) == (4, 4)
    (path,) = (study / "runs/base").glob("seed0/config.json")
    text = path.read_text()
    try:
        path.write_text(text.replace('"stage": "base"', '"stage": "outside"'))
        assert outcomes.differences(pair, sources)[0].replicates == 1
    finally:
        path.write_text(text)


def test_scores_alone_leave_counts_of_training_unavailable(study, tmp_path, check):
    frame, _ = check(tmp_path / "nothing", tmp_path, study / "scores.csv")
    assert frame.loc["C12", "verdict"] == "not available: unigrpo; unigrpo_cfg"
    assert frame.loc["C2", "verdict"] == "holds"
    lacking = {"C4": "unifpo", "C6": "unigrpo_cfg, unigrpo", "C7": "long_none", "C8": "long_none, long_kl"}
    for claim, runs in lacking.items():
        assert frame.loc[claim, "verdict"] == f"not available: validations of {runs}"


def test_what_is_missing_is_said_briefly_and_with_the_call_that_makes_it(tmp_path):
    """Of many runs a few; the group whose table trains them all, unless the default tables do."""
    names = [f"r{i}" for i in range(5)]
    lines = {name: {"label": name.upper(), "init": None} for name in names}
    tables = {"far": {"kind": "training_cost", "group": "far", "runs": names}}
    catalogue = {"runs": lines, "tables": tables, "figures": {}, "benchmarks": {}}
    study = SimpleNamespace(catalogue=catalogue, runs=lambda: names, config=lambda *_: {})
    sources = replace(sources_of(tmp_path), folder=Folder(tmp_path, study))
    compare, _ = CHECKS["hacked"]
    (found,) = compare(names, sources)
    call = ", made by `unigrpo reproduce --group far`"
    assert found.missing == (f"validations of R0, R1, R2 and 2 more{call}",)
    tables["near"] = {"kind": "training_cost", "runs": names}
    assert compare(names[:2], sources)[0].missing == ("validations of R0, R1",)


@pytest.mark.parametrize(
    ("gold", "verdict", "effects"),
    [
        ((0.5, 0.7, 0.6, 0.5), HOLDS, 0.15),  # the end is the mean of the last two
        ((0.5, 0.6, 0.7, 0.7), FAILS, 0.0),
        ((0.5, 0.7, 0.68, 0.68), FAILS, 0.02),  # less than an eighth of the rise
    ],
)
def test_convergence_is_read_at_every_replicate(tmp_path, gold, verdict, effects, outcome):
    write_course(tmp_path, "unifpo", gold)
    found = outcome("C4", tmp_path)
    assert found.verdict == verdict
    *each, collapsed = found.findings
    assert [f.e.mean for f in each] == pytest.approx([effects] * 4, abs=0.005) and {f.e.seeds for f in each} == {1}
    assert (collapsed.e.mean, collapsed.said) == (0, "no, not counted")


def test_one_replicate_that_keeps_its_gold_denies_that_a_run_does_not_converge(tmp_path, outcome):
    values = flat_course(4, gold=(0.5, 0.7, 0.6, 0.5), proxy=[0.5] * 4, artefact=[0.0] * 4)
    values["gold"][3, 2:] += 0.15
    write_validations(tmp_path, "unifpo", values)
    found = outcome("C4", tmp_path)
    assert [f.answer for f in found.findings] == [YES, YES, YES, NO, NO] and found.verdict == FAILS
    assert found.count == "3 of 4 comparisons; no: seed 3"


@pytest.mark.parametrize(("fates", "share"), [((0, 0), 0), ((1, 0), 0.5), ((1, 1), 1)])
def test_collapse_is_shown_beside_convergence(tmp_path, fates, share, outcome):
    write_course(tmp_path, "unifpo", GOLD["unifpo"], seeds=2)
    for seed, fell in enumerate(fates):
        record(tmp_path, "unifpo", seed, collapsed=bool(fell))
    found = outcome("C4", tmp_path)
    assert (found.findings[-1].e.mean, found.findings[-1].counted) == (share, False)


def test_the_page_holds_what_the_markdown_does(study, tmp_path, check):
    _, text = check(study, tmp_path)
    html = (tmp_path / "claims.html").read_text()
    assert html.count("<h2>") == text.count("\n## ") and html.count("<li>") == text.count("\n* ")
    assert html.count("<tr") == sum(line.startswith("| C") for line in text.splitlines()) + 2


# --------------------------------------------------------------------------------------- training itself


@pytest.fixture
def outcome(entries):
    def outcome(claim, root, scores=None):
        """One claim alone, from the runs in ``root``."""
        return outcomes.check({claim: entries[claim]}, sources_of(root, scores))[0]

    return outcome


def test_without_guidance_must_lose_nothing_that_matters(study, tmp_path, outcome):
    frame = pd.read_csv(study / "scores.csv")
    pair = frame[frame["run"].isin(("unigrpo", "unigrpo_cfg")) & frame["metric"].isin(("ta", "official"))]
    swapped = pair.replace({"run": {"unigrpo": "unigrpo_cfg", "unigrpo_cfg": "unigrpo"}})
    plain = pair[pair["run"] == "unigrpo"]
    equal = pd.concat([plain, plain.assign(run="unigrpo_cfg")])
    missing = "not available: UniGRPO, thinking; unigrpo_cfg, thinking"
    # equal on each of 30 prompts: a share of 0.11 of all could still differ (Tango), more than may be lost
    for scored, verdict in ((pair, HOLDS), (swapped, FAILS), (equal, OPEN), (pair[:0], missing)):
        scored.to_csv(tmp_path / "scores.csv", index=False)
        assert outcome("C5", study, tmp_path / "scores.csv").verdict == verdict


def test_training_rewards_are_paired_by_seed_and_rollout(tmp_path, outcome):
    """Seed 0 has two rollouts more, seed 7 only one of the runs: neither counts. The gain is 0.1 to 0.3."""
    for run in ("unigrpo", "unigrpo_cfg"):
        write_course(tmp_path, run, GOLD[run], seeds=2)
    gains = [0.0, 0.0, *np.linspace(0.1, 0.3, 10), 9, 9]
    for seed in (0, 1):
        prompts = np.random.default_rng(seed).random(14)
        write_rewards(tmp_path, "unigrpo", seed, prompts[: 14 - 2 * seed])
        write_rewards(tmp_path, "unigrpo_cfg", seed, (prompts + gains)[: 14 - 2 * seed])
    write_rewards(tmp_path, "unigrpo", 7, [0.0] * 12)
    record(tmp_path, "unigrpo", 7)
    found = outcome("C6", tmp_path)
    assert found.verdict == HOLDS and found.decisive.e.mean == pytest.approx(0.2)
    assert 0.1 < found.decisive.e.lo < 0.2 and found.decisive.basis == "2 seeds × 10 rollouts"
    for seed in (0, 1):
        write_rewards(tmp_path, "unigrpo_cfg", seed, prompts[:12])
        write_rewards(tmp_path, "unigrpo", seed, prompts[:12])
    assert outcome("C6", tmp_path).verdict == FAILS


def test_over_optimisation_is_a_rise_of_the_proxy_and_a_fall_of_gold(study, outcome):
    found = outcome("C7", study)
    assert {f.what: f.e.mean for f in found.findings} == pytest.approx(
        {
            "validation proxy of Long none: end − first": 0.25,
            "validation gold of Long none: peak − end": 0.225,
            "validation proxy of Long none: peak − end": 0.05,
        },
        abs=0.004,
    )
    assert [f.said for f in found.findings] == ["yes", "yes", "yes, not counted"]
    assert found.findings[0].margin == pytest.approx(0.1 / 8, abs=2e-4)
    assert found.verdict == HOLDS and found.decisive.basis == "4 seeds × 4 prompts"


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ({"gold": (0.6, 0.7, 0.7, 0.695)}, FAILS),  # gold does not fall
        ({"proxy": (0.5, 0.6, 0.5, 0.505)}, FAILS),  # the proxy does not rise, though it falls after a peak
        ({"gold": (0.6, 0.65, 0.7, 0.6755)}, OPEN),  # falls by the margin, give or take
    ],
)
def test_over_optimisation_may_be_absent(tmp_path, levels, verdict, outcome):
    assert outcome("C7", write_long(tmp_path, long_none=levels)).verdict == verdict


def test_one_seed_has_no_peak_chosen_on_others(tmp_path, outcome):
    write_long(tmp_path, seeds=1)
    assert outcome("C7", tmp_path).verdict == "not available: a second seed of Long none"
    assert outcome("C8", tmp_path).verdict == f"{HOLDS} (one replicate)"
    assert outcome("C9", tmp_path).verdict == "not available: a second seed of Long mse"


def test_a_latent_kl_counts_where_it_lowers_the_reward(study, outcome):
    found = outcome("C8", study)
    weak, strong = "Long kl_other_1", "Long kl"
    assert [(f.what, f.said) for f in found.findings] == [
        (f"validation proxy, end: Long none − {weak}", "no, not counted"),
        (f"validation proxy, end: Long none − {strong}", "yes, not counted"),
        (f"artefacts, share of the image: end − first, {strong} at weight 20", "yes"),
    ]
    assert [f.e.seeds for f in found.findings] == [1, 4, 4]
    assert found.verdict == HOLDS and found.decisive.e.mean == pytest.approx(0.014, abs=0.002)


CLEAN, LOW = {"artefact": (0.001, 0.002, 0.002, 0.002)}, {"proxy": (0.5, 0.5, 0.5, 0.5)}


@pytest.mark.parametrize(
    ("changed", "verdict", "effect"),
    [
        ({"long_kl": CLEAN}, FAILS, 0.001),
        # any weight will do, and the claim turns on it
        (
            {"long_kl": CLEAN, "long_kl_other_1": LOW | {"artefact": (0.0, 0.0, 0.0, 0.02)}},
            "holds (one replicate)",
            0.01,
        ),
        ({"long_kl": COURSES["long_none"][1]}, "not available: no latent KL lowered the reward clearly", None),
        ({"long_kl": {"artefact": (0.001, 0.002, 0.004, 0.0072)}}, OPEN, 0.005),  # by the margin, give or take
    ],
)
def test_a_latent_kl_may_keep_artefacts_out(tmp_path, changed, verdict, effect, outcome):
    found = outcome("C8", write_long(tmp_path, **changed))
    assert found.verdict == verdict
    assert (found.decisive.e and found.decisive.e.mean) == (effect and pytest.approx(effect, abs=0.002))


@pytest.mark.parametrize(
    ("changed", "verdict", "decided"),
    [
        ({}, HOLDS, "validation gold of Long mse: end − peak"),
        ({"long_mse": {"gold": (0.6, 0.8, 0.8, 0.7)}}, FAILS, "validation gold of Long mse: end − peak"),
        (
            {run: {"gold": (0.6, 0.65, 0.72, 0.72)} for run in ("long_kl", "long_kl_less")},
            FAILS,
            "validation gold at equal drift: Long mse − Long kl",
        ),
        ({"long_none": {"gold": (0.6, 0.65, 0.75, 0.75)}}, FAILS, "validation gold, end: Long mse − Long none"),
    ],
)
def test_velocity_mse_must_be_steady_and_best(tmp_path, changed, verdict, decided, outcome):
    found = outcome("C9", write_long(tmp_path, **changed))
    assert (found.verdict, found.decisive.what) == (verdict, decided)
    assert len(found.findings) == 4 and [f.gain for f in found.findings] == [False, True, True, True]


def test_at_equal_terms_the_lines_of_the_weights_are_compared(tmp_path, outcome):
    """At a proxy of 0.60 to 0.66 velocity MSE goes from 0.70 to 0.676, latent KL from 0.55 to 0.45; where it drifts by
    0.01 to 0.08 MSE goes to 0.664."""
    by_proxy, by_drift = outcome("C9", write_long(tmp_path)).findings[2:]
    assert by_proxy.e.mean == pytest.approx(0.688 - 0.5, abs=0.01)
    assert by_drift.e.mean == pytest.approx(0.682 - 0.5, abs=0.01)


def test_a_run_that_is_still_trained_says_nothing(tmp_path, outcome):
    (write_long(tmp_path) / "runs/long_mse/seed2/run.json").unlink()
    assert outcome("C9", tmp_path).verdict == "not available: validations of Long mse"
    assert outcome("C8", tmp_path).verdict == HOLDS


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ((0.5, 0.6, 0.7, 0.7), HOLDS),
        ((0.5, 0.6, 0.602, 0.602), FAILS),
        (None, "not available: image_given_trace of UniGRPO"),
    ],
)
def test_joint_training_must_follow_its_traces_better(tmp_path, levels, verdict, outcome):
    """0.002 is less than an eighth of the rise of 0.1; older validations do not say whether a picture follows."""
    write_course(tmp_path, "flow_grpo_thinking", GOLD["flow_grpo_thinking"])
    write_course(tmp_path, "unigrpo", levels or GOLD["unigrpo"])
    for path in tmp_path.glob("runs/unigrpo/*/validation/*.jsonl") if levels is None else ():
        path.write_text(path.read_text().replace("image_given_trace", "other"))
    assert outcome("C13", tmp_path).verdict == verdict


def test_a_run_that_the_catalogue_does_not_name_is_no_evidence(study, tmp_path, outcome):
    """A user's exploratory weight of the latent KL, which alone lets artefacts in, leaves C8 as it is."""
    root = write_long(tmp_path / "cpu", long_kl=CLEAN)
    before = outcome("C8", root)
    rl, levels = COURSES["long_kl_other_1"][0], {"gold": (0.6, 0.5), "proxy": (0.5, 0.5), "artefact": (0.0, 0.2)}
    write_validations(root, "long_kl_mine", flat_course(seeds=3, **levels), rl=rl, label="Mine")
    assert outcome("C8", root) == before and before.verdict == FAILS


def test_an_entry_that_cannot_be_checked_is_named_when_it_is_read(root, tmp_path):
    text, file = (root / "pipelines/experiments.yaml").read_text(), tmp_path / "experiments.yaml"
    for changed, message in (
        ("check: hackd", "claims.C7.check: no check is called 'hackd'; did you mean hacked"),
        ("check: gains", "claims.C7.pairs: missing, gains reads them"),
    ):
        file.write_text(text.replace("check: hacked", changed))
        with pytest.raises(UserError, match=message):
            load_catalogue(file)


def test_every_check_says_what_it_reads():
    assert CHECKS.keys() == READS.keys()
