"""Relaxations against brute force: below what they relax, and equal to it where they claim optimality."""

from functools import cache
from itertools import permutations, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations import hulls, relaxations

QUIET = settings(deadline=None, max_examples=150, derandomize=True)
TABLE = st.lists(st.integers(0, 1000), min_size=1, max_size=25).map(lambda v: np.array(v, float))
JOBS = st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), min_size=1, max_size=5)


def columns(jobs):
    jobs = sorted(jobs)
    return np.array([r for r, _ in jobs]), np.array([p for _, p in jobs])


def preemptive_lists(release, work):
    """Preemptive schedules that always run the first available job of some order, in unit steps. Yields the
    unit intervals of each job."""
    n = len(work)
    for order in permutations(range(n)):
        left, clock, ran = list(work), 0, [[] for _ in range(n)]
        while any(left):
            ready = [i for i in order if left[i] and release[i] <= clock]
            if ready:
                left[ready[0]] -= 1
                ran[ready[0]].append(clock)
            clock += 1
        yield ran


@QUIET
@given(JOBS)
def test_shortest_remaining_first_equals_brute_force(jobs):
    """Every choice of the job that runs next, unit step by unit step."""
    release, work = (tuple(int(v) for v in column) for column in columns(jobs))

    @cache
    def least(clock, left):
        present = [i for i in range(len(left)) if left[i] and release[i] <= clock]
        if not any(left):
            return 0
        choices = [tuple(v - (i == j) for j, v in enumerate(left)) for i in present] or [left]
        return len(present) + min(least(clock + 1, choice) for choice in choices)

    assert relaxations.srpt_flow(*columns(jobs)) == least(0, work)


@QUIET
@given(JOBS)
def test_least_mean_busy_time_equals_brute_force(jobs):
    release, work = columns(jobs)
    best = min(
        sum(np.mean(units) + 0.5 - r for units, r in zip(ran, release, strict=True))
        for ran in preemptive_lists(release, work)
    )
    assert np.isclose(relaxations.mean_busy_flow(release, work), best)


@QUIET
@given(JOBS, st.integers(1, 3), st.integers(0, 4))
def test_ends_and_late_values_hold_in_every_schedule(jobs, machines, on_time):
    """Any schedule of the single jobs on several machines; list schedules by permutation, no preemption."""
    release, work = columns(jobs)
    n = len(jobs)
    on_time = min(on_time, n - 1)
    for order in permutations(range(n)):
        free, end = [0] * machines, [0] * n
        for i in order:
            m = free.index(min(free))
            end[i] = free[m] = max(free[m], release[i]) + work[i]
        least = relaxations.ends(release, work, machines)
        assert all(e <= max(end[: k + 1]) + 1e-9 for k, e in enumerate(least))
        stays = sorted(e - r for e, r in zip(end, release, strict=True))
        assert relaxations.late_value(release, work, machines, on_time) <= stays[on_time] + 1e-9


@QUIET
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(1, 6), st.sampled_from([1, 1.25, 2, 4]), st.integers(0, 9)),
        min_size=1,
        max_size=6,
    )
)
def test_ends_with_a_chain_equal_the_best_schedule(jobs):
    """Before the chain arrives a unit of job i takes dear[i]; the least dear first leaves the least work."""
    jobs = sorted(jobs)
    release, work, dear, chain = (np.array(column) for column in zip(*jobs, strict=True))
    prices = np.unique([0, *1 / dear])
    early = work[:, None] * np.minimum(1, prices * dear[:, None])
    found = relaxations.ends(release, work, 1, chain=chain, early=early, prices=prices)
    least = []
    for arrives in range(len(jobs)):
        left = [float(w * d) for w, d in zip(work[:arrives], dear[:arrives], strict=True)]
        for quarter in range(4 * release[arrives]):
            ready = [i for i in range(arrives) if left[i] and 4 * release[i] <= quarter]
            if ready:
                best = min(ready, key=lambda i: dear[i])
                left[best] -= 0.25
        rest = sum(t / d for t, d in zip(left, dear[:arrives], strict=True))
        least.append(release[arrives] + chain[arrives] + rest - work[:arrives].sum())
    expected = [max(least[: k + 1]) + work[: k + 1].sum() for k in range(len(jobs))]
    assert np.allclose(found, expected)


@QUIET
@given(TABLE)
def test_lines_lie_below_and_touch(table):
    intercepts, slopes = hulls.lines_below(table)
    x = np.arange(1, len(table) + 1)
    for a, b in zip(intercepts, slopes, strict=True):
        assert a >= 0 and b >= 0
        below = table - (a + b * x)
        assert below.min() >= -1e-9 and np.isclose(below.min(), 0, atol=1e-9)


