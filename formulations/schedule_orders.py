"""Good unison schedules (``formulations.schedule``) by local search over orders, compiled.

An order makes a schedule: before every decode, requests are admitted in that order as long as all that run can go on to
their ends side by side; their prompts take iterations of their own, filled up to the budget, and all running requests
decode once. Either the first that does not fit, or has not come yet, blocks those behind it, or they pass it.
Moving one request in the order, or swapping two, is kept where the objective is little worse, less so with every try
(threshold accepting, Dueck and Scheuer 1990).
"""

import numpy as np

from formulations.schedule import Iteration, Objective, Schedule, ScheduleInstance
from formulations.schedule_togo import IntArray, allocating, compiled, data_of

WORSE = 0.01
"""Share of the objective that a try may cost at first."""


def ordered_schedules(
    instance: ScheduleInstance, objective: Objective, *, tries: int, seed: int
) -> list[Schedule]:
    """The best schedule found of either kind, each after so many tries.

    Examples
    --------
    >>> from formulations.schedule import BatchCost, replay
    >>> cost = BatchCost(base=100, token=1, launch=10, decode=20, sequence=0, read=0)
    >>> instance = ScheduleInstance(arrival=(0, 0), prompt=(5, 5), output=(3, 3), own=(0, 0), kv=99, tokens=8,
    ...                             sequences=2, cost=cost)
    >>> [max(replay(instance, schedule)[1]) for schedule in
    ...  ordered_schedules(instance, Objective.MAKESPAN, tries=10, seed=0)]  # 118 + 112 + 2 * 122
    [474, 474]
    """
    data, n = data_of(instance, objective), len(instance)
    work = [p + o for p, o in zip(instance.prompt, instance.output, strict=True)]
    sign = -1 if objective is Objective.MAKESPAN else 1
    start = np.array(sorted(range(n), key=lambda i: (instance.arrival[i], sign * work[i], i)))
    found, rng = [], np.random.default_rng(seed)
    for blocking in (False, True):
        order, slot = _improve(data, start, blocking, tries, rng)
        found.append(_schedule(instance, order, slot))
    return found


@allocating
def _improve(data, start, blocking, tries, rng):
    """The best order, and of every request the round in which it is admitted."""
    n = start.shape[0]
    order, best, slot, rows = start.copy(), start.copy(), np.zeros(n, np.int64), np.zeros((3, n), np.int64)
    least, now = _value(data, order, blocking, slot, rows)
    other = order.copy()
    for k in range(tries if n > 1 else 0):
        other[:] = order
        i, j = rng.integers(0, n), rng.integers(0, n)
        moved = other[i]
        if rng.integers(0, 2):
            other[i], other[j] = other[j], moved
        else:
            step = 1 if j > i else -1
            while i != j:
                other[i] = other[i + step]
                i += step
            other[j] = moved
        value, guide = _value(data, other, blocking, slot, rows)
        if guide <= now * (1.0 + WORSE * (tries - k) / tries):
            now = guide
            order[:] = other
        if value < least:
            least = value
            best[:] = other
    _value(data, best, blocking, slot, rows)
    return best, slot


@compiled
def _value(data, order, blocking, slot, rows):
    """The objective of the order's schedule, and what the search goes by; fills ``slot``.

    For the makespan that is, besides, when the tokens are read on average: orders of one makespan differ in it, and
    the earlier the closer the last decode is to being empty.
    """
    n = order.shape[0]
    running, emitted, new = rows
    emitted[:] = 0
    read, read_at = 0.0, 0.0
    clock, rounds, ended, count, served = np.int64(0), 0, np.int64(0), 0, 0
    while served < n:
        chosen, first = 0, np.int64(-1)
        for k in range(n):
            i = order[k]
            if emitted[i] > 0:
                continue
            fits = data.arrival[i] <= clock
            if not fits and (first < 0 or data.arrival[i] < first):
                first = data.arrival[i]
            if fits:
                running[count] = i
                fits = _fits(data, running, emitted, count + 1)
            if fits:
                count += 1
                new[chosen] = i
                chosen += 1
                slot[i] = rounds
                emitted[i] = 1
            elif blocking:
                break
        if count == 0:
            clock = first
            continue
        done, taken = 0, np.int64(0)
        while done < chosen:  # iterations of prompts: a prompt may go on in the next one
            room, own = data.tokens, np.int64(0)
            low = done
            while done < chosen and data.prompt[new[done]] - taken <= room:
                room -= data.prompt[new[done]] - taken
                own += data.own[new[done]]
                taken = np.int64(0)
                done += 1
            if done < chosen:
                taken += room
                room = np.int64(0)
            clock += data.base + data.launch + data.token * (data.tokens - room) + own
            for k in range(low, done):
                ended += clock * (data.target[new[k]] == 1)
        running_now, reads = 0, np.int64(0)
        for k in range(count):
            i = running[k]
            if emitted[i] < data.output[i]:
                running[running_now] = i
                running_now += 1
                reads += data.prompt[i] + emitted[i]
        rounds += 1
        served += count - running_now
        count = running_now
        if count == 0:
            continue
        read += reads
        read_at += reads * float(clock)
        clock += data.base + data.decode + (data.token + data.sequence) * count + data.read * reads
        left = 0
        for k in range(count):
            i = running[k]
            emitted[i] += 1
            if emitted[i] == data.output[i]:
                served += 1
                ended += clock * (data.target[i] > 1)
            else:
                running[left] = i
                left += 1
        count = left
    if data.sums:
        return ended, float(ended)
    return clock, clock + read_at / max(read, 1.0)


@compiled
def _fits(data, running, emitted, count):
    """Whether the first ``count`` can run to their ends side by side; a new one counts as having its first token."""
    if count > data.sequences:
        return False
    for a in range(count):
        steps = data.output[running[a]] - max(1, emitted[running[a]])
        held = np.int64(0)
        for b in range(count):
            e = max(1, emitted[running[b]])
            if data.output[running[b]] - e >= steps:
                held += data.prompt[running[b]] + e - 1 + steps
        if held > data.kv:
            return False
    return True


def _schedule(instance: ScheduleInstance, order: IntArray, slot: IntArray) -> Schedule:
    found, left, step = list[Iteration](), [0] * len(instance), 0
    while step <= slot.max() or max(left):
        chunks, room = list[tuple[int, int]](), instance.tokens
        for i in map(int, order[slot[order] == step]):
            prompt = instance.prompt[i]
            while prompt:
                chunk = min(prompt, room)
                chunks.append((i, chunk))
                prompt, room = prompt - chunk, room - chunk
                if not room:
                    found.append(Iteration(decodes=False, chunks=tuple(chunks)))
                    chunks, room = [], instance.tokens
            left[i] = instance.output[i] - 1
        if chunks:
            found.append(Iteration(decodes=False, chunks=tuple(chunks)))
        if max(left):
            found.append(Iteration(decodes=True, chunks=()))
        left = [max(0, each - 1) for each in left]
        step += 1
    return tuple(found)
