"""Figures and arrays of over-optimisation, on made-up runs whose numbers are known."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from tests._support.study import write_jsonl
from tests._support.tiny import DEFAULTS
from unigrpo.core.errors import UserError
from unigrpo.core.records import SHEET_COLUMNS, Prompt
from unigrpo.core.settings import to_dict
from unigrpo.objectives import flow
from unigrpo.objectives.image_losses import latent_kl, velocity_mse
from unigrpo.report.data import logs
from unigrpo.report.data.logs import anchor
from unigrpo.report.data.results import PAPER, Folder, Paper, Sources
from unigrpo.report.figures import mechanism, sheets
from unigrpo.report.pages import drawing
from unigrpo.study.config import rl_config
from unigrpo.world.prompts import prompt_set
from unigrpo.world.render import render
from unigrpo.world.scenes import Obj, Scene

RUNS = {  # settings, final gold, drift
    "none": ({"regulariser": "none"}, 0.2, 0.9),
    "kl": ({"regulariser": "latent_kl", "latent_kl_weight": 5.0}, 0.5, 0.3),
    "kl_more": ({"regulariser": "latent_kl", "latent_kl_weight": 50.0}, 0.6, 0.1),
    "mse": ({"velocity_mse_weight": 2.0}, 0.8, 0.05),
}
FIXED = {"strict": 0.0, "artefact": 0.01}
UPDATES = (0, 20, 40)
PROMPTS = prompt_set("val")[::6]


def values(run, seed, update, prompt):
    """gold and proxy of a prompt's two images: gold goes from 0.5 to the run's own over a peak of + 0.1."""
    gold = 0.5 + (RUNS[run][1] - 0.5) * update / 40 + 0.1 * (update == 20) + 0.01 * seed
    return [(gold + d, 0.4 + update / 200 + d) for d in (-0.1, 0.1)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("study") / "cpu"
    for run, (settings, _, drift) in RUNS.items():
        for seed in range(1 if run == "kl" else 2):
            place = root / "runs" / run / f"seed{seed}"
            config = {"run": run, "label": run.upper(), "stage": "rl", "rl": to_dict(rl_config(**DEFAULTS | settings))}
            place.mkdir(parents=True)
            (place / "config.json").write_text(json.dumps(config))
            rows = []
            for update in UPDATES:
                moved = {f"drift_{k}": drift * (k + 1) / 5.5 * update / 40 for k in range(10)}
                mean = sum(moved.values()) / 10
                rows.append({"kind": "validation", "update": update, "gold": 0, "drift": mean} | moved)
                images = [
                    {
                        "prompt_id": p.id,
                        "tag": p.tag,
                        "sample": k,
                        "gold": g,
                        "strict": 0.0,
                        "proxy": r,
                        "artefact": 0.01,
                    }
                    for p in PROMPTS
                    for k, (g, r) in enumerate(values(run, seed, update, p))
                ]
                write_jsonl(place / f"validation/{update:06d}.jsonl", images)
                pixels = np.arange(len(PROMPTS), dtype=np.uint8)
                page = np.full((4 * -(-len(PROMPTS) // SHEET_COLUMNS), 4 * SHEET_COLUMNS, 3), 255, np.uint8)
                for i in pixels:
                    row, column = divmod(int(i), SHEET_COLUMNS)
                    page[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = i
                Image.fromarray(page).save(place / f"validation/{update:06d}.png")
            write_jsonl(place / "metrics.jsonl", rows)
    return Folder(root)


@pytest.fixture
def sources(folder):
    yield Sources(None, Paper(PAPER), folder)
    plt.close("all")


def test_a_course_holds_means_over_the_images_of_a_prompt(folder):
    found = logs.course("none", folder)
    assert (found.seeds, found.updates, found.prompts) == ((0, 1), UPDATES, tuple(p.id for p in PROMPTS))
    assert found.values["gold"][1, 1] == pytest.approx(0.5 - 0.15 + 0.1 + 0.01)
    assert found.spread["gold"] == pytest.approx(0.1) and found.peak() == 0
    assert found.cells("gold", -1).values.shape == (2, len(PROMPTS))
    assert logs.course("missing", folder) is None


def test_categories_weigh_equally_in_the_means_of_a_course():
    values = {"gold": np.array([[[1.0, 1.0, 0.0]]])}
    found = logs.Course("x", (0,), (0,), ("a", "b", "c"), ("t", "t", "u"), values, {})
    assert found.means["gold"] == pytest.approx(0.5)


def test_only_validations_that_all_seeds_reached_count(folder, tmp_path):
    root = tmp_path / "cpu"
    for seed, updates in enumerate(((0, 20, 40), (0, 20))):
        for update in updates:
            source = folder.root / f"runs/none/seed{seed}/validation/{update:06d}.jsonl"
            write_jsonl(root / f"runs/r/seed{seed}/validation/{update:06d}.jsonl", map(json.loads, source.open()))
    assert logs.course("r", Folder(root)).updates == (0, 20)
    write_jsonl(root / "runs/r/seed1/validation/000000.jsonl", [{"prompt_id": "p", "tag": "t"}])
    with pytest.raises(UserError, match="000000.jsonl, line 1: gold: missing"):
        logs.course("r", Folder(root))


def test_a_regulariser_in_words():
    def of(**settings):
        return anchor({"stage": "rl", "rl": to_dict(rl_config(**DEFAULTS | settings))})

    assert [of(**RUNS[run][0]).kind for run in RUNS] == ["none", "latent KL", "latent KL", "velocity MSE"]
    assert of(kl_text=0.1).kind == "velocity MSE + text KL" and of(kl_text=0.1).weight == 0.1
    assert of(kl_text=0.1, train=["image"]).kind == "velocity MSE"
    data, gated = of(method="ddrl", regulariser="none", data_weight=3.0), of(method="gardo", velocity_mse_weight=2.0)
    assert (data.kind, data.weight) == ("data (DDRL)", 3) and gated.kind == "gated velocity MSE (GARDO)"
    assert gated.weight == 2
    with pytest.raises(UserError, match="expected a reinforced run"):
        anchor({"run": "sft", "stage": "sft"})


def test_the_frontier_has_a_point_a_run(sources):
    _, data = drawing.draw({"kind": "frontier", "runs": [*RUNS, "missing"]}, sources)
    data = data.set_index("run")
    assert data["drift"].to_dict() == pytest.approx({run: drift for run, (_, _, drift) in RUNS.items()})
    assert data.loc["kl", "gold"] == pytest.approx(0.5) and data.loc["mse", "gold"] == pytest.approx(0.805)
    assert data["weight"].fillna(-1).to_dict() == {"none": -1, "kl": 5, "kl_more": 50, "mse": 2}
    assert data["artefact"].tolist() == pytest.approx([0.01] * len(RUNS))
    assert (data["gold_lo"] <= data["gold"]).all() and data["seeds"].to_dict()["kl"] == 1
    with pytest.raises(UserError, match="none of missing has validation records"):
        drawing.draw({"kind": "frontier", "runs": ["missing"]}, sources)


@pytest.mark.parametrize("changes", [{}, {"transition": "cps"}, {"transition": "dance", "noise_level": 0.3},
                                     {"grid": "points", "steps": 25}])  # fmt: skip
def test_the_weight_is_that_of_the_losses(changes):
    """latent_kl of two velocities over their velocity_mse, by torch, at every step."""
    rl = rl_config(**DEFAULTS | changes)
    times = flow.time_grid(rl.steps, rl.shift, rl.grid)
    x, v, other = torch.randn(3, 1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    weights = []
    for k in range(len(times) - 2):
        step = {
            "kind": rl.transition,
            "noise_level": rl.noise_level,
            "t_max": times[1].item(),
            "noise": torch.zeros_like(x),
        }
        one, two = (flow.sde_step(x, u, times[k].item(), times[k + 1].item(), **step) for u in (v, other))
        kl = latent_kl(one.mean[:, None], two.mean[:, None], one.std[:, None])
        weights.append((kl / velocity_mse(v[:, None], other[:, None])).item())
    assert mechanism.times(to_dict(rl)) == pytest.approx(times.numpy(), abs=1e-6)
    assert mechanism.kl_weights(to_dict(rl)) == pytest.approx(weights, rel=2e-3)


def test_the_papers_weights_spread_three_thousandfold():
    weights = mechanism.kl_weights(mechanism.PAPER | {"grid": "steps"})
    assert weights[:5] == pytest.approx([1.5e-4, 2.7e-4, 6.0e-4, 1.0e-3, 1.5e-3], rel=0.05)
    assert 2000 < weights.max() / weights.min() < 4000


def test_the_mechanism_shows_the_drift_of_every_time(sources):
    _, data = drawing.draw({"kind": "mechanism", "runs": ["mse", "none", "missing"]}, sources)
    drift = data[(data["what"] == "drift") & (data["of"] == "none") & (data["seed"] == 1)]
    assert drift["value"].tolist() == pytest.approx([0.9 * (k + 1) / 5.5 for k in range(10)])
    assert drift["time"].iloc[0] == 1 and len(drift) == 10
    with pytest.raises(UserError, match="none of missing has a validation with its drift"):
        drawing.draw({"kind": "mechanism", "runs": ["missing"]}, sources)


def test_sheets_show_the_peak_and_the_end_of_the_same_prompts(sources):
    figure, data = drawing.draw({"kind": "sheets", "runs": ["mse", "none", "missing"]}, sources)
    ends = data.groupby(["run", "when"])["update"].unique().map(list).to_dict()
    assert ends == {
        ("mse", "end"): [40], ("mse", "gold peaks"): [40], ("none", "end"): [40], ("none", "gold peaks"): [0],
    }  # fmt: skip
    shown = [axis.images[0].get_array()[0, 0, 0] for axis in figure.axes if axis.images]
    places = drawing.drawn(logs.course("none", sources.folder).tags, sheets.TAGS, "sheets")
    assert shown == places * 4 and len(set(places)) == len(places)
    assert data[(data["run"] == "none") & (data["when"] == "end")]["gold"].mean() == pytest.approx(0.2)
    assert not data["disputed"].any()


def test_pictures_of_a_sheet_that_the_instruments_read_differently_are_disputed():
    """Dark red is black to the second evaluator and no colour to the inspector."""
    (black,) = render([Scene((Obj("square", "black", 0.5, 0.5, 0.12),))])
    dark_red = np.rint(240 - (240 - black.astype(float)) / 225 * (240 - np.array([130, 10, 10]))).astype(np.uint8)
    meta = {"include": [{"class": "square", "count": 1}]}
    plain, asked = (Prompt("p", "", "", {"include": [meta["include"][0] | more]}) for more in ({}, {"color": "black"}))
    shown = [(asked, black), (asked, dark_red), (plain, dark_red), (None, dark_red)]
    assert sheets.disputed(*map(list, zip(*shown, strict=True))) == [False, True, False, False]
