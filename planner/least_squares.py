"""Robust least squares in a box, and what the data say about the answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

ROUNDS = 20

WIDE = 4.0
"""Steps of the Jacobian that intervals rest on, against those of the search."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """``x`` [P] with residuals [N], their Jacobian [N, P] and weights [N] in (0, 1] there."""

    x: FloatArray
    residual: FloatArray
    jacobian: FloatArray
    weight: FloatArray


def robust_fit(
    residual: Callable[[FloatArray], FloatArray], start: FloatArray, low: FloatArray, high: FloatArray, *,
    step: FloatArray, knee: float, passes: tuple[float, ...] = (1.0, 0.5, 2.0),
) -> Fit:  # fmt: skip
    """Levenberg-Marquardt on the pseudo-Huber loss  sum of sqrt(1 + (r / knee)^2) - 1  in [low, high].

    Derivatives are differences over ``step`` to both sides: wide enough to smooth a residual that jumps a
    little, as a simulation's does where a request joins one batch or the next. ``passes``: of the search, each
    with so many times the step.

    Examples
    --------
    >>> import numpy as np
    >>> t = np.arange(5.0)
    >>> y = 2 * t + 1 + np.array([0, 0, 0, 0, 3.0])  # an outlier
    >>> fit = robust_fit(lambda x: x[0] * t + x[1] - y, np.zeros(2), np.full(2, -9.0), np.full(2, 9.0),
    ...                  step=np.full(2, 0.1), knee=0.01)
    >>> fit.x.round(1).tolist()
    [2.0, 1.0]
    """

    def loss(r: FloatArray) -> float:
        return float((np.sqrt(1 + (r / knee) ** 2) - 1).sum())

    x = np.clip(start, low, high)
    now = residual(x)
    # A residual that jumps makes small dents in the loss: other steps see past one in which the first ends.
    for wide in passes:
        x, now = _descend(residual, x, now, (low, high), wide * step, knee, loss)
    # Jumps would make constants look more different than they are, and intervals too narrow: steps are wide.
    jacobian = differences(residual, x, low, high, WIDE * step)
    return Fit(x=x, residual=now, jacobian=jacobian, weight=1 / np.sqrt(1 + (now / knee) ** 2))


def _descend(
    residual: Callable[[FloatArray], FloatArray], x: FloatArray, now: FloatArray,
    box: tuple[FloatArray, FloatArray], step: FloatArray, knee: float, loss: Callable[[FloatArray], float],
) -> tuple[FloatArray, FloatArray]:  # fmt: skip
    """Levenberg-Marquardt from ``x`` with residuals ``now`` until nothing is gained."""
    (low, high), damping = box, 1e-3
    for _ in range(ROUNDS):
        jacobian, best = differences(residual, x, low, high, step), loss(now)
        weight = 1 / np.sqrt(1 + (now / knee) ** 2)
        normal, gradient = jacobian.T @ (jacobian * weight[:, None]), jacobian.T @ (weight * now)
        # A constant at a bound that the loss pushes against stays there.
        free = ~(((x <= low) & (gradient > 0)) | ((x >= high) & (gradient < 0)))
        for _ in range(8):
            damped = normal + damping * np.diag(np.diag(normal) + 1e-12)
            move = np.zeros_like(x)
            move[free] = np.linalg.solve(damped[np.ix_(free, free)], gradient[free])
            tried = np.clip(x - move, low, high)
            there = residual(tried)
            if loss(there) < best:
                break
            damping *= 5
        else:
            break
        x, now = tried, there
        damping /= 10
        if best - loss(now) < 1e-4 * best:
            break
    return x, now


def differences(
    residual: Callable[[FloatArray], FloatArray], x: FloatArray, low: FloatArray, high: FloatArray,
    step: FloatArray,
) -> FloatArray:  # fmt: skip
    """Jacobian [N, P] at ``x``, from values that stay in the box."""
    columns = []
    for j in range(len(x)):
        up, down = x.copy(), x.copy()
        up[j], down[j] = min(x[j] + step[j], high[j]), max(x[j] - step[j], low[j])
        columns.append((residual(up) - residual(down)) / (up[j] - down[j]))
    return np.stack(columns, axis=1)


def half_widths(fit: Fit, clusterings: Sequence[IntArray]) -> FloatArray:
    """Half the 95 % confidence interval of every constant, infinite where the data leave none.

    The widest of: residuals independent, with their weighted variance over N - P; and for each clustering
    (an id per residual, at least three ids) residuals of one cluster arbitrarily alike: the sandwich
    ``B (sum over clusters of s s') B  C / (C - 1)``, ``s = J' W r`` of a cluster, ``B = (J' W J)^-1``.
    Student's t with N - P, and with C - 1, degrees of freedom.
    """
    count, constants = fit.jacobian.shape
    weighted = fit.jacobian * fit.weight[:, None]
    normal = fit.jacobian.T @ weighted
    if count <= constants or np.linalg.matrix_rank(normal / _scale(normal)) < constants:
        return np.full(constants, np.inf)
    bread = np.linalg.inv(normal)
    spread = float(fit.weight @ fit.residual**2) / (count - constants)
    widest = student(count - constants) * np.sqrt(np.diag(bread) * spread)
    for ids in clusterings:
        names = np.unique(ids)
        if len(names) > 2:
            scores = np.stack([weighted[ids == name].T @ fit.residual[ids == name] for name in names])
            filling = scores.T @ scores * (len(names) / (len(names) - 1))
            variance = np.diag(bread @ filling @ bread)
            widest = np.maximum(widest, student(len(names) - 1) * np.sqrt(np.maximum(variance, 0.0)))
    return np.asarray(widest)


def condition(fit: Fit) -> float:
    """Of the weighted Jacobian with columns of length 1: 1 where constants move different metrics; from 10 on
    they begin to stand in for each other (Belsley, Kuh, Welsch, Regression Diagnostics, 1980)."""
    columns = fit.jacobian * np.sqrt(fit.weight)[:, None]
    return float(np.linalg.cond(columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300)))


def student(freedom: int) -> float:
    """97.5th percentile of Student's t; Cornish-Fisher from 5 degrees of freedom on, within 0.2 %.

    Examples
    --------
    >>> [round(student(f), 2) for f in (1, 5, 10, 100)]
    [12.71, 2.57, 2.23, 1.98]
    """
    if freedom < 5:
        return (12.706, 4.303, 3.182, 2.776)[freedom - 1]
    z, f = 1.959964, freedom
    first, second = z**3 + z, 5 * z**5 + 16 * z**3 + 3 * z
    return (
        z
        + first / (4 * f)
        + second / (96 * f**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * f**3)
    )


def _scale(normal: FloatArray) -> FloatArray:
    size = np.sqrt(np.maximum(np.diag(normal), 1e-300))
    return np.asarray(np.outer(size, size))
