"""Exact schedules: against every schedule of the class, above every bound, below every heuristic."""

import heapq
import random
from contextlib import suppress
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from formulations import schedule_best, schedule_floor, schedule_levels, schedule_paths
from formulations.problem import Limits, Status
from formulations.schedule import (
    BatchCost,
    Iteration,
    Objective,
    ScheduleInstance,
    Server,
    greedy_schedules,
    replay,
)
from formulations.schedule_best import solve
from formulations.schedule_coarse import coarse, fine
from formulations.schedule_fill import anneal, schedule_of, slots_of
from formulations.schedule_floor import floor_of, value_of
from formulations.schedule_levels import Levels
from formulations.schedule_makespan import counted_floor, fewest_steps, least_of
from formulations.schedule_orders import _schedule, _value, ordered_schedules
from formulations.schedule_paths import FOUND, GAVE_UP, MORE, NONE, Paths
from formulations.schedule_search import search
from formulations.schedule_togo import IntArray, data_of

LIMITS = Limits(time_s=60, work=5)


def tiny(seed, *, requests=3, longest=3, outputs=4, late=False, spare=8, budget=6, span=60, base=0):
    """Costs of any proportion, memory and budget that often bind.

    ``requests``: one number or several to draw from; ``spare``: tokens of memory beyond the longest, at most;
    ``span``: last arrival where they are ``late``; ``base``: of the cost, at least.
    """
    rng = random.Random(seed)
    n = requests if isinstance(requests, int) else rng.choice(requests)
    prompt = [rng.randint(1, longest) for _ in range(n)]
    output = [rng.randint(1, outputs) for _ in range(n)]
    least = max(p + o - 1 for p, o in zip(prompt, output, strict=True))
    return ScheduleInstance(
        arrival=tuple(sorted(rng.randint(0, span) * late for _ in range(n))),
        prompt=tuple(prompt),
        output=tuple(output),
        own=tuple(rng.choice([0, rng.randint(0, 9)]) for _ in range(n)),
        kv=least + rng.randint(0, spare),
        tokens=rng.randint(n, budget),
        sequences=rng.randint(1, n),
        cost=BatchCost(
            base=rng.randint(base, 20),
            token=rng.randint(0, 4),
            launch=rng.randint(0, 9),
            decode=rng.randint(1, 9),
            sequence=rng.randint(0, 3),
            read=rng.randint(0, 2),
        ),
    )


def copied(server):
    other = Server(server.instance)
    other.clock = server.clock
    other.done, other.emitted = list(server.done), list(server.emitted)
    other.first, other.last = list(server.first), list(server.last)
    return other


def brute(instance, objective):
    """Every iteration in every state; no slots, no solver. Cheapest state first."""
    n = len(instance)

    start = Server(instance)
    queue, seen, count = [(0, 0, start)], set(), 0
    while True:
        value, _, server = heapq.heappop(queue)
        key = (tuple(server.done), tuple(server.emitted), server.clock if max(instance.arrival) else 0)
        if key in seen:
            continue
        seen.add(key)
        if min(server.last) >= 0:
            return value
        moves = []
        for decodes in (False, True):
            if decodes and not server.running:
                continue
            here = [i for i in range(n) if instance.arrival[i] <= server.clock]
            choices = [range(min(instance.prompt[i] - server.done[i], instance.tokens) + 1) for i in here]
            for sizes in product(*choices):
                chunks = tuple((i, c) for i, c in zip(here, sizes, strict=True) if c)
                if chunks or decodes:
                    moves.append(Iteration(decodes=decodes, chunks=chunks))
        nexts = []
        for move in moves:
            other = copied(server)
            try:
                other.run(move)
            except ValueError:
                continue
            nexts.append(other)
        later = [a for a in instance.arrival if a > server.clock]
        if later:  # waiting for somebody
            other = copied(server)
            other.clock = min(later)
            nexts.append(other)
        for other in nexts:
            count += 1
            heapq.heappush(queue, (value + ended(server, other, objective), count, other))


