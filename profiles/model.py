"""A model: blocks of cells, their parameters, and the KV bytes of one token.

A decoder layer is a Block: attention cells, then a feed-forward cell, with norms. Layers that are alike
share one Block object, so cost is computed once per *distinct* block and a trillion-parameter model costs
no more to plan than a small one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from profiles.plan import FORMAT_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Self- or cross-attention. ``kv_heads == q_heads`` is MHA, 1 is MQA, between is GQA.

    Parameters
    ----------
    head_dim, value_dim
        Width of one query/key head and of one value head (they differ only in MLA).
    window
        Most recent tokens attended to, 0 for all.
    causal
        False in encoders. Cross-attention reads the encoder's output instead of its own past.
    bias
        Number of bias parameters of the cell (QKV and output), 0 for none.
    q_rank, kv_rank, rope_dim
        Multi-head latent attention (MLA): ranks of the query and KV compressions and width of the shared
        rotary key. ``kv_rank > 0`` makes the cell MLA; then head_dim includes rope_dim, and a cached token
        is ``kv_rank + rope_dim`` numbers, the same on every tensor-parallel shard.
    extra_parameters
        Norms of queries and keys, sinks, relative position tables and the like, not sharded.
    """

    q_heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    window: int = 0
    causal: bool = True
    cross: bool = False
    bias: int = 0
    q_rank: int = 0
    kv_rank: int = 0
    rope_dim: int = 0
    extra_parameters: int = 0

    def __post_init__(self) -> None:
        if min(self.q_heads, self.kv_heads, self.head_dim, self.value_dim) < 1:
            raise ValueError("Heads and their widths must be at least 1.")
        if self.q_heads % self.kv_heads:
            raise ValueError(f"{self.q_heads} query heads cannot share {self.kv_heads} KV heads evenly.")
        if self.is_mla and not 0 <= self.rope_dim < self.head_dim:
            raise ValueError("head_dim of MLA includes rope_dim and must exceed it.")

    @property
    def is_mla(self) -> bool:
        return self.kv_rank > 0

    def parameters(self, hidden: int) -> int:
        """All weights of the cell, biases included."""
        if self.is_mla:
            nope = self.head_dim - self.rope_dim
            query = (
                hidden * self.q_rank + self.q_rank + self.q_rank * self.q_heads * self.head_dim
                if self.q_rank
                else hidden * self.q_heads * self.head_dim
            )
            latent = hidden * (self.kv_rank + self.rope_dim) + self.kv_rank
            expand = self.kv_rank * self.q_heads * (nope + self.value_dim)
            output = self.q_heads * self.value_dim * hidden
            return query + latent + expand + output + self.bias + self.extra_parameters
        qkv = hidden * (self.q_heads * self.head_dim + self.kv_heads * (self.head_dim + self.value_dim))
        return qkv + self.q_heads * self.value_dim * hidden + self.bias + self.extra_parameters

    def kv_numbers(self) -> int:
        """Numbers that one token leaves in the KV cache of this cell, all shards together."""
        if self.is_mla:
            return self.kv_rank + self.rope_dim
        return self.kv_heads * (self.head_dim + self.value_dim)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """Dense feed-forward: 2 matrices, or 3 when gated (GLU, SwiGLU)."""

    inner: int
    gated: bool
    bias: int = 0

    def parameters(self, hidden: int) -> int:
        return hidden * self.inner * (3 if self.gated else 2) + self.bias

    def active_parameters(self, hidden: int) -> int:
        return self.parameters(hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoE:
    """Mixture of experts: router, routed experts of which ``top_k`` see each token, shared experts.

    Parameters
    ----------
    inner, shared_inner
        Inner width of one routed expert, and of all shared experts together (0 for none).
    bias
        Bias parameters of all routed experts together.
    router_bias
        Parameters that steer the router and the shared experts' gate besides the router matrix.
    """

    experts: int
    top_k: int
    inner: int
    gated: bool
    shared_inner: int = 0
    bias: int = 0
    router_bias: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts:
            raise ValueError(f"top_k must be in [1, {self.experts}], the number of experts.")

    @property
    def matrices(self) -> int:
        return 3 if self.gated else 2

    def expert_parameters(self, hidden: int) -> int:
        """Of one routed expert."""
        return hidden * self.inner * self.matrices + self.bias // self.experts

    def shared_parameters(self, hidden: int) -> int:
        return hidden * self.shared_inner * self.matrices

    def router_parameters(self, hidden: int) -> int:
        return hidden * self.experts + self.router_bias

    def parameters(self, hidden: int) -> int:
        return (
            self.experts * self.expert_parameters(hidden)
            + self.shared_parameters(hidden)
            + self.router_parameters(hidden)
        )

    def active_parameters(self, hidden: int) -> int:
        return (
            self.top_k * self.expert_parameters(hidden)
            + self.shared_parameters(hidden)
            + self.router_parameters(hidden)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One transformer layer: attention cells in order (self, then cross), feed-forward, norms.

    ``parallel`` blocks (GPT-J, GPT-NeoX) add attention and feed-forward in one reduction.
    """

    attention: tuple[Attention, ...]
    ffn: FeedForward | MoE
    norm_parameters: int
    parallel: bool = False

    def parameters(self, hidden: int) -> int:
        return (
            sum(cell.parameters(hidden) for cell in self.attention)
            + self.ffn.parameters(hidden)
            + self.norm_parameters
        )

    def active_parameters(self, hidden: int) -> int:
        return (
            sum(cell.parameters(hidden) for cell in self.attention)
            + self.ffn.active_parameters(hidden)
            + self.norm_parameters
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """A run of layers over one hidden width. ``layers[i]`` is the index in ``blocks`` of layer i.

    ``extra_parameters``: position tables, final norm, input and output projections of the stack.
    """

    hidden: int
    blocks: tuple[Block, ...]
    layers: tuple[int, ...]
    extra_parameters: int = 0

    def __post_init__(self) -> None:
        if not self.layers or set(self.layers) != set(range(len(self.blocks))):
            raise ValueError("Every layer must name a block and every block must have a layer.")

    @classmethod
    def of(cls, hidden: int, layers: Sequence[Block], extra_parameters: int = 0) -> "Stack":
        """The stack of these layers, in order; equal blocks are stored once."""
        blocks = tuple(dict.fromkeys(layers))
        index = {block: i for i, block in enumerate(blocks)}
        return cls(
            hidden=hidden,
            blocks=blocks,
            layers=tuple(index[block] for block in layers),
            extra_parameters=extra_parameters,
        )

    def parameters(self) -> int:
        each = [block.parameters(self.hidden) for block in self.blocks]
        return sum(each[i] for i in self.layers) + self.extra_parameters

    def active_parameters(self) -> int:
        each = [block.active_parameters(self.hidden) for block in self.blocks]
        return sum(each[i] for i in self.layers) + self.extra_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model ready to be planned.

    Parameters
    ----------
    decoder
        Main stack; for encoder-only models the encoder itself (its attention is not causal).
    encoder
        Of encoder-decoder models; runs once per request.
    encoder_tokens
        Tokens that the encoder sees when that number is fixed (Whisper large-v3 1500, CLIP ViT-L/14 257), 0
        when the prompt decides.
    tower_parameters
        Vision tower and projector of a multimodal model (``profiles.towers``): loaded, not run for text.
    vocab
        Rows of the embedding and of the LM head, 0 where there is none.
    tied
        Whether LM head and embedding share one matrix.
    lm_head
        False for encoder-only models.
    max_positions
        Most tokens of one sequence, prompt and output together, that the configuration allows. Where
        positions are not limited by construction (T5, BLOOM) it is the length of training.
    weight_format
        Format in which an engine holds the published weights, key of ``FORMAT_BYTES``.
    checkpoint
        What an engine is told to load: a name on the Hugging Face hub or a directory; ``name`` unless given.
    source
        Where the configuration comes from, and what it leaves out.
    """

    name: str
    architecture: str
    decoder: Stack
    encoder: Stack | None = None
    encoder_tokens: int = 0
    tower_parameters: int = 0
    vocab: int
    tied: bool
    lm_head: bool = True
    embedding_parameters: int
    max_positions: int
    weight_format: str = "bf16"
    checkpoint: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if not self.checkpoint:
            object.__setattr__(self, "checkpoint", self.name)
        if self.weight_format not in FORMAT_BYTES:
            raise ValueError(f"Unknown format {self.weight_format!r}, known: {', '.join(FORMAT_BYTES)}.")
        if self.lm_head and self.vocab < 1:
            raise ValueError("A model with an LM head has a vocabulary.")

    @property
    def kind(self) -> Literal["decoder", "encoder-decoder", "encoder"]:
        if not self.lm_head:
            return "encoder"
        if any(cell.cross for block in self.decoder.blocks for cell in block.attention):
            return "encoder-decoder"
        return "decoder"

    @property
    def lm_head_parameters(self) -> int:
        """Weights of the LM head that are not shared with the embedding."""
        return 0 if self.tied or not self.lm_head else self.vocab * self.decoder.hidden

    def parameters(self) -> int:
        """All parameters, embedding, norms, LM head and tower included."""
        stacks = self.decoder.parameters() + (self.encoder.parameters() if self.encoder else 0)
        return stacks + self.embedding_parameters + self.lm_head_parameters + self.tower_parameters

    def active_parameters(self) -> int:
        """Parameters that one token of text passes through: of routed experts only ``top_k``."""
        encoder = self.encoder.active_parameters() if self.encoder else 0
        return (
            self.decoder.active_parameters() + encoder + self.embedding_parameters + self.lm_head_parameters
        )

    def kv_bytes_per_token(self, kv_format: str = "bf16") -> float:
        """Bytes that one token leaves in the KV cache, all layers and all shards together.

        Cross-attention caches the encoder's tokens, not the decoder's, and is left out here; a sliding
        window bounds what is *read*, not what a paged engine keeps.
        """
        each = [
            sum(cell.kv_numbers() for cell in block.attention if cell.causal and not cell.cross)
            for block in self.decoder.blocks
        ]
        return sum(each[i] for i in self.decoder.layers) * FORMAT_BYTES[kv_format]

    def cross_kv_bytes_per_token(self, kv_format: str = "bf16") -> float:
        """Bytes that one *encoder* token leaves in the cross-attention cache, all layers together."""
        each = [
            sum(cell.kv_numbers() for cell in block.attention if cell.cross) for block in self.decoder.blocks
        ]
        return sum(each[i] for i in self.decoder.layers) * FORMAT_BYTES[kv_format]
