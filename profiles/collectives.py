"""Time of a collective from latency and bandwidth of its links (alpha-beta, with the ramp NCCL shows).

One node, n ranks, b bytes, w = SHARE * bandwidth of one rank::

    kind                        steps      bytes on the wire of one rank
    all_reduce                  2 (n - 1)  2 (n - 1) / n b
    all_gather, reduce_scatter    n - 1      (n - 1) / n b
    all_to_all                    n - 1      (n - 1) / n b      everyone keeps its own n-th
    p2p                             1                    b
    seconds = LAUNCH + steps * latency + RAMP (1 - exp(-b / RAMP_BYTES)) + wire bytes / w

An all-reduce of at most ``DIRECT_BYTES`` among at most 8 ranks whose link is faster than PCIe takes the
engine's own kernel where that is quicker: every rank reads its peers' memory, one step whatever n.

Several nodes with g ranks each: hierarchical. All-reduce is a reduce-scatter inside, an all-reduce of the
g-th part between nodes over all network adapters at once (a tree: 2 log2(nodes) steps), an all-gather
inside; all-gather and reduce-scatter likewise with log2(nodes) steps; of an all-to-all the part
(nodes - 1) / nodes crosses adapters while the rest moves inside, the slower of the two counts.

On H100 the model is within a factor of 1.5 of both public profiles (APEX+; NCCL in aiconfigurator-core), from
nothing to 512 MB. In microseconds, as APEX+ measured: all-reduce of nothing 14, 10, 8 on 8, 4, 2 ranks; of
1 MB 34, 20, 25; of 128 MB 597, 611, 465. A100 and B200 take up to 1.5 times as long for small messages.
No network was measured here: see ``NETWORK_SHARE`` and ``profiles.fleet``.
"""

import numpy as np

from profiles.ops import FloatArray, Link

LAUNCH_S = 5e-6
"""Of an NCCL kernel: SendRecv of nothing takes 6 us with one step of 0.8."""

RAMP_S, RAMP_BYTES = 8e-6, 0.5e6
"""What leaving the low-latency protocol costs, and the size around which NCCL leaves it: all-reduce and
all-gather of 2 MB on H100 are 5 to 14 us above latency plus bandwidth."""

SHARE = 0.70
"""Of a link's bandwidth that large messages reach: 0.57 to 0.75 all-gather and all-to-all, 0.64 to 0.87
all-reduce on 2 to 8 H100 with NVLink 4; 0.70 of 55 GB/s between two boards on PCIe 5."""

NETWORK_SHARE = 0.80
"""Of a network adapter's bandwidth. Assumed: headers and rail imbalance; published bus bandwidths of NCCL
over 400 Gb/s adapters range from 0.75 to 0.95."""

DIRECT_LAUNCH_S, DIRECT_BYTES, DIRECT_RANKS = 4.5e-6, 8 * 2**20, 8
"""Custom all-reduce in a CUDA graph: 4.3, 4.6, 4.7 us on 2, 4, 8 H100, 4.9 to 5.7 on A100
(aiconfigurator-core); vLLM uses it up to 8 MiB and 8 ranks."""

PCIE_BANDWIDTH = 64e9
"""Of PCIe 5.0 x16; what is faster is a scale-up fabric."""

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "p2p")


def collective_s(kind: str, payload_bytes: FloatArray, link: Link) -> FloatArray:
    """Seconds, see the module. Non-decreasing in bytes; 0 for one rank or nothing to send.

    ``payload_bytes`` as in ``Operations.collective``.

    Examples
    --------
    >>> nvlink = Link(ranks=8, nodes=1, intra_bandwidth=450e9, inter_bandwidth=50e9,
    ...               intra_latency_s=0.8e-6, inter_latency_s=5e-6)
    >>> round(float(collective_s("all_reduce", np.array([134.2e6]), nvlink)[0]) * 1e6)  # measured: 597
    770

    Raises
    ------
    ValueError
        When the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"Unknown collective {kind!r}, known: {', '.join(KINDS)}.")
    payload = np.asarray(payload_bytes, dtype=np.float64)
    if link.ranks == 1:
        return np.zeros_like(payload)
    seconds = nccl_s(kind, payload, link)
    if kind == "all_reduce" and link.custom_all_reduce and link.nodes == 1 and link.ranks <= DIRECT_RANKS:
        direct = DIRECT_LAUNCH_S + _wire(2.0, payload, link.ranks) / (SHARE * link.intra_bandwidth)
        if link.intra_bandwidth > PCIE_BANDWIDTH:
            seconds = np.where(payload <= DIRECT_BYTES, np.minimum(direct, seconds), seconds)
    return np.where(payload > 0, seconds, 0.0)


def nccl_s(kind: str, payload: FloatArray, link: Link) -> FloatArray:
    """Seconds of the library's collective among at least two ranks, latency included for no bytes."""
    intra, inter = SHARE * link.intra_bandwidth, NETWORK_SHARE * link.inter_bandwidth
    seconds = LAUNCH_S + RAMP_S * -np.expm1(-payload / RAMP_BYTES)
    if kind == "p2p":
        if link.nodes > 1:
            return np.asarray(seconds + link.inter_latency_s + payload / inter)
        return np.asarray(seconds + link.intra_latency_s + payload / intra)
    inside = -(-link.ranks // link.nodes)
    turns = 2.0 if kind == "all_reduce" else 1.0
    seconds = seconds + turns * (inside - 1) * link.intra_latency_s
    seconds = seconds + turns * np.ceil(np.log2(link.nodes)) * link.inter_latency_s
    if kind == "all_to_all":
        away = payload * (link.nodes - 1) / link.nodes
        near = payload * (inside - 1) / link.ranks
        return np.asarray(seconds + np.maximum(near / intra, away / inter))
    between = _wire(turns, payload / inside, link.nodes)
    return np.asarray(seconds + _wire(turns, payload, inside) / intra + between / inter)


def _wire(turns: float, payload: FloatArray, ranks: int) -> FloatArray:
    """Bytes that one rank sends in ``turns`` rings."""
    return np.asarray(turns * payload * (ranks - 1) / ranks)
