"""Means, intervals and paired differences: hand-computed cases and coverage on a simulated study."""

import time

import numpy as np
import pytest
from scipy.stats import bootstrap, spearmanr

from unigrpo.core.errors import UserError
from unigrpo.report.data import stats
from unigrpo.report.data.stats import Cells, _resampled, difference, estimate, prompt_weights, rank_correlation


def cells(values, tags=None, seeds=None):
    values = np.asarray(values, dtype=float)
    tags = tuple(tags or "a" * values.shape[1])
    return Cells(values, tuple(seeds or range(values.shape[0])), tuple(f"p{i}" for i in range(values.shape[1])), tags)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_overall_is_the_mean_of_category_means():
    # category a: (1 + 0 + 0) / 3, b: 1; over images it would be 1/2
    c = cells([[1, 0, 0, 1]], tags="aaab")
    assert estimate(c, rng()).mean == pytest.approx((1 / 3 + 1) / 2)
    assert estimate(c, rng(), by_category=False).mean == pytest.approx(1 / 2)
    assert prompt_weights(list("aab"), True) == pytest.approx([1 / 4, 1 / 4, 1 / 2])
    assert estimate(c.only("a"), rng()).mean == pytest.approx(1 / 3)
    assert c.only("a").prompts == ("p0", "p1", "p2")


def test_interval_of_two_seeds_is_their_range_when_prompts_agree():
    e = estimate(cells([[0.2, 0.2], [0.6, 0.6]]), rng())
    assert (e.mean, e.lo, e.hi) == pytest.approx((0.4, 0.2, 0.6))
    assert (e.seeds, e.prompts) == (2, 2)


def test_one_seed_gives_a_prompt_interval():
    e = estimate(cells([[0, 1]]), rng())
    assert e.seeds == 1 and (e.lo, e.hi) == pytest.approx((0, 1))


def test_prompts_are_resampled_within_their_category_only():
    # category a is constant, so no resample within it can move the mean: b alone has a spread, of half the weight
    e = estimate(cells([[9, 9, 0, 1, 1, 0]], tags="aabbbb"), rng())
    alone = estimate(cells([[0, 1, 1, 0]]), rng())
    assert e.mean == pytest.approx(4.75) and e.hi - e.lo == pytest.approx((alone.hi - alone.lo) / 2)


def wilson(right, n, z=1.959964):
    """Wilson's interval (1927), as Newcombe (1998, equation 3) and Agresti & Coull (1998) write it."""
    p = right / n
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


@pytest.mark.parametrize("n", [2, 5, 10, 77])
def test_all_right_and_all_wrong_have_wilsons_interval(n):
    for right in (0, 1):
        e = estimate(cells([[right] * n]), rng())
        assert (e.lo, e.hi) == pytest.approx(wilson(right * n, n), abs=1e-6)
        several = estimate(cells([[right] * n] * 3), rng())  # three seeds share the prompts: no more is known
        assert (several.lo, several.hi, several.seeds) == (e.lo, e.hi, 3) and (e.lo == 0 or e.hi == 1)


def test_five_of_five_allow_0566_to_1():
    e = estimate(cells([[1] * 5]), rng())
    assert (round(e.lo, 3), e.hi) == (0.566, 1)
    # Newcombe (1998), table I: 0 of 20 gives 0 to 0.1611; 1 of 29 and the like have width without this
    assert round(estimate(cells([[0] * 20]), rng()).hi, 4) == 0.1611


def test_categories_of_verdicts_that_all_agree_count_as_their_effective_number_of_prompts():
    e = estimate(cells([[1] * 12], tags="aaabbbbbbbbb"), rng())
    n = 1 / (3 * (1 / 6) ** 2 + 9 * (1 / 18) ** 2)  # 9: fewer than 12, for a category of three weighs as much as nine
    assert n == pytest.approx(9) and (e.lo, e.hi) == pytest.approx(wilson(9, 9), abs=1e-6)
    assert estimate(cells([[1] * 12], tags="aaabbbbbbbbb"), rng(), by_category=False).lo > e.lo


def tango(positive, negative, n, z=1.959964):
    """Limits of a paired difference of proportions by Tango (1998), equation 3, from the score itself: the values
    between which (b - c - n d) / sqrt(n (2 q + d (1 - d))) stays within z, q the constrained estimate."""
    d = np.linspace(-1 + 1e-6, 1 - 1e-6, 2_000_001)
    b = -positive - negative + (2 * n - positive + negative) * d
    q = (np.sqrt(np.maximum(b * b + 8 * n * negative * d * (1 - d), 0)) - b) / (4 * n)
    score = np.abs(positive - negative - n * d) / np.sqrt(np.maximum(n * (2 * q + d * (1 - d)), 1e-300))
    inside = d[score <= z]
    return inside.min(), inside.max()


