"""How stable the ranking is: does the winner still win when the profile is off by what it is known to be off?

Draws. In each, every operation and shape has an error of its own (``profiles.moved.Noise``, spreads of
``profiles.uncertainty``), and so has each constant of the engine; plans within reach are compiled and simulated
again. Errors of two shapes are independent: those that all plans share would leave the ranking as it is.

Within reach. Plans are taken by how far they are behind the winner (one that was never simulated by its bound,
until it is), and drawn again until the next one is behind by more than ``REACH`` times the largest standard
deviation seen of the logarithm of a plan's value over the winner's, errors that both share cancelling out; at
least ``LAYOUTS`` other layouts and at most ``MOST`` plans. What is left out would need a larger spread than any
plan drawn, at three times its standard deviation.

Overthrow. One number at a time is halved and doubled for all plans alike, and where the winner's layout then
loses to another, bisection finds the factor. The best plan of each of the ``MOST`` best layouts takes part.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.binding import binding_of
from planner.ranking import PlanResult, rank
from profiles.engine import EngineProfile
from profiles.moved import Moved, MovedOperations, Noise, with_operations
from profiles.ops import FloatArray
from profiles.uncertainty import P90, Spread, spreads
from simulator.engine import simulate

if TYPE_CHECKING:
    from planner.pipeline import Answer, Candidate, Evaluator

MOST = 8
"""Plans, or layouts, that are simulated again beside the winner."""

LAYOUTS = 2
"""Other layouts that are drawn, however far behind, so that there is a spread to go by."""

REACH = 3.0
"""Standard deviations."""

LARGEST_SIGMA = math.log(2)
"""Of a constant of the engine: a share of the time too small to show in any error is not unknown without end."""

HOST = ("iteration_s", "sequence_s", "prefill_s")

FACTORS = (0.5, 2.0)
"""Between which a number is moved to see whether it overthrows the winner."""

CLOSE = 1.01
"""Factors that bisection tells apart."""

SAME = 1e-9
"""Relative difference of values that are the same but for rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """Spread of a constant of the engine, and the words that say where it comes from."""

    name: str
    sigma: float
    source: str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Stability:
    """What came of the draws and of the single numbers.

    Parameters
    ----------
    draws, seed
        How many, and which.
    wins, layout_wins
        Draws that the plan wins, ties included; draws that some plan of its layout wins.
    others
        (plan, draws) of the plans that win instead, most first.
    none_holds
        Draws in which no plan meets the SLOs.
    low, high
        The 5th and the 95th percentile of the winner's objective.
    contenders, left_out
        Plans simulated in every draw besides; feasible plans left out.
    reach, nearest
        By which share of the winner's value a plan may be behind to be within reach; and by which the nearest of
        those left out is behind at least (0 where none is).
    spreads, constants
        What the errors are drawn from.
    overthrows
        By number, the nearest factor first; ``layouts`` of them took part.
    """

    draws: int
    seed: int
    wins: int
    layout_wins: int
    others: tuple[tuple[str, int], ...]
    none_holds: int
    low: float
    high: float
    contenders: tuple[str, ...]
    left_out: int
    reach: float
    nearest: float
    spreads: tuple[Spread, ...]
    constants: tuple[Constant, ...]
    overthrows: tuple[Overthrow, ...]
    layouts: int


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


def stability(
    evaluator: "Evaluator", candidates: Sequence["Candidate"], answer: "Answer", *, draws: int,
    workers: int = 1, progress: Callable[[str], None] = lambda text: None,
) -> Stability:  # fmt: skip
    """Whether ``answer.results[0]``, which holds, stays the best of the candidates.

    Parameters
    ----------
    draws
        >= 1.
    workers
        Threads that simulate; they change nothing but the time it takes.
    """
    from joblib import Parallel, delayed

    winner = evaluator.candidate(answer.results[0], candidates)
    again = Redrawn(evaluator)
    seed = evaluator.question.seed
    spread = _spreads(evaluator)
    constants = _constants(evaluator, winner, answer.results[0])
    profiles = [_drawn(spread, constants, seed, draw) for draw in range(draws)]
    parallel = Parallel(n_jobs=workers, prefer="threads")

    def all_draws(plans: Sequence["Candidate"]) -> list[list[PlanResult]]:
        made: list[list[PlanResult]] = parallel(delayed(again.results)(plans, moved) for moved in profiles)
        return made

    progress(f"{draws} draws of the winner")
    own = [results[0] for results in all_draws([winner])]
    values = np.array([result.value for result in own])
    near = _Near(evaluator, candidates, answer, winner)
    rivals: list[Candidate] = []
    beside: list[list[PlanResult]] = [[] for _ in profiles]
    widest = 0.0
    while (rival := near.nearest(widest)) is not None:
        progress(f"{draws} draws of {rival.plan.label}, {near.behind_of(rival) - 1:.1%} behind")
        drawn = [results[0] for results in all_draws([rival])]
        rivals.append(rival)
        for results, result in zip(beside, drawn, strict=True):
            results.append(result)
        widest = max(widest, _spread_of(np.array([result.value for result in drawn]) / values))
    score = evaluator.objective.score
    wins = layout_wins = none_holds = 0
    others: Counter[str] = Counter()
    for mine, theirs in zip(own, beside, strict=True):
        best = rank([mine, *theirs], evaluator.objective)[0]
        if not best.acceptable:
            none_holds += 1
        elif mine.acceptable and score(mine.value) <= score(best.value) + SAME * abs(best.value):
            wins += 1
            layout_wins += 1
        else:
            layout_wins += best.plan.label == winner.plan.label
            others[name_of(best)] += 1
    layouts = near.layouts()
    again.results(
        layouts, Moved(factors=(("stream", 1.0),))
    )  # moves nothing, and shows which families they use
    overthrows = _overthrows(
        again, winner, layouts, evaluator.compilers[winner.pool].engine, parallel, progress
    )
    return Stability(
        draws=draws, seed=seed, wins=wins, layout_wins=layout_wins, others=tuple(others.most_common()),
        none_holds=none_holds, low=float(np.percentile(values, 5)), high=float(np.percentile(values, 95)),
        contenders=tuple(c.plan.label for c in rivals), left_out=len(near.left),
        reach=math.expm1(REACH * widest), nearest=near.next_behind - 1,
        spreads=tuple(s for s in spread if s.family in again.used), constants=constants,
        overthrows=overthrows, layouts=len(layouts),
    )  # fmt: skip


