"""Operation times moved by the scales of an engine profile."""

from dataclasses import replace
from typing import Any

import numpy as np

from profiles.device import Device
from profiles.engine import EngineProfile
from profiles.meter import shape_format
from profiles.ops import COLLECTIVES, Adjusted, Cost, Operations


def calibrated(operations: Operations, engine: EngineProfile, device: Device) -> Operations:
    """The operations as this engine runs them; themselves where it scales nothing."""
    if engine.memory_scale == engine.compute_scale == engine.collective_scale == 1:
        return operations
    return Calibrated(operations, engine, device)


class Calibrated(Adjusted):
    """``fallback`` with scaled times.

    The time t of a kernel is m seconds for its bytes at peak bandwidth or c for its arithmetic at peak,
    whichever is longer (no more than t: a measured kernel may have read from the cache), and the rest: launch,
    ramp, tail, what the kernel itself fails to use. Of it becomes

        t - max(m, c) + max(memory_scale m, compute_scale c)

    so both scales matter where bytes and arithmetic take equally long, and neither moves a launch. Collectives
    are scaled as a whole.
    """

    def __init__(self, fallback: Operations, engine: EngineProfile, device: Device) -> None:
        self.fallback, self.engine, self.device = fallback, engine, device

    def adjusted(self, operation: str, cost: Cost, shape: dict[str, Any]) -> Cost:
        if operation in COLLECTIVES:
            return replace(cost, seconds=self.engine.collective_scale * cost.seconds)
        m = np.minimum(cost.bytes / self.device.bandwidth, cost.seconds)
        c = np.minimum(cost.flops / self.device.flops(shape_format(shape)), cost.seconds)
        roof = np.maximum(self.engine.memory_scale * m, self.engine.compute_scale * c)
        return replace(cost, seconds=cost.seconds - np.maximum(m, c) + roof)
