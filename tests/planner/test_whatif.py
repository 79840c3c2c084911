"""Every scenario is the certified answer to its own question; work is shared; laws of relaxation hold."""

import csv
import dataclasses
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner import pipeline, whatif_text
from planner.errors import NoFeasiblePlan
from planner.objective import OBJECTIVES
from planner.pipeline import optimize
from planner.printable import quantity
from planner.question import Question, parse_pairs, parse_slo
from planner.question_file import load_question
from planner.store import Store, trace_content
from planner.vary import Axis, apply, combinations, parse_axes, parse_axis, sets, words
from planner.whatif import sweep
from profiles.errors import InputError
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.plan import Plan
from traces.trace import Trace

LAWFUL = settings(deadline=None, max_examples=40, derandomize=True)


def trace(n=40, rate=20.0, seed=0):
    rng = np.random.default_rng(seed)
    return Trace(
        arrival_s=np.cumsum(rng.exponential(1 / rate, n)) - 0.0,
        prompt_tokens=rng.integers(5, 400, n),
        output_tokens=rng.integers(1, 60, n),
        name="random",
    )


def question(**changes):
    base = {
        "model": load_model("opt-125m"),
        "fleet": homogeneous("l40s", gpus=2),
        "trace": trace(),
        "engine": "none",
        "token_budgets": (512, 2048),
    }
    return Question(**(base | changes))


def vary(*texts, asked=None, **limits):
    return sweep(asked or question(), parse_axes(texts), silicon=False, **limits)


# ---------------------------------------------------------------------------------------------- answers


@pytest.fixture(scope="module")
def found():
    return vary("gpus=1,2", "rate=x1,30/s", "slo.ttft_p95=1us,5ms,none", "objective=latency,energy")


def test_every_scenario_is_the_answer_to_its_own_question(found):
    assert len(found.scenarios) == 24
    for scenario in found.scenarios:
        values = scenario.values
        slos = () if (limit := values["slo.ttft_p95"]) == "none" else (parse_slo(f"ttft_p95<={limit}"),)
        own = question(
            fleet=homogeneous("l40s", gpus=int(values["gpus"])),
            objective=values["objective"],
            slos=slos,
            trace=scenario.question.trace,
        )
        answer = optimize(own, silicon=False)
        assert scenario.answer == answer
        assert scenario.holds == answer.results[0].acceptable
    rates = {s.values["rate"]: s.question.trace.rate_per_s for s in found.scenarios}
    assert rates["30/s"] == pytest.approx(30.0) and rates["x1"] == question().trace.rate_per_s


def test_a_plan_is_compiled_once_and_simulated_once_a_trace(monkeypatch):
    seen = []

    def counted(trace, step, engine, *, replicas):
        seen.append((trace_content(trace), id(step), replicas, engine))
        return simulate(trace, step, engine, replicas=replicas)

    simulate = pipeline.simulate
    monkeypatch.setattr(pipeline, "simulate", counted)
    store = Store()
    alone = vary("slo.e2e_p95=10s", everything=True, store=store)
    plans = alone.scenarios[0].answer.certificate.feasible
    assert len(seen) == plans
    vary("slo.e2e_p95=10s,1s,50ms,20ms", "objective=latency,energy,throughput", everything=True, store=store)
    assert len(seen) == plans == store.made["cost tables"], (
        "twelve scenarios cost no simulation more than one"
    )
    vary("rate=x1,x2", everything=True, store=store)
    assert len(seen) == len(set(seen)) == 2 * plans and store.made["cost tables"] == plans


def test_scenarios_without_a_plan_say_why_and_the_others_are_answered():
    asked = question(model=load_model("llama-3.1-70b"), trace=trace(8))
    result = vary("gpus=1,8", asked=asked)
    first, second = result.scenarios
    assert first.answer is None and first.proven and "weights of" in first.reason and not first.holds
    assert second.holds and "first scenario has no plan" in second.change
    assert "No plan for llama-3.1-70b on 1 x l40s" in " ".join(whatif_text.to_text(result).split())


