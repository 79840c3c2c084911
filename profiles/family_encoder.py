"""Models with an encoder: T5 and Whisper (encoder-decoder), CLIP's image tower (encoder only).

Each builder reads a ``Config`` that already holds its family's defaults (see ``huggingface.ARCHITECTURES``)
and returns a Model without its name. The sizes are those of Hugging Face's modules, checked against them.
"""

from dataclasses import replace

from profiles.hfconfig import Config
from profiles.model import Attention, Block, FeedForward, Model, Stack


def t5(c: Config) -> Model:
    """T5, 1.1 and Flan-T5: no biases, RMS norms, one table of relative positions per stack.

    The table belongs to the first layer's attention in Hugging Face; it is counted with the stack, so
    that all layers stay alike.
    """
    hidden, inner = c.integer("d_model"), c.integer("d_ff")
    heads, head_dim = c.integer("num_heads"), c.integer("d_kv")
    vocab, layers = c.integer("vocab_size"), c.layers("num_layers")
    gated = c.text("feed_forward_proj", default="relu").startswith("gated-")
    own = Attention(q_heads=heads, kv_heads=heads, head_dim=head_dim, value_dim=head_dim)
    both_ways, cross = replace(own, causal=False), replace(own, causal=False, cross=True)
    ffn = FeedForward(inner=inner, gated=gated)
    table = c.integer("relative_attention_num_buckets", default=32) * heads
    encode = Block(attention=(both_ways,), ffn=ffn, norm_parameters=2 * hidden)
    decode = Block(attention=(own, cross), ffn=ffn, norm_parameters=3 * hidden)
    return Model(
        name="",
        architecture="",
        encoder=Stack.of(hidden, [encode] * layers, table + hidden),
        decoder=Stack.of(hidden, [decode] * c.layers("num_decoder_layers", default=layers), table + hidden),
        vocab=vocab,
        tied=c.flag("tie_word_embeddings", default=True),
        embedding_parameters=vocab * hidden,
        max_positions=c.integer("n_positions"),
    )


def whisper(c: Config) -> Model:
    """Whisper: two convolutions before the encoder (the second halves the time), tables of positions."""
    hidden, vocab = c.integer("d_model"), c.integer("vocab_size")
    sources, targets = c.integer("max_source_positions"), c.integer("max_target_positions")
    stem = 3 * hidden * c.integer("num_mel_bins") + hidden + 3 * hidden * hidden + hidden
    encode_cell = _biased(c, hidden, "encoder_attention_heads", causal=False, biases=3)
    own = _biased(c, hidden, "decoder_attention_heads", causal=True, biases=3)
    encode = _layer(hidden, (encode_cell,), c.integer("encoder_ffn_dim"))
    decode = _layer(hidden, (own, replace(own, causal=False, cross=True)), c.integer("decoder_ffn_dim"))
    return Model(
        name="",
        architecture="",
        encoder=Stack.of(hidden, [encode] * c.layers("encoder_layers"), stem + sources * hidden + 2 * hidden),
        encoder_tokens=sources,
        decoder=Stack.of(hidden, [decode] * c.layers("decoder_layers"), targets * hidden + 2 * hidden),
        vocab=vocab,
        tied=c.flag("tie_word_embeddings", default=True),
        embedding_parameters=vocab * hidden,
        max_positions=targets,
    )


def clip_vision(c: Config) -> Model:
    """CLIP's image tower: patches and one class token, norms before and after the layers."""
    hidden, patch = c.integer("hidden_size"), c.integer("patch_size")
    image = c.integer("image_size")
    if image % patch:
        raise c.wrong("patch_size", f"a divisor of image_size={image}")
    tokens = (image // patch) ** 2 + 1
    stem = c.integer("num_channels", default=3) * patch * patch * hidden + hidden + tokens * hidden
    cell = _biased(c, hidden, "num_attention_heads", causal=False, biases=4)
    layer = _layer(hidden, (cell,), c.integer("intermediate_size"))
    return Model(
        name="",
        architecture="",
        decoder=Stack.of(hidden, [layer] * c.layers("num_hidden_layers"), stem + 4 * hidden),
        encoder_tokens=tokens,
        vocab=0,
        tied=False,
        lm_head=False,
        embedding_parameters=0,
        max_positions=tokens,
    )


def _biased(c: Config, hidden: int, heads_field: str, *, causal: bool, biases: int) -> Attention:
    """Attention as wide as the model whose matrices have ``biases`` biases (Whisper's keys have none)."""
    heads = c.integer(heads_field)
    if hidden % heads:
        raise c.wrong(heads_field, f"a divisor of the hidden width {hidden}")
    head_dim = hidden // heads
    return Attention(
        q_heads=heads,
        kv_heads=heads,
        head_dim=head_dim,
        value_dim=head_dim,
        causal=causal,
        bias=biases * hidden,
    )


def _layer(hidden: int, cells: tuple[Attention, ...], inner: int) -> Block:
    """A layer with a LayerNorm before every cell and a plain feed-forward with biases."""
    ffn = FeedForward(inner=inner, gated=False, bias=inner + hidden)
    return Block(attention=cells, ffn=ffn, norm_parameters=2 * hidden * (len(cells) + 1))
