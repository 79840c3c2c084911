"""What clashes is minimal, and what would do does: both against brute force over the plain rules."""

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.axes import WIDTHS, parse_axes, parse_pairs
from planner.deployable import ENGINES, deployable
from planner.errors import NoFeasiblePlan
from planner.pipeline import candidates_of
from planner.relax import MOST, cut, grown
from planner.rules import name_of, rules_of, widened, without
from planner.space import plans_of, possible
from profiles.errors import InputError
from profiles.fleet import Fleet, homogeneous
from profiles.plan import POLICIES
from tests.planner.test_space import DENSE, POOL, SPARSE, ask, brute_force, pool_of, tiny, trace


def refused(question):
    """The error of a question without plans, None of one with plans."""
    try:
        candidates_of(question)
    except NoFeasiblePlan as error:
        assert "\n" not in str(error)
        return error
    return None


def some_plan(question, pool):
    """Whether there is a plan, by brute force."""
    wanted = set(question.deployable_on or ENGINES)
    return any(
        not question.deployable or wanted & deployable(plan, question.model, pool.device).keys()
        for plan in brute_force(question, pool)
    )


def changed(question, pool, words):
    """What a relaxation asks, read from its words."""
    if drop := re.fullmatch(r"drop --(fix|forbid) (\S+)", words):
        ((axis, value),) = parse_pairs(drop[2])
        return without(question, (drop[1], axis, value)), pool
    if more := re.match(r"(\d+) such device", words):
        return question, grown(pool, int(more[1]))
    if most := re.match(r"a longest request of at most (\d+) tokens", words):
        return cut(question, int(most[1])), pool
    if name := re.fullmatch(r"(\w+) weights", words):
        formats = (*question.options("weights"), name[1])
        return dataclasses.replace(question, weight_formats=formats, activation_formats=()), pool
    if name := re.fullmatch(r"(\w+) KV cache", words):
        return dataclasses.replace(question, kv_formats=(*question.options("kv"), name[1])), pool
    if name := re.fullmatch(r"--token-budget (\d+)", words):
        return dataclasses.replace(question, token_budgets=(*question.token_budgets, int(name[1]))), pool
    changes = {
        "--cross-node-tensor": {"cross_node_tensor": True},
        "without --use-all-devices": {"use_all_devices": False},
        "any engine, without --deployable-on": {"deployable_on": ()},
        "--no-deployable": {"deployable": False, "deployable_on": ()},
        "--gpu-memory-utilization 0.95": {"gpu_memory_utilization": 0.95},
        "--policy vllm-v1": {"policies": (*question.policies, "vllm-v1")},
    }[words]
    return dataclasses.replace(question, **changes), pool


FIX = ["", "dp=2", "attn_dp=2", "ep=2", "tp=4", "tp=3,pp=1", "pp=3", "kv=bf16", "dp=3,kv=bf16", "budget=4096"]
FORBID = [
    "",
    "tp=1",
    "pp=1",
    "tp=1,tp=2",
    "budget=64",
    "kv=fp8",
    "kv=bf16",
    "clock=0",
    "policy=vllm-v1",
    "layers=2",
]


@st.composite
def questions(draw):
    fix, forbid = draw(st.sampled_from(FIX)), draw(st.sampled_from(FORBID))
    pool = pool_of(
        *draw(st.sampled_from([(1,), (2,), (2, 1), (1, 1, 1), (3,)])),
        memory_bytes=draw(st.integers(1000, 1300)) * 2**20,
    )
    try:
        return ask(
            tiny(*draw(st.lists(st.sampled_from([DENSE, SPARSE]), min_size=1, max_size=2))), pool,
            trace=trace(draw(st.sampled_from([2000, 20_000, 200_000])), 500), max_seqs=(16,),
            token_budgets=draw(st.sampled_from([(64,), (64, 4096)])),
            kv_formats=draw(st.sampled_from([("bf16",), ("bf16", "fp8")])),
            policies=draw(st.sampled_from([("vllm-v1",), ("vllm-v0", "orca"), ("static",)])),
            fix=parse_axes(fix) if fix else {}, forbid=parse_pairs(forbid) if forbid else (),
            use_all_devices=draw(st.booleans()), cross_node_tensor=draw(st.booleans()),
            deployable=draw(st.booleans()),
        )  # fmt: skip
    except InputError:
        return ask(fix={"attn_tp": 3}, pool=pool_of(3))


