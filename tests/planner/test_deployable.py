"""Which engines run a plan: the rules that their documentation states, one by one."""

import dataclasses

import pytest

from planner.deploy import Server, command
from planner.deployable import ENGINES, deployable, verdicts
from planner.manifest import to_yaml
from profiles.device import load_device
from profiles.huggingface import load_model
from profiles.memory import Longest, footprint
from profiles.plan import EngineSettings, Plan

H100, A100 = load_device("h100"), load_device("a100-sxm-80gb")
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
    assert set(deployable(plan, model, H100)) == engines


@pytest.mark.parametrize(
    ("formats", "device", "engines"),
    [
        (("bf16", "bf16", "fp8"), H100, ALL),
        (("fp8", "fp8", "bf16"), H100, ALL),
        (("fp8", "fp8", "bf16"), A100, set()),
        (("fp8", "bf16", "bf16"), H100, set()),
        (("fp8", "bf16", "bf16"), A100, {"vLLM", "SGLang"}),
        (("int4", "bf16", "bf16"), H100, ALL),
        (("int4", "fp8", "bf16"), H100, {"SGLang", "TensorRT-LLM"}),
        (("int8", "int8", "bf16"), A100, {"vLLM", "SGLang"}),
        (("bf16", "fp8", "bf16"), H100, set()),
        (("bf16", "bf16", "int8"), H100, set()),
        (("int8", "int8", "int8"), H100, set()),
        (("bf16", "bf16", "bf16"), load_device("v100-sxm-32gb"), {"vLLM"}),
        (("fp8", "bf16", "bf16"), load_device("v100-sxm-32gb"), set()),
        (("bf16", "bf16", "fp8"), load_device("v100-sxm-32gb"), set()),
        (("bf16", "bf16", "bf16"), load_device("mi300x"), {"vLLM", "SGLang"}),
        (("int8", "int8", "bf16"), load_device("b200"), set()),
        (("fp4", "fp4", "fp8"), load_device("b200"), ALL),
        (("fp4", "bf16", "bf16"), load_device("b200"), set()),
        (("fp4", "fp4", "bf16"), H100, set()),
        (("fp4", "bf16", "bf16"), H100, {"vLLM", "SGLang"}),
        (("fp4", "bf16", "bf16"), load_device("mi300x"), set()),
        (("mxfp4", "bf16", "bf16"), H100, set()),
    ],
)
def test_formats_and_devices(formats, device, engines):
    weights, activations, kv = formats
    plan = Plan(layers_per_stage=(32,), weight_format=weights, activation_format=activations, kv_format=kv)
    assert set(deployable(plan, LLAMA, device)) == engines


@pytest.mark.parametrize(
    ("device", "activations", "engines"),
    [(H100, "bf16", ALL), (H100, "fp8", set()), (load_device("b200"), "fp8", ALL)],
)
def test_experts_in_mxfp4(device, activations, engines):
    plan = Plan(layers_per_stage=(36,), weight_format="mxfp4", activation_format=activations)
    assert set(deployable(plan, load_model("gpt-oss-120b"), device)) == engines


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
    assert set(deployable(plan, LLAMA, H100)) == engines


@pytest.mark.parametrize(
    ("settings", "engines"),
    [
        ({"token_budget": 1000}, {"vLLM", "TensorRT-LLM"}),
        ({"token_budget": 1000, "block_size": 8}, {"SGLang", "TensorRT-LLM"}),
        ({"block_size": 48}, {"vLLM"}),
        ({"block_size": 48, "token_budget": 2016}, {"vLLM", "SGLang"}),
        ({"block_size": 24}, set()),
        ({"block_size": 1}, {"SGLang"}),
        ({"block_size": 128}, ALL),
        ({"block_size": 48, "policy": "vllm-v0"}, {"SGLang"}),
    ],
)
def test_blocks_and_budgets_that_an_engine_refuses(settings, engines):
    plan = Plan(layers_per_stage=(32,), engine=EngineSettings(**settings))
    assert set(deployable(plan, LLAMA, H100)) == engines


def test_models_in_stages():
    whisper = load_model("whisper-large-v3")
    whole = Plan(layers_per_stage=(32,))
    assert set(deployable(whole, whisper, H100)) == {"vLLM", "SGLang"}
    assert not deployable(dataclasses.replace(whole, layers_per_stage=(16, 16)), whisper, H100)


def test_every_verdict_says_why():
    plan = Plan(layers_per_stage=(24,), attn_tp=2, ffn_dp=2)
    for engine, (runs, words) in verdicts(plan, load_model("t5-11b"), H100).items():
        assert not runs and engine in words


