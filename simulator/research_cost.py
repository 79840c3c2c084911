"""What an iteration of a research scheduler takes, compiled by Numba; ``simulator.research_kernel`` steps them.

Records, totals and costs are the kernel's. ``own`` holds one record per replica (``OWN``): of the iteration to come the
new ``tokens``, and of its sequences those that compute ``chunks`` and the ``batch`` that decodes.
"""

from collections import namedtuple
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from simulator import kernel as k
from simulator.kernel import DECODING

_FILES = ("research_cost.py", "research_kernel.py")
VERSION = sha256(b"".join(Path(__file__).with_name(name).read_bytes() for name in _FILES)).hexdigest()[:12]

Work = namedtuple("Work", "own waiting running by_end ready spare chunk_request chunk_tokens base each")
OWN = np.dtype(
    [
        (name, np.int64)
        for name in ("free", "running", "waiting", "ready", "filling", "chunks", "tokens", "batch")
    ]
)


def compiled(function: Callable[..., Any]) -> Any:
    """As in the kernel, with file names of this version of these files."""
    function.__qualname__ = f"{function.__qualname__}_{VERSION}"
    return k.compiled(function)


@compiled
def iteration_ps(cost, req, work, totals, rep):
    """Time of the iteration, and its totals; as in ``kernel.schedule``."""
    own, sums = work.own, totals.sums[rep]
    chunks, batch, tokens = own.chunks[rep], own.batch[rep], own.tokens[rep]
    time = cost.local[0, tokens] + cost.shared[0, tokens] + cost.head[chunks + batch]
    prefill, row, energy = np.int64(0), cost.prefill[0], cost.prefill_nj[0]
    for i in range(chunks):
        c, x = work.chunk_tokens[i], req.done[work.chunk_request[i]]
        if i == 0:
            prefill += cost.prefill_launch[0]
            sums[k.PREFILL_NJ] += cost.prefill_launch_nj[0]
        if row[c] >= row[x + c] - row[x]:
            prefill += row[c]
            sums[k.PREFILL_NJ] += energy[c]
        else:
            prefill += row[x + c] - row[x]
            sums[k.PREFILL_NJ] += energy[x + c] - energy[x]
        sums[k.PREFILL_TOKENS] += c
        sums[k.PREFILL_PAIRS] += c * x + c * (c + 1) // 2
    time += prefill
    if batch > 0:
        context = np.int64(0)
        if own.ready[rep] > 0:
            for i in range(batch):
                context += req.stored[work.ready[i]] + 1
        else:
            for i in range(own.running[rep]):
                r = work.running[i]
                if req.status[r] == DECODING:
                    context += req.stored[r] + 1
        j = k.piece(cost.knots, batch, context)
        over = context - batch * cost.knots[j]
        decode = cost.decode_value[0, batch, j] + cost.decode_slope[0, batch, j] * over
        time += decode
        if chunks > 0:
            together = k.mixed(cost, 0, batch, j, over, tokens - batch)
            time += together
            prefill += together
        sums[k.DECODE_TOKENS] += batch
        sums[k.KV_READ] += context
        sums[k.DECODE_NJ] += cost.decode_value_nj[0, batch, j] + cost.decode_slope_nj[0, batch, j] * over
        totals.decode_ps[rep, batch] += decode
        totals.decode_wide[rep, batch] += totals.decode_ps[rep, batch] // k.WIDE
        totals.decode_ps[rep, batch] %= k.WIDE
    totals.local[rep, tokens] += 1
    totals.shared[rep, tokens] += 1
    totals.head[rep, chunks + batch] += 1
    sums[k.ITERATIONS] += 1
    sums[k.EVENTS] += 1
    sums[k.BATCH_SUM] += chunks + batch
    sums[k.PREFILL_PS] += prefill
    sums[k.BUSY] += time
    sums[k.STAGE_BUSY] += time
    for large in (k.DECODE_NJ, k.PREFILL_NJ, k.PREFILL_PS, k.STAGE_BUSY):
        totals.sums_wide[rep, large] += sums[large] // k.WIDE
        sums[large] %= k.WIDE
    return time
