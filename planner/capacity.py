"""Capacity: the highest rate of arrivals that a plan, or the best one, sustains within the SLOs.

The same requests arrive faster: every gap of the trace is divided by a factor. Below is what simulation
shows, above what a proof allows:

lower  the highest factor simulated at which every request is served and every SLO met
upper  a factor at which, and above which, a bound breaks an SLO (``PlanBounds.hurried``): no scheduler can

Simulation need not be monotone in the rate: a plan that fails at one may hold at a higher one, where other
requests meet in a batch. So factors above the first that fails are tried as well, and what is seen is said.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planner.bar import Counted
from planner.bounds import PlanBounds
from planner.errors import NoFeasiblePlan
from planner.pipeline import Answer, Candidate, Evaluator, answer_of, bound_name, candidates_of, fitted
from planner.placement import place
from planner.question import Question
from planner.shares import SAFE
from planner.store import Store
from planner.validate import complaints
from planner.verify import Certificate
from profiles.errors import InputError
from profiles.plan import Plan
from profiles.stepcost import PS
from simulator import metrics
from simulator.engine import LONGEST_S
from traces.transform import scale_rate

if TYPE_CHECKING:
    import pandas as pd

AT_ONCE = math.inf
"""The factor at which all requests arrive at once."""

MOST, LEAST = 2.0**20, 2.0**-20
"""Factors looked at, besides all at once."""

CHECKS = 4
"""Factors tried above the first that fails, each tolerances further than the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One simulation: the plan at a factor, and whether every request was served within every SLO."""

    plan: Plan
    pool: str
    factor: float
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What is known of the capacity; factors are times the rate of the trace, infinite for all at once.

    Parameters
    ----------
    rate_per_s
        Of the trace as given.
    lower
        Highest factor simulated at which a plan holds; 0 where none was found.
    upper
        No plan holds there or above, proven; infinite where no bound says so. 0: at no rate.
    limits
        ``upper`` of each plan, highest first: (plan, pool, factor).
    excluded
        Plans whose own upper limit is at most ``lower``.
    beaten
        Of the others, simulated and found to hold at no factor above ``lower``.
    unexamined
        Neither: a limit ended the search.
    trials
        In the order simulated.
    answer
        The plan that holds at ``lower``, on the trace at that rate; None where there is none.
    lasts_s, served_s
        At that rate: from the first arrival to the last, and to the last token.
    """

    rate_per_s: float
    lower: float
    upper: float
    tolerance: float
    limits: list[tuple[Plan, str, float]]
    excluded: int
    beaten: int
    unexamined: int
    trials: list[Trial]
    answer: Answer | None
    lasts_s: float
    served_s: float
    slo_text: str
    named: bool

    def to_frame(self) -> "pd.DataFrame":
        """A table of pandas, see ``planner.frames``."""
        from planner.frames import capacity_frame

        return capacity_frame(self)

    @property
    def reversals(self) -> list[tuple[Trial, Trial]]:
        """For each plan that held above a factor at which it failed: that failure nearest below, and the holding."""
        found = []
        for plan, pool in dict.fromkeys((t.plan, t.pool) for t in self.trials):
            own = sorted((t for t in self.trials if (t.plan, t.pool) == (plan, pool)), key=lambda t: t.factor)
            held = [t for t in own if t.holds]
            failed = [t for t in own if not t.holds and held and t.factor < held[-1].factor]
            if failed:
                found.append((failed[-1], held[-1]))
        return found


class _LimitReached(Exception):
    """Of simulations or seconds, set by the user."""


