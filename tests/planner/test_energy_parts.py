"""Energy by part adds up to the simulation's, and each part is what vanishes with its tables."""

from dataclasses import replace

import numpy as np
import pytest

from planner.axes import parse_axes
from planner.energy_parts import energy_by_part
from planner.pipeline import Candidate, Evaluator, simulate_plan
from planner.placement import place
from planner.question import Question, plan_from_axes
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from simulator.engine import simulate
from traces.synth import synthesize

CASES = [("llama-3.1-8b", "tp=2,dp=2"), ("llama-3.1-8b", "pp=2,tp=2"), ("mixtral-8x7b", "tp=2,attn_dp=2,ep=4,ffn_tp=1"),
         ("llama-3.1-8b", "tp=4,clock=1200"), ("clip-vit-l-14", "tp=2")]  # fmt: skip


def served(model, axes):
    asked = Question(
        model=load_model(model), fleet=homogeneous("h100", gpus=4), deployable=False,
        trace=synthesize(requests=25, rate=4.0, prompt_mean=300, output_mean=40),
    )  # fmt: skip
    plan = plan_from_axes(asked.model, parse_axes(axes))
    answer, outcome = simulate_plan(asked, plan, silicon=False)
    return asked, answer.results[0], outcome


@pytest.mark.parametrize(("model", "axes"), CASES)
def test_parts_add_up_to_the_energy_above_idle(model, axes):
    asked, result, outcome = served(model, axes)
    parts = energy_by_part(asked, result, silicon=False)
    assert sum(parts.values()) == pytest.approx(outcome.energy_nj * 1e-9, rel=1e-6)
    assert min(parts.values()) >= 0 and "host" not in parts
    named = set(result.breakdown_s) - {"host", "attention (decode)", "attention (prefill)"}
    assert set(parts) - {"attention (prefill, decode)"} == named


@pytest.mark.parametrize(("model", "axes"), CASES[:4])
def test_attention_and_transfers_are_what_vanishes_without_their_tables(model, axes):
    asked, result, outcome = served(model, axes)
    parts = energy_by_part(asked, result, silicon=False)
    evaluator = Evaluator(replace(asked, trace=replace(asked.trace, arrival_s=asked.trace.arrival_s
                                                       - asked.trace.arrival_s[0])), silicon=False)  # fmt: skip
    plan = result.plan
    step = evaluator.step(Candidate(plan=plan, pool=0, placement=place(plan, asked.fleet.pools[0])))

    def joules_without(*names):
        none = {name: np.zeros_like(getattr(step, name)) for name in names}
        other = simulate(evaluator.question.trace, replace(step, **none), plan.engine, replicas=plan.replicas)
        return (outcome.energy_nj - other.energy_nj) * 1e-9

    attention = joules_without("decode_value_nj", "decode_slope_nj", "prefill_launch_nj", "prefill_nj")
    assert parts["attention (prefill, decode)"] == pytest.approx(attention, rel=1e-4)
    assert parts.get("send/recv", 0.0) == pytest.approx(joules_without("send_nj"), rel=1e-9)
