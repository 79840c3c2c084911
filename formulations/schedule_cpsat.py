"""The best schedule of the unison class (``formulations.schedule``) with CP-SAT, indexed by decode steps.

Slot d, for d = 0..D, has y[d] iterations of chunks alone, then (d < D) decode step d, which may take chunks along.
All running requests decode in step d, so when i first decodes decides what it holds and reads in every step.

Sets       i requests, d slots; a request with output[i] > 1 decodes in output[i] - 1 steps, one after another
Data       as in ``formulations.schedule``; D from ``schedule_floor.most_steps``
Variables  x[i,d], z[i,d] binary: the prompt of i is complete before, in decode step d. i first decodes in step d,
           d + 1: f[i,d] = x[i,d] + z[i,d-1] (f[i,d] = x[i,d] where output[i] = 1)
           y[d] >= 0, integer; a[d], m[d] binary: step d is run, takes chunks along
           q[d], p[d] >= 0: tokens of prompts before, in step d;  u[d], v[d] >= 0: of prompts not complete, after it
           e[d]: end of step d; f[d]: of what is before it; c[i]: end of request i (its first token for TTFT)
Minimise   makespan, or sum_i c[i]
Subject    once[i]     sum_d x[i,d] + z[i,d] = 1
           flow[d]     u[d] = v[d-1] + q[d] - sum_i prompt[i] x[i,d];  v[d] = u[d] + p[d] - sum_i prompt[i] z[i,d];
                       nothing left in the end; never the last token of a prompt: q[d] >= sum_i x[i,d],
                       u[d] <= sum of prompt[i] - 1 over prompts not complete; and so p[d], z[i,d], v[d]
           budget[d]   q[d] <= tokens y[d];  p[d] <= tokens m[d];  p[d] + decodes[d] <= tokens
           seats[d]    sum_i z[i,d] + decodes[d] <= sequences
           memory[d]   what decodes read + v[d] + sum_i prompt[i] z[i,d] <= kv;  and the same before the step
           step[d]     a[d] where anyone decodes or m[d];  a[d] <= a[d-1]: a slot without decodes is no slot
           time        f[d] >= e[d-1] + (base + launch) y[d] + token q[d] + sum_i own[i] x[i,d];  e[d] likewise;
                       nothing before arrival[i] + first_alone(i) at the earliest
           ends        c[i] >= f or e of the slot where it ends, and >= work it has waited for
           floors      the objective is at least ``floor``; memory, seats, budget summed over steps
           order       of requests that are alike the first in the list is first

Every schedule of the class satisfies all of it, so the bound holds for the class. Where prompts that come late or
answers of one token share y[d] > 1 iterations the model is a little early, and it counts a chunk as a sequence only
in the iteration that completes the prompt; the schedule is therefore run
(``schedule.replay``), its time is the value, and ``status`` is optimal only where that equals the bound.
"""

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

from ortools.sat.python import cp_model

from formulations.schedule import Iteration, Objective, Schedule, ScheduleInstance
from formulations.schedule_floor import read_of, work_of

Linear = cp_model.LinearExpr
Ends = dict[tuple[int, int], list[cp_model.LiteralT]]


def total(terms: Iterable[cp_model.LinearExprT]) -> Linear:
    """Their sum, an expression even where there are none."""
    return Linear.sum(list(terms))


