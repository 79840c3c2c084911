"""The least energy of a plan on a trace; ``planner.bounds`` states the facts F1 to F4."""

import numpy as np

from formulations import hulls
from formulations.hulls import FloatArray, IntArray
from planner.shares import SAFE, Limits, ShareMaker, Tables, TraceStats
from profiles.stepcost import PS, StepCost


def least_energy_j(
    step: StepCost, limits: Limits, stats: TraceStats, *,
    replicas: int, end_ps: int, busy_ps: float, swaps: bool,
) -> dict[str, float]:  # fmt: skip
    """Least joules by relaxation, with idle power of all replicas until ``end_ps``.

    Work: energy is split among events like time (``planner.shares``), over all stages at once.

    Work while busy: let ``busy_ps`` be the least time that iterations take in all stages and between them,
    summed, and p the largest power such that every table entry in nJ is at least p times the entry in ps.
    An iteration draws p for its time, plus what the tables nJ - p ps say, which are split among
    events. Swapping takes time without energy, so this is left out with ``swaps``.
    """
    idle_j = step.idle_w * replicas * end_ps * SAFE / PS
    time, energy = _tables(step, stats, "ps"), _tables(step, stats, "nj")
    powers = {"": 0.0}
    if not swaps:
        powers[" while busy"] = _least_power(step, limits, stats, time, energy)
    result = {}
    for words, power in powers.items():
        maker = ShareMaker(_above(energy, time, power, _chunks_nj(step, stats, power)), limits, stats)
        for by in ShareMaker.SPLITS:
            work_nj = maker.split(by).work(stats).sum(dtype=float) + power * busy_ps
            result[f"idle power and work{words}, iterations counted by {by}"] = idle_j + work_nj * SAFE * 1e-9
    return result


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


def _above(energy: Tables, time: Tables, power: float, prompt: FloatArray) -> Tables:
    """nJ - power * ps, table by table."""
    return Tables(
        scale=1.0,
        local=energy.local - power * time.local,
        shared=energy.shared - power * time.shared,
        head=energy.head - power * time.head,
        value=energy.value - power * time.value,
        slope=energy.slope - power * time.slope,
        knots=energy.knots,
        launch=energy.launch - power * time.launch,
        prompt=prompt,
    )


def _least_power(
    step: StepCost, limits: Limits, stats: TraceStats, time: Tables, energy: Tables
) -> float:  # fmt: skip
    """Largest nJ per ps that no part of an iteration which ``_above`` tells apart falls below."""
    pairs = [(energy.head[2:], time.head[2:])]
    if limits.ranks == 1:
        n = len(time.local)
        pairs.append(((energy.local + energy.shared[:n])[1:], (time.local + time.shared[:n])[1:]))
    else:
        pairs += [(energy.local[1:], time.local[1:]), (energy.shared[1:], time.shared[1:])]
    if stats.decodes:
        most = max(1, min(limits.sequences, limits.kv // stats.smallest))
        corners = [
            hulls.decode_corners(
                t.value, t.slope, t.knots, most, stats.smallest, stats.longest, limits.kv
            )[0].ravel()
            for t in (energy, time)
        ]  # fmt: skip
        pairs.append((corners[0], corners[1]))
    ratios = [_ratio(nj, ps) for nj, ps in pairs]
    ratios.append(_ratio(np.array([energy.launch]), np.array([time.launch])))
    ratios += [_chunk_power(ps, nj) for ps, nj in zip(step.prefill_ps, step.prefill_nj, strict=True)]
    least = min(ratios) * (1 - 1e-9)
    return least if np.isfinite(least) else 0.0


def _chunks_nj(step: StepCost, stats: TraceStats, power: float) -> FloatArray:
    """[x] least nJ - power * ps of the chunks of a prompt of x tokens, above launch and dense work.

    Proof: a chunk of c after x costs E[c] where G[c] >= G[x + c] - G[x], else E[x + c] - E[x]. With kappa
    the least energy per time of any token, both are at least kappa times the chunk's time, and the time
    telescopes; with epsilon the least energy of any token, both are at least epsilon c.
    """
    count = stats.longest + 1
    total = np.zeros(count)
    for time, energy in zip(step.prefill_ps, step.prefill_nj, strict=True):
        above = _chunk_power(time, energy) - power
        by_time = above * (time[:count] - time[0]) if np.isfinite(above) else 0.0
        epsilon = 0.0 if power else float(np.diff(energy[:count]).min())
        total += np.maximum(by_time, epsilon * np.arange(count))
    return total


def _chunk_power(time: IntArray, energy: IntArray) -> float:
    """Least energy per time of any token: then E[c] >= kappa G[c] and the same for differences."""
    return _ratio(np.diff(energy, prepend=0), np.diff(time, prepend=0))


def _ratio(nj: FloatArray | IntArray, ps: FloatArray | IntArray) -> float:
    """Largest p with nj >= p * ps, for ps >= 0; infinite where nothing takes time."""
    return float((nj[ps > 0] / ps[ps > 0]).min(initial=np.inf))
