"""What formulations read and return: integers and names, no solver objects and none of our nouns."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """What a solver proved."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"

    @property
    def has_solution(self) -> bool:
        return self in (Status.OPTIMAL, Status.FEASIBLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When a solver gives up, and what makes its answer repeatable.

    ``work`` is a limit in CP-SAT's deterministic seconds of all workers, the same on every machine. One worker is
    deterministic, and so are several with a limit on work.
    """

    time_s: float = 60.0
    work: float = float("inf")
    workers: int = 1
    seed: int = 0


WIDTHS = ("dp", "pp", "attn_tp", "attn_dp", "ffn_tp", "ep", "ffn_dp")
"""Axes of a layout, in the order of its numbers."""

Layout = tuple[int, int, int, int, int, int, int]
"""Replicas, stages, attention tp and dp, feed-forward tp, ep and dp."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInstance:
    """One plan space, in integers.

    Parameters
    ----------
    devices, exact_devices
        Devices that may be used, or that must all be used.
    at_most
        (name, devices): further limits on the devices that a plan uses.
    layers
        Most stages. >= 1.
    group_limit
        Most devices of one tensor or expert group.
    nodes
        Free devices of each node where every stage must lie on one; none where stages may spread.
    heads
        (query heads, KV heads) of every attention cell.
    dense_inner, routed_inner, experts
        Inner widths of dense feed-forward cells and of one routed expert; numbers of experts. A model
        without experts has none of the latter two.
    settings
        Number of memory-relevant settings (formats, token budget, sequences, policy).
    need_kib
        (stages, five widths, setting) -> KiB of the fullest device, rounded up, for every layout of one
        replica that meets all other constraints. A layout that is not there does not fit.
    capacity_kib
        KiB of one device, rounded down.
    runnable
        Keys of ``need_kib`` that may be used; None where all may.
    fixed, forbidden
        (axis of ``WIDTHS``, value).
    """

    devices: int
    exact_devices: bool = False
    at_most: tuple[tuple[str, int], ...] = ()
    layers: int
    group_limit: int
    nodes: tuple[int, ...] = ()
    heads: tuple[tuple[int, int], ...]
    dense_inner: tuple[int, ...] = ()
    routed_inner: tuple[int, ...] = ()
    experts: tuple[int, ...] = ()
    settings: int = 1
    need_kib: Mapping[tuple[int, ...], int]
    capacity_kib: int
    runnable: frozenset[tuple[int, ...]] | None = None
    fixed: tuple[tuple[str, int], ...] = ()
    forbidden: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if min(self.layers, self.settings) < 1 or min(self.devices, self.group_limit) < 0:
            raise ValueError("layers and settings must be at least 1, devices and group_limit at least 0.")
        for axis, _ in (*self.fixed, *self.forbidden):
            if axis not in WIDTHS:
                raise ValueError(f"Unknown axis {axis!r}, known: {', '.join(WIDTHS)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSolutions:
    """Every layout with its setting, sorted; or why there is none.

    ``status`` OPTIMAL: ``found`` is complete. INFEASIBLE: ``core`` names constraints that clash, none of
    which can be left out. FEASIBLE or UNKNOWN: the time limit came first.
    """

    status: Status
    found: tuple[tuple[Layout, int], ...] = ()
    core: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementInstance:
    """One placement: alike stages on nodes.

    Parameters
    ----------
    free
        Free devices of each node.
    replicas, stages
        Of the plan; ``replicas * stages`` stages are placed.
    groups, group_devices
        Tensor groups of one stage, and devices of each. A stage has ``groups * group_devices`` devices.
    """

    free: tuple[int, ...]
    replicas: int
    stages: int
    groups: int
    group_devices: int

    def __post_init__(self) -> None:
        if min(self.replicas, self.stages, self.groups, self.group_devices) < 1:
            raise ValueError("replicas, stages, groups and group_devices must be at least 1.")
        if min(self.free, default=0) < 0:
            raise ValueError("free devices must not be negative.")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementSolution:
    """How many devices of each node every tensor group takes.

    ``counts[replica][stage][group][node]``. ``split``: nodes that tensor groups touch beyond their first,
    and those that stages of several groups touch beyond theirs, summed. ``crossings``: hand-overs between
    consecutive stages of a replica that leave a node. OPTIMAL: none has less split, or as much of it and
    fewer crossings.
    """

    status: Status
    counts: tuple[tuple[tuple[tuple[int, ...], ...], ...], ...] = ()
    split: int | None = None
    crossings: int | None = None
