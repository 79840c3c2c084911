"""Memory accounting: totals against the model's own, shards against whole, published figures."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles import memory
from profiles.errors import InputError
from profiles.huggingface import load_model
from profiles.plan import EngineSettings, Plan
from tests.profiles.handmade import (
    CLIP,
    DEEPSEEK_V3,
    EVERY_KIND,
    LLAMA_8B,
    LLAMA_70B,
    MIXTRAL,
    T5,
    TINY_TIED,
    WHISPER,
)

SHORT = memory.Longest(prompt=100, request=120)


@dataclass(frozen=True)
class Device:
    memory_bytes: float


def whole(model, **more):
    return Plan(layers_per_stage=(len(model.decoder.layers),), **more)


def tensor_parallel(model, width, **more):
    return whole(model, attn_tp=width, ffn_tp=width, **more)


@pytest.mark.parametrize("model", EVERY_KIND.values(), ids=EVERY_KIND)
def test_one_device_holds_every_parameter_of_the_model(model):
    (held,) = memory.stage_weight_bytes(model, whole(model))
    assert held == 2 * model.parameters()


@pytest.mark.parametrize("model", EVERY_KIND.values(), ids=EVERY_KIND)
@settings(deadline=None, max_examples=20, derandomize=True)
@given(cuts=st.sets(st.integers(1, 60), max_size=4), width=st.sampled_from([1, 2, 4, 8]))
def test_shards_and_stages_hold_at_least_the_whole(model, cuts, width):
    layers = len(model.decoder.layers)
    ends = [*sorted(c for c in cuts if c < layers), layers]
    stages = tuple(b - a for a, b in zip([0, *ends], ends, strict=False))
    plan = Plan(layers_per_stage=stages, attn_tp=width, ffn_tp=width)
    total = width * sum(memory.stage_weight_bytes(model, plan))
    assert total >= 2 * model.parameters()
    kv = sum(memory.kv_bytes_per_token(model, plan))
    assert kv * width >= model.kv_bytes_per_token()


def test_llama_70b_weights_and_blocks_match_what_vllm_reports():
    """131.4 GiB in bf16; 320 KiB of cache per token. On 8 x H100 (79.1 GiB visible, 0.9 of it) the logs of
    vLLM show 16.5 GiB of weights per device and about 1.3 million cached tokens."""
    assert 2 * LLAMA_70B.parameters() / 2**30 == pytest.approx(131.4, abs=0.1)
    plan = tensor_parallel(LLAMA_70B, 8)
    assert memory.stage_weight_bytes(LLAMA_70B, plan)[0] / 2**30 == pytest.approx(16.45, abs=0.1)
    assert memory.kv_bytes_per_token(LLAMA_70B, plan) == (40 * 1024,)
    tokens = 16 * memory.kv_blocks(LLAMA_70B, plan, Device(79.1 * 2**30), SHORT)
    assert 1.2e6 < tokens < 1.5e6
    assert memory.kv_blocks(LLAMA_70B, whole(LLAMA_70B), Device(79.1 * 2**30), SHORT) <= 0


def test_tied_matrix_is_held_once_in_a_stage_and_twice_in_a_pipeline():
    one = sum(memory.stage_weight_bytes(TINY_TIED, whole(TINY_TIED)))
    two = sum(memory.stage_weight_bytes(TINY_TIED, Plan(layers_per_stage=(2, 2))))
    assert two - one == 2 * 1000 * 256


def test_kv_heads_are_copied_and_latents_shared():
    plan = tensor_parallel(LLAMA_70B, 16)
    assert memory.kv_bytes_per_token(LLAMA_70B, plan) == (40 * 1024,)
    for width in (1, 8):
        plan = tensor_parallel(DEEPSEEK_V3, width)
        assert memory.kv_bytes_per_token(DEEPSEEK_V3, plan) == (61 * 576 * 2,)


def test_expert_parallelism_splits_experts_as_tensor_parallelism_does():
    by_inner = memory.stage_weight_bytes(MIXTRAL, tensor_parallel(MIXTRAL, 8))
    by_expert = memory.stage_weight_bytes(MIXTRAL, whole(MIXTRAL, attn_tp=8, ffn_tp=1, ffn_ep=8))
    assert by_inner == by_expert


def test_formats_shrink_matrices_only():
    sizes = [
        memory.stage_weight_bytes(LLAMA_70B, whole(LLAMA_70B, weight_format=f))[0]
        for f in ("fp32", "bf16", "fp8", "int4")
    ]
    assert sizes[0] == 2 * sizes[1]
    vocabulary = 2 * 2 * 128256 * 8192
    assert sizes[2] - vocabulary == pytest.approx((sizes[1] - vocabulary) / 2, rel=1e-3)
    assert sizes[3] - vocabulary == pytest.approx((sizes[1] - vocabulary) * 0.5195 / 2, rel=1e-3)
    fp4 = memory.stage_weight_bytes(LLAMA_70B, whole(LLAMA_70B, weight_format="fp4"))[0]
    assert fp4 - vocabulary == pytest.approx((sizes[1] - vocabulary) * 4.5 / 16, rel=1e-3)
    half = memory.kv_bytes_per_token(LLAMA_70B, whole(LLAMA_70B, kv_format="fp8"))
    assert half == (160 * 1024,)


def test_mxfp4_holds_experts_alone():
    matrix = memory.Matrix(part="moe", n=64, k=96)
    assert memory.matrix_bytes(matrix, "mxfp4") == 64 * 96 * 4.25 / 8
    for part in ("qkv", "attention_output", "ffn", "shared_experts"):
        other = memory.Matrix(part=part, n=64, k=96)
        assert memory.matrix_bytes(other, "mxfp4") == memory.matrix_bytes(other, "bf16")
    oss = load_model("gpt-oss-120b")
    size = memory.stage_weight_bytes(oss, whole(oss, weight_format="mxfp4"))[0]
    assert size == pytest.approx(65.2e9, rel=0.02)  # the published checkpoint


def test_encoders():
    assert memory.kv_blocks(CLIP, whole(CLIP), Device(16e9), SHORT) == memory.UNBOUNDED_BLOCKS
    assert memory.kv_blocks(CLIP, whole(CLIP), Device(1e8), SHORT) == 0
    assert memory.kv_bytes_per_token(T5, whole(T5)) == (6 * 2 * 512 * 2,)
    assert memory.cross_kv_bytes(T5, whole(T5)) == (0,)
    plan = whole(WHISPER, engine=EngineSettings(max_seqs=4))
    assert memory.cross_kv_bytes(WHISPER, plan) == (4 * 1500 * 6 * 2 * 512 * 2,)


def test_more_memory_or_smaller_batches_never_cost_blocks():
    plan = tensor_parallel(LLAMA_70B, 4)
    blocks = [memory.kv_blocks(LLAMA_70B, plan, Device(g * 1e9), SHORT) for g in (40, 80, 141)]
    assert blocks == sorted(blocks)
    small = replace(plan, engine=EngineSettings(token_budget=512, max_seqs=16))
    assert memory.kv_blocks(LLAMA_70B, small, Device(80e9), SHORT) >= blocks[1]


def test_activations_grow_with_the_budget_and_with_gathered_tokens():
    budget = [
        memory.activation_bytes(
            LLAMA_70B, whole(LLAMA_70B, engine=EngineSettings(token_budget=n, max_seqs=1)), SHORT
        )
        for n in (1024, 2048, 4096)
    ]
    assert budget[1] > 1.9 * budget[0] and budget[2] > 1.9 * budget[1]
    gathered = whole(LLAMA_70B, attn_dp=8, ffn_tp=8)
    assert memory.activation_bytes(LLAMA_70B, gathered, SHORT) > memory.activation_bytes(
        LLAMA_70B, tensor_parallel(LLAMA_70B, 8), SHORT
    )


LONG = memory.Longest(prompt=40_000, request=40_500)


@pytest.mark.parametrize(
    ("model", "policy", "more", "tokens"),
    [
        (LLAMA_8B, "vllm-v1", {}, 512),
        (LLAMA_8B, "sarathi", {}, 512),
        (LLAMA_8B, "static", {}, 40_000),
        (LLAMA_8B, "orca", {}, 40_000 + 15),  # beside 15 decodes
        (LLAMA_8B, "vllm-v0", {"preemption": "swap"}, 40_000),
        (LLAMA_8B, "vllm-v0", {}, 40_499),  # recomputed before its last token
        (LLAMA_8B, "vllm-v0", {"token_budget": 65_536}, 65_536),
        (LLAMA_8B, "static", {"token_budget": 8, "max_seqs": 50_000}, 50_000),  # all decode at once
        (T5, "vllm-v1", {}, 40_499 + 15),
        (T5, "sarathi", {"preemption": "swap"}, 40_000 + 15),
        (CLIP, "vllm-v1", {"preemption": "swap"}, 40_000),  # nothing decodes
    ],
)
def test_tokens_of_the_largest_iteration_by_hand(model, policy, more, tokens):
    engine = EngineSettings(**{"policy": policy, "token_budget": 512, "max_seqs": 16} | more)
    assert memory.iteration_tokens(model, engine, LONG) == tokens


def test_inputs_of_fixed_length_run_whole():
    engine = EngineSettings(token_budget=512, max_seqs=16)
    assert memory.iteration_tokens(WHISPER, engine, SHORT) == 1500


def test_activations_of_whole_prompts_by_hand():
    """Llama-3.1-8B in bf16 holds 2 x 4096 numbers of a token, and (2 + 1) x 14,336 in its feed-forward: 100 KiB.
    40,000 tokens are 3.8 GiB, which 1,907 blocks of 16 x 128 KiB of the KV cache make room for."""
    per_token = 2 * (2 * 4096 + 3 * 14_336)
    settings = {"token_budget": 512, "max_seqs": 16, "preemption": "swap"}
    chunks, alone = (
        whole(LLAMA_8B, engine=EngineSettings(policy=policy, **settings)) for policy in ("vllm-v1", "vllm-v0")
    )
    assert memory.activation_bytes(LLAMA_8B, chunks, LONG) == 512 * per_token
    assert memory.activation_bytes(LLAMA_8B, alone, LONG) == 40_000 * per_token
    assert memory.activation_bytes(LLAMA_8B, alone, SHORT) == 512 * per_token
    more, less = (memory.kv_blocks(LLAMA_8B, plan, Device(24e9), LONG) for plan in (chunks, alone))
    assert more - less == pytest.approx((40_000 - 512) * per_token / (16 * 128 * 1024), abs=1)
    assert memory.footprint(LLAMA_8B, alone, less, LONG).activation_bytes == 40_000 * per_token


@pytest.mark.parametrize(("prompt", "request_"), [(0, 5), (6, 5)])
def test_longest_lengths_in_order(prompt, request_):
    with pytest.raises(ValueError, match="longest prompt"):
        memory.Longest(prompt=prompt, request=request_)


def test_wrong_number_of_layers_is_the_users_mistake():
    with pytest.raises(InputError, match=r"stages of 40\+41 layers, expected 80"):
        memory.stage_weight_bytes(LLAMA_70B, Plan(layers_per_stage=(40, 41)))


def test_what_is_reserved_for_encoder_inputs_is_cache_not_weights():
    plan = Plan(layers_per_stage=(len(WHISPER.decoder.layers),))
    held = memory.footprint(WHISPER, plan, 100, SHORT)
    assert held.weight_bytes == pytest.approx(2 * WHISPER.parameters(), rel=0.01)
    own = 100 * 16 * memory.kv_bytes_per_token(WHISPER, plan)[0]
    assert held.kv_bytes == pytest.approx(own + memory.cross_kv_bytes(WHISPER, plan)[0])
    assert memory.cross_kv_bytes(WHISPER, plan)[0] > 0


def test_a_tower_is_on_the_first_stage_alone_cut_by_tensor_parallelism_and_not_quantized():
    tower = replace(LLAMA_8B, tower_parameters=1_000_000)
    for plan in (
        Plan(layers_per_stage=(16, 16), attn_tp=2, ffn_tp=2),
        Plan(layers_per_stage=(16, 16), weight_format="int4"),
    ):
        less, more = (memory.stage_weight_bytes(model, plan) for model in (LLAMA_8B, tower))
        assert more[0] - less[0] == pytest.approx(2 * 1_000_000 / plan.attn_tp) and more[1] == less[1]
    assert tower.parameters() == LLAMA_8B.parameters() + 1_000_000
    assert tower.active_parameters() == LLAMA_8B.active_parameters()