def name_of(result: PlanResult) -> str:
    """The plan and the setting that most often tells two of one layout apart."""
    return f"{result.plan.label} budget={result.plan.engine.token_budget}"


def _spreads(evaluator: "Evaluator") -> tuple[Spread, ...]:
    """Of the devices of all pools, the widest of each family where they differ."""
    widest: dict[tuple[str, str], Spread] = {}
    for pool in evaluator.question.fleet.pools:
        for each in spreads(pool.device):
            key = each.family, each.form
            old = widest.get(key, each)
            sigma = tuple(map(max, old.sigma, each.sigma))
            widest[key] = Spread(family=each.family, form=each.form, sigma=sigma)  # type: ignore[arg-type]
    return tuple(widest.values())


def _constants(evaluator: "Evaluator", winner: "Candidate", result: PlanResult) -> tuple[Constant, ...]:
    """Constants of the engine that are not 0, with what they may be off by.

    All of an engine's error on servers left out of its fit is laid on its constants: iterations and sequences
    explain that of ITL, prompts that of TTFT.
    """
    engine = evaluator.compilers[winner.pool].engine
    shares = binding_of(evaluator, winner)
    host = shares.seconds["host overhead"] / (sum(shares.seconds.values()) or 1.0)
    inside = (result.metrics["ttft_mean_s"] or 0.0) - result.wait_s
    found = []
    for name in HOST:
        value = getattr(engine, name)
        if not value:
            continue
        metric = "ttft" if name == "prefill_s" else "itl"
        share = min(1.0, value / inside) if name == "prefill_s" and inside > 0 else host
        off, words = _error(engine, metric)
        sigma = min(LARGEST_SIGMA, off / share) if share > 0 else LARGEST_SIGMA
        source = f"{words}, over its share of {share:.0%}"
        if sigma == LARGEST_SIGMA:
            source += "; at most a factor of 2"
        found.append(Constant(name=name, sigma=sigma, source=source))
    return tuple(found)


def _error(engine: EngineProfile, metric: str) -> tuple[float, str]:
    """Standard deviation of the relative error of a metric on measured servers, and where it is from."""
    residual = engine.residuals.get(metric)
    if residual is not None:
        off = max(abs(math.log1p(residual.low)), abs(math.log1p(residual.high))) / P90
        words = f"{metric.upper()} off by {residual.low:+.0%} to {residual.high:+.0%}"
        return off, f"{words} on servers left out of its fit (docs/fidelity.md)"
    worst = engine.worst.get(metric)
    if worst is None:
        return LARGEST_SIGMA, f"no error of {metric.upper()} is known"
    return worst / P90, f"{metric.upper()} off by {worst:.1%} at worst (docs/fidelity.md)"


def _drawn(spread: tuple[Spread, ...], constants: tuple[Constant, ...], seed: int, draw: int) -> Moved:
    """The profile of one draw."""
    sigma = tuple(((each.family, each.form), each.sigma) for each in spread)
    noise = Noise(sigma=sigma, seed=seed, draw=draw)
    factors = tuple((c.name, math.exp(c.sigma * float(noise.normal(c.name)[0]))) for c in constants)
    return Moved(factors=factors, noise=noise)


def _spread_of(ratios: FloatArray) -> float:
    """Standard deviation of the logarithm of those that have one."""
    known = ratios[np.isfinite(ratios) & (ratios > 0)]
    return float(np.log(known).std()) if len(known) else 0.0


