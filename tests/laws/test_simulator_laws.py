"""Laws of the simulator: true of every trace, table and policy, and said without simulating anything.

Conservation, causality, work conservation, roofline, energy, no-op, determinism, and the symmetries that an
exact simulator has: scale time, copy the replica, add memory that nobody asks for.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.plan import POLICIES, EngineSettings
from profiles.stepcost import PROVENANCE
from simulator.engine import simulate
from simulator.outcome import Outcome
from tests.simulator import steps
from tests.simulator.steps import Case
from traces.trace import Trace

any_case = st.builds(lambda seed: steps.random_case(np.random.default_rng(seed)), st.integers(0, 10**9))
law = settings(deadline=None, max_examples=150, derandomize=True)

RECORDS = ("scheduled_ps", "first_token_ps", "finish_ps", "preemptions", "replica")


def serve(case: Case, **changes: Any) -> Outcome:
    return simulate(**case.arguments | changes)


def part(trace: Trace, keep: Any) -> Trace:
    columns = ("arrival_s", "prompt_tokens", "output_tokens")
    return dataclasses.replace(trace, **{name: getattr(trace, name)[keep] for name in columns})


# ---------------------------------------------------------------- 1 conservation


@law
@given(case=any_case)
def test_every_request_finishes_or_is_rejected_with_a_reason(case: Case) -> None:
    outcome = serve(case)
    rejected = np.zeros(len(case.trace), bool)
    rejected[list(outcome.rejected)] = True
    assert np.array_equal(outcome.served, ~rejected)
    assert np.array_equal(outcome.replica >= 0, ~rejected)
    stored = case.trace.prompt_tokens + case.trace.output_tokens - 1
    for reason in outcome.rejected.values():
        needs = int(reason.split()[1])
        assert needs > case.step.kv_blocks and f"a rank has {case.step.kv_blocks}" in reason
    capacity = case.step.kv_blocks * case.engine.block_size
    assert rejected[stored > capacity].all()


@law
@given(case=any_case)
def test_tokens_are_conserved(case: Case) -> None:
    """What enters the cache is what leaves it: computed - recomputed = prompt + output - 1, summed. And
    every output token is the end of a prompt, of one computed again, or of a decode."""
    outcome = serve(case)
    ok = outcome.served
    prompts, outputs = case.trace.prompt_tokens[ok], case.trace.output_tokens[ok]
    computed = outcome.prefill_tokens + outcome.decode_tokens - outcome.recomputed_tokens
    assert computed == (prompts + outputs - 1).sum()
    assert outcome.gaps.sum() == (outputs - 1).sum()
    again = outputs.sum() - ok.sum() - outcome.decode_tokens
    assert 0 <= again <= outcome.preemptions.sum()
    if case.engine.preemption == "swap" or not outcome.preemptions.any():
        assert again == 0


@law
@given(case=any_case)
def test_blocks_are_conserved(case: Case) -> None:
    outcome = serve(case)
    assert np.all(outcome.free_blocks == case.step.kv_blocks)
    stored = (case.trace.prompt_tokens + case.trace.output_tokens - 1)[outcome.served]
    most = -(-stored // case.engine.block_size)
    assert most.max(initial=0) <= outcome.peak_blocks <= case.step.kv_blocks
    if case.engine.policy not in ("static", "orca"):
        assert outcome.peak_blocks <= most.sum()


@law
@given(case=any_case)
def test_sequences_are_conserved(case: Case) -> None:
    """A batch holds at most ``max_seqs`` per rank, and every decode is in exactly one."""
    outcome = serve(case)
    assert outcome.sequences_per_iteration <= case.engine.max_seqs * case.step.ranks
    in_batches = round(outcome.sequences_per_iteration * outcome.iterations)
    assert in_batches >= outcome.decode_tokens + outcome.served.sum()
    if not case.engine.chunks_prefill and case.engine.preemption == "swap":
        assert in_batches == outcome.decode_tokens + outcome.served.sum()


# ---------------------------------------------------------------- 2 causality and work conservation


@law
@given(case=any_case)
def test_causes_come_before_effects(case: Case) -> None:
    outcome = serve(case)
    ok = outcome.served
    assert np.all(outcome.arrival_ps[ok] <= outcome.scheduled_ps[ok])
    assert np.all(outcome.scheduled_ps[ok] < outcome.first_token_ps[ok])
    assert np.all(outcome.first_token_ps[ok] <= outcome.finish_ps[ok])
    one = ok & (case.trace.output_tokens == 1)
    assert np.array_equal(outcome.first_token_ps[one], outcome.finish_ps[one])
    more = ok & (case.trace.output_tokens > 1)
    assert np.all(outcome.first_token_ps[more] < outcome.finish_ps[more])


@law
@given(case=any_case)
def test_the_future_does_not_change_the_past(case: Case) -> None:
    """Without the last request, everything that was over before it arrived is as it was."""
    whole = serve(case)
    if len(case.trace) == 1 or case.engine.policy in ("static", "orca"):
        return  # these know the longest request of the trace beforehand
    before = serve(case, trace=part(case.trace, slice(-1)))
    arrival = whole.arrival_ps[-1]
    for name in RECORDS[:3]:
        old, new = getattr(before, name), getattr(whole, name)[:-1]
        over = (old < arrival) | (new < arrival)
        assert np.array_equal(old[over], new[over])


@law
@given(case=any_case)
def test_a_replica_works_while_it_has_requests(case: Case) -> None:
    """Time with a batch in flight = the time between arrival and finish of any of its requests."""
    outcome = serve(case)
    present = 0
    for replica in range(case.replicas):
        mine = outcome.replica == replica
        until = 0
        for arrival, finish in zip(outcome.arrival_ps[mine], outcome.finish_ps[mine], strict=True):
            present += max(0, finish - max(arrival, until))
            until = max(until, finish)
    assert outcome.busy_ps == present


@law
@given(case=any_case)
def test_stages_are_never_busier_than_the_replica(case: Case) -> None:
    outcome = serve(case)
    sends = outcome.breakdown_ps.get("send/recv", 0)
    assert outcome.stage_busy_ps <= outcome.busy_ps * case.step.stages
    assert outcome.busy_ps <= outcome.stage_busy_ps + sends  # some batch is on a stage or between two
    if case.step.stages == 1:
        assert outcome.stage_busy_ps == outcome.busy_ps


# ---------------------------------------------------------------- 3 roofline


@law
@given(case=any_case)
def test_an_iteration_takes_as_long_as_its_parts(case: Case) -> None:
    """On one rank exactly their sum; on several at least the mean rank and at most all of them in turn."""
    outcome = serve(case)
    parts = outcome.breakdown_ps
    sends = parts.get("send/recv", 0)
    every = sum(parts.values()) - sends
    if case.step.ranks == 1:
        assert outcome.stage_busy_ps == every
    else:
        assert every <= outcome.stage_busy_ps <= every * case.step.ranks + 3 * case.step.ranks


@law
@given(case=any_case)
def test_no_request_beats_the_devices_alone(case: Case) -> None:
    """Where batching never shortens a batch, a request takes at least the time it takes when alone."""
    ranks, stages, engine = case.step.ranks, case.step.stages, case.engine
    engine = dataclasses.replace(engine, token_budget=200, queue="fcfs")
    step = steps.affine_step(
        ranks=ranks, stages=stages, max_seqs=engine.max_seqs, kv_blocks=case.step.kv_blocks
    )
    outcome = serve(case, step=step, engine=engine)
    for i in np.flatnonzero(outcome.served)[:5]:
        alone = simulate(part(case.trace, slice(i, i + 1)), step, engine)
        assert (
            outcome.first_token_ps[i] - outcome.arrival_ps[i] >= alone.first_token_ps[0] - alone.arrival_ps[0]
        )
        assert outcome.finish_ps[i] - outcome.arrival_ps[i] >= alone.finish_ps[0] - alone.arrival_ps[0]


@law
@given(case=any_case)
def test_work_of_a_stage_fits_into_the_makespan(case: Case) -> None:
    """No stage does more than one thing at a time: the time of all weights read is in the makespan."""
    outcome = serve(case)
    if not outcome.served.any():
        return
    step = case.step
    least = outcome.iterations * min(
        int(step.local_ps[p].min() + step.shared_ps[p].min()) for p in range(step.stages)
    )
    assert least <= case.replicas * (outcome.end_ps - outcome.arrival_ps[outcome.served].min())


# What the breakdown calls it, the tables it comes from, and whether every attention rank has its own.
PARTS = {
    "own": (("local",), True),
    "all": (("shared",), False),
    "head": (("head",), False),
    "attention (decode)": (("decode_value", "decode_slope"), True),
    "attention (prefill)": (("prefill_launch", "prefill"), True),
    "send/recv": (("send",), False),
}
ALL_TABLES = [table for tables, _ in PARTS.values() for table in tables]


def named_parts(case: Case) -> Any:
    """The tables of a case with a part for each, and one kind of source for each part; what prompts and decodes
    take more together has no energy of its own, and is nothing here."""
    step = case.step

    def only(kind: str, *shape: int) -> Any:
        rows = np.array([name == kind for name in PROVENANCE], float)
        return np.broadcast_to(rows.reshape(-1, *(1 for _ in shape)), (len(PROVENANCE), *shape))

    return dataclasses.replace(
        step,
        local_parts={"own": step.local_ps.sum(axis=0)},
        shared_parts={"all": step.shared_ps.sum(axis=0)},
        head_parts={"head": step.head_ps},
        local_provenance=only("measured", step.local_ps.shape[1]),
        shared_provenance=only("interpolated", step.shared_ps.shape[1]),
        head_provenance=only("extrapolated", len(step.head_ps)),
        decode_provenance=only("measured", step.max_seqs + 1),
        prefill_provenance=only("interpolated"),
        mixed_value_ps=None,
        mixed_slope_ps=None,
        mixed_token_ps=None,
    )


@law
@given(case=any_case)
def test_parts_of_the_time_are_what_a_meter_on_each_of_them_reads(case: Case) -> None:
    """A device that draws 1 nJ per picosecond of one part, and nothing else, has that part as its energy. Each
    part counts for where its times come from; what is sent or swapped is modelled."""
    step = named_parts(case)
    outcome = serve(case, step=step)
    read = {}
    for part_name, (tables, per_rank) in PARTS.items():
        drawn = {f"{table}_nj": getattr(step, f"{table}_ps") * int(table in tables) for table in ALL_TABLES}
        energy = serve(case, step=dataclasses.replace(step, **drawn)).energy_nj
        read[part_name] = energy / step.ranks if per_rank else energy
        assert outcome.breakdown_ps.get(part_name, 0) == int(read[part_name])
    read["swap"] = outcome.breakdown_ps.get("swap", 0)
    assert read["swap"] <= outcome.swapped_blocks * step.swap_block_ps
    total = sum(read.values())
    sources = {
        "measured": read["own"] + read["attention (decode)"],
        "interpolated": read["all"] + read["attention (prefill)"],
        "extrapolated": read["head"],
        "modelled": read["send/recv"] + read["swap"],
    }
    assert outcome.provenance == pytest.approx({k: v / total for k, v in sources.items()} if total else {})


# ---------------------------------------------------------------- 7 energy


@law
@given(case=any_case, watts=st.sampled_from([1000, 700_000]))
def test_energy_lies_between_idle_and_cap(case: Case, watts: int) -> None:
    """idle power x time <= energy <= (idle + what every device may draw above it) x time."""
    ranks, stages = case.step.ranks, case.step.stages
    step = steps.affine_step(
        ranks=ranks, stages=stages, max_seqs=case.engine.max_seqs, kv_blocks=case.step.kv_blocks, watts=watts
    )
    outcome = serve(case, step=step)
    seconds = outcome.end_ps / 1e12
    idle = step.idle_w * case.replicas
    assert idle * seconds <= outcome.energy_j
    assert outcome.energy_nj <= watts * ranks * outcome.stage_busy_ps // 1000
    assert outcome.energy_j <= (idle + watts * ranks * stages * case.replicas) * seconds * (1 + 1e-12)
    if ranks == 1 and case.engine.preemption != "swap":  # every joule of every busy picosecond
        assert outcome.energy_nj == watts * outcome.stage_busy_ps // 1000


# ---------------------------------------------------------------- 10 no-op


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("prompt", "output"), [(1, 1), (1, 40), (80, 1), (80, 90)])
def test_alone_every_policy_gives_the_same_times(prompt: int, output: int, ranks: int, stages: int) -> None:
    rng = np.random.default_rng(prompt + output)
    step = steps.random_step(rng, ranks=ranks, stages=stages)
    trace = steps.trace_of(np.array([70]), np.array([prompt]), np.array([output]))
    times = set()
    for policy in POLICIES:
        for preemption in ("recompute", "swap"):
            for size in (1, 16):
                engine = EngineSettings(
                    policy=policy, max_seqs=4, token_budget=80, preemption=preemption, block_size=size,
                    watermark=0 if size == 1 else 0.1,
                )  # fmt: skip
                step = dataclasses.replace(step, kv_blocks=200)
                outcome = simulate(trace, step, engine)
                times.add(tuple(int(getattr(outcome, name)[0]) for name in RECORDS[:3]))
    assert len(times) == 1
    assert times.pop()[0] == 70  # and it starts at once


# ---------------------------------------------------------------- determinism and symmetries


@law
@given(case=any_case)
def test_the_same_question_gives_the_same_bytes(case: Case) -> None:
    one, two = serve(case), serve(case)
    for field in dataclasses.fields(Outcome):
        first, second = getattr(one, field.name), getattr(two, field.name)
        if isinstance(first, np.ndarray):
            assert first.tobytes() == second.tobytes()
        else:
            assert repr(first) == repr(second)


TIMES = (
    "local_ps", "shared_ps", "head_ps", "send_ps", "decode_value_ps", "decode_slope_ps",
    "mixed_value_ps", "mixed_slope_ps", "mixed_token_ps", "prefill_launch_ps", "prefill_ps", "swap_block_ps",
)  # fmt: skip


@law
@given(case=any_case)
def test_time_has_no_unit(case: Case) -> None:
    """Devices and arrivals twice as slow: every time doubles, nothing else changes."""
    slower = dataclasses.replace(case.step, **{name: getattr(case.step, name) * 2 for name in TIMES})
    trace = dataclasses.replace(case.trace, arrival_s=case.trace.arrival_s * 2)
    one, two = serve(case), serve(case, step=slower, trace=trace)
    for name in RECORDS[:3]:
        assert np.array_equal(getattr(one, name)[one.served] * 2, getattr(two, name)[one.served])
    assert one.busy_ps * 2 == two.busy_ps and one.energy_nj == two.energy_nj
    assert one.iterations == two.iterations and np.array_equal(one.preemptions, two.preemptions)


@law
@given(case=any_case, copies=st.integers(2, 4))
def test_copies_of_a_replica_serve_copies_of_a_trace(case: Case, copies: int) -> None:
    """Every request sent ``copies`` times in a row, in turn to as many replicas: each serves the trace."""
    engine = dataclasses.replace(case.engine, routing="round-robin")
    one = serve(case, engine=engine, replicas=1)
    many = serve(
        case,
        engine=engine,
        replicas=copies,
        trace=part(case.trace, np.repeat(np.arange(len(case.trace)), copies)),
    )
    for name in RECORDS[:4]:
        assert np.array_equal(np.repeat(getattr(one, name), copies), getattr(many, name))
    for name in ("iterations", "busy_ps", "energy_nj", "kv_read_tokens", "swapped_blocks"):
        assert getattr(one, name) * copies == getattr(many, name)


@law
@given(case=any_case)
def test_the_least_loaded_replica_gets_the_request(case: Case) -> None:
    """Restated from the records alone: outstanding before an arrival = routed there and not finished."""
    engine = dataclasses.replace(case.engine, routing="least-outstanding")
    outcome = serve(case, engine=engine, replicas=3)
    ids = np.flatnonzero(outcome.served)
    for position, i in enumerate(ids):
        earlier = ids[:position]
        waiting = earlier[outcome.finish_ps[earlier] >= outcome.arrival_ps[i]]
        load = np.bincount(outcome.replica[waiting], minlength=3)
        assert outcome.replica[i] == load.argmin()


# ---------------------------------------------------------------- 9 monotony

# A pool this large never runs out, so that more of it cannot matter.
ENOUGH = 25 * 140


@law
@given(case=any_case)
def test_memory_that_nobody_asks_for_changes_nothing(case: Case) -> None:
    engine = dataclasses.replace(case.engine, watermark=0)
    two = [
        serve(case, engine=engine, step=dataclasses.replace(case.step, kv_blocks=blocks))
        for blocks in (ENOUGH, 2 * ENOUGH)
    ]
    assert not two[0].rejected and not two[0].preemptions.any()
    for name in RECORDS:
        assert np.array_equal(getattr(two[0], name), getattr(two[1], name))
    assert two[0].peak_blocks == two[1].peak_blocks


def slower_local(step: Any) -> Any:
    return dataclasses.replace(step, local_ps=step.local_ps + 1)


def slower_decode(step: Any) -> Any:
    value = step.decode_value_ps + 1
    value[:, 0] = 0
    return dataclasses.replace(step, decode_value_ps=value)


def slower_prefill(step: Any) -> Any:
    return dataclasses.replace(step, prefill_launch_ps=step.prefill_launch_ps + 1)


@pytest.mark.parametrize("slower", [slower_local, slower_decode, slower_prefill])
@law
@given(case=any_case)
def test_a_slower_device_makes_a_lone_request_later(case: Case, slower: Callable[[Any], Any]) -> None:
    trace = part(case.trace, slice(1))
    fast, slow = serve(case, trace=trace), serve(case, trace=trace, step=slower(case.step))
    if not fast.served[0]:
        return
    assert fast.finish_ps[0] < slow.finish_ps[0] or (slower is slower_decode and trace.output_tokens[0] == 1)
    assert fast.first_token_ps[0] < slow.first_token_ps[0] or slower is slower_decode
