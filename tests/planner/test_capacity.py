"""Below: simulated and seen to hold. Above: no plan, policy or rate tried ever holds."""

import csv
import dataclasses
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import capacity_text
from planner.bounds import PlanBounds
from planner.capacity import AT_ONCE, MOST, Trial, _bracket, capacity
from planner.errors import NoFeasiblePlan
from planner.pipeline import Evaluator, candidates_of, optimize, simulate_plan
from planner.question import Question, parse_axes, parse_slo, plan_from_axes
from planner.shares import TraceStats
from planner.store import Store
from profiles.errors import InputError
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.plan import POLICIES
from profiles.stepcost import PS
from traces.trace import Trace
from traces.transform import scale_rate

LAWFUL = settings(deadline=None, max_examples=40, derandomize=True)
MODEL = load_model("llama-3.1-8b")
SHARED = Store()


def trace(n=60, seed=0, rate=2.0):
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1 / rate, n))
    return Trace(
        arrival_s=arrival - arrival[0],
        prompt_tokens=rng.integers(5, 600, n),
        output_tokens=rng.integers(1, 120, n),
        name="random",
    )


def question(*slos, **changes):
    base = {
        "model": MODEL,
        "fleet": homogeneous("l40s", gpus=2),
        "trace": trace(),
        "token_budgets": (2048,),
        "slos": tuple(map(parse_slo, slos)),
    }
    return Question(**(base | changes))


def find(asked, plan=None, **limits):
    named = None if plan is None else plan_from_axes(asked.model, parse_axes(plan))
    return capacity(asked, named, silicon=False, store=SHARED, **limits)


def all_plans_hold(asked, factor):
    """Which plans of all policies hold, by simulating them."""
    scaled = dataclasses.replace(asked, trace=scale_rate(asked.trace, factor), policies=POLICIES)
    results = optimize(scaled, silicon=False, everything=True, store=SHARED).results
    return [r.plan for r in results if r.acceptable]


# ------------------------------------------------------------------------------------------------ bounds


@pytest.mark.parametrize("plan", [0, 3, 5])
@pytest.mark.parametrize("factor", [0.25, 3.0, 40.0])
def test_bounds_at_other_times_are_those_of_the_other_trace(plan, factor):
    asked = question(fleet=homogeneous("l40s", gpus=4))
    evaluator = Evaluator(asked, silicon=False)
    candidate = candidates_of(asked)[plan]
    step, other = evaluator.step(candidate), scale_rate(asked.trace, factor)
    here = PlanBounds(step, candidate.plan, TraceStats(asked.trace))
    for name in ("latency", "energy", "throughput", "p95-ttft"):
        here.bound(name)  # what is kept of this trace must not leak into the other
    there = here.at(np.rint(other.arrival_s * PS).astype(np.int64))
    fresh = PlanBounds(step, candidate.plan, TraceStats(other))
    for name in ("latency", "ttft", "tpot", "itl", "makespan", "throughput", "energy", "p95-e2e", "p50-ttft"):
        assert there.bound(name) == fresh.bound(name)
    assert here.bound("latency") == PlanBounds(step, candidate.plan, TraceStats(asked.trace)).bound("latency")


@LAWFUL
@given(
    seed=st.integers(0, 5),
    plan=st.sampled_from(["tp=1", "tp=2", "pp=2", "dp=2"]),
    gaps=st.lists(st.sampled_from([0.0, 0.2, 1.0]), min_size=19, max_size=19),
    factor=st.floats(0.05, 50),
)
def test_shorter_gaps_never_lower_a_hurried_bound(seed, plan, gaps, factor):
    asked = question(trace=scale_rate(trace(20, seed), factor))
    named = plan_from_axes(MODEL, parse_axes(plan))
    candidate = next(c for c in candidates_of(asked, SHARED) if c.plan.label == named.label)
    evaluator = Evaluator(asked, silicon=False, store=SHARED)
    bounds = PlanBounds(evaluator.step(candidate), candidate.plan, evaluator.stats)
    slow = np.rint(asked.trace.arrival_s * PS).astype(np.int64)
    fast = np.concatenate([[0], np.cumsum(np.rint(np.diff(slow) * np.array(gaps)).astype(np.int64))])
    for name in ("latency", "ttft", "tpot", "itl", "p95-e2e", "p50-ttft", "p90-tpot"):
        before, after = bounds.at(slow).hurried(name).value, bounds.at(fast).hurried(name).value
        assert before <= after * (1 + 1e-9)
        assert before <= bounds.bound(name).value


# -------------------------------------------------------------------------------------------- both sides

SLOS = [
    ("ttft_p95<=300ms",),
    ("e2e_mean<=2s",),
    ("ttft_p90<=1s", "tpot_p95<=40ms"),
    ("e2e_p99<=3s",),
    ("ttft_mean<=100ms",),
]


@pytest.mark.parametrize("slos", SLOS, ids=str)
def test_it_holds_below_and_no_policy_of_any_plan_holds_above(slos):
    asked = question(*slos)
    found = find(asked)
    assert 0 < found.lower < found.upper and found.unexamined == 0
    best = found.answer.results[0]
    scaled = dataclasses.replace(asked, trace=scale_rate(asked.trace, found.lower))
    again, _ = simulate_plan(scaled, best.plan, silicon=False)
    assert again.results[0].acceptable and again.results[0].metrics == best.metrics
    if math.isfinite(found.upper):
        for factor in (1.0, 1.3, 4.0, 1000.0):
            assert all_plans_hold(asked, found.upper * factor) == []
    assert {t.holds for t in found.trials} == {True, False}
    assert found.lower == max(t.factor for t in found.trials if t.holds)


