"""Energy above idle power by cell and collective, as busy time is: what the plan's power goes into.

Cost tables hold the energy of whole iterations. Here a plan is compiled once more with the joules of every operation
in place of its seconds; the parts of those tables, counted as a simulation of the true tables counts them, are
energies. Hosts draw nothing above idle. Attention cores are what the parts leave of the simulation's own total.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from planner.pipeline import Candidate, Evaluator, fitted
from planner.placement import place
from planner.question import Question
from planner.ranking import PlanResult
from profiles.fleet import Fleet
from profiles.meter import Charge, Meter
from profiles.moved import with_operations
from profiles.ops import Cost
from profiles.stepcost import PS, StepCost
from simulator.engine import simulate

NANO = 1e-9


class JouleMeter(Meter):
    """Charges whose seconds are their joules above idle."""

    def metered(self, cost: Cost, compute: str) -> Charge:
        charge = super().metered(cost, compute)
        return replace(charge, seconds=charge.joules)


def energy_by_part(
    question: Question, best: PlanResult, *, tables: Path | None = None, silicon: bool = True
) -> dict[str, float]:
    """Joules above idle power of all devices of a plan while it serves the trace, by part; they add up to the
    outcome's ``energy_nj``. The plan is simulated once.

    Examples
    --------
    >>> from planner.pipeline import optimize
    >>> from profiles.fleet import homogeneous
    >>> from profiles.huggingface import load_model
    >>> from traces.synth import synthesize
    >>> asked = Question(model=load_model("opt-125m"), fleet=homogeneous("l40s", gpus=1),
    ...                  trace=synthesize(requests=20, rate=2.0))
    >>> parts = energy_by_part(asked, optimize(asked, silicon=False).results[0], silicon=False)
    >>> max(parts, key=parts.get)
    'ffn'
    """
    pool = next(pool for pool in question.fleet.pools if pool.name == best.pool)
    asked, _ = fitted(replace(question, fleet=Fleet(pools=(pool,))))
    evaluator = Evaluator(asked, tables=tables, silicon=silicon)
    plan = best.plan
    candidate = Candidate(plan=plan, pool=0, placement=place(plan, pool))
    step, base = evaluator.step(candidate), evaluator.compilers[0]
    joules = evaluator.compiled(with_operations(base, base.operations, meter=JouleMeter), candidate)
    parts: dict[str, Any] = {
        name: {part: table for part, table in getattr(joules, name).items() if part != "host"}
        for name in ("local_parts", "shared_parts", "head_parts")
    }
    outcome = simulate(asked.trace, replace(step, **parts), plan.engine, replicas=plan.replicas)
    counted = {part for each in parts.values() for part in each}
    found = {
        part: ps / PS * plan.stage_devices for part, ps in outcome.breakdown_ps.items() if part in counted
    }
    if sent := _sent_j(step, outcome.iterations_by_tokens):
        found["send/recv"] = sent
    attention = outcome.energy_nj * NANO - sum(found.values())
    return {**found, "attention (prefill, decode)": max(attention, 0.0)}


def _sent_j(step: StepCost, iterations: np.ndarray) -> float:
    """Of transfers between stages, in every iteration."""
    return float((step.send_nj.sum(axis=0)[: len(iterations)] * iterations).sum(dtype=np.float64)) * NANO