def test_a_combination_that_contradicts_itself_is_named_before_anything_is_solved():
    for texts, named in (
        (["objective=latency,goodput"], "objective=goodput: Objective 'goodput'"),
        (["gpus=1,2", "budget=2048,8"], "--vary gpus=1 --vary budget=8: token budget 8"),
    ):
        with pytest.raises(InputError, match=named):
            vary(*texts, progress=lambda done, of, words: pytest.fail(words))
    pools = homogeneous("l40s", gpus=2)
    own = dataclasses.replace(pools.pools[0], price_usd_per_device_hour=0.1)
    with pytest.raises(InputError, match="expected a fleet of --device"):
        vary("gpus=1,2", asked=question(fleet=dataclasses.replace(pools, pools=(own,))))


# ---------------------------------------------------------------------------------------------- reasons


def test_the_change_names_the_plan_and_why_the_first_one_lost():
    asked = question(model=load_model("llama-3.1-8b"), engine="vllm-v1", fix={"pp": 1}, token_budgets=(2048,))
    result = vary("objective=latency,cost", "gpus=4,2", asked=asked)
    first, fewer, cheap, _ = result.scenarios
    assert first.change == "" and first.best.plan.devices == 4
    assert fewer.best.plan.devices == 2
    assert fewer.change.startswith(f"{fewer.best.plan.label} instead of {first.best.plan.label}")
    assert "takes 4 devices, 2 are free" in fewer.change
    assert cheap.best.plan != first.best.plan
    assert f"; {first.best.plan.label}" in cheap.change
    assert "latency" not in cheap.change, "values of two objectives are not compared"


def test_how_far_a_latency_moved_has_a_unit_that_fits():
    asked = question(trace=trace(300, 1.0), max_seqs=(1,), fix={"attn_tp": 1, "dp": 1})
    _, fast = vary("rate=x1,x1000", asked=asked).scenarios
    assert re.search(r"latency \+[0-9.]+% \([a-z ]+ \+[0-9]+\.[0-9]+ s\)", fast.change), fast.change


def test_a_cost_that_moves_with_the_arrivals_says_how_long_they_take():
    first, twice = vary("rate=x1,x2", asked=question(objective="cost", fix={"attn_tp": 1, "dp": 1})).scenarios
    old, new = (quantity(each.best.metrics["makespan_s"], "s") for each in (first, twice))
    assert f"(all served in {new} instead of {old})" in twice.change and old != new
    assert "served" not in vary("gpus=2,1", asked=question(objective="cost")).scenarios[1].change


def test_an_slo_that_no_scheduler_of_the_first_plan_meets_is_said():
    asked = question(model=load_model("llama-3.1-8b"), objective="cost", engine="vllm-v1", fix={"pp": 1})
    values = [r.metrics["tpot_p95_s"] for r in optimize(asked, silicon=False, everything=True).results]
    limit = sorted(values)[1] * 1.001
    _, tight = vary("slo.tpot_p95=none," + f"{limit * 1e3:.9f}ms", asked=asked).scenarios
    assert tight.holds and tight.change.split("; ")[1].startswith("tp=1")
    assert "no scheduler gets tpot_p95 below" in tight.change or "breaks tpot_p95" in tight.change


def test_plans_of_several_pools_say_where_they_are():
    pools = (*homogeneous("l40s", gpus=1).pools, *homogeneous("h100", gpus=1).pools)
    fleet = dataclasses.replace(homogeneous("l40s", gpus=1), pools=pools)
    asked = question(model=load_model("llama-3.1-8b"), fleet=fleet, fix={"budget": 2048})
    result = vary("objective=latency,cost", asked=asked)
    fast, cheap = result.scenarios
    assert (fast.best.pool, cheap.best.pool) == ("h100-sxm-80gb", "l40s")
    assert cheap.change == "same plan on l40s instead of h100-sxm-80gb"
    assert "tp=1 on l40s" in " ".join(whatif_text.to_text(result).split())


