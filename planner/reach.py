"""How near the plans of a question get to SLOs that none of them meets, and which limits one would meet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from planner.axes import axis_of
from planner.question import Question
from planner.ranking import PlanResult
from planner.slo import Slo, parse_slo

MOST = 4
"""Relaxations in an answer."""

_AXES = ("weights", "activations", "kv", "policy", "budget", "seqs", "clock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """One SLO over all plans.

    Parameters
    ----------
    text
        The SLO as the user wrote it.
    value
        The best that was simulated, None where that is infinite.
    plan
        Which plan has it, in the words of ``--plan``.
    bound
        No scheduler of any feasible plan is below; None where nothing is known.
    unit
        Of value and bound: seconds, of power watts.
    """

    text: str
    value: float | None
    plan: str
    bound: float | None
    unit: str = "s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """What is said where no plan meets every SLO.

    ``relaxations``: SLOs that one simulated plan meets, each alone in place of those of the same metrics.
    """

    slos: tuple[Reach, ...]
    relaxations: tuple[str, ...]


def shortfall(question: Question, results: Sequence[PlanResult], bounds: Sequence[float | None]) -> Shortfall:
    """Of simulated plans, at least one, none of which meets every SLO.

    Parameters
    ----------
    results
        Nearest first (``planner.ranking``); ``slos`` in the order of the question.
    bounds
        For each SLO what no feasible plan gets below.
    """
    slos = []
    for i, slo in enumerate(question.slos):
        best = min(results, key=lambda r: r.slos[i].value)
        value = best.slos[i].value
        slos.append(
            Reach(
                text=slo.text,
                value=value if math.isfinite(value) else None,
                plan=name_of(question, best),
                bound=bounds[i],
                unit=slo.unit,
            )
        )
    return Shortfall(slos=tuple(slos), relaxations=tuple(_relaxations(question, results)))


def name_of(question: Question, result: PlanResult) -> str:
    """The plan in the words of ``--plan``, with every axis that is searched."""
    words = [result.plan.label]
    for axis in _AXES:
        if len(question.options(axis)) > 1:
            words.append(f"{axis}={axis_of(result.plan, axis)}")
    pool = f" on {result.pool}" if len(question.fleet.pools) > 1 else ""
    return " ".join(words) + pool


def _relaxations(question: Question, results: Sequence[PlanResult]) -> list[str]:
    """For each SLO the tightest limit with which some plan meets them all; else those of the nearest plan."""
    served = [r for r in results if not r.metrics["rejected"] and all(math.isfinite(s.value) for s in r.slos)]
    found = []
    for i, slo in enumerate(question.slos):
        others_met = [r for r in served if all(s.met for j, s in enumerate(r.slos) if j != i)]
        if others_met:
            best = min(others_met, key=lambda r: r.slos[i].value)
            found.append(f"{loosened(slo, best.slos[i].value)} ({name_of(question, best)})")
    if not found and served:
        broken = [
            loosened(slo, s.value) for slo, s in zip(question.slos, served[0].slos, strict=True) if not s.met
        ]
        found = [f"{' and '.join(broken)} ({name_of(question, served[0])})"]
    return found[:MOST]


def loosened(slo: Slo, value: float) -> str:
    """The SLO with a limit that ``value`` (seconds or watts) meets, rounded up to two digits.

    Examples
    --------
    >>> loosened(parse_slo("ttft_p99<=500ms"), 0.8312), loosened(parse_slo("e2e_mean<=2s"), 12.01)
    ('ttft_p99<=840ms', 'e2e_mean<=13s')
    """
    unit, scale = ("ms", 3) if slo.unit == "s" and value < 1 else (slo.unit, 0)
    exact = Decimal(value).scaleb(scale)
    step = Decimal(1).scaleb(exact.adjusted() - 1)
    limit = exact // step * step
    while True:
        text = f"{slo.name}<={limit:f}{unit}"
        if value <= parse_slo(text).limit:
            return text
        limit += step