def ended(before, after, objective):
    """What a move adds to the objective: requests pay for time until they end."""
    if objective is Objective.MAKESPAN:
        return after.clock - before.clock
    return sum(
        after.clock - before.clock
        for i in range(len(before.last))
        if (before.last if objective is Objective.E2E else before.first)[i] < 0
    )


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("late", [False, True])
def test_bound_and_value_enclose_every_schedule(objective, late):
    proven = 0
    for seed in range(25):
        instance = tiny(seed, late=late, longest=2, outputs=3)
        best = brute(instance, objective)
        assert floor_of(instance, objective) <= best, seed
        found = solve(instance, objective, LIMITS)
        assert found.bound <= best <= found.value, seed
        assert value_of(instance, found.schedule, objective) == found.value
        assert (found.status is Status.OPTIMAL) == (found.bound == found.value)
        proven += found.status is Status.OPTIMAL
    if objective is Objective.MAKESPAN and not late:
        assert proven == 25


def test_optimum_equals_brute_force_where_every_answer_has_several_tokens():
    """All arrive at once, so the model is never early."""
    for seed in range(30):
        instance = tiny(seed, longest=2, outputs=3)
        instance = replace(instance, output=tuple(max(2, o) for o in instance.output), kv=instance.kv + 1)
        found = solve(instance, Objective.E2E, LIMITS)
        assert found.value == brute(instance, Objective.E2E), seed
        assert found.status is Status.OPTIMAL, seed


@pytest.mark.parametrize("objective", Objective)
def test_no_greedy_schedule_beats_a_bound(objective):
    for seed in range(25):
        instance = tiny(seed, requests=5, longest=5, outputs=5, late=bool(seed % 2))
        found = solve(instance, objective, Limits(time_s=60, work=0.1))
        values = [value_of(instance, schedule, objective) for schedule in greedy_schedules(instance)]
        assert found.bound <= found.value <= min(values), seed


@pytest.mark.parametrize("objective", Objective)
def test_orders_give_schedules_of_the_class(objective):
    """More tries are no worse, the first is the order by arrival, and a seed gives the same again."""
    better = 0
    for seed in range(15):
        instance = tiny(seed, requests=6, longest=5, outputs=5, late=bool(seed % 2))
        values = []
        for tries in (0, 200, 200):
            found = ordered_schedules(instance, objective, tries=tries, seed=seed)
            values.append([value_of(instance, schedule, objective) for schedule in found])
        assert values[1] == values[2] and all(a >= b for a, b in zip(values[0], values[1], strict=True))
        better += values[1] != values[0]
    assert better >= 5


def test_counted_iterations_are_a_floor_of_the_makespan():
    """Closer than the floor of ``schedule_floor`` for some, above the optimum for none."""
    closer = 0
    for seed in range(40):
        instance = tiny(seed, longest=3, outputs=3)
        best = brute(instance, Objective.MAKESPAN)
        assert counted_floor(instance) <= best, seed
        closer += counted_floor(instance) > floor_of(instance, Objective.MAKESPAN)
        alone = tiny(seed, requests=1, longest=6)
        assert counted_floor(alone) <= alone.alone(0)
    assert closer >= 1


PLAIN = BatchCost(base=20, token=1, launch=1, decode=0, sequence=0, read=0)


@pytest.mark.parametrize(
    ("prompt", "output", "kv", "tokens", "cost", "best"),
    [  # steps that take prompts along are more than launches; an answer of one token that left with the step before
        ((4, 2, 5), (3, 2, 4), 12, 11, PLAIN, 120),
        ((4, 9, 6), (1, 3, 2), 12, 8, replace(PLAIN, decode=30), 215),
    ],
)
def test_no_schedule_is_better_than_what_counts_prove(monkeypatch, prompt, output, kv, tokens, cost, best):
    monkeypatch.setattr(schedule_best, "FEW", 0)
    instance = ScheduleInstance(
        arrival=(0, 0, 0),
        prompt=prompt,
        output=output,
        own=(0, 0, 0),
        kv=kv,
        tokens=tokens,
        sequences=3,
        cost=cost,
    )
    assert brute(instance, Objective.MAKESPAN) == best
    found = schedule_best.solve(instance, Objective.MAKESPAN, LIMITS)
    assert found.bound <= best <= found.value


def test_many_with_answers_of_one_token_are_not_called_best_too_soon():
    """A schedule of 656 is known; 661 was once proven."""
    instance = ScheduleInstance(
        arrival=(0,) * 11, prompt=(4,) * 4 + (5,) * 4 + (9,) * 3, output=(2,) * 4 + (1,) * 4 + (4,) * 3, own=(0,) * 11,
        kv=13, tokens=6, sequences=11, cost=replace(PLAIN, launch=15),
    )  # fmt: skip
    assert schedule_best.solve(instance, Objective.MAKESPAN, Limits(time_s=60, work=1)).bound <= 656


