"""Operation times from a roofline with stated efficiencies: the model where nothing was measured.

    seconds = launch + max(flops / sustained rate, bytes / sustained bandwidth)

Sustained rates are the device's (``profiles.device``); what a kernel reaches less than a large matrix
product, and what its launch costs, is stated here. Everything is MODELLED and non-decreasing in its loads.
``docs/devices.md`` says how far it is from the measured tables.
"""

from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from profiles.collectives import collective_s
from profiles.device import Device
from profiles.ops import MODELLED, Cost, FloatArray, IntArray, Link
from profiles.plan import FORMAT_BYTES

LAUNCH_S = 3e-6
"""Least time of a kernel in a CUDA graph: products of up to 16 rows and 1M weights take 2.5 to 3.2 us on
H100, H200, B200, L40S (aiconfigurator-core, vLLM 0.24 and TensorRT-LLM 1.3)."""

ATTENTION_LAUNCH_S = 1e-5
"""Least time of attention, the write to the cache included: 8.4 us on RTX PRO 6000 (LLMServingSim), 9 to 11
on B200, 10 to 14 on H100, 11 to 13 on A100 (aiconfigurator-core, vLLM)."""

EXPERTS_LAUNCH_S = 17e-6
"""Least time of routed experts, five kernels or more: sort by expert, two grouped products, activation,
sum (17 us on B200, 24 on H100 for one token; aiconfigurator-core, vLLM 0.24)."""

QUANTIZE_LAUNCH_S = 2.2e-6
"""Writing activations in 8 bits before a product: its smallest take 5.2 us in fp8 where bf16 takes 3.1."""

PREFILL_SHARE = 0.55
"""Of the bf16 peak that attention over itself reaches when it fills the device: medians from 4,096 tokens
with heads of 128 are 0.59 on H100, 0.55 on A100, 0.60 on RTX PRO 6000, 0.45 on B200 (the same tables)."""

DECODE_SHARE = 0.60
"""Of the bf16 peak in decode attention; binds only where many heads share a KV head (MQA, absorbed MLA)."""

EXPERTS_SHARE = 0.75
"""Of the rate of a large product that grouped products reach."""

ROWS = 16
"""Rows are computed in tiles of at least this many: one tensor-core instruction."""

TILE = 128
"""Queries and keys of one attention tile; tiles that the causal edge or a window cuts are computed whole."""


