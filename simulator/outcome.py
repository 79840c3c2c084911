"""What happened: per-request records and per-replica totals of one simulation."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiles.stepcost import PS

IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """Records of one simulation. Times are picoseconds since the start of the trace.

    Per request (-1 where it was rejected): ``scheduled_ps`` when its first chunk started,
    ``first_token_ps``, ``finish_ps``, ``preemptions``, ``replica``. ``rejected`` maps the index of a
    request to the reason why it is never served.

    Per replica: ``busy_ps`` with at least one batch in flight, ``stage_busy_ps`` summed over stages,
    ``iterations``, ``iterations_by_tokens`` (``[n]``: those with n new tokens, ranks together; they add up to
    ``iterations``), ``decode_tokens``, ``prefill_tokens`` (recomputed ones included), ``kv_read_tokens``
    (cached tokens read by decodes), ``energy_nj`` above idle, ``peak_blocks``.

    ``gaps`` counts inter-token gaps by ``simulator.kernel.gap_bin``.
    """

    arrival_ps: IntArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    scheduled_ps: IntArray
    first_token_ps: IntArray
    finish_ps: IntArray
    preemptions: IntArray
    replica: IntArray
    rejected: dict[int, str]

    replicas: int
    stages: int
    iterations: int
    iterations_by_tokens: IntArray
    events: int
    sequences_per_iteration: float
    busy_ps: int
    stage_busy_ps: int
    decode_tokens: int
    prefill_tokens: int
    prefill_pairs: int
    recomputed_tokens: int
    swapped_blocks: int
    kv_read_tokens: int
    peak_blocks: int
    kv_blocks: int
    free_blocks: IntArray  # at the end, [replicas, ranks]
    energy_nj: int
    idle_w: float  # of all replicas
    gaps: IntArray
    max_gap_ps: int
    breakdown_ps: dict[str, int]
    provenance: dict[str, float]

    @property
    def served(self) -> NDArray[np.bool_]:
        """Which requests finished."""
        return self.finish_ps >= 0

    @property
    def end_ps(self) -> int:
        """When the last token left."""
        return int(self.finish_ps.max(initial=0))

    @property
    def energy_j(self) -> float:
        """Joules of all devices of the plan from time 0 to the last token, idle power included."""
        return self.energy_nj * 1e-9 + self.idle_w * self.end_ps / PS
