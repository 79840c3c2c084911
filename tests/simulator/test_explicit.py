"""Schedules said iteration by iteration: those of the simulator give its times, and what cannot be is refused."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from profiles.plan import POLICIES
from simulator.engine import simulate
from simulator.explicit import Iteration, simulate_schedule
from tests.simulator import reference
from tests.simulator.steps import affine_step, random_case, trace_of

ITS_OWN = {"events", "peak_blocks", "free_blocks"}
"""What a schedule has otherwise: no stretches of iterations, and memory by tokens instead of blocks."""


def iterations(monkeypatch, case):
    """What the slow simulation runs, one iteration after another."""
    found = []
    complete = reference.Replica.complete

    def recorded(self, slot):
        batch = slot.batch
        decodes = tuple(s.index for s in batch.decodes[0])
        found.append(Iteration(decodes=decodes, chunks=tuple((s.index, c) for s, c in batch.chunks[0])))
        complete(self, slot)

    with monkeypatch.context() as patch:
        patch.setattr(reference.Replica, "complete", recorded)
        reference.simulate(case.trace, case.step, case.engine)
    return found


@pytest.mark.parametrize("policy", POLICIES)
def test_the_iterations_of_a_simulation_give_its_outcome(monkeypatch, policy):
    compared = 0
    for seed in range(40):
        case = random_case(np.random.default_rng(seed), requests=12, policy=policy)
        if case.step.stages * case.step.ranks > 1:
            continue
        outcome = simulate(case.trace, case.step, case.engine)
        if outcome.rejected or outcome.preemptions.any():
            continue  # a schedule serves everybody, in one go
        found = iterations(monkeypatch, case)
        again = simulate_schedule(case.trace, case.step, found, block_size=case.engine.block_size)
        for field in fields(outcome):
            if field.name not in ITS_OWN:
                assert np.array_equal(getattr(outcome, field.name), getattr(again, field.name)), field.name
        compared += 1
    assert compared >= 3


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.data())
def test_requests_in_turn_take_their_times_alone(data):
    """Also in chunks, and whatever decodes beside."""
    n = data.draw(st.integers(1, 4))
    prompt = [data.draw(st.integers(1, 9)) for _ in range(n)]
    output = [data.draw(st.integers(1, 4)) for _ in range(n)]
    step = affine_step()
    assume(sum(prompt) > n)
    schedule, alone = [], 0
    for r in range(n):
        one = trace_of([0], prompt[r : r + 1], output[r : r + 1])
        mine = [Iteration(decodes=(), chunks=((r, prompt[r]),))]
        mine += [Iteration(decodes=(r,), chunks=())] * (output[r] - 1)
        schedule += mine
        only = [
            Iteration(decodes=(0,) * len(i.decodes), chunks=tuple((0, c) for _, c in i.chunks)) for i in mine
        ]
        alone += simulate_schedule(one, step, only).end_ps
    outcome = simulate_schedule(trace_of([0] * n, prompt, output), step, schedule)
    assert outcome.end_ps == alone
    assert outcome.iterations == sum(output)


def test_an_iteration_waits_for_its_chunks():
    schedule = [Iteration(decodes=(), chunks=((0, 4),)), Iteration(decodes=(), chunks=((1, 4),))]
    outcome = simulate_schedule(trace_of([0, 10**12], [4, 4], [1, 1]), affine_step(), schedule)
    assert outcome.first_token_ps[1] - 10**12 == outcome.first_token_ps[0]
    assert outcome.scheduled_ps.tolist() == [0, 10**12]


@pytest.mark.parametrize(
    "schedule, said",
    [
        ([((), ())], "iteration 0: empty"),
        ([((), ((0, 3), (0, 1)))], "a request twice"),
        ([((), ((0, 5),))], "a chunk of 5 tokens does not continue prompt 0"),
        ([((0,), ())], "request 0 does not decode"),
        ([((), ((0, 4),)), ((0,), ((1, 4),))], "9 tokens kept, at most 8"),
        ([((), ((0, 4),)), ((0,), ())], "request 1 is not served"),
        ([((), ((0, 4), (1, 4)))], "8 tokens of 2 sequences, beyond the tables"),
    ],
)
def test_what_cannot_be_is_refused(schedule, said):
    step = replace(affine_step(max_seqs=1, max_tokens=7), kv_blocks=8)
    if "tables" not in said:
        step = replace(affine_step(), kv_blocks=8)
    found = [Iteration(decodes=d, chunks=c) for d, c in schedule]
    with pytest.raises(ValueError, match=said):
        simulate_schedule(trace_of([0, 0], [4, 4], [2, 1]), step, found)
