"""The least iterations of unison schedules (``formulations.schedule``) of D decode steps where all arrive at once.

Every token is paid wherever it runs, so the makespan is a constant plus

    (base + decode) D + (base + launch) Y + launch M

with Y iterations of prompts alone and M steps that take prompts along. What these two cost is the *toll*. For each D
there is a cheapest Y and M that tokens and memory allow; search from both ends (``schedule_paths``) finds a schedule
with no more of either, or proves that there is none, and the next ones are as dear or dearer. So the least value of
any D is refuted until a schedule is found, and each that is refuted is a bound.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from heapq import merge

import numpy as np

from formulations.schedule import ScheduleInstance
from formulations.schedule_floor import read_of
from formulations.schedule_makespan import least_of
from formulations.schedule_paths import FOUND, GAVE_UP, MORE, MOST_REQUESTS, NONE, Paths

NEVER = 1 << 60
"""The toll of what cannot be."""

TURN = 1_000_000
"""Work of either end before both are asked what they have found."""

PART = 0.55
"""Of what may be wasted, that in the first half of the steps at most; backward there are more ways."""


class Levels:
    """Counts of iterations of schedules of so many steps, refuted one after another, the cheapest first.

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
    ...     left = levels.advance(1000)
    >>> levels.result == FOUND, levels.value, levels.steps, levels.first.tolist()  # two iterations alone, side by side
    (True, 474, 2, [0, 0])
    """

    def __init__(self, instance: ScheduleInstance, steps: range, *, work: int) -> None:
        self._instance, self._states, self._prompts = instance, work, sum(instance.prompt)
        self._read = sum(read_of(instance, i) for i in range(len(instance)))
        self._most = sum(-(-p // instance.tokens) for p in instance.prompt) + len(instance)
        self._rest = {d: self._counts(d) for d in steps}
        self._refuted = dict[int, list[tuple[int, int]]]((d, []) for d in steps)
        self._now = {d: next(self._rest[d], (NEVER, 0, 0)) for d in steps}
        self.steps, self.result, self.first = -1, NONE, np.zeros(0, np.int64)
        self._ends = list[Paths]()

    def _counts(self, steps: int) -> Iterator[tuple[int, int, int]]:
        """Toll, less the steps that take prompts along, iterations alone.

        As many as compute all prompts, up to what one request at a time takes; of the same toll those that take most
        along first.
        """
        cost, budget, spare = self._instance.cost, self._instance.tokens, self._spare(steps)

        def of(rides: int) -> Iterator[tuple[int, int, int]]:
            least = max(0, -(-(self._prompts - min(spare, budget * rides)) // budget))
            for alone in range(least, self._most + 1):
                yield (cost.base + cost.launch) * alone + cost.launch * rides, -rides, alone

        return merge(*map(of, range(steps + 1))) if spare >= 0 else iter(())

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
        steps = min(self._now, key=self.value_of)
        _, less, alone = self._now[steps]
        work = self._search(steps, alone, -less, work)
        if self.result == NONE:
            self._refuted[steps].append((alone, less))
            self._now[steps] = self._next(steps)
        return work

    def advance_any(self, steps: int, work: int) -> int:
        """The same of a schedule of so many steps, whatever its toll."""
        work = self._search(steps, self._most, steps, work)
        if self.result == NONE:
            self._now[steps] = NEVER, 0, 0
        return work

    def _search(self, steps: int, alone: int, rides: int, work: int) -> int:
        """Schedules of at most so many of either; returns the work that is left."""
        if len(self._instance) > MOST_REQUESTS:
            self.result = GAVE_UP
            return work
        if steps != self.steps:
            self._ends.clear()  # before others take memory
            for backward in (False, True):
                self._ends.append(Paths(self._instance, steps, backward=backward, states=self._states))
            self.steps = steps
        spare, half = self._spare(steps), steps // 2
        waste = spare + self._instance.tokens * alone - self._prompts
        scarce = min(spare, waste)
        part = int(scarce * PART)
        for end, until, most in zip(self._ends, (half, steps - half), (part, scarce - part - 1), strict=True):
            unread, wasted = (most, waste) if spare < waste else (spare, most)
            end.begin(alone, rides, until=until, unread=unread, waste=wasted)
        return self._run(work)

    def _run(self, work: int) -> int:
        """Until one end has found a schedule, both have none, or the work is done; returns what is left of that."""
        self.result = MORE
        with ThreadPoolExecutor(len(self._ends)) as threads:
            while self.result == MORE and work > 0:
                turns = [min(TURN, work)] * len(self._ends)
                work -= sum(threads.map(Paths.go_on, self._ends, turns))
                results = [end.result for end in self._ends]
                if FOUND in results:
                    self.result, self.first = FOUND, self._ends[results.index(FOUND)].first
                elif MORE not in results:
                    self.result = GAVE_UP if GAVE_UP in results else NONE
        if self.result == MORE:
            self.result = GAVE_UP
        return max(0, work)

    def _next(self, steps: int) -> tuple[int, int, int]:
        """The cheapest of those left, but for what is refuted with others."""
        for toll, less, alone in self._rest[steps]:
            if not any(alone <= a and less >= b for a, b in self._refuted[steps]):
                return toll, less, alone
        return NEVER, 0, 0
