"""The paper's claims as checks: the rule on made-up intervals, the outcomes on a study whose levels are known."""

import json

import numpy as np
import pandas as pd
import pytest

from tests._support.study import flat_course, sources_of, write_jsonl, write_study, write_validations
from unigrpo.core.errors import UserError
from unigrpo.report.claims import outcomes
from unigrpo.report.claims.outcomes import ARTEFACT_MARGIN, CHECKS, FAILS, HOLDS, MARGIN, NO, OPEN, UNDECIDED, YES
from unigrpo.report.data.stats import Estimate
from unigrpo.study.catalogue import READS, load_catalogue

LEVELS = {  # run -> share of right images with thinking, seeds; without thinking it is 0.1 less
    "base": (0.1, 1), "sft": (0.6, 1), "flow_grpo": (0.6, 4), "text_grpo": (0.6, 4), "unigrpo": (0.95, 4),
    "refl": (0.5, 4), "refl_thinking": (0.3, 4), "refl_thinking_text_grpo": (0.65, 4), "fpo": (0.5, 4),
    "unifpo": (0.2, 4), "unigrpo_cfg": (0.6, 4),
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """All rows of the paper, far apart; UniFPO collapsed at all seeds; guided rollouts cost twice as much."""
    root = tmp_path_factory.mktemp("study") / "cpu"
    write_study(root, LEVELS, prompts=12)
    for seed in range(4):
        record(root, "unifpo", seed, collapsed=True, collapse="rollout 3: the images are not finite")
        record(root, "unigrpo", seed, images=100, model_evaluations=1000)
        record(root, "unigrpo_cfg", seed, images=100, model_evaluations=2000)
        for run, reward in (("unigrpo", 0.5), ("unigrpo_cfg", 0.6)):
            write_rewards(root, run, seed, [reward] * 12)
    write_long(root)
    return root


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
}


def write_long(root, seeds=4, **changed):
    """The long runs, with some levels of some runs changed; the sweep's other weight at one seed."""
    for run, (rl, levels) in COURSES.items():
        levels = {"artefact": (0.001, 0.005, 0.01, 0.02)} | levels | changed.get(run, {})
        values = flat_course(seeds=1 if "other" in run else seeds, **levels)
        write_validations(root, run, values, rl=rl, label=run.replace("long_", "Long "))
    return root


def write_rewards(root, run, seed, rewards):
    rows = [{"kind": "train", "rollout": k, "proxy": reward} for k, reward in enumerate(rewards)]
    write_jsonl(root / "runs" / run / f"seed{seed}" / "metrics.jsonl", rows)


def record(root, run, seed, **facts):
    path = root / "runs" / run / f"seed{seed}" / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"run": run, "seed": seed, "source_hash": "h", "collapsed": False} | facts))


@pytest.fixture(scope="module")
def entries(root):
    """The catalogue's, with the sweep of these runs."""
    shipped = load_catalogue(root / "pipelines/experiments.yaml")["claims"]
    return shipped | {"C8": shipped["C8"] | {"runs": ["long_none", "long_kl", "long_kl_other_1"]}}


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


# --------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize(
    ("mean", "lo", "hi", "said"),
    [
        (0.05, 0.01, 0.09, YES),
        (MARGIN, 0.001, 0.04, YES),
        (0.015, 0.001, 0.03, UNDECIDED),  # above 0, but perhaps too small to matter
        (0.05, -0.01, 0.11, UNDECIDED),
        (0.01, 0.005, 0.015, NO),  # above 0, and surely too small to matter
        (0.0, -0.019, 0.019, NO),
        (-0.1, -0.2, 0.0, NO),
        (-0.1, -0.3, MARGIN, UNDECIDED),
    ],
)
def test_a_comparison_is_answered_by_its_interval_and_the_margin(mean, lo, hi, said):
    assert outcomes.answer(Estimate(mean, lo, hi, 3, 100)) == said


@pytest.mark.parametrize(
    ("answers", "all_needed", "denied"),
    [
        ([YES, YES], HOLDS, FAILS),
        ([YES, NO], FAILS, HOLDS),
        ([NO, UNDECIDED], FAILS, HOLDS),
        ([YES, UNDECIDED], OPEN, OPEN),
    ],
)
def test_a_claim_needs_every_comparison_and_one_that_denies_needs_one(answers, all_needed, denied):
    assert outcomes.every_one(answers) == all_needed
    assert outcomes.not_every_one(answers) == denied


@pytest.mark.parametrize(
    ("lo", "hi", "said"),
    [
        (0.01, 0.05, YES),
        (-MARGIN, 0.01, YES),
        (-0.021, 0.01, UNDECIDED),
        (-0.1, -MARGIN, UNDECIDED),
        (-0.1, -0.021, NO),
    ],
)
def test_where_no_gain_is_claimed_nothing_that_matters_may_be_lost(lo, hi, said):
    assert outcomes.not_worse(Estimate((lo + hi) / 2, lo, hi, 3, 100)) == said


