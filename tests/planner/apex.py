"""The plans that APEX+ considers, by brute force over its own rules (``apex_plus/search/engine.py``, 2025).

Written from a description of the rules, to compare spaces with: nested divisors of replicas, stages and
cell replicas; a template per cell (experts: cut, or whole on a device each); then filters on replica
counts, tasks and memory of block weights alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from math import gcd
from typing import NamedTuple

GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Cell:
    """``tasks``: units that a template deals out to devices, at least one each."""

    weight_bytes: int
    tasks: dict[str, int]


class Choice(NamedTuple):
    replicas: int
    template: str
    devices: int


class ApexPlan(NamedTuple):
    replicas: int
    stages: int
    cells: tuple[Choice, ...]
    fits: bool


def llama_70b() -> tuple[int, list[Cell]]:
    """Layers and cells as in its Llama-3-70B, half precision."""
    hidden, inner = 8192, 28672
    attention = Cell(weight_bytes=2 * (hidden * (64 + 2 * 8) * 128 + hidden * hidden), tasks={"tp": 64})
    return 80, [attention, Cell(weight_bytes=2 * 3 * hidden * inner, tasks={"tp": inner})]


def mixtral(layers: int, hidden: int, inner: int, heads: int) -> tuple[int, list[Cell]]:
    """As it models Mixtral: one KV head, and a dense MLP of two matrices that the model does not have."""
    attention = Cell(weight_bytes=2 * (hidden * (heads + 2) * 128 + hidden * hidden), tasks={"tp": heads})
    fictitious = Cell(weight_bytes=2 * 2 * hidden * inner, tasks={"tp": inner})
    experts = Cell(weight_bytes=2 * 8 * 3 * hidden * inner, tasks={"tp": inner, "ep": 8})
    return layers, [attention, fictitious, experts]


def enumerate_plans(
    devices: int, layers: int, cells: list[Cell], memory_bytes: int = 80 * GIB
) -> Iterator[ApexPlan]:
    """All plans on ``devices`` devices; ``fits`` says which survive its memory filter."""
    for replicas in _divisors(devices):
        for stages in _divisors(devices // replicas):
            if layers % stages:
                continue
            stage = devices // replicas // stages
            for choices in product(*(list(_choices(cell, stage)) for cell in cells)):
                counts = [choice.replicas for choice in choices]
                around = pairwise([*counts, counts[0]])
                if gcd(*counts) == 1 and all(max(a, b) % min(a, b) == 0 for a, b in around):
                    held = sum(c.weight_bytes / k.devices for c, k in zip(cells, choices, strict=True))
                    yield ApexPlan(replicas, stages, choices, held * layers / stages <= memory_bytes)


def _choices(cell: Cell, stage: int) -> Iterator[Choice]:
    for replicas in _divisors(stage):
        devices = stage // replicas
        for template, tasks in cell.tasks.items():
            if tasks >= devices and not (template == "ep" and devices == 1):
                yield Choice(replicas, template, devices)


def _divisors(number: int) -> list[int]:
    return [k for k in range(1, number + 1) if number % k == 0]
