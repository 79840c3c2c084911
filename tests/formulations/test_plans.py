"""Plan layouts by CP-SAT: equal to brute force; cores clash and are minimal."""

import dataclasses
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations.plans_cpsat import PlansCpSat, common_divisors, divisors, head_widths
from formulations.problem import WIDTHS, Limits, PlanInstance, Status
from tests.formulations.oracle import layouts


@st.composite
def instances(draw):
    """Up to 4 devices, with random needs for every layout that there can be."""
    devices = draw(st.integers(1, 4))
    nodes = draw(st.sampled_from([(), (devices,), (devices // 2, devices - devices // 2)]))
    count = draw(st.integers(1, 2))
    seed = draw(st.integers(0, 10**6))
    keys = [
        (*key, e)
        for key in product(range(1, devices + 1), repeat=6)
        if key[0] * key[1] * key[2] <= devices and key[1] * key[2] == key[3] * key[4] * key[5]
        for e in range(count)
    ]
    rules = st.lists(st.tuples(st.sampled_from(WIDTHS), st.integers(1, devices)), max_size=1).map(tuple)
    return PlanInstance(
        devices=devices,
        exact_devices=draw(st.booleans()),
        layers=draw(st.integers(1, 4)),
        group_limit=draw(st.integers(1, devices)),
        nodes=nodes,
        heads=draw(st.sampled_from([((4, 4),), ((4, 2),), ((12, 3), (6, 6)), ((4, 1),)])),
        dense_inner=draw(st.sampled_from([(), (12,), (8, 12)])),
        routed_inner=(experts := draw(st.sampled_from([(), (4,), (6, 4)]))),
        experts=experts,
        settings=count,
        need_kib={key: 1 + (seed * 31 + 7 * sum(key) ** 2) % 10 for key in keys},
        capacity_kib=draw(st.integers(0, 10)),
        fixed=draw(rules),
        forbidden=draw(rules),
    )


@settings(deadline=None, max_examples=60, derandomize=True)
@given(instance=instances())
def test_layouts_equal_brute_force(instance):
    solutions = PlansCpSat(instance).solve(Limits())
    assert solutions.found == layouts(instance)
    assert solutions.status is (Status.OPTIMAL if solutions.found else Status.INFEASIBLE)
    assert bool(solutions.core) == (not solutions.found)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(instance=instances(), more=st.integers(1, 5))
def test_more_memory_removes_no_layout(instance, more):
    roomier = dataclasses.replace(instance, capacity_kib=instance.capacity_kib + more)
    assert set(PlansCpSat(instance).solve(Limits()).found) <= set(PlansCpSat(roomier).solve(Limits()).found)


DENSE = PlanInstance(
    devices=8,
    layers=4,
    group_limit=8,
    nodes=(8,),
    heads=((8, 2),),
    dense_inner=(64,),
    need_kib={(1, 1, 1, 1, 1, 1, 0): 5, (2, 2, 1, 2, 1, 1, 0): 2},
    capacity_kib=9,
)


@pytest.mark.parametrize(
    ("changes", "core"),
    [
        ({"fixed": (("attn_tp", 3),)}, {"fix attn_tp=3", "heads"}),
        ({"fixed": (("pp", 5),)}, {"fix pp=5", "stages"}),
        ({"fixed": (("ep", 2),)}, {"fix ep=2", "experts"}),
        ({"fixed": (("dp", 2), ("pp", 1)), "nodes": (1,)}, {"fix dp=2", "nodes"}),
        ({"fixed": (("attn_dp", 2), ("ffn_dp", 2))}, {"fix attn_dp=2", "fix ffn_dp=2", "sharing"}),
        ({"capacity_kib": 1}, {"memory"}),
        ({"capacity_kib": 4, "forbidden": (("pp", 2),)}, {"forbid pp=2", "memory"}),
        ({"fixed": (("attn_tp", 3),), "capacity_kib": 1}, {"fix attn_tp=3", "heads"}),
        ({"fixed": (("attn_tp", 8),), "group_limit": 4}, {"fix attn_tp=8", "groups"}),
    ],
)
def test_core_names_what_clashes(changes, core):
    assert set(PlansCpSat(dataclasses.replace(DENSE, **changes)).solve(Limits()).core) == core


def test_infeasible_pool_without_devices():
    nothing = dataclasses.replace(DENSE, devices=0, nodes=(0,), need_kib={})
    assert PlansCpSat(nothing).solve(Limits()).status is Status.INFEASIBLE


def test_same_seed_same_order():
    one, other = (PlansCpSat(DENSE).solve(Limits(seed=3)) for _ in range(2))
    assert one == other and len(one.found) == 10


@given(number=st.integers(1, 3000))
@settings(max_examples=50, derandomize=True)
def test_divisors(number):
    assert divisors(number) == [d for d in range(1, number + 1) if number % d == 0]


def test_widths_divide_or_copy_heads():
    assert common_divisors((12, 18)) == [1, 2, 3, 6]
    assert head_widths(((64, 8),)) == [1, 2, 4, 8, 16, 32, 64]
    assert head_widths(((24, 8),)) == [1, 2, 4, 8, 24]