def of_core(question, pool, core):
    """Whether the members of a core, and nothing else, leave a plan."""
    for rule in rules_of(question):
        if rule[1] not in (*WIDTHS, "layers") and name_of(rule) not in core:
            question = widened(question, rule, pool)
    return possible(question, pool, core)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(question=questions())
def test_a_core_clashes_and_none_of_it_can_be_left_out(question):
    (pool,) = question.fleet.pools
    error = refused(question)
    assert (error is None) == some_plan(question, pool)
    if error is None:
        return
    core = [clash.constraint for clash in error.core]
    assert not of_core(question, pool, core)
    for member in core:
        assert of_core(question, pool, [name for name in core if name != member]), (core, member)
    for clash in error.core:
        assert clash.words in str(error) and clash.pool == pool.name
        assert lacks_memory(clash.words)


def lacks_memory(words):
    """What the words of a clash say of memory, if anything, is that it does not do."""
    if total := re.match(r"weights of ([0-9.]+) GiB in \w+ exceed (\d+) x ([0-9.]+) GiB usable", words):
        need, devices, usable = map(float, total.groups())
        return need >= devices * usable
    if fullest := re.search(r"needs ([0-9.]+) GiB per device .* of ([0-9.]+) GiB usable", words):
        return float(fullest[1]) >= float(fullest[2])
    return "GiB" not in words


def test_memory_lacks_in_what_the_rest_of_the_core_allows():
    """Two devices a replica do, but not three times on nodes of three."""
    error = refused(ask(fix={"dp": 3}, forbid=parse_pairs("pp=2"), pool=pool_of(3, 3)))
    assert {clash.constraint for clash in error.core} == {"fix dp=3", "forbid pp=2", "nodes", "memory"}
    assert "weights of 131.4 GiB in bf16 exceed 1 x" in str(error)


def test_of_two_rules_either_of_which_keeps_a_format_out_one_is_named():
    formats = {"weight_formats": ("bf16", "fp8"), "pool": pool_of(1)}
    error = refused(ask(fix={"weights": "bf16"}, forbid=parse_pairs("weights=fp8"), **formats))
    assert [clash.constraint for clash in error.core] == ["forbid weights=fp8", "memory"]
    assert list(error.relaxations) == ["2 such devices"]


def test_a_value_that_was_fixed_is_still_searched_when_a_core_is_shrunk():
    """The budget searched otherwise fits nowhere: were it taken for the fixed one, dp=2 would look needless."""
    question = ask(fix={"dp": 2, "budget": 2048}, token_budgets=(400_000,), pool=pool_of(2))
    (pool,) = question.fleet.pools
    assert not possible(without(question, ("fix", "budget", 2048)), pool)
    core = [clash.constraint for clash in refused(question).core]
    assert core == ["fix dp=2", "memory"]
    assert not of_core(question, pool, core)
    assert of_core(question, pool, ["memory"]) and of_core(question, pool, ["fix dp=2"])


@settings(deadline=None, max_examples=60, derandomize=True)
@given(question=questions())
def test_every_relaxation_leaves_a_plan(question):
    (pool,) = question.fleet.pools
    error = refused(question)
    if error is None:
        return
    assert len(error.relaxations) == len(set(error.relaxations)) <= MOST
    for words in error.relaxations:
        assert words in str(error)
        relaxed, more = changed(question, pool, words)
        if more.devices <= 8:
            assert some_plan(relaxed, more), words
        else:
            assert plans_of(relaxed, more), words


