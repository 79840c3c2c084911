"""The question and the user's words for axes and SLOs: what is read, and what is refused in one line."""

import dataclasses

import numpy as np
import pytest

from planner.axes import AXES, axis_of, parse_axes, parse_pairs, plan_from_axes
from planner.question import Question
from planner.slo import parse_slo
from planner.validate import complaints
from profiles.device import load_device
from profiles.errors import InputError
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.plan import EngineSettings, Plan
from traces.trace import Trace

H100 = load_device("h100")
LLAMA, MIXTRAL, DEEPSEEK = map(load_model, ("llama-3.1-8b", "mixtral-8x7b", "deepseek-v3"))
TRACE = Trace(arrival_s=np.zeros(2), prompt_tokens=np.array([100, 50]), output_tokens=np.array([10, 900]))


def ask(**changes):
    return Question(**{"model": LLAMA, "fleet": homogeneous("h100"), "trace": TRACE} | changes)


@pytest.mark.parametrize(
    "text, label",
    [
        ("tp=4,dp=2", "dp=2 tp=4"),
        ("pp=2 tp=2", "pp=2 tp=2"),
        ("attn_tp=2,attn_dp=2", "attn_tp=2 attn_dp=2 ffn_tp=4"),
        ("ffn_tp=4", "tp=4"),
        ("tp=2,attn_dp=4,ffn_dp=2", "attn_tp=2 attn_dp=4 ffn_tp=4 ffn_dp=2"),
    ],
)
def test_plan_label_names_the_plan(text, label):
    plan = plan_from_axes(LLAMA, parse_axes(text))
    assert plan.label == label
    assert plan_from_axes(LLAMA, parse_axes(plan.label)) == plan


def test_experts_use_the_devices_of_attention():
    plan = plan_from_axes(MIXTRAL, parse_axes("tp=2,attn_dp=2,ep=4"))
    assert (plan.attn_tp, plan.attn_dp, plan.ffn_ep, plan.ffn_tp) == (2, 2, 4, 1)
    assert plan_from_axes(MIXTRAL, parse_axes("tp=4,ep=2")).ffn_tp == 2


def test_plan_keeps_defaults_it_does_not_name():
    base = Plan(layers_per_stage=(32,), weight_format="int4", engine=EngineSettings(max_seqs=7))
    plan = plan_from_axes(LLAMA, parse_axes("tp=2,budget=512"), base)
    assert (plan.weight_format, plan.engine.max_seqs, plan.engine.token_budget) == ("int4", 7, 512)


def test_uneven_stages():
    assert plan_from_axes(LLAMA, parse_axes("layers=17/15")).stages == 2
    assert plan_from_axes(LLAMA, parse_axes("pp=3")).layers_per_stage == (11, 11, 10)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("tp", "'tp': expected axis=value, as in tp=4."),
        ("tp=0", "tp=0: expected a whole number from 1 to 999999999."),
        ("tp=²", "tp=²: expected a whole number from 1 to 999999999."),
        (
            "tp=10000000000",
            "tp=10000000000: expected a whole number from 1 to 999999999.",
        ),
        ("ttp=4", "Unknown axis 'ttp' in 'ttp=4', did you mean 'tp'?"),
        ("weights=fp9", "Unknown format 'fp9', did you mean 'fp8'?"),
        ("policy=vllm", "policy=vllm: unknown, did you mean 'vllm-v"),
        ("layers=4/x", "layers=4/x: expected layers of each stage, as in layers=27/27/26."),
        ("tp=4,tp=8", "'tp=4,tp=8': tp has two values, 4 and 8."),
        (" , ", "' , ': expected axis=value pairs, as in tp=4,dp=2."),
    ],
)
def test_axes_refused_in_one_line(text, expected):
    with pytest.raises(InputError) as error:
        parse_axes(text)
    assert str(error.value).startswith(expected) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["layers=16/15", "pp=2,layers=32", "pp=33", "ep=2", "tp=4,ffn_tp=2", "tp=4,ffn_dp=3"]
)
def test_plans_refused(text):
    with pytest.raises(InputError):
        plan_from_axes(LLAMA, parse_axes(text))


def test_pairs_keep_every_value():
    assert parse_pairs("tp=8,tp=4,kv=half") == (("attn_tp", 8), ("attn_tp", 4), ("kv", "bf16"))


def test_every_axis_can_be_read_off_a_plan():
    plan = Plan(layers_per_stage=(32,))
    assert all(axis_of(plan, axis) is not None for axis in AXES)


