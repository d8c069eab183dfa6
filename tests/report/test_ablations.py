"""The tables of ablations: guidance in training, regularisers, over-optimisation; on runs of known validations."""

import json

import numpy as np
import pytest

from tests._support.study import PAPER, flat_course, make_table, score_rows, write_jsonl, write_validations
from unigrpo.core.errors import UserError
from unigrpo.report.data import logs, results
from unigrpo.report.data.logs import Course, course
from unigrpo.report.data.results import Folder

TAGS = ("a", "a", "a", "b")
CATEGORY_WEIGHTS = np.array([1 / 6, 1 / 6, 1 / 6, 1 / 2])


def random_values(seed, seeds=3, validations=5):
    rng = np.random.default_rng(seed)
    return {m: rng.random((seeds, validations, len(TAGS), 2)) for m in ("gold", "proxy", "artefact")}


def table(root, spec, scores=None):
    """CSV by run and Markdown of one table, and its LaTeX."""
    (root / "paper.csv").write_text(PAPER)
    frame, text = make_table(root, root / "tables", spec, scores=scores, paper=root / "paper.csv")
    return frame, text, (root / "tables/t.tex").read_text()


def cells(text, run):
    """The cells of a run's row of the Markdown, by head."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return dict(zip(lines[0], next(line for line in lines if line[0] == run), strict=True))


# --------------------------------------------------------------------------------------- measures


@pytest.fixture(scope="module")
def random_course(tmp_path_factory):
    root = tmp_path_factory.mktemp("measures")
    values = random_values(4)
    write_validations(root, "a", values, TAGS)
    return course("a", Folder(root)), values


def test_the_gap_is_the_difference_of_two_gains_in_spreads(random_course):
    found, values = random_course
    spread = {m: np.mean([np.std(values[m][k, 0].ravel()) for k in range(3)]) for m in ("proxy", "gold")}
    for k in range(3):
        for p in range(len(TAGS)):
            gain = {m: (values[m][k, 3:, p].mean() - values[m][k, 0, p].mean()) / spread[m] for m in spread}
            assert logs.gap(found).values[k, p] == pytest.approx(gain["proxy"] - gain["gold"])


@pytest.mark.parametrize("metric", ["gold", "proxy"])
def test_the_peak_of_a_seed_is_chosen_on_the_others(random_course, metric):
    found, values = random_course
    means = values[metric].mean(-1) @ CATEGORY_WEIGHTS  # (K, U)
    expected, own = [], []
    for k in range(3):
        others = [sum(means[j, u] for j in range(3) if j != k) for u in range(5)]
        best = others.index(max(others))
        expected.append(values[metric][k, 3:].mean((0, -1)) - values[metric][k, best].mean(-1))
        own.append(int(means[k].argmax()) == best)
    assert logs.change_since_peak(found, metric).values == pytest.approx(np.array(expected))
    assert not all(own)  # else the test could not tell


def test_without_spread_or_with_one_seed_there_is_no_measure():
    flat = {m: np.ones((1, 2, 4)) for m in ("gold", "proxy")}
    one = Course("a", (0,), (0, 20), ("p", "q", "r", "s"), TAGS, flat, {"gold": 0.0, "proxy": 1.0})
    assert logs.gap(one) is None and logs.change_since_peak(one) is None


# --------------------------------------------------------------------------------------- over-optimisation


def test_the_table_of_over_optimisation_holds_hand_made_numbers(tmp_path):
    hacked = flat_course(
        noise=0, gold=(0.6, 0.7, 0.5, 0.4), proxy=(0.5, 0.6, 0.7, 0.9), artefact=(0.0, 0.01, 0.02, 0.03)
    )
    for metric, (low, high) in {"gold": (-0.1, 0.1), "proxy": (-0.2, 0.2)}.items():
        hacked[metric] += np.array([low, high])  # two images of a prompt: the spread
    write_validations(tmp_path, "hacked", hacked, label="Hacked")
    write_validations(tmp_path, "single", {m: v[:1] for m, v in hacked.items()})
    (tmp_path / "runs/hacked/seed1/run.json").write_text('{"seed": 1, "collapsed": true, "collapse": "rollout 3: x"}')
    frame, text, tex = table(tmp_path, {"kind": "overoptimisation", "runs": ["hacked", "single", "gone"]})
    row = frame.iloc[0]
    expected = {
        "seeds": 3, "prompts": 4, "updates": 60, "gold_first": 0.6, "gold_peak": 0.7, "gold": 0.45,
        "peak_update": 20, "proxy_first": 0.5, "proxy": 0.8, "gap": 3, "gap_lo": 3, "gap_hi": 3, "fall": 0.25,
        "fall_lo": 0.25, "fall_hi": 0.25, "artefact_first": 0, "artefact": 0.025, "collapsed": 1,
    }  # fmt: skip
    assert row[list(expected)].astype(float).to_dict() == pytest.approx(expected)
    shown = cells(text, "Hacked")
    assert shown["gap"] == "+3.00 [+3.00, +3.00]"
    assert shown["gold: fall from peak"] == "+0.250 [+0.250, +0.250]" and shown["artefact: end"].startswith("2.50% [")
    assert cells(text, "single")["gold: fall from peak"] == "not available" and frame.loc[1, "gap"] == 3
    gone = cells(text, "gone")
    assert (gone.pop("seeds"), gone.pop("weight")) == ("0", "–") and set(gone.values()) == {"gone", "not available"}
    assert "**Collapsed**: Hacked, seed 1" in text and "the mean of the other seeds is highest" in text
    assert "end less first validation" in tex and r"not\\available" in tex


def test_intervals_contain_their_numbers_and_signs_turn_with_the_fall(tmp_path):
    values = random_values(1)
    write_validations(tmp_path, "a", values, TAGS)
    row = table(tmp_path, {"kind": "overoptimisation", "runs": ["a"]})[0].iloc[0]
    assert row["gap_lo"] < row["gap"] < row["gap_hi"] and row["fall_lo"] < row["fall"] < row["fall_hi"]
    change = logs.change_since_peak(course("a", Folder(tmp_path))).values.mean(0) @ CATEGORY_WEIGHTS
    assert row["fall"] == pytest.approx(-change, abs=1e-4)


# --------------------------------------------------------------------------------------- regularisers


def metrics(seeds, rewards, drift):
    """Rows of 14 rollouts of each seed: reward and diversity run from one level to another. The first seed is
    validated at one update more than the others."""
    validation = {"kind": "validation", "gold": 0.5, "proxy": 0.5}
    rows = [validation | {"update": 0, "drift": 0.0}, validation | {"update": 80, "drift": drift}]
    for k in range(14):
        reward = rewards[0] if k < 10 else rewards[1]
        rows.append({"kind": "train", "rollout": k, "proxy": reward, "diversity": 1 - reward})
    later = validation | {"update": 100, "drift": 99.0}
    return [[*rows[:1], rows[1] | {"drift": drift + s}, *rows[2:], *[later] * (s == 0)] for s in range(seeds)]


def test_the_table_of_regularisers_is_paired_with_its_first_row(tmp_path):
    a, b = random_values(2), {m: v[:1] for m, v in random_values(3).items()}
    write_validations(tmp_path, "long_none", a, TAGS, {"regulariser": "none"}, "None", metrics(3, (0.5, 0.75), 0.1))
    kl = {"regulariser": "latent_kl", "latent_kl_weight": 280, "reward": "weak"}
    write_validations(tmp_path, "kl", b, TAGS, kl, "KL", metrics(1, (0.5, 0.25), 0.02))
    write_validations(tmp_path, "kl_70", b, TAGS, kl | {"latent_kl_weight": 70}, "KL, 70")
    for name, auc, steps in (("weak_reward", 0.801, 250), ("reward", 0.93, 2000)):
        for seed, less in enumerate((0.002, 0)):
            path = tmp_path / f"starts/seed{seed}/{name}/report.json"
            path.parent.mkdir(parents=True)
            within = {"auc": auc - less, "lo": auc - less - 0.02, "hi": auc - less + 0.02, "prompts": 61}
            path.write_text(json.dumps({"within_prompts": {"overall": within}, "steps": steps}))
    frame, text, _ = table(tmp_path, {"kind": "overoptimisation", "runs": ["long_none", "kl", "kl_70", "gone"]})
    frame = frame.set_index("run")
    end = {
        run: {m: v[:, 3:].mean((1, -1)) @ CATEGORY_WEIGHTS for m, v in x.items()} for run, x in (("none", a), ("kl", b))
    }
    for metric in ("gold", "proxy", "artefact"):
        assert frame.loc["long_none", metric] == pytest.approx(end["none"][metric].mean(), abs=1e-4)
        assert frame.loc["kl", f"{metric}_lo"] < frame.loc["kl", metric] < frame.loc["kl", f"{metric}_hi"]
    gap = end["kl"]["gold"][0] - end["none"]["gold"][0]  # the one seed that both have
    assert frame.loc["kl", "gold_gap"] == pytest.approx(gap, abs=1e-4)
    assert np.isnan(frame.loc["long_none", "gold_gap"]) and np.isnan(frame.loc["gone", "gold"])
    expected = {
        "training_last": (4 * 0.25 + 6 * 0.5) / 10,
        "diversity_first": 0.5,
        "diversity_last": 0.6,
        "drift": 0.02,
    }
    assert frame.loc["kl", list(expected)].astype(float).to_dict() == pytest.approx(expected)
    assert frame.loc["long_none", "drift"] == pytest.approx(1.1)  # mean over seeds
    assert frame["weight"].tolist()[1:3] == [280, 70] and frame["seeds"].tolist() == [3, 1, 1, 0]
    shown = cells(text, "KL")
    assert shown["regulariser"] == "latent KL" and shown["seeds"] == "1 (prompts only)"
    assert shown["artefact: end"].split()[0] == f"{frame.loc['kl', 'artefact']:.2%}"
    assert cells(text, "KL, 70")["drift"] == "not available"
    words = (
        "The proxy of KL; KL, 70 is the reward `weak`: held-out AUC within prompts 0.799 to 0.801 [0.779, 0.821] after"
    )
    assert f"{words} 250 steps. It was" in text
    assert (
        "over-optimised; `reward`: held-out AUC within prompts 0.928 to 0.930 [0.908, 0.950] after 2,000 steps." in text
    )


def test_a_reward_without_a_report_has_no_auc(tmp_path):
    write_validations(tmp_path, "a", flat_course(seeds=1, gold=(0.5,), proxy=(0.5,), artefact=(0.0,)))
    _, text, _ = table(tmp_path, {"kind": "overoptimisation", "runs": ["a"]})
    assert "The proxy is the reward `learned`: held-out AUC not available." in text
    (tmp_path / "starts/seed0/reward").mkdir(parents=True)
    (tmp_path / "starts/seed0/reward/report.json").write_text('{"within_prompts": {"overall": {"auc": "high"}}}')
    with pytest.raises(UserError, match="reward/report.json: steps: missing"):
        table(tmp_path, {"kind": "overoptimisation", "runs": ["a"]})


# --------------------------------------------------------------------------------------- guidance


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """Two runs evaluated at both guidances; guidance in training takes twice the evaluations, two updates a rollout."""
    root = tmp_path_factory.mktemp("guided") / "cpu"
    for run, times, level in (("unigrpo", 1, 0.8), ("unigrpo_cfg", 2, 0.5)):
        seconds = [3.0, 5.0, 100.0]
        rows = [
            {
                "kind": "train",
                "rollout": k,
                "update": 2 * k + 2,
                "model_evaluations": 1000 * times * (k + 1),
                "proxy": level,
            }
            | {"seconds_rollout": s, "seconds_update": 1.0}
            for k, s in enumerate(seconds)
        ]
        values = flat_course(seeds=2, gold=(0.5, level), proxy=(0.5, 0.6), artefact=(0.0, 0.0))
        write_validations(root, run, values, rl={"guidance": float(times)}, logs=[rows, rows])
        rng = np.random.default_rng(times)
        scored = [r for g in ("tuned", "unguided") for r in score_rows("think", g, level, rng)]
        for seed in (0, 1):
            write_jsonl(root / "runs" / run / f"seed{seed}" / "scores.jsonl", scored)
    sources = [f"{run}={root}/runs/{run}/seed{s}" for run in ("unigrpo", "unigrpo_cfg") for s in (0, 1)]
    results.collect(sources, root / "scores.csv")
    return root


def test_the_table_of_guidance_has_both_guidances_of_every_run(guided):
    frame, text, tex = table(guided, {"kind": "guided", "runs": ["unigrpo", "unigrpo_cfg"]}, guided / "scores.csv")
    assert list(zip(frame["run"], frame["guidance"], strict=True)) == [
        (run, guidance) for run in ("unigrpo", "unigrpo_cfg") for guidance in ("unguided", "tuned")
    ]
    assert frame["guidance_in_training"].tolist() == [1, 1, 2, 2]
    assert frame["evaluations_per_update"].tolist() == [500, 500, 1000, 1000]
    assert frame["seconds_per_update"].tolist() == [3.0] * 4  # (5 + 1) / 2, the middle one
    assert frame["training_last"].tolist() == [0.8, 0.8, 0.5, 0.5]
    assert frame["validation_gold"].tolist() == pytest.approx([0.8, 0.8, 0.5, 0.5], abs=0.003)
    assert frame["validation_proxy"].tolist() == pytest.approx([0.6] * 4, abs=0.003)
    for guidance, geneval in zip(frame["guidance"][:2], frame["geneval"][:2], strict=True):
        lines = map(json.loads, (guided / "runs/unigrpo/seed0/scores.jsonl").read_text().splitlines())
        rows = [r for r in lines if r["guidance"] == guidance and r["benchmark"] == "geneval"]
        assert geneval == pytest.approx(np.mean([r["metrics"]["official"] for r in rows]), abs=1e-4)
    assert "medians over the rollouts of all seeds" in text and "The proxy is the reward `learned`" in text
    assert "guidance in training it is that of guided images" in tex
