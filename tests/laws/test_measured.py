"""Real runs: the ranking that the machine shows, and the traces of the acceptance tests end to end."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.fidelity import Servers, validate
from planner.pipeline import optimize
from planner.question import Question
from planner.runs import Told, read_runs
from profiles.engine import load_engine
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.residuals import SHAPE, Kind, residuals_of
from simulator import metrics
from traces.read import read_trace

SHARED = Path(os.environ.get("ZENITH_SHARED", Path(__file__).parents[2].parent / "shared"))
needs_traces = pytest.mark.skipif(not (SHARED / "traces").is_dir(), reason=f"no {SHARED / 'traces'}")


def ask(trace: str, model: str = "llama-3.1-70b", **changes):
    return Question(
        model=load_model(model),
        fleet=homogeneous("h100-sxm-80gb", gpus=8),
        trace=read_trace(SHARED / "traces" / trace).trace,
        **changes,
    )


@needs_traces
@pytest.mark.parametrize("engine", ["vllm-v0", "vllm-v1"])
@pytest.mark.parametrize("deployable", [True, False])
def test_tensor_parallel_over_all_eight_is_first_on_light_chat_as_measured(engine, deployable):
    answer = optimize(ask("apex_llama_lmsys_05.jsonl", engine=engine, deployable=deployable))
    best = answer.results[0].plan
    assert best.label == "tp=8"
    assert answer.certificate.gap == 0


@needs_traces
@pytest.mark.parametrize("trace", ["apex_llama_lmsys_05.jsonl", "apex_llama_creation_05.jsonl"])
def test_plans_rank_as_the_machine_ranks_them(trace):
    """Measured mean E2E: 8TP < 2DP4TP < 4DP2TP on lmsys; on creation TP8 before TP4."""
    asked = ask(trace, engine="vllm-v0", token_budgets=(512,), fix={"pp": 1})
    order = [r.plan.label for r in optimize(asked, everything=True).results]
    assert order.index("tp=8") < order.index("dp=2 tp=4") < order.index("dp=4 tp=2")
    assert order.index("tp=8") < order.index("tp=4")


@needs_traces
@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_an_hour_of_real_conversations_is_certified(objective):
    asked = ask("AzureLLMInferenceTrace_conv.csv", objective=objective)
    certified, exhaustive = optimize(asked), optimize(asked, everything=True)
    assert certified.certificate.gap == 0
    assert certified.results[0].value == exhaustive.results[0].value
    assert certified.results[0].plan == exhaustive.results[0].plan
    assert all(r.metrics["rejected"] == 0 for r in certified.results[:1])


MEASURED = SHARED / "measured"


@pytest.mark.parametrize("silicon", [True, False])
@pytest.mark.parametrize(
    ("runs", "device", "engine"),
    [
        ("vllm_llama70b_h100", "h100-sxm-80gb", "vllm-v0"),
        ("vllm_llama8b_rtxpro6000", "rtx-pro-6000-96gb", "vllm-v1"),
    ],
)
def test_nine_of_ten_measured_means_lie_inside_the_intervals(runs, device, engine, silicon):
    """Residuals are of servers left out of the fit, or of other servers."""
    if not (MEASURED / runs).is_dir():
        pytest.skip(f"no {MEASURED / runs}")
    if silicon:
        pytest.importorskip("aiconfigurator_core", reason="measured tables are an extra")
    found = validate(read_runs([MEASURED / runs], Told(device=device)), silicon=silicon)
    kind = Kind(device=device, policy="vllm-v1", experts=False, modelled=float(not silicon))
    known = residuals_of(load_engine(engine), kind)
    assert known is not None
    for metric in ("ttft", "itl", "e2e"):
        residual = known.residuals[metric]
        inside = [
            low <= run.measured_s[metric] <= high
            for run in found.runs
            for low, high in (residual.interval(run.predicted_s[metric]),)
        ]
        assert sum(inside) >= 0.9 * len(inside)


def test_percentiles_err_as_their_means_do_and_a_little_more():
    """``SHAPE`` is the most that was measured, with the server's own kernel profile and with the shipped tables."""
    folder = MEASURED / "vllm_llama8b_rtxpro6000"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    pytest.importorskip("aiconfigurator_core", reason="measured tables are an extra")
    (run,) = read_runs([folder], Told(device="rtx-pro-6000-96gb"))
    further = dict.fromkeys(SHAPE, 0.0)
    for server in (run, replace(run, tables=None)):
        outcome = Servers([server]).replay(server)
        for name in SHAPE:
            of_request = run.request_s[name][~np.isnan(run.request_s[name])]
            mean = metrics.slo_value(outcome, name, None) / of_request.mean()
            for q in metrics.PERCENTILES:
                ratio = metrics.slo_value(outcome, name, q) / np.percentile(of_request, q)
                further[name] = max(further[name], abs(ratio / mean - 1))
    assert all(SHAPE[name] - 0.01 <= value <= SHAPE[name] for name, value in further.items()), further


def test_predictions_with_and_without_the_tables_agree():
    folder = MEASURED / "vllm_llama70b_h100"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    pytest.importorskip("aiconfigurator_core", reason="measured tables are an extra")
    runs = read_runs([folder], Told(device="h100-sxm-80gb"))
    with_tables, without = validate(runs), validate(runs, silicon=False)
    for metric, typical, most in (("ttft", 0.02, 0.08), ("itl", 0.02, 0.05), ("e2e", 0.02, 0.05)):
        apart = [
            abs(b.predicted_s[metric] / a.predicted_s[metric] - 1)
            for a, b in zip(with_tables.runs, without.runs, strict=True)
        ]
        assert sorted(apart)[len(apart) // 2] < typical and max(apart) < most
