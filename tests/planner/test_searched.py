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
from planner.schedulers import clairvoyant, policy
from planner.searched import searched
from planner.setting import BOUNDED, Setting
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.plan import EngineSettings, Plan
from simulator.research import Rules
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
    for name in ("vllm-v1", "orca"):
        plan = replace(PLAN, engine=replace(PLAN.engine, policy=name))
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
    assert (
        found.rules is not None and found.rules.clairvoyant and not found.runs_on and found.name == "searched"
    )


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


def test_it_gives_up_where_nothing_helps(case, monkeypatch):
    """Moves that move nothing, each judged by a simulation."""
    served, _ = contest(case, BOUNDED["latency"])
    ran: list[int] = []
    monkeypatch.setattr(module, "_moved", lambda rng, now, most: (now.place, now.rules))
    run = module._run
    monkeypatch.setattr(module, "_run", lambda *inputs: ran.append(1) or run(*inputs))
    monkeypatch.setattr(module, "PATIENCE", 20)
    assert searched(case, BOUNDED["latency"], served) == []
    assert len(ran) == 1 + 20


def test_too_little_is_nothing(case, monkeypatch):
    goal = BOUNDED["latency"]
    served, _ = contest(case, goal)
    assert searched(case, goal, served)
    monkeypatch.setattr(module, "NEAR", 0.5)
    assert searched(case, goal, served) == []


def test_nobody_tries_where_nobody_waits(case, monkeypatch):
    """One request after the other: every order is the same schedule."""
    alone = setting(replace(TRACE, arrival_s=np.arange(len(TRACE)) * 60.0))
    served, _ = contest(alone, BOUNDED["latency"])
    monkeypatch.setattr(module, "_run", None)
    assert searched(alone, BOUNDED["latency"], served) == []


def test_who_can_be_moved():
    engine = EngineSettings()
    rules = {each.name: module._movable(each) for each in clairvoyant(engine)}
    assert rules["longest remaining"] is None and rules["mc-sf"] is not None
    assert module._movable(policy(engine, "static", "fcfs")) is None
    assert module._movable(policy(engine, "vllm-v1", "sjf", swap=True)) is None
    found = module._movable(policy(engine, "vllm-v1", "sjf"))
    assert found is not None and found.order == "prompt"


def test_moves_change_a_few_some_of_a_stretch_or_the_rules():
    place, rules = np.arange(300) / 300, Rules(order="weight", worth=4.0)
    outcome = None
    now = module._State(place=place, rules=rules, value=1.0, outcome=outcome)  # type: ignore[arg-type]
    rng, kinds = np.random.default_rng(0), {"rules": 0, "few": 0, "stretch": 0}
    for _ in range(300):
        there, other = module._moved(rng, now, 64)
        moved = np.flatnonzero(there != place)
        assert (other == rules) or not len(moved)
        assert 0 <= other.refill <= 1 and len(moved) <= module.STRETCH
        near = len(moved) > 3 and moved[-1] - moved[0] <= module.STRETCH
        kinds["rules" if other != rules else "stretch" if near else "few"] += 1
    assert kinds["rules"] >= 15 and kinds["few"] >= 100 and kinds["stretch"] >= 60
    capped = replace(now, rules=Rules(order="weight", cap=60))
    caps = [module._moved(rng, capped, 64)[1].cap or 0 for _ in range(200)]
    assert min(caps) < 60 < max(caps) <= 64


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
