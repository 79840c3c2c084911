"""The plan space: equal to brute force by the plain rules, monotone, a superset of APEX+'s."""

import dataclasses
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.axes import even_layers, parse_axes, parse_pairs
from planner.deployable import deployable
from planner.errors import NoFeasiblePlan
from planner.layouts import blocks_needed, longest_of
from planner.pipeline import Evaluator, candidates_of, simulate_plan
from planner.placement import place
from planner.question import Question
from planner.space import build_instance, plans_of
from planner.store import space_content
from planner.validate import complaints
from profiles import memory
from profiles.fleet import Fleet, homogeneous
from profiles.huggingface import load_model
from profiles.model import Attention, Block, FeedForward, Model, MoE, Stack
from profiles.plan import POLICIES, EngineSettings, Plan
from simulator.engine import simulate
from tests.planner.apex import enumerate_plans, llama_70b, mixtral
from traces.trace import Trace

POOL = homogeneous("h100-sxm-80gb", gpus=8).pools[0]
ATTENTION = Attention(q_heads=8, kv_heads=2, head_dim=64, value_dim=64)
DENSE = Block(attention=(ATTENTION,), ffn=FeedForward(inner=1536, gated=True), norm_parameters=1024)
SPARSE = Block(
    attention=(ATTENTION,), ffn=MoE(experts=4, top_k=2, inner=768, gated=True), norm_parameters=1024
)


def trace(prompt=100, output=20):
    return Trace(arrival_s=np.zeros(1), prompt_tokens=np.array([prompt]), output_tokens=np.array([output]))


def tiny(*layers):
    return Model(
        name="tiny", architecture="LlamaForCausalLM", decoder=Stack.of(512, layers), vocab=1000, tied=True,
        embedding_parameters=512_000, max_positions=4096,
    )  # fmt: skip


def ask(model="llama-3.1-70b", pool=POOL, **changes):
    if isinstance(model, str):
        model = load_model(model)
    defaults = {
        "model": model,
        "fleet": Fleet(pools=(pool,)),
        "trace": trace(),
        "token_budgets": (2048,),
        "deployable": False,
    }
    return Question(**defaults | changes)


def pool_of(*free, memory_bytes=None):
    device = POOL.device
    if memory_bytes:
        device = dataclasses.replace(device, memory_bytes=memory_bytes)
    return dataclasses.replace(POOL, nodes=len(free), free=free, device=device)


def brute_force(question, pool):
    """Every plan without complaint, by trying all widths."""
    layers = len(question.model.decoder.layers)
    found = []
    for dp, pp, a_tp, a_dp, tp, ep in product(range(1, pool.devices + 1), repeat=6):
        stage = a_tp * a_dp
        if dp * pp * stage > pool.devices or stage % (tp * ep) or pp > layers:
            continue
        for (weights, activations), kv, budget, seqs, clock, policy in product(
            question.pairs_of_formats(pool.device),
            *(question.options(axis) for axis in ("kv", "budget", "seqs", "clock", "policy")),
        ):
            engine = dataclasses.replace(
                question.settings(), token_budget=budget, max_seqs=seqs, policy=policy
            )
            plan = Plan(
                replicas=dp, layers_per_stage=even_layers(layers, pp), attn_tp=a_tp, attn_dp=a_dp,
                ffn_tp=tp, ffn_ep=ep, ffn_dp=stage // (tp * ep), weight_format=weights,
                activation_format=activations, kv_format=kv, clock_mhz=clock, engine=engine,
            )  # fmt: skip
            if not complaints(question, pool, plan):
                found.append(plan)
    return found


def found_plans(question, pool):
    try:
        return plans_of(question, pool)
    except NoFeasiblePlan as error:
        assert "\n" not in str(error)
        return []


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    layers=st.lists(st.sampled_from([DENSE, SPARSE]), min_size=1, max_size=3),
    free=st.sampled_from([(4,), (2, 2), (3, 1), (1, 1, 1), (6,)]),
    mib=st.integers(1000, 1300),
    use_all_devices=st.booleans(),
    cross_node_tensor=st.booleans(),
    budgets=st.sampled_from([(64,), (64, 4096)]),
    kv=st.sampled_from([("bf16",), ("bf16", "fp8")]),
    prompt=st.sampled_from([2000, 20_000]),
    policies=st.sampled_from([("vllm-v1",), ("vllm-v0", "orca"), POLICIES]),
    forbid=st.sampled_from(["", "tp=2", "pp=2", "budget=64", "kv=bf16", "clock=990", "policy=orca"]),
    fix=st.sampled_from(["", "dp=2", "attn_dp=2", "ep=2", "ffn_dp=1"]),
)
def test_plans_equal_brute_force(layers, free, mib, budgets, kv, prompt, policies, forbid, fix, **flags):
    pool = pool_of(*free, memory_bytes=mib * 2**20)
    question = ask(
        tiny(*layers), trace=trace(prompt, 500), token_budgets=budgets, max_seqs=(16,), kv_formats=kv,
        clocks=(0, 990), policies=policies, forbid=parse_pairs(forbid) if forbid else (),
        fix=parse_axes(fix) if fix else {}, **flags,
    )  # fmt: skip
    plans = found_plans(question, pool)
    assert len(plans) == len(set(plans))
    assert set(plans) == set(brute_force(question, pool))


