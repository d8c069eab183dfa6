"""Regularisers at equal terms, on curves whose difference is known."""

import numpy as np
import pytest

from tests._support.study import make_table, write_validations
from unigrpo.report.data import equal_terms
from unigrpo.report.data.logs import course
from unigrpo.report.data.results import Folder


def curve(x, f):
    """(W, K) places -> (W, K, 2 prompts) outcomes: f and f + 1."""
    return np.stack([f(x), f(x) + 1], axis=-1)


def test_lines_differ_by_what_they_differ():
    """y = 2x + 1 and y = 2x: 1 at any x, however the weights lie, and whatever their order."""
    x = [np.array([[0.0, 5], [0.7, 2], [0.4, 3]]), np.array([[0.2, 4], [0.9, 1]])]
    apart, ranges = equal_terms.at_equal(x, [curve(x[0], lambda x: 2 * x + 1), curve(x[1], lambda x: 2 * x)])
    assert apart == pytest.approx(np.ones((2, 2)))
    assert ranges == pytest.approx(np.array([[0.2, 0.7], [2, 4]]))


def test_the_mean_over_the_range_is_the_integral_of_the_broken_lines():
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = [rng.random((4, 1)), rng.random((3, 1))]
        y = [rng.random((4, 1, 1)), rng.random((3, 1, 1))]
        apart, ((lo, hi),) = equal_terms.at_equal(x, y)
        if not lo <= hi:
            assert np.isnan(apart).all() and max(v.min() for v in x) > min(v.max() for v in x)
            continue
        fine = np.linspace(lo, hi, 20001)
        points = [sorted(zip(v[:, 0], w[:, 0, 0], strict=True)) for v, w in zip(x, y, strict=True)]
        lines = [np.interp(fine, *zip(*each, strict=True)) for each in points]
        assert apart == pytest.approx((lines[0] - lines[1]).mean(), abs=1e-4)


def test_parabolas_of_many_weights_give_their_analytic_mean():
    """x (1 - x) against 0 over [0, 1]: 1/6."""
    x = [np.linspace(0, 1, 101)[:, None], np.array([[0.0], [1.0]])]
    apart, _ = equal_terms.at_equal(x, [curve(x[0], lambda x: x * (1 - x)), curve(x[1], lambda x: 0 * x)])
    assert apart == pytest.approx(np.full((1, 2), 1 / 6), abs=1e-4)


def test_one_common_place_is_a_range_and_none_is_none():
    x = [np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[1.0, 1.5], [2.0, 2.0]])]
    apart, ranges = equal_terms.at_equal(x, [curve(x[0], lambda x: x), curve(x[1], lambda x: x + 1)])
    assert apart[0] == pytest.approx([-1, -1]) and ranges[0].tolist() == [1, 1]
    assert np.isnan(apart[1]).all() and np.isnan(ranges[1]).all()


TAGS, UPDATES = ("a", "a", "b", "b"), (0, 20, 40, 60, 80)
GAINS = {"gold": 0.1, "image_given_trace": 0.05, "extra": -0.2, "wrong_hues": 0.0, "artefact": -0.01}  # of MSE over KL


@pytest.fixture
def study(tmp_path):
    """Velocity MSE and latent KL at three weights, three replicates. All outcomes are linear in the proxy, MSE's higher
    by GAINS; drift is ten to the proxy. The first half of the course is far off. MSE's last replicate has no range."""
    rng = np.random.default_rng(0)
    for kind, name, moved in (("velocity_mse", "mse", 0.05), ("latent_kl", "kl", 0.0)):
        for number, weight in enumerate((1.0, 4.0, 16.0)):
            levels = 0.2 + 0.1 * number + moved + 0.01 * rng.random(3)
            if name == "mse":
                levels[2] += 0.6
            values = {"proxy": np.empty((3, 5, 4, 2))}
            values |= {metric: np.empty((3, 5, 4, 2)) for metric in GAINS}
            values["proxy"][:] = levels[:, None, None, None]
            for metric, gain in GAINS.items():
                values[metric][:] = 0.2 + 0.5 * values["proxy"] + gain * (name == "mse") * (metric != "strict")
                values[metric][:, :2] = 0.9
            logs = [
                [{"kind": "validation", "update": u, "drift": 10 ** levels[k] if u >= 40 else 1e-6} for u in UPDATES]
                for k in range(3)
            ]
            rl = {"regulariser": kind, f"{kind}_weight": weight}
            write_validations(tmp_path, f"{name}_{number}", values, TAGS, rl, f"{name}, {kind}_weight {weight:g}", logs)
    return tmp_path


def test_a_table_compares_regularisers_at_equal_reward_and_at_equal_drift(study):
    runs = [f"{name}_{number}" for name in ("mse", "kl") for number in range(3)]
    frame, text = make_table(study, study, {"kind": "matched", "runs": runs})
    assert frame["at"].tolist() == ["proxy", "log10 drift"] and frame["seeds"].tolist() == [2, 2]
    for metric, gain in GAINS.items():
        assert frame[metric].tolist() == pytest.approx([gain, gain], abs=1e-3)
    assert frame["range_lo"].between(0.25, 0.27).all() and frame["range_hi"].between(0.4, 0.42).all()
    assert "| mse − kl " in text and "smallest true difference" in text


def test_without_a_common_seed_or_metric_there_is_no_comparison(study):
    folder = Folder(study)
    a, b = [course("mse_0", folder)], [course("kl_0", folder)]
    cells, ranges = equal_terms.compared(a, b, "proxy", "gold", folder)
    assert cells is None and ranges.shape == (3, 2)  # one weight each, at different places
    b[0].values.pop("extra")
    assert equal_terms.compared(a, b, "proxy", "extra", folder)[0] is None
