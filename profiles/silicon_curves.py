"""Monotone curves and surfaces through measured points.

Measured times are noisy and now and then fall when the work grows. A plan's cost may not, so points are
replaced by their isotonic regression in log time (geometric mean of a run that falls); what that changes
is reported by ``monotone_effect``. Between points values are linear. Above them the edge's share of the
roofline is held: ``seconds(x) = seconds(edge) * roof(x) / roof(edge)``; below them the edge's time, since
what is left there is the launch of a kernel.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiles.ops import EXTRAPOLATED, INTERPOLATED, FloatArray

Grades = NDArray[np.int8]


def isotonic(values: FloatArray) -> FloatArray:
    """Nearest non-decreasing sequence in log space (pool adjacent violators). Positive values.

    Examples
    --------
    >>> isotonic(np.array([1.0, 4.0, 1.0, 5.0])).tolist()
    [1.0, 2.0, 2.0, 5.0]
    """
    if (values[1:] >= values[:-1]).all():
        return values
    means: list[float] = []
    counts: list[int] = []
    for value in np.log(values).tolist():
        means.append(value)
        counts.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            mean, count = means.pop(), counts.pop()
            means[-1] = (means[-1] * counts[-1] + mean * count) / (counts[-1] + count)
            counts[-1] += count
    pooled = np.repeat(counts, counts) > 1
    result = np.where(pooled, np.exp(np.repeat(means, counts)), values)
    return np.maximum.accumulate(result)  # exp of a log may fall short by a rounding


def isotonic2(values: FloatArray) -> FloatArray:
    """Non-decreasing along both axes: rows, then columns (which keeps rows in order, since isotonic
    regression of a larger sequence is larger)."""
    rows = np.array([isotonic(row) for row in values])
    columns = np.array([isotonic(column) for column in rows.T]).T
    return np.maximum.accumulate(columns, axis=1)  # again, roundings only


def _between(knots: FloatArray, x: FloatArray, grade: int) -> Grades:
    """Provenance of points inside the knots: the grade of the curve on a knot, worse between."""
    on_knot = knots[np.searchsorted(knots, x).clip(0, len(knots) - 1)] == x
    return np.where(on_knot, grade, max(grade, INTERPOLATED)).astype(np.int8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """Seconds over one axis. ``grade`` is the provenance of its knots.

    ``quadratic`` interpolates the square root of time, which attention over itself makes nearly linear.
    """

    knots: FloatArray
    seconds: FloatArray
    grade: int
    quadratic: bool = False

    def at(self, x: FloatArray, roof: Callable[[FloatArray], FloatArray]) -> tuple[FloatArray, Grades]:
        """Seconds and provenance; 0 where ``x`` is 0."""
        inside = np.clip(x, self.knots[0], self.knots[-1])
        if self.quadratic:
            seconds = np.interp(inside, self.knots, np.sqrt(self.seconds)) ** 2
        else:
            seconds = np.interp(inside, self.knots, self.seconds)
        grades = _between(self.knots, inside, self.grade)
        grades[inside != x] = max(self.grade, EXTRAPOLATED)
        above = inside < x
        if above.any():
            seconds[above] *= roof(x[above]) / roof(inside[above])
        seconds[x <= 0], grades[x <= 0] = 0.0, self.grade
        return seconds, grades


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surface:
    """Seconds over batch and context, ``grades`` per point."""

    batch: FloatArray
    context: FloatArray
    seconds: FloatArray
    grades: Grades

    def at(
        self, batch: FloatArray, context: FloatArray, roof: Callable[[FloatArray, FloatArray], FloatArray]
    ) -> tuple[FloatArray, Grades]:
        """Seconds and provenance, bilinear; 0 where nothing is read."""
        b, x = (
            np.clip(batch, self.batch[0], self.batch[-1]),
            np.clip(context, self.context[0], self.context[-1]),
        )
        i, u = _bracket(self.batch, b)
        j, v = _bracket(self.context, x)
        seconds = np.zeros(b.shape)
        grades = np.zeros(b.shape, dtype=np.int8)
        for rows, row_weight in ((i, 1 - u), (i + 1, u)):
            for columns, column_weight in ((j, 1 - v), (j + 1, v)):
                weight = row_weight * column_weight
                seconds += weight * self.seconds[rows, columns]
                grades = np.where(weight > 0, np.maximum(grades, self.grades[rows, columns]), grades)
        between = ((u > 0) & (u < 1)) | ((v > 0) & (v < 1))
        grades[between] = np.maximum(grades[between], INTERPOLATED)
        outside = (b != batch) | (x != context)
        grades[outside] = np.maximum(grades[outside], EXTRAPOLATED)
        above = (b < batch) | (x < context)
        if above.any():
            ours = roof(np.maximum(batch[above], b[above]), np.maximum(context[above], x[above]))
            seconds[above] *= ours / roof(b[above], x[above])
        empty = (batch <= 0) | (context <= 0)
        seconds[empty], grades[empty] = 0.0, self.grades.min()
        return seconds, grades


def _bracket(knots: FloatArray, x: FloatArray) -> tuple[NDArray[np.int64], FloatArray]:
    """Left knot of each point and its share of the way to the next."""
    i = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    return i, (x - knots[i]) / (knots[i + 1] - knots[i])
