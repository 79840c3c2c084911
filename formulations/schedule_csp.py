"""The best schedule of a wide class with CP-SAT, indexed by iterations, in the manner of INFERMAX (arXiv 2411.07447).

Wider than unison (``formulations.schedule``): any running request may sit out any iteration, and any may be evicted
after an iteration, all its tokens dropped; its prompt and what it has emitted are then one prompt to compute again.
The price is a model that few requests fill: it is there to check the others, on instances of a handful of requests.

Sets       i requests, j iterations 1..J; J from ``most_iterations``
Data       as in ``formulations.schedule``; own[i] is paid again where a prompt is computed again
Variables  c[i,j] >= 0: new tokens of i; k[i,j], u[i,j] >= 0: tokens kept after, before evictions; t[i,j] binary: i
           emits a token; p[i,j], d[i,j] binary: its tokens are a chunk, a decode; e[i,j] binary: evicted or finished
           a[j], P[j], D[j] binary: iteration j is run, takes chunks, decodes; s[j], f[j]: start and end
           g[i,j] = sum of t[i,l], l < j: tokens emitted before
Minimise   the last end, or the sum of ends; for TTFT of first tokens alone: who has it is evicted, and served to its
           end when nobody waits for a first token
Subject    keep       u[i,j] = k[i,j-1] + c[i,j];  k[i,j] = 0 if e[i,j] else u[i,j];  0 where i has ended
           emit       u[i,j] <= prompt[i] + g[i,j], and t[i,j] where they are equal, c[i,j] >= 1;  sum_j t = output[i]
           part       p[i,j] + d[i,j] = 1 where c[i,j] >= 1, else 0;  d: c = 1, t, u > prompt[i]
           limits     sum_i c <= tokens;  sum_i u <= kv;  sum_i p + d <= sequences
           time       f[j] = s[j] + base a[j] + launch P[j] + decode D[j] + token sum_i c + own[i] where p and t
                      + (sequence + read u[i,j]) where d;  s[j] >= f[j-1];  s[j] >= arrival[i] where c[i,j] >= 1
"""

from dataclasses import replace

from ortools.sat.python import cp_model

from formulations import cpsat
from formulations.problem import Limits, Status
from formulations.schedule import Objective, ScheduleInstance
from formulations.schedule_cpsat import total


def best_of_all(
    instance: ScheduleInstance, objective: Objective, limits: Limits, *, most: int
) -> tuple[Status, int, int]:
    """Status, the objective of the best schedule found (-1: none), and a bound on all of the class.

    Parameters
    ----------
    most
        Objective of a schedule that is known, such as the best of the unison class.
    """
    if objective is Objective.TTFT:
        instance = replace(instance, output=(1,) * len(instance))
    model = _model(instance, objective, most)
    status, solver = cpsat.run(model, limits)
    if not status.has_solution:
        return status, -1, round(max(0.0, solver.best_objective_bound))
    return status, round(solver.objective_value), round(solver.best_objective_bound)


def most_iterations(instance: ScheduleInstance, objective: Objective, most: int) -> int:
    """Iterations that no schedule of objective ``most`` exceeds.

    Proof: every iteration takes its base, the cheaper of launch and decode, and a token; together they take no longer
    than from the first arrival to the last end. For a sum the others end no earlier than their prompts.
    """
    cost, n = instance.cost, range(len(instance))
    each = cost.base + min(cost.launch, cost.decode) + cost.token
    if not each:
        raise ValueError("An iteration that takes no time can be run without end.")
    least = [instance.arrival[i] + cost.base + cost.token * instance.prompt[i] for i in n]
    last = most
    if objective is not Objective.MAKESPAN:
        last = most - sum(least) + max(least)
    return (last - min(instance.arrival)) // each


def _model(instance: ScheduleInstance, objective: Objective, most: int) -> cp_model.CpModel:
    model, cost = cp_model.CpModel(), instance.cost
    new, integer, add = model.new_bool_var, model.new_int_var, model.add
    n, batches = len(instance), most_iterations(instance, objective, most)
    ends = [integer(0, most, f"end[{i}]") for i in range(n)]
    kept = [total([]) for _ in range(n)]
    emitted = [total([]) for _ in range(n)]
    before = total([min(instance.arrival)])
    used: cp_model.IntVar | None = None
    for j in range(batches):
        a, chunks, decodes = new(f"a[{j}]"), new(f"P[{j}]"), new(f"D[{j}]")
        start, end = integer(0, most, f"s[{j}]"), integer(0, most, f"f[{j}]")
        times = [cost.base * a, cost.launch * chunks, cost.decode * decodes]
        tokens: list[cp_model.IntVar] = []
        held: list[cp_model.IntVar] = []
        members: list[cp_model.LinearExprT] = []
        for i in range(n):
            prompt, top = instance.prompt[i], instance.prompt[i] + instance.output[i] - 1
            c, u = integer(0, min(top, instance.tokens), f"c[{i},{j}]"), integer(0, top, f"u[{i},{j}]")
            k, read = integer(0, top, f"k[{i},{j}]"), integer(0, top, f"read[{i},{j}]")
            p, d, t, e, own = (new(f"{name}[{i},{j}]") for name in ("p", "d", "t", "e", "own"))
            target = total([prompt, emitted[i]])
            add(u == kept[i] + c)
            add(u <= target - 1).only_enforce_if(~t)
            add(u == target).only_enforce_if(t)
            add(c >= p + d)
            add(c <= min(top, instance.tokens) * (p + d))
            add(t <= p + d)
            model.add_implication(d, t)
            add(c == 1).only_enforce_if(d)
            add(u >= prompt + 1).only_enforce_if(d)
            add(own >= p + t - 1)
            add(read == u).only_enforce_if(d)
            emitted_before, emitted[i] = emitted[i], total([emitted[i], t])
            add(k == u).only_enforce_if(~e)
            add(k == 0).only_enforce_if(e)
            add(k <= top * (instance.output[i] - emitted[i]))
            add(c <= top * (instance.output[i] - emitted_before))
            add(start >= instance.arrival[i]).only_enforce_if(p)
            for member in (p, d):
                model.add_implication(member, a)
            model.add_implication(p, chunks)
            model.add_implication(d, decodes)
            add(ends[i] >= end).only_enforce_if(t)
            times += [cost.token * c, instance.own[i] * own, cost.sequence * d, cost.read * read]
            tokens, held, members = [*tokens, c], [*held, u], [*members, p + d]
            kept[i] = total([k])
        add(total(tokens) <= instance.tokens).with_name(f"tokens[{j}]")
        add(total(held) <= instance.kv).with_name(f"memory[{j}]")
        add(total(members) <= instance.sequences).with_name(f"sequences[{j}]")
        add(total(members) >= a).with_name(f"run[{j}]")
        add(start >= before)
        add(end == start + total(times)).with_name(f"time[{j}]")
        if used is not None:
            model.add_implication(a, used)
        before, used = total([end]), a
    for i in range(n):
        add(emitted[i] == instance.output[i]).with_name(f"served[{i}]")
    goal = total(ends)
    if objective is Objective.MAKESPAN:
        goal = total([integer(0, most, "makespan")])
        for end in ends:
            add(goal >= end)
    add(goal <= most).with_name("known")
    model.minimize(goal)
    return model
