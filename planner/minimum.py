"""The least that serves a trace within its SLOs: fewest devices, lowest price per hour, lowest mean power.

Theorem. Plans are taken by what they take at least: devices and price are known before any simulation, mean
power is at least what idle devices draw. ``planner.verify`` stops when the next plan takes no less than the
best that holds; then every plan that takes less was proven unable to meet the SLOs, or was simulated and
does not (or takes more after all).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from planner.bar import simulated
from planner.errors import NoFeasiblePlan
from planner.pipeline import (
    Answer,
    Candidate,
    Evaluator,
    answer_of,
    bound_name,
    candidates_of,
    fitted,
    optimize,
)
from planner.printable import quantity as quantity_text
from planner.question import Question
from planner.ranking import PlanResult, rank
from planner.shares import SAFE
from planner.store import Store
from planner.verify import Bounded, Certificate, Verified, verify
from profiles.errors import InputError, nearest

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """What is minimized. ``exact``: known of a plan without simulation."""

    name: str
    words: str
    unit: str
    exact: bool = True


QUANTITIES = {
    q.name: q
    for q in (
        Quantity(name="gpus", words="fewest GPUs", unit="GPUs"),
        Quantity(name="cost", words="lowest cost", unit="USD/hour"),
        Quantity(name="power", words="lowest mean power", unit="W", exact=False),
    )
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Feasible plans that may take less than the least found, by what they take at least (``takes``): how many
    no scheduler gets within the SLOs (``hopeless``), how many were simulated and do not hold (``failed``), or
    hold but take more after all (``more``), how many are open. ``nearest`` says what the one nearest to the SLOs
    lacks."""

    takes: float
    feasible: int
    hopeless: int
    failed: int
    more: int
    unexamined: int
    nearest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimum:
    """``least`` is what the plan found takes, None where none holds; no plan that holds takes less than
    ``proven`` (None where none can hold). ``answer``: the best plan, by the question's objective, of those
    that take ``least``; the nearest where none holds. ``unfit``: why even fewer devices have no plan."""

    quantity: Quantity
    least: float | None
    proven: float | None
    certificate: Certificate
    below: list[Step]
    unfit: str
    answer: Answer

    def to_frame(self) -> "pd.DataFrame":
        """A table of pandas, see ``planner.frames``."""
        from planner.frames import minimum_frame

        return minimum_frame(self)


def minimum(
    question: Question, of: str = "gpus", *, max_simulations: int | None = None,
    time_limit_s: float | None = None, workers: int = 1, tables: Path | None = None, silicon: bool = True,
    store: Store | None = None, progress: Callable[[str], None] = lambda text: None,
) -> Minimum:  # fmt: skip
    """The least of a quantity (``gpus``, ``cost``, ``power``) with which some plan of the fleet holds.

    Limits cut the search for the least short; the plans that take it are then compared to the end.

    Raises
    ------
    InputError
        When the quantity is unknown, a pool has no price, or all devices are to be used.
    NoFeasiblePlan
        When not even the whole fleet has a plan.
    """
    quantity = _quantity(question, of)
    store = Store() if store is None else store
    asked, notes = fitted(question)
    evaluator = Evaluator(asked, tables=tables, silicon=silicon, store=store)
    candidates = candidates_of(asked, store)
    progress(f"{len(candidates)} feasible plans; bounding")
    by_objective = sorted(map(evaluator.bounded, candidates), key=lambda b: b.bound)
    plans = [replace(b, bound=_takes(quantity, evaluator, b.item)) for b in by_objective]

    def simulate(candidate: Candidate) -> tuple[float, bool, PlanResult]:
        _, holds, result = evaluator.simulated(candidate)
        taken = _takes(quantity, evaluator, candidate)
        return taken if quantity.exact else result.metrics["mean_power_w"] or taken, holds, result

    done, certificate = verify(
        plans, simulate, max_simulations=max_simulations, time_limit_s=time_limit_s, workers=workers,
        progress=lambda n, left: progress(simulated(n, left)),
    )  # fmt: skip
    least = certificate.best
    if least is None:
        answer = optimize(
            question, max_simulations=max_simulations, time_limit_s=time_limit_s, workers=workers,
            tables=tables, silicon=silicon, store=store,
        )  # fmt: skip
    else:
        tier = (
            [b for b in by_objective if _takes(quantity, evaluator, b.item) == least]
            if quantity.exact
            else [b for b in by_objective if any(v.item is b.item and v.score == least for v in done)]
        )
        found, own = verify(tier, evaluator.simulated, workers=workers)
        results = rank([v.result for v in found], evaluator.objective)
        answer = replace(answer_of(asked, evaluator, results, own, notes), among="those")
    return Minimum(
        quantity=quantity,
        least=least,
        proven=certificate.proven,
        certificate=certificate,
        below=_below(plans, done, least, quantity, evaluator),
        unfit=_unfit(asked, candidates, store) if of == "gpus" else "",
        answer=answer,
    )