def test_the_best_plan_sustains_what_each_plan_named_does():
    asked = question("ttft_p95<=300ms", "e2e_mean<=6s")
    best = find(asked)
    for plan in ("tp=1", "tp=2", "pp=2", "dp=2"):
        one = find(asked, f"{plan},budget=2048")
        assert one.named and len(one.limits) == 1
        assert one.upper <= best.upper and one.lower <= best.lower * (1 + best.tolerance)
    assert (
        best.lower == find(asked, f"{best.answer.results[0].plan.label.replace(' ', ',')},budget=2048").lower
    )


def test_the_rate_does_not_depend_on_the_rate_of_the_trace_given():
    slow, fast = (find(question("e2e_mean<=2s", trace=trace(rate=r))) for r in (0.5, 8.0))
    assert slow.rate_per_s * 16 == pytest.approx(fast.rate_per_s)
    assert slow.rate_per_s * slow.lower == pytest.approx(fast.rate_per_s * fast.lower, rel=0.021)
    assert slow.rate_per_s * slow.upper == pytest.approx(fast.rate_per_s * fast.upper, rel=0.003)


def test_tighter_limits_never_raise_what_is_proven():
    uppers = [find(question(f"e2e_mean<={s}s")).upper for s in (0.01, 2, 3, 4, 6, 1e6)]
    assert uppers == sorted(uppers) and uppers[0] == 0 and uppers[-1] == math.inf


def test_limits_out_of_reach_and_without_end():
    never = find(question("ttft_p95<=1us"))
    assert never.lower == never.upper == 0 and never.answer is None and not never.trials
    always = find(question("ttft_p95<=1000s"))
    assert always.lower == always.upper == AT_ONCE and always.answer.results[0].acceptable
    queue = find(question("tpot_p95<=40ms"))
    assert queue.upper == math.inf, "a scheduler that serves one after the other meets it at any rate"


def test_a_search_cut_short_says_what_is_open():
    asked = question("ttft_p95<=300ms")
    whole, cut = find(asked), find(asked, max_simulations=2)
    assert len(cut.trials) == 2 and cut.lower <= whole.lower and cut.upper == whole.upper
    assert cut.unexamined > 0 == whole.unexamined
    none = find(question("itl_p99<=1us"), max_simulations=1)
    assert none.answer is None and none.lower == 0 and none.upper == math.inf and none.unexamined == 4


def test_rates_that_hold_above_one_that_fails_are_said():
    found = find(question("ttft_p95<=300ms"))
    plan = found.answer.results[0].plan
    trials = [
        Trial(plan=plan, pool="l40s", factor=f, holds=h)
        for f, h in ((1, True), (2, False), (3, True), (4, False))
    ]
    odd = dataclasses.replace(found, trials=trials)
    ((failed, held),) = odd.reversals
    assert (failed.factor, held.factor) == (2, 3)
    assert "not so" in " ".join(capacity_text.to_text(odd).split())
    assert not json.loads(capacity_text.to_json(odd))["monotone"]
    straight = dataclasses.replace(found, trials=trials[:2])
    assert not straight.reversals


@LAWFUL
@given(edge=st.floats(1e-3, 1e3), begin=st.floats(0.1, 10))
def test_a_bracket_holds_the_edge(edge, begin):
    low, high = _bracket(lambda factor: factor < edge, begin, 0.01, MOST)
    assert (low == 0.0 and edge <= 0.01 == high) or (low < edge <= high <= max(2 * low, 0.02))


def test_mistakes_are_one_line():
    with pytest.raises(InputError, match="give --slo"):
        find(question())
    at_once = dataclasses.replace(trace(), arrival_s=np.zeros(60))
    with pytest.raises(InputError, match="arrive at once"):
        find(question("ttft_p95<=1s", trace=at_once))
    with pytest.raises(InputError, match=r"0\.001 to 1"):
        find(question("ttft_p95<=1s"), tolerance=0.0)
    with pytest.raises(NoFeasiblePlan, match="takes 4 devices, 2 are free"):
        find(question("ttft_p95<=1s"), "tp=4")


@pytest.mark.parametrize("slo", ["ttft_p95<=300ms", "ttft_p95<=1us", "ttft_p95<=1000s", "tpot_p95<=40ms"])
def test_text_json_and_csv_say_the_same(slo):
    found = find(question(slo))
    text = capacity_text.to_text(found)
    assert all(len(line) <= 80 and line == line.rstrip() for line in text.splitlines())
    document = json.loads(capacity_text.to_json(found))
    rows = list(csv.DictReader(io.StringIO(capacity_text.to_csv(found))))
    assert len(rows) == len(document["limits"]) == len(found.limits) == 4
    for row, limit in zip(rows, document["limits"], strict=True):
        assert row["plan"] == limit["plan"]["name"]
        assert (float(row["upper_per_s"]) if row["upper_per_s"] else None) == limit["upper_per_s"]
    assert document["unbounded"] == math.isinf(found.upper)
    words = " ".join(text.split())
    if math.isinf(found.lower):
        assert document["at_once"] and "all requests at once" in words
    elif found.lower:
        assert document["sustained_per_s"] == pytest.approx(found.lower * found.rate_per_s)
        assert f"{found.lower:.4g} x the trace" in words
    else:
        assert "no rate, proven" in words and document["answer"] is None
