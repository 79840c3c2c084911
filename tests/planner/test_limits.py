"""Limits on devices, price and power: the plans they leave, and that more room is never worse."""

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.bounds import PlanBounds, TraceStats
from planner.errors import NoFeasiblePlan
from planner.pipeline import Candidate, Evaluator, candidates_of, optimize
from planner.question import Question
from planner.rules import LIMITS, affordable, limits_of, raised
from planner.slo import parse_slo, power_limit
from planner.space import possible
from planner.store import Store
from planner.validate import complaints
from profiles.errors import InputError
from profiles.fleet import Fleet, homogeneous
from profiles.huggingface import load_model
from traces.trace import Trace

RNG = np.random.default_rng(3)
TRACE = Trace(
    arrival_s=np.cumsum(RNG.exponential(0.1, 30)),
    prompt_tokens=RNG.integers(5, 400, 30),
    output_tokens=RNG.integers(1, 60, 30),
)
MIXED = Fleet(
    pools=(*homogeneous("l40s", gpus=4).pools, *homogeneous("h100", gpus=2).pools),
)
PRICES = {pool.name: pool.price_usd_per_device_hour for pool in MIXED.pools}
ASKED = Question(model=load_model("llama-3.1-8b"), fleet=MIXED, trace=TRACE, token_budgets=(2048,))
EVERY = candidates_of(ASKED)
SHARED = Store()


def usd_per_hour(candidate: Candidate) -> float:
    return candidate.plan.devices * PRICES[MIXED.pools[candidate.pool].name]


@settings(deadline=None, max_examples=25, derandomize=True)
@given(gpus=st.none() | st.integers(1, 5), usd=st.none() | st.floats(1.6, 14).map(lambda x: round(x, 2)))
def test_the_plans_left_are_those_within_the_limits(gpus, usd):
    asked = dataclasses.replace(ASKED, max_gpus=gpus, max_usd_per_hour=usd)
    wanted = [
        c
        for c in EVERY
        if c.plan.devices <= (gpus or math.inf) and usd_per_hour(c) <= (usd or math.inf) * (1 + 1e-12)
    ]
    found = candidates_of(asked)
    assert [(c.pool, c.plan) for c in found] == [(c.pool, c.plan) for c in wanted]
    for candidate in EVERY:
        clashes = complaints(asked, MIXED.pools[candidate.pool], candidate.plan)
        assert (candidate in found) == (not clashes)


@pytest.mark.parametrize("objective", ["latency", "energy", "throughput"])
@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_gpus", (1, 2, 3, 4, None)),
        ("max_usd_per_hour", (1.6, 3.2, 4.0, 7.0, 20.0, None)),
        ("max_power", (150.0, 280.0, 500.0, 800.0, 5000.0, None)),
    ],
)
def test_a_wider_limit_never_worsens_the_objective(objective, field, values):
    """And what is found is within it."""
    best = []
    for value in values:
        if field == "max_power":
            slos = () if value is None else (power_limit(value),)
            asked = dataclasses.replace(ASKED, objective=objective, slos=slos)
        else:
            asked = dataclasses.replace(ASKED, objective=objective, **{field: value})
        answer = optimize(asked, silicon=False, store=SHARED)
        first = answer.results[0]
        assert answer.certificate.gap == 0
        best.append(answer.objective.score(first.value) if first.acceptable else math.inf)
        taken = {
            "max_gpus": first.plan.devices,
            "max_usd_per_hour": first.plan.devices * PRICES[first.pool],
            "max_power": first.metrics["mean_power_w"],
        }[field]
        assert value is None or not first.acceptable or taken <= value
    assert best == sorted(best, reverse=True)
    assert objective != "latency" or best[0] > best[-1], "or the test shows nothing"


def test_limits_together_leave_what_each_leaves():
    both = dataclasses.replace(ASKED, max_gpus=2, max_usd_per_hour=4.0)
    keys = [
        {(c.pool, c.plan) for c in candidates_of(asked)}
        for asked in (
            both,
            dataclasses.replace(both, max_gpus=None),
            dataclasses.replace(both, max_usd_per_hour=None),
        )
    ]
    assert keys[0] == keys[1] & keys[2]


def test_no_scheduler_draws_less_than_the_bound():
    evaluator = Evaluator(ASKED, silicon=False, store=SHARED)
    for candidate in EVERY:
        _, _, result = evaluator.simulated(candidate)
        bounds = PlanBounds(evaluator.step(candidate), candidate.plan, TraceStats(TRACE))
        idle = MIXED.pools[candidate.pool].device.idle_w * candidate.plan.devices
        assert 0.99 * idle < bounds.bound("power").value <= result.metrics["mean_power_w"]


