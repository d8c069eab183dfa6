"""Means, intervals and paired differences: hand-computed cases and coverage on a simulated study."""

import numpy as np
import pytest
from scipy import optimize
from scipy import stats as distributions

from unigrpo.core.errors import UserError
from unigrpo.report.data import stats
from unigrpo.report.data.stats import Cells, difference, estimate, holm, prompt_weights


def cells(values, tags=None, seeds=None):
    values = np.asarray(values, dtype=float)
    tags = tuple(tags or "a" * values.shape[1])
    return Cells(values, tuple(seeds or range(values.shape[0])), tuple(f"p{i}" for i in range(values.shape[1])), tags)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_overall_is_the_mean_of_category_means():
    # category a: (1 + 0 + 0) / 3, b: 1; over images it would be 1/2
    c = cells([[1, 0, 0, 1]], tags="aaab")
    assert estimate(c).mean == pytest.approx((1 / 3 + 1) / 2)
    assert estimate(c, by_category=False).mean == pytest.approx(1 / 2)
    assert prompt_weights(list("aab"), True) == pytest.approx([1 / 4, 1 / 4, 1 / 2])
    assert estimate(c.only("a")).mean == pytest.approx(1 / 3)
    assert c.only("a").prompts == ("p0", "p1", "p2")


def test_two_replicates_whose_prompts_agree_have_the_interval_of_two_numbers():
    e = estimate(cells([[0.48, 0.48], [0.52, 0.52]]))
    assert (e.error, e.df) == pytest.approx((0.02, 1)) and e.lo == pytest.approx(0.5 - 12.7062 * 0.02)
    assert (e.mean, e.seeds, e.prompts) == (0.5, 2, 2)


def test_one_seed_gives_the_t_interval_of_its_prompts_within_the_range():
    values = [0.2, 0.3, 0.4, 0.4, 0.7]
    e, theirs = estimate(cells([values])), distributions.ttest_1samp(values, 0).confidence_interval()
    assert e.seeds == 1 and (e.lo, e.hi) == pytest.approx((theirs.low, theirs.high))
    assert e.p == pytest.approx(distributions.ttest_1samp(values, 0).pvalue)
    assert (estimate(cells([[0, 1]])).lo, estimate(cells([[0, 1]])).hi) == (0, 1)


def test_prompts_count_within_their_category_only():
    # category a is constant: b alone has a spread, of half the weight
    e, alone = estimate(cells([[9, 9, 0, 1, 1, 0]], tags="aabbbb")), estimate(cells([[0, 1, 1, 0]]))
    assert e.mean == pytest.approx(4.75) and (e.error, e.df) == pytest.approx((alone.error / 2, alone.df))


def wilson(right, n, z=1.959964):
    """Wilson's interval (1927), as Newcombe (1998, equation 3) and Agresti & Coull (1998) write it."""
    p = right / n
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


@pytest.mark.parametrize("n", [2, 5, 10, 77])
def test_all_right_and_all_wrong_have_wilsons_interval(n):
    for right in (0, 1):
        e = estimate(cells([[right] * n]))
        assert (e.lo, e.hi) == pytest.approx(wilson(right * n, n), abs=1e-6)
        several = estimate(cells([[right] * n] * 3))  # three seeds share the prompts: no more is known
        assert (several.lo, several.hi, several.seeds) == (e.lo, e.hi, 3) and (e.lo == 0 or e.hi == 1)


def test_five_of_five_allow_0566_to_1():
    e = estimate(cells([[1] * 5]))
    assert (round(e.lo, 3), e.hi) == (0.566, 1)
    # Newcombe (1998), table I: 0 of 20 gives 0 to 0.1611; 1 of 29 and the like have width without this
    assert round(estimate(cells([[0] * 20])).hi, 4) == 0.1611


def test_categories_of_verdicts_that_all_agree_count_as_their_effective_number_of_prompts():
    e = estimate(cells([[1] * 12], tags="aaabbbbbbbbb"))
    n = 1 / (3 * (1 / 6) ** 2 + 9 * (1 / 18) ** 2)  # 9: fewer than 12, for a category of three weighs as much as nine
    assert n == pytest.approx(9) and (e.lo, e.hi) == pytest.approx(wilson(9, 9), abs=1e-6)
    assert estimate(cells([[1] * 12], tags="aaabbbbbbbbb"), by_category=False).lo > e.lo


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
        e = estimate(difference(a, b))
        assert e.lo == pytest.approx(found[0], abs=1e-5)
        assert e.hi == pytest.approx(1 if a is not b else found[1], abs=1e-5)
    e = estimate(difference(wrong, right))
    assert (e.mean, e.lo) == pytest.approx((-1, -1)) and e.hi == pytest.approx(-tango(n, 0, n)[0], abs=1e-5)


