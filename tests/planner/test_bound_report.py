"""Bound reports: parts that add up, rows equal to the simulator's, one bound below every scheduler."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from cli import main
from formulations.problem import Limits
from planner import bound_text
from planner.bound_report import BOUNDED, Setting, _row, bound_report, proof_of, value_of
from planner.gap import gap_of
from planner.pipeline import simulate_plan
from planner.question import Question
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.plan import POLICIES, EngineSettings, Plan
from simulator.engine import simulate
from tests.planner.stepping import random_step
from tests.planner.test_bounds import random_trace
from traces.synth import synthesize
from traces.trace import Trace

OPT = load_model("opt-125m")


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
    question = asked(crowd, gpu_memory_utilization=0.03)
    engine = {"max_seqs": 64, "token_budget": 512, "gpu_memory_utilization": 0.03}
    return {name: bound_report(question, plan(**engine), name, silicon=False) for name in BOUNDED}


@pytest.mark.parametrize("objective", BOUNDED)
def test_every_scheduler_is_above_the_bound(reports, objective):
    report = reports[objective]
    assert {row.engine.policy for row in report.schedulers} == set(POLICIES)
    assert any(row.preemptions for row in report.schedulers)
    for row in report.schedulers:
        assert row.value is None or row.value >= report.bound.value
        assert row.ratio is None or row.ratio == row.value / report.bound.value


@pytest.mark.parametrize("objective", BOUNDED)
def test_the_parts_of_a_gap_add_up(reports, objective):
    report = reports[objective]
    values = {row.name: row.value for row in report.schedulers}
    assert report.gaps[0].scheduler.startswith("vllm-v1 fcfs")
    assert min(v for v in values.values() if v is not None) in [values[g.scheduler] for g in report.gaps]
    for gap in report.gaps:
        total = sum(part.value for part in gap.parts)
        assert total == pytest.approx(values[gap.scheduler] - report.bound.value, rel=1e-9)
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
    for row in found["schedulers"]:
        axes = f"tp=1,policy={row['policy']},queue={row['queue']}"
        (one,) = json.loads(
            runner.invoke(main, ["simulate", *words, "--plan", axes, "--json"]).stdout
        )["plans"]  # fmt: skip
        assert row["value"] == one["value"] and row["preemptions"] == one["metrics"]["preemptions"]
        assert row["iterations"] == one["metrics"]["iterations"]


@pytest.mark.parametrize("objective", BOUNDED)
def test_text_fits_80_columns_and_names_everything(reports, objective):
    text = bound_text.to_text(reports[objective])
    assert max(map(len, text.splitlines())) <= 80
    for row in reports[objective].schedulers:
        assert row.name in text
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
    result = runner.invoke(main, [*base, "--plan", "tp=1", *words])
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
    large = bound_report(asked(crowd), plan(), "latency", limits=limits, silicon=False)
    assert large.exact is None and "120 requests are too many" in large.notes[0]


@settings(deadline=None, max_examples=40, derandomize=True)
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
    setting = Setting(trace=trace, plan=shape, chunked=step, whole=step)
    for objective in BOUNDED.values():
        bound = setting.bound(objective.name, swaps=True)
        for policy in POLICIES:
            engine = replace(base, policy=policy)
            outcome = simulate(trace, step, engine)
            value = value_of(setting, engine, outcome, objective)
            if value is None:
                continue
            gap = gap_of(setting, _row(engine, outcome, value, bound.value), outcome, objective, bound)
            total = sum(part.value for part in gap.parts)
            assert total == pytest.approx(value - bound.value, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("policy", ["static", "orca", "vllm-v0", "vllm-v1"])
def test_the_plan_has_its_own_memory(policy):
    """Policies differ in activations of a prompt longer than the budget, and so in KV blocks."""
    trace = Trace(
        arrival_s=np.zeros(2), prompt_tokens=np.array([4000, 50]), output_tokens=np.array([300, 20])
    )
    shape = plan(policy=policy, token_budget=256, max_seqs=64)
    _, outcome = simulate_plan(asked(trace), shape, silicon=False)
    rows = bound_report(asked(trace), shape, "latency", silicon=False).schedulers
    (row,) = (row for row in rows if row.engine.policy == policy and row.engine.queue == "fcfs")
    assert row.kv_peak == outcome.peak_blocks / outcome.kv_blocks


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
