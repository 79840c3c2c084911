"""What is still owed from a state of ``formulations.schedule_search``: bounds on ends after the clock, compiled.

Makespan: work of the tokens that are left, and as many iterations as the longest answer, memory, seats and the budget
take at least; the same for what arrives from a time on; and the longest request alone.

Sums of ends: the largest of two. *Alone*: every request by itself. *Mean busy time*: let every iteration pay its
constants by the events in it, so that their shares add up to no more than its time:

    decode that reads m tokens   (base + decode) max(m / kv, 1 / sequences) + token + sequence + read m
    prompt of p tokens           (token + launch / tokens) p + own

Shares spread evenly over their iterations are a schedule of one machine that shares its time. A request's last token
is later than the mean time of its shares by at least ``lag``: each share is at the middle of its iteration on
average, and all later iterations of the request follow. (In more chunks a prompt's shares are earlier still.) Requests
that run already decode side by side, so their iterations last for all of them that are left (``_steps``). The sum
of mean times is least with the shortest request first, preempting (Goemans 1997); so that sum and the lags are a bound.

``pool`` tokens of waiting prompts may be in chunks already, which the clock does not count: iterations for them, and so
their shares of ``launch``, are paid, which takes no more than those shares from each mean. ``free`` ones of them are
not to be charged either, and the bound is then that of requests alone.
"""

from collections import namedtuple
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from formulations.hulls import ROUNDING
from formulations.schedule import Objective, ScheduleInstance

# Compiled code of one file is kept on disk until that file changes, with what it had of the others. So each version of
# these files has names of its own.
_FILES = (
    "schedule_togo.py",
    "schedule_search.py",
    "schedule_orders.py",
    "schedule_fill.py",
    "schedule_tree.py",
    "schedule_sums.py",
    "schedule_memory.py",
    "schedule_paths.py",
)
VERSION = sha256(b"".join(Path(__file__).with_name(name).read_bytes() for name in _FILES)).hexdigest()[:12]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NEAR = 32
"""Decodes that a request has left at most where those of all are added up one by one."""


def compiled(function: Callable[..., Any]) -> Any:
    """Compile, and keep it for this version; without reference counting, which takes longer than what is counted.

    All that it calls becomes part of it: a call passes every field of every array.
    """
    return _compile(function, _nrt=False, forceinline=True)


def allocating(function: Callable[..., Any]) -> Any:
    """The same of what makes arrays."""
    return _compile(function)


def _compile(function: Callable[..., Any], **options: bool) -> Any:
    function.__qualname__ = f"{function.__qualname__}_{VERSION}"
    return njit(cache=True, nogil=True, **options)(function)  # type: ignore[call-overload]


Data = namedtuple(
    "Data",
    "arrival prompt output own target alike last_arrival kv tokens sequences base token launch decode sequence read "
    "sums share lag alone",
)
"""An instance and objective. ``target``: tokens until a request ends; ``alike``: the previous request of the same kind
or -1; ``sums``: the objective is the sum of ends, else the last one; ``share``, ``lag``, ``alone``: [request, tokens
emitted], of what is left of it."""


def data_of(instance: ScheduleInstance, objective: Objective) -> Data:
    """The instance as arrays."""

    def array(values: tuple[int, ...]) -> NDArray[np.int64]:
        return np.array(values, np.int64)

    cost, kinds, alike = instance.cost, dict[tuple[int, ...], int](), []
    columns = (instance.arrival, instance.prompt, instance.output, instance.own)
    for i, kind in enumerate(zip(*columns, strict=True)):
        alike.append(kinds.get(kind, -1))
        kinds[kind] = i
    target = (1,) * len(instance) if objective is Objective.TTFT else instance.output
    share, lag, alone = _tables(instance, target)
    arrival, prompt, output, own = map(array, columns)
    return Data(
        arrival, prompt, output, own, array(target), array(tuple(alike)), max(instance.arrival),
        instance.kv, instance.tokens, instance.sequences, cost.base, cost.token, cost.launch, cost.decode,
        cost.sequence, cost.read, objective is not Objective.MAKESPAN, share, lag, alone,
    )  # fmt: skip


