"""What binds a plan: where the time of its requests, or of its devices, goes by the resource that would have to
be larger.

=================  ==============================================================================
queueing           from arrival to the first iteration, what the KV cache is to blame for left out
HBM capacity       what the mean end-to-end latency loses to the KV cache being finite: the plan is simulated with
                   an endless one besides, where the cache may ever have kept anyone waiting
HBM bandwidth      kernels that move more than half of what device memory could move in their time, and for
                   which moving takes longer than computing
compute            kernels that compute more than half of what the device could at its peak, and for which computing
                   takes longer
kernel latency     kernels that do neither: launches, ramps, tails
interconnect       collectives and transfers between stages
host overhead      the engine's own time of iterations, sequences and prompts
idle               (of device time) nothing to run
=================  ==============================================================================

Time inside iterations is split as the busy time of the plan is, every kernel on the side it is on at each load.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from planner.objective import Objective
from profiles.compile import Compiler
from profiles.moved import with_operations
from profiles.sided import BANDWIDTH, COMPUTE, LATENCY, OTHER, Sided
from profiles.stepcost import PROVENANCE, PS, StepCost
from simulator.engine import simulate
from simulator.outcome import Outcome

if TYPE_CHECKING:
    from planner.pipeline import Candidate, Evaluator

RESOURCES = ("queueing", "HBM capacity", "HBM bandwidth", "compute", "kernel latency", "interconnect",
             "host overhead", "idle")  # fmt: skip

COLLECTIVES = frozenset(
    ("attention_allreduce", "attention_reduce_scatter", "attention_all_gather", "ffn_allreduce",
     "ffn_all_gather", "ffn_reduce_scatter", "dispatch", "combine", "embedding_allreduce", "head_all_gather",
     "send/recv")
)  # fmt: skip
"""Parts of a breakdown that devices spend on each other."""

BY_DEVICE = ("throughput", "goodput", "energy", "cost")
"""Objectives that follow the time of devices rather than that of requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Seconds by resource, all >= 0, that add up to ``total_s``.

    ``of`` says of what: mean end-to-end latency of a request, or time of a device in the makespan.
    ``capacity_simulated`` is False where the KV cache can have kept nobody waiting, or rejects requests for good.
    """

    of: str
    total_s: float
    seconds: dict[str, float]
    capacity_simulated: bool

    @property
    def resource(self) -> str:
        """The one that takes most."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def shares(self) -> dict[str, float]:
        """Of the total, by resource; they add up to 1, all 0 where there is nothing to share."""
        return {name: s / self.total_s if self.total_s else 0.0 for name, s in self.seconds.items()}


def binding_of(evaluator: "Evaluator", candidate: "Candidate") -> Binding:
    """What binds one plan of a question; kept in the evaluator's store."""
    by_device = evaluator.objective.name in BY_DEVICE
    return evaluator.store.get(
        "binding",
        (evaluator.step_key(candidate), evaluator.trace_key, by_device),
        lambda: _binding(evaluator, candidate, evaluator.objective),
        lasting=True,
    )


