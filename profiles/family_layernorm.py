"""Decoders with LayerNorm (scale and bias) and plain feed-forwards: GPT-2, BigCode, GPT-J, NeoX, OPT, BLOOM.

Each builder reads a ``Config`` that already holds its family's defaults (see ``huggingface.ARCHITECTURES``)
and returns a Model without its name. The sizes are those of Hugging Face's modules, checked against them.
"""

from profiles.errors import InputError
from profiles.hfconfig import Config
from profiles.model import Attention, Block, FeedForward, Model, Stack


def gpt2(c: Config) -> Model:
    """GPT-2, and GPT-BigCode (StarCoder), whose query heads share one key-value head (``multi_query``)."""
    hidden, heads = c.integer("n_embd"), c.integer("n_head")
    positions = c.integer("n_positions")
    kv_heads = 1 if c.flag("multi_query", default=False) else heads
    return _decoder(
        c,
        layers=c.layers("n_layer"),
        cell=_attention(c, hidden, heads, kv_heads),
        ffn=_mlp(hidden, c.integer("n_inner", default=4 * hidden)),
        hidden=hidden,
        extra=positions * hidden,
        positions=positions,
    )


def gptj(c: Config) -> Model:
    """GPT-J: attention and feed-forward behind one norm; no bias in attention, one in the LM head."""
    hidden = c.integer("n_embd")
    return _decoder(
        c,
        layers=c.layers("n_layer"),
        cell=_attention(c, hidden, c.integer("n_head"), bias=False),
        ffn=_mlp(hidden, c.integer("n_inner", default=4 * hidden)),
        hidden=hidden,
        norms=1,
        parallel=True,
        extra=c.integer("vocab_size"),
        positions=c.integer("n_positions"),
    )


def gpt_neox(c: Config) -> Model:
    """GPT-NeoX and Pythia: attention and feed-forward side by side, each with its norm."""
    hidden = c.integer("hidden_size")
    heads = c.integer("num_attention_heads")
    return _decoder(
        c,
        layers=c.layers("num_hidden_layers"),
        cell=_attention(c, hidden, heads, bias=c.flag("attention_bias", default=True)),
        ffn=_mlp(hidden, c.integer("intermediate_size")),
        hidden=hidden,
        parallel=c.flag("use_parallel_residual", default=True),
        positions=c.integer("max_position_embeddings"),
    )


def opt(c: Config) -> Model:
    """OPT: positions are learned, two rows of their table never used; 350m embeds narrower than it thinks."""
    hidden, vocab = c.integer("hidden_size"), c.integer("vocab_size")
    positions = c.integer("max_position_embeddings")
    width = c.integer("word_embed_proj_dim", default=hidden)
    bias = c.flag("enable_bias", default=True)
    scale = 1 if c.flag("layer_norm_elementwise_affine", default=True) else 0
    last = c.flag("do_layer_norm_before", default=True) and not c.flag(
        "_remove_final_layer_norm", default=False
    )
    cell = _attention(c, hidden, c.integer("num_attention_heads"), bias=bias)
    ffn = _mlp(hidden, c.integer("ffn_dim"), bias=bias)
    block = Block(attention=(cell,), ffn=ffn, norm_parameters=4 * hidden * scale)
    projections = 2 * hidden * width if width != hidden else 0
    return Model(
        name="",
        architecture="",
        decoder=Stack.of(
            hidden,
            [block] * c.layers("num_hidden_layers"),
            (positions + 2) * hidden + projections + (2 * hidden * scale if last else 0),
        ),
        vocab=vocab,
        tied=c.flag("tie_word_embeddings", default=True),
        embedding_parameters=vocab * width,
        max_positions=positions,
    )


def bloom(c: Config) -> Model:
    """BLOOM: positions by a slope per head (ALiBi, no parameters), a norm behind the embedding."""
    hidden = c.integer("hidden_size", "n_embed")
    heads = c.integer("n_head", "num_attention_heads")
    return _decoder(
        c,
        layers=c.layers("n_layer", "num_hidden_layers"),
        cell=_attention(c, hidden, heads),
        ffn=_mlp(hidden, 4 * hidden),
        hidden=hidden,
        extra=2 * hidden,
        positions=c.integer("seq_length"),
    )


def _attention(
    c: Config, hidden: int, heads: int, kv_heads: int | None = None, *, bias: bool = True
) -> Attention:
    """Attention as wide as the model; a bias in Q, K, V and output, or none."""
    if hidden % heads:
        raise InputError(f"{c.where}: hidden width {hidden} is not a multiple of its {heads} attention heads")
    head_dim, kv_heads = hidden // heads, kv_heads or heads
    return Attention(
        q_heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=head_dim,
        bias=2 * hidden + 2 * kv_heads * head_dim if bias else 0,
    )


def _mlp(hidden: int, inner: int, *, bias: bool = True) -> FeedForward:
    return FeedForward(inner=inner, gated=False, bias=inner + hidden if bias else 0)


def _decoder(
    c: Config,
    *,
    layers: int,
    cell: Attention,
    ffn: FeedForward,
    hidden: int,
    positions: int,
    norms: int = 2,
    parallel: bool = False,
    extra: int = 0,
) -> Model:
    """A decoder of equal layers with ``norms`` LayerNorms in each and one at the end."""
    block = Block(attention=(cell,), ffn=ffn, norm_parameters=2 * hidden * norms, parallel=parallel)
    vocab = c.integer("vocab_size")
    return Model(
        name="",
        architecture="",
        decoder=Stack.of(hidden, [block] * layers, 2 * hidden + extra),
        vocab=vocab,
        tied=c.flag("tie_word_embeddings", default=True),
        embedding_parameters=vocab * hidden,
        max_positions=positions,
    )
