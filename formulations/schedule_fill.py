"""Unison schedules (``formulations.schedule``) where all arrive at once, from the steps of first decodes, compiled.

Decode steps d = 0..D - 1; ``first[i]`` is the step in which i decodes first (output[i] = 1: before which its prompt is
complete). So every step's reads are known, and what is left to choose is where the tokens of prompts are computed:

* before step d, in iterations of their own, as few as the prompts that are due need (``needed``), whose room takes
  tokens of those not due, too, as many as memory keeps through the step (``filled``);
* in step d itself, where its budget and memory leave room.

More tokens kept are never worse, so a schedule that has as many iterations of either kind exists wherever any has.
``fill`` finds the cheapest by dynamic programming over steps; ``anneal`` moves first decodes, one request or two at a
time (Metropolis), so that memory suffices in D steps and the iterations are few: at first as if every prompt were
computed just before its first decode, which is quick to count, then as ``fill`` counts.
"""

import numpy as np

from formulations.schedule import Iteration, Schedule, ScheduleInstance, Server
from formulations.schedule_togo import Data, IntArray, allocating, compiled

WIDTH = 8
"""Ways to fill the steps so far that are kept, each with more tokens or less cost than the others."""

HOT, WARM, COLD, OVER = 1.2, 0.4, 0.08, 60.0
"""Temperatures at the start, where ``fill`` counts, and at the end; the price of all memory too much. Each times an
iteration of prompts."""

LOAD, SEATS, DUE, SHORT = range(4)
"""Rows of slots: tokens read and decodes of each step, the one after the last empty; tokens of prompts due before it,
and of those the ones of answers of one token."""


def slots_of(steps: int) -> IntArray:
    return np.zeros((4, steps + 1), np.int64)


@compiled
def place(slots, prompt, output, first, sign):
    """Add (1) or remove (-1) a request."""
    slots[DUE, first] += sign * prompt
    if output == 1:
        slots[SHORT, first] += sign * prompt
    for t in range(output - 1):
        slots[LOAD, first + t] += sign * (prompt + t + 1)
        slots[SEATS, first + t] += sign


