"""Every scheduler of a bound report serves one setting."""

import math
from collections.abc import Callable

from formulations.hulls import IntArray
from planner.bar import Counted
from planner.objective import Objective
from planner.schedulers import (
    QUEUES,
    Contender,
    capped,
    clairvoyant,
    fewer_places,
    policy,
    priced,
    reserving,
    shortest_evicted,
)
from planner.setting import Setting
from profiles.plan import POLICIES, Plan
from simulator.outcome import Outcome

Served = list[tuple[Contender, Outcome, float | None]]
"""Contenders with what they did and the value of the objective (``Setting.value``)."""


def contest(
    setting: Setting, goal: Objective, progress: Callable[[str], None] = lambda text: None
) -> tuple[Served, list[str]]:
    """All that can serve the plan, those of engines first, and why others were left out."""
    served = _kernel(setting, goal, progress)
    if why := no_research(setting.plan):
        return served, [f"research schedulers are left out: {why}"]
    return served + _research(setting, goal, served, progress), []


def _kernel(setting: Setting, goal: Objective, progress: Callable[[str], None]) -> Served:
    """Every policy by arrival and by prompt length; with swapping too where it preempts."""
    served: Served = []
    for i, name in enumerate(POLICIES):
        progress(Counted(f"simulating {name}", i, len(POLICIES)))
        for queue in QUEUES:
            served.append(_serve(setting, goal, policy(setting.plan.engine, name, queue)))
            if served[-1][1].preemptions.any():
                served.append(_serve(setting, goal, policy(setting.plan.engine, name, queue, swap=True)))
    return served


def _serve(
    setting: Setting, goal: Objective, contender: Contender, weight: IntArray | None = None
) -> tuple[Contender, Outcome, float | None]:
    outcome = setting.serve(contender, weight)
    return contender, outcome, setting.value(contender.engine, outcome, goal)


def no_research(plan: Plan) -> str | None:
    """Why research schedulers cannot serve a plan, if they cannot."""
    if plan.stages > 1:
        return f"they serve one pipeline stage, the plan has {plan.stages}"
    if plan.attn_dp > 1:
        return f"they serve one attention rank, the plan has {plan.attn_dp} in a replica"
    if plan.replicas > 1 and plan.engine.routing != "round-robin":
        return f"they route round-robin, the plan routes {plan.engine.routing}"
    return None


def _research(
    setting: Setting, goal: Objective, kernel: Served, progress: Callable[[str], None]
) -> Served:  # fmt: skip
    """Schedulers that no engine runs, and what engines would do with another victim or none."""
    base = setting.plan.engine
    progress("simulating research schedulers")
    served = [_serve(setting, goal, each) for each in reserving(base)]
    for each, outcome, _ in kernel:
        if each.engine.preemption == "recompute" and outcome.preemptions.any():
            srf = shortest_evicted(base, each.engine.policy, each.engine.queue)
            served.append(_serve(setting, goal, srf))
    weight = setting.weights()
    served += [_serve(setting, goal, each, weight) for each in clairvoyant(base)]
    own = next(pair for pair in kernel if pair[0].engine.policy == "vllm-v1")
    families = [found for queue in QUEUES if (found := fewer_places(base, queue))] + [capped(base)]
    if worth := setting.worth(own[0].engine, own[1]):
        families.append(priced(base, worth))
    for family in families:
        tried = [_serve(setting, goal, each, weight) for each in family]
        served.append(min(tried, key=lambda one: math.inf if one[2] is None else goal.score(one[2])))
    return served
