"""The best schedule of the unison class (``formulations.schedule``), from everything that is known to find or bound it.

1. Greedy schedules, orders improved by local search (``schedule_orders``), and floors (``schedule_floor``).
2. Best-first search (``schedule_search``): first with few states kept, for a good schedule, then with all. It solves
   sums of ends for a dozen requests, and whatever few states lead to.
3. For the makespan where all arrive at once: first decodes by annealing (``schedule_fill``), then counts of iterations
   refuted one by one, cheapest first (``schedule_levels``).
4. CP-SAT on what is left: pure counting (``schedule_makespan``) for that makespan, else the model by decode steps
   (``schedule_cpsat``).

Every schedule is run (``schedule.replay``), and its time is the value; the largest bound holds. The same limits give
the same answer: ``Limits.work`` limits CP-SAT's deterministic time, and the search to a number of moves.
"""

from contextlib import suppress
from dataclasses import dataclass
from math import factorial, isfinite

import numpy as np

from formulations import cpsat
from formulations.problem import Limits, Status
from formulations.schedule import Objective, Schedule, ScheduleInstance, greedy_schedules
from formulations.schedule_cpsat import ScheduleCpSat
from formulations.schedule_fill import anneal, schedule_of, slots_of
from formulations.schedule_floor import floor_of, most_steps, value_of
from formulations.schedule_levels import FOUND, NONE, levels, tried
from formulations.schedule_makespan import MakespanCpSat, counted_floor, counted_steps, fewest_steps
from formulations.schedule_orders import ordered_schedules
from formulations.schedule_search import search
from formulations.schedule_togo import Data, IntArray, data_of

MOST_BINARIES, MOST_TERMS = 30_000, 300_000
"""Above these, of all requests and the steps in which they may decode, CP-SAT gains nothing in a minute."""

MOVES = 250_000
"""Of the search for each unit of work; both take about a second."""

MOST_MOVES = 10_000_000
TRIES, MOST_TRIES, AGAIN = 20_000_000, 600_000, 50
"""Orders tried for each unit of work, times requests and iterations of a schedule; at most so many times all that
there are."""

FEWER = 10
"""By how much those are fewer where first decodes are moved, too."""

FEW = 10
"""Requests for which the search is tried where CP-SAT counts; for more, states are soon too many."""

MOVED, MOST_MOVED, RESTARTS = 1_000_000, 1_000_000, 3
"""First decodes moved for each unit of work, divided by steps; and how often that is begun anew."""

STATES = 200_000
"""States of levels for each unit of work."""

