"""Unison schedules of so many decode steps and iterations of prompts, looked for from either end, compiled.

For ``schedule_levels``: is there a schedule of D decode steps with at most Y iterations of prompts alone and M steps
that take prompts along, where all arrive at once? Depth first over steps: which requests decode first in a step, which
answers of one token end before it (backward: decode last, and end after it), and whether it takes prompts along. A
path runs as few iterations alone as those due need, each as full as memory allows.

*Waste* is memory that no decode reads, and ``tokens`` of every iteration alone, less the tokens of prompts computed.
A schedule's is kv D - reads + ``tokens`` Y - prompts in all, and no step's is less than nothing: what iterations
compute is due or kept, what is kept or taken along is not read. So a path knows what it may still waste, and by that
how much is read in a step and how much is due before it, but for so much: ``mark_sums`` marks such sums,
``mark_ahead`` those that lead to one with requests to come, and few sets are left to try (``_sets``).

Where both ends are searched, a forward path may waste only a part in the first half of the steps, and a backward one
less than the rest in the second: every schedule does one of the two, and neither path has much room where its ways are
many. The same holds of memory that is not read, which may be the scarcer one.

Proof that a path that follows a schedule, in its sets and the steps that take prompts along, has a way: let it be b
iterations alone behind. Forward it keeps no fewer tokens than the schedule less b ``tokens``, and b is not negative,
by induction over steps: where the schedule runs none and the path must, what is due fits memory, as the schedule has
it there; else the path can run as many less what it was behind; and where it keeps less than is left over, memory is
full. Backward the same holds of the tokens that must have been kept, its *debt*: ``kept`` is less the debt. So the path
never wastes more than the schedule has, and ends with no more iterations. Of requests that are alike the first begins
first. By the same induction a state has no way on where the same first decodes had none with as many tokens kept and
iterations left, or with fewer kept and an iteration more for every ``tokens`` of them; in the first half, no fewer
iterations run (``schedule_memory``).
"""

from copy import copy
from dataclasses import replace
from math import prod

import numpy as np

from formulations.schedule import Objective, ScheduleInstance
from formulations.schedule_fill import DUE, LOAD, SEATS, SHORT, filled, kept_first, needed, slots_of
from formulations.schedule_floor import read_of
from formulations.schedule_memory import known, note, places
from formulations.schedule_sums import is_marked, leads, mark_ahead, mark_sums
from formulations.schedule_togo import IntArray, compiled, data_of
from formulations.schedule_tree import (
    ALONE,
    BEGUN,
    CHOSEN,
    DEPTH,
    DIGITS,
    DUES,
    HIGH,
    KEEPS,
    KEPT,
    LEFT,
    LOW,
    MUST,
    NEXT,
    PICKED,
    POOL,
    READS,
    RIDE,
    RIDES,
    RODE,
    RUNS,
    SPARE,
    TAG,
    TOLL,
    UNTIL,
    WASTE,
    WASTED,
    WASTES,
    WHICH,
    WHO,
    WHOLE,
    Tree,
    follow,
    limits_of,
    place_all,
    reads_in,
)

FOUND, NONE, GAVE_UP, MORE = 1, 0, -1, 2
"""How a search ends; MORE: it has not yet."""

ROWS, MOST_MOVES, MOST_REQUESTS, WORDS = 1 << 21, 1_000_000, 62, 8
"""States remembered at most, a power of two; moves on a path; requests, a bit each; words of sums, 64 bits each."""

NOW, SCRATCH = ("first", "slots", "frames", "size"), ("moves", "table", "signs", "keys", "sums", "listed")
"""Arrays of a search: those that say where it is, and the others of its own."""


