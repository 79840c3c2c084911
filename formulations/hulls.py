"""Floors of cost tables: lines and planes below them, and the least cost of covering a request.

A table that is added up over iterations is replaced by affine functions below it, found from lower convex
hulls, or by its least total over every way to spread a request over iterations.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

ROUNDING = 1.0 - 1e-12
"""Factor that turns a float64 result with a few roundings into one that errs downwards only."""


def floor_int(x: FloatArray) -> IntArray:
    """Largest integers that are surely below the exact value of ``x`` >= 0.

    Examples
    --------
    >>> floor_int(np.array([2.5, 3.0, 1e6 + 0.5]))
    array([      2,       2, 1000000])
    """
    return np.floor(x * ROUNDING).astype(np.int64)


@njit(cache=True)
def lower_hull(y: FloatArray) -> IntArray:
    """Indices of the vertices of the lower convex hull of the points (x, y[x]), x = 0, 1, ...

    Examples
    --------
    >>> lower_hull(np.array([3.0, 1.0, 2.0, 2.0, 9.0]))
    array([0, 1, 3, 4])
    """
    hull = np.empty(y.shape[0], np.int64)
    size = 0
    for x in range(y.shape[0]):
        while size > 1:
            b, a = hull[size - 1], hull[size - 2]
            if (y[b] - y[a]) * (x - a) < (y[x] - y[a]) * (b - a):
                break
            size -= 1
        hull[size] = x
        size += 1
    return hull[:size].copy()


def lines_below(y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lines a + b x <= y[x - 1] at x = 1, 2, ..., all with a >= 0 and b >= 0 (``y`` >= 0).

    Proof: an edge of the lower hull lies below every point; so do the horizontal through the minimum
    and the ray from the origin with the least ratio y / x.

    Returns intercepts a and slopes b. For a convex table, every tangent that can be best for non-negative
    weights of (1, x) is among them.

    Examples
    --------
    >>> lines_below(np.array([5.0, 5.0, 6.0]))
    (array([5., 3., 5., 0.]), array([0., 1., 0., 2.]))
    """
    vertices = lower_hull(np.ascontiguousarray(y, np.float64))
    x, height = vertices + 1.0, y[vertices].astype(np.float64)
    slope = np.diff(height) / np.diff(x)
    intercept = height[:-1] - slope * x[:-1]
    keep = (slope >= 0) & (intercept >= 0)
    ray = float((height / x).min())
    return (
        np.concatenate([intercept[keep], [height.min(), 0.0]]),
        np.concatenate([slope[keep], [0.0, ray]]),
    )


def steeper_lines(y: FloatArray, lines: tuple[FloatArray, FloatArray], extra: float) -> FloatArray:
    """Slopes c with a + b x + c z <= y[x + z - 1] + extra for every x >= 0 and z >= 1, one of each line a + b x below
    ``y``.

    Proof: with n = x + z, c = b + min over n of (y[n - 1] + extra - a - b n) / n is small enough, because what
    is divided is not negative and z <= n. On a piece of the lower hull that is monotone, so vertices settle it.

    Examples
    --------
    >>> steeper_lines(np.array([5.0, 5.0, 6.0]), (np.array([5.0]), np.array([0.0])), 2.0)
    array([1.])
    """
    vertices = lower_hull(np.ascontiguousarray(y, np.float64))
    n, height = vertices + 1.0, y[vertices] + extra
    least: FloatArray = ((height[:, None] - lines[0] - lines[1] * n[:, None]) / n[:, None]).min(axis=0)
    return lines[1] + np.maximum(least, 0.0)


def best_line(lines: tuple[FloatArray, FloatArray], count: float, total: float) -> tuple[float, float]:
    """The line with the largest ``a * count + b * total``: best for ``count`` points of sum ``total``."""
    best = int(np.argmax(lines[0] * count + lines[1] * total))
    return float(lines[0][best]), float(lines[1][best])


def prompt_floor(iteration: IntArray, longest: int, chunkable: bool) -> IntArray:
    """Least total of ``iteration[c]`` over all ways to cut x = 0..longest tokens into chunks.

    ``iteration`` [N + 1] is the least duration of an iteration with c of the prompt's tokens.

    Proof: one chunk costs iteration[x]. With h the lower hull of ``iteration`` on 1..N and m >= 2 chunks,
    convexity gives sum h(c_j) >= m h(x / m). That is the perspective of h, convex in m, so its least value
    over integers m >= max(2, x / N) is beside its real minimizer x / argmin h(c) / c, or at the limit.

    Examples
    --------
    >>> prompt_floor(np.array([0, 11, 12, 13, 30]), 5, True)
    array([ 0, 11, 12, 13, 23, 24])
    >>> prompt_floor(np.array([0, 11, 12, 13, 30]), 4, False)
    array([ 0, 11, 12, 13, 30])
    """
    most = len(iteration) - 1
    y = iteration[1:].astype(np.float64)
    vertices = lower_hull(y)
    hx, hy = vertices + 1.0, y[vertices]
    cheapest = hx[np.argmin(hy / hx)]

    x = np.arange(longest + 1, dtype=np.float64)
    fewest = np.maximum(2, np.ceil(x / most))
    result = np.full(longest + 1, np.iinfo(np.int64).max)
    for m in (np.floor(x / cheapest), np.ceil(x / cheapest)):
        chunks = np.minimum(np.maximum(m, fewest), np.maximum(x, 1))
        result = np.minimum(result, floor_int(chunks * np.interp(x / chunks, hx, hy)))
    whole = min(longest, most)
    if chunkable:
        result[2 : whole + 1] = np.minimum(result[2 : whole + 1], iteration[2 : whole + 1])
        result[:2] = 0, iteration[1]
    else:
        result[1 : whole + 1] = iteration[1 : whole + 1]
        result[0] = 0
    return result


