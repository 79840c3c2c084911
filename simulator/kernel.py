"""The simulator's kernel: one loop over events, compiled by Numba, readable (and runnable) as plain Python.

Time is int64 picoseconds, so that a stretch of iterations summed in closed form equals the same stretch
stepped, bit for bit. A *slot* is a micro-batch in flight (one per pipeline stage), a *lane* is one
attention rank of one slot: lane = slot * ranks + rank. A lane's decoding sequences advance together:

    batch[lane]    sequences that decode
    context[lane]  KV tokens that they read in the next decode, sum of prompt + generated
    count[lane]    decode iterations so far: a virtual clock. A sequence that joins at count D0 with k of
                   its output tokens emitted is done when count reaches D0 + output - k.
    residue[lane]  how many sequences need a new KV block when count mod block_size has each value

Each scheduling step forms one batch. Where it holds decodes alone, it is repeated k times at once: until
the first completion, the first block that cannot be had, an arrival, or the end of a linear piece of the
cost tables, whichever is first. So work grows with events, not with tokens. See ``simulator.batching``
for the policies and ``profiles.stepcost`` for the time of an iteration.
"""

from collections import namedtuple
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from simulator import batching
from simulator.batching import ORCA, SARATHI, STATIC, VLLM_V0

# An index of compiled code that another version of these files left behind can name types that are gone,
# and Numba fails on it instead of compiling again. So each version has file names of its own.
VERSION = sha256(Path(__file__).read_bytes() + Path(batching.__file__).read_bytes()).hexdigest()[:12]


def compiled(function: Callable[..., Any]) -> Any:
    """Compile, without reference counting: nothing here allocates, and counting the members of the tuples
    below at every call would cost more than the simulation. What is called becomes part of its caller: passing
    those members costs as much again.
    """
    function.__qualname__ = f"{function.__qualname__}_{VERSION}"
    return njit(cache=True, nogil=True, _nrt=False, forceinline=True)(function)  # type: ignore[call-overload]


INFINITE = np.int64(2**63 - 1)
CLOCK_END = np.int64(9 * 10**18)  # 104 days in picoseconds; a stretch of iterations ends before INFINITE then
WIDE = np.int64(2**60)
WAITING, PREFILLING, DECODING, SWAPPED, FINISHED = range(5)

# Integer settings, the same for every replica.
Settings = namedtuple(
    "Settings",
    "policy max_seqs budget block_size blocks watermark reserve_blocks swap sjf chunkable skip stages ranks",
)

Cost = namedtuple(
    "Cost",
    "knots local shared head send decode_value decode_slope mixed_value mixed_slope mixed_token "
    "prefill_launch prefill "
    "decode_value_nj decode_slope_nj prefill_launch_nj prefill_nj swap_block",
)

# Records, not one array a field: Numba passes a tuple of arrays by value, so that each array in it costs
# compile time in every function. ``requests.arrival[r]`` reads the same either way.


def _record(fields: str) -> np.dtype[Any]:
    return np.dtype([(name, np.int64) for name in fields.split()])


REQUEST = _record(
    "arrival prompt output scheduled first finish preemptions status generated target done stored joined join_time "
    "due last_token lane position next_assigned swap_next"
)
LANE = _record(
    "batch context count due_size stack_size partial_size groups_size swapped_head swapped_tail static_held "
    "running pending_decode"
)
SLOT = _record("pending_end pending_steps pending_seqs chunk_size stage_free")
REPLICA = _record("clock head assigned finished waiting_size busy_until preempted_now tail")

# First axis of all: replica. ``own`` REPLICA, ``slots`` SLOT, ``lanes`` LANE; the rest int64 arrays.
State = namedtuple(
    "State",
    "own slots lanes free waiting residue due stack partial groups_count groups_time chunk_request chunk_tokens "
    "tokens prefills closed prefill_ps base growth",
)

# Totals of one replica: rows of int64 [replica, TOTALS] and histograms.
(BUSY, ITERATIONS, EVENTS, PREEMPTIONS, RECOMPUTED, SWAPPED_BLOCKS, DECODE_TOKENS, PREFILL_TOKENS, KV_READ,
 PREFILL_PAIRS, DECODE_NJ, PREFILL_PS, PREFILL_NJ, PEAK_BLOCKS, BATCH_SUM, SWAP_PS, MAX_GAP, STAGE_BUSY,
 TOTALS) = range(19)  # fmt: skip

# Sums over stages, ranks or devices outgrow int64 within days: ``sums`` and ``decode_ps`` are the rest modulo
# WIDE, ``sums_wide`` and ``decode_wide`` how often WIDE went into them.
Totals = namedtuple("Totals", "sums sums_wide local shared head decode_ps decode_wide gaps")

