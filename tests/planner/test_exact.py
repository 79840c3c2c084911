"""Bound <= exact optimum <= every scheduler of the class, on the simulator's own tables and times."""

from dataclasses import replace

import numpy as np
import pytest

from formulations.problem import Limits
from formulations.schedule import greedy_schedules, replay
from planner.bounds import plan_bound
from planner.exact import OBJECTIVES, exact, instance_of, run, why_not
from profiles.plan import POLICIES, EngineSettings, Plan
from profiles.stepcost import PS
from simulator.engine import simulate
from tests.simulator.steps import affine_step, random_step, trace_of

LIMITS = Limits(time_s=60, work=1)


def values(outcome):
    arrival = outcome.arrival_ps
    return {
        "makespan": (outcome.end_ps - int(arrival[0])) / PS,
        "latency": float((outcome.finish_ps - arrival).mean()) / PS,
        "ttft": float((outcome.first_token_ps - arrival).mean()) / PS,
    }


def case(seed, make):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    prompt, output = rng.integers(1, 7, n), rng.integers(1, 5, n)
    arrival = np.sort(rng.integers(0, 2000, n)) * 10**6 * (seed % 2)
    seqs = int(rng.integers(1, n + 1))
    engine = EngineSettings(
        block_size=1, max_seqs=seqs, token_budget=int(rng.integers(max(seqs, 2), 10)), watermark=0.0
    )
    shape = {"max_seqs": seqs, "max_tokens": 40, "max_length": 20}
    step = make(rng, kv_blocks=int((prompt + output).max() + rng.integers(0, 15)), **shape)
    return trace_of(arrival, prompt, output), step, Plan(layers_per_stage=(1,), engine=engine)


def affine(rng, **shape):
    return affine_step(**shape)


def convex(rng, **shape):
    """Any tables, but chunks of a prompt cost no less than the whole."""
    step = random_step(rng, unit_ps=10**6, **shape)
    return replace(step, prefill_ps=np.cumsum(np.sort(np.diff(step.prefill_ps, prepend=0), axis=1), axis=1))


@pytest.mark.parametrize("make", [affine, convex])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_bound_optimum_heuristics(objective, make):
    proven = 0
    for seed in range(40):
        trace, step, plan = case(seed, make)
        wide = replace(plan, engine=replace(plan.engine, policy="orca"))
        floor_s = plan_bound(step, wide, trace, objective).value
        best = exact(step, plan, trace, objective, LIMITS, floor_s=floor_s)
        assert floor_s <= best.bound <= best.value
        proven += best.optimal
        for policy in POLICIES:
            for queue in ("fcfs", "sjf"):
                outcome = simulate(trace, step, replace(plan.engine, policy=policy, queue=queue))
                if outcome.rejected or outcome.preemptions.any():
                    continue  # outside the class
                value = values(outcome)[objective]
                assert best.bound <= value * (1 + 1e-9), (seed, policy)
                assert not best.optimal or best.value <= value * (1 + 2e-6), (seed, policy)
    assert proven >= 5


def test_integers_say_what_affine_tables_say():
    """So a schedule's times are the same in both, or a little less where a line below was chosen for others."""
    for seed in range(20):
        trace, step, plan = case(seed, affine)
        step = replace(
            step, prefill_ps=step.prefill_ps * 0
        )  # chunk by chunk, where the model waits for the last
        step = replace(step, head_ps=step.head_ps * 0 + step.head_ps[1])
        instance, unit = instance_of(step, plan, trace)
        for schedule in greedy_schedules(instance):
            first, last = replay(instance, schedule)
            outcome = run(step, plan, trace, [schedule])[0]
            times = outcome.first_token_ps, outcome.finish_ps
            assert np.all(np.array([first, last]) * unit <= times)
            assert np.allclose(np.array([first, last]) * unit, times, rtol=1e-3)


def test_what_cannot_be_solved_is_said():
    plan = Plan(layers_per_stage=(1,))
    assert not why_not(plan, "latency")
    assert "energy" in why_not(plan, "energy")
    assert "dp=2" in why_not(replace(plan, replicas=2), "latency")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_large_windows_have_a_bound_and_a_schedule(objective):
    n = 80
    step = affine_step(max_seqs=8, max_tokens=200, max_length=40, kv_blocks=500)
    engine = EngineSettings(block_size=1, max_seqs=8, token_budget=64, watermark=0.0)
    plan = Plan(layers_per_stage=(1,), engine=engine)
    trace = trace_of(np.arange(n) * 10**7, np.arange(n) % 9 + 1, np.arange(n) % 5 + 1)
    floor_s = plan_bound(step, plan, trace, objective).value
    found = exact(step, plan, trace, objective, LIMITS, floor_s=floor_s)
    assert found.bound == floor_s < found.value and not found.optimal
    best = min(
        values(simulate(trace, step, replace(engine, policy=policy)))[objective] for policy in POLICIES
    )
    assert found.value == pytest.approx(best, rel=1e-12)


def test_schedules_that_are_known_count_where_they_stay_in_the_class():
    """A large window: shortest prompts first beats first come, first served."""
    n = 70
    step = affine_step(max_seqs=4, max_tokens=200, max_length=40, kv_blocks=500)
    engine = EngineSettings(block_size=1, max_seqs=4, token_budget=20, watermark=0.0)
    plan = Plan(layers_per_stage=(1,), engine=engine)
    trace = trace_of(np.zeros(n, np.int64), 20 - np.arange(n) // 4, np.arange(n) % 5 + 1)
    known = simulate(trace, step, replace(engine, queue="sjf"))
    alone = exact(step, plan, trace, "latency", LIMITS)
    assert (
        exact(step, plan, trace, "latency", LIMITS, known=[known]).value
        == values(known)["latency"]
        < alone.value
    )
    evicted = replace(known, preemptions=known.preemptions + 1)
    assert exact(step, plan, trace, "latency", LIMITS, known=[evicted]) == alone


def test_an_encoder_has_no_exact_model():
    """Its prompts are not cut, so a schedule that cuts them has no value."""
    _, step, plan = case(0, affine)
    assert "encoder" in why_not(plan, "latency", chunkable=False)
    with pytest.raises(ValueError, match="encoder"):
        exact(replace(step, chunkable=False), plan, trace_of([0], [3], [1]), "latency", LIMITS)
