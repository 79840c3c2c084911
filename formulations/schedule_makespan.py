"""The least makespan of the unison class (``formulations.schedule``) with CP-SAT where all arrive at once: counting.

Every token is paid wherever it runs, so the makespan is a constant plus what iterations cost besides: the model
counts them. Slot d, for d = 0..D, has y[d] iterations of chunks alone, then (d < D) decode step d, which may take
chunks along.

Sets       i requests, d slots; a request decodes in output[i] - 1 steps, one after another
Data       as in ``formulations.schedule``; ``work`` = the time of all tokens; A, the least number of decode steps
Variables  f[i,d] binary: i first decodes in step d (output[i] = 1: its prompt is complete before step d, after d - 1
           began); y[d] >= 0, integer; a[d], m[d] binary: step d is run, takes chunks along
           q[d], p[d] >= 0: tokens of prompts before, in step d;  v[d] >= 0: those kept after it, not yet decoding
Minimise   work + (base + launch) sum_d y[d] + launch sum_d m[d] + (base + decode) sum_d a[d]
Subject    once[i]     sum_d f[i,d] = 1
           flow[d]     u[d] = v[d-1] + q[d] - sum_i prompt[i] f[i,d] >= 0;  v[d] = u[d] + p[d];  u[D] = 0
           last[d]     q[d] + p[d-1] >= sum_i f[i,d]: prompts end just before their first decode
           chunk[i,d]  f[i,d] <= y[d] + m[d-1]
           budget[d]   y[d] <= q[d] <= tokens y[d];  m[d] <= p[d] <= tokens m[d];  p[d] + decodes[d] <= tokens
           seats[d]    decodes[d] <= sequences
           memory[d]   what decodes read + v[d] <= kv;  the same before the step
           begun[d]    where y[d] >= 1: what those keep that decode before and in it + v[d-1] + q[d] - tokens (y[d] - 1)
                       <= kv, at the end of the first of y[d] iterations, less the prompts of answers of one token
                       that are due: they may have left after the step before
           step[d]     a[d] where anyone decodes or m[d], and only there;  a[d] <= a[d-1];  a[d] = 1 for d < A
           order       of requests that are alike the first in the list is first

Every schedule of the class satisfies all of it: D is what ``counted_steps`` says, and a slot
without decodes is no slot. Prompts that are complete in the same slot are not told apart, so the model may be a little
early; its schedule is run, and that is the value.
"""

from itertools import pairwise

from ortools.sat.python import cp_model

from formulations.schedule import Schedule, ScheduleInstance
from formulations.schedule_cpsat import places, total
from formulations.schedule_fill import run_slots
from formulations.schedule_floor import read_of, work_of


