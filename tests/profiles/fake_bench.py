"""A device that answers kernel timings by a known law with seeded noise, and moves a clock of its own."""

import numpy as np

from profiles.ops import Link
from profiles.profiler import Reading, Unmeasurable
from tests.profiles.fakes import FakeDevice, FakeOperations

LINK = {
    "nodes": 1, "intra_bandwidth": 4e11, "inter_bandwidth": 5e10,
    "intra_latency_s": 5e-6, "inter_latency_s": 2e-5,
}  # fmt: skip


class FakeBench:
    """Times of ``FakeOperations`` times log-normal noise.

    ``memory_bytes`` limits what a point may read; ``formats`` what is multiplied; every measurement takes
    ``point_s`` of ``now_s``.
    """

    def __init__(
        self, *, noise=0.01, seed=0, gpus=1, memory_bytes=80e9, formats=("bf16", "fp8"), point_s=0.2
    ):
        self.operations = FakeOperations(FakeDevice())
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
        """The law: what ``profiles.own_rows`` says that a row's operation is."""
        s, ops = dict(shape), self.operations
        if operation == "gemm":
            m = np.array([s.pop("m")])
            return ops.gemm(m, **s)
        if operation == "stream":
            return ops.stream(np.array([s["bytes"]]))
        if operation == "moe":
            tokens = np.array([s.pop("tokens")])
            return ops.moe(tokens, tp=1, ep=1, gated=True, **s)
        if operation == "collective":
            return ops.collective(s["kind"], np.array([s["bytes"]]), Link(ranks=s["ranks"], **LINK))
        heads = {
            "q_heads": s["group"] * s["kv_heads"], "kv_heads": s["kv_heads"], "head_dim": s["head_dim"],
            "value_dim": s["head_dim"], "window": 0, "kv": s["kv"],
        }  # fmt: skip
        if operation == "prefill":
            return ops.prefill_attention(np.array([s["tokens"]]), causal=True, **heads)
        return ops.decode_attention(np.array([s["batch"]]), np.array([s["context"]]), **heads)

    def measure(self, operation, shape):
        self.asked.append((operation, tuple(shape.values())))
        if shape.get("weight", "bf16") not in self.formats:
            raise Unmeasurable(f"no kernel multiplies {shape['weight']}")
        cost = self.cost(operation, shape)
        if cost.bytes[0] > self.memory_bytes:
            raise Unmeasurable("out of memory")
        self.now_s += self.point_s
        samples = cost.seconds[0] * np.exp(self.noise * self.random.standard_normal(15))
        return Reading(samples_s=tuple(samples.tolist()), power_w=400.0, clock_mhz=1980.0, kernel="law, fake")