def test_a_power_that_idle_devices_exceed_is_proven_out_of_reach():
    answer = optimize(
        dataclasses.replace(ASKED, slos=(parse_slo("power_mean<=10W"),)), silicon=False, store=SHARED
    )
    assert answer.certificate.excluded_by_slo and not answer.results[0].acceptable
    (reach,) = answer.shortfall.slos
    assert reach.unit == "W" and 10 < reach.bound < reach.value
    enough = re.match(r"(power_mean<=\S+) ", answer.shortfall.relaxations[0])
    again = optimize(dataclasses.replace(ASKED, slos=(parse_slo(enough[1]),)), silicon=False, store=SHARED)
    assert again.results[0].acceptable


TIGHT = dataclasses.replace(
    ASKED, model=load_model("llama-3.1-70b"), fleet=homogeneous("h100", gpus=8), weight_formats=("bf16",)
)
CASES = [
    {"max_gpus": 1},
    {"max_usd_per_hour": 1.0},
    {"max_usd_per_hour": 5.0},
    {"max_gpus": 4, "use_all_devices": True},
    {"max_gpus": 4, "fix": {"dp": 4}},
    {"max_gpus": 1, "max_usd_per_hour": 5.0},
    {"max_gpus": 3, "fix": {"attn_tp": 4}},
]


@pytest.mark.parametrize("changes", CASES, ids=str)
def test_limits_that_clash_are_named_and_the_raised_ones_do(changes):
    asked = dataclasses.replace(TIGHT, **changes)
    (pool,) = asked.fleet.pools
    with pytest.raises(NoFeasiblePlan) as caught:
        candidates_of(asked)
    core = [clash.constraint for clash in caught.value.core]
    assert not LIMITS.keys().isdisjoint(core) and "\n" not in str(caught.value)
    assert not possible(asked, pool, core)
    for name in core:
        assert possible(asked, pool, [other for other in core if other != name])
    for words in caught.value.relaxations:
        if more := re.fullmatch(r"--max-gpus (\d+)", words):
            (field, enough, less) = ("max_gpus", int(more[1]), int(more[1]) - 1)
        elif more := re.fullmatch(r"--max-cost-per-hour ([\d.]+)USD/h", words):
            (field, enough, less) = ("max_usd_per_hour", float(more[1]), float(more[1]) - 0.011)
        else:
            continue
        assert possible(dataclasses.replace(asked, **{field: enough}), pool)
        assert not possible(dataclasses.replace(asked, **{field: less}), pool)
    if len(changes) == 1:
        assert any(words.startswith("--max-") for words in caught.value.relaxations)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.integers(1, 9999), st.integers(1, 50))
def test_what_n_devices_cost_pays_for_n(cents, count):
    price = cents / 100
    assert affordable(round(price * count, 2), price) == count
    assert affordable(round(price * count - 0.01, 2) or 0.001, price) < count


@settings(deadline=None, max_examples=60, derandomize=True)
@given(price=st.floats(0.01, 9).map(lambda x: round(x, 4)), devices=st.integers(1, 16))
def test_a_raised_limit_just_allows_its_devices(price, devices):
    pool = dataclasses.replace(MIXED.pools[0], price_usd_per_device_hour=price)
    asked = dataclasses.replace(ASKED, fleet=Fleet(pools=(pool,)), max_usd_per_hour=0.01, max_gpus=1)
    for name in LIMITS:
        words, more = raised(asked, name, pool, devices)
        assert words.startswith(LIMITS[name]) and limits_of(more, pool)[name] >= devices
    assert more.max_usd_per_hour < price * devices + 0.01


def test_a_limit_beyond_any_number_is_no_limit():
    asked = dataclasses.replace(ASKED, max_usd_per_hour=1e300)
    assert len(candidates_of(asked)) == len(candidates_of(ASKED))


def test_mistakes_are_one_line():
    for changes, words in (
        ({"max_gpus": 0}, "max_gpus=0: expected a whole number"),
        ({"max_gpus": 2.5}, "max_gpus=2.5"),
        ({"max_usd_per_hour": 0.0}, "max_cost_per_hour=0: expected a price above 0"),
        ({"max_usd_per_hour": math.inf}, "max_cost_per_hour=inf"),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            dataclasses.replace(ASKED, **changes)
    pool = dataclasses.replace(homogeneous("l40s", gpus=1).pools[0], price_usd_per_device_hour=None)
    with pytest.raises(InputError, match="A limit of cost needs a price, l40s has none"):
        dataclasses.replace(ASKED, fleet=Fleet(pools=(pool,)), max_usd_per_hour=3.0)
