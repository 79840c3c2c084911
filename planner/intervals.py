"""Between which values predicted times are expected to be measured.

A time is predicted as ``t``; servers of its kind were measured at ``t / (1 + error)`` with errors between two
quantiles (``profiles.residuals``). Percentiles from the median on err as their means do, and a little more. Arrivals
are what they are, so of a makespan only what comes after the last arrival is uncertain, as E2E is.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from planner.printable import quantity
from profiles.engine import EngineProfile, Residual
from profiles.residuals import Kind, of_percentiles, residuals_of

LEAST_PERCENTILE = 50
"""Below it no interval is known."""

_TIME = re.compile(r"(ttft|tpot|itl|e2e)_(mean|max|p[0-9.]+)_s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Seconds, ``low`` <= ``high``; ``source`` says which servers it is made of."""

    low: float
    high: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Of one plan: metric of ``simulator.metrics`` -> interval; ``errors``: ttft, tpot, itl, e2e -> quantiles."""

    of: Mapping[str, Interval]
    errors: Mapping[str, Residual]

    def words(self, metric: str, before: str = "") -> str:
        """In brackets, nothing where the metric has no interval."""
        found = self.of.get(metric)
        return f"{before}({between(found.low, found.high)})" if found else ""

    @property
    def source(self) -> str:
        return next((interval.source for interval in self.of.values()), "")


NONE = Intervals(of={}, errors={})


def intervals(
    metrics: Mapping[str, float | None], arrivals_s: float, engine: EngineProfile, kind: Kind
) -> Intervals:
    """Of the times among the metrics; none where nothing was measured with such an engine.

    Parameters
    ----------
    metrics
        As ``simulator.metrics.summary`` has them; percentiles may be others than those.
    arrivals_s
        Of the last request.
    """
    found = residuals_of(engine, kind)
    if found is None:
        return NONE
    of = {}
    for key, value in metrics.items():
        if value is None or not (time := _TIME.fullmatch(key)):
            continue
        name, statistic = time.groups()
        if statistic[0] == "p" and float(statistic[1:]) < LEAST_PERCENTILE:
            continue
        mean = statistic == "mean"
        residual = found.residuals.get(name) if mean else of_percentiles(found.residuals, name)
        if residual is not None:
            low, high = residual.interval(value)
            of[key] = Interval(low=low, high=high, source=found.source)
    makespan = metrics.get("makespan_s")
    if "e2e" in found.residuals and makespan is not None:
        low, high = found.residuals["e2e"].interval(max(makespan - arrivals_s, 0.0))
        of["makespan_s"] = Interval(low=arrivals_s + low, high=arrivals_s + high, source=found.source)
    return Intervals(of=of, errors=dict(found.residuals))


def doubt(met: bool, limit: float, interval: Interval | None) -> str:
    """What an interval says against a verdict on a limit, for after it; "" where nothing.

    Examples
    --------
    >>> measured = Interval(low=0.9, high=1.2, source="30 servers")
    >>> doubt(True, 1.0, measured), doubt(True, 1.2, measured), doubt(False, 1.3, measured)
    (', the limit inside the interval', '', ' as predicted, but such servers were measured within the limit')
    """
    if interval is None:
        return ""
    if interval.low <= limit < interval.high:
        return ", the limit inside the interval"
    if met == (interval.high <= limit):
        return ""
    return f" as predicted, but such servers were measured {'beyond' if met else 'within'} the limit"


def between(low: float, high: float) -> str:
    """Two times, their unit said once where it is one.

    Examples
    --------
    >>> between(0.0143, 0.0221), between(0.98, 1.234), between(3.55, 3.91)
    ('14.3-22.1 ms', '980 ms-1.23 s', '3.55-3.91 s')
    """
    first, last = quantity(low, "s"), quantity(high, "s")
    number, unit = first.rsplit(" ", 1)
    return f"{number if last.endswith(' ' + unit) else first}-{last}"
