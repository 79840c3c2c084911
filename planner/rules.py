"""Rules of the user, one by one: ``--fix`` and ``--forbid``, their names, and the question without one; and limits
on the devices of a plan, ``--max-gpus`` and ``--max-cost-per-hour``."""

import dataclasses
import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from planner.axes import MOST, AxisValue, spellings
from planner.question import Question, activations_for

if TYPE_CHECKING:
    from profiles.fleet import Pool

Rule = tuple[str, str, AxisValue]
"""``fix`` or ``forbid``, axis, value."""

SEARCHED = {
    "weights": "weight_formats",
    "activations": "activation_formats",
    "kv": "kv_formats",
    "policy": "policies",
    "budget": "token_budgets",
    "seqs": "max_seqs",
    "clock": "clocks",
}
"""Fields of the question with the values of an axis that are searched."""


LIMITS = {"max_gpus": "--max-gpus", "max_cost_per_hour": "--max-cost-per-hour"}
"""Names of limits in a core of ``formulations.plans_cpsat``, and their flags."""


def limits_of(question: Question, pool: "Pool") -> dict[str, int]:
    """Most devices of a plan of this pool, by the limit that says so."""
    limits = {}
    if question.max_gpus is not None:
        limits["max_gpus"] = question.max_gpus
    if question.max_usd_per_hour is not None:
        assert pool.price_usd_per_device_hour is not None, "Question refuses pools without a price"
        limits["max_cost_per_hour"] = affordable(question.max_usd_per_hour, pool.price_usd_per_device_hour)
    return limits


def affordable(usd: float, price_usd: float) -> int:
    """How many of a price can be had, at most ``MOST``. Numbers count as they are written, not as binary fractions.

    Examples
    --------
    >>> affordable(0.3, 0.1), affordable(0.29, 0.1)
    (3, 2)
    """
    return min(MOST, int(Fraction(repr(usd)) / Fraction(repr(price_usd))))


def raised(question: Question, name: str, pool: "Pool", devices: int) -> tuple[str, Question]:
    """The limit that just allows so many devices, as the user would write it, and the question with it."""
    if name == "max_gpus":
        return f"{LIMITS[name]} {devices}", dataclasses.replace(question, max_gpus=devices)
    assert pool.price_usd_per_device_hour is not None, "Question refuses pools without a price"
    usd = math.ceil(Fraction(repr(pool.price_usd_per_device_hour)) * devices * 100) / 100
    return f"{LIMITS[name]} {usd:.12g}USD/h", dataclasses.replace(question, max_usd_per_hour=usd)


def rules_of(question: Question) -> list[Rule]:
    """All of them, fixed ones first.

    Queue, preemption, routing and the kind of all-reduce decide no plan's feasibility and are left out.
    """
    fixed: list[Rule] = [
        ("fix", axis, value)
        for axis, value in question.fix.items()
        if axis not in ("queue", "preemption", "routing", "allreduce")
    ]
    return fixed + [("forbid", axis, value) for axis, value in dict.fromkeys(question.forbid)]


def name_of(rule: Rule) -> str:
    """As in a core of ``formulations.plans_cpsat``.

    Examples
    --------
    >>> name_of(("fix", "layers", (41, 39)))
    'fix layers=41/39'
    """
    kind, axis, value = rule
    return f"{kind} {axis}={'/'.join(map(str, value)) if isinstance(value, tuple) else value}"


def flag_of(rule: Rule) -> str:
    """As the user writes it; the width of attention is ``tp``.

    Examples
    --------
    >>> flag_of(("forbid", "attn_tp", 4))
    '--forbid tp=4'
    """
    kind, axis, value = rule
    return f"--{name_of((kind, spellings(axis)[0], value))}"


def without(question: Question, rule: Rule) -> Question:
    """The question had the user not given this rule.

    Raises
    ------
    InputError
        When what is left contradicts itself.
    """
    kind, axis, value = rule
    if kind == "fix":
        return dataclasses.replace(question, fix={a: v for a, v in question.fix.items() if a != axis})
    left = tuple(pair for pair in question.forbid if pair != (axis, value))
    return dataclasses.replace(question, forbid=left)


def widened(question: Question, rule: Rule, pool: "Pool") -> Question:
    """As ``without``, but a value that was fixed is still searched: no plan is lost."""
    kind, axis, value = rule
    fewer = without(question, rule)
    if kind == "forbid" or axis not in SEARCHED:
        return fewer
    values = fewer.options(axis)
    if axis == "activations" and not fewer.activation_formats:
        values = tuple(activations_for(str(name), pool.device) for name in fewer.options("weights"))
    searched: dict[str, Any] = {SEARCHED[axis]: tuple(dict.fromkeys((*values, value)))}
    return dataclasses.replace(fewer, **searched)