@pytest.mark.parametrize(
    ("changes", "free", "found"),
    [
        ({}, (1,), ["fp8 weights", "2 such devices"]),
        ({"model": "mistral-large-123b"}, (1,), ["int4 weights", "4 such devices"]),
        ({"fix": {"weights": "bf16"}}, (1,), ["2 such devices"]),
        ({"fix": {"dp": 2}}, (2,), ["drop --fix dp=2", "fp8 weights", "4 such devices"]),
        ({"fix": {"attn_tp": 3}}, (8,), ["drop --fix tp=3"]),
        ({"fix": {"attn_tp": 16}}, (8, 8), ["drop --fix tp=16", "--cross-node-tensor"]),
        ({"fix": {"attn_tp": 4, "dp": 2}}, (5, 3),
         ["drop --fix tp=4", "drop --fix dp=2", "--cross-node-tensor", "11 such devices on 2 nodes"]),
        ({"use_all_devices": True, "fix": {"attn_tp": 2}}, (7,),
         ["drop --fix tp=2", "without --use-all-devices", "8 such devices"]),
        ({"fix": {"attn_dp": 8}, "deployable": True}, (8,), ["drop --fix attn_dp=8", "--no-deployable"]),
        ({"model": "bloom-7b1", "deployable": True, "deployable_on": ("SGLang",)}, (2,),
         ["any engine, without --deployable-on", "--no-deployable"]),
        ({"forbid": parse_pairs("clock=0,clock=990"), "clocks": (0, 990)}, (8,),
         ["drop --forbid clock=0", "drop --forbid clock=990"]),
        ({"forbid": parse_pairs("tp=1,tp=2,tp=4,tp=8")}, (8,),
         [f"drop --forbid tp={width}" for width in (1, 2, 4, 8)]),
        ({"fix": {"weights": "bf16"}, "weight_formats": ("bf16", "fp8")}, (1,),
         ["drop --fix weights=bf16", "2 such devices"]),
        ({"trace": trace(30_000, 100), "fix": {"weights": "bf16"}}, (2,),
         ["--gpu-memory-utilization 0.95", "fp8 KV cache", "3 such devices",
          "a longest request of at most 28000 tokens (1 of 1 is longer)"]),
        ({"trace": trace(10**6, 1), "policies": ("static",), "fix": {"weights": "bf16"}}, (8,),
         ["--policy vllm-v1", "24 such devices on 3 nodes",
          "a longest request of at most 600000 tokens (1 of 1 is longer)"]),
        ({"fix": {"layers": (79, 1), "weights": "bf16"}}, (2,), ["drop --fix layers=79/1", "4 such devices"]),
        ({}, (0,), ["2 such devices"]),
        ({"forbid": parse_pairs("pp=2,pp=3,tp=2")}, (3,),
         ["drop --forbid pp=2", "drop --forbid pp=3", "fp8 weights", "4 such devices"]),
    ],
)  # fmt: skip
def test_what_would_do(changes, free, found):
    model = changes.get("model", "llama-3.1-70b")
    error = refused(ask(model, pool_of(*free), **{k: v for k, v in changes.items() if k != "model"}))
    assert list(error.relaxations) == found


def test_the_longest_request_is_the_longest_to_two_digits():
    question = ask(trace=trace(30_000, 100), pool=pool_of(2))
    pool = question.fleet.pools[0]
    assert possible(cut(question, 28_000), pool) and not possible(cut(question, 29_000), pool)
    short = cut(question, 28_000).trace
    assert (short.prompt_tokens + short.output_tokens).max() <= 28_000 and cut(question, 2).trace


def test_fewest_devices_that_do():
    question = ask("dense-1t", pool_of(8))
    (words,) = [words for words in refused(question).relaxations if "devices" in words]
    count = int(words.split()[0])
    assert possible(question, grown(POOL, count)) and not possible(question, grown(POOL, count - 1))


def test_pools_take_turns_and_are_named():
    pools = [homogeneous(name, gpus=1).pools[0] for name in ("h100-sxm-80gb", "l40s")]
    error = refused(dataclasses.replace(ask(), fleet=Fleet(pools=tuple(pools))))
    assert [clash.pool for clash in error.core] == ["h100-sxm-80gb", "l40s"]
    assert list(error.relaxations) == [
        "fp8 weights in pool h100-sxm-80gb", "int4 weights in pool l40s",
        "2 such devices in pool h100-sxm-80gb", "4 such devices in pool l40s",
    ]  # fmt: skip


def test_every_policy_of_a_question_can_be_what_no_engine_runs():
    error = refused(ask(policies=("static",), deployable=True))
    assert [clash.constraint for clash in error.core] == ["deployable"]
    assert list(error.relaxations) == ["--policy vllm-v1", "--no-deployable"] and "static" in POLICIES
