"""Metrics of an outcome, each defined once, in words, next to its code.

All latencies are in seconds and count served requests only; a rejected request counts as one that misses
every SLO. Percentiles interpolate linearly between order statistics (NumPy's default); those of ITL are the
order statistic below, from a histogram, within 0.8 %.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from profiles.roofline import attended_pairs, experts_hit
from profiles.stepcost import PS, StepCost
from simulator.kernel import GAP_BINS, gap_edge
from simulator.outcome import Outcome

FloatArray = NDArray[np.float64]

PERCENTILES = (50, 90, 95, 99)


def ttft_s(outcome: Outcome) -> FloatArray:
    """Time to first token: first token - arrival, queueing included. [served]"""
    ok = outcome.served
    return (outcome.first_token_ps[ok] - outcome.arrival_ps[ok]) / PS


def e2e_s(outcome: Outcome) -> FloatArray:
    """End-to-end latency: last token - arrival. [served]"""
    ok = outcome.served
    return (outcome.finish_ps[ok] - outcome.arrival_ps[ok]) / PS


def tpot_s(outcome: Outcome) -> FloatArray:
    """Time per output token: (last token - first token) / (output tokens - 1), of requests with two
    tokens or more. [served with output > 1]"""
    ok = outcome.served & (outcome.output_tokens > 1)
    return (outcome.finish_ps[ok] - outcome.first_token_ps[ok]) / PS / (outcome.output_tokens[ok] - 1)


def itl_percentile_s(outcome: Outcome, q: float) -> float:
    """Percentile q of all gaps between consecutive tokens of a request, within 0.8 % (histogram bins).

    The largest gap is known exactly.
    """
    total = int(outcome.gaps.sum())
    if total == 0:
        return 0.0
    if q >= 100:
        return outcome.max_gap_ps / PS
    index = int(np.searchsorted(np.cumsum(outcome.gaps), q / 100 * (total - 1), side="right"))
    low, high = gap_edge(index), gap_edge(min(index + 1, GAP_BINS - 1))
    return float(min((low + high) / 2, outcome.max_gap_ps) / PS)


def itl_mean_s(outcome: Outcome) -> float:
    """Mean inter-token latency, every gap counted once: exact, from the records."""
    ok = outcome.served
    gaps = int((outcome.output_tokens[ok] - 1).sum())
    waited_ps = (outcome.finish_ps[ok] - outcome.first_token_ps[ok]).sum(dtype=float)  # outgrows int64
    return float(waited_ps / PS / gaps) if gaps else 0.0


SLO_VALUES: dict[str, Callable[[Outcome], FloatArray]] = {"ttft": ttft_s, "tpot": tpot_s, "e2e": e2e_s}


def meets(outcome: Outcome, bounds_s: dict[str, float]) -> NDArray[np.bool_]:
    """Which requests meet every per-request bound (``ttft``, ``tpot``, ``e2e``). Rejected ones do not;
    a request of one token meets any TPOT."""
    ok = outcome.served.copy()
    for name, bound in bounds_s.items():
        if name == "tpot":
            late = np.zeros_like(ok)
            late[outcome.served & (outcome.output_tokens > 1)] = tpot_s(outcome) > bound
        else:
            late = np.zeros_like(ok)
            late[outcome.served] = SLO_VALUES[name](outcome) > bound
        ok &= ~late
    return ok


def slo_value(outcome: Outcome, metric: str, percentile: float | None) -> float:
    """Value of ``ttft``, ``tpot``, ``itl`` or ``e2e`` at a percentile, or its mean for None. Seconds; or watts of
    ``power``, which has a mean alone.

    Infinite when a request was rejected and the metric is over all requests' latency: no finite
    latency was delivered to it.
    """
    if outcome.rejected and metric in ("ttft", "e2e"):
        return float("inf")
    if metric == "power":
        return mean_power_w(outcome) or 0.0
    if metric == "itl":
        return itl_mean_s(outcome) if percentile is None else itl_percentile_s(outcome, percentile)
    values = SLO_VALUES[metric](outcome)
    if not len(values):
        return 0.0
    return float(values.mean() if percentile is None else np.percentile(values, percentile))


def mean_power_w(outcome: Outcome) -> float | None:
    """Watts of all boards of the plan, idle ones included, from the start of the trace (time 0) to the last
    token; None when there is none."""
    return outcome.energy_j / (outcome.end_ps / PS) if outcome.end_ps else None


def useful_flops(outcome: Outcome, step: StepCost) -> float:
    """FLOPs that served requests need: of every prompt token and of every generated one but the last, which
    never runs through the model, and of each pair of such a token and one that it sees, itself included, no
    farther back than the window of the layer. What is recomputed counts once."""
    ok = outcome.served
    tokens = (outcome.prompt_tokens[ok] + outcome.output_tokens[ok] - 1).astype(np.float64)
    flops = step.flops_per_token * float(tokens.sum())
    for each in step.attention:
        flops += each.flops_per_pair * float(attended_pairs(tokens, each.window, causal=True).sum())
    return flops


def read_bytes(outcome: Outcome, step: StepCost) -> float:
    """Bytes that devices read at the least: weights in every iteration, experts where its tokens go, and the
    keys and values that each generated token but the first sees, no farther back than the window.

    Of E experts, n tokens that each pick k at random hit ``E (1 - (1 - k / E)^n)`` expected. Iterations are
    counted by their n: the mean of n over the run would give more, as the function is concave. What prompts
    read besides weights is left out. A generated token that a recomputation brings sees its context in a
    prefill, which reads it, too. So no more is counted than the modelled times have room for.
    """
    read = step.weight_bytes * outcome.iterations
    tokens = np.flatnonzero(outcome.iterations_by_tokens)
    iterations = outcome.iterations_by_tokens[tokens].astype(np.float64)
    fewer, groups_with_more = np.divmod(tokens, step.ffn_groups)
    for each in step.experts:
        hit, hit_by_more = (experts_hit(n, each.top_k, each.experts) for n in (fewer, fewer + 1))
        in_all = groups_with_more * hit_by_more + (step.ffn_groups - groups_with_more) * hit
        read += each.bytes_each * float(iterations @ in_all)
    ok = outcome.served
    prompts = outcome.prompt_tokens[ok].astype(np.float64)
    stored = prompts + outcome.output_tokens[ok] - 1
    for cells in step.attention:
        seen = attended_pairs(stored, cells.window, causal=True).sum()
        seen_by_prompts = attended_pairs(prompts, cells.window, causal=True).sum()
        read += cells.kv_bytes_per_token * float(seen - seen_by_prompts)
    return read


def summary(
    outcome: Outcome, step: StepCost, *, devices: int, usd_per_device_hour: float | None,
    goodput_bounds_s: dict[str, float] | None = None,
) -> dict[str, float | None]:  # fmt: skip
    """Every metric of one simulation.

    Durations: ``makespan_s`` runs from the first arrival to the last token. Rates are per second of the
    makespan. ``generated_tokens_per_s`` counts output tokens, ``processed_tokens_per_s`` prompt and output
    tokens of served requests. ``mfu`` is ``useful_flops`` over what all devices can compute in the makespan,
    ``mbu`` is ``read_bytes`` over what they can read. ``energy_j`` is device energy (see Outcome);
    ``cost_usd`` bills every device of the plan. Both run from the start of the trace (time 0) to the last
    token. ``goodput_requests_per_s`` counts requests that meet every bound.
    ``idle_share``: share of device-time of the stages with nothing to run.
    """
    served = outcome.served
    start = int(outcome.arrival_ps[0])
    makespan_s = max(outcome.end_ps - start, 1) / PS
    generated = int(outcome.output_tokens[served].sum())
    prompts = int(outcome.prompt_tokens[served].sum())
    result: dict[str, float | None] = {
        "requests": float(len(served)),
        "rejected": float(len(outcome.rejected)),
        "makespan_s": makespan_s,
        "e2e_mean_s": slo_value(outcome, "e2e", None),
        "ttft_mean_s": slo_value(outcome, "ttft", None),
        "tpot_mean_s": slo_value(outcome, "tpot", None),
        "itl_mean_s": itl_mean_s(outcome),
        "itl_max_s": outcome.max_gap_ps / PS,
    }
    for name in ("e2e", "ttft", "tpot", "itl"):
        for q in PERCENTILES:
            result[f"{name}_p{q}_s"] = slo_value(outcome, name, q)
    device_s = makespan_s * outcome.replicas
    result |= {
        "generated_tokens_per_s": generated / makespan_s,
        "processed_tokens_per_s": (generated + prompts) / makespan_s,
        "requests_per_s": int(served.sum()) / makespan_s,
        "sequences_per_iteration": outcome.sequences_per_iteration,
        "iterations": float(outcome.iterations),
        "preemptions": float(outcome.preemptions.sum()),
        "recomputed_tokens": float(outcome.recomputed_tokens),
        "kv_peak_share": outcome.peak_blocks / outcome.kv_blocks,
        "mfu": useful_flops(outcome, step) / (step.peak_flops * device_s) if step.peak_flops else None,
        "mbu": read_bytes(outcome, step) / (step.peak_bandwidth * device_s) if step.peak_bandwidth else None,
        "idle_share": max(0.0, 1 - outcome.stage_busy_ps / PS / (device_s * outcome.stages)),
        "energy_j": outcome.energy_j,
        "energy_per_generated_token_j": outcome.energy_j / generated if generated else None,
        "mean_power_w": mean_power_w(outcome),
    }
    if usd_per_device_hour is not None:
        cost = usd_per_device_hour / 3600 * devices * outcome.end_ps / PS
        result["cost_usd"] = cost
        result["usd_per_million_generated_tokens"] = cost / generated * 1e6 if generated else None
    if goodput_bounds_s:
        good = meets(outcome, goodput_bounds_s)
        result["slo_attainment"] = float(good.mean())
        result["goodput_requests_per_s"] = float(good.sum() / makespan_s)
    return result
