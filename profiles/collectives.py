"""Time of a collective from the latency and bandwidth of its links.

Inside one node, with n ranks, b bytes and per-rank bandwidth w::

    all_reduce                 log2(n) latency + 2 (n - 1) / n b / w      reduce-scatter, then all-gather
    all_gather, reduce_scatter log2(n) latency +   (n - 1) / n b / w
    all_to_all                 log2(n) latency +   (n - 1) / n b / w      each keeps its own n-th
    p2p                                latency +               b / w

Over several nodes an all-reduce is hierarchical (reduce-scatter inside, all-reduce of the shards between
nodes over every NIC at once, all-gather inside), so are the others; of an all-to-all the share
(nodes - 1) / nodes crosses the NICs. Links reach ``LINK_SHARE`` of their rated bandwidth.
"""

import numpy as np

from profiles.ops import FloatArray, Link

LINK_SHARE = 0.80
"""Achieved share of the rated bandwidth: NCCL all-reduce of 128 MB takes 597 us on 8 H100, 87 % of 450 GB/s,
73 % on 4 and 64 % on 2 (APEX+ profiles); 0.80 lies between the first two."""


def collective_s(kind: str, payload_bytes: FloatArray, link: Link) -> FloatArray:
    """Seconds, see the module. Non-decreasing in bytes; 0 for one rank or nothing to send.

    Examples
    --------
    >>> nvlink = Link(ranks=8, nodes=1, intra_bandwidth=450e9, inter_bandwidth=50e9,
    ...               intra_latency_s=5e-6, inter_latency_s=15e-6)
    >>> round(float(collective_s("all_reduce", np.array([134e6]), nvlink)[0]) * 1e6)  # measured: 597
    666

    Raises
    ------
    ValueError
        When the kind is unknown.
    """
    payload = np.asarray(payload_bytes, dtype=np.float64)
    if link.ranks == 1 and kind != "p2p":
        return np.zeros_like(payload)
    intra, inter = link.intra_bandwidth * LINK_SHARE, link.inter_bandwidth * LINK_SHARE
    if kind == "p2p":
        crosses = link.nodes > 1
        latency = link.inter_latency_s if crosses else link.intra_latency_s
        seconds = latency + payload / (inter if crosses else intra)
        return np.where(payload > 0, seconds, 0.0)
    inside = -(-link.ranks // link.nodes)
    turns = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "all_to_all": 1.0}
    if kind not in turns:
        raise ValueError(f"Unknown collective {kind!r}.")
    latency = link.intra_latency_s * max(1.0, np.log2(inside)) if inside > 1 else 0.0
    if link.nodes > 1:
        latency += link.inter_latency_s * np.log2(link.nodes) * turns[kind]
    if kind == "all_to_all":
        away = (link.nodes - 1) / link.nodes
        near = (inside - 1) / link.ranks
        seconds = payload * (near / intra + away / inter)
    else:
        seconds = turns[kind] * payload * (inside - 1) / inside / intra
        seconds += turns[kind] * payload / inside * (link.nodes - 1) / link.nodes / inter
    return np.where(payload > 0, latency + seconds, 0.0)
