"""Every rule of the plan space again, in plain Python, without a solver and without its tables.

``planner.space`` and ``formulations.plans_cpsat`` find plans; what they find, and what a user names, must
have no complaint here.
"""

from math import gcd
from typing import TYPE_CHECKING

from planner.axes import axis_of, spellings
from planner.question import ACTIVATIONS_OF, Question, lacks_experts
from planner.rules import LIMITS, limits_of
from profiles import memory
from profiles.model import FeedForward, Model, MoE
from profiles.plan import Plan

if TYPE_CHECKING:
    from profiles.device import Device
    from profiles.fleet import Pool


def complaints(question: Question, pool: "Pool", plan: Plan) -> list[str]:
    """Rules that the plan breaks, one clause each; none for a plan of the space.

    What the user merely did not list to be searched (formats, budgets, clocks) is no rule.
    """
    found = [
        *_shape(question.model, plan, pool.device),
        *_devices(question, pool, plan),
        *_wishes(question, plan),
    ]
    if not found:
        found = _memory(question, pool, plan)
    return found


def _shape(model: Model, plan: Plan, device: "Device") -> list[str]:
    found = []
    layers = len(model.decoder.layers)
    if sum(plan.layers_per_stage) != layers:
        found.append(f"stages of {'/'.join(map(str, plan.layers_per_stage))} layers, the model has {layers}")
    if gcd(plan.attn_dp, plan.ffn_dp) > 1:
        common = gcd(plan.attn_dp, plan.ffn_dp)
        found.append(f"attn_dp and ffn_dp share the factor {common}: that is dp={plan.replicas * common}")
    elif max(plan.attn_dp, plan.ffn_dp) % min(plan.attn_dp, plan.ffn_dp):
        found.append(f"of attn_dp={plan.attn_dp} and ffn_dp={plan.ffn_dp} neither divides the other")
    if reason := lacks_experts(model, plan.weight_format):
        found.append(reason)
    if plan.activation_format not in ACTIVATIONS_OF[plan.weight_format]:
        found.append(f"no kernel for {plan.weight_format} weights by {plan.activation_format} activations")
    if plan.activation_format not in device.dense_flops:
        found.append(f"{device.name} does not multiply {plan.activation_format} activations")
    stacks = [model.decoder, *([model.encoder] if model.encoder else [])]
    for block in (block for stack in stacks for block in stack.blocks):
        for cell in block.attention:
            if cell.q_heads % plan.attn_tp:
                found.append(f"tp={plan.attn_tp} does not divide {cell.q_heads} query heads")
            if cell.kv_heads % plan.attn_tp and plan.attn_tp % cell.kv_heads:
                found.append(f"{cell.kv_heads} KV heads are neither cut nor copied evenly by {plan.attn_tp}")
        found += _feed_forward(block.ffn, plan)
    if plan.ffn_ep > 1 and not any(isinstance(b.ffn, MoE) for stack in stacks for b in stack.blocks):
        found.append(f"ep={plan.ffn_ep}, the model has no experts")
    return list(dict.fromkeys(found))


def _feed_forward(ffn: FeedForward | MoE, plan: Plan) -> list[str]:
    if isinstance(ffn, FeedForward):
        width = plan.ffn_tp * plan.ffn_ep
        return [f"{width} devices do not divide inner width {ffn.inner}"] if ffn.inner % width else []
    found = []
    if ffn.inner % plan.ffn_tp:
        found.append(f"ffn_tp={plan.ffn_tp} does not divide the inner width {ffn.inner} of experts")
    if ffn.experts % plan.ffn_ep:
        found.append(f"ep={plan.ffn_ep} does not divide {ffn.experts} experts")
    return found


def _devices(question: Question, pool: "Pool", plan: Plan) -> list[str]:
    if plan.devices > pool.devices:
        return [f"takes {plan.devices} devices, {pool.devices} are free"]
    found = [
        f"takes {plan.devices} devices, {LIMITS[name]} allows {most}"
        for name, most in limits_of(question, pool).items()
        if plan.devices > most
    ]
    if question.use_all_devices and plan.devices < pool.devices:
        found.append(f"takes {plan.devices} of {pool.devices} devices, all are to be used")
    if not question.cross_node_tensor:
        fitting = sum(room // plan.stage_devices for room in pool.free)
        if fitting < plan.replicas * plan.stages:
            found.append(
                f"{plan.replicas * plan.stages} stages of {plan.stage_devices} devices,"
                f" nodes with {' + '.join(map(str, pool.free))} free devices hold {fitting} whole"
            )
    return found


def _wishes(question: Question, plan: Plan) -> list[str]:
    found = [
        f"{spellings(axis)[0]}={axis_of(plan, axis)}, fixed {value}"
        for axis, value in question.fix.items()
        if axis_of(plan, axis) != value
    ]
    found += [
        f"{spellings(axis)[0]}={value} is forbidden"
        for axis, value in question.forbid
        if axis_of(plan, axis) == value
    ]
    return found


def _memory(question: Question, pool: "Pool", plan: Plan) -> list[str]:
    prompts, outputs = question.trace.prompt_tokens, question.trace.output_tokens
    longest = memory.Longest(prompt=int(prompts.max()), request=int((prompts + outputs).max()))
    engine = plan.engine
    has = memory.kv_blocks(question.model, plan, pool.device, longest)
    needs = -(-longest.request // engine.block_size)
    if has * (1 - engine.watermark) >= needs:
        return []
    at_once = memory.iteration_tokens(question.model, engine, longest)
    weights = max(memory.stage_weight_bytes(question.model, plan)) / 2**30
    usable = pool.device.memory_bytes * engine.gpu_memory_utilization / 2**30
    return [
        f"the longest request of {longest.request} tokens needs {needs} KV blocks, there is room for {max(0, has)}"
        f" beside {weights:.1f} GiB of weights and activations of {at_once} tokens in {usable:.1f} GiB usable"
    ]
