"""A device that answers kernel timings by a known law with seeded noise, and moves a clock of its own."""

import numpy as np

from profiles.ops import Link
from profiles.own_tables import cost_of_row
from profiles.profiler import Reading, Unmeasurable
from tests.profiles.fakes import FakeDevice, FakeOperations

LINK = {
    "nodes": 1, "intra_bandwidth": 4e11, "inter_bandwidth": 5e10,
    "intra_latency_s": 5e-6, "inter_latency_s": 2e-5,
}  # fmt: skip


class FakeBench:
    """Times of ``FakeOperations`` times log-normal noise.

    ``memory_bytes`` limits what a point may read; ``formats`` what is multiplied; every measurement takes
    ``point_s`` of ``now_s``. ``iteration_s``: shape -> seconds of a whole iteration.
    """

    def __init__(
        self, *, noise=0.01, seed=0, gpus=1, memory_bytes=80e9, formats=("bf16", "fp8"), point_s=0.2,
        iteration_s=None,
    ):  # fmt: skip
        self.operations = FakeOperations(FakeDevice())
        self.iteration_s = iteration_s
        self.noise, self.gpus, self.formats = noise, gpus, formats
        self.memory_bytes, self.point_s = memory_bytes, point_s
        self.random = np.random.default_rng(seed)
        self.now_s = 0.0
        self.asked, self.closed = [], False

    def facts(self):
        return {"device": "NVIDIA H100 80GB HBM3", "driver": "570.0", "torch": "2.8"}

    def close(self):
        self.closed = True

    def clock(self):
        return self.now_s

    def cost(self, operation, shape):
        """The law."""
        return cost_of_row(self.operations, operation, shape, lambda ranks: Link(ranks=ranks, **LINK))

    def measure(self, operation, shape):
        self.asked.append((operation, tuple(shape.values())))
        if shape.get("weight", "bf16") not in self.formats:
            raise Unmeasurable(f"no kernel multiplies {shape['weight']}")
        if operation == "iteration":
            seconds = self.iteration_s(shape)
        else:
            cost = self.cost(operation, shape)
            if cost.bytes[0] > self.memory_bytes:
                raise Unmeasurable("out of memory")
            seconds = cost.seconds[0]
        self.now_s += self.point_s
        samples = seconds * np.exp(self.noise * self.random.standard_normal(15))
        return Reading(samples_s=tuple(samples.tolist()), power_w=400.0, clock_mhz=1980.0, kernel="law, fake")
