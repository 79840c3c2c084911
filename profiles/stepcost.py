"""StepCost: a plan compiled against a profile into monotone integer tables.

The time of one iteration of one model replica follows from them in O(1) plus the prefill chunks::

    stage_ps(p) = max over ranks r [ local_ps[p, n_r] + decode(p, B_r, S_r) + prefill(p, chunks_r)
                                     + mixed(p, B_r, S_r, n_r - B_r) ]
                  + shared_ps[p, sum_r n_r] + (head_ps[m] if p is the last stage)

with n_r the new tokens of attention rank r (decodes and prefill chunks), B_r its decode sequences,
S_r the KV tokens that they read (prompt + generated so far, the new token included), m the sequences
of all ranks that are in the batch. Between stage p and p + 1 pass ``send_ps[p, sum_r n_r]``.

    decode(p, 0, 0) = 0
    decode(p, B, S) = decode_value_ps[p, B, j] + decode_slope_ps[p, B, j] * (S - B * knots[j]),
                      j the last knot with B * knots[j] <= S   (knots[0] = 0)
    prefill(p, [])  = 0
    prefill(p, chunks) = prefill_launch_ps[p] + sum over (c, x) of max(G[c], G[x + c] - G[x]),
                      G = prefill_ps[p], c new tokens after x tokens already in the cache
    mixed(p, B, S, c) = mixed_value_ps[p, B, j] + mixed_slope_ps[p, B, j] * (S - B * knots[j])
                      + mixed_token_ps[p, B] * c where B and c are both above 0, else 0: what one kernel for
                      prompts and decodes takes more than one for each

All are integers, so that a stretch of iterations can be summed in closed form and equals stepping bit
for bit. Every table is non-decreasing along tokens and decode along S (slopes >= 0, values join without
a jump). Energy tables have the same shapes: nanojoules above idle power, of the devices that take part:
those of one attention rank for local, decode and prefill (to be summed over ranks), all of a stage for
shared and head, both stages for send. So ``energy = idle_w * time + sum of the tables``.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

PROVENANCE = ("measured", "interpolated", "extrapolated", "modelled")
"""Where a time comes from, best first; index into every provenance array."""

PS = 1_000_000_000_000
"""Picoseconds in a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionWork:
    """Self-attention of all layers with one window, for MFU and MBU.

    ``window`` tokens at most are seen, 0 for all. ``flops_per_pair`` per new token and token that it sees;
    ``kv_bytes_per_token`` per token that a decode sees, read by all devices that hold it together.
    """

    window: int
    flops_per_pair: float
    kv_bytes_per_token: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedExperts:
    """Experts of all layers that have ``experts`` of them, ``top_k`` for each token; for MBU.

    ``bytes_each``: weights of one expert of every such layer, in one feed-forward group. Each of the
    groups has all experts and an equal part of the tokens.
    """

    experts: int
    top_k: int
    bytes_each: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepCost:
    """See the module. P stages, N most tokens of one rank, T = ranks * N, M most sequences of the
    replica (ranks * max_seqs), B = max_seqs, K knots, L longest sequence."""

    stages: int
    ranks: int
    max_seqs: int
    knots: IntArray  # [K] mean context per sequence, increasing from 0
    local_ps: IntArray  # [P, N + 1]
    shared_ps: IntArray  # [P, T + 1]
    head_ps: IntArray  # [M + 1]
    send_ps: IntArray  # [P - 1, T + 1]
    decode_value_ps: IntArray  # [P, B + 1, K]
    decode_slope_ps: IntArray  # [P, B + 1, K], per KV token
    prefill_launch_ps: IntArray  # [P]
    prefill_ps: IntArray  # [P, L + 1]

    idle_w: float  # of all devices of the replica
    local_nj: IntArray
    shared_nj: IntArray
    head_nj: IntArray
    send_nj: IntArray
    decode_value_nj: IntArray
    decode_slope_nj: IntArray
    prefill_launch_nj: IntArray
    prefill_nj: IntArray

    kv_blocks: int  # of one attention rank, shared by its stages' micro-batches
    swap_block_ps: int  # to move one block between device and host
    mixed_value_ps: IntArray | None = None  # [P, B + 1, K], None as those below: nothing
    mixed_slope_ps: IntArray | None = None  # [P, B + 1, K], per KV token
    mixed_token_ps: IntArray | None = None  # [P, B + 1], per prompt token
    chunkable: bool = True  # False where a prompt must be processed whole (bidirectional encoders)

    # For reports: parts of the tables above by name, summed over stages, they add up to them; and the share
    # of the time of each table entry by provenance, [4, ...].
    local_parts: dict[str, IntArray] = field(default_factory=dict)
    shared_parts: dict[str, IntArray] = field(default_factory=dict)
    head_parts: dict[str, IntArray] = field(default_factory=dict)
    local_provenance: NDArray[np.float64] | None = None  # [4, N + 1]
    shared_provenance: NDArray[np.float64] | None = None  # [4, T + 1]
    head_provenance: NDArray[np.float64] | None = None  # [4, M + 1]
    decode_provenance: NDArray[np.float64] | None = None  # [4, B + 1]
    prefill_provenance: NDArray[np.float64] | None = None  # [4]

    # For MFU and MBU, of the whole replica.
    flops_per_token: float = 0.0  # dense part of a forward pass, attention left out
    attention: tuple[AttentionWork, ...] = ()
    weight_bytes: float = 0.0  # read by every iteration
    experts: tuple[RoutedExperts, ...] = ()  # read where tokens go
    ffn_groups: int = 1
    peak_flops: float = 0.0  # of all devices of the replica, at the compute format
    peak_bandwidth: float = 0.0

    @property
    def max_tokens(self) -> int:
        """N: most new tokens of one rank in one iteration that the tables cover."""
        return int(self.local_ps.shape[1]) - 1

    @property
    def max_length(self) -> int:
        """L: longest sequence, prompt and output together, that the tables cover."""
        return int(self.prefill_ps.shape[1]) - 1