@compiled
def needed(due, kept, rode, first, budget):
    """Least iterations of prompts for those due; their last tokens are computed here or in the step before."""
    if due <= kept and (rode or due == 0):
        return np.int64(0)
    return 1 + max(0, -(-(due - min(kept + budget, first)) // budget))


@compiled
def filled(due, kept, first, budget, alone, room, rest):
    """Tokens kept when a step begins, of ``rest`` in prompts due later, after ``alone`` iterations before it."""
    taken = kept
    if alone > 0:
        taken = min(kept + budget, first) + budget * (alone - 1)
    return min(taken - due, room, rest)


@compiled
def kept_first(kv, load, seats, due, short, last):
    """Tokens of prompts that memory keeps after one iteration before a step, beside who decodes before and in it.

    Of several iterations this is the first. Answers of one token that are due take none of it if they are complete
    since the step before, which took some along: then they have left. There they were kept beside all that was read:
    no more than ``last``, 0 where it took none.
    """
    return kv - (load - seats - (due - short)) + min(short, last)


@compiled
def fill(data, slots, whole, ways, parents):
    """Least cost of iterations for prompts, -1 where there is no way.

    ``ways`` [slot, way]: tokens kept after the step, whether it took any along, cost, iterations before it;
    ``parents`` [slot, way]: the way that it goes on from. The cheapest one is the first of the last slot.
    """
    steps, count, before = slots.shape[1] - 1, 1, np.int64(0)
    alone_cost = data.base + data.launch
    ways[0, 0] = 0
    for d in range(steps + 1):
        due, rest, found = slots[DUE, d], whole - before - slots[DUE, d], 0
        before += due
        room = max(0, data.kv - slots[LOAD, d]) if d < steps else np.int64(0)
        for w in range(count):
            kept, rode, cost = ways[d, w, 0], ways[d, w, 1], ways[d, w, 2]
            last = max(0, data.kv - slots[LOAD, d - 1]) if rode else np.int64(0)
            first = kept_first(data.kv, slots[LOAD, d], slots[SEATS, d], due, slots[SHORT, d], last)
            alone = needed(due, kept, rode, first, data.tokens)
            now = filled(due, kept, first, data.tokens, alone, room, rest)
            for ride in range(2):
                after, spent = now, cost + alone_cost * alone
                if ride:
                    budget = data.tokens - slots[SEATS, d] if d < steps else 0
                    after = min(now + budget, room, rest)
                    if budget <= 0 or after <= 0 or slots[SEATS, d] >= data.sequences:
                        break
                    spent += data.launch
                found = _keep(ways[d + 1], parents[d + 1], found, (after, ride, spent, alone), w)
        count = found
    return ways[steps + 1, 0, 2] if count > 0 else np.int64(-1)


@compiled
def _keep(ways, parents, found, way, parent):
    """Add a way unless another is as good; returns how many there are."""
    after, ride, spent, alone = way
    left = 0
    for f in range(found):
        if ways[f, 0] >= after and ways[f, 1] >= ride and ways[f, 2] <= spent:
            return found
    for f in range(found):
        if not (ways[f, 0] <= after and ways[f, 1] <= ride and ways[f, 2] >= spent):
            for column in range(4):
                ways[left, column] = ways[f, column]
            parents[left] = parents[f]
            left += 1
    if left < WIDTH:
        ways[left, 0], ways[left, 1], ways[left, 2], ways[left, 3] = after, ride, spent, alone
        parents[left] = parent
        left += 1
    return left


@allocating
def anneal(data, first, steps, slots, tries, rough, rng):
    """The best first decodes met in so many tries, and their cost; -1 where memory suffices for none."""
    n, whole = data.prompt.shape[0], data.prompt.sum()
    ways, parents = np.zeros((steps + 2, WIDTH, 4), np.int64), np.zeros((steps + 2, WIDTH), np.int64)
    for i in range(n):
        place(slots, data.prompt[i], data.output[i], first[i], 1)
    unit = float(max(1, data.base + data.launch))
    dear, hot = OVER * unit / data.kv, HOT if rough else WARM
    now, best = np.inf, first.copy()
    least = now
    for k in range(tries):
        heat = unit * hot * (COLD / hot) ** (k / tries)
        i, j = rng.integers(0, n), -1
        was, there, back = first[i], np.int64(0), np.int64(0)
        if rng.integers(0, 2):
            there = rng.integers(0, steps - data.output[i] + 2)
        else:
            j = rng.integers(0, n)
            ends = rng.integers(0, 2) * (data.output[i] - data.output[j])  # they change first or last decodes
            there, back = first[j] - ends, was + ends
            if back < 0 or back > steps - data.output[j] + 1 or j == i:
                continue
        if there < 0 or there > steps - data.output[i] + 1 or (there == was and k > 0):
            continue
        place(slots, data.prompt[i], data.output[i], was, -1)
        place(slots, data.prompt[i], data.output[i], there, 1)
        if j >= 0:
            place(slots, data.prompt[j], data.output[j], first[j], -1)
            place(slots, data.prompt[j], data.output[j], back, 1)
        most = now - heat * np.log(rng.random())
        over = _excess(data, slots)
        value = dear * over
        if value <= most and rough:
            value += unit * _iterations(data, slots)
        elif value <= most:
            cost = fill(data, slots, whole, ways, parents)
            value = value + cost if cost >= 0 else np.inf
        if value <= most:
            now, first[i] = value, there
            if j >= 0:
                first[j] = back
            if over == 0 and value < least:
                least = value
                best[:] = first
            continue
        place(slots, data.prompt[i], data.output[i], there, -1)
        place(slots, data.prompt[i], data.output[i], was, 1)
        if j >= 0:
            place(slots, data.prompt[j], data.output[j], back, -1)
            place(slots, data.prompt[j], data.output[j], first[j], 1)
    return best, (np.int64(least) if least < np.inf else np.int64(-1))


@compiled
def _iterations(data, slots):
    """Iterations for prompts where each is computed just before its first decode."""
    count = np.int64(0)
    for due in slots[DUE]:
        count += -(-due // data.tokens)
    return count


@compiled
def _excess(data, slots):
    """Tokens read beyond memory, or kept beside answers of one token, and memory for every decode or missing step
    beyond what is allowed."""
    over, seats = np.int64(0), min(data.sequences, data.tokens)
    for d in range(slots.shape[1] - 1):
        beside = slots[LOAD, d] - slots[SEATS, d] - slots[DUE, d] + 2 * slots[SHORT, d]
        over += max(0, slots[LOAD, d] - data.kv, beside - data.kv)
        over += data.kv * (max(0, slots[SEATS, d] - seats) + (slots[SEATS, d] == 0))
    return over


def schedule_of(instance: ScheduleInstance, data: Data, first: IntArray, steps: int) -> Schedule:
    """The cheapest schedule with these first decodes.

    Raises
    ------
    ValueError
        When there is none.
    """
    slots, whole = slots_of(steps), sum(instance.prompt)
    for i, d in enumerate(first):
        place(slots, data.prompt[i], data.output[i], d, 1)
    ways, parents = np.zeros((steps + 2, WIDTH, 4), np.int64), np.zeros((steps + 2, WIDTH), np.int64)
    if fill(data, slots, whole, ways, parents) < 0:
        raise ValueError("there is no room for the prompts")
    chosen, way = list[tuple[int, bool]](), 0
    for d in range(steps, -1, -1):
        chosen.append((int(ways[d + 1, way, 3]), bool(ways[d + 1, way, 1])))
        way = int(parents[d + 1, way])
    ends, kept, rode, rest = list[tuple[int, int]](), 0, False, whole
    for d, (alone, ride) in enumerate(reversed(chosen)):
        load, seats, due, short = map(int, slots[:, d])
        rest -= due
        room = max(0, instance.kv - load) if d < steps else 0
        last = instance.kv - int(slots[LOAD, d - 1]) if rode else 0
        most = kept_first(instance.kv, load, seats, due, short, last)
        now = int(filled(due, kept, most, instance.tokens, alone, room, rest))
        kept = min(now + instance.tokens - seats, room, rest) if ride else now
        rode = ride
        ends.append((now - (ride and now == kept), kept))  # a step that takes some along takes one at least
    for d in range(steps - 1, -1, -1):  # what the next step does not keep is not taken
        now, after = ends[d]
        after = min(after, int(slots[DUE][d + 1]) + ends[d + 1][0])
        ends[d] = min(now, after), after
    befores = [0, *(after for _, after in ends)]
    before = [int(slots[DUE, d]) + now - befores[d] for d, (now, _) in enumerate(ends)]
    beside = [after - now for now, after in ends]
    return run_slots(instance, [int(d) for d in first], before, beside)


def run_slots(instance: ScheduleInstance, first: list[int], before: list[int], beside: list[int]) -> Schedule:
    """The iterations of first decodes, and tokens of prompts before and beside each decode step: prompts in their
    order, all but the last token of those that decode after the step to come. Where memory does not hold what is
    taken along it is taken later.

    Raises
    ------
    ValueError
        When memory does not hold a prompt that is due.
    """
    server, found = Server(instance), list[Iteration]()
    starts = sorted((d, instance.output[i] > 1, i) for i, d in enumerate(first))

    def run(decodes: bool, tokens: int, slot: int) -> int:
        """One iteration of so many tokens of prompts, or what fits; returns how many."""
        decoding = len(server.running) * decodes
        held = sum(server.kept(i) for i in range(len(instance))) + decoding
        room = min(tokens, instance.tokens - decoding, instance.kv - held)
        seats, chunks = instance.sequences - decoding, list[tuple[int, int]]()
        for d, _, i in starts:
            chunk = min(room, instance.prompt[i] - server.done[i] - (d > slot))
            if chunk > 0 and len(chunks) < seats:
                chunks.append((i, chunk))
                room -= chunk
        if chunks or decoding:
            found.append(Iteration(decodes=decodes, chunks=tuple(chunks)))
            server.run(found[-1])
        return sum(c for _, c in chunks)

    for d, tokens in enumerate(before):
        while left := sum(instance.prompt[i] - server.done[i] for k, _, i in starts if k <= d):
            taken = run(False, max(left, tokens), d)
            tokens -= taken
            if not taken:
                raise ValueError("memory does not hold a prompt")
        while tokens > 0 and (taken := run(False, tokens, d)):
            tokens -= taken
        if server.running:
            run(True, beside[d] if d < len(beside) else 0, d + 1)
    return tuple(found)