BEAM = 400
"""States kept of all with the same number of iterations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSolution:
    """``bound`` <= least objective of the class <= ``value``, that of ``schedule``; sums are not less arrivals."""

    status: Status
    value: int
    bound: int
    schedule: Schedule


def solve(
    instance: ScheduleInstance, objective: Objective, limits: Limits, *, floor: int = 0
) -> ScheduleSolution:  # fmt: skip
    """The best schedule and bound within the limits.

    Parameters
    ----------
    floor
        A bound on the objective known from elsewhere.

    Examples
    --------
    >>> from formulations.schedule import BatchCost
    >>> cost = BatchCost(base=100, token=1, launch=10, decode=20, sequence=0, read=0)
    >>> instance = ScheduleInstance(arrival=(0, 0), prompt=(5, 5), output=(3, 3), own=(0, 0), kv=99, tokens=8,
    ...                             sequences=2, cost=cost)
    >>> found = solve(instance, Objective.MAKESPAN, Limits(work=1))  # 118 + 112 + 2 * 122
    >>> found.status.value, found.value, found.bound
    ('optimal', 474, 474)
    """
    floor = max(floor, floor_of(instance, objective))
    counts = max(instance.arrival) == min(instance.arrival) and objective is Objective.MAKESPAN
    if counts:
        floor = max(floor, counted_floor(instance))
    best = _Best(instance, objective, floor)
    for schedule in greedy_schedules(instance):
        best.take(schedule)
    work = min(limits.work, limits.time_s)
    tries = int(
        min(work * TRIES / len(instance) / len(best.schedule), MOST_TRIES, AGAIN * factorial(len(instance)))
    )
    if counts:
        tries //= FEWER
    moves = int(min(work * MOVES, MOST_MOVES))
    if not best.optimal:
        for schedule in ordered_schedules(instance, objective, tries=tries, seed=limits.seed):
            best.take(schedule)
    few = len(instance) <= FEW or not counts
    if not best.optimal and few:
        best.search(moves // 4, width=BEAM)
    # Rough states are fewer; where they are few enough, exact ones may be.
    if not best.optimal and few and best.search(moves, rough=True) and not best.optimal:
        best.search(moves)
    if not best.optimal and counts:
        states = int(work * STATES)
        best.fill(limits, states // 2)
        best.refute(states)
    if not best.optimal and counts:
        best.count(limits)
    elif not best.optimal:
        best.step(limits)
    status = Status.OPTIMAL if best.optimal else Status.FEASIBLE
    return ScheduleSolution(status=status, value=best.value, bound=best.bound, schedule=best.schedule)


class _Best:
    """The best schedule and bound so far."""

    def __init__(self, instance: ScheduleInstance, objective: Objective, floor: int) -> None:
        self.instance, self.objective, self.floor = instance, objective, floor
        self.schedule: Schedule = ()
        self.value = -1
        self.refuted: list[tuple[int, int, int]] = []  # decode steps, iterations of prompts, steps with some

    @property
    def bound(self) -> int:
        """Bounds come from integers rounded down, so one may be above a value by what rounding took."""
        return min(self.floor, self.value)

    @property
    def optimal(self) -> bool:
        return self.floor >= self.value

    def take(self, schedule: Schedule) -> None:
        """Keep it if it is better. Where a model is early its schedule can break a limit."""
        with suppress(ValueError):
            value = value_of(self.instance, schedule, self.objective)
            if self.value < 0 or value < self.value:
                self.value, self.schedule = value, schedule

    def search(self, moves: int, *, width: int = 0, rough: bool = False) -> bool:
        """Whether it came to its end."""
        found = search(self.instance, self.objective, most=self.value, moves=moves, width=width, rough=rough)
        self.floor = max(self.floor, found.bound)
        if found.schedule is not None:
            self.take(found.schedule)
        return found.ended

    def fill(self, limits: Limits, states: int) -> None:
        """Schedules of as few steps as might pay: by annealing, and where that finds none by search, with any number
        of iterations for prompts."""
        instance, data = self.instance, data_of(self.instance, self.objective)
        rng = np.random.default_rng(limits.seed)
        for steps in range(fewest_steps(instance), counted_steps(instance, self.value) + 1):
            if not any(levels(instance, range(steps, steps + 1), self.value)):
                break
            tries = int(min(min(limits.work, limits.time_s) * MOVED / max(1, steps), MOST_MOVED))
            found = False
            for _ in range(RESTARTS):
                latest = steps - np.array(instance.output) + 1
                first, cost = anneal(data, rng.integers(0, latest + 1), steps, slots_of(steps), tries, rng)
                found = self._take_first(data, first, steps, cost >= 0) or found
            if not found:
                whole = sum(instance.prompt)
                result, _, first = tried(instance, data, steps, whole, 0, states)
                self._take_first(data, first, steps, result == FOUND)
                if result == NONE:  # what steps take along may be computed before the next, too
                    self.refuted.append((steps, whole, steps))

    def _take_first(self, data: Data, first: IntArray, steps: int, exists: bool) -> bool:
        if exists:
            with suppress(ValueError):
                self.take(schedule_of(self.instance, data, first, steps))
        return exists

    def refute(self, states: int) -> None:
        """Levels below the schedule, until one is found, all are refuted or the states are used up."""
        instance, data = self.instance, data_of(self.instance, self.objective)
        steps = range(fewest_steps(instance), counted_steps(instance, self.value) + 1)
        for value, a, y, m in levels(instance, steps, self.value):
            self.floor = max(self.floor, value)
            if self.optimal:
                return
            if any(a == each[0] and y <= each[1] and m <= each[2] for each in self.refuted):
                continue
            result, states, first = tried(instance, data, a, y, m, states)
            self._take_first(data, first, a, result == FOUND)
            if result != NONE:
                return
            self.refuted.append((a, y, m))
        self.floor = max(self.floor, self.value)

    def count(self, limits: Limits) -> None:
        steps = counted_steps(self.instance, self.value)
        if self._small(steps):
            self._run(MakespanCpSat(self.instance, steps=steps, floor=self.floor, most=self.value), limits)

    def step(self, limits: Limits) -> None:
        steps = most_steps(self.instance, self.objective, self.value)
        if self._small(steps):
            self._run(
                ScheduleCpSat(self.instance, self.objective, steps=steps, floor=self.floor, most=self.value),
                limits,
            )

    def _small(self, steps: int) -> bool:
        """Whether a model of so many steps is small enough."""
        terms = sum((steps + 2 - output) * output for output in self.instance.output)
        return 2 * (steps + 1) * len(self.instance) <= MOST_BINARIES and terms <= MOST_TERMS

    def _run(self, model: ScheduleCpSat | MakespanCpSat, limits: Limits) -> None:
        model.hint(self.schedule)
        status, solver = cpsat.run(model.model, limits)
        assert status is not Status.INFEASIBLE, "the hint is in the class"
        if isfinite(solver.best_objective_bound):
            self.floor = max(self.floor, round(solver.best_objective_bound))
        if status.has_solution:
            with suppress(ValueError):
                self.take(model.schedule(solver))
