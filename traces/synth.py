"""Make traces: arrivals from a renewal process, lengths from a distribution or from another trace."""

import math
from typing import Literal

import numpy as np

from traces.trace import Trace

Arrivals = Literal["at-once", "poisson", "gamma"]


def synthesize(
    *,
    requests: int,
    rate: float,
    arrivals: Arrivals = "poisson",
    cv: float = 1.0,
    prompt_mean: float,
    prompt_sd: float = 0.0,
    output_mean: float,
    output_sd: float = 0.0,
    lengths_of: Trace | None = None,
    most_tokens: int = 131072,
    seed: int = 0,
    name: str = "synthetic",
) -> Trace:
    """A random trace; the same arguments give the same trace.

    Parameters
    ----------
    requests
        How many. >= 1.
    rate
        Mean arrivals per second, > 0; not used when all arrive at once.
    arrivals
        ``at-once``: every request at time 0 (APEX+'s static mode). ``poisson``: exponential gaps.
        ``gamma``: gaps with coefficient of variation ``cv`` > 0 (1 is Poisson, above is bursty).
    prompt_mean, prompt_sd, output_mean, output_sd
        Tokens. Lengths are log-normal with this mean and standard deviation; a deviation of 0 makes them
        fixed. Rounded, at least 1, at most ``most_tokens``.
    lengths_of
        Draw (prompt, output) pairs from this trace instead, with replacement.

    Raises
    ------
    ValueError
        When a number is out of its range.

    Examples
    --------
    >>> trace = synthesize(requests=1000, rate=2.0, prompt_mean=300, prompt_sd=200, output_mean=100)
    >>> len(trace), round(len(trace) / trace.duration_s), set(trace.output_tokens.tolist())
    (1000, 2, {100})
    """
    if requests < 1 or (arrivals != "at-once" and rate <= 0) or (arrivals == "gamma" and cv <= 0):
        raise ValueError("requests must be at least 1, rate and cv above 0.")
    if lengths_of is None and (min(prompt_mean, output_mean) < 1 or min(prompt_sd, output_sd) < 0):
        raise ValueError("Mean lengths must be at least 1, deviations at least 0.")
    generator = np.random.default_rng(seed)
    if arrivals == "at-once":
        arrival = np.zeros(requests)
    elif arrivals == "poisson":
        arrival = np.cumsum(generator.exponential(1 / rate, requests))
    else:
        arrival = np.cumsum(generator.gamma(1 / cv**2, cv**2 / rate, requests))
    if lengths_of is not None:
        drawn = generator.integers(0, len(lengths_of), requests)
        prompt, output = lengths_of.prompt_tokens[drawn], lengths_of.output_tokens[drawn]
    else:
        prompt = _log_normal(generator, prompt_mean, prompt_sd, requests, most_tokens)
        output = _log_normal(generator, output_mean, output_sd, requests, most_tokens)
    return Trace(arrival_s=arrival, prompt_tokens=prompt, output_tokens=output, name=name)


def _log_normal(generator: np.random.Generator, mean: float, sd: float, n: int, most: int) -> np.ndarray:
    variance = math.log1p((sd / mean) ** 2)
    drawn = generator.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), n)
    return np.clip(np.rint(drawn), 1, most).astype(np.int64)
