"""Simulate plans in order of their bound until the next bound cannot win.

Theorem (certificate). Let b(p) <= v(p) be the bound and the simulated score of plan p, lower is better.
If plans are taken by increasing b and the search stops when b(next) >= min v(simulated), then no plan
that was not simulated has a smaller score: v(p) >= b(p) >= b(next) >= min v. A plan whose proven best
value of an SLO metric breaks that SLO cannot meet it either, and is excluded without simulation.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

WAVE = 4
"""Plans simulated between two looks at the bound. Fixed, so that the plans simulated (and so the answer)
do not depend on how many workers share a wave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded(Generic[T]):
    """A plan before simulation: a lower bound of its score, and whether an SLO is proven out of reach."""

    item: T
    bound: float
    hopeless: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified(Generic[T, R]):
    """A simulated plan: its score (lower is better) and whether it meets every SLO."""

    item: T
    bound: float
    score: float
    meets_slos: bool
    result: R


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What was proven.

    Parameters
    ----------
    feasible
        Plans that satisfy the hard constraints.
    simulated
        Of these, simulated.
    excluded_by_bound, excluded_by_slo
        Of these, excluded by proof: their bound cannot win, or cannot meet an SLO.
    unexamined
        Neither: the search was cut short.
    best
        Score of the winner (None when no plan meets the SLOs).
    proven
        No feasible plan that meets the SLOs scores below this.
    gap
        (best - proven) / |best|, 0 when the winner is proven best; infinite when plans remain that
        might be the first to meet the SLOs.
    """

    feasible: int
    simulated: int
    excluded_by_bound: int
    excluded_by_slo: int
    unexamined: int
    best: float | None
    proven: float | None
    gap: float


def verify(
    plans: Sequence[Bounded[T]],
    simulate: Callable[[T], tuple[float, bool, R]],
    *,
    max_simulations: int | None = None,
    time_limit_s: float | None = None,
    everything: bool = False,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, left: None,
) -> tuple[list[Verified[T, R]], Certificate]:
    """Simulate as few plans as the proof needs.

    Parameters
    ----------
    simulate
        Plan to (score, meets every SLO, anything). Called from ``workers`` threads; compiled simulation
        releases the interpreter lock.
    max_simulations, time_limit_s
        Stop early; the certificate then shows the true gap.
    everything
        Simulate every plan, whatever the bounds say.
    progress
        Called with (simulated, possibly left) after every wave.

    Examples
    --------
    >>> plans = [Bounded(item=v, bound=v - 1.0) for v in (5.0, 3.0, 9.0, 3.5, 8.0, 7.0)]
    >>> done, certificate = verify(plans, lambda v: (v, True, None))
    >>> [v.score for v in done], certificate.excluded_by_bound, certificate.gap
    ([3.0, 3.5, 5.0, 7.0], 2, 0.0)
    """
    from joblib import Parallel, delayed

    started = time.monotonic()
    order = sorted(range(len(plans)), key=lambda i: (plans[i].bound, i))
    hopeless = [] if everything else [i for i in order if plans[i].hopeless]
    queue = [i for i in order if everything or not plans[i].hopeless]
    done: list[tuple[int, Verified[T, R]]] = []
    best = math.inf
    with Parallel(n_jobs=workers, prefer="threads") as parallel:
        for wave in _waves(queue, max_simulations):
            if done and time_limit_s is not None and time.monotonic() - started > time_limit_s:
                break
            if not everything:
                wave = [i for i in wave if plans[i].bound < best]
                if not wave:
                    break
            try:
                results = parallel(delayed(simulate)(plans[i].item) for i in wave)
            except KeyboardInterrupt:
                if not done:
                    raise
                break  # what is finished is kept, the certificate says what is missing
            for i, (score, meets, result) in zip(wave, results, strict=True):
                verified = Verified(
                    item=plans[i].item, bound=plans[i].bound, score=score, meets_slos=meets, result=result
                )
                done.append((i, verified))
                if meets:
                    best = min(best, score)
            progress(len(done), len(queue) - len(done))
    simulated = {i for i, _ in done}
    left = [i for i in queue if i not in simulated]
    beaten = [i for i in left if plans[i].bound >= best]
    open_bounds = [plans[i].bound for i in left if plans[i].bound < best]
    proven = min([best, *open_bounds])
    if not open_bounds:
        gap = 0.0
    elif math.isinf(best):
        gap = math.inf
    else:
        gap = (best - proven) / abs(best) if best else math.inf
    certificate = Certificate(
        feasible=len(plans),
        simulated=len(done),
        excluded_by_bound=len(beaten),
        excluded_by_slo=len([i for i in hopeless if i not in simulated]),
        unexamined=len(open_bounds),
        best=None if math.isinf(best) else best,
        proven=None if math.isinf(proven) else proven,
        gap=gap,
    )
    return [v for _, v in done], certificate


def _waves(queue: list[int], most: int | None) -> Iterator[list[int]]:
    queue = queue[:most]
    for start in range(0, len(queue), WAVE):
        yield queue[start : start + WAVE]