@pytest.mark.parametrize("n", [2, 5, 20, 60])
def test_paired_verdicts_that_differ_nowhere_or_everywhere_have_tangos_interval(n):
    right, wrong = cells([[1.0] * n]), cells([[0.0] * n])
    for a, b, found in ((right, right, tango(0, 0, n)), (right, wrong, tango(n, 0, n))):
        e = estimate(difference(a, b), rng())
        assert e.lo == pytest.approx(found[0], abs=1e-5)
        assert e.hi == pytest.approx(1 if a is not b else found[1], abs=1e-5)
    e = estimate(difference(wrong, right), rng())
    assert (e.mean, e.lo) == pytest.approx((-1, -1)) and e.hi == pytest.approx(-tango(n, 0, n)[0], abs=1e-5)


def test_one_prompt_has_no_interval_and_no_direction():
    for c in (cells([[0.003]]), cells([[1], [0]]), difference(cells([[1.0]] * 2), cells([[0.0]] * 2))):
        e = estimate(c, rng())
        assert (e.lo, e.hi, e.resolvable, e.prompts) == (None, None, None, 1)
    assert stats.written(0.5, None, None) == "0.500 (one prompt)"
    assert stats.written(0.5, 0.25, 1, "+.2f") == "+0.50 [+0.25, +1.00]"


def test_categories_of_one_prompt_are_resampled_together():
    """Alone, none of them would have a spread, and their mean a certainty that six prompts do not give."""
    values = rng(1).random(6)
    alone, together = (estimate(cells([values], tags), rng()) for tags in ("abcdef", "aaaaaa"))
    assert (alone.lo, alone.hi) == pytest.approx((together.lo, together.hi))
    # one prompt beside many that nearly agree: that it has half the weight is seen
    e = estimate(cells([[1.0] + [0.0, 0.1] * 5], "a" + "b" * 10), rng())
    assert e.mean == pytest.approx(0.525) and e.hi - e.lo > 0.5


def test_values_that_agree_without_a_range_stay_as_they_are():
    """What is 0 by construction, or measured in other units: outside [0, 1] no bound is known."""
    for c in (cells([[7.0, 7.0, 7.0]]), Cells(np.zeros((1, 3)), (0,), tuple("pqr"), tuple("aaa"), None)):
        e = estimate(c, rng())
        assert e.lo == e.mean == e.hi


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.97])
def test_coverage_of_verdicts_drawn_at_random(p):
    """With few prompts and verdicts near 0 or 1 many draws agree everywhere; the bootstrap alone covered none of
    them. Of what remains it covers too little, as it does for small n."""
    draw, n, draws = rng(11), 20, 1500
    samples = (draw.random((draws, n)) < p).astype(float)
    agree = np.ptp(samples, axis=1) == 0
    found = [estimate(cells([s]), draw, resamples=300) for s in samples]
    hits = np.array([e.lo <= p <= e.hi for e in found])
    least = {0.02: 0.97, 0.1: 0.85, 0.5: 0.92, 0.97: 0.95}[p]
    assert hits.mean() >= least and hits[agree].all() == (p != 0.5 or not agree.any())
    if p in (0.02, 0.97):
        assert agree.mean() > 0.5  # so that the coverage above is theirs


def test_bootstrap_variance_is_the_sum_of_the_two_unbiased_variances():
    values = rng(1).normal(size=(4, 30))
    tags = list("a" * 10 + "b" * 20)
    e = estimate(cells(values, tags), rng(2), resamples=200_000)
    w = prompt_weights(tags, True)
    seed_part = np.var(values @ w, ddof=1) / 4
    by_prompt = values.mean(0)
    prompt_part = np.var(by_prompt[:10], ddof=1) / 10 / 4 + np.var(by_prompt[10:], ddof=1) / 20 / 4
    half = 1.96 * np.sqrt(seed_part + prompt_part)
    assert (e.hi - e.lo) / 2 == pytest.approx(half, rel=0.06)  # percentiles of a nearly normal sum
    assert e.resolvable == pytest.approx(2.8 * half / 1.96, rel=0.06)


def test_resampled_means_have_the_unbiased_variance():
    values = np.array([0.0, 1.0, 5.0])
    deviations = _resampled(values, rng(), 200_000)
    assert deviations.var() == pytest.approx(values.var(ddof=1) / 3, rel=0.02)
    assert deviations.mean() == pytest.approx(0, abs=0.02)


def test_one_seed_and_category_is_the_plain_bootstrap_of_a_mean():
    values = rng(6).exponential(size=400)  # skewed, so that a symmetric interval would not agree
    e = estimate(cells([values]), rng(), resamples=20_000)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=rng(1)).confidence_interval
    wider = np.sqrt(400 / 399)  # n - 1 of n draws, theirs are n
    mean = values.mean()
    expected = (mean + (theirs.low - mean) * wider, mean + (theirs.high - mean) * wider)
    assert (e.lo, e.hi) == pytest.approx(expected, abs=0.03 * (e.hi - e.lo))