class _Rates:
    """Plans of one question at different rates."""

    def __init__(
        self, make: Callable[[Question], Evaluator], question: Question, *, most: int | None,
        until: float | None,
    ) -> None:  # fmt: skip
        self.make, self.evaluator, self.most, self.until = make, make(question), most, until
        self.trials: dict[tuple[int, Plan, float], Trial] = {}

    def at(self, factor: float) -> Evaluator:
        """The evaluator of the trace at a factor; cost tables are shared."""
        own = self.evaluator
        trace = own.question.trace
        if math.isinf(factor):
            scaled = replace(trace, arrival_s=np.zeros_like(trace.arrival_s))
        else:
            scaled = scale_rate(trace, factor)
        return self.make(replace(own.question, trace=scaled))

    def holds(self, candidate: Candidate, factor: float) -> bool:
        """Simulated: every request is served and every SLO met."""
        key = (candidate.pool, candidate.plan, factor)
        if key not in self.trials:
            late = self.until is not None and self.trials and time.monotonic() > self.until
            if late or (self.most is not None and len(self.trials) >= self.most):
                raise _LimitReached
            evaluator = self.at(factor)
            _, outcome = evaluator.outcome(candidate)
            fine = not outcome.rejected and all(
                metrics.slo_value(outcome, slo.metric, slo.percentile) <= slo.limit
                for slo in evaluator.question.slos
            )
            pool = evaluator.question.fleet.pools[candidate.pool].name
            self.trials[key] = Trial(plan=candidate.plan, pool=pool, factor=factor, holds=fine)
        return self.trials[key].holds

    def upper(self, candidate: Candidate, tolerance: float) -> float:
        """A factor at which and above which no scheduler of the plan holds; infinite where no bound says so."""
        own = self.evaluator
        names = [(name, slo.limit) for slo in own.question.slos if (name := bound_name(slo))]
        key = (own.step_key(candidate), own.trace_key, tuple(names), tolerance)
        return own.store.get("limit", key, lambda: self._upper(candidate, names, tolerance), lasting=True)

    def _upper(self, candidate: Candidate, names: list[tuple[str, float]], tolerance: float) -> float:
        own = self.evaluator
        bounds = PlanBounds(own.step(candidate), candidate.plan, own.stats)
        arrival_s = own.question.trace.arrival_s

        def hopeless(factor: float) -> bool:
            there = bounds.at(np.rint(arrival_s / factor * PS).astype(np.int64))
            return any(there.hurried(name).value * SAFE > limit for name, limit in names)

        slowest = self.slowest()
        if not hopeless(AT_ONCE):
            return math.inf
        if hopeless(slowest):
            return 0.0
        if not hopeless(MOST):
            return math.inf
        low, high = _bracket(lambda factor: not hopeless(factor), max(1.0, slowest), slowest, MOST)
        while high > low * (1 + tolerance):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if hopeless(middle) else (middle, high)
        return high

    def slowest(self) -> float:
        """The least factor that the simulator's clock allows."""
        return max(LEAST, float(self.evaluator.question.trace.arrival_s[-1]) / LONGEST_S * (1 + 1e-9))

    def lower(self, candidate: Candidate, start: float, most: float, tolerance: float) -> float:
        """The highest factor found at which the plan holds, 0 where there is none.

        ``start``: only factors from here on count, if it holds there; 0 for any. ``most``: it is proven not to
        hold there.
        """

        def holds(factor: float) -> bool:
            return self.holds(candidate, factor)

        if start and not holds(start):
            return 0.0
        if math.isinf(most) and holds(AT_ONCE):
            return AT_ONCE
        fastest = min(most, MOST)
        begin = start or (1.0 if math.isinf(most) else max(most / 2, self.slowest()))
        best, fails = _bracket(holds, begin, self.slowest(), fastest)
        while best and fails > best * (1 + tolerance):
            middle = math.sqrt(best * fails)
            best, fails = (middle, fails) if holds(middle) else (best, middle)
        above = [fails * (1 + tolerance) ** i for i in range(1, CHECKS + 1)]
        return max([best, *(factor for factor in above if factor < fastest and holds(factor))])


def _bracket(
    fine: Callable[[float], bool], begin: float, slowest: float, fastest: float
) -> tuple[float, float]:
    """A factor that is fine and one at most twice as high that is not; 0 for the first where there is none.
    ``fastest`` counts as not fine.

    Examples
    --------
    >>> _bracket(lambda factor: factor < 5, 1.0, 0.1, 100.0), _bracket(lambda factor: False, 1.0, 0.3, 9.0)
    ((4.0, 8.0), (0.0, 0.3))
    """
    low = begin
    if fine(low):
        while (high := 2 * low) < fastest and fine(high):
            low = high
        return low, min(high, fastest)
    while low > slowest:
        low, high = max(low / 2, slowest), low
        if fine(low):
            return low, high
    return 0.0, low


