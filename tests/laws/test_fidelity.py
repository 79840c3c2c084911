"""Errors on measured servers stay where they are; a change that worsens them is seen here."""

import os
from pathlib import Path

import pytest

from planner.fidelity import validate
from planner.runs import Told, read_runs

SHARED = Path(os.environ.get("ZENITH_SHARED", Path(__file__).parents[2].parent / "shared")) / "measured"
H100, RTX = SHARED / "vllm_llama70b_h100", SHARED / "vllm_llama8b_rtxpro6000"


def replayed(folder, device, **more):
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    pytest.importorskip("aiconfigurator_core", reason="measured tables are an extra: pip install .[silicon]")
    return validate(read_runs([folder], Told(device=device, **more)))


@pytest.fixture(scope="module")
def servers():
    return replayed(H100, "h100-sxm-80gb")


@pytest.mark.parametrize(
    ("metric", "median", "worst"), [("itl", 0.02, 0.06), ("ttft", 0.05, 0.16), ("e2e", 0.02, 0.06)]
)
def test_defaults_explain_thirty_servers(servers, metric, median, worst):
    part = servers.summary[metric]
    assert part.runs == 30
    assert part.median_abs_error <= median and part.worst_abs_error <= worst


def test_plans_are_in_the_order_of_the_machine(servers):
    assert [order.group for order in servers.order] == [
        "creation 0.25/s", "creation 0.5/s", "lmsys 0.25/s", "lmsys 0.5/s",
    ]  # fmt: skip
    assert all({"8TP", "2DP4TP", "4DP2TP"} <= set(order.measured_s) for order in servers.order)
    assert [order.wrong for order in servers.order] == [()] * 4


def test_without_overheads_the_operations_are_a_lower_bound():
    bare = replayed(H100, "h100-sxm-80gb", engine="none")
    assert all(run.error["itl"] < 0 and run.error["e2e"] < 0 for run in bare.runs)
    assert bare.summary["itl"].bias < -0.2


def test_a_loaded_server_is_explained_by_its_own_profile():
    (run,) = replayed(RTX, "rtx-pro-6000-96gb").runs
    assert abs(run.error["ttft"]) < 0.01
    assert max(abs(run.error[name]) for name in ("tpot", "itl", "e2e")) < 0.005
    assert run.request_error["scheduled"] < 0.005 and run.request_error["ttft"] < 0.02
    assert max(run.request_error["tpot"], run.request_error["e2e"]) < 0.01
    assert run.rejected == 0