class _Near:
    """Plans by how far they are behind the winner: simulated ones by their value, others by their bound until
    they are simulated. ``left``: those that were not taken."""

    def __init__(
        self, evaluator: "Evaluator", candidates: Sequence["Candidate"], answer: "Answer", winner: "Candidate"
    ) -> None:
        self.evaluator, self.best, self.winner = evaluator, answer.results[0], winner
        pools = [pool.name for pool in evaluator.question.fleet.pools]
        values = {(r.plan, r.pool): r.value for r in answer.results}
        self.known = [values.get((c.plan, pools[c.pool])) for c in candidates]
        self.candidates = candidates
        self.left = {i for i, c in enumerate(candidates) if c != winner}
        self.layouts_taken: set[tuple[str, int]] = set()
        self.taken = 0

    def behind(self, i: int) -> float:
        """Ratio of a plan's value to the winner's, above 1 where it is worse; of its bound where that is all."""
        value = self.known[i]
        if value is None:
            value = self.evaluator.objective_bound(self.candidates[i]).value
        best, goal = self.best.value, self.evaluator.objective
        if not math.isfinite(value):
            return math.inf if not goal.maximize else 1.0
        worse, better = (best, value) if goal.maximize else (value, best)
        return worse / better if better else math.inf

    def behind_of(self, candidate: "Candidate") -> float:
        return self.behind(self.candidates.index(candidate))

    @property
    def next_behind(self) -> float:
        """Of the nearest plan left; 1 where none is."""
        return min(map(self.behind, self.left), default=1.0)

    def nearest(self, spread: float) -> "Candidate | None":
        """The next plan to draw, None where there is none within reach, or enough were drawn."""
        while self.left and self.taken < MOST:
            i = min(self.left, key=lambda i: (self.behind(i), i))
            near = math.log(max(self.behind(i), 1.0)) <= REACH * spread
            if not near and len(self.layouts_taken) >= LAYOUTS:
                return None
            if self.known[i] is None:
                self.known[i] = self.evaluator.simulated(self.candidates[i])[2].value
                continue
            self.left.remove(i)
            self.taken += 1
            if (layout := self._layout(i)) != (self.winner.plan.label, self.winner.pool):
                self.layouts_taken.add(layout)
            return self.candidates[i]
        return None

    def _layout(self, i: int) -> tuple[str, int]:
        return self.candidates[i].plan.label, self.candidates[i].pool

    def layouts(self) -> list["Candidate"]:
        """The winner, and the best plan of each of the ``MOST`` best other layouts."""
        found = {(self.winner.plan.label, self.winner.pool): self.winner}
        for i in sorted(range(len(self.candidates)), key=lambda i: (self.behind(i), i)):
            if len(found) <= MOST:
                found.setdefault(self._layout(i), self.candidates[i])
        return list(found.values())


def _overthrows(
    again: Redrawn, winner: "Candidate", layouts: list["Candidate"], engine: EngineProfile, parallel: object,
    progress: Callable[[str], None],
) -> tuple[Overthrow, ...]:  # fmt: skip
    from joblib import delayed

    objective = again.evaluator.objective

    def loses(number: str, factor: float) -> str:
        """Which layout wins with one number moved; empty where the winner's does."""
        results = again.results(layouts, Moved(factors=((number, factor),)))
        best = rank(results, objective)[0]
        mine = results[0]
        tie = mine.acceptable and objective.score(mine.value) <= objective.score(best.value) + SAME * abs(
            best.value
        )
        return "" if tie or not best.acceptable else best.plan.label

    def end(number: str, factor: float) -> tuple[float | None, str]:
        beaten = loses(number, factor)
        if not beaten:
            return None, ""
        holds, fails = 1.0, factor
        while max(holds, fails) / min(holds, fails) > CLOSE:
            middle = math.sqrt(holds * fails)
            now = loses(number, middle)
            if now:
                fails, beaten = middle, now
            else:
                holds = middle
        return fails, beaten

    numbers = [*(name for name in HOST if getattr(engine, name)), *sorted(again.used)]
    progress(f"{len(numbers)} numbers of the profile, one at a time, on {len(layouts)} layouts")
    asked = [(number, factor) for number in numbers for factor in FACTORS]
    ends = parallel(delayed(end)(*pair) for pair in asked) if len(layouts) > 1 else [(None, "")] * len(asked)  # type: ignore[operator]
    by = dict(zip(asked, ends, strict=True))
    found = [
        Overthrow(
            number=number,
            below=by[number, FACTORS[0]][0],
            below_winner=by[number, FACTORS[0]][1],
            above=by[number, FACTORS[1]][0],
            above_winner=by[number, FACTORS[1]][1],
        )
        for number in numbers
    ]
    return tuple(sorted(found, key=lambda each: (each.nearest, each.number)))
