"""How stable the ranking is: does the winner still win when the profile is off by what it is known to be off?

Draws. In each, every operation and shape has an error of its own (``profiles.moved.Noise``, spreads of
``profiles.uncertainty``), and so has each constant of the engine; plans within reach are compiled and simulated
again. Errors of two shapes are independent: those that all plans share would leave the ranking as it is.

Within reach. Plans are taken by how far they are behind the winner (one that was never simulated by its bound,
until it is), and drawn again until the next one is behind by more than ``REACH`` times the largest standard
deviation seen of the logarithm of a plan's value over the winner's, errors that both share cancelling out; at
least ``LAYOUTS`` other layouts and at most ``MOST`` plans. What is left out would need a larger spread than any
plan drawn, at three times its standard deviation.

Overthrow (``planner.overthrow``): the best plan of each of the ``MOST`` best other layouts takes part.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.bar import Counted
from planner.binding import binding_of
from planner.nearest import Nearest
from planner.overthrow import HOST, Overthrow, overthrows
from planner.ranking import PlanResult
from planner.redrawn import Redrawn, winner_of
from profiles.engine import EngineProfile
from profiles.moved import Moved, Noise
from profiles.ops import FloatArray
from profiles.uncertainty import P90, Spread, spreads

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """Spread of a constant of the engine, and the words that say where it comes from."""

    name: str
    sigma: float
    source: str


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

    def all_draws(plan: "Candidate") -> list[PlanResult]:
        made = parallel(delayed(again.results)([plan], moved) for moved in profiles)
        return [results[0] for results in made]

    progress(f"{draws} draws of the winner")
    own = all_draws(winner)
    values = np.array([result.value for result in own])
    rows = [[result] for result in own]
    near = Nearest(evaluator, candidates, answer, winner)
    rivals: list[Candidate] = []
    layouts = {near.layout(winner)}
    widest = 0.0
    while len(rivals) < MOST and (i := near.peek()) is not None:
        if len(layouts) > LAYOUTS and math.log(max(near.behind(i), 1.0)) > REACH * widest:
            break
        rival = candidates[i]
        behind = f"{draws} draws of {rival.plan.label}, {near.behind(i) - 1:.1%} behind"
        progress(Counted(behind, len(rivals), MOST))
        drawn = all_draws(rival)
        for row, result in zip(rows, drawn, strict=True):
            row.append(result)
        near.left.remove(i)
        rivals.append(rival)
        layouts.add(near.layout(rival))
        widest = max(widest, _spread_of(np.array([result.value for result in drawn]) / values))
    first = near.layouts(MOST)
    overthrown = overthrows(again, first, workers=workers, progress=progress)
    bests = [winner_of(row, evaluator.objective) for row in rows]
    others = Counter(
        name_of(best) for best, row in zip(bests, rows, strict=True) if best and best is not row[0]
    )
    return Stability(
        draws=draws,
        seed=seed,
        wins=sum(best is row[0] for best, row in zip(bests, rows, strict=True)),
        layout_wins=sum(best is not None and best.plan.label == winner.plan.label for best in bests),
        others=tuple(others.most_common()),
        none_holds=sum(best is None for best in bests),
        low=float(np.percentile(values, 5)),
        high=float(np.percentile(values, 95)),
        contenders=tuple(name_of(row) for row in rows[0][1:]),
        left_out=len(near.left),
        reach=math.expm1(REACH * widest),
        nearest=near.next_behind - 1,
        spreads=tuple(s for s in spread if s.family in again.used),
        constants=constants,
        overthrows=overthrown,
        layouts=len(first),
    )


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