@pytest.mark.parametrize(
    "text",
    ["ttft<=1s", "ttft_p0<=1s", "ttft_p101<=1s", "ttft_p99<=1", "ttft_p99<=0ms", "ttft_p9.9.9<=1s",
     "tft_p99<=1s", "e2e_p50>=1s", "e2e_p50<=1h", "e2e_mean<=1e400s", "", "ttft_p99<=--1s",
     "power_mean<=2s", "power_p99<=2kW", "ttft_mean<=2kW", "power_mean<=0W"],
)  # fmt: skip
def test_slos_refused_in_one_line(text):
    with pytest.raises(InputError, match="SLO") as error:
        parse_slo(text)
    assert "\n" not in str(error.value)


def test_slo_units():
    limits = [parse_slo(f"tpot_p95<={limit}").limit for limit in ("40ms", "0.04s", "40000us")]
    assert limits == pytest.approx([0.04] * 3)
    assert parse_slo("power_mean<=2kW").limit == 2000 and parse_slo("power_mean<=700W").unit == "W"


def test_published_formats_by_default():
    assert ask().pairs_of_formats(H100) == (("bf16", "bf16"),)
    assert ask(model=DEEPSEEK).pairs_of_formats(H100) == (("fp8", "fp8"),)
    both = ask(model=DEEPSEEK, weight_formats=("bf16", "fp8")).pairs_of_formats(H100)
    assert both == (("bf16", "bf16"), ("fp8", "fp8"))


@pytest.mark.parametrize(
    ("device", "weights", "activations"),
    [
        ("h100", "fp8", "fp8"),
        ("a100-sxm-80gb", "fp8", "bf16"),
        ("a100-sxm-80gb", "int8", "int8"),
        ("v100-sxm-32gb", "int8", "bf16"),
        ("h100", "int4", "bf16"),
        ("h100", "fp4", "bf16"),
        ("b200", "fp4", "fp4"),
        ("b200", "mxfp4", "bf16"),
        ("h100", "fp32", "fp32"),
    ],
)
def test_activations_follow_weights_where_the_device_multiplies_them(device, weights, activations):
    model = MIXTRAL if weights == "mxfp4" else LLAMA
    pairs = ask(model=model, weight_formats=(weights,)).pairs_of_formats(load_device(device))
    assert pairs == ((weights, activations),)


def test_formats_that_the_device_lacks_are_not_offered():
    asked = ask(weight_formats=("fp8",), activation_formats=("fp8", "bf16"))
    assert asked.pairs_of_formats(H100) == (("fp8", "fp8"), ("fp8", "bf16"))
    assert asked.pairs_of_formats(load_device("a100-sxm-80gb")) == (("fp8", "bf16"),)
    with pytest.raises(InputError, match="fp8 weights by fp8 activations on a100-sxm-80gb"):
        ask(fleet=homogeneous("a100-sxm-80gb"), weight_formats=("fp8",), activation_formats=("fp8",))


def test_fixed_axis_replaces_the_searched_values():
    question = ask(fix=parse_axes("budget=512,weights=fp8,routing=least-outstanding"))
    assert question.options("budget") == (512,) and question.options("weights") == ("fp8",)
    assert question.settings().routing == "least-outstanding" and question.settings().token_budget == 512


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "latencies"},
        {"objective": "goodput"},
        {"weight_formats": ("fp9",)},
        {"kv_formats": ("int4",)},
        {"weight_formats": ("bf16",), "activation_formats": ("fp8",)},
        {"policies": ("vllm-v2",)},
        {"token_budgets": (0,)},
        {"token_budgets": ()},
        {"clocks": (-1,)},
        {"gpu_memory_utilization": 1.5},
        {"block_size": 0},
        {"seed": -1},
        {"fix": {"tpp": 1}},
        {"forbid": (("routing", "round-robin"),)},
    ],
)
def test_questions_refused_in_one_line(changes):
    with pytest.raises(InputError) as error:
        ask(**changes)
    assert "\n" not in str(error.value)


def test_mxfp4_is_for_models_with_experts():
    with pytest.raises(InputError, match=r"mxfp4 holds routed experts alone, .* has none"):
        ask(weight_formats=("mxfp4",))
    both = ask(weight_formats=("bf16", "mxfp4"))
    assert both.pairs_of_formats(load_device("h100-sxm-80gb")) == (("bf16", "bf16"),)
    named = Plan(layers_per_stage=(len(both.model.decoder.layers),), weight_format="mxfp4")
    found = complaints(both, both.fleet.pools[0], named)
    assert [line for line in found if "mxfp4" in line] == [
        f"mxfp4 holds routed experts alone, {both.model.name} has none"
    ]


def test_question_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ask().seed = 1
