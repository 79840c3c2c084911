"""Best-first search for the best unison schedule (``formulations.schedule``), compiled.

State      of every request the tokens emitted (0: its prompt waits), the clock, room for chunks
Move       one iteration: whether running requests decode, which prompts it completes, whether it takes chunks of
           others; after waiting for an arrival or not
Cost       ended + owed * clock: times of what has ended, and the clock for each of the ``owed`` that have not (one
           for the makespan); so the cost of a full schedule is the objective
Floor      a bound on what the owed ends lie after the clock (``schedule_togo``); cost + floor is one on the objective
Dominance  of two states with the same tokens, one with no less cost and clock and no more room leads to nothing
           better; once all have arrived the clock does not matter

Chunks of prompts that an iteration does not complete are not followed one by one, only the room for them in iterations
that take chunks, less the tokens of completed prompts; every schedule has room for its chunks, so none is lost. Chunks
are charged when their prompt is completed, so the clock is early by what they take. What ended in between was later by
that: room is ``fresh`` since the last end and costs nothing more, or ``old``, when a token costs its time again for
each of the last ``drop`` ends. Where the search waits for an arrival the chunks may have taken that time: that room is
``free``, its tokens not charged at all. So the least cost of a path is a bound for the class, and its schedule, run
by ``schedule.replay``, mostly takes just that.

When moves or nodes run out, all that is not expanded costs at least the first of the queue, which is the bound.
"""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np

from formulations.schedule import Iteration, Objective, Schedule, ScheduleInstance
from formulations.schedule_togo import allocating, compiled, data_of, togo

MOST_REQUESTS = 60
"""A set of requests is an int64."""

