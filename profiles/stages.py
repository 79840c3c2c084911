"""Tables of one pipeline stage: a row of those in ``profiles.stepcost``."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles import prompts
from profiles.cells import Layout, Ledger, decode_cells, embedding_cells, own_cells, shared_cells
from profiles.engine import EngineProfile
from profiles.meter import Charge
from profiles.model import Block, Model
from profiles.ops import MODELLED, FloatArray, IntArray
from profiles.plan import EngineSettings
from profiles.stepcost import PS
from profiles.tables import NJ, capped, integers, load_grid, pieces, sparse_grid

SHORTEST_KNOT = 32
"""Tokens per sequence below which decode attention is all launch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Integer tables of one stage, and grid seconds by provenance (``[4, ...]``)."""

    own_parts: dict[str, IntArray]
    own_nj: IntArray
    own_seconds: FloatArray
    shared_parts: dict[str, IntArray]
    shared_nj: IntArray
    shared_seconds: FloatArray
    decode: tuple[IntArray, IntArray]
    decode_nj: tuple[IntArray, IntArray]
    decode_seconds: FloatArray
    prefill: tuple[int, IntArray]
    prefill_nj: tuple[int, IntArray]
    prefill_seconds: FloatArray


@dataclass(slots=True, eq=False)
class LayerCache:
    """Ledgers of layers by shard: plans that cut a layer alike share it, whatever their engine and depth."""

    ledgers: dict[tuple[Any, ...], Ledger] = field(default_factory=dict)

    def get(
        self, make: Callable[..., Ledger], layout: Layout, block: Block, *loads: IntArray, **more: int
    ) -> Ledger:
        shard = replace(layout.plan, replicas=1, layers_per_stage=(1,), engine=EngineSettings())
        links = layout.link_tensor, layout.link_ffn
        key = (make, block, shard, links, *(load.tobytes() for load in loads))
        if key not in self.ledgers:
            self.ledgers[key] = make(layout, block, *loads, **more)
        return self.ledgers[key]


class StageCosts:
    """Builds the stages of one plan.

    Parameters
    ----------
    tokens, max_length
        N and L of ``profiles.stepcost``.
    """

    def __init__(
        self, model: Model, layout: Layout, engine: EngineProfile, cache: LayerCache, *,
        tokens: int, max_length: int,
    ) -> None:  # fmt: skip
        self.model, self.layout, self.engine, self.cache = model, layout, engine, cache
        windows = {cell.window for block in model.decoder.blocks for cell in block.attention}
        knots = sparse_grid(max_length, *windows)
        self.own_grid = load_grid(tokens)
        self.shared_grid = load_grid(tokens * layout.plan.attn_dp)
        self.lengths = load_grid(max_length, *windows)
        self.batches = sparse_grid(layout.plan.engine.max_seqs)
        self.knots = np.concatenate([[0], knots[(knots >= SHORTEST_KNOT) | (knots == max_length)]])

    def build(self, blocks: Counter[Block], *, first: bool) -> Stage:
        """The stage that holds these layers."""
        plan = self.layout.plan
        own, shared = Ledger(len(self.own_grid)), Ledger(len(self.shared_grid))
        for block, count in blocks.items():
            own.include(self.cache.get(own_cells, self.layout, block, self.own_grid), count=count)
            shared.include(self.cache.get(shared_cells, self.layout, block, self.shared_grid), count=count)
        if first:
            own.include(embedding_cells(self.layout, self.model.vocab, self.own_grid))
            own.add("host", host(np.full(len(self.own_grid), self.engine.iteration_s)))
        decode = self._decode(blocks)
        launch, growth, prefill_seconds = self._prefill(blocks, first)
        rank = plan.attn_tp
        return Stage(
            own_parts=parts(self.own_grid, own),
            own_nj=integers(self.own_grid, own.joules * rank, NJ),
            own_seconds=own.provenance,
            shared_parts=parts(self.shared_grid, shared),
            shared_nj=integers(self.shared_grid, shared.joules * plan.stage_devices, NJ),
            shared_seconds=shared.provenance,
            decode=self._pieces(decode.total(), PS),
            decode_nj=self._pieces(self._decode_joules(decode), NJ),
            decode_seconds=self._decode_provenance(decode),
            prefill=(round(launch[0] * PS), integers(self.lengths, growth[0], PS)),
            prefill_nj=(round(launch[1] * NJ), integers(self.lengths, growth[1], NJ)),
            prefill_seconds=prefill_seconds,
        )

    # Decode: ledgers over every (batch, knot), batch by batch.

    def _decode(self, blocks: Counter[Block]) -> Ledger:
        ledger = Ledger(len(self.batches) * len(self.knots))
        if self.model.kind == "encoder":
            return ledger
        batch = np.repeat(self.batches, len(self.knots))
        context = np.tile(np.maximum(self.knots, 1), len(self.batches))
        for block, count in blocks.items():
            layer = self.cache.get(
                decode_cells, self.layout, block, batch, context, encoder_tokens=self.model.encoder_tokens
            )
            ledger.include(layer, count=count)
        return ledger

    def _grid(self, values: FloatArray) -> FloatArray:
        return values.reshape(*values.shape[:-1], len(self.batches), len(self.knots))

    def _pieces(self, values: FloatArray, unit: float) -> tuple[IntArray, IntArray]:
        most = self.layout.plan.engine.max_seqs
        return pieces(most, self.batches, self.knots, self._grid(values), unit)

    def _decode_joules(self, decode: Ledger) -> FloatArray:
        joules = capped(self._grid(decode.joules), self._grid(decode.total()), self.layout.meter.ceiling_w)
        return joules.ravel() * self.layout.plan.attn_tp

    def _decode_provenance(self, decode: Ledger) -> FloatArray:
        each = self._grid(decode.provenance).sum(axis=2)
        everyone = np.arange(self.layout.plan.engine.max_seqs + 1)
        return np.stack([np.interp(everyone, self.batches, row) for row in each])

    def _prefill(
        self, blocks: Counter[Block], first: bool
    ) -> tuple[tuple[float, float], tuple[FloatArray, FloatArray], FloatArray]:
        """(seconds, joules) of a launch, and of prompts by length; seconds by provenance."""
        model, layout, lengths = self.model, self.layout, self.lengths
        attention = prompts.attention_ledger(layout, model, blocks, lengths)
        request = prompts.request_ledger(layout, model, blocks, first, lengths)
        charged = Ledger(len(lengths))
        if prompts.encodes_prompt(model):
            charged = prompts.token_work(layout, blocks, lengths)
        launch_s, seconds = prompts.launch_and_growth(
            model, attention.total(), request.total(), charged.total()
        )
        launch_j, joules = prompts.launch_and_growth(model, attention.joules, request.joules, charged.joules)
        ceiling, rank = layout.meter.ceiling_w, layout.plan.attn_tp
        launch_j = min(launch_j, ceiling * launch_s) * rank
        provenance = (attention.provenance + request.provenance).sum(axis=1)
        if first and self.engine.prefill_s:
            launch_s += self.engine.prefill_s
            provenance[MODELLED] += self.engine.prefill_s * len(lengths)
        return (launch_s, launch_j), (seconds, capped(joules, seconds, ceiling) * rank), provenance


def host(seconds: NDArray[Any]) -> Charge:
    """Time of the host, in which the device idles."""
    return Charge(
        seconds=seconds,
        joules=np.zeros_like(seconds),
        provenance=np.full(len(seconds), MODELLED, dtype=np.int8),
    )


def parts(points: IntArray, ledger: Ledger) -> dict[str, IntArray]:
    """Picoseconds of every part over 0..points[-1]."""
    return {part: integers(points, seconds, PS) for part, seconds in ledger.seconds.items()}