def test_the_same_plan_is_said_to_be_the_same():
    _, same, slow = vary("slo.e2e_p95=10s,9s", "tp=1").scenarios + vary("rate=x1,x0.01").scenarios[1:]
    assert same.change == "same plan, same figures"
    assert slow.change.startswith("same plan, latency ") or "instead of" in slow.change


# ------------------------------------------------------------------------------------------------- laws


def score(answer, objective):
    """Of the winner, lower is better; infinite where no plan holds."""
    best = answer.results[0]
    return OBJECTIVES[objective].score(best.value) if best.acceptable else math.inf


def proven(asked, store):
    try:
        answer = optimize(asked, silicon=False, store=store)
    except NoFeasiblePlan:
        return math.inf
    assert answer.certificate.gap == 0
    return score(answer, asked.objective)


SPACE = {"model": load_model("llama-3.1-8b"), "trace": trace(30, 10.0), "engine": "vllm-v1"}
SHARED = Store()


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - {"goodput"}))
@pytest.mark.parametrize("statistic", ["ttft_p95", "tpot_mean", "e2e_p99", "itl_p95"])
def test_a_looser_limit_never_worsens_the_best_and_a_limit_never_improves_it(objective, statistic):
    asked = question(**SPACE, fleet=homogeneous("h100", gpus=4), objective=objective)
    everything = optimize(asked, silicon=False, everything=True, store=SHARED).results
    reached = sorted({r.metrics[f"{statistic}_s"] for r in everything})
    limits = [reached[0] / 2, reached[0] * 1.000001, float(np.median(reached)) * 1.000001, reached[-1] * 2]
    free = proven(asked, SHARED)
    scores = [
        proven(dataclasses.replace(asked, slos=(parse_slo(f"{statistic}<={limit!r}s"),)), SHARED)
        for limit in map(float, limits)
    ]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == math.inf > scores[1] and scores[-1] == free


@pytest.mark.parametrize("objective", ["latency", "energy", "cost", "throughput"])
def test_more_devices_never_worsen_the_best(objective):
    scores = [
        proven(question(**SPACE, fleet=homogeneous("h100", gpus=gpus), objective=objective), SHARED)
        for gpus in (1, 2, 3, 4, 8)
    ]
    assert scores == sorted(scores, reverse=True)


@settings(LAWFUL, max_examples=12)
@given(
    forbidden=st.lists(st.sampled_from(["tp=1", "tp=2", "tp=4", "pp=2", "dp=2", "budget=512"]), unique=True),
    objective=st.sampled_from(["latency", "energy", "ttft"]),
)
def test_each_value_forbidden_never_improves_the_best(forbidden, objective):
    asked = question(**SPACE, fleet=homogeneous("h100", gpus=4), objective=objective)
    scores = [
        proven(dataclasses.replace(asked, forbid=tuple(parse_pairs(",".join(forbidden[:n])) if n else ())), SHARED)
        for n in range(len(forbidden) + 1)
    ]  # fmt: skip
    assert scores == sorted(scores)


CONSTRAINTS = [
    *({"forbid": pair} for pair in parse_pairs("tp=1,tp=2,pp=2,dp=2,budget=512")),
    *({"fix": pair} for pair in parse_pairs("pp=1,tp=2,budget=2048")),
    *({"slo": parse_slo(text)} for text in ("ttft_p95<=60ms", "tpot_mean<=9ms", "itl_p95<=12ms", "e2e_p99<=500ms",
                                            "power_mean<=900W")),
    *({"max_gpus": n} for n in (1, 2, 3)),
    *({"max_usd_per_hour": usd} for usd in (3.0, 7.0)),
]  # fmt: skip


def constrained(asked, constraints):
    """The question with every constraint at once; of two limits of a kind the tighter one."""
    merged = {"fix": {}, "forbid": (), "slos": asked.slos, "max_gpus": None, "max_usd_per_hour": None}
    for constraint in constraints:
        ((kind, value),) = constraint.items()
        if kind == "fix":
            merged["fix"] = {**merged["fix"], value[0]: value[1]}
        elif kind == "forbid":
            merged["forbid"] = (*merged["forbid"], value)
        elif kind == "slo":
            merged["slos"] = (*merged["slos"], value)
        else:
            merged[kind] = min(value, merged[kind] or math.inf)
    return dataclasses.replace(asked, **merged)