def _binding(evaluator: "Evaluator", candidate: "Candidate", objective: Objective) -> Binding:
    compiler, plan, trace = evaluator.compilers[candidate.pool], candidate.plan, evaluator.question.trace
    sided = evaluator.compiled(_sided(compiler), candidate)
    outcome = simulate(trace, sided, plan.engine, replicas=plan.replicas)
    busy = _busy(outcome, _prompt_collectives(evaluator, compiler, candidate))
    all_busy = sum(busy.values()) or 1.0
    if objective.name in BY_DEVICE:
        span_s = max(outcome.end_ps - int(outcome.arrival_ps[0]), 1) / PS
        share = min(1.0, outcome.stage_busy_ps / PS / (span_s * outcome.replicas * outcome.stages))
        seconds = {name: span_s * share * s / all_busy for name, s in busy.items()}
        return Binding(
            of="device time", total_s=span_s, seconds={**seconds, "idle": span_s * (1 - share)},
            capacity_simulated=False,
        )  # fmt: skip
    e2e, wait = _e2e_and_wait(outcome)
    seconds, simulated = {"queueing": wait, "HBM capacity": 0.0}, False
    inside = e2e - wait
    if not outcome.rejected and _may_lack_room(outcome, plan.engine.block_size):
        simulated = True
        free = simulate(
            trace, replace(sided, kv_blocks=_endless(outcome, plan.engine.block_size, sided)),
            replace(plan.engine, watermark=0.0), replicas=plan.replicas,
        )  # fmt: skip
        e2e_free, wait_free = _e2e_and_wait(free)
        if e2e_free < e2e:  # a scheduler may also gain from what it cannot do: then room binds nothing
            seconds = {"queueing": wait_free, "HBM capacity": e2e - e2e_free}
            inside = e2e_free - wait_free
            busy = _busy(free, _prompt_collectives(evaluator, compiler, candidate))
            all_busy = sum(busy.values()) or 1.0
    for name, s in busy.items():
        seconds[name] = seconds.get(name, 0.0) + inside * s / all_busy
    return Binding(
        of="mean end-to-end latency",
        total_s=e2e,
        seconds={name: seconds.get(name, 0.0) for name in RESOURCES if name != "idle"},
        capacity_simulated=simulated,
    )


def _sided(compiler: Compiler, *, collectives: int = OTHER) -> Compiler:
    """The same costs, in whose tables the provenance is the side that binds."""
    return with_operations(compiler, Sided(compiler.operations, compiler.device, collectives=collectives))


def _prompt_collectives(evaluator: "Evaluator", compiler: Compiler, candidate: "Candidate") -> float:
    """Share of collectives in the time of prompts besides tokens: an encoder's layers have them in there."""
    if compiler.model.kind == "decoder":
        return 0.0
    step: StepCost = evaluator.compiled(_sided(compiler, collectives=LATENCY), candidate)
    plain: StepCost = evaluator.compiled(_sided(compiler), candidate)
    assert step.prefill_provenance is not None and plain.prefill_provenance is not None
    return float(step.prefill_provenance[LATENCY] - plain.prefill_provenance[LATENCY])


def _busy(outcome: Outcome, prompt_collectives: float) -> dict[str, float]:
    """Busy seconds by resource."""
    parts = {name: ps / PS for name, ps in outcome.breakdown_ps.items()}
    total = sum(parts.values())
    sides = {name: outcome.provenance.get(name, 0.0) * total for name in PROVENANCE}
    links = sum(s for name, s in parts.items() if name in COLLECTIVES)
    links += prompt_collectives * parts.get("attention (prefill)", 0.0)
    swap = parts.get("swap", 0.0)
    return {
        "HBM capacity": swap,
        "HBM bandwidth": sides[PROVENANCE[BANDWIDTH]],
        "compute": sides[PROVENANCE[COMPUTE]],
        "kernel latency": sides[PROVENANCE[LATENCY]],
        "interconnect": links,
        "host overhead": max(0.0, sides[PROVENANCE[OTHER]] - links - swap),
    }


def _e2e_and_wait(outcome: Outcome) -> tuple[float, float]:
    """Mean seconds from arrival to last token, and to the first iteration, of served requests."""
    ok = outcome.served
    if not ok.any():
        return 0.0, 0.0
    e2e = (outcome.finish_ps[ok] - outcome.arrival_ps[ok]).mean() / PS
    return float(e2e), float((outcome.scheduled_ps[ok] - outcome.arrival_ps[ok]).mean() / PS)


def _may_lack_room(outcome: Outcome, block_size: int) -> bool:
    """Whether any request may have waited for blocks: a rank with its fullest use could not hold one more."""
    longest = int((outcome.prompt_tokens + outcome.output_tokens).max())
    need = -(-longest // block_size)
    return bool(outcome.preemptions.any()) or outcome.peak_blocks + 2 * need > 0.98 * outcome.kv_blocks


def _endless(outcome: Outcome, block_size: int, step: StepCost) -> int:
    """Blocks that hold the longest request in every place of a rank."""
    longest = int(np.max(outcome.prompt_tokens + outcome.output_tokens))
    return max(step.kv_blocks, -(-longest // block_size) * step.max_seqs * step.stages)
