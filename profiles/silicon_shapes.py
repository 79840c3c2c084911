"""From measured sites to the curve of any shape: exact, or by the utilisation of neighbours.

A *roof* is a function from load to roofline seconds of one shape. A neighbour's curve becomes ours by
``seconds * our roof / their roof`` at the same load.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from profiles.ops import EXTRAPOLATED, INTERPOLATED, MEASURED, Cost, FloatArray, IntArray
from profiles.silicon_curves import Curve, Surface, isotonic, isotonic2
from profiles.silicon_tables import Table

Roof = Callable[[FloatArray], FloatArray]
Roof2 = Callable[[FloatArray, FloatArray], FloatArray]


def whole(load: FloatArray | IntArray) -> IntArray:
    """Loads as the roofline counts them: whole and at least 1 where there is any."""
    return np.maximum(np.rint(load), np.asarray(load) > 0).astype(np.int64)


def roof_of(operation: Callable[..., Cost]) -> Callable[..., FloatArray]:
    """Seconds of an operation whose shape is bound, over float loads."""
    return lambda *loads: operation(*map(whole, loads)).seconds


def nearest_sites(
    features: FloatArray | IntArray, wanted: Sequence[float], most: int
) -> list[tuple[int, float]]:
    """Rows of ``features`` [S, F] with the least sum of |log ratio| and that sum, nearest first."""
    distance = np.abs(np.log(features / np.asarray(wanted, dtype=np.float64))).sum(axis=1)
    return [(int(row), float(distance[row])) for row in np.argsort(distance, kind="stable")[:most]]


def nearest_site(features: FloatArray | IntArray, wanted: Sequence[float]) -> int:
    """The nearest row, the first of equals."""
    return nearest_sites(features, wanted, 1)[0][0]


def within(column: FloatArray | IntArray, value: float) -> int:
    """Provenance of a shape between measured ones, or outside of them."""
    return INTERPOLATED if column.min() <= value <= column.max() else EXTRAPOLATED


def site_curve(table: Table, site: int, *, quadratic: bool = False) -> Curve:
    """The measured points of one site, made monotone."""
    seconds = table.seconds[site]
    there = ~np.isnan(seconds)
    return Curve(
        knots=table.axes[0][there], seconds=isotonic(seconds[there]), grade=MEASURED, quadratic=quadratic
    )


class Neighbour(NamedTuple):
    """A measured curve, the roof of its shape, and how much it counts (weights are relative).

    Its load is compared with ``stretch`` times as much of ours.
    """

    weight: float
    curve: Curve
    roof: Roof
    stretch: float = 1.0


def borrowed(neighbours: Sequence[Neighbour], ours: Roof, grade: int) -> Curve:
    """Our curve from the utilisation of neighbours, blended in logarithms by weight."""
    first = neighbours[0]
    knots = np.unique(whole(first.curve.knots * first.stretch)).astype(np.float64)
    log_share = np.zeros(len(knots))
    for weight, curve, roof, stretch in neighbours:
        same = np.clip(knots / stretch, curve.knots[0], curve.knots[-1])
        log_share += weight * np.log(roof(same) / np.interp(same, curve.knots, curve.seconds))
    share = np.exp(log_share / sum(neighbour.weight for neighbour in neighbours))
    return Curve(
        knots=knots, seconds=isotonic(ours(knots) / share), grade=grade, quadratic=first.curve.quadratic
    )


def fastest(curves: Sequence[Curve]) -> Curve | None:
    """The lower envelope: what an engine gets that picks the better of several kernels by size."""
    if len(curves) < 2:
        return curves[0] if curves else None
    knots = np.unique(np.concatenate([curve.knots for curve in curves]))
    seconds = [np.interp(knots, curve.knots, curve.seconds, right=np.inf) for curve in curves]
    return Curve(knots=knots, seconds=np.min(seconds, axis=0), grade=max(curve.grade for curve in curves))


def gemm_curve(table: Table, n: int, k: int, roof: Callable[[int, int], Roof]) -> Curve:
    """Seconds over m of one (n, k): measured, or log utilisation bilinear in (log n, log k)."""
    site = table.find((n, k))
    if site is not None:
        return site_curve(table, site)
    corners = [
        (corner, row_weight * column_weight)
        for near_n, row_weight in around(table.sites[:, 0], n)
        for near_k, column_weight in around(table.sites[:, 1], k)
        if (corner := table.find((near_n, near_k))) is not None
    ] or [(nearest_site(table.sites, (n, k)), 1.0)]
    neighbours = [
        Neighbour(weight, site_curve(table, corner), roof(*table.sites[corner].tolist()))
        for corner, weight in corners
    ]
    grade = max(within(table.sites[:, 0], n), within(table.sites[:, 1], k))
    return borrowed(neighbours, roof(n, k), grade)


def around(values: FloatArray | IntArray, x: float) -> list[tuple[int, float]]:
    """The measured values on both sides and their weights in log x; one on a value or beyond an edge."""
    known = sorted({float(value) for value in values})
    i = bisect_left(known, x)
    if i == len(known) or known[i] == x or i == 0:
        return [(int(known[min(i, len(known) - 1)]), 1.0)]
    low, high = known[i - 1], known[i]
    share = float(np.log(x / low) / np.log(high / low))
    return [(int(low), 1 - share), (int(high), share)]


def sites_around(rows: FloatArray, heads: int, kv_heads: int) -> list[tuple[int, float]]:
    """Measured sites (query heads, KV heads, ...) with as many query heads or the two numbers around, and
    of each the KV heads nearest to ours. Attention of a prompt is work of its query heads."""
    taken = np.isfinite(rows).all(axis=1)
    found = []
    for near, weight in around(rows[taken, 0], heads):
        distance = np.where(taken & (rows[:, 0] == near), np.abs(np.log(rows[:, 1] / kv_heads)), np.inf)
        found.append((int(np.argmin(distance)), weight))
    return found


def site_surface(table: Table, site: int, roof: Roof2) -> Surface:
    """The measured points of one site; what its memory could not hold, by the share of the last that fit."""
    batch, context = table.axes
    seconds = table.seconds[site]
    rows, columns = ~np.isnan(seconds).all(axis=1), ~np.isnan(seconds).all(axis=0)
    batch, context, seconds = batch[rows], context[columns], seconds[np.ix_(rows, columns)]
    grades = np.where(np.isnan(seconds), EXTRAPOLATED, MEASURED).astype(np.int8)
    full = np.empty_like(seconds)
    for i, row in enumerate(seconds):
        known = np.flatnonzero(~np.isnan(row))
        last = known[-1]
        full[i] = np.interp(context, context[known], row[known])
        grades[i, : last + 1] = np.minimum(grades[i, : last + 1], INTERPOLATED)
        beyond = roof(np.full(len(context) - last, batch[i]), context[last:])
        full[i, last:] = row[last] * beyond / beyond[0]
        if i:  # more sequences never take less, so that the regression leaves measured points alone
            full[i, last + 1 :] = np.maximum(full[i, last + 1 :], full[i - 1, last + 1 :])
    return Surface(batch=batch, context=context, seconds=isotonic2(full), grades=grades)


def borrowed_surface(surface: Surface, theirs: Roof2, ours: Roof2, grade: int, share: float = 1.0) -> Surface:
    """Our surface from a neighbour's, whose batch counts ``share`` times ours for the same reading.

    ``theirs`` is in our batches: the roof of the neighbour's kind of heads, as many as we have.
    """
    batch = np.unique(np.maximum(1.0, np.floor(surface.batch / share)))
    b, x = (axis.ravel() for axis in np.meshgrid(batch, surface.context, indexing="ij"))
    inside = np.clip(b * share, surface.batch[0], surface.batch[-1])
    seconds, grades = surface.at(inside, x, theirs)
    shape = (len(batch), len(surface.context))
    return Surface(
        batch=batch,
        context=surface.context,
        seconds=isotonic2((seconds * ours(b, x) / theirs(b, x)).reshape(shape)),
        grades=np.maximum(grades, grade).astype(np.int8).reshape(shape),
    )


def with_site_first(tables: list[Table | None], site: tuple[int, ...]) -> list[Table]:
    return sorted(filter(None, tables), key=lambda table: table.find(site) is None)


def curve_of(table: Table, width: int, *, quadratic: bool = False) -> Curve:
    """Of a table whose sites have one column, the curve of a measured width."""
    return site_curve(table, int(np.flatnonzero(table.sites[:, 0] == width)[0]), quadratic=quadratic)


def has_window(table: Table, head_dim: int, window: int) -> bool:
    return bool(((table.sites[:, 2] == near_dim(table, head_dim)) & (table.sites[:, 3] == window)).any())


def near_dim(table: Table, head_dim: int) -> int:
    return int(table.sites[nearest_site(table.sites[:, 2:3], (head_dim,))][2])


def attention_rows(table: Table, head_dim: int, window: int) -> FloatArray:
    """The sites, infinitely far where head width or window is not the one to take."""
    width = near_dim(table, head_dim)
    window = window if has_window(table, head_dim, window) else 0
    rows = table.sites.astype(np.float64)
    rows[(rows[:, 2] != width) | (rows[:, 3] != window), 2] = np.inf
    return rows
