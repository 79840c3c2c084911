"""Bounds with prices, and all bounds over thousands of small instances and every trace: below each scheduler."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from formulations import lagrangian as lg
from formulations import relaxations as rx
from planner import busy_energy, energy
from planner.alone import Alone
from planner.bounds import PRICEABLE, PRICED, PlanBounds, plan_bound
from planner.machines import Machines
from planner.priced import Pricing, prices_of
from planner.shares import ShareMaker, Shares, TraceStats
from profiles.plan import POLICIES, EngineSettings, Plan
from simulator.engine import simulate
from tests.planner.stepping import random_step, serve
from tests.planner.test_bounds import (
    TIGHT,
    M,
    achieved,
    burst,
    late_answer,
    linear_step,
    one,
    plan_of,
    random_trace,
    table,
)
from traces.read import read_trace
from traces.transform import first, scale_rate

SHARED = Path(os.environ.get("ZENITH_SHARED", Path(__file__).parents[3] / "shared")) / "traces"
FILES = sorted(f for f in SHARED.iterdir() if f.suffix in (".csv", ".jsonl")) if SHARED.is_dir() else []


def priced_bounds(seed):
    rng = np.random.default_rng(seed)
    stages, ranks, replicas = (int(v) for v in rng.integers(1, (4, 3, 3)))
    step = random_step(
        seed, stages=stages, ranks=ranks, max_seqs=int(rng.integers(1, 5)), convex=bool(rng.integers(2)),
        capacity=int(rng.integers(18, 60)), tokens=18,
    )  # fmt: skip
    plan = plan_of(step, replicas)
    trace = random_trace(seed, int(rng.integers(1, 12)), float(rng.choice([0.0, 5.0, 50.0])))
    return PlanBounds(step, plan, TraceStats(trace)), trace, rng


def any_prices(bounds, rng):
    buckets = int(rng.integers(2, 30))
    edges = bounds.pricing._edges(buckets, int(rng.integers(0, buckets)))
    shape = rng.exponential(1, (3, len(edges) - 1)) * 10 ** rng.uniform(-2, 1, (3, 1))
    keep = (rng.random((3, 1)) < 0.8) * shape
    found = lg.Prices(edges=edges, machine=keep[0] * 4, memory=keep[1] / 20, place=keep[2] / 4)
    stretch = rng.integers(0, len(edges) - found.first(bounds.pricing.requests(1.0, 1.0, 1.0)))
    company = rng.exponential(rng.choice([0.05, 0.5, 2.0]), stretch.sum())
    return replace(found, company=company, offset=np.concatenate([[0], np.cumsum(stretch)]))


def any_crowds(bounds, rng, found):
    """The same with a part of the machine's price for crowds, and any size of them."""
    part, size = rng.choice([0.5, 0.95, 1.0]), bounds.machines.busiest().prompts.mean() * rng.uniform(0.2, 4)
    crowd, size = part * found.machine, np.full(len(found.machine), size)
    return replace(found, machine=(1 - part) * found.machine, crowd=crowd, size=size)


@pytest.mark.parametrize("seed", range(36))
def test_no_scheduler_beats_any_prices(seed):
    """Those that are found, random ones, and what they prove of TTFT and E2E together."""
    bounds, trace, rng = priced_bounds(seed)
    proven = {o: bounds.priced(o).others[PRICED] for o in PRICEABLE}
    caps = [bounds.bound("latency").value * factor for factor in (1.0, 1.3, 3.0)]
    points = bounds.ttft_within(caps)
    drawn = []
    for _ in range(6):
        weights = [(1.0, 1.0), (1.0, 0.0), (1.3, 0.3)][int(rng.integers(3))]
        pace, prices = float(rng.choice([1.0, 3.0])), any_prices(bounds, rng)
        value = bounds.pricing.evaluate(prices, pace, *weights)
        drawn.append((weights, value / len(trace) / 1e12))
        value = bounds.pricing.evaluate(any_crowds(bounds, rng, prices), pace, 1.0, 1.0)
        drawn.append(((1.0, 1.0), value / len(trace) / 1e12))
    for attempt in range(3):
        outcome = serve(
            bounds.step, trace, seed=seed + attempt, replicas=bounds.plan.replicas,
            eager=float(rng.choice([0.4, 0.9, 1.0])), whole=float(rng.choice([0.0, 0.6, 1.0])),
            victims=float(rng.choice([0.0, 0.0, 0.3])),
        )  # fmt: skip
        found = achieved(bounds.step, bounds.plan, trace, *outcome)
        for objective, value in proven.items():
            assert value <= found[objective], objective
        for (before, after), value in drawn:
            assert value <= (before - after) * found["ttft"] + after * found["latency"]
        for cap, least in points:
            assert found["latency"] > cap or least <= found["ttft"]


