"""Rules of the user, ``--fix`` and ``--forbid``, one by one: their names, and the question without one."""

import dataclasses
from typing import TYPE_CHECKING, Any

from planner.axes import AxisValue
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


def rules_of(question: Question) -> list[Rule]:
    """All of them, fixed ones first.

    Queue, preemption and routing decide no plan's feasibility and are left out.
    """
    fixed: list[Rule] = [
        ("fix", axis, value)
        for axis, value in question.fix.items()
        if axis not in ("queue", "preemption", "routing")
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
    return f"--{name_of((kind, 'tp' if axis == 'attn_tp' else axis, value))}"


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
