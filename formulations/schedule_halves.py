"""Limits on the toll of D decode steps (``schedule_toll``), refuted from both ends of the schedule at once, compiled.

Of each step's memory some is not read; over D steps that is ``spare`` in all. So a schedule leaves at most a part of
it in the first half of the steps, or less than the rest in the second. The former are searched forward, the latter
backward, each with few ways to go in its first half; both at once, on two threads. What both refute is refuted.

Steps are counted from where the search begins; backward a request begins with its last decode, and its prompt is due
after its first. What is to be computed is *fluid*: answers of one token are a *pool* of tokens that take memory in no
iteration alone. Tokens are made, ``tokens`` in an iteration alone, and no more than there is room in a step that takes
prompts along, which make up those due; others are kept, as many as memory not read in each step has room for. Forward
a path knows how many it keeps; backward how many it must have kept, its *debt*. ``credit`` is the former or less the
latter. A path runs as few iterations alone as it can: forward when what it keeps is less than what is due, backward
when its debt would be more than the room in the step before. What is over goes to the pool.

Proof that a path that follows a schedule, in its first decodes and the steps that take prompts along, has no more
toll: let it be b iterations behind, and let dc be the credit and dp the tokens of the pool done that the schedule is
ahead. Then dc and dc + dp are at most b ``tokens`` all the way: each iteration less is one more behind; where the path
keeps fewer than are left over, its memory is full; where tokens are lost, its pool is empty. So it needs no more
iterations alone than the schedule and b. What it keeps may become tokens of the pool later, as if these had been
computed instead. By the same argument a state with the same first decodes owes at most one iteration less for every
``tokens`` of max(dc, dc + dp), which is what ``table`` remembers of states.
"""

from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from formulations.schedule import Objective, ScheduleInstance
from formulations.schedule_floor import read_of
from formulations.schedule_memory import places, row_of
from formulations.schedule_togo import Data, compiled, data_of
from formulations.schedule_toll import FOUND, GAVE_UP, NEVER, NONE, fitting, owed, owed_before, owed_next

ROWS, MOST_MOVES = 1 << 22, 1_000_000
"""States remembered at most in each direction, a power of two; moves on a path."""

Half = namedtuple("Half", "backward first frames moves table words radix keys size")
"""As in ``schedule_levels.Tree``, for one direction; answers of one token have none of the first steps, -2."""
LEFT, LIMIT, WHOLE, KEEP, UNTIL = range(5)
"""Columns: work left, the limit on the toll, tokens of prompts but the pool; the memory that is not read after the
steps before UNTIL."""
LOW, HIGH, NEXT, CHOSEN, TOLL, OWED, RODE, CREDIT, BEGUN, SPARE, POOL = range(11)
WHO, PAID, KEEPS, RIDES, WASTE, POOLS = range(6)
LOAD, SEATS, DUE = range(3)


