"""Decoders with RMS norms and rotary positions: Llama and what followed it.

Each builder reads a ``Config`` that already holds its family's defaults (see ``huggingface.ARCHITECTURES``)
and returns a Model without its name. Norms have a scale and no bias; rotary positions have no parameters.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from profiles.errors import InputError
from profiles.hfconfig import Config
from profiles.model import Attention, Block, FeedForward, Model, MoE, Stack

SLIDING = ("sliding_attention", "chunked_attention")
"""Words of ``layer_types`` for layers that see a window only. Llama 4 cuts the past into chunks: at most,
not always, a window's worth of tokens is read there."""


def llama(c: Config) -> Model:
    """Llama 1 to 3.3; biases are optional (``attention_bias``, ``mlp_bias``)."""
    bias = c.flag("attention_bias", default=False)
    inner = c.integer("intermediate_size")
    mlp_bias = 2 * inner + c.integer("hidden_size") if c.flag("mlp_bias", default=False) else 0
    cell = _grouped(c, qkv_bias=bias, output_bias=bias)
    return _dense(c, [cell] * _layers(c), FeedForward(inner=inner, gated=True, bias=mlp_bias))


def mistral(c: Config) -> Model:
    """Mistral (the sliding window, if any, is in every layer) and Phi-3 (fused matrices count alike)."""
    cell = _grouped(c)
    return _dense(c, _windowed(c, cell, lambda layer: True))


def mixtral(c: Config) -> Model:
    """Mixtral; MiniMax-M2 adds norms of all query and all key heads and a bias of the router."""
    qk_norm = c.flag("use_qk_norm", default=False)
    cell = _grouped(c)
    norms = (cell.q_heads + cell.kv_heads) * cell.head_dim if qk_norm else 0
    experts = c.integer("num_local_experts", "num_experts")
    ffn = MoE(
        experts=experts,
        top_k=_top_k(c, experts),
        inner=c.integer("intermediate_size"),
        gated=True,
        router_bias=experts if c.flag("use_routing_bias", default=False) else 0,
    )
    cells = _windowed(c, replace(cell, extra_parameters=norms), lambda layer: True)
    return _decoder(c, cells, [ffn] * len(cells))


def qwen2(c: Config) -> Model:
    """Qwen2 and Qwen2.5: biases of Q, K and V always."""
    return _dense(c, _qwen_windows(c, _grouped(c, qkv_bias=True)))


def qwen2_moe(c: Config) -> Model:
    """Qwen2-MoE: a shared expert behind a gate of its own."""
    cells = _qwen_windows(c, _grouped(c, qkv_bias=c.flag("qkv_bias", default=True)))
    shared = c.integer("shared_expert_intermediate_size")
    return _decoder(c, cells, _qwen_experts(c, shared_inner=shared, router_bias=c.integer("hidden_size")))


def qwen3(c: Config) -> Model:
    """Qwen3 dense: norms of each query and key head."""
    return _dense(c, _qwen_windows(c, _qwen3_cell(c)))


def qwen3_moe(c: Config) -> Model:
    """Qwen3-MoE; layers outside ``decoder_sparse_step`` or in ``mlp_only_layers`` are dense."""
    return _decoder(c, _qwen_windows(c, _qwen3_cell(c)), _qwen_experts(c))


