"""Skipping equals stepping equals a plain reference, bit for bit."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from profiles.plan import POLICIES, EngineSettings
from simulator.engine import simulate
from simulator.kernel import GAP_BINS, gap_bin
from simulator.outcome import Outcome
from tests.simulator import reference, steps
from traces.trace import Trace

RECORDS = ("scheduled_ps", "first_token_ps", "finish_ps", "preemptions", "replica", "gaps", "free_blocks")
TOTALS = (
    "iterations", "sequences_per_iteration", "busy_ps", "stage_busy_ps", "decode_tokens", "prefill_tokens",
    "prefill_pairs", "recomputed_tokens", "swapped_blocks", "kv_read_tokens", "peak_blocks", "energy_nj",
    "max_gap_ps", "breakdown_ps", "rejected",
)  # fmt: skip


def differences(skipped: Outcome, stepped: Outcome) -> list[str]:
    """Fields in which two outcomes differ."""
    return [f for f in RECORDS if not np.array_equal(getattr(skipped, f), getattr(stepped, f))] + [
        f for f in TOTALS if getattr(skipped, f) != getattr(stepped, f)
    ]


def contradictions(outcome: Outcome, slow: reference.Reference) -> list[str]:
    """Fields in which an outcome and the reference differ."""
    expected = {
        "scheduled_ps": [s.scheduled for s in slow.sequences],
        "first_token_ps": [s.emitted[0] if s.emitted else -1 for s in slow.sequences],
        "finish_ps": [s.emitted[-1] if s.emitted else -1 for s in slow.sequences],
        "preemptions": [s.preemptions for s in slow.sequences],
        "replica": slow.replica,
    }
    gaps = np.bincount([gap_bin(g) for g in slow.gaps_ps] or [0], minlength=GAP_BINS)
    gaps[0] -= not slow.gaps_ps
    found = [name for name, values in expected.items() if getattr(outcome, name).tolist() != values]
    for name, value in vars(slow.counts).items():
        if name == "batch_sum":
            ok = outcome.sequences_per_iteration == value / max(1, slow.counts.iterations)
        else:
            ok = getattr(outcome, name) == value
        found += [] if ok else [name]
    found += [] if np.array_equal(outcome.gaps, gaps) else ["gaps"]
    found += [] if outcome.max_gap_ps == max(slow.gaps_ps, default=0) else ["max_gap_ps"]
    found += [] if list(outcome.rejected) == slow.rejected else ["rejected"]
    return found


def check(case: steps.Case) -> Outcome:
    skipped = simulate(**case.arguments)
    assert differences(skipped, simulate(**case.arguments, skip=False)) == []
    assert contradictions(skipped, reference.simulate(**case.arguments)) == []
    return skipped


@settings(deadline=None, max_examples=300, derandomize=True)
@given(case=steps.small_cases())
def test_skipping_stepping_and_reference_agree_on_small_cases(case: steps.Case) -> None:
    check(case)


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("policy", POLICIES)
def test_skipping_stepping_and_reference_agree(policy: str, preemption: str) -> None:
    rng = np.random.default_rng(20)
    reached = {"rejected": 0, "preempted": 0, "swapped": 0, "skipped": 0, "served": 0}
    for _ in range(100):
        outcome = check(steps.random_case(rng, policy=policy, preemption=preemption))
        reached["rejected"] += len(outcome.rejected)
        reached["preempted"] += int(outcome.preemptions.sum())
        reached["swapped"] += outcome.swapped_blocks
        reached["skipped"] += outcome.iterations - outcome.events
        reached["served"] += int(outcome.served.sum())
    preempts = policy not in ("static", "orca")
    assert min(reached["served"], reached["rejected"], reached["skipped"]) > 100
    assert reached["preempted"] > 30 if preempts else reached["preempted"] == 0
    assert reached["swapped"] > 30 if preempts and preemption == "swap" else reached["swapped"] == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_long_decodes_are_skipped_exactly(policy: str) -> None:
    """Thousands of iterations in a few events, through every piece of the tables and out of memory."""
    rng = np.random.default_rng(8)
    step = steps.random_step(rng, max_tokens=3000, max_length=2500, kv_blocks=230, unit_ps=999_983)
    outputs = np.array([1500, 1200, 2, 900, 1000])
    trace = steps.trace_of(np.arange(5) * 10**9, np.array([3, 700, 50, 20, 9]), outputs)
    case = steps.Case(
        trace=trace, step=step, engine=EngineSettings(policy=policy, max_seqs=8, token_budget=900), replicas=1
    )
    outcome = check(case)
    assert outcome.iterations > 1200 and outcome.events < 150
    assert outcome.events > 3 * len(step.knots)


PLAIN = """
import sys, numpy as np
from simulator.engine import simulate
from tests.simulator.steps import random_case
for seed in map(int, sys.argv[1:]):
    print(simulate(**random_case(np.random.default_rng(seed)).arguments).finish_ps.tolist())
"""


def test_kernel_is_plain_python() -> None:
    """Without compilation the kernel runs as it reads, and says the same."""
    seeds = [3, 4, 5, 6, 7, 8]
    cases = [steps.random_case(np.random.default_rng(seed)) for seed in seeds]
    compiled = [str(simulate(**case.arguments).finish_ps.tolist()) for case in cases]
    plain = subprocess.run(
        [sys.executable, "-W", "error", "-c", PLAIN, *map(str, seeds)],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.splitlines() == compiled


def test_reference_by_hand() -> None:
    """The reference itself, on a trace small enough to work out: launch 100, tokens 1 + 1, reads 1/100."""
    trace = Trace(arrival_s=np.array([0.0]), prompt_tokens=np.array([10]), output_tokens=np.array([3]))
    slow = reference.simulate(trace, steps.affine_step(), EngineSettings(max_seqs=8))
    prefill = 110 + 60 + 1 + 10 + 1  # local, shared, head, launch, 10 x 10 / 100; microseconds
    decodes = [101 + 51 + 1 + 20 + 0.11, 101 + 51 + 1 + 20 + 0.12]
    assert slow.sequences[0].emitted == [round(t * 1e6) for t in np.cumsum([prefill, *decodes])]


def test_swaps_that_cost_nothing_are_skipped_exactly() -> None:
    """Two slots begin at one instant: the one way to decode there without a chunk or a transfer before."""
    step = dataclasses.replace(steps.affine_step(stages=2, max_seqs=2, kv_blocks=3), swap_block_ps=0)
    trace = steps.trace_of(np.array([0, 1, 1]) * 10**6, np.array([3, 1, 2]), np.array([6, 5, 2]))
    engine = EngineSettings(max_seqs=2, token_budget=100, block_size=4, preemption="swap", watermark=0)
    check(steps.Case(trace=trace, step=step, engine=engine, replicas=1))
