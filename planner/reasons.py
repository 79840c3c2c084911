"""Why no plan exists, in the user's words and numbers: one sentence of the constraints that clash."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from formulations.plans_cpsat import common_divisors, head_widths
from formulations.problem import WIDTHS, PlanInstance
from planner.layouts import blocks_needed, longest_of, plan_of, settings, stage_parts
from planner.question import Question
from profiles import memory

if TYPE_CHECKING:
    from profiles.fleet import Pool

GIB = 2**30


def explain(question: Question, pool: "Pool", instance: PlanInstance, core: Iterable[str]) -> str:
    """The clashing constraints of a core (``formulations.plans_cpsat``) as one sentence."""
    clauses = [_clause(name, question, pool, instance) for name in core]
    if (least := _fixed_devices(instance)) > pool.devices:
        clauses.append(f"what is fixed needs {least} devices")
    if not clauses:
        clauses = [f"{pool.devices} devices are free in pool {pool.name}"]
    return f"No plan for {question.model.name} on {pool.devices} x {pool.device.name}: {'; '.join(clauses)}."


def _clause(name: str, question: Question, pool: "Pool", instance: PlanInstance) -> str:
    if name.startswith(("fix ", "forbid ")):
        return f"--{name}"
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
        case "memory":
            return _memory(question, pool, instance)
    raise AssertionError(f"no words for constraint {name!r}")


def _fixed_devices(instance: PlanInstance) -> int:
    """What the fixed widths take, the others at 1."""
    fixed = dict(instance.fixed)
    attention = fixed.get("attn_tp", 1) * fixed.get("attn_dp", 1)
    ffn = fixed.get("ffn_tp", 1) * fixed.get("ep", 1) * fixed.get("ffn_dp", 1)
    return fixed.get("dp", 1) * fixed.get("pp", 1) * max(attention, ffn)


def _cut(what: str, sizes: tuple[int, ...], axis: str) -> str:
    few = ", ".join(map(str, common_divisors(sizes)[:8]))
    return f"{what} {'/'.join(map(str, sizes))} need {axis} to divide them ({few}, ...)"


def _heads(instance: PlanInstance) -> str:
    cells = " and ".join(f"{q} query and {kv} KV heads" for q, kv in instance.heads)
    return f"{cells} need attn_tp of {', '.join(map(str, head_widths(instance.heads)))}"


def _memory(question: Question, pool: "Pool", instance: PlanInstance) -> str:
    """What the plan that needs least memory lacks."""
    usable = instance.capacity_kib / 2**20
    fixed = dict(instance.fixed)
    asked = [
        (need, key)
        for key, need in instance.need_kib.items()
        if all(fixed.get(axis, value) == value for axis, value in zip(WIDTHS[1:], key[:-1], strict=True))
        and key[0] * key[1] * key[2] * fixed.get("dp", 1) <= instance.devices
    ]
    if not asked:
        return f"{pool.device.name} has {usable:.1f} GiB usable"
    need, key = min(asked)
    plan = plan_of(question, (1, *key[:-1]), settings(question, pool.device)[key[-1]])
    weights, cross, per_token = stage_parts(question.model, plan)
    total = sum(weights) * plan.stage_devices / GIB
    if total > usable * plan.replica_devices:
        return (
            f"weights of {total:.1f} GiB in {plan.weight_format} exceed"
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
