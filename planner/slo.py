"""Service level objectives in the user's words: ``ttft_p99<=500ms``."""

import re
from dataclasses import dataclass

from profiles.errors import InputError, nearest

METRICS = ("ttft", "tpot", "itl", "e2e")
UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_SHAPE = re.compile(r"\s*([a-z0-9]+)_(mean|p[0-9.]+)\s*<=?\s*([0-9.eE+-]+)\s*([a-zA-Z]*)\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """One limit on a latency over all requests.

    Parameters
    ----------
    metric
        One of ``METRICS``.
    percentile
        In (0, 100], None for the mean.
    limit_s
        Seconds, > 0.
    text
        As the user wrote it.
    """

    metric: str
    percentile: float | None
    limit_s: float
    text: str

    @property
    def key(self) -> str:
        """Its key in ``simulator.metrics.summary``.

        Examples
        --------
        >>> parse_slo("tpot_p99.9<=40ms").key
        'tpot_p99.9_s'
        """
        return f"{self.metric}_{'mean' if self.percentile is None else f'p{self.percentile:g}'}_s"


def parse_slo(text: str) -> Slo:
    """Read one SLO.

    Raises
    ------
    InputError
        When the text is not metric, statistic, limit and unit in their ranges.

    Examples
    --------
    >>> slo = parse_slo("ttft_p99<=500ms")
    >>> slo.metric, slo.percentile, slo.limit_s
    ('ttft', 99.0, 0.5)
    >>> parse_slo("e2e_mean<=2s").percentile is None
    True
    """
    match = _SHAPE.fullmatch(text)
    if not match:
        raise InputError(f"SLO {text!r}: expected METRIC_pNN<=LIMIT, as in ttft_p99<=500ms or e2e_mean<=2s.")
    metric, statistic, number, unit = match.groups()
    if metric not in METRICS:
        raise InputError(f"SLO {text!r}: unknown metric {metric!r}, {nearest(metric, METRICS)}.")
    if unit not in UNITS_S:
        raise InputError(f"SLO {text!r}: expected a limit in us, ms or s.")
    try:
        percentile = None if statistic == "mean" else float(statistic[1:])
        limit_s = float(number) * UNITS_S[unit]
    except ValueError:
        raise InputError(f"SLO {text!r}: expected numbers, as in ttft_p99<=500ms.") from None
    if percentile is not None and not 0.01 <= percentile <= 100:
        raise InputError(f"SLO {text!r}: expected a percentile from 0.01 to 100.")
    if not 0 < limit_s < float("inf"):
        raise InputError(f"SLO {text!r}: expected a limit above 0 and finite.")
    return Slo(metric=metric, percentile=percentile, limit_s=limit_s, text=text.strip())