MOST_SETS = 200_000
"""Sets of prompts that one iteration may complete; a state with more is not expanded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """``bound`` <= the objective of every schedule of the class; ``schedule`` is the best path, if any.

    ``ended``: no path is left that could be better.
    """

    bound: int
    schedule: Schedule | None
    ended: bool


ROOM = ("free", "fresh", "old", "drop")
NODE = np.dtype(
    [(name, np.int64) for name in (*ROOM, "clock", "cost", "value", "parent", "next")]
    + [(name, np.bool_) for name in ("decodes", "chunks", "dead")]
)
"""``value``: cost and floor. ``next``: another node with the same tokens."""

Tree = namedtuple("Tree", "nodes emitted table heap size")
"""``emitted`` [node, request]; ``table`` hashes emitted to the first such node; ``heap`` of nodes by value;
``size``: nodes, heap, best node or -1, least objective known, moves left."""
COUNT, HEAP, BEST, LEAST, MOVES = range(5)

MOST_NODES = 2_000_000
"""Some 300 MB."""


def search(
    instance: ScheduleInstance,
    objective: Objective,
    *,
    most: int,
    moves: int,
    width: int = 0,
    rough: bool = False,
) -> Found:
    """The best schedule below ``most``, if so many ``moves`` suffice, and a bound in any case; ``schedule_best.solve``
    has an example.

    Parameters
    ----------
    most
        Objective of a schedule that is known; where nothing is below it, it is the bound.
    width
        If above 0, only so many states are kept of all with the same number of moves: finds good schedules, and
        the bound is that of the start.
    rough
        All room costs nothing: fewer states, a bound that is a little less, where ends come one by one.
    """
    if len(instance) > MOST_REQUESTS:
        return Found(bound=0, schedule=None, ended=False)
    data, n, nodes = data_of(instance, objective), len(instance), min(moves + 1, MOST_NODES)
    size = 1 << (2 * nodes - 1).bit_length()
    tree = Tree(
        np.zeros(nodes, NODE).view(np.recarray), np.zeros((nodes, n), np.int16), np.full(size, -1, np.int64),
        np.zeros(nodes, np.int64), np.array([0, 0, -1, most, moves]),
    )  # fmt: skip
    bound = _run(data, tree, width, rough)
    best = int(tree.size[BEST])
    return Found(
        bound=int(bound),
        schedule=None if best < 0 else _schedule(instance, tree, best),
        ended=width == 0 and bool(bound == tree.size[LEAST]),
    )


@allocating
def _run(data, tree, width, rough):
    """Expand the node of least value until it is no better than what is known; see ``search``."""
    n = data.prompt.shape[0]
    work = (
        np.zeros(n + 1),
        np.zeros(n + 1),
        np.zeros(n + 1),
        np.zeros(n, np.int16),
        np.zeros(data.output.max() + 1),
    )
    sets = np.zeros((3, MOST_SETS), np.int64)
    size = tree.size
    start = data.arrival.min()
    owed = n if data.sums else 1
    _add(data, tree, work, -1, start, owed * start, (0, 0, 0, 0), (False, False))
    bound = tree.nodes.value[0]
    if width == 0:
        while size[HEAP] > 0 and tree.nodes.value[tree.heap[0]] < size[LEAST]:
            node = _pop(tree)
            if not tree.nodes.dead[node] and not _expand(data, tree, work, sets, node, rough):
                return tree.nodes.value[node]
        return size[LEAST]
    low = 0
    while low < size[COUNT]:
        high = size[COUNT]
        best = np.argsort(tree.nodes.value[low:high])[:width]
        size[HEAP] = 0
        for k in best:
            node = low + k
            if tree.nodes.value[node] < size[LEAST] and not _expand(data, tree, work, sets, node, rough):
                return bound
        low = high
    return bound


# ---------------------------------------------------------------- moves


@compiled
def _expand(data, tree, work, sets, node, rough):
    """Add every state that one move leads to; False if there is no room for them."""
    n = data.prompt.shape[0]
    emitted, row, nodes = tree.emitted[node], work[3], tree.nodes
    running, held = 0, np.int64(0)
    for i in range(n):
        if 0 < emitted[i] < data.output[i]:
            running += 1
            held += data.prompt[i] + emitted[i] - 1
    owed, start = _owed(data, emitted), nodes.clock[node]
    ended = nodes.cost[node] - owed * start
    free, fresh, old = nodes.free[node], nodes.fresh[node], nodes.old[node]
    while True:
        waited = start > nodes.clock[node]
        if waited:
            free, fresh, old = free + fresh + old, np.int64(0), np.int64(0)
        pool = free + fresh + old
        for decodes in range(2):
            if decodes > running:
                continue
            decoding = running * decodes
            room, memory = data.tokens - decoding, data.kv - held - decoding
            if room < 0 or memory < 0:
                continue
            seats = min(room, data.sequences - decoding)
            count = _sets(data, emitted, start, room + pool, memory, seats, sets)
            if count < 0:
                return False
            for k in range(count):
                chosen, tokens, own = sets[0, k], sets[1, k], sets[2, k]
                # Free tokens are in chunks already, and those beyond the room; old ones come last.
                from_free = min(tokens, free)
                here = min(tokens - from_free, room)
                from_fresh = min(tokens - from_free - here, fresh)
                from_old = tokens - from_free - here - from_fresh
                for ride in range(2):
                    chunks = chosen > 0 or ride == 1
                    if (ride and (chosen > 0 or room <= 0)) or not (chunks or decodes):
                        continue
                    if waited and not (ride or (chosen and here < room) or _comes(data, chosen, start)):
                        continue  # takes nothing of who has come, so it is as good without waiting
                    time = data.base + data.token * (tokens - from_free + decoding) + own
                    time += data.launch * chunks + decodes * data.decode
                    time += decodes * (data.sequence * running + data.read * (held + running))
                    now, ends = start + time, np.int64(0)
                    for i in range(n):
                        row[i] = emitted[i]
                        if (decodes and 0 < row[i] < data.output[i]) or chosen >> i & 1:
                            row[i] += 1
                            ends += data.sums and row[i] == data.target[i]
                    cost = ended + owed * now + data.token * from_old * nodes.drop[node]
                    left = room - here if chunks else np.int64(0)
                    total = _after(data, row, start, pool + here + left - tokens)
                    if total < 0 or (ride and total <= pool and old == 0):
                        continue
                    has_free = min(total, free - from_free)
                    has_fresh = min(total - has_free, fresh - from_fresh + left)
                    has_old, drop = total - has_free - has_fresh, nodes.drop[node]
                    if rough:
                        has_fresh, has_old = has_fresh + has_old, np.int64(0)
                    elif ends:
                        drop = ends if has_fresh or not has_old else drop + ends
                        has_fresh, has_old = np.int64(0), has_fresh + has_old
                    if not has_old:
                        drop = np.int64(0)
                    after = (has_free, has_fresh, has_old, drop)
                    if not _add(data, tree, work, node, now, cost, after, (decodes == 1, chunks)):
                        return False
        later = np.int64(-1)
        for i in range(n):
            if data.arrival[i] > start and (later < 0 or data.arrival[i] < later):
                later = data.arrival[i]
        if later < 0:
            return True
        start = later


@compiled
def _comes(data, chosen, start):
    """Whether any of the chosen arrives just then."""
    found = False
    for i in range(data.prompt.shape[0]):
        found |= chosen >> i & 1 and data.arrival[i] == start
    return found


@compiled
def _owed(data, row):
    """Ends that the clock counts for."""
    owed = 0
    for i in range(row.shape[0]):
        owed += row[i] < data.target[i]
    return owed if data.sums else 1


@compiled
def _sets(data, emitted, clock, room, memory, seats, sets):
    """Sets of arrived prompts that fit into an iteration: bits, tokens, own time. -1 if there are too many.

    Of requests that are alike the first in the list comes first.
    """
    count = 1
    sets[:, 0] = 0
    for i in range(emitted.shape[0]):
        if emitted[i] or data.arrival[i] > clock:
            continue
        other = data.alike[i]
        for k in range(count):
            if other >= 0 and emitted[other] == 0 and not sets[0, k] >> other & 1:
                continue
            tokens = sets[1, k] + data.prompt[i]
            if tokens > room or tokens > memory or _bits(sets[0, k]) >= seats:
                continue
            if count == sets.shape[1]:
                return -1
            sets[0, count], sets[1, count] = sets[0, k] | 1 << i, tokens
            sets[2, count] = sets[2, k] + data.own[i]
            count += 1
    return count


@compiled
def _bits(number):
    count = 0
    while number:
        number &= number - 1
        count += 1
    return count


@compiled
def _after(data, row, clock, pool):
    """The pool that memory and prompts leave after an iteration, -1 where running requests cannot all end."""
    n = row.shape[0]
    kept, running, rest = np.int64(0), 0, np.int64(0)
    for i in range(n):
        if row[i] == 0:
            rest += (data.prompt[i] - 1) * (data.arrival[i] <= clock)
        elif row[i] < data.output[i]:
            running += 1
            kept += data.prompt[i] + row[i] - 1
            steps = data.output[i] - row[i]  # memory is highest where somebody ends
            peak = np.int64(0)
            for j in range(n):
                if 0 < row[j] <= data.output[j] - steps:
                    peak += data.prompt[j] + row[j] - 1 + steps
            if peak > data.kv:
                return np.int64(-1)
    if running > data.sequences:
        return np.int64(-1)
    return min(pool, rest, data.kv - kept)


# ---------------------------------------------------------------- states


@compiled
def _add(data, tree, work, parent, clock, cost, room, kind):
    """A state with the tokens of ``work[3]``, unless it is no use; False if there is no place for it.

    ``room``: free, fresh, old, drop. ``kind``: whether running requests decoded, and chunks were taken.
    """
    nodes, size, row = tree.nodes, tree.size, work[3]
    size[MOVES] -= 1
    if size[MOVES] < 0:
        return False
    value = cost + togo(data, row, clock, room[0], room[0] + room[1] + room[2], work)
    if parent >= 0:
        value = max(value, nodes.value[parent])
    if value >= size[LEAST]:
        return True
    slot = _slot(tree, row)
    other, last, owed = tree.table[slot], np.int64(-1), _owed(data, row)
    while other >= 0:
        settled = clock >= data.last_arrival and nodes.clock[other] >= data.last_arrival
        lead = owed * (clock - nodes.clock[other])  # of the other one, if it waits for this clock
        its = (nodes.free[other], nodes.fresh[other], nodes.old[other], nodes.drop[other])
        no_dearer = nodes.cost[other] <= cost and (
            settled or (lead >= 0 and nodes.cost[other] + lead <= cost)
        )
        no_cheaper = nodes.cost[other] >= cost and (
            settled or (lead <= 0 and nodes.cost[other] >= cost - lead)
        )
        if no_dearer and _roomier(its, room):
            return True
        if no_cheaper and _roomier(room, its):
            nodes.dead[other] = True
        if nodes.dead[other] and last >= 0:  # the first one stays, it says whose tokens these are
            nodes.next[last] = nodes.next[other]
        else:
            last = other
        other = nodes.next[other]
    node = size[COUNT]
    if node == nodes.shape[0]:
        return False
    size[COUNT] = node + 1
    for i in range(row.shape[0]):
        tree.emitted[node, i] = row[i]
    nodes.free[node], nodes.fresh[node], nodes.old[node], nodes.drop[node] = room
    nodes.clock[node], nodes.cost[node], nodes.value[node], nodes.parent[node] = clock, cost, value, parent
    nodes.decodes[node], nodes.chunks[node] = kind
    nodes.next[node] = tree.table[slot]
    tree.table[slot] = node
    if _done(data, row):
        size[LEAST], size[BEST] = cost, node
    else:
        _push(tree, node)
    return True


@compiled
def _slot(tree, row):
    """Where the table has the nodes with these tokens, or nothing yet."""
    place = np.uint64(1469598103934665603)
    for i in range(row.shape[0]):
        place = (place ^ np.uint64(row[i])) * np.uint64(1099511628211)
    mask = tree.table.shape[0] - 1
    slot = np.int64((place ^ (place >> np.uint64(29))) & np.uint64(mask))
    while tree.table[slot] >= 0:
        node, same = tree.table[slot], True
        for i in range(row.shape[0]):
            if tree.emitted[node, i] != row[i]:
                same = False
                break
        if same:
            break
        slot = (slot + 1) & mask
    return slot


@compiled
def _roomier(a, b):
    """Whether room a is as good as room b."""
    total, other = a[0] + a[1] + a[2], b[0] + b[1] + b[2]
    return a[0] >= b[0] and a[0] + a[1] >= b[0] + b[1] and total >= other and (a[3] <= b[3] or b[2] == 0)


@compiled
def _done(data, row):
    missing = 0
    for i in range(row.shape[0]):
        missing += row[i] < data.target[i]
    return missing == 0


@compiled
def _before(tree, a, b):
    """Order of the queue: by value, of equals the newest."""
    x, y = tree.nodes.value[a], tree.nodes.value[b]
    return x < y or (x == y and a > b)


@compiled
def _push(tree, node):
    i = tree.size[HEAP]
    tree.size[HEAP] = i + 1
    while i > 0:
        up = (i - 1) >> 1
        if not _before(tree, node, tree.heap[up]):
            break
        tree.heap[i] = tree.heap[up]
        i = up
    tree.heap[i] = node


@compiled
def _pop(tree):
    """Remove and return the first of the queue."""
    size = tree.size[HEAP] - 1
    tree.size[HEAP] = size
    first, moved, i = tree.heap[0], tree.heap[size], 0
    while 2 * i + 1 < size:
        child = 2 * i + 1
        if child + 1 < size and _before(tree, tree.heap[child + 1], tree.heap[child]):
            child += 1
        if not _before(tree, tree.heap[child], moved):
            break
        tree.heap[i] = tree.heap[child]
        i = child
    tree.heap[i] = moved
    return first


# ---------------------------------------------------------------- schedules out


def _schedule(instance: ScheduleInstance, tree: Tree, node: int) -> Schedule:
    """The iterations of a path: tokens that do not fit where their prompt is completed go into the last chunks before
    that have room; then decodes to the end."""
    path = []
    while node > 0:
        path.append(node)
        node = int(tree.nodes.parent[node])
    found: list[Iteration] = []
    due: list[tuple[int, int]] = []  # tokens of prompts completed later, first of all the latest
    for node in path:
        before, now = tree.emitted[tree.nodes.parent[node]], tree.emitted[node]
        decodes = bool(tree.nodes.decodes[node])
        running = sum(0 < e < o for e, o in zip(before, instance.output, strict=True))
        room = instance.tokens - decodes * running
        complete = [i for i in range(len(instance)) if not before[i] and now[i]]
        chunks = dict.fromkeys(complete, 1)
        room -= len(complete)
        due = due + [(i, instance.prompt[i] - 1) for i in complete]
        rest = []
        for i, tokens in due:
            some = min(tokens, room) if tree.nodes.chunks[node] else 0
            room -= some
            if some:
                chunks[i] = chunks.get(i, 0) + some
            if tokens > some:
                rest.append((i, tokens - some))
        due = rest
        if chunks or decodes:  # room that nobody needed is not taken
            found.append(Iteration(decodes=decodes, chunks=tuple((i, int(c)) for i, c in chunks.items())))
    found.reverse()
    last = tree.emitted[path[0]]
    more = max(o - e for o, e in zip(instance.output, last, strict=True))
    return tuple(found) + (Iteration(decodes=True, chunks=()),) * int(more)
