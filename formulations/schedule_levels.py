"""The least iterations of unison schedules (``formulations.schedule``) of D decode steps where all arrive at once.

Every token is paid wherever it runs, so the makespan is a constant plus

    (base + decode) D + (base + launch) Y + launch M

with Y iterations of prompts alone and M steps that take prompts along. What these two cost, the *toll*, is bounded by
depth-first search over steps: which requests decode first in step d, and whether it takes prompts along. A path runs
as few iterations of prompts as those due need (``schedule_fill.needed``), each as full as memory of the step to come
allows. It is left when its toll so far and what it owes at least (``owed``, ``owed_next``) exceed a limit; the least
such sum is the next limit worth a try (Korf 1985). So the limits grow until a path stays below one, and each that is
refuted is a bound.

Proof that none is missed: follow a schedule, choosing its first decodes and the steps that take prompts along. By
induction over steps the path has run no more iterations alone, and with ``tokens`` times those it is behind it would
keep no fewer tokens: whenever the schedule has run what is due, so can the path with them. So its toll is no more.
By the same induction, a state with the same first decodes of those that run owes no less where it keeps fewer tokens,
and at most one iteration less for every ``tokens`` that it keeps beyond. That is what ``table`` remembers of states
that are left, whatever the limit was. Of requests that are alike the first decodes first.
"""

from collections import namedtuple
from dataclasses import replace
from math import prod

import numpy as np

from formulations.schedule import Objective, ScheduleInstance
from formulations.schedule_fill import DUE, LOAD, SEATS, SHORT, filled, kept_first, needed, place, slots_of
from formulations.schedule_floor import read_of
from formulations.schedule_halves import Halves
from formulations.schedule_memory import known, note, places
from formulations.schedule_togo import compiled, data_of
from formulations.schedule_toll import FOUND, GAVE_UP, NEVER, NONE, fitting, least_of, owed, owed_next

ROWS = 1 << 23
"""States remembered at most; a power of two."""

MOST_MOVES, MOST_REQUESTS = 1_000_000, 62

Tree = namedtuple("Tree", "first frames moves table words radix keys size")
"""``first``: first decodes, -1 for none yet; ``frames`` [step, column]; ``moves`` [move, column]: those of a step one
after another; ``table``: states left, their key, what they owe and the tokens kept; ``words``, ``radix``: where
progress of each request is in the key; ``keys`` [step]; ``size``: see LEFT."""
LEFT, LIMIT, WHOLE = range(3)
"""Columns: work left, the limit on the toll, all tokens of prompts."""
LOW, HIGH, NEXT, CHOSEN, TOLL, OWED, RODE, KEPT, BEGUN, SPARE = range(10)
"""Columns: moves from, to; the next; the requests that decode first, a bit each; the toll before the step; the least
it was found to owe; whether the last took prompts along; tokens kept; tokens of prompts due; memory that no decode
reads from here on."""
WHO, PAID, KEEPS, RIDES, WASTE = range(5)


