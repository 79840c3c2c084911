"""Work and memory of a simulation follow requests, not tokens. Counted, not timed."""

import dataclasses
import tracemalloc

import numpy as np
import pytest

from profiles.plan import POLICIES, EngineSettings
from simulator import engine
from simulator.engine import simulate
from simulator.kernel import DECODING, INFINITE, REQUEST, next_due, push_due, steps_until
from simulator.outcome import Outcome
from tests.simulator import steps
from traces.trace import Trace


def chat(requests: int, *, output_factor: int = 1) -> Trace:
    """Some ten requests a second, prompts and outputs of a few hundred tokens."""
    rng = np.random.default_rng(1)
    return Trace(
        arrival_s=np.cumsum(rng.exponential(0.1, requests)),
        prompt_tokens=rng.integers(1, 800, requests),
        output_tokens=rng.integers(100, 400, requests) * output_factor,
    )


def serve(trace: Trace, policy: str) -> Outcome:
    step = steps.affine_step(max_seqs=64, max_tokens=2048, max_length=1600, kv_blocks=4000)
    settings = EngineSettings(policy=policy, max_seqs=64, token_budget=512)  # type: ignore[arg-type]
    return simulate(trace, step, settings)


@pytest.mark.parametrize("policy", POLICIES)
def test_events_do_not_grow_with_output(policy: str) -> None:
    """Twice the output is twice the iterations, and hardly an event more."""
    trace = chat(2000)
    one, two = serve(trace, policy), serve(chat(2000, output_factor=2), policy)
    assert not one.rejected and not two.rejected
    assert two.iterations > 1.5 * one.iterations > 100 * len(trace)
    assert one.events < 5 * len(trace)
    assert two.events < 1.1 * one.events


@pytest.mark.parametrize("output_factor", [1, 2])
def test_memory_is_a_few_hundred_bytes_per_request(output_factor: int) -> None:
    peaks = {}
    for requests in (1_000, 200_000):
        trace = chat(requests, output_factor=output_factor)
        trace = dataclasses.replace(trace, arrival_s=trace.arrival_s * 0)  # so that all of them wait
        tracemalloc.start()
        serve(trace, "vllm-v1")
        peaks[requests] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert (peaks[200_000] - peaks[1_000]) / 199_000 < 350


def test_fewest_steps_that_last_as_long_as_a_wait() -> None:
    """Against counting, around every exact hit; where doubles are off by many steps as well."""
    for base in (1, 7, 10**6, 10**12, 10**17):
        for growth in (0, 1, 3, 10**5):
            lasts = 0
            for k in range(1, 9):
                before, lasts = lasts, lasts + base + growth * (k - 1)
                for wait in (before + 1, (before + lasts + 1) // 2, lasts):
                    assert steps_until(wait, base, growth) == k


def test_a_full_row_of_completions_is_swept_and_stays_in_order() -> None:
    """Completions of preempted sequences stay in a lane's heap until it is full; those that count come out
    in order whatever was swept from between them."""
    rng = np.random.default_rng(4)
    for _ in range(30):
        state = engine._state(steps.affine_step(), EngineSettings(max_seqs=8), 1, 1)
        most = state.due.shape[2]
        requests = np.recarray(most + 1, REQUEST)
        requests[:] = 0
        requests.status, requests.due = DECODING, rng.integers(1, 100, most + 1)
        for r in range(most):
            push_due(requests, state, 0, 0, r)
        requests.lane[:most][rng.random(most) < 0.7] = -1
        push_due(requests, state, 0, 0, most)
        alive = sorted(requests.due[requests.lane == 0].tolist())
        assert state.lanes.due_size[0, 0] == len(alive)
        for due in alive:
            assert next_due(requests, state, 0, 0) == due
            requests.lane[state.due[0, 0, 0] & 0x7FFFFFFF] = -1
        assert next_due(requests, state, 0, 0) == INFINITE