class ScheduleCpSat:
    """The model of the module for one instance, objective and number of decode steps."""

    def __init__(
        self, instance: ScheduleInstance, objective: Objective, *, steps: int, floor: int, most: int
    ) -> None:
        self.instance, self.objective, self.steps = instance, objective, steps
        self.floor, self.most = floor, most
        self.model = cp_model.CpModel()
        n = len(instance)
        self.several = [i for i in range(n) if instance.output[i] > 1]
        self.latest = [steps - instance.output[i] + 1 for i in range(n)]  # first decode
        new = self.model.new_bool_var
        shift = [int(o > 1) for o in instance.output]
        self.f = {(i, d): new(f"f{(i, d)}") for i in range(n) for d in range(self.latest[i] + 1)}
        self.z = {
            (i, d): new(f"z{(i, d)}")
            for i in range(n)
            for d in range(min(steps, self.latest[i] + 1 - shift[i]))
        }
        self.x: Ends = {key: [v] for key, v in self.f.items()}
        for (i, d), v in self.z.items():
            if shift[i]:
                self.x[i, d + 1].append(~v)
                self.model.add_implication(v, self.f[i, d + 1])
        whole, tokens = sum(instance.prompt), instance.tokens
        rounds = (
            -(-whole // tokens) + 2 * n
        )  # full ones, and one per arrival and per end of a prompt that are not
        partial = min(whole, instance.kv)
        integer = self.model.new_int_var
        self.y = [integer(0, rounds, f"y[{d}]") for d in range(steps + 1)]
        self.q = [integer(0, whole, f"q[{d}]") for d in range(steps + 1)]
        self.u = [integer(0, partial, f"u[{d}]") for d in range(steps + 1)]
        self.p = [integer(0, min(whole, tokens), f"p[{d}]") for d in range(steps)]
        self.v = [integer(0, partial, f"v[{d}]") for d in range(steps)]
        self.a = [new(f"a[{d}]") for d in range(steps)]
        self.m = [new(f"m[{d}]") for d in range(steps)]
        self.starts = {
            i: total(d * v for (k, d), v in self.f.items() if k == i)
            + total(d * v for (k, d), v in self.z.items() if k == i and not shift[i])
            for i in range(n)
        }
        self.decoding = self._decoding()
        self._once()
        self._flow()
        self._fit()
        self._order()
        self._floors()
        self._minimize()

    def _decoding(self) -> list[list[tuple[int, int, cp_model.IntVar]]]:
        """Of every step (i, tokens generated before, whether i decodes in it): the literals that say so."""
        found: list[list[tuple[int, int, cp_model.IntVar]]] = [[] for _ in range(self.steps)]
        for (i, d), literal in self.f.items():
            for t in range(self.instance.output[i] - 1):
                found[d + t].append((i, t + 1, literal))
        return found

    def _before(self, d: int) -> list[tuple[int, Linear]]:
        """Requests and whether their prompts are complete before step d: first decode in it, but not mixed."""
        return [
            (i, total([self.f[i, d], *(literal - 1 for literal in self.x[i, d][1:])]))
            for i in range(len(self.instance))
            if (i, d) in self.f
        ]

    def _in(self, d: int) -> list[tuple[int, Linear]]:
        """And whether in step d."""
        return [(i, total([self.z[i, d]])) for i in range(len(self.instance)) if (i, d) in self.z]

    def _once(self) -> None:
        for i in range(len(self.instance)):
            literals = [v for (k, _), v in self.f.items() if k == i]
            if i not in self.several:
                literals += [v for (k, _), v in self.z.items() if k == i]
            self.model.add_exactly_one(literals).with_name(f"once[{i}]")

    def _flow(self) -> None:
        before, instance = total([]), self.instance
        room = total([sum(instance.prompt) - len(instance)])  # all but the last token of prompts not complete
        kinds = ((self._before, self.q, self.u, "flow"), (self._in, self.p, self.v, "flow_step"))
        for d in range(self.steps + 1):
            for ends, tokens, left, name in kinds[: 1 + (d < self.steps)]:
                row = self.model.add(
                    left[d] == before + tokens[d] - total(instance.prompt[i] * v for i, v in ends(d))
                )
                row.with_name(f"{name}[{d}]")
                before = total([left[d]])
                later = self.model.new_int_var(0, sum(instance.prompt), f"later_{name}[{d}]")
                cut = total((instance.prompt[i] - 1) * v for i, v in ends(d))
                self.model.add(later == room - cut).with_name(f"last_{name}[{d}]")
                self.model.add(left[d] <= later).with_name(f"held_{name}[{d}]")
                room = total([later])
        self.model.add(self.u[self.steps] == 0).with_name("flow_end")

    def _fit(self) -> None:
        """Budget, seats and memory of every slot, and which steps are run."""
        instance, add = self.instance, self.model.add
        for d in range(self.steps + 1):
            add(self.q[d] <= instance.tokens * self.y[d]).with_name(f"budget[{d}]")
            complete = self._before(d)
            add(self.q[d] >= total(v for _, v in complete)).with_name(f"last_tokens[{d}]")
            add(instance.sequences * self.y[d] >= total(v for _, v in complete)).with_name(f"seats[{d}]")
            short = [i for i, _ in complete if instance.output[i] == 1]
            if d == self.steps:
                continue
            decoding = self.decoding[d]
            here = total(v for _, _, v in decoding)
            add(self.p[d] <= instance.tokens * self.m[d]).with_name(f"mixed[{d}]")
            add(self.p[d] + here <= instance.tokens).with_name(f"budget_step[{d}]")
            ending = [self.z[i, d] for i in range(len(instance)) if (i, d) in self.z]
            add(total(ending) + here <= instance.sequences).with_name(f"seats_step[{d}]")
            add(self.p[d] >= total(ending)).with_name(f"last_tokens_step[{d}]")
            reads = total((instance.prompt[i] + t) * v for i, t, v in decoding)
            add(
                reads + self.v[d] + total(instance.prompt[i] * v for i, v in self._in(d)) <= instance.kv
            ).with_name(f"memory[{d}]")
            # Before the step everyone who decodes in it holds one token less.
            add(reads - here + self.u[d] <= instance.kv).with_name(f"memory_before[{d}]")
            held = total((instance.prompt[i] + t - 1) * v for i, t, v in decoding if t > 1)
            for i in short:
                add(held + instance.prompt[i] * self.f[i, d] <= instance.kv).with_name(
                    f"memory_short[{i},{d}]"
                )
            for _, _, v in decoding:
                self.model.add_implication(v, self.a[d])
            add(here >= self.a[d]).with_name(f"step[{d}]")
            self.model.add_implication(self.m[d], self.a[d])
            for v in ending:
                self.model.add_implication(v, self.m[d])
            if d:
                self.model.add_implication(self.a[d], self.a[d - 1])

    def _order(self) -> None:
        alike = defaultdict(list)
        instance = self.instance
        for i in range(len(instance)):
            alike[instance.arrival[i], instance.prompt[i], instance.output[i], instance.own[i]].append(i)
        for group in alike.values():
            for i, j in pairwise(group):
                self.model.add(self.starts[i] <= self.starts[j]).with_name(f"order[{i},{j}]")

    def _floors(self) -> None:
        """Sums over all steps that each step's limit implies."""
        instance, add = self.instance, self.model.add
        read = sum(read_of(instance, i) for i in range(len(instance)))
        decodes = sum(instance.output) - len(instance)
        run = total(self.a)
        add(instance.kv * run >= read).with_name("area")
        add(instance.sequences * run >= decodes).with_name("seats")
        add(run >= max(instance.output) - 1).with_name("longest")
        chunks = instance.tokens * (total(self.y) + run)
        add(chunks >= sum(instance.prompt) + decodes).with_name("budget")
        add(instance.tokens * (total(self.y) + total(self.m)) >= sum(instance.prompt)).with_name("prompts")

    def _minimize(self) -> None:
        """Times of slots and requests, and the objective."""
        instance, cost, add = self.instance, self.instance.cost, self.model.add
        arrival = instance.arrival
        at_once = max(arrival) == min(arrival)
        parts: list[Linear] = []
        for d in range(self.steps + 1):
            parts.append(
                (cost.base + cost.launch) * self.y[d]
                + cost.token * self.q[d]
                + total(instance.own[i] * v for i, v in self._before(d))
            )
            if d < self.steps:
                parts.append(
                    (cost.base + cost.decode) * self.a[d]
                    + cost.launch * self.m[d]
                    + cost.token * self.p[d]
                    + total(instance.own[i] * v for i, v in self._in(d))
                    + total(
                        (cost.token + cost.sequence + cost.read * (instance.prompt[i] + t)) * v
                        for i, t, v in self.decoding[d]
                    )
                )
        if self.objective is Objective.MAKESPAN and at_once:
            goal = min(arrival) + total(parts)
        else:
            goal = self._ends(parts, at_once)
        add(goal >= self.floor).with_name("floor")
        add(goal <= self.most).with_name("known")
        self.model.minimize(goal)

    def _ends(self, parts: list[Linear], at_once: bool) -> Linear:
        instance, cost, add = self.instance, self.instance.cost, self.model.add
        n, start = len(instance), min(instance.arrival)
        latest = max(instance.arrival) + work_of(instance) + (cost.base + cost.decode) * self.steps
        latest += (cost.base + cost.launch) * (
            -(-sum(instance.prompt) // instance.tokens) + 2 * n + self.steps
        )
        latest = max(latest, self.most)
        time = [self.model.new_int_var(start, latest, f"t[{j}]") for j in range(len(parts))]
        before: Linear = total([start])
        for j, (moment, part) in enumerate(zip(time, parts, strict=True)):
            row = add(moment == before + part) if at_once else add(moment >= before + part)
            row.with_name(f"time[{j}]")
            before = moment
        begins: list[Linear] = [total([start]), *time]
        few = [self.model.new_bool_var(f"few[{d}]") for d in range(self.steps + 1)]
        for d, one in enumerate(few):
            add(self.y[d] <= 1).only_enforce_if(one)
            add(self.y[d] >= 2).only_enforce_if(~one)
        ends = [self.model.new_int_var(start, latest, f"c[{i}]") for i in range(n)]
        for i in range(n):
            alone = instance.first_alone(i)
            # Mixed with decodes a prompt needs no iteration of its own, but the tokens and a launch.
            mixed = cost.base + cost.launch + cost.token * instance.prompt[i] + instance.own[i]
            last = self.objective is not Objective.TTFT and instance.output[i] > 1
            later = instance.output[i] - 2
            for (k, d), literals in self.x.items():
                if k == i:
                    if not at_once:
                        add(time[2 * d] >= instance.arrival[i] + mixed).only_enforce_if(*literals)
                    if last:
                        add(ends[i] >= time[2 * (d + later) + 1]).only_enforce_if(self.f[i, d])
                    else:
                        add(ends[i] >= time[2 * d]).only_enforce_if(*literals, few[d])
                        least = cost.base + cost.launch + cost.token + instance.own[i]
                        add(ends[i] >= begins[2 * d] + least).only_enforce_if(*literals)
            for (k, d), v in self.z.items():
                if k == i:
                    if not at_once:
                        add(time[2 * d + 1] >= instance.arrival[i] + mixed).only_enforce_if(v)
                    if not last:
                        add(ends[i] >= time[2 * d + 1]).only_enforce_if(v)
            add(ends[i] >= instance.arrival[i] + (instance.alone(i) if last else alone))
        if self.objective is Objective.E2E:
            self._wait_for(ends)
        if self.objective is Objective.MAKESPAN:
            end = self.model.new_int_var(start, latest, "end")
            self.model.add_max_equality(end, ends)
            return end
        return total(ends)

    def _wait_for(self, ends: list[cp_model.IntVar]) -> None:
        """A request that ends in step d has seen d + 1 steps, its own tokens, and prompts that began to decode by
        then: those work on its time whoever they are."""
        instance, cost, add = self.instance, self.instance.cost, self.model.add
        start = min(instance.arrival)
        for i in self.several:
            own = cost.token * (instance.prompt[i] + instance.output[i] - 1) + instance.own[i] + cost.launch
            own += cost.sequence * (instance.output[i] - 1) + cost.read * read_of(instance, i)
            seen: Linear = total([])
            finish = self.starts[i] + instance.output[i] - 2
            for j in self.several:
                if j == i or len(self.several) > 20:
                    continue
                before = self.model.new_bool_var(f"before[{j},{i}]")
                add(self.starts[j] <= finish).only_enforce_if(before)
                add(self.starts[j] >= finish + 1).only_enforce_if(~before)
                seen += (cost.token * (instance.prompt[j] + 1) + cost.sequence + instance.own[j]
                         + cost.read * (instance.prompt[j] + 1)) * before  # fmt: skip
            row = add(ends[i] >= start + own + seen + (cost.base + cost.decode) * (finish + 1))
            row.with_name(f"wait[{i}]")

    # ------------------------------------------------------------ schedules in and out

    def hint(self, schedule: Schedule) -> None:
        """Starts the search at a schedule known already."""
        for i, (slot, mixed) in enumerate(places(self.instance, schedule)):
            first = slot + (mixed and i in self.several)
            for (k, d), v in self.f.items():
                if k == i:
                    self.model.add_hint(v, d == first and (i in self.several or not mixed))
            for (k, d), v in self.z.items():
                if k == i:
                    self.model.add_hint(v, mixed and d == slot)

    def schedule(self, solver: cp_model.CpSolver) -> Schedule:
        """The iterations of a solution: prompts in the order in which they are completed, short answers first."""
        instance = self.instance
        due: list[tuple[int, bool, bool, int, int]] = []
        for (i, d), literals in self.x.items():
            if all(solver.value(v) for v in literals):
                due.append((d, False, instance.output[i] > 1, instance.arrival[i], i))
        for (i, d), v in self.z.items():
            if solver.value(v):
                due.append((d, True, instance.output[i] > 1, instance.arrival[i], i))
        due.sort()
        left = list(instance.prompt)
        found: list[Iteration] = []

        def take(tokens: int, slot: tuple[int, bool]) -> tuple[tuple[int, int], ...]:
            """Prompts to be complete in the slot, then others but for their last token."""
            chunks = list[tuple[int, int]]()
            for d, mixed, _, _, i in due:
                ends = (d, mixed) <= slot
                if len(chunks) < instance.sequences and (chunk := min(tokens, max(0, left[i] - (not ends)))):
                    chunks.append((i, chunk))
                    tokens -= chunk
                    left[i] -= chunk
            return tuple(chunks)

        for d in range(self.steps + 1):
            tokens = solver.value(self.q[d])
            while tokens:
                found.append(Iteration(decodes=False, chunks=take(min(tokens, instance.tokens), (d, False))))
                tokens -= sum(c for _, c in found[-1].chunks)
            if d < self.steps and solver.value(self.a[d]):
                found.append(Iteration(decodes=True, chunks=take(solver.value(self.p[d]), (d, True))))
        return tuple(found)


def places(instance: ScheduleInstance, schedule: Schedule) -> list[tuple[int, bool]]:
    """Of every request the slot in which its prompt is complete, and whether in its decode step."""
    left, found, d = list(instance.prompt), [(0, False)] * len(instance), 0
    for iteration in schedule:
        for i, c in iteration.chunks:
            left[i] -= c
            if not left[i]:
                found[i] = d, iteration.decodes
        d += iteration.decodes
    return found