@settings(deadline=None, max_examples=20, derandomize=True)
@given(mib=st.integers(20_000, 90_000), more=st.integers(1, 40_000))
def test_more_memory_removes_no_plan(mib, more):
    less, roomier = (pool_of(8, memory_bytes=m * 2**20) for m in (mib, mib + more))
    assert set(found_plans(ask(), less)) <= set(found_plans(ask(), roomier))


@pytest.mark.parametrize(
    "model", ["llama-3.1-70b", "mixtral-8x7b", "deepseek-v3", "gemma-2-27b", "t5-11b", "whisper-large-v3"]
)
def test_plans_have_no_complaint_and_a_placement(model):
    pool = pool_of(8, 8, 5)
    question = ask(model, pool)
    plans = plans_of(question, pool)
    for plan in plans:
        assert not complaints(question, pool, plan)
        assert memory.kv_blocks(question.model, plan, pool.device, longest_of(question.trace)) > 0
        placed = place(plan, pool)
        assert placed.tensor_nodes == placed.ffn_nodes == 1
    assert plans == plans_of(question, pool)
    kept = set(found_plans(ask(model, pool, deployable=True), pool))
    assert kept == {plan for plan in plans if deployable(plan, question.model, pool.device)}


def layout(plan):
    return (plan.replicas, plan.stages, plan.attn_dp, plan.attn_tp, plan.ffn_dp, plan.ffn_ep, plan.ffn_tp)