def deepseek(c: Config) -> Model:
    """DeepSeek-V2, V3 and Kimi-K2: latent attention, shared experts, first layers dense.

    Multi-token prediction layers (``num_nextn_predict_layers``) follow the main model, serve speculation
    only, and are left out.
    """
    hidden, layers = c.integer("hidden_size"), _layers(c)
    rope = c.integer("qk_rope_head_dim")
    q_rank = c.integer("q_lora_rank") if c.has("q_lora_rank") else 0
    kv_rank = c.integer("kv_lora_rank")
    heads = c.integer("num_attention_heads")
    bias = q_rank + kv_rank + rope + hidden if c.flag("attention_bias", default=False) else 0
    cell = Attention(
        q_heads=heads,
        kv_heads=heads,
        head_dim=c.integer("qk_nope_head_dim") + rope,
        value_dim=c.integer("v_head_dim"),
        q_rank=q_rank,
        kv_rank=kv_rank,
        rope_dim=rope,
        bias=bias,
    )
    dense = FeedForward(inner=c.integer("intermediate_size"), gated=True)
    experts = c.integer("n_routed_experts")
    inner = c.integer("moe_intermediate_size")
    corrected = c.text("topk_method", default="greedy") == "noaux_tc"
    sparse = MoE(
        experts=experts,
        top_k=_top_k(c, experts),
        inner=inner,
        gated=True,
        shared_inner=inner * c.integer("n_shared_experts", default=0, least=0),
        router_bias=experts if corrected else 0,
    )
    first = c.integer("first_k_dense_replace", default=0, least=0)
    every = c.integer("moe_layer_freq", default=1)
    ffn = [sparse if i >= first and i % every == 0 else dense for i in range(layers)]
    return _decoder(c, [cell] * layers, ffn)


def gpt_oss(c: Config) -> Model:
    """gpt-oss: every second layer windowed, a learned sink per head, biases in attention and experts."""
    hidden, inner = c.integer("hidden_size"), c.integer("intermediate_size")
    bias = c.flag("attention_bias", default=True)
    cell = _grouped(c, qkv_bias=bias, output_bias=bias)
    cell = replace(cell, extra_parameters=cell.q_heads)
    experts = c.integer("num_local_experts", "num_experts")
    ffn = MoE(
        experts=experts,
        top_k=_top_k(c, experts),
        inner=inner,
        gated=True,
        bias=experts * (2 * inner + hidden),
        router_bias=experts,
    )
    return _decoder(c, _windowed(c, cell, lambda layer: layer % 2 == 0), [ffn] * _layers(c))


def gemma(c: Config) -> Model:
    """Gemma 1."""
    return _dense(c, [_grouped(c)] * _layers(c))


def gemma2(c: Config) -> Model:
    """Gemma 2: every second layer windowed, norms before and after both cells."""
    return _dense(c, _windowed(c, _grouped(c), lambda layer: layer % 2 == 0), norms=4)


def gemma3(c: Config) -> Model:
    """Gemma 3, text: five windowed layers, then one that sees all; norms of each query and key head."""
    period = c.integer("sliding_window_pattern", "_sliding_window_pattern", default=6)
    cell = _qk_normed(_grouped(c))
    return _dense(c, _windowed(c, cell, lambda layer: (layer + 1) % period != 0), norms=4)


def llama4(c: Config) -> Model:
    """Llama 4, text: experts in every ``interleave_moe_layer_step``-th layer, chunked attention in 3 of 4.

    Layers with rotary positions (1 in ``no_rope_layers``) are the chunked ones.
    """
    if not c.has("sliding_window"):
        c = c.otherwise(sliding_window=c.fields.get("attention_chunk_size"))
    experts, inner = c.integer("num_local_experts"), c.integer("intermediate_size")
    sparse = MoE(experts=experts, top_k=_top_k(c, experts), inner=inner, gated=True, shared_inner=inner)
    dense = FeedForward(inner=c.integer("intermediate_size_mlp"), gated=True)
    step = c.integer("interleave_moe_layer_step", default=1)
    sparse_layers = c.items("moe_layers", int) or range(step - 1, _layers(c), step)
    ffn = [sparse if i in sparse_layers else dense for i in range(_layers(c))]
    period = c.integer("no_rope_layer_interval", default=4)
    rotary = c.items("no_rope_layers", int) or [int((i + 1) % period != 0) for i in range(_layers(c))]
    if len(rotary) != _layers(c):
        raise c.wrong("no_rope_layers", f"a list of {_layers(c)} int")
    return _decoder(c, _windowed(c, _grouped(c), lambda layer: bool(rotary[layer])), ffn)


def _layers(c: Config) -> int:
    return c.layers("num_hidden_layers")


def _top_k(c: Config, experts: int) -> int:
    names = ("num_experts_per_tok", "experts_per_token")
    top_k = c.integer(*names)
    if top_k > experts:
        raise c.wrong(c.present(*names), f"at most {experts}, the number of experts")
    return top_k