def capacity(
    question: Question, plan: Plan | None = None, *, tolerance: float = 0.02,
    max_simulations: int | None = None, time_limit_s: float | None = None, tables: Path | None = None,
    silicon: bool = True, store: Store | None = None, progress: Callable[[str], None] = lambda text: None,
) -> Capacity:  # fmt: skip
    """The highest rate that ``plan``, or with None the best plan, sustains.

    Parameters
    ----------
    tolerance
        Between a rate that holds and the next tried, relative. In [0.001, 1].

    Raises
    ------
    InputError
        When there is no SLO, or the trace has no rate.
    NoFeasiblePlan
        When there is no plan, or the one named does not fit.
    """
    if not question.slos:
        raise InputError("capacity is the rate within SLOs: give --slo, e.g. ttft_p95<=1s")
    if question.trace.rate_per_s is None:
        raise InputError(
            f"{question.trace.name}: all requests arrive at once, so there is no rate to raise",
            about=["trace_file", "synthetic"],
        )
    if not 0.001 <= tolerance <= 1:
        raise InputError(f"tolerance {tolerance:g}: expected a share from 0.001 to 1")
    started = time.monotonic()
    asked, notes = fitted(question)
    store = Store() if store is None else store
    make = partial(Evaluator, tables=tables, silicon=silicon, store=store)
    candidates = candidates_of(asked, store) if plan is None else [_named(asked, plan)]
    rates = _Rates(
        make, asked, most=max_simulations, until=None if time_limit_s is None else started + time_limit_s
    )
    progress(f"{len(candidates)} feasible plans; bounding")
    uppers = [(rates.upper(candidate, tolerance / 10), i) for i, candidate in enumerate(candidates)]
    uppers.sort(key=lambda pair: (-pair[0], -candidates[pair[1]].plan.devices, pair[1]))
    best, winner, examined = 0.0, None, 0
    try:
        for n, (upper, i) in enumerate(uppers):
            if upper <= best:
                break
            start = 0.0 if winner is None else best * (1 + tolerance)
            if start < upper:
                found = rates.lower(candidates[i], start, upper, tolerance)
                if found > best:
                    best, winner = found, candidates[i]
            examined = n + 1
            words = f"{len(rates.trials)} simulated, at most {len(uppers) - examined} plans left"
            progress(Counted(words, examined, len(uppers)))
    except _LimitReached:
        held = [(t.factor, key) for key, t in rates.trials.items() if t.holds]
        if held and (top := max(held, key=lambda pair: pair[0]))[0] > best:
            best = top[0]
            winner = next(c for c in candidates if (c.pool, c.plan) == top[1][:2])
    answer = None if winner is None else _answer(rates.at(best), winner, notes)
    rest = [upper for upper, i in uppers[examined:] if candidates[i] is not winner]
    return Capacity(
        rate_per_s=float(asked.trace.rate_per_s or 0.0),
        lower=best,
        upper=uppers[0][0],
        tolerance=tolerance,
        limits=[
            (candidates[i].plan, asked.fleet.pools[candidates[i].pool].name, upper) for upper, i in uppers
        ],
        excluded=sum(upper <= best for upper in rest),
        beaten=len(uppers) - len(rest) - (winner is not None),
        unexamined=sum(upper > best for upper in rest),
        trials=list(rates.trials.values()),
        answer=answer,
        lasts_s=asked.trace.duration_s / best if best else 0.0,
        served_s=(answer.results[0].metrics["makespan_s"] or 0.0) if answer else 0.0,
        slo_text=", ".join(slo.text for slo in asked.slos),
        named=plan is not None,
    )


def _named(question: Question, plan: Plan) -> Candidate:
    """The plan on the first pool that it fits."""
    reasons: list[str] = []
    for i, pool in enumerate(question.fleet.pools):
        clashes = complaints(question, pool, plan)
        if not clashes:
            return Candidate(plan=plan, pool=i, placement=place(plan, pool))
        reasons += [f"{pool.name}: {clash}" for clash in clashes]
    raise NoFeasiblePlan(f"{plan.label}: " + "; ".join(reasons))


def _answer(evaluator: Evaluator, winner: Candidate, notes: Sequence[str]) -> Answer:
    """The winner on the trace at the rate that it sustains."""
    score, _, result = evaluator.simulated(winner)
    certificate = Certificate(
        feasible=1, simulated=1, excluded_by_bound=0, excluded_by_slo=0, unexamined=0, best=score,
        proven=score, gap=0.0,
    )  # fmt: skip
    answer = answer_of(evaluator.question, evaluator, [result], certificate, list(notes))
    return replace(answer, searched=False)
