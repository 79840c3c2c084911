"""What the pipeline passes between its steps."""

import dataclasses

import numpy as np
import pytest

from planner.errors import NoFeasiblePlan
from planner.pipeline import Candidate, Evaluator, candidates_of, fitted, optimize
from planner.placement import place
from planner.question import Question
from profiles.engine import Residual, load_engine
from profiles.errors import InputError
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.plan import Plan
from traces.trace import Trace

TRACE = Trace(
    arrival_s=np.arange(4.0), prompt_tokens=np.full(4, 100), output_tokens=np.full(4, 10), name="four"
)


def step_on(nodes: int, plan: Plan):
    fleet = homogeneous("h100", nodes=nodes, gpus_per_node=4 // nodes)
    asked = Question(model=load_model("llama-3.1-8b"), fleet=fleet, trace=TRACE, cross_node_tensor=True)
    placement = place(plan, fleet.pools[0])
    return Evaluator(asked, silicon=False).step(Candidate(plan=plan, pool=0, placement=placement))


def test_collectives_take_the_time_of_the_links_that_the_placement_uses():
    wide = Plan(layers_per_stage=(32,), attn_tp=4, ffn_tp=4)
    near, far = step_on(1, wide), step_on(2, wide)
    for part in ("attention_allreduce", "ffn_allreduce"):
        assert (far.local_parts | far.shared_parts)[part].sum() > 1.5 * (
            near.local_parts | near.shared_parts
        )[part].sum()
    staged = Plan(layers_per_stage=(16, 16), attn_tp=2, ffn_tp=2)
    assert step_on(2, staged).send_ps.sum() > step_on(1, staged).send_ps.sum()
    assert np.array_equal(step_on(2, staged).shared_ps, step_on(1, staged).shared_ps)


def test_a_trace_longer_than_the_clock_is_refused_with_the_way_out():
    late = dataclasses.replace(TRACE, arrival_s=np.array([0.0, 1.0, 2.0, 121 * 86_400.0]))
    asked = Question(model=load_model("gpt2"), fleet=homogeneous("h100", gpus=1), trace=late)
    with pytest.raises(InputError, match=r"four: arrivals span 121 days, at most 100 .*trace scale --window"):
        fitted(asked)


@pytest.mark.parametrize("clock", [5, 779, 1981])
def test_a_clock_that_the_device_does_not_have_is_refused(clock):
    fleet = homogeneous("h100", gpus=1)
    with pytest.raises(InputError, match=f"clock {clock} MHz: h100-sxm-80gb is known from 780 to 1980 MHz"):
        Question(model=load_model("gpt2"), fleet=fleet, trace=TRACE, clocks=(0, 1980, clock))


def test_the_watermark_of_the_question_is_that_of_its_plans():
    asked = Question(model=load_model("gpt2"), fleet=homogeneous("l4", gpus=1), trace=TRACE, watermark=0.25)
    assert asked.settings().watermark == 0.25
    with pytest.raises(InputError, match="watermark must be in"):
        Question(model=load_model("gpt2"), fleet=homogeneous("l4", gpus=1), trace=TRACE, watermark=1.0)


def test_widths_that_need_more_devices_than_there_are_say_how_many():
    asked = Question(
        model=load_model("llama-3.1-70b"), fleet=homogeneous("h100", gpus=8), trace=TRACE,
        fix={"attn_tp": 4, "pp": 2, "dp": 2},
    )  # fmt: skip
    with pytest.raises(NoFeasiblePlan, match="what is fixed needs 16 devices"):
        candidates_of(asked)


def test_an_answer_says_which_plans_predictions_cannot_tell_from_the_best(monkeypatch):
    trace = dataclasses.replace(TRACE, arrival_s=np.arange(4.0) * 1e-3)
    asked = Question(model=load_model("gpt2"), fleet=homogeneous("l40s", gpus=2), trace=trace)
    found = optimize(asked, silicon=False, everything=True)
    first = found.results[0]
    behind = [abs(r.value / first.value - 1) for r in found.results if r.plan.label != first.plan.label]

    def notes(reach):
        """Of an answer whose best plan may be measured so much later."""
        off = {"e2e": Residual(low=1 / (1 + reach) - 1, high=0.0)}
        monkeypatch.setattr(
            "planner.pipeline.load_engine",
            lambda name: dataclasses.replace(
                load_engine(name), name="mine", residuals=off, residuals_of="my runs"
            ),
        )
        return optimize(asked, silicon=False, everything=True).notes

    inside = "inside the interval of the best plan (my runs)"
    assert sum(inside in note for note in notes(min(behind) * 1.01)) == 1
    assert not any(inside in note for note in notes(min(behind) * 0.99))


def test_a_clock_is_searched_once_under_either_name():
    asked = Question(
        model=load_model("gpt2"), fleet=homogeneous("h100", gpus=1), trace=TRACE, clocks=(1980, 0, 990)
    )
    assert {c.plan.clock_mhz for c in candidates_of(asked)} == {0, 990}
    assert len(candidates_of(asked)) == 2 * len(candidates_of(dataclasses.replace(asked, clocks=(0,))))


def test_a_clock_that_is_fixed_is_checked_too():
    with pytest.raises(InputError, match="clock 1 MHz"):
        Question(model=load_model("gpt2"), fleet=homogeneous("h100", gpus=1), trace=TRACE, fix={"clock": 1})
