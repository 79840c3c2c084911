"""Shares of what binds a plan add up, and follow what each resource is made to take."""

from dataclasses import replace

import numpy as np
import pytest

from planner.axes import parse_axes
from planner.binding import BY_DEVICE, COLLECTIVES, binding_of
from planner.objective import OBJECTIVES
from planner.pipeline import Candidate, Evaluator, simulate_plan
from planner.placement import place
from planner.question import Question, parse_slo, plan_from_axes
from planner.report import binding_text
from profiles.fleet import Fleet, homogeneous
from profiles.huggingface import load_model
from profiles.moved import Moved
from simulator.engine import simulate
from traces.synth import synthesize


def question(model="llama-3.1-8b", device="h100", gpus=2, requests=30, rate=2.0, **changes):
    asked = {
        "model": load_model(model),
        "fleet": homogeneous(device, gpus=gpus),
        "trace": synthesize(requests=requests, rate=rate, prompt_mean=300, output_mean=60),
    }
    return Question(**(asked | changes))


def bound_by(asked, plan="tp=2", moved=None):
    evaluator = Evaluator(asked, silicon=False, **({"moved": moved} if moved else {}))
    named = plan_from_axes(asked.model, parse_axes(plan))
    candidate = Candidate(plan=named, pool=0, placement=place(named, asked.fleet.pools[0]))
    return binding_of(evaluator, candidate), evaluator, candidate


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b", "whisper-large-v3", "clip-vit-l-14"])
def test_what_binds_adds_up_to_the_metric(model, objective):
    slos = (parse_slo("e2e_p95<=9s"),) if objective == "goodput" else ()
    asked = question(model=model, gpus=4, objective=objective, slos=slos)
    answer, _ = simulate_plan(asked, plan_from_axes(asked.model, parse_axes("tp=4")), silicon=False)
    binding, metrics = answer.binding, answer.results[0].metrics
    expected = metrics["makespan_s"] if objective in BY_DEVICE else metrics["e2e_mean_s"]
    assert binding.total_s == pytest.approx(expected, rel=1e-9)
    assert sum(binding.seconds.values()) == pytest.approx(binding.total_s, rel=1e-9)
    assert sum(binding.shares.values()) == pytest.approx(1) and min(binding.seconds.values()) >= 0
    assert binding.resource in binding_text(binding)
    if objective not in BY_DEVICE:
        assert binding.seconds["queueing"] == pytest.approx(answer.results[0].wait_s, abs=1e-12)
    else:
        assert binding.seconds["idle"] / binding.total_s == pytest.approx(metrics["idle_share"], abs=1e-9)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "mixtral-8x7b", "clip-vit-l-14"])
def test_collectives_are_found_wherever_they_are(model):
    """Against a machine whose links cost next to nothing: what vanishes is the interconnect's."""
    asked = question(model=model, gpus=4, engine="none", requests=1)
    plain, evaluator, candidate = bound_by(asked, "tp=4")
    free = Moved(factors=(("collective_scale", 1e-6),))
    without, other, _ = bound_by(asked, "tp=4", moved=free)
    assert plain.seconds["interconnect"] == pytest.approx(plain.total_s - without.total_s, rel=1e-3)
    assert plain.seconds["host overhead"] == pytest.approx(0, abs=1e-4 * plain.total_s)
    named = simulate(asked.trace, evaluator.step(candidate), candidate.plan.engine).breakdown_ps
    gone = simulate(asked.trace, other.step(candidate), candidate.plan.engine).breakdown_ps
    shrunk = {name for name in named if gone.get(name, 0) < 0.01 * named[name]}
    assert shrunk == COLLECTIVES & set(named)


def test_transfers_between_stages_are_interconnect():
    binding, *_ = bound_by(question(), "pp=2,tp=1")
    assert binding.seconds["interconnect"] > 0


def test_the_host_takes_what_its_constants_say():
    """One request: every iteration has the engine's constants once."""
    asked = question(requests=1, engine="vllm-v0")
    binding, evaluator, _ = bound_by(asked)
    engine = evaluator.compilers[0].engine
    tokens = int(asked.trace.output_tokens[0])
    expected = tokens * (engine.iteration_s + engine.sequence_s) + engine.prefill_s
    assert binding.seconds["host overhead"] == pytest.approx(expected, rel=1e-3)
    assert binding.shares["host overhead"] * binding.total_s == pytest.approx(expected, rel=1e-3)


def test_long_prompts_are_bound_by_compute_and_single_tokens_by_memory():
    prompts = question(requests=4, engine="none")
    trace = replace(prompts.trace, prompt_tokens=np.full(4, 4000), output_tokens=np.ones(4, int))
    assert bound_by(replace(prompts, trace=trace), "tp=1")[0].resource == "compute"
    trace = replace(prompts.trace, prompt_tokens=np.ones(4, int), output_tokens=np.full(4, 300))
    assert bound_by(replace(prompts, trace=trace), "tp=1")[0].resource == "HBM bandwidth"


def crowded(memory_share):
    """A burst on a device with little room beside the weights."""
    asked = question(requests=200, rate=500.0, gpus=1)
    pool = asked.fleet.pools[0]
    device = replace(pool.device, memory_bytes=int(pool.device.memory_bytes * memory_share))
    return replace(asked, fleet=Fleet(pools=(replace(pool, device=device),)))


def test_a_full_cache_is_told_from_a_queue():
    full, evaluator, candidate = bound_by(crowded(0.24), "tp=1")
    assert full.capacity_simulated and full.seconds["HBM capacity"] > 0.2 * full.total_s
    step = evaluator.step(candidate)
    endless = simulate(
        evaluator.question.trace,
        replace(step, kv_blocks=10**6),
        replace(candidate.plan.engine, watermark=0.0),
    )
    free_s = (endless.finish_ps - endless.arrival_ps).mean() * 1e-12
    assert full.seconds["HBM capacity"] == pytest.approx(full.total_s - free_s, rel=1e-9)
    roomy, *_ = bound_by(crowded(1.0), "tp=1")
    assert not roomy.capacity_simulated and roomy.seconds["HBM capacity"] == 0


def test_where_requests_never_fit_the_others_are_explained():
    asked = crowded(0.24)
    trace = replace(asked.trace, prompt_tokens=np.where(np.arange(200) == 7, 60_000, 300))
    binding, *_ = bound_by(replace(asked, trace=trace), "tp=1")
    assert sum(binding.seconds.values()) == pytest.approx(binding.total_s)
