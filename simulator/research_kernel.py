"""The loop of ``simulator.research``, compiled by Numba, readable (and runnable) as plain Python.

One iteration after the other, over the running sequences one by one. ``Work`` (``simulator.research_cost``) holds
``own``, one record per replica, ``waiting``, a heap of keys, ``running`` requests in the order of admission,
``by_end`` the same by tokens to come, most first (for ``AHEAD`` alone). Where requests pause, ``ready`` are those that
decode or could, by the key of the queue, and ``spare`` is room to merge them.
"""

from collections import namedtuple

import numpy as np

from simulator import kernel as k
from simulator.kernel import DECODING, FINISHED, PREFILLING, WAITING
from simulator.research_cost import compiled, iteration_ps

PROMPT, LONGEST, PEAK, AHEAD = range(4)
MOST_WEIGHT = REQUEST_BITS = 2**31 - 1
"""A key of the queue is a weight, then the number of the request, as in the kernel."""

Settings = namedtuple(
    "Settings",
    "mixed chunked admission fewest pauses most worth refill budget block_size blocks watermark reserve_blocks",
)


@compiled
def key_of(req, work, r):
    """Those with the least go first."""
    return max(np.int64(0), work.base[r] - work.each[r] * req.generated[r])


@compiled
def enqueue(req, work, rep, r):
    k.heap_push(work.waiting, work.own.waiting[rep], (key_of(req, work, r) << 32) | r)
    work.own.waiting[rep] += 1
    req.status[r] = WAITING


@compiled
def kept(cfg, req, r):
    """Blocks that a running sequence holds."""
    if cfg.admission == LONGEST:
        return cfg.reserve_blocks
    if cfg.admission == PEAK:
        return k.blocks_of(req.prompt[r] + req.output[r] - 1, cfg.block_size)
    return k.blocks_of(max(req.target[r], req.stored[r]), cfg.block_size)


@compiled
def remove(row, size, r):
    """Take r out of the first ``size`` entries of a row, the others keep their order."""
    kept = 0
    for i in range(size):
        if row[i] != r:
            row[kept] = row[i]
            kept += 1


@compiled
def fits_ahead(cfg, req, work, rep, r):
    """Whether no later iteration runs out of memory with r admitted now; r is then in ``by_end``.

    All decode in every iteration from the next one on, so use is highest where a request ends: what it and all
    that end no sooner hold then. The last block of each may be empty but for one token.
    """
    running, order = work.own.running[rep], work.by_end
    order[running] = r
    for i in range(1, running + 1):  # insertion, most tokens to come first; all but r are nearly in order
        at = order[i]
        left = req.output[at] - req.generated[at]
        j = i - 1
        while j >= 0 and req.output[order[j]] - req.generated[order[j]] < left:
            order[j + 1] = order[j]
            j -= 1
        order[j + 1] = at
    if running == 0:  # whoever cannot even run alone was rejected
        return True
    room = cfg.blocks * cfg.block_size
    held = np.int64(0)
    for i in range(running + 1):
        at = order[i]
        held += req.prompt[at] + req.generated[at]
        later = req.output[at] - req.generated[at] - 1
        if held + (i + 1) * (later + cfg.block_size - 1) > room:
            remove(order, running + 1, r)
            return False
    return True


@compiled
def drop(cfg, req, work, rep, r):
    """Take a running sequence off the device."""
    running = work.own.running[rep]
    work.own.free[rep] += kept(cfg, req, r)
    remove(work.running, running, r)
    if cfg.admission == AHEAD:
        remove(work.by_end, running, r)
    work.own.running[rep] = running - 1


@compiled
def evict(cfg, req, work, totals, rep):
    running = work.own.running[rep]
    r = work.running[running - 1]
    if cfg.fewest:
        for i in range(running - 2, -1, -1):
            if req.stored[work.running[i]] < req.stored[r]:
                r = work.running[i]
    drop(cfg, req, work, rep, r)
    req.preemptions[r] += 1
    totals.sums[rep, k.PREEMPTIONS] += 1
    totals.sums[rep, k.RECOMPUTED] += req.stored[r]
    req.target[r] = req.prompt[r] + req.generated[r]
    req.done[r] = 0
    req.stored[r] = 0
    enqueue(req, work, rep, r)