def test_an_artefact_has_a_margin_of_its_own():
    small = Estimate(0.006, 0.001, 0.011, 3, 100)
    assert (outcomes.answer(small), outcomes.answer(small, ARTEFACT_MARGIN)) == (NO, YES)


@pytest.mark.parametrize(
    ("answers", "verdict"), [([NO, YES], HOLDS), ([NO, NO], FAILS), ([NO, UNDECIDED], OPEN), ([UNDECIDED], OPEN)]
)
def test_one_yes_is_enough_where_the_claim_says_so(answers, verdict):
    assert outcomes.any_one(answers) == verdict


def test_the_rule_is_the_one_chosen_beforehand(entries):
    assert (MARGIN, ARTEFACT_MARGIN) == (0.02, 0.005)
    assert list(entries) == [f"C{number}" for number in range(1, 13)]
    assert [name for name, entry in entries.items() if entry.get("designed")] == ["C3", "C12"]
    verdict_of = {name: CHECKS[entry["check"]][1] for name, entry in entries.items()}
    odd = {"C8": outcomes.any_one, "C10": outcomes.not_every_one}
    assert verdict_of == {name: odd.get(name, outcomes.every_one) for name in entries}


# --------------------------------------------------------------------------------------- outcomes


def test_outcomes_of_a_study_with_known_levels(study, tmp_path, check):
    frame, text = check(study, tmp_path)
    assert list(frame.columns) == ["claim", "effect", "lo", "hi", "n", "verdict", "kind", "why"]
    assert frame["verdict"].drop("C10").unique().tolist() == ["holds"]
    assert frame.loc["C10", "verdict"] in (FAILS, OPEN)  # thinking gains 0.1 in both rows
    assert frame.loc["C4", ["effect", "n"]].tolist() == [1, 4]
    assert frame.loc["C12", ["effect", "n"]].tolist() == [0.5, 4] and pd.isna(frame.loc["C12", "lo"])
    assert frame.loc["C3", "n"] in (12, 72)  # one seed; prompts of TA or of GenEval
    comparisons = text.split("## All comparisons")[1].splitlines()
    counted = {name: sum(line.startswith(f"| {name} ") for line in comparisons) for name in frame.index}
    few = {"C4": 1, "C5": 2, "C6": 1, "C7": 3, "C8": 3, "C9": 3, "C10": 2, "C11": 4, "C12": 1}
    assert counted == {"C1": 28, "C2": 6, "C3": 4} | few
    assert "n = 14 rows" in text  # UniFPO has no numbers in the paper
    assert "**Collapsed**: unifpo, seed 0: rollout 3" in text
    assert "GenEval: UniGRPO, thinking − FlowGRPO" in text and "4 seeds × 72 prompts" in text


def test_the_effect_of_a_claim_is_that_of_its_weakest_comparison(study, tmp_path, check):
    frame, text = check(study, tmp_path)
    shown = [line.split("|") for line in text.split("## All comparisons")[1].splitlines() if line.startswith("| C2 ")]
    effects = [float(cells[3].split("[")[0]) for cells in shown]
    assert frame.loc["C2", "effect"] == pytest.approx(min(effects), abs=1e-3)


def test_a_missing_row_is_named(study, tmp_path, check):
    frame, text = check(study, tmp_path, without(study, tmp_path, "text_grpo"))
    for claim in ("C1", "C2"):
        assert frame.loc[claim, "verdict"] == "not available: TextGRPO, thinking" and pd.isna(
            frame.loc[claim, "effect"]
        )
    assert frame.loc["C3", "verdict"] == "holds"
    assert "| not available: TextGRPO, thinking |" in text and "n = 13 rows" in text


@pytest.mark.parametrize(("moved", "verdict"), [(1, OPEN), (7, "not available: a seed that")])
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
    """But not what compares base and SFT, which all seeds share."""
    frame = pd.read_csv(study / "scores.csv")
    frame[frame["seed"] == 0].to_csv(tmp_path / "scores.csv", index=False)
    found, text = check(study, tmp_path, tmp_path / "scores.csv")
    verdicts = found["verdict"]
    assert verdicts[["C1", "C2", "C5", "C11"]].str.endswith(" (one replicate)").all()
    assert not verdicts[["C3", "C10", "C4", "C6", "C12"]].str.contains("replicate").any()
    assert found.loc["C2", "n"] in (12, 72) and "a verdict that turns on such a comparison says" in text
    # one run of three is enough where a claim needs every comparison
    some = frame[(frame["run"] != "flow_grpo") | (frame["seed"] == 0)]
    some.to_csv(tmp_path / "scores.csv", index=False)
    found, _ = check(study, tmp_path, tmp_path / "scores.csv")
    assert found.loc["C2", "verdict"] == "holds (one replicate)" and found.loc["C5", "verdict"] == "holds"


