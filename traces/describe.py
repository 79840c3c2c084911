"""What a trace looks like: rates over time, lengths, burstiness, as numbers and as a terminal picture."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traces.trace import Trace

PERCENTILES = (1, 10, 50, 90, 95, 99)
BARS = " ▁▂▃▄▅▆▇█"
SLOTS = 60


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Description:
    """Figures of a trace.

    Parameters
    ----------
    rate
        Requests per second between first and last arrival, None when all arrive at once.
    gap_cv
        Coefficient of variation of the gaps between arrivals: 1 for Poisson, above for bursts.
    dispersion
        Variance over mean of arrivals per second: 1 for Poisson. None below two seconds.
    rates
        Requests per second in ``SLOTS`` equal parts of the trace.
    prompt, output
        Mean, standard deviation and percentiles of the lengths, in tokens.
    shared_prefix
        Share of prefix blocks that an earlier request already had, None where the format has none.
    """

    requests: int
    duration_s: float
    rate: float | None
    gap_cv: float | None
    dispersion: float | None
    rates: NDArray[np.float64]
    prompt: dict[str, float]
    output: dict[str, float]
    shared_prefix: float | None


def describe(trace: Trace) -> Description:
    """Figures of a trace, see ``Description``."""
    duration = trace.duration_s
    gaps = np.diff(trace.arrival_s)
    counts, _ = np.histogram(trace.arrival_s - trace.arrival_s[0], bins=SLOTS, range=(0, duration or 1.0))
    per_second = None
    if duration >= 2:
        seconds = np.bincount((trace.arrival_s - trace.arrival_s[0]).astype(np.int64))[: int(duration)]
        per_second = float(seconds.var() / seconds.mean()) if seconds.sum() else None
    return Description(
        requests=len(trace),
        duration_s=duration,
        rate=len(trace) / duration if duration else None,
        gap_cv=float(gaps.std() / gaps.mean()) if len(gaps) > 1 and gaps.mean() else None,
        dispersion=per_second,
        rates=counts / (duration / SLOTS) if duration else counts.astype(np.float64),
        prompt=_lengths(trace.prompt_tokens),
        output=_lengths(trace.output_tokens),
        shared_prefix=_shared_prefix(trace),
    )


def _lengths(tokens: NDArray[np.int64]) -> dict[str, float]:
    figures = {"mean": float(tokens.mean()), "sd": float(tokens.std()), "max": float(tokens.max())}
    return figures | {f"p{q}": float(np.percentile(tokens, q)) for q in PERCENTILES}


def _shared_prefix(trace: Trace) -> float | None:
    if trace.prefix is None:
        return None
    seen: set[int] = set()
    blocks = hits = 0
    for prefix in trace.prefix:
        blocks += len(prefix)
        hits += sum(block in seen for block in prefix)
        seen.update(prefix)
    return hits / blocks if blocks else 0.0


def sparkline(values: NDArray[np.float64]) -> str:
    """One character per value, from empty to full at the largest.

    Examples
    --------
    >>> sparkline(np.array([0.0, 1.0, 2.0, 4.0]))
    ' ▂▄█'
    """
    top = values.max(initial=0.0)
    levels = np.ceil(values / top * (len(BARS) - 1)).astype(int) if top > 0 else np.zeros(len(values), int)
    return "".join(BARS[level] for level in levels)


def to_text(trace: Trace, *, form: str) -> str:
    """The picture, within 80 columns."""
    d = describe(trace)
    rate = f"{d.rate:.3g} requests/s on average" if d.rate else "all at once"
    lines = [
        f"{trace.name}: {form}, {d.requests:,} requests in {d.duration_s:,.1f} s, {rate}",
        "",
        f"arrivals  {sparkline(d.rates)}  up to {d.rates.max():.3g}/s" if d.rate else "arrivals  at time 0",
    ]
    words = []
    if d.gap_cv is not None:
        words.append(f"gaps vary by {d.gap_cv:.2f} of their mean (Poisson: 1)")
    if d.dispersion is not None:
        words.append(f"dispersion {d.dispersion:.2f}")
    if words:
        lines.append("          " + ", ".join(words))
    for name, tokens, figures in (
        ("prompt", trace.prompt_tokens, d.prompt),
        ("output", trace.output_tokens, d.output),
    ):
        edges = np.geomspace(1, max(2, tokens.max()), SLOTS + 1)
        counts, _ = np.histogram(tokens, bins=edges)
        lines += [
            "",
            f"{name:<10}{sparkline(counts.astype(float))}  1 to {int(tokens.max()):,}",
            f"          tokens on a log scale; mean {figures['mean']:,.0f}, sd {figures['sd']:,.0f}",
            "          " + "  ".join(f"p{q} {figures[f'p{q}']:,.0f}" for q in PERCENTILES),
        ]
    if d.shared_prefix is not None:
        lines += ["", f"prefix    {d.shared_prefix:.0%} of prefix blocks were seen before"]
    return "\n".join(line.rstrip() for line in lines)
