"""The least energy of a plan on a trace; ``planner.bounds`` states the facts F1 to F4."""

from dataclasses import replace

import numpy as np

from formulations.hulls import FloatArray
from planner.busy_energy import BusyEnergy, Flight
from planner.shares import SAFE, Limits, ShareMaker, Tables, TraceStats
from profiles.stepcost import PS, StepCost


def least_energy_j(
    step: StepCost, limits: Limits, stats: TraceStats, *,
    replicas: int, end_ps: int, flights: list[Flight], swaps: bool, cuts: bool, block_size: int,
) -> dict[str, float]:  # fmt: skip
    """Least joules by relaxation, with idle power of all replicas until ``end_ps``.

    Work: energy is split among events like time (``planner.shares``), over all stages at once.

    Longest answer: one request pays the constant of all its iterations (F1), everyone its own work.

    Work while busy: ``planner.busy_energy``, with ``flights`` the least times that iterations take in all stages and
    between them, summed. Swapping takes time without energy, so this is left out with ``swaps``.

    Parameters
    ----------
    cuts
        Whether prompts come in chunks.
    block_size
        Tokens of a KV block, in which memory is counted.
    """
    idle_j = step.idle_w * replicas * end_ps * SAFE / PS
    energy = _tables(step, stats, "nj")
    maker = ShareMaker(replace(energy, prompt=_chunks_nj(step, stats)), limits, stats)
    found = {
        f"idle power and work, iterations counted by {by}": maker.split(by).work(stats).sum(dtype=float)
        for by in ShareMaker.SPLITS
    }
    longest = float(stats.most_output)
    found["idle power, work and the longest answer"] = max(
        float(whole.chain(stats).max()) + whole.work(stats).sum(dtype=float)
        for whole in (maker.whole(longest, reading=reading) for reading in (True, False))
    )
    if not swaps:
        running = min(len(stats), step.stages * limits.sequences)  # at most, on a rank
        stored = np.partition(stats.last, len(stats) - running)[len(stats) - running :]
        blocks = int((-(-stored // block_size)).sum())
        busy = BusyEnergy(
            _tables(step, stats, "ps"), energy,
            step.prefill_ps[:, : stats.longest + 1].astype(np.float64),
            step.prefill_nj[:, : stats.longest + 1].astype(np.float64),
            limits, stats, cuts=cuts, preempts=blocks > step.kv_blocks,
        )  # fmt: skip
        found["idle power and work while busy"] = busy.least_nj(flights)
    return {name: idle_j + nj * SAFE * 1e-9 for name, nj in found.items()}


def _tables(step: StepCost, stats: TraceStats, unit: str) -> Tables:
    """All stages of an iteration; the head of one sequence, which each has, is in ``shared``."""
    table = {name: getattr(step, f"{name}_{unit}") for name in (
        "local", "shared", "send", "head", "decode_value", "decode_slope", "prefill_launch",
    )}  # fmt: skip
    head = table["head"].astype(np.float64)
    return Tables(
        scale=1.0,
        local=table["local"].sum(0).astype(np.float64),
        shared=table["shared"].sum(0) + table["send"].sum(0) + head[1],
        head=np.maximum(head - head[1], 0),
        value=table["decode_value"].sum(0).astype(np.float64),
        slope=table["decode_slope"].sum(0).astype(np.float64),
        knots=step.knots,
        launch=float(table["prefill_launch"].sum()),
        prompt=np.zeros(stats.longest + 1),
    )


def _chunks_nj(step: StepCost, stats: TraceStats) -> FloatArray:
    """[x] least nJ of the chunks of a prompt of x tokens, above launch and dense work.

    Proof: a chunk of c after x costs E[c] where G[c] >= G[x + c] - G[x], else E[x + c] - E[x]. With kappa
    the least energy per time of any token, both are at least kappa times the chunk's time, and the time
    telescopes; with epsilon the least energy of any token, both are at least epsilon c.
    """
    count = stats.longest + 1
    total = np.zeros(count)
    for time, energy in zip(step.prefill_ps, step.prefill_nj, strict=True):
        nj, ps = np.diff(energy, prepend=0), np.diff(time, prepend=0)
        kappa = float((nj[ps > 0] / ps[ps > 0]).min(initial=np.inf))
        by_time = kappa * (time[:count] - time[0]) if np.isfinite(kappa) else 0.0
        epsilon = float(np.diff(energy[:count]).min())
        total += np.maximum(by_time, epsilon * np.arange(count))
    return total
