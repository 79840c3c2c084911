"""Why no plan exists, in the user's words and numbers: one sentence of the constraints that clash."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from formulations.plans_cpsat import common_divisors, head_widths
from formulations.problem import WIDTHS, PlanInstance
from planner.deployable import ENGINES, verdicts
from planner.errors import Clash, NoFeasiblePlan
from planner.layouts import blocks_needed, longest_of, plan_of, settings, stage_parts
from planner.question import Question
from planner.rules import LIMITS, Rule, flag_of, limits_of, name_of, rules_of
from profiles import memory

if TYPE_CHECKING:
    from profiles.fleet import Pool

GIB = 2**30


def explain(
    question: Question, pool: "Pool", instance: PlanInstance | None, core: Sequence[str]
) -> NoFeasiblePlan:
    """The error that says which constraints clash, a clause each.

    Parameters
    ----------
    instance
        The plan space, None where no setting is left.
    core
        Of ``formulations.plans_cpsat``, with the user's rules on settings.
    """
    clashes = [
        Clash(constraint=name, words=_clause(name, question, pool, instance, core), pool=pool.name)
        for name in core
    ]
    clauses = [clash.words for clash in clashes]
    limits = [devices for name, devices in limits_of(question, pool).items() if name in core]
    most = min([pool.devices, *limits])
    if instance and (least := _fixed_devices(instance, core)) > most:
        clauses.append(f"what is fixed needs {least} devices")
    if not clauses:
        clauses = [f"{pool.devices} devices are free in pool {pool.name}"]
    text = f"No plan for {question.model.name} on {pool.devices} x {pool.device.name}: {'; '.join(clauses)}."
    return NoFeasiblePlan(text, core=clashes)


def rule_of(question: Question, name: str) -> Rule | None:
    """The rule of the user that a member of a core is, None for other constraints.

    Layers that are forbidden count as a number of stages in a core.
    """
    rules = rules_of(question)
    for rule in rules:
        if name_of(rule) == name:
            return rule
    for rule in rules:
        kind, axis, value = rule
        if axis == "layers" and isinstance(value, tuple) and name == f"{kind} pp={len(value)}":
            return rule
    return None


def _clause(
    name: str, question: Question, pool: "Pool", instance: PlanInstance | None, core: Sequence[str]
) -> str:
    if rule := rule_of(question, name):
        return flag_of(rule)
    if name in LIMITS:
        return _limit(name, question, pool)
    if name == "settings":
        return _settings(question, pool, core)
    assert instance is not None, "the other constraints are those of a plan space"
    match name:
        case "heads":
            return _heads(instance)
        case "dense_inner":
            return _cut("feed-forward of inner width", instance.dense_inner, "ffn_tp x ep")
        case "routed_inner":
            return _cut("experts of inner width", instance.routed_inner, "ffn_tp")
        case "experts" if instance.experts:
            return _cut("numbers of experts", instance.experts, "ep")
        case "experts":
            return f"{question.model.name} has no experts, ep is 1"
        case "stages":
            return f"pp is at most {instance.layers}, the model's layers"
        case "groups":
            where = "" if question.cross_node_tensor else ", those free on one node"
            return f"tensor and expert groups have at most {instance.group_limit} devices{where}"
        case "nodes":
            rooms = " + ".join(map(str, pool.free))
            return f"every stage lies on one node, and nodes have {rooms} devices free"
        case "sharing":
            return "attn_dp and ffn_dp cannot both exceed 1"
        case "devices":
            return f"{'all' if instance.exact_devices else 'at most'} {instance.devices} devices are used"
        case "clocks":
            return f"clock {' or '.join(map(str, question.options('clock')))} is all that is searched"
        case "memory":
            return _memory(question, pool, instance, core)
        case "deployable":
            return _deployable(question, pool, instance, core)
    raise AssertionError(f"no words for constraint {name!r}")


def _limit(name: str, question: Question, pool: "Pool") -> str:
    if name == "max_gpus":
        return f"{LIMITS[name]} {question.max_gpus}"
    devices = limits_of(question, pool)[name]
    return (
        f"{LIMITS[name]} {question.max_usd_per_hour:.12g}USD/h pays for {devices or 'no'}"
        f" device{'s' * (devices != 1)} at {pool.price_usd_per_device_hour:.12g} USD/h"
    )


def _settings(question: Question, pool: "Pool", core: Sequence[str]) -> str:
    """What is searched on the axes that the core names, or the formats that the device lacks."""
    ruled = {rule[1] for name in core if (rule := rule_of(question, name))}
    axes = [axis for axis in ("weights", "activations", "kv", "policy", "budget", "seqs") if axis in ruled]
    if not axes:
        weights, activations = (
            "/".join(map(str, question.options(axis))) for axis in ("weights", "activations")
        )
        return f"{pool.device.name} has no kernel for {weights} weights by {activations} activations"
    searched = (f"{axis} {' or '.join(map(str, question.options(axis)))}" for axis in axes)
    return f"{', '.join(searched)} is all that is searched"


def _fixed_devices(instance: PlanInstance, core: Sequence[str]) -> int:
    """What the fixed widths of a core take at least, the others at 1."""
    fixed = {axis: value for axis, value in instance.fixed if f"fix {axis}={value}" in core}
    if not fixed:
        return 0
    attention = fixed.get("attn_tp", 1) * fixed.get("attn_dp", 1)
    ffn = fixed.get("ffn_tp", 1) * fixed.get("ep", 1) * fixed.get("ffn_dp", 1)
    return fixed.get("dp", 1) * fixed.get("pp", 1) * math.lcm(attention, ffn)


def _left(instance: PlanInstance, core: Sequence[str]) -> Iterator[tuple[int, ...]]:
    """Layouts of one replica, with their setting, that the core allows, memory and engines apart."""
    fixed = {axis: value for axis, value in instance.fixed if f"fix {axis}={value}" in core}
    forbidden = {(axis, value) for axis, value in instance.forbidden if f"forbid {axis}={value}" in core}
    most = min([instance.devices, *(devices for name, devices in instance.at_most if name in core)])
    for key in instance.need_kib:
        widths = dict(zip(WIDTHS[1:], key, strict=False))
        if any(fixed.get(axis, value) != value for axis, value in widths.items()):
            continue
        if not forbidden.isdisjoint(widths.items()):
            continue
        stage = widths["attn_tp"] * widths["attn_dp"]
        replica, slots = stage * widths["pp"], sum(room // stage for room in instance.nodes)
        if any(
            fixed.get("dp", dp) == dp
            and ("dp", dp) not in forbidden
            and ("nodes" not in core or dp * widths["pp"] <= slots)
            and ("devices" not in core or not instance.exact_devices or dp * replica == instance.devices)
            for dp in range(1, most // replica + 1)
        ):
            yield key


def _cut(what: str, sizes: tuple[int, ...], axis: str) -> str:
    few = ", ".join(map(str, common_divisors(sizes)[:8]))
    return f"{what} {'/'.join(map(str, sizes))} need {axis} to divide them ({few}, ...)"


def _heads(instance: PlanInstance) -> str:
    cells = " and ".join(f"{q} query and {kv} KV heads" for q, kv in instance.heads)
    return f"{cells} need tp of {', '.join(map(str, head_widths(instance.heads)))}"


def _memory(question: Question, pool: "Pool", instance: PlanInstance, core: Sequence[str]) -> str:
    """What the plan that needs least memory lacks, of those that the rest of the core allows."""
    usable = instance.capacity_kib / 2**20
    runnable = instance.runnable if "deployable" in core else None
    asked = [
        (instance.need_kib[key], key) for key in _left(instance, core) if runnable is None or key in runnable
    ]
    need, key = min(asked)
    plan = plan_of(question, (1, *key[:-1]), settings(question, pool.device)[key[-1]])
    weights, cross, per_token = stage_parts(question.model, plan)
    total = sum(weights) * plan.stage_devices / GIB
    if total > usable * plan.replica_devices:
        copies = (("attention", plan.attn_dp), ("feed-forward", plan.ffn_dp))
        held = ", ".join(f"{part} {n} times" for part, n in copies if n > 1)
        return (
            f"weights of {total:.1f} GiB in {plan.weight_format}{f' ({held})' if held else ''} exceed"
            f" {plan.replica_devices} x {usable:.1f} GiB usable"
        )
    longest, tokens = longest_of(question.trace), blocks_needed(question) * plan.engine.block_size
    at_once = memory.iteration_tokens(question.model, plan.engine, longest)
    stage = max(range(plan.stages), key=lambda i: weights[i] + cross[i] + tokens * per_token[i])
    parts = {
        "weights": weights[stage],
        "cross-attention cache": cross[stage],
        f"KV cache of the longest request ({longest.request} tokens)": tokens * per_token[stage],
        f"activations of {at_once} tokens": memory.activation_bytes(question.model, plan, longest),
        "reserve": memory.reserve_bytes(plan),
    }
    listed = " + ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size)
    return f"{plan.label} needs {need / 2**20:.1f} GiB per device ({listed}) of {usable:.1f} GiB usable"


def _deployable(question: Question, pool: "Pool", instance: PlanInstance, core: Sequence[str]) -> str:
    """How many layouts are left, and what one engine says of the smallest."""
    left = [
        key
        for key in _left(instance, core)
        if "memory" not in core or instance.need_kib[key] <= instance.capacity_kib
    ]
    key = min(left, key=lambda key: (key[0] * key[1] * key[2], key))
    plan = plan_of(question, (1, *key[:-1]), settings(question, pool.device)[key[-1]])
    wanted = question.deployable_on or ENGINES
    _, reason = verdicts(plan, question.model, pool.device)[wanted[0]]
    layouts = f"{len(left)} layout{'s' * (len(left) > 1)}"
    return f"of {layouts} left none runs in {' or '.join(wanted)} today ({plan.label}: {reason})"
