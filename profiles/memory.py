"""Memory of one device under a plan: weights, KV cache, activations, the engine's reserve.

``usable = memory * gpu_memory_utilization`` as in vLLM (a share of *total* memory, CUDA context and
communication buffers inside it); what weights, peak activations and reserve leave is cut into KV blocks.
All sizes are bytes of the fullest device (see ``profiles.shards``).
"""

from dataclasses import dataclass
from typing import Protocol

from profiles.model import Attention, Block, FeedForward, Model, MoE, Stack
from profiles.plan import FORMAT_BYTES, EngineSettings, Plan
from profiles.shards import (
    Matrix,
    attention_matrices,
    ceil_div,
    dispatches,
    ffn_matrices,
    ffn_width,
    group_tokens,
    heads,
    held_format,
    reshards,
    stage_blocks,
)

SCALE_GROUP = 128
"""Inputs that share a scale in int4 (AWQ and GPTQ checkpoints: a 16-bit scale and a 4-bit zero each), and
side of the square that shares an fp32 scale in fp8 (DeepSeek-V3; one scale per tensor is less). int8 has
one fp32 scale per output (W8A8 of SmoothQuant and vLLM)."""

FP4_GROUP, MXFP4_GROUP = 16, 32
"""Inputs that share a scale of 8 bits: 4.5 bits a weight in NVFP4, 4.25 in MXFP4 (OCP Microscaling Formats 1.0)."""

CONTEXT_BYTES = 551e6
"""CUDA context, cuBLAS and cuDNN workspaces: AIConfigurator's figure for NVIDIA devices before its own
safety margin (``other_mem`` in its ``systems/*.yaml``)."""

NCCL_BYTES = ((1, 0.0), (2, 358_612_992.0), (4, 411_041_792.0))
"""Group width from which NCCL holds this much (``nccl_mem`` in the same files, H100)."""

UNBOUNDED_BLOCKS = 2**31 - 1
"""KV blocks of a model that caches nothing."""


