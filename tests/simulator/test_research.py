"""Research schedulers: the kernel's times where it has the same rules, and laws where it has not."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.plan import EngineSettings
from simulator.engine import simulate
from simulator.research import ENGINE_RULES, Rules
from simulator.research import simulate as research
from simulator.research_kernel import MOST_WEIGHT
from tests.planner.stepping import random_step
from tests.planner.test_bounds import random_trace
from traces.trace import Trace

LAWFUL = settings(deadline=None, max_examples=60, derandomize=True)
INSTANCE = {
    "seed": st.integers(0, 10**6),
    "capacity": st.integers(20, 60),
    "block_size": st.sampled_from([1, 4]),
    "budget": st.integers(4, 20),
    "requests": st.integers(1, 14),
    "replicas": st.integers(1, 2),
    "gap_us": st.sampled_from([0.0, 5.0, 30.0]),
}
ITERATION_PS = 10**6


def even_step(capacity):
    """Every iteration takes as long."""
    step = random_step(1, max_seqs=4, capacity=capacity, tokens=44)
    none = {
        name: 0 * getattr(step, name)
        for name in (
            "shared_ps",
            "head_ps",
            "send_ps",
            "decode_value_ps",
            "decode_slope_ps",
            "prefill_launch_ps",
            "prefill_ps",
        )
    }
    return replace(step, local_ps=np.full_like(step.local_ps, ITERATION_PS), **none)


RULES = (
    *ENGINE_RULES.values(),
    Rules(admission="peak", cap=3),
    Rules(mixed=False, chunked=False, admission="peak"),
    Rules(victim="fewest"),
    Rules(order="output", admission="ahead"),
    Rules(order="longest", admission="ahead", cap=2),
    Rules(order="weight", admission="ahead", chunked=False),
    Rules(order="weight", admission="ahead", worth=0.7),
    Rules(order="longest", admission="peak", pauses=True),
    Rules(order="output", admission="peak", chunked=False, pauses=True, cap=2),
)


def drawn(seed, capacity, block_size, budget, requests, replicas, gap_us, **engine):
    step = random_step(seed, max_seqs=4, capacity=capacity // block_size, tokens=44)
    base = EngineSettings(block_size=block_size, max_seqs=4, token_budget=budget, watermark=0.1, **engine)
    return random_trace(seed, requests, gap_us), step, base


def weights(rules, trace):
    return trace.prompt_tokens + 3 * trace.output_tokens if rules.order == "weight" else None


@pytest.mark.parametrize("policy", ENGINE_RULES)
@pytest.mark.parametrize("queue", ["fcfs", "sjf"])
@LAWFUL
@given(**INSTANCE)
def test_rules_of_an_engine_are_the_kernel(policy, queue, replicas, **drawing):
    trace, step, base = drawn(**drawing, replicas=replicas)
    engine = replace(base, policy=policy, queue=queue)
    rules = replace(ENGINE_RULES[policy], order="arrival" if queue == "fcfs" else "prompt")
    kernel = simulate(trace, step, engine, replicas=replicas, skip=False)
    other = research(trace, step, engine, rules, replicas=replicas)
    for field in fields(kernel):
        assert np.array_equal(getattr(kernel, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize("rules", RULES)
@LAWFUL
@given(**INSTANCE)
def test_everyone_is_served_in_order_and_memory_comes_back(rules, replicas, **drawing):
    trace, step, engine = drawn(**drawing, replicas=replicas)
    got = research(trace, step, engine, rules, replicas=replicas, weight=weights(rules, trace))
    ok = got.served
    assert ok.sum() + len(got.rejected) == len(trace)
    assert (got.arrival_ps[ok] <= got.scheduled_ps[ok]).all()
    assert (got.scheduled_ps[ok] < got.first_token_ps[ok]).all()
    assert (got.first_token_ps[ok] <= got.finish_ps[ok]).all()
    assert (got.free_blocks == step.kv_blocks).all() and got.peak_blocks <= step.kv_blocks
    assert got.gaps.sum() == (trace.output_tokens[ok] - 1).sum()
    again = got.preemptions.any()
    assert again or got.prefill_tokens == trace.prompt_tokens[ok].sum()
    assert not again or rules.admission == "prompt" or rules.chunked


@LAWFUL
@given(**INSTANCE)
def test_who_looks_ahead_and_takes_prompts_whole_evicts_nobody(replicas, **drawing):
    trace, step, engine = drawn(**drawing, replicas=replicas)
    for order in ("arrival", "output", "longest"):
        rules = Rules(chunked=False, admission="ahead", order=order)
        assert not research(trace, step, engine, rules, replicas=replicas).preemptions.any()


def brute_fits(running, candidate, blocks):
    """Runs the iterations to come; each request is (tokens held with the one to come, tokens to emit)."""
    alive = [*running, candidate]
    while alive:
        if sum(held for held, _ in alive) > blocks:
            return False
        alive = [(held + 1, left - 1) for held, left in alive if left > 1]
    return True


@LAWFUL
@given(
    prompts=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    outputs=st.lists(st.integers(1, 9), min_size=5, max_size=5),
    capacity=st.integers(18, 50),
)
def test_looking_ahead_is_stepping_ahead(prompts, outputs, capacity):
    """All at once: how many start in the first iteration is what stepping through their future says."""
    n = len(prompts)
    trace = Trace(arrival_s=np.zeros(n), prompt_tokens=np.array(prompts), output_tokens=np.array(outputs[:n]))
    step = random_step(1, max_seqs=8, capacity=capacity, tokens=80)
    engine = EngineSettings(block_size=1, max_seqs=8, token_budget=60, watermark=0.0)
    got = research(trace, step, engine, Rules(admission="ahead"))
    started, room = [], capacity
    for prompt, output in zip(prompts, outputs[:n], strict=True):
        if prompt > room or (started and not brute_fits(started, (prompt, output), capacity)):
            break
        room -= prompt
        started.append((prompt, output))
    assert (got.scheduled_ps == 0).sum() == len(started)


def test_the_one_with_the_fewest_tokens_goes_first():
    """Two decode, memory ends: the last admitted is the long one, shortest request first takes the other."""
    trace = Trace(arrival_s=np.zeros(2), prompt_tokens=np.array([2, 8]), output_tokens=np.array([8, 8]))
    step = random_step(5, max_seqs=4, capacity=16, tokens=44)
    engine = EngineSettings(block_size=1, max_seqs=4, token_budget=30, watermark=0.0)
    for victim, out in (("last", 1), ("fewest", 0)):
        got = research(trace, step, engine, Rules(victim=victim))
        assert got.preemptions[out] > 0 and got.preemptions[1 - out] == 0


def test_a_cap_is_kept_and_one_at_a_time_is_serial():
    trace, step, engine = drawn(4, 60, 1, 20, 9, 1, 0.0)
    got = research(trace, step, engine, Rules(cap=1))
    assert got.sequences_per_iteration == 1
    by_start = np.argsort(got.scheduled_ps)
    assert (got.scheduled_ps[by_start][1:] == got.finish_ps[by_start][:-1]).all()


def brute_pausing(prompts, outputs, places, budget, room):
    """Number of the iteration in which each request ends, all at once, most tokens to come first."""
    waiting = sorted(range(len(prompts)), key=lambda r: (-outputs[r], r))
    chunk, left, ready, ends, number = dict(enumerate(prompts)), list(outputs), [], {}, 0
    running = []
    while waiting or running:
        number += 1
        tokens, computed = budget - min(len(ready), places - 1), []
        for r in [r for r in running if chunk[r]]:
            computed.append((r, min(chunk[r], tokens)))
            tokens -= computed[-1][1]
        while waiting and tokens > 0 and len(computed) < places:
            r = waiting[0]
            if sum(prompts[q] + outputs[q] - 1 for q in [*running, r]) > room:
                break
            running.append(waiting.pop(0))
            computed.append((r, min(chunk[r], tokens)))
            tokens -= computed[-1][1]
        for r in ready[: places - len(computed)]:
            left[r] -= 1
        ready.sort(key=lambda r: -left[r])
        for r, c in computed:
            chunk[r] -= c
            if chunk[r] == 0:
                left[r] -= 1
                ready.append(r)
                ready.sort(key=lambda r: -left[r])
        for r in [r for r in running if left[r] == 0]:
            ends[r] = number
            ready.remove(r)
            running.remove(r)
    return [ends[r] for r in range(len(prompts))]


@LAWFUL
@given(
    prompts=st.lists(st.integers(1, 9), min_size=1, max_size=12),
    outputs=st.lists(st.integers(1, 12), min_size=12, max_size=12),
    places=st.integers(1, 4),
    budget=st.integers(4, 14),
    room=st.integers(20, 70),
)
def test_those_with_most_to_come_decode_and_the_others_pause(prompts, outputs, places, budget, room):
    """Against stepping through lists."""
    n = len(prompts)
    trace = Trace(arrival_s=np.zeros(n), prompt_tokens=np.array(prompts), output_tokens=np.array(outputs[:n]))
    step = even_step(room)
    engine = EngineSettings(block_size=1, max_seqs=places, token_budget=budget, watermark=0.0)
    got = research(trace, step, engine, Rules(order="longest", admission="peak", pauses=True))
    assert not got.preemptions.any()
    expected = brute_pausing(prompts, outputs[:n], places, budget, room)
    assert (got.finish_ps // ITERATION_PS).tolist() == expected


@LAWFUL
@given(outputs=st.lists(st.integers(1, 30), min_size=1, max_size=12), places=st.integers(2, 4))
def test_who_pauses_takes_no_more_iterations_than_needed(outputs, places):
    """With a prompt computed beforehand the longest remaining first is optimal: the longest answer, or full places
    (McNaughton 1959). Prompts take places first, which costs at most the iterations that hold them."""
    n = len(outputs)
    trace = Trace(arrival_s=np.zeros(n), prompt_tokens=np.ones(n, int), output_tokens=np.array(outputs))
    engine = EngineSettings(block_size=1, max_seqs=places, token_budget=30, watermark=0.0)
    rules = Rules(order="longest", admission="peak", pauses=True)
    got = research(trace, even_step(1000), engine, rules)
    least = max(max(outputs), -(-sum(outputs) // places))
    assert least <= got.iterations <= least + -(-n // places) - 1


def test_a_priced_cap_is_the_root_of_what_is_here():
    """Ten at once, worth 0.9: three may run at first, fewer as requests end, one in the end."""
    trace = Trace(arrival_s=np.zeros(10), prompt_tokens=np.full(10, 2), output_tokens=np.arange(3, 13))
    step = random_step(1, max_seqs=8, capacity=400, tokens=80)
    engine = EngineSettings(block_size=1, max_seqs=8, token_budget=60, watermark=0.0)
    got = research(trace, step, engine, Rules(worth=0.9))
    assert (got.scheduled_ps == 0).sum() == int(np.sqrt(0.9 * 10)) == 3
    moments = np.unique(got.scheduled_ps)
    for now in moments:
        here = (got.finish_ps > now).sum()
        running = ((got.scheduled_ps <= now) & (got.finish_ps > now)).sum()
        admitted = (got.scheduled_ps == now).sum()
        assert running <= max(1, int(np.sqrt(0.9 * here))) or not admitted
    alone = research(trace, step, engine, Rules(worth=1e-9))
    assert alone.sequences_per_iteration == 1


@LAWFUL
@given(seed=st.integers(0, 10**6), refill=st.sampled_from([0.0, 0.3, 0.6, 0.99]), worth=st.floats(0.3, 4))
def test_groups_join_when_few_enough_are_left(seed, refill, worth):
    """All at once: who joins is next in line, has fewer running than its cap, and joins a group that began when no more
    than the part ``refill`` of its first one's cap ran."""
    rng = np.random.default_rng(seed)
    n = 12
    prompts, outputs = rng.integers(1, 9, n), rng.integers(1, 9, n)
    trace = Trace(arrival_s=np.zeros(n), prompt_tokens=prompts, output_tokens=outputs)
    step = random_step(seed % 7, max_seqs=n, capacity=400, tokens=200)
    engine = EngineSettings(block_size=1, max_seqs=n, token_budget=150, watermark=0.0)
    got = research(trace, step, engine, Rules(order="prompt", worth=worth, refill=refill))
    line = sorted(range(n), key=lambda r: (prompts[r], r))
    assert [*got.scheduled_ps[line]] == sorted(got.scheduled_ps)
    filling = False
    for now in np.unique(np.concatenate([got.scheduled_ps, got.finish_ps])):
        running = int(((got.scheduled_ps < now) & (got.finish_ps > now)).sum())
        waiting = [r for r in line if got.scheduled_ps[r] >= now]
        for i, r in enumerate(waiting):
            cap = max(1, int(np.sqrt(worth * prompts.mean() * (running + len(waiting) - i) / prompts[r])))
            if running >= cap:
                filling = False
            joins = running < cap and (filling or running <= refill * cap)
            assert joins == (got.scheduled_ps[r] == now)
            if not joins:
                break
            filling, running = True, running + 1