@compiled
def decode_all(cfg, req, work, totals, rep):
    """Room for the next token of all that decode. Returns whether anybody had to go."""
    evicted = False
    while True:
        batch, need = np.int64(0), np.int64(0)
        for i in range(work.own.running[rep]):
            r = work.running[i]
            if req.status[r] == DECODING:
                batch += 1
                need += req.stored[r] % cfg.block_size == 0
        if cfg.admission == LONGEST or cfg.admission == PEAK:
            need = np.int64(0)
        if need <= work.own.free[rep]:
            break
        evict(cfg, req, work, totals, rep)
        evicted = True
    work.own.free[rep] -= need
    work.own.batch[rep] = batch
    work.own.tokens[rep] += batch
    return evicted


@compiled
def set_aside(cfg, work, rep):
    """Where requests pause: tokens that decodes keep of the budget. All but one, which a chunk that takes a place
    gets: so an iteration with but a part of a prompt is full."""
    return min(work.own.ready[rep], cfg.most - 1)


@compiled
def decode_first(cfg, work, rep):
    """Where requests pause: the first of those that are ready decode, in the places that chunks leave."""
    own = work.own
    own.batch[rep] = min(own.ready[rep], cfg.most - own.chunks[rep])
    own.tokens[rep] += own.batch[rep] - set_aside(cfg, work, rep)


@compiled
def add_chunk(work, rep, r, tokens):
    i = work.own.chunks[rep]
    work.chunk_request[i] = r
    work.chunk_tokens[i] = tokens
    work.own.chunks[rep] = i + 1
    work.own.tokens[rep] += tokens


@compiled
def continue_prompts(cfg, req, work, rep):
    """Next chunks of prompts under way, in the order of admission."""
    for i in range(work.own.running[rep]):
        r = work.running[i]
        left = cfg.budget - work.own.tokens[rep]
        if req.status[r] == PREFILLING and left > 0:
            add_chunk(work, rep, r, min(req.target[r] - req.done[r], left))


@compiled
def admit(cfg, req, work, rep, now):
    """Admit from the head of the queue while it fits. ``filling``: since few enough ran, until as many do as may."""
    fresh, most = False, cfg.most
    if cfg.pauses:  # the places of an iteration, not those of all that have memory
        most = cfg.most + work.own.running[rep] - work.own.chunks[rep]
    while work.own.waiting[rep] > 0:
        r = work.waiting[0] & REQUEST_BITS
        if cfg.worth > 0.0:
            here = work.own.waiting[rep] + work.own.running[rep]
            most = min(cfg.most, max(np.int64(1), np.int64(np.sqrt(cfg.worth * here / req.prompt[r]))))
        running = work.own.running[rep]
        if running >= most:
            work.own.filling[rep] = 0
            return
        if work.own.filling[rep] == 0 and running > cfg.refill * most:
            return
        work.own.filling[rep] = 1
        chunk = req.target[r]
        left = cfg.budget - work.own.tokens[rep]
        if chunk > left:
            if cfg.chunked:
                chunk = left
                if chunk <= 0:
                    return
            elif fresh:  # a longer prompt runs, but no other joins it
                return
        blocks = kept(cfg, req, r)
        if blocks > work.own.free[rep] - cfg.watermark:
            return
        if cfg.admission == AHEAD and not fits_ahead(cfg, req, work, rep, r):
            return
        k.heap_pop(work.waiting, work.own.waiting[rep])
        work.own.waiting[rep] -= 1
        work.own.free[rep] -= blocks
        work.running[work.own.running[rep]] = r
        work.own.running[rep] += 1
        req.status[r] = PREFILLING
        if req.scheduled[r] < 0:
            req.scheduled[r] = now
        add_chunk(work, rep, r, chunk)
        fresh = True


