"""Serve a trace with a plan: arrays in, Outcome out."""

from typing import Any

import numpy as np

from profiles.plan import EngineSettings
from profiles.stepcost import PROVENANCE, PS, StepCost
from simulator import kernel as k
from simulator.batching import ORCA, POLICY_CODE, SARATHI, STATIC, VLLM_V0
from simulator.outcome import IntArray, Outcome
from traces.trace import Trace

LONGEST_S = 100 * 86_400.0
"""Latest arrival. The clock itself, in int64 picoseconds, goes on for four days more."""

SURE = 2.0**62
"""Sums of magnitudes below this, computed roughly, fit int64."""


def simulate(
    trace: Trace, step: StepCost, engine: EngineSettings, *, replicas: int = 1, skip: bool = True
) -> Outcome:
    """Serve the whole trace on ``replicas`` copies of the replica that ``step`` describes.

    ``skip=False`` steps every iteration; the outcome is the same bit for bit, only slower.

    Raises
    ------
    ValueError
        When the tables do not cover the trace or the settings contradict each other.
    """
    policy = POLICY_CODE[engine.policy]
    chunkable = engine.chunks_prefill and step.chunkable
    check(trace, step, engine, chunks=engine.chunks_prefill, mixes=policy == ORCA or engine.chunks_prefill)

    size = engine.block_size
    watermark = int(engine.watermark * step.kv_blocks) if policy in (VLLM_V0, SARATHI) else 0
    stored = trace.prompt_tokens + trace.output_tokens - 1
    reserved = int(-(-stored.max() // size))
    need = -(-stored // size)
    if policy in (STATIC, ORCA):
        need = np.full_like(need, reserved)
    elif watermark:  # a request that needs recompute must be admitted again with all it has generated
        need = need + watermark
    rejected = rejections(need, step, size)
    order = np.flatnonzero(need <= step.kv_blocks)

    n, ranks, stages = len(trace), step.ranks, step.stages
    arrival, requests = records(trace)
    state = _state(step, engine, replicas, -(-n // replicas))
    totals = no_totals(step, replicas)
    settings = k.Settings(
        policy=policy,
        max_seqs=engine.max_seqs,
        budget=engine.token_budget,
        block_size=size,
        blocks=step.kv_blocks,
        watermark=watermark,
        reserve_blocks=reserved,
        swap=engine.preemption == "swap",
        sjf=engine.queue == "sjf",
        chunkable=chunkable,
        skip=skip,
        stages=stages,
        ranks=ranks,
    )
    replica = np.full(n, -1, np.int64)
    k.run(
        settings, costs(step), requests, state, totals, order, replica, replicas,
        engine.routing == "least-outstanding",
    )  # fmt: skip
    late = unserved(requests, order)
    assert not late or state.own.clock.max() > 0.9 * k.CLOCK_END, "a request that fits was never served"
    return outcome_of(arrival, requests, replica, rejected | late, state.free, totals, step)


def check(trace: Trace, step: StepCost, engine: EngineSettings, *, chunks: bool, mixes: bool) -> None:
    """Raise ValueError where the tables or the clock do not cover the trace.

    ``chunks``: prompts are cut at the token budget; ``mixes``: prompts and decodes share iterations.
    """
    if chunks and engine.token_budget < engine.max_seqs:
        raise ValueError("token_budget must be at least max_seqs, or some decodes would never run.")
    longest = int((trace.prompt_tokens + trace.output_tokens).max())
    if longest > step.max_length:
        raise ValueError(f"The cost tables end at {step.max_length} tokens, the trace has {longest}.")
    if trace.arrival_s[-1] > LONGEST_S:
        raise ValueError(f"The clock holds {LONGEST_S / 86_400:.0f} days, the trace has more.")
    if engine.max_seqs > step.max_seqs:
        raise ValueError(f"The cost tables end at {step.max_seqs} sequences per rank.")
    whole = longest + (engine.max_seqs if mixes else 0)
    most_tokens = engine.token_budget if chunks and step.chunkable else max(engine.token_budget, whole)
    if most_tokens > step.max_tokens:
        raise ValueError(f"The cost tables end at {step.max_tokens} tokens, a batch can have {most_tokens}.")


def rejections(need: IntArray, step: StepCost, block_size: int) -> dict[int, str]:
    """Requests that need more KV blocks than a rank has, and why they are never served."""
    return {
        int(i): f"needs {int(need[i])} KV blocks of {block_size} tokens, a rank has {step.kv_blocks}"
        for i in np.flatnonzero(need > step.kv_blocks)
    }


def unserved(requests: Any, order: IntArray) -> dict[int, str]:
    """Of the requests ``order`` those that the end of the clock cut off, and why; their times are taken back."""
    late = order[requests.finish[order] < 0]
    for name in ("scheduled", "first"):
        requests[name][late] = -1
    return dict.fromkeys(late.tolist(), "is not served within 104 days, where the simulator's clock ends")


def no_totals(step: StepCost, replicas: int) -> k.Totals:
    """Nothing counted yet."""
    return k.Totals(
        sums=np.zeros((replicas, k.TOTALS), np.int64),
        sums_wide=np.zeros((replicas, k.TOTALS), np.int64),
        local=np.zeros((replicas, step.local_ps.shape[1]), np.int64),
        shared=np.zeros((replicas, step.shared_ps.shape[1]), np.int64),
        head=np.zeros((replicas, step.head_ps.shape[0]), np.int64),
        decode_ps=np.zeros((replicas, step.max_seqs + 1), np.int64),
        decode_wide=np.zeros((replicas, step.max_seqs + 1), np.int64),
        gaps=np.zeros((replicas, k.GAP_BINS), np.int64),
    )


def costs(step: StepCost) -> k.Cost:
    """The tables as the kernel takes them."""
    zeros = np.zeros_like(step.decode_value_ps)
    return k.Cost(
        knots=step.knots,
        local=step.local_ps,
        shared=step.shared_ps,
        head=step.head_ps,
        send=step.send_ps,
        decode_value=step.decode_value_ps,
        decode_slope=step.decode_slope_ps,
        mixed_value=zeros if step.mixed_value_ps is None else step.mixed_value_ps,
        mixed_slope=zeros if step.mixed_slope_ps is None else step.mixed_slope_ps,
        mixed_token=np.zeros(zeros.shape[:2], np.int64)
        if step.mixed_token_ps is None
        else step.mixed_token_ps,
        prefill_launch=step.prefill_launch_ps,
        prefill=step.prefill_ps,
        decode_value_nj=step.decode_value_nj,
        decode_slope_nj=step.decode_slope_nj,
        prefill_launch_nj=step.prefill_launch_nj,
        prefill_nj=step.prefill_nj,
        swap_block=step.swap_block_ps,
    )


def records(trace: Trace) -> tuple[IntArray, Any]:
    """Arrivals in picoseconds, and one record per request, see ``kernel.REQUEST``."""
    arrival = np.rint(trace.arrival_s * PS).astype(np.int64)
    requests = np.recarray(len(trace), k.REQUEST)
    requests[:] = 0
    requests.arrival = arrival
    requests.prompt = requests.target = trace.prompt_tokens
    requests.output = trace.output_tokens
    for name in ("scheduled", "first", "finish", "lane", "position", "next_assigned", "swap_next"):
        requests[name] = -1
    return arrival, requests


def _state(step: StepCost, engine: EngineSettings, replicas: int, most_waiting: int) -> k.State:
    """Everything idle. ``most_waiting``: requests of one replica that are not finished; under either routing
    no more than its equal share, as the one with the fewest gets the next.
    """
    stages, ranks, seqs = step.stages, step.ranks, engine.max_seqs
    lanes = stages * ranks

    def zeros(*shape: int) -> IntArray:
        return np.zeros((replicas, *shape), np.int64)

    def records(kind: np.dtype[Any], *shape: int) -> Any:
        return zeros(*shape, len(kind.names or ())).view(kind)[..., 0].view(np.recarray)

    state = k.State(
        own=records(k.REPLICA),
        slots=records(k.SLOT, stages),
        lanes=records(k.LANE, lanes),
        free=zeros(ranks) + step.kv_blocks,
        waiting=zeros(most_waiting),
        residue=zeros(lanes, engine.block_size),
        due=zeros(lanes, 2 * seqs + 16),
        stack=zeros(lanes, 2 * seqs + 16),
        partial=zeros(lanes, seqs + 1),
        groups_count=zeros(lanes, seqs + 2),
        groups_time=zeros(lanes, seqs + 2),
        chunk_request=zeros(stages, ranks * (seqs + 1)),
        chunk_tokens=zeros(stages, ranks * (seqs + 1)),
        tokens=zeros(ranks),
        prefills=zeros(ranks),
        closed=zeros(ranks),
        prefill_ps=zeros(stages, ranks),
        base=zeros(stages),
        growth=zeros(stages),
    )
    state.own["head"] = state.own["tail"] = -1
    state.slots["pending_end"] = k.INFINITE
    state.lanes["swapped_head"] = state.lanes["swapped_tail"] = -1
    return state


def outcome_of(
    arrival: IntArray, requests: Any, replica: IntArray, rejected: dict[int, str], free: IntArray,
    totals: k.Totals, step: StepCost,
) -> Outcome:  # fmt: skip
    """What the records and totals of a simulation say. ``free``: KV blocks at the end, [replicas, ranks]."""
    replicas = len(free)
    sums = _wide(totals.sums, totals.sums_wide)
    decode_ps = _wide(totals.decode_ps, totals.decode_wide)
    local, shared, head = (getattr(totals, name).sum(axis=0) for name in ("local", "shared", "head"))
    energy = (
        _exact(step.local_nj, local)
        + _exact(step.shared_nj, shared)
        + _exact(step.send_nj, shared)
        + _exact(step.head_nj, head)
        + sums[k.DECODE_NJ]
        + sums[k.PREFILL_NJ]
    )
    return Outcome(
        arrival_ps=arrival,
        prompt_tokens=np.ascontiguousarray(requests["prompt"]),
        output_tokens=np.ascontiguousarray(requests["output"]),
        scheduled_ps=np.ascontiguousarray(requests["scheduled"]),
        first_token_ps=np.ascontiguousarray(requests["first"]),
        finish_ps=np.ascontiguousarray(requests["finish"]),
        preemptions=np.ascontiguousarray(requests["preemptions"]),
        replica=replica,
        rejected=rejected,
        replicas=replicas,
        stages=step.stages,
        iterations=sums[k.ITERATIONS],
        iterations_by_tokens=shared,
        events=sums[k.EVENTS],
        sequences_per_iteration=sums[k.BATCH_SUM] / max(1, sums[k.ITERATIONS]),
        busy_ps=sums[k.BUSY],
        stage_busy_ps=sums[k.STAGE_BUSY],
        decode_tokens=sums[k.DECODE_TOKENS],
        prefill_tokens=sums[k.PREFILL_TOKENS],
        prefill_pairs=sums[k.PREFILL_PAIRS],
        recomputed_tokens=sums[k.RECOMPUTED],
        swapped_blocks=sums[k.SWAPPED_BLOCKS],
        kv_read_tokens=sums[k.KV_READ],
        peak_blocks=int(totals.sums[:, k.PEAK_BLOCKS].max()),
        kv_blocks=step.kv_blocks,
        free_blocks=free,
        energy_nj=energy,
        idle_w=step.idle_w * replicas,
        gaps=totals.gaps.sum(axis=0),
        max_gap_ps=int(totals.sums[:, k.MAX_GAP].max()),
        breakdown_ps=_breakdown(step, local, shared, head, decode_ps, sums),
        provenance=_provenance(step, local, shared, head, decode_ps, sums),
    )


def _wide(rest: IntArray, wide: IntArray) -> list[int]:
    """Sums over replicas of what ``kernel.Totals`` keeps in two parts."""
    both = rest.astype(object) + wide.astype(object) * int(k.WIDE)
    return [int(total) for total in both.sum(axis=0)]


def _exact(table: IntArray, counts: IntArray) -> int:
    """Sum of table * counts over all stages, in integers of any size: of 64 bits where those surely suffice."""
    used = np.flatnonzero(counts)
    rows, counts = np.atleast_2d(table[..., used]), counts[used]
    if float(np.abs(rows).max(initial=0)) * float(counts.sum()) * len(rows) < SURE:
        return int((rows @ counts).sum())
    return int((rows.astype(object) * counts.astype(object)).sum())


def _breakdown(
    step: StepCost, local: IntArray, shared: IntArray, head: IntArray, decode_ps: list[int], sums: list[int]
) -> dict[str, int]:
    """Busy time of all stages by cell and collective, averaged over attention ranks."""
    parts: dict[str, int] = {}

    def add(name: str, value: int) -> None:
        if value:
            parts[name] = parts.get(name, 0) + value

    for name, table in step.local_parts.items():
        add(name, _exact(table, local) // step.ranks)
    for name, table in step.shared_parts.items():
        add(name, _exact(table, shared))
    for name, table in step.head_parts.items():
        add(name, _exact(table, head))
    add("attention (decode)", sum(decode_ps) // step.ranks)
    add("attention (prefill)", sums[k.PREFILL_PS] // step.ranks)
    add("send/recv", _exact(step.send_ps, shared))
    add("swap", sums[k.SWAP_PS])
    return parts


def _provenance(
    step: StepCost, local: IntArray, shared: IntArray, head: IntArray, decode_ps: list[int], sums: list[int]
) -> dict[str, float]:
    """Share of the busy time by where its numbers come from, adding up to 1."""
    weight = np.zeros(len(PROVENANCE))
    for shares, table, counts in (
        (step.local_provenance, step.local_ps.sum(axis=0), local / step.ranks),
        (step.shared_provenance, step.shared_ps.sum(axis=0), shared),
        (step.head_provenance, step.head_ps, head),
        (step.decode_provenance, None, np.array(decode_ps, np.float64) / step.ranks),
    ):
        if shares is not None:
            weight += shares @ (counts if table is None else table * counts)
    if step.prefill_provenance is not None:
        weight += step.prefill_provenance * (sums[k.PREFILL_PS] / step.ranks)
    weight[PROVENANCE.index("modelled")] += float(_exact(step.send_ps, shared) + sums[k.SWAP_PS])
    total = weight.sum()
    return {name: float(w / total) for name, w in zip(PROVENANCE, weight, strict=True)} if total else {}