class Paths:
    """Schedules of so many steps from one end.

    Examples
    --------
    >>> from formulations.schedule import BatchCost
    >>> cost = BatchCost(base=100, token=1, launch=10, decode=20, sequence=0, read=0)
    >>> instance = ScheduleInstance(arrival=(0, 0), prompt=(5, 5), output=(3, 3), own=(0, 0), kv=99, tokens=8,
    ...                             sequences=2, cost=cost)
    >>> for alone in (1, 2):  # both decode in both steps
    ...     for backward in (False, True):
    ...         paths = Paths(instance, 2, backward=backward, states=1000)
    ...         paths.begin(alone, 2)
    ...         work = paths.go_on(1000)
    ...         print(paths.result == FOUND, paths.first.tolist() if paths.result == FOUND else None)
    False None
    False None
    True [0, 0]
    True [0, 0]
    """

    def __init__(self, instance: ScheduleInstance, steps: int, *, backward: bool, states: int) -> None:
        n, columns = len(instance), ("arrival", "prompt", "output", "own")
        reads = [
            (p + (o - 1 if backward else 1)) * (o > 1)
            for p, o in zip(instance.prompt, instance.output, strict=True)
        ]
        self._order = sorted(range(n), key=lambda i: -reads[i])  # those that read most in their first step
        ordered = {column: tuple(getattr(instance, column)[i] for i in self._order) for column in columns}
        self._data = data_of(replace(instance, **ordered), Objective.MAKESPAN)  # type: ignore[arg-type]
        self._steps, self.spare = steps, instance.kv * steps - sum(read_of(instance, i) for i in range(n))
        pool = sum(p for p, o in zip(instance.prompt, instance.output, strict=True) if o == 1)
        words, radix, count = places(self._data.output, (steps + 2) * (pool + 2))
        states = min(states, prod(o + 1 for o in instance.output))
        rows = min(ROWS, 1 << (2 * (steps + 1) * states).bit_length())
        wide = min(WORDS, 1 + (instance.kv + pool) // 64) + 1
        digits = max(0, (instance.kv + pool).bit_length() - (64 * (wide - 1)).bit_length() + 1)
        size = np.array([0, sum(instance.prompt), pool, digits, 0, 0, 0, 0, 0])
        self._tree = Tree(
            backward, np.full(n, -1), slots_of(steps), np.zeros((steps + 2, 12), np.int64),
            np.zeros((MOST_MOVES, 5), np.int64), np.zeros((rows, count + 6), np.int64), np.zeros(rows, np.uint8),
            words, radix, np.zeros((steps + 2, count), np.int64), np.zeros((2, n + 1, wide), np.uint64),
            np.zeros((5, n), np.int64), size,
        )  # fmt: skip
        self.result = NONE

    def begin(
        self,
        alone: int,
        rides: int,
        *,
        toll: int | None = None,
        until: int = 0,
        unread: int = 0,
        waste: int = 0,
    ) -> None:
        """Look for schedules of at most so many iterations alone and steps that take prompts along.

        They may cost so much ``toll``. In the first ``until`` steps no more memory may be ``unread`` or wasted.
        """
        tree = self._tree
        tree.first[:], tree.slots[:], tree.frames[:] = -1, 0, 0
        tree.frames[0, SPARE], tree.frames[0, ALONE], tree.frames[0, RIDES] = self.spare, alone, rides
        tree.frames[0, TOLL] = self._toll(alone, rides) if toll is None else toll
        tree.size[DEPTH : WASTE + 1] = -1, until, unread, waste
        tree.size[TAG] += 1
        self.result = MORE

    def _toll(self, alone: int, rides: int) -> int:
        return int((self._data.base + self._data.launch) * alone + self._data.launch * rides)

    def go_on(self, work: int) -> int:
        """Look on for so much work, about; returns what was done."""
        if self.result != MORE:
            return 0
        self._tree.size[LEFT] = work
        self.result = int(_run(self._data, self._tree))
        return work - int(self._tree.size[LEFT])

    def reject(self) -> None:
        """Look on after what was found, which nobody can run: that there is nothing else is no proof then."""
        tree, steps = self._tree, self._steps
        tree.first[tree.first == steps] = -1
        tree.frames[:steps, LOW] = tree.frames[:steps, HIGH]  # not remembered
        tree.size[DEPTH] = steps - 1
        self.result = MORE

    def halve(self, other: "Paths | None") -> "Paths | None":
        """Leave half of what is to come to ``other``, another search of the same that has ended, or to a new one.

        None where there is too little. Neither remembers what it has only half of.
        """
        assert other is None or (other is not self and other.result == NONE)
        depth = self._tree.size[DEPTH]
        left = np.flatnonzero(self._tree.frames[: depth + 1, NEXT] < self._tree.frames[: depth + 1, HIGH])
        if len(left) == 0:
            return None
        if other is None:
            other = copy(self)
            arrays = {name: getattr(self._tree, name) for name in (*NOW, *SCRATCH)}
            # Not zeros_like, which writes every page.
            own = {name: np.zeros(each.shape, each.dtype) for name, each in arrays.items()}
            other._tree = self._tree._replace(**own)
            used = np.flatnonzero(self._tree.signs)
            other._tree.table[used], other._tree.signs[used] = self._tree.table[used], self._tree.signs[used]
        for name in NOW:
            getattr(other._tree, name)[:] = getattr(self._tree, name)
        met = self._tree.frames[depth, HIGH]
        other._tree.moves[:met] = self._tree.moves[:met]
        s = left[0]
        begin, end = self._tree.frames[s, [NEXT, HIGH]]
        for paths, start in ((other, begin), (self, begin + 1)):
            frames, moves = paths._tree.frames, paths._tree.moves
            half = moves[start:end:2].copy()
            moves[begin : begin + len(half)] = half
            frames[s, HIGH] = begin + len(half)
            frames[: s + 1, LOW] = frames[: s + 1, HIGH]
        frames = other._tree.frames[s + 1 : depth + 1]
        frames[:, NEXT] = frames[:, LOW] = frames[:, HIGH]
        other.result = MORE
        return other

    @property
    def backward(self) -> bool:
        return bool(self._tree.backward)

    @property
    def rows(self) -> int:
        """Of the table of states."""
        return len(self._tree.table)

    @property
    def first(self) -> IntArray:
        """First decodes of what was found."""
        first, there = np.zeros(len(self._order), np.int64), self._tree.first
        first[self._order] = self._steps - there - self._data.output + 1 if self._tree.backward else there
        return first


@compiled
def _run(data, tree):
    """Depth first over steps; FOUND leaves the first steps in the tree."""
    frames, moves, size = tree.frames, tree.moves, tree.size
    s, result = size[DEPTH], NONE
    if s < 0:
        s, result = 0, _enter(data, tree, 0, 0)
    while result == NONE:
        if size[LEFT] < 0:
            size[DEPTH] = s
            return MORE
        frame = frames[s]
        if frame[CHOSEN] >= 0:
            place_all(data, tree, frame[CHOSEN], s, -1)
            frame[CHOSEN] = -1
        if frame[NEXT] >= frame[HIGH]:
            if frame[HIGH] > frame[LOW]:
                tag = size[TAG] if s < size[UNTIL] else 0
                note(tree, s, frame[ALONE], frame[RIDES], frame[TOLL], frame[KEPT], frame[WASTED], tag)
            if s == 0:
                return NONE
            s -= 1
            continue
        move = moves[frame[NEXT]]
        frame[NEXT] += 1
        place_all(data, tree, move[WHO], s, 1)
        frame[CHOSEN] = move[WHO]
        follow(data, tree, s, tree.slots[LOAD, s], tree.slots[DUE, s], move)
        s += 1
        result = _enter(data, tree, frame[HIGH], s)
    return result


@compiled
def _alone_before(need, due, ride, room, top, budget):
    """Backward: iterations alone after a step, before which no more is kept than ``room``, for so many tokens.

    ``top``: what memory keeps after the first of them; ``due``: of the tokens, those due.
    """
    if need <= room and (ride or due == 0):
        return 0
    return max(1, -(-(need - room) // budget), 1 - (-(need - top) // budget))


@compiled
def _enter(data, tree, low, s):
    """The moves of step s, none where its state has no way on; FOUND after the last where those due fit."""
    frame, slots, size = tree.frames[s], tree.slots, tree.size
    frame[LOW], frame[HIGH], frame[NEXT], frame[CHOSEN] = low, low, low, -1
    size[LEFT] -= 1
    if s == slots.shape[1] - 1:
        due = size[WHOLE] - frame[BEGUN]
        if tree.backward:
            short = due - (slots[DUE, s] - slots[SHORT, s])
            top = kept_first(data.kv, slots[LOAD, s - 1], slots[SEATS, s - 1], due, short, 0)
            alone = _alone_before(due - frame[KEPT], due, False, 0, top, data.tokens)
        else:
            top = kept_first(data.kv, 0, 0, due, due, max(0, frame[RODE] - 1))
            alone = needed(due, frame[KEPT], frame[RODE], top, data.tokens)
        if alone > frame[ALONE]:
            return NONE
        for i in range(tree.first.shape[0]):
            if tree.first[i] < 0:
                tree.first[i] = s
        return FOUND
    waste, unread = limits_of(data, tree, s)
    if waste < 0:
        return NONE
    alone, rides, toll, kept, wasted = frame[ALONE], frame[RIDES], frame[TOLL], frame[KEPT], frame[WASTED]
    tag = size[TAG] if s < size[UNTIL] else 0
    if known(data, tree, s, frame[RODE], alone, rides, toll, kept, wasted, tag):
        return NONE
    count = _list(data, tree, s)
    if count < 0:
        return NONE
    digits, free, listed = size[DIGITS], data.kv - slots[LOAD, s], tree.listed
    shorts, pool = count, 0  # the place of the first answer of one token, and tokens of all of them
    while shorts > 0 and listed[READS, shorts - 1] == 0:
        shorts -= 1
        pool += listed[DUES, shorts]
    apart = 0 if tree.backward or shorts == 0 else min(shorts, free // listed[READS, shorts - 1])
    mark_sums(data, tree, s, count, waste, unread, apart, pool)
    words = 1 + ((free + size[POOL]) >> digits >> 6)
    mark_ahead(tree.sums, listed, count, shorts, apart, words, digits)
    high = low
    if is_marked(tree.sums, 0, shorts, 0, 0, 0):
        high = _sets(data, tree, s, count, shorts, low, waste, unread)
        if high < 0:
            return GAVE_UP
    frame[HIGH] = high
    _sort(tree.moves, low, high)
    return NONE


@compiled
def _older(data, tree, s):
    """Memory of those who decode on, beside prompts that are computed before step s (backward: after)."""
    load, seats, due, short = tree.slots[LOAD], tree.slots[SEATS], tree.slots[DUE], tree.slots[SHORT]
    if not tree.backward:
        return load[s] - seats[s]
    return load[s - 1] - seats[s - 1] - (due[s] - short[s]) if s > 0 else 0


@compiled
def _fits(slots, prompt, output, backward, s, kv, most):
    """Whether a request may begin in step s beside those that have."""
    for t in range(output - 1):
        if slots[LOAD, s + t] + reads_in(prompt, output, backward, t) > kv or slots[SEATS, s + t] >= most:
            return False
    return True


@compiled
def _list(data, tree, s):
    """List the requests that may begin in step s; returns how many, -1 where one must that may not.

    The prompt of an answer of one token is kept beside who decodes on.
    """
    count, end, most = 0, tree.slots.shape[1], min(data.sequences, data.tokens)
    older, listed, backward = _older(data, tree, s), tree.listed, tree.backward
    for i in range(tree.first.shape[0]):
        prompt, output = data.prompt[i], data.output[i]
        if tree.first[i] >= 0:
            continue
        fits = s + output <= end and _fits(tree.slots, prompt, output, backward, s, data.kv, most)
        if not fits and output > 1 and s + output >= end:
            return -1
        if fits and (output > 1 or older + prompt <= data.kv):
            reads = reads_in(prompt, output, backward, 0) if output > 1 else 0
            listed[WHICH, count], listed[READS, count] = i, reads
            listed[DUES, count] = max(reads, prompt) if backward else prompt
            listed[MUST, count] = output > 1 and s + output == end
            count += 1
    return count


@compiled
def _sets(data, tree, s, count, shorts, low, waste, unread):
    """A move for every set of listed requests with marked sums, with and without prompts taken along.

    Returns where they end, -1 where there are too many, or too many ways to them.
    """
    listed, sums, first, alike = tree.listed, tree.sums, tree.first, data.alike
    free, enough = data.kv - tree.slots[LOAD, s], tree.size[LEFT] - MOST_MOVES
    seats = min(data.sequences, data.tokens) - tree.slots[SEATS, s]
    digits, place, depth, chosen, reads, dues, high = tree.size[DIGITS], 0, 0, 0, 0, 0, low
    while True:
        while place < count:
            i, a, b = listed[WHICH, place], listed[READS, place], listed[DUES, place]
            if (
                reads + a <= free
                and seats >= (a > 0)
                and is_marked(sums, place + 1, shorts, reads + a, dues + b, digits)
                and (alike[i] < 0 or first[alike[i]] >= 0 or chosen >> alike[i] & 1)
            ):
                tree.size[LEFT] -= 1
                if tree.size[LEFT] < enough:
                    return -1
                listed[PICKED, depth] = place
                depth, chosen, seats = depth + 1, chosen | 1 << i, seats - (a > 0)
                reads, dues = reads + a, dues + b
            elif listed[MUST, place] or not is_marked(sums, place + 1, shorts, reads, dues, digits):
                break
            place += 1
        else:
            high = _moves(data, tree, s, chosen, depth, high, waste, unread)
            if high < 0:
                return high
        again = False
        while not again and depth > 0:  # the last one chosen does not begin
            depth -= 1
            place = listed[PICKED, depth]
            i, a, b = listed[WHICH, place], listed[READS, place], listed[DUES, place]
            chosen, reads, dues, seats = chosen & ~(1 << i), reads - a, dues - b, seats + (a > 0)
            again = not listed[MUST, place] and is_marked(sums, place + 1, shorts, reads, dues, digits)
            place += 1
        if not again:
            return high


@compiled
def owed(tokens, spare, budget, alone, launch):
    """Least toll of so many tokens of prompts, ``budget`` in an iteration, with so much memory that no decode reads.

    An iteration alone costs ``alone``, a step that takes some along ``launch``, which is no more.

    Proof: Y iterations compute ``budget`` each at most, and so do M steps, which keep them at their ends where
    nothing is read: so at most ``spare`` in all. Each step that is full saves an iteration, which costs no less; one
    more may.
    """
    most = max(0, min(spare, tokens))
    m = most // budget
    best = launch * m + alone * -(-(max(0, tokens) - budget * m) // budget)
    if most > budget * m:
        best = min(best, launch * (m + 1) + alone * -(-(tokens - most) // budget))
    return best


@compiled
def _moves(data, tree, s, chosen, depth, high, waste, unread):
    """Add the moves of a set, whose places are PICKED; returns where they end, -1 where there are too many."""
    slots, frame, kv, budget = tree.slots, tree.frames[s], data.kv, data.tokens
    load, seats, due, short = slots[LOAD, s], slots[SEATS, s], slots[DUE, s], slots[SHORT, s]
    then, later = slots[LOAD, s + 1], slots[DUE, s + 1]
    for d in range(depth):
        i = tree.listed[WHICH, tree.listed[PICKED, d]]
        prompt, output = data.prompt[i], data.output[i]
        if output > 1:
            load += reads_in(prompt, output, tree.backward, 0)
            seats += 1
        else:
            short += prompt
        if output > 2:
            then += reads_in(prompt, output, tree.backward, 1)
        if output == 1 or not tree.backward:
            due += prompt
        elif output == 2:
            later += prompt
    kept = frame[KEPT]
    if seats == 0 or kv - load > unread:
        return high
    room, cap, rest = kv - load, budget - seats, tree.size[WHOLE] - frame[BEGUN] - due
    for ride in range(2 if frame[RIDES] > 0 and cap > 0 and seats < data.sequences and room > 0 else 1):
        if tree.backward:
            last, need = room if ride else 0, due - kept
            before, beside = (slots[LOAD, s - 1], slots[SEATS, s - 1]) if s > 0 else (0, 0)
            top = kept_first(kv, before, beside, due, short, last)
            alone = _alone_before(need, due, ride, room, top, budget)
            after = -max(0, need - budget * alone - (cap if ride else 0))
        else:
            top = kept_first(kv, load, seats, due, short, max(0, frame[RODE] - 1))
            alone = needed(due, kept, frame[RODE], top, budget)
            after = filled(due, kept, top, budget, alone, room, rest)
            if ride:
                after = min(after + cap, room, rest)
                if after <= 0:
                    return high
        wastes, left = room + budget * alone + kept - due - after, frame[ALONE] - alone
        could = left + (frame[RIDES] - ride if s + 2 < slots.shape[1] else 0)
        if left < 0 or wastes > waste or rest - after > budget * could:
            continue
        toll = frame[TOLL] - (data.base + data.launch) * alone - data.launch * ride
        if toll < owed(rest - after, frame[SPARE] - room, budget, data.base + data.launch, data.launch):
            continue
        if high == tree.moves.shape[0]:
            return -1
        move = tree.moves[high]
        move[WHO], move[KEEPS], move[RUNS], move[WASTES] = chosen, after, alone, wastes
        move[RIDE] = ride * (1 + min(room, tree.size[POOL]))
        if s + 2 < slots.shape[1]:
            follow(data, tree, s, load, due, move)
            if not leads(data, tree, s + 1, chosen, kv - then, later):
                continue
        high += 1
    return high


@compiled
def _sort(moves, low, high):
    """Those that waste least first: by insertion, far apart before close by."""
    gap = 1
    while 3 * gap < high - low:
        gap = 3 * gap + 1
    while gap > 0:
        for k in range(low + gap, high):
            while k >= low + gap and moves[k - gap, WASTES] > moves[k, WASTES]:
                for column in range(moves.shape[1]):
                    moves[k - gap, column], moves[k, column] = moves[k, column], moves[k - gap, column]
                k -= gap
        gap //= 3
