"""Lower bounds on what a plan can achieve on a trace, valid for every batching policy.

What every policy of ``simulator.batching`` obeys, whatever it chunks, mixes, stalls or preempts:

F1  Token k of a request ends one iteration: the one that completes its prompt (k = 1), or a decode that
    reads c = prompt + k - 1 tokens, or, after a preemption, the end of a recomputation of c tokens. The
    iterations of a request do not overlap, and each passes all stages.
F2  During that iteration the request holds KV for c tokens; a rank holds M = kv_blocks * block_size.
F3  An iteration has at most N new tokens and max_seqs sequences per rank.
F4  A stage works on one iteration at a time.

So each token (an *event*) needs time of its own, bounded from below by F1 and the cost tables
(``planner.alone``), and each iteration can be paid for by its events
(``planner.shares``). ``formulations.relaxations`` turns both into bounds for the trace. ``docs/bounds.md``
has the proofs in one piece.

A bound speaks of outcomes in which every request of the trace is served. Its objectives are those of
``simulator.metrics``, with the makespan counted from the first arrival to the last token:

latency, ttft   mean over requests of last, first token - arrival, seconds
tpot            mean over requests with more than one token of (last - first) / (tokens - 1), seconds
itl             mean over all gaps between tokens, seconds
p99-e2e, ...    percentile of a request metric (e2e, ttft, tpot), as ``numpy.percentile``, seconds
makespan        seconds
throughput      output tokens / makespan; the bound is an upper one
goodput         requests within their SLO / makespan; upper
energy          joules: idle power * (time from 0 to the last token) + what iterations draw above it
power           mean watts from 0 to the last token: no less than idle devices draw
cost            dollars: price per device second * devices * makespan
"""

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from formulations import relaxations as rx
from formulations.hulls import FloatArray, IntArray
from planner.alone import Alone
from planner.energy import least_energy_j
from planner.machines import Machines
from planner.priced import Pricing, prices_of
from planner.shares import SAFE, Limits, TraceStats
from profiles.plan import Plan
from profiles.stepcost import PS, StepCost
from traces.trace import Trace

OBJECTIVES = ("latency", "ttft", "tpot", "itl", "makespan", "throughput", "energy", "goodput", "cost")
"""Besides percentiles: ``p99-e2e``, ``p50-ttft``, ..., and ``power``, which limits and no question optimizes."""

PRICED = "prices of time, memory and places"
"""Relaxation that looks for prices: seconds where the others take milliseconds."""

PRICEABLE = {"latency": (1.0, 1.0), "ttft": (1.0, 0.0)}
"""Objectives that it bounds, with what a second costs before a request's first token and after it."""

TRADES = (0.1, 0.3, 1.0, 3.0)
"""Seconds of mean TTFT that a second of mean E2E is worth, in the joint bound."""

