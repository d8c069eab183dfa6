"""Windows of stochastic steps: where they can lie, how often, and how they move."""

from collections import Counter
from itertools import combinations

import pytest
import torch

from unigrpo.core.errors import UserError
from unigrpo.objectives.windows import draw_window, moving_window


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(3)


def test_windows_are_contiguous_and_reach_every_start(rng):
    windows = [draw_window(rng, 3, (0, 5), 25) for _ in range(300)]
    counts = {start: sum(w == range(start, start + 3) for w in windows) for start in (0, 1, 2)}
    assert sum(counts.values()) == 300 and min(counts.values()) > 60


def test_a_window_as_wide_as_its_range_has_one_place(rng):
    assert draw_window(rng, 4, (2, 6), 6) == range(2, 6)


@pytest.mark.parametrize(
    ("size", "window_range", "n_steps"),
    [(0, (0, 5), 25), (6, (0, 5), 25), (3, (0, 5), 4), (3, (-1, 5), 25), (1, (3, 3), 25)],
)
def test_impossible_windows_are_refused(rng, size, window_range, n_steps):
    with pytest.raises(UserError, match="SDE window"):
        draw_window(rng, size, window_range, n_steps)


def test_scattered_windows_reach_every_subset_of_the_range(rng):
    counts = Counter(tuple(draw_window(rng, 3, (1, 6), 25, scattered=True)) for _ in range(600))
    assert set(counts) == set(combinations(range(1, 6), 3)) and min(counts.values()) > 30


def test_a_moving_window_stays_moves_is_cut_at_the_end_and_starts_over():
    windows = [list(moving_window(i, 3, (1, 6), stay=lambda start: 2, shift=3)) for i in range(6)]
    assert windows == [[1, 2, 3], [1, 2, 3], [4, 5], [4, 5], [1, 2, 3], [1, 2, 3]]


def test_a_moving_window_may_overlap_and_stay_unequally_long():
    windows = [moving_window(i, 2, (0, 3), stay=lambda start: 3 - start, shift=1) for i in range(7)]
    assert [w.start for w in windows] == [0, 0, 0, 1, 1, 2, 0] and windows[5] == range(2, 3)
