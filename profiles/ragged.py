"""Times over nested, ragged axes, interpolated in logarithms: what ``zenith profile`` refines and reads back.

The first axis has keys; each key has a row over the next axis with keys of its own, down to times. A product
of matrices has n, then k, then m: every (n, k) is measured at the m that it needs. Between two keys the
logarithm of time is linear in the logarithm of the key, on every axis, innermost first. Beyond the keys the
edge's share of a roofline is held; below the first of the last axis its time, as in
``profiles.silicon_curves``: what is left there is the launch of a kernel.

The expected error between two neighbouring keys comes from leaving keys out: a key whose log time is e off
the line between its neighbours, h1 and h2 away in log key, bends by 2 e / (h1 h2); in the middle of an interval of
width w that is w^2 / 8 of the bend at its worse end.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.ops import EXTRAPOLATED, INTERPOLATED, MEASURED, FloatArray, IntArray
from profiles.silicon_curves import isotonic

Roof = Callable[..., FloatArray]
"""Seconds of a roofline at coordinates, one array per axis."""

Grades = NDArray[np.int8]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Keys of one axis, ascending, and what lies under each: rows over the next axis, or log seconds.

    ``noise`` [keys] of the last axis is the standard error of each log time.
    """

    keys: FloatArray
    rows: tuple["Grid", ...] = ()
    log_s: FloatArray | None = None
    noise: FloatArray | None = None

    def points(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Coordinates [N, axes], log seconds [N] and noise [N] of everything below."""
        if self.log_s is not None and self.noise is not None:
            return self.keys[:, None], self.log_s, self.noise
        parts = [row.points() for row in self.rows]
        coordinates = [
            np.column_stack([np.full(len(logs), key), inner])
            for key, (inner, logs, _) in zip(self.keys, parts, strict=True)
        ]
        logs, noise = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
        return np.concatenate(coordinates), logs, noise

    def at(self, coordinates: FloatArray, roof: Roof | None = None) -> tuple[FloatArray, Grades]:
        """Log seconds and provenance at ``coordinates`` [N, axes], all > 0.

        Without a roof the time of the edge is held on both sides.
        """
        x = np.clip(coordinates[:, 0], self.keys[0], self.keys[-1])
        lower = np.clip(np.searchsorted(self.keys, x, side="right") - 1, 0, max(len(self.keys) - 2, 0))
        upper = np.minimum(lower + 1, len(self.keys) - 1)
        width = np.log(self.keys[upper] / self.keys[lower])
        share = np.divide(np.log(x / self.keys[lower]), width, out=np.zeros_like(x), where=width > 0)
        logs, grades = np.zeros(len(x)), np.full(len(x), MEASURED, dtype=np.int8)
        for i, key in enumerate(self.keys):
            weight = np.where(lower == i, 1 - share, np.where(upper == i, share, 0.0))
            used = weight > 0
            if not used.any():
                continue
            if self.log_s is not None:
                logs[used] += weight[used] * self.log_s[i]
                continue
            row_logs, row_grades = self.rows[i].at(coordinates[used, 1:], roof and _at_key(roof, key))
            logs[used] += weight[used] * row_logs
            grades[used] = np.maximum(grades[used], row_grades)
        between = (share > 0) & (share < 1)
        grades[between] = np.maximum(grades[between], INTERPOLATED)
        grades[x != coordinates[:, 0]] = EXTRAPOLATED
        beyond = x < coordinates[:, 0] if self.log_s is not None else x != coordinates[:, 0]
        if roof is not None and beyond.any():
            edge = coordinates[beyond].copy()
            edge[:, 0] = x[beyond]
            logs[beyond] += np.log(roof(*coordinates[beyond].T) / roof(*edge.T))
        return logs, grades


def _at_key(roof: Roof, key: float) -> Roof:
    """The roof of one row: its key in front of the other coordinates."""
    return lambda *inner: roof(np.full(len(inner[0]), key), *inner)


def grid_of(points: IntArray, seconds: FloatArray, noise: FloatArray | None = None) -> Grid:
    """Measured ``points`` [N, axes] as a grid; of repeated points the fastest counts.

    Times along the last axis are made non-decreasing. A row that ends before a later one does (memory only
    takes away from the ends of later rows) was interrupted, and is left out.

    Examples
    --------
    >>> grid = grid_of(np.array([[2, 1], [2, 16], [8, 1], [8, 16]]), np.array([1.0, 4.0, 4.0, 16.0]))
    >>> logs, grades = grid.at(np.array([[2.0, 16.0], [4.0, 4.0]]))
    >>> np.exp(logs).round(6).tolist(), grades.tolist()
    ([4.0, 4.0], [0, 1])
    """
    noise = np.zeros(len(points)) if noise is None else noise
    keys, place = np.unique(points[:, 0], return_inverse=True)
    if points.shape[1] == 1:
        order = np.lexsort((seconds, place))
        first = order[np.searchsorted(place[order], np.arange(len(keys)))]
        logs = np.log(isotonic(seconds[first]))
        return Grid(keys.astype(np.float64), log_s=logs, noise=noise[first])
    rows = [grid_of(points[place == i, 1:], seconds[place == i], noise[place == i]) for i in range(len(keys))]
    ends = np.array([row.keys[-1] for row in rows])
    whole = ends >= np.maximum.accumulate(ends[::-1])[::-1]
    return Grid(keys[whole].astype(np.float64), rows=tuple(r for r, w in zip(rows, whole, strict=True) if w))


@dataclass(frozen=True, slots=True, kw_only=True)
class Doubt:
    """An interval between two keys below ``prefix`` (the keys of the axes before) and the expected error of
    the log time in its middle."""

    error: float
    prefix: tuple[int, ...]
    low: int
    high: int


def doubts(grid: Grid, prefix: tuple[int, ...] = ()) -> Iterator[Doubt]:
    """Every interval of every axis, see the module.

    Where there are only two keys, the time between them may lie anywhere from one to the other: half of that.
    """
    x = np.log(grid.keys)
    widths = np.diff(x)
    if len(x) == 2:
        expected = _deviations(grid, [0], [1], [1]) / 2
    else:
        every = np.arange(1, len(x) - 1)
        bend = np.zeros(len(x))
        bend[1:-1] = 2 * _deviations(grid, every, every - 1, every + 1) / (widths[:-1] * widths[1:])
        expected = widths**2 / 8 * np.maximum(bend[:-1], bend[1:])
    for i, error in enumerate(expected.tolist()):
        yield Doubt(error=error, prefix=prefix, low=int(grid.keys[i]), high=int(grid.keys[i + 1]))
    for key, row in zip(grid.keys, grid.rows, strict=False):
        yield from doubts(row, (*prefix, int(key)))


def _deviations(grid: Grid, left_out: Any, below: Any, above: Any) -> FloatArray:
    """What times at keys ``left_out`` are off the line between the keys ``below`` and ``above`` them: the root
    mean square of log times over what was measured there, beyond twice what noise explains. Indices, [K] each.

    A line between two noisy points adds half of the noise of one in its middle: 1.5 in all, twice that squared.
    """
    if grid.log_s is not None and grid.noise is not None:
        x = np.log(grid.keys)
        width = x[above] - x[below]
        share = np.divide(x[left_out] - x[below], width, out=np.zeros(len(width)), where=width > 0)
        line = (1 - share) * grid.log_s[below] + share * grid.log_s[above]
        square = (line - grid.log_s[left_out]) ** 2 - 6 * grid.noise[left_out] ** 2
        return np.asarray(np.sqrt(np.maximum(0.0, square)))
    found = []
    for i, low, high in zip(left_out, below, above, strict=True):
        sides = sorted({int(low), int(high)})
        coordinates, logs, noise = grid.rows[i].points()
        keys = grid.keys[sides] if len(sides) == 2 else grid.keys[[i]]
        line = Grid(keys, tuple(grid.rows[side] for side in sides))
        at = np.column_stack([np.full(len(logs), grid.keys[i]), coordinates])
        predicted, grades = line.at(at)
        inside = grades <= INTERPOLATED
        square = np.mean((predicted - logs)[inside] ** 2 - 6 * noise[inside] ** 2) if inside.any() else 0.0
        found.append(np.sqrt(max(0.0, float(square))))
    return np.array(found)
