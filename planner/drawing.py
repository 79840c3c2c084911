"""A plan drawn: nodes with their devices, and on each device its replica, stage and shards."""

from collections.abc import Iterator
from dataclasses import dataclass

from planner.page import Element, node
from planner.ranking import PlanResult
from profiles.fleet import Pool

MOST_NODES = 24
"""Drawn one by one; the rest is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What one device does. Numbers count from 0."""

    node: int
    device: int
    replica: int
    stage: int
    words: tuple[str, ...]


def roles(result: PlanResult) -> Iterator[Role]:
    """One per device of the plan, in the order of replicas, stages and tensor groups."""
    plan, first = result.plan, [0]
    for layers in plan.layers_per_stage:
        first.append(first[-1] + layers)
    for replica, stages in enumerate(result.placement):
        for stage, groups in enumerate(stages):
            devices = [(at, device) for at, numbers in groups for device in numbers]
            for rank, (at, device) in enumerate(devices):
                words = [f"replica {replica + 1} of {plan.replicas}"] if plan.replicas > 1 else []
                if plan.stages > 1:
                    words.append(f"stage {stage + 1} of {plan.stages}")
                words.append(f"layers {first[stage] + 1}-{first[stage + 1]}")
                words += _shards(result, rank)
                yield Role(node=at, device=device, replica=replica, stage=stage, words=tuple(words))


def _shards(result: PlanResult, rank: int) -> list[str]:
    """Of the attention and the feed-forward cells of its stage."""
    plan = result.plan
    expert, shard = divmod(rank % (plan.ffn_tp * plan.ffn_ep), plan.ffn_tp)
    attention = [("rank", rank // plan.attn_tp, plan.attn_dp), ("shard", rank % plan.attn_tp, plan.attn_tp)]
    ffn = [("copy", rank // (plan.ffn_tp * plan.ffn_ep), plan.ffn_dp), ("experts", expert, plan.ffn_ep),
           ("shard", shard, plan.ffn_tp)]  # fmt: skip
    words = []
    for cell, parts in (("attention", attention), ("FFN", ffn)):
        split = " ".join(f"{name} {at + 1}/{of}" for name, at, of in parts if of > 1)
        words.append(f"{cell} {split or 'whole'}")
    return words


def drawing(result: PlanResult, pool: Pool) -> Element:
    """Nodes as boxes of devices; colours tell stages apart, words tell everything."""
    held: dict[int, dict[int, Role]] = {}
    for each in roles(result):
        held.setdefault(each.node, {})[each.device] = each
    shown = sorted(held)[:MOST_NODES]
    boxes = []
    for at in shown:
        cells = []
        for device in range(pool.free[at]):
            role = held[at].get(device)
            words = role.words if role else ("not used",)
            kind = f"gpu s{role.stage % 5}" if role else "gpu idle"
            cells.append(
                node("li", node("b", f"GPU {device}"), *(node("span", word) for word in words), class_=kind)
            )
        boxes.append(node("li", node("h3", f"node {at}"), node("ul", *cells, class_="gpus"), class_="node"))
    taken = f"{result.plan.devices} of {pool.devices} devices of pool {pool.name}: {pool.device.name}"
    whole = node("div", node("p", taken), node("ul", *boxes, class_="nodes"))
    more, unused = (
        len(held) - len(shown),
        sum(1 for n, free in enumerate(pool.free) if free and n not in held),
    )
    if more:
        whole.append(node("p", f"{more} more nodes hold the remaining devices of the plan."))
    if unused:
        whole.append(node("p", f"{unused} more nodes of pool {pool.name} are not used."))
    return whole
