"""What ``simulate`` refuses, what it rejects and why, and small schedules worked out by hand."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from profiles.plan import POLICIES, EngineSettings
from simulator import metrics
from simulator.engine import simulate
from tests.simulator import steps
from traces.trace import Trace


def serve(prompt: list[int], output: list[int], *, blocks: int = 100, **settings: Any) -> Any:
    engine = EngineSettings(
        **{"max_seqs": 8, "token_budget": 100, "block_size": 4, "watermark": 0} | settings
    )
    trace = steps.trace_of(np.zeros(len(prompt), np.int64), np.array(prompt), np.array(output))
    return simulate(trace, steps.affine_step(kv_blocks=blocks), engine)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"token_budget": 7}, "token_budget must be at least max_seqs"),
        ({"max_seqs": 9}, "end at 8 sequences"),
        ({"token_budget": 401}, "end at 400 tokens, a batch can have 401"),
        ({"token_budget": 401, "policy": "orca"}, "end at 400 tokens, a batch can have 401"),
    ],
)
def test_tables_must_cover_the_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serve([10], [10], **settings)


def test_tables_must_cover_the_longest_request() -> None:
    with pytest.raises(ValueError, match="end at 200 tokens, the trace has 201"):
        serve([200], [1])


@pytest.mark.parametrize(
    ("policy", "chunkable", "most"),
    [("static", True, 101), ("vllm-v0", True, 101), ("orca", True, 109), ("vllm-v1", False, 109),
     ("sarathi", False, 109), ("vllm-v1", True, 50)],
)  # fmt: skip
def test_tables_must_cover_a_whole_prompt_and_the_decodes_beside_it(
    policy: Any, chunkable: bool, most: int
) -> None:
    """A prompt of 100 tokens over a budget of 50 with up to 8 sequences."""
    trace = steps.trace_of(np.array([0]), np.array([100]), np.array([1]))
    engine = EngineSettings(policy=policy, max_seqs=8, token_budget=50)
    enough, short = (
        dataclasses.replace(steps.affine_step(max_tokens=tokens), chunkable=chunkable)
        for tokens in (most, most - 1)
    )
    assert simulate(trace, enough, engine).served.all()
    with pytest.raises(ValueError, match=f"end at {most - 1} tokens, a batch can have {most}"):
        simulate(trace, short, engine)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_request_is_served_exactly_if_its_tokens_fit(policy: str) -> None:
    """Prompt and all output but the last token need KV room: 40 tokens are 10 blocks of 4."""
    assert serve([30], [11], blocks=10, policy=policy).rejected == {}
    outcome = serve([30], [12], blocks=10, policy=policy)
    assert outcome.rejected == {0: "needs 11 KV blocks of 4 tokens, a rank has 10"}
    assert (outcome.finish_ps[0], outcome.first_token_ps[0], outcome.replica[0]) == (-1, -1, -1)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_rejected_request_is_the_only_one(policy: str) -> None:
    """But where room is reserved for the longest request of the trace, one too long keeps all out."""
    served = serve([5, 60, 6], [4, 2, 3], blocks=10, policy=policy).served
    assert served.tolist() == ([False] * 3 if policy in ("static", "orca") else [True, False, True])


@pytest.mark.parametrize(("policy", "fits"), [("vllm-v0", False), ("sarathi", False), ("vllm-v1", True)])
def test_the_watermark_counts_where_admission_keeps_it(policy: str, fits: bool) -> None:
    assert bool(serve([30], [11], blocks=11, policy=policy, watermark=0.2).served[0]) == fits


def first_tokens(policy: str, **settings: Any) -> list[int]:
    """Rank of each request's first token among the distinct ones: who was prefilled together."""
    outcome = serve([60, 30, 30], [20, 1, 1], policy=policy, **settings)
    return np.unique(outcome.first_token_ps, return_inverse=True)[1].tolist()


def test_policies_differ_as_their_table_says() -> None:
    """Prompts of 60, 30 and 30 tokens at once under a budget of 100: what is left for the third?"""
    assert first_tokens("vllm-v1") == [0, 0, 1]  # a chunk of 10 now, 20 next, beside two decodes
    assert first_tokens("orca") == [0, 0, 1]  # whole, in the next batch
    assert first_tokens("vllm-v1", token_budget=120) == [0, 0, 0]
    third = {p: serve([60, 30, 30], [20, 1, 1], policy=p) for p in POLICIES}
    assert third["static"].first_token_ps[2] > third["static"].finish_ps[0]  # waits for the batch to end
    assert third["orca"].first_token_ps[2] < third["orca"].finish_ps[0]
    # Prefill first: the request that decodes waits for the third's prefill and is that much later.
    assert third["vllm-v0"].max_gap_ps > 1.5 * third["vllm-v1"].max_gap_ps


