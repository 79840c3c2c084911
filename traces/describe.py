"""What a trace looks like, in numbers; ``traces.picture`` draws them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traces.trace import Trace

PERCENTILES = (1, 10, 50, 90, 95, 99)
SLOTS = 64
WINDOWS_S = (1, 10, 60, 600)
FEWEST_WINDOWS = 10  # a variance of fewer counts says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Lengths in tokens: mean, standard deviation, percentiles (``p50``, ...), and how many requests have at
    least 1, 2, 4, 8, ... tokens but less than the next (lower edge, count), from the shortest to the longest.
    """

    mean: float
    sd: float
    least: int
    most: int
    percentiles: dict[str, float]
    histogram: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """Figures of a trace.

    Parameters
    ----------
    rate_per_s
        Requests per second, one over the mean gap; None when all arrive at once.
    slot_s, rates
        Requests per second in ``SLOTS`` equal parts of the trace, each of ``slot_s`` seconds; empty when all
        arrive at once.
    gap_cv
        Standard deviation of the gaps between arrivals over their mean: 0 when all are alike, 1 for Poisson,
        above for bursts. None below two gaps.
    dispersion
        Index of dispersion: variance over mean of the arrivals in windows of so many seconds (a key such as
        ``10s``), where ten fit into the trace. 1 for Poisson at every width; growing with the width where
        the rate itself wanders.
    shared_prefix
        Share of prompt tokens whose prefix block an earlier request already had: what a cache without limit
        would hit. None where the format has no blocks.
    """

    requests: int
    duration_s: float
    rate_per_s: float | None
    slot_s: float
    rates: tuple[float, ...]
    gap_cv: float | None
    dispersion: dict[str, float]
    prompt: Lengths
    output: Lengths
    shared_prefix: float | None


def describe(trace: Trace) -> Description:
    """Figures of a trace.

    Examples
    --------
    >>> trace = Trace(arrival_s=np.arange(100.0), prompt_tokens=np.full(100, 8), output_tokens=np.full(100, 3))
    >>> figures = describe(trace)
    >>> figures.rate_per_s, figures.gap_cv, figures.prompt.histogram, figures.output.percentiles["p99"]
    (1.0, 0.0, ((8, 100),), 3.0)
    """
    duration = trace.duration_s
    since = trace.arrival_s - trace.arrival_s[0]
    slot = duration / SLOTS
    counts = np.histogram(since, bins=SLOTS, range=(0, duration))[0] if duration else np.array([])
    gaps = np.diff(trace.arrival_s)
    return Description(
        requests=len(trace),
        duration_s=duration,
        rate_per_s=trace.rate_per_s,
        slot_s=slot,
        rates=tuple((counts / slot).tolist()) if duration else (),
        gap_cv=float(gaps.std() / gaps.mean()) if len(gaps) > 1 and duration else None,
        dispersion={
            f"{width}s": _dispersion(since, width, int(duration // width))
            for width in WINDOWS_S
            if duration >= FEWEST_WINDOWS * width
        },
        prompt=_lengths(trace.prompt_tokens),
        output=_lengths(trace.output_tokens),
        shared_prefix=_shared_prefix(trace),
    )


def _dispersion(since_s: NDArray[np.float64], width_s: int, windows: int) -> float:
    """Of the whole windows alone: the part of a window at the end would count as a lull."""
    counts = np.bincount((since_s // width_s).astype(np.int64), minlength=windows)[:windows]
    return float(counts.var() / counts.mean())


def _lengths(tokens: NDArray[np.int64]) -> Lengths:
    exponents = np.frexp(tokens)[1] - 1
    counts = np.bincount(exponents)
    return Lengths(
        mean=float(tokens.mean()),
        sd=float(tokens.std()),
        least=int(tokens.min()),
        most=int(tokens.max()),
        percentiles={f"p{q}": float(np.percentile(tokens, q)) for q in PERCENTILES},
        histogram=tuple((2**e, int(counts[e])) for e in range(exponents.min(), exponents.max() + 1)),
    )


def _shared_prefix(trace: Trace) -> float | None:
    if trace.prefix is None:
        return None
    seen: set[int] = set()
    shared = 0
    for blocks, prompt in zip(trace.prefix, trace.prompt_tokens.tolist(), strict=True):
        known = next((n for n, block in enumerate(blocks) if block not in seen), len(blocks))
        shared += min(known * trace.prefix_block_tokens, prompt)
        seen.update(blocks)
    return shared / trace.total_prompt_tokens
