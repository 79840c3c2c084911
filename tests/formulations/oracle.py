"""Brute force over tiny instances: slow, obvious, and free of any solver."""

from itertools import product
from math import gcd

from formulations.problem import PlacementInstance, PlanInstance


def layouts(instance: PlanInstance):
    """Every (layout, setting), by trying all numbers up to the devices on every axis."""
    found = set()
    for layout in product(range(1, instance.devices + 1), repeat=7):
        found |= {(layout, e) for e in range(instance.settings) if allows(instance, layout, e)}
    return tuple(sorted(found))


def allows(instance: PlanInstance, layout, setting) -> bool:
    dp, pp, attn_tp, attn_dp, ffn_tp, ep, ffn_dp = layout
    used = dp * pp * attn_tp * attn_dp
    axes = dict(zip(("dp", "pp", "attn_tp", "attn_dp", "ffn_tp", "ep", "ffn_dp"), layout, strict=True))
    return (
        attn_tp * attn_dp == ffn_tp * ep * ffn_dp
        and (used == instance.devices if instance.exact_devices else used <= instance.devices)
        and pp <= instance.layers
        and max(attn_tp, ffn_tp * ep) <= instance.group_limit
        and dp * pp
        <= (sum(room // (attn_tp * attn_dp) for room in instance.nodes) if instance.nodes else used)
        and all(q % attn_tp == 0 and (k % attn_tp == 0 or attn_tp % k == 0) for q, k in instance.heads)
        and all(v % (ffn_tp * ep) == 0 for v in instance.dense_inner)
        and all(u % ffn_tp == 0 for u in instance.routed_inner)
        and all(x % ep == 0 for x in instance.experts)
        and (bool(instance.experts) or ep == 1)
        and gcd(attn_dp, ffn_dp) == 1
        and max(attn_dp, ffn_dp) % min(attn_dp, ffn_dp) == 0
        and instance.need_kib.get((*layout[1:], setting), instance.capacity_kib + 1) <= instance.capacity_kib
        and all(axes[axis] == value for axis, value in instance.fixed)
        and all(axes[axis] != value for axis, value in instance.forbidden)
    )


def cheapest_placement(instance: PlacementInstance) -> tuple[int, int] | None:
    """Least (split, crossings) over every way to put every group on nodes; None when none fits."""
    nodes, t = range(len(instance.free)), instance.group_devices
    ways = [w for w in product(*(range(min(t, room) + 1) for room in instance.free)) if sum(w) == t]
    total = instance.replicas * instance.stages * instance.groups
    costs = []
    for chosen in product(ways, repeat=total):
        if all(sum(way[n] for way in chosen) <= instance.free[n] for n in nodes):
            costs.append(_cost(instance, chosen))
    return min(costs, default=None)


def _cost(instance: PlacementInstance, chosen) -> tuple[int, int]:
    split = crossings = 0
    stages = [chosen[k : k + instance.groups] for k in range(0, len(chosen), instance.groups)]
    for k, groups in enumerate(stages):
        split += sum(sum(count > 0 for count in way) - 1 for way in groups)
        if instance.groups > 1:
            split += len({n for way in groups for n, count in enumerate(way) if count}) - 1
        if (k + 1) % instance.stages:
            crossings += groups != stages[k + 1]
    return split, crossings