@pytest.mark.parametrize(
    ("model", "rules", "theirs", "ours_all", "ours_full"),
    [
        ("llama-3-70b", llama_70b(), 26, 48, 25),
        ("mixtral-8x7b", mixtral(32, 4096, 14336, 32), 46, 104, 61),
        ("mixtral-8x22b", mixtral(56, 6144, 16384, 48), 35, 65, 47),
    ],
)
def test_superset_of_apex_that_fits(model, rules, theirs, ours_all, ours_full):
    """Every layout of APEX+ is in the space, unless memory that it does not count is lacking."""
    question = ask(model, trace=trace(2048, 128))
    space = plans_of(question, POOL)
    ours = {layout(plan) for plan in space}
    layers, cells = rules
    apex = set()
    for plan in enumerate_plans(8, layers, [cells[0], cells[-1]]):
        attention, ffn = plan.cells
        ep = ffn.devices if ffn.template == "ep" else 1
        widths = (attention.replicas, attention.devices, ffn.replicas, ep, ffn.devices // ep)
        if plan.fits:
            apex.add((plan.replicas, plan.stages, *widths))
    full = [plan for plan in space if plan.devices == 8]
    assert (len(apex), len(ours), len(full)) == (theirs, ours_all, ours_full)
    for missing in apex - ours:
        dp, pp, a_dp, a_tp, f_dp, ep, tp = missing
        plan = Plan(
            replicas=dp, layers_per_stage=even_layers(layers, pp), attn_tp=a_tp, attn_dp=a_dp,
            ffn_tp=tp, ffn_ep=ep, ffn_dp=f_dp, engine=EngineSettings(token_budget=2048),
        )  # fmt: skip
        (reason,) = complaints(question, POOL, plan)
        assert "KV blocks" in reason


@pytest.mark.parametrize(
    ("changes", "free", "words"),
    [
        ({}, (1,), "weights of 131.4 GiB in bf16 exceed 1 x"),
        ({"fix": {"dp": 2}}, (2,), "--fix dp=2; weights of 131.4 GiB in bf16 exceed 1 x"),
        (
            {"fix": {"attn_tp": 1, "pp": 1}},
            (2,),
            "weights of 157.8 GiB in bf16 (attention 2 times) exceed 2 x",
        ),
        ({"fix": {"attn_tp": 3}}, (8,), "64 query and 8 KV heads need tp of 1, 2, 4, 8"),
        ({"fix": {"ep": 2}}, (8,), "llama-3.1-70b has no experts, ep is 1"),
        ({"fix": {"pp": 81}}, (8,) * 16, "pp is at most 80, the model's layers"),
        ({"fix": {"attn_tp": 16}}, (8, 8), "groups have at most 8 devices, those free on one node"),
        ({"fix": {"attn_tp": 4, "dp": 2}}, (5, 3), "nodes have 5 + 3 devices free"),
        ({"fix": {"attn_dp": 2, "ffn_dp": 2}}, (8,), "attn_dp and ffn_dp cannot both exceed 1"),
        ({"use_all_devices": True, "fix": {"attn_tp": 2}}, (7,), "all 7 devices are used"),
        (
            {"fix": {"attn_dp": 8}, "deployable": True},
            (8,),
            "--fix attn_dp=8; of 1 layout left none runs in vLLM",
        ),
        ({"forbid": (("budget", 2048),)}, (8,), "--forbid budget=2048; budget 2048 is all that is searched"),
        (
            {"forbid": (("policy", "vllm-v1"),)},
            (8,),
            "--forbid policy=vllm-v1; policy vllm-v1 is all that is searched",
        ),
        ({"forbid": (("clock", 0),)}, (8,), "--forbid clock=0; clock 0 is all that is searched"),
        ({"trace": trace(10**6, 1), "policies": ("static",)}, (8,), "activations of 1000000 tokens"),
        ({"trace": trace(4 * 10**6, 1)}, (8,), "KV cache of the longest request (4000001 tokens)"),
    ],
)
def test_reasons_have_words_and_numbers(changes, free, words):
    with pytest.raises(NoFeasiblePlan) as error:
        plans_of(ask(**changes), pool_of(*free))
    assert words in str(error.value) and "\n" not in str(error.value)


def test_fixed_layers():
    plans = plans_of(ask(fix=parse_axes("layers=41/39")), POOL)
    assert {plan.layers_per_stage for plan in plans} == {(41, 39)}
    forbidden = plans_of(ask(forbid=parse_pairs("layers=40/40")), POOL)
    assert {plan.stages for plan in forbidden} == {1, 3, 4, 5, 6, 7, 8}


def test_wide_spaces_stay_small_in_memory_tables():
    """One row of the table per layout of a replica, however many replicas there are."""
    instance = build_instance(ask("dense-1t"), pool_of(*[8] * 16))
    assert len(instance.need_kib) < 1500


def test_longest_request_is_admitted_above_the_watermark():
    """1,600 tokens are 100 blocks of 16; of 101 blocks 1.01 stay free, of 102 blocks 1.02."""
    assert blocks_needed(ask(trace=trace(1500, 100))) == 102


def test_plans_of_one_engine():
    question = ask("mixtral-8x7b", pool_of(8), deployable=True)
    some = found_plans(dataclasses.replace(question, deployable_on=("vLLM",)), pool_of(8))
    every = found_plans(question, pool_of(8))
    assert (
        set(some) == {p for p in every if "vLLM" in deployable(p, question.model, POOL.device)} < set(every)
    )
    with pytest.raises(NoFeasiblePlan, match="of 5 layouts left none runs in SGLang today"):
        plans_of(ask("bloom-7b1", pool_of(2), deployable=True, deployable_on=("SGLang",)), pool_of(2))


def long_prompts(gpus, **changes):
    """Llama-3.1-8B on RTX 4090s, prompts of up to 40,000 tokens: 4.9 GiB of KV cache, 3.8 GiB of activations
    where such a prompt runs whole."""
    lengths = {"prompt_tokens": np.array([100, 40_000, 30]), "output_tokens": np.array([60, 100, 9])}
    asked = {
        "fleet": homogeneous("rtx-4090", gpus=gpus),
        "trace": Trace(arrival_s=np.zeros(3), **lengths),
        "token_budgets": (512, 4096),
        "max_seqs": (16,),
        "policies": POLICIES,
        "cross_node_tensor": True,
    }
    return ask("llama-3.1-8b", **asked | changes)


def test_a_long_prompt_needs_room_where_it_runs_whole():
    question = long_prompts(1)
    (pool,) = question.fleet.pools
    found = plans_of(question, pool)
    assert {plan.engine.policy for plan in found} == {"vllm-v1", "sarathi"}
    assert set(found) == set(brute_force(question, pool))
    short = dataclasses.replace(question, trace=trace(2000, 38_100))
    assert {plan.engine.policy for plan in plans_of(short, pool)} == set(POLICIES) - {"vllm-v0"}
    assert space_content(short) != space_content(question)
    with pytest.raises(NoFeasiblePlan, match="and activations of 40000 tokens in"):
        simulate_plan(question, dataclasses.replace(found[0], engine=EngineSettings(policy="static")))


def test_what_the_space_accepts_is_served():
    """The simulator rejects no request under any plan, and has the blocks that the space counted on."""
    question = long_prompts(3)
    evaluator, served = Evaluator(question, silicon=False), set()
    for candidate in candidates_of(question):
        plan, step = candidate.plan, evaluator.step(candidate)
        device = question.fleet.pools[0].device
        assert step.kv_blocks == memory.kv_blocks(question.model, plan, device, evaluator.longest)
        outcome = simulate(question.trace, step, plan.engine, replicas=plan.replicas)
        assert not outcome.rejected
        served.add((plan.label, plan.engine.policy))
    assert {policy for _, policy in served} == set(POLICIES)
    assert {policy for label, policy in served if label == "dp=3 tp=1"} == {"vllm-v1", "sarathi"}
