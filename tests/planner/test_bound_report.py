"""Bound reports: parts that add up, rows equal to the simulator's, one bound below every scheduler."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import main
from formulations.problem import Limits
from planner import bound_text
from planner.bound_report import bound_report, proof_of
from planner.bound_rows import row
from planner.bounds import PRICED, PlanBounds
from planner.gap import gap_of
from planner.pipeline import Candidate, Evaluator, simulate_plan
from planner.placement import place
from planner.question import Question
from planner.schedulers import policy as contender
from planner.setting import BOUNDED, Setting
from planner.shares import TraceStats
from planner.slo import parse_slo
from profiles.errors import InputError
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.plan import POLICIES, EngineSettings, Plan
from simulator.engine import simulate
from tests.planner.stepping import random_step
from tests.planner.test_bounds import random_trace
from traces.synth import synthesize
from traces.trace import Trace

OPT = load_model("opt-125m")
SCHEMA = json.loads((Path(__file__).parents[2] / "planner" / "bound.schema.json").read_text())


def asked(trace, **changes):
    return Question(model=OPT, fleet=homogeneous("l40s", gpus=1), trace=trace, **changes)


def plan(**engine):
    return Plan(layers_per_stage=(12,), engine=EngineSettings(**engine))


@pytest.fixture(scope="module")
def crowd():
    return synthesize(
        requests=120, rate=200, prompt_mean=300, prompt_sd=300, output_mean=60, output_sd=60,
        most_tokens=1500, name="crowd",
    )  # fmt: skip


@pytest.fixture(scope="module")
def reports(crowd):
    """Little memory, so that somebody is preempted."""
    question = asked(crowd, gpu_memory_utilization=0.03, slos=(parse_slo("e2e_mean<=1s"),))
    engine = {"max_seqs": 64, "token_budget": 512, "gpu_memory_utilization": 0.03}
    return {name: bound_report(question, plan(**engine), name, silicon=False) for name in BOUNDED}


@pytest.mark.parametrize("objective", BOUNDED)
def test_every_scheduler_is_above_the_bound(reports, objective):
    report = reports[objective]
    assert {row.engine.policy for row in report.schedulers} == set(POLICIES)
    assert any(row.preemptions for row in report.schedulers)
    goal = report.objective
    for each in report.schedulers:
        assert each.value is None or goal.score(each.value) >= goal.score(report.bound.value)
        assert each.ratio is None or each.ratio == each.value / report.bound.value
    names = [each.name for each in report.schedulers]
    assert len(set(names)) == len(names)
    assert {"vllm-v1 fcfs reserve", "vllm-v1 fcfs srf", "mc-sf", "least work", "longest ahead"} <= set(names)
    assert any(name.startswith("work ahead") for name in names)
    assert any(name.startswith("priced") for name in names)


def test_prices_in_the_answer_prove_the_bound_again(crowd):
    question = asked(crowd)
    found = json.loads(
        bound_text.to_json(bound_report(question, plan(), "latency", silicon=False, explain=False))
    )
    candidate = Candidate(plan=plan(), pool=0, placement=place(plan(), question.fleet.pools[0]))
    step = Evaluator(question, silicon=False).step(candidate)
    again = PlanBounds(step, plan(), TraceStats(crowd)).at_prices("latency", found["bound"]["prices"])
    assert again == pytest.approx(found["bound"]["relaxations"][PRICED], rel=1e-9)


def test_ttft_is_bounded_jointly_below_those_who_are_as_fast(reports):
    report = reports["ttft"]
    assert report.joint[0].scheduler == "vllm-v1 fcfs"
    values = {each.name: each.value for each in report.schedulers}
    for each in report.joint:
        assert report.bound.others["unloaded"] <= each.ttft_s <= values[each.scheduler]
    assert "jointly" in bound_text.to_text(report) and not reports["latency"].joint


def test_what_has_the_schedule_of_another_says_so(reports):
    report = reports["latency"]
    by_name = {each.name: each for each in report.schedulers}
    assert any(each.same_as for each in report.schedulers)
    for each in report.schedulers:
        if each.same_as:
            other = by_name[each.same_as]
            assert other.same_as is None and other.value == each.value
            assert other.iterations == each.iterations


def test_engines_run_what_they_can_and_nothing_that_knows_the_future(reports):
    for each in reports["latency"].schedulers:
        rules = each.contender.rules
        if rules is not None and rules.clairvoyant and rules.admission != "peak":
            assert each.contender.runs_on == ()
    runs_on = {each.name: each.contender.runs_on for each in reports["latency"].schedulers}
    assert runs_on["vllm-v1 fcfs"] == ("vLLM", "SGLang", "TensorRT-LLM")
    assert runs_on["vllm-v1 fcfs reserve"] == runs_on["orca fcfs"] == ("TensorRT-LLM",)
    assert runs_on["static fcfs"] == runs_on["vllm-v1 fcfs srf"] == runs_on["vllm-v1 fcfs swap"] == ()


def test_reserving_evicts_nobody_and_the_best_of_a_family_is_kept(reports):
    for name, report in reports.items():
        for each in report.schedulers:
            assert not (each.name.endswith("reserve") and each.preemptions)
        kept = [each.name for each in report.schedulers if each.contender.rules]
        assert sum(each.startswith("work ahead") for each in kept) == 1, name
        assert sum(each.startswith("priced") for each in kept) == 1, name


@pytest.mark.parametrize("layers, changes", [((6, 6), {}), ((12,), {"attn_dp": 2, "ffn_tp": 2})])
def test_plans_that_research_schedulers_cannot_serve_are_named(crowd, layers, changes):
    question = replace(asked(crowd), fleet=homogeneous("l40s", gpus=2))
    report = bound_report(question, Plan(layers_per_stage=layers, **changes), "latency", silicon=False)
    assert all(each.contender.rules is None for each in report.schedulers)
    assert any("research schedulers are left out: they serve one" in note for note in report.notes)


@pytest.mark.parametrize("objective", BOUNDED)
def test_the_parts_of_a_gap_add_up(reports, objective):
    report = reports[objective]
    score = report.objective.score
    values = {each.name: each.value for each in report.schedulers}
    run = [
        each.value for each in report.schedulers if each.contender.rules is None and each.value is not None
    ]
    assert report.gaps[0].scheduler.startswith("vllm-v1 fcfs")
    assert min(run, key=score) in [values[g.scheduler] for g in report.gaps]
    for gap in report.gaps:
        total = sum(part.value for part in gap.parts)
        assert total == pytest.approx(score(values[gap.scheduler]) - score(report.bound.value), rel=1e-9)
        names = [part.name for part in gap.parts]
        assert names[:2] == ["recompute", "memory"] and names[-1] == "the rest"
        assert ("waiting" in names) == (objective in ("latency", "ttft"))


def test_no_memory_and_no_recompute_is_lost_where_there_is_plenty():
    trace = synthesize(requests=5, rate=1, prompt_mean=20, output_mean=20)
    (gap, *_) = bound_report(asked(trace), plan(), "latency", silicon=False).gaps
    lost = {part.name: part.value for part in gap.parts}
    assert lost["recompute"] == lost["memory"] == 0


def test_rows_are_what_simulate_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--model", "opt-125m", "--device", "l40s", "--gpus", "1", "--no-silicon", "--trace", "t.csv"]
    runner = CliRunner()
    runner.invoke(main, ["trace", "synth", "t.csv", "--requests", "50", "--rate", "20"])
    report = runner.invoke(main, ["bound", *words, "--plan", "tp=1", "--json", "--output", "bound.json"])
    assert report.exit_code == 0, report.output
    found = json.loads(report.stdout)
    assert json.loads((tmp_path / "bound.json").read_text()) == found
    assert found["bound"].keys() >= {"name", "value", "class"}
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    for each in found["schedulers"]:
        if each["rules"] is not None:
            continue
        axes = f"tp=1,policy={each['policy']},queue={each['queue']}"
        (one,) = json.loads(
            runner.invoke(main, ["simulate", *words, "--plan", axes, "--json"]).stdout
        )["plans"]  # fmt: skip
        assert each["value"] == one["value"] and each["preemptions"] == one["metrics"]["preemptions"]
        assert each["iterations"] == one["metrics"]["iterations"]


@pytest.mark.parametrize("objective", BOUNDED)
def test_text_fits_80_columns_and_names_everything(reports, objective):
    text = bound_text.to_text(reports[objective])
    assert max(map(len, text.splitlines())) <= 80
    for each in reports[objective].schedulers:
        assert each.name in " ".join(text.split())
    assert "docs/bounds.md#" in text and "recompute" in text and "the rest" in text
    assert "\x1b" in bound_text.to_text(reports[objective], colour=True)


def test_a_window_keeps_what_arrives_in_it(crowd):
    whole = bound_report(asked(crowd), plan(), "makespan", silicon=False)
    part = bound_report(asked(crowd), plan(), "makespan", window_s=0.2, silicon=False)
    assert part.requests == np.count_nonzero(crowd.arrival_s - crowd.arrival_s[0] < 0.2) < whole.requests
    assert part.bound.value < whole.bound.value


@pytest.mark.parametrize(
    "words, said",
    [
        (["--window", "soon"], "expected a time such as 60s"),
        (["--window", "0s"], "expected a time such as 60s"),
        (["--objective", "speed"], "makespan"),
        (["--objective", "goodput"], "give --slo of ttft, tpot or e2e"),
        (["--plan", "tp=5"], "devices"),
        (["--plan", "tp=1,budget=8"], "at least the 256 sequences"),
        (["--gpu-memory-utilization", "0.001"], "there is room for 0"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    runner.invoke(main, ["trace", "synth", "t.csv", "--requests", "5"])
    base = [
        "bound",
        "--model",
        "opt-125m",
        "--device",
        "l40s",
        "--gpus",
        "1",
        "--no-silicon",
        "--trace",
        "t.csv",
    ]
    plan = [] if "--plan" in words else ["--plan", "tp=1"]
    result = runner.invoke(main, [*base, *plan, *words])
    assert result.exit_code in (2, 3)
    assert said in result.stderr.splitlines()[-1] and "Traceback" not in result.output


def test_proofs_are_sections_of_the_documentation(reports):
    text = (Path(__file__).parents[2] / "docs" / "bounds.md").read_text()
    headings = {line.lstrip("# ").lower().replace(" ", "-") for line in text.splitlines() if line[:1] == "#"}
    for report in reports.values():
        for name in report.bound.others:
            assert proof_of(name).removeprefix("docs/bounds.md#") in headings


def test_exact_is_between_the_bound_and_the_best(crowd):
    few = replace(
        crowd, arrival_s=crowd.arrival_s[:4], prompt_tokens=crowd.prompt_tokens[:4],
        output_tokens=np.minimum(crowd.output_tokens[:4], 6),
    )  # fmt: skip
    limits = Limits(time_s=60, work=1)
    report = bound_report(asked(few), plan(), "latency", limits=limits, silicon=False)
    best = min(row.value for row in report.schedulers)
    assert report.bound.value <= report.exact.bound <= report.exact.value <= best * (1 + 1e-9)
    assert "exact " in bound_text.to_text(report)
    assert json.loads(bound_text.to_json(report))["exact"]["bound"] == report.exact.bound
    coarse = bound_report(asked(few), plan(), "latency", limits=limits, unit=4, silicon=False)
    assert coarse.exact.bound == report.exact.bound <= coarse.exact.value <= coarse.exact.coarse.value
    assert "in the coarse class of 4-token units, which bounds no other" in " ".join(
        bound_text.to_text(coarse).split()
    )
    assert json.loads(bound_text.to_json(coarse))["exact"]["coarse"]["unit"] == 4
    with pytest.raises(InputError, match="in such units the memory of"):
        bound_report(asked(few), plan(), "latency", limits=limits, unit=10**6, silicon=False)
    large = bound_report(asked(crowd), plan(), "latency", limits=limits, silicon=False)
    assert large.bound.value <= large.exact.bound <= large.exact.value and not large.exact.optimal


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    stages=st.integers(1, 2),
    ranks=st.integers(1, 2),
    capacity=st.integers(18, 60),
    budget=st.integers(4, 20),
    requests=st.integers(1, 12),
    gap_us=st.sampled_from([0.0, 5.0, 30.0]),
)
def test_gaps_add_up_on_any_tables(seed, stages, ranks, capacity, budget, requests, gap_us):
    """Whatever the tables, every obstacle can be taken away and the parts add up."""
    step = random_step(seed, stages=stages, ranks=ranks, max_seqs=4, capacity=capacity, tokens=30)
    trace = random_trace(seed, requests, gap_us)
    base = EngineSettings(block_size=1, max_seqs=4, token_budget=budget, watermark=0.0)
    shape = Plan(layers_per_stage=(1,) * stages, attn_dp=ranks, ffn_dp=ranks, engine=base)
    setting = Setting(trace=trace, plan=shape, chunked=step, whole=step, slo_s={"e2e": 1e-4})
    for objective in BOUNDED.values():
        bound = setting.bound(objective.name, swaps=True)
        for policy in POLICIES:
            engine = replace(base, policy=policy)
            outcome = simulate(trace, step, engine)
            value = setting.value(engine, outcome, objective)
            if value is None:
                continue
            line = row(contender(base, policy, "fcfs"), outcome, value, bound.value)
            gap = gap_of(setting, line, outcome, objective, bound)
            total = sum(part.value for part in gap.parts)
            lost = objective.score(value) - objective.score(bound.value)
            assert total == pytest.approx(lost, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("policy", ["static", "orca", "vllm-v0", "vllm-v1"])
def test_the_plan_has_its_own_memory(policy):
    """Policies differ in activations of a prompt longer than the budget, and so in KV blocks."""
    trace = Trace(
        arrival_s=np.zeros(2), prompt_tokens=np.array([4000, 50]), output_tokens=np.array([300, 20])
    )
    shape = plan(policy=policy, token_budget=256, max_seqs=64)
    _, outcome = simulate_plan(asked(trace), shape, silicon=False)
    rows = bound_report(asked(trace), shape, "latency", silicon=False).schedulers
    (own,) = (each for each in rows if each.name == f"{policy} fcfs")
    assert own.kv_peak == outcome.peak_blocks / outcome.kv_blocks


def test_a_bound_counts_on_the_memory_of_either_kind():
    step, trace = (
        random_step(3, stages=2, ranks=1, max_seqs=4, capacity=60, tokens=30),
        random_trace(3, 12, 0.0),
    )
    base = EngineSettings(block_size=1, max_seqs=4, token_budget=12, watermark=0.0)
    shape = Plan(layers_per_stage=(1, 1), engine=base)
    even = Setting(trace=trace, plan=shape, chunked=step, whole=step)
    less = replace(even, whole=replace(step, kv_blocks=step.kv_blocks // 3))
    for name in BOUNDED:
        assert less.bound(name, swaps=True).value == even.bound(name, swaps=True).value


def test_its_times_have_a_source_and_an_interval(reports):
    found = reports["latency"]
    assert (
        found.own == "vllm-v1 fcfs"
        and found.provenance["modelled"] > 0
        and "engine overhead" in found.sources
    )
    (own,) = (row for row in found.schedulers if row.name == found.own)
    assert found.expected.low < own.value < found.expected.high
    assert json.loads(bound_text.to_json(found))["expected"]["source"] == found.expected.source
    text = " ".join(bound_text.to_text(found).split())
    assert f"of {found.own} in nine of ten cases" in text and "100% modelled" in text
    assert reports["energy"].expected is None and "in nine of ten" not in bound_text.to_text(
        reports["energy"]
    )
