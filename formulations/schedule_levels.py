"""Which counts of iterations suffice for a unison makespan (``formulations.schedule``) where all arrive at once.

Every token is paid wherever it runs, so the makespan is a constant plus

    (base + decode) A + (base + launch) Y + launch M

with A decode steps, Y iterations of prompts alone, M steps that take prompts along: a *level*. In order of this cost
each is tried by depth-first search over steps: which requests decode first in step d. The first that is not refuted is
a bound, and the makespan if a schedule has it.

Whatever is not used is *waste*, and there is little of it:

    memory    reads of all decodes + sum_d (kv - load[d]) = kv A
    prompts   tokens of prompts <= tokens Y + min(tokens M, sum_d (kv - load[d]))

as tokens taken along in a step are kept at its end. A path is left where what remains of either does not suffice.

Proof that none is missed: follow a schedule with A steps, at most Y and M, choosing its first decodes and the steps
that take prompts along. By induction over steps the path has used no more iterations of prompts than the schedule, and
if it used all of them it would keep no fewer tokens: it runs as few as those due need (``schedule_fill.needed``, which
the schedule has run, too), each as full as memory of the step to come allows. So it is never refused. States with the
same first decodes of those that run, the same counts and no fewer tokens kept lead no further, and of requests that are
alike the first decodes first.
"""

from collections import namedtuple
from collections.abc import Iterator
from heapq import heapify, heappop, heapreplace

import numpy as np

from formulations.schedule import ScheduleInstance
from formulations.schedule_fill import filled, needed, place, slots_of
from formulations.schedule_floor import read_of, work_of
from formulations.schedule_togo import Data, IntArray, compiled

NODES = 2_000_000
"""States remembered."""

MOST_MOVES = 2_000_000
PROBES = 32

FOUND, NONE, GAVE_UP = 1, 0, -1

Search = namedtuple("Search", "first order frames moves table size")
"""``first``: first decodes, -1 for none yet; ``frames`` [step, column]; ``moves``: sets of requests, those of a step
one after another; ``table``: states refuted; ``size``: states left, the level's Y and M."""
LEFT, ALONE, MIXED = range(3)
LOW, HIGH, NEXT, CHOSEN, RAN, RODE, JUST, KEPT, BEGUN = range(9)
"""Columns: moves from, to; twice the next one, odd if it takes prompts along; the one made, -1 for none; iterations
of prompts before, steps that took some along, whether the last did; tokens kept; tokens of prompts due."""


