"""Make traces: arrivals from a renewal process, lengths from a distribution or from another trace."""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from profiles.errors import InputError
from traces.trace import Trace

Arrivals = Literal["at-once", "poisson", "gamma"]


def synthesize(
    *,
    requests: int,
    rate: float | None = None,
    arrivals: Arrivals = "poisson",
    cv: float | None = None,
    prompt_mean: float | None = None,
    prompt_sd: float | None = None,
    output_mean: float | None = None,
    output_sd: float | None = None,
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
        Mean arrivals per second, 1e-6 to 1e6, 1 where it is not given; none when all arrive at once.
    arrivals
        ``at-once``: every request at time 0 (APEX+'s static mode). ``poisson``: exponential gaps.
        ``gamma``: Gamma-distributed gaps with coefficient of variation ``cv``, 0.01 to 100: 1 is Poisson, above is
        bursty, below is more regular. Arrivals are rounded to microseconds.
    prompt_mean, prompt_sd, output_mean, output_sd
        Tokens, where not given 512, 0, 128 and 0. Lengths are log-normal with this mean (>= 1) and standard deviation
        (up to 1000 times the mean); 0 makes them fixed. Rounded, at least 1, at most ``most_tokens``.
    lengths_of
        Draw (prompt, output) pairs from this trace instead, with replacement, so that their correlation
        stays. Its prefix blocks are not drawn.

    Raises
    ------
    InputError
        When a number is out of its range, or means nothing beside the others.

    Examples
    --------
    >>> trace = synthesize(requests=1000, rate=2.0, prompt_mean=300, prompt_sd=200, output_mean=100)
    >>> len(trace), round(trace.rate_per_s), set(trace.output_tokens.tolist())
    (1000, 2, {100})
    """
    _check("requests", requests, requests >= 1, "at least 1")
    lengths = {
        "prompt_mean": prompt_mean,
        "prompt_sd": prompt_sd,
        "output_mean": output_mean,
        "output_sd": output_sd,
    }
    _unused("rate", rate, arrivals == "at-once", "requests that arrive at once have no rate")
    _unused(
        "cv",
        cv,
        arrivals != "gamma" and cv != 1,
        f"{arrivals} arrivals have none to choose, those of gamma do",
    )
    for field, value in lengths.items():
        _unused(field, value, lengths_of is not None, "lengths are drawn from another trace")
    rate, cv = _or(rate, 1.0), _or(cv, 1.0)
    prompt_mean, prompt_sd = _or(prompt_mean, 512.0), _or(prompt_sd, 0.0)
    output_mean, output_sd = _or(output_mean, 128.0), _or(output_sd, 0.0)
    _check("rate", rate, 1e-6 <= rate <= 1e6, "from 1e-6 to 1e6 per second")
    _check("cv", cv, 0.01 <= cv <= 100, "from 0.01 to 100")
    for field, mean, sd in (("prompt", prompt_mean, prompt_sd), ("output", output_mean, output_sd)):
        _check(f"{field}_mean", mean, 1 <= mean <= most_tokens, f"from 1 to {most_tokens} tokens")
        _check(f"{field}_sd", sd, 0 <= sd <= 1000 * mean, "from 0 to 1000 times the mean")
    generator = np.random.default_rng(seed)
    if arrivals == "at-once":
        arrival_s = np.zeros(requests)
    elif arrivals == "poisson":
        arrival_s = np.cumsum(generator.exponential(1 / rate, requests))
    else:
        arrival_s = np.cumsum(generator.gamma(1 / cv**2, cv**2 / rate, requests))
    if lengths_of is not None:
        drawn = generator.integers(0, len(lengths_of), requests)
        prompt, output = lengths_of.prompt_tokens[drawn], lengths_of.output_tokens[drawn]
    else:
        prompt = _log_normal(generator, prompt_mean, prompt_sd, requests, most_tokens)
        output = _log_normal(generator, output_mean, output_sd, requests, most_tokens)
    return Trace(arrival_s=arrival_s.round(6), prompt_tokens=prompt, output_tokens=output, name=name)


def _or(value: float | None, usual: float) -> float:
    return usual if value is None else value


def _unused(field: str, value: float | None, unused: bool, why: str) -> None:
    if value is not None and unused:
        raise InputError(f"{field.replace('_', ' ')}: {value:g} must be left out: {why}", about=[field])


def _check(field: str, value: float, fine: bool, expected: str) -> None:
    if not fine:
        raise InputError(f"{field.replace('_', ' ')}: {value:g} must be {expected}", about=[field])


def _log_normal(
    generator: np.random.Generator, mean: float, sd: float, n: int, most: int
) -> NDArray[np.int64]:
    variance = math.log1p((sd / mean) ** 2)  # of the logarithm
    drawn = generator.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), n)
    return np.clip(np.rint(drawn), 1, most).astype(np.int64)
