"""What the cells of one layer cost on one device: operations, their collectives, and how they add up.

Token-wise work is divided as ``profiles.stepcost`` wants it: ``own_cells`` follows the tokens of one
attention rank, ``shared_cells`` the tokens of all ranks. Between attention and feed-forward:

=================  ==============================================================================
same devices       all-reduce after attention (tp > 1), all-reduce after feed-forward;
                   parallel blocks need the second only
resharding         reduce-scatter in the attention rank, all-gather in the feed-forward group;
                   afterwards reduce-scatter in the group, all-gather in the rank
dispatching        the same with all-to-all in the group: a token is sent once to every group of
                   experts that it hits, ``ep (1 - (1 - 1/ep)^top_k)`` of them when routing is even
=================  ==============================================================================

A reduce-scatter with the all-gather that answers it moves what one all-reduce moves.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from profiles.memory import plain_bytes
from profiles.meter import Charge, Meter
from profiles.model import Attention, Block, FeedForward, MoE
from profiles.ops import FloatArray, IntArray, Link
from profiles.plan import FORMAT_BYTES, Plan
from profiles.shards import (
    Matrix,
    attention_matrices,
    ceil_div,
    dispatches,
    ffn_matrices,
    ffn_width,
    heads,
    held_format,
    reshards,
)


@dataclass(slots=True, eq=False)
class Ledger:
    """Costs that follow one load, by part: seconds per part, joules and seconds per provenance in all."""

    size: int
    seconds: dict[str, FloatArray] = field(default_factory=dict)
    joules: FloatArray = field(init=False)
    provenance: FloatArray = field(init=False)  # [4, size]

    def __post_init__(self) -> None:
        self.joules = np.zeros(self.size)
        self.provenance = np.zeros((4, self.size))

    def add(self, part: str, charge: Charge, *, count: float = 1) -> None:
        """``count`` times this operation."""
        self.seconds[part] = self.seconds.get(part, 0.0) + count * charge.seconds
        self.joules += count * charge.joules
        self.provenance[charge.provenance, np.arange(self.size)] += count * charge.seconds

    def include(self, other: "Ledger", *, count: float = 1) -> None:
        """``count`` times everything in another ledger of the same load."""
        for part, seconds in other.seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + count * seconds
        self.joules += count * other.joules
        self.provenance += count * other.provenance

    def total(self) -> FloatArray:
        """Seconds of all parts."""
        return np.asarray(sum(self.seconds.values(), np.zeros(self.size)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A plan with the links of its groups and the meter of its device: what every cell needs."""

    plan: Plan
    hidden: int
    link_tensor: Link
    link_ffn: Link
    meter: Meter

    @property
    def width(self) -> float:
        """Bytes of one number of the hidden state."""
        return plain_bytes(self.plan)

    def matrix(self, tokens: IntArray, matrix: Matrix) -> Charge:
        plan = self.plan
        weight = held_format(matrix.part, plan.weight_format)
        activation = plan.activation_format if weight == plan.weight_format else weight
        return self.meter.gemm(tokens, matrix.n, matrix.k, weight, activation)

    def in_rank(self, kind: str, tokens: IntArray) -> Charge:
        """A collective of hidden states among the devices of one attention rank."""
        return self.meter.collective(kind, tokens * (self.hidden * self.width), self.link_tensor)

    def in_group(self, kind: str, tokens: FloatArray | IntArray) -> Charge:
        """A collective of hidden states among the devices of one feed-forward group."""
        return self.meter.collective(kind, tokens * (self.hidden * self.width), self.link_ffn)


def own_cells(layout: Layout, block: Block, tokens: IntArray) -> Ledger:
    """Work of one layer on the tokens of one attention rank; attention cores are not among it."""
    plan, hidden, width = layout.plan, layout.hidden, layout.width
    ledger = Ledger(len(tokens))
    norms = 1 if block.parallel else len(block.attention) + 1
    # A fused norm reads and writes the residual and the normed state: 4 numbers.
    ledger.add("norm", layout.meter.stream(tokens * (4 * hidden * width)), count=norms)
    for cell in block.attention:
        for matrix in attention_matrices(cell, hidden, plan.attn_tp):
            if matrix.part != "cross_kv":
                ledger.add(matrix.part, layout.matrix(tokens, matrix))
        ledger.add("rope", layout.meter.stream(tokens * rope_bytes(cell, plan, width)))
    if plan.attn_tp == 1:
        return ledger
    cells = len(block.attention)
    if reshards(plan):
        ledger.add("attention_reduce_scatter", layout.in_rank("reduce_scatter", tokens), count=cells)
        # One of them answers the feed-forward's reduce-scatter, the others those between two cells.
        ledger.add("attention_all_gather", layout.in_rank("all_gather", tokens), count=cells)
    elif not (block.parallel and ffn_width(plan) > 1):
        ledger.add("attention_allreduce", layout.in_rank("all_reduce", tokens), count=cells)
    return ledger


