"""Placement: both formulations against brute force and each other; the greedy path against the solver."""

from types import SimpleNamespace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from formulations.placement_cpsat import PlacementCpSat
from formulations.placement_milp import PlacementMilp
from formulations.problem import Limits, PlacementInstance, Status
from planner.errors import NoFeasiblePlan
from planner.placement import cost, greedy, least_cost, place
from profiles.plan import Plan
from tests.formulations.oracle import cheapest_placement

FORMULATIONS = [PlacementCpSat, PlacementMilp]
TINY = st.builds(
    PlacementInstance,
    free=st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple),
    replicas=st.integers(1, 2),
    stages=st.integers(1, 2),
    groups=st.integers(1, 2),
    group_devices=st.integers(1, 2),
)
SMALL = st.builds(
    PlacementInstance,
    free=st.lists(st.integers(0, 8), min_size=1, max_size=4).map(tuple),
    replicas=st.integers(1, 4),
    stages=st.integers(1, 4),
    groups=st.integers(1, 2),
    group_devices=st.sampled_from([1, 2, 4]),
)


def total(instance):
    return instance.replicas * instance.stages * instance.groups * instance.group_devices


def pool(*free):
    return SimpleNamespace(name="pool", free=free, devices=sum(free))


@pytest.mark.parametrize("formulation", FORMULATIONS)
@settings(deadline=None, max_examples=40, derandomize=True)
@given(instance=TINY)
def test_cost_equals_brute_force(formulation, instance):
    assume(total(instance) <= 6)
    solution = formulation(instance).solve(Limits())
    best = cheapest_placement(instance)
    if best is None:
        assert solution.status is Status.INFEASIBLE
    else:
        assert solution.status is Status.OPTIMAL
        assert (solution.split, solution.crossings) == best == cost(solution.counts)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(instance=SMALL)
def test_both_formulations_agree(instance):
    assume(total(instance) <= sum(instance.free) and total(instance) <= 16)
    one, other = (formulation(instance).solve(Limits()) for formulation in FORMULATIONS)
    assert (one.split, one.crossings) == (other.split, other.crossings)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(instance=SMALL)
def test_bound_is_below_and_greedy_that_meets_it_is_optimal(instance):
    assume(total(instance) <= sum(instance.free) and total(instance) <= 16)
    best = PlacementCpSat(instance).solve(Limits())
    optimum = (best.split, best.crossings)
    assert least_cost(instance) <= optimum <= cost(greedy(instance))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(instance=SMALL, width=st.sampled_from([1, 2]))
def test_every_device_is_used_at_most_once(instance, width):
    assume(total(instance) <= sum(instance.free) and total(instance) <= 16)
    stage = instance.groups * instance.group_devices
    plan = Plan(
        replicas=instance.replicas,
        layers_per_stage=(1,) * instance.stages,
        attn_tp=instance.group_devices,
        attn_dp=instance.groups,
        ffn_tp=stage,
    )
    placed = place(plan, pool(*instance.free))
    devices = [(n, d) for replica in placed.assignment for stage in replica for n, ds in stage for d in ds]
    assert len(devices) == len(set(devices)) == plan.devices
    assert all(0 <= d < instance.free[n] for n, d in devices)
    assert len(placed.crossings) == plan.stages - 1
    assert placed.proven
    stages = [stage for replica in placed.assignment for stage in replica]
    assert placed.ffn_nodes == max(len(stage) for stage in stages)
    assert placed == place(plan, pool(*instance.free))


def test_stages_stay_beside_each_other():
    """4 stages of 4 devices on 2 nodes of 8: one hand-over crosses, in the middle."""
    placed = place(Plan(layers_per_stage=(1,) * 4, attn_tp=4, ffn_tp=4), pool(8, 8))
    assert placed.crossings == (False, True, False) and placed.tensor_nodes == 1


def test_partly_occupied_nodes():
    """Two replicas of two 2-device stages on 5 + 3 free devices: one fits a node, the other crosses."""
    placed = place(Plan(replicas=2, layers_per_stage=(1, 1), attn_tp=2, ffn_tp=2), pool(5, 3))
    assert placed.crossings == (True,) and placed.tensor_nodes == 2
    placed = place(Plan(replicas=3, layers_per_stage=(1,), attn_tp=2, ffn_tp=2), pool(5, 3))
    assert placed.tensor_nodes == 1


def test_wide_groups_span_as_few_nodes_as_hold_them():
    plan = Plan(layers_per_stage=(1, 1), attn_tp=8, attn_dp=4, ffn_ep=32)
    placed = place(plan, pool(*[8] * 8))
    assert (placed.tensor_nodes, placed.ffn_nodes, placed.crossings) == (1, 4, (True,))


def test_replicated_feed_forward_spans_less_than_attention():
    placed = place(Plan(layers_per_stage=(1,), attn_tp=16, ffn_tp=8, ffn_dp=2), pool(8, 8))
    assert (placed.tensor_nodes, placed.ffn_nodes) == (2, 1)


def test_too_few_devices():
    with pytest.raises(NoFeasiblePlan, match="takes 8 devices, pool pool has 7 free"):
        place(Plan(layers_per_stage=(1,), attn_tp=8, ffn_tp=8), pool(4, 3))


@pytest.mark.parametrize(
    ("free", "replicas", "stages", "groups", "devices", "optimum"),
    [
        ((2, 2, 2), 1, 4, 1, 1, (0, 1)),
        ((2, 2, 2), 1, 6, 1, 1, (0, 2)),
        ((3, 3), 2, 3, 1, 1, (0, 0)),
        ((3, 3), 3, 2, 1, 1, (0, 1)),
        ((4, 4), 1, 2, 2, 2, (0, 1)),
        ((4, 4), 1, 1, 2, 4, (1, 0)),
        ((2, 2, 2, 2), 1, 2, 1, 4, (2, 1)),
        ((3, 1, 2, 1), 1, 7, 1, 1, (0, 3)),
    ],
)
def test_bound_equals_known_optima(free, replicas, stages, groups, devices, optimum):
    """Where the bound is exact, so that these never reach the solver."""
    instance = PlacementInstance(
        free=free, replicas=replicas, stages=stages, groups=groups, group_devices=devices
    )
    assert least_cost(instance) == cost(greedy(instance)) == optimum
    solution = PlacementCpSat(instance).solve(Limits())
    assert (solution.split, solution.crossings) == optimum
