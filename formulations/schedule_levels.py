"""The least iterations of unison schedules (``formulations.schedule``) of D decode steps where all arrive at once.

Every token is paid wherever it runs, so the makespan is a constant plus

    (base + decode) D + (base + launch) Y + launch M

with Y iterations of prompts alone and M steps that take prompts along. What these two cost is the *toll*. For each D
there is a cheapest Y and M that tokens and memory allow; search from both ends (``schedule_paths``) finds a schedule
with no more of either, or proves that there is none, and the next ones are as dear or dearer. So the least value of
any D is refuted until a schedule is found, and each that is refuted is a bound.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import log

import numpy as np

from formulations.schedule import ScheduleInstance
from formulations.schedule_floor import read_of
from formulations.schedule_makespan import least_of
from formulations.schedule_paths import (
    FOUND,
    GAVE_UP,
    MORE,
    MOST_REQUESTS,
    NONE,
    Paths,
    owed,
)
from formulations.schedule_togo import IntArray
from formulations.schedule_tree import NEVER, afforded

TURN = 1_000_000
"""Work of either end before both are asked what they have found."""

REJECTED = 2_000
"""Work that it takes to ask whether a schedule is accepted, about."""

NEW = 20
"""Rows of new tables, for another number of steps, that take as long as one unit of work."""

PART, LEAST, MOST, SHIFT = 0.55, 0.3, 0.8, 0.024
"""Of what may be wasted, that in the first half of the steps at most: to begin with, at least and at most; of memory,
what is added to it for the next search where the one backward took e times as long."""


class Levels:
    """Counts of iterations of schedules of so many steps, refuted one after another, the cheapest first.

    What is found must be accepted: with first decodes and steps, whether there is such a schedule indeed.

    Examples
    --------
    >>> from formulations.schedule import BatchCost
    >>> cost = BatchCost(base=100, token=1, launch=10, decode=20, sequence=0, read=0)
    >>> instance = ScheduleInstance(arrival=(0, 0), prompt=(5, 5), output=(3, 3), own=(0, 0), kv=99, tokens=8,
    ...                             sequences=2, cost=cost)
    >>> levels = Levels(instance, range(2, 4), work=1000)
    >>> levels.value  # two steps that take all prompts along: nobody could decode in the first
    274
    >>> while levels.result == NONE:
    ...     left = levels.advance(100_000)
    >>> levels.result == FOUND, levels.value, levels.steps, levels.first.tolist()  # two iterations alone, side by side
    (True, 474, 2, [0, 0])
    """

    def __init__(
        self,
        instance: ScheduleInstance,
        steps: range,
        *,
        work: int,
        accepts: Callable[[IntArray, int], bool] = lambda first, steps: True,
    ) -> None:
        self._accepts = accepts
        self._instance, self._states, self._prompts = instance, work, sum(instance.prompt)
        self._read = sum(read_of(instance, i) for i in range(len(instance)))
        self._most = sum(-(-p // instance.tokens) for p in instance.prompt) + len(instance)
        cost = instance.cost
        self._cost = cost.base + cost.launch
        self._refuted = dict[int, list[tuple[int, int]]]((d, []) for d in steps)
        self._now = {d: (self._owed(d), 0, -1) for d in steps}
        self.steps, self.result, self.first = -1, NONE, np.zeros(0, np.int64)
        self._ends = list[Paths]()
        self._part = {d: [PART, PART] for d in steps}  # of what is wasted; of memory not read

    def _owed(self, steps: int) -> int:
        """What iterations of so many steps cost at least; which they are is told when it matters."""
        spare, launch = self._spare(steps), self._instance.cost.launch
        if spare < 0:
            return NEVER
        return int(owed(self._prompts, spare, self._instance.tokens, self._cost, launch))

    def _next(self, steps: int) -> tuple[int, int, int]:
        """Toll, less the steps that take prompts along, iterations alone: the cheapest that are left.

        As many as compute all prompts, up to what one request at a time takes; of the same toll those that take most
        along first. None that are fewer of both than what is refuted.
        """
        budget, launch, spare = self._instance.tokens, self._instance.cost.launch, self._spare(steps)
        toll, less, alone = self._now[steps]
        last = (toll, less) if alone >= 0 else (toll - 1, 0)
        best = NEVER, 0, 0
        for rides in range(steps + 1):
            alone = max(0, -(-(self._prompts - min(spare, budget * rides)) // budget))
            if self._cost:
                alone = max(alone, -(-(last[0] - launch * rides) // self._cost))
            if (self._cost * alone + launch * rides, -rides) <= last:
                alone = alone + 1 if self._cost else self._most + 1
            alone = max([alone, *(a + 1 for a, r in self._refuted[steps] if rides <= r)])
            if alone <= self._most:
                best = min(best, (self._cost * alone + launch * rides, -rides, alone))
        return best

    def _spare(self, steps: int) -> int:
        """Memory that no decode reads."""
        return self._instance.kv * steps - self._read

    def value_of(self, steps: int) -> int:
        """No schedule of so many steps has a smaller makespan."""
        return least_of(self._instance, steps) + self._now[steps][0]

    @property
    def value(self) -> int:
        """No schedule of any of these numbers of steps has a smaller makespan."""
        return min(map(self.value_of, self._now), default=NEVER)

    def advance(self, work: int) -> int:
        """Look for a schedule of ``value``, and raise that where there is none; returns the work that is left.

        ``result`` is then FOUND with ``steps`` and ``first``, the first decodes; NONE; or GAVE_UP.
        """
        steps, self.result = self.cheapest, NONE
        _, less, alone = self._now[steps]
        if alone >= 0:
            work = self._search(steps, alone, -less, None, work)
            if self.result == NONE:
                self._refuted[steps].append((alone, -less))
        if self.result == NONE:
            self._now[steps] = self._next(steps)
        return work

    def advance_below(self, value: int, steps: int, work: int) -> int:
        """The same of a schedule of so many steps with a smaller makespan than ``value``."""
        toll, launch = value - 1 - least_of(self._instance, steps), self._instance.cost.launch
        alone, rides = min(self._most, afforded(toll, self._cost)), min(steps, afforded(toll, launch))
        work = self._search(steps, alone, rides, toll, work)
        if self.result == NONE:
            self._now[steps] = max(self._now[steps], (toll + 1, -NEVER, -1))
        return work

    @property
    def cheapest(self) -> int:
        """The number of steps of least value."""
        return min(self._now, key=self.value_of)

    def _search(self, steps: int, alone: int, rides: int, toll: int | None, work: int) -> int:
        """Schedules of at most so many of either; returns the work that is left."""
        if len(self._instance) > MOST_REQUESTS:
            self.result = GAVE_UP
            return work
        if steps != self.steps:
            self._ends.clear()  # before others take memory
            for backward in (False, True):
                self._ends.append(Paths(self._instance, steps, backward=backward, states=self._states))
            self.steps, work = steps, work - sum(end.rows for end in self._ends) // NEW
        spare, half = self._spare(steps), steps // 2
        waste = spare + self._instance.tokens * alone - self._prompts
        scarce, which = min(spare, waste), int(spare < waste)
        part = int(scarce * self._part[steps][which])
        for end, until, most in zip(self._ends, (half, steps - half), (part, scarce - part - 1), strict=True):
            unread, wasted = (most, waste) if spare < waste else (spare, most)
            end.begin(alone, rides, toll=toll, until=until, unread=unread, waste=wasted)
        left, (ahead, back) = self._run(work)
        if self.result == NONE and min(ahead, back) >= TURN:
            more = SHIFT * self._instance.kv / max(1, scarce) * log(back / ahead)
            self._part[steps][which] = min(max(LEAST, self._part[steps][which] + more), MOST)
        return left

    def _run(self, work: int) -> tuple[int, list[int]]:
        """Until a schedule is found that is accepted, neither end has one, or the work is done.

        Returns what is left of that, and what was done forward and backward. Where others were found there is no proof
        that there is none.
        """
        searches, spent, rejected, self.result = list(self._ends), [0, 0], False, MORE
        with ThreadPoolExecutor(len(self._ends)) as threads:
            while self.result == MORE:
                running = self._shared(searches)
                if not running or work <= 0:
                    self.result = GAVE_UP if running or rejected else NONE
                    break
                done = list(threads.map(Paths.go_on, running, [min(TURN, work)] * len(running)))
                work -= sum(done)
                for search, each in zip(running, done, strict=True):
                    spent[search.backward] += each
                    if search.result == GAVE_UP:
                        self.result = GAVE_UP
                    elif search.result == FOUND and self._accepts(search.first, self.steps):
                        self.result, self.first = FOUND, search.first
                        break
                    elif search.result == FOUND:
                        search.reject()
                        work, rejected = work - REJECTED, True
        return max(0, work), spent

    def _shared(self, searches: list[Paths]) -> list[Paths]:
        """Those that have not ended; if that is one, and half of what it has left in another, which is added if new."""
        running = [search for search in searches if search.result == MORE]
        if len(running) == 1:
            ended = [
                each for each in searches if each.result == NONE and each.backward == running[0].backward
            ]
            other = running[0].halve(ended[0] if ended else None)
            if other is not None:
                running.append(other)
                searches += [] if ended else [other]
        return running