class Roofline:
    """``Operations`` of one device at one clock.

    Parameters
    ----------
    device
        Whose rates count.
    clock_mhz
        Locked clock, 0 for the maximum. Compute slows down with it, memory does not.
    routing
        Of tokens to experts: ``random`` (every token picks its experts uniformly, the busiest device of an
        expert group counts, see ``busiest_pairs``) or ``balanced`` (all alike, the limit of many tokens).

    Examples
    --------
    >>> from profiles.device import load_device
    >>> cost = Roofline(load_device("h100")).gemm(
    ...     np.array([1, 8192]), n=8192, k=8192, weight="bf16", activation="bf16")
    >>> [round(float(s) * 1e6) for s in cost.seconds]  # bound by memory, then by compute
    [51, 1387]
    """

    def __init__(
        self, device: Device, clock_mhz: int = 0, routing: Literal["random", "balanced"] = "random"
    ) -> None:
        if not 0 <= clock_mhz <= device.max_clock_mhz:
            raise ValueError(f"clock_mhz must be 0 to {device.max_clock_mhz}.")
        self.device, self.routing = device, routing
        self.clock_share = clock_mhz / device.max_clock_mhz if clock_mhz else 1.0

    def gemm(self, m: IntArray, *, n: int, k: int, weight: str, activation: str) -> Cost:
        """Weights are widened on the fly to the format that computes, the wider of the two.

        Activations of 8 bits are first read in bf16 and written.
        """
        rows, form = np.asarray(m, np.float64), _wider(weight, activation)
        w, a = FORMAT_BYTES[weight], FORMAT_BYTES[activation]
        moved = n * k * w + rows * (k * a + n * 2.0)
        cost = self._cost(2.0 * rows * n * k, moved, rows > 0, form, computed=2.0 * _tiles(rows) * n * k)
        if a >= 2.0:
            return cost
        written = rows * k * (2.0 + a)
        seconds = QUANTIZE_LAUNCH_S + written / self.device.sustained_bandwidth
        seconds = np.where(rows > 0, cost.seconds + seconds, 0.0)
        return replace(cost, seconds=seconds, bytes=cost.bytes + written)

    def prefill_attention(
        self, tokens: IntArray, *, q_heads: int, kv_heads: int, head_dim: int, value_dim: int,
        window: int, causal: bool, kv: str,
    ) -> Cost:  # fmt: skip
        """KV in 8 bits is written narrow and multiplied in bf16."""
        t = np.asarray(tokens, np.float64)
        width = head_dim + value_dim
        moved = t * width * (2.0 * q_heads + FORMAT_BYTES[kv] * kv_heads)
        return self._over_itself(t, q_heads, width, window, causal, moved)

    def decode_attention(
        self, batch: IntArray, context: IntArray, *, q_heads: int, kv_heads: int, head_dim: int,
        value_dim: int, window: int, kv: str,
    ) -> Cost:  # fmt: skip
        seen = np.asarray(context, np.float64)
        read = np.asarray(batch) * (np.minimum(seen, window) if window else seen)
        width = head_dim + value_dim
        moved = read * kv_heads * width * FORMAT_BYTES[kv] + np.asarray(batch) * q_heads * width * 2.0
        return self._decode(2.0 * read * q_heads * width, moved, batch)

    def mla_prefill(
        self, tokens: IntArray, *, heads: int, head_dim: int, value_dim: int, kv_rank: int, rope_dim: int,
        kv: str,
    ) -> Cost:  # fmt: skip
        """Every head has its own keys and values here; the compressed ones go to the cache."""
        t = np.asarray(tokens, np.float64)
        width = head_dim + value_dim
        moved = t * (4.0 * heads * width + FORMAT_BYTES[kv] * (kv_rank + rope_dim))
        return self._over_itself(t, heads, width, 0, True, moved)

    def mla_decode(
        self, batch: IntArray, context: IntArray, *, heads: int, head_dim: int, value_dim: int, kv_rank: int,
        rope_dim: int, kv: str,
    ) -> Cost:  # fmt: skip
        """All heads read the same compressed keys, whose first ``kv_rank`` numbers are also the values."""
        read = np.asarray(batch) * np.asarray(context, np.float64)
        both = 2 * kv_rank + rope_dim
        moved = read * (kv_rank + rope_dim) * FORMAT_BYTES[kv] + np.asarray(batch) * heads * both * 2.0
        return self._decode(2.0 * read * heads * both, moved, batch)

    def moe(
        self, tokens: IntArray, *, hidden: int, inner: int, experts: int, top_k: int, tp: int, ep: int,
        gated: bool, weight: str, activation: str,
    ) -> Cost:  # fmt: skip
        """The busiest device holds E / ep experts and gets ``pairs`` of the (token, expert) pairs.

        It reads the weights of the experts hit: of E there are E (1 - (1 - k / E)^m) expected for m tokens,
        here E / ep of them with the m' tokens whose mean would be ``pairs``. Each pads its rows to a tile.
        """
        m = np.asarray(tokens, np.float64)
        matrices = (3.0 if gated else 2.0) * hidden * inner / tp
        balanced = m * top_k / ep
        pairs = balanced if self.routing == "balanced" else busiest_pairs(m, top_k, experts, ep)
        hit = experts_hit(pairs * ep / top_k, top_k, experts) / ep
        hit = np.minimum(hit, pairs)
        a = FORMAT_BYTES[activation]
        rows = m * top_k  # of all devices: the engines' element-wise kernels do not skip strangers' rows
        moved = hit * matrices * FORMAT_BYTES[weight] + pairs * (hidden * a + hidden * 2.0)
        moved = moved + rows * (3.0 if gated else 2.0) * inner / tp * 2.0 + rows * hidden * 2.0
        return self._cost(
            2.0 * pairs * matrices, moved, m > 0, _wider(weight, activation),
            computed=2.0 * np.maximum(pairs, hit * ROWS) * matrices,
            share=EXPERTS_SHARE, launch=EXPERTS_LAUNCH_S,
        )  # fmt: skip

    def stream(self, read_bytes: FloatArray) -> Cost:
        return self._cost(0.0, read_bytes, np.asarray(read_bytes) > 0)

    def collective(self, kind: str, payload_bytes: FloatArray, link: Link) -> Cost:
        """Members read and write the payload in their own memory, which draws power, not time."""
        payload = np.asarray(payload_bytes, np.float64)
        seconds = collective_s(kind, payload, link)
        return Cost(
            seconds=seconds,
            flops=np.zeros_like(payload),
            bytes=np.where(seconds > 0, 2.0 * payload, 0.0),
            provenance=np.full(payload.shape, MODELLED, np.int8),
        )

    def _over_itself(
        self, tokens: FloatArray, heads: int, width: int, window: int, causal: bool, moved: FloatArray
    ) -> Cost:
        """Attention of one sequence over itself: as many tiles as heads times rows of tiles run at once."""
        edges = (0.5 if causal else 0.0) + (1.0 if window else 0.0)
        pairs = attended_pairs(tokens, window, causal)
        whole = np.minimum(pairs + edges * TILE * tokens, tokens * tokens)
        filled = np.minimum(1.0, np.maximum(tokens / TILE, 1.0) * heads / self.device.sm_count)
        return self._cost(
            2.0 * pairs * heads * width, moved, tokens > 0, computed=2.0 * whole / filled * heads * width,
            share=PREFILL_SHARE / self._large, launch=ATTENTION_LAUNCH_S,
        )  # fmt: skip

    def _decode(self, flops: ArrayLike, moved: ArrayLike, batch: IntArray) -> Cost:
        share, any_work = DECODE_SHARE / self._large, np.asarray(batch) > 0
        return self._cost(flops, moved, any_work, share=share, launch=ATTENTION_LAUNCH_S)

    @property
    def _large(self) -> float:
        """Share of the bf16 peak that a large product reaches."""
        return self.device.sustained_flops("bf16") / self.device.flops("bf16")

    def _cost(
        self, flops: ArrayLike, moved: ArrayLike, any_work: ArrayLike, form: str = "bf16", *,
        computed: ArrayLike | None = None, share: float = 1.0, launch: float = LAUNCH_S,
    ) -> Cost:  # fmt: skip
        """``computed`` FLOPs take time, padding included; ``flops`` are the useful ones."""
        work, memory, there = np.broadcast_arrays(
            np.asarray(flops, np.float64), np.asarray(moved, np.float64), np.asarray(any_work)
        )
        rate = self.device.sustained_flops(form) * share * self.clock_share
        busy = np.maximum(
            np.asarray(work if computed is None else computed) / rate,
            memory / self.device.sustained_bandwidth,
        )
        return Cost(
            seconds=np.where(there, launch + busy, 0.0),
            flops=np.where(there, work, 0.0),
            bytes=np.where(there, memory, 0.0),
            provenance=np.full(work.shape, MODELLED, np.int8),
        )