@pytest.mark.parametrize("objective", PRICEABLE)
def test_stored_prices_prove_the_same_number(objective):
    bounds, _, _ = priced_bounds(7)
    found = bounds.priced(objective)
    assert bounds.at_prices(objective, found.prices) == found.others[PRICED]
    assert bounds.priced(objective) == found, "nothing is random"
    prices, _ = prices_of(found.prices)
    half = {**found.prices, "machine": (prices.machine / 2).tolist()}
    assert bounds.at_prices(objective, half) <= found.others[PRICED] * 1.5  # a bound, though another one


def test_a_joint_bound_says_more_than_ttft_alone():
    """A burst in which prompts could all come first, but then nobody is done in time."""
    step = linear_step(local_ps=table(900 * M, 300 * M))
    trace = burst(40, 4, 30)
    bounds = PlanBounds(step, plan_of(step), TraceStats(trace))
    alone, least = bounds.bound("ttft").value, bounds.bound("latency").value
    (_, tight), (_, loose), (_, never) = bounds.ttft_within([least * 1.02, least * 5, least * 0.9])
    assert tight > loose >= alone and never == float("inf")


# ---------------------------------------------------------------- every relaxation, broken by 1 %

BREAKS = {
    # what is broken: the case of test_bounds.TIGHT that notices, where it is, how a value of it grows
    "ends": ("work", rx, "ends"),
    "srpt_flow": ("shortest remaining first", rx, "srpt_flow"),
    "late_value": ("late", rx, "late_value"),
    "mean_busy_flow and lag": ("mean busy time", Machines, "lag_ps"),
    "work": ("iterations by tokens", ShareMaker, "_shares"),
    "longest end": ("longest answer", Shares, "chain"),
    "flights": ("energy without launches", Shares, "chain"),
    "KV memory x time": ("memory", Machines, "_area"),
    "launches": ("launches", ShareMaker, "_shares"),
    "places x time": ("places", Machines, "all"),
    "priced machine time": ("priced machine time", Machines, "priced_flow_ps"),
    "alone": ("unloaded", Alone, "e2e_ps"),
    "energy of work": ("energy", energy, "SAFE"),
    "energy of the longest answer": ("energy of the longest answer", ShareMaker, "whole"),
    "busy energy": ("energy while busy", busy_energy.BusyEnergy, "least_nj"),
}


def grown(value, factor=1.02):
    """Whatever a relaxation returns, 2 % larger: lag and busy time are half of the bound that they are in."""
    if isinstance(value, np.ndarray):
        return np.rint(value * factor).astype(value.dtype)
    if isinstance(value, list):
        return [replace(machine, work=grown(machine.work, factor)) for machine in value]
    if hasattr(value, "prompt"):
        changes = {name: grown(getattr(value, name), factor) for name in ("prompt", "decode", "constant")}
        return replace(value, **changes)
    return type(value)(value * factor)


def broken(monkeypatch, where, name):
    real = where.__dict__[name] if isinstance(where, type) else getattr(where, name)
    if isinstance(real, float):
        monkeypatch.setattr(where, name, real * 1.01)
    elif hasattr(real, "func"):  # a cached property
        monkeypatch.setattr(where, name, property(lambda self: grown(real.func(self), 1.01)))
    else:
        monkeypatch.setattr(where, name, lambda *args, **kwargs: grown(real(*args, **kwargs)))


@pytest.mark.parametrize("what", BREAKS)
def test_a_broken_relaxation_is_noticed(what, monkeypatch):
    case, where, name = BREAKS[what]
    changes, trace, objective, relaxation = TIGHT[case]
    step = linear_step(**changes)
    plan = plan_of(step)
    outcome = serve(step, trace, seed=0, eager=1.0, whole=1.0, victims=0.0)
    found = achieved(step, plan, trace, *outcome)[objective]
    assert plan_bound(step, plan, trace, objective).others[relaxation] <= found
    broken(monkeypatch, where, name)
    assert plan_bound(step, plan, trace, objective).others[relaxation] > found


