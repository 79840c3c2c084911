"""Prefill: what a prompt costs besides the token-wise work of the decoder's layers.

Two ledgers over prompt lengths: ``attention`` has a launch that an iteration pays once, ``request`` is
paid by every prompt alone.

===================================  ===================================================================
decoder                              causal attention of the prompt over itself
encoder only                         bidirectional attention likewise; the prompt must come whole
encoder-decoder, encoder of fixed    ``attention``: decoder self- and cross-attention of the prompt;
length (Whisper)                     ``request``: encoder and cross K/V projections over that length
encoder-decoder, the prompt is the   ``attention``: one decoder token; ``request``: encoder and cross K/V
encoder's input (T5)                 over the prompt, less the decoder's token-wise work, which
                                     ``local_ps`` and ``shared_ps`` charge for prompt tokens although
                                     only the encoder sees them
===================================  ===================================================================

Vision and audio towers of decoder-only models take memory and no time: traces count text tokens.
"""

from collections import Counter
from dataclasses import replace

import numpy as np

from profiles.cells import Layout, Ledger, decode_core, own_cells, prefill_core, shared_cells
from profiles.meter import Charge
from profiles.model import Attention, Block, Model, Stack
from profiles.ops import FloatArray, IntArray
from profiles.shards import attention_matrices


def encodes_prompt(model: Model) -> bool:
    """Whether prompt tokens are the encoder's input and not the decoder's."""
    return model.kind == "encoder-decoder" and not model.encoder_tokens


def attention_ledger(layout: Layout, model: Model, blocks: Counter[Block], lengths: IntArray) -> Ledger:
    """Attention cores of one stage over prompts of these lengths."""
    ledger = Ledger(len(lengths))
    ones = np.ones_like(lengths)
    for block, count in blocks.items():
        for cell in block.attention:
            if model.kind != "encoder-decoder":
                ledger.add("attention", prefill_core(layout, cell, lengths), count=count)
            elif encodes_prompt(model):
                ledger.add("attention", decode_core(layout, cell, ones, ones), count=count)
            elif cell.cross:
                ledger.add("attention", _cross_core(layout, model, cell, lengths), count=count)
            else:
                ledger.add("attention", prefill_core(layout, cell, lengths), count=count)
    return ledger


def _cross_core(layout: Layout, model: Model, cell: Attention, lengths: IntArray) -> Charge:
    """One query costs a decode step; ``c`` more their share of the encoder's attention over itself."""
    encoded = np.full_like(lengths, model.encoder_tokens)
    first = decode_core(layout, cell, np.ones_like(lengths), encoded)
    square = prefill_core(layout, cell, encoded)
    share = (lengths - 1) / model.encoder_tokens
    return replace(
        first,
        seconds=first.seconds + share * square.seconds,
        joules=first.joules + share * square.joules,
        provenance=np.maximum(first.provenance, square.provenance),
    )


def request_ledger(
    layout: Layout, model: Model, blocks: Counter[Block], first_stage: bool, lengths: IntArray
) -> Ledger:
    """Encoder (on the first stage) and cross K/V projections of one stage."""
    seen = np.full_like(lengths, model.encoder_tokens) if model.encoder_tokens else lengths
    ledger = Ledger(len(lengths))
    if model.kind != "encoder-decoder":
        return ledger
    if first_stage and model.encoder is not None:
        ledger.include(_encoder(replace(layout, hidden=model.encoder.hidden), model.encoder, seen))
    for block, count in blocks.items():
        for cell in block.attention:
            for matrix in attention_matrices(cell, layout.hidden, layout.plan.attn_tp):
                if matrix.part == "cross_kv":
                    ledger.add("cross_kv", layout.matrix(seen, matrix), count=count)
    return ledger


def _encoder(layout: Layout, stack: Stack, tokens: IntArray) -> Ledger:
    """One pass of an encoder over ``tokens``, on every attention rank at once."""
    ledger = Ledger(len(tokens))
    for block, count in Counter(stack.blocks[i] for i in stack.layers).items():
        ledger.include(own_cells(layout, block, tokens), count=count)
        ledger.include(shared_cells(layout, block, tokens * layout.plan.attn_dp), count=count)
        for cell in block.attention:
            ledger.add("attention", prefill_core(layout, cell, tokens), count=count)
    return ledger


def token_work(layout: Layout, blocks: Counter[Block], lengths: IntArray) -> Ledger:
    """Token-wise work of one stage on a prompt of one rank, as ``local_ps`` and ``shared_ps`` charge it."""
    ledger = Ledger(len(lengths))
    for block, count in blocks.items():
        ledger.include(own_cells(layout, block, lengths), count=count)
        ledger.include(shared_cells(layout, block, lengths * layout.plan.attn_dp), count=count)
    return ledger


def launch_and_growth(
    model: Model, attention: FloatArray, request: FloatArray, charged: FloatArray
) -> tuple[float, FloatArray]:
    """Once per iteration, and per prompt over its length, never falling; see the module."""
    growth = attention - attention[0]
    if encodes_prompt(model):
        net = (request - request[0]) - (charged - charged[0])
        return float(attention[0] + request[0]), np.maximum.accumulate(np.maximum(net, 0.0))
    return float(attention[0]), np.maximum.accumulate(np.maximum(growth + request, 0.0))
