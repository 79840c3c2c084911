"""Intervals hold what was measured exactly where its error lies between the quantiles, and come with every plan."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.intervals import Interval, between, intervals
from planner.pipeline import optimize
from planner.question import Question
from planner.ranking import SloResult
from planner.report import answer_dict, to_text
from planner.slo import parse_slo
from profiles.engine import EngineProfile, Residual, load_engine
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.residuals import Kind
from traces.trace import Trace

KIND = Kind(device="h100-sxm-80gb", policy="vllm-v1", experts=False, modelled=0.0)


def engine(low, high):
    residuals = dict.fromkeys(("ttft", "itl", "e2e"), Residual(low=low, high=high))
    return EngineProfile(
        name="mine", iteration_s=0, sequence_s=0, prefill_s=0, source="", error="", residuals=residuals,
        residuals_of="my runs",
    )  # fmt: skip


@settings(deadline=None, max_examples=80, derandomize=True)
@given(
    predicted=st.floats(1e-3, 1e3),
    measured=st.floats(1e-3, 1e3),
    low=st.floats(-0.9, 0.0),
    high=st.floats(0.0, 5.0),
)
def test_a_measurement_is_inside_where_its_error_is(predicted, measured, low, high):
    error = predicted / measured - 1
    found = intervals({"e2e_mean_s": predicted}, 0.0, engine(low, high), KIND).of["e2e_mean_s"]
    if min(abs(error - low), abs(error - high)) > 1e-9:
        assert (found.low <= measured <= found.high) == (low <= error <= high)
    assert found.low <= predicted <= found.high and found.source == "my runs"


def test_arrivals_are_certain():
    metrics = {"makespan_s": 12.0, "ttft_mean_s": 1.0, "tpot_mean_s": None}
    found = intervals(metrics, 10.0, engine(-0.5, 1.0), KIND).of
    assert (found["makespan_s"].low, found["makespan_s"].high) == (11.0, 14.0)
    assert set(found) == {"makespan_s", "ttft_mean_s"}
    assert intervals({"makespan_s": 5.0}, 10.0, engine(-0.5, 1.0), KIND).of["makespan_s"].high == 10.0


def test_of_an_engine_that_was_never_measured_nothing_is_said():
    assert not intervals({"e2e_mean_s": 1.0}, 0.0, load_engine("none"), KIND).of


def test_the_unit_is_said_once_where_it_is_one():
    assert between(0.001, 0.002) == "1-2 ms" and between(0.5, 2.0) == "500 ms-2.00 s"


@pytest.fixture(scope="module")
def answer():
    generator = np.random.default_rng(0)
    trace = Trace(
        arrival_s=np.sort(generator.uniform(0, 20, 30)),
        prompt_tokens=generator.integers(50, 500, 30),
        output_tokens=generator.integers(5, 100, 30),
    )
    return optimize(
        Question(
            model=load_model("llama-3.1-8b"),
            fleet=homogeneous("l40s", gpus=2),
            trace=trace,
            slos=(parse_slo("e2e_p99.9<=10s"),),
        ),
        silicon=False,
    )


def test_every_plan_of_an_answer_has_them(answer):
    for plan in answer_dict(answer)["plans"]:
        times = {key for key in plan["metrics"] if key.startswith(("ttft", "tpot", "itl", "e2e", "makespan"))}
        assert set(plan["intervals"]) == times | {"e2e_p99.9_s"}
        for name, interval in plan["intervals"].items():
            value = plan["metrics"].get(name) or plan["slos"][0]["value_s"]
            assert interval["low"] <= value <= interval["high"]
            assert "roofline" in interval["source"]


def test_percentiles_are_less_sure_than_means():
    found = intervals(dict.fromkeys(("ttft_mean_s", "ttft_p99_s", "itl_p50_s", "itl_max_s"), 1.0), 0.0,
                      engine(-0.5, 1.0), KIND).of  # fmt: skip
    mean, tail = found["ttft_mean_s"], found["ttft_p99_s"]
    assert tail.low < mean.low < mean.high < tail.high
    assert found["itl_p50_s"] == found["itl_max_s"] == tail, "a gap may be that of an iteration with prompts"


def test_a_person_sees_them(answer):
    best = answer.results[0]
    text = to_text(answer)
    assert f"({between(best.intervals.of['e2e_mean_s'].low, best.intervals.of['e2e_mean_s'].high)})" in text
    assert (
        "in brackets" in text
        and "expected, by errors of" in text
        and all(len(line) <= 80 for line in text.splitlines())
    )


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("4s", "5.10 s (5.00-6.00 s), NOT met"),
        ("5.05s", "5.10 s (5.00-6.00 s), NOT met, the limit inside the interval"),
        ("5.2s", "5.10 s (5.00-6.00 s), met, the limit inside the interval"),
        ("6s", "5.10 s (5.00-6.00 s), met"),
        ("4.9s", "5.10 s (5.00-6.00 s), NOT met"),
    ],
)
def test_a_limit_inside_the_interval_is_said(answer, limit, said):
    best, slo = answer.results[0], parse_slo(f"e2e_p99<={limit}")
    found = replace(best.intervals, of={slo.key: Interval(low=5.0, high=6.0, source="my runs")})
    asked = SloResult(key=slo.key, text=slo.text, value=5.1, limit=slo.limit)
    text = to_text(replace(answer, results=[replace(best, slos=(asked,), intervals=found)]))
    assert f"{slo.text}: {said} latency is" in " ".join(text.split())


def test_what_was_measured_on_the_other_side_of_a_limit_is_said(answer):
    """An interval need not hold the prediction: of some servers all were slower than predicted."""
    best, slo = answer.results[0], parse_slo("ttft_mean<=32ms")
    asked = SloResult(key=slo.key, text=slo.text, value=0.030, limit=slo.limit)
    for low, high, value, words in (
        (0.035, 0.073, 0.030, "met as predicted, but such servers were measured beyond the limit"),
        (0.010, 0.031, 0.033, "NOT met as predicted, but such servers were measured within the limit"),
    ):
        found = replace(best.intervals, of={slo.key: Interval(low=low, high=high, source="my runs")})
        shown = replace(best, slos=(replace(asked, value=value),), intervals=found)
        text = " ".join(to_text(replace(answer, results=[shown])).split())
        assert f"), {words} latency is" in text
        (said,) = answer_dict(replace(answer, results=[shown]))["plans"][0]["slos"]
        assert said["in_doubt"]


def test_below_the_median_nothing_is_known():
    found = intervals({"ttft_p5_s": 1.0, "ttft_p50_s": 1.0}, 0.0, engine(-0.5, 1.0), KIND).of
    assert set(found) == {"ttft_p50_s"}
