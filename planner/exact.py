"""The best schedule of the unison class for a small window, proven by CP-SAT.

``formulations.schedule`` states the class in integers. Here its costs are made from the tables of one replica so that
no iteration takes less than they say (lines and planes below tables, rounded down), so what CP-SAT proves holds for
the tables; and its schedules are run on the tables themselves, iteration by iteration, so the value is theirs.
"""

from dataclasses import dataclass

import numpy as np

from formulations import hulls
from formulations.problem import Limits
from formulations.schedule import BatchCost, Objective, Schedule, ScheduleInstance, greedy_schedules
from formulations.schedule_best import solve
from planner.shares import SAFE, TraceStats
from profiles.plan import Plan
from profiles.stepcost import PS, StepCost
from traces.trace import Trace

OBJECTIVES = {"makespan": Objective.MAKESPAN, "latency": Objective.E2E, "ttft": Objective.TTFT}
"""Those of the report that CP-SAT knows."""

MOST_REQUESTS = 60
"""Windows that are tried at all."""

RESOLUTION = 10**11
"""Units of the integer model in the time that the trace takes one request after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """No schedule of the class has an objective below ``bound`` seconds; one that was found has ``value``."""

    optimal: bool
    value: float
    bound: float
    class_words: str


def exact(
    step: StepCost, plan: Plan, trace: Trace, objective: str, limits: Limits, *, floor_s: float = 0.0
) -> Exact:
    """The best schedule found within the limits, and what is proven of all others.

    Parameters
    ----------
    step
        Tables that cover whole prompts beside the decodes of everyone else.
    floor_s
        A bound on the objective that is known.

    Raises
    ------
    ValueError
        Where ``why_not`` has a reason.
    """
    if reason := why_not(plan, len(trace), objective):
        raise ValueError(reason)
    instance, unit = instance_of(step, plan, trace)
    found = solve(instance, OBJECTIVES[objective], limits)
    stats = TraceStats(trace)
    count = 1 if objective == "makespan" else len(trace)
    arrived = int(stats.arrival[0]) if count == 1 else sum(map(int, stats.arrival))

    def ends(schedule: Schedule) -> int:
        first, last = run(step, stats, schedule)
        return max(last) if objective == "makespan" else sum(last if objective == "latency" else first)

    # The tables may prefer another schedule than the integers below them.
    value = min(map(ends, [found.schedule, *greedy_schedules(instance)]))
    value_s = (value - arrived) / count / PS
    bound_s = max((found.bound * unit - arrived) * SAFE / count / PS, floor_s)
    return Exact(
        optimal=value_s <= bound_s * (1 + 1e-6),
        value=value_s,
        bound=min(bound_s, value_s),
        class_words="unison: no preemption, and a decode stalls only with all others; prompts in chunks or "
        f"whole, at most {instance.tokens:,} new tokens",
    )


def why_not(plan: Plan, requests: int, objective: str) -> str:
    """Why there is no exact model, empty where there is one."""
    if plan.replicas * plan.stages * plan.attn_dp > 1:
        return f"the exact model knows one replica of one stage and attention rank, not {plan.label}"
    if objective not in OBJECTIVES:
        return f"there is no exact model of {objective}, only of {', '.join(OBJECTIVES)}"
    if requests > MOST_REQUESTS:
        return f"{requests} requests are too many for the exact model, which takes {MOST_REQUESTS} (--window)"
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


def run(step: StepCost, stats: TraceStats, schedule: Schedule) -> tuple[list[int], list[int]]:
    """Times in ps of first and last tokens when the tables say how long an iteration takes."""
    n, clock = len(stats), 0
    done, emitted, first, last = [0] * n, [0] * n, [-1] * n, [-1] * n
    slope, value = step.decode_slope_ps[0], step.decode_value_ps[0]
    for iteration in schedule:
        going = [i for i in range(n) if iteration.decodes and 0 < emitted[i] < stats.output[i]]
        new = len(going) + sum(c for _, c in iteration.chunks)
        clock = max([clock, *(int(stats.arrival[i]) for i, _ in iteration.chunks)])
        clock += int(step.local_ps[0, new] + step.shared_ps[0, new])
        clock += int(step.head_ps[len(going) + len(iteration.chunks)])
        if going:
            batch, read = len(going), sum(int(stats.prompt[i]) + emitted[i] for i in going)
            j = int(np.searchsorted(batch * step.knots, read, side="right")) - 1
            clock += int(value[batch, j] + slope[batch, j] * (read - batch * step.knots[j]))
        pairs = step.prefill_ps[0]
        clock += int(step.prefill_launch_ps[0]) * bool(iteration.chunks)
        for i, c in iteration.chunks:
            clock += max(int(pairs[c]), int(pairs[done[i] + c] - pairs[done[i]]))
            done[i] += c
        for i in [*going, *(i for i, _ in iteration.chunks if done[i] == stats.prompt[i])]:
            emitted[i] += 1
            first[i] = clock if first[i] < 0 else first[i]
            last[i] = clock
    return first, last