@settings(LAWFUL, max_examples=25)
@given(
    constraints=st.lists(st.sampled_from(CONSTRAINTS), max_size=5, unique_by=str),
    objective=st.sampled_from(["latency", "energy", "cost", "throughput", "tpot"]),
)
def test_a_constraint_added_never_improves_the_best_and_one_dropped_never_worsens_it(constraints, objective):
    asked = question(**SPACE, fleet=homogeneous("h100", gpus=4), objective=objective)
    scores = [proven(constrained(asked, constraints[:n]), SHARED) for n in range(len(constraints) + 1)]
    assert scores == sorted(scores)
    if constraints:
        assert proven(constrained(asked, constraints[1:]), SHARED) <= scores[-1]


def test_limits_on_a_plan_are_axes():
    asked = question(**SPACE, fleet=homogeneous("h100", gpus=4))
    found = vary("max_gpus=1,2,none", "max_cost_per_hour=4USD/h,9USD/h,none", asked=asked)
    for scenario in found.scenarios:
        gpus, usd = scenario.values["max_gpus"], scenario.values["max_cost_per_hour"]
        own = dataclasses.replace(
            asked,
            max_gpus=None if gpus == "none" else int(gpus),
            max_usd_per_hour={"none": None, "9USD/h": 9.0, "4USD/h": 4.0}[usd],
        )
        try:
            assert scenario.answer == optimize(own, silicon=False)
        except NoFeasiblePlan as error:
            assert scenario.reason == str(error)
    assert found.breaks == [] and "max_gpus=1, no max_cost_per_hour" in [s.words for s in found.scenarios]
    from planner.whatif import _breaks

    assert len(_breaks(found.axes, _turned(found))) > 0, "the same upside down is marked"


def _turned(found):
    """Values of limits swapped end for end, answers left where they are."""
    names = dict(zip(("1", "2", "none"), ("none", "2", "1"), strict=True))
    turned = []
    for scenario in found.scenarios:
        values = {**scenario.values, "max_gpus": names[scenario.values["max_gpus"]]}
        limit = None if values["max_gpus"] == "none" else int(values["max_gpus"])
        own = dataclasses.replace(scenario.question, max_gpus=limit)
        turned.append(dataclasses.replace(scenario, values=values, question=own))
    return turned


def test_where_a_scheduler_serves_slower_arrivals_later_the_table_says_so():
    """Batches that wait for their slowest member: which requests share one decides, and slower arrivals may
    mix them worse. All marks are recounted from the values."""
    asked = question(trace=trace(20, 40.0, 1), policies=("static",), max_seqs=(8,), deployable=False)
    found = vary("rate=x64,x16,x8,x4,x2,x1", asked=asked)
    values = [s.best.value for s in found.scenarios]
    assert found.breaks == [(i, j) for i in range(6) for j in range(i + 1, 6) if values[j] > values[i]] != []
    assert all(s.answer.certificate.gap == 0 for s in found.scenarios)
    text = whatif_text.to_text(found)
    for i, j in found.breaks:
        (line,) = [line for line in text.splitlines() if line.startswith(f"{j + 1:>3} ")]
        assert "~" in line
        assert (
            f"~ {j + 1} asks no more than {i + 1} and gets the worse objective: so the simulated scheduler"
            in (" ".join(text.split()))
        )