def commands(plan, model=LLAMA, engines=ENGINES, *, device=H100, blocks=60_000, longest=2000):
    server = Server(
        model=model,
        plan=plan,
        device=device,
        memory=footprint(model, plan, blocks, Longest(prompt=1000, request=longest)),
        longest=Longest(prompt=1000, request=longest),
    )
    made = {engine: command(server, engine) for engine in engines}
    return {
        engine: (each.text, [to_yaml([dict(each.options)]), *each.notes]) for engine, each in made.items()
    }


def test_limits_per_micro_batch_and_rank_become_those_of_a_server():
    """vLLM and SGLang count the sequences of all micro-batches, SGLang the tokens of all attention ranks."""
    staged = commands(Plan(layers_per_stage=(16, 16)))
    assert "--max-num-seqs 512 " in staged["vLLM"][0] + " "
    assert "--max-running-requests 512 " in staged["SGLang"][0]
    ranks = commands(Plan(layers_per_stage=(32,), attn_dp=8, ffn_ep=8), MIXTRAL)
    assert "--max-num-seqs 256 " in ranks["vLLM"][0] + " "
    assert "--chunked-prefill-size 65536 " in ranks["SGLang"][0]
    assert "--max-running-requests 2048 " in ranks["SGLang"][0]
    whole = Plan(layers_per_stage=(32,), attn_dp=8, ffn_ep=8, engine=EngineSettings(policy="vllm-v0"))
    assert "--max-prefill-tokens 8192 " in commands(whole, MIXTRAL)["SGLang"][0], "of each rank, undivided"


def test_chunks_and_mixing_are_switched_on_where_they_are_not_the_default():
    mixed = commands(Plan(layers_per_stage=(32,)))
    assert "--enable-mixed-chunk" in mixed["SGLang"][0]
    assert any("enable_chunked_prefill: true" in note for note in mixed["TensorRT-LLM"][1])
    first = commands(Plan(layers_per_stage=(32,), engine=EngineSettings(policy="vllm-v0")))
    assert "--chunked-prefill-size -1" in first["SGLang"][0] and "mixed" not in first["SGLang"][0]
    assert not any("policy" in note for note in first["SGLang"][1])
    assert any("does not batch by policy vllm-v0" in note for note in first["vLLM"][1])
    whole = Plan(layers_per_stage=(32,), engine=EngineSettings(policy="orca", token_budget=512, max_seqs=16))
    assert "--max_num_tokens 1015 " in commands(whole)["TensorRT-LLM"][0], "a prompt beside 15 decodes"


def test_an_uneven_split_is_named():
    uneven = commands(Plan(layers_per_stage=(11, 11, 10)))
    assert uneven["vLLM"][0].startswith("VLLM_PP_LAYER_PARTITION=11,11,10 ")
    assert uneven["SGLang"][0].startswith("SGLANG_PP_LAYER_PARTITION=11,11,10 ")


def flag(command, name):
    """Value of a flag, None where it is absent."""
    words = command.split()
    return words[words.index(name) + 1] if name in words else None


