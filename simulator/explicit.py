"""Run a schedule that says itself what every iteration holds: one replica, stage and attention rank.

Costs, records and totals are those of ``simulator.research_cost``, which has the kernel's to the picosecond. So the
iterations of any simulation, run as a schedule, give its times; and so does a schedule that no policy would make, such
as the best one of ``planner.exact``. Nobody is preempted: a chunk follows its prompt's last one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from profiles.stepcost import StepCost
from simulator import engine as engines
from simulator import kernel as k
from simulator.outcome import Outcome
from simulator.research_cost import OWN, Work, iteration_ps
from traces.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """Requests (their index in the trace) that decode, and chunks (request, new tokens of its prompt)."""

    decodes: tuple[int, ...]
    chunks: tuple[tuple[int, int], ...]


def simulate_schedule(
    trace: Trace, step: StepCost, schedule: Sequence[Iteration], *, block_size: int = 1
) -> Outcome:
    """Run the iterations one after another, each as early as its chunks have arrived.

    KV room is ``kv_blocks`` of ``block_size`` tokens, counted in tokens.

    Raises
    ------
    ValueError
        When an iteration is empty, decodes or continues what it cannot, or breaks the tables' or the memory's limits;
        or a request is not served to its end.
    """
    if step.stages > 1 or step.ranks > 1:
        raise ValueError("A schedule is of one stage and one attention rank.")
    if (longest := int((trace.prompt_tokens + trace.output_tokens).max())) > step.max_length:
        raise ValueError(f"The cost tables end at {step.max_length} tokens, the trace has {longest}.")
    arrival, requests = engines.records(trace)
    totals, costs = engines.no_totals(step, 1), engines.costs(step)
    own = np.zeros((1, len(OWN.names or ())), np.int64).view(OWN)[..., 0].view(np.recarray)
    row, none = np.zeros((4, len(trace)), np.int64), np.zeros(0, np.int64)
    running, _, chunk_request, chunk_tokens = row
    work = Work(own, none, running, none, none, none, chunk_request, chunk_tokens, none, none)
    room, clock = step.kv_blocks * block_size, 0
    for number, iteration in enumerate(schedule):
        _check(step, requests, iteration, number)
        for i, (r, c) in enumerate(iteration.chunks):
            chunk_request[i], chunk_tokens[i] = r, c
            clock = max(clock, int(arrival[r]))
        for r, _ in iteration.chunks:
            if requests.scheduled[r] < 0:
                requests.scheduled[r] = clock
        running[: len(iteration.decodes)] = iteration.decodes
        own["running"] = own["batch"] = len(iteration.decodes)
        own["chunks"] = len(iteration.chunks)
        own["tokens"] = len(iteration.decodes) + sum(c for _, c in iteration.chunks)
        clock += int(iteration_ps(costs, requests, work, totals, 0))
        held = _complete(requests, totals, iteration, clock)
        if held > room:
            raise ValueError(f"iteration {number}: {held} tokens kept, at most {room}")
        totals.sums[0, k.PEAK_BLOCKS] = max(totals.sums[0, k.PEAK_BLOCKS], -(-held // block_size))
    if requests.finish.min() < 0:
        raise ValueError(f"request {int(np.argmin(requests.finish >= 0))} is not served to its end")
    free, replica = np.full((1, 1), step.kv_blocks), np.zeros(len(trace), np.int64)
    return engines.outcome_of(arrival, requests, replica, {}, free, totals, step)


def _check(step: StepCost, requests: np.recarray, iteration: Iteration, number: int) -> None:
    """Whether it can be run now."""
    tokens = len(iteration.decodes) + sum(c for _, c in iteration.chunks)
    sequences = {*iteration.decodes, *(r for r, _ in iteration.chunks)}
    if not tokens or len(sequences) < len(iteration.decodes) + len(iteration.chunks):
        raise ValueError(f"iteration {number}: empty, or with a request twice")
    if tokens > step.max_tokens or len(sequences) > len(step.head_ps) - 1:
        raise ValueError(
            f"iteration {number}: {tokens} tokens of {len(sequences)} sequences, beyond the tables"
        )
    for r in iteration.decodes:
        if requests.status[r] != k.DECODING:
            raise ValueError(f"iteration {number}: request {r} does not decode")
    for r, c in iteration.chunks:
        if not 0 < c <= requests.prompt[r] - requests.done[r]:
            raise ValueError(f"iteration {number}: a chunk of {c} tokens does not continue prompt {r}")


def _complete(requests: np.recarray, totals: k.Totals, iteration: Iteration, now: int) -> int:
    """Apply an iteration; returns the tokens kept at its end, before finished requests leave."""
    for r in iteration.decodes:
        requests.stored[r] += 1
    for r, c in iteration.chunks:
        requests.done[r] += c
        requests.stored[r] = requests.done[r]
    held = int(requests.stored.sum())
    complete = [r for r, _ in iteration.chunks if requests.done[r] == requests.prompt[r]]
    for r in (*iteration.decodes, *complete):
        if requests.generated[r]:
            k.record_gaps(totals, 0, now - requests.last_token[r], np.int64(0), 1, 1)
        else:
            requests.first[r], requests.status[r] = now, k.DECODING
        requests.generated[r] += 1
        requests.last_token[r] = now
        if requests.generated[r] == requests.output[r]:
            requests.finish[r], requests.status[r], requests.stored[r] = now, k.FINISHED, 0
    return held
