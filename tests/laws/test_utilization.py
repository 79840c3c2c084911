"""No plan computes or reads more than its devices can: MFU and MBU are at most 1."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.axes import parse_axes, plan_from_axes
from planner.pipeline import Candidate, Evaluator
from planner.placement import place
from planner.question import Question
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.plan import POLICIES, EngineSettings
from simulator import metrics
from simulator.engine import simulate
from tests.profiles.fakes import FakeDevice
from tests.profiles.handmade import EVERY_KIND
from tests.profiles.test_compile import LAYOUTS, compiled
from traces.trace import Trace

LONGEST = 121_000
CASES = [
    ("qwen3-30b-a3b", "h100", 1, "tp=1"),
    ("gpt-oss-120b", "h100", 2, "tp=2"),
    ("gpt-oss-20b", "h100", 4, "attn_dp=4,ep=4"),
    ("mixtral-8x7b", "h100", 8, "attn_tp=2,attn_dp=4,ep=8"),
    ("deepseek-v3", "h200", 8, "tp=8"),
    ("gemma-3-1b", "h100", 1, "tp=1"),
    ("gemma-3-27b", "h100", 2, "pp=2"),
    ("mistral-7b", "h100", 1, "tp=1"),
    ("flan-t5-base", "h100", 1, "tp=1"),
]
LOADS = {  # requests, prompt, output
    "one user": (1, 100, 200),
    "few users": (6, 300, 200),
    "many users": (200, 500, 150),
    "long prompts": (2, 120_000, 2),
    "long contexts": (12, 20_000, 400),
}


def trace_of(requests, prompt, output):
    return Trace(
        arrival_s=np.zeros(requests),
        prompt_tokens=np.full(requests, prompt),
        output_tokens=np.full(requests, output),
    )


def measures(outcome, step):
    return metrics.summary(outcome, step, devices=1, usd_per_device_hour=None)


@cache
def shipped(model, device, gpus, axes):
    """Plan and tables by the roofline, for every trace up to LONGEST."""
    asked = Question(
        model=load_model(model), fleet=homogeneous(device, gpus=gpus), trace=trace_of(1, LONGEST - 1, 1)
    )
    plan = plan_from_axes(asked.model, parse_axes(axes))
    placement = place(plan, asked.fleet.pools[0])
    return plan, Evaluator(asked, silicon=False).step(Candidate(plan=plan, pool=0, placement=placement))


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_no_shipped_model_uses_more_than_its_devices_have(case, load):
    plan, step = shipped(*case)
    outcome = simulate(trace_of(*LOADS[load]), step, plan.engine, replicas=plan.replicas)
    assert outcome.served.any()
    values = measures(outcome, step)
    assert 0 < values["mfu"] <= 1
    assert 0 < values["mbu"] <= 1


def test_one_user_of_a_mixture_reads_the_experts_of_one_token():
    """qwen3-30b-a3b: 48 layers of 128 experts, 8 a token: an iteration reads 6 of its 61 GB."""
    plan, step = shipped("qwen3-30b-a3b", "h100", 1, "tp=1")
    outcome = simulate(trace_of(1, 1, 1001), step, plan.engine)
    each = metrics.read_bytes(outcome, step) / outcome.iterations
    experts = 48 * 8 * 3 * 2048 * 768 * 2
    attention = 48 * (2 * 2048 * (32 + 4) * 128 * 2 + 2048 * 128 * 2)
    head, cache = 151936 * 2048 * 2, 500 * 48 * 2 * 4 * 128 * 2
    assert each == pytest.approx(experts + attention + head + cache, rel=0.001)


@cache
def ideal(kind, layout):
    """On a device that reaches its peaks, with room for every model."""
    return compiled(EVERY_KIND[kind], FakeDevice(memory_bytes=1e14), **LAYOUTS[layout])


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    kind=st.sampled_from([k for k in EVERY_KIND if k != "clip"]),
    layout=st.sampled_from(list(LAYOUTS)),
    policy=st.sampled_from(POLICIES),
    requests=st.integers(1, 60),
    prompt=st.integers(1, 1500),
    output=st.integers(1, 500),
)
def test_no_plan_reads_more_than_an_ideal_device_can(kind, layout, policy, requests, prompt, output):
    step = ideal(kind, layout)
    engine = EngineSettings(policy=policy, max_seqs=24, token_budget=300)
    if step.max_tokens < prompt + output + 24 and not (engine.chunks_prefill and step.chunkable):
        prompt = min(prompt, 200)
        output = min(output, 70)
    outcome = simulate(trace_of(requests, prompt, output), step, engine)
    assert outcome.served.all()
    assert measures(outcome, step)["mbu"] <= 1
