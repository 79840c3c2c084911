"""Which number of the profile, wrong by how much, would overthrow the winner.

One number at a time is halved and doubled for all plans alike; where the winner's layout then loses to another,
bisection finds the factor. In between the ranking is taken to change once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.redrawn import Redrawn, winner_of
from profiles.moved import Moved

if TYPE_CHECKING:
    from planner.pipeline import Candidate

HOST = ("iteration_s", "sequence_s", "prefill_s")
"""Constants of the engine that are numbers of their own."""

FACTORS = (0.5, 2.0)
"""Between which a number is moved."""

CLOSE = 1.01
"""Ratio of factors that bisection tells apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overthrow:
    """What moving one number does: the nearest factors below and above 1 at which another layout wins, and which;
    None where none does down to a half, up to twice."""

    number: str
    below: float | None
    below_winner: str
    above: float | None
    above_winner: str

    @property
    def nearest(self) -> float:
        """|log| of the nearer factor, infinite where there is none."""
        found = [abs(math.log(factor)) for factor in (self.below, self.above) if factor is not None]
        return min(found, default=math.inf)


def overthrows(
    again: Redrawn, layouts: Sequence["Candidate"], *, workers: int, progress: Callable[[str], None]
) -> tuple[Overthrow, ...]:
    """For every number that some of the layouts uses, the nearest first; ``layouts[0]`` is the winner."""
    from joblib import Parallel, delayed

    again.results(layouts, Moved(factors=(("stream", 1.0),)))  # moves nothing, and shows what they use
    engine = again.evaluator.compilers[layouts[0].pool].engine
    numbers = [*(name for name in HOST if getattr(engine, name)), *sorted(again.used)]
    progress(f"{len(numbers)} numbers of the profile, one at a time, on {len(layouts)} layouts")
    asked = [(number, factor) for number in numbers for factor in FACTORS]
    parallel = Parallel(n_jobs=workers, prefer="threads")
    ends = parallel(delayed(_end)(again, layouts, number, factor) for number, factor in asked)
    by = dict(zip(asked, ends, strict=True))
    low, high = FACTORS
    found = [
        Overthrow(
            number=number,
            below=by[number, low][0],
            below_winner=by[number, low][1],
            above=by[number, high][0],
            above_winner=by[number, high][1],
        )
        for number in numbers
    ]
    return tuple(sorted(found, key=lambda each: (each.nearest, each.number)))


def _end(
    again: Redrawn, layouts: Sequence["Candidate"], number: str, factor: float
) -> tuple[float | None, str]:
    """The factor towards this one from which another layout wins, and which; None where none does."""
    beaten = _beaten(again, layouts, number, factor)
    if not beaten:
        return None, ""
    holds, fails = 1.0, factor
    while max(holds, fails) / min(holds, fails) > CLOSE:
        middle = math.sqrt(holds * fails)
        now = _beaten(again, layouts, number, middle)
        if now:
            fails, beaten = middle, now
        else:
            holds = middle
    return fails, beaten


def _beaten(again: Redrawn, layouts: Sequence["Candidate"], number: str, factor: float) -> str:
    """Which layout wins with one number moved; empty where that of the winner does, or none holds."""
    results = again.results(layouts, Moved(factors=((number, factor),)))
    best = winner_of(results, again.evaluator.objective)
    return "" if best is None or best is results[0] else best.plan.label
