"""Unit-time schedules: the solver against every choice of starts, and look-ahead admission above it."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formulations.hindsight_cpsat import UnitInstance, in_turns, latency, solve
from formulations.problem import Limits, Status
from tests.benchmarks.schedulers import mcsf_starts

REQUEST = st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 4))
TINY = st.builds(
    lambda requests, spare: UnitInstance(
        arrival=tuple(a for a, _, _ in requests),
        prompt=tuple(p for _, p, _ in requests),
        output=tuple(o for _, _, o in requests),
        kv=max(p + o for _, p, o in requests) + spare,
    ),
    st.lists(REQUEST, min_size=1, max_size=4),
    st.integers(0, 5),
)


def least(instance):
    """Every choice of starts, most of which break a rule."""
    best = None
    spans = [range(a, instance.horizon) for a in instance.arrival]
    for starts in product(*spans):
        held = [
            sum(instance.held(i, t, at) for i, t in enumerate(starts))
            for at in range(1, instance.horizon + max(instance.output) + 1)
        ]
        if max(held) <= instance.kv:
            value = sum(t + o for t, o in zip(starts, instance.output, strict=True)) - sum(instance.arrival)
            best = value if best is None else min(best, value)
    return best


@settings(deadline=None, max_examples=25, derandomize=True)
@given(instance=TINY)
def test_nothing_beats_the_solver_and_look_ahead_does_not_either(instance):
    solution = solve(instance, Limits(time_s=20))
    assert solution.status is Status.OPTIMAL
    assert solution.value == solution.bound == latency(instance, solution.start) == least(instance)
    starts = mcsf_starts(instance)
    assert latency(instance, starts) >= solution.value
    hinted = solve(instance, Limits(time_s=20), hint=starts)
    assert hinted.value == solution.value


def test_two_that_do_not_fit_together_take_turns():
    # 2 + 3 tokens each, 5 in memory: the second starts when the first ends, latencies 3 and 6.
    instance = UnitInstance(arrival=(0, 0), prompt=(2, 2), output=(3, 3), kv=5)
    assert solve(instance, Limits()).value == 9


def test_without_time_the_answer_is_what_it_began_with():
    instance = UnitInstance(arrival=(0, 1, 0), prompt=(2, 2, 2), output=(3, 3, 2), kv=5)
    solution = solve(instance, Limits(work=0.0, time_s=0.0))
    assert solution.start == in_turns(instance) == (0, 5, 3)
    assert solution.value == latency(instance, solution.start) and solution.bound == 8
    with pytest.raises(ValueError, match="after 6"):
        solve(instance, Limits(), horizon=6)


@pytest.mark.parametrize("starts, said", [((0, 0), "Memory"), ((-1, 3), "before it arrives")])
def test_a_schedule_that_breaks_a_rule_is_refused(starts, said):
    instance = UnitInstance(arrival=(0, 0), prompt=(2, 2), output=(3, 3), kv=5)
    with pytest.raises(ValueError, match=said):
        latency(instance, starts)


@pytest.mark.parametrize("changes", [{"kv": 4}, {"output": (3, 0)}, {"prompt": (1,)}])
def test_an_instance_that_cannot_be_served_is_refused(changes):
    with pytest.raises(ValueError):
        UnitInstance(**{"arrival": (0, 0), "prompt": (2, 2), "output": (3, 3), "kv": 9, **changes})


def test_starts_of_look_ahead_are_those_of_the_research_scheduler_in_unit_time():
    rng = np.random.default_rng(1)
    for _ in range(20):
        prompt, output = rng.integers(1, 6, 12), rng.integers(1, 20, 12)
        instance = UnitInstance(
            arrival=tuple(sorted(rng.integers(0, 30, 12).tolist())), prompt=tuple(prompt.tolist()),
            output=tuple(output.tolist()), kv=int((prompt + output).max() + 10),
        )  # fmt: skip
        starts, running = mcsf_starts(instance), []
        assert latency(instance, starts) > 0  # replayed: no memory runs out
        waiting, now, slow = set(range(12)), 0, [-1] * 12
        while waiting:
            running = [i for i in running if slow[i] + instance.output[i] > now]
            here = sorted(
                (i for i in waiting if instance.arrival[i] <= now), key=lambda i: (instance.output[i], i)
            )
            for i in here:
                slow[i] = now
                group = [*running, i]
                fits = all(
                    sum(instance.held(j, slow[j], at) for j in group) <= instance.kv
                    for at in range(now + 1, now + 60)
                )
                if not fits:
                    slow[i] = -1
                    break
                running.append(i)
                waiting.discard(i)
            now += 1
        assert tuple(slow) == starts
