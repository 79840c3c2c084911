"""Which engines run a plan: the rules that their documentation states, one by one."""

import dataclasses

import pytest

from planner.deployable import ENGINES, deployable, verdicts
from profiles.huggingface import load_model
from profiles.plan import EngineSettings, Plan

LLAMA, MIXTRAL = load_model("llama-3.1-8b"), load_model("mixtral-8x7b")
ALL = set(ENGINES)


@pytest.mark.parametrize(
    ("model", "widths", "engines"),
    [
        (LLAMA, {"attn_tp": 4, "ffn_tp": 4}, ALL),
        (LLAMA, {"attn_tp": 4, "ffn_tp": 4, "layers_per_stage": (11, 11, 10)}, ALL),
        (LLAMA, {"attn_dp": 4, "ffn_tp": 4}, set()),
        (LLAMA, {"attn_tp": 4, "ffn_dp": 4}, set()),
        (MIXTRAL, {"attn_tp": 8, "ffn_tp": 8}, ALL),
        (MIXTRAL, {"attn_tp": 8, "ffn_ep": 8}, ALL),
        (MIXTRAL, {"attn_tp": 8, "ffn_ep": 4, "ffn_tp": 2}, {"SGLang", "TensorRT-LLM"}),
        (MIXTRAL, {"attn_dp": 8, "ffn_ep": 8}, ALL),
        (MIXTRAL, {"attn_tp": 2, "attn_dp": 4, "ffn_ep": 8}, {"vLLM", "SGLang"}),
        (MIXTRAL, {"attn_tp": 2, "attn_dp": 4, "ffn_tp": 8}, {"vLLM", "SGLang"}),
        (MIXTRAL, {"attn_tp": 2, "ffn_dp": 2}, set()),
    ],
)
def test_layouts(model, widths, engines):
    plan = Plan(**{"layers_per_stage": (32,), **widths})
    assert set(deployable(plan, model)) == engines


@pytest.mark.parametrize(
    ("formats", "engines"),
    [
        (("bf16", "bf16", "fp8"), ALL),
        (("fp8", "fp8", "bf16"), ALL),
        (("fp8", "bf16", "bf16"), {"vLLM", "SGLang"}),
        (("int4", "bf16", "bf16"), ALL),
        (("int4", "fp8", "bf16"), {"SGLang", "TensorRT-LLM"}),
        (("bf16", "fp8", "bf16"), set()),
        (("bf16", "bf16", "int8"), set()),
        (("int8", "int8", "int8"), set()),
    ],
)
def test_formats(formats, engines):
    weights, activations, kv = formats
    plan = Plan(layers_per_stage=(32,), weight_format=weights, activation_format=activations, kv_format=kv)
    assert set(deployable(plan, LLAMA)) == engines


@pytest.mark.parametrize(
    ("policy", "engines"),
    [
        ("vllm-v1", ALL),
        ("sarathi", ALL),
        ("vllm-v0", {"SGLang"}),
        ("orca", {"TensorRT-LLM"}),
        ("static", set()),
    ],
)
def test_policies(policy, engines):
    plan = Plan(layers_per_stage=(32,), engine=EngineSettings(policy=policy))
    assert set(deployable(plan, LLAMA)) == engines


def test_models_in_stages():
    whisper = load_model("whisper-large-v3")
    whole = Plan(layers_per_stage=(32,))
    assert set(deployable(whole, whisper)) == {"vLLM", "SGLang"}
    assert not deployable(dataclasses.replace(whole, layers_per_stage=(16, 16)), whisper)


def test_every_verdict_says_why():
    plan = Plan(layers_per_stage=(24,), attn_tp=2, ffn_dp=2)
    for engine, (runs, words) in verdicts(plan, load_model("t5-11b")).items():
        assert not runs and engine in words
