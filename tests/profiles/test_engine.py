"""Engine overheads against the measured servers they were derived from."""

import json
import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from profiles.compile import Compiler
from profiles.device import load_device
from profiles.engine import EngineProfile, engines, load_engine
from profiles.errors import InputError
from profiles.ops import Link
from profiles.plan import EngineSettings, Plan
from profiles.power import PowerModel
from profiles.roofline import Roofline
from simulator.engine import simulate
from tests.profiles.handmade import LLAMA_8B, LLAMA_70B
from traces.trace import Trace

SHARED = Path(os.environ.get("ZENITH_SHARED", Path(__file__).parents[2].parent / "shared"))
H100_RUNS = SHARED / "measured" / "vllm_llama70b_h100"
RTX_RUN = SHARED / "measured" / "vllm_llama8b_rtxpro6000"
WIDTH = {"8TP": 8, "4TP": 4, "2DP4TP": 4, "2TP": 2, "4DP2TP": 2}


def test_every_engine_says_where_it_comes_from():
    assert {"none", "vllm-v0", "vllm-v1"} <= set(engines())
    for name in engines():
        engine = load_engine(name)
        assert engine.name == name and engine.source and engine.error
    assert (
        load_engine("none").iteration_s
        == load_engine("none").sequence_s
        == load_engine("none").prefill_s
        == 0
    )


def test_unknown_engines_and_negative_overheads_are_refused():
    with pytest.raises(InputError, match="did you mean 'vllm-v1'"):
        load_engine("vllm-v2")
    with pytest.raises(ValueError, match="negative"):
        EngineProfile(name="x", iteration_s=-1.0, sequence_s=0, prefill_s=0, source="", error="")


@cache
def operations(device: str):
    pytest.importorskip("aiconfigurator_core", reason="measured tables are an extra: pip install .[silicon]")
    from profiles.silicon import Silicon

    kind = load_device(device)
    return Silicon(kind.silicon_system, fallback=Roofline(kind))


def nvlink(ranks: int) -> Link:
    return Link(
        ranks=ranks,
        nodes=1,
        intra_bandwidth=450e9,
        inter_bandwidth=50e9,
        intra_latency_s=5e-6,
        inter_latency_s=15e-6,
    )


def compiled(model, device, width, settings, *, engine, max_length):
    kind = load_device(device)
    compiler = Compiler(model, kind, operations(device), engine=load_engine(engine), power=PowerModel(kind))
    plan = Plan(layers_per_stage=(len(model.decoder.layers),), attn_tp=width, ffn_tp=width, engine=settings)
    return compiler.compile(plan, link_tensor=nvlink(width), link_ffn=nvlink(width), max_length=max_length)


def server(width: int, engine: str):
    """vLLM 0.6.0 as it was started: 4 and 8 GPUs chunk prefills at 512 tokens, 2 GPUs do not."""
    settings = EngineSettings(
        policy="sarathi" if width > 2 else "vllm-v0",
        token_budget=512 if width > 2 else 24272,
        max_seqs=256,
        gpu_memory_utilization=0.97,
    )
    step = compiled(LLAMA_70B, "h100-sxm-80gb", width, settings, engine=engine, max_length=8192)
    return step, settings


def runs():
    import pandas as pd

    for run in pd.read_csv(H100_RUNS / "runs.csv").itertuples():
        sent = pd.read_csv(H100_RUNS / "requests" / run.requests_csv).sort_values("arrival_s")
        sent = sent[sent.output_tokens > 0]
        yield (
            run,
            Trace(
                arrival_s=sent.arrival_s.to_numpy(np.float64),
                prompt_tokens=np.maximum(sent.prompt_tokens.to_numpy(np.int64), 1),
                output_tokens=sent.output_tokens.to_numpy(np.int64),
            ),
        )


def errors(engine: str):
    """Relative errors of mean inter-token latency, time to first token and end-to-end latency, per run."""
    servers, rows = {}, []
    for run, trace in runs():
        width = WIDTH[run.plan]
        if width not in servers:
            servers[width] = server(width, engine)
        step, settings = servers[width]
        outcome = simulate(trace, step, settings)
        waited = (outcome.first_token_ps - outcome.arrival_ps).mean() / 1e12
        gaps = (outcome.finish_ps - outcome.first_token_ps).sum() / 1e12 / (outcome.output_tokens - 1).sum()
        whole = (outcome.finish_ps - outcome.arrival_ps).mean() / 1e12
        rows.append((gaps / run.itl_mean_s - 1, waited / run.ttft_mean_s - 1, whole / run.e2e_mean_s - 1))
    return np.array(rows)


@pytest.mark.skipif(not H100_RUNS.exists(), reason="measurements are not beside the checkout")
def test_vllm_v0_explains_thirty_measured_servers():
    gaps, waited, whole = np.abs(errors("vllm-v0")).mean(axis=0)
    assert gaps < 0.025 and waited < 0.06 and whole < 0.025
    # The operations alone are a lower bound, by the near-constant time that the engine adds.
    bare = errors("none")
    assert (bare[:, [0, 2]] < 0).all() and np.abs(bare[:, 0]).mean() > 0.2


@pytest.mark.skipif(not RTX_RUN.exists(), reason="measurements are not beside the checkout")
def test_vllm_v1_explains_a_loaded_server_with_tables_it_was_not_fitted_on():
    """The overheads were derived with the run's own kernel profile; here are the tables of that GPU."""
    lines = [
        json.loads(line) for line in (RTX_RUN / "requests.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    lines.sort(key=lambda line: line["queued_ts"])
    queued, first, last = (
        np.array([line[key] for line in lines]) for key in ("queued_ts", "first_token_ts", "last_token_ts")
    )
    trace = Trace(
        arrival_s=queued - queued[0],
        prompt_tokens=np.array([line["input_toks"] for line in lines]),
        output_tokens=np.array([line["output_toks"] for line in lines]),
    )
    settings = EngineSettings(policy="vllm-v1", max_seqs=128, token_budget=2048)
    step = compiled(LLAMA_8B, "rtx-pro-6000-96gb", 1, settings, engine="vllm-v1", max_length=20000)
    outcome = simulate(trace, step, settings)
    waited = (outcome.first_token_ps - outcome.arrival_ps).mean() / 1e12
    whole = (outcome.finish_ps - outcome.arrival_ps).mean() / 1e12
    assert waited == pytest.approx((first - queued).mean(), rel=0.10)
    assert whole == pytest.approx((last - queued).mean(), rel=0.05)


def test_engine_files_hold_nothing_else():
    for path in (Path(__file__).parents[2] / "profiles" / "engines").glob("*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        known = {"iteration_s", "sequence_s", "prefill_s", "source", "error", "worst"}
        known |= set() if path.stem == "none" else {"residuals", "residuals_of"}
        assert set(facts) - {"holds_mixing"} == known
