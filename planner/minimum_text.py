"""A minimum as text, CSV and JSON. Formatting only: every number comes from ``planner.minimum``."""

import dataclasses
import json
from textwrap import wrap

from planner import report
from planner.minimum import Minimum, Quantity, Step
from planner.printable import WIDTH, printable
from planner.report import answer_dict

NAME = 13
SHOWN = 4
"""Steps below the least that are listed: the nearest ones."""


def to_text(found: Minimum, *, colour: bool = False) -> str:
    """The least and its proof, then the best plan that takes no more."""
    quantity, least = found.quantity, found.least
    slos = found.answer.slo_text or "no SLO: every request is served"
    lines = _row("asked", f"{quantity.words} within {slos}")
    if least is None:
        open_ = found.certificate.unexamined
        none = "no simulated plan of the fleet holds" if open_ else "no plan of the fleet holds"
        lines += _row("answer", none + (f"; {open_} plans were not examined" if open_ else ", proven"))
    else:
        proof = (
            "proven: nothing that takes less holds"
            if not found.certificate.unexamined
            else f"not proven: none that holds takes less than {amount(found.proven, quantity)}, "
            f"{found.certificate.unexamined} plans were not examined"
        )
        lines += _row("answer", f"{amount(least, quantity)}, {proof}")
    if found.unfit:
        lines += _row("fewer", found.unfit)
    if len(found.below) > SHOWN:
        lines += _row("below", _sum(found.below[:-SHOWN], quantity))
    for step in found.below[-SHOWN:]:
        lines += _row("below", _step(step, quantity))
    taken = "nearest" if least is None else f"best plan that takes {amount(least, quantity)}"
    lines += ["", f"{taken}:", report.to_text(found.answer, colour=colour)]
    return "\n".join(lines)


def amount(value: float | None, quantity: Quantity) -> str:
    """A value with its unit.

    Examples
    --------
    >>> from planner.minimum import QUANTITIES
    >>> [amount(2.0, QUANTITIES[name]) for name in ("gpus", "cost", "power")]
    ['2 GPUs', '2.00 USD/hour', '2 W']
    """
    if value is None:
        return "n/a"
    number = f"{value:,.2f}" if quantity.name == "cost" else f"{value:,.0f}"
    unit = quantity.unit if quantity.name != "gpus" or value != 1 else "GPU"
    return f"{number} {unit}"


def _step(step: Step, quantity: Quantity) -> str:
    takes = amount(step.takes, quantity) + ("" if quantity.exact else " or more")
    parts = [
        f"{count} {words}"
        for count, words in (
            (step.hopeless, "that no scheduler gets within the SLOs"),
            (step.failed, "simulated that do not hold"),
            (step.more, "simulated that hold and take more"),
            (step.unexamined, "not examined"),
        )
        if count
    ]
    nearest = f"; {step.nearest}" if step.nearest else ""
    return f"{takes}: {step.feasible} plans, {', '.join(parts)}{nearest}"


def _sum(steps: list[Step], quantity: Quantity) -> str:
    total = Step(
        takes=steps[-1].takes,
        feasible=sum(s.feasible for s in steps),
        hopeless=sum(s.hopeless for s in steps),
        failed=sum(s.failed for s in steps),
        more=sum(s.more for s in steps),
        unexamined=sum(s.unexamined for s in steps),
        nearest="",
    )
    return f"at most {_step(total, quantity)}"


def _row(name: str, text: str) -> list[str]:
    return wrap(
        f"{name:<{NAME}} {printable(text)}", WIDTH, subsequent_indent=" " * (NAME + 1), break_on_hyphens=False
    )


def to_csv(found: Minimum) -> str:
    """Plans that take the least, one row each, as ``zenith optimize`` writes them."""
    return report.to_csv(found.answer)


def to_json(found: Minimum) -> str:
    """The least, its proof, and the answer; the schema is ``planner/minimum.schema.json``."""
    c = found.certificate
    return json.dumps(
        {
            "schema": "zenith-minimum-1",
            "of": found.quantity.name,
            "unit": found.quantity.unit,
            "least": found.least,
            "proven": found.proven,
            "certificate": {
                "feasible": c.feasible,
                "simulated": c.simulated,
                "excluded_by_bound": c.excluded_by_bound,
                "excluded_by_slo": c.excluded_by_slo,
                "unexamined": c.unexamined,
            },
            "below": [dataclasses.asdict(step) for step in found.below],
            "fewer_devices": found.unfit or None,
            "answer": answer_dict(found.answer),
        },
        indent=2,
        allow_nan=False,
    )
