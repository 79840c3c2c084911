"""The brute force of APEX+ gives the counts that its own code gives, and our space holds its plans."""

import dataclasses
from math import gcd

import numpy as np
import pytest

from planner.question import Question
from planner.space import plans_of
from profiles.fleet import Fleet, homogeneous
from profiles.huggingface import load_model
from tests.planner.apex import ApexPlan, enumerate_plans, llama_70b, mixtral
from traces.trace import Trace

LLAMA_70B = llama_70b()
MIXTRAL_8X7B = mixtral(32, 4096, 14336, 32)
MIXTRAL_8X22B = mixtral(56, 6144, 16384, 48)


@pytest.mark.parametrize(
    ("model", "devices", "fit", "plans"),
    [
        (LLAMA_70B, 1, 0, 1),
        (LLAMA_70B, 2, 3, 5),
        (LLAMA_70B, 4, 11, 14),
        (LLAMA_70B, 8, 26, 30),
        (LLAMA_70B, 16, 50, 55),
        (LLAMA_70B, 32, 84, 90),
        (MIXTRAL_8X7B, 2, 9, 13),
        (MIXTRAL_8X7B, 4, 49, 58),
        (MIXTRAL_8X7B, 8, 154, 170),
        (MIXTRAL_8X7B, 16, 345, 370),
        (MIXTRAL_8X22B, 8, 103, 170),
        (MIXTRAL_8X22B, 16, 266, 369),
    ],
)
def test_counts_are_those_of_apex(model, devices, fit, plans):
    found = list(enumerate_plans(devices, *model))
    assert (sum(plan.fits for plan in found), len(found)) == (fit, plans)


@pytest.mark.parametrize(("model", "fit"), [(MIXTRAL_8X7B, 46), (MIXTRAL_8X22B, 35)])
def test_without_the_fictitious_cell_mixtral_has_50_plans(model, fit):
    """170 counts the dense MLP that Mixtral does not have; attention and experts alone allow 50."""
    layers, (attention, _, experts) = model
    found = list(enumerate_plans(8, layers, [attention, experts]))
    assert (sum(plan.fits for plan in found), len(found)) == (fit, 50)


def widths_of(plan: ApexPlan) -> tuple[int, ...]:
    """The plan in our widths: replicas, stages, attention tp and dp, feed-forward tp, ep and dp.

    The fictitious cell is dropped. What it kept apart may then have a common factor of cell replicas:
    that factor is model replicas, as by APEX+'s own rule.
    """
    attention, ffn = plan.cells[0], plan.cells[-1]
    common = gcd(attention.replicas, ffn.replicas)
    tp, ep = (1, ffn.devices) if ffn.template == "ep" else (ffn.devices, 1)
    return (
        plan.replicas * common,
        plan.stages,
        attention.devices,
        attention.replicas // common,
        tp,
        ep,
        ffn.replicas // common,
    )


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("name", "apex"),
    [("llama-3-70b", LLAMA_70B), ("mixtral-8x7b", MIXTRAL_8X7B), ("mixtral-8x22b", MIXTRAL_8X22B)],
)
def test_our_space_holds_every_plan_of_apex(name, apex, devices):
    """Memory apart, which APEX+ counts without embedding, KV cache and activations: devices are huge here."""
    pool = homogeneous("h100-sxm-80gb", gpus=devices).pools[0]
    pool = dataclasses.replace(pool, device=dataclasses.replace(pool.device, memory_bytes=2**42))
    trace = Trace(arrival_s=np.zeros(1), prompt_tokens=np.array([64]), output_tokens=np.array([8]))
    question = Question(
        model=load_model(name),
        fleet=Fleet(pools=(pool,)),
        trace=trace,
        deployable=False,
        use_all_devices=True,
        token_budgets=(512,),
    )
    ours = {
        (p.replicas, p.stages, p.attn_tp, p.attn_dp, p.ffn_tp, p.ffn_ep, p.ffn_dp)
        for p in plans_of(question, pool)
    }
    theirs = {widths_of(plan) for plan in enumerate_plans(devices, *apex)}
    assert theirs <= ours