def _quantity(question: Question, of: str) -> Quantity:
    if of not in QUANTITIES:
        raise InputError(f"minimum of {of!r}: {nearest(of, QUANTITIES)}")
    unpriced = [p.name for p in question.fleet.pools if p.price_usd_per_device_hour is None]
    if of == "cost" and unpriced:
        raise InputError(
            f"the lowest cost needs a price, {unpriced[0]} has none: give price_usd_per_device_hour in --fleet"
        )
    if question.use_all_devices:
        raise InputError(
            "use_all_devices leaves no fewer devices to look for (--use-all-devices)",
            about=["use_all_devices"],
        )
    return QUANTITIES[of]


def _takes(quantity: Quantity, evaluator: Evaluator, candidate: Candidate) -> float:
    """What a plan takes, or at least takes."""
    plan = candidate.plan
    if quantity.name == "gpus":
        return float(plan.devices)
    if quantity.name == "cost":
        price = evaluator.question.fleet.pools[candidate.pool].price_usd_per_device_hour
        assert price is not None, "_quantity refuses pools without a price"
        return price * plan.devices
    return evaluator.step(candidate).idle_w * plan.replicas * SAFE


def _below(
    plans: Sequence[Bounded[Candidate]],
    done: Sequence[Verified[Candidate, PlanResult]],
    least: float | None,
    quantity: Quantity,
    evaluator: Evaluator,
) -> list[Step]:
    """Plans that may take less than the least found, in steps; one step where what they take is no step."""
    found = {id(v.item): v for v in done}
    winners = {key for key, v in found.items() if v.meets_slos and v.score == least}
    rest = [p for p in plans if id(p.item) not in winners and (least is None or p.bound < least)]
    steps: dict[float, list[Bounded[Candidate]]] = {}
    for plan in rest:
        steps.setdefault(plan.bound if quantity.exact else 0.0, []).append(plan)
    made = []
    for _, group in sorted(steps.items()):
        tried = [found[id(p.item)] for p in group if id(p.item) in found]
        failed = [v for v in tried if not v.meets_slos]
        hopeless = [p for p in group if p.hopeless and id(p.item) not in found]
        made.append(
            Step(
                takes=min(p.bound for p in group),
                feasible=len(group),
                hopeless=len(hopeless),
                failed=len(failed),
                more=len(tried) - len(failed),
                unexamined=len(group) - len(hopeless) - len(tried),
                nearest=_nearest(failed, hopeless, evaluator),
            )
        )
    return made


def _nearest(
    failed: Sequence[Verified[Candidate, PlanResult]],
    hopeless: Sequence[Bounded[Candidate]],
    evaluator: Evaluator,
) -> str:
    """What the plan lacks that is nearest to the SLOs: of the simulated ones, else of those excluded."""
    misses = []
    for v in failed:
        broken = [(s.value / s.limit, f"{v.item.plan.label} breaks {s.text}: {quantity_text(s.value, s.unit)}")
                  for s in v.result.slos if not s.met]  # fmt: skip
        lost = v.result.metrics["rejected"] or 0
        misses.append(max(broken, default=(lost, f"{v.item.plan.label} rejects {lost:.0f} requests")))
    if misses:
        return min(misses)[1]
    for b in hopeless:
        values = [
            (evaluator.bound(b.item, name).value, slo)
            for slo in evaluator.question.slos
            if (name := bound_name(slo))
        ]
        ratio, value, slo = max(
            ((value / slo.limit, value, slo) for value, slo in values), key=lambda miss: miss[0]
        )
        words = f"no scheduler of {b.item.plan.label} gets {slo.name} below {quantity_text(value, slo.unit)}"
        misses.append((ratio, words))
    return min(misses)[1] if misses else ""


def _unfit(question: Question, candidates: Sequence[Candidate], store: Store) -> str:
    """Why fewer devices than the smallest plan has do not do, in the words of ``planner.reasons``."""
    from profiles.fleet import Fleet

    fewer = min(c.plan.devices for c in candidates) - 1
    if len(question.fleet.pools) > 1 or fewer < 1:
        return ""
    pool = question.fleet.pools[0]
    free, left = [], fewer
    for room in sorted(pool.free, reverse=True):
        free.append(min(room, left))
        left -= free[-1]
    smaller = Fleet(pools=(replace(pool, free=tuple(free)),))
    try:
        candidates_of(replace(question, fleet=smaller), store, ways_out=False)
    except NoFeasiblePlan as error:
        return str(error)
    return ""