GAP_BITS = 7  # a bin of the gap histogram spans 2**-7 of its octave: values are known within 0.8 %
GAP_BINS = 64 << GAP_BITS


@compiled
def gap_bin(value):
    """Bin of a gap: its octave, then the next GAP_BITS bits. Pure integer, the same everywhere."""
    if value < (1 << GAP_BITS):
        return value
    octave = 0
    v = value >> GAP_BITS
    while v > 1:
        v >>= 1
        octave += 1
    return ((octave + 1) << GAP_BITS) + (value >> octave) - (1 << GAP_BITS)


@compiled
def gap_edge(index):
    """Smallest value of bin ``index``."""
    if index < (1 << GAP_BITS):
        return index
    octave = (index >> GAP_BITS) - 1
    return ((1 << GAP_BITS) + (index & ((1 << GAP_BITS) - 1))) << octave


@compiled
def record_gaps(totals, rep, first, step, terms, weight):
    """Add ``weight`` gaps for each term of the arithmetic progression first, first + step, ..."""
    if weight == 0 or terms == 0:
        return
    last = first + step * (terms - 1)
    if last > totals.sums[rep, MAX_GAP]:
        totals.sums[rep, MAX_GAP] = last
    value = first
    left = terms
    while left > 0:
        index = gap_bin(value)
        inside = left
        if step > 0:
            inside = min(left, (gap_edge(index + 1) - 1 - value) // step + 1)
        totals.gaps[rep, index] += inside * weight
        value += inside * step
        left -= inside


# ---------------------------------------------------------------- binary heaps of int64 keys in array rows


@compiled
def heap_push(heap, size, key):
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if heap[parent] <= key:
            break
        heap[i] = heap[parent]
        i = parent
    heap[i] = key


@compiled
def heap_sift(heap, size, i):
    """Restore the heap below i after heap[i] grew."""
    key = heap[i]
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[i] = heap[child]
        i = child
    heap[i] = key


@compiled
def heap_pop(heap, size):
    """Remove the smallest key; the caller has read heap[0] and lowers its size."""
    heap[0] = heap[size - 1]
    heap_sift(heap, size - 1, 0)


# ---------------------------------------------------------------- requests of a lane


@compiled
def blocks_of(tokens, block_size):
    return (tokens + block_size - 1) // block_size


@compiled
def enqueue(cfg, req, st, rep, r):
    key = np.int64(r)
    if cfg.sjf:
        key += req.prompt[r] << 32
    heap_push(st.waiting[rep], st.own.waiting_size[rep], key)
    st.own.waiting_size[rep] += 1
    req.status[r] = WAITING


@compiled
def take_arrivals(cfg, req, st, rep, now):
    r = st.own.head[rep]
    while r >= 0 and req.arrival[r] <= now:
        enqueue(cfg, req, st, rep, r)
        r = req.next_assigned[r]
    st.own.head[rep] = r


@compiled
def push_running(req, st, rep, lane, r):
    """Remember the order of admission; finished entries are left behind and swept when the row is full."""
    size = st.lanes.stack_size[rep, lane]
    row = st.stack[rep, lane]
    if size == row.shape[0]:
        kept = 0
        for i in range(size):
            other = row[i]
            if req.lane[other] == lane and req.position[other] == i:
                row[kept] = other
                req.position[other] = kept
                kept += 1
        size = kept
    row[size] = r
    req.position[r] = size
    req.lane[r] = lane
    st.lanes.stack_size[rep, lane] = size + 1
    st.lanes.running[rep, lane] += 1


@compiled
def drop_running(req, st, rep, lane, r):
    req.position[r] = -1
    req.lane[r] = -1
    st.lanes.running[rep, lane] -= 1


@compiled
def last_admitted(req, st, rep, lane):
    """The running sequence of the lane that was admitted last, -1 if none runs."""
    size = st.lanes.stack_size[rep, lane]
    while size > 0:
        r = st.stack[rep, lane, size - 1]
        if req.lane[r] == lane and req.position[r] == size - 1:
            break
        size -= 1
    st.lanes.stack_size[rep, lane] = size
    return st.stack[rep, lane, size - 1] if size > 0 else np.int64(-1)


@compiled
def push_due(req, st, rep, lane, r):
    """Queue a completion, keyed by the count at which it falls due."""
    size = st.lanes.due_size[rep, lane]
    row = st.due[rep, lane]
    if size == row.shape[0]:  # sweep entries of preempted sequences
        kept = 0
        for i in range(size):
            other = row[i] & 0x7FFFFFFF
            if req.lane[other] == lane and req.status[other] == DECODING and req.due[other] == row[i] >> 31:
                row[kept] = row[i]
                kept += 1
        size = kept
        for i in range(size // 2, -1, -1):
            if i < size:
                heap_sift(row, size, i)
    heap_push(row, size, (req.due[r] << 31) | r)
    st.lanes.due_size[rep, lane] = size + 1


@compiled
def next_due(req, st, rep, lane):
    """Count at which the next sequence of the lane completes, INFINITE if none decodes."""
    row = st.due[rep, lane]
    while st.lanes.due_size[rep, lane] > 0:
        r = row[0] & 0x7FFFFFFF
        if req.lane[r] == lane and req.status[r] == DECODING and req.due[r] == row[0] >> 31:
            return row[0] >> 31
        heap_pop(row, st.lanes.due_size[rep, lane])
        st.lanes.due_size[rep, lane] -= 1
    return INFINITE


@compiled
def add_group(st, rep, lane, time, members):
    """``members`` sequences of the lane got their last token at ``time``."""
    size = st.lanes.groups_size[rep, lane]
    for i in range(size - 1, -1, -1):
        if st.groups_time[rep, lane, i] == time:
            st.groups_count[rep, lane, i] += members
            return
    i = size
    if size == st.groups_time.shape[2]:  # full: reuse an emptied group, one exists as groups > sequences
        for j in range(size):
            if st.groups_count[rep, lane, j] == 0:
                i = j
                break
    else:
        st.lanes.groups_size[rep, lane] += 1
    st.groups_time[rep, lane, i] = time
    st.groups_count[rep, lane, i] = members


@compiled
def join_decode(cfg, req, st, rep, lane, r, base, generated, emitted_at):
    """r has ``base`` tokens in the cache and ``generated`` emitted, the last one at ``emitted_at``."""
    count = st.lanes.count[rep, lane]
    req.status[r] = DECODING
    req.stored[r] = base
    req.joined[r] = count
    req.join_time[r] = emitted_at
    req.due[r] = count + req.output[r] - generated
    push_due(req, st, rep, lane, r)
    st.lanes.batch[rep, lane] += 1
    st.lanes.context[rep, lane] += base + 1
    st.residue[rep, lane, (count - base) % cfg.block_size] += 1
    add_group(st, rep, lane, emitted_at, 1)


@compiled
def leave_decode(cfg, req, st, rep, lane, r):
    """Take r out of the decoding totals, wherever it stands."""
    st.lanes.batch[rep, lane] -= 1
    st.lanes.context[rep, lane] -= req.stored[r] + 1 + st.lanes.count[rep, lane] - req.joined[r]
    st.residue[rep, lane, (req.joined[r] - req.stored[r]) % cfg.block_size] -= 1


@compiled
def release(cfg, st, rep, rank, lane, tokens):
    """Give back the blocks of a sequence with ``tokens`` tokens in the cache."""
    if cfg.policy == STATIC:
        st.lanes.static_held[rep, lane] += cfg.reserve_blocks
    elif cfg.policy == ORCA:
        st.free[rep, rank] += cfg.reserve_blocks
    else:
        st.free[rep, rank] += blocks_of(tokens, cfg.block_size)


@compiled
def preempt(cfg, cost, req, st, totals, rep, lane, rank, r):
    """Take r off the device. Returns the time that moving its KV costs (0 for recompute)."""
    st.own.preempted_now[rep] = 1
    req.preemptions[r] += 1
    totals.sums[rep, PREEMPTIONS] += 1
    if req.status[r] == PREFILLING:
        st.free[rep, rank] += blocks_of(req.target[r], cfg.block_size)
        size = st.lanes.partial_size[rep, lane]
        kept = 0
        for i in range(size):
            if st.partial[rep, lane, i] != r:
                st.partial[rep, lane, kept] = st.partial[rep, lane, i]
                kept += 1
        st.lanes.partial_size[rep, lane] = kept
        totals.sums[rep, RECOMPUTED] += req.done[r]
        req.done[r] = 0
        drop_running(req, st, rep, lane, r)
        enqueue(cfg, req, st, rep, r)
        return np.int64(0)
    steps = st.lanes.count[rep, lane] - req.joined[r]
    stored = req.stored[r] + steps
    blocks = blocks_of(stored, cfg.block_size)
    emitted_at = req.join_time[r] if steps == 0 else st.groups_time[rep, lane, 0]
    for i in range(st.lanes.groups_size[rep, lane]):
        if st.groups_time[rep, lane, i] == emitted_at:
            st.groups_count[rep, lane, i] -= 1
            break
    leave_decode(cfg, req, st, rep, lane, r)
    st.free[rep, rank] += blocks
    req.last_token[r] = emitted_at
    req.generated[r] = req.output[r] - (req.due[r] - st.lanes.count[rep, lane])
    drop_running(req, st, rep, lane, r)
    if cfg.swap:
        req.status[r] = SWAPPED
        req.stored[r] = stored
        req.swap_next[r] = -1
        if st.lanes.swapped_head[rep, lane] < 0:
            st.lanes.swapped_head[rep, lane] = r
        else:
            req.swap_next[st.lanes.swapped_tail[rep, lane]] = r
        st.lanes.swapped_tail[rep, lane] = r
        totals.sums[rep, SWAPPED_BLOCKS] += blocks
        return blocks * cost.swap_block
    req.target[r] = req.prompt[r] + req.generated[r]
    totals.sums[rep, RECOMPUTED] += stored
    req.done[r] = 0
    enqueue(cfg, req, st, rep, r)
    return np.int64(0)


@compiled
def finish(cfg, req, st, rep, lane, rank, r, now):
    req.finish[r] = now
    req.status[r] = FINISHED
    st.own.finished[rep] += 1
    release(cfg, st, rep, rank, lane, req.prompt[r] + req.output[r] - 1)
    drop_running(req, st, rep, lane, r)


# ---------------------------------------------------------------- forming a batch


@compiled
def add_chunk(st, rep, slot, r, tokens):
    i = st.slots.chunk_size[rep, slot]
    st.chunk_request[rep, slot, i] = r
    st.chunk_tokens[rep, slot, i] = tokens
    st.slots.chunk_size[rep, slot] = i + 1


@compiled
def swap_in(cfg, cost, req, st, totals, rep, slot, rank):
    """Bring swapped sequences back, oldest first, while blocks for their next token are free."""
    lane = slot * cfg.ranks + rank
    extra = np.int64(0)
    while st.lanes.swapped_head[rep, lane] >= 0 and st.lanes.running[rep, lane] < cfg.max_seqs:
        r = st.lanes.swapped_head[rep, lane]
        blocks = blocks_of(req.stored[r], cfg.block_size)
        # One block per decoding sequence stays free, or it would be swapped out again at once.
        need = blocks_of(req.stored[r] + 1, cfg.block_size) + st.lanes.batch[rep, lane]
        if need > st.free[rep, rank]:
            break
        st.lanes.swapped_head[rep, lane] = req.swap_next[r]
        st.free[rep, rank] -= blocks
        push_running(req, st, rep, lane, r)
        join_decode(cfg, req, st, rep, lane, r, req.stored[r], req.generated[r], req.last_token[r])
        totals.sums[rep, SWAPPED_BLOCKS] += blocks
        extra += blocks * cost.swap_block
    return extra


@compiled
def reserve_decode(cfg, cost, req, st, totals, rep, slot, rank):
    """Take the blocks that the lane's next decode needs, preempting until they are there."""
    lane = slot * cfg.ranks + rank
    extra = np.int64(0)
    if cfg.policy == STATIC or cfg.policy == ORCA or st.lanes.batch[rep, lane] == 0:
        return extra
    while True:
        need = st.residue[rep, lane, st.lanes.count[rep, lane] % cfg.block_size]
        if need <= st.free[rep, rank] or st.lanes.batch[rep, lane] == 0:
            break
        extra += preempt(cfg, cost, req, st, totals, rep, lane, rank, last_admitted(req, st, rep, lane))
    st.free[rep, rank] -= need if st.lanes.batch[rep, lane] > 0 else 0
    return extra


@compiled
def continue_partials(cfg, req, st, rep, slot, rank, tokens):
    """Next chunks of prompts that are under way. Returns the lane's new tokens."""
    lane = slot * cfg.ranks + rank
    for i in range(st.lanes.partial_size[rep, lane]):
        if tokens == cfg.budget:
            break
        r = st.partial[rep, lane, i]
        chunk = min(req.target[r] - req.done[r], cfg.budget - tokens)
        add_chunk(st, rep, slot, r, chunk)
        tokens += chunk
    return tokens


@compiled
def admit(cfg, req, st, rep, slot, tokens, prefills, closed, now):
    """Admit from the head of the queue while a rank can take it. Updates tokens and prefills per rank."""
    while st.own.waiting_size[rep] > 0:
        r = st.waiting[rep, 0] & 0x7FFFFFFF
        chosen = -1
        chunk_chosen = np.int64(0)
        blocks_chosen = np.int64(0)
        for rank in range(cfg.ranks):
            lane = slot * cfg.ranks + rank
            running = st.lanes.running[rep, lane]
            if closed[rank] or running >= cfg.max_seqs or st.lanes.swapped_head[rep, lane] >= 0:
                continue
            chunk = req.target[r]
            if tokens[rank] + chunk > cfg.budget:
                if cfg.chunkable:
                    chunk = cfg.budget - tokens[rank]
                    if chunk <= 0:
                        continue
                elif prefills[rank] > 0:
                    continue
            if cfg.policy == STATIC or cfg.policy == ORCA:
                blocks = cfg.reserve_blocks
            else:
                blocks = blocks_of(req.target[r], cfg.block_size)
            keep = cfg.watermark if cfg.policy == VLLM_V0 or cfg.policy == SARATHI else 0
            if blocks > st.free[rep, rank] - keep:
                continue
            if chosen < 0 or running < st.lanes.running[rep, slot * cfg.ranks + chosen]:
                chosen, chunk_chosen, blocks_chosen = rank, chunk, blocks
        if chosen < 0:
            return
        heap_pop(st.waiting[rep], st.own.waiting_size[rep])
        st.own.waiting_size[rep] -= 1
        lane = slot * cfg.ranks + chosen
        st.free[rep, chosen] -= blocks_chosen
        push_running(req, st, rep, lane, r)
        req.status[r] = PREFILLING
        if req.scheduled[r] < 0:
            req.scheduled[r] = now
        if chunk_chosen < req.target[r]:
            st.partial[rep, lane, st.lanes.partial_size[rep, lane]] = r
            st.lanes.partial_size[rep, lane] += 1
        add_chunk(st, rep, slot, r, chunk_chosen)
        tokens[chosen] += chunk_chosen
        prefills[chosen] += 1


@compiled
def piece(knots, batch, context):
    """Last knot at or below the mean context."""
    low, high = 0, knots.shape[0] - 1
    while low < high:
        middle = (low + high + 1) >> 1
        if batch * knots[middle] <= context:
            low = middle
        else:
            high = middle - 1
    return low


@compiled
def steps_until(wait, base, growth):
    """Fewest steps k >= 1 of lengths base, base + growth, ... that last ``wait`` or longer."""
    if wait <= base:
        return np.int64(1)
    if growth == 0:
        return (wait + base - 1) // base
    b = 2.0 * base - growth
    k = np.int64((np.sqrt(b * b + 8.0 * growth * float(wait)) - b) / (2.0 * growth))
    k = max(k, np.int64(1))
    while k * base + growth * (k * (k - 1) // 2) < wait:
        k += 1
    while k > 1 and (k - 1) * base + growth * ((k - 1) * (k - 2) // 2) >= wait:
        k -= 1
    return k


@compiled
def steps_in_memory(cfg, st, rep, lane, free, most):
    """Most further decode steps (<= most) that ``free`` blocks allow, after the step already reserved."""
    size = cfg.block_size
    batch = st.lanes.batch[rep, lane]
    start = st.lanes.count[rep, lane] + 1
    cycles = free // batch  # each full cycle of block_size steps takes one block per sequence
    if cycles * size >= most:
        return most
    steps = cycles * size
    left = free - cycles * batch
    while steps < most:
        left -= st.residue[rep, lane, (start + steps) % size]
        if left < 0:
            break
        steps += 1
    return steps


@compiled
def mixed(cost, p, batch, j, over, chunk):
    """What decodes of ``batch`` sequences take more in one kernel with ``chunk`` prompt tokens."""
    value = cost.mixed_value[p, batch, j] + cost.mixed_slope[p, batch, j] * over
    return value + cost.mixed_token[p, batch] * chunk


@compiled
def schedule(cfg, cost, req, st, totals, rep, slot, now, horizon):
    """Form the next batch of a slot and set when it ends. Leaves the slot idle if there is nothing to run.

    ``horizon``: a request may arrive then that is not in the queue yet (CLOCK_END if all are known).
    """
    ranks, stages = cfg.ranks, cfg.stages
    first = slot * ranks
    st.slots.chunk_size[rep, slot] = 0
    st.own.preempted_now[rep] = 0
    extra = np.int64(0)
    tokens, prefills, closed = st.tokens[rep], st.prefills[rep], st.closed[rep]
    tokens[:] = 0
    prefills[:] = 0
    closed[:] = 0
    if cfg.swap:
        for rank in range(ranks):
            extra += swap_in(cfg, cost, req, st, totals, rep, slot, rank)

    if cfg.policy == VLLM_V0 or cfg.policy == STATIC:
        for rank in range(ranks):
            closed[rank] = cfg.policy == STATIC and st.lanes.running[rep, first + rank] > 0
        admit(cfg, req, st, rep, slot, tokens, prefills, closed, now)
        for rank in range(ranks):
            st.lanes.pending_decode[rep, first + rank] = 0
            if prefills[rank] == 0 and st.lanes.batch[rep, first + rank] > 0:
                extra += reserve_decode(cfg, cost, req, st, totals, rep, slot, rank)
                st.lanes.pending_decode[rep, first + rank] = st.lanes.batch[rep, first + rank]
                tokens[rank] = st.lanes.batch[rep, first + rank]
    else:
        for rank in range(ranks):
            extra += reserve_decode(cfg, cost, req, st, totals, rep, slot, rank)
            st.lanes.pending_decode[rep, first + rank] = st.lanes.batch[rep, first + rank]
            tokens[rank] = st.lanes.batch[rep, first + rank]
            tokens[rank] = continue_partials(cfg, req, st, rep, slot, rank, tokens[rank])
        if not st.own.preempted_now[rep]:
            admit(cfg, req, st, rep, slot, tokens, prefills, closed, now)

    total = np.int64(0)
    sequences = st.slots.chunk_size[rep, slot]
    for rank in range(ranks):
        total += tokens[rank]
        sequences += st.lanes.pending_decode[rep, first + rank]
    if total == 0:
        st.slots.pending_end[rep, slot] = INFINITE
        return
    st.slots.pending_seqs[rep, slot] = sequences

    # Prefill time of each rank and stage.
    chunks = st.slots.chunk_size[rep, slot]
    prefill_ps = st.prefill_ps[rep]
    prefill_ps[:] = 0
    for i in range(chunks):
        r = st.chunk_request[rep, slot, i]
        rank = req.lane[r] - first
        c, x = st.chunk_tokens[rep, slot, i], req.done[r]
        for p in range(stages):
            work = cost.prefill[p]
            alone, behind = work[c], work[x + c] - work[x]
            if prefill_ps[p, rank] == 0:
                prefill_ps[p, rank] = cost.prefill_launch[p]
                totals.sums[rep, PREFILL_NJ] += cost.prefill_launch_nj[p]
            energy = cost.prefill_nj[p]
            if alone >= behind:
                prefill_ps[p, rank] += alone
                totals.sums[rep, PREFILL_NJ] += energy[c]
            else:
                prefill_ps[p, rank] += behind
                totals.sums[rep, PREFILL_NJ] += energy[x + c] - energy[x]
        totals.sums[rep, PREFILL_TOKENS] += c
        totals.sums[rep, PREFILL_PAIRS] += c * x + c * (c + 1) // 2

    # Time of each stage: base now, growth per further decode step, and steps until a table piece ends.
    steps = INFINITE
    base, growth = st.base[rep], st.growth[rep]
    for p in range(stages):
        best, best_growth = np.int64(-1), np.int64(0)
        for rank in range(ranks):
            time, slope = cost.local[p, tokens[rank]], np.int64(0)
            batch = st.lanes.pending_decode[rep, first + rank]
            if batch > 0:
                context = st.lanes.context[rep, first + rank]
                j = piece(cost.knots, batch, context)
                over = context - batch * cost.knots[j]
                slope = cost.decode_slope[p, batch, j] * batch
                time += cost.decode_value[p, batch, j] + cost.decode_slope[p, batch, j] * over
                if tokens[rank] > batch:
                    prefill_ps[p, rank] += mixed(cost, p, batch, j, over, tokens[rank] - batch)
                if j + 1 < cost.knots.shape[0]:
                    steps = min(steps, (batch * cost.knots[j + 1] - context + batch - 1) // batch)
            time += prefill_ps[p, rank]
            totals.sums[rep, PREFILL_PS] += prefill_ps[p, rank]
            if time > best or (time == best and slope > best_growth):
                best, best_growth = time, slope
        base[p], growth[p] = best + cost.shared[p, total], best_growth
        if ranks > 1:  # steps until a rank with a steeper slope becomes the slowest
            for rank in range(ranks):
                batch = st.lanes.pending_decode[rep, first + rank]
                if batch > 0:
                    context = st.lanes.context[rep, first + rank]
                    j = piece(cost.knots, batch, context)
                    slope = cost.decode_slope[p, batch, j] * batch
                    if slope > best_growth:
                        over = context - batch * cost.knots[j]
                        time = cost.local[p, tokens[rank]] + prefill_ps[p, rank]
                        time += cost.decode_value[p, batch, j] + cost.decode_slope[p, batch, j] * over
                        steps = min(steps, (best - time) // (slope - best_growth) + 1)
    base[0] += extra
    base[stages - 1] += cost.head[sequences]
    totals.sums[rep, SWAP_PS] += extra

    # How often the same batch repeats.
    alone = True
    for other in range(stages):
        if other != slot:  # another slot that may act before this one ends its stretch
            alone = alone and st.slots.pending_end[rep, other] == INFINITE
            for lane in range(other * ranks, (other + 1) * ranks):
                alone = alone and st.lanes.swapped_head[rep, lane] < 0 and st.lanes.running[rep, lane] == 0
    once = not cfg.skip or chunks > 0 or extra > 0 or st.own.preempted_now[rep] == 1
    once = once or not alone or (stages > 1 and st.own.waiting_size[rep] > 0)
    duration = np.int64(0)
    grows = np.int64(0)
    for p in range(stages):
        duration += base[p]
        grows += growth[p]
        if p + 1 < stages:
            duration += cost.send[p, total]
    if once:
        steps = np.int64(1)
    else:
        open_lane = stages > 1
        for rank in range(ranks):
            lane = first + rank
            if st.lanes.pending_decode[rep, lane] > 0:
                steps = min(steps, next_due(req, st, rep, lane) - st.lanes.count[rep, lane])
            open_lane = open_lane or st.lanes.running[rep, lane] < cfg.max_seqs
        if open_lane and cfg.policy == STATIC:  # a rank without a batch can start one, others cannot
            open_lane = stages > 1
            for rank in range(ranks):
                open_lane = open_lane or st.lanes.running[rep, first + rank] == 0
        if open_lane and (st.own.waiting_size[rep] == 0 or cfg.sjf):
            arrival = horizon
            if st.own.head[rep] >= 0:
                arrival = min(arrival, req.arrival[st.own.head[rep]])
            if arrival < INFINITE:
                steps = min(steps, steps_until(arrival - now, duration, grows))
        if cfg.policy != STATIC and cfg.policy != ORCA:
            for rank in range(ranks):
                lane = first + rank
                if st.lanes.pending_decode[rep, lane] > 0 and steps > 1:
                    more = steps_in_memory(cfg, st, rep, lane, st.free[rep, rank], steps - 1)
                    steps = 1 + more
    st.slots.pending_steps[rep, slot] = steps

    # The last of the repeated iterations starts once the others are over; with other slots in flight
    # (steps is 1 then) it also waits for each stage to be free.
    before = steps - 1
    end = now + before * duration + grows * (before * (before - 1) // 2)
    for p in range(stages):
        end = max(end, st.slots.stage_free[rep, p]) + base[p] + growth[p] * before
        st.slots.stage_free[rep, p] = end
        totals.sums[rep, STAGE_BUSY] += steps * base[p] + growth[p] * (steps * before // 2)
        if p + 1 < stages:
            end += cost.send[p, total]
    st.slots.pending_end[rep, slot] = end
    start = max(now, st.own.busy_until[rep])
    if end > start:
        totals.sums[rep, BUSY] += end - start
        st.own.busy_until[rep] = end

    # Totals of what was decided.
    totals.sums[rep, ITERATIONS] += steps
    totals.sums[rep, EVENTS] += 1
    totals.sums[rep, BATCH_SUM] += steps * sequences
    totals.shared[rep, total] += steps
    totals.head[rep, sequences] += steps
    pairs = steps * (steps - 1) // 2
    for rank in range(ranks):
        lane = first + rank
        totals.local[rep, tokens[rank]] += steps
        batch = st.lanes.pending_decode[rep, lane]
        if batch > 0:
            context = st.lanes.context[rep, lane]
            totals.sums[rep, DECODE_TOKENS] += steps * batch
            totals.sums[rep, KV_READ] += steps * context + batch * pairs
            j = piece(cost.knots, batch, context)
            over = context - batch * cost.knots[j]
            for p in range(stages):
                slope = cost.decode_slope[p, batch, j]
                value = cost.decode_value[p, batch, j] + slope * over
                totals.decode_ps[rep, batch] += steps * value + slope * batch * pairs
                totals.decode_wide[rep, batch] += totals.decode_ps[rep, batch] // WIDE
                totals.decode_ps[rep, batch] %= WIDE
                slope = cost.decode_slope_nj[p, batch, j]
                value = cost.decode_value_nj[p, batch, j] + slope * over
                totals.sums[rep, DECODE_NJ] += steps * value + slope * batch * pairs
            # Gaps: the first step closes whatever gap each group has, the others last one step each.
            step_end = now + duration if steps > 1 else end
            members = np.int64(0)
            for g in range(st.lanes.groups_size[rep, lane]):
                n = st.groups_count[rep, lane, g]
                record_gaps(totals, rep, step_end - st.groups_time[rep, lane, g], np.int64(0), 1, n)
                members += n
            if steps > 1:
                record_gaps(totals, rep, duration + grows, grows, steps - 1, members)
            st.lanes.groups_size[rep, lane] = 1
            st.groups_time[rep, lane, 0] = end
            st.groups_count[rep, lane, 0] = members
            if steps > 1 and cfg.policy != STATIC and cfg.policy != ORCA:  # blocks of steps 2..k
                size = cfg.block_size
                cycles = (steps - 1) // size
                need = cycles * batch
                for i in range(cycles * size, steps - 1):
                    need += st.residue[rep, lane, (st.lanes.count[rep, lane] + 1 + i) % size]
                st.free[rep, rank] -= need
        used = cfg.blocks - st.free[rep, rank]
        if used > totals.sums[rep, PEAK_BLOCKS]:
            totals.sums[rep, PEAK_BLOCKS] = used
    for large in (DECODE_NJ, PREFILL_NJ, PREFILL_PS, STAGE_BUSY):
        totals.sums_wide[rep, large] += totals.sums[rep, large] // WIDE
        totals.sums[rep, large] %= WIDE


@compiled
def complete(cfg, req, st, totals, rep, slot):
    """Apply what the slot's batch did: tokens, completions, blocks given back."""
    now = st.slots.pending_end[rep, slot]
    st.slots.pending_end[rep, slot] = INFINITE
    steps = st.slots.pending_steps[rep, slot]
    first = slot * cfg.ranks
    for rank in range(cfg.ranks):
        lane = first + rank
        batch = st.lanes.pending_decode[rep, lane]
        if batch > 0:
            st.lanes.count[rep, lane] += steps
            st.lanes.context[rep, lane] += batch * steps
            while next_due(req, st, rep, lane) == st.lanes.count[rep, lane]:
                r = st.due[rep, lane, 0] & 0x7FFFFFFF
                heap_pop(st.due[rep, lane], st.lanes.due_size[rep, lane])
                st.lanes.due_size[rep, lane] -= 1
                leave_decode(cfg, req, st, rep, lane, r)
                st.groups_count[rep, lane, 0] -= 1
                finish(cfg, req, st, rep, lane, rank, r, now)
    for i in range(st.slots.chunk_size[rep, slot]):
        r = st.chunk_request[rep, slot, i]
        lane = req.lane[r]
        rank = lane - first
        req.done[r] += st.chunk_tokens[rep, slot, i]
        if req.done[r] < req.target[r]:
            continue
        if st.lanes.partial_size[rep, lane] > 0 and st.partial[rep, lane, 0] == r:
            st.lanes.partial_size[rep, lane] -= 1
            for j in range(st.lanes.partial_size[rep, lane]):
                st.partial[rep, lane, j] = st.partial[rep, lane, j + 1]
        generated = req.generated[r] + 1
        if generated == 1:
            req.first[r] = now
        else:
            record_gaps(totals, rep, now - req.last_token[r], np.int64(0), 1, 1)
        if generated == req.output[r]:
            finish(cfg, req, st, rep, lane, rank, r, now)
        else:
            join_decode(cfg, req, st, rep, lane, r, req.target[r], generated, now)
    st.slots.chunk_size[rep, slot] = 0
    if cfg.policy == STATIC:
        for rank in range(cfg.ranks):
            if st.lanes.running[rep, first + rank] == 0:
                st.free[rep, rank] += st.lanes.static_held[rep, first + rank]
                st.lanes.static_held[rep, first + rank] = 0


@compiled
def advance(cfg, cost, req, st, totals, rep, until, horizon):
    """Run a replica through every event at or before ``until``."""
    while True:
        now = INFINITE
        idle = False
        for slot in range(cfg.stages):
            end = st.slots.pending_end[rep, slot]
            idle = idle or end == INFINITE
            now = min(now, end)
        if idle and st.own.head[rep] >= 0:
            now = min(now, req.arrival[st.own.head[rep]])
        if now > until or now == INFINITE:
            return
        st.own.clock[rep] = now
        take_arrivals(cfg, req, st, rep, now)
        for slot in range(cfg.stages):
            if st.slots.pending_end[rep, slot] == now:
                complete(cfg, req, st, totals, rep, slot)
        for slot in range(cfg.stages):
            if st.slots.pending_end[rep, slot] == INFINITE:
                schedule(cfg, cost, req, st, totals, rep, slot, now, horizon)


@compiled
def assign(req, st, rep, r):
    req.next_assigned[r] = -1
    if st.own.head[rep] < 0:
        st.own.head[rep] = r
    else:
        req.next_assigned[st.own.tail[rep]] = r
    st.own.tail[rep] = r
    st.own.assigned[rep] += 1


@compiled
def run(cfg, cost, req, st, totals, order, replica, replicas, least_outstanding):
    """Serve the requests of ``order`` (indices by arrival) until CLOCK_END. Fills all result arrays."""
    first = 0
    if not least_outstanding or replicas == 1:
        first = order.shape[0]
        for i in range(first):
            replica[order[i]] = i % replicas
            assign(req, st, i % replicas, order[i])
    for i in range(first, order.shape[0] + 1):
        # Events before the next arrival; those at the same instant come after it.
        arrival = req.arrival[order[i]] if i < order.shape[0] else CLOCK_END
        best = 0
        for rep in range(replicas):
            advance(cfg, cost, req, st, totals, rep, arrival - 1, arrival)
            if st.own.assigned[rep] - st.own.finished[rep] < st.own.assigned[best] - st.own.finished[best]:
                best = rep
        if i < order.shape[0]:
            replica[order[i]] = best
            assign(req, st, best, order[i])
