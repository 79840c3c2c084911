"""Plans by how far they are behind the winner, to know which ones errors could bring to the front."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.ranking import PlanResult

if TYPE_CHECKING:
    from planner.pipeline import Answer, Candidate, Evaluator


class Nearest:
    """The candidates but the winner, nearest first.

    A plan is *behind* by the ratio of its objective to the winner's (above 1 where it is worse), or by the largest
    ratio of an SLO's metric to its limit where that is more: all its times would have to shrink by so much. A plan
    that was never simulated counts by its bounds, until it is.

    Attributes
    ----------
    left
        Indices of candidates not taken yet.
    """

    def __init__(
        self, evaluator: "Evaluator", candidates: Sequence["Candidate"], answer: "Answer", winner: "Candidate"
    ) -> None:
        self.evaluator, self.candidates, self.winner = evaluator, candidates, winner
        self.best = answer.results[0]
        pools = [pool.name for pool in evaluator.question.fleet.pools]
        results = {(result.plan, result.pool): result for result in answer.results}
        self.left: set[int] = set()
        self._behind: list[float] = []
        self._simulated: list[bool] = []
        for i, candidate in enumerate(candidates):
            result = results.get((candidate.plan, pools[candidate.pool]))
            self._simulated.append(result is not None)
            self._behind.append(self._by_bounds(candidate) if result is None else self._by_result(result))
            if candidate != winner:
                self.left.add(i)

    def peek(self) -> int | None:
        """The nearest that is left, simulated; None where none is."""
        while self.left:
            i = min(self.left, key=lambda i: (self._behind[i], i))
            if self._simulated[i]:
                return i
            self._behind[i] = self._by_result(self.evaluator.simulated(self.candidates[i])[2])
            self._simulated[i] = True
        return None

    def behind(self, i: int) -> float:
        return self._behind[i]

    @property
    def next_behind(self) -> float:
        """Of the nearest that is left, at least; 1 where none is."""
        return min((self._behind[i] for i in self.left), default=1.0)

    def layouts(self, most: int) -> list["Candidate"]:
        """The winner, and the best plan of each of so many other layouts."""
        found = {self.layout(self.winner): self.winner}
        for i in sorted(range(len(self.candidates)), key=lambda i: (self._behind[i], i)):
            if len(found) <= most:
                found.setdefault(self.layout(self.candidates[i]), self.candidates[i])
        return list(found.values())

    @staticmethod
    def layout(candidate: "Candidate") -> tuple[str, int]:
        return candidate.plan.label, candidate.pool

    def _by_result(self, result: PlanResult) -> float:
        rejected, worst = result.miss
        return math.inf if rejected else max(self._ratio(result.value), worst)

    def _by_bounds(self, candidate: "Candidate") -> float:
        from planner.pipeline import bound_name

        ratios = [self._ratio(self.evaluator.objective_bound(candidate).value)]
        for slo in self.evaluator.question.slos:
            if name := bound_name(slo):
                ratios.append(self.evaluator.bound(candidate, name).value / slo.limit)
        return max(ratios)

    def _ratio(self, value: float) -> float:
        goal = self.evaluator.objective
        if not math.isfinite(value):
            return 0.0 if goal.maximize else math.inf
        worse, better = (self.best.value, value) if goal.maximize else (value, self.best.value)
        return worse / better if better else math.inf