def test_a_chunk_of_the_third_prompt_comes_first() -> None:
    outcome = serve([60, 30, 30], [20, 1, 1], policy="vllm-v1")
    assert outcome.scheduled_ps.tolist() == [0, 0, 0]
    assert outcome.prefill_tokens == 120 and outcome.decode_tokens == 19
    assert serve([60, 30, 30], [20, 1, 1], policy="orca").scheduled_ps[2] > 0


def test_shortest_prompt_first() -> None:
    fcfs = serve([60, 50, 40], [1, 1, 1], token_budget=60, policy="vllm-v0")
    sjf = serve([60, 50, 40], [1, 1, 1], token_budget=60, policy="vllm-v0", queue="sjf")
    assert np.argsort(fcfs.finish_ps).tolist() == [0, 1, 2]
    assert np.argsort(sjf.finish_ps).tolist() == [2, 1, 0]


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_the_last_admitted_makes_room(preemption: str) -> None:
    """Two requests of 8 + 8 tokens need 4 blocks each, there are 6: the second steps back once."""
    outcome = serve([8, 8], [9, 9], blocks=6, preemption=preemption)
    assert outcome.preemptions.tolist() == [0, 1]
    # Both decode up to 12 stored tokens in three blocks; the next token of each needs a fourth.
    assert outcome.recomputed_tokens == (12 if preemption == "recompute" else 0)
    assert outcome.swapped_blocks == (0 if preemption == "recompute" else 2 * 3)
    assert outcome.finish_ps[0] < outcome.finish_ps[1]


@pytest.mark.parametrize("days", [54, 121])
def test_months_are_served_or_refused(days: int) -> None:
    """BurstGPT's trace spans 121 days."""
    trace = Trace(
        arrival_s=np.array([0, days * 86_400.0]),
        prompt_tokens=np.array([9, 9]),
        output_tokens=np.array([3, 3]),
    )
    try:
        outcome = simulate(trace, steps.affine_step(), EngineSettings(max_seqs=8, token_budget=100))
    except ValueError:  # said before anything is simulated
        return
    e2e_ps = outcome.finish_ps - outcome.arrival_ps
    assert e2e_ps[1] == pytest.approx(e2e_ps[0], rel=1e-3)


def test_totals_of_a_large_fleet_over_days() -> None:
    """Forty replicas, each busy for three days and a half."""
    one, many = (
        simulate(
            steps.trace_of(*(np.full(10 * replicas, n) for n in (0, 5, 195))),
            steps.affine_step(scale=4_000_000),
            EngineSettings(max_seqs=8, token_budget=100),
            replicas=replicas,
        )
        for replicas in (1, 40)
    )
    assert many.busy_ps == 40 * one.busy_ps and many.stage_busy_ps == 40 * one.stage_busy_ps
    assert many.breakdown_ps == {name: 40 * part for name, part in one.breakdown_ps.items()}


def test_what_lies_beyond_the_clock_is_rejected_with_the_reason() -> None:
    """Iterations of hours; requests still unserved on day 104 are not said to be served."""
    trace = steps.trace_of(*(np.full(2000, n) for n in (0, 5, 195)))
    settings = EngineSettings(max_seqs=8, token_budget=100)
    outcome = simulate(trace, steps.affine_step(scale=4_000_000), settings)
    assert 100 < outcome.served.sum() < 1900 and len(outcome.rejected) == 2000 - outcome.served.sum()
    assert all("104 days" in reason for reason in outcome.rejected.values())
    assert outcome.end_ps < 2**63 and (outcome.finish_ps >= -1).all()


def test_sums_outgrow_int64() -> None:
    """Energy of 46 days at 20 kW, and the gaps of all requests together."""
    step = steps.affine_step(scale=4_000_000)
    hot = dataclasses.replace(step, **{
        name: getattr(step, name.replace("_nj", "_ps")) * 20  # nanojoules per picosecond are kilowatts
        for name in ("local_nj", "shared_nj", "head_nj", "decode_value_nj", "decode_slope_nj", "prefill_nj",
                     "prefill_launch_nj")
    })  # fmt: skip
    trace = steps.trace_of(*(np.full(200, n) for n in (0, 5, 195)))
    outcome = simulate(trace, hot, EngineSettings(max_seqs=8, token_budget=100))
    assert (
        outcome.energy_nj == pytest.approx(20 * outcome.stage_busy_ps, rel=1e-3) and outcome.energy_nj > 2**63
    )
    gaps_s = (outcome.finish_ps - outcome.first_token_ps).astype(float).sum() / 1e12
    assert metrics.slo_value(outcome, "itl", None) == pytest.approx(gaps_s / (200 * 194))
    assert gaps_s * 1e12 > 2**63
