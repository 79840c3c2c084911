"""Plans compiled and simulated again under moved profiles."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.objective import Objective
from planner.ranking import PlanResult, rank
from profiles.moved import Moved, MovedOperations, with_operations
from simulator.engine import simulate

if TYPE_CHECKING:
    from planner.pipeline import Candidate, Evaluator

SAME = 1e-9
"""Relative difference of values that are the same but for rounding."""


class Redrawn:
    """Plans of one question under moved profiles."""

    def __init__(self, evaluator: "Evaluator") -> None:
        self.evaluator = evaluator
        self.used: set[str] = set()
        """Families of operations that some plan has."""

    def results(self, candidates: Sequence["Candidate"], moved: Moved) -> list[PlanResult]:
        """What each candidate does under a moved profile, in their order."""
        compilers = {}
        found = []
        for candidate in candidates:
            if candidate.pool not in compilers:
                base = self.evaluator.compilers[candidate.pool]
                operations = moved.operations(base.operations, base.device.name)
                compilers[candidate.pool] = with_operations(base, operations, moved.engine(base.engine))
            step = self.evaluator.compiled(compilers[candidate.pool], candidate)
            plan = candidate.plan
            outcome = simulate(self.evaluator.question.trace, step, plan.engine, replicas=plan.replicas)
            found.append(self.evaluator.judged(candidate, step, outcome)[2])
        for compiler in compilers.values():
            if isinstance(compiler.operations, MovedOperations):
                self.used |= compiler.operations.used
        return found


def winner_of(results: Sequence[PlanResult], objective: Objective) -> PlanResult | None:
    """The best result, the first of those where it ties with the best; None where none is acceptable."""
    best = rank(results, objective)[0]
    if not best.acceptable:
        return None
    first, score = results[0], objective.score
    ties = first.acceptable and score(first.value) <= score(best.value) + SAME * abs(best.value)
    return first if ties else best