def _grouped(c: Config, *, qkv_bias: bool = False, output_bias: bool = False) -> Attention:
    """Multi-head or grouped-query attention with the usual field names."""
    hidden, heads = c.integer("hidden_size"), c.integer("num_attention_heads")
    kv_heads = c.integer("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise c.wrong("num_key_value_heads", f"a divisor of num_attention_heads={heads}")
    if not c.has("head_dim") and hidden % heads:
        raise c.wrong("num_attention_heads", f"a divisor of hidden_size={hidden} where head_dim is not given")
    head_dim = c.integer("head_dim", default=hidden // heads)
    bias = (heads + 2 * kv_heads) * head_dim if qkv_bias else 0
    return Attention(
        q_heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=head_dim,
        bias=bias + (hidden if output_bias else 0),
    )


def _qk_normed(cell: Attention) -> Attention:
    """With one norm that all query heads share and one for the key heads."""
    return replace(cell, extra_parameters=2 * cell.head_dim)


def _qwen3_cell(c: Config) -> Attention:
    bias = c.flag("attention_bias", default=False)
    return _qk_normed(_grouped(c, qkv_bias=bias, output_bias=bias))


def _windowed(c: Config, cell: Attention, sliding: Callable[[int], bool]) -> list[Attention]:
    """The cell of each layer: ``layer_types`` says which are windowed, else ``sliding(layer)``."""
    layers = _layers(c)
    window = c.integer("sliding_window", default=0)
    types = c.items("layer_types", str, length=layers)
    for word in types or ():
        if word not in (*SLIDING, "full_attention"):
            raise InputError(
                f"{c.where}: layer_types has {word!r}, known: full_attention, {', '.join(SLIDING)}"
            )
    local = [word in SLIDING for word in types] if types else [sliding(i) for i in range(layers)]
    return [replace(cell, window=window) if is_local else cell for is_local in local]


def _qwen_windows(c: Config, cell: Attention) -> list[Attention]:
    """Qwen windows its last layers, and only where ``use_sliding_window`` says so."""
    if not c.flag("use_sliding_window", default=False):
        return [cell] * _layers(c)
    first = c.integer("max_window_layers", default=0, least=0)
    return _windowed(c, cell, lambda layer: layer >= first)


def _qwen_experts(c: Config, *, shared_inner: int = 0, router_bias: int = 0) -> list[FeedForward | MoE]:
    experts = c.integer("num_experts")
    sparse = MoE(
        experts=experts,
        top_k=_top_k(c, experts),
        inner=c.integer("moe_intermediate_size"),
        gated=True,
        shared_inner=shared_inner,
        router_bias=router_bias,
    )
    dense = FeedForward(inner=c.integer("intermediate_size"), gated=True)
    step = c.integer("decoder_sparse_step", default=1)
    dense_layers = c.items("mlp_only_layers", int) or []
    return [sparse if i not in dense_layers and (i + 1) % step == 0 else dense for i in range(_layers(c))]


def _dense(c: Config, cells: Sequence[Attention], ffn: FeedForward | None = None, *, norms: int = 2) -> Model:
    """A decoder whose layers have one gated feed-forward each."""
    ffn = ffn or FeedForward(inner=c.integer("intermediate_size"), gated=True)
    return _decoder(c, cells, [ffn] * len(cells), norms=norms)


def _decoder(
    c: Config, cells: Sequence[Attention], ffn: Sequence[FeedForward | MoE], *, norms: int = 2
) -> Model:
    """A decoder of these layers with ``norms`` norms in each and one at the end."""
    hidden, vocab = c.integer("hidden_size"), c.integer("vocab_size")
    layers = [
        Block(attention=(cell,), ffn=each, norm_parameters=norms * hidden)
        for cell, each in zip(cells, ffn, strict=True)
    ]
    return Model(
        name="",
        architecture="",
        decoder=Stack.of(hidden, layers, extra_parameters=hidden),
        vocab=vocab,
        tied=c.flag("tie_word_embeddings", default=False),
        embedding_parameters=vocab * hidden,
        max_positions=c.integer("max_position_embeddings", "initial_context_length", "max_sequence_length"),
    )
