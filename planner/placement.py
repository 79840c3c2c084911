"""Where a plan runs: every stage and tensor group on nodes, with device numbers.

First come the nodes that tensor groups span, then hand-overs between stages that leave a node; see
``formulations.placement_cpsat``. Most plans never reach the solver: a greedy placement that meets a bound
which no placement can beat is optimal (``least_cost``).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from formulations.problem import Limits, PlacementInstance, Status
from planner.errors import NoFeasiblePlan
from profiles.plan import Plan

if TYPE_CHECKING:
    from profiles.fleet import Pool

Counts = tuple[tuple[tuple[tuple[int, ...], ...], ...], ...]
"""[replica][stage][tensor group][node] devices."""

SOLVER_WORK = 0.2
"""Deterministic seconds of CP-SAT for one placement; the best found then stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A plan on devices.

    Parameters
    ----------
    assignment
        Per replica, per stage: (node, device numbers) in the order of tensor groups. Device numbers count
        the free devices of a node from 0.
    tensor_nodes, ffn_nodes
        Most nodes that one attention tensor group, and one feed-forward group, spans.
    crossings
        Per stage boundary whether the hand-over leaves a node in any replica.
    proven
        No placement has less traffic between nodes, in the sense of the module.
    """

    assignment: tuple[tuple[tuple[tuple[int, tuple[int, ...]], ...], ...], ...]
    tensor_nodes: int
    ffn_nodes: int
    crossings: tuple[bool, ...]
    proven: bool


def place(plan: Plan, pool: "Pool", *, seed: int = 0) -> Placement:
    """The placement with least traffic between nodes.

    Raises
    ------
    NoFeasiblePlan
        When the pool has fewer devices than the plan.

    Examples
    --------
    >>> from profiles.fleet import homogeneous
    >>> plan = Plan(layers_per_stage=(16, 16), attn_tp=4, ffn_tp=4)
    >>> place(plan, homogeneous("h100-sxm-80gb", gpus=8).pools[0]).assignment
    ((((0, (0, 1, 2, 3)),), ((0, (4, 5, 6, 7)),)),)
    """
    if plan.devices > pool.devices:
        raise NoFeasiblePlan(
            f"Plan {plan.label} takes {plan.devices} devices, pool {pool.name} has {pool.devices} free."
        )
    instance = PlacementInstance(
        free=tuple(pool.free),
        replicas=plan.replicas,
        stages=plan.stages,
        groups=plan.attn_dp,
        group_devices=plan.attn_tp,
    )
    counts = greedy(instance)
    proven = cost(counts) == least_cost(instance)
    if not proven:
        better, proven = _solve(instance, Limits(work=SOLVER_WORK, seed=seed))
        if better and (proven or cost(better) < cost(counts)):
            counts = better
    return _name_devices(plan, counts, proven)


def _solve(instance: PlacementInstance, limits: Limits) -> tuple[Counts, bool]:
    """The solver's placement (empty when it found none in time) and whether it is proven.

    Where all stages fit on single nodes the least split is 0, so every optimum has them there: the stage
    then takes the part of a device, which is the same problem with fewer variables.
    """
    from formulations.placement_cpsat import PlacementCpSat

    stage = instance.groups * instance.group_devices
    slots = tuple(room // stage for room in instance.free)
    units = PlacementInstance(
        free=slots, replicas=instance.replicas, stages=instance.stages, groups=1, group_devices=1
    )
    whole = sum(slots) >= instance.replicas * instance.stages
    solution = PlacementCpSat(units if whole else instance).solve(limits)
    counts = solution.counts
    if whole:
        counts = tuple(
            tuple(
                (tuple(instance.group_devices * n for n in groups[0]),) * instance.groups for groups in stages
            )
            for stages in counts
        )
    return counts, solution.status is Status.OPTIMAL


def cost(counts: Counts) -> tuple[int, int]:
    """(split, crossings) of a placement, as in ``formulations.placement_cpsat``."""
    split = crossings = 0
    for stages in counts:
        for groups in stages:
            split += sum(sum(map(bool, group)) - 1 for group in groups)
            if len(groups) > 1:
                split += sum(map(any, zip(*groups, strict=True))) - 1
        crossings += sum(one != other for one, other in pairwise(stages))
    return split, crossings


def fewest_nodes(devices: int, free: tuple[int, ...]) -> int:
    """Nodes without which ``devices`` cannot be had; more than there are when they cannot at all.

    Examples
    --------
    >>> fewest_nodes(9, (4, 8, 2))
    2
    """
    held = 0
    for count, room in enumerate(sorted(free, reverse=True), start=1):
        held += room
        if held >= devices:
            return count
    return len(free) + 1


def least_cost(instance: PlacementInstance) -> tuple[int, int]:
    """A (split, crossings) that no placement is below, in lexicographic order.

    Split: a group of t devices touches at least the fewest nodes that hold t, a stage likewise.

    Crossings, given that split is least. Stages then span m nodes each, the fewest that hold one.
    If the m largest nodes do not hold two stages, no two consecutive stages have the same counts, and all
    hand-overs cross. If m = 1, node k holds ``slots_k = free_k // stage`` stages, at most
    ``sum_k slots_k // stages`` replicas lie on one node each, and every other replica crosses at least once,
    and at least ``fewest nodes that have a replica's slots`` - 1 times.
    """
    stage = instance.groups * instance.group_devices
    nodes = fewest_nodes(stage, instance.free)
    per_stage = instance.groups * (fewest_nodes(instance.group_devices, instance.free) - 1)
    if instance.groups > 1:
        per_stage += nodes - 1
    split = instance.replicas * instance.stages * per_stage
    if sum(sorted(instance.free, reverse=True)[:nodes]) < 2 * stage:
        return split, instance.replicas * (instance.stages - 1)
    if nodes > 1:
        return split, 0
    slots = tuple(room // stage for room in instance.free)
    whole = min(instance.replicas, sum(room // instance.stages for room in slots))
    return split, (instance.replicas - whole) * max(1, fewest_nodes(instance.stages, slots) - 1)


def greedy(instance: PlacementInstance) -> Counts:
    """Replica by replica on the fullest node that holds what is left of it, else on the emptiest."""
    room = list(instance.free)
    stage = instance.groups * instance.group_devices
    placed = []
    for _ in range(instance.replicas):
        stages: list[tuple[tuple[int, ...], ...]] = []
        node = 0
        while len(stages) < instance.stages:
            if not stages or room[node] < stage:
                left = (instance.stages - len(stages)) * stage
                node = min(
                    range(len(room)),
                    key=lambda n: (room[n] < left, room[n] if room[n] >= left else -(room[n] // stage), n),
                )
            stages.append(_place_stage(instance, room, node))
        placed.append(tuple(stages))
    return tuple(placed)


def _place_stage(instance: PlacementInstance, room: list[int], node: int) -> tuple[tuple[int, ...], ...]:
    """One stage from ``node`` on: every group where it fits whole, else over the emptiest nodes."""
    groups = []
    for _ in range(instance.groups):
        left, counts = instance.group_devices, [0] * len(room)
        while left:
            if room[node] < left:
                node = max(range(len(room)), key=lambda n: (room[n], -n))
            taken = min(left, room[node])
            counts[node] += taken
            room[node] -= taken
            left -= taken
        groups.append(tuple(counts))
    return tuple(groups)


def _name_devices(plan: Plan, counts: Counts, proven: bool) -> Placement:
    """Number devices node by node in the order of replicas, stages and groups."""
    used = [0] * len(counts[0][0][0])
    assignment = []
    tensor_nodes = ffn_nodes = 1
    width = plan.ffn_tp * plan.ffn_ep
    for stages in counts:
        named = []
        for groups in stages:
            ranks: list[tuple[int, int]] = []
            for group in groups:
                tensor_nodes = max(tensor_nodes, sum(map(bool, group)))
                for node, count in enumerate(group):
                    ranks += [(node, used[node] + j) for j in range(count)]
                    used[node] += count
            chunks = (ranks[k : k + width] for k in range(0, len(ranks), width))
            ffn_nodes = max(ffn_nodes, *(len({node for node, _ in chunk}) for chunk in chunks))
            nodes = dict.fromkeys(node for node, _ in ranks)
            named.append(tuple((n, tuple(device for node, device in ranks if node == n)) for n in nodes))
        assignment.append(tuple(named))
    crossings = tuple(any(stages[i] != stages[i + 1] for stages in counts) for i in range(plan.stages - 1))
    return Placement(
        assignment=tuple(assignment),
        tensor_nodes=tensor_nodes,
        ffn_nodes=ffn_nodes,
        crossings=crossings,
        proven=proven,
    )
