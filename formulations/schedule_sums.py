"""Sums of the requests that begin in a step of ``schedule_paths``, bits of those that can lead on, compiled."""

import numpy as np

from formulations.schedule_fill import DUE, LOAD
from formulations.schedule_togo import compiled
from formulations.schedule_tree import (
    ALONE,
    BEGUN,
    DIGITS,
    DUES,
    KEPT,
    MUST,
    RIDES,
    RODE,
    WHOLE,
    limits_of,
    reads_in,
)


@compiled
def mark_sums(data, tree, s, count, waste, unread, apart, pool):
    """Mark sums of a set for step s that waste no more than ``waste`` and leave no more memory ``unread``.

    Of tokens that the set reads there, and of those due before it; backward, of those read and of answers of one token.
    """
    sums, digits, due = tree.sums, tree.size[DIGITS], tree.slots[DUE, s]
    sums[:, count] = 0
    free = data.kv - tree.slots[LOAD, s]
    for ride in range(2 if tree.frames[s, RIDES] > 0 else 1):
        bottom, top, wide, now, least, most = _ways(
            data, tree, s, free, due, waste, unread, apart, pool, ride
        )
        _mark(sums, 0, count, bottom, top, digits)
        for k in range(least, most + 1):
            low, high = _due(data, tree, s, wide, now, k)
            low, high = max(low, bottom - apart), min(high, top + pool)
            _mark(sums, 1, count, low, high, digits)


@compiled
def leads(data, tree, s, chosen, free, due):
    """Whether such sums may be marked for step s, of those that begin after ``chosen`` do in the step before.

    Where ``free`` memory is left in step s and so much is due before it: either nothing is read, or as much as one
    request reads.
    """
    waste, unread = limits_of(data, tree, s)
    if waste < 0 or unread < 0 or free < 0:
        return False
    least, pool = free + 1, 0
    for i in range(tree.first.shape[0] - 1, -1, -1):
        if tree.first[i] < 0 and not chosen >> i & 1:
            if data.output[i] > 1:
                least = reads_in(data.prompt[i], data.output[i], tree.backward, 0)
                break
            pool += data.prompt[i]
    apart = 0 if tree.backward else free // least
    for ride in range(2 if tree.frames[s, RIDES] > 0 else 1):
        bottom, top, wide, now, few, many = _ways(data, tree, s, free, due, waste, unread, apart, pool, ride)
        for k in range(few, many + 1):
            low, high = _due(data, tree, s, wide, now, k)
            if bottom <= 0 <= top and low <= min(pool, high) and high >= 0:
                return True
            if low <= high and max(bottom, least, low - pool) <= min(top, high + apart):
                return True
    return False


@compiled
def _ways(data, tree, s, free, due, waste, unread, apart, pool, ride):
    """Intervals of both sums for step s where that takes prompts along (1) or does not (0).

    Least and most that a set reads; by how much less may be due than a number, and that with no iterations alone, each
    adding ``tokens`` (``_due``); least and most iterations alone.

    Proof: let r be the memory that nobody reads in step s. Forward let v be the tokens that k iterations could compute,
    and those kept, beyond what is due; backward, they and r beyond what is due and the debt. Neither is less than
    nothing, no more than r is kept through the step, and it wastes v at least, and r but for what it takes along, which
    is less than ``tokens``. Of v, and of the ``tokens`` that it could take along, all but r is *lost*: iterations could
    have computed it, and can compute only so much more than is to come. Both sums differ by answers of one token, no
    more than ``pool``, and forward by the first token of each that begins, no more than ``apart``.
    """
    frame, budget = tree.frames[s], data.tokens
    lost = budget * (frame[ALONE] + frame[RIDES]) - (tree.size[WHOLE] - frame[BEGUN] - frame[KEPT])
    now, over = frame[KEPT] + (free - due if tree.backward else 0), budget * ride - lost
    bottom, top = free - min(unread, waste + (budget - 1) * ride), free - max(0, over)
    wide = min(waste, free - bottom - over)
    least = max(0, -((now - bottom + apart) // budget))
    most = min(frame[ALONE], (min(free - over, top + wide) + pool - now) // budget)
    return bottom, top, wide, now, least, most


@compiled
def _due(data, tree, s, wide, now, k):
    """Least and most due with k iterations alone: nothing without any, if the step before took nothing along."""
    high = now + data.tokens * k
    low = high - wide
    if k == 0 and not tree.frames[s, RODE] and not tree.backward:
        high = min(high, 0)
    return low, high


@compiled
def _mark(sums, row, place, low, high, digits):
    low, high = max(0, low) >> digits, min(high >> digits, 64 * (sums.shape[2] - 1) - 1)
    ones = ~np.uint64(0)
    for j in range(low >> 6, (high >> 6) + 1 if low <= high else 0):
        word = ones
        if j == low >> 6:
            word &= ones << np.uint64(low & 63)
        if j == high >> 6:
            word &= ones >> np.uint64(63 - (high & 63))
        sums[row, place, j] |= word


@compiled
def is_marked(sums, place, shorts, reads, dues, digits):
    y = dues >> digits
    if sums[1, place, y >> 6] >> np.uint64(y & 63) & np.uint64(1) == 0:
        return False
    x = reads >> digits
    return place < shorts or sums[0, place, x >> 6] >> np.uint64(x & 63) & np.uint64(1) != 0


@compiled
def mark_ahead(sums, listed, count, shorts, apart, words, digits):
    """From each place of those listed on, sums that lead to a marked one with requests from there on.

    Answers of one token come last, and only for them are both sums kept: before, what is read and what is due are the
    same but for as much as ``apart``, so what is due leads to both.
    """
    for place in range(count, -1, -1):
        if place < count:
            for j in range(words):
                sums[0, place, j] = sums[0, place + 1, j]
                sums[1, place, j] = np.uint64(0) if listed[MUST, place] else sums[1, place + 1, j]
            sums[1, place, words], by = 0, listed[DUES, place] >> digits
            _shift(sums, place, words, by)
            if digits > 0:
                _shift(sums, place, words, by + 1)
        if place == shorts:
            _join(sums, place, words, (apart >> digits) + (digits > 0 and apart > 0))


@compiled
def _join(sums, place, words, apart):
    """Unmark what is due where no sum that is read is marked, as large or larger by no more than ``apart``."""
    sums[0, place, words] = 0
    for j in range(words):
        near = np.uint64(0)
        for by in range(apart + 1):
            q, r = by >> 6, np.uint64(by & 63)
            if j + q < words:
                near |= sums[0, place, j + q] >> r
                if r > 0:
                    near |= sums[0, place, j + q + 1] << (np.uint64(64) - r)
        sums[1, place, j] &= near


@compiled
def _shift(sums, place, words, by):
    """Add the marks of the next place, each for a sum due that is smaller by so much."""
    q, r = by >> 6, np.uint64(by & 63)
    for j in range(words - q):
        word = sums[1, place + 1, j + q] >> r
        if r > 0:
            word |= sums[1, place + 1, j + q + 1] << (np.uint64(64) - r)
        sums[1, place, j] |= word
