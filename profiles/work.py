"""Work of a forward pass, for utilization (MFU, MBU): what must be computed and read at the least.

FLOPs are those of the model, however often devices repeat them; bytes are those of every device that
reads them, copies of KV heads and of whole cells included.
"""

from collections import Counter

from profiles.memory import block_weight_bytes, cell_kv_bytes, matrix_bytes, plain_bytes
from profiles.model import Attention, Block, Model, MoE
from profiles.plan import Plan
from profiles.shards import attention_matrices, ffn_matrices, ffn_width, stage_blocks
from profiles.stepcost import AttentionWork, RoutedExperts


def flops_per_token(model: Model) -> float:
    """2 per parameter that a token meets in the layers: of routed experts ``top_k``. Look-ups of the
    embedding are none; the LM head runs once per sequence and is left out.

    Where an encoder reads the prompt, a prompt token meets the encoder and a generated one the decoder:
    the decoder's count stands for both.
    """
    decoder = model.decoder
    return 2.0 * (decoder.active_parameters() - decoder.extra_parameters)


def attention_work(model: Model, plan: Plan) -> tuple[AttentionWork, ...]:
    """Self-attention by window: 2 FLOPs per query-key product and 2 per value weighed, all heads and layers,
    and the bytes of one token in the cache of all its devices.

    Attention to an encoder's fixed input is left out. Where the prompt is that input (T5), one cell reads
    the prompt and the other what is generated; both have one shape, so one of them stands for both. Tokens
    of an encoder-only model see those after them, too; pairs of two are counted once, half of what there is.

    Examples
    --------
    >>> from profiles.huggingface import load_model
    >>> for each in attention_work(load_model("gemma-2-2b"), Plan(layers_per_stage=(26,))):
    ...     print(each.window, each.flops_per_pair, each.kv_bytes_per_token)
    0 106496.0 53248.0
    4096 106496.0 53248.0
    """
    decoder = model.decoder
    cells: Counter[Attention] = Counter()
    for index, count in Counter(decoder.layers).items():
        for cell in decoder.blocks[index].attention:
            if not cell.cross:
                cells[cell] += count
    return tuple(
        AttentionWork(
            window=window,
            flops_per_pair=sum(
                count * 2.0 * cell.q_heads * (cell.head_dim + cell.value_dim)
                for cell, count in cells.items()
                if cell.window == window
            ),
            kv_bytes_per_token=sum(
                count * cell_kv_bytes(cell, plan) * plan.attn_tp
                for cell, count in cells.items()
                if cell.window == window and cell.causal
            ),
        )
        for window in sorted({cell.window for cell in cells})
    )


def weight_bytes(model: Model, plan: Plan) -> float:
    """Weights of all devices of a replica that every iteration reads, whatever its tokens.

    Not among them: routed experts (see ``routed_experts``), encoders and cross-attention's projections of
    their output (read with prompts alone), tables that are looked up. A tied embedding is read as the LM head.
    """
    hidden = model.decoder.hidden
    layers = sum(
        count * (block_weight_bytes(block, hidden, plan) - _sometimes_bytes(block, hidden, plan))
        for blocks in stage_blocks(model, plan)
        for block, count in blocks.items()
    )
    head = model.lm_head_parameters or model.embedding_parameters if model.lm_head else 0
    return plan.stage_devices * layers + plan.attn_dp * head * plain_bytes(plan)


def _sometimes_bytes(block: Block, hidden: int, plan: Plan) -> float:
    """Weights of one layer on one device that not every iteration reads."""
    matrices = [m for m in ffn_matrices(block.ffn, hidden, plan) if m.part == "moe"]
    for cell in block.attention:
        matrices += [m for m in attention_matrices(cell, hidden, plan.attn_tp) if m.part == "cross_kv"]
    biases = block.ffn.bias / ffn_width(plan) if isinstance(block.ffn, MoE) else 0.0
    return sum(matrix_bytes(m, plan.weight_format) for m in matrices) + biases * plain_bytes(plan)


def routed_experts(model: Model, plan: Plan) -> tuple[RoutedExperts, ...]:
    """Experts of all layers, by how many there are and how many a token picks; none in a dense model.

    Examples
    --------
    >>> from profiles.huggingface import load_model
    >>> (experts,) = routed_experts(load_model("mixtral-8x7b"), Plan(layers_per_stage=(32,)))
    >>> experts.experts, experts.top_k, f"{experts.bytes_each / 1e9:.1f} GB"  # 3 x 4096 x 14336 in 32 layers
    (8, 2, '11.3 GB')
    """
    bytes_each: dict[tuple[int, int], float] = {}
    for index, count in Counter(model.decoder.layers).items():
        cell = model.decoder.blocks[index].ffn
        if isinstance(cell, MoE):
            routed = [m for m in ffn_matrices(cell, model.decoder.hidden, plan) if m.part == "moe"]
            each = plan.ffn_tp * sum(matrix_bytes(m, plan.weight_format) / m.copies for m in routed)
            each += cell.bias / cell.experts * plain_bytes(plan)
            kind = cell.experts, cell.top_k
            bytes_each[kind] = bytes_each.get(kind, 0.0) + count * each
    return tuple(
        RoutedExperts(experts=experts, top_k=top_k, bytes_each=each)
        for (experts, top_k), each in bytes_each.items()
    )
