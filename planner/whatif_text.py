"""A sweep as text, CSV and JSON. Formatting only: every number comes from ``planner.whatif``."""

import csv
import io
import json
import math
import shlex
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

from planner.printable import WIDTH, printable, quantity
from planner.ranking import PlanResult
from planner.report import answer_dict
from planner.vary import sets
from planner.whatif import Scenario, Sweep

COLUMNS = ((3, False), (21, True), (17, True), (12, False), (4, True), (9, False), (7, False))
"""Width of each column, and whether its words start at its left."""
HEADS = ("#", "scenario", "best plan", "objective", "SLO", "USD/hour", "gap")
METRICS = ("e2e_mean_s", "ttft_mean_s", "tpot_mean_s", "generated_tokens_per_s", "energy_j", "cost_usd")
BOLD = "1"


def to_text(sweep: Sweep, *, colour: bool = False) -> str:
    """One row a scenario, under it what differs from the first and why; then what is odd."""
    bold = (f"\x1b[{BOLD}m", "\x1b[0m") if colour else ("", "")
    lines = [line for words in heading(sweep) for line in wrap(words, WIDTH)] + [""]
    lines += [f"{bold[0]}{_cells(HEADS)[0]}{bold[1]}", "─" * WIDTH]
    marked = {j for _, j in sweep.breaks}
    for i, scenario in enumerate(sweep.scenarios):
        lines += _cells(row(i, scenario, marked=i in marked))
        if scenario.change or scenario.reason:
            lines += _indented(scenario.change or scenario.reason)
    lines.append("")
    if any(scenario.answer and not scenario.holds for scenario in sweep.scenarios):
        lines += wrap("(!) no plan holds; shown: the nearest", WIDTH)
    for i, j in sweep.breaks:
        lines += wrap(f"~ {oddity(sweep, i, j)}", WIDTH, subsequent_indent="  ")
    for name, words in (("certificate:", certificates(sweep)), ("launch:", starting(sweep))):
        lines += wrap(f"{name:<12} {words}" if words else "", WIDTH, subsequent_indent=" " * 13,
                      break_on_hyphens=False)  # fmt: skip
    return "\n".join(line.rstrip() for line in lines)


def heading(sweep: Sweep) -> list[str]:
    """What the first scenario asks, and of which trace."""
    asked = sweep.scenarios[0].question
    fleet = " + ".join(f"{pool.devices} x {pool.device.name}" for pool in asked.fleet.pools)
    rate = f" at {asked.trace.rate_per_s:.3g}/s" if asked.trace.rate_per_s else " at once"
    slos = ", ".join(slo.text for slo in asked.slos) or "none"
    return [
        f"scenario 1: {asked.model.name} on {fleet}, objective {asked.objective}, SLO {slos}",
        f"trace {printable(asked.trace.name)}: {len(asked.trace):,} requests{rate}",
    ]


def row(i: int, scenario: Scenario, *, marked: bool) -> tuple[str, ...]:
    """Cells of one scenario under ``HEADS``."""
    best = scenario.best
    if best is None or scenario.answer is None:
        return f"{i + 1}", scenario.words, "none", "n/a", "n/a", "n/a", "n/a"
    slos = "-" if not best.slos else "met" if best.meets_slos else "NOT"
    return (
        f"{i + 1}",
        scenario.words,
        best.plan.label
        + (f" on {best.pool}" if len(scenario.question.fleet.pools) > 1 else "")
        + ("" if best.acceptable else " (!)"),
        quantity(best.value, scenario.answer.objective.unit) + ("~" if marked else ""),
        slos,
        _hourly_text(scenario, best),
        _gap_text(scenario),
    )


def _hourly_text(scenario: Scenario, best: PlanResult) -> str:
    usd = usd_per_hour(scenario, best)
    return "n/a" if usd is None else f"{usd:,.2f}"


def usd_per_hour(scenario: Scenario, best: PlanResult) -> float | None:
    """Price of the plan's devices for an hour."""
    price = next(p for p in scenario.question.fleet.pools if p.name == best.pool).price_usd_per_device_hour
    return None if price is None else price * best.plan.devices


def _gap_text(scenario: Scenario) -> str:
    assert scenario.answer is not None
    certificate = scenario.answer.certificate
    if certificate.best is None:
        return "open" if certificate.unexamined else "proven"
    return "none" if math.isinf(certificate.gap) else f"{certificate.gap:.2%}"


def certificates(sweep: Sweep) -> str:
    """How many answers are proven, by how many plans."""
    answers = [s.answer for s in sweep.scenarios if s.answer]
    found = [a.certificate for a in answers]
    closed = sum(not c.unexamined for c in found) + sum(not s.answer and s.proven for s in sweep.scenarios)
    feasible, simulated = sum(c.feasible for c in found), sum(c.simulated for c in found)
    others = ", the others excluded by proof" if feasible > simulated else ""
    return (
        f"{closed} of {len(sweep.scenarios)} scenarios proven; {feasible} feasible plans in all, {simulated} simulated"
        f"{others}" + (f" but {sum(c.unexamined for c in found)}" if any(c.unexamined for c in found) else "")
    )


