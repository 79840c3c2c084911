"""A scheduler that tries: the order, cap and groups of the best one so far, moved wherever that helps.

Local search, with every simulation at hand to judge a move: requests come earlier or later in the queue, a few or some
of a stretch of arrivals, or batches are larger and join sooner. It knows all that there is to know, so no engine runs
it; what it reaches narrows where the optimum is from above, as the bound does from below.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from formulations.hulls import FloatArray, IntArray
from planner.bar import Counted
from planner.contest import Served, no_research
from planner.objective import Objective
from planner.schedulers import Contender, rules_of
from planner.setting import Setting
from simulator import metrics
from simulator.outcome import Outcome
from simulator.research import ENGINE_RULES, Rules, keys

SEARCHED = {"latency": "e2e", "ttft": "ttft"}
"""Objectives that the order of the queue decides, and what each is the mean of."""

TRIES_EACH, LEAST_TRIES, MOST_TRIES, MOST_TOKENS = 2, 800, 2000, 400_000_000
"""Simulations for each request, of all requests at least and at most, and of so many generated tokens in all."""

PATIENCE, SAID = 200, 250
"""Tries in a row that find nothing better, after which no more are made, a quarter of all at most; how often it is said
how many were made."""

NEAR = 1e-3
"""So near the bound there is nothing to look for, and so little is nothing found."""

FAR, NEARER = 0.1, 0.05
"""How far requests move in the queue, a part of it: a few of them, or some of a stretch."""

STRETCH, SOME = 100, 0.3
"""Longest stretch of arrivals, and the part of it that moves."""

RULES_PART, LARGER, SOONER = 0.1, 0.2, 0.1
"""The part of tries that changes rules; by how much (logarithm of caps; part that is left)."""

PAIR = 2
"""Tries from the same state, on as many threads; the better one counts. So threads change no answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """``place``: of each request, its place in the queue, 0 to about 1."""

    place: FloatArray
    rules: Rules
    value: float
    outcome: Outcome


def searched(
    setting: Setting, goal: Objective, served: Served, *, bound: float = 0.0, seed: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> Served:  # fmt: skip
    """Who is better than all that are served, if one is found: the same inputs find the same.

    Parameters
    ----------
    bound
        On the objective; whoever is near it is good enough.
    """
    if goal.name not in SEARCHED or no_research(setting.plan) or not _order_matters(served):
        return []
    ranked = sorted(((value, each) for each, _, value in served if value is not None), key=lambda one: one[0])
    starts = [(each, rules) for _, each in ranked if (rules := _movable(each))]
    if not starts or ranked[0][0] <= bound * (1 + NEAR):
        return []
    best, (first, rules), rng = ranked[0][0], starts[0], np.random.default_rng(seed)
    tokens = int(setting.trace.output_tokens.sum())
    tries = min(max(LEAST_TRIES, TRIES_EACH * len(setting.trace)), MOST_TRIES, MOST_TOKENS // tokens)
    base, _ = keys(rules, setting.trace, setting.weights() if rules.order == "weight" else None)
    now = _run(setting, goal, first, _ranks(base) / len(base), replace(rules, order="weight"))
    tried, last, patience = 0, 0, min(PATIENCE, tries // 4)
    with ThreadPoolExecutor(PAIR) as threads:
        while tried < min(tries, last + patience):
            if tried % SAID == 0:
                progress(Counted("looking for a better schedule", tried, tries))
            pair = [_moved(rng, now, setting.plan.engine.max_seqs) for _ in range(PAIR)]
            found = threads.map(lambda one: _run(setting, goal, first, *one), pair)
            better, tried = min(found, key=lambda state: state.value), tried + PAIR
            last = tried if better.value < now.value else last
            now = better if better.value <= now.value else now
    if now.value > best * (1 - NEAR):
        return []
    return [(Contender(name="searched", engine=first.engine, rules=now.rules), now.outcome, now.value)]


def _order_matters(served: Served) -> bool:
    """Whether the shortest prompt first is another schedule than the first that came: else nobody waits for others."""
    ends = {
        outcome.finish_ps.tobytes()
        for each, outcome, _ in served
        if each.rules is None and each.engine.policy == "vllm-v1" and each.engine.preemption == "recompute"
    }
    return len(ends) != 1


def _movable(contender: Contender) -> Rules | None:
    """Its rules, where its queue could be in any order."""
    engine, rules = contender.engine, contender.rules
    if rules is None and engine.policy in ENGINE_RULES and engine.preemption == "recompute":
        return rules_of(engine)
    return None if rules is None or rules.pauses else rules


def _ranks(values: FloatArray | IntArray) -> IntArray:
    """How many come before each, the least first."""
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


def _run(setting: Setting, goal: Objective, contender: Contender, place: FloatArray, rules: Rules) -> _State:
    outcome = setting.serve(replace(contender, rules=rules), _ranks(place))
    value = metrics.slo_value(outcome, SEARCHED[goal.name], None)
    return _State(place=place, rules=rules, value=value, outcome=outcome)


def _moved(rng: np.random.Generator, now: _State, max_seqs: int) -> tuple[FloatArray, Rules]:
    """A neighbour: its order and its rules."""
    place, rules, n = now.place, now.rules, len(now.place)
    kind = rng.random()
    if kind < RULES_PART:
        times, refill = math.exp(rng.normal(0.0, LARGER)), rules.refill + rng.normal(0.0, SOONER)
        refill = min(1.0, max(0.0, refill))
        if rules.worth > 0:
            return place, replace(rules, worth=rules.worth * times, refill=refill)
        cap = max(1, min(max_seqs, round((rules.cap or max_seqs) * times)))
        return place, replace(rules, cap=cap, refill=refill)
    place = place.copy()
    if kind < (1 + RULES_PART) / 2:
        few = rng.integers(0, n, size=rng.integers(1, 4))
        place[few] += rng.normal(0.0, FAR, len(few))
    else:
        begin, length = int(rng.integers(0, n)), int(rng.integers(2, STRETCH + 1))
        some = np.arange(begin, min(n, begin + length))
        some = some[rng.random(len(some)) < SOME]
        place[some] += rng.normal(0.0, NEARER, len(some))
    return place, rules
