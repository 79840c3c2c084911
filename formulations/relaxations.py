"""Relaxations of iteration-level batching: what no schedule can beat, over plain arrays.

Data       iteration b of a machine holds events e (a request's prompt, or one more token of it)
Minorant   duration(b) >= sum over its events of share[e], share >= 0
Machine    one iteration at a time, so shares are processed at rate <= 1 (<= R on R machines)
Relaxation a request is a job of work p[i] = sum of its shares, release r[i], completion C'[i] <= C[i]

Every schedule of the engine is therefore a preemptive (processor-sharing) schedule of these jobs on one
machine of speed R, and the optimum of that simple problem bounds it from below:

    srpt_flow        min sum of C'[i] - r[i]: shortest remaining processing time is optimal
    mean_busy_flow   min sum of the mean time of work, minus r[i]: shortest original work first is optimal
    ends             max over suffixes of the arrivals: r[j] + the work released from r[j] on, and what one job adds
    late_value       what a number of jobs can all stay within: max over windows of arrivals

``priced_flow`` keeps the iterations instead: a Lagrangian bound, where requests pay for machine time and
so weigh a larger batch, which is cheaper, against its longer iterations.
"""

import heapq
from collections.abc import Callable

import numpy as np
from numba import njit

from formulations.hulls import ROUNDING, FloatArray, IntArray


@njit(cache=True)
def srpt_flow(release: IntArray, work: IntArray) -> float:
    """Least sum of completion - release on one preemptive machine; ``release`` must not decrease.

    Proof: shortest remaining processing time is optimal (Schrage 1968), also among processor-sharing
    schedules. The sum of flow times is the integral of the number of unfinished jobs, summed here
    over the events of that schedule; clocks are integers, so nothing cancels.

    Examples
    --------
    >>> srpt_flow(np.array([0, 1]), np.array([5, 2]))  # the second preempts the first
    9.0
    """
    queue = [np.int64(0) for _ in range(0)]
    total = 0.0
    clock = np.int64(0)
    i, n = 0, release.shape[0]
    while i < n or len(queue) > 0:
        if len(queue) == 0:
            clock = max(clock, release[i])
        while i < n and release[i] <= clock:
            heapq.heappush(queue, work[i])
            i += 1
        left = heapq.heappop(queue)
        jobs = len(queue) + 1
        if i < n and clock + left > release[i]:
            total += float(jobs) * float(release[i] - clock)
            heapq.heappush(queue, left - (release[i] - clock))
            clock = release[i]
        else:
            total += float(jobs) * float(left)
            clock += left
    return total


@njit(cache=True)
def mean_busy_flow(release: IntArray, work: IntArray) -> float:
    """Least sum of (mean time at which a job is worked on) - release; ``release`` must not decrease.

    Proof: on one preemptive machine the sum of mean busy times is minimized by always running the
    available job of least original work (Goemans 1997; unit weights).

    Examples
    --------
    >>> mean_busy_flow(np.array([0, 1]), np.array([5, 2]))  # (0.5 + 4 * 5) / 5 and 1
    5.1
    """
    queue = [(np.int64(0), np.int64(0), np.int64(0)) for _ in range(0)]
    total = 0.0
    clock = np.int64(0)
    i, n = 0, release.shape[0]
    while i < n or len(queue) > 0:
        if len(queue) == 0:
            clock = max(clock, release[i])
        while i < n and release[i] <= clock:
            if work[i] > 0:
                heapq.heappush(queue, (work[i], release[i], work[i]))
            i += 1
        if len(queue) == 0:
            continue
        size, since, left = heapq.heappop(queue)
        run = left
        if i < n and clock + left > release[i]:
            run = release[i] - clock
        total += (float(clock - since) + 0.5 * float(run)) * (float(run) / float(size))
        clock += run
        if left > run:
            heapq.heappush(queue, (size, since, left - run))
    return total


