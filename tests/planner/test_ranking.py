"""Order, Pareto set and reasons, on results that differ in what the test says and in nothing else."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.intervals import Interval, Intervals
from planner.objective import OBJECTIVES
from planner.ranking import PlanResult, SloResult, pareto, rank, rivals, untried, why_lost, worst_measured
from profiles.engine import Residual
from profiles.memory import Footprint
from profiles.plan import Plan

LATENCY, THROUGHPUT = OBJECTIVES["latency"], OBJECTIVES["throughput"]

NOTHING = Footprint(weight_bytes=1.0, activation_bytes=0.0, reserve_bytes=0.0, kv_bytes=0.0, kv_tokens=0)


def result(value: float, *, slo_s: float = 0.0, rejected: int = 0, **metrics: float) -> PlanResult:
    plan = Plan(replicas=1, layers_per_stage=(2,))
    base = {"rejected": rejected, "idle_share": 0.1, "ttft_mean_s": 0.2, "e2e_mean_s": value}
    return PlanResult(
        plan=plan, pool="p", device="d", placement=(), metrics=base | metrics, value=value, bound=0.0, bound_name="",
        slos=(SloResult(key="ttft_p99_s", text="ttft_p99<=1s", value=slo_s, limit=1.0),), deployable={},
        breakdown_s={"ffn": 3.0, "qkv": 1.0}, provenance={}, wait_s=0.1, memory=NOTHING,
    )  # fmt: skip


def test_a_plan_that_breaks_an_slo_or_rejects_requests_ranks_below_every_other():
    good, slow, breaks, rejects = result(5.0), result(9.0), result(1.0, slo_s=2.0), result(0.5, rejected=3)
    assert rank([rejects, slow, breaks, good], LATENCY) == [good, slow, rejects, breaks]
    assert not breaks.acceptable and not rejects.acceptable and rejects.meets_slos


def test_more_is_better_where_the_objective_says_so():
    low, high = result(5.0), result(9.0)
    assert rank([low, high], THROUGHPUT) == [high, low]


def test_equal_plans_are_ordered_by_devices_then_name():
    wide = replace(result(5.0), plan=Plan(replicas=2, layers_per_stage=(2,)))
    assert rank([wide, result(5.0)], LATENCY)[0].plan.devices == 1


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_pareto_is_what_nothing_else_dominates(points):
    found = pareto([result(1.0, a=a, b=b) for a, b in points], ["a", "b"])
    front = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert sorted(points[i] for i in found) == sorted(front)
    assert found == [points.index(points[i]) for i in found]


@pytest.mark.parametrize(
    ("loser", "words"),
    [
        (result(1.0, rejected=3), "rejects 3 requests that it cannot serve"),
        (result(1.0, slo_s=2.0), "breaks ttft_p99<=1s: 2.00 s"),
        (result(7.0), "decode +2.00 s; ffn takes 75% of busy time"),
        (replace(result(5.0, ttft_mean_s=1.2), wait_s=1.1), "waiting +1.00 s; ffn takes 75% of busy time"),
    ],
)
def test_the_reason_names_what_differs_most(loser, words):
    assert why_lost(loser, result(5.0), LATENCY) == words


def uncertain(found: PlanResult, low: float) -> PlanResult:
    """With errors of E2E from ``low`` on."""
    return replace(found, intervals=Intervals(of={}, errors={"e2e": Residual(low=low, high=0.3)}))


def test_rivals_are_the_other_layouts_inside_the_interval_of_the_first():
    best, twin = (
        result(100.0),
        replace(result(101.0), plan=Plan(replicas=1, layers_per_stage=(2,), clock_mhz=900)),
    )
    near, again = (replace(result(v), plan=Plan(replicas=2, layers_per_stage=(2,))) for v in (104.0, 104.5))
    far = replace(result(106.0), plan=Plan(replicas=3, layers_per_stage=(2,)))
    breaks = replace(result(101.0, slo_s=2.0), plan=Plan(replicas=4, layers_per_stage=(2,)))
    fifth = uncertain(best, 1 / 1.05 - 1)  # measured up to 105
    assert rivals([fifth, twin, near, again, far, breaks], LATENCY) == [near]
    assert (
        rivals([uncertain(best, 1 / 1.03 - 1), near], LATENCY)
        == rivals([uncertain(best, 0.1), near], LATENCY)
        == []
    )
    assert rivals([best, near], LATENCY) == rivals([fifth, near], OBJECTIVES["energy"]) == []
    assert rivals([uncertain(near, -0.05), best], THROUGHPUT) == [best]
    assert worst_measured(fifth, LATENCY) == pytest.approx(105) and worst_measured(best, LATENCY) is None


def test_layouts_that_were_not_simulated_may_be_inside_too():
    fifth = uncertain(result(100.0), 1 / 1.05 - 1)  # measured up to 105
    own = fifth.plan.label
    bounds = [("tp=8", 104.0), ("tp=8", 90.0), ("pp=2", 106.0), (own, 80.0), ("dp=2", 104.9)]
    assert untried([fifth], bounds, LATENCY) == ["tp=8", "dp=2"]
    assert untried([result(100.0)], bounds, LATENCY) == []


def test_a_percentile_is_as_unsure_as_its_interval_says():
    tail = OBJECTIVES["p99-e2e"]
    best = uncertain(result(100.0), -0.01)
    sure = replace(best.intervals, of={tail.metric: Interval(low=95.0, high=110.0, source="")})
    assert worst_measured(replace(best, intervals=sure), tail) == 110.0