class Levels:
    """Limits on the toll of schedules of so many steps, refuted one after another, the cheapest first.

    Examples
    --------
    >>> from formulations.schedule import BatchCost
    >>> cost = BatchCost(base=100, token=1, launch=10, decode=20, sequence=0, read=0)
    >>> instance = ScheduleInstance(arrival=(0, 0), prompt=(5, 5), output=(3, 3), own=(0, 0), kv=99, tokens=8,
    ...                             sequences=2, cost=cost)
    >>> levels = Levels(instance, range(2, 4), work=1000)
    >>> levels.value  # two steps that take all prompts along: nobody could decode in the first
    274
    >>> while levels.result == NONE:
    ...     left = levels.advance(1000)
    >>> levels.result == FOUND, levels.value, levels.steps, levels.first.tolist()  # two iterations alone, side by side
    (True, 474, 2, [0, 0])
    """

    def __init__(self, instance: ScheduleInstance, steps: range, *, work: int) -> None:
        decodes = np.array(instance.output) > 1
        self._order = np.argsort(-(np.array(instance.prompt) + 1) * decodes, kind="stable")
        arrival, prompt, output, own = (
            tuple(column[i] for i in self._order)
            for column in (instance.arrival, instance.prompt, instance.output, instance.own)
        )
        ordered = replace(instance, arrival=arrival, prompt=prompt, output=output, own=own)
        self._instance, self._data = instance, data_of(ordered, Objective.MAKESPAN)
        self._whole, self._read = (
            sum(instance.prompt),
            sum(read_of(instance, i) for i in range(len(instance))),
        )
        self._limits = {d: self._owed(self._spare(d)) if self._spare(d) >= 0 else NEVER for d in steps}
        self.steps, self.result, self.first = -1, NONE, np.zeros(0, np.int64)
        self._states, self._table = (
            min(work, prod(o + 1 for o in instance.output)),
            np.zeros((0, 0), np.int64),
        )
        self._halves, self._loose = dict[int, Halves](), set[int]()

    def _owed(self, spare: int) -> int:
        cost = self._instance.cost
        return int(owed(self._whole, spare, self._instance.tokens, cost.base + cost.launch, cost.launch))

    def _spare(self, steps: int) -> int:
        return self._instance.kv * steps - self._read

    def value_of(self, steps: int) -> int:
        """No schedule of so many steps has a smaller makespan."""
        return least_of(self._instance, steps) + self._limits[steps]

    @property
    def value(self) -> int:
        """No schedule of any of these numbers of steps has a smaller makespan."""
        return min(map(self.value_of, self._limits), default=NEVER)

    def advance(self, work: int) -> int:
        """Look for a schedule of ``value``, and raise that where there is none; returns the work that is left.

        ``result`` is then FOUND with ``steps`` and ``first``, the first decodes; NONE; or GAVE_UP.
        """
        steps = min(self._limits, key=self.value_of)
        if self._is_tight(steps):
            self.result, self._limits[steps], done = self._halves[steps].advance(
                self._limits[steps], work // 2
            )
            work -= done
            if self.result == NONE:
                return work
            del self._halves[steps]
            self._loose.add(steps)
        return self._search(steps, self._limits[steps], work)

    def _is_tight(self, steps: int) -> bool:
        """Whether both ends may refute more: where those have found or given up, they will again."""
        fluid = sum(p for p, o in zip(self._instance.prompt, self._instance.output, strict=True) if o == 1)
        few = fluid < self._instance.tokens and len(self._instance) <= MOST_REQUESTS
        if not few or steps < 2 or steps in self._loose:
            return False
        if steps not in self._halves:
            self._halves = {steps: Halves(self._instance, steps, work=self._states)}
        return True

    def advance_any(self, steps: int, work: int) -> int:
        """The same of a schedule of so many steps, whatever its toll."""
        return self._search(steps, NEVER - 1, work)

    def _search(self, steps: int, limit: int, work: int) -> int:
        n = len(self._instance)
        if n > MOST_REQUESTS:
            self.result = GAVE_UP
            return work
        words, radix, count = places(self._data.output, steps)
        if steps != self.steps:
            rows = min(ROWS, 1 << (2 * (steps + 1) * self._states).bit_length())
            self.steps, self._table = steps, np.full((rows, count + 2), -1, np.int64)
        tree = Tree(
            np.full(n, -1), np.zeros((steps + 2, 10), np.int64), np.zeros((MOST_MOVES, 5), np.int64),
            self._table, words, radix, np.zeros((steps + 2, count), np.int64), np.array([work, limit, self._whole]),
        )  # fmt: skip
        tree.frames[0, SPARE] = self._spare(steps)
        self.result = int(_run(self._data, tree, slots_of(steps)))
        if self.result == NONE:
            self._limits[steps] = int(tree.frames[0, OWED])
        elif self.result == FOUND:
            self.first = np.zeros(n, np.int64)
            self.first[self._order] = tree.first
        return max(0, int(tree.size[LEFT]))


@compiled
def _run(data, tree, slots):
    """Depth first over steps; FOUND leaves the first decodes in the tree."""
    frames, moves, steps, d = tree.frames, tree.moves, slots.shape[1] - 1, 0
    prompt, output, first = data.prompt, data.output, tree.first
    result = _enter(data, tree, slots, d, d)
    while result == NONE:
        frame = frames[d]
        if frame[CHOSEN] >= 0:
            _place_all(prompt, output, first, slots, frame[CHOSEN], d, -1)
            frame[CHOSEN] = -1
        if frame[NEXT] >= frame[HIGH]:
            if frame[LOW] >= 0:
                note(tree, d, frame[OWED], frame[KEPT])
            if d == 0:
                return NONE
            d -= 1
            frames[d, OWED] = min(frames[d, OWED], frame[TOLL] - frames[d, TOLL] + frame[OWED])
            continue
        move = moves[frame[NEXT]]
        frame[NEXT] += 1
        _place_all(prompt, output, first, slots, move[WHO], d, 1)
        frame[CHOSEN] = move[WHO]
        child = frames[d + 1]
        child[TOLL], child[KEPT], child[RODE] = move[PAID], move[KEEPS], move[RIDES]
        child[BEGUN] = frame[BEGUN] + slots[DUE, d]
        child[SPARE] = frame[SPARE] - (data.kv - slots[LOAD, d])
        d += 1
        result = _enter(data, tree, slots, frame[HIGH], d)
        if d == steps and result == NONE:
            slots[DUE, d] = 0
    return result


@compiled
def _place_all(prompt, output, first, slots, chosen, d, sign):
    for i in range(first.shape[0]):
        if chosen >> i & 1:
            place(slots, prompt[i], output[i], d, sign)
            first[i] = d if sign > 0 else -1


