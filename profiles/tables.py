"""From costs at a few loads to the full integer tables of ``profiles.stepcost``.

Operations are evaluated on a grid and interpolated linearly; every table is made non-decreasing first
(a measured kernel that gets faster with more work is noise, or one that could be padded), so integer
tables that are sums of integer parts are non-decreasing too.
"""

import numpy as np
from numpy.typing import NDArray

from profiles.ops import FloatArray, IntArray

NJ = 1e9
"""Nanojoules in a joule."""


def load_grid(most: int, *extra: int) -> IntArray:
    """Loads 1..64, then 16 per octave (multiples of 8 and more), ``extra`` ones, and ``most`` (>= 1).

    Examples
    --------
    >>> load_grid(100)[-6:].tolist(), len(load_grid(8192))
    ([64, 72, 80, 88, 96, 100], 168)
    """
    points = set(range(1, min(most, 64) + 1))
    low = 64
    while low < most:
        points.update(range(low, min(2 * low, most), max(8, low // 16)))
        low *= 2
    points.update(e for e in extra if 0 < e < most)
    points.add(most)
    return np.array(sorted(points), dtype=np.int64)


def sparse_grid(most: int, *extra: int) -> IntArray:
    """1, then two values per octave, ``extra`` ones, and ``most`` (>= 1)."""
    points = {most, *(e for e in extra if 0 < e < most)}
    value = 1
    while value < most:
        points.update(v for v in (value, value + value // 2) if v < most)
        value *= 2
    return np.array(sorted(points), dtype=np.int64)


def integers(points: IntArray, values: FloatArray, unit: float) -> IntArray:
    """Table over 0..points[-1] of ``values`` at ``points`` (from 1 on), 0 at 0, in ``unit`` parts, never
    falling."""
    scaled = values * unit
    starts = np.concatenate([[0], points[:-1]])
    bases = np.concatenate([[0.0], scaled[:-1]])
    widths = points - starts
    slopes = (scaled - bases) / widths
    # As np.interp, several times faster: the table can have a million entries.
    beyond = np.arange(1, points[-1] + 1) - np.repeat(starts, widths)
    table = np.zeros(points[-1] + 1, dtype=np.int64)
    table[1:] = np.rint(np.repeat(bases, widths) + np.repeat(slopes, widths) * beyond)
    return np.maximum.accumulate(table, out=table)


def capped(values: FloatArray, bounds: FloatArray, ceiling: float) -> FloatArray:
    """``values`` with every step along the last axis (and the first value) at most ``ceiling`` times that
    of ``bounds``: energy of a piece never exceeds the highest power times its time."""
    rise = np.maximum.accumulate(values, axis=-1)
    limit = ceiling * np.diff(np.maximum.accumulate(bounds, axis=-1), axis=-1)
    steps = np.minimum(np.diff(rise, axis=-1), limit)
    first = np.minimum(rise[..., :1], ceiling * bounds[..., :1])
    return np.concatenate([first, first + np.cumsum(steps, axis=-1)], axis=-1)


def pieces(
    most: int, batches: IntArray, knots: IntArray, values: FloatArray, unit: float
) -> tuple[IntArray, IntArray]:
    """Decode tables ``value[B, j], slope[B, j]`` for B = 0..``most`` from ``values[batches, knots]``.

    Slopes are whole numbers per KV token. Each aims at the next knot from where the last one really
    ended, so that pieces join exactly and rounding does not add up.
    """
    raised = np.maximum.accumulate(np.maximum.accumulate(values, axis=0), axis=1) * unit
    everyone = np.arange(most + 1)
    target = np.stack([np.interp(everyone, batches, column) for column in raised.T], axis=1)
    value = np.zeros((most + 1, len(knots)), dtype=np.int64)
    slope = np.zeros_like(value)
    value[1:, 0] = np.rint(target[1:, 0])
    for j in range(len(knots) - 1):
        width = everyone[1:] * (knots[j + 1] - knots[j])
        slope[1:, j] = np.maximum(0, np.rint((target[1:, j + 1] - value[1:, j]) / width))
        value[1:, j + 1] = value[1:, j] + slope[1:, j] * width
    slope[:, -1] = slope[:, max(0, len(knots) - 2)]
    return value, slope


def shares(seconds: FloatArray) -> FloatArray:
    """Columns of ``seconds[4, ...]`` divided by their sum; nothing measured where nothing is done."""
    total = seconds.sum(axis=0)
    return np.asarray(np.divide(seconds, total, out=np.zeros_like(seconds), where=total > 0))


def spread(points: IntArray, seconds: FloatArray) -> NDArray[np.float64]:
    """Provenance shares over 0..points[-1]: those of the next point of the grid."""
    widths = np.diff(points, prepend=-1)
    return np.repeat(shares(seconds), widths, axis=1)
