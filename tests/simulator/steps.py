"""Cost tables, settings and traces made up for tests: random ones, affine ones, and cases of all three."""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from profiles.plan import POLICIES, EngineSettings
from profiles.stepcost import PS, StepCost
from traces.trace import Trace

IntArray = NDArray[np.int64]


def rising(rng: np.random.Generator, rows: int, last: int, most: int, rise: int) -> IntArray:
    """[rows, last + 1]: starts within 1..most, then climbs by 0..rise where a coin says so."""
    climbs = rng.integers(0, rise + 1, (rows, last + 1)) * rng.integers(0, 2, (rows, last + 1))
    climbs[:, :1] = rng.integers(1, most + 1, (rows, 1))
    return np.cumsum(climbs, axis=1)


def pieces(values: IntArray, slopes: IntArray, knots: IntArray) -> IntArray:
    """Values at every knot, [P, B + 1, K], so that the linear pieces join; ``values`` [P, B + 1]."""
    result = np.zeros_like(slopes)
    result[:, :, 0] = values
    batch = np.arange(slopes.shape[1])
    for j in range(len(knots) - 1):
        result[:, :, j + 1] = result[:, :, j] + slopes[:, :, j] * batch * (knots[j + 1] - knots[j])
    result[:, 0] = 0
    return result


def random_step(
    rng: np.random.Generator, *, stages: int = 1, ranks: int = 1, max_seqs: int = 8, max_tokens: int = 400,
    max_length: int = 200, kv_blocks: int = 100, unit_ps: int = 1, chunkable: bool = True,
) -> StepCost:  # fmt: skip
    """Any tables that keep the contract of StepCost, whatever a device would say to them.

    Every time is a multiple of ``unit_ps``: a coarse unit makes batches end and requests arrive at the
    same instant, and makes attention ranks tie.
    """
    total, most = max_tokens * ranks, max_seqs * ranks
    knots = np.concatenate([[0], np.unique(rng.integers(1, max_length + 2, rng.integers(1, 7)))])
    shape = (stages, max_seqs + 1, len(knots))

    def tables(unit: int, suffix: str) -> dict[str, IntArray]:
        slope = rng.integers(0, 3, shape) * rng.integers(0, 2, shape)
        slope[:, 0] = 0
        value = pieces(rng.integers(0, 30, shape[:2]), slope, knots)
        made = {
            "local": rising(rng, stages, max_tokens, 40, 3),
            "shared": rising(rng, stages, total, 20, 2),
            "head": rising(rng, 1, most, 9, 2)[0],
            "send": rising(rng, stages - 1, total, 9, 1),
            "decode_value": value,
            "decode_slope": slope,
            "prefill_launch": rng.integers(1, 20, stages),
            "prefill": rising(rng, stages, max_length, 1, 4) - 1,
        }
        return {f"{name}_{suffix}": table * unit for name, table in made.items()}

    times = tables(unit_ps, "ps")
    slope = rng.integers(0, 3, shape) * rng.integers(0, 2)
    value = pieces(rng.integers(0, 9, shape[:2]), slope, knots)
    return StepCost(
        stages=stages,
        ranks=ranks,
        max_seqs=max_seqs,
        knots=knots,
        **times,
        **tables(1, "nj"),
        mixed_value_ps=value * unit_ps,
        mixed_slope_ps=slope * unit_ps,
        mixed_token_ps=rng.integers(0, 3, shape[:2]) * unit_ps,
        idle_w=float(rng.integers(1, 9)),
        kv_blocks=kv_blocks,
        swap_block_ps=int(rng.integers(1, 4)) * unit_ps,
        chunkable=chunkable,
        local_parts={"cells": times["local_ps"].sum(axis=0)},
        shared_parts={"cells": times["shared_ps"].sum(axis=0)},
        head_parts={"head": times["head_ps"]},
    )


