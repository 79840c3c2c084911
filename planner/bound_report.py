"""How far from optimal: the schedulers people run beside the best that any scheduler could do.

One plan, one trace, one objective. The bound is that of ``planner.bounds``, taken so wide that every scheduler
of the table is in its class; ``planner.gap`` says where the difference comes from, ``planner.bound_text`` prints.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from formulations.problem import Limits
from planner import units
from planner.bounds import PlanBound, PlanBounds
from planner.errors import NoFeasiblePlan
from planner.exact import Exact, exact, why_not
from planner.objective import OBJECTIVES, Objective
from planner.pipeline import Candidate, Evaluator, check_clocks, fitted
from planner.placement import place
from planner.question import Question, check_engine
from planner.shares import TraceStats
from planner.validate import complaints
from profiles.errors import InputError
from profiles.plan import POLICIES, EngineSettings, Plan, Policy
from profiles.stepcost import StepCost
from simulator import metrics
from simulator.engine import simulate
from simulator.outcome import Outcome
from traces.trace import Trace
from traces.transform import window

BOUNDED: dict[str, Objective] = {
    "makespan": Objective(
        name="makespan", metric="makespan_s", unit="s", words="time from the first arrival to the last token"
    ),
    **{name: OBJECTIVES[name] for name in ("latency", "ttft", "energy")},
}
"""Objectives of a report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduler:
    """One scheduler of the table, simulated.

    ``value`` is None where it rejects requests: a bound counts every request as served. ``ratio``: value over
    bound, None without one of them. ``kv_peak``: most KV blocks in use, as a share.
    """

    name: str
    engine: EngineSettings
    value: float | None
    ratio: float | None
    preemptions: int
    recomputed_tokens: int
    kv_peak: float
    iterations: int
    rejected: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GapPart:
    """Units of the objective that a scheduler loses, and to what."""

    name: str
    value: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Parts add up to the scheduler's value less the bound."""

    scheduler: str
    parts: tuple[GapPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundReport:
    """What ``zenith bound`` found.

    ``bound`` holds for ``class_words``, and ``proof`` names the section of the documentation that proves it.
    ``exact``: what CP-SAT proves of a narrower class, where it was asked and could.
    """

    headline: str
    plan: Plan
    requests: int
    objective: Objective
    bound: PlanBound
    class_words: str
    proof: str
    schedulers: tuple[Scheduler, ...]
    gaps: tuple[Gap, ...]
    exact: Exact | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is compared: a trace, and one plan with its cost tables for engines that chunk prompts and for those
    that do not (whose batches can hold a longer prompt)."""

    trace: Trace
    plan: Plan
    chunked: StepCost
    whole: StepCost

    def step(self, engine: EngineSettings) -> StepCost:
        return self.chunked if engine.chunks_prefill else self.whole

    def simulate(self, engine: EngineSettings) -> Outcome:
        return simulate(self.trace, self.step(engine), engine, replicas=self.plan.replicas)

    def roomy(self, step: StepCost) -> StepCost:
        """With the memory of the kind that has more."""
        return replace(step, kv_blocks=max(self.chunked.kv_blocks, self.whole.kv_blocks))

    def bound(self, objective: str, *, swaps: bool) -> PlanBound:
        """What no scheduler of either kind beats: the lesser of the two bounds.

        ``swaps``: whether schedulers may swap, which one of the bounds on energy rules out.
        """
        stats, found = TraceStats(self.trace), []
        kinds: tuple[tuple[Policy, StepCost], ...] = (("vllm-v1", self.chunked), ("orca", self.whole))
        for policy, step in kinds:
            step = self.roomy(step)
            engine = _engine(self.plan.engine, policy, "fcfs", "swap" if swaps else "recompute")
            found.append(PlanBounds(step, replace(self.plan, engine=engine), stats).bound(objective))
        return min(found, key=lambda bound: bound.value)


def bound_report(
    question: Question, plan: Plan, objective: str, *, window_s: float | None = None,
    limits: Limits | None = None, tables: Path | None = None, silicon: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> BoundReport:  # fmt: skip
    """Every scheduler on one plan, its bound, and the gap of the plan's own scheduler and of the best.

    Parameters
    ----------
    objective
        Of ``BOUNDED``; that of the question does not matter here.
    window_s
        Only requests that arrive this long after the first.
    limits
        Those of CP-SAT, which is then asked for the best schedule; None: it is not.

    Raises
    ------
    InputError
        When no iteration could hold a token of every sequence, or the objective is unknown.
    NoFeasiblePlan
        When the plan does not fit the fleet or the memory of its devices.
    """
    from planner.gap import gap_of

    check_engine(replace(plan.engine, policy="vllm-v1"))
    question, notes = fitted(question)
    if window_s is not None:
        question = replace(question, trace=window(question.trace, 0.0, window_s))
    goal = BOUNDED[objective]
    progress("compiling cost tables")
    evaluator = Evaluator(question, tables=tables, silicon=silicon)
    setting = _setting(question, evaluator, plan)
    served = list(_served(setting, progress))
    progress("bounding")
    bound = setting.bound(objective, swaps=any(engine.preemption == "swap" for engine, _ in served))
    rows = [
        _row(engine, outcome, value_of(setting, engine, outcome, goal), bound.value)
        for engine, outcome in served
    ]
    rows, outcomes = _merged(rows, [outcome for _, outcome in served])
    gaps = []
    for i in _explained(rows, plan.engine):
        progress(f"simulating what {rows[i].name} loses")
        gaps.append(gap_of(setting, rows[i], outcomes[i], goal, bound))
    trace, best = question.trace, None
    if limits is not None:
        if reason := why_not(plan, len(trace), objective):
            notes.append(f"not solved exactly: {reason}")
        else:
            progress("solving exactly")
            best = exact(setting.roomy(setting.whole), plan, trace, objective, limits, floor_s=bound.value)
    return BoundReport(
        headline=f"{question.model.name} on {plan.devices} x {evaluator.sources[0].split(':')[0]}, {plan.label}\n"
        f"trace {trace.name}: {len(trace):,} requests in {trace.duration_s:.4g} s, prompt "
        f"{trace.prompt_tokens.mean():.0f} and output {trace.output_tokens.mean():.0f} tokens on average",
        plan=plan,
        requests=len(trace),
        objective=goal,
        bound=bound,
        class_words=class_words(setting, bound.name),
        proof=proof_of(bound.name),
        schedulers=tuple(rows),
        gaps=tuple(gaps),
        exact=best,
        notes=tuple(notes),
    )


def _setting(question: Question, evaluator: Evaluator, plan: Plan) -> Setting:
    reasons = []
    for i, pool in enumerate(question.fleet.pools):
        check_clocks(pool, [plan.clock_mhz])
        if found := complaints(question, pool, plan):
            reasons += [f"{pool.name}: {reason}" for reason in found]
            continue
        steps = []
        own = plan.engine
        kinds: tuple[Policy, ...] = ("vllm-v1", "orca" if own.chunks_prefill else own.policy)
        for policy in kinds:
            engine = _engine(own, policy, own.queue, own.preemption)
            candidate = Candidate(plan=replace(plan, engine=engine), pool=i, placement=place(plan, pool))
            steps.append(evaluator.step(candidate))
        return Setting(trace=question.trace, plan=plan, chunked=steps[0], whole=steps[1])
    raise NoFeasiblePlan(f"{plan.label}: " + "; ".join(reasons))


def _served(
    setting: Setting, progress: Callable[[str], None]
) -> Iterator[tuple[EngineSettings, Outcome]]:  # fmt: skip
    """Every policy by arrival and by prompt length; with swapping too where it preempts."""
    for policy in POLICIES:
        progress(f"simulating {policy}")
        for queue in ("fcfs", "sjf"):
            engine = _engine(setting.plan.engine, policy, queue, "recompute")
            outcome = setting.simulate(engine)
            yield engine, outcome
            if outcome.preemptions.any():
                engine = _engine(setting.plan.engine, policy, queue, "swap")
                yield engine, setting.simulate(engine)


def _engine(base: EngineSettings, policy: Policy, queue: str, preemption: str) -> EngineSettings:
    return replace(base, policy=policy, queue=queue, preemption=preemption)  # type: ignore[arg-type]


def value_of(
    setting: Setting, engine: EngineSettings, outcome: Outcome, objective: Objective
) -> float | None:
    """The objective of an outcome, None where it rejects requests."""
    if outcome.rejected:
        return None
    plan = setting.plan
    return metrics.summary(outcome, setting.step(engine), devices=plan.devices, usd_per_device_hour=None)[
        objective.metric
    ]


def _row(engine: EngineSettings, outcome: Outcome, value: float | None, bound: float) -> Scheduler:
    name = f"{engine.policy} {engine.queue}" + (" swap" if engine.preemption == "swap" else "")
    return Scheduler(
        name=name,
        engine=engine,
        value=value,
        ratio=value / bound if value is not None and bound > 0 else None,
        preemptions=int(outcome.preemptions.sum()),
        recomputed_tokens=outcome.recomputed_tokens,
        kv_peak=outcome.peak_blocks / outcome.kv_blocks if outcome.kv_blocks else 0.0,
        iterations=outcome.iterations,
        rejected=len(outcome.rejected),
    )


def _merged(rows: list[Scheduler], outcomes: list[Outcome]) -> tuple[list[Scheduler], list[Outcome]]:
    """Queue orders that come to the same schedule share a row."""
    kept: list[tuple[Scheduler, Outcome]] = []
    for row, outcome in zip(rows, outcomes, strict=True):
        if kept and kept[-1][0].engine == replace(row.engine, queue="fcfs") and row.engine.queue == "sjf":
            other = kept[-1][1]
            if np.array_equal(other.finish_ps, outcome.finish_ps) and np.array_equal(
                other.first_token_ps, outcome.first_token_ps
            ):
                kept[-1] = replace(kept[-1][0], name=f"{row.engine.policy} fcfs = sjf"), other
                continue
        kept.append((row, outcome))
    return [row for row, _ in kept], [outcome for _, outcome in kept]


def _explained(rows: list[Scheduler], own: EngineSettings) -> list[int]:
    """The plan's own scheduler and the best one, where they serve every request."""
    valued = [i for i, row in enumerate(rows) if row.value is not None]
    mine = [
        i
        for i in valued
        if (rows[i].engine.policy, rows[i].engine.queue) == (own.policy, own.queue)
        and rows[i].engine.preemption in (own.preemption, "recompute")
    ]
    mine += [i for i in valued if rows[i].engine.policy == own.policy]
    best = sorted(valued, key=lambda i: (rows[i].value or math.inf, i not in mine[:1]))
    return list(dict.fromkeys([*mine[:1], *best[:1]]))


def class_words(setting: Setting, name: str) -> str:
    """The class of schedules that a bound holds for."""
    plan, engine = setting.plan, setting.plan.engine
    each = " a rank" if plan.attn_dp > 1 else ""
    room = setting.chunked.kv_blocks * engine.block_size
    words = (
        f"any order, batching, stalling, chunking and preemption (recompute or swap), output lengths known; "
        f"iterations of at most {engine.token_budget:,} new tokens (more where prompts stay whole) and "
        f"{engine.max_seqs:,} sequences{each}, {room:,} KV tokens{each}"
    )
    if "while busy" in name:  # see planner.busy_energy
        return "work-conserving, preempting only a full cache, without swapping: " + words.replace(
            "stalling, chunking and preemption (recompute or swap)", "stalling, chunks that fill iterations"
        )
    return words


def proof_of(name: str) -> str:
    """Section of ``docs/bounds.md`` that proves a relaxation.

    Examples
    --------
    >>> proof_of("unloaded"), proof_of("KV memory x time")
    ('docs/bounds.md#a-request-alone', 'docs/bounds.md#the-trace')
    """
    return "docs/bounds.md#" + ("a-request-alone" if name == "unloaded" else "the-trace")


def parse_window(text: str) -> float:
    """Seconds of ``60s``, ``500ms``, ``5min`` or ``1h``.

    Raises
    ------
    InputError
        When it is not a number above 0 with a unit.

    Examples
    --------
    >>> parse_window("60s"), parse_window("1.5min")
    (60.0, 90.0)
    """
    try:
        return units.read(text, units.TIME)
    except InputError as error:
        raise InputError(f"--window {error}") from None


__all__ = ["BoundReport", "Gap", "GapPart", "Scheduler", "Setting", "bound_report", "parse_window"]
