"""The replay of steady states: what a closed loop is, and a few rows of the file where it is installed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.compile import Compiler
from profiles.device import load_device
from profiles.engine import load_engine
from profiles.huggingface import load_model
from profiles.plan import EngineSettings, Plan
from profiles.power import PowerModel
from profiles.roofline import Roofline
from profiles.stepcost import PS
from simulator.engine import simulate
from tests.benchmarks import steady
from tests.benchmarks import steady_picture as picture
from tests.benchmarks import steady_residuals as residuals
from traces.trace import Trace

SHIPPED = pytest.mark.skipif(steady.sample_file() is None, reason="aiconfigurator-core is not installed")


def test_a_request_is_sent_as_another_is_answered() -> None:
    device = load_device("h100-sxm-80gb")
    compiler = Compiler(
        load_model("llama-3.1-8b"), device, Roofline(device),
        engine=load_engine("vllm-v1"), power=PowerModel(device),
    )  # fmt: skip
    plan = Plan(layers_per_stage=(32,), engine=EngineSettings(max_seqs=4))
    generator = np.random.default_rng(0)
    trace = Trace(
        arrival_s=np.zeros(40),
        prompt_tokens=generator.integers(100, 300, 40),
        output_tokens=generator.integers(20, 60, 40),
    )
    step = compiler.compile(plan, link_tensor=LONE, link_ffn=LONE, max_length=400)
    prompt = steady.Started(token_budget=8192, overlaps=False)
    found, sent_s = steady.closed_loop(trace, 4, lambda seen: simulate(seen, step, plan.engine), prompt)
    np.testing.assert_allclose(sent_s, found.arrival_ps / PS, atol=1e-11)
    answered = np.sort(found.finish_ps)
    assert not found.arrival_ps[:4].any()
    # Sweeps stop when the means stand still: what is left is below an iteration here and there.
    np.testing.assert_allclose(found.arrival_ps[4:], answered[:-4] + steady.CLIENT_S * PS, rtol=0.02)
    running = (found.arrival_ps <= found.arrival_ps[:, None]) & (found.finish_ps > found.arrival_ps[:, None])
    assert running.sum(axis=1).max() <= 5  # four, and one more where sweeps have not met


LONE = steady.homogeneous("h100-sxm-80gb").pools[0].link(1, 1)


@pytest.mark.parametrize(
    ("columns", "plan"),
    [
        ((64, 1, 8, 8), (8, 1, 1, 8)),
        ((1, 64, 8, 8), (1, 8, 1, 8)),
        ((4, 4, 1, 16), (4, 1, 1, 4)),
        ((8, 1, 8, 1), (8, 1, 8, 1)),
        ((1, 8, 1, 8), (1, 8, 1, 8)),
    ],
)
def test_widths_of_the_public_database(columns: tuple[int, ...], plan: tuple[int, ...]) -> None:
    names = ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
    record = dict(zip(names, map(float, columns), strict=True)) | {"pp_size": 1}
    assert steady.widths(record, sparse=True, public=True) == plan


@SHIPPED
def test_rows_of_the_file_are_replayed() -> None:
    path = steady.sample_file()
    assert path is not None
    rows, dropped = steady.read_rows(path)
    assert len(rows) > 2000 and sum(dropped.values()) + len(rows) == 5221
    results, _ = steady.run(steady.stratified(rows, 36, 0), steady.Replays(), 0)
    assert len(results) == 36
    ttft, tpot = (np.median(np.abs(errors)) for errors in steady.off(results))
    assert ttft < 0.33 and tpot < 0.125  # 0.289 and 0.106 when written
    assert all(len(line) <= 80 for line in steady.table(results).splitlines())


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    sent=st.lists(st.floats(0, 50), min_size=1, max_size=30), gate=st.integers(0, 6), full=st.integers(1, 5),
    opens=st.sampled_from(["clock", "wait"]), overlaps=st.booleans(),
)  # fmt: skip
def test_gates_hold_no_longer_than_they_are_closed(sent, gate, full, opens, overlaps) -> None:
    sent_s = np.array(sent)
    server = steady.Started(token_budget=1, overlaps=overlaps, gate=gate, opens=opens, full=full)
    held = server.seen_s(sent_s, 2.0) - sent_s
    assert (held >= -1e-9).all() and (held <= 2.0 * (gate + overlaps) + 1e-9).all()
    assert not held[sent_s == 0].any()
    if not gate:
        np.testing.assert_allclose(held[sent_s > 0], 2.0 * overlaps, atol=1e-9)
    elif opens == "wait":
        seen = (sent_s + held)[sent_s > 0]
        assert max(np.unique(seen.round(9), return_counts=True)[1], default=0) <= full * np.sum(sent_s > 0)


def test_what_groups_hold_is_counted_on_other_models() -> None:
    generator = np.random.default_rng(0)
    servers = [
        residuals.Seen(
            engine="vLLM", ffn="dense", chips="hopper", model=f"m{i % 3}",
            errors=tuple(generator.normal(0.1 * (i % 3), 0.1, 3)),
        )
        for i in range(90)
    ]  # fmt: skip
    inside = []
    for server in servers:
        others = [s.errors[2] for s in servers if s.model != server.model]
        inside.append(np.quantile(others, 0.05) <= server.errors[2] <= np.quantile(others, 0.95))
    assert residuals.held(servers)[2] == pytest.approx(np.mean(inside), abs=1e-3)
    (whole,) = [
        g for g in residuals.groups(servers, "tables") if {g["engine"], g["ffn"], g["chips"]} == {"all"}
    ]
    low, high = np.quantile([s.errors[0] for s in servers], [0.05, 0.95])
    assert whole["residuals"]["ttft"] == {"low": round(low, 3), "high": round(high, 3)}
    assert not residuals.groups(servers[:29], "tables") and not residuals.groups(servers[::3] * 3, "tables")


def test_the_picture_stands_alone() -> None:
    pytest.importorskip("vl_convert")
    panels = {"TTFT": {"all": (np.array([0.5, 1.0, 2.0]), np.array([0.01, 1.0, 99.0]))}}
    drawn = picture.svg(panels)
    assert drawn.startswith("<svg") and "all (3)" in drawn and "var(--" not in drawn
    ours, theirs = picture.rows_of(panels)
    assert ours["p50"] == 1.0 and (theirs["p10"], theirs["p90"]) == (pytest.approx(0.208), picture.HIGH)
