"""Order simulated plans, find the Pareto set, and say why a plan lost."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.intervals import NONE, Intervals, doubt
from planner.objective import Objective
from planner.printable import quantity
from profiles.memory import Footprint
from profiles.plan import Plan

Metrics = dict[str, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SloResult:
    """One SLO of the question on one plan. ``value`` and ``limit`` in ``unit``: seconds, of power watts.

    ``key``: of the metric, as in ``PlanResult.intervals``.
    """

    key: str
    text: str
    value: float
    limit: float
    unit: str = "s"

    @property
    def met(self) -> bool:
        return self.value <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    """A simulated plan with all that is said of it.

    ``bound`` is in the objective's unit: no scheduler gets a better value out of this plan.
    ``placement`` names devices: per replica, per stage, (node, device indices).
    ``breakdown_s`` is busy time by cell and collective, summed over stages and replicas.
    ``memory`` is that of the fullest device.
    """

    plan: Plan
    pool: str
    device: str
    placement: tuple[tuple[tuple[tuple[int, tuple[int, ...]], ...], ...], ...]
    metrics: Metrics
    value: float
    bound: float
    bound_name: str
    slos: tuple[SloResult, ...]
    deployable: dict[str, str]
    breakdown_s: dict[str, float]
    provenance: dict[str, float]
    wait_s: float
    memory: Footprint
    intervals: Intervals = NONE

    def verdict(self, slo: SloResult) -> str:
        """Whether one of ``slos`` is met, and what is measured to doubt it."""
        return ("met" if slo.met else "NOT met") + self.doubt(slo)

    def doubt(self, slo: SloResult) -> str:
        """What the interval of one of ``slos`` says against its verdict, "" where nothing."""
        return doubt(slo.met, slo.limit, self.intervals.of.get(slo.key))

    @property
    def meets_slos(self) -> bool:
        return all(slo.met for slo in self.slos)

    @property
    def acceptable(self) -> bool:
        """Every request is served and every SLO met."""
        return self.meets_slos and not self.metrics["rejected"]

    @property
    def miss(self) -> tuple[float, float]:
        """How far it is from acceptable: requests rejected, then the worst ratio of an SLO to its limit."""
        return self.metrics["rejected"] or 0.0, max((s.value / s.limit for s in self.slos), default=0.0)


def rank(results: Sequence[PlanResult], objective: Objective) -> list[PlanResult]:
    """Plans that serve every request and meet every SLO first, then by objective; ties go to fewer devices,
    then to the name. Where no plan does, the nearest to it comes first."""
    none = not any(r.acceptable for r in results)
    return sorted(
        results,
        key=lambda r: (
            r.miss if none else (float(not r.acceptable), 0.0),
            objective.score(r.value),
            r.plan.devices,
            r.plan.label,
            r.plan.engine.token_budget,
            r.plan.engine.max_seqs,
        ),
    )


def worst_measured(best: PlanResult, objective: Objective) -> float | None:
    """The end of the interval of a result's value that is worse; None where its errors were not measured."""
    interval = best.intervals.of.get(objective.metric)
    if interval is not None:
        return max(interval.high, best.value)
    error = best.intervals.errors.get(objective.error_of or "")
    if error is None:
        return None
    share = 1 + min(error.low, 0.0)
    return best.value * share if objective.maximize else best.value / share


def rivals(results: Sequence[PlanResult], objective: Objective) -> list[PlanResult]:
    """Best results of the layouts whose value lies inside the interval of the first's: which of them is really best,
    measurements say."""
    best, seen = results[0], {results[0].plan.label}
    limit = worst_measured(best, objective)
    if limit is None:
        return []
    close = []
    for result in results[1:]:
        if result.acceptable and result.plan.label not in seen:
            seen.add(result.plan.label)
            if objective.score(result.value) < objective.score(limit):
                close.append(result)
    return close


