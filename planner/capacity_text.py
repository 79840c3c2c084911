"""A capacity as text, CSV and JSON. Formatting only: every number comes from ``planner.capacity``."""

import csv
import io
import json
import math
from textwrap import wrap

from planner import report
from planner.capacity import Capacity
from planner.printable import WIDTH, printable, quantity
from planner.report import answer_dict, plan_dict

NAME = 13
BURST = 0.1
"""Share of the trace's length for which its last answers may last before it is called a burst."""

SHOWN = 5
"""Proven limits of plans that are listed."""


def to_text(found: Capacity, *, colour: bool = False) -> str:
    """What is sustained, what is proven out of reach, how it was found, then the plan at that rate."""
    lines = _row("asked", f"highest rate within {found.slo_text}")
    lines += _row("sustained", _lower(found)) + _row("no more than", _upper(found))
    if found.lower and math.isfinite(found.upper):
        lines += _row(
            "gap", f"{found.upper / found.lower:.3g} x; rates are bisected to {found.tolerance:.1%}"
        )
    lines += _row("plans", _plans(found))
    if not found.named:
        lines += _row("limits", _limits(found))
    if found.trials:
        lines += _row("monotone", _monotone(found))
    if found.served_s > (1 + BURST) * found.lasts_s:
        lines += _row("burst", _burst(found))
    if found.answer is not None:
        lines += ["", "at that rate:", report.to_text(found.answer, colour=colour)]
    return "\n".join(lines)


def rate_text(found: Capacity, factor: float) -> str:
    """A factor as requests per second and times the trace.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> rate_text(SimpleNamespace(rate_per_s=2.0), 3.5), rate_text(SimpleNamespace(rate_per_s=2.0), math.inf)
    ('7 requests/s (3.5 x the trace)', 'all requests at once')
    """
    if math.isinf(factor):
        return "all requests at once"
    return f"{found.rate_per_s * factor:.4g} requests/s ({factor:.4g} x the trace)"


def _lower(found: Capacity) -> str:
    if found.answer is not None:
        best = found.answer.results[0]
        return f"{rate_text(found, found.lower)} by {best.plan.label} on {best.plan.devices} x {best.device}, simulated"
    if found.upper == 0:
        return "no rate, proven"
    return "no rate that was simulated"


def _upper(found: Capacity) -> str:
    who = "no scheduler of this plan" if found.named else f"no scheduler of any of {len(found.limits)} plans"
    if found.upper == 0:
        return f"0: {who} holds the SLOs at any rate, proven"
    if math.isinf(found.upper):
        return "not bounded: no proof that these SLOs break however fast the trace arrives"
    return f"{rate_text(found, found.upper)}: there and above {who} holds the SLOs, proven"


def _plans(found: Capacity) -> str:
    parts = [f"{len({(t.plan, t.pool) for t in found.trials})} simulated in {len(found.trials)} runs"]
    if found.beaten:
        parts.append(f"{found.beaten} sustain no more than that")
    if found.excluded:
        parts.append(f"{found.excluded} proven to sustain no more")
    if found.unexamined:
        parts.append(f"{found.unexamined} not examined")
    return ", ".join(parts)


def _limits(found: Capacity) -> str:
    """The proven limits that are highest, one for each layout."""
    highest: dict[str, float] = {}
    for plan, _, upper in found.limits:
        highest.setdefault(plan.label, upper)
    listed = [
        f"{label} " + ("none" if math.isinf(upper) else f"{found.rate_per_s * upper:.4g}/s")
        for label, upper in list(highest.items())[:SHOWN]
    ]
    more = len(highest) - len(listed)
    return "proven, " + ", ".join(listed) + (f" and {more} layouts below" if more > 0 else "")


def _monotone(found: Capacity) -> str:
    pairs = found.reversals
    if not pairs:
        return (
            "no plan held at a rate above one at which it failed, of those tried; simulation does not prove "
            "that there is none"
        )
    shown = [
        f"{held.plan.label} fails at {found.rate_per_s * failed.factor:.4g}/s and holds at "
        f"{found.rate_per_s * held.factor:.4g}/s"
        for failed, held in pairs[:2]
    ]
    return f"not so: {'; '.join(shown)}; other requests meet in a batch"


def _burst(found: Capacity) -> str:
    return (
        f"at that rate the trace arrives in {quantity(found.lasts_s, 's')} and is served in "
        f"{quantity(found.served_s, 's')}; the same rate for longer may not hold (zenith trace synth makes "
        "longer traces)"
    )


def _row(name: str, text: str) -> list[str]:
    return wrap(
        f"{name:<{NAME}} {printable(text)}", WIDTH, subsequent_indent=" " * (NAME + 1), break_on_hyphens=False
    )


def _rate(found: Capacity, factor: float) -> float | None:
    return found.rate_per_s * factor if math.isfinite(factor) else None


def to_csv(found: Capacity) -> str:
    """One row per plan: the rate that it was seen to hold, the one it is proven not to; empty where unbounded."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["plan", "pool", "budget", "seqs", "policy", "sustained_per_s", "upper_per_s"])
    for plan, pool, upper in found.limits:
        held = [t.factor for t in found.trials if t.holds and (t.plan, t.pool) == (plan, pool)]
        engine = plan.engine
        sustained = _rate(found, max(held)) if held else None
        writer.writerow(
            [
                plan.label,
                pool,
                engine.token_budget,
                engine.max_seqs,
                engine.policy,
                sustained,
                _rate(found, upper),
            ]
        )
    return out.getvalue()


def to_json(found: Capacity) -> str:
    """Everything; the schema is ``planner/capacity.schema.json``. Rates in requests per second, null where a rate
    has no limit (``at_once``, ``unbounded``)."""
    return json.dumps(
        {
            "schema": "zenith-capacity-1",
            "trace_rate_per_s": found.rate_per_s,
            "sustained_per_s": _rate(found, found.lower),
            "at_once": math.isinf(found.lower),
            "upper_per_s": _rate(found, found.upper),
            "unbounded": math.isinf(found.upper),
            "tolerance": found.tolerance,
            "plans": {
                "feasible": len(found.limits),
                "beaten": found.beaten,
                "excluded": found.excluded,
                "unexamined": found.unexamined,
            },
            "limits": [
                {"plan": plan_dict(plan), "pool": pool, "upper_per_s": _rate(found, upper)}
                for plan, pool, upper in found.limits
            ],
            "trials": [
                {"plan": t.plan.label, "pool": t.pool, "rate_per_s": _rate(found, t.factor), "holds": t.holds}
                for t in found.trials
            ],
            "arrives_in_s": found.lasts_s,
            "served_in_s": found.served_s,
            "monotone": not found.reversals,
            "answer": None if found.answer is None else answer_dict(found.answer),
        },
        indent=2,
        allow_nan=False,
    )
