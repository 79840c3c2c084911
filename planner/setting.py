"""One plan on one trace, served by any scheduler and bounded for all of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from formulations.hulls import IntArray
from planner.bounds import MAXIMIZED, PRICEABLE, PRICED, PlanBound, PlanBounds
from planner.objective import OBJECTIVES, Objective
from planner.schedulers import MOST_WEIGHT, Contender
from planner.shares import TraceStats
from profiles.plan import EngineSettings, Plan, Policy
from profiles.stepcost import StepCost
from simulator import metrics, research
from simulator.engine import simulate
from simulator.outcome import Outcome
from traces.trace import Trace

BOUNDED: dict[str, Objective] = {
    "makespan": Objective(
        name="makespan", metric="makespan_s", unit="s", words="time from the first arrival to the last token"
    ),
    **{
        name: OBJECTIVES[name] for name in ("latency", "ttft", "tpot", "p99-e2e", "energy", "goodput")
    },
}  # fmt: skip
"""Objectives of a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is compared: a trace, and one plan with its cost tables for engines that chunk prompts and for those
    that do not (whose batches can hold a longer prompt). ``slo_s``: limits that goodput counts."""

    trace: Trace
    plan: Plan
    chunked: StepCost
    whole: StepCost
    slo_s: Mapping[str, float] = field(default_factory=dict)

    def step(self, engine: EngineSettings) -> StepCost:
        return self.chunked if engine.chunks_prefill else self.whole

    def simulate(self, engine: EngineSettings) -> Outcome:
        return simulate(self.trace, self.step(engine), engine, replicas=self.plan.replicas)

    def serve(self, contender: Contender, weight: IntArray | None = None) -> Outcome:
        """What a contender does. ``weight``: for those that order by it, see ``weights``."""
        rules = contender.rules
        if rules is None:
            return self.simulate(contender.engine)
        return research.simulate(
            self.trace, self.step(contender.engine), contender.engine, rules, replicas=self.plan.replicas,
            weight=weight if rules.order == "weight" else None,
        )  # fmt: skip

    def roomy(self, step: StepCost) -> StepCost:
        """With the memory of the kind that has more."""
        return replace(step, kv_blocks=max(self.chunked.kv_blocks, self.whole.kv_blocks))

    def bounds(self, *, swaps: bool) -> list[PlanBounds]:
        """Of schedulers that chunk prompts and of those that do not. ``swaps``: whether they may swap."""
        stats, found = TraceStats(self.trace), []
        tables: tuple[tuple[Policy, StepCost], ...] = (("vllm-v1", self.chunked), ("orca", self.whole))
        for policy, step in tables:
            engine = replace(
                self.plan.engine, policy=policy, queue="fcfs", preemption="swap" if swaps else "recompute"
            )
            found.append(PlanBounds(self.roomy(step), replace(self.plan, engine=engine), stats))
        return found

    def ttft_within(self, e2e_s: Sequence[float]) -> list[float]:
        """For each limit: no scheduler has a lower mean TTFT while its mean E2E is within the limit, seconds."""
        kinds = [each.ttft_within(e2e_s) for each in self.bounds(swaps=True)]
        return [min(least for _, least in pairs) for pairs in zip(*kinds, strict=True)]

    def bound(self, objective: str, *, swaps: bool, priced: bool = False) -> PlanBound:
        """What no scheduler of either kind beats: the weaker of the two bounds.

        ``swaps``: whether schedulers may swap, which one of the bounds on energy rules out. ``priced``: look for
        prices too, for the weaker kind; they hold for the other as well, where they are worth something else.
        """
        kinds = [(each, each.bound(objective, slo_s=self.slo_s)) for each in self.bounds(swaps=swaps)]
        weaker = max if objective in MAXIMIZED else min
        if not priced or objective not in PRICEABLE:
            return weaker((bound for _, bound in kinds), key=lambda bound: bound.value)
        kinds.sort(key=lambda kind: kind[1].value)
        found = kinds[0][0].priced(objective)
        assert found.prices is not None
        other = kinds[1][0].at_prices(objective, found.prices)
        again = max(kinds[1][1].value, other)
        if again >= found.value:
            return found
        return replace(kinds[1][1], value=again, name=PRICED if other == again else kinds[1][1].name,
                       others=kinds[1][1].others | {PRICED: other}, prices=found.prices)  # fmt: skip

    def weights(self) -> IntArray:
        """Of each request the machine time that it takes at least (its share of the stage and way to count
        iterations with the most work, see ``planner.machines``), from 0 to ``MOST_WEIGHT``."""
        bounds = PlanBounds(self.roomy(self.chunked), self.plan, TraceStats(self.trace))
        work = bounds.machines.busiest().work.astype(np.float64)
        weights: IntArray = (work / max(1.0, work.max()) * MOST_WEIGHT).astype(np.int64)
        return weights

    def value(self, engine: EngineSettings, outcome: Outcome, objective: Objective) -> float | None:
        """The objective of an outcome, None where it rejects requests: a bound counts every one as served."""
        if outcome.rejected:
            return None
        return metrics.summary(
            outcome, self.step(engine), devices=self.plan.devices, usd_per_device_hour=None,
            goodput_bounds_s=dict(self.slo_s),
        )[objective.metric]  # fmt: skip

    def worth(self, engine: EngineSettings, outcome: Outcome) -> float:
        """Time of an iteration before its tokens over the time that a generated token adds, from a simulation.

        0 where tokens add nothing: then no batch is too large.
        """
        fixed = fixed_ps(self.step(engine))
        added = outcome.busy_ps - outcome.iterations * fixed
        tokens = int(outcome.output_tokens[outcome.served].sum())
        worth = fixed * tokens / added if added > 0 else 0.0
        return worth if math.isfinite(worth) else 0.0


def fixed_ps(step: StepCost) -> int:
    """Time of an iteration of one token through all stages, its attention left out."""
    own = step.local_ps[:, 1] + step.shared_ps[:, 1]
    return int(own.sum() + step.send_ps[:, 1].sum() + step.head_ps[1])


__all__ = ["BOUNDED", "Setting", "fixed_ps"]
