"""Resample a trace: faster or slower, its first requests, a window of time."""

from dataclasses import replace

import numpy as np

from traces.trace import Trace


def scale_rate(trace: Trace, factor: float) -> Trace:
    """The same requests ``factor`` times as fast (> 0)."""
    if not factor > 0:
        raise ValueError("The rate factor must be above 0.")
    return replace(trace, arrival_s=trace.arrival_s / factor)


def first(trace: Trace, requests: int) -> Trace:
    """The first ``requests`` requests (>= 1), or all when there are fewer."""
    if requests < 1:
        raise ValueError("Keep at least one request.")
    return _select(trace, np.arange(min(requests, len(trace))))


def window(trace: Trace, start_s: float, end_s: float) -> Trace:
    """Requests that arrive in [start, end) seconds; the window becomes time 0.

    Raises
    ------
    ValueError
        When no request arrives in it.
    """
    inside = np.flatnonzero((trace.arrival_s >= start_s) & (trace.arrival_s < end_s))
    if not len(inside):
        raise ValueError(f"No request arrives from {start_s:g} to {end_s:g} s.")
    chosen = _select(trace, inside)
    return replace(chosen, arrival_s=chosen.arrival_s - start_s)


def _select(trace: Trace, which: np.ndarray) -> Trace:
    return replace(
        trace,
        arrival_s=trace.arrival_s[which],
        prompt_tokens=trace.prompt_tokens[which],
        output_tokens=trace.output_tokens[which],
        prefix=None if trace.prefix is None else tuple(trace.prefix[i] for i in which),
    )
