"""What one device holds of each cell: the one place that says how a plan cuts a model.

======================  ==========================================================================
attention, output       heads over ``attn_tp``; KV heads are copied where ``attn_tp > kv_heads``
MLA                     latent down-projections and their cache on every shard, the rest by heads
dense feed-forward      inner width over the ``ffn_tp * ffn_ep`` devices of its group
routed experts          whole experts over ``ffn_ep``, the inner width of each over ``ffn_tp``
shared experts          as dense; whole on every device where the plan dispatches (see below)
router, norms           on every device
embedding, LM head      rows of the vocabulary over ``attn_tp``
======================  ==========================================================================

A plan *reshards* when an attention rank and a feed-forward group are not the same devices
(``attn_dp != ffn_dp``), and *dispatches* when it then also has expert parallelism: tokens travel to
their experts by all-to-all and everything else of the layer stays with the token. Widths that do not
divide are rounded up: the shapes are those of the fullest device.
"""

from collections import Counter
from dataclasses import dataclass

from profiles.errors import InputError
from profiles.model import Attention, Block, FeedForward, Model, MoE
from profiles.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """``k x n`` weights on one device, ``copies`` of them (experts); ``part`` names it in breakdowns."""

    part: str
    n: int
    k: int
    copies: int = 1


def held_format(part: str, weight_format: str) -> str:
    """Format of the matrices of a part under a weight format.

    Engines know MXFP4 for routed experts alone (gpt-oss; ``Mxfp4Config`` of vLLM leaves linear layers as they
    are): the rest stays in bf16.

    Examples
    --------
    >>> held_format("moe", "mxfp4"), held_format("qkv", "mxfp4"), held_format("qkv", "fp4")
    ('mxfp4', 'bf16', 'fp4')
    """
    return "bf16" if weight_format == "mxfp4" and part != "moe" else weight_format


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def reshards(plan: Plan) -> bool:
    """Whether attention and feed-forward see different groups of tokens."""
    return plan.attn_dp != plan.ffn_dp


def dispatches(plan: Plan) -> bool:
    """Whether tokens travel to their experts one by one, see the module."""
    return reshards(plan) and plan.ffn_ep > 1


def group_tokens(plan: Plan, rank_tokens: int) -> int:
    """Tokens of one feed-forward group when every attention rank has ``rank_tokens``."""
    return ceil_div(rank_tokens * plan.attn_dp, plan.ffn_dp)


def heads(cell: Attention, tp: int) -> tuple[int, int]:
    """Query and KV heads on one of ``tp`` devices."""
    return ceil_div(cell.q_heads, tp), ceil_div(cell.kv_heads, tp)


def attention_matrices(cell: Attention, hidden: int, tp: int) -> tuple[Matrix, ...]:
    """Weights of one attention cell on one device. Of cross-attention, ``cross_kv`` sees encoder tokens.

    Examples
    --------
    >>> llama = Attention(q_heads=64, kv_heads=8, head_dim=128, value_dim=128)
    >>> [(m.part, m.n, m.k) for m in attention_matrices(llama, 8192, 8)]
    [('qkv', 1280, 8192), ('attention_output', 8192, 1024)]
    """
    q, kv = heads(cell, tp)
    output = Matrix(part="attention_output", n=hidden, k=q * cell.value_dim)
    if cell.is_mla:
        latent = cell.kv_rank + cell.rope_dim
        query = (
            (
                Matrix(part="qkv", n=cell.q_rank + latent, k=hidden),
                Matrix(part="qkv", n=q * cell.head_dim, k=cell.q_rank),
            )
            if cell.q_rank
            else (Matrix(part="qkv", n=latent + q * cell.head_dim, k=hidden),)
        )
        expand = q * (cell.head_dim - cell.rope_dim + cell.value_dim)
        return (*query, Matrix(part="qkv", n=expand, k=cell.kv_rank), output)
    keys = kv * (cell.head_dim + cell.value_dim)
    if cell.cross:
        return (
            Matrix(part="qkv", n=q * cell.head_dim, k=hidden),
            Matrix(part="cross_kv", n=keys, k=hidden),
            output,
        )
    return Matrix(part="qkv", n=q * cell.head_dim + keys, k=hidden), output


def dense_matrices(
    inner: int, gated: bool, hidden: int, width: int, *, part: str = "ffn", copies: int = 1
) -> tuple[Matrix, ...]:
    """Up (with gate, fused) and down projections of ``inner`` over ``width`` devices."""
    mine = ceil_div(inner, width)
    return (
        Matrix(part=part, n=(2 if gated else 1) * mine, k=hidden, copies=copies),
        Matrix(part=part, n=hidden, k=mine, copies=copies),
    )


def ffn_width(plan: Plan) -> int:
    """Devices of one feed-forward group."""
    return plan.ffn_tp * plan.ffn_ep


def shared_width(plan: Plan) -> int:
    """Devices over which shared experts are cut."""
    return 1 if dispatches(plan) else ffn_width(plan)


def ffn_matrices(cell: FeedForward | MoE, hidden: int, plan: Plan) -> tuple[Matrix, ...]:
    """Quantizable weights of a feed-forward cell on one device; the router is not among them."""
    if isinstance(cell, FeedForward):
        return dense_matrices(cell.inner, cell.gated, hidden, ffn_width(plan))
    mine = ceil_div(cell.experts, plan.ffn_ep)
    routed = dense_matrices(cell.inner, cell.gated, hidden, plan.ffn_tp, part="moe", copies=mine)
    if not cell.shared_inner:
        return routed
    shared = dense_matrices(cell.shared_inner, cell.gated, hidden, shared_width(plan), part="shared_experts")
    return routed + shared


def stage_blocks(model: Model, plan: Plan) -> tuple[Counter[Block], ...]:
    """How many layers of each distinct block every stage has.

    Raises
    ------
    InputError
        When the plan's stages do not add up to the model's layers.
    """
    layers = model.decoder.layers
    if sum(plan.layers_per_stage) != len(layers):
        raise InputError(
            f"{model.name}: stages of {'+'.join(map(str, plan.layers_per_stage))} layers,"
            f" expected {len(layers)} in all."
        )
    stages, start = [], 0
    for count in plan.layers_per_stage:
        stages.append(Counter(model.decoder.blocks[i] for i in layers[start : start + count]))
        start += count
    return tuple(stages)