def affine_step(
    *, stages: int = 1, ranks: int = 1, max_seqs: int = 8, max_tokens: int = 400, max_length: int = 200,
    kv_blocks: int = 10_000, watts: int = 0, scale: int = 1,
) -> StepCost:  # fmt: skip
    """A device in three numbers: a launch, a time per token, a time per KV token read. Concave, so that
    no batch is faster than its parts.

    Every device draws ``watts`` above idle while it works and none while it sends.
    """
    us = 1_000_000 * scale
    tokens, total = np.arange(max_tokens + 1), np.arange(max_tokens * ranks + 1)
    shape = (stages, max_seqs + 1, 2)
    slope = np.full(shape, us // 100)
    slope[:, 0] = 0
    value = pieces(np.full(shape[:2], 20 * us), slope, np.array([0, 64]))
    times = {
        "local": np.tile((tokens > 0) * 100 * us + tokens * us, (stages, 1)),
        "shared": np.tile((total > 0) * 50 * us + total * us, (stages, 1)),
        "head": np.arange(max_seqs * ranks + 1) * us,
        "send": np.tile(5 * us + total * us // 10, (stages - 1, 1)),
        "decode_value": value,
        "decode_slope": slope,
        "prefill_launch": np.full(stages, 10 * us),
        "prefill": np.tile(np.arange(max_length + 1) ** 2 * us // 100, (stages, 1)),
    }
    devices = {"shared": ranks, "head": ranks, "send": 0}  # that take part, others: one rank
    return StepCost(
        stages=stages,
        ranks=ranks,
        max_seqs=max_seqs,
        knots=np.array([0, 64]),
        **{f"{name}_ps": table for name, table in times.items()},
        **{f"{name}_nj": table * watts * devices.get(name, 1) // 1000 for name, table in times.items()},
        idle_w=100.0,
        kv_blocks=kv_blocks,
        swap_block_ps=30 * us,
    )


def trace_of(arrival_ps: IntArray, prompt: IntArray, output: IntArray) -> Trace:
    """A trace whose arrivals are picoseconds; below a second they survive the detour through floats."""
    return Trace(
        arrival_s=np.asarray(arrival_ps) / PS,
        prompt_tokens=np.asarray(prompt, np.int64),
        output_tokens=np.asarray(output, np.int64),
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    """The arguments of one call of ``simulate``."""

    trace: Trace
    step: StepCost
    engine: EngineSettings
    replicas: int

    @property
    def arguments(self) -> dict[str, object]:
        return {"trace": self.trace, "step": self.step, "engine": self.engine, "replicas": self.replicas}


def random_case(rng: np.random.Generator, requests: int = 25, **fixed: object) -> Case:
    """A case where everything is random but the settings in ``fixed`` (of EngineSettings)."""
    seqs = int(rng.integers(1, 7))
    unit = int(rng.choice([1, 1_000_003]))
    n = int(rng.integers(1, requests + 1))
    longest = int(rng.choice([10, 60]))
    span = unit * int(rng.choice([1, 1_000, 20_000]))
    settings = {
        "policy": str(rng.choice(POLICIES)),
        "max_seqs": seqs,
        "token_budget": int(rng.integers(seqs, 100)),
        "block_size": int(rng.choice([1, 4, 16])),
        "preemption": str(rng.choice(["recompute", "swap"])),
        "queue": str(rng.choice(["fcfs", "sjf"])),
        "routing": str(rng.choice(["round-robin", "least-outstanding"])),
        "watermark": float(rng.choice([0, 0.01, 0.1])),
    } | fixed
    engine = EngineSettings(**settings)  # type: ignore[arg-type]
    return Case(
        trace=trace_of(
            np.sort(rng.integers(0, span, n)) // unit * unit,
            rng.integers(1, 80, n),
            rng.integers(1, longest, n),
        ),
        step=random_step(
            rng,
            stages=int(rng.integers(1, 4)),
            ranks=int(rng.integers(1, 4)),
            max_seqs=engine.max_seqs,
            kv_blocks=int(rng.integers(20, 150) * rng.choice([1, 2, 8]) // engine.block_size + 1),
            unit_ps=unit,
            chunkable=bool(rng.integers(0, 8)),
        ),
        engine=engine,
        replicas=int(rng.integers(1, 4)),
    )


@st.composite
def small_cases(draw: st.DrawFn) -> Case:
    """Cases that shrink: few requests first, one stage, one rank, one replica."""
    requests = draw(
        st.lists(
            st.tuples(st.integers(0, 300), st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=8
        )
    )
    seqs = draw(st.integers(1, 3))
    gaps, prompts, outputs = (np.array(column) for column in zip(*requests, strict=True))
    return Case(
        trace=trace_of(np.cumsum(gaps), prompts, outputs),
        step=random_step(
            np.random.default_rng(draw(st.integers(0, 50))),
            stages=draw(st.integers(1, 3)),
            ranks=draw(st.integers(1, 2)),
            max_seqs=seqs,
            kv_blocks=draw(st.integers(4, 30)),
            max_tokens=70,
            max_length=60,
        ),
        engine=EngineSettings(
            policy=draw(st.sampled_from(POLICIES)),
            max_seqs=seqs,
            token_budget=draw(st.integers(seqs, 40)),
            block_size=draw(st.sampled_from([4, 1, 16])),
            preemption=draw(st.sampled_from(["recompute", "swap"])),
            queue=draw(st.sampled_from(["fcfs", "sjf"])),
            routing=draw(st.sampled_from(["round-robin", "least-outstanding"])),
            watermark=draw(st.sampled_from([0.0, 0.1])),
        ),
        replicas=draw(st.integers(1, 2)),
    )
