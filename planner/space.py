"""The plan space: axes and their integer attributes. The only place where floats become integers.

Needs are rounded up and the capacity down, to KiB: a plan that passes here fits by real numbers.
"""

import dataclasses
import math
from collections.abc import Iterator
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
        if sum(layers) != total:
            words = "/".join(map(str, layers))
            raise InputError(f"layers={words}: {sum(layers)} layers, expected {total} in all.")
        if fixed.setdefault("pp", len(layers)) != len(layers):
            raise InputError(f"pp={fixed['pp']}: layers has {len(layers)} stages.")
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

    Raises
    ------
    InputError
        When fixed layers do not add up to the model's.
    NoFeasiblePlan
        When every combination of formats and engine settings is forbidden.
    """
    model = question.model
    choices = settings(question, pool.device)
    if not choices:
        raise NoFeasiblePlan(
            "Every combination of formats, token budget, sequences and policy is forbidden,"
            f" or {pool.device.name} has no kernel for it."
        )
    fixed, forbidden = _rules(question)
    blocks = model.decoder.blocks + (model.encoder.blocks if model.encoder else ())
    cells = [cell for block in blocks for cell in block.attention]
    dense = [block.ffn for block in blocks if isinstance(block.ffn, FeedForward)]
    experts = [block.ffn for block in blocks if isinstance(block.ffn, MoE)]
    instance = PlanInstance(
        devices=pool.devices,
        exact_devices=question.use_all_devices,
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
    return dataclasses.replace(instance, need_kib=_needs(question, instance, choices))


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
    instance = build_instance(question, pool)
    solutions = PlansCpSat(instance).solve(limits or Limits(seed=question.seed))
    if solutions.status is Status.INFEASIBLE:
        message = explain(question, pool, instance, solutions.core)
        raise NoFeasiblePlan(f"{message}{_way_out(question, pool, solutions.core)}")
    if solutions.status is not Status.OPTIMAL:
        raise NoPlanInTime("The plan space was not enumerated within the time limit.")
    choices = settings(question, pool.device)
    found = [
        dataclasses.replace(plan, clock_mhz=int(str(clock)))
        for plan in (plan_of(question, layout, choices[index]) for layout, index in solutions.found)
        for clock in question.options("clock")
        if ("clock", clock) not in question.forbid
    ]
    if not found:
        raise NoFeasiblePlan("Every clock is forbidden.")
    if not question.deployable:
        return found
    wanted = set(question.deployable_on or ENGINES)
    runnable = [plan for plan in found if wanted & deployable(plan, question.model, pool.device).keys()]
    if not runnable:
        who = " or ".join(question.deployable_on) or "a serving engine"
        raise NoFeasiblePlan(
            f"{len(found)} plans satisfy every constraint, none of them runs in {who} today;"
            " --no-deployable keeps them."
        )
    return runnable


def _way_out(question: Question, pool: "Pool", core: tuple[str, ...]) -> str:
    """The nearest change that makes room, where memory is what lacks: narrower weights, or more nodes."""
    if "memory" not in core:
        return ""
    narrower = [name for name in ("fp8", "int4") if name not in question.options("weights")]
    for name in narrower if "weights" not in question.fix else ():
        fewer = dataclasses.replace(question, weight_formats=(name,), activation_formats=())
        if (not question.deployable or _has_kernels(fewer, pool)) and _fits(fewer, pool):
            return f" {name} weights would fit."
    for times in (2, 4, 8, 16):
        more = dataclasses.replace(pool, nodes=pool.nodes * times, free=pool.free * times)
        if _fits(question, more):
            return f" {more.devices} such devices would do."
    return ""


def _has_kernels(question: Question, pool: "Pool") -> bool:
    """Whether an engine serves the model in the question's formats on one of the pool's devices."""
    layers = (len(question.model.decoder.layers),)
    plans = (
        Plan(layers_per_stage=layers, weight_format=weights, activation_format=activations)  # type: ignore[arg-type]
        for weights, activations in question.pairs_of_formats(pool.device)
    )
    wanted = set(question.deployable_on or ENGINES)
    return any(wanted & deployable(plan, question.model, pool.device).keys() for plan in plans)


def _fits(question: Question, pool: "Pool") -> bool:
    instance = build_instance(question, pool)
    return PlansCpSat(instance).feasible(Limits(seed=question.seed)).has_solution
