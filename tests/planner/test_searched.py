"""Local search over schedules: better than its start, never below the bound, the same again, idle where it must be."""

from dataclasses import replace

import numpy as np
import pytest

from planner import searched as module
from planner.bound_report import bound_report
from planner.contest import contest
from planner.pipeline import Candidate, Evaluator
from planner.placement import place
from planner.question import Question
from planner.searched import MOST_TRIES, searched
from planner.setting import BOUNDED, Setting
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.plan import EngineSettings, Plan
from traces.synth import synthesize
from traces.trace import Trace

TRACE = synthesize(
    requests=60, rate=400, prompt_mean=300, prompt_sd=300, output_mean=60, output_sd=60, most_tokens=1500, name="crowd"
)  # fmt: skip
QUESTION = Question(model=load_model("opt-125m"), fleet=homogeneous("l40s", gpus=1), trace=TRACE)
PLAN = Plan(layers_per_stage=(12,), engine=EngineSettings(max_seqs=16, token_budget=512))


def setting(trace: Trace) -> Setting:
    """More requests than places, of lengths that differ: their order matters."""
    evaluator, steps = Evaluator(replace(QUESTION, trace=trace), silicon=False), []
    for policy in ("vllm-v1", "orca"):
        plan = replace(PLAN, engine=replace(PLAN.engine, policy=policy))
        placed = place(plan, QUESTION.fleet.pools[0])
        steps.append(evaluator.step(Candidate(plan=plan, pool=0, placement=placed)))
    return Setting(trace=trace, plan=PLAN, chunked=steps[0], whole=steps[1])


@pytest.fixture(scope="module")
def case() -> Setting:
    return setting(TRACE)


def test_it_is_better_than_all_others_and_never_below_the_bound(case):
    goal = BOUNDED["latency"]
    served, _ = contest(case, goal)
    best = min(value for _, _, value in served if value is not None)
    bound = case.bound("latency", swaps=False).value
    ((found, outcome, value),) = searched(case, goal, served, bound=bound)
    assert bound <= value < best
    assert case.value(found.engine, outcome, goal) == value
    assert outcome.served.all() and (outcome.output_tokens == case.trace.output_tokens).all()
    assert found.rules is not None and found.rules.clairvoyant and not found.runs_on


def test_the_same_inputs_find_the_same_and_other_seeds_others(case):
    goal = BOUNDED["latency"]
    served, _ = contest(case, goal)
    ends = [searched(case, goal, served, seed=seed)[0][1].finish_ps.tolist() for seed in (1, 1, 2)]
    assert ends[0] == ends[1] != ends[2]


def test_more_tries_are_no_worse(case, monkeypatch):
    goal = BOUNDED["latency"]
    served, _ = contest(case, goal)
    values = []
    for tries in (30, 60, 120):
        monkeypatch.setattr(module, "MOST_TRIES", tries)
        values += [value for *_, value in searched(case, goal, served)]
    assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_nothing_is_looked_for_where_nothing_can_be_won(case, monkeypatch):
    goal = BOUNDED["latency"]
    served, _ = contest(case, goal)
    best = min(value for _, _, value in served if value is not None)
    monkeypatch.setattr(module, "_moved", None)  # whoever tries a move fails
    assert searched(case, goal, served, bound=best / 1.0005) == []
    assert searched(case, BOUNDED["energy"], served) == []
    ranks = replace(case.plan, engine=replace(case.plan.engine, routing="least-outstanding"), replicas=2)
    assert searched(replace(case, plan=ranks), goal, served) == []
    with pytest.raises(TypeError):
        searched(case, goal, served)


def test_it_gives_up_where_nothing_helps(case):
    """Alike requests that all fit at once: no order is better."""
    alike = replace(TRACE, arrival_s=np.zeros(60), prompt_tokens=np.full(60, 8), output_tokens=np.full(60, 1))
    case = replace(case, trace=alike)
    served, _ = contest(case, BOUNDED["ttft"])
    said: list[str] = []
    searched(case, BOUNDED["ttft"], served, progress=said.append)
    assert len(said) <= module.PATIENCE / module.PAIR < MOST_TRIES


def test_a_report_has_it_where_it_wins():
    rows = bound_report(QUESTION, PLAN, "latency", silicon=False, explain=False).schedulers
    best = min(rows, key=lambda row: row.value or np.inf)
    assert best.name == "searched" and best.ratio is not None and best.ratio >= 1


@pytest.mark.parametrize("objective", ["latency", "ttft"])
@pytest.mark.parametrize("rate", [60, 200, 2000])
def test_whoever_tries_hard_stays_above_the_prices(objective, rate):
    """Of all schedulers it comes nearest to the bound, so it is the one to break it."""
    goal = BOUNDED[objective]
    for seed in range(2):
        trace = synthesize(
            requests=40, rate=rate, prompt_mean=300, prompt_sd=400, output_mean=30, output_sd=40, most_tokens=1200,
            seed=seed,
        )  # fmt: skip
        here = setting(trace)
        served, _ = contest(here, goal)
        bound = here.bound(objective, swaps=False, priced=True).value
        values = [value for _, _, value in [*served, *searched(here, goal, served)] if value is not None]
        assert bound <= min(values), seed