class HasMemory(Protocol):
    @property
    def memory_bytes(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Longest:
    """Most tokens of a prompt, and of a request (prompt and output together), in a trace."""

    prompt: int
    request: int

    def __post_init__(self) -> None:
        if not 1 <= self.prompt <= self.request:
            raise ValueError("The longest prompt has at least 1 token and no more than the longest request.")


def plain_bytes(plan: Plan) -> float:
    """Bytes of a number that is never quantized (norms, router, embedding, LM head, hidden states)."""
    return max(2.0, FORMAT_BYTES[plan.weight_format])


def matrix_bytes(matrix: Matrix, weight_format: str) -> float:
    """Weights and scales of all copies.

    Examples
    --------
    >>> matrix_bytes(Matrix(part="ffn", n=1024, k=1024), "int4") / 2**20
    0.51953125
    """
    n, k, form = matrix.n, matrix.k, held_format(matrix.part, weight_format)
    scales = {
        "int4": 2.5 * n * ceil_div(k, SCALE_GROUP),
        "int8": 4.0 * n,
        "fp8": 4.0 * ceil_div(n, SCALE_GROUP) * ceil_div(k, SCALE_GROUP),
        "fp4": 1.0 * n * ceil_div(k, FP4_GROUP),
        "mxfp4": 1.0 * n * ceil_div(k, MXFP4_GROUP),
    }
    return matrix.copies * (n * k * FORMAT_BYTES[form] + scales.get(form, 0.0))


def block_weight_bytes(block: Block, hidden: int, plan: Plan) -> float:
    """One layer on one device."""
    matrices = ffn_matrices(block.ffn, hidden, plan)
    plain = float(block.norm_parameters)
    for cell in block.attention:
        matrices += attention_matrices(cell, hidden, plan.attn_tp)
        norms = cell.q_rank + cell.kv_rank if cell.is_mla else 0
        plain += norms + cell.extra_parameters + cell.bias / plan.attn_tp
    plain += block.ffn.bias / ffn_width(plan)
    if isinstance(block.ffn, MoE):
        plain += block.ffn.router_parameters(hidden)
    return plain * plain_bytes(plan) + sum(matrix_bytes(m, plan.weight_format) for m in matrices)


def stack_weight_bytes(stack: Stack, plan: Plan) -> float:
    """A whole stack on one device (encoders stay on the first stage)."""
    each = [block_weight_bytes(block, stack.hidden, plan) for block in stack.blocks]
    return sum(each[i] for i in stack.layers) + stack.extra_parameters * plain_bytes(plan)


def head_bytes(model: Model, plan: Plan) -> float:
    """LM head on one device of the last stage; none of its own where it is tied and there is one stage."""
    if not model.lm_head or (model.tied and plan.stages == 1):
        return 0.0
    return ceil_div(model.vocab, plan.attn_tp) * model.decoder.hidden * plain_bytes(plan)


def stage_weight_bytes(model: Model, plan: Plan) -> tuple[float, ...]:
    """Weights on one device of each stage.

    Position tables, the encoder and a tower (never quantized) sit on the first stage with the embedding, the LM
    head on the last: a matrix that both share is held once in a single stage and twice in a pipeline.
    """
    plain = plain_bytes(plan)
    stages = [
        sum(count * block_weight_bytes(block, model.decoder.hidden, plan) for block, count in blocks.items())
        for blocks in stage_blocks(model, plan)
    ]
    stages[0] += model.decoder.extra_parameters * plain
    stages[0] += ceil_div(model.embedding_parameters, plan.attn_tp) * plain
    stages[0] += ceil_div(model.tower_parameters, plan.attn_tp) * plain
    if model.encoder:
        stages[0] += stack_weight_bytes(model.encoder, plan)
    stages[-1] += head_bytes(model, plan)
    return tuple(stages)


def cell_kv_bytes(cell: Attention, plan: Plan) -> float:
    """What one token leaves in the cache of this cell on one device."""
    if cell.is_mla:
        return (cell.kv_rank + cell.rope_dim) * FORMAT_BYTES[plan.kv_format]
    return heads(cell, plan.attn_tp)[1] * (cell.head_dim + cell.value_dim) * FORMAT_BYTES[plan.kv_format]


def _kv_bytes(model: Model, plan: Plan, *, cross: bool) -> tuple[float, ...]:
    return tuple(
        sum(
            count * cell_kv_bytes(cell, plan)
            for block, count in blocks.items()
            for cell in block.attention
            if cell.cross == cross and (cell.causal or cross)
        )
        for blocks in stage_blocks(model, plan)
    )


def kv_bytes_per_token(model: Model, plan: Plan) -> tuple[float, ...]:
    """KV cache that one token takes on one device of each stage.

    Where the prompt is the encoder's input (T5), a prompt token takes cross-attention cache and a
    generated token takes self-attention cache: the larger of the two counts for both. Fixed encoder
    inputs (Whisper) are reserved apart, see ``cross_kv_bytes``.
    """
    own = _kv_bytes(model, plan, cross=False)
    if model.kind != "encoder-decoder" or model.encoder_tokens:
        return own
    return tuple(max(pair) for pair in zip(own, _kv_bytes(model, plan, cross=True), strict=True))


def cross_kv_bytes(model: Model, plan: Plan) -> tuple[float, ...]:
    """Cross-attention cache of encoder inputs of fixed length for every sequence that may run (``max_seqs``
    in each micro-batch, of which there are as many as stages), on one device of each stage."""
    tokens = model.encoder_tokens * plan.engine.max_seqs * plan.stages
    return tuple(tokens * each for each in _kv_bytes(model, plan, cross=True))


def iteration_tokens(model: Model, engine: EngineSettings, longest: Longest) -> int:
    """Most new tokens of an attention rank in one iteration: what ``simulator.batching`` can come to.

    The token budget where prompts are cut into chunks. Elsewhere a longer prompt is the only new one, but
    runs whole: alone under ``static`` and ``vllm-v0``, beside the decodes of all others where prompts and
    decodes mix. A preempted request is recomputed whole, with all it has generated but the last token (vLLM V0
    without chunks, too, wants a budget of no less than its longest sequence: ``SchedulerConfig``).

    Examples
    --------
    >>> from profiles.huggingface import load_model
    >>> llama, longest = load_model("llama-3.1-8b"), Longest(prompt=40_000, request=40_500)
    >>> engines = (EngineSettings(policy=name, max_seqs=16) for name in ("vllm-v1", "static", "orca", "vllm-v0"))
    >>> [iteration_tokens(llama, engine, longest) for engine in engines]
    [8192, 40000, 40015, 40499]
    """
    if engine.chunks_prefill and model.kind == "decoder":
        return engine.token_budget
    reserves = engine.policy in ("static", "orca")
    recomputes = not reserves and engine.preemption == "recompute"
    whole = max(longest.prompt, longest.request - 1) if recomputes else longest.prompt
    if engine.policy not in ("static", "vllm-v0") and model.kind != "encoder":
        whole += engine.max_seqs - 1
    return max(engine.token_budget, engine.max_seqs, whole, model.encoder_tokens)


def activation_bytes(model: Model, plan: Plan, longest: Longest) -> float:
    """Peak of one forward pass of ``iteration_tokens``, as vLLM's profile run provokes it.

    ``2 N hidden`` (residual and the layer's input or output), and the largest of: fused QKV with the
    attention output; up, gate and down inputs of the feed-forward; inputs and outputs of every
    (token, expert) pair; logits of ``max_seqs`` sequences and their probabilities in fp32. The buffers of
    these shapes are those that ``vllm/model_executor`` allocates; they are alive one after the other.
    """
    hidden, width = model.decoder.hidden, plain_bytes(plan)
    tokens = iteration_tokens(model, plan.engine, longest)
    gathered = group_tokens(plan, tokens)
    held = 2.0 * tokens * hidden * width
    if reshards(plan) and not dispatches(plan):
        held += 2.0 * gathered * hidden * width
    peaks = [8.0 * plan.engine.max_seqs * model.vocab if model.lm_head else 0.0]
    for block in model.decoder.blocks:
        for cell in block.attention:
            shapes = attention_matrices(cell, hidden, plan.attn_tp)
            peaks.append(tokens * width * (sum(m.n for m in shapes[:-1]) + shapes[-1].k))
        if isinstance(block.ffn, FeedForward):
            up, down = ffn_matrices(block.ffn, hidden, plan)
            peaks.append(gathered * width * (up.n + down.k))
        else:
            up, down = ffn_matrices(block.ffn, hidden, plan)[:2]
            pairs = gathered * block.ffn.top_k / (plan.ffn_ep if dispatches(plan) else 1)
            peaks.append(pairs * width * (up.n + down.k + hidden))
    return held + max(peaks)


def reserve_bytes(plan: Plan) -> float:
    """CUDA context and communication buffers, see ``CONTEXT_BYTES`` and ``NCCL_BYTES``.

    CUDA graphs are captured after the cache is sized and live outside ``gpu_memory_utilization``.
    """
    return CONTEXT_BYTES + max(size for width, size in NCCL_BYTES if width <= plan.replica_devices)


def kv_blocks(model: Model, plan: Plan, device: HasMemory, longest: Longest) -> int:
    """KV blocks of one attention rank: those of its fullest stage. 0 or less: the plan does not fit."""
    usable = device.memory_bytes * plan.engine.gpu_memory_utilization
    usable -= activation_bytes(model, plan, longest) + reserve_bytes(plan)
    stages = zip(
        stage_weight_bytes(model, plan),
        cross_kv_bytes(model, plan),
        kv_bytes_per_token(model, plan),
        strict=True,
    )
    blocks = UNBOUNDED_BLOCKS
    for weights, cross, per_token in stages:
        free = usable - weights - cross
        if per_token:
            blocks = min(blocks, int(free // (per_token * plan.engine.block_size)))
        elif free <= 0:
            blocks = min(blocks, 0)
    return blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes of the device that is fullest with weights. ``kv_bytes``: of the blocks, and of the cross-attention
    cache that is reserved for fixed encoder inputs; ``kv_tokens`` is what the blocks of one attention rank hold."""

    weight_bytes: float
    activation_bytes: float
    reserve_bytes: float
    kv_bytes: float
    kv_tokens: int


def footprint(model: Model, plan: Plan, blocks: int, longest: Longest) -> Footprint:
    """What a device holds when a rank has ``blocks`` KV blocks, see ``kv_blocks``.

    Examples
    --------
    >>> from profiles.huggingface import load_model
    >>> longest = Longest(prompt=2000, request=2200)
    >>> held = footprint(load_model("llama-3.1-8b"), Plan(layers_per_stage=(32,)), 1000, longest)
    >>> f"{held.weight_bytes / 1e9:.1f} GB, {held.kv_bytes / 1e9:.1f} GB for {held.kv_tokens} tokens"
    '16.1 GB, 2.1 GB for 16000 tokens'
    """
    stages = zip(
        stage_weight_bytes(model, plan),
        cross_kv_bytes(model, plan),
        kv_bytes_per_token(model, plan),
        strict=True,
    )
    weights, cross, per_token = max(stages, key=lambda stage: stage[0] + stage[1])
    tokens = blocks * plan.engine.block_size
    return Footprint(
        weight_bytes=weights,
        activation_bytes=activation_bytes(model, plan, longest),
        reserve_bytes=reserve_bytes(plan),
        kv_bytes=cross + per_token * tokens,
        kv_tokens=tokens,
    )
