"""The best schedule of the unison class (``formulations.schedule``), from everything that is known to find or bound it.

1. Greedy schedules, orders improved by local search (``schedule_orders``), and floors (``schedule_floor``).
2. Best-first search (``schedule_search``): first with few states kept, for a good schedule, then with all. It solves
   sums of ends for a dozen requests, and whatever few states lead to.
3. For the makespan where all arrive at once, before that: first decodes by annealing (``schedule_fill``), then counts
   of iterations of prompts, refuted one after another (``schedule_levels``).
4. For all else CP-SAT on what is left: the model by decode steps (``schedule_cpsat``).

Every schedule is run (``schedule.replay``), and its time is the value; the largest bound holds. The same limits give
the same answer: ``Limits.work`` limits CP-SAT's deterministic time, and the search to a number of moves.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import factorial, isfinite

import numpy as np

from formulations import cpsat
from formulations.problem import Limits, Status
from formulations.schedule import Objective, Schedule, ScheduleInstance, greedy_schedules
from formulations.schedule_cpsat import ScheduleCpSat
from formulations.schedule_fill import anneal, schedule_of, slots_of
from formulations.schedule_floor import floor_of, most_steps, value_of
from formulations.schedule_levels import Levels
from formulations.schedule_makespan import counted_floor, counted_steps, fewest_steps
from formulations.schedule_orders import ordered_schedules
from formulations.schedule_paths import FOUND, NONE
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
"""Requests for which the search is tried for that makespan, and any better schedule is looked for with all work; for
more, states are soon too many."""

MOVED, MOST_MOVED, MOVED_EACH, RESTARTS, SLOWER = 8_000_000, 10_000_000, 300, 12, 40
"""First decodes moved for each unit of work, divided by steps; at most, and of so many requests to the third power;
how often that is begun anew; by how much the moves that ``fill`` counts are fewer."""

PLACED, SOME, PROBE = 30_000_000, 10, 10
"""Requests chosen and states met by ``schedule_levels`` for each unit of work; the parts of them for any better
schedule where annealing finds none, and where so many steps are tried first."""

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
    if not best.optimal and counts:
        best.fill_and_refute(limits, int(work * PLACED))
    few = len(instance) <= FEW or not counts
    if not best.optimal and few:
        best.search(moves // 4, width=BEAM)
    # Rough states are fewer; where they are few enough, exact ones may be.
    if not best.optimal and few and best.search(moves, rough=True) and not best.optimal:
        best.search(moves)
    if not best.optimal and not counts:
        best.step(limits)
    status = Status.OPTIMAL if best.optimal else Status.FEASIBLE
    return ScheduleSolution(status=status, value=best.value, bound=best.bound, schedule=best.schedule)


class _Best:
    """The best schedule and bound so far."""

    def __init__(self, instance: ScheduleInstance, objective: Objective, floor: int) -> None:
        self.instance, self.objective, self.floor = instance, objective, floor
        self.schedule: Schedule = ()
        self.value = -1

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

    def fill_and_refute(self, limits: Limits, work: int) -> None:
        data = data_of(self.instance, self.objective)
        levels = Levels(self.instance, self._steps(), work=work, accepts=partial(self._take_first, data))
        self.fill(levels, data, limits, work // SOME)
        self.refute(levels, work)

    def fill(self, levels: Levels, data: Data, limits: Limits, work: int) -> None:
        """Schedules of fewer and fewer steps, as long as some are found: by annealing, else by search."""
        rng = np.random.default_rng(limits.seed)
        steps, found = sum(each.decodes for each in self.schedule), True
        while found and steps >= fewest_steps(self.instance):
            if levels.value_of(steps) < self.value:
                found = self._anneal(data, steps, limits, rng)
                if not found:
                    self._below(levels, steps, work)
                    found = levels.result == FOUND
            steps -= 1

    def _anneal(self, data: Data, steps: int, limits: Limits, rng: np.random.Generator) -> bool:
        """Whether there is a schedule of so many steps that annealing finds; the best is taken."""
        output, found = np.array(self.instance.output), False
        work = min(limits.work, limits.time_s)
        tries = int(min(work * MOVED / max(1, steps), MOST_MOVED, MOVED_EACH * len(output) ** 3))

        def restart(own: np.random.Generator) -> list[tuple[IntArray, int]]:
            met = [(own.integers(0, steps - output + 2), 0)]
            for rough, count in ((True, tries), (False, tries // SLOWER)):
                if met[-1][1] >= 0:
                    met.append(anneal(data, met[-1][0], steps, slots_of(steps), count, rough, own))
            return met[1:]

        with ThreadPoolExecutor(min(limits.workers, RESTARTS)) as threads:
            for met in threads.map(restart, rng.spawn(RESTARTS)):
                for first, cost in met:
                    if cost >= 0:
                        self._take_first(data, first, steps)
                        found = True
        return found

    def _steps(self) -> range:
        """Numbers of decode steps that schedules no worse may have."""
        return range(fewest_steps(self.instance), counted_steps(self.instance, self.value) + 1)

    def _take_first(self, data: Data, first: IntArray, steps: int) -> bool:
        """Whether there is a schedule with these first decodes that is better."""
        value = self.value
        with suppress(ValueError):
            self.take(schedule_of(self.instance, data, first, steps))
        return self.value < value

    def refute(self, levels: Levels, work: int) -> None:
        """Levels below the schedule, until one is found, all are refuted or the work is done.

        Where so many steps are tried first, any better schedule is looked for, as long as one is found: of few requests
        that leads to the end.
        """
        tried = set[int]()
        some = work if len(self.instance) <= FEW else work // PROBE
        levels.result = NONE
        while levels.result == NONE and levels.value < self.value:
            self.floor = max(self.floor, levels.value)
            if levels.cheapest not in tried:
                tried.add(levels.cheapest)
                some = min(some, work)
                work -= some - self._below(levels, levels.cheapest, some)
                levels.result = NONE
            else:
                work = levels.advance(work)
        self.floor = max(self.floor, min(self.value, levels.value))

    def _below(self, levels: Levels, steps: int, work: int) -> int:
        """Better and better schedules of so many steps; returns the work that is left."""
        value = self.value + 1
        while self.value < value and levels.value_of(steps) < self.value:
            value = self.value
            work = levels.advance_below(value, steps, work)
        return work

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

    def _run(self, model: ScheduleCpSat, limits: Limits) -> None:
        model.hint(self.schedule)
        status, solver = cpsat.run(model.model, limits)
        assert status is not Status.INFEASIBLE, "the hint is in the class"
        if isfinite(solver.best_objective_bound):
            self.floor = max(self.floor, round(solver.best_objective_bound))
        if status.has_solution:
            with suppress(ValueError):
                self.take(model.schedule(solver))
