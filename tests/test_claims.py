"""The paper's claims as checks: the rule on made-up intervals, the outcomes on a study whose levels are known."""

import json

import pandas as pd
import pytest
from study import write_study

from unigrpo.report import claims
from unigrpo.report.claims import CLAIMS
from unigrpo.report.results import PAPER
from unigrpo.report.stats import Estimate
from unigrpo.report.verdicts import FAILS, HOLDS, MARGIN, NO, OPEN, UNDECIDED, YES

LEVELS = {  # run -> share of right images with thinking, seeds; without thinking it is 0.1 less
    "base": (0.1, 1), "sft": (0.6, 1), "flow_grpo": (0.6, 2), "text_grpo": (0.6, 2), "unigrpo": (0.95, 2),
    "refl": (0.5, 2), "refl_thinking": (0.3, 2), "refl_thinking_text_grpo": (0.65, 2), "fpo": (0.5, 2),
    "unifpo": (0.2, 2),
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """All rows of the paper, far apart; UniFPO collapsed at both seeds; guided rollouts cost twice as much."""
    root = tmp_path_factory.mktemp("study") / "cpu"
    write_study(root, LEVELS, prompts=12)
    for seed in range(2):
        record(root, "unifpo", seed, collapsed=True, collapse="rollout 3: the images are not finite")
        record(root, "unigrpo", seed, images=100, model_evaluations=1000)
        record(root, "unigrpo_cfg", seed, images=100, model_evaluations=2000)
    return root


def record(root, run, seed, **facts):
    path = root / "runs" / run / f"seed{seed}" / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"run": run, "seed": seed, "source_hash": "h", "collapsed": False} | facts))


def check(study, out, scores=None):
    """claims.csv by id, and the text of claims.md."""
    arguments = ["--scores", scores or study / "scores.csv", "--results", study, "--paper", PAPER, "--out", out]
    claims.main([str(a) for a in arguments])
    return pd.read_csv(out / "claims.csv").set_index("id"), (out / "claims.md").read_text()


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
    assert claims.answer(Estimate(mean, lo, hi, 3, 100)) == said


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
    assert claims.every_one(answers) == all_needed
    assert claims.not_every_one(answers) == denied


def test_the_margin_is_the_one_chosen_beforehand():
    assert MARGIN == 0.02
    assert [c.id for c in CLAIMS] == ["C1", "C2", "C3", "C4", "C10", "C11", "C12"]
    assert {c.id for c in CLAIMS if c.kind == "designed in"} == {"C3", "C12"}
    assert [c.id for c in CLAIMS if c.verdict is claims.not_every_one] == ["C10"]


# --------------------------------------------------------------------------------------- outcomes


def test_outcomes_of_a_study_with_known_levels(study, tmp_path):
    frame, text = check(study, tmp_path)
    assert list(frame.columns) == ["claim", "effect", "lo", "hi", "n", "verdict", "kind", "why"]
    assert frame["verdict"].drop("C10").unique().tolist() == ["holds"]
    assert frame.loc["C10", "verdict"] in (FAILS, OPEN)  # thinking gains 0.1 in both rows
    assert frame.loc["C4", ["effect", "n"]].tolist() == [1, 2]
    assert frame.loc["C12", ["effect", "n"]].tolist() == [0.5, 2] and pd.isna(frame.loc["C12", "lo"])
    assert frame.loc["C3", "n"] in (12, 72)  # one seed; prompts of TA or of GenEval
    comparisons = text.split("## All comparisons")[1].splitlines()
    counted = {c.id: sum(line.startswith(f"| {c.id} ") for line in comparisons) for c in CLAIMS}
    assert counted == {"C1": 28, "C2": 6, "C3": 4, "C4": 1, "C10": 2, "C11": 4, "C12": 1}
    assert "n = 14 rows" in text  # UniFPO has no numbers in the paper
    assert "**Collapsed**: unifpo, seed 0: rollout 3" in text
    assert "GenEval: UniGRPO, thinking − FlowGRPO" in text and "2 seeds × 72 prompts" in text


def test_the_effect_of_a_claim_is_that_of_its_weakest_comparison(study, tmp_path):
    frame, text = check(study, tmp_path)
    shown = [line.split("|") for line in text.split("## All comparisons")[1].splitlines() if line.startswith("| C2 ")]
    effects = [float(cells[3].split("[")[0]) for cells in shown]
    assert frame.loc["C2", "effect"] == pytest.approx(min(effects), abs=1e-3)


def test_a_missing_row_is_named(study, tmp_path):
    frame, text = check(study, tmp_path, without(study, tmp_path, "text_grpo"))
    for claim in ("C1", "C2"):
        assert frame.loc[claim, "verdict"] == "not available: TextGRPO, thinking" and pd.isna(
            frame.loc[claim, "effect"]
        )
    assert frame.loc["C3", "verdict"] == "holds"
    assert "| not available: TextGRPO, thinking |" in text and "n = 13 rows" in text


@pytest.mark.parametrize(("moved", "verdict"), [(1, OPEN), (7, "not available: a seed that")])
def test_the_seed_that_is_left_of_a_reinforced_run_does_not_stand_for_all(study, tmp_path, moved, verdict):
    frame = pd.read_csv(study / "scores.csv")
    frame = frame[(frame["run"] != "refl_thinking_text_grpo") | (frame["seed"] == 1)]
    frame.loc[frame["run"] == "refl_thinking_text_grpo", "seed"] = moved
    frame.to_csv(tmp_path / "scores.csv", index=False)
    found, text = check(study, tmp_path, tmp_path / "scores.csv")
    assert found.loc["C11", "verdict"].startswith(verdict)
    shown = [line for line in text.split("## All comparisons")[1].splitlines() if line.startswith("| C11 ")]
    assert all(("1 seed × " if moved == 1 else "not available") in line for line in shown)


def test_scores_alone_leave_counts_of_training_unavailable(study, tmp_path):
    frame, _ = check(tmp_path / "nothing", tmp_path, study / "scores.csv")
    assert frame.loc["C4", "verdict"] == "not available: unifpo"
    assert frame.loc["C12", "verdict"] == "not available: unigrpo; unigrpo_cfg"
    assert frame.loc["C2", "verdict"] == "holds"


def test_seeds_that_were_not_trained_say_nothing_of_collapse(study, tmp_path):
    root = tmp_path / "cpu"
    record(root, "unifpo", 0, not_trained="its parent sft collapsed (x)")
    frame, text = check(root, tmp_path, study / "scores.csv")
    assert frame.loc["C4", "verdict"] == "not available: unifpo"
    assert "**Not trained**: unifpo, seed 0: its parent sft collapsed (x)." in text


@pytest.mark.parametrize(("fates", "verdict", "share"), [((0, 0), FAILS, 0), ((1, 0), OPEN, 0.5), ((1, 1), HOLDS, 1)])
def test_collapse_is_counted_over_seeds(study, tmp_path, fates, verdict, share):
    for seed, fell in enumerate(fates):
        record(tmp_path / "cpu", "unifpo", seed, collapsed=bool(fell))
    frame, _ = check(tmp_path / "cpu", tmp_path, study / "scores.csv")
    assert (frame.loc["C4", "verdict"], frame.loc["C4", "effect"]) == (verdict, share)


def test_the_page_holds_what_the_markdown_does(study, tmp_path):
    _, text = check(study, tmp_path)
    html = (tmp_path / "claims.html").read_text()
    assert html.count("<h2>") == text.count("\n## ") and html.count("<li>") == text.count("\n* ")
    assert html.count("<tr") == sum(line.startswith("| C") for line in text.splitlines()) + 2
