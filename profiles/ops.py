"""What one operation costs: the interface that measured tables, rooflines and CSV profiles share.

All methods are vectorized over their first array argument(s) and describe *one device's* share of the
work. Shapes are already sharded: ``n`` of a GEMM is the columns on this device.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

MEASURED, INTERPOLATED, EXTRAPOLATED, MODELLED = range(4)

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cost:
    """Time of an operation, and the work that explains it. All arrays have one shape.

    ``seconds`` > 0 (0 only where nothing is done), ``flops`` and ``bytes`` (of device memory) >= 0,
    ``provenance`` int8: index into ``profiles.stepcost.PROVENANCE``.
    """

    seconds: FloatArray
    flops: FloatArray
    bytes: FloatArray
    provenance: NDArray[np.int8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How the members of a group reach each other.

    ``ranks`` devices on ``nodes`` nodes; bandwidths are bytes per second of one device in one direction.
    ``custom_all_reduce``: whether the engine may all-reduce with a kernel of its own.
    """

    ranks: int
    nodes: int
    intra_bandwidth: float
    inter_bandwidth: float
    intra_latency_s: float
    inter_latency_s: float
    custom_all_reduce: bool = True


class Operations(Protocol):
    """One device and engine; see the module for conventions. Formats are keys of ``FORMAT_BYTES``."""

    def gemm(self, m: IntArray, *, n: int, k: int, weight: str, activation: str) -> Cost:
        """m x k times k x n."""
        ...

    def prefill_attention(
        self, tokens: IntArray, *, q_heads: int, kv_heads: int, head_dim: int, value_dim: int,
        window: int, causal: bool, kv: str,
    ) -> Cost:  # fmt: skip
        """Attention of one sequence of ``tokens`` over itself, nothing in the cache before."""
        ...

    def decode_attention(
        self, batch: IntArray, context: IntArray, *, q_heads: int, kv_heads: int, head_dim: int,
        value_dim: int, window: int, kv: str,
    ) -> Cost:  # fmt: skip
        """One new token of each of ``batch`` sequences over ``context`` cached tokens each (broadcast)."""
        ...

    def mixed_attention(
        self, batch: IntArray, context: IntArray, *, q_heads: int, kv_heads: int, head_dim: int, value_dim: int,
        window: int, kv: str,
    ) -> tuple[FloatArray, FloatArray]:  # fmt: skip
        """Seconds that one kernel for prompts and such decodes takes more than a kernel for each, and more per
        prompt token (broadcast). Both >= 0; 0 where nobody measured it."""
        ...

    @property
    def knows_mixing(self) -> bool:
        """Whether ``mixed_attention`` was measured for some heads."""
        ...

    def mla_prefill(self, tokens: IntArray, *, heads: int, head_dim: int, value_dim: int, kv_rank: int,
                    rope_dim: int, kv: str) -> Cost:  # fmt: skip
        """MLA attention core of one sequence (projections are GEMMs of their own)."""
        ...

    def mla_decode(self, batch: IntArray, context: IntArray, *, heads: int, head_dim: int, value_dim: int,
                   kv_rank: int, rope_dim: int, kv: str) -> Cost:  # fmt: skip
        """MLA attention core, absorbed form: reads kv_rank + rope_dim numbers per cached token."""
        ...

    def moe(self, tokens: IntArray, *, hidden: int, inner: int, experts: int, top_k: int, tp: int, ep: int,
            gated: bool, weight: str, activation: str) -> Cost:  # fmt: skip
        """Routed experts of one layer for ``tokens`` tokens that enter the layer (of all ranks of the
        expert group), on the busiest device of a tp x ep group. Shared experts are GEMMs of their own."""
        ...

    def stream(self, read_bytes: FloatArray) -> Cost:
        """An element-wise or gather kernel that moves this many bytes of device memory."""
        ...

    def collective(self, kind: str, payload_bytes: FloatArray, link: Link) -> Cost:
        """``all_reduce``, ``all_gather``, ``reduce_scatter``, ``all_to_all`` or ``p2p``.

        ``payload_bytes`` is the full tensor: what every member holds before an all-reduce or
        reduce-scatter and after an all-gather; what one member sends in total for all-to-all and p2p.
        """
        ...


class Layer:
    """Operations of which a source knows some: it overrides those, ``fallback`` answers the others."""

    fallback: Operations

    def gemm(self, *args: Any, **shape: Any) -> Cost:
        return self.fallback.gemm(*args, **shape)

    def prefill_attention(self, *args: Any, **shape: Any) -> Cost:
        return self.fallback.prefill_attention(*args, **shape)

    def decode_attention(self, *args: Any, **shape: Any) -> Cost:
        return self.fallback.decode_attention(*args, **shape)

    def mixed_attention(self, *args: Any, **shape: Any) -> tuple[FloatArray, FloatArray]:
        return self.fallback.mixed_attention(*args, **shape)

    @property
    def knows_mixing(self) -> bool:
        return self.fallback.knows_mixing

    def mla_prefill(self, *args: Any, **shape: Any) -> Cost:
        return self.fallback.mla_prefill(*args, **shape)

    def mla_decode(self, *args: Any, **shape: Any) -> Cost:
        return self.fallback.mla_decode(*args, **shape)

    def moe(self, *args: Any, **shape: Any) -> Cost:
        return self.fallback.moe(*args, **shape)

    def stream(self, *args: Any, **shape: Any) -> Cost:
        return self.fallback.stream(*args, **shape)

    def collective(self, *args: Any, **shape: Any) -> Cost:
        return self.fallback.collective(*args, **shape)


class Adjusted(Layer):
    """Operations that cost what ``fallback`` says, as ``adjusted`` changes it; the extra of mixed batches stays."""

    def adjusted(self, operation: str, cost: Cost, shape: dict[str, Any]) -> Cost:
        """The cost of ``operation`` (a method, or the kind of a collective, whose shape is its ``link``)."""
        raise NotImplementedError

    def gemm(self, *loads: Any, **shape: Any) -> Cost:
        return self.adjusted("gemm", super().gemm(*loads, **shape), shape)

    def prefill_attention(self, *loads: Any, **shape: Any) -> Cost:
        return self.adjusted("prefill_attention", super().prefill_attention(*loads, **shape), shape)

    def decode_attention(self, *loads: Any, **shape: Any) -> Cost:
        return self.adjusted("decode_attention", super().decode_attention(*loads, **shape), shape)

    def mla_prefill(self, *loads: Any, **shape: Any) -> Cost:
        return self.adjusted("mla_prefill", super().mla_prefill(*loads, **shape), shape)

    def mla_decode(self, *loads: Any, **shape: Any) -> Cost:
        return self.adjusted("mla_decode", super().mla_decode(*loads, **shape), shape)

    def moe(self, *loads: Any, **shape: Any) -> Cost:
        return self.adjusted("moe", super().moe(*loads, **shape), shape)

    def stream(self, *loads: Any, **shape: Any) -> Cost:
        return self.adjusted("stream", super().stream(*loads, **shape), shape)

    def collective(self, kind: str, payload_bytes: Any, link: Link) -> Cost:
        return self.adjusted(kind, super().collective(kind, payload_bytes, link), {"link": link})