def _tables(instance: ScheduleInstance, target: tuple[int, ...]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sum of shares, lag and time alone of what is left of a request after each number of tokens."""
    cost, n = instance.cost, len(instance)
    share, lag, alone = (np.zeros((n, max(instance.output) + 1)) for _ in range(3))
    launch = cost.base + cost.launch
    for i, prompt in enumerate(instance.prompt):
        work = weighted = rest = 0.0
        for k in range(target[i] - 1, 0, -1):
            each = cost.token + cost.sequence + cost.read * (prompt + k)
            own = (cost.base + cost.decode) * max((prompt + k) / instance.kv, 1 / instance.sequences) + each
            weighted += own * ((cost.base + cost.decode + each) / 2 + rest)
            work += own
            rest += cost.base + cost.decode + each
            share[i, k], lag[i, k], alone[i, k] = work, weighted / max(work, 1e-9), rest
        tokens = cost.token * prompt
        weighted += tokens * ((launch + tokens) / 2 + rest)
        weighted += instance.own[i] * ((launch + cost.token + instance.own[i]) / 2 + rest)
        work += tokens + instance.own[i]
        share[i, 0] = work + cost.launch / instance.tokens * prompt
        # Shares of launch are as late as the tokens, which may be more or less than the others; and may be paid.
        paid = weighted + (share[i, 0] - work) * ((launch + tokens) / 2 + rest)
        lag[i, 0] = min(weighted / max(work, 1e-9), paid / max(share[i, 0], 1e-9))
        alone[i, 0] = launch + tokens + instance.own[i] + rest
    return share, lag, alone


@compiled
def togo(data, emitted, clock, free, pool, work):
    """Least of what the objective adds to the clock of all that have not ended; see the module."""
    if data.sums:
        return np.int64(_sum_togo(data, emitted, clock, free, pool, work) * ROUNDING)
    most = _least(data, emitted, np.int64(-1), free, pool)
    for i in range(emitted.shape[0]):
        if emitted[i] < data.output[i]:
            wait = max(0, data.arrival[i] - clock) if emitted[i] == 0 else 0
            most = max(most, wait + np.int64(_alone(data, i, emitted[i], free, pool)))
            if wait > 0:  # nothing of it is in chunks
                most = max(most, wait + _least(data, emitted, data.arrival[i], 0, 0))
    return most


@compiled
def _alone(data, i, e, free, pool):
    """Time of what is left of request i alone."""
    time = data.alone[i, e]
    if e == 0:
        prompt = data.prompt[i]
        chunks = -(-max(1, prompt - pool) // data.tokens)
        time += (chunks - 1) * (data.base + data.launch) - data.token * min(free, prompt - 1)
    return time


@compiled
def _least(data, emitted, start, free, pool):
    """Time of what is left of requests that arrive from ``start`` on (-1: of all); as in
    ``schedule_cpsat.least``."""
    work = prompts = area = decodes = longest = np.int64(0)
    for i in range(emitted.shape[0]):
        if emitted[i] >= data.output[i] or data.arrival[i] < start:
            continue
        before = max(emitted[i], 1)
        later = data.output[i] - before
        read = (
            later * data.prompt[i] + (data.output[i] - 1) * data.output[i] // 2 - (before - 1) * before // 2
        )
        longest = max(longest, later)
        area += read
        decodes += later
        work += later * (data.token + data.sequence) + data.read * read
        if emitted[i] == 0:
            prompts += data.prompt[i]
            work += data.token * data.prompt[i] + data.own[i]
    steps = max(longest, -(-area // data.kv), -(-decodes // data.sequences))
    chunks = max(prompts > 0, -(-(prompts - pool) // data.tokens))
    iterations = max(steps, -(-(prompts + decodes - pool) // data.tokens))
    work -= data.token * min(free, prompts)
    return work + data.base * iterations + data.decode * steps + data.launch * chunks


@compiled
def _steps(data, emitted, ends):
    """Least time until the t-th decode from now ends, for those that run now and decode t times or more."""
    most = 0
    for i in range(emitted.shape[0]):
        if 0 < emitted[i] < data.target[i]:
            most = max(most, min(NEAR, data.target[i] - emitted[i]))
    ends[0] = 0.0
    for t in range(most):
        time = data.base + data.decode
        for i in range(emitted.shape[0]):
            if 0 < emitted[i] < data.target[i] - t:
                time += data.token + data.sequence + data.read * (data.prompt[i] + emitted[i] + t)
        ends[t + 1] = ends[t] + time


@compiled
def _sum_togo(data, emitted, clock, free, pool, work):
    """The bounds on sums of the module."""
    left, size, release, _, ends = work
    _steps(data, emitted, ends)
    count, alone, lags, waits = 0, 0.0, 0.0, False
    for i in range(emitted.shape[0]):
        e = emitted[i]
        if e >= data.target[i]:
            continue
        wait = 0.0
        if e == 0 and data.arrival[i] > clock:
            wait = float(data.arrival[i] - clock)
            waits = True
        p = data.share[i, e]
        rest = data.target[i] - e
        if e == 0 or rest > NEAR:
            alone += wait + _alone(data, i, e, free, pool)
            lags += data.lag[i, e]
        else:
            alone += ends[rest]
            for t in range(rest):
                own = data.share[i, e + t] - data.share[i, e + t + 1]
                lags += own / p * (ends[rest] - (ends[t] + ends[t + 1]) / 2)
        j = count
        while j > 0 and size[j - 1] > p:
            size[j], release[j] = size[j - 1], release[j - 1]
            j -= 1
        size[j], release[j] = p, wait
        count += 1
    if free > 0:
        return alone
    paid = count * data.launch * pool / data.tokens
    means = now = 0.0
    if not waits:
        for j in range(count):
            means += now + size[j] / 2
            now += size[j]
        return max(alone, means + lags - paid)
    for j in range(count):
        left[j] = size[j]
    while True:
        best, until = -1, np.inf
        for j in range(count):
            if left[j] > 0 and release[j] > now:
                until = min(until, release[j])
            elif left[j] > 0 and best < 0:
                best = j
        if best < 0:
            if until == np.inf:
                return max(alone, means + lags - paid)
            now = until
            continue
        some = min(left[best], until - now)
        means += (now + some / 2) * some / size[best]
        left[best] = left[best] - some if some < left[best] else 0.0
        now += some