def untried(
    results: Sequence[PlanResult], bounds: Iterable[tuple[str, float]], objective: Objective
) -> list[str]:
    """Layouts of which no plan was simulated and one is not proven to be outside the interval of the first result.

    ``bounds``: label and least score of plans that may meet every SLO.
    """
    limit = worst_measured(results[0], objective)
    seen = {result.plan.label for result in results}
    near = () if limit is None else (label for label, score in bounds if score < objective.score(limit))
    return [label for label in dict.fromkeys(near) if label not in seen]


def doubts(close: Sequence[str], open_: Sequence[str], source: str) -> str:
    """Which other layouts may be the best when measured; "" where none may.

    Examples
    --------
    >>> doubts([], ["tp=2", "tp=1", "pp=2", "dp=2"], "30 servers").split("; ")[0]
    'tp=2, tp=1, pp=2, ...: not simulated, perhaps inside the interval of the best plan (30 servers)'
    """
    inside = f"inside the interval of the best plan ({source})"
    words = [f"{_first(close)}: {inside}"] if close else []
    if open_:
        words.append(f"{_first(open_)}: not simulated, perhaps {'so too' if close else inside}")
    return "; ".join([*words, "measure before you rely on the order (docs/fidelity.md)"]) if words else ""


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def pareto(results: Sequence[PlanResult], metrics: Sequence[str]) -> list[int]:
    """Indices of results that no other one beats on all ``metrics`` (lower is better) at once.

    Of equal results the first counts. Metrics that a result lacks count as infinite.

    Examples
    --------
    >>> from types import SimpleNamespace as N
    >>> points = [N(metrics={"a": 1, "b": 5}), N(metrics={"a": 2, "b": 2}), N(metrics={"a": 2, "b": 6})]
    >>> pareto(points, ["a", "b"])
    [0, 1]
    """
    rows = []
    for result in results:
        values = (result.metrics.get(name) for name in metrics)
        rows.append(tuple(float("inf") if value is None else value for value in values))
    return [
        i
        for i, row in enumerate(rows)
        if not any(
            (all(x <= y for x, y in zip(other, row, strict=True)) and other != row)
            or (other == row and j < i)
            for j, other in enumerate(rows)
        )
    ]


def split_latency(result: PlanResult) -> dict[str, float]:
    """Mean E2E latency in seconds as waiting for the first iteration + prefill + decode."""
    ttft, e2e = result.metrics["ttft_mean_s"] or 0.0, result.metrics["e2e_mean_s"] or 0.0
    return {"waiting": result.wait_s, "prefill": ttft - result.wait_s, "decode": e2e - ttft}


def bottleneck(result: PlanResult) -> tuple[str, float]:
    """The cell or collective that takes the largest share of busy time, and that share."""
    total = sum(result.breakdown_s.values())
    if not total:
        return "nothing", 0.0
    name = max(result.breakdown_s, key=lambda part: result.breakdown_s[part])
    return name, result.breakdown_s[name] / total


def why_lost(loser: PlanResult, winner: PlanResult, objective: Objective) -> str:
    """One clause: which part of the latency, energy or price differs most, and what takes its time."""
    if loser.metrics["rejected"]:
        return f"rejects {loser.metrics['rejected']:.0f} requests that it cannot serve"
    if not loser.meets_slos:
        missed = next(slo for slo in loser.slos if not slo.met)
        return f"breaks {missed.text}: {quantity(missed.value, missed.unit)}"
    if objective.name in ("energy", "cost"):
        return (
            f"{loser.plan.devices} devices busy {1 - (loser.metrics['idle_share'] or 0):.0%} of the time, "
            f"winner {winner.plan.devices} at {1 - (winner.metrics['idle_share'] or 0):.0%}"
        )
    ours, best = split_latency(loser), split_latency(winner)
    part = max(ours, key=lambda name: ours[name] - best[name])
    name, share = bottleneck(loser)
    return f"{part} +{ours[part] - best[part]:.2f} s; {name} takes {share:.0%} of busy time"
