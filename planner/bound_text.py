"""A bound report as text and JSON. Formatting only: every number comes from ``planner.bound_report``."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from textwrap import wrap
from typing import Any

from planner.bound_curve import Point
from planner.bound_report import BoundReport
from planner.bound_rows import Scheduler
from planner.deployable import ENGINES
from planner.intervals import between
from planner.objective import Objective
from planner.printable import WIDTH, printable
from planner.printable import quantity as whole_quantity
from planner.report import profile_words

NAME = 13
BARS = "▁▂▃▄▅▆▇█"
HEADS = f"{'scheduler':<20}{'value':>11}{'of bound':>10}{'preempted':>11}{'KV peak':>9}{'iterations':>11}{'runs on':>8}"
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
    for each in report.joint:
        words = f"mean E2E within {quantity(each.e2e_s, 's')}, that of {each.scheduler}: no mean TTFT below "
        lines += _row(f"{'jointly':<{NAME}}", words + quantity(each.ttft_s, "s"))
    if best := report.exact:
        found = quantity(best.value, unit)
        proven = "proven best" if best.optimal else f"no schedule gets below {quantity(best.bound, unit)}"
        lines += _row(f"{'exact':<{NAME}}", f"{found}, {proven}; {best.class_words}")
        if rough := best.coarse:
            lines += _row(f"{'coarse':<{NAME}}", f"{quantity(rough.value, unit)}, {rough.words}")
    lines += ["", paint(HEADS)]
    lines += [_scheduler(row, unit) for row in report.schedulers if row.same_as is None]
    lines += _same(report.schedulers)
    lines += _row(
        f"{'runs on':<{NAME}}",
        ", ".join(f"{name[0].upper()} {name}" for name in ENGINES)
        + "; no engine runs the others (docs/schedulers.md)",
    )
    lines += curve_lines(report)
    for gap in report.gaps:
        total = quantity(sum(part.value for part in gap.parts), unit)
        lines += ["", paint(f"{gap.scheduler} loses {total} to the bound:")]
        for part in gap.parts:
            lines += _row(f"{part.name:<{NAME}}{quantity(part.value, unit):>10} ", part.words)
    lines += ["", *(line for name, words in times_rows(report) for line in _row(f"{name:<{NAME}}", words))]
    for note in report.notes:
        lines += wrap(f"note: {printable(note)}", WIDTH, break_on_hyphens=False)
    return "\n".join(line.rstrip() for line in lines)


def times_rows(report: BoundReport) -> Iterator[tuple[str, str]]:
    """Where the times come from, and how sure they are."""
    if found := report.expected:
        yield "expected", (
            f"{between(found.low, found.high)} of {report.own} in nine of ten cases, by errors of {found.source} "
            "(docs/fidelity.md)"
        )  # fmt: skip
    if report.own:
        yield "profile", f"{report.own}: {profile_words(report.provenance, report.sources)}"


def _row(head: str, text: str) -> list[str]:
    """Text wrapped to the right of its head."""
    return wrap(
        f"{head} {printable(text)}", WIDTH, subsequent_indent=" " * (len(head) + 1), break_on_hyphens=False
    )


def quantity(value: float | None, unit: str) -> str:
    """As everywhere, with units that fit a column.

    Examples
    --------
    >>> quantity(1.25, "requests/s"), quantity(1.25, "s")
    ('1.25/s', '1.25 s')
    """
    if unit == "requests/s":
        return "n/a" if value is None else f"{value if abs(value) > 1e-9 else 0.0:.4g}/s"
    return whole_quantity(value, unit)


def rate_text(rate_per_s: float | None) -> str:
    """Requests per second; all at once have no rate.

    Examples
    --------
    >>> rate_text(12.34567), rate_text(None)
    ('12.35', 'at once')
    """
    return "at once" if rate_per_s is None else f"{rate_per_s:.4g}"


def curve_lines(report: BoundReport) -> list[str]:
    """A table per axis, and its columns drawn with one scale for all."""
    unit, lines = report.objective.unit, []
    for axis in dict.fromkeys(each.axis for each in report.curve):
        points = [each for each in report.curve if each.axis == axis]
        amount = "KV tokens" if axis == "kv" else "per s"
        heads = f"{axis:<7}{amount:>10}{'bound':>10}{'own':>10}{'':>6}{'best':>10}{'':>6} by"
        lines += ["", heads]
        for each in points:
            amount = f"{each.kv_tokens:,}" if axis == "kv" else rate_text(each.rate_per_s)
            cells = f"{f'x{each.factor:g}':<7}{amount:>10}{quantity(each.bound.value, unit):>10}"
            for row in (each.own, each.best):
                cells += f"{'none' if row is None else quantity(row.value, unit):>10}"
                cells += f"{'' if row is None or row.ratio is None else f'{row.ratio:.2f}':>6}"
            lines.append(f"{cells} {each.best.name if each.best else 'all reject requests'}")
        series = curve_points(points)
        known = [value for values in series.values() for value in values if value is not None]
        lines += [f"{name:<8}{sparkline(values, min(known), max(known))}" for name, values in series.items()]
    return lines


def curve_points(points: Sequence[Point]) -> dict[str, list[float | None]]:
    """The columns of a curve by name; None where nobody serves every request."""
    return {
        "bound": [each.bound.value for each in points],
        "own": [each.own.value if each.own else None for each in points],
        "best": [each.best.value if each.best else None for each in points],
    }


def sparkline(values: Sequence[float | None], low: float, high: float) -> str:
    """One character a value, on a logarithmic scale where all are above 0; a dot where there is none.

    Examples
    --------
    >>> sparkline([1.0, 10.0, None, 100.0], 1.0, 100.0)
    '▁▅·█'
    """
    scale: Callable[[float], float] = math.log if low > 0 else float
    span = scale(high) - scale(low)
    return "".join(
        "·" if value is None else BARS[round((scale(value) - scale(low)) / span * 7) if span else 0]
        for value in values
    )


def _same(rows: Sequence[Scheduler]) -> list[str]:
    """Those that come to the schedule of one above."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.same_as:
            found.setdefault(row.same_as, []).append(row.name)
    words = "; ".join(f"{name}: {', '.join(others)}" for name, others in found.items())
    return _row(f"{'the same as':<{NAME}}", words) if found else []