def test_broken_work_before_the_longest_answer_is_noticed(monkeypatch):
    step, trace, found = late_answer()
    name = "work and the longest answer"
    assert plan_bound(step, plan_of(step), trace, "makespan").others[name] <= found
    broken(monkeypatch, Shares, "early")
    assert plan_bound(step, plan_of(step), trace, "makespan").others[name] > found


def test_launches_that_are_left_out_of_the_energy_are_noticed(monkeypatch):
    """Of lone requests each launch takes time: leaving out a hundredth of it proves too much."""
    changes, trace, objective, relaxation = TIGHT["energy of lone requests"]
    step = linear_step(**changes)
    outcome = serve(step, trace, seed=0, eager=1.0, whole=1.0, victims=0.0)
    found = achieved(step, plan_of(step), trace, *outcome)[objective]
    assert plan_bound(step, plan_of(step), trace, objective).others[relaxation] <= found
    real = Machines._relaunched

    def fewer(self, flown):
        flight = real(self, flown)
        return replace(flight, launches=tuple((n, 0.99 * part) for n, part in flight.launches))

    monkeypatch.setattr(Machines, "_relaunched", fewer)
    assert plan_bound(step, plan_of(step), trace, objective).others[relaxation] > found


def test_a_token_computed_again_gains_the_largest_launch_that_is_left_out(monkeypatch):
    """Whoever computes it: of two requests, one of whose launches counts half, the other gains all of its own."""
    seen, least = [], busy_energy.BusyEnergy.least_nj
    monkeypatch.setattr(
        busy_energy.BusyEnergy, "least_nj", lambda self, flights: seen.append(self) or least(self, flights)
    )
    step = linear_step(
        max_seqs=4, kv_blocks=30, prefill_launch_ps=np.array([2000 * M]), local_ps=table(900 * M, 20 * M),
        local_nj=table(900 * M, 30 * M), decode_value_nj=(5000 * M * np.arange(5))[None, :, None],
    )  # fmt: skip
    trace = burst(8, 4, 12)
    plan_bound(step, plan_of(step), trace, "energy")
    alone, both = (
        seen[0].events(0.3 * seen[0].highest, busy_energy.Flight(time_ps=0.0, launches=launches))
        for launches in (((1, 1.0),), ((1, 0.5), (1, 1.0)))
    )
    later = slice(int(trace.prompt_tokens[0]) + 1, None)
    assert seen[0].preempts and alone.alphas < 0.5 * both.alphas < 0
    assert np.allclose(both.decode[later] - both.prompt[later], alone.alphas)


def test_broken_prices_are_noticed(monkeypatch):
    """One request alone costs what free resources prove, to a billionth."""
    step = linear_step(local_ps=table(900 * M, 0))
    trace = burst(1, 8, 20)
    found = achieved(
        step, plan_of(step), trace, *serve(step, trace, seed=0, eager=1.0, whole=1.0, victims=0.0)
    )
    bounds = PlanBounds(step, plan_of(step), TraceStats(trace))
    value = bounds.priced("latency").others[PRICED]
    assert value <= found["latency"] <= value * 1.01
    real = Pricing.evaluate
    monkeypatch.setattr(Pricing, "evaluate", lambda *args: 1.01 * real(*args))
    assert bounds.priced("latency").others[PRICED] > found["latency"]


# ---------------------------------------------------------------- thousands of instances, every trace


