"""Resample a trace: faster or slower, its first requests, a window of time. Lengths never change."""

import math
from dataclasses import replace

from profiles.errors import InputError
from traces.trace import Trace


def scale_rate(trace: Trace, factor: float) -> Trace:
    """The same requests ``factor`` (> 0) times as fast: every arrival is divided by it.

    Raises
    ------
    InputError
        When the factor is no positive number.
    """
    if not 0 < factor < math.inf:
        raise InputError(f"{factor:g} times as fast: expected a number above 0")
    return replace(trace, arrival_s=trace.arrival_s / factor)


def at_rate(trace: Trace, rate_per_s: float) -> Trace:
    """The same requests, faster or slower, so that ``rate_per_s`` (> 0) arrive per second on average.

    Raises
    ------
    InputError
        When the rate is no positive number, or the trace has none because all its requests arrive at once.

    Examples
    --------
    >>> import numpy as np
    >>> trace = Trace(arrival_s=np.array([0.0, 2.0, 8.0]), prompt_tokens=np.array([1, 1, 1]),
    ...               output_tokens=np.array([1, 1, 1]))
    >>> at_rate(trace, 0.5).arrival_s.tolist()  # from one every 4 s to one every 2 s
    [0.0, 1.0, 4.0]
    """
    if not 0 < rate_per_s < math.inf:
        raise InputError(f"{rate_per_s:g} requests/s: expected a number above 0")
    if trace.rate_per_s is None:
        raise InputError(f"{trace.name}: all requests arrive at once, so there is no rate to scale")
    return scale_rate(trace, rate_per_s / trace.rate_per_s)


def first(trace: Trace, requests: int) -> Trace:
    """The first ``requests`` requests (>= 1), or all when there are fewer.

    Raises
    ------
    InputError
        When fewer than one is asked for.
    """
    if requests < 1:
        raise InputError(f"first {requests} requests: expected at least 1")
    return _part(trace, slice(0, requests))


def window(trace: Trace, start_s: float, end_s: float) -> Trace:
    """Requests that arrive in [start, end) seconds; the start becomes time 0.

    Raises
    ------
    InputError
        When no request arrives in it.
    """
    start, end = trace.arrival_s.searchsorted([start_s, end_s])
    if start >= end:
        begins, ends = trace.arrival_s[[0, -1]]
        raise InputError(
            f"{trace.name}: no request arrives from {start_s:g} s to {end_s:g} s; "
            f"the trace runs from {begins:g} s to {ends:g} s"
        )
    chosen = _part(trace, slice(start, end))
    return replace(chosen, arrival_s=chosen.arrival_s - start_s if start_s > 0 else chosen.arrival_s)


def _part(trace: Trace, which: slice) -> Trace:
    return replace(
        trace,
        arrival_s=trace.arrival_s[which],
        prompt_tokens=trace.prompt_tokens[which],
        output_tokens=trace.output_tokens[which],
        prefix=None if trace.prefix is None else trace.prefix[which],
    )