def test_one_prompt_decides_nothing(study, tmp_path, outcome):
    frame = pd.read_csv(study / "scores.csv")
    frame[frame["prompt_id"] == "compound/000"].to_csv(tmp_path / "scores.csv", index=False)
    sources = sources_of(study, tmp_path / "scores.csv").of({"benchmarks": ["ta"]})
    (found,) = outcomes.differences([(("unigrpo", "yes"), ("base", "no"))], sources)
    assert (found.answer, found.lo, found.hi, found.prompts) == (UNDECIDED, None, None, 1)
    assert found.shown.endswith(" (one prompt)") and found.shown[0] in "+-"
    found = outcomes.finding("x", Estimate(0.5, None, None, 3, 1), said=outcomes.not_worse)
    assert (found.answer, found.n) == (UNDECIDED, 3)


def test_images_of_one_seed_beside_three_trainings_are_one_replicate(study, tmp_path):
    """Base, from which all start, is not; images that another program made are."""
    sources = sources_of(study, study / "scores.csv").of({"benchmarks": ["ta"]})
    pair = [(("unigrpo", "yes"), ("base", "no"))]
    (found,) = outcomes.differences(pair, sources)
    assert (found.seeds, found.one_replicate) == (4, False)
    (path,) = (study / "runs/base").glob("seed0/config.json")
    text = path.read_text()
    try:
        path.write_text(text.replace('"stage": "base"', '"stage": "outside"'))
        assert outcomes.differences(pair, sources)[0].one_replicate
    finally:
        path.write_text(text)


def test_scores_alone_leave_counts_of_training_unavailable(study, tmp_path, check):
    frame, _ = check(tmp_path / "nothing", tmp_path, study / "scores.csv")
    assert frame.loc["C4", "verdict"] == "not available: unifpo"
    assert frame.loc["C12", "verdict"] == "not available: unigrpo; unigrpo_cfg"
    assert frame.loc["C2", "verdict"] == "holds"
    assert frame.loc["C6", "verdict"] == "not available: unigrpo_cfg; unigrpo"
    made = ", made by `make overoptimise`"
    for claim, runs in (("C7", "long_none"), ("C8", "long_none, long_kl"), ("C9", "long_mse, long_none, long_kl")):
        assert frame.loc[claim, "verdict"] == f"not available: {runs}{made}"


def test_seeds_that_were_not_trained_say_nothing_of_collapse(study, tmp_path, check):
    root = tmp_path / "cpu"
    record(root, "unifpo", 0, not_trained="its parent sft collapsed (x)")
    frame, text = check(root, tmp_path, study / "scores.csv")
    assert frame.loc["C4", "verdict"] == "not available: unifpo"
    assert "**Not trained**: unifpo, seed 0: its parent sft collapsed (x)." in text


@pytest.mark.parametrize(("fates", "verdict", "share"), [((0, 0), FAILS, 0), ((1, 0), OPEN, 0.5), ((1, 1), HOLDS, 1)])
def test_collapse_is_counted_over_seeds(study, tmp_path, fates, verdict, share, check):
    for seed, fell in enumerate(fates):
        record(tmp_path / "cpu", "unifpo", seed, collapsed=bool(fell))
    frame, _ = check(tmp_path / "cpu", tmp_path, study / "scores.csv")
    assert (frame.loc["C4", "verdict"], frame.loc["C4", "effect"]) == (verdict, share)


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
    # equal on each of 12 prompts: a share of 0.24 of all could still differ (Tango), more than may be lost
    for scored, verdict in ((pair, HOLDS), (swapped, FAILS), (equal, OPEN), (pair[:0], missing)):
        scored.to_csv(tmp_path / "scores.csv", index=False)
        assert outcome("C5", study, tmp_path / "scores.csv").verdict == verdict


def test_training_rewards_are_paired_by_seed_and_rollout(tmp_path, outcome):
    """Seed 0 has two rollouts more, seed 7 only one of the runs: neither counts. The gain is 0.1 to 0.3."""
    gains = [0.0, 0.0, *np.linspace(0.1, 0.3, 10), 9, 9]
    for seed in (0, 1):
        prompts = np.random.default_rng(seed).random(14)
        write_rewards(tmp_path, "unigrpo", seed, prompts[: 14 - 2 * seed])
        write_rewards(tmp_path, "unigrpo_cfg", seed, (prompts + gains)[: 14 - 2 * seed])
    write_rewards(tmp_path, "unigrpo", 7, [0.0] * 12)
    found = outcome("C6", tmp_path)
    assert found.verdict == HOLDS and found.decisive.effect == pytest.approx(0.2)
    assert 0.1 < found.decisive.lo < 0.2 and found.decisive.basis == "2 seeds × 10 rollouts"
    for seed in (0, 1):
        write_rewards(tmp_path, "unigrpo_cfg", seed, prompts[:12])
        write_rewards(tmp_path, "unigrpo", seed, prompts[:12])
    assert outcome("C6", tmp_path).verdict == FAILS


