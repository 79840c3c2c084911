"""The wide class: its optimum against every schedule with stalls and evictions, below unison's, above every floor."""

import heapq
from dataclasses import replace
from functools import partial
from itertools import product

import pytest

from formulations.problem import Limits, Status
from formulations.schedule import BatchCost, Objective
from formulations.schedule_best import solve
from formulations.schedule_csp import best_of_all, most_iterations
from formulations.schedule_search import search
from tests.formulations.test_schedule import tiny

LIMITS = Limits(time_s=120, work=20)


small = partial(tiny, requests=(2, 2, 3), longest=2, outputs=3, spare=2, budget=4, span=40, base=5)
"""Memory so scarce that evicting can pay, iterations that take time."""


def moves(instance, kept, emitted, clock):
    """Every iteration that can start now: its time, and what requests keep and have emitted after it."""
    cost = instance.cost
    options = []
    for i, (k, g) in enumerate(zip(kept, emitted, strict=True)):
        target = instance.prompt[i] + g
        own = [(0, False)]
        if g < instance.output[i] and instance.arrival[i] <= clock:
            own += [(c, False) for c in range(1, target - k + 1)]
            own += [(1, True)] * (g > 0 and k == target - 1)
        options.append(own)
    for chosen in product(*options):
        members = [i for i, (c, _) in enumerate(chosen) if c]
        after = [k + c for k, (c, _) in zip(kept, chosen, strict=True)]
        new = sum(c for c, _ in chosen)
        if (
            not members
            or new > instance.tokens
            or len(members) > instance.sequences
            or sum(after) > instance.kv
        ):
            continue
        decodes = [i for i in members if chosen[i][1]]
        done = [i for i in members if after[i] == instance.prompt[i] + emitted[i]]
        time = cost.base + cost.token * new + cost.launch * (len(decodes) < len(members))
        time += cost.decode * bool(decodes) + sum(cost.sequence + cost.read * after[i] for i in decodes)
        time += sum(instance.own[i] for i in done if i not in decodes)
        tokens = tuple(g + (i in done) for i, g in enumerate(emitted))
        for evicted in product((False, True), repeat=len(kept)):
            if any(out and not a for out, a in zip(evicted, after, strict=True)):
                continue
            yield (
                time,
                tuple(
                    0 if out or tokens[i] == instance.output[i] else a
                    for i, (a, out) in enumerate(zip(after, evicted, strict=True))
                ),
                tokens,
            )


def brute(instance, objective):
    """Cheapest state first, no solver."""
    n = len(instance)

    def owed(emitted):
        if objective is Objective.MAKESPAN:
            return 1
        wanted = [1] * n if objective is Objective.TTFT else instance.output
        return sum(g < w for g, w in zip(emitted, wanted, strict=True))

    start = min(instance.arrival)
    queue, seen = [(start * owed((0,) * n), start, (0,) * n, (0,) * n)], set()
    while True:
        value, clock, kept, emitted = heapq.heappop(queue)
        if emitted == instance.output:
            return value
        key = (kept, emitted, clock if max(instance.arrival) else 0)
        if key in seen:
            continue
        seen.add(key)
        for time, after, tokens in moves(instance, kept, emitted, clock):
            heapq.heappush(queue, (value + time * owed(emitted), clock + time, after, tokens))
        if later := [a for a in instance.arrival if a > clock]:
            wait = min(later) - clock
            heapq.heappush(queue, (value + wait * owed(emitted), clock + wait, kept, emitted))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("objective", Objective)
def test_the_optimum_equals_brute_force_and_is_between_floors_and_unison(objective, late):
    wider = 0
    for seed in range(12):
        instance = small(seed, late=late)
        unison = solve(instance, objective, LIMITS)
        status, value, bound = best_of_all(instance, objective, LIMITS, most=unison.value)
        assert status is Status.OPTIMAL and value == bound == brute(instance, objective), seed
        assert value <= unison.value, seed
        wider += value < unison.value
    assert wider or objective is Objective.MAKESPAN


def test_iterations_that_take_no_time_have_no_horizon():
    free = BatchCost(base=0, token=0, launch=0, decode=0, sequence=0, read=0)
    with pytest.raises(ValueError, match="no time"):
        most_iterations(replace(small(1, late=False), cost=free), Objective.MAKESPAN, 9)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("objective", Objective)
def test_the_search_gives_a_bound_below_its_optimum_and_a_schedule_that_attains_it(objective, late):
    """Of unison, where search is exact; with few moves it still bounds."""
    for seed in range(10):
        instance = tiny(seed, late=late, longest=2, outputs=3)
        best = solve(instance, objective, LIMITS).value
        for count in (2, 5, 20, 100):
            assert search(instance, objective, most=10**9, moves=count).bound <= best, (seed, count)
            assert search(instance, objective, most=10**9, moves=count, rough=True).bound <= best