@njit(cache=True)
def priced_flow(
    price: float, until: int, machines: int, constant: int, arrival: IntArray, prompt: IntArray,
    last: IntArray, alone: IntArray, first: IntArray, first_share: IntArray, own: IntArray, share: IntArray,
    rest: int,
) -> float:  # fmt: skip
    """Bound on the sum of completion - arrival from pricing machine time, valid for any ``price`` >= 0.

    Let iterations pay ``price`` for each unit of machine time before ``until``: together at most
    price * machines * (until - arrival[0]). An iteration of length d >= constant + sum of shares (``constant``:
    of one that decodes; others have less) can split what it pays among its events as share * d / (d - constant). So

        sum of (completion - arrival) >= sum of (completion - arrival + what it pays) - all that is paid

    and each request, on its own, does no better than

        first[prompt] + price * first_share[prompt] + sum over c of the least of
            d + rest + price * share[c] * d / (d - constant)  over d >= own[c]   (a decode)
            first[c] + price * first_share[c]                                       (a recomputation)

    or, if it completes after ``until``, than that moment and than its time ``alone``. The minimum over d is
    at constant + sqrt(price * share * constant), the batch whose delay is worth its saving, or at own[c].

    Examples
    --------
    >>> one, free = np.array([0, 10]), np.zeros(2, np.int64)
    >>> priced_flow(0.0, 100, 1, 0, np.array([0]), np.array([1]), np.array([1]), np.array([10]),
    ...             one, one, free, free, 0)  # free of charge: the time alone, less 1e-9 of it
    9.99999999
    """
    cost = np.empty(last.max() + 1, np.int64)
    paid = np.int64(0)
    for c in range(cost.shape[0]):
        d = float(max(own[c], constant + share[c]))
        if share[c] > 0 and constant > 0:
            d = max(d, constant + np.sqrt(price * share[c] * constant))
            decode = d + rest + price * share[c] * d / (d - constant)
        else:
            decode = d + rest + price * share[c]
        again = first[c] + price * first_share[c]
        paid += np.int64(np.floor(min(decode, again) * ROUNDING))
        cost[c] = paid
    total = 0.0
    for i in range(arrival.shape[0]):
        here = first[prompt[i]] + price * first_share[prompt[i]] + float(cost[last[i]] - cost[prompt[i]])
        total += min(here, float(max(until - arrival[i], alone[i])))
    charged = price * float(machines) * float(max(until - arrival[0], 0))
    return total - 1e-9 * (total + charged) - charged


@njit(cache=True)
def worth_of_time(release: IntArray, work: IntArray, edges: FloatArray) -> FloatArray:
    """Prices of machine time that prove ``mean_busy_flow``, on average over each bucket between ``edges``; ``release``
    must not decrease.

    One more unit at a moment t goes to the job j that runs then: all that is left of it moves up, for (C[j] - t)
    / work[j], which frees a unit at its completion C[j] for the job that comes next, if one waits.

    Examples
    --------
    >>> worth_of_time(np.array([0, 0]), np.array([2, 4]), np.array([0.0, 2.0, 6.0, 8.0]))
    array([1.5, 0.5, 0. ])
    >>> worth_of_time(np.array([0, 1]), np.array([4, 2]), np.array([0.0, 1.0, 3.0, 5.0]))  # the second preempts
    array([1.375, 1.25 , 0.5  ])
    """
    n = release.shape[0]
    queue = [(np.int64(0), np.int64(0), np.int64(0)) for _ in range(0)]
    job, begin, finish = np.empty(2 * n, np.int64), np.empty(2 * n, np.int64), np.empty(2 * n, np.int64)
    end = np.zeros(n, np.int64)
    clock = np.int64(0)
    i, pieces = 0, 0
    while i < n or len(queue) > 0:
        if len(queue) == 0:
            clock = max(clock, release[i])
        while i < n and release[i] <= clock:
            heapq.heappush(queue, (work[i], np.int64(i), work[i]))
            i += 1
        size, j, left = heapq.heappop(queue)
        run = left
        if i < n and clock + left > release[i]:
            run = release[i] - clock
        job[pieces], begin[pieces], finish[pieces] = j, clock, clock + run
        pieces += 1
        clock += run
        end[j] = clock
        if left > run:
            heapq.heappush(queue, (size, j, left - run))
    total, freed = np.zeros(edges.shape[0] - 1), np.zeros(n)
    b, ahead, starts = edges.shape[0] - 2, 0.0, np.int64(-1)  # worth at the start of the piece after
    for k in range(pieces - 1, -1, -1):
        j = job[k]
        if finish[k] == end[j]:
            freed[j] = ahead if starts == end[j] else 0.0
        if finish[k] > begin[k]:
            while b > 0 and edges[b] >= finish[k]:
                b -= 1
            at = b
            while at >= 0 and edges[at + 1] > begin[k]:
                low, high = max(float(begin[k]), edges[at]), min(float(finish[k]), edges[at + 1])
                if high > low:
                    total[at] += (high - low) * (freed[j] + (end[j] - (low + high) / 2) / work[j])
                at -= 1
            ahead = freed[j] + (end[j] - begin[k]) / work[j]
        starts = begin[k]
    return total / np.diff(edges)


