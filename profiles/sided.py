"""Operations that say on which side of the roofline they are, in place of where their times come from.

Cost tables carry the share of each time by a label of four, which is its provenance. With the labels of this
module instead, a simulation of the same tables tells how much of its time is bound by what.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from profiles.device import Device
from profiles.meter import shape_format
from profiles.ops import COLLECTIVES, MODELLED, Adjusted, Cost, Operations

BANDWIDTH, COMPUTE, LATENCY, OTHER = range(4)
"""Labels. ``OTHER`` is where a ledger puts the host, transfers and swaps, too."""

assert OTHER == MODELLED

LEAST_SHARE = 0.5
"""Of a peak: a kernel that uses less of both peaks than this is bound by neither."""


class Sided(Adjusted):
    """``fallback`` with a side in place of provenance.

    A kernel of t seconds, whose bytes take m at the peak of memory and whose FLOPs c at the peak of their
    format, is on the side of the longer of m and c where that is at least half of t, else on none (latency).

    Parameters
    ----------
    collectives
        The label of collectives.
    """

    def __init__(self, fallback: Operations, device: Device, *, collectives: int = OTHER) -> None:
        self.fallback, self.device, self.collectives = fallback, device, collectives

    def adjusted(self, operation: str, cost: Cost, shape: dict[str, Any]) -> Cost:
        if operation in COLLECTIVES:
            return replace(cost, provenance=np.full_like(cost.provenance, self.collectives))
        moving = cost.bytes / self.device.bandwidth
        computing = cost.flops / self.device.flops(shape_format(shape))
        side = np.where(moving >= computing, BANDWIDTH, COMPUTE)
        busy = np.maximum(moving, computing) >= LEAST_SHARE * cost.seconds
        return replace(cost, provenance=np.where(busy, side, LATENCY).astype(np.int8))