@njit(cache=True)
def decode_time(value: FloatArray, slope: FloatArray, knots: IntArray, batch: int, context: int) -> float:
    """Time of ``batch`` decodes that read ``context`` tokens in all: linear between batch * knots."""
    low, high = 0, knots.shape[0] - 1
    while low < high:
        middle = (low + high + 1) >> 1
        if batch * knots[middle] <= context:
            low = middle
        else:
            high = middle - 1
    time: float = value[batch, low] + slope[batch, low] * (context - batch * knots[low])
    return time


@njit(cache=True)
def decode_floor(
    alone: IntArray, value: FloatArray, slope: FloatArray, knots: IntArray, smallest: int, longest: int
) -> IntArray:
    """Least duration of an iteration that decodes a sequence of context c, for c = smallest..longest.

    ``alone`` [B + 1] is the rest of an iteration with at least b tokens and sequences. The other b - 1
    sequences of the batch read at least ``smallest`` tokens each and decode time does not decrease with
    the tokens read, so the least over b of alone[b] + decode(b, c + (b - 1) * smallest) is a bound.

    A batch size is looked at token by token only where it can win: both sides of the comparison with b = 1
    are linear between the knots of either, so comparing at these knots and at both ends settles it.
    Entries below ``smallest`` are 0. Tables hold integers, so float64 is exact.
    """
    result = np.zeros(longest + 1, np.int64)
    for c in range(smallest, longest + 1):
        result[c] = alone[1] + decode_time(value, slope, knots, 1, c)
    for b in range(2, alone.shape[0]):
        others = (b - 1) * smallest
        wins = False
        for i in range(2 * knots.shape[0] + 2):
            k = i >> 1
            if k == knots.shape[0]:
                c = smallest if i & 1 else longest
            elif i & 1:
                c = knots[k]
            else:
                c = b * knots[k] - others
            c = min(max(c, smallest), longest)
            single = alone[1] + decode_time(value, slope, knots, 1, c)
            if alone[b] + decode_time(value, slope, knots, b, c + others) < single:
                wins = True
                break
        if wins:
            for c in range(smallest, longest + 1):
                result[c] = min(result[c], alone[b] + decode_time(value, slope, knots, b, c + others))
    return result


@njit(cache=True)
def decode_corners(
    value: FloatArray,
    slope: FloatArray,
    knots: IntArray,
    most: int,
    smallest: int,
    longest: int,
    capacity: int,
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Times and tokens read beyond ``smallest`` each, at the ends of every linear piece, per batch."""
    corners = knots.shape[0] + 2
    time, excess = np.empty((most, corners)), np.empty((most, corners))
    for b in range(1, most + 1):
        low, high = b * smallest, max(b * smallest, min(capacity, b * longest))
        for j in range(corners):
            context = low if j == 0 else high
            if j >= 2:
                context = min(max(b * knots[j - 2], low), high)
            time[b - 1, j] = decode_time(value, slope, knots, b, context)
            excess[b - 1, j] = context - low
    return time, excess


def decode_plane(
    value: FloatArray, slope: FloatArray, knots: IntArray, *, sequences: int, smallest: int, longest: int,
    capacity: int, iterations: float, decodes: float, read: float,
) -> tuple[float, float, float]:  # fmt: skip
    """Coefficients u, v, w >= 0 of decode(b, s) >= u + v b + w (s - b * smallest), for 1 <= b <= sequences
    and b * smallest <= s <= min(capacity, b * longest); chosen for a load of ``decodes`` that read
    ``read`` tokens in all over ``iterations``.

    Proof: for a given w, decode(b, s) - w (s - b * smallest) is piecewise linear in s, so its minimum over s
    is at a corner; a line below these minima over b (``lines_below``) completes the plane. Several w are
    tried.
    """
    most = max(1, min(sequences, capacity // smallest))
    time, excess = decode_corners(value, slope, knots, most, smallest, longest, capacity)
    used = slope[1 : most + 1]
    candidates = np.unique(np.quantile(used, np.linspace(0, 1, 9)))
    best, plane = -1.0, (0.0, 0.0, 0.0)
    for w in (0.0, *candidates):
        rest = (time - w * excess).min(axis=1)
        if rest.min() < 0:
            continue
        u, v = best_line(lines_below(rest), iterations, decodes)
        score = u * iterations + v * decodes + w * (read - decodes * smallest)
        if score > best:
            best, plane = score, (u, v, float(w))
    return plane
