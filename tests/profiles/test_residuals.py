"""What is known of errors: every kind of server finds the narrowest group that was measured, and says which."""

from itertools import product

import pytest

from profiles.device import known_devices
from profiles.engine import load_engine
from profiles.plan import POLICIES
from profiles.residuals import Kind, _facts, residuals_of

V0, V1 = load_engine("vllm-v0"), load_engine("vllm-v1")


def kind(**changes):
    return Kind(
        **({"device": "h100-sxm-80gb", "policy": "vllm-v1", "experts": False, "modelled": 0.1} | changes)
    )


@pytest.mark.parametrize("engine", [V0, V1], ids=lambda engine: engine.name)
def test_every_kind_of_server_has_residuals(engine):
    for device, policy, experts, modelled in product(known_devices(), POLICIES, (False, True), (0.0, 1.0)):
        found = residuals_of(engine, kind(device=device, policy=policy, experts=experts, modelled=modelled))
        assert set(found.residuals) == {"ttft", "tpot", "itl", "e2e"} and found.source


def test_groups_are_of_enough_servers_and_models_and_hold_those_of_another():
    for group in _facts()["groups"]:
        assert group["servers"] >= 30 and group["models"] >= 3
        assert all(0.5 < share <= 1 for share in group["held"].values())


def test_the_narrowest_group_that_was_measured_speaks():
    assert "(vLLM, experts, hopper)" in residuals_of(V1, kind(experts=True)).source
    assert "(SGLang, experts)" in residuals_of(V1, kind(experts=True, policy="vllm-v0")).source
    assert "(vLLM, dense, roofline)" in residuals_of(V1, kind(device="mi300x")).source
    assert "(vLLM, dense, hopper, roofline)" in residuals_of(V1, kind(modelled=0.9)).source


def test_an_engine_counts_its_own_runs_where_they_were():
    own = residuals_of(V0, kind())
    assert own.source == V0.residuals_of and own.residuals["e2e"] == V0.residuals["e2e"]
    assert own.residuals["tpot"] == own.residuals["itl"]
    b200, l4 = kind(device="b200-sxm-180gb"), kind(device="l4", modelled=1.0)
    for other in (kind(experts=True), b200, l4, kind(modelled=1.0)):
        found = residuals_of(V0, other)
        for name, residual in V0.residuals.items():
            assert found.residuals[name].low <= residual.low and found.residuals[name].high >= residual.high
        assert "measured on dense, hopper, tables alone" in found.source


def test_what_is_said_of_the_engine_is_said_of_all_its_servers():
    whole = next(
        g for g in _facts()["groups"] if (g["engine"], g["ffn"], g["times"]) == ("vLLM", "all", "tables")
    )
    for name, ours in (("ttft", "ttft"), ("itl", "tpot"), ("e2e", "e2e")):
        low_high = whole["residuals"][ours]
        assert (V1.residuals[name].low, V1.residuals[name].high) == (low_high["low"], low_high["high"])
    assert str(whole["servers"]) in V1.residuals_of


def test_nothing_is_said_of_no_engine():
    assert residuals_of(load_engine("none"), kind()) is None


def test_a_file_without_errors_of_its_own_has_those_of_the_engine_it_starts_from(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("engine: vllm-v0\nconstants:\n  iteration_s: {value: 0.0046}\n", encoding="utf-8")
    b200 = kind(device="b200-sxm-180gb", experts=True, modelled=1.0)
    for asked in (kind(), b200):
        assert residuals_of(load_engine(str(file)), asked) == residuals_of(V0, asked)
    file.write_text("engine: vllm-v0\nresiduals:\n  e2e: {low: -0.1, high: 0.1}\n", encoding="utf-8")
    assert set(residuals_of(load_engine(str(file)), kind()).residuals) == {"e2e"}