@pytest.mark.parametrize(
    ("seed_sd", "prompt_sd", "noise_sd", "least"),
    [(0.03, 0.3, 0.3, 0.9), (0.0, 0.3, 0.3, 0.93), (0.0, 0.0, 0.3, 0.93)],
)
def test_coverage_of_a_simulated_study(seed_sd, prompt_sd, noise_sd, least):
    draw, hits, studies = rng(3), 0, 300
    for _ in range(studies):
        values = 0.5 + seed_sd * draw.normal(size=(5, 1)) + prompt_sd * draw.normal(size=(1, 60))
        values = values + noise_sd * draw.normal(size=(5, 60))
        e = estimate(cells(values, "a" * 20 + "b" * 40), draw, resamples=400)
        hits += e.lo <= 0.5 <= e.hi
    assert hits / studies >= least


def test_same_generator_same_interval():
    c = cells(rng(4).random((3, 20)))
    assert estimate(c, rng(5)) == estimate(c, rng(5))
    assert estimate(c, rng(5)) != estimate(c, rng(6))


def test_pairing_removes_the_prompts_from_the_difference():
    draw = rng(7)
    base = draw.random((3, 40))
    gain = difference(cells(base + 0.1), cells(base))
    e = estimate(gain, rng())
    assert (e.mean, e.lo, e.hi) == pytest.approx((0.1, 0.1, 0.1))
    unpaired = estimate(cells(base), rng())
    assert unpaired.hi - unpaired.lo > 0.05


def test_difference_pairs_seeds_by_name_and_keeps_shared_ones():
    a, b = cells([[1.0], [5.0]], seeds=(0, 1)), cells([[2.0], [1.0]], seeds=(1, 2))
    assert difference(a, b).values.tolist() == [[3.0]]
    assert difference(a, b).seeds == (1,)


def test_a_single_checkpoint_is_paired_with_every_seed():
    many, one = cells([[1.0, 2.0], [5.0, 6.0]], seeds=(0, 1)), cells([[1.0, 1.0]], seeds=(0,))
    assert difference(many, one).values.tolist() == [[0, 1], [4, 5]]
    assert difference(one, many).seeds == (0, 1)


def test_the_seed_that_is_left_of_a_run_is_paired_with_itself():
    many, left = cells([[1.0, 2.0], [5.0, 6.0]], seeds=(0, 1)), cells([[1.0, 1.0]], seeds=(1,))
    assert difference(many, left, one_for_all=False).values.tolist() == [[4, 5]]
    assert difference(many, left, one_for_all=False).seeds == (1,)


def test_difference_refuses_other_prompts_and_strange_seeds():
    with pytest.raises(UserError, match=r"same prompts.*p1"):
        difference(cells([[1.0]]), cells([[1.0, 2.0]]))
    with pytest.raises(UserError, match="shared seed"):
        difference(cells([[1.0], [1.0]], seeds=(0, 1)), cells([[1.0], [1.0]], seeds=(2, 3)))


def test_holes_and_empty_selections_are_refused():
    with pytest.raises(UserError, match="seed 0 has no finite value for prompt 'p1'"):
        cells([[1.0, np.nan]])
    with pytest.raises(UserError, match="at least one"):
        cells(np.zeros((1, 0)))


def test_a_whole_table_takes_a_moment():
    c = cells(rng(8).random((3, 300)), [str(i % 6) for i in range(300)])
    start = time.perf_counter()
    for _ in range(20):
        estimate(c, rng())
    assert time.perf_counter() - start < 2


def test_rank_correlation_is_scipys_with_its_bootstrap_over_rows():
    draw = rng(9)
    a = draw.normal(size=14)
    b = np.round(a + 0.5 * draw.normal(size=14), 1)  # rounded as the paper's numbers are: ties
    rho, lo, hi = rank_correlation(a, b, rng(), resamples=9999)
    assert rho == pytest.approx(spearmanr(a, b).statistic)
    theirs = bootstrap(
        (a, b), lambda x, y: spearmanr(x, y).statistic, paired=True, vectorized=False, n_resamples=999,
        method="percentile", rng=rng(1),
    ).confidence_interval  # fmt: skip
    assert (lo, hi) == pytest.approx((theirs.low, theirs.high), abs=0.06)


def test_rank_correlation_of_few_or_equal_rows_is_not_available():
    assert rank_correlation([1, 2, 3], [1, 2, 3], rng()) is None
    assert rank_correlation([1, 1, 1, 1], [1, 2, 3, 4], rng()) is None
    found = rank_correlation([1, 2, 3, 4], [4, 3, 2, 1], rng())  # resamples of one row only have no order
    assert found == pytest.approx((-1, -1, -1))


@pytest.mark.parametrize("n", [2, 7, 400])
def test_resamples_are_the_same_however_many_are_drawn_at_once(monkeypatch, n):
    values = np.random.default_rng(1).normal(size=n)
    whole = values[np.random.default_rng(2).integers(n, size=(50, n - 1))].mean(axis=1) - values.mean()
    monkeypatch.setattr(stats, "DRAWN", 3 * n)
    assert np.array_equal(_resampled(values, np.random.default_rng(2), 50), whole)