def test_over_optimisation_is_a_rise_of_the_proxy_and_a_fall_of_gold(study, outcome):
    found = outcome("C7", study)
    assert {f.what: f.effect for f in found.findings} == pytest.approx(
        {
            "validation proxy of Long none: last − first": 0.3,
            "validation gold of Long none: peak − last": 0.3,
            "validation proxy of Long none: peak − last": 0,
        },
        abs=0.004,
    )
    assert [f.said for f in found.findings] == [YES, YES, "no, not counted"]
    assert found.verdict == HOLDS and found.decisive.n == 16


@pytest.mark.parametrize(
    ("levels", "verdict"),
    [
        ({"gold": (0.6, 0.7, 0.7, 0.695)}, FAILS),  # gold does not fall
        ({"proxy": (0.5, 0.6, 0.5, 0.505)}, FAILS),  # the proxy does not rise, though it falls after a peak
        ({"gold": (0.6, 0.65, 0.7, 0.6803)}, OPEN),  # falls by the margin, give or take
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
        (f"validation proxy, last: Long none − {weak}", "no, not counted"),
        (f"validation proxy, last: Long none − {strong}", "yes, not counted"),
        (f"artefacts, share of the image: last − first, {strong} at weight 20", YES),
    ]
    assert [f.seeds for f in found.findings] == [1, 4, 4]
    assert found.verdict == HOLDS and found.decisive.effect == pytest.approx(0.019, abs=0.002)


CLEAN, LOW = {"artefact": (0.001, 0.002, 0.002, 0.002)}, {"proxy": (0.5, 0.5, 0.5, 0.5)}


@pytest.mark.parametrize(
    ("changed", "verdict", "effect"),
    [
        ({"long_kl": CLEAN}, FAILS, 0.001),
        # any weight will do, and the claim turns on it
        (
            {"long_kl": CLEAN, "long_kl_other_1": LOW | {"artefact": (0.0, 0.0, 0.0, 0.02)}},
            "holds (one replicate)",
            0.02,
        ),
        ({"long_kl": COURSES["long_none"][1]}, "not available: no latent KL lowered the reward clearly", None),
        ({"long_kl": {"artefact": (0.001, 0.002, 0.004, 0.006)}}, OPEN, 0.005),  # by the margin, give or take
    ],
)
def test_a_latent_kl_may_keep_artefacts_out(tmp_path, changed, verdict, effect, outcome):
    found = outcome("C8", write_long(tmp_path, **changed))
    assert found.verdict == verdict
    assert found.decisive.effect == (effect and pytest.approx(effect, abs=0.002))


@pytest.mark.parametrize(
    ("changed", "verdict", "effect"),
    [
        ({}, HOLDS, 0.2),  # 0.7 against 0.5 and 0.4; its own peak is the last but one or the last
        ({"long_mse": {"gold": (0.6, 0.8, 0.8, 0.7)}}, FAILS, -0.1),  # fell from its peak
        ({"long_kl": {"gold": (0.6, 0.65, 0.7, 0.72)}}, FAILS, -0.02),
        ({"long_none": {"gold": (0.6, 0.65, 0.7, 0.75)}}, FAILS, -0.05),
    ],
)
def test_velocity_mse_must_be_steady_and_best(tmp_path, changed, verdict, effect, outcome):
    found = outcome("C9", write_long(tmp_path, **changed))
    assert found.verdict == verdict
    assert min(f.effect for f in found.findings[found.verdict == HOLDS :]) == pytest.approx(effect, abs=0.004)


def test_a_run_that_is_still_trained_says_nothing(tmp_path, outcome):
    (write_long(tmp_path) / "runs/long_mse/seed2/run.json").unlink()
    assert outcome("C9", tmp_path).verdict == "not available: Long mse, made by `make overoptimise`"
    assert outcome("C8", tmp_path).verdict == HOLDS


def test_a_run_that_the_catalogue_does_not_name_is_no_evidence(study, tmp_path, outcome):
    """A user's exploratory weight of the latent KL, which alone lets artefacts in, leaves C8 as it is."""
    root = write_long(tmp_path / "cpu", long_kl=CLEAN)
    before = outcome("C8", root)
    rl, levels = COURSES["long_kl_other_1"][0], {"gold": (0.6, 0.5), "proxy": (0.5, 0.5), "artefact": (0.0, 0.2)}
    write_validations(root, "long_kl_mine", flat_course(seeds=4, **levels), rl=rl, label="Mine")
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