def _scheduler(row: Scheduler, unit: str) -> str:
    value = f"rejects {row.rejected}" if row.value is None else quantity(row.value, unit)
    ratio = "n/a" if row.ratio is None else f"{row.ratio:.3f}"
    return (
        f"{row.name:<20}{value:>11}{ratio:>10}{row.preemptions:>11,}{row.kv_peak:>9.1%}{row.iterations:>11,}"
        f"{''.join(name[0].upper() for name in row.contender.runs_on) or '-':>8}"
    )


def to_json(report: BoundReport) -> str:
    """Everything, values in the objective's unit."""
    objective, bound = report.objective, report.bound
    content = {
        "schema": "zenith-bound-1",
        "plan": report.plan.label,
        "requests": report.requests,
        "objective": objective_dict(objective),
        "bound": {
            "name": bound.name,
            "value": bound.value,
            "class": report.class_words,
            "proof": report.proof,
            "relaxations": bound.others,
            "prices": bound.prices,
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
        "joint": [asdict(each) for each in report.joint],
        "curve": [_point_dict(each) for each in report.curve],
        "own": report.own or None,
        "expected": None if report.expected is None else asdict(report.expected),
        "provenance": report.provenance,
        "sources": report.sources,
        "notes": list(report.notes),
    }
    return json.dumps(content, indent=2, allow_nan=False)


def _scheduler_dict(row: Scheduler) -> dict[str, Any]:
    rules = row.contender.rules
    return {
        "name": row.name,
        "value": row.value,
        "ratio": row.ratio,
        "runs_on": list(row.contender.runs_on),
        "same_as": row.same_as,
        "policy": row.engine.policy,
        "queue": row.engine.queue,
        "preemption": row.engine.preemption,
        "rules": None if rules is None else asdict(rules),
        "preemptions": row.preemptions,
        "recomputed_tokens": row.recomputed_tokens,
        "kv_peak_share": row.kv_peak,
        "iterations": row.iterations,
        "rejected": row.rejected,
    }


def _point_dict(point: Point) -> dict[str, Any]:
    return {
        "axis": point.axis,
        "factor": point.factor,
        "kv_tokens": point.kv_tokens,
        "rate_per_s": point.rate_per_s,
        "bound": {"name": point.bound.name, "value": point.bound.value},
        "own": None if point.own is None else _scheduler_dict(point.own),
        "best": None if point.best is None else _scheduler_dict(point.best),
    }


def objective_dict(objective: Objective) -> dict[str, Any]:
    """What is bounded, for programs."""
    return {
        "name": objective.name,
        "metric": objective.metric,
        "unit": objective.unit,
        "maximize": objective.maximize,
    }
