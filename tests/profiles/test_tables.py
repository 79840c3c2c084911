"""Integer tables from noisy values on a grid."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.tables import integers, load_grid, pieces, sparse_grid

NOISE = st.lists(st.floats(0, 1e-3), min_size=400, max_size=400)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(most=st.integers(1, 3000), noise=NOISE)
def test_tables_never_fall_and_keep_the_running_maximum(most, noise):
    points = load_grid(most)
    values = np.array(noise[: len(points)]) + 1e-6
    table = integers(points, values, 1e12)
    assert table[0] == 0 and len(table) == most + 1 and (np.diff(table) >= 0).all()
    assert np.abs(table[points] - np.maximum.accumulate(values) * 1e12).max() <= 1


@settings(deadline=None, max_examples=40, derandomize=True)
@given(most=st.integers(1, 300), longest=st.integers(1, 100_000), noise=NOISE)
def test_decode_pieces_join_and_stay_within_half_a_unit_per_token(most, longest, noise):
    batches, knots = sparse_grid(most), np.concatenate([[0], sparse_grid(longest)])
    values = np.resize(noise, (len(batches), len(knots)))
    value, slope = pieces(most, batches, knots, values, 1e12)
    width = np.arange(most + 1)[:, None] * np.diff(knots)
    assert (slope >= 0).all() and not value[0].any() and not slope[0].any()
    assert (value[:, :-1] + slope[:, :-1] * width == value[:, 1:]).all()
    true = np.maximum.accumulate(np.maximum.accumulate(values, axis=0), axis=1)[:, 1:] * 1e12
    off = np.abs(value[batches, 1:] - true)
    # An overshoot waits, with slope 0, for the truth to catch up.
    assert (off <= 0.5 * np.maximum.accumulate(width[batches], axis=1) + 1).all()


def test_grids_hold_what_they_must():
    for most in (1, 2, 63, 64, 65, 1000, 8192):
        for grid in (load_grid(most, 50, 5000), sparse_grid(most, 50, 5000)):
            assert grid[0] == 1 and grid[-1] == most and (np.diff(grid) > 0).all()
            assert (50 in grid) == (most >= 50)
