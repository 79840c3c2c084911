"""Bounds of the shortlist: each plan that ``optimize`` simulates, beside what no scheduler gets out of it."""

import json
from textwrap import wrap

from planner.bound_text import objective_dict
from planner.objective import OBJECTIVES
from planner.pipeline import Answer
from planner.printable import WIDTH, printable, quantity
from planner.report import certificate_text
from planner.setting import BOUNDED
from profiles.errors import InputError, nearest


def check_objective(name: str) -> None:
    """Raise InputError for an objective that plans are not searched for."""
    if name not in OBJECTIVES:
        searched = [each for each in BOUNDED if each in OBJECTIVES]
        raise InputError(f"--all-plans: {name!r} bounds one plan, not a search, {nearest(name, searched)}")


def ratio(value: float, bound: float) -> float | None:
    """Value over bound, None where there is nothing to divide by."""
    return value / bound if bound > 0 else None


def to_text(answer: Answer, *, colour: bool = False) -> str:
    """A row per plan, in the order of the answer."""
    goal = answer.objective
    heads = f"{'#':>2}  {'plan':<30}{'value':>12}{'bound':>12}{'of bound':>10}  meets SLOs"
    lines = [line for part in answer.headline.split("\n") for line in wrap(printable(part), WIDTH)]
    lines += [f"objective: {goal.words}", "", f"\x1b[1m{heads}\x1b[0m" if colour else heads]
    for i, each in enumerate(answer.results, 1):
        engine = each.plan.engine
        name = f"{each.plan.label}, {engine.policy}, budget {engine.token_budget}"
        of = ratio(each.value, each.bound)
        lines.append(
            f"{i:>2}  {name:<30.30}{quantity(each.value, goal.unit):>12}{quantity(each.bound, goal.unit):>12}"
            f"{'n/a' if of is None else f'{of:.3f}':>10}  {'yes' if each.meets_slos else 'no'}"
        )
    lines += ["", *wrap(f"certificate: {certificate_text(answer)}", WIDTH)]
    for note in answer.notes:
        lines += wrap(f"note: {printable(note)}", WIDTH, break_on_hyphens=False)
    return "\n".join(lines)


def to_json(answer: Answer) -> str:
    """The same for programs."""
    content = {
        "schema": "zenith-bound-1",
        "objective": objective_dict(answer.objective),
        "plans": [
            {
                "plan": each.plan.label,
                "pool": each.pool,
                "policy": each.plan.engine.policy,
                "token_budget": each.plan.engine.token_budget,
                "max_seqs": each.plan.engine.max_seqs,
                "value": each.value,
                "bound": each.bound,
                "bound_name": each.bound_name,
                "ratio": ratio(each.value, each.bound),
                "meets_slos": each.meets_slos,
            }
            for each in answer.results
        ],
        "certificate": certificate_text(answer),
        "notes": list(answer.notes),
    }
    return json.dumps(content, indent=2, allow_nan=False)