def rope_bytes(cell: Attention, plan: Plan, width: float) -> float:
    """Bytes moved for one token to rotate queries and keys and to write the KV cache."""
    q, kv = heads(cell, plan.attn_tp)
    cache = FORMAT_BYTES[plan.kv_format]
    if cell.is_mla:
        latent = cell.kv_rank + cell.rope_dim
        return 2 * q * cell.rope_dim * width + latent * (width + cache)
    rotated = 2 * (q + kv) * cell.head_dim * width
    stored = 0.0 if cell.cross or not cell.causal else kv * (cell.head_dim + cell.value_dim) * (width + cache)
    return rotated + stored


def shared_cells(layout: Layout, block: Block, tokens: IntArray) -> Ledger:
    """Feed-forward of one layer with its collectives, ``tokens`` of all attention ranks."""
    plan = layout.plan
    ledger = Ledger(len(tokens))
    group = -(-tokens // plan.ffn_dp)
    sparse = isinstance(block.ffn, MoE)
    travels = sparse and dispatches(plan)
    if isinstance(block.ffn, MoE):
        local = -(-tokens // plan.stage_devices) if travels else group
        _add_experts(ledger, layout, block.ffn, group, local)
    else:
        _add_dense(ledger, layout, "ffn", block.ffn, group)
    if ffn_width(plan) == 1:
        return ledger
    if travels:
        assert isinstance(block.ffn, MoE)
        hit = 1 - (1 - 1 / plan.ffn_ep) ** block.ffn.top_k
        # What one device sends: its share of the tokens, to every device of the groups they hit.
        numbers = group * (hit * layout.hidden)
        sent = min(layout.width, FORMAT_BYTES[plan.activation_format])
        ledger.add("dispatch", layout.meter.collective("all_to_all", numbers * sent, layout.link_ffn))
        ledger.add("combine", layout.meter.collective("all_to_all", numbers * layout.width, layout.link_ffn))
    elif reshards(plan):
        ledger.add("ffn_all_gather", layout.in_group("all_gather", group))
        ledger.add("ffn_reduce_scatter", layout.in_group("reduce_scatter", group))
    else:
        ledger.add("ffn_allreduce", layout.in_group("all_reduce", group))
    return ledger


def _add_dense(ledger: Ledger, layout: Layout, part: str, cell: FeedForward | MoE, tokens: IntArray) -> None:
    matrices = [m for m in ffn_matrices(cell, layout.hidden, layout.plan) if m.part == part]
    for matrix in matrices:
        ledger.add(part, layout.matrix(tokens, matrix))
    if matrices:
        up, down = matrices
        ledger.add("activation", layout.meter.stream(tokens * ((up.n + down.k) * layout.width)))


def _add_experts(ledger: Ledger, layout: Layout, cell: MoE, group: IntArray, local: IntArray) -> None:
    plan, hidden = layout.plan, layout.hidden
    ledger.add("router", layout.meter.gemm(local, cell.experts, hidden, *(plain_format(plan),) * 2))
    # Softmax and top-k read and write the fp32 scores.
    ledger.add("router", layout.meter.stream(local * (8.0 * cell.experts)))
    shape: dict[str, Any] = {
        "hidden": hidden, "inner": cell.inner, "experts": cell.experts, "top_k": cell.top_k,
        "tp": plan.ffn_tp, "ep": plan.ffn_ep, "gated": cell.gated,
        "weight": plan.weight_format, "activation": plan.activation_format,
    }  # fmt: skip
    ledger.add("moe", layout.meter.moe(group, **shape))
    _add_dense(ledger, layout, "shared_experts", cell, local)


def plain_format(plan: Plan) -> str:
    """Format of what is never quantized."""
    return "fp32" if plan.weight_format == "fp32" else "bf16"


def embedding_cells(layout: Layout, vocab: int, tokens: IntArray) -> Ledger:
    """Look-up in the vocabulary's rows of this device, summed over the rank."""
    ledger = Ledger(len(tokens))
    ledger.add("embedding", layout.meter.stream(tokens * (2 * layout.hidden * layout.width)))
    if vocab and layout.plan.attn_tp > 1:
        ledger.add("embedding_allreduce", layout.in_rank("all_reduce", tokens))
    return ledger


def head_cells(layout: Layout, vocab: int, sequences: IntArray) -> Ledger:
    """Final norm, LM head, gathering the logits and sampling, for sequences spread evenly over the ranks."""
    plan, hidden, width = layout.plan, layout.hidden, layout.width
    ledger = Ledger(len(sequences))
    mine = -(-sequences // plan.attn_dp)
    ledger.add("head_norm", layout.meter.stream(mine * (4 * hidden * width)))
    if not vocab:
        return ledger
    rows = ceil_div(vocab, plan.attn_tp)
    ledger.add("head", layout.meter.gemm(mine, rows, hidden, *(plain_format(plan),) * 2))
    if plan.attn_tp > 1:
        charge = layout.meter.collective("all_gather", mine * (vocab * width), layout.link_tensor)
        ledger.add("head_all_gather", charge)
    # Logits are widened to fp32 and written, read and written by the softmax, read by the draw.
    ledger.add("sampling", layout.meter.stream(mine * (vocab * (width + 16.0))))
    return ledger


def send_cells(layout: Layout, link: Link, tokens: IntArray) -> Ledger:
    """Hidden states to the next stage: every device sends its slice, the receiving rank gathers them."""
    plan = layout.plan
    ledger = Ledger(len(tokens))
    share = tokens * (layout.hidden * layout.width / plan.stage_devices)
    ledger.add("send", layout.meter.collective("p2p", share, link))
    if plan.attn_tp > 1:
        ledger.add("send", layout.in_rank("all_gather", -(-tokens // plan.attn_dp)))
    return ledger


def core(layout: Layout, cell: Attention) -> dict[str, Any]:
    """Shape of the attention core of a cell without MLA, on one device."""
    q, kv = heads(cell, layout.plan.attn_tp)
    return {
        "q_heads": q, "kv_heads": kv, "head_dim": cell.head_dim, "value_dim": cell.value_dim,
        "window": cell.window, "kv": layout.plan.kv_format,
    }  # fmt: skip


def decode_core(layout: Layout, cell: Attention, batch: IntArray, context: IntArray) -> Charge:
    """One new token of ``batch`` sequences over ``context`` cached tokens each."""
    plan = layout.plan
    q, _ = heads(cell, plan.attn_tp)
    if cell.is_mla:
        return layout.meter.attention(
            "mla_decode", batch, context, heads=q, head_dim=cell.head_dim, value_dim=cell.value_dim,
            kv_rank=cell.kv_rank, rope_dim=cell.rope_dim, kv=plan.kv_format,
        )  # fmt: skip
    return layout.meter.attention("decode_attention", batch, context, **core(layout, cell))


def prefill_core(layout: Layout, cell: Attention, tokens: IntArray) -> Charge:
    """Attention of one sequence of ``tokens`` over itself."""
    plan = layout.plan
    q, _ = heads(cell, plan.attn_tp)
    if cell.is_mla:
        return layout.meter.attention(
            "mla_prefill", tokens, heads=q, head_dim=cell.head_dim, value_dim=cell.value_dim,
            kv_rank=cell.kv_rank, rope_dim=cell.rope_dim, kv=plan.kv_format,
        )  # fmt: skip
    causal = cell.causal and not cell.cross
    return layout.meter.attention("prefill_attention", tokens, causal=causal, **core(layout, cell))


def decode_cells(
    layout: Layout, block: Block, batch: IntArray, context: IntArray, encoder_tokens: int
) -> Ledger:
    """Attention cores of one layer in a decode step.

    Where the prompt is the encoder's input (``encoder_tokens`` 0), prompt and generated tokens are counted
    together: all of ``context`` is charged to cross-attention and self-attention reads its newest token.
    Both cells have one shape in every such model, so what is read in all is right.
    """
    ledger = Ledger(len(batch))
    crosses = any(cell.cross for cell in block.attention)
    for cell in block.attention:
        seen = context
        if crosses and encoder_tokens:
            seen = np.full_like(context, encoder_tokens) if cell.cross else context
        elif crosses and not cell.cross:
            seen = np.ones_like(context)
        ledger.add("attention", decode_core(layout, cell, batch, seen))
    return ledger