@pytest.mark.parametrize(
    "rules, changes, said",
    [
        (Rules(), {"stages": 2}, "one stage"),
        (Rules(), {"ranks": 2}, "one attention rank"),
        (Rules(order="weight"), {}, "needs weights"),
    ],
)
def test_what_it_cannot_do_is_refused(rules, changes, said):
    step = random_step(0, max_seqs=4, tokens=44, **changes)
    engine = EngineSettings(block_size=1, max_seqs=4, token_budget=20)
    with pytest.raises(ValueError, match=said):
        research(random_trace(0, 3, 0.0), step, engine, rules)


def test_rules_and_weights_are_checked():
    with pytest.raises(ValueError, match="mixed"):
        Rules(mixed=False)
    with pytest.raises(ValueError, match="cap"):
        Rules(cap=0)
    with pytest.raises(ValueError, match="Pausing"):
        Rules(pauses=True)
    trace, step, engine = drawn(4, 60, 1, 20, 9, 1, 0.0)
    with pytest.raises(ValueError, match="Weights"):
        research(trace, step, engine, Rules(order="weight"), weight=np.full(9, MOST_WEIGHT + 1))
    with pytest.raises(ValueError, match="round-robin"):
        research(trace, step, replace(engine, routing="least-outstanding"), Rules(), replicas=2)
