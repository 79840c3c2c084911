"""A device, its power and its operations, simple enough to be worked out by hand."""

from dataclasses import dataclass

import numpy as np

from profiles.ops import MODELLED, Cost, Link
from profiles.plan import FORMAT_BYTES

LAUNCH_S = 1e-6


@dataclass(frozen=True)
class FakeDevice:
    memory_bytes: float = 80e9
    bandwidth: float = 2e12
    rate: float = 4e14
    host_bandwidth: float = 5e10

    def flops(self, form: str) -> float:
        return self.rate * 2 / FORMAT_BYTES[form]


@dataclass(frozen=True)
class FakePower:
    idle_w: float = 100.0
    cap_w: float = 700.0

    def watts(self, u_mem, u_comp, clock_mhz):
        return self.idle_w + (self.cap_w - self.idle_w) * np.maximum(u_mem, u_comp)


class FakeOperations:
    """A plain roofline with a constant launch."""

    def __init__(self, device: FakeDevice) -> None:
        self.device = device

    def _cost(self, flops, moved, form="bf16"):
        flops, moved = np.broadcast_arrays(np.asarray(flops, float), np.asarray(moved, float))
        busy = np.maximum(flops / self.device.flops(form), moved / self.device.bandwidth)
        grade = np.full(flops.shape, MODELLED, dtype=np.int8)
        return Cost(seconds=busy + LAUNCH_S, flops=flops, bytes=moved, provenance=grade)

    def gemm(self, m, *, n, k, weight, activation):
        w, a = FORMAT_BYTES[weight], FORMAT_BYTES[activation]
        form = max(weight, activation, key=FORMAT_BYTES.__getitem__)
        return self._cost(2.0 * m * n * k, n * k * w + m * (k * a + n * 2), form)

    def prefill_attention(self, tokens, *, q_heads, kv_heads, head_dim, value_dim, window, causal, kv):
        seen = np.minimum(tokens, window) if window else tokens
        pairs = tokens * seen * (0.5 if causal else 1.0)
        moved = tokens * 2.0 * (q_heads + kv_heads) * (head_dim + value_dim)
        return self._cost(2.0 * pairs * q_heads * (head_dim + value_dim), moved)

    def decode_attention(self, batch, context, *, q_heads, kv_heads, head_dim, value_dim, window, kv):
        seen = batch * (np.minimum(context, window) if window else context)
        width = head_dim + value_dim
        return self._cost(2.0 * seen * q_heads * width, seen * kv_heads * width * FORMAT_BYTES[kv])

    def mixed_attention(self, batch, context, **heads):
        nothing = np.zeros(np.broadcast_shapes(np.shape(batch), np.shape(context)))
        return nothing, nothing

    knows_mixing = False

    def mla_prefill(self, tokens, *, heads, head_dim, value_dim, kv_rank, rope_dim, kv):
        moved = tokens * 2.0 * 2 * heads * (head_dim + value_dim)
        return self._cost(1.0 * tokens * tokens * heads * (head_dim + value_dim), moved)

    def mla_decode(self, batch, context, *, heads, head_dim, value_dim, kv_rank, rope_dim, kv):
        seen = batch * context
        moved = seen * (kv_rank + rope_dim) * FORMAT_BYTES[kv]
        return self._cost(2.0 * seen * heads * (2 * kv_rank + rope_dim), moved)

    def moe(self, tokens, *, hidden, inner, experts, top_k, tp, ep, gated, weight, activation):
        matrices = (3 if gated else 2) * hidden * inner / tp
        hit = experts * (1 - (1 - top_k / experts) ** tokens) / ep
        return self._cost(2.0 * tokens * top_k / ep * matrices, hit * matrices * FORMAT_BYTES[weight])

    def stream(self, read_bytes):
        return self._cost(0.0, read_bytes)

    def collective(self, kind, payload_bytes, link: Link):
        share = (link.ranks - 1) / link.ranks
        turns = {"all_reduce": 2 * share, "p2p": 1.0}.get(kind, share)
        bandwidth = link.intra_bandwidth if link.nodes == 1 else link.inter_bandwidth
        payload = np.asarray(payload_bytes, float)
        cost = self._cost(0.0, payload)
        return Cost(
            seconds=turns * payload / bandwidth + link.intra_latency_s,
            flops=cost.flops,
            bytes=cost.bytes,
            provenance=cost.provenance,
        )


def link(ranks: int, nodes: int = 1) -> Link:
    return Link(
        ranks=ranks,
        nodes=nodes,
        intra_bandwidth=4e11,
        inter_bandwidth=5e10,
        intra_latency_s=5e-6,
        inter_latency_s=2e-5,
    )