def test_a_scenario_that_asks_less_and_gets_worse_is_marked():
    """Limits and devices obey the law; arrivals need not, and a search cut short need not."""
    result = vary("gpus=1,2", "slo.e2e_p95=20ms,1s")
    assert result.breaks == []
    cut = vary("gpus=1,8", asked=question(**SPACE, objective="cost"), max_simulations=1)
    assert cut.breaks in ([], [(0, 1)])
    worse = dataclasses.replace(result.scenarios[3], values={"gpus": "4", "slo.e2e_p95": "1s"})
    assert worse.holds
    bad = dataclasses.replace(worse.best, value=worse.best.value * 2)
    from planner.whatif import _breaks

    answer = dataclasses.replace(worse.answer, results=[bad])
    rows = [result.scenarios[3], dataclasses.replace(worse, answer=answer)]
    assert _breaks(result.axes, rows) == [(0, 1)]
    marked = dataclasses.replace(result, scenarios=rows, breaks=[(0, 1)])
    text = " ".join(whatif_text.to_text(marked).split())
    assert "~ 2 asks no more than 1 and gets the worse objective" in text
    assert json.loads(whatif_text.to_json(marked))["worse_though_no_harder"] == [{"than": 1, "scenario": 2}]


# ------------------------------------------------------------------------------------------------- forms


def test_text_fits_80_columns_and_has_a_row_a_scenario(found):
    text = whatif_text.to_text(found)
    assert all(len(line) <= 80 and line == line.rstrip() for line in text.splitlines())
    for i, scenario in enumerate(found.scenarios):
        (row,) = [line for line in text.splitlines() if line.startswith(f"{i + 1:>3} ")]
        assert scenario.best.plan.label.split()[0] in row
    assert "24 of 24 scenarios proven" in text and "NOT" in text and "\x1b" not in text
    assert "\x1b[1m" in whatif_text.to_text(found, colour=True)


def test_csv_and_json_hold_the_same_figures(found):
    rows = list(csv.DictReader(io.StringIO(whatif_text.to_csv(found))))
    document = json.loads(whatif_text.to_json(found))
    assert [axis["name"] for axis in document["axes"]] == ["gpus", "rate", "slo.ttft_p95", "objective"]
    for row, scenario, solved in zip(rows, document["scenarios"], found.scenarios, strict=True):
        plan = scenario["answer"]["plans"][0]
        assert all(row[name] == value for name, value in scenario["values"].items())
        assert float(row["value"]) == plan["value"] == solved.best.value
        assert float(row["e2e_mean_s"]) == plan["metrics"]["e2e_mean_s"]
        assert row["holds"] == str(scenario["holds"]) == str(solved.holds)
        assert float(row["usd_per_hour"]) == scenario["usd_per_hour"]
        if plan["slos"]:
            assert float(row["ttft_p95_s_slo"]) == plan["slos"][0]["value_s"]
        assert (row["change"] or None) == scenario["change"]


def test_csv_of_a_scenario_without_a_plan_has_as_many_cells():
    asked = question(model=load_model("llama-3.1-70b"), trace=trace(8), slos=(parse_slo("ttft_p95<=9s"),))
    rows = list(csv.reader(io.StringIO(whatif_text.to_csv(vary("gpus=1,8", asked=asked)))))
    assert len({len(row) for row in rows}) == 1
    assert "No plan" in rows[1][-1] and json.loads(whatif_text.to_json(vary("gpus=1", asked=asked)))