@compiled
def _enter(data, tree, slots, low, d):
    """The moves of step d, none where its state owes too much; FOUND after the last step where what is due fits."""
    frame = tree.frames[d]
    frame[LOW], frame[HIGH], frame[NEXT], frame[CHOSEN], frame[OWED] = -1, low, low, -1, NEVER
    tree.size[LEFT] -= 1
    if tree.size[LEFT] < 0:
        return GAVE_UP
    if d == slots.shape[1] - 1:
        slots[DUE, d] = tree.size[WHOLE] - frame[BEGUN]
        due = slots[DUE, d]
        most = kept_first(data.kv, 0, 0, due, due, frame[RODE])
        frame[OWED] = (data.base + data.launch) * needed(due, frame[KEPT], frame[RODE], most, data.tokens)
        if frame[TOLL] + frame[OWED] > tree.size[LIMIT]:
            return NONE
        for i in range(data.prompt.shape[0]):
            if tree.first[i] < 0:
                tree.first[i] = d
        return FOUND
    owes = known(data, tree, d, frame[RODE], frame[KEPT])
    if frame[TOLL] + owes > tree.size[LIMIT]:
        frame[OWED] = owes
        return NONE
    frame[LOW] = low
    high = _sets(data, tree, slots, low, d)
    if high < 0:
        return GAVE_UP
    frame[HIGH] = high
    if high > low + 1:
        tree.moves[low:high] = tree.moves[low:high][np.argsort(tree.moves[low:high, WASTE])]
    return NONE


@compiled
def _sets(data, tree, slots, low, d):
    """A move for every set of requests that may decode first in step d, with and without prompts taken along.

    Returns where they end, -1 where there are too many.
    """
    n, steps, first = data.prompt.shape[0], slots.shape[1] - 1, tree.first
    frame, moves = tree.frames[d], tree.moves
    prompt, output, alike = data.prompt, data.output, data.alike
    load, seats, due, short = slots[LOAD], slots[SEATS], slots[DUE], slots[SHORT]
    kv, budget, toll, launch = data.kv, data.tokens, data.base + data.launch, data.launch
    most_seats = min(data.sequences, budget)
    kept, rode, spent, limit = frame[KEPT], frame[RODE], frame[TOLL], tree.size[LIMIT]
    picked, count, at, high, chosen, owed_least = np.zeros(n, np.int64), 0, 0, low, np.int64(0), NEVER
    begun, least, whole = load[d] - seats[d], kv - frame[SPARE], tree.size[WHOLE] - frame[BEGUN]
    ahead = np.zeros(n + 1, np.int64)
    for i in range(n - 1, -1, -1):
        ahead[i] = ahead[i + 1] + (prompt[i] + 1) * (first[i] < 0 and output[i] > 1)
    while True:
        dead = False
        while at < n and not dead:
            if first[at] < 0:
                fits = alike[at] < 0 or first[alike[at]] >= 0
                # The prompt of an answer of one token is kept beside who decodes before it.
                fits = fits and (output[at] > 1 or begun + prompt[at] <= kv)
                for t in range(d, d + output[at] - 1):
                    fits = fits and load[t] + prompt[at] + t - d + 1 <= kv and seats[t] < most_seats
                if fits:
                    place(slots, prompt[at], output[at], d, 1)
                    first[at] = d
                    chosen |= np.int64(1) << at
                    picked[count] = at
                    count += 1
                else:
                    dead = output[at] > 1 and d + output[at] - 1 == steps
            at += 1
            dead = dead or load[d] + ahead[at] < least
        if not dead and seats[d] > 0:
            tree.size[LEFT] -= 1
            room = kv - load[d]
            rest, spare, free = whole - due[d], frame[SPARE] - room, kv - load[d + 1]
            top = kept_first(kv, load[d], seats[d], due[d], short[d], rode)
            alone = needed(due[d], kept, rode, top, budget)
            now = filled(due[d], kept, top, budget, alone, room, rest)
            most, single = np.int64(-1), np.int64(0)
            for ride in range(2):
                after = min(now + budget - seats[d], room, rest) if ride else now
                if ride and (seats[d] >= min(budget, data.sequences) or after <= 0):
                    break
                paid = spent + toll * alone + launch * ride
                owes = owed(rest - after, spare, budget, toll, launch)
                if paid + owes <= limit and d + 1 < steps:  # most are left before this, which takes longer
                    if most < 0:
                        most, single = fitting(data, first, free)
                    owes = owed_next(rest - after, spare, after, free, most, single, budget, toll, launch)
                if paid + owes > limit:
                    owed_least = min(owed_least, paid + owes - spent)
                elif high == moves.shape[0]:
                    high = -1
                    break
                else:
                    moves[high, WHO], moves[high, PAID] = chosen, paid
                    moves[high, KEEPS], moves[high, RIDES] = after, ride
                    moves[high, WASTE] = room + budget * alone - max(0, due[d] - kept)
                    high += 1
        back = True
        while back and count > 0:
            count -= 1
            at = picked[count]
            place(slots, prompt[at], output[at], d, -1)
            first[at] = -1
            chosen &= ~(np.int64(1) << at)
            back = output[at] > 1 and d + output[at] - 1 == steps
            at += 1
            back = back or load[d] + ahead[at] < least
        if back or high < 0:
            for i in picked[:count]:
                place(slots, prompt[i], output[i], d, -1)
                first[i] = -1
            frame[OWED] = min(frame[OWED], owed_least)
            return high