@QUIET
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=7), st.integers(1, 14), st.booleans())
def test_prompt_floor_against_every_composition(iteration, longest, chunkable):
    iteration = np.array([0, *iteration])
    most = len(iteration) - 1
    least = [0] + [None] * longest
    for x in range(1, longest + 1):
        least[x] = min(least[x - c] + int(iteration[c]) for c in range(1, min(x, most) + 1))
    floor = hulls.prompt_floor(iteration, longest, chunkable)
    for x in range(1, longest + 1):
        if chunkable or x > most:
            assert floor[x] <= least[x]
        else:
            assert floor[x] == iteration[x]


@QUIET
@given(st.integers(1, 300), st.integers(0, 60), st.integers(1, 40))
def test_prompt_floor_is_exact_for_a_constant_and_a_rate(constant, rate, longest):
    """As few chunks as possible are best, and the floor finds just that."""
    iteration = constant + rate * np.arange(9)
    floor = hulls.prompt_floor(iteration, longest, True)
    for x in range(1, longest + 1):
        exact = -(-x // 8) * constant + rate * x
        assert exact - 1 <= floor[x] <= exact


DECODE = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))


def decode_tables(batch, knots, seed):
    rng = np.random.default_rng(seed)
    at = np.concatenate([[0], np.cumsum(rng.integers(1, 6, knots - 1))]) if knots > 1 else np.array([0])
    value, slope = np.zeros((batch + 1, knots)), rng.integers(0, 20, (batch + 1, knots)).astype(float)
    value[1:, 0] = rng.integers(0, 100, batch)
    for j in range(1, knots):
        value[:, j] = value[:, j - 1] + slope[:, j - 1] * np.arange(batch + 1) * (at[j] - at[j - 1])
    return value, slope, at.astype(np.int64)


@QUIET
@given(DECODE, st.integers(2, 4))
def test_decode_floor_is_the_least_over_batches(shape, smallest):
    batch, _, seed = shape
    value, slope, at = decode_tables(*shape)
    alone = np.cumsum(np.random.default_rng(seed + 1).integers(0, 30, batch + 1))
    longest = smallest + 15
    floor = hulls.decode_floor(alone, value, slope, at, smallest, longest)
    for c in range(smallest, longest + 1):
        least = min(
            alone[b] + hulls.decode_time(value, slope, at, b, c + (b - 1) * smallest)
            for b in range(1, batch + 1)
        )
        assert floor[c] == least


@QUIET
@given(DECODE, st.integers(2, 4), st.integers(5, 40), st.floats(0.1, 9), st.floats(0.1, 99))
def test_plane_lies_below_every_batch(shape, smallest, capacity, iterations, decodes):
    batch = shape[0]
    value, slope, at = decode_tables(*shape)
    longest = smallest + 9
    u, v, w = hulls.decode_plane(
        value, slope, at, sequences=batch, smallest=smallest, longest=longest, capacity=capacity,
        iterations=iterations, decodes=decodes, read=decodes * (smallest + 3),
    )  # fmt: skip
    assert min(u, v, w) >= 0
    for b, s in product(range(1, batch + 1), range(capacity + 1)):
        if b * smallest <= s <= b * longest:
            time = hulls.decode_time(value, slope, at, b, s)
            assert u + v * b + w * (s - b * smallest) <= time + 1e-9


@QUIET
@given(st.integers(0, 10**6), st.floats(0, 50), st.integers(0, 400), st.integers(1, 4))
def test_priced_flow_holds_for_any_batches(seed, price, until, requests):
    """One machine runs random batches of decodes of length constant + shares; no price proves too much."""
    rng = np.random.default_rng(seed)
    constant = int(rng.integers(0, 20))
    share = rng.integers(0, 10, 12)
    share[:2] = 0
    own, first = constant + share, np.full(12, 10**6)
    first[1] = constant + 1
    first_share = np.zeros(12, np.int64)
    first_share[1] = 1
    left = rng.integers(1, 8, requests)  # tokens after the first, all prompts have one token
    last = left + 1
    ones, arrival = np.ones(requests, np.int64), np.zeros(requests, np.int64)
    context, started, clock, flow = np.full(requests, 1), np.zeros(requests, bool), 0, 0
    while left.any() or not started.all():
        batch = [i for i in range(requests) if (left[i] or not started[i]) and rng.random() < 0.7]
        if not batch:
            continue
        clock += constant
        for i in batch:
            clock += share[context[i] + 1] if started[i] else 1
        for i in batch:
            if started[i]:
                context[i] += 1
                left[i] -= 1
            started[i] = True
            if not left[i]:
                flow += clock
    alone = first[ones] + np.array([own[2 : e + 1].sum() for e in last])
    bound = relaxations.priced_flow(
        price, until, 1, constant, arrival, ones, last, alone, first, first_share, own, share, 0
    )
    assert bound <= flow * (1 + 1e-9)
