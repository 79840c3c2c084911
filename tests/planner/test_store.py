"""What is asked for twice is made once, and what differs is never mixed up."""

import dataclasses

import numpy as np
import pytest

from planner import pipeline
from planner.pipeline import Evaluator, candidates_of, optimize
from planner.question import Question, parse_slo
from planner.store import Store, array_bytes, space_content, trace_content
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from traces.trace import Trace
from traces.transform import scale_rate

TRACE = Trace(
    arrival_s=np.arange(20) * 0.05, prompt_tokens=np.full(20, 90), output_tokens=np.full(20, 20), name="t"
)


def question(**changes):
    base = {"model": load_model("opt-125m"), "fleet": homogeneous("l40s", gpus=2), "trace": TRACE}
    return Question(**(base | changes))


def test_large_values_share_the_room_and_those_used_last_stay():
    store = Store(most_bytes=20)
    for key in (1, 2, 1, 3, 1, 2):  # 2 goes when 3 comes, for 1 was used after it
        assert store.get("square", key, lambda key=key: key * key, size=lambda _: 10) == key * key
    assert store.made["square"] == 4 and store.reused["square"] == 2


def test_a_store_without_room_still_answers():
    store = Store(most_bytes=0)
    assert [store.get("one", 0, lambda: 1, size=lambda _: 1) for _ in range(2)] == [1, 1]
    assert store.made["one"] == 2


def test_bytes_of_tables_are_those_of_their_arrays():
    asked = question()
    evaluator = Evaluator(asked, silicon=False)
    step = evaluator.step(candidates_of(asked)[0])
    arrays = [getattr(step, f.name) for f in dataclasses.fields(step)]
    assert array_bytes(step) > sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))


@pytest.mark.parametrize(
    ("change", "same_space"),
    [
        ({"objective": "energy"}, True),
        ({"slos": (parse_slo("ttft_p95<=1s"),)}, True),
        ({"trace": scale_rate(TRACE, 2.0)}, True),
        ({"trace": dataclasses.replace(TRACE, output_tokens=TRACE.output_tokens + 1)}, False),
        ({"fix": {}}, True),
        ({"fleet": homogeneous("l40s", gpus=1)}, False),
        ({"fleet": homogeneous("a100-sxm-80gb", gpus=2)}, False),
        ({"fix": {"attn_tp": 1}}, False),
        ({"forbid": (("pp", 2),)}, False),
        ({"model": load_model("opt-350m")}, False),
        ({"gpu_memory_utilization": 0.8}, False),
        ({"max_seqs": (8,)}, False),
    ],
    ids=str,
)
def test_plan_spaces_are_shared_by_what_decides_them(change, same_space):
    assert (space_content(question()) == space_content(question(**change))) is same_space


def test_every_answer_from_a_store_is_the_answer_without_one():
    store = Store()
    for change in (
        {},
        {"objective": "energy"},
        {"objective": "cost"},
        {"objective": "goodput", "slos": (parse_slo("ttft_p95<=20ms"),)},
        {"objective": "goodput", "slos": (parse_slo("ttft_p95<=200ms"),)},
        {"slos": (parse_slo("ttft_mean<=1us"),)},
        {"trace": scale_rate(TRACE, 4.0)},
        {"fleet": homogeneous("l40s", gpus=4)},
        {"fleet": homogeneous("h100", gpus=2)},
        {"engine": "none"},
    ):
        asked = question(**change)
        assert optimize(asked, silicon=False, store=store) == optimize(asked, silicon=False)
    assert store.reused["simulation"] and store.reused["cost tables"] and store.reused["plan space"]


def test_questions_that_differ_in_limits_and_objective_alone_compile_and_simulate_a_plan_once(monkeypatch):
    seen = []

    def counted(trace, step, engine, *, replicas):
        seen.append((trace_content(trace), id(step), replicas))
        return simulate(trace, step, engine, replicas=replicas)

    simulate = pipeline.simulate
    monkeypatch.setattr(pipeline, "simulate", counted)
    store, plans = Store(), len(candidates_of(question()))
    for objective in ("latency", "energy", "throughput", "ttft"):
        for limit in ("1s", "30ms", "10ms"):
            slos = (parse_slo(f"ttft_p95<={limit}"),)
            optimize(question(objective=objective, slos=slos), silicon=False, store=store, everything=True)
    assert len(seen) == len(set(seen)) == plans == store.made["simulation"] == store.made["cost tables"]
    assert store.reused["simulation"] == 11 * plans
    assert store.made["plan space"] == store.made["profile"] == 1
