"""Models built by hand from their published shapes, so that tests of costs rest on no reader of files."""

from profiles.model import Attention, Block, FeedForward, Model, MoE, Stack


def decoder(
    name: str,
    hidden: int,
    layers: list[Block],
    *,
    vocab: int = 32000,
    tied: bool = False,
    encoder: Stack | None = None,
    encoder_tokens: int = 0,
    lm_head: bool = True,
) -> Model:
    blocks = tuple(dict.fromkeys(layers))
    return Model(
        name=name,
        architecture="handmade",
        decoder=Stack(
            hidden=hidden,
            blocks=blocks,
            layers=tuple(blocks.index(layer) for layer in layers),
            extra_parameters=hidden,
        ),
        encoder=encoder,
        encoder_tokens=encoder_tokens,
        vocab=vocab,
        tied=tied,
        lm_head=lm_head,
        embedding_parameters=vocab * hidden,
        max_positions=131072,
    )


def llama(hidden: int, q: int, kv: int, inner: int, layers: int, vocab: int, **more: bool) -> Model:
    attention = Attention(q_heads=q, kv_heads=kv, head_dim=hidden // q, value_dim=hidden // q)
    block = Block(
        attention=(attention,), ffn=FeedForward(inner=inner, gated=True), norm_parameters=2 * hidden
    )
    return decoder(f"llama-{hidden}", hidden, [block] * layers, vocab=vocab, **more)


LLAMA_70B = llama(8192, 64, 8, 28672, 80, 128256)
LLAMA_8B = llama(4096, 32, 8, 14336, 32, 128256)
TINY = llama(256, 4, 2, 512, 4, 1000)
TINY_TIED = llama(256, 4, 2, 512, 4, 1000, tied=True)


def _mla(q_rank: int) -> Attention:
    return Attention(
        q_heads=128, kv_heads=128, head_dim=192, value_dim=128, q_rank=q_rank, kv_rank=512, rope_dim=64
    )


_DENSE = Block(attention=(_mla(1536),), ffn=FeedForward(inner=18432, gated=True), norm_parameters=2 * 7168)
_SPARSE = Block(
    attention=(_mla(1536),),
    ffn=MoE(experts=256, top_k=8, inner=2048, gated=True, shared_inner=2048, router_bias=256),
    norm_parameters=2 * 7168,
)
DEEPSEEK_V3 = decoder("deepseek-v3", 7168, [_DENSE] * 3 + [_SPARSE] * 58, vocab=129280)

MIXTRAL = decoder(
    "mixtral",
    4096,
    [
        Block(
            attention=(Attention(q_heads=32, kv_heads=8, head_dim=128, value_dim=128),),
            ffn=MoE(experts=8, top_k=2, inner=14336, gated=True),
            norm_parameters=2 * 4096,
        )
    ]
    * 32,
)


def _alternating(window: int) -> Block:
    return Block(
        attention=(Attention(q_heads=8, kv_heads=4, head_dim=64, value_dim=64, window=window),),
        ffn=FeedForward(inner=1024, gated=True),
        norm_parameters=4 * 512,
    )


SLIDING = decoder("sliding", 512, [_alternating(1000), _alternating(0)] * 4)

NEOX = decoder(
    "neox",
    512,
    [
        Block(
            attention=(Attention(q_heads=8, kv_heads=8, head_dim=64, value_dim=64),),
            ffn=FeedForward(inner=2048, gated=False),
            norm_parameters=1024,
            parallel=True,
        )
    ]
    * 4,
)


def _heads(*, causal: bool = True, cross: bool = False) -> Attention:
    return Attention(q_heads=8, kv_heads=8, head_dim=64, value_dim=64, causal=causal, cross=cross)


_MLP = FeedForward(inner=2048, gated=False)
_ENCODER_BLOCK = Block(attention=(_heads(causal=False),), ffn=_MLP, norm_parameters=1024)
_CROSS_BLOCK = Block(attention=(_heads(), _heads(cross=True, causal=False)), ffn=_MLP, norm_parameters=1536)
_ENCODER = Stack(hidden=512, blocks=(_ENCODER_BLOCK,), layers=(0,) * 6)

T5 = decoder("t5", 512, [_CROSS_BLOCK] * 6, encoder=_ENCODER)
WHISPER = decoder("whisper", 512, [_CROSS_BLOCK] * 6, encoder=_ENCODER, encoder_tokens=1500)
CLIP = decoder("clip", 512, [_ENCODER_BLOCK] * 6, vocab=0, lm_head=False)

EVERY_KIND = {m.name: m for m in (TINY, MIXTRAL, DEEPSEEK_V3, SLIDING, NEOX, T5, WHISPER, CLIP)}