def starting(sweep: Sweep) -> str:
    """Which command shows how to start a scenario's plan, by the last one that holds; empty where none does."""
    held = [i for i, scenario in enumerate(sweep.scenarios) if scenario.holds]
    if not held:
        return ""
    words = [f"--set {shlex.quote(pair)}" for pair in sets(sweep.scenarios[held[-1]].values, sweep.rate)]
    gone = " and ".join(filter(None, (", ".join(["--vary", *sweep.replaced[:-1]]), *sweep.replaced[-1:])))
    instead = f", {printable(' '.join(words))} in place of {printable(gone)}" if words else ""
    return f"scenario {held[-1] + 1} with zenith deploy{instead}; every one with --json or --html"


def oddity(sweep: Sweep, i: int, j: int) -> str:
    """What is odd about a pair of ``Sweep.breaks``."""
    easy = sweep.scenarios[j]
    text = f"{j + 1} asks no more than {i + 1} and gets the worse objective: "
    if easy.answer and easy.answer.certificate.unexamined:
        return text + "its search was cut short"
    return text + "so the simulated scheduler does on this trace; both are the best of their plans"


def _cells(values: Sequence[str]) -> list[str]:
    """One row as lines: cells that are too long go on below."""
    columns = [
        wrap(value, width, break_on_hyphens=False) or [""]
        for value, (width, _) in zip(values, COLUMNS, strict=True)
    ]
    lines = []
    for i in range(max(map(len, columns))):
        parts = [cell[i] if i < len(cell) else "" for cell in columns]
        lines.append(
            " ".join(
                f"{part:<{width}}" if left else f"{part:>{width}}"
                for part, (width, left) in zip(parts, COLUMNS, strict=True)
            )
        )
    return lines


def _indented(text: str) -> list[str]:
    return wrap(
        printable(text), WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )


def to_csv(sweep: Sweep) -> str:
    """One row a scenario; a column for each axis, whose name it has. Seconds, joules, dollars."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    axes = [axis.name for axis in sweep.axes]
    limits = dict.fromkeys(slo.key for s in sweep.scenarios for slo in s.question.slos)
    writer.writerow(
        ["scenario", *axes, "plan", "device", "devices", "objective", "value", "unit", "bound", "holds",
         *(f"{key}_slo" for key in limits), "usd_per_hour", *METRICS, "gap", "feasible", "simulated",
         "unexamined", "no_harder_than", "change"]
    )  # fmt: skip
    for i, s in enumerate(sweep.scenarios):
        harder = " ".join(str(a + 1) for a, b in sweep.breaks if b == i)
        head = [i + 1, *s.values.values()]
        if s.answer is None or s.best is None:
            filled = [None] * (len(limits) + len(METRICS) + 9)
            writer.writerow(
                [*head, None, None, None, s.question.objective, *filled, harder, s.change or s.reason]
            )
            continue
        best, certificate = s.best, s.answer.certificate
        values = {asked.key: found.value for asked, found in zip(s.question.slos, best.slos, strict=True)}
        gap = certificate.gap if certificate.best is not None and math.isfinite(certificate.gap) else None
        writer.writerow(
            [*head, best.plan.label, best.device, best.plan.devices, s.question.objective, best.value,
             s.answer.objective.unit, best.bound, s.holds, *(values.get(key) for key in limits),
             usd_per_hour(s, best), *(best.metrics.get(key) for key in METRICS), gap, certificate.feasible,
             certificate.simulated, certificate.unexamined, harder, s.change]
        )  # fmt: skip
    return out.getvalue()


def to_json(sweep: Sweep) -> str:
    """Every scenario with its whole answer; the schema is ``planner/whatif.schema.json``."""
    return json.dumps(
        {
            "schema": "zenith-whatif-1",
            "axes": [{"name": axis.name, "values": list(axis.values)} for axis in sweep.axes],
            "scenarios": [_scenario_dict(scenario) for scenario in sweep.scenarios],
            "worse_though_no_harder": [{"than": i + 1, "scenario": j + 1} for i, j in sweep.breaks],
        },
        indent=2,
        allow_nan=False,
    )


def _scenario_dict(scenario: Scenario) -> dict[str, Any]:
    best = scenario.best
    return {
        "values": scenario.values,
        "holds": scenario.holds,
        "usd_per_hour": None if best is None else usd_per_hour(scenario, best),
        "change": scenario.change or None,
        "no_plan": scenario.reason or None,
        "answer": None if scenario.answer is None else answer_dict(scenario.answer),
    }