def test_one_prompt_has_no_interval_and_no_direction():
    for c in (cells([[0.003]]), cells([[1], [0]]), difference(cells([[1.0]] * 2), cells([[0.0]] * 2))):
        e = estimate(c)
        assert (e.lo, e.hi, e.resolvable, e.prompts) == (None, None, None, 1)
    assert stats.written(0.5, None, None) == "0.500 (one prompt)"
    assert stats.written(0.5, 0.25, 1, "+.2f") == "+0.50 [+0.25, +1.00]"


def test_categories_of_one_prompt_are_resampled_together():
    """Alone, none of them would have a spread, and their mean a certainty that six prompts do not give."""
    values = rng(1).random(6)
    alone, together = (estimate(cells([values], tags)) for tags in ("abcdef", "aaaaaa"))
    assert (alone.lo, alone.hi) == pytest.approx((together.lo, together.hi))
    # one prompt beside many that nearly agree: that it has half the weight is seen
    e = estimate(cells([[1.0] + [0.0, 0.1] * 5], "a" + "b" * 10))
    assert e.mean == pytest.approx(0.525) and e.hi - e.lo > 0.5


def test_values_that_agree_without_a_range_stay_as_they_are():
    """What is 0 by construction, or measured in other units: outside [0, 1] no bound is known."""
    for c in (cells([[7.0, 7.0, 7.0]]), Cells(np.zeros((1, 3)), (0,), tuple("pqr"), tuple("aaa"), None)):
        e = estimate(c)
        assert e.lo == e.mean == e.hi


@pytest.mark.parametrize("p", [0.02, 0.1, 0.5, 0.97])
def test_coverage_of_verdicts_drawn_at_random(p):
    """With few prompts and verdicts near 0 or 1 many draws agree everywhere, and have no variance. Of what remains the
    interval covers too little, as it does for small n."""
    draw, n, draws = rng(11), 20, 1500
    samples = (draw.random((draws, n)) < p).astype(float)
    agree = np.ptp(samples, axis=1) == 0
    hits = np.array([e.lo <= p <= e.hi for e in (estimate(cells([s])) for s in samples)])
    least = {0.02: 0.97, 0.1: 0.85, 0.5: 0.92, 0.97: 0.95}[p]
    assert hits.mean() >= least and hits[agree].all() == (p != 0.5 or not agree.any())
    if p in (0.02, 0.97):
        assert agree.mean() > 0.5  # so that the coverage above is theirs


def interval_by_sums_of_squares(values, tags):
    """Mean and ends of the interval from the sums of squares of the two-way table, category by category, as loops."""
    count, names = len(values), sorted(set(tags))
    means, between, noise, squares = np.zeros(count), 0.0, 0.0, 0.0
    for name in names:
        table = [[row[i] for i, tag in enumerate(tags) if tag == name] for row in values]
        n, grand = len(table[0]), np.mean(table)
        rows, columns = [np.mean(row) for row in table], [np.mean(column) for column in zip(*table, strict=True)]
        means += np.array(rows) / len(names)
        prompts = sum((column - grand) ** 2 for column in columns) / (n - 1) / n
        left = sum((table[k][p] - rows[k] - columns[p] + grand) ** 2 for k in range(count) for p in range(n))
        between += prompts / len(names) ** 2
        squares += (prompts / len(names) ** 2) ** 2 / (n - 1)
        noise += left / ((n - 1) * (count - 1)) / (n * count) / len(names) ** 2
    seeds, prompts = np.var(means, ddof=1) / count, max(between - noise, 0)
    quantiles = [distributions.t(df).ppf(0.975) for df in (count - 1, between**2 / squares)]
    quantile = (seeds * quantiles[0] + prompts * quantiles[1]) / (seeds + prompts)
    half = quantile * np.sqrt(seeds + prompts)
    df = optimize.brentq(lambda df: distributions.t(df).ppf(0.975) - quantile, 0.5, 1e6)
    return means.mean() - half, means.mean() + half, half / quantile, df


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("prompt_sd", [0.0, 0.1])
def test_interval_is_that_of_the_sums_of_squares(count, prompt_sd):
    draw, tags = rng(count), "aaabbbbbcc"
    values = 0.5 + 0.05 * draw.normal(size=(count, 10)) + prompt_sd * draw.normal(size=10)
    e = estimate(cells(values, tags))
    assert (e.lo, e.hi, e.error, e.df) == pytest.approx(interval_by_sums_of_squares(values, tags), rel=1e-6)
    assert estimate(cells(values[:, ::-1], tags[::-1])).lo == pytest.approx(e.lo)


FEW = "a" * 9 + "b" * 9 + "c" * 9 + "d" * 9 + "e" * 8 + "f" * 8