def levels(instance: ScheduleInstance, steps: range, most: int) -> Iterator[tuple[int, int, int, int]]:
    """(makespan, A, Y, M) below ``most`` that the sums of memory and prompts allow, cheapest first.

    Examples
    --------
    >>> from formulations.schedule import BatchCost
    >>> cost = BatchCost(base=100, token=1, launch=10, decode=20, sequence=0, read=0)
    >>> instance = ScheduleInstance(arrival=(0, 0), prompt=(5, 5), output=(3, 3), own=(0, 0), kv=99, tokens=8,
    ...                             sequences=2, cost=cost)
    >>> list(levels(instance, range(2, 4), 480))  # of 14 tokens
    [(374, 2, 1, 1), (384, 2, 1, 2), (474, 2, 2, 0)]
    """
    cost, whole = instance.cost, sum(instance.prompt)
    launches = -(-whole // instance.tokens)
    constant = min(instance.arrival) + work_of(instance) - cost.launch * launches
    read = sum(read_of(instance, i) for i in range(len(instance)))
    queue = []
    for a in steps:
        for m in range(min(a, whole) + 1):
            beside = min(instance.tokens * m, instance.kv * a - read)
            y = max(1, -(-(whole - beside) // instance.tokens))
            value = constant + (cost.base + cost.decode) * a + (cost.base + cost.launch) * y + cost.launch * m
            queue.append((value, a, y, m))
    heapify(queue)
    while queue and queue[0][0] < most:
        value, a, y, m = queue[0]
        yield value, a, y, m
        if y == whole:
            heappop(queue)
        else:
            heapreplace(queue, (value + cost.base + cost.launch, a, y + 1, m))


def tried(
    instance: ScheduleInstance,
    data: Data,
    steps: int,
    alone: int,
    mixed: int,
    nodes: int,
) -> tuple[int, int, IntArray]:
    """FOUND, NONE or GAVE_UP, the states left of ``nodes``, and first decodes where they were found."""
    n = len(instance)
    later = np.array(instance.output) - 1
    order = np.argsort(-(np.array(instance.prompt) + 1) * (later > 0), kind="stable")
    words = _words(instance)
    first, slots = np.full(n, -1), slots_of(steps)
    if words is None:
        return GAVE_UP, nodes, first
    size = np.array([nodes, alone, mixed])
    table = np.full((1 << (2 * min(nodes, NODES)).bit_length(), 4), -1, np.int64)
    search = Search(
        first, order, np.zeros((steps + 2, 9), np.int64), np.zeros(MOST_MOVES, np.int64), table, size
    )  # fmt: skip
    result = _run(
        data, search, slots, words, sum(instance.prompt), sum(read_of(instance, i) for i in range(n))
    )
    return int(result), max(0, int(size[LEFT])), first


def _words(instance: ScheduleInstance) -> int | None:
    """Requests whose progress fits the first of two words; None where two are not enough."""
    word, bits, split = 0, 0.0, len(instance)
    for i, output in enumerate(instance.output):
        bits += np.log2(output + 1)
        if bits > 62:
            if word:
                return None
            word, bits, split = 1, np.log2(output + 1), i
    return split


@compiled
def _run(data, search, slots, words, whole, read):
    """Depth first over steps."""
    frames, steps, d = search.frames, slots.load.shape[0] - 1, 0
    entered = _enter(data, search, slots, words, whole, read, 0, d)
    while True:
        if entered != NONE:
            return entered
        frame = frames[d]
        if frame[CHOSEN] >= 0:
            _place_all(data, search, slots, frame[CHOSEN], d, -1)
            frame[CHOSEN] = -1
        if frame[NEXT] >= 2 * frame[HIGH]:
            if frame[HIGH] >= frame[LOW] and frame[LOW] >= 0:
                _remember(search, words, data, d, True)
            if d == 0:
                return NONE
            d -= 1
            continue
        move, ride = search.moves[frame[NEXT] // 2], frame[NEXT] % 2
        frame[NEXT] += 1
        _place_all(data, search, slots, move, d, 1)
        frame[CHOSEN] = move
        due = slots.due[d]
        rest = whole - frame[BEGUN] - due
        alone = needed(data, slots, d, frame[KEPT], frame[JUST])
        room = data.kv - slots.load[d]
        after = filled(data, slots, d, frame[KEPT], alone, room, rest)
        if ride:
            budget = data.tokens - slots.seats[d]
            after = min(after + budget, room, rest)
            if (
                budget <= 0
                or after <= 0
                or slots.seats[d] >= data.sequences
                or frame[RODE] == search.size[MIXED]
            ):
                continue
        ran, rode = frame[RAN] + alone, frame[RODE] + ride
        reads = np.int64(0)
        for t in range(d + 1):
            reads += slots.load[t]
        spare = data.kv * (steps - d - 1) - (read - reads)
        beside = min(data.tokens * (search.size[MIXED] - rode), spare)
        if ran > search.size[ALONE] or rest - after > data.tokens * (search.size[ALONE] - ran) + beside:
            continue
        child = frames[d + 1]
        child[RAN], child[RODE], child[JUST], child[KEPT] = ran, rode, ride, after
        child[BEGUN] = frame[BEGUN] + due
        d += 1
        entered = _enter(data, search, slots, words, whole, read, frame[HIGH], d)


@compiled
def _place_all(data, search, slots, chosen, d, sign):
    for i in range(data.prompt.shape[0]):
        if chosen >> i & 1:
            place(data, slots, i, d, sign)
            search.first[i] = d if sign > 0 else -1


@compiled
def _enter(data, search, slots, words, whole, read, low, d):
    """The moves of step d, none where its state is refuted; FOUND after the last step where what is left fits."""
    frame, steps = search.frames[d], slots.load.shape[0] - 1
    frame[LOW], frame[HIGH], frame[NEXT], frame[CHOSEN] = low, low, 2 * low, -1
    search.size[LEFT] -= 1
    if search.size[LEFT] < 0:
        return GAVE_UP
    if d == steps:
        frame[LOW] = -1
        slots.due[d] = whole - frame[BEGUN]
        alone = needed(data, slots, d, frame[KEPT], frame[JUST])
        if frame[RAN] + alone > search.size[ALONE]:
            return NONE
        for i in range(data.prompt.shape[0]):
            if search.first[i] < 0:
                search.first[i] = steps
        return FOUND
    if _remember(search, words, data, d, False):
        frame[LOW] = -1
        return NONE
    reads = np.int64(0)
    for t in range(d):
        reads += slots.load[t]
    spare = data.kv * (steps - d) - (read - reads)
    short = whole - frame[BEGUN] - frame[KEPT] - data.tokens * (search.size[ALONE] - frame[RAN])
    ride = min(data.tokens, spare) if frame[RODE] < search.size[MIXED] else 0
    least = data.kv - min(spare, spare - short + ride)
    high = _sets(data, search, slots, low, least, d)
    if high < 0:
        return GAVE_UP
    frame[HIGH] = high
    waste = np.zeros(high - low, np.int64)
    for k in range(low, high):
        reads, due = slots.load[d], np.int64(0)
        for i in range(data.prompt.shape[0]):
            if search.moves[k] >> i & 1:
                due += data.prompt[i]
                reads += (data.prompt[i] + 1) * (data.output[i] > 1)
        alone = -(-max(0, due - frame[KEPT]) // data.tokens)
        waste[k - low] = data.kv - reads + data.tokens * alone - max(0, due - frame[KEPT])
    search.moves[low:high] = search.moves[low:high][np.argsort(waste)]
    return NONE


@compiled
def _sets(data, search, slots, low, least, d):
    """Every set of requests that may decode first in step d so that it reads ``least`` at least; where they end."""
    n, steps = data.prompt.shape[0], slots.load.shape[0] - 1
    chosen, picked, count, at, high = np.int64(0), np.zeros(n, np.int64), 0, 0, low
    open_ = np.zeros(n, np.bool_)
    ahead = np.zeros(n + 1, np.int64)
    for k in range(n - 1, -1, -1):
        i = search.order[k]
        open_[i] = search.first[i] < 0
        ahead[k] = ahead[k + 1] + (data.prompt[i] + 1) * (open_[i] and data.output[i] > 1)
    while True:
        dead = False
        while at < n and not dead:
            i = search.order[at]
            if open_[i]:
                must = data.output[i] > 1 and d + data.output[i] - 1 == steps
                alike = data.alike[i]
                fits = alike < 0 or not open_[alike] or chosen >> alike & 1
                for t in range(data.output[i] - 1):
                    fits = fits and slots.load[d + t] + data.prompt[i] + t + 1 <= data.kv
                    fits = fits and slots.seats[d + t] < min(data.sequences, data.tokens)
                if fits:
                    place(data, slots, i, d, 1)
                    chosen |= 1 << i
                    picked[count] = at
                    count += 1
                else:
                    dead = must
            at += 1
            dead = dead or slots.load[d] + ahead[at] < least
        if not dead and slots.seats[d] > 0:
            if high == search.moves.shape[0]:
                high = -1
            else:
                search.moves[high] = chosen
                high += 1
        back = True
        while back and count > 0:
            count -= 1
            at = picked[count]
            i = search.order[at]
            place(data, slots, i, d, -1)
            chosen &= ~(1 << i)
            back = data.output[i] > 1 and d + data.output[i] - 1 == steps
            at += 1
            back = back or slots.load[d] + ahead[at] < least
        if back or high < 0:
            for k in range(count):
                place(data, slots, search.order[picked[k]], d, -1)
            return high


@compiled
def _remember(search, words, data, d, refuted):
    """Whether the state before step d is refuted; or note that it is."""
    frame, table = search.frames[d], search.table
    a, b = np.int64(0), np.int64(0)
    for i in range(data.prompt.shape[0]):
        progress = (
            np.int64(0) if search.first[i] < 0 else min(max(1, data.output[i] - 1), d - search.first[i])
        )
        if i < words:
            a = a * (data.output[i] + 1) + progress
        else:
            b = b * (data.output[i] + 1) + progress
    c = (
        (np.int64(d) * (search.size[ALONE] + 1) + frame[RAN]) * (search.size[MIXED] + 1) + frame[RODE]
    ) * 2 + frame[JUST]
    h = (
        a * np.int64(-7046029254386353131)
        ^ b * np.int64(-4417276706812531889)
        ^ c * np.int64(-4658895280553007687)
    )
    h ^= h >> 31
    h *= np.int64(-7723592293110705685)
    h ^= h >> 29
    mask = table.shape[0] - 1
    for k in range(PROBES):
        row = table[(h + k) & mask]
        if row[3] < 0:
            if refuted:
                row[0], row[1], row[2], row[3] = a, b, c, frame[KEPT]
            return False
        if row[0] == a and row[1] == b and row[2] == c:
            if refuted:
                row[3] = max(row[3], frame[KEPT])
            return row[3] >= frame[KEPT]
    return False