class Halves:
    """Both searches for schedules of so many steps, two at least, some of which decode.

    Parameters
    ----------
    part
        Of the memory that no decode reads, what may be left in the first half of the steps.

    Examples
    --------
    >>> from formulations.schedule import BatchCost
    >>> cost = BatchCost(base=100, token=1, launch=10, decode=20, sequence=0, read=0)
    >>> instance = ScheduleInstance(arrival=(0, 0), prompt=(5, 5), output=(3, 3), own=(0, 0), kv=99, tokens=8,
    ...                             sequences=2, cost=cost)
    >>> halves = Halves(instance, 2, work=1000)
    >>> halves.advance(20, 1000)[:2], halves.advance(220, 1000)[0] == FOUND
    ((0, 220), True)
    """

    def __init__(self, instance: ScheduleInstance, steps: int, *, work: int, part: float = 0.55) -> None:
        decode = [o > 1 for o in instance.output]
        read = sum(read_of(instance, i) for i in range(len(instance)))
        self.spare = instance.kv * steps - read
        self.pool = sum(p for p, d in zip(instance.prompt, decode, strict=True) if not d)
        self._steps, some = steps, int(self.spare * part)
        ends = ((False, self.spare - some, steps // 2), (True, some + 1, steps - steps // 2))
        self._halves = [self._half(instance, work, *end) for end in ends]

    def _half(
        self, instance: ScheduleInstance, work: int, backward: bool, keep: int, until: int
    ) -> tuple[Data, Any]:
        steps, columns = self._steps, ("arrival", "prompt", "output", "own")
        reads = [
            (p + (o - 1 if backward else 1)) * (o > 1)
            for p, o in zip(instance.prompt, instance.output, strict=True)
        ]
        order = sorted(range(len(reads)), key=lambda i: -reads[i])  # those that read most in their first step
        ordered = {column: tuple(getattr(instance, column)[i] for i in order) for column in columns}
        data = data_of(replace(instance, **ordered), Objective.MAKESPAN)  # type: ignore[arg-type]
        words, radix, count = places(data.output, steps)
        states = min(work, prod(o + 1 for o in instance.output))
        rows = min(ROWS, 1 << (2 * (steps + 1) * states).bit_length())
        size = np.array([0, 0, sum(instance.prompt) - self.pool, keep, until])
        table = np.full((rows, count + 3), -1, np.int64)
        half = Half(
            backward, np.where(data.output > 1, -1, -2), np.zeros((steps + 2, 11), np.int64),
            np.zeros((MOST_MOVES, 6), np.int64), table, words, radix, np.zeros((steps + 2, count), np.int64), size,
        )  # fmt: skip
        return data, half

    def advance(self, limit: int, work: int) -> tuple[int, int, int]:
        """Result, the next limit where that is NONE, and the work done of so much for both.

        FOUND says only that what is fluid has a schedule.
        """
        with ThreadPoolExecutor(len(self._halves)) as threads:
            results = list(threads.map(lambda half: self._run(half, limit, work // 2), self._halves))
        done = sum(min(work // 2, work // 2 - int(half.size[LEFT])) for _, half in self._halves)
        if FOUND in results or GAVE_UP in results:
            return FOUND if FOUND in results else GAVE_UP, limit, done
        return NONE, min(int(half.frames[0, OWED]) for _, half in self._halves), done

    def _run(self, ends: tuple[Data, Any], limit: int, work: int) -> int:
        data, half = ends
        half.first[:] = np.where(data.output > 1, -1, -2)
        half.frames[0] = 0
        half.frames[0, SPARE], half.frames[0, POOL] = self.spare, self.pool
        half.size[LEFT], half.size[LIMIT] = work, limit
        return int(run(data, half, np.zeros((3, self._steps + 1), np.int64)))


@compiled
def _place(data, half, slots, i, s, sign):
    """Add (1) or remove (-1) a request whose first step is s."""
    later = data.output[i] - 1
    for t in range(later):
        slots[LOAD, s + t] += sign * (data.prompt[i] + (later - t if half.backward else t + 1))
        slots[SEATS, s + t] += sign
    slots[DUE, s + later if half.backward else s] += sign * data.prompt[i]
    half.first[i] = s if sign > 0 else -1


@compiled
def _place_all(data, half, slots, chosen, s, sign):
    for i in range(half.first.shape[0]):
        if chosen >> i & 1:
            _place(data, half, slots, i, s, sign)


@compiled
def _ahead(due, credit, rode, ride, room, rest, pool, cap, budget):
    """Forward: iterations alone, tokens kept after the step, and those left in the pool."""
    alone = 0
    if due > credit or (due > 0 and not rode):
        alone = max(1, -(-(due - credit) // budget))
    now = credit + budget * alone - due
    keep = min(now, room, rest)
    pool -= now - keep
    if ride:
        now = keep + min(cap, room)
        keep = min(now, room, rest)
        pool -= now - keep
    return alone, keep, max(0, pool)


@compiled
def _behind(due, debt, ride, room, pool, cap, budget):
    """Backward: iterations alone after the step, the debt before it, and the tokens left in the pool."""
    need = debt + due
    alone = max(0, -(-(need - room) // budget))
    if due > 0 and not ride:
        alone = max(1, alone)
    left = max(0, need - budget * alone)
    pool -= max(0, budget * alone - need)
    if ride:
        some = min(cap, left)
        pool -= max(0, min(cap, room) - some)
        left -= some
    return alone, left, max(0, pool)


@compiled
def run(data, half, slots):
    """Depth first over steps; FOUND where there is a path below the limit."""
    frames, moves, s = half.frames, half.moves, 0
    result = _enter(data, half, slots, 0, 0)
    while result == NONE:
        frame = frames[s]
        if frame[CHOSEN] >= 0:
            _place_all(data, half, slots, frame[CHOSEN], s, -1)
            frame[CHOSEN] = -1
        if frame[NEXT] >= frame[HIGH]:
            if frame[LOW] >= 0:
                _note(half, s, frame[OWED], frame[CREDIT], frame[POOL])
            if s == 0:
                return NONE
            s -= 1
            frames[s, OWED] = min(frames[s, OWED], frame[TOLL] - frames[s, TOLL] + frame[OWED])
            continue
        move = moves[frame[NEXT]]
        frame[NEXT] += 1
        _place_all(data, half, slots, move[WHO], s, 1)
        frame[CHOSEN] = move[WHO]
        child = frames[s + 1]
        child[TOLL], child[CREDIT], child[RODE], child[POOL] = (
            move[PAID],
            move[KEEPS],
            move[RIDES],
            move[POOLS],
        )
        child[BEGUN] = frame[BEGUN] + slots[DUE, s]
        child[SPARE] = frame[SPARE] - (data.kv - slots[LOAD, s])
        s += 1
        result = _enter(data, half, slots, frame[HIGH], s)
    return result


@compiled
def _enter(data, half, slots, low, s):
    """The moves of step s, none where its state owes too much; FOUND after the last one."""
    frame = half.frames[s]
    frame[LOW], frame[HIGH], frame[NEXT], frame[CHOSEN], frame[OWED] = -1, low, low, -1, NEVER
    half.size[LEFT] -= 1
    if half.size[LEFT] < 0:
        return GAVE_UP
    if s == slots.shape[1] - 1:
        need = frame[POOL] + (slots[DUE, s] - frame[CREDIT] if half.backward else 0)
        frame[OWED] = (data.base + data.launch) * -(-need // data.tokens)
        return NONE if frame[TOLL] + frame[OWED] > half.size[LIMIT] else FOUND
    owes = _known(data, half, s, frame[RODE], frame[CREDIT], frame[POOL])
    if frame[TOLL] + owes > half.size[LIMIT]:
        frame[OWED] = owes
        return NONE
    frame[LOW] = low
    high = _sets(data, half, slots, low, s)
    if high < 0:
        return GAVE_UP
    frame[HIGH] = high
    if high > low + 1:
        half.moves[low:high] = half.moves[low:high][np.argsort(half.moves[low:high, WASTE])]
    return NONE


@compiled
def _sets(data, half, slots, low, s):
    """A move for every set of requests that may begin in step s, with and without prompts taken along.

    Returns where they end, -1 where there are too many.
    """
    n, steps, first = data.prompt.shape[0], slots.shape[1] - 1, half.first
    frame, moves, backward = half.frames[s], half.moves, half.backward
    prompt, output, alike = data.prompt, data.output, data.alike
    load, seats, due = slots[LOAD], slots[SEATS], slots[DUE]
    kv, budget, toll, launch = data.kv, data.tokens, data.base + data.launch, data.launch
    most_seats = min(data.sequences, budget)
    credit, rode, spent, limit = frame[CREDIT], frame[RODE], frame[TOLL], half.size[LIMIT]
    picked, count, at, high, chosen, owed_least = np.zeros(n, np.int64), 0, 0, low, np.int64(0), NEVER
    keep = half.size[KEEP] if s < half.size[UNTIL] else 0
    least, whole = kv - (frame[SPARE] - keep), half.size[WHOLE] - frame[BEGUN]
    ahead = np.zeros(n + 1, np.int64)
    for i in range(n - 1, -1, -1):
        mine = prompt[i] + (output[i] - 1 if backward else 1)
        ahead[i] = ahead[i + 1] + mine * (first[i] == -1)
    while True:
        dead = False
        while at < n and not dead:
            if first[at] == -1:
                fits, later = alike[at] < 0 or first[alike[at]] != -1, output[at] - 1
                if s + later > steps:
                    fits = False
                for t in range(later if fits else 0):
                    mine = prompt[at] + (later - t if backward else t + 1)
                    fits = fits and load[s + t] + mine <= kv and seats[s + t] < most_seats
                if fits:
                    _place(data, half, slots, at, s, 1)
                    chosen |= np.int64(1) << at
                    picked[count] = at
                    count += 1
                else:
                    dead = s + later == steps
            at += 1
            dead = dead or load[s] + ahead[at] < least
        if not dead and seats[s] > 0:
            half.size[LEFT] -= 1
            room, cap = kv - load[s], budget - seats[s]
            rest, spare, free = whole - due[s], frame[SPARE] - room, kv - load[s + 1]
            most = np.int64(-1)
            for ride in range(2):
                if ride and (cap <= 0 or seats[s] >= data.sequences or room <= 0):
                    break
                if backward:
                    alone, debt, pool = _behind(due[s], -credit, ride, room, frame[POOL], cap, budget)
                    after = -debt
                else:
                    alone, after, pool = _ahead(
                        due[s], credit, rode, ride, room, rest, frame[POOL], cap, budget
                    )
                paid, tokens = spent + toll * alone + launch * ride, rest - after + pool
                owes = owed(tokens, spare, budget, toll, launch)
                if s + 1 == steps:
                    owes = toll * -(-tokens // budget)
                elif paid + owes > limit:  # most are left here, before what takes longer
                    pass
                elif backward:
                    need = due[s + 1] - after
                    owes = owed_before(tokens, spare, need, due[s + 1], free, pool, budget, toll, launch)
                else:
                    if most < 0:
                        most, _ = fitting(data, first, free)
                    owes = owed_next(tokens, spare, after, free, most, pool, budget, toll, launch)
                if paid + owes > limit:
                    owed_least = min(owed_least, paid + owes - spent)
                elif high == moves.shape[0]:
                    high = -1
                    break
                else:
                    moves[high, WHO], moves[high, PAID], moves[high, POOLS] = chosen, paid, pool
                    moves[high, KEEPS], moves[high, RIDES] = after, 0 if backward else ride
                    moves[high, WASTE] = room + (0 if backward else budget * alone - max(0, due[s] - credit))
                    high += 1
        back = True
        while back and count > 0:
            count -= 1
            at = picked[count]
            _place(data, half, slots, at, s, -1)
            chosen &= ~(np.int64(1) << at)
            back = s + output[at] - 1 == steps
            at += 1
            back = back or load[s] + ahead[at] < least
        if back or high < 0:
            for i in picked[:count]:
                _place(data, half, slots, i, s, -1)
            frame[OWED] = min(frame[OWED], owed_least)
            return high


@compiled
def _known(data, half, s, rode, credit, pool):
    """What the state before step s is known to owe; leaves its key."""
    keys, table = half.keys, half.table
    first, output, words, radix = half.first, data.output, half.words, half.radix
    keys[s, :] = 0
    keys[s, 0] = 2 * s + rode
    for i in range(first.shape[0]):
        if first[i] >= 0:
            most = output[i] if half.backward else output[i] - 1  # whether its prompt is due now
            keys[s, words[i]] += radix[i] * min(most, s - first[i])
    row, found = row_of(keys, table, s)
    if not found:
        return np.int64(0)
    more = credit - table[row, -3]
    more = max(0, more, more + table[row, -1] - pool)
    return table[row, -2] - (data.base + data.launch) * -(-more // data.tokens)


@compiled
def _note(half, s, owes, credit, pool):
    """Remember what the state before step s owes, unless more is known of it."""
    keys, table = half.keys, half.table
    row, found = row_of(keys, table, s)
    if not found or table[row, -2] <= owes:
        for j in range(keys.shape[1]):
            table[row, j] = keys[s, j]
        table[row, -3], table[row, -2], table[row, -1] = credit, owes, pool