@pytest.mark.parametrize("tags", [FEW, "a" * 150], ids=["52 prompts", "150 prompts"])
@pytest.mark.parametrize(
    "seed_sd, prompt_sd, noise_sd",
    [(0.08, 0.1, 0.1), (0.002, 0.3, 0.2), (0.03, 0.3, 0.3), (0.0, 0.0, 0.3)],
    ids=["replicates dominate", "prompts dominate", "both", "interaction alone"],
)
def test_four_replicates_cover_95_percent_whatever_dominates(seed_sd, prompt_sd, noise_sd, tags):
    draw, studies, each = rng(3), 2500, len(tags)
    values = seed_sd * draw.normal(size=(studies, 4, 1)) + prompt_sd * draw.normal(size=(studies, 1, each))
    values += noise_sd * draw.normal(size=(studies, 4, each))
    assert 0.93 <= covered(values, tags, 0.0) <= 0.97


@pytest.mark.parametrize("seed_sd, prompt_sd", [(0.5, 0.5), (0.05, 1.5), (0.0, 0.0)])
def test_shares_of_four_images_are_covered_too(seed_sd, prompt_sd):
    """Cells are shares of right images among four, whose chances differ by replicate and by prompt."""
    draw, studies = rng(5), 2500
    logits = 0.5 + seed_sd * draw.normal(size=(studies, 4, 1)) + prompt_sd * draw.normal(size=(studies, 1, 52))
    far = 0.5 + np.hypot(seed_sd, prompt_sd) * rng(6).normal(size=10**6)
    values = draw.binomial(4, 1 / (1 + np.exp(-logits))) / 4
    assert 0.93 <= covered(values, FEW, (1 / (1 + np.exp(-far))).mean()) <= 0.97


@pytest.mark.parametrize("seed_sd, prompt_sd", [(0.08, 0.1), (0.03, 0.3), (0.01, 0.3), (0.0, 0.0)])
def test_two_replicates_cover_at_the_price_of_their_width(seed_sd, prompt_sd):
    draw, studies = rng(7), 2500
    values = seed_sd * draw.normal(size=(studies, 2, 1)) + prompt_sd * draw.normal(size=(studies, 1, 52))
    values += 0.2 * draw.normal(size=(studies, 2, 52))
    assert 0.93 <= covered(values, FEW, 0.0) <= 0.98


def covered(values, tags, truth):
    found = (
        estimate(Cells(v, tuple(range(len(v))), tuple(map(str, range(len(tags)))), tuple(tags), None)) for v in values
    )
    return np.mean([e.lo <= truth <= e.hi for e in found])


def test_resolvable_is_found_with_80_percent_power():
    values = 0.5 + 0.02 * rng(2).normal(size=(4, 1)) + 0.1 * rng(3).normal(size=(4, 52))
    e = estimate(cells(values, FEW))
    theirs = distributions.nct(e.df, e.resolvable / e.error).sf(distributions.t(e.df).ppf(0.975))
    assert theirs == pytest.approx(0.8, abs=0.03)


def test_a_p_value_is_below_5_percent_where_the_interval_excludes_0():
    noise = rng(4).normal(size=(3, 20))
    for shift in np.linspace(-1, 1, 41):
        e = estimate(Cells(noise + shift, (0, 1, 2), tuple(map(str, range(20))), tuple("a" * 20), None))
        assert (e.p < 0.05) == (e.lo > 0 or e.hi < 0)
    assert estimate(difference(cells([[1.0] * 9]), cells([[1.0] * 9]))).p == 1
    assert estimate(Cells(np.ones((2, 3)), (0, 1), tuple("pqr"), tuple("aaa"), None)).p == 0


def test_holm_adjusts_a_family():
    # Holm (1979): 0.01 * 4, 0.013 * 3 (raised to the one before), 0.03 * 2, 0.5
    assert holm([0.03, 0.01, 0.5, 0.013]) == pytest.approx([0.06, 0.04, 0.5, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([]) == []


def test_pairing_removes_the_prompts_from_the_difference():
    draw = rng(7)
    base = draw.random((3, 40))
    gain = difference(cells(base + 0.1), cells(base))
    e = estimate(gain)
    assert (e.mean, e.lo, e.hi) == pytest.approx((0.1, 0.1, 0.1))
    unpaired = estimate(cells(base))
    assert unpaired.hi - unpaired.lo > 0.05


def test_a_difference_lies_within_the_range_of_differences():
    for within in ((0.0, 2.0), (-np.inf, 1.0)):
        a = Cells(np.ones((1, 2)), (0,), ("p", "q"), ("a", "a"), within)
        assert difference(a, a).within == (within[0] - within[1], within[1] - within[0])
    assert difference(cells([[1.0, 1.0]]), Cells(np.ones((1, 2)), (0,), ("p0", "p1"), ("a", "a"), None)).within is None


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
