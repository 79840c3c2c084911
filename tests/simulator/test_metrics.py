"""Each metric on an outcome small enough to work out by hand; percentiles of gaps against the exact gaps."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.stepcost import PS, AttentionWork, RoutedExperts
from simulator import metrics
from simulator.engine import simulate
from simulator.kernel import GAP_BINS, gap_bin, gap_edge
from simulator.outcome import Outcome
from tests.simulator import reference, steps

NONE = np.empty(0, np.int64)


def seconds(*values: float) -> np.ndarray:
    """Picoseconds; -1 stays -1, as in the records of a rejected request."""
    return np.array([-1 if v < 0 else round(v * PS) for v in values], np.int64)


def outcome(**fields: Any) -> Outcome:
    """Two replicas of one stage served three of four requests between second 1 and second 11.

    Gaps: request 0 has 1 and 3 seconds, request 1 has none, request 3 has 2 seconds.
    """
    gaps = np.zeros(GAP_BINS, np.int64)
    for gap in seconds(1, 3, 2):
        gaps[gap_bin(int(gap))] += 1
    made: dict[str, Any] = {
        "arrival_ps": seconds(1, 2, 3, 5),
        "prompt_tokens": np.array([10, 20, 999, 30]),
        "output_tokens": np.array([3, 1, 999, 2]),
        "scheduled_ps": seconds(1, 3, -1, 6),
        "first_token_ps": seconds(3, 4, -1, 9),
        "finish_ps": seconds(7, 4, -1, 11),
        "preemptions": np.array([1, 0, 0, 2]),
        "replica": np.array([0, 1, -1, 0]),
        "rejected": {2: "too long"},
        "replicas": 2,
        "stages": 1,
        "iterations": 8,
        "iterations_by_tokens": np.array([0, 5, 0, 2, 1]),
        "events": 4,
        "sequences_per_iteration": 1.5,
        "busy_ps": 9 * PS,
        "stage_busy_ps": 8 * PS,
        "decode_tokens": 3,
        "prefill_tokens": 70,
        "prefill_pairs": 0,
        "recomputed_tokens": 10,
        "swapped_blocks": 0,
        "kv_read_tokens": 40,
        "peak_blocks": 3,
        "kv_blocks": 12,
        "free_blocks": NONE,
        "energy_nj": 90 * 10**9,
        "idle_w": 10.0,
        "gaps": gaps,
        "max_gap_ps": 3 * PS,
        "breakdown_ps": {},
        "provenance": {},
    }
    return Outcome(**made | fields)


STEP = dataclasses.replace(
    steps.affine_step(),
    flops_per_token=2.0,
    attention=(
        AttentionWork(window=0, flops_per_pair=4.0, kv_bytes_per_token=5.0),
        AttentionWork(window=12, flops_per_pair=3.0, kv_bytes_per_token=2.0),
    ),
    weight_bytes=100.0,
    experts=(RoutedExperts(experts=8, top_k=2, bytes_each=10.0),),
    peak_flops=1000.0,
    peak_bandwidth=500.0,
)

ONLY_SERVED = {  # of the same trace, had the third request never been sent
    f: getattr(outcome(), f)[[0, 1, 3]]
    for f in ("arrival_ps", "prompt_tokens", "output_tokens", "scheduled_ps", "first_token_ps", "finish_ps",
              "preemptions", "replica")
} | {"rejected": {}}  # fmt: skip


def summary(made: Outcome, **options: Any) -> dict[str, float | None]:
    return metrics.summary(made, STEP, **{"devices": 4, "usd_per_device_hour": 3.6, **options})


def test_latencies_of_served_requests() -> None:
    assert metrics.ttft_s(outcome()).tolist() == [2, 2, 4]
    assert metrics.e2e_s(outcome()).tolist() == [6, 2, 6]
    assert metrics.tpot_s(outcome()).tolist() == [2, 2]  # (7 - 3) / 2 and (11 - 9) / 1; one token has none
    assert metrics.itl_mean_s(outcome()) == 2  # (1 + 3 + 2) / 3


def test_means_and_percentiles() -> None:
    result = summary(outcome(**ONLY_SERVED))
    assert result["ttft_mean_s"] == pytest.approx(8 / 3)
    assert result["e2e_mean_s"] == pytest.approx(14 / 3)
    assert result["e2e_p50_s"] == 6
    assert result["ttft_p90_s"] == pytest.approx(2 + 0.8 * 2)  # order statistics 2, 2, 4; position 1.8
    assert result["ttft_p95_s"] == pytest.approx(2 + 0.9 * 2)
    assert result["ttft_p99_s"] == pytest.approx(2 + 0.98 * 2)
    assert result["tpot_mean_s"] == result["tpot_p99_s"] == 2
    assert result["itl_max_s"] == 3
    assert result["itl_p50_s"] == pytest.approx(2, rel=0.008)


@pytest.mark.parametrize("metric", ["ttft", "e2e"])
@pytest.mark.parametrize("percentile", [None, 50, 99])
def test_a_rejected_request_has_no_finite_latency(metric: str, percentile: float | None) -> None:
    assert metrics.slo_value(outcome(), metric, percentile) == float("inf")
    assert metrics.slo_value(outcome(**ONLY_SERVED), metric, percentile) < float("inf")


def test_rates_count_the_makespan_from_the_first_arrival() -> None:
    result = summary(outcome())
    assert result["makespan_s"] == 10
    assert result["requests"] == 4 and result["rejected"] == 1
    assert result["requests_per_s"] == pytest.approx(0.3)
    assert result["generated_tokens_per_s"] == pytest.approx(0.6)
    assert result["processed_tokens_per_s"] == pytest.approx(6.6)


def test_counts() -> None:
    result = summary(outcome())
    assert result["iterations"] == 8 and result["sequences_per_iteration"] == 1.5
    assert result["preemptions"] == 3 and result["recomputed_tokens"] == 10
    assert result["kv_peak_share"] == 0.25


def test_mfu_counts_useful_flops_of_all_devices() -> None:
    # Tokens run through the model: 12, 20, 31; each sees itself and those before it, in some layers 12 at most.
    everything = 12 * 13 / 2 + 20 * 21 / 2 + 31 * 32 / 2
    windowed = (12 * 13 / 2) + (12 * 13 / 2 + 8 * 12) + (12 * 13 / 2 + 19 * 12)
    useful = 2 * (12 + 20 + 31) + 4 * everything + 3 * windowed
    assert summary(outcome())["mfu"] == pytest.approx(useful / (1000 * 10 * 2))


def test_mbu_counts_weights_experts_and_kv() -> None:
    # Of 8 experts one token hits 2, three hit 8 (1 - 0.75^3) = 4.625, four 8 (1 - 0.75^4) = 5.46875.
    weights = 100 * 8 + 10 * (5 * 2 + 2 * 4.625 + 1 * 5.46875)
    # Request 0 generates two more tokens, that see 11 and 12; request 3 one more, that sees 31.
    kv = 5 * (11 + 12 + 31) + 2 * (11 + 12 + 12)
    assert summary(outcome())["mbu"] == pytest.approx((weights + kv) / (500 * 10 * 2))


def test_feed_forward_groups_have_experts_and_tokens_of_their_own() -> None:
    """Two groups: of one token one group hits 2 experts, the other none; of three, one group has two."""
    step = dataclasses.replace(STEP, attention=(), weight_bytes=0.0, ffn_groups=2)
    two = 8 * (1 - 0.75**2)
    assert metrics.read_bytes(outcome(), step) == pytest.approx(10 * (5 * 2 + 2 * (two + 2) + 1 * 2 * two))


@pytest.mark.parametrize(("experts", "top_k"), [(1, 1), (3, 1), (4, 2), (3, 3)])
@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_experts_hit_are_the_mean_over_every_routing(experts: int, top_k: int, tokens: int) -> None:
    picks = list(itertools.combinations(range(experts), top_k))
    routings = list(itertools.product(picks, repeat=tokens))
    mean = sum(len(set().union(*routing)) for routing in routings) / len(routings)
    step = dataclasses.replace(
        STEP,
        attention=(),
        weight_bytes=0.0,
        experts=(RoutedExperts(experts=experts, top_k=top_k, bytes_each=1.0),),
    )
    made = outcome(iterations_by_tokens=np.bincount([tokens] * 8), iterations=8)
    assert metrics.read_bytes(made, step) == pytest.approx(8 * mean)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    requests=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5),
    window=st.integers(0, 90),
)
def test_pairs_and_reads_are_those_of_every_token(requests: list[tuple[int, int]], window: int) -> None:
    """Token by token: a position computes with what it sees; a generated one, the first not, reads it."""
    pairs = reads = 0
    for prompt, output in requests:
        for position in range(1, prompt + output):
            sees = sum(1 for other in range(1, position + 1) if not window or position - other < window)
            pairs += sees
            reads += sees if position > prompt else 0
    each = np.zeros(len(requests), np.int64)
    made = outcome(
        arrival_ps=each,
        prompt_tokens=np.array([p for p, _ in requests]),
        output_tokens=np.array([o for _, o in requests]),
        finish_ps=each,
    )
    step = dataclasses.replace(
        STEP,
        flops_per_token=0.0,
        weight_bytes=0.0,
        experts=(),
        attention=(AttentionWork(window=window, flops_per_pair=1.0, kv_bytes_per_token=1.0),),
    )
    assert metrics.useful_flops(made, step) == pairs
    assert metrics.read_bytes(made, step) == reads


def test_iterations_by_tokens_and_reads_agree_with_the_totals_of_the_simulator() -> None:
    rng = np.random.default_rng(11)
    every_cache = (AttentionWork(window=0, flops_per_pair=0.0, kv_bytes_per_token=1.0),)
    compared = 0
    for _ in range(80):
        case = steps.random_case(rng)
        made = simulate(**case.arguments)
        tokens = np.arange(len(made.iterations_by_tokens))
        assert made.iterations_by_tokens.sum() == made.iterations
        assert tokens @ made.iterations_by_tokens == made.decode_tokens + made.prefill_tokens
        if not made.recomputed_tokens:
            compared += 1
            step = dataclasses.replace(case.step, attention=every_cache)
            assert metrics.read_bytes(made, step) == made.kv_read_tokens
    assert compared > 40


def test_shares_of_an_unknown_peak_are_unknown() -> None:
    unknown = metrics.summary(outcome(), steps.affine_step(), devices=1, usd_per_device_hour=None)
    assert unknown["mfu"] is None and unknown["mbu"] is None and "cost_usd" not in unknown


def test_idle_share_of_every_stage_of_every_replica() -> None:
    assert summary(outcome())["idle_share"] == pytest.approx(1 - 8 / 20)
    assert summary(outcome(stages=2))["idle_share"] == pytest.approx(1 - 8 / 40)


def test_energy_and_cost_run_from_time_zero() -> None:
    result = summary(outcome())
    assert result["energy_j"] == pytest.approx(90 + 10 * 11)
    assert result["energy_per_generated_token_j"] == pytest.approx(200 / 6)
    assert result["mean_power_w"] == pytest.approx(200 / 11)
    assert result["cost_usd"] == pytest.approx(4 * 11 * 3.6 / 3600)
    assert result["usd_per_million_generated_tokens"] == pytest.approx(4 * 11 * 3.6 / 3600 / 6 * 1e6)


@pytest.mark.parametrize(
    ("bounds", "good"),
    [
        ({"ttft": 2.0}, [True, True, False, False]),
        ({"e2e": 5.9}, [False, True, False, False]),
        ({"e2e": 6.0}, [True, True, False, True]),  # a bound that is met exactly is met
        ({"tpot": 1.9}, [False, True, False, False]),  # one token meets any TPOT, a rejected request none
        ({"ttft": 4.0, "tpot": 2.0}, [True, True, False, True]),
        ({"ttft": 2.0, "e2e": 2.0}, [False, True, False, False]),
    ],
)
def test_goodput_counts_requests_that_meet_every_bound(bounds: dict[str, float], good: list[bool]) -> None:
    assert metrics.meets(outcome(), bounds).tolist() == good
    result = summary(outcome(), goodput_bounds_s=bounds)
    assert result["slo_attainment"] == sum(good) / 4
    assert result["goodput_requests_per_s"] == pytest.approx(sum(good) / 10)


def test_nothing_served() -> None:
    """Every request rejected: latencies are infinite, nothing is divided by zero."""
    gone = seconds(-1, -1, -1, -1)
    made = outcome(
        scheduled_ps=gone, first_token_ps=gone, finish_ps=gone, gaps=np.zeros(GAP_BINS, np.int64), max_gap_ps=0,
        rejected=dict.fromkeys(range(4), "too long"), iterations=0, iterations_by_tokens=NONE, energy_nj=0,
        stage_busy_ps=0, kv_read_tokens=0,
    )  # fmt: skip
    result = summary(made, goodput_bounds_s={"ttft": 1.0})
    assert result["e2e_mean_s"] == float("inf") and result["requests_per_s"] == 0
    assert result["itl_p99_s"] == result["itl_mean_s"] == result["tpot_mean_s"] == 0
    assert result["energy_per_generated_token_j"] is None and result["slo_attainment"] == 0


def test_gap_bins_cover_every_value_once() -> None:
    values = np.unique(np.concatenate([np.arange(300), 2 ** np.arange(1, 62) - 1, 2 ** np.arange(62)]))
    for value in values.tolist():
        index = gap_bin(value)
        assert gap_edge(index) <= value < gap_edge(index + 1)
        assert gap_edge(index + 1) - gap_edge(index) <= max(1, gap_edge(index) / 128)


def test_percentiles_of_gaps_do_not_interpolate() -> None:
    """Of 1, 2 and 3 seconds, the 90th percentile stands at position 1.8: the order statistic before it."""
    assert metrics.itl_percentile_s(outcome(), 90) == pytest.approx(2, rel=0.008)


def test_no_percentile_is_beyond_the_largest_gap() -> None:
    """Also where that gap lies in the lower half of its bin."""
    gaps = np.zeros(GAP_BINS, np.int64)
    index = gap_bin(PS)
    gaps[index] = 3
    made = outcome(gaps=gaps, max_gap_ps=gap_edge(index))
    assert [metrics.itl_percentile_s(made, q) for q in (0, 50, 99, 100)] == [gap_edge(index) / PS] * 4


def test_percentiles_of_gaps_are_within_a_bin_of_the_exact_ones() -> None:
    """Between the two order statistics next to the percentile, give or take 0.8 % (or a picosecond)."""
    rng = np.random.default_rng(5)
    compared = 0
    for _ in range(60):
        case = steps.random_case(rng)
        made = simulate(**case.arguments)
        gaps = reference.simulate(**case.arguments).gaps_ps
        if not gaps:
            continue
        compared += 1
        assert metrics.itl_mean_s(made) == pytest.approx(np.mean(gaps) / PS)
        assert metrics.itl_percentile_s(made, 100) == max(gaps) / PS
        for q in (0, 10, 50, 90, 95, 99, 99.9):
            low, high = (np.percentile(gaps, q, method=method) / PS for method in ("lower", "higher"))
            assert 0.992 * low <= metrics.itl_percentile_s(made, q) <= max(1.008 * high, high + 1 / PS)
    assert compared > 40