def _wider(weight: str, activation: str) -> str:
    return max(activation, weight, key=FORMAT_BYTES.__getitem__)


def _tiles(rows: FloatArray) -> FloatArray:
    return np.asarray(np.ceil(rows / ROWS) * ROWS)


def attended_pairs(tokens: FloatArray, window: int, causal: bool) -> FloatArray:
    """(query, key) pairs of one sequence that attends to itself.

    Examples
    --------
    >>> [float(attended_pairs(np.array(4.0), w, c)) for w, c in ((0, True), (0, False), (2, True))]
    [10.0, 16.0, 7.0]
    """
    if not causal:
        return np.minimum(tokens, window) * tokens if window else tokens * tokens
    full = tokens * (tokens + 1) / 2
    if not window:
        return np.asarray(full)
    beyond = np.maximum(tokens - window, 0.0)
    return np.asarray(full - beyond * (beyond + 1) / 2)


def experts_hit(tokens: FloatArray, top_k: int, experts: int) -> FloatArray:
    """Experts that at least one token picks, expected, when each picks ``top_k`` different ones at random.

    Examples
    --------
    >>> [round(float(x), 2) for x in experts_hit(np.array([0.0, 1.0, 8.0, 1e6]), 2, 8)]
    [0.0, 2.0, 7.2, 8.0]
    """
    missed = -np.expm1(np.log1p(-top_k / experts) * tokens) if top_k < experts else np.minimum(tokens, 1.0)
    return np.asarray(experts * missed)


def busiest_pairs(tokens: FloatArray, top_k: int, experts: int, ep: int) -> FloatArray:
    """(token, expert) pairs on the busiest of ``ep`` devices when tokens pick experts at random.

    Balls in bins: the mean mu = tokens * top_k / ep plus sqrt(2 mu (1 - 1 / ep) ln ep), the usual estimate
    of the greatest of ep loads; no more than every token can send there. Exact for ep = 1.

    Examples
    --------
    >>> [round(float(x)) for x in busiest_pairs(np.array([1e2, 1e6]), 8, 256, 8)]
    [119, 1001908]
    """
    mean = tokens * top_k / ep
    busiest = mean + np.sqrt(2.0 * mean * (1.0 - 1.0 / ep) * np.log(ep))
    return np.asarray(np.minimum(busiest, tokens * min(top_k, experts / ep)))


def at_clock(cost: Cost, device: Device, clock_mhz: int, compute: str = "bf16") -> Cost:
    """Any cost, measured ones too, at a lower clock: compute slows down with it, memory does not.

    t(f) = t max(1, u_comp / max(u_comp, u_mem) * f_max / f) with the shares of the peaks of memory and of
    ``compute`` that the operation uses at full clock: a compute-bound kernel takes f_max / f as long, one
    bound by memory the same time until the slower cores bind. ``clock_mhz`` 0 is the maximum.
    """
    if not clock_mhz or clock_mhz >= device.max_clock_mhz:
        return cost
    u_comp, u_mem = cost.flops / device.flops(compute), cost.bytes / device.bandwidth
    bound = np.divide(u_comp, np.maximum(u_comp, u_mem), out=np.zeros_like(u_comp), where=u_comp > 0)
    return replace(cost, seconds=cost.seconds * np.maximum(1.0, bound * device.max_clock_mhz / clock_mhz))
