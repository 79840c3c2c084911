"""A bound report as text and JSON. Formatting only: every number comes from ``planner.bound_report``."""

import json
from dataclasses import asdict
from textwrap import wrap
from typing import Any

from planner.bound_report import BoundReport, Scheduler
from planner.printable import printable, quantity
from planner.report import WIDTH

NAME = 13
BOLD = "1"


def to_text(report: BoundReport, *, colour: bool = False) -> str:
    """The bound, a row per scheduler, and where the gap comes from."""

    def paint(text: str) -> str:
        return f"\x1b[{BOLD}m{text}\x1b[0m" if colour else text

    unit = report.objective.unit
    lines = [line for part in report.headline.split("\n") for line in wrap(printable(part), WIDTH)]
    lines += [f"objective: {report.objective.words}", ""]
    value = quantity(report.bound.value, unit)
    lines += _row(f"{'bound':<{NAME}}", f"{value} by {report.bound.name} ({report.proof})")
    lines += _row(f"{'holds for':<{NAME}}", report.class_words)
    if best := report.exact:
        found = quantity(best.value, unit)
        proven = "proven best" if best.optimal else f"no schedule gets below {quantity(best.bound, unit)}"
        lines += _row(f"{'exact':<{NAME}}", f"{found}, {proven}; {best.class_words}")
    heads = f"{'scheduler':<20}{'value':>11}{'of bound':>10}{'preempted':>11}{'KV peak':>9}{'iterations':>12}"
    lines += ["", paint(heads)]
    lines += [_scheduler(row, unit) for row in report.schedulers]
    for gap in report.gaps:
        total = quantity(sum(part.value for part in gap.parts), unit)
        lines += ["", paint(f"{gap.scheduler} loses {total} to the bound:")]
        for part in gap.parts:
            lines += _row(f"{part.name:<{NAME}}{quantity(part.value, unit):>10} ", part.words)
    for note in report.notes:
        lines += wrap(f"note: {printable(note)}", WIDTH, break_on_hyphens=False)
    return "\n".join(line.rstrip() for line in lines)


def _row(head: str, text: str) -> list[str]:
    """Text wrapped to the right of its head."""
    return wrap(
        f"{head} {printable(text)}", WIDTH, subsequent_indent=" " * (len(head) + 1), break_on_hyphens=False
    )


def _scheduler(row: Scheduler, unit: str) -> str:
    value = f"rejects {row.rejected}" if row.value is None else quantity(row.value, unit)
    ratio = "n/a" if row.ratio is None else f"{row.ratio:.3f}"
    return (
        f"{row.name:<20}{value:>11}{ratio:>10}{row.preemptions:>11,}{row.kv_peak:>9.1%}{row.iterations:>12,}"
    )


def to_json(report: BoundReport) -> str:
    """Everything, values in the objective's unit."""
    objective, bound = report.objective, report.bound
    content = {
        "schema": "zenith-bound-1",
        "plan": report.plan.label,
        "requests": report.requests,
        "objective": {"name": objective.name, "metric": objective.metric, "unit": objective.unit},
        "bound": {
            "name": bound.name,
            "value": bound.value,
            "class": report.class_words,
            "proof": report.proof,
            "relaxations": bound.others,
        },
        "exact": None if report.exact is None else asdict(report.exact),
        "schedulers": [_scheduler_dict(row) for row in report.schedulers],
        "gaps": [
            {
                "scheduler": gap.scheduler,
                "parts": [{"name": p.name, "value": p.value, "words": p.words} for p in gap.parts],
            }
            for gap in report.gaps
        ],
        "notes": list(report.notes),
    }
    return json.dumps(content, indent=2, allow_nan=False)


def _scheduler_dict(row: Scheduler) -> dict[str, Any]:
    return {
        "name": row.name,
        "policy": row.engine.policy,
        "queue": row.engine.queue,
        "preemption": row.engine.preemption,
        "value": row.value,
        "ratio": row.ratio,
        "preemptions": row.preemptions,
        "recomputed_tokens": row.recomputed_tokens,
        "kv_peak_share": row.kv_peak,
        "iterations": row.iterations,
        "rejected": row.rejected,
    }