MAXIMIZED = ("throughput", "goodput")
"""Objectives whose bound is an upper one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanBound:
    """No scheduler serves the trace with this plan better than ``value``.

    ``name`` says which relaxation proves it, ``others`` what each of them proves. ``prices``: those that prove the
    relaxation ``PRICED`` (``Priced.record``), with which ``PlanBounds.at_prices`` proves it again in one pass.
    """

    objective: str
    value: float
    name: str
    others: dict[str, float] = field(default_factory=dict)
    prices: dict[str, Any] | None = None


class PlanBounds:
    """All bounds of one plan on one trace; each part is computed when first asked for.

    Parameters
    ----------
    step
        Cost tables of one replica of ``plan``; they must cover the trace.
    stats
        ``TraceStats(trace)``, shared between plans.

    Raises
    ------
    ValueError
        When the tables end before the longest sequence of the trace.
    """

    def __init__(self, step: StepCost, plan: Plan, stats: TraceStats) -> None:
        self.step, self.plan, self.stats = step, plan, stats
        budget = plan.engine.token_budget
        self.cuts = plan.engine.chunks_prefill and step.chunkable
        self.limits = Limits(
            ranks=step.ranks,
            kv=max(step.kv_blocks * plan.engine.block_size, stats.longest),
            tokens=min(step.max_tokens, budget) if self.cuts else step.max_tokens,
            sequences=min(plan.engine.max_seqs, step.max_seqs),
        )
        self.alone = Alone(step, self.limits, stats)
        self.machines = Machines(step, self.limits, stats, self.alone)

    @cached_property
    def _prefixes_ps(self) -> dict[str, FloatArray]:
        """[k] earliest time of the last token of requests 0 to k by relaxation."""
        return self.machines.ends_ps(self.plan.replicas)

    @cached_property
    def _ends_ps(self) -> dict[str, int]:
        """Earliest time of the last token by relaxation."""
        return {name: int(ends[-1]) for name, ends in self._prefixes_ps.items()}

    @cached_property
    def makespans_s(self) -> dict[str, float]:
        """Least time from the first arrival to the last token by relaxation, seconds."""
        first = int(self.stats.arrival[0])
        return {name: (end - first) * SAFE / PS for name, end in self._ends_ps.items()}

    @cached_property
    def latency_s(self) -> dict[str, float]:
        """Least mean time from arrival to last token by relaxation, seconds."""
        result = self._flows_s(prompts=False)
        last = int(self.stats.arrival[-1])
        until = np.unique([last, max(self._ends_ps.values())])
        priced = self.machines.priced_flow_ps(self.plan.replicas, until)
        return result | {"priced machine time": priced * SAFE / len(self.stats) / PS}

    @cached_property
    def ttft_s(self) -> dict[str, float]:
        """Least mean time from arrival to first token by relaxation, seconds."""
        return self._flows_s(prompts=True)

    def _flows_s(self, *, prompts: bool) -> dict[str, float]:
        stats, n, replicas = self.stats, len(self.stats), self.plan.replicas
        result = {"unloaded": float((self.alone.ttft_ps if prompts else self.alone.e2e_ps).mean())}
        jobs = [(m, m.prompts if prompts else m.work) for m in self.machines.all]
        jobs.sort(key=lambda job: -job[1].sum(dtype=float))
        most = jobs[0][1].sum(dtype=float)
        jobs = [job for job in jobs if job[1].sum(dtype=float) >= most / 2]  # less work proves less
        for machine, work in jobs[:3]:
            flow = rx.srpt_flow(stats.arrival + machine.lead, work // replicas)
            result[f"{machine.name}, shortest remaining first"] = flow / n + machine.lead + machine.tail
        busiest = next((machine.stage for machine, _ in jobs if machine.shares), None)
        for machine, work in jobs:
            if machine.stage == busiest:
                busy = rx.mean_busy_flow(stats.arrival + machine.lead, work // replicas)
                lag = self.machines.lag_ps(machine, work, prompts)
                result[f"{machine.name}, mean busy time"] = (busy + lag) / n + machine.lead
        return {name: value * SAFE / PS for name, value in result.items()}

    @cached_property
    def energy_j(self) -> dict[str, float]:
        """Least joules by relaxation."""
        return least_energy_j(
            self.step, self.limits, self.stats,
            replicas=self.plan.replicas, end_ps=max(self._ends_ps.values()),
            flights=self.machines.flights(self.plan.replicas, np.maximum.reduce([*self._prefixes_ps.values()])),
            swaps=self.plan.engine.preemption == "swap",
            cuts=self.cuts, block_size=self.plan.engine.block_size,
        )  # fmt: skip

    def percentile_s(self, metric: str, q: float) -> dict[str, float]:
        """Least percentile ``q`` of ``ttft``, ``tpot`` or ``e2e`` over the requests that have it, seconds.

        Proof: smaller values have smaller quantiles. Besides, a percentile is at least the order statistic
        below it, and ``relaxations.late_value`` bounds what so many requests can all stay within.
        """
        alone = self.alone.metric_s(metric)
        result = {"unloaded": float(np.percentile(alone, q)) * SAFE if len(alone) else 0.0}
        if metric != "tpot":
            on_time = int(q / 100 * (len(alone) - 1) * SAFE)
            for machine in self.machines.all:
                work = machine.prompts if metric == "ttft" else machine.work
                value = rx.late_value(self.stats.arrival, work, self.plan.replicas, on_time)
                least = max(0.0, value) + machine.lead + machine.tail
                result[f"{machine.name}, most requests on time"] = least * SAFE / PS
        return result

    # ------------------------------------------------------------ prices

    @cached_property
    def pricing(self) -> Pricing:
        """The trace as a problem with prices."""
        return Pricing(self.machines, self.plan.replicas, end_ps=max(self._ends_ps.values()))

    def priced(self, objective: str) -> PlanBound:
        """The best bound on one of ``PRICEABLE``, prices of time, memory and places included: what ``bound`` says,
        or more."""
        before, after = PRICEABLE[objective]
        best = self.pricing.best(before, after)
        values = self._values(objective, {}, 0.0) | {PRICED: best.value_ps / len(self.stats) / PS}
        name = max(values, key=values.__getitem__)
        return PlanBound(
            objective=objective, value=values[name], name=name, others=values, prices=best.record()
        )

    def at_prices(self, objective: str, record: Mapping[str, Any]) -> float:
        """What prices prove of one of ``PRICEABLE``, in seconds: one pass over the requests, whoever found them."""
        prices, pace = prices_of(dict(record))
        return self.pricing.evaluate(prices, pace, *PRICEABLE[objective]) / len(self.stats) / PS

    def ttft_within(self, e2e_s: Iterable[float]) -> list[tuple[float, float]]:
        """For each limit: no scheduler has a lower mean TTFT while its mean E2E is within the limit, seconds.

        Alone TTFT is bounded loosely under load: a scheduler that never decodes would reach it. Proof: for any w >= 0
        let B(w) bound the mean of TTFT + w E2E. Then TTFT >= B(w) - w E2E >= B(w) - w limit. Infinite where a limit
        is below what E2E can be.
        """
        latency, ttft = self.bound("latency").value, self.bound("ttft").value
        joint = [(0.0, ttft)]
        for w in TRADES:
            best = self.pricing.best(1.0 + w, w, effort=0.4)
            joint.append((w, max(best.value_ps / len(self.stats) / PS, ttft + w * latency)))
        return [
            (limit, max(least - w * limit for w, least in joint) if limit >= latency else math.inf)
            for limit in e2e_s
        ]

    # ------------------------------------------------------------ other arrivals

    def at(self, arrival: IntArray) -> "PlanBounds":
        """Of the same requests, arriving at other times (picoseconds, not decreasing). What no arrival changes
        is shared: times alone and the work of machines follow from lengths."""
        _ = self.machines.all, self.machines.chained
        other = copy(self)
        for name in ("_prefixes_ps", "_ends_ps", "makespans_s", "latency_s", "ttft_s", "energy_j", "pricing"):
            other.__dict__.pop(name, None)
        other.stats, other.machines = copy(self.stats), copy(self.machines)
        other.stats.arrival = arrival
        other.machines.stats = other.stats
        return other

    def hurried(self, objective: str) -> PlanBound:
        """A bound on ``latency``, ``ttft``, ``tpot``, ``itl`` or a percentile that holds when the same requests
        arrive at these times or with any gaps shorter.

        Proof: the relaxations taken are times alone, which know no arrivals; preemptive problems of one machine
        in which longer gaps delay no job (docs/bounds.md, "Faster arrivals"); and ``late_value``, which falls
        with every gap. Left out is the price of machine time, whose horizon moves with the arrivals.
        """
        flows = {"latency": False, "ttft": True}
        if objective in flows:
            values = self._flows_s(prompts=flows[objective])
        else:
            values = self._values(objective, {}, 0.0)
        name = max(values, key=values.__getitem__)
        return PlanBound(objective=objective, value=values[name], name=name, others=values)

    # ------------------------------------------------------------ objectives

    def bound(
        self, objective: str, *, slo_s: Mapping[str, float] | None = None, device_usd_per_s: float = 0.0
    ) -> PlanBound:
        """The best bound on ``objective``; see ``plan_bound``."""
        upper = objective in MAXIMIZED
        values = self._values(objective, slo_s or {}, device_usd_per_s)
        name = (min if upper else max)(values, key=values.__getitem__)
        return PlanBound(objective=objective, value=values[name], name=name, others=values)

    def _values(
        self, objective: str, slo_s: Mapping[str, float], device_usd_per_s: float
    ) -> dict[str, float]:
        stats = self.stats
        if objective == "latency":
            return self.latency_s
        if objective == "ttft":
            return self.ttft_s
        if objective == "itl":
            return {"unloaded": self.alone.decoding_ps.sum(dtype=float) / max(1, stats.decodes) * SAFE / PS}
        if objective == "makespan":
            return self.makespans_s
        if objective == "energy":
            return self.energy_j
        if objective == "power":
            return {"idle devices": self.step.idle_w * self.plan.replicas * SAFE}
        if objective == "cost":
            rate = device_usd_per_s * self.plan.devices
            return {name: rate * seconds for name, seconds in self.makespans_s.items()}
        if objective in MAXIMIZED:
            served = stats.events if objective == "throughput" else self._within(slo_s)
            return {name: served / max(s, 1 / PS) / SAFE for name, s in self.makespans_s.items()}
        if objective == "tpot":
            values = self.alone.metric_s("tpot")
            return {"unloaded": float(values.mean()) * SAFE if len(values) else 0.0}
        percentile = re.fullmatch(r"p(\d+(?:\.\d+)?)-(ttft|tpot|e2e)", objective)
        if percentile is None:
            raise ValueError(f"Unknown objective {objective!r}.")
        return self.percentile_s(percentile[2], float(percentile[1]))

    def _within(self, slo_s: Mapping[str, float]) -> int:
        """Most requests that can be within every limit.

        Proof: one that is late when alone is always late. Of the others, no more can be on time than
        ``relaxations.late_value`` allows; it grows with their number, so bisection finds it.
        """
        stats = self.stats
        fine = np.ones(len(stats), bool)
        for metric, limit in slo_s.items():
            rows = stats.several if metric == "tpot" else slice(None)
            fine[rows] &= self.alone.metric_s(metric) * SAFE <= limit
        most = int(fine.sum())
        for metric in slo_s.keys() & {"ttft", "e2e"}:
            for machine in self.machines.all:
                work = (machine.prompts if metric == "ttft" else machine.work)[fine]
                limit_ps = slo_s[metric] * PS / SAFE - machine.lead - machine.tail

                def least(k: int, work: IntArray = work) -> float:
                    return rx.late_value(stats.arrival[fine], work, self.plan.replicas, k)

                most = min(most, bisect_right(range(len(work)), limit_ps, key=least))
        return most


def plan_bounds(
    step: StepCost, plan: Plan, trace: Trace | TraceStats, objectives: Iterable[str], *,
    slo_s: Mapping[str, float] | None = None, device_usd_per_s: float = 0.0,
) -> dict[str, PlanBound]:  # fmt: skip
    """Bounds of one plan on several objectives, what they share computed once.

    Parameters
    ----------
    objectives
        Of ``OBJECTIVES``, or a percentile such as ``p99-e2e``.
    slo_s
        For goodput: most seconds by request metric (``ttft``, ``tpot``, ``e2e``).
    device_usd_per_s
        For cost: price of one device second.
    """
    stats = trace if isinstance(trace, TraceStats) else TraceStats(trace)
    bounds = PlanBounds(step, plan, stats)
    return {o: bounds.bound(o, slo_s=slo_s, device_usd_per_s=device_usd_per_s) for o in objectives}


def plan_bound(
    step: StepCost, plan: Plan, trace: Trace | TraceStats, objective: str, *,
    slo_s: Mapping[str, float] | None = None, device_usd_per_s: float = 0.0,
) -> PlanBound:  # fmt: skip
    """Bound of one plan on one objective; arguments as in ``plan_bounds``."""
    return plan_bounds(
        step, plan, trace, (objective,), slo_s=slo_s, device_usd_per_s=device_usd_per_s
    )[objective]  # fmt: skip
