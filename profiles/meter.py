"""The meter: operations of one device at one clock, with the energy each takes above idle.

Costs are kept, so that plans which share a shard pay for it once. Loads are recognized by their bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.device import Device
from profiles.ops import Cost, FloatArray, IntArray, Link, Operations
from profiles.plan import FORMAT_BYTES
from profiles.power import PowerModel
from profiles.roofline import at_clock


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Charge:
    """Seconds and joules above idle of one operation on one device, and where the time comes from."""

    seconds: FloatArray
    joules: FloatArray
    provenance: NDArray[np.int8]


class Meter:
    """Charges of operations on ``device`` at ``clock_mhz`` (0: its maximum)."""

    def __init__(self, operations: Operations, device: Device, power: PowerModel, clock_mhz: int = 0) -> None:
        self.operations, self.device, self.power, self.clock_mhz = operations, device, power, clock_mhz
        self._kept: dict[tuple[Any, ...], Charge] = {}

    def gemm(self, tokens: IntArray, n: int, k: int, weight: str, activation: str) -> Charge:
        compute = compute_format(weight, activation)
        return self._charge("gemm", (tokens,), compute, n=n, k=k, weight=weight, activation=activation)

    def moe(self, tokens: IntArray, **shape: Any) -> Charge:
        compute = compute_format(shape["weight"], shape["activation"])
        return self._charge("moe", (tokens,), compute, **shape)

    def attention(self, operation: str, *loads: IntArray, **shape: Any) -> Charge:
        return self._charge(operation, loads, "bf16", **shape)

    def stream(self, moved: NDArray[Any]) -> Charge:
        return self._charge("stream", (moved,), "bf16")

    def collective(self, kind: str, payload: NDArray[Any], link: Link) -> Charge:
        return self._charge("collective", (kind, payload, link), "bf16")

    def _charge(self, operation: str, loads: tuple[Any, ...], compute: str, **shape: Any) -> Charge:
        names = tuple(load.tobytes() if isinstance(load, np.ndarray) else load for load in loads)
        key = (operation, names, tuple(shape.items()))
        if key not in self._kept:
            cost = getattr(self.operations, operation)(*loads, **shape)
            self._kept[key] = self.metered(at_clock(cost, self.device, self.clock_mhz, compute), compute)
        return self._kept[key]

    def metered(self, cost: Cost, compute: str) -> Charge:
        """The cost with its energy above idle, by the utilization of memory and of compute."""
        seconds = np.maximum(cost.seconds, 1e-15)
        u_mem = np.minimum(cost.bytes / (seconds * self.device.bandwidth), 1.0)
        u_comp = np.minimum(cost.flops / (seconds * self.device.flops(compute)), 1.0)
        watts = self.power.watts(u_mem, u_comp, self.clock_mhz) - self.power.idle_w
        return Charge(
            seconds=cost.seconds, joules=np.maximum(watts, 0.0) * cost.seconds, provenance=cost.provenance
        )

    @property
    def ceiling_w(self) -> float:
        """Most watts above idle that one device draws at this clock."""
        full = np.ones(1)
        return float(self.power.watts(full, full, self.clock_mhz)[0] - self.power.idle_w)


def compute_format(weight: str, activation: str) -> str:
    """Format in which a product is computed: the wider of the two, to which the other is widened.

    Examples
    --------
    >>> compute_format("int4", "bf16"), compute_format("fp8", "fp8"), compute_format("int4", "fp8")
    ('bf16', 'fp8', 'fp8')
    """
    return max(activation, weight, key=FORMAT_BYTES.__getitem__)


def shape_format(shape: Mapping[str, Any]) -> str:
    """Format in which an operation of this shape computes: of its product where it has one, else bf16."""
    return compute_format(shape["weight"], shape["activation"]) if "weight" in shape else "bf16"