@compiled
def emit(cfg, req, work, totals, rep, r, now):
    """r has its next token."""
    req.generated[r] += 1
    if req.generated[r] == 1:
        req.first[r] = now
    else:
        k.record_gaps(totals, rep, now - req.last_token[r], np.int64(0), 1, 1)
    req.last_token[r] = now
    req.status[r] = DECODING
    if req.generated[r] == req.output[r]:
        req.finish[r] = now
        drop(cfg, req, work, rep, r)
        req.status[r] = FINISHED


@compiled
def insert_ready(req, work, rep, r):
    """Put r among those that are ready."""
    j, key = work.own.ready[rep], key_of(req, work, r)
    while j > 0 and key_of(req, work, work.ready[j - 1]) > key:
        work.ready[j] = work.ready[j - 1]
        j -= 1
    work.ready[j] = r
    work.own.ready[rep] += 1


@compiled
def decode_ready(cfg, req, work, totals, rep, now):
    """The first ``batch`` that are ready have their next token. All keys of these change alike, so both parts stay
    in order and are merged."""
    own, row, spare = work.own, work.ready, work.spare
    batch, ready, left = own.batch[rep], own.ready[rep], np.int64(0)
    for i in range(ready):
        r = row[i]
        if i < batch:
            req.stored[r] += 1
            emit(cfg, req, work, totals, rep, r, now)
        if req.status[r] == DECODING:
            spare[left] = r
            left += 1
    middle = left - (ready - batch)  # those that did not decode follow
    first, second = np.int64(0), middle
    for i in range(left):
        a, b = spare[min(first, left - 1)], spare[min(second, left - 1)]
        if second == left or (first < middle and key_of(req, work, a) <= key_of(req, work, b)):
            row[i] = a
            first += 1
        else:
            row[i] = b
            second += 1
    own.ready[rep] = left


@compiled
def complete(cfg, req, work, totals, rep, now):
    """Apply what the iteration did."""
    own = work.own
    if cfg.pauses:
        decode_ready(cfg, req, work, totals, rep, now)
    elif own.batch[rep] > 0:
        i = 0
        while i < own.running[rep]:
            r = work.running[i]
            if req.status[r] == DECODING:
                req.stored[r] += 1
                emit(cfg, req, work, totals, rep, r, now)
            i += req.status[r] != FINISHED
    for i in range(own.chunks[rep]):
        r = work.chunk_request[i]
        req.done[r] += work.chunk_tokens[i]
        req.stored[r] = req.done[r]
        if req.done[r] == req.target[r]:
            emit(cfg, req, work, totals, rep, r, now)
            if cfg.pauses and req.status[r] == DECODING:
                insert_ready(req, work, rep, r)


@compiled
def serve(cfg, cost, req, work, totals, rep, mine):
    """Serve the requests ``mine`` (indices by arrival) of one replica until CLOCK_END."""
    own, head, now = work.own, 0, np.int64(0)
    while now < k.CLOCK_END:
        while head < mine.shape[0] and req.arrival[mine[head]] <= now:
            enqueue(req, work, rep, mine[head])
            head += 1
        own.chunks[rep] = own.tokens[rep] = own.batch[rep] = 0
        if cfg.pauses:
            own.tokens[rep] = set_aside(cfg, work, rep)
            continue_prompts(cfg, req, work, rep)
            admit(cfg, req, work, rep, now)
            decode_first(cfg, work, rep)
        elif cfg.mixed:
            evicted = decode_all(cfg, req, work, totals, rep)
            continue_prompts(cfg, req, work, rep)
            if not evicted:
                admit(cfg, req, work, rep, now)
        else:
            admit(cfg, req, work, rep, now)
            if own.chunks[rep] == 0:
                decode_all(cfg, req, work, totals, rep)
        if own.tokens[rep] == 0:
            if head == mine.shape[0]:
                return
            now = req.arrival[mine[head]]
            continue
        used = cfg.blocks - own.free[rep]
        if used > totals.sums[rep, k.PEAK_BLOCKS]:
            totals.sums[rep, k.PEAK_BLOCKS] = used
        now += iteration_ps(cost, req, work, totals, rep)
        complete(cfg, req, work, totals, rep, now)
