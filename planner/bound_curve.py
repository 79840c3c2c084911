"""How far from optimal as memory or load changes: ``--vary kv=x0.5,x1,x2`` in, one point per value out.

====  ==================================================================
axis  varies
====  ==================================================================
kv    the KV blocks of every attention rank, weights and all else as is
rate  the arrivals of the trace; lengths and their order stay
====  ==================================================================
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.bound_rows import Scheduler, best_row, own_row, rows_of, swaps
from planner.bounds import PlanBound
from planner.contest import contest
from planner.objective import Objective
from planner.searched import searched
from planner.setting import Setting
from profiles.errors import InputError, nearest
from simulator.engine import LONGEST_S
from traces.transform import scale_rate

MOST_BLOCKS = 2**31
"""KV blocks of a rank, far more than any memory has."""

AXES = {"kv": "KV cache", "rate": "rate of arrivals"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vary:
    """One axis and the factors that it takes, each once, in their order."""

    axis: str
    factors: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One value of an axis: what none can beat, the plan's own scheduler, and the best of all.

    ``own`` and ``best`` are None where those that could serve reject requests. ``kv_tokens`` and ``rate_per_s``:
    KV tokens of a rank and requests per second there.
    """

    axis: str
    factor: float
    bound: PlanBound
    own: Scheduler | None
    best: Scheduler | None
    kv_tokens: int
    rate_per_s: float | None


def parse_vary(text: str) -> Vary:
    """Read ``kv=x0.5,x1,x2`` or ``rate=x0.5,x2``.

    Raises
    ------
    InputError
        When the axis is another, or a factor is not a number above 0 behind an x.

    Examples
    --------
    >>> parse_vary("kv=x0.5, x2")
    Vary(axis='kv', factors=(0.5, 2.0))
    """
    axis, equals, rest = text.partition("=")
    axis = axis.strip()
    if axis not in AXES:
        raise InputError(f"--vary {text}: unknown axis {axis!r}, {nearest(axis, AXES)}")
    factors = []
    for value in rest.split(","):
        word = value.strip()
        try:
            factor = float(word[1:]) if word[:1] == "x" else math.nan
        except ValueError:
            factor = math.nan
        if not equals or not 0 < factor < math.inf:
            raise InputError(f"--vary {text}: {word!r}, expected {axis}=x0.5,x1,x2")
        factors.append(factor)
    return Vary(axis=axis, factors=tuple(dict.fromkeys(factors)))


def check_vary(setting: Setting, vary: Sequence[Vary]) -> None:
    """Whether every factor leaves a memory and arrivals that the simulator holds.

    Raises
    ------
    InputError
        When one does not, with the last that does.
    """
    blocks = max(1, setting.chunked.kv_blocks, setting.whole.kv_blocks)
    slowest = float(setting.trace.arrival_s[-1]) / LONGEST_S
    for axis, factor in ((each.axis, factor) for each in vary for factor in each.factors):
        if axis == "kv" and factor > MOST_BLOCKS / blocks:
            raise InputError(
                f"--vary kv=x{factor:g}: more than {MOST_BLOCKS:,} KV blocks, at most x{MOST_BLOCKS / blocks:.3g}"
            )
        if axis == "rate" and factor < slowest:
            raise InputError(
                f"--vary rate=x{factor:g}: arrivals span more than {LONGEST_S / 86_400:.0f} days, "
                f"at least x{slowest * 1.01:.3g}"
            )


def point(setting: Setting, goal: Objective, axis: str, factor: float) -> Point:
    """All schedulers at one value of an axis."""
    if axis == "rate":
        setting = replace(setting, trace=scale_rate(setting.trace, factor))
    else:
        kinds = {
            name: replace(step, kv_blocks=max(1, int(step.kv_blocks * factor)))
            for name, step in (("chunked", setting.chunked), ("whole", setting.whole))
        }
        setting = replace(setting, **kinds)  # type: ignore[arg-type]
    served, _ = contest(setting, goal)
    bound = setting.bound(goal.name, swaps=swaps(served), priced=True)
    served += searched(setting, goal, served, bound=bound.value)
    return point_of(setting, rows_of(served, bound.value, setting.plan.engine), bound, goal, axis, factor)


def point_of(
    setting: Setting, rows: list[Scheduler], bound: PlanBound, goal: Objective, axis: str, factor: float
) -> Point:
    """A point from rows that are at hand."""
    own, best = own_row(rows, setting.plan.engine), best_row(rows, goal)
    return Point(
        axis=axis,
        factor=factor,
        bound=bound,
        own=None if own is None else rows[own],
        best=None if best is None else rows[best],
        kv_tokens=setting.chunked.kv_blocks * setting.plan.engine.block_size,
        rate_per_s=len(setting.trace) / span if (span := setting.trace.duration_s) else None,
    )