def test_counts_of_iterations_below_the_optimum_are_refuted_and_its_own_are_not():
    """And first decodes that annealing finds are as good for most; neither is ever better."""
    found_best = annealed_best = 0
    for seed in range(60):
        instance = tiny(seed, requests=3 + seed % 2, longest=4, outputs=3, spare=4)
        best, data = brute(instance, Objective.MAKESPAN), data_of(instance, Objective.MAKESPAN)
        steps = range(fewest_steps(instance), sum(instance.output) - len(instance) + 1)
        levels = Levels(instance, steps, work=1000)
        while levels.result == NONE:
            assert levels.value <= best, seed
            levels.advance(100_000)
        assert levels.result == FOUND, seed
        found_best += levels.value == best
        with suppress(ValueError):
            schedule = schedule_of(instance, data, levels.first, levels.steps)
            assert value_of(instance, schedule, Objective.MAKESPAN) >= best
        rng = np.random.default_rng(seed)
        for a in range(levels.steps, levels.steps + 2):
            for rough in (True, False):
                first, cost = anneal(data, np.zeros(len(instance), np.int64), a, slots_of(a), 300, rough, rng)
                if cost >= 0:
                    with suppress(ValueError):
                        value = value_of(instance, schedule_of(instance, data, first, a), Objective.MAKESPAN)
                        assert value >= best, seed
                        annealed_best += value == best
    assert min(found_best, annealed_best) >= 35


def counts_of(instance):
    """Decode steps, iterations alone and steps that take prompts along of every schedule where all arrive at once."""
    n, start = len(instance), Server(instance)
    states, seen, found = [(start, 0, 0, 0)], set(), set()
    while states:
        server, *counts = states.pop()
        if min(server.last) >= 0:
            found.add(tuple(counts))
            continue
        for decodes in (False, True):
            choices = [range(min(instance.prompt[i] - server.done[i], instance.tokens) + 1) for i in range(n)]
            for sizes in product(*choices):
                chunks = tuple((i, c) for i, c in enumerate(sizes) if c)
                if chunks or (decodes and server.running):
                    other = copied(server)
                    with suppress(ValueError):
                        other.run(Iteration(decodes=decodes and bool(server.running), chunks=chunks))
                        beside = decodes and server.running
                        after = (
                            counts[0] + bool(beside),
                            counts[1] + (not beside),
                            counts[2] + bool(beside and chunks),
                        )
                        key = (tuple(other.done), tuple(other.emitted), *after)
                        if key not in seen:
                            seen.add(key)
                            states.append((other, *after))
    return found


def least_toll(instance, exist, steps):
    """Of the counts that exist, for so many decode steps: what iterations of prompts cost."""
    cost = instance.cost
    return min((cost.base + cost.launch) * y + cost.launch * m for d, y, m in exist if d == steps)


def ended_search(paths, work=200_000):
    while paths.result == MORE:
        paths.go_on(work)
    return paths.result


def small(seed):
    return tiny(seed, requests=(2, 3, 3), longest=3, outputs=3, spare=5, budget=5)


@pytest.mark.parametrize("digits", [0, 2])
def test_whatever_exists_is_found_from_either_end(digits):
    """With as many iterations as any schedule has; most that no schedule has are refuted. Sums may share a bit."""
    some, refuted, open_ = 0, 0, 0
    for seed in range(150):
        instance = small(seed)
        exist = counts_of(instance)
        for steps in {d for d, _, _ in exist if d > 0}:
            for backward in (False, True):
                paths = Paths(instance, steps, backward=backward, states=1000)
                paths._tree.size[schedule_paths.DIGITS] = digits
                for alone, rides in product(range(1, 4), range(min(3, steps) + 1)):
                    there = any(d == steps and y <= alone and m <= rides for d, y, m in exist)
                    paths.begin(alone, rides)
                    result = ended_search(paths)
                    assert result == FOUND or not there, (seed, steps, backward, alone, rides)
                    some += there
                    refuted += not there and result == NONE
                    open_ += not there and result == FOUND
    assert some >= 500 and refuted >= 4 * open_ > 0


