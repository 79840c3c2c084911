"""The best start times where every iteration takes one unit: the hindsight optimum of Jaillet et al., with CP-SAT.

Sets       i requests, t = 0..H - 1 starts
Data       arrival[i], prompt[i], output[i]; kv; H ``horizon``
Variables  x[i,t] binary, arrival[i] <= t <= H - output[i]: i starts at t and has its last token at t + output[i]
Minimise   sum_{i,t} (t + output[i] - arrival[i]) x[i,t]
Subject    once[i]    sum_t x[i,t] = 1
           memory[u]  sum_{i, u - output[i] <= t < u} (prompt[i] + u - t) x[i,t] <= kv,  for u = 1..H
           order      of requests that are alike the first in the list does not start later

No preemption and no stalls: what starts gets a token in every unit (arXiv 2502.07115, section 2). With H at least the
last arrival plus all outputs nothing is lost, as some request always runs while one waits; with less, what is proven
holds for schedules that end by H.
"""

from collections import defaultdict
from dataclasses import dataclass

from ortools.sat.python import cp_model

from formulations import cpsat
from formulations.problem import Limits, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitInstance:
    """Requests of one server whose iterations take one unit of time.

    Raises
    ------
    ValueError
        When the columns differ in length, or a request could never be served.
    """

    arrival: tuple[int, ...]
    prompt: tuple[int, ...]
    output: tuple[int, ...]
    kv: int

    def __post_init__(self) -> None:
        if len({len(self.arrival), len(self.prompt), len(self.output)}) != 1 or not self.prompt:
            raise ValueError("An instance needs requests, and columns of one length.")
        if min(self.output) < 1 or min(self.prompt) < 0 or min(self.arrival) < 0:
            raise ValueError("Outputs must be at least 1, prompts and arrivals at least 0.")
        if max(p + o for p, o in zip(self.prompt, self.output, strict=True)) > self.kv:
            raise ValueError("A request is longer than the memory.")

    @property
    def horizon(self) -> int:
        """No optimum ends later."""
        return max(self.arrival) + sum(self.output)

    def held(self, i: int, start: int, at: int) -> int:
        """Tokens of request i in memory in the unit that ends at ``at``."""
        return self.prompt[i] + at - start if start < at <= start + self.output[i] else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSolution:
    """``bound`` <= least sum of latencies that ends by the horizon <= ``value``, that of ``start``."""

    status: Status
    value: int
    bound: int
    start: tuple[int, ...]


def latency(instance: UnitInstance, start: tuple[int, ...]) -> int:
    """Sum over requests of end - arrival.

    Raises
    ------
    ValueError
        When a request starts before it arrives, or memory runs out.
    """
    if any(t < a for t, a in zip(start, instance.arrival, strict=True)):
        raise ValueError("A request starts before it arrives.")
    ends = [t + o for t, o in zip(start, instance.output, strict=True)]
    for at in ends:  # what is held only falls where requests end
        if sum(instance.held(i, t, at) for i, t in enumerate(start)) > instance.kv:
            raise ValueError(f"Memory runs out at {at}.")
    return sum(ends) - sum(instance.arrival)


def in_turns(instance: UnitInstance) -> tuple[int, ...]:
    """Starts of one request after another, by arrival."""
    starts, free = [0] * len(instance.prompt), 0
    for i in sorted(range(len(starts)), key=lambda i: (instance.arrival[i], i)):
        starts[i] = max(free, instance.arrival[i])
        free = starts[i] + instance.output[i]
    return tuple(starts)


def solve(
    instance: UnitInstance, limits: Limits, *, hint: tuple[int, ...] = (), horizon: int | None = None
) -> UnitSolution:
    """The best starts within the limits, those of ``hint`` where nothing better was found in time.

    Parameters
    ----------
    hint
        Starts to begin from, without them ``in_turns``.
    horizon
        Instead of the one that loses nothing.

    Raises
    ------
    ValueError
        When the starts to begin from break a rule or do not end by the horizon.
    """
    end = instance.horizon if horizon is None else horizon
    begin = hint or in_turns(instance)
    latest = max(t + o for t, o in zip(begin, instance.output, strict=True))
    known = latency(instance, begin)
    if latest > end:
        raise ValueError(f"The starts to begin from end at {latest}, after {end}.")
    model = cp_model.CpModel()
    n = range(len(instance.prompt))
    x = {
        (i, t): model.new_bool_var(f"x[{i},{t}]")
        for i in n
        for t in range(instance.arrival[i], end - instance.output[i] + 1)
    }
    memory: dict[int, list[tuple[int, cp_model.IntVar]]] = defaultdict(list)
    starts: dict[int, list[tuple[int, cp_model.IntVar]]] = defaultdict(list)
    for (i, t), chosen in x.items():
        starts[i].append((t, chosen))
        for at in range(t + 1, t + instance.output[i] + 1):
            memory[at].append((instance.held(i, t, at), chosen))
        model.add_hint(chosen, begin[i] == t)
    for i in n:
        model.add_exactly_one(chosen for _, chosen in starts[i]).with_name(f"once[{i}]")
    for at, held in memory.items():
        model.add(sum(tokens * chosen for tokens, chosen in held) <= instance.kv).with_name(f"memory[{at}]")
    start = {i: sum(t * chosen for t, chosen in starts[i]) for i in n}
    alike: dict[tuple[int, int, int], int] = {}
    for i in n:
        kind = (instance.arrival[i], instance.prompt[i], instance.output[i])
        if kind in alike and not hint:
            model.add(start[alike[kind]] <= start[i]).with_name(f"order[{i}]")
        alike[kind] = i
    model.minimize(sum(start.values()))
    status, solver = cpsat.run(model, limits)
    if not status.has_solution:
        return UnitSolution(status=status, value=known, bound=sum(instance.output), start=begin)
    found = tuple(next(t for t, chosen in starts[i] if solver.value(chosen)) for i in n)
    extra = sum(instance.output) - sum(instance.arrival)
    return UnitSolution(
        status=status,
        value=latency(instance, found),
        bound=round(solver.best_objective_bound) + extra,
        start=found,
    )
