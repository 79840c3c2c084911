"""The plan space: axes and their integer attributes. The only place where floats become integers.

Needs are rounded up and the capacity down, to KiB: a plan that passes here fits by real numbers.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from itertools import product
from typing import TYPE_CHECKING

from formulations.plans_cpsat import PlansCpSat, common_divisors, head_widths
from formulations.problem import WIDTHS, Limits, PlanInstance, Status
from planner.deployable import ENGINES, deployable
from planner.errors import NoFeasiblePlan, NoPlanInTime
from planner.layouts import (
    Setting,
    blocks_needed,
    fullest_need_bytes,
    layers_of,
    longest_of,
    plan_of,
    settings,
)
from planner.question import Question
from planner.reasons import explain
from planner.rules import limits_of, name_of, rules_of, widened
from profiles.errors import InputError
from profiles.model import FeedForward, MoE
from profiles.plan import Plan

if TYPE_CHECKING:
    from profiles.fleet import Pool

KIB = 1024


def group_limit(question: Question, pool: "Pool") -> int:
    """Most devices of a tensor or expert group: those free on one node, unless it may leave the node."""
    return pool.devices if question.cross_node_tensor else max(pool.free)


def _rules(question: Question) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """Fixed and forbidden widths of the user; fixed layers are a number of stages here."""
    fixed = {axis: value for axis, value in question.fix.items() if axis in WIDTHS}
    forbidden = [(axis, value) for axis, value in question.forbid if axis in WIDTHS]
    total = len(question.model.decoder.layers)
    layers = question.fix.get("layers")
    if isinstance(layers, tuple):
        fixed["pp"] = len(layers)
    forbidden += [
        ("pp", len(value))
        for axis, value in question.forbid
        if axis == "layers" and isinstance(value, tuple) and len(value) <= total
        if layers_of(question, len(value)) == value
    ]
    return (
        [(axis, int(str(value))) for axis, value in fixed.items()],
        [(axis, int(str(value))) for axis, value in dict.fromkeys(forbidden)],
    )


def build_instance(question: Question, pool: "Pool") -> PlanInstance:
    """The plan space of one pool in integers, see ``formulations.plans_cpsat``.

    Some combination of formats and engine settings must be left.

    Raises
    ------
    InputError
        When fixed layers do not add up to the model's.
    """
    model = question.model
    choices = settings(question, pool.device)
    fixed, forbidden = _rules(question)
    blocks = model.decoder.blocks + (model.encoder.blocks if model.encoder else ())
    cells = [cell for block in blocks for cell in block.attention]
    dense = [block.ffn for block in blocks if isinstance(block.ffn, FeedForward)]
    experts = [block.ffn for block in blocks if isinstance(block.ffn, MoE)]
    instance = PlanInstance(
        devices=pool.devices,
        exact_devices=question.use_all_devices,
        at_most=tuple(limits_of(question, pool).items()),
        layers=len(model.decoder.layers),
        group_limit=group_limit(question, pool),
        nodes=() if question.cross_node_tensor else tuple(pool.free),
        heads=tuple(dict.fromkeys((cell.q_heads, cell.kv_heads) for cell in cells)),
        dense_inner=tuple(dict.fromkeys(ffn.inner for ffn in dense)),
        routed_inner=tuple(dict.fromkeys(ffn.inner for ffn in experts)),
        experts=tuple(dict.fromkeys(ffn.experts for ffn in experts)),
        settings=len(choices),
        need_kib={},
        capacity_kib=int(pool.device.memory_bytes * question.settings().gpu_memory_utilization) // KIB,
        fixed=tuple(fixed),
        forbidden=tuple(forbidden),
    )
    needs = _needs(question, instance, choices)
    runnable = _runnable(question, pool, needs, choices) if question.deployable else None
    return dataclasses.replace(instance, need_kib=needs, runnable=runnable)


def _runnable(
    question: Question, pool: "Pool", keys: Iterable[tuple[int, ...]], choices: tuple[Setting, ...]
) -> frozenset[tuple[int, ...]]:
    """Layouts of one replica, with their setting, that a wanted engine runs; replicas and clocks are alike."""
    wanted = set(question.deployable_on or ENGINES)
    return frozenset(
        key
        for key in keys
        if wanted
        & deployable(plan_of(question, (1, *key[:-1]), choices[key[-1]]), question.model, pool.device).keys()
    )


def _stages(instance: PlanInstance) -> Iterator[tuple[int, int, int, int, int]]:
    """Five widths of every stage that meets all constraints but the user's and memory's."""
    limit = min(instance.group_limit, instance.devices)
    routed = common_divisors(instance.routed_inner) if instance.experts else range(1, limit + 1)
    groups = [
        (tp, ep)
        for ep in (common_divisors(instance.experts) if instance.experts else [1])
        for tp in routed
        if tp * ep <= limit and all(inner % (tp * ep) == 0 for inner in instance.dense_inner)
    ]
    for attn_tp, (tp, ep) in product(head_widths(instance.heads), groups):
        stage = math.lcm(attn_tp, tp * ep)
        if attn_tp <= limit and stage in (attn_tp, tp * ep):
            yield attn_tp, stage // attn_tp, tp, ep, stage // (tp * ep)


def _needs(
    question: Question, instance: PlanInstance, choices: tuple[Setting, ...]
) -> dict[tuple[int, ...], int]:
    """KiB of the fullest device, of every layout of one replica that the devices allow."""
    blocks, longest = blocks_needed(question), longest_of(question.trace)
    asked = dict(instance.fixed)
    needs: dict[tuple[int, ...], int] = {}
    for stage in _stages(instance):
        most = min(instance.layers, instance.devices // (stage[0] * stage[1]))
        for stages in range(1, most + 1):
            if "layers" in question.fix and stages != asked["pp"]:
                continue
            for index, setting in enumerate(choices):
                plan = plan_of(question, (1, stages, *stage), setting)
                needs[(stages, *stage, index)] = -int(
                    -fullest_need_bytes(question.model, plan, blocks, longest) // KIB
                )
    return needs


def plans_of(question: Question, pool: "Pool", limits: Limits | None = None) -> list[Plan]:
    """Every feasible plan of a pool, each once, in a fixed order.

    Raises
    ------
    NoFeasiblePlan
        Proven: there is none. Says what clashes, in the user's words and numbers.
    NoPlanInTime
        The limit ran out before the space was enumerated.
    """
    limits = limits or Limits(seed=question.seed)
    choices, clocks = settings(question, pool.device), _clocks(question, pool)
    if not choices:
        raise _none(question, pool, None, ("settings",), limits)
    instance = build_instance(question, pool)
    solutions = PlansCpSat(instance).solve(limits)
    if solutions.status is Status.INFEASIBLE:
        raise _none(question, pool, instance, solutions.core, limits)
    if solutions.status is not Status.OPTIMAL:
        raise NoPlanInTime("The plan space was not enumerated within the time limit.")
    if not clocks:
        raise _none(question, pool, instance, ("clocks",), limits)
    return [
        dataclasses.replace(plan, clock_mhz=clock)
        for plan in (plan_of(question, layout, choices[index]) for layout, index in solutions.found)
        for clock in clocks
    ]


def possible(
    question: Question, pool: "Pool", families: Iterable[str] | None = None, limits: Limits | None = None
) -> bool:
    """Whether a plan satisfies these families of constraints, or all, and the user's rules on settings.

    Families are those of ``formulations.plans_cpsat``; besides, ``settings`` asks that some combination of formats,
    token budget, sequences and policy is left, ``clocks`` that a clock is.
    """
    asked = None if families is None else list(families)
    if not settings(question, pool.device):
        return asked is not None and "settings" not in asked
    if not _clocks(question, pool) and (asked is None or "clocks" in asked):
        return False
    formulation = PlansCpSat(build_instance(question, pool))
    return formulation.feasible(limits or Limits(seed=question.seed), asked).has_solution


def _clocks(question: Question, pool: "Pool") -> list[int]:
    """Those to try, each once: 0 is the highest."""
    forbidden = [value for axis, value in question.forbid if axis == "clock"]
    allowed = [int(str(clock)) for clock in question.options("clock") if clock not in forbidden]
    return list(dict.fromkeys(0 if clock == pool.device.max_clock_mhz else clock for clock in allowed))


def _none(
    question: Question,
    pool: "Pool",
    instance: PlanInstance | None,
    families: tuple[str, ...],
    limits: Limits,
) -> NoFeasiblePlan:
    """The error of a core of families, with the user's rules on settings that clash with it, by deletion.

    A rule whose absence would contradict the rest of the question stays unnamed, and so do layers and a block
    size that are fixed where others would not do either.
    """
    left, needed = question, []
    for rule in rules_of(question):
        kind, axis, _ = rule
        if axis in WIDTHS or (kind == "forbid" and axis == "layers"):
            continue  # families of their own
        try:
            fewer = widened(left, rule, pool)
        except InputError:
            continue
        if possible(fewer, pool, families, limits):
            needed.append(rule)
        elif axis not in ("layers", "block"):
            left = fewer
    implied = "layers" in question.fix and "pp" not in question.fix
    named = [name for name in families if not (implied and name.startswith("fix pp="))]
    return explain(question, pool, instance, [*map(name_of, needed), *named])
