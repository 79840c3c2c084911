"""The best schedule of the unison class for a small window, and what is proven of it.

``formulations.schedule`` states the class in integers. Here its costs are made from the tables of one replica so that
no iteration takes less than they say (lines and planes below tables, rounded down), so what is proven holds for
the tables; and its schedules are run by the simulator (``simulator.explicit``), so the value is theirs.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from formulations import hulls
from formulations.problem import Limits, Status
from formulations.schedule import BatchCost, Objective, Schedule, ScheduleInstance, greedy_schedules
from formulations.schedule_best import solve
from formulations.schedule_coarse import coarse, fine
from planner.shares import SAFE, TraceStats
from profiles.errors import InputError
from profiles.plan import POLICIES, Plan
from profiles.stepcost import PS, StepCost
from simulator.engine import simulate
from simulator.explicit import Iteration, simulate_schedule
from simulator.outcome import Outcome
from traces.trace import Trace

OBJECTIVES = {"makespan": Objective.MAKESPAN, "latency": Objective.E2E, "ttft": Objective.TTFT}
"""Those of the report that have an exact model."""

MOST_REQUESTS = 60
"""Above this a minute proves nothing beyond the relaxations: policies of engines are the schedules then."""

RESOLUTION = 10**11
"""Units of the integer model in the time that the trace takes one request after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Coarse:
    """The best schedule in units of so many tokens (``formulations.schedule_coarse``), and what it takes token by
    token, seconds. ``optimal``: in the coarse class. It bounds nothing."""

    unit: int
    optimal: bool
    value: float

    @property
    def words(self) -> str:
        """What was proven of it."""
        found = "optimal" if self.optimal else "the best found, not proven optimal,"
        return f"{found} in the coarse class of {self.unit}-token units, which bounds no other schedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """No schedule of the class has an objective below ``bound`` seconds; one that was found has ``value``.

    ``coarse``: where it was asked for; its schedule counts for ``value``, too.
    """

    optimal: bool
    value: float
    bound: float
    class_words: str
    coarse: Coarse | None = None


def exact(
    step: StepCost, plan: Plan, trace: Trace, objective: str, limits: Limits, *, floor_s: float = 0.0,
    known: Iterable[Outcome] = (), unit: int = 1,
) -> Exact:  # fmt: skip
    """The best schedule found within the limits, and what is proven of all others.

    Parameters
    ----------
    step
        Tables that cover whole prompts beside the decodes of everyone else.
    floor_s
        A bound on the objective that is known.
    known
        What schedulers of one replica do. Those that stay in the class are schedules, too.
    unit
        Above 1: solved in units of so many tokens, too, up to ``MOST_REQUESTS``.

    Raises
    ------
    ValueError
        Where ``why_not`` has a reason.
    InputError
        When memory or the budget holds too few units (``schedule_coarse.coarse``).
    """
    if reason := why_not(plan, objective, chunkable=step.chunkable):
        raise ValueError(reason)
    instance, scale = instance_of(step, plan, trace)
    bound_s, outcomes, rough = floor_s, list[Outcome](), None
    if len(trace) <= MOST_REQUESTS:
        found = solve(instance, OBJECTIVES[objective], limits)
        arrivals = list(map(int, TraceStats(trace).arrival))
        count, arrived = (1, arrivals[0]) if objective == "makespan" else (len(trace), sum(arrivals))
        bound_s = max(bound_s, (found.bound * scale - arrived) * SAFE / count / PS)
        # The tables may prefer another schedule than the integers below them.
        outcomes += run(step, plan, trace, [found.schedule, *greedy_schedules(instance)])
        if unit > 1:
            solution = solve(_coarse(instance, unit), OBJECTIVES[objective], limits)
            outcomes += run(step, plan, trace, [fine(instance, unit, solution.schedule)])
            value_s = seconds(outcomes[-1], objective)
            rough = Coarse(unit=unit, optimal=solution.status is Status.OPTIMAL, value=value_s)
    outcomes += [*policies(step, plan, trace), *filter(_stays, known)]
    if not outcomes:
        outcomes += run(step, plan, trace, greedy_schedules(instance)[:1])
    value_s = min(seconds(outcome, objective) for outcome in outcomes)
    return Exact(
        optimal=value_s <= bound_s * (1 + 1e-6),
        value=value_s,
        bound=min(bound_s, value_s),
        class_words="unison: no preemption, and a decode stalls only with all others; prompts in chunks or "
        f"whole, at most {instance.tokens:,} new tokens",
        coarse=rough,
    )


def _coarse(instance: ScheduleInstance, unit: int) -> ScheduleInstance:
    try:
        return coarse(instance, unit)
    except ValueError as error:
        raise InputError(
            f"--unit {unit}: in such units the memory of {instance.kv:,} tokens does not hold the longest request, "
            f"or the budget of {instance.tokens:,} not a decode of everybody: take a smaller one"
        ) from error


def seconds(outcome: Outcome, objective: str) -> float:
    """The objective of an outcome that serves everybody."""
    if objective == "makespan":
        return (outcome.end_ps - int(outcome.arrival_ps[0])) / PS
    ends = outcome.finish_ps if objective == "latency" else outcome.first_token_ps
    return (sum(map(int, ends)) - sum(map(int, outcome.arrival_ps))) / len(ends) / PS


def policies(step: StepCost, plan: Plan, trace: Trace) -> list[Outcome]:
    """What policies of engines do that stay in the class: nobody is preempted or rejected."""
    found = []
    for policy in POLICIES:
        engine = replace(plan.engine, policy=policy)
        with suppress(ValueError):  # whole prompts beyond the tables
            found.append(simulate(trace, step, engine))
    return list(filter(_stays, found))


def _stays(outcome: Outcome) -> bool:
    """Whether it is a schedule of the class: no scheduler here lets some decodes run and others wait."""
    return not outcome.rejected and not outcome.preemptions.any()


def why_not(plan: Plan, objective: str, *, chunkable: bool = True) -> str:
    """Why there is no exact model, empty where there is one."""
    if plan.replicas * plan.stages * plan.attn_dp > 1:
        return f"the exact model knows one replica of one stage and attention rank, not {plan.label}"
    if objective not in OBJECTIVES:
        return f"there is no exact model of {objective}, only of {', '.join(OBJECTIVES)}"
    if not chunkable:
        return "the exact model cuts prompts into chunks, which a model with an encoder cannot"
    return ""


def instance_of(step: StepCost, plan: Plan, trace: Trace) -> tuple[ScheduleInstance, int]:
    """The window in integers, and the picoseconds of their unit."""
    stats, engine = TraceStats(trace), plan.engine
    n = len(stats)
    sequences = min(engine.max_seqs, step.max_seqs)
    kv = max(step.kv_blocks * engine.block_size, stats.longest)
    tokens = min(step.max_tokens, max(engine.token_budget, int(stats.prompt.max()) + min(n, sequences)))
    steps = max(stats.read / kv, stats.decodes / sequences, float(stats.output.max()) - 1)
    rounds = steps + n  # that the lines below suit: a prompt has at most one of its own
    dense = (step.local_ps[0] + step.shared_ps[0, : step.max_tokens + 1])[1:].astype(np.float64)
    base, token = hulls.best_line(hulls.lines_below(dense[:tokens]), rounds, stats.tokens)
    heads = hulls.lines_below(step.head_ps[1 : min(n, sequences) + 1].astype(np.float64))
    head, each = hulls.best_line(heads, rounds, stats.events)
    decode, sequence, read = (0.0, 0.0, 0.0)
    if stats.decodes:
        decode, sequence, read = hulls.decode_plane(
            step.decode_value_ps[0].astype(np.float64), step.decode_slope_ps[0].astype(np.float64), step.knots,
            sequences=min(n, sequences), smallest=stats.smallest, longest=stats.longest, capacity=kv,
            iterations=steps, decodes=stats.decodes, read=stats.read,
        )  # fmt: skip
    sequence += each
    read = min(
        read, sequence / stats.smallest
    )  # every decode reads that much, so less a token is still below
    sequence -= read * stats.smallest
    own = step.prefill_ps[0][stats.prompt] - step.prefill_ps[0][0]
    launch = int(step.prefill_launch_ps[0])
    total = rounds * (base + head + decode) + stats.tokens * token + float(own.sum()) + n * launch
    unit = max(1, int(total + float(stats.arrival[-1])) // RESOLUTION)

    def down(value: float) -> int:
        return int(value * hulls.ROUNDING / unit + 1e-9)

    return ScheduleInstance(
        arrival=tuple(int(a) // unit for a in stats.arrival),
        prompt=tuple(map(int, stats.prompt)),
        output=tuple(map(int, stats.output)),
        own=tuple(down(float(o) + each) for o in own),
        kv=kv,
        tokens=tokens,
        sequences=sequences,
        cost=BatchCost(
            base=down(base + head), token=down(token), launch=launch // unit, decode=down(decode),
            sequence=down(sequence), read=down(read),
        ),
    ), unit  # fmt: skip


def run(step: StepCost, plan: Plan, trace: Trace, schedules: Iterable[Schedule]) -> list[Outcome]:
    """The schedules on the tables, as the simulator runs them. Memory is counted in tokens."""
    size = plan.engine.block_size
    longest = int((trace.prompt_tokens + trace.output_tokens).max()) - 1
    roomy = replace(step, kv_blocks=max(step.kv_blocks, -(-longest // size)))
    return [
        simulate_schedule(trace, roomy, explicit(trace, schedule), block_size=size) for schedule in schedules
    ]


def explicit(trace: Trace, schedule: Schedule) -> list[Iteration]:
    """Who decodes in every iteration."""
    left = [int(p) for p in trace.prompt_tokens]
    due = [int(o) for o in trace.output_tokens]
    running: list[int] = []
    found = []
    for iteration in schedule:
        decodes = tuple(running) if iteration.decodes else ()
        found.append(Iteration(decodes=decodes, chunks=iteration.chunks))
        for i, c in iteration.chunks:
            left[i] -= c
        complete = [i for i, _ in iteration.chunks if not left[i]]
        for i in (*decodes, *complete):
            due[i] -= 1
        running = [i for i in (*running, *complete) if due[i]]
    return found