def peak(f: Callable[[float], float], low: float, high: float, evaluations: int) -> float:
    """Largest value seen by a golden-section search for the maximum of ``f``.

    Examples
    --------
    >>> round(peak(lambda x: 3 - (x - 1) ** 2, 0, 5, 20), 3)
    3.0
    """
    ratio = (5**0.5 - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = f(a), f(b)
    best = max(fa, fb)
    for _ in range(evaluations - 2):
        if fa > fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = f(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = f(b)
        best = max(best, fa, fb)
    return best


def late_value(release: IntArray, work: IntArray, machines: int, on_time: int) -> float:
    """Least x such that ``on_time`` + 1 jobs can be complete within x after their release each.

    Proof: let all but ``late`` = n - on_time - 1 jobs do. Those of them released in [release[j],
    release[k]] run within [release[j], release[k] + x], so their work is at most machines * (release[k] -
    release[j] + x). It is at least all work of the window less the ``late`` largest jobs of the trace. The
    best window is a maximum-sum interval. ``release`` must not decrease.

    Examples
    --------
    >>> late_value(np.array([0, 0, 0]), np.array([4, 5, 6]), 1, 2)  # all three
    15.0
    >>> late_value(np.array([0, 0, 0]), np.array([4, 5, 6]), 1, 0)  # any one
    4.0
    """
    late = len(work) - on_time - 1
    largest = float(np.partition(work, on_time)[on_time + 1 :].sum()) if late else 0.0
    work = work.astype(np.float64)  # all work of a large fleet outgrows int64
    done = np.cumsum(work) / machines - release
    before = np.concatenate([[0.0], np.cumsum(work)[:-1] / machines]) - release
    return float((done - np.minimum.accumulate(before)).max() - largest / machines)


@njit(cache=True)
def stairs(worth: FloatArray) -> tuple[FloatArray, IntArray]:
    """For l = 0, 1, ...: the largest sum of worth[i, k[i]] over i < l among levels k that do not fall with i, and how
    many i are then on each level.

    Examples
    --------
    >>> best, used = stairs(np.array([[0.0, 3.0], [0.0, -2.0], [0.0, 4.0]]))
    >>> best, used[3]
    (array([0., 3., 1., 5.]), array([0, 3]))
    """
    n, levels = worth.shape
    best, used = np.zeros(n + 1), np.zeros((n + 1, levels), np.int64)
    value, count = np.zeros(levels), np.zeros((levels, levels), np.int64)
    for i in range(n):
        for k in range(levels - 1, -1, -1):
            below = np.argmax(value[: k + 1])
            value[k] = value[below] + worth[i, k]
            count[k] = count[below]
            count[k, k] += 1
        top = np.argmax(value)
        best[i + 1] = value[top]
        used[i + 1] = count[top]
    return best, used


def ends(
    release: IntArray, work: IntArray, machines: int, *,
    chain: IntArray | int = 0, early: FloatArray | None = None, prices: FloatArray | None = None,
) -> FloatArray:  # fmt: skip
    """[k] earliest time at which ``machines`` can have done jobs 0 to k. ``release`` must not decrease.

    From the release of any job l on, the iterations of l take chain[l] besides the work of all. Before that the others
    take more than their work, too: prices[k], from 0 to 1, times the time that job i takes before a moment + its work
    after it is at least early[i, k], however it is divided.

    Proof: let prices of machine time not fall: lambda[i] from release[i] to release[i + 1], 1 after release[l]. Time
    for job i costs at least lambda[i], so all that is paid for jobs 0 to k >= l is at least the sum of early[i] at
    lambda[i] over i < l, work[l..k], and chain[l]. And it is at most ``machines`` times the sum of lambda[i]
    (release[i + 1] - release[i]) over i < l, and end - release[l]. ``stairs`` finds the best such prices. Without
    ``early`` they are 0 until some release, then 1: what is released from then on cannot start before it.

    Exact but for the rounding of sums in float64.

    Examples
    --------
    >>> ends(np.array([0, 10]), np.array([3, 4]), 1)
    array([ 3., 14.])
    >>> ends(np.array([0, 10]), np.array([9, 4]), 1, chain=np.array([0, 5]))  # 9 of work and 1 idle, then 4 and 5
    array([ 9., 19.])

    Iterations before the second job are so inefficient that half of the time goes for nothing, so 4 of 9 are left:

    >>> ends(np.array([0, 10]), np.array([9, 4]), 1, chain=np.array([0, 5]),
    ...      early=np.array([[0.0, 9.0], [0.0, 4.0]]), prices=np.array([0.0, 0.5]))
    array([ 9., 23.])
    """
    start = release.astype(np.float64)
    done = np.cumsum(work, dtype=np.float64) / machines  # all work of a large fleet outgrows int64
    before = np.concatenate([[0.0], done[:-1]])
    if early is None or prices is None:
        left = np.maximum.accumulate(start - before) - (start - before)
    else:
        left = stairs(early[:-1] / machines - np.diff(start)[:, None] * prices)[0]
    begun = start + left + chain / machines - before
    found: FloatArray = np.maximum.accumulate(begun) + done
    return found
