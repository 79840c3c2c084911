"""Service level objectives in the user's words: ``ttft_p99<=500ms``, ``power_mean<=2kW``."""

import re
from dataclasses import dataclass

from planner import units
from profiles.errors import InputError, nearest

LATENCIES = ("ttft", "tpot", "itl", "e2e")
POWER = "power"
"""Draw of the plan's devices, mean over the time from the start of the trace to the last token."""

METRICS = (*LATENCIES, POWER)
REQUEST_METRICS = ("ttft", "tpot", "e2e")
"""Those that every request has a value of."""

_SHAPE = re.compile(r"\s*([a-z0-9]+)_(mean|p[0-9.]+)\s*<=?\s*(.*?)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """One limit: on a latency over all requests, or on mean power.

    Parameters
    ----------
    metric
        One of ``METRICS``.
    percentile
        In (0, 100], None for the mean. Power has a mean alone.
    limit
        Of a latency seconds, of power watts; > 0.
    text
        As the user wrote it.
    """

    metric: str
    percentile: float | None
    limit: float
    text: str

    @property
    def unit(self) -> str:
        """Of ``limit``."""
        return "W" if self.metric == POWER else "s"

    @property
    def name(self) -> str:
        """Metric and statistic.

        Examples
        --------
        >>> parse_slo("tpot_p99.9<=40ms").name, parse_slo("power_mean<=2kW").name
        ('tpot_p99.9', 'power_mean')
        """
        return f"{self.metric}_{'mean' if self.percentile is None else f'p{self.percentile:g}'}"

    @property
    def key(self) -> str:
        """Name and unit, as in columns.

        Examples
        --------
        >>> parse_slo("tpot_p99.9<=40ms").key, parse_slo("power_mean<=2kW").key
        ('tpot_p99.9_s', 'power_mean_w')
        """
        return f"{self.name}_{self.unit.lower()}"


def parse_slo(text: str) -> Slo:
    """Read one SLO.

    Raises
    ------
    InputError
        When the text is not metric, statistic, limit and unit in their ranges.

    Examples
    --------
    >>> slo = parse_slo("ttft_p99<=500ms")
    >>> slo.metric, slo.percentile, slo.limit
    ('ttft', 99.0, 0.5)
    >>> parse_slo("e2e_mean<=2s").percentile is None
    True
    """
    match = _SHAPE.fullmatch(text)
    if not match:
        raise InputError(f"SLO {text!r}: expected METRIC_pNN<=LIMIT, as in ttft_p99<=500ms or e2e_mean<=2s.")
    metric, statistic, limit = match.groups()
    if metric not in METRICS:
        raise InputError(f"SLO {text!r}: unknown metric {metric!r}, {nearest(metric, METRICS)}")
    if metric == POWER and statistic != "mean":
        raise InputError(f"SLO {text!r}: power has a mean alone, as in power_mean<=2kW.")
    try:
        percentile = None if statistic == "mean" else float(statistic[1:])
    except ValueError:
        raise InputError(f"SLO {text!r}: expected numbers, as in ttft_p99<=500ms.") from None
    if percentile is not None and not 0.01 <= percentile <= 100:
        raise InputError(f"SLO {text!r}: expected a percentile from 0.01 to 100.")
    try:
        value = units.read(limit, units.POWER if metric == POWER else units.LATENCY)
    except InputError as error:
        raise InputError(f"SLO {text!r}: {error}.") from None
    return Slo(metric=metric, percentile=percentile, limit=value, text=text.strip())


def power_limit(watts: float) -> Slo:
    """``--max-power`` as what it is, a limit on mean power.

    Examples
    --------
    >>> power_limit(700.0).text
    'power_mean<=700W'
    """
    return parse_slo(f"power_mean<={watts:.12g}W")
