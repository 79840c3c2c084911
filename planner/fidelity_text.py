"""Fidelity as text and JSON. Formatting only: every number comes from ``planner.fidelity``."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from textwrap import wrap
from typing import Any

from planner.fidelity import ErrorSummary, Fidelity, Order, RunFidelity
from planner.printable import WIDTH, printable

NAME = 17
COLUMNS = {"ttft": ("TTFT ms", 1e3), "itl": ("ITL ms", 1e3), "e2e": ("E2E s", 1.0)}
"""Metrics with a column, their heading, and units in a second."""

BOLD, RED, FAINT = "1", "31", "2"


def to_text(fidelity: Fidelity, *, colour: bool = False) -> str:
    """A row per run, errors by metric, plan and group, the order of plans, and what was used."""

    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour and text.strip() else text

    lines = [
        paint(f"{'':{NAME}}" + "".join(f"{heading:^21}" for heading, _ in COLUMNS.values()), BOLD),
        paint(f"{'run':<{NAME}}" + f"{'meas.':>7}{'pred.':>7}{'error':>7}" * len(COLUMNS), BOLD),
    ]
    group = None
    for run in fidelity.runs:
        if run.group != group:
            group = run.group
            lines.append(paint(_fit(group, WIDTH), FAINT))
        lines.append(_row(run))
    lines += ["", paint(f"{'error in %':<22}{'runs':>5}" + _heads(fidelity.summary), BOLD)]
    lines.append(_errors("all", fidelity.summary))
    for parts in (fidelity.by_plan, fidelity.by_group):
        if len(parts) > 1:
            lines += [_errors(name, part) for name, part in parts.items()]
    lines.append(paint("each: median absolute, worst absolute, mean signed", FAINT))
    if "tpot" in fidelity.summary and "itl" in fidelity.summary:
        part = fidelity.summary["tpot"]
        words = f"{part.median_abs_error:.1%}, {part.worst_abs_error:.1%}, {part.bias:+.1%}"
        lines += _paragraph("time per output token, the same: ", f"{words} of {part.runs} runs")
    lines += _per_request(fidelity)
    if fidelity.order:
        lines += ["", paint("plans by measured mean E2E in s, best first; in brackets as predicted", BOLD)]
        for order in fidelity.order:
            lines += _order(order, lambda text: paint(text, RED))
    lines += ["", *_paragraph("times: ", "; ".join(fidelity.sources))]
    shares = ", ".join(f"{share:.0%} {name}" for name, share in fidelity.provenance.items())
    lines += _paragraph("of the simulated busy time: ", shares)
    for run in fidelity.runs:
        if run.rejected:
            lines += _paragraph(
                "! ", f"{run.group}, {run.name}: {run.rejected} requests cannot be served here"
            )
    for note in fidelity.notes:
        lines += _paragraph("- ", note)
    return "\n".join(line.rstrip() for line in lines)


def _row(run: RunFidelity) -> str:
    cells = []
    for metric, (_, unit) in COLUMNS.items():
        if metric in run.error:
            values = _short(run.measured_s[metric] * unit), _short(run.predicted_s[metric] * unit)
            cells.append(f"{values[0]:>7}{values[1]:>7}{_percent(run.error[metric], sign=True):>7}")
        else:
            cells.append(f"{'-':>7}{'-':>7}{'-':>7}")
    return f"{'  ' + _fit(run.name, NAME - 3):<{NAME}}" + "".join(cells)


def _heads(summary: Mapping[str, ErrorSummary]) -> str:
    return "".join(f"{metric.upper():>17}" for metric in _shown(summary))


def _shown(summary: Mapping[str, ErrorSummary]) -> list[str]:
    """Three metrics at most: time per token is told by ITL where that was measured."""
    return [metric for metric in summary if metric != "tpot" or "itl" not in summary]


def _errors(name: str, summary: Mapping[str, ErrorSummary]) -> str:
    cells = [
        f"{_percent(part.median_abs_error):>6}{_percent(part.worst_abs_error):>5}{_percent(part.bias, sign=True):>6}"
        for part in (summary[metric] for metric in _shown(summary))
    ]
    return f"{_fit(name, 21):<22}{max((part.runs for part in summary.values()), default=0):>5}" + "".join(
        cells
    )


def _per_request(fidelity: Fidelity) -> list[str]:
    lines = []
    for run in fidelity.runs:
        if run.request_error:
            words = ", ".join(f"{metric} {value:.1%}" for metric, value in run.request_error.items())
            lines += _paragraph(f"median error per request, {_fit(run.name, 30)}: ", words)
    return lines


def _order(order: Order, paint: Callable[[str], str]) -> list[str]:
    plans = " < ".join(
        f"{printable(label)} {_short(value)} ({_short(order.predicted_s[label])})"
        for label, value in order.measured_s.items()
    )
    lines = _paragraph(f"  {_fit(order.group, 30)}: ", plans, indent=4)
    if order.agrees:
        return [*lines, "    predicted in the same order"]
    pairs = "; ".join(f"{printable(a)} before {printable(b)}" for a, b in order.wrong)
    return [*lines, *(paint(line) for line in _paragraph("    not predicted: ", pairs, indent=4))]


def _paragraph(head: str, text: str, *, indent: int = 2) -> list[str]:
    return wrap(head + printable(text), WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)


def _percent(error: float, *, sign: bool = False) -> str:
    value = 100 * error
    if abs(value) >= 9999:
        return ">99x" if value > 0 else "<-99x"
    digits = 1 if abs(value) < 99.95 else 0
    return f"{value:{'+' if sign else ''}.{digits}f}"


def _short(value: float) -> str:
    """At most six characters.

    Examples
    --------
    >>> _short(0.05391), _short(14.525), _short(7097.2), _short(123456.7)
    ('0.054', '14.53', '7097', '123457')
    """
    if value >= 1e6:
        return f"{value:.0e}"
    digits = 0 if value >= 1000 else 1 if value >= 100 else 2 if value >= 10 else 3
    return f"{value:.{digits}f}"


def _fit(name: str, columns: int) -> str:
    name = printable(name)
    return name if len(name) <= columns else "..." + name[-(columns - 3) :]


def to_json(fidelity: Fidelity) -> str:
    """Everything, times in seconds and errors as shares of 1; see docs/fidelity.md."""

    def errors(parts: Mapping[str, Mapping[str, ErrorSummary]]) -> dict[str, Any]:
        return {name: {metric: asdict(each) for metric, each in part.items()} for name, part in parts.items()}

    content = {
        "summary": {metric: asdict(each) for metric, each in fidelity.summary.items()},
        "by_plan": errors(fidelity.by_plan),
        "by_group": errors(fidelity.by_group),
        "runs": [
            {
                "name": run.name,
                "group": run.group,
                "plan": run.label,
                "requests": run.requests,
                "measured_s": dict(run.measured_s),
                "predicted_s": dict(run.predicted_s),
                "error": dict(run.error),
                "median_request_error": dict(run.request_error),
                "rejected": run.rejected,
            }
            for run in fidelity.runs
        ],
        "order": [
            {
                "group": order.group,
                "agrees": order.agrees,
                "measured_e2e_s": dict(order.measured_s),
                "predicted_e2e_s": dict(order.predicted_s),
                "wrong_pairs": [list(pair) for pair in order.wrong],
            }
            for order in fidelity.order
        ],
        "order_agrees": all(order.agrees for order in fidelity.order) if fidelity.order else None,
        "sources": list(fidelity.sources),
        "provenance": dict(fidelity.provenance),
        "notes": list(fidelity.notes),
    }
    return json.dumps(content, indent=2, allow_nan=False)
