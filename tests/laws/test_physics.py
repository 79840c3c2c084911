"""Laws 3, 7 and 8 on real models and tables: nothing is faster than the device, or draws more than its cap."""

import numpy as np
import pytest

from planner.axes import parse_axes, plan_from_axes
from planner.pipeline import Candidate, Evaluator
from planner.placement import place
from planner.question import Question
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.silicon import silicon_available
from profiles.stepcost import PROVENANCE, PS
from simulator import metrics
from simulator.engine import simulate
from traces.trace import Trace

CASES = [
    ("llama-3.1-8b", "h100", 8, "tp=1"),
    ("llama-3.1-70b", "h100", 8, "tp=8"),
    ("llama-3.1-70b", "h100", 8, "pp=3,tp=2"),
    ("llama-3.1-8b", "a100", 4, "dp=2,tp=2,weights=int8,activations=int8"),
    ("mixtral-8x7b", "h100", 8, "attn_tp=2,attn_dp=4,ep=8"),
    ("deepseek-v3", "h200", 8, "tp=8"),
    ("gemma-2-9b", "l40s", 2, "tp=2"),
    ("gpt2", "l4", 1, "tp=1"),
]
UNITS = ("_s", "_j", "_w", "_usd")
PURE = {
    "requests", "rejected", "generated_tokens_per_s", "processed_tokens_per_s", "requests_per_s",
    "sequences_per_iteration", "iterations", "preemptions", "recomputed_tokens", "kv_peak_share", "mfu", "mbu",
    "idle_share", "usd_per_million_generated_tokens", "slo_attainment", "goodput_requests_per_s",
}  # fmt: skip


def saturating(n=400, prompt=600, output=150, seed=0):
    rng = np.random.default_rng(seed)
    return Trace(
        arrival_s=np.zeros(n),
        prompt_tokens=rng.integers(prompt // 2, prompt, n),
        output_tokens=rng.integers(1, output, n),
    )


def served(model, device, gpus, axes, trace, silicon):
    asked = Question(model=load_model(model), fleet=homogeneous(device, gpus=gpus), trace=trace)
    plan = plan_from_axes(asked.model, parse_axes(axes))
    evaluator = Evaluator(asked, silicon=silicon)
    pool = asked.fleet.pools[0]
    step = evaluator.step(Candidate(plan=plan, pool=0, placement=place(plan, pool)))
    return asked.model, pool.device, plan, step, simulate(trace, step, plan.engine, replicas=plan.replicas)


@pytest.mark.parametrize("silicon", [False, True])
@pytest.mark.parametrize(("model", "device", "gpus", "axes"), CASES)
def test_no_plan_is_faster_than_its_devices_or_draws_more_than_their_cap(model, device, gpus, axes, silicon):
    if silicon and not silicon_available():
        pytest.skip("the extra silicon is not installed")
    model, device, plan, step, outcome = served(model, device, gpus, axes, saturating(), silicon)
    seconds = outcome.end_ps / PS
    assert not outcome.rejected
    # Law 3: tokens per device-second <= FLOP/s / (2 x active parameters of the layers they pass).
    tokens = int((outcome.prompt_tokens + outcome.output_tokens - 1).sum())
    layers = model.decoder.active_parameters() - model.decoder.extra_parameters
    peak = max(device.flops(form) for form in ("bf16", plan.activation_format))
    assert tokens / seconds / plan.devices <= peak / (2 * layers)
    # Law 3: an iteration reads its weights once; experts that no token needs stay unread.
    if not any(hasattr(block.ffn, "experts") for block in model.decoder.blocks):
        one = (step.local_ps[:, 1] + step.shared_ps[:, 1]).sum() / PS
        own = step.weight_bytes / step.stages / plan.stage_devices
        assert one >= 0.5 * step.stages * own / device.bandwidth  # embedding and head are not streamed whole
    # Law 7: idle <= energy <= cap.
    assert outcome.idle_w == pytest.approx(plan.devices * device.idle_w)
    assert plan.devices * device.idle_w * seconds <= outcome.energy_j <= plan.devices * device.tdp_w * seconds
    # Shares of provenance and the breakdown account for all busy time.
    assert sum(outcome.provenance.values()) == pytest.approx(1)
    assert set(outcome.provenance) == set(PROVENANCE)
    parts = sum(outcome.breakdown_ps.values()) / PS
    sends = outcome.breakdown_ps.get("send/recv", 0) / PS
    if step.ranks == 1:
        assert parts - sends == pytest.approx(outcome.stage_busy_ps / PS)
    else:
        assert parts - sends <= outcome.stage_busy_ps / PS


@pytest.mark.parametrize(
    ("narrow", "faster"),
    [("weights=fp8,activations=fp8", True), ("weights=int4", True), ("kv=fp8", False), ("weights=fp8", True)],
)
def test_narrower_formats_take_less_memory_and_no_more_time_in_decode(narrow, faster):
    _, _, _, wide, _ = served("llama-3.1-8b", "h100", 1, "tp=1", saturating(n=4), False)
    _, _, _, small, _ = served("llama-3.1-8b", "h100", 1, f"tp=1,{narrow}", saturating(n=4), False)
    assert small.kv_blocks > wide.kv_blocks
    one = [int((s.local_ps[:, 1] + s.shared_ps[:, 1]).sum()) for s in (small, wide)]
    assert one[0] < one[1] if faster else one[0] <= one[1]
    if not faster:
        assert (small.decode_slope_ps[:, 1:] <= wide.decode_slope_ps[:, 1:]).all()


def test_every_metric_names_its_unit():
    _, _, _, step, outcome = served("gpt2", "l4", 1, "tp=1", saturating(n=5, prompt=200), False)
    values = metrics.summary(
        outcome, step, devices=1, usd_per_device_hour=1.0, goodput_bounds_s={"ttft": 1.0}
    )
    for name in values:
        assert name.endswith(UNITS) or name in PURE, name
    assert values["usd_per_million_generated_tokens"] == pytest.approx(
        values["cost_usd"] / outcome.output_tokens.sum() * 1e6
    )
    assert values["mfu"] < 1 and values["mbu"] < 1
