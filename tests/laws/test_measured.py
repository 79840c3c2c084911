"""Real runs: the ranking that the machine shows, and the traces of the acceptance tests end to end."""

import os
from pathlib import Path

import pytest

from planner.pipeline import optimize
from planner.question import Question
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
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