def test_thousands_of_small_instances_stay_above_every_bound():
    """Every policy on random tables: makespan, latency, TTFT and energy."""
    runs = 0
    for seed in range(420):
        rng = np.random.default_rng(seed)
        stages, ranks, replicas = (int(v) for v in rng.integers(1, (3, 3, 3)))
        max_seqs = int(rng.integers(1, 5))
        step = random_step(
            seed, stages=stages, ranks=ranks, max_seqs=max_seqs, capacity=int(rng.integers(18, 80)), tokens=30
        )
        trace = random_trace(seed, int(rng.integers(1, 25)), float(rng.choice([0.0, 5.0, 30.0])))
        budget = int(rng.integers(4, 20))
        for policy in POLICIES:
            engine = EngineSettings(
                policy=policy, token_budget=budget, max_seqs=max_seqs, block_size=1, watermark=0.0,
                queue=("fcfs", "sjf")[seed % 2], preemption=("recompute", "swap")[seed // 2 % 2],
            )  # fmt: skip
            plan = Plan(
                replicas=replicas, layers_per_stage=(1,) * stages, attn_dp=ranks, ffn_dp=ranks, engine=engine
            )
            below(step, plan, trace, (seed, policy))
            runs += 1
    assert runs > 2000


def below(step, plan, trace, context):
    outcome = simulate(trace, step, plan.engine, replicas=plan.replicas)
    if outcome.rejected:
        return
    bounds = PlanBounds(step, plan, TraceStats(trace))
    arrival = outcome.arrival_ps
    found = {
        "makespan": (outcome.finish_ps.max() - arrival[0]) / 1e12,
        "latency": (outcome.finish_ps - arrival).mean() / 1e12,
        "ttft": (outcome.first_token_ps - arrival).mean() / 1e12,
        "energy": outcome.energy_j,
    }
    for objective, value in found.items():
        for name, bound in bounds.bound(objective).others.items():
            assert bound <= value, (objective, name, bound, value, context)


@pytest.mark.skipif(not FILES, reason="no traces beside the checkout")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("speed", [1.0, 6.0])
def test_every_trace_stays_above_every_bound(file, speed):
    """The first requests on a made-up engine; prices too."""
    trace = scale_rate(first(read_trace(file, skip_bad_rows=True).trace, 200), speed)
    trace = replace(trace, arrival_s=trace.arrival_s - trace.arrival_s[0])
    longest = int((trace.prompt_tokens + trace.output_tokens).max())
    tokens, batch = longest + 64, np.arange(65, dtype=np.int64)[None, :, None]
    line = np.arange(tokens + 1, dtype=np.int64)[None, :]
    step = random_step(3, max_seqs=64, tokens=tokens, longest=longest, capacity=4 * longest // 16 + 64)
    step = replace(
        step, knots=np.array([0], np.int64), local_ps=9 * 10**9 + 30 * M * line, shared_ps=0 * line,
        head_ps=np.zeros(65, np.int64), decode_value_ps=20 * M * batch, decode_slope_ps=0 * batch + 15_000,
        prefill_launch_ps=np.array([10**9]), prefill_ps=2_000 * line[:, : longest + 1],
        local_nj=25 * 10**9 + 90 * M * line, shared_nj=0 * line, head_nj=np.zeros(65, np.int64),
        decode_value_nj=30 * M * batch, decode_slope_nj=0 * batch + 40_000, prefill_launch_nj=np.array([M]),
        prefill_nj=8_000 * line[:, : longest + 1], idle_w=600.0, swap_block_ps=10 * M,
    )  # fmt: skip
    for policy in POLICIES:
        engine = EngineSettings(policy=policy, token_budget=512, max_seqs=64, block_size=16)
        plan = Plan(replicas=1, layers_per_stage=(1,), engine=engine)
        below(step, plan, trace, policy)
        if policy == "vllm-v1":
            outcome = simulate(trace, step, engine)
            bounds = PlanBounds(step, plan, TraceStats(trace))
            for objective, ends in (("latency", outcome.finish_ps), ("ttft", outcome.first_token_ps)):
                value = bounds.priced(objective).others[PRICED]
                assert outcome.rejected or value <= (ends - outcome.arrival_ps).mean() / 1e12


def test_a_token_computed_again_for_nothing_gains_what_it_gains():
    """Where tables are flat a preempted token is computed again at no cost of its own."""
    step = linear_step(local_ps=table(4 * M, 0), decode_value_ps=(2 * M * np.arange(9))[None, :, None])
    trace, plan = one(4, 2), plan_of(step)
    runs = [serve(step, trace, seed=seed, eager=1.0, whole=1.0, victims=0.5) for seed in range(20)]
    best = min(achieved(step, plan, trace, *run)["latency"] for run in runs)
    assert PlanBounds(step, plan, TraceStats(trace)).priced("latency").value <= best * (1 + 1e-9)