@pytest.mark.parametrize("part", [0.0, 0.3, 0.55, 1.0])
@pytest.mark.parametrize("scarce", ["unread", "waste"])
def test_what_exists_is_found_from_one_end_where_both_may_waste_but_a_part(part, scarce):
    some = 0
    for seed in range(150, 250):
        instance = small(seed)
        both = dict[int, list[Paths]]()
        for steps, alone, rides in sorted(counts_of(instance)):
            if steps not in both:
                both[steps] = [
                    Paths(instance, steps, backward=b, states=1000) for b in (False, True) if steps > 0
                ]
            ends = both[steps]
            for end in ends:  # what this remembers holds for no other
                end.begin(alone, rides, until=steps, unread=seed % 3, waste=seed % 4)
                ended_search(end)
            for end, until in zip(ends, (steps // 2, steps - steps // 2), strict=False):
                waste = end.spare + instance.tokens * alone - sum(instance.prompt)
                whole = {"unread": end.spare, "waste": waste}
                most = int(part * whole[scarce])
                limits = whole | {scarce: whole[scarce] - most - 1 if end is ends[1] else most}
                end.begin(alone, rides, until=until, **limits)
            assert not ends or FOUND in [ended_search(end) for end in ends], (seed, steps, alone, rides)
            some += 1
    assert some >= 300


def test_no_better_schedule_of_so_many_steps_is_missed():
    """By its makespan, and what is refuted of that stays a bound."""
    some = refuted = 0
    for seed in range(250, 350):
        instance = small(seed)
        exist = counts_of(instance)
        for steps in {d for d, _, _ in exist if d > 0}:
            toll = least_toll(instance, exist, steps)
            best = least_of(instance, steps) + toll
            for value in (best + 1, best, best - toll // 2):
                levels = Levels(instance, range(steps, steps + 1), work=1000)
                levels.advance_below(value, steps, 100_000)
                assert levels.result == FOUND or value <= best, (seed, steps, value)
                assert levels.value_of(steps) <= best, (seed, steps, value)
                refuted += levels.result == NONE
            some += 1
    assert some >= 120 and refuted >= 100


def passes_over(met, most):
    def accepts(first, steps):
        met.append(first)
        return len(met) > most

    return accepts


def test_what_is_not_accepted_is_passed_over_and_proves_nothing():
    """And other searches remember nothing of it."""
    others = 0
    for seed in range(250, 300):
        instance = small(seed)
        exist = counts_of(instance)
        for steps in {d for d, _, _ in exist if d > 0}:
            best, every = least_of(instance, steps) + least_toll(instance, exist, steps), list[IntArray]()
            levels = Levels(instance, range(steps, steps + 1), work=1000, accepts=passes_over(every, 10**9))
            levels.advance_below(best + 50, steps, 1_000_000)
            assert levels.result == GAVE_UP and every, (seed, steps)
            assert levels.value_of(steps) <= best, (seed, steps)
            for most in (0, 1):
                levels._accepts = passes_over([], most)
                levels.advance_below(best + 50, steps, 1_000_000)
                assert levels.result == (FOUND if len(every) > most else GAVE_UP), (seed, steps, most)
            others += len(every) > 1
    assert others >= 20


@pytest.mark.parametrize("part", [0.2, 0.55])
def test_no_better_schedule_is_missed_where_both_ends_pay_part_of_an_iteration(monkeypatch, part):
    """What is paid for steps that take prompts along leaves fewer iterations, and neither end wastes those; so, too,
    where an end may waste another part than before."""
    monkeypatch.setattr(schedule_levels, "PART", part)
    monkeypatch.setattr(schedule_levels, "TURN", 5)
    moved = set[bool]()
    for seed in (148, 244, 297, 423, 438):
        instance = tiny(seed, longest=3, outputs=5, budget=3)
        exist = counts_of(instance)
        for steps, launch in product({d for d, _, _ in exist if d > 0}, (3, 4, 7)):
            case = replace(instance, cost=replace(instance.cost, base=10 - launch, launch=launch))
            best = least_of(case, steps) + least_toll(case, exist, steps)
            for value in range(best + 1, best + 4):
                levels = Levels(case, range(steps, steps + 1), work=1000)
                levels.advance_below(value, steps, 100_000)
                assert levels.result == FOUND, (seed, steps, launch, value)
            levels.advance_below(best, steps, 100_000)
            moved.add(levels._part[steps] != [part, part])
            levels.advance_below(best + 1, steps, 100_000)
            assert levels.result == FOUND, (seed, steps, launch)
    assert moved == {False, True}


@pytest.mark.parametrize(
    "prompt, output, kv, tokens, steps, limits",
    [
        (
            (3, 2, 3, 2, 2, 1, 2, 1, 1),
            (3, 1, 3, 1, 3, 2, 2, 2, 2),
            *(10, 4, 5),
            {"alone": 5, "rides": 5, "toll": 53, "until": 4, "unread": 16, "waste": 4},
        ),
        (
            (4, 16, 12, 1, 19, 20),
            (2, 2, 2, 3, 4, 4),
            *(23, 6, 9),
            {"alone": 14, "rides": 9, "toll": 143, "until": 9, "unread": 38, "waste": 28},
        ),
    ],
)
def test_a_state_that_wasted_more_says_nothing_of_one_that_wasted_less(
    prompt, output, kv, tokens, steps, limits
):
    """Where a toll affords either as many iterations, though one ran fewer."""
    cost = BatchCost(base=0, token=0, launch=10, decode=1, sequence=0, read=0)
    nobody = (0,) * len(prompt)
    instance = ScheduleInstance(
        arrival=nobody, prompt=prompt, output=output, own=nobody, kv=kv, tokens=tokens, sequences=9, cost=cost
    )
    paths = Paths(instance, steps, backward=False, states=100_000)
    paths.begin(**limits)
    assert ended_search(paths) == FOUND


def half_empty(seed):
    return tiny(seed, requests=(4, 5, 6), longest=10, outputs=4, spare=15, budget=10)


@pytest.mark.parametrize("seed, steps, alone, rides", [(281, 3, 2, 0), (281, 3, 2, 2), (160, 3, 5, 0)])
def test_one_that_has_ended_takes_half_of_another_and_never_of_itself(monkeypatch, seed, steps, alone, rides):
    """However soon; and takes the same way each time."""
    for turn in (0, 1, 5, 10**6):
        monkeypatch.setattr(schedule_levels, "TURN", turn)
        left = set[int]()
        for _ in range(3):
            levels = Levels(half_empty(seed), range(steps, steps + 1), work=1000)
            left.add(levels._search(steps, alone, rides, None, 10**6))
            assert levels.result == FOUND, turn
        assert len(left) == 1


def test_whoever_searches_all_that_exists_is_met(monkeypatch):
    """Whatever takes turns, and where all is passed over."""
    some = 0
    for seed, rides in product(range(80), (0, 1)):
        instance = half_empty(seed)
        steps, alone, all_met = fewest_steps(instance), 4, list[set[tuple[int, ...]]]()
        for turn in (10**6, 40, 3):
            monkeypatch.setattr(schedule_levels, "TURN", turn)
            met = set[tuple[int, ...]]()
            all_met.append(met)
            levels = Levels(
                instance,
                range(steps, steps + 1),
                work=1000,
                accepts=lambda first, _, met=met: met.add(tuple(first)),
            )
            levels._search(steps, alone, rides, None, 10**7)
            assert levels.result == (GAVE_UP if met else NONE)
        assert all_met[0] == all_met[1] == all_met[2], (seed, rides)
        some += len(all_met[0]) > 1
    assert some >= 40


@pytest.mark.parametrize(
    "prompt, output, kv, tokens, counts",
    [((2, 3, 3, 2), (2, 2, 1, 1), 5, 4, (2, 2, 1)), ((4, 2, 4), (1, 2, 2), 6, 5, (2, 2, 0))],
)
def test_answers_of_one_token_are_due_beside_what_a_step_reads(prompt, output, kv, tokens, counts):
    """So a move may lead to a step that reads less than is due there."""
    nobody, cost = (0,) * len(prompt), BatchCost(base=0, token=0, launch=10, decode=1, sequence=0, read=0)
    instance = ScheduleInstance(
        arrival=nobody, prompt=prompt, output=output, own=nobody, kv=kv, tokens=tokens, sequences=9, cost=cost
    )
    steps, alone, rides = counts
    assert counts in counts_of(instance)
    for backward in (False, True):
        paths = Paths(instance, steps, backward=backward, states=1000)
        paths.begin(alone, rides)
        assert ended_search(paths) == FOUND


@pytest.mark.parametrize("name, value, saves", [("WORDS", 1, 0), ("ROWS", 4, 0.1), ("ROWS", 1 << 12, 0)])
def test_what_is_marked_or_remembered_saves_work_and_changes_no_answer(monkeypatch, name, value, saves):
    """Sums that share a bit; few states in the table."""
    answers, work = list[list[int]](), [0, 0]
    for changed in (False, True):
        if changed:
            monkeypatch.setattr(schedule_paths, name, value)
        answers.append([])
        for seed in range(30):
            instance = tiny(seed, requests=7, longest=60, outputs=5, spare=150, budget=60)
            for steps in range(fewest_steps(instance), fewest_steps(instance) + 2):
                for backward, alone, rides in product((False, True), (2, 4, 6), (0, 2)):
                    paths = Paths(instance, steps, backward=backward, states=10**6)
                    paths.begin(alone, rides)
                    while paths.result == MORE:
                        work[changed] += paths.go_on(200_000)
                    answers[-1].append(paths.result)
    assert answers[0] == answers[1] and work[0] <= (1 - saves) * work[1], work
    assert min(answers[0].count(FOUND), answers[0].count(NONE)) >= 50


def ended_in_halves(paths):
    """Its result where it leaves half of what is to come to others again and again; and what searched."""
    searches = [paths]
    while any(each.result == MORE for each in searches):
        for each in [each for each in searches if each.result == MORE]:
            each.go_on(20)
            done = next((other for other in searches[1:] if other.result == NONE), None)
            if each.result == MORE and (done or len(searches) < 5):
                other = each.halve(done)
                searches += [other] if other not in (None, *searches) else []
    results = {each.result for each in searches}
    return FOUND if FOUND in results else NONE, searches


def test_halves_of_a_search_find_what_all_of_it_does():
    """And remember nothing that is not so."""
    answers, most = list[int](), 0
    for seed in range(30):
        instance = tiny(seed, requests=7, longest=60, outputs=5, spare=150, budget=60)
        steps = fewest_steps(instance) + seed % 2
        for backward, alone, rides in product((False, True), (2, 4, 6), (0, 2)):
            whole, paths = (Paths(instance, steps, backward=backward, states=1000) for _ in range(2))
            whole.begin(alone, rides)
            answers.append(ended_search(whole))
            paths.begin(alone, rides)
            found, searches = ended_in_halves(paths)
            assert found == answers[-1], (seed, backward, alone, rides)
            for each in searches:
                each.begin(alone, rides)
                assert ended_search(each) == answers[-1], (seed, backward, alone, rides)
            most = max(most, len(searches))
    assert min(answers.count(FOUND), answers.count(NONE)) >= 25 and most >= 4


@pytest.mark.parametrize("objective", Objective)
def test_the_value_of_an_order_is_that_of_its_schedule(objective):
    for seed in range(60):
        instance = tiny(seed, requests=6, longest=5, outputs=5, late=bool(seed % 2))
        data, slot = data_of(instance, objective), np.zeros(6, np.int64)
        order = np.random.default_rng(seed).permutation(6)
        for blocking in (False, True):
            value, _ = _value(data, order, blocking, slot, np.zeros((3, 6), np.int64))
            assert value == value_of(instance, _schedule(instance, order, slot), objective), seed


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("objective", Objective)
def test_the_search_ends_at_the_optimum(objective, late):
    """Of almost all: where chunks end late, or wait beside arrivals, it is a little early, never late."""
    equal = 0
    for seed in range(30):
        instance = tiny(seed, late=late, outputs=3, requests=3)
        instance = replace(instance, tokens=2 + seed % 2)  # prompts in chunks
        best = brute(instance, objective)
        found = search(instance, objective, most=10**9, moves=100_000)
        assert found.ended and found.bound <= best, seed
        with suppress(ValueError):  # chunks may lie where memory does not hold them
            equal += found.bound == best == value_of(instance, found.schedule, objective)
        rough = search(instance, objective, most=10**9, moves=100_000, rough=True)
        assert rough.bound <= found.bound, seed
    assert equal >= 20


@pytest.mark.parametrize("late", [False, True])
def test_coarse_schedules_are_fine_ones_that_take_no_longer(late):
    """Of the coarse class every schedule is one token by token, with the costs that units have at most."""
    for seed in range(40):
        instance = tiny(seed, requests=5, longest=9, outputs=9, late=late, spare=20, budget=9)
        instance = replace(instance, kv=instance.kv + 12, tokens=15 + seed)
        for unit in (2, 3):
            rough = coarse(instance, unit)
            for schedule in greedy_schedules(rough):
                firsts, lasts = replay(rough, schedule)
                first, last = replay(instance, fine(instance, unit, schedule))
                assert all(a <= b for a, b in zip((*first, *last), (*firsts, *lasts), strict=True)), seed


def test_workers_that_take_turns_give_the_same_again():
    instance = tiny(4, requests=6, longest=9, outputs=9)
    limits = Limits(time_s=600, work=0.3, workers=4)
    assert solve(instance, Objective.MAKESPAN, limits) == solve(instance, Objective.MAKESPAN, limits)


def test_one_request_alone_takes_its_time_alone():
    for seed in range(20):
        instance = tiny(seed, requests=1, longest=6)
        found = solve(instance, Objective.MAKESPAN, LIMITS)
        assert found.value == found.bound == instance.alone(0)


@pytest.mark.parametrize("objective", Objective)
def test_the_floor_of_few_requests_is_close_and_never_above(objective):
    """Of one alone all of it; of two or three after any number of moves below what brute force finds."""
    for seed in range(20):
        instance = tiny(seed, requests=1, longest=6)
        alone = instance.first_alone(0) if objective is Objective.TTFT else instance.alone(0)
        assert alone - 1 <= search(instance, objective, most=10**9, moves=1).bound <= alone
    for seed in range(12):
        instance = tiny(seed, requests=2 + seed % 2, longest=2, outputs=3, late=bool(seed % 2))
        best = brute(instance, objective)
        for moves in (1, 3, 10, 30):
            assert search(instance, objective, most=10**9, moves=moves).bound <= best, (seed, moves)


def test_constants_and_work_make_up_the_time_alone():
    """Of a prompt in one chunk."""
    for seed in range(20):
        instance = tiny(seed, requests=1, longest=6)
        instance = replace(instance, tokens=6, cost=replace(instance.cost, base=0, decode=0))
        assert schedule_floor.work_of(instance) == instance.alone(0)


def test_a_window_too_large_for_the_model_has_a_schedule_and_a_floor(monkeypatch):
    monkeypatch.setattr(schedule_best, "MOST_BINARIES", 0)
    monkeypatch.setattr(schedule_best, "MOST_MOVES", 2)
    instance = tiny(3, requests=5, longest=6, outputs=6)
    found = solve(instance, Objective.E2E, LIMITS)
    assert floor_of(instance, Objective.E2E) <= found.bound < found.value
    assert found.status is Status.FEASIBLE


COST = BatchCost(base=100, token=1, launch=10, decode=20, sequence=3, read=2)
PAIR = ScheduleInstance(
    arrival=(0, 50), prompt=(5, 4), output=(2, 2), own=(7, 0), kv=11, tokens=6, sequences=2, cost=COST
)


@pytest.mark.parametrize(
    "iterations, said",
    [
        ([(False, ((0, 5), (1, 2)))], "7 new tokens"),
        ([(False, ((0, 6),))], "does not continue prompt 0"),
        ([(True, ())], "empty"),
        ([(False, ((0, 5),)), (True, ())], "not served to its end"),
        ([(False, ((0, 5),)), (False, ((1, 4),)), (True, ())], None),
    ],
)
def test_replay_accepts_the_class_alone(iterations, said):
    schedule = tuple(Iteration(decodes=d, chunks=c) for d, c in iterations)
    if said:
        with pytest.raises(ValueError, match=said):
            replay(PAIR, schedule)
    else:  # 100 + 5 + 10 + 7; from there 100 + 4 + 10; 100 + 2 + 20 + 2 * 3 + 2 * (6 + 5)
        assert replay(PAIR, schedule) == ((122, 236), (386, 386))


def test_replay_refuses_what_memory_does_not_hold():
    schedule = (Iteration(decodes=False, chunks=((0, 5),)), Iteration(decodes=False, chunks=((1, 4),)))
    with pytest.raises(ValueError, match="9 tokens kept, at most 8"):
        replay(replace(PAIR, kv=8), schedule)
