"""Work of a model under a plan, counted by hand and against what its devices hold."""

import pytest

from profiles import work
from profiles.memory import stage_weight_bytes
from profiles.plan import Plan
from profiles.stepcost import AttentionWork, RoutedExperts
from tests.profiles.handmade import CLIP, DEEPSEEK_V3, EVERY_KIND, LLAMA_70B, MIXTRAL, SLIDING, T5, TINY_TIED

DENSE = [name for name in EVERY_KIND if name not in ("mixtral", "deepseek-v3", "t5", "whisper")]


def plan_of(model, **layout):
    return Plan(**{"layers_per_stage": (len(model.decoder.layers),)} | layout)


def test_windows_of_a_model_are_told_apart():
    """SLIDING: 4 layers see 1000 tokens, 4 see all; 8 heads of 64, 4 KV heads, bf16."""
    each = {"flops_per_pair": 4 * 2.0 * 8 * (64 + 64), "kv_bytes_per_token": 4 * 4 * (64 + 64) * 2.0}
    assert work.attention_work(SLIDING, plan_of(SLIDING)) == (
        AttentionWork(window=0, **each),
        AttentionWork(window=1000, **each),
    )


@pytest.mark.parametrize(("width", "copies"), [(1, 1), (8, 1), (16, 2)])
def test_copies_of_kv_heads_are_read_by_their_devices(width, copies):
    """80 layers of 8 KV heads of 128; FLOPs are no more for it."""
    (each,) = work.attention_work(LLAMA_70B, plan_of(LLAMA_70B, attn_tp=width, ffn_tp=width))
    assert each.kv_bytes_per_token == copies * LLAMA_70B.kv_bytes_per_token()
    assert each.flops_per_pair == 80 * 2 * 64 * (128 + 128)


def test_every_shard_reads_the_latent_cache():
    for width in (1, 8):
        (each,) = work.attention_work(DEEPSEEK_V3, plan_of(DEEPSEEK_V3, attn_tp=width, ffn_tp=width))
        assert each.kv_bytes_per_token == width * 61 * 576 * 2


def test_cross_attention_and_caches_that_are_none_do_not_count():
    (t5,) = work.attention_work(T5, plan_of(T5))
    assert t5.flops_per_pair == 6 * 2 * 8 * 128
    (clip,) = work.attention_work(CLIP, plan_of(CLIP))
    assert clip.flops_per_pair == 6 * 2 * 8 * 128 and clip.kv_bytes_per_token == 0


@pytest.mark.parametrize(
    "layout",
    [
        {"attn_tp": 8, "ffn_tp": 8},
        {"attn_dp": 8, "ffn_ep": 8},
        {"attn_tp": 8, "ffn_tp": 2, "ffn_ep": 4, "weight_format": "fp8"},
        {"attn_dp": 4, "ffn_tp": 2, "ffn_dp": 2},
    ],
)
@pytest.mark.parametrize("model", [MIXTRAL, DEEPSEEK_V3], ids=lambda model: model.name)
def test_weights_of_every_iteration_and_all_experts_are_what_devices_hold(model, layout):
    plan = plan_of(model, **layout)
    (experts,) = work.routed_experts(model, plan)
    held = plan.stage_devices * sum(stage_weight_bytes(model, plan))
    looked_up = (
        plan.attn_dp * 2 * (model.embedding_parameters + model.decoder.extra_parameters * plan.attn_tp)
    )
    routed = plan.ffn_dp * experts.experts * experts.bytes_each
    assert work.weight_bytes(model, plan) + routed == pytest.approx(held - looked_up)


def test_experts_that_do_not_divide_are_read_once():
    """8 experts on 3 devices take the room of 9 and are 8."""
    plan = plan_of(MIXTRAL, attn_dp=3, ffn_ep=3)
    each = 32 * 3 * 4096 * 14336 * 2.0
    assert work.routed_experts(MIXTRAL, plan) == (RoutedExperts(experts=8, top_k=2, bytes_each=each),)
    attention = 4096 * (32 + 2 * 8) * 128 + 4096 * 32 * 128
    layers = 32 * (attention + 4096 * 8 + 2 * 4096)  # with router and norms
    assert work.weight_bytes(MIXTRAL, plan) == 3 * 2 * (layers + MIXTRAL.lm_head_parameters)


@pytest.mark.parametrize("name", DENSE)
def test_dense_models_read_all_that_is_not_looked_up(name):
    model = EVERY_KIND[name]
    assert work.routed_experts(model, plan_of(model)) == ()
    looked_up = model.embedding_parameters + model.decoder.extra_parameters
    assert work.weight_bytes(model, plan_of(model)) == 2 * (model.parameters() - looked_up)


def test_a_tied_embedding_is_read_as_the_head():
    rows = TINY_TIED.embedding_parameters
    layers = 2 * (TINY_TIED.parameters() - rows - TINY_TIED.decoder.extra_parameters)
    for stages in ((4,), (2, 2)):
        assert work.weight_bytes(TINY_TIED, Plan(layers_per_stage=stages)) == layers + 2 * rows


def test_iterations_without_prompts_read_no_encoder():
    """Six layers, hidden 512: two attention cells, of which cross-attention's K and V are for prompts."""
    attention = 4 * 512 * 512 + 2 * 512 * 512
    layers = 6 * (attention + 2 * 512 * 2048 + 1536)
    assert work.weight_bytes(T5, plan_of(T5)) == 2 * (layers + T5.lm_head_parameters)
