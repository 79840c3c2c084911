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
def mark_sums(data, tree, s, count, waste, unread):
    """Mark sums of a set for step s that waste no more than ``waste`` and leave no more memory ``unread``.

    Of tokens that the set reads there, and of those due before it; backward, of those read and of answers of one token.

    Proof: forward, k iterations alone compute and the path keeps no fewer than are due; what is over is kept through
    the step, where it is not read, or *lost*, as they could have computed it: so it is at most ``waste``. What is not
    read, less what the step takes along, is wasted, too. Backward, let the debt and those due *need* so much: k
    iterations compute all that is not kept through the step, where it is not read, so free - read + ``tokens`` k - need
    is at least nothing; and it is wasted, but for what is kept and not taken along. All iterations that are left, with
    those of steps that take prompts along, lose no more than they could compute beyond what is to come; such a step
    reads so little that they compute it.
    """
    frame, sums, budget = tree.frames[s], tree.sums, data.tokens
    sums[:, count] = 0
    free, digits = data.kv - tree.slots[LOAD, s], tree.size[DIGITS]
    now, wide, lost = _room(data, tree, s, free, tree.slots[DUE, s], waste, unread)
    if not frame[RODE] and not tree.backward:
        _mark(sums, 1, count, 0, 0, digits)
    for k in range(frame[RODE] == 0 and not tree.backward, frame[ALONE] + 1):
        _mark(sums, 1, count, now + budget * k - wide, now + budget * k, digits)
    _mark(sums, 0, count, free - min(unread, waste), free, digits)
    if frame[RIDES] > 0:
        _mark(sums, 0, count, free - min(unread, waste + budget - 1), free - (budget - lost), digits)


@compiled
def _room(data, tree, s, free, due, waste, unread):
    """Tokens that may be due before step s without an iteration alone, how many fewer, and what all may lose."""
    frame = tree.frames[s]
    lost = data.tokens * (frame[ALONE] + frame[RIDES]) - (tree.size[WHOLE] - frame[BEGUN] - frame[KEPT])
    return frame[KEPT] + (free - due if tree.backward else 0), min(waste, unread + lost), lost


@compiled
def leads(data, tree, s, chosen, free, due):
    """Whether such sums may be marked for step s, of those that begin after ``chosen`` do in the step before.

    Where ``free`` memory is left in step s and so much is due before it. Of sums in the intervals of ``mark_sums``
    this asks no more than that what is read is nothing, or at least what one request reads, and that both are the same
    but for ``apart`` (see ``mark_ahead``) and the ``pool`` of answers of one token.
    """
    waste, unread = limits_of(data, tree, s)
    if waste < 0 or unread < 0 or free < 0:
        return False
    frame, budget, least, pool = tree.frames[s], data.tokens, free + 1, 0
    for i in range(tree.first.shape[0] - 1, -1, -1):
        if tree.first[i] < 0 and not chosen >> i & 1:
            if data.output[i] > 1:
                least = reads_in(data.prompt[i], data.output[i], tree.backward, 0)
                break
            pool += data.prompt[i]
    apart = 0 if tree.backward else free // least
    now, wide, lost = _room(data, tree, s, free, due, waste, unread)
    bottom, top = free - min(unread, waste), free
    for ride in range(2 if frame[RIDES] > 0 else 1):
        if ride:
            bottom, top = free - min(unread, waste + budget - 1), free - (budget - lost)
        for k in range(frame[ALONE] + 1):
            high = now + budget * k
            low = high - wide
            if k == 0 and not frame[RODE] and not tree.backward:
                low, high = 0, 0
            if bottom <= 0 <= top and low <= pool and high >= 0:
                return True
            if max(bottom, least, low - pool) <= min(top, high + apart):
                return True
    return False


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