def counted_steps(instance: ScheduleInstance, most: int) -> int:
    """Decode steps that no schedule of makespan ``most`` exceeds.

    Proof: one request at a time takes all steps that there are. Besides, the work of all tokens, one iteration of
    prompts before anyone decodes, and every step take their time.
    """
    cost = instance.cost
    serial, each = sum(instance.output) - len(instance), cost.base + cost.decode
    left = most - min(instance.arrival) - work_of(instance) - cost.base
    return max(0, min(serial, left // each)) if each else serial


def counted_floor(instance: ScheduleInstance) -> int:
    """A bound on the makespan where all arrive at once: the best counts of iterations, each limit summed over all.

    Proof: tokens of prompts that run beside decodes are kept at the end of that step with all that is read in it, so
    over A steps they are at most kv A less all reads, and tokens A less all decodes; in m steps at most tokens m.
    The others take iterations of their own, one at least. Another step pays while it saves more than it takes.
    """
    cost, n = instance.cost, len(instance)
    whole, later = sum(instance.prompt), sum(instance.output) - n
    launches = -(-whole // instance.tokens)
    work = work_of(instance) - cost.launch * launches
    read = sum(read_of(instance, i) for i in range(n))
    fewest, each = fewest_steps(instance), cost.base + cost.decode
    best: int | None = None
    for steps in range(fewest, later + 1):
        room = min(instance.kv * steps - read, instance.tokens * steps - later)
        for mixed in range(min(steps, launches) + 1):
            beside = max(0, min(room, instance.tokens * mixed))
            alone = max(1, -(-(whole - beside) // instance.tokens))
            time = (cost.base + cost.launch) * alone + cost.launch * mixed + each * steps
            best = time if best is None else min(best, time)
        if best is not None and cost.base + cost.launch + each * (steps + 1) >= best:
            break
    return min(instance.arrival) + work + (best or 0)


def fewest_steps(instance: ScheduleInstance) -> int:
    """Decode steps of the longest answer, or that memory or sequences need."""
    read = sum(read_of(instance, i) for i in range(len(instance)))
    later = sum(instance.output) - len(instance)
    return max(max(instance.output) - 1, -(-read // instance.kv), -(-later // instance.sequences))


class MakespanCpSat:
    """The model of the module for one instance, between a bound and a makespan that are known."""

    def __init__(self, instance: ScheduleInstance, *, steps: int, floor: int, most: int) -> None:
        self.instance, cost = instance, instance.cost
        self.model = cp_model.CpModel()
        n, self.whole = len(instance), sum(instance.prompt)
        self.launches = -(-self.whole // instance.tokens)
        self.work = work_of(instance) - cost.launch * self.launches
        self.steps = steps
        self.fewest = fewest_steps(instance)
        integer, new = self.model.new_int_var, self.model.new_bool_var
        rounds = self.launches + 2 * n
        self.first = {
            (i, d): new(f"f{(i, d)}") for i in range(n) for d in range(steps - instance.output[i] + 2)
            if d <= steps
        }  # fmt: skip
        self.y = [integer(0, rounds, f"y[{d}]") for d in range(steps + 1)]
        self.q = [integer(0, self.whole, f"q[{d}]") for d in range(steps + 1)]
        self.p = [integer(0, min(self.whole, instance.tokens), f"p[{d}]") for d in range(steps)]
        self.v = [integer(0, min(self.whole, instance.kv), f"v[{d}]") for d in range(steps)]
        self.a = [new(f"a[{d}]") for d in range(steps)]
        self.m = [new(f"m[{d}]") for d in range(steps)]
        self.decoding: list[list[tuple[int, int, cp_model.IntVar]]] = [[] for _ in range(steps)]
        for (i, d), literal in self.first.items():
            for t in range(instance.output[i] - 1):
                self.decoding[d + t].append((i, t + 1, literal))
        self._once()
        for d in range(steps + 1):
            self._fill(d)
        self._order()
        self._minimize(floor, most)

    def _once(self) -> None:
        for i in range(len(self.instance)):
            literals = [v for (k, _), v in self.first.items() if k == i]
            self.model.add_exactly_one(literals).with_name(f"once[{i}]")

    def _fill(self, d: int) -> None:
        """Rows of slot d."""
        instance, add, mixed = self.instance, self.model.add, self.m[d - 1] if d else 0
        starts = [(i, self.first[i, d]) for i in range(len(instance)) if (i, d) in self.first]
        before = total([self.v[d - 1] if d else 0, self.q[d]])
        left = before - total(instance.prompt[i] * v for i, v in starts)
        add(left >= 0).with_name(f"flow[{d}]")
        add(self.q[d] <= instance.tokens * self.y[d]).with_name(f"budget[{d}]")
        add(self.q[d] >= self.y[d]).with_name(f"filled[{d}]")
        add(self.q[d] + (self.p[d - 1] if d else 0) >= total(v for _, v in starts)).with_name(f"last[{d}]")
        for i, v in starts:
            add(self.y[d] + mixed >= 1).only_enforce_if(v).with_name(f"chunk[{i},{d}]")
        if d == self.steps:
            add(left == 0).with_name("flow_end")
            return
        here = total(v for _, _, v in self.decoding[d])
        reads = total((instance.prompt[i] + t) * v for i, t, v in self.decoding[d])
        add(self.v[d] == left + self.p[d]).with_name(f"kept[{d}]")
        add(reads + self.v[d] <= instance.kv).with_name(f"memory[{d}]")
        add(reads - here + left <= instance.kv).with_name(f"memory_before[{d}]")
        held = total((instance.prompt[i] + t - 1) * v for i, t, v in self.decoding[d] if t > 1)
        short = [(i, v) for i, v in starts if instance.output[i] == 1]
        for i, v in short:
            add(held + instance.prompt[i] <= instance.kv).only_enforce_if(v)
        if short:
            some = self.model.new_bool_var(f"some[{d}]")
            add(self.y[d] >= 1).only_enforce_if(some)
            add(self.y[d] == 0).only_enforce_if(~some)
            later = instance.tokens * (self.y[d] - 1) + total(instance.prompt[i] * v for i, v in short)
            add(held + before <= instance.kv + later).only_enforce_if(some).with_name(f"begun[{d}]")
        add(self.p[d] <= instance.tokens * self.m[d]).with_name(f"mixed[{d}]")
        add(self.p[d] >= self.m[d]).with_name(f"mixed_filled[{d}]")
        add(self.p[d] + here <= instance.tokens).with_name(f"budget_step[{d}]")
        add(here <= instance.sequences).with_name(f"seats[{d}]")
        add(here >= self.a[d]).with_name(f"step[{d}]")
        for literal in [self.m[d], *(v for _, _, v in self.decoding[d])]:
            self.model.add_implication(literal, self.a[d])
        if d:
            self.model.add_implication(self.a[d], self.a[d - 1])
        if d < self.fewest:
            add(self.a[d] == 1).with_name(f"fewest[{d}]")

    def _order(self) -> None:
        kinds: dict[tuple[int, int, int], list[int]] = {}
        instance = self.instance
        for i in range(len(instance)):
            kinds.setdefault((instance.prompt[i], instance.output[i], instance.own[i]), []).append(i)
        start = {i: total(d * v for (k, d), v in self.first.items() if k == i) for i in range(len(instance))}
        for group in kinds.values():
            for i, j in pairwise(group):
                self.model.add(start[i] <= start[j]).with_name(f"order[{i},{j}]")

    def _minimize(self, floor: int, most: int) -> None:
        cost, add = self.instance.cost, self.model.add
        chunks, mixed, steps = total(self.y), total(self.m), total(self.a)
        add(self.instance.tokens * chunks + total(self.p) >= self.whole).with_name("prompts")
        add(chunks + mixed >= self.launches).with_name("launches")
        goal = (
            min(self.instance.arrival) + self.work
            + (cost.base + cost.launch) * chunks + cost.launch * mixed + (cost.base + cost.decode) * steps
        )  # fmt: skip
        add(goal >= floor).with_name("floor")
        add(goal <= most).with_name("known")
        self.model.minimize(goal)

    # ------------------------------------------------------------ schedules in and out

    def hint(self, schedule: Schedule) -> None:
        """Starts the search at a schedule known already."""
        for i, (slot, mixed) in enumerate(places(self.instance, schedule)):
            for (k, d), v in self.first.items():
                if k == i:
                    self.model.add_hint(v, d == slot + mixed)

    def schedule(self, solver: cp_model.CpSolver) -> Schedule:
        """The iterations of a solution."""
        first = {i: d for (i, d), v in self.first.items() if solver.value(v)}
        before, beside = ([solver.value(v) for v in tokens] for tokens in (self.q, self.p))
        return run_slots(self.instance, [first[i] for i in range(len(first))], before, beside)