def test_a_cache_smaller_than_the_context_limits_it():
    """vLLM does not start when a request of the longest context does not fit its cache."""
    plan, context = Plan(layers_per_stage=(32,)), LLAMA.max_positions
    enough = -(-context // 16) * 10 // 9 + 1
    names = {"vLLM": "--max-model-len", "SGLang": "--context-length", "TensorRT-LLM": "--max_seq_len"}
    for engine, name in names.items():
        assert flag(commands(plan, blocks=enough)[engine][0], name) is None
        command, notes = commands(plan, blocks=2000)[engine]  # 32,000 tokens, sure of 28,800
        assert flag(command, name) == str(28 * 1024)
        assert any("holds 32,000 tokens" in note and f"{context:,}" in note for note in notes)
        assert flag(commands(plan, blocks=2000, longest=31_000)[engine][0], name) == "31000"


def test_memory_fractions_give_the_cache_that_was_simulated():
    plan, memory = Plan(layers_per_stage=(32,)), H100.memory_bytes
    said = commands(plan, blocks=20_000)
    cache = 20_000 * 16 * LLAMA.kv_bytes_per_token("bf16")
    weights = LLAMA.parameters() * 2
    assert float(flag(said["vLLM"][0], "--gpu-memory-utilization")) == 0.9
    static = float(flag(said["SGLang"][0], "--mem-fraction-static"))
    assert static * memory == pytest.approx(weights + cache, rel=0.01)
    held = footprint(LLAMA, plan, 20_000, Longest(prompt=1000, request=2000))
    beside = weights + held.activation_bytes + held.reserve_bytes
    fraction = float(flag(said["TensorRT-LLM"][0], "--kv_cache_free_gpu_memory_fraction"))
    assert fraction * (memory - beside) == pytest.approx(cache, rel=0.01)


def test_devices_without_bf16_compute_in_half():
    plan = Plan(layers_per_stage=(32,))
    assert flag(commands(plan, device=load_device("v100-sxm-32gb"))["vLLM"][0], "--dtype") == "half"
    assert flag(commands(plan)["vLLM"][0], "--dtype") is None


def test_models_that_overflow_fp16_do_not_run_where_there_is_no_bf16():
    v100 = load_device("v100-sxm-32gb")
    for name in ("gemma-2-9b", "gemma-3-4b", "gpt-oss-20b"):
        model = load_model(name)
        plan = Plan(layers_per_stage=(len(model.decoder.layers),), weight_format=model.weight_format)
        assert "vLLM" not in deployable(plan, model, v100) and "vLLM" in deployable(plan, model, A100)


def test_vllm_takes_no_more_sequences_than_tokens():
    deep = Plan(layers_per_stage=(2,) * 16, engine=EngineSettings(token_budget=2048))
    command, notes = commands(deep)["vLLM"]
    assert flag(command, "--max-num-seqs") == "2048" and any("4096 sequences" in note for note in notes)
    command, notes = commands(Plan(layers_per_stage=(16, 16)))["vLLM"]
    assert flag(command, "--max-num-seqs") == "512" and not any("sequences" in note for note in notes)


def test_what_an_engine_or_a_vendor_does_otherwise_is_said():
    odd = Plan(layers_per_stage=(32,), clock_mhz=1200)
    assert any("nvidia-smi" in note for note in commands(odd)["vLLM"][1])
    amd = commands(odd, device=load_device("mi300x"))["vLLM"][1]
    assert any("rocm-smi" in note for note in amd) and not any("nvidia" in note for note in amd)


@pytest.mark.parametrize(
    ("model", "device", "block", "said"),
    [
        ("deepseek-v2-lite", "b200", 16, None),
        ("deepseek-v2-lite", "gb200", 48, None),
        ("deepseek-v2-lite", "b200", 64, "64"),
        ("deepseek-v2-lite", "h100", 16, "16"),
        ("deepseek-v2-lite", "rtx-pro-6000", 16, "16"),
        ("llama-3.1-8b", "b200", 16, "16"),
    ],
)
def test_vllm_picks_its_own_blocks_for_mla_on_blackwell(model, device, block, said):
    model = load_model(model)
    plan = Plan(layers_per_stage=(len(model.decoder.layers),), engine=EngineSettings(block_size=block))
    command, notes = commands(plan, model, ["vLLM"], device=load_device(device))["vLLM"]
    assert flag(command, "--block-size") == said
    assert any(f"{block} were simulated" in note for note in notes) == (said is None)


def test_sglang_takes_blocks_of_64_for_deepseek_on_blackwell():
    model, b200 = load_model("deepseek-v3"), load_device("b200")
    plan = Plan(layers_per_stage=(61,), attn_tp=8, ffn_ep=8, weight_format="fp8", activation_format="fp8")
    assert "SGLang" in deployable(plan, model, b200)
    command, notes = commands(plan, model, ["SGLang"], device=b200, blocks=6000)["SGLang"]
    assert flag(command, "--page-size") == "64" and any("16 were simulated" in note for note in notes)
    assert flag(commands(plan, model, ["SGLang"], blocks=6000)["SGLang"][0], "--page-size") == "16"
    odd = dataclasses.replace(plan, engine=EngineSettings(token_budget=2000))
    assert "SGLang" in deployable(odd, model, H100) and "SGLang" not in deployable(odd, model, b200)


def test_four_bits_name_their_checkpoint_and_their_switch():
    b200 = load_device("b200")
    narrow = Plan(layers_per_stage=(32,), weight_format="fp4", activation_format="fp4")
    for _, notes in commands(narrow, device=b200).values():
        assert "needs a checkpoint quantized to fp4 (NVFP4: ModelOpt or llm-compressor)" in notes
    oss = Plan(layers_per_stage=(36,), weight_format="mxfp4", activation_format="fp8")
    command, notes = commands(oss, load_model("gpt-oss-120b"), device=b200)["vLLM"]
    assert command.startswith("VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8=1 ") and not any(
        "quantized" in n for n in notes
    )
    wide = dataclasses.replace(oss, activation_format="bf16")
    assert "MXFP8" not in commands(wide, load_model("gpt-oss-120b"), device=b200)["vLLM"][0]
