"""Tables of one pipeline stage: a row of those in ``profiles.stepcost``."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles import prompts
from profiles.cells import Layout, Ledger, core, decode_cells, embedding_cells, own_cells, shared_cells
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
    mixed: tuple[IntArray, IntArray, IntArray] | None


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
        mixed = self._mixed(blocks)
        engine = self.engine
        if mixed is not None and engine.holds_mixing:
            engine = replace(engine, iteration_s=0.0, prefill_s=0.0)
        if first:
            own.include(embedding_cells(self.layout, self.model.vocab, self.own_grid))
            own.add("host", host(np.full(len(self.own_grid), engine.iteration_s)))
        decode = self._decode(blocks)
        launch, growth, prefill_seconds = self._prefill(blocks, first, engine.prefill_s)
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
            mixed=mixed,
        )

    # Decode: ledgers over every (batch, knot), batch by batch.

    def _decode(self, blocks: Counter[Block]) -> Ledger:
        ledger = Ledger(len(self.batches) * len(self.knots))
        if self.model.kind == "encoder":
            return ledger
        batch, context = self._decode_loads()
        for block, count in blocks.items():
            layer = self.cache.get(
                decode_cells, self.layout, block, batch, context, encoder_tokens=self.model.encoder_tokens
            )
            ledger.include(layer, count=count)
        return ledger

    def _decode_loads(self) -> tuple[IntArray, IntArray]:
        """Every batch with every knot."""
        batch = np.repeat(self.batches, len(self.knots))
        return batch, np.tile(np.maximum(self.knots, 1), len(self.batches))

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

    def _mixed(self, blocks: Counter[Block]) -> tuple[IntArray, IntArray, IntArray] | None:
        """Tables of ``mixed``, None where it is nothing."""
        if self.model.kind != "decoder":
            return None
        batch, context = self._decode_loads()
        seconds, each = np.zeros(len(batch)), np.zeros(len(batch))
        for block, count in blocks.items():
            for cell in block.attention:
                if not cell.is_mla:
                    operations, shape = self.layout.meter.operations, core(self.layout, cell)
                    more, per_token = operations.mixed_attention(batch, context, **shape)
                    seconds += count * more
                    each += count * per_token
        if not (seconds.any() or each.any()):
            return None
        most = np.arange(self.layout.plan.engine.max_seqs + 1)
        tokens = np.interp(most, self.batches, self._grid(each)[:, 0] * PS).astype(np.int64)
        return (*self._pieces(seconds, PS), tokens)

    def _prefill(
        self, blocks: Counter[Block], first: bool, host_s: float
    ) -> tuple[tuple[float, float], tuple[FloatArray, FloatArray], FloatArray]:
        """(seconds, joules) of a launch, and of prompts by length; seconds by provenance.

        ``host_s``: of the host in a launch, on the first stage."""
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
        if first and host_s:
            launch_s += host_s
            provenance[MODELLED] += host_s * len(lengths)
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
