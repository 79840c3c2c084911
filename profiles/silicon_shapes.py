"""From measured sites to the curve of any shape: exact, or by the utilisation of neighbours.

A *roof* is a function from load to roofline seconds of one shape. A neighbour's curve becomes ours by
``seconds * our roof / their roof`` at the same load.
"""

from collections.abc import Callable, Sequence

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


def nearest_site(features: FloatArray | IntArray, wanted: Sequence[float], weights: Sequence[float]) -> int:
    """Row of ``features`` [S, F] with the least weighted sum of |log ratio|; the first of equals."""
    distance = np.abs(np.log(features / np.asarray(wanted, dtype=np.float64))) @ np.asarray(weights, float)
    return int(np.argmin(distance))


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


def borrowed(curve: Curve, theirs: Roof, ours: Roof, grade: int, stretch: float = 1.0) -> Curve:
    """Our curve from a neighbour's. Our load x corresponds to theirs at ``x / stretch``."""
    knots = np.unique(whole(curve.knots * stretch)).astype(np.float64)
    same = np.clip(knots / stretch, curve.knots[0], curve.knots[-1])
    seconds = np.interp(same, curve.knots, curve.seconds) * ours(knots) / theirs(same)
    return Curve(knots=knots, seconds=isotonic(seconds), grade=grade, quadratic=curve.quadratic)


def fastest(curves: Sequence[Curve]) -> Curve | None:
    """The lower envelope: what an engine gets that picks the better of several kernels by size."""
    if len(curves) < 2:
        return curves[0] if curves else None
    knots = np.unique(np.concatenate([curve.knots for curve in curves]))
    seconds = [np.interp(knots, curve.knots, curve.seconds, right=np.inf) for curve in curves]
    return Curve(knots=knots, seconds=np.min(seconds, axis=0), grade=max(curve.grade for curve in curves))


def gemm_curve(table: Table, n: int, k: int, roof: Callable[[FloatArray, int, int], FloatArray]) -> Curve:
    """Seconds over m of one (n, k): measured, or log utilisation bilinear in (log n, log k)."""
    site = table.find((n, k))
    if site is not None:
        return site_curve(table, site)
    corners = {
        corner: row_weight * column_weight
        for near_n, row_weight in _around(np.unique(table.sites[:, 0]), n)
        for near_k, column_weight in _around(np.unique(table.sites[:, 1]), k)
        if (corner := table.find((near_n, near_k))) is not None
    }
    if not corners:
        corners = {nearest_site(table.sites.astype(np.float64), (n, k), (1, 1)): 1.0}
    m, total = table.axes[0], sum(corners.values())
    log_share = np.zeros(len(m))
    for corner, weight in corners.items():
        curve = site_curve(table, corner)
        near_n, near_k = table.sites[corner].tolist()
        share = roof(curve.knots, near_n, near_k) / curve.seconds
        log_share += weight / total * np.interp(m, curve.knots, np.log(share))
    grade = max(within(table.sites[:, 0], n), within(table.sites[:, 1], k))
    return Curve(knots=m, seconds=isotonic(roof(m, n, k) / np.exp(log_share)), grade=grade)


def _around(values: IntArray, x: int) -> list[tuple[int, float]]:
    """The measured values on both sides and their weights in log x; one at or beyond an edge."""
    i = int(np.searchsorted(values, x))
    if i == len(values) or values[i] == x or i == 0:
        return [(int(values[min(i, len(values) - 1)]), 1.0)]
    low, high = float(values[i - 1]), float(values[i])
    share = float(np.log(x / low) / np.log(high / low))
    return [(int(low), 1 - share), (int(high), share)]


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