# -------------------------------------------------------------------------------------------------- axes


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("gpu=1,2", "'gpu'.*'gpus'"),
        ("slo.tpot95=1s", "slo.tpot95.*'slo.tpot_p95'"),
        ("slo.tpot_p95=20", "slo.tpot_p95=20.*us, ms or s"),
        ("slo.tpot_p95=20min", "us, ms or s"),
        ("tpot_p95=20ms", "'tpot_p95'.*'slo.tpot_p95'"),
        ("rate=2", "rate=2.*x0.5.*4/s"),
        ("rate=x-1", "rate=x-1"),
        ("rate=x1e999", "rate=x1e999"),
        ("rate=x..", "x0.5"),
        ("gpus=four", "gpus=four.*whole"),
        ("gpus=0", "gpus=0.*at least 1"),
        ("max_gpus=two", "max_gpus=two.*whole"),
        ("max_cost_per_hour=9EUR", "max_cost_per_hour=9EUR.*USD/h"),
        ("max_power=2kW", "'max_power'.*'slo.power_mean'"),
        ("max_cost=9", "'max_cost'.*'max_cost_per_hour'"),
        ("gpus=", "AXIS=VALUE"),
        ("gpus", "AXIS=VALUE"),
        ("device=h100,h20o", "h20o.*'h20"),
        ("objective=latencies", "'latency'"),
        ("engine=vllm", "vllm.*'vllm-v"),
        ("model=opt-125", "opt-125.*'opt-125m'"),
        ("tp=two", "tp=two.*whole"),
        ("weights=bf61", "bf61.*bf16"),
    ],
)
def test_a_bad_axis_is_one_line_with_what_was_expected(text, named):
    with pytest.raises(InputError, match=named) as caught:
        parse_axis(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("texts", [["gpus=1", "gpus=2"], ["tp=1", "attn_tp=2"], ["gpus=1", "nodes=1"]])
def test_axes_that_contradict_each_other_are_refused(texts):
    with pytest.raises(InputError, match=r"give|given"):
        parse_axes(texts)


def test_values_are_applied_together():
    asked = question(slos=(parse_slo("tpot_p95<=1s"), parse_slo("ttft_mean<=2s")), fix={"pp": 1})
    values = {"device": "h100", "gpus": "12", "rate": "x4", "slo.tpot_p95": "none", "objective": "goodput",
              "tp": "2", "weights": "fp16", "engine": "vllm-v0", "model": "opt-350m"}  # fmt: skip
    made = apply(asked, values)
    assert made.fleet == homogeneous("h100", gpus=12)
    assert made.trace.rate_per_s == pytest.approx(4 * asked.trace.rate_per_s)
    assert [slo.text for slo in made.slos] == ["ttft_mean<=2s"]
    assert made.fix == {"pp": 1, "attn_tp": 2, "weights": "bf16"}
    assert (made.objective, made.engine, made.model.name) == ("goodput", "vllm-v0", "opt-350m")
    own = question(fleet=homogeneous("h100", gpus=4, gpus_per_node=2))
    assert apply(own, {"nodes": "3"}).fleet == homogeneous("h100", nodes=3, gpus_per_node=2)


@given(counts=st.lists(st.integers(1, 3), min_size=1, max_size=3))
@LAWFUL
def test_there_are_as_many_scenarios_as_combinations(counts):
    axes = [Axis(name=f"a{i}", values=tuple(map(str, range(n)))) for i, n in enumerate(counts)]
    found = combinations(axes)
    assert len(found) == math.prod(counts) == len({tuple(values.items()) for values in found})
    assert words("a0", "1") == "a0=1"


def test_words_of_set_ask_a_file_what_an_axis_asks():
    """``zenith deploy FILE --set ...`` is about the scenario's question."""
    values = {
        "model": "llama-3.1-8b", "device": "h200", "gpus": "4", "rate": "x2", "objective": "cost", "engine": "none",
        "slo.ttft_p99.9": "2s", "slo.tpot_p95": "20ms", "max_gpus": "2", "max_cost_per_hour": "12USD/h", "tp": "2",
        "weights": "fp8", "policy": "sarathi",
    }  # fmt: skip
    file = Path(__file__).parents[2] / "traces" / "samples" / "question.yaml"
    for names in (list(values), ["nodes"]):
        chosen = {name: values.get(name, "2") for name in names}
        wanted, asked = apply(load_question(file), chosen), load_question(file, *sets(chosen))
        for field in dataclasses.fields(Question):
            if field.name == "trace":
                assert np.array_equal(wanted.trace.arrival_s, asked.trace.arrival_s)
            elif field.name == "slos":
                assert sorted(map(repr, wanted.slos)) == sorted(map(repr, asked.slos))
            else:
                assert getattr(wanted, field.name) == getattr(asked, field.name), field.name


def test_differences_name_stages_that_alone_differ():
    from planner.whatif import differences

    even, odd = (Plan(layers_per_stage=layers) for layers in ((6, 6), (7, 5)))
    assert differences(even, odd) == "pp=2 tp=1 of 7/5 layers instead of pp=2 tp=1 of 6/6 layers"
