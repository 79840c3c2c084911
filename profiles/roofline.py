"""Operation times from a roofline with distilled efficiencies: the model where nothing was measured.

Counts what an operation does (``profiles.efficiency.Work``) on ideal hardware; the laws of
``profiles.efficiency`` say what of the peaks the kernels of this device reach, or of its nearest kin.
Everything is MODELLED, non-decreasing in its loads and never faster than the peaks.
``docs/efficiency.md`` says how far it is from the measured tables.
"""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from profiles.collectives import collective_s, nccl_s
from profiles.device import Device
from profiles.efficiency import Efficiency, Work, efficiency_of
from profiles.ops import MODELLED, Cost, FloatArray, IntArray, Link
from profiles.plan import FORMAT_BYTES

STREAM_LAUNCH_S = 3e-6
"""Least time of a kernel in a CUDA graph: products of up to 16 rows and 1M weights take 2.5 to 3.2 us on
H100, H200, B200, L40S (aiconfigurator-core, vLLM 0.24 and TensorRT-LLM 1.3)."""

TILE = 128
"""Rows and columns of an output tile, queries of an attention tile: the unit of work of one processor."""


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
    [49, 1360]
    """

    def __init__(
        self, device: Device, clock_mhz: int = 0, routing: Literal["random", "balanced"] = "random"
    ) -> None:
        if not 0 <= clock_mhz <= device.max_clock_mhz:
            raise ValueError(f"clock_mhz must be 0 to {device.max_clock_mhz}.")
        self.device, self.routing = device, routing
        self.clock_share = clock_mhz / device.max_clock_mhz if clock_mhz else 1.0
        self.efficiency: Efficiency = efficiency_of(device)

    @property
    def words(self) -> str:
        """The source of these costs, for people."""
        return self.efficiency.words

    def gemm(self, m: IntArray, *, n: int, k: int, weight: str, activation: str) -> Cost:
        """Weights are widened on the fly to the format that computes, the wider of the two.

        Activations of 8 bits are first read in bf16 and written.
        """
        rows, form = np.asarray(m, np.float64), _wider(weight, activation)
        w, a = FORMAT_BYTES[weight], FORMAT_BYTES[activation]
        narrow = a < 2.0
        work = Work(
            form=form,
            flops=2.0 * rows * n * k,
            moved=n * k * w + rows * (k * a + n * 2.0),
            idle_flops=2.0 * k * TILE * TILE * self.device.sm_count,
            steps=k,
            rows=rows if narrow else 0.0,
            streamed=rows * k * (2.0 + a) if narrow else 0.0,
        )
        return self._cost("gemm", form, work, rows > 0)

    def prefill_attention(
        self, tokens: IntArray, *, q_heads: int, kv_heads: int, head_dim: int, value_dim: int,
        window: int, causal: bool, kv: str,
    ) -> Cost:  # fmt: skip
        """KV in 8 bits is written narrow and multiplied in bf16."""
        t = np.asarray(tokens, np.float64)
        width = head_dim + value_dim
        moved = t * width * (2.0 * q_heads + FORMAT_BYTES[kv] * kv_heads)
        operation, form = ("prefill", kv) if causal else ("encoder", "bf16")
        return self._over_itself(operation, form, t, q_heads, width, window, causal, moved)

    def decode_attention(
        self, batch: IntArray, context: IntArray, *, q_heads: int, kv_heads: int, head_dim: int,
        value_dim: int, window: int, kv: str,
    ) -> Cost:  # fmt: skip
        seen = np.asarray(context, np.float64)
        seen = np.minimum(seen, window) if window else seen
        read, width = np.asarray(batch) * seen, head_dim + value_dim
        moved = read * kv_heads * width * FORMAT_BYTES[kv] + np.asarray(batch) * q_heads * width * 2.0
        work = Work(
            flops=2.0 * read * q_heads * width,
            moved=moved,
            idle_flops=2.0 * seen * q_heads * width * self.device.sm_count,
            # No padding: rows added to a KV head grow as its bytes do, and a fit cannot tell one from the other.
            # Kernels that pack the query heads of a KV head also cut long contexts in parts; others walk.
            steps=seen * (kv_heads / q_heads) ** 2,
            rows=np.asarray(batch) * kv_heads,
        )
        return self._cost("decode", kv, work, np.asarray(batch) > 0)

    def mixed_attention(
        self, batch: IntArray, context: IntArray, **heads: Any
    ) -> tuple[FloatArray, FloatArray]:
        nothing = np.zeros(np.broadcast_shapes(np.shape(batch), np.shape(context)))
        return nothing, nothing

    knows_mixing = False

    def mla_prefill(
        self, tokens: IntArray, *, heads: int, head_dim: int, value_dim: int, kv_rank: int, rope_dim: int,
        kv: str,
    ) -> Cost:  # fmt: skip
        """Every head has its own keys and values here; the compressed ones go to the cache."""
        t = np.asarray(tokens, np.float64)
        width = head_dim + value_dim
        moved = t * (4.0 * heads * width + FORMAT_BYTES[kv] * (kv_rank + rope_dim))
        return self._over_itself("mla_prefill", kv, t, heads, width, 0, True, moved)

    def mla_decode(
        self, batch: IntArray, context: IntArray, *, heads: int, head_dim: int, value_dim: int, kv_rank: int,
        rope_dim: int, kv: str,
    ) -> Cost:  # fmt: skip
        """All heads read the same compressed keys, whose first ``kv_rank`` numbers are also the values."""
        seen = np.asarray(context, np.float64)
        read, both = np.asarray(batch) * seen, 2 * kv_rank + rope_dim
        moved = read * (kv_rank + rope_dim) * FORMAT_BYTES[kv] + np.asarray(batch) * heads * both * 2.0
        work = Work(
            flops=2.0 * read * heads * both,
            moved=moved,
            idle_flops=2.0 * seen * heads * both * self.device.sm_count,
            pad_flops=2.0 * read * both,
            steps=seen,
            rows=batch,
        )
        return self._cost("mla_decode", kv, work, np.asarray(batch) > 0)

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
        a = FORMAT_BYTES[activation]
        rows = m * top_k  # of all devices: the engines' element-wise kernels do not skip strangers' rows
        work = Work(
            form=_wider(weight, activation),
            flops=2.0 * pairs * matrices,
            moved=hit * matrices * FORMAT_BYTES[weight] + pairs * hidden * (a + 2.0),
            idle_flops=2.0 * hidden * TILE * TILE * self.device.sm_count,
            pad_flops=2.0 * hit * matrices,
            steps=experts / ep,
            streamed=rows * ((3.0 if gated else 2.0) * inner / tp + hidden) * 2.0,
        )
        return self._cost("moe", _kernel(weight, work.form), work, m > 0)

    def stream(self, read_bytes: FloatArray) -> Cost:
        moved = np.asarray(read_bytes, np.float64)
        seconds = STREAM_LAUNCH_S + moved / self.device.sustained_bandwidth
        return Cost(
            seconds=np.where(moved > 0, seconds, 0.0),
            flops=np.zeros_like(moved),
            bytes=np.where(moved > 0, moved, 0.0),
            provenance=np.full(moved.shape, MODELLED, np.int8),
        )

    def collective(self, kind: str, payload_bytes: FloatArray, link: Link) -> Cost:
        """Members read and write the payload in their own memory, which draws power, not time.

        Inside a node by the device's law, else by ``profiles.collectives``, which also tells what several
        nodes take beyond one.
        """
        payload = np.asarray(payload_bytes, np.float64)
        inside = -(-link.ranks // link.nodes)
        law = self.efficiency.collectives.get(kind)
        if law is None or inside == 1 or (kind == "all_to_all" and link.nodes > 1):
            seconds = collective_s(kind, payload, link)
        else:
            wire = (2.0 if kind == "all_reduce" else 1.0) * payload * (inside - 1) / inside
            seconds = law.seconds(inside, payload, wire, link.intra_bandwidth)
            if link.nodes > 1:
                one_node = replace(link, ranks=inside, nodes=1)
                seconds = seconds + nccl_s(kind, payload, link) - nccl_s(kind, payload, one_node)
            elif kind == "all_reduce" and not link.custom_all_reduce:  # the law is of the faster of both
                seconds = np.maximum(seconds, nccl_s(kind, payload, link))
            seconds = np.where(payload > 0, seconds, 0.0)
        return Cost(
            seconds=seconds,
            flops=np.zeros_like(payload),
            bytes=np.where(seconds > 0, 2.0 * payload, 0.0),
            provenance=np.full(payload.shape, MODELLED, np.int8),
        )

    def _over_itself(
        self, operation: str, form: str, tokens: FloatArray, heads: int, width: int, window: int,
        causal: bool, moved: FloatArray,
    ) -> Cost:  # fmt: skip
        """Attention of one sequence over itself: as many tiles as heads times rows of tiles run at once."""
        pairs = attended_pairs(tokens, window, causal)
        seen = np.minimum(tokens, window) if window else tokens
        work = Work(
            flops=2.0 * pairs * heads * width,
            moved=moved,
            idle_flops=2.0 * seen * TILE * width * self.device.sm_count,
            pad_flops=2.0 * pairs * heads * TILE,
            steps=seen,
        )
        return self._cost(operation, form, work, tokens > 0)

    def _cost(self, operation: str, form: str, work: Work, there: NDArray[np.bool_]) -> Cost:
        """Of useful work by the law of an operation and format; nothing where there is none."""
        law = self.efficiency.law(operation, form)
        peak = self.device.flops(work.form) * self.clock_share
        seconds = law.seconds(work, peak, self.device.bandwidth)
        seconds, flops, moved, there = np.broadcast_arrays(
            seconds, work.flops, work.moved + work.streamed, there
        )
        return Cost(
            seconds=np.where(there, seconds, 0.0),
            flops=np.where(there, flops, 0.0),
            bytes=np.where(there, moved, 0.0),
            provenance=np.full(seconds.shape, MODELLED, np.int8),
        )


def _kernel(weight: str, form: str) -> str:
    """Format under which the kernels of experts were measured: four bits widened to bf16 are one kind."""
    return "int4" if FORMAT_BYTES[weight] == 0.5 and form == "bf16" else form


def _wider(weight: str, activation: str) -> str:
    return max(activation, weight, key=FORMAT_BYTES.__getitem__)


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
