"""Laws 4, 5 and 9 end to end: real models and tables, small spaces simulated exhaustively."""

import dataclasses

import numpy as np
import pytest

from planner.bounds import OBJECTIVES as BOUNDED
from planner.bounds import PlanBounds
from planner.objective import OBJECTIVES
from planner.pipeline import Evaluator, candidates_of, optimize
from planner.question import Question, parse_slo
from planner.shares import TraceStats
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from simulator import metrics
from simulator.engine import simulate
from traces.trace import Trace


def trace(n=120, rate=4.0, seed=0, longest=600):
    rng = np.random.default_rng(seed)
    return Trace(
        arrival_s=np.cumsum(rng.exponential(1 / rate, n)),
        prompt_tokens=rng.integers(1, longest, n),
        output_tokens=rng.integers(1, 200, n),
        name="random",
    )


def question(**changes):
    base = dict(
        model=load_model("llama-3.1-8b"),
        fleet=homogeneous("h100", gpus=4),
        trace=trace(),
        deployable=False,
        token_budgets=(512, 2048),
        max_seqs=(16,),
    )
    return Question(**(base | changes))


SPACES = {
    "dense": question(),
    "busy": question(trace=trace(rate=40.0, seed=1)),
    "experts": question(model=load_model("mixtral-8x7b"), trace=trace(n=60, seed=2), token_budgets=(2048,)),
    "policies": question(policies=("static", "orca", "vllm-v0", "vllm-v1", "sarathi"), token_budgets=(1024,)),
    "latent attention": question(
        model=load_model("deepseek-v3"),
        fleet=homogeneous("h200", gpus=8),
        trace=trace(n=40, seed=3),
        token_budgets=(2048,),
    ),
}
SLOS = (parse_slo("ttft_p99<=10s"), parse_slo("e2e_p99<=60s"))


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("space", sorted(SPACES))
def test_exhaustive_simulation_finds_nothing_better_than_the_certified_answer(space, objective):
    asked = dataclasses.replace(
        SPACES[space], objective=objective, slos=SLOS if objective == "goodput" else ()
    )
    certified = optimize(asked, silicon=False)
    exhaustive = optimize(asked, silicon=False, everything=True)
    assert certified.certificate.gap == 0
    assert exhaustive.certificate.simulated == exhaustive.certificate.feasible
    assert certified.results[0].value == exhaustive.results[0].value
    assert certified.certificate.simulated <= exhaustive.certificate.simulated


@pytest.mark.parametrize("space", sorted(SPACES))
def test_no_plan_beats_its_bound_on_any_objective(space):
    asked = SPACES[space]
    evaluator, stats = Evaluator(asked, silicon=False), TraceStats(asked.trace)
    for candidate in candidates_of(asked):
        plan, step = candidate.plan, evaluator.step(candidate)
        outcome = simulate(asked.trace, step, plan.engine, replicas=plan.replicas)
        limits = {"ttft": 0.2, "e2e": 3.0}
        values = metrics.summary(
            outcome, step, devices=plan.devices, usd_per_device_hour=3600.0, goodput_bounds_s=limits
        )
        if outcome.rejected:
            continue
        bounds = PlanBounds(step, plan, stats)
        for name, objective in OBJECTIVES.items():
            bound = bounds.bound(name, slo_s=limits, device_usd_per_s=1.0).value
            value = values[objective.metric]
            assert objective.score(bound) <= objective.score(value) * (
                1 - 1e-12 * np.sign(objective.score(value))
            ), (
                name,
                plan,
            )
        for metric in ("ttft", "tpot", "e2e"):
            for q in (50, 90, 99):
                assert bounds.bound(f"p{q}-{metric}").value <= values[f"{metric}_p{q}_s"]
        assert set(BOUNDED) >= {"latency", "makespan"}
        assert bounds.bound("makespan").value <= outcome.end_ps / 1e12


def test_a_search_cut_short_says_how_far_the_answer_may_be_from_the_best():
    asked = SPACES["policies"]
    whole = optimize(asked, silicon=False)
    cut = optimize(asked, silicon=False, max_simulations=1)
    certificate = cut.certificate
    assert certificate.simulated == 1
    assert certificate.proven <= whole.certificate.best <= certificate.best
    assert certificate.best - whole.certificate.best <= certificate.gap * certificate.best + 1e-12


def test_an_slo_out_of_reach_is_proven_without_simulating_every_plan():
    answer = optimize(question(slos=(parse_slo("ttft_p50<=1us"),)), silicon=False)
    simulated = answer.certificate.simulated  # plans with the best bounds are shown all the same
    assert simulated == len(answer.results) <= 2
    assert answer.certificate.excluded_by_slo == answer.certificate.feasible - simulated
    assert not answer.results[0].meets_slos


@pytest.mark.parametrize("objective", ["latency", "energy", "throughput"])
@pytest.mark.parametrize("metric", ["ttft_p90", "e2e_mean", "tpot_p50", "e2e_p99", "itl_mean"])
def test_an_slo_excludes_no_plan_that_meets_it(objective, metric):
    """With limits that some plans meet and some miss, simulation of all of them finds nothing better."""
    asked = dataclasses.replace(SPACES["busy"], objective=objective)
    found = {r.metrics[f"{metric}_s"] for r in optimize(asked, silicon=False, everything=True).results}
    for limit_s in np.quantile(sorted(found), [0.05, 0.5]):
        strict = dataclasses.replace(asked, slos=(parse_slo(f"{metric}<={limit_s * 1.0001}s"),))
        exhaustive = optimize(strict, silicon=False, everything=True)
        certified = optimize(strict, silicon=False)
        assert certified.certificate.best == exhaustive.certificate.best is not None
        assert certified.results[0].plan == exhaustive.results[0].plan


def test_relaxing_a_constraint_never_worsens_the_optimum():
    tight = optimize(question(fix={"attn_tp": 2}), silicon=False)
    loose = optimize(question(), silicon=False)
    assert loose.results[0].value <= tight.results[0].value
    more = optimize(question(fleet=homogeneous("h100", gpus=8)), silicon=False)
    assert more.results[0].value <= loose.results[0].value


def test_more_memory_bandwidth_never_worsens_a_bound():
    asked = question()
    faster = dataclasses.replace(
        asked.fleet.pools[0].device, bandwidth=asked.fleet.pools[0].device.bandwidth * 2
    )
    pool = dataclasses.replace(asked.fleet.pools[0], device=faster)
    better = dataclasses.replace(asked, fleet=dataclasses.replace(asked.fleet, pools=(pool,)))
    slow, fast = Evaluator(asked, silicon=False), Evaluator(better, silicon=False)
    for candidate in candidates_of(asked)[::5]:
        assert fast.bounded(candidate).bound <= slow.bounded(candidate).bound


def test_workers_and_repetition_give_the_same_bytes():
    from planner.report import to_json

    asked = SPACES["busy"]
    assert to_json(optimize(asked, silicon=False)) == to_json(optimize(asked, silicon=False, workers=2))
