"""Operation times from a roofline with stated efficiencies: the model where nothing was measured.

    seconds = launch + max(flops / (compute share * peak), bytes / (memory share * bandwidth))

``launch`` is what a kernel in a CUDA graph costs at least; the shares are achieved over peak rates.
"""

import numpy as np
from numpy.typing import ArrayLike

from profiles.collectives import collective_s
from profiles.device import Device
from profiles.ops import MODELLED, Cost, FloatArray, IntArray, Link
from profiles.plan import FORMAT_BYTES

LAUNCH_S = 3e-6
"""Least time of a kernel. aiconfigurator-core's system files add the same 3 us to memory-bound kernels."""

MEMORY_SHARE = 0.83
"""Achieved share of memory bandwidth: decoding Llama-3.1-70B near batch 1 on H100 streams its weights at
2.78 of 3.35 TB/s (slope of inter-token latency over 1/TP, vLLM 0.6 runs published with APEX+)."""

PREFILL_ATTENTION_SHARE = 0.55
"""Of the peak, causal FlashAttention-2/3 forward: 50 to 60 % on A100 and H100 (FlashAttention-3, table 1)."""

ROWS = 16
"""Rows of a matrix product are computed in tiles of at least this many (one tensor-core instruction)."""


class Roofline:
    """``Operations`` of one device, all MODELLED. Non-decreasing in every load."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def _cost(
        self, flops: ArrayLike, moved: ArrayLike, *, form: str = "bf16", share: float | None = None
    ) -> Cost:
        work, memory = np.broadcast_arrays(np.asarray(flops, np.float64), np.asarray(moved, np.float64))
        rate = (self.device.sustained_flops(form) if share is None else share * self.device.flops(form))
        busy = np.maximum(work / rate, memory / (self.device.bandwidth * MEMORY_SHARE))
        return Cost(
            seconds=np.where(busy > 0, busy + LAUNCH_S, 0.0),
            flops=work,
            bytes=memory,
            provenance=np.full(work.shape, MODELLED, np.int8),
        )

    def gemm(self, m: IntArray, *, n: int, k: int, weight: str, activation: str) -> Cost:
        """Weights are widened to the activations' format on the fly when they are narrower."""
        rows = -(-np.asarray(m) // ROWS) * ROWS
        w, a = FORMAT_BYTES[weight], FORMAT_BYTES[activation]
        moved = np.where(np.asarray(m) > 0, n * k * w, 0.0) + np.asarray(m) * (k * a + n * 2.0)
        form = max(weight, activation, key=FORMAT_BYTES.__getitem__)
        return self._cost(2.0 * rows * n * k, moved, form=form)

    def prefill_attention(
        self, tokens: IntArray, *, q_heads: int, kv_heads: int, head_dim: int, value_dim: int,
        window: int, causal: bool, kv: str,
    ) -> Cost:  # fmt: skip
        """Causal attention computes half of the pairs; a window bounds each row."""
        t = np.asarray(tokens, np.float64)
        pairs = attended_pairs(t, window, causal)
        moved = t * (
            2.0 * q_heads * (head_dim + value_dim) + FORMAT_BYTES[kv] * kv_heads * (head_dim + value_dim)
        )
        return self._cost(
            2.0 * pairs * q_heads * (head_dim + value_dim), moved, share=PREFILL_ATTENTION_SHARE
        )

    def decode_attention(
        self, batch: IntArray, context: IntArray, *, q_heads: int, kv_heads: int, head_dim: int,
        value_dim: int, window: int, kv: str,
    ) -> Cost:  # fmt: skip
        seen = np.asarray(context, np.float64)
        if window:
            seen = np.minimum(seen, window)
        read = np.asarray(batch) * seen
        width = head_dim + value_dim
        moved = read * kv_heads * width * FORMAT_BYTES[kv] + np.asarray(batch) * q_heads * width * 2.0
        return self._cost(2.0 * read * q_heads * width, moved, share=PREFILL_ATTENTION_SHARE)

    def mla_prefill(
        self,
        tokens: IntArray,
        *,
        heads: int,
        head_dim: int,
        value_dim: int,
        kv_rank: int,
        rope_dim: int,
        kv: str,
    ) -> Cost:
        t = np.asarray(tokens, np.float64)
        moved = t * (4.0 * heads * (head_dim + value_dim) + FORMAT_BYTES[kv] * (kv_rank + rope_dim))
        flops = 2.0 * attended_pairs(t, 0, True) * heads * (head_dim + value_dim)
        return self._cost(flops, moved, share=PREFILL_ATTENTION_SHARE)

    def mla_decode(
        self, batch: IntArray, context: IntArray, *, heads: int, head_dim: int, value_dim: int, kv_rank: int,
        rope_dim: int, kv: str,
    ) -> Cost:  # fmt: skip
        read = np.asarray(batch) * np.asarray(context, np.float64)
        moved = read * (kv_rank + rope_dim) * FORMAT_BYTES[kv]
        moved = moved + np.asarray(batch) * heads * (2 * kv_rank + rope_dim) * 2.0
        return self._cost(2.0 * read * heads * (2 * kv_rank + rope_dim), moved, share=PREFILL_ATTENTION_SHARE)

    def moe(
        self, tokens: IntArray, *, hidden: int, inner: int, experts: int, top_k: int, tp: int, ep: int,
        gated: bool, weight: str, activation: str,
    ) -> Cost:  # fmt: skip
        """Experts hit: E (1 - (1 - k/E)^m) of them read their weights, spread evenly over ``ep`` devices.
        The busiest device has ``busiest_pairs`` of the (token, expert) pairs."""
        m = np.asarray(tokens, np.float64)
        matrices = (3.0 if gated else 2.0) * hidden * inner / tp
        hit = np.minimum(experts * (1.0 - (1.0 - top_k / experts) ** m) / ep, experts / ep)
        hit = np.where(m > 0, np.maximum(hit, np.minimum(top_k, experts / ep)), 0.0)
        pairs = busiest_pairs(m, top_k, experts, ep)
        a = FORMAT_BYTES[activation]
        moved = hit * matrices * FORMAT_BYTES[weight] + pairs * (hidden * (a + 2.0) + 2.0 * inner / tp * 2.0)
        rows = np.maximum(pairs, hit * ROWS * (m > 0))  # each expert pads its rows to a tile
        form = max(weight, activation, key=FORMAT_BYTES.__getitem__)
        return self._cost(2.0 * rows * matrices, moved, form=form)

    def stream(self, read_bytes: FloatArray) -> Cost:
        return self._cost(0.0, read_bytes)

    def collective(self, kind: str, payload_bytes: FloatArray, link: Link) -> Cost:
        """Members also read and write the payload in their own memory, which draws power, not time."""
        payload = np.asarray(payload_bytes, np.float64)
        seconds = collective_s(kind, payload, link)
        return Cost(
            seconds=seconds,
            flops=np.zeros_like(payload),
            bytes=np.where(seconds > 0, 2.0 * payload, 0.0),
            provenance=np.full(payload.shape, MODELLED, np.int8),
        )


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
        return full
    beyond = np.maximum(tokens - window, 0.0)
    return np.asarray(full - beyond * (beyond + 1) / 2)


def busiest_pairs(tokens: FloatArray, top_k: int, experts: int, ep: int) -> FloatArray:
    """(token, expert) pairs on the busiest of ``ep`` devices when routing is uniform at random.

    Mean mu = tokens * top_k / ep plus sqrt(2 mu ln ep): the usual estimate of the maximum load of balls in
    ep bins. At most every token sends min(top_k, experts / ep) there. ep = 1 is exact.
    """
    mean = tokens * top_k / ep
    busiest = mean + np.sqrt(2.0 * mean * np.log(ep))
    return np.asarray(np.minimum(busiest, tokens * min(top_k, experts / ep)))


def at_clock(cost: Cost, device: Device, clock_mhz: int) -> Cost:
    """The same operation at a lower clock: compute slows down with it, memory does not.

    t(f) = t * max(1, u_comp / max(u_comp, u_mem) * f_max / f), with the shares of the peak rates that the
    operation reaches at full clock (bf16 peak). So a compute-bound kernel takes f_max / f as long and a
    memory-bound one the same time until the slower cores become what binds. 0 is the maximum clock.
    """
    if not clock_mhz or clock_mhz >= device.max_clock_mhz:
        return cost
    compute = cost.flops / device.flops("bf16")
    memory = cost.bytes / device.bandwidth
    bound = np.divide(compute, np.maximum(compute, memory), out=np.zeros_like(compute), where=compute > 0)
    factor = np.maximum(1.0, bound * device.max_clock_mhz / clock_mhz)
    return Cost(seconds=cost.seconds * factor, flops=cost.flops, bytes=cost.bytes, provenance=cost.provenance)
