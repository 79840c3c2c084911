"""A sensitivity as text, CSV and JSON. Formatting only: every number comes from ``planner.sensitivity``."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator
from textwrap import wrap
from typing import Any

from planner import launch_text
from planner.overthrow import Overthrow
from planner.printable import WIDTH, printable, quantity
from planner.report import answer_dict, percentages, plan_dict
from planner.sensitivity import Sensitivity, Worth
from planner.stability import Stability, name_of
from profiles.stepcost import PROVENANCE

NAME = 13
COLUMNS = ((24, False), (17, False), (11, True), (8, True))
"""Width of each column, and whether its words end at its right; the rest of the line is the plan's."""
BOLD = "1"
BAR = 24
"""Cells of a bar of 100 %."""


def to_text(found: Sensitivity, *, colour: bool = False) -> str:
    """The winner, what binds it, the table of what each step is worth, how stable the ranking is, how to start it."""
    bold = (f"\x1b[{BOLD}m", "\x1b[0m") if colour else ("", "")
    answer, best = found.answer, found.answer.results[0]
    lines = [line for text in answer.headline.split("\n") for line in wrap(printable(text), WIDTH)]
    slos = f"; SLO {answer.slo_text}" if answer.slo_text else ""
    lines += wrap(f"objective: {answer.objective.words}{slos}", WIDTH)
    holds = "" if best.acceptable else "; breaks an SLO or rejects requests"
    value = f"{quantity(best.value, answer.objective.unit)}, {_proof(found)}{holds}"
    lines += ["", *_row("best plan", f"{best.plan.label}: {value}"), ""]
    if answer.binding:
        total = quantity(answer.binding.total_s, "s")
        lines += [f"{bold[0]}What binds: parts of {total} {answer.binding.of}{bold[1]}"]
        lines += [*_bars(answer.binding.seconds), ""]
    lines += [f"{bold[0]}What one step more is worth, each solved again{bold[1]}"]
    lines += [_cells(("constraint", "step", answer.objective.name, "change", "best plan")), "─" * WIDTH]
    for worth in found.worth:
        lines += _worth(worth, found)
    if found.stability:
        lines += ["", f"{bold[0]}How stable the ranking is{bold[1]}"]
        for name, text in stability_rows(found, found.stability):
            lines += _row(name, text)
    lines += ["", *launch_text.to_lines(answer.launch)]
    return "\n".join(line.rstrip() for line in lines)


def _proof(found: Sensitivity) -> str:
    c = found.answer.certificate
    if c.best is None:
        return "the nearest"
    return "proven best" if c.gap == 0 else f"gap {c.gap:.1%}"


def _row(name: str, text: str) -> list[str]:
    return wrap(
        f"{name:<{NAME}} {printable(text)}", WIDTH, subsequent_indent=" " * (NAME + 1), break_on_hyphens=False
    )


def _bars(seconds: dict[str, float]) -> list[str]:
    whole = percentages(seconds)
    lines = []
    for name in sorted(seconds, key=lambda name: -seconds[name]):
        bar = "█" * round(whole[name] / 100 * BAR)
        lines.append(f"  {name:<16}{quantity(seconds[name], 's'):>10}{whole[name]:>5}%  {bar}")
    return lines


def _cells(cells: tuple[str, ...]) -> str:
    padded = (
        f"{cell:>{width}}" if right else f"{cell:<{width}}"
        for cell, (width, right) in zip(cells, COLUMNS, strict=False)
    )
    return "".join(padded) + (f"  {cells[-1]}" if len(cells) > len(COLUMNS) else "")


def _worth(worth: Worth, found: Sensitivity) -> list[str]:
    """A row, and below it what does not fit beside it."""
    unit = found.answer.objective.unit
    value = (
        quantity(worth.best.value, unit).removesuffix(f" {unit}" if len(unit) > 3 else "")
        if worth.best
        else "n/a"
    )
    change = change_text(worth.change)
    plan, below = (worth.plan, "") if worth.best else ("", worth.reason)
    room = WIDTH - sum(width for width, _ in COLUMNS) - 2
    if worth.change == 0:
        plan = "same value"
    if len(plan) > room:
        plan, below = "", plan
    row = _cells((printable(worth.step.name), worth.step.words, value, change, plan))
    under = (
        wrap(printable(below), WIDTH - 4, initial_indent="    ", subsequent_indent="    ") if below else []
    )
    return [row, *under]


def change_text(change: float | None) -> str:
    """Relative, in percent.

    Examples
    --------
    >>> change_text(-0.0264), change_text(1e-6), change_text(0.0), change_text(None)
    ('-2.64%', '< 0.01%', 'none', 'n/a')
    """
    if change is None or change == 0:
        return "n/a" if change is None else "none"
    return f"{change:+.2%}" if abs(change) >= 5e-5 else "< 0.01%"


def stability_rows(found: Sensitivity, stable: Stability) -> Iterator[tuple[str, str]]:
    """What is said of the ranking, for the terminal and the page. An empty name continues the one before."""
    goal, best = found.answer.objective, found.answer.results[0]
    yield "draws", f"{stable.draws} perturbed profiles, seed {stable.seed}"
    yield "wins", f"{name_of(best)} in {stable.wins} of {stable.draws}, its layout in {stable.layout_wins}"
    if stable.others:
        yield "", "else " + ", ".join(f"{name} in {count}" for name, count in stable.others[:4])
    if stable.none_holds:
        yield "", f"no plan within reach holds in {stable.none_holds}"
    span = f"{quantity(stable.low, goal.unit)} to {quantity(stable.high, goal.unit)}"
    yield "value", f"{span} in nine of ten draws ({quantity(best.value, goal.unit)} as the profile says)"
    yield "within reach", _reach(stable)
    near = [each for each in stable.overthrows if math.isfinite(each.nearest)]
    for i, each in enumerate(near):
        yield "" if i else "overthrown by", overthrow_words(each)
    others = [each.number for each in stable.overthrows if not math.isfinite(each.nearest)]
    if others:
        yield (
            "" if near else "overthrown by",
            f"nothing at half or twice {', '.join(others)}, one at a time on the {stable.layouts} best layouts",
        )
    yield "spreads", "; ".join(spread_words(stable))
    for constant in stable.constants:
        yield "", f"{constant.name} {constant.sigma:.0%}: {constant.source}"


def _reach(stable: Stability) -> str:
    text = f"{len(stable.contenders)} plans drawn besides"
    if not stable.left_out:
        return f"{text}, all there are"
    text += f", {stable.left_out} left out: the nearest of them is behind by {stable.nearest:.0%} or more, "
    if stable.nearest <= stable.reach:
        return text + f"the spread reaches {stable.reach:.0%}: more could win than is counted here"
    return text + f"three times the widest spread drawn reaches {stable.reach:.0%}"


def overthrow_words(each: Overthrow) -> str:
    """At which factors of a number which layout wins instead.

    Examples
    --------
    >>> overthrow_words(Overthrow(number="gemm", below=0.8, below_winner="tp=4", above=None, above_winner=""))
    'gemm x0.80 or less: tp=4 wins'
    """
    ends = []
    if each.below is not None:
        ends.append(f"x{each.below:.2f} or less: {each.below_winner} wins")
    if each.above is not None:
        ends.append(f"x{each.above:.2f} or more: {each.above_winner} wins")
    return f"{each.number} {'; '.join(ends)}"


def spread_words(stable: Stability) -> list[str]:
    """Standard deviations of what the plans within reach use, by provenance; formats that all share theirs once."""
    said = []
    for each in stable.spreads:
        if each.form:
            continue  # the row without a format stands for the usual one; --json has all
        words = ", ".join(f"{name} {s:.0%}" for name, s in zip(PROVENANCE, each.sigma, strict=True) if s)
        said.append(f"{each.family} {words}")
    return [*said, "of the logarithm of each shape's times (docs/sensitivity.md)"]


def to_csv(found: Sensitivity) -> str:
    """One row per constraint."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["constraint", "step", "value", "change", "gain", "plan", "pool", "gap", "reason"])
    for worth in found.worth:
        row = _worth_dict(worth)
        plan = row["plan"]["name"] if row["plan"] else None
        writer.writerow([row["constraint"], row["step"], row["value"], row["change"], row["gain"], plan, row["pool"],
                         row["gap"], row["reason"]])  # fmt: skip
    return out.getvalue()


def to_json(found: Sensitivity) -> str:
    """All of it; the answer as in ``planner/answer.schema.json``."""
    return json.dumps(
        {
            "schema": "zenith-sensitivity-1",
            "answer": answer_dict(found.answer),
            "worth": [_worth_dict(worth) for worth in found.worth],
            "stability": _stability_dict(found.stability) if found.stability else None,
        },
        indent=2,
        allow_nan=False,
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _worth_dict(worth: Worth) -> dict[str, Any]:
    best = worth.best
    return {
        "constraint": worth.step.name,
        "step": worth.step.words,
        "value": _finite(best.value) if best else None,
        "change": _finite(worth.change),
        "gain": _finite(worth.gain),
        "plan": plan_dict(best.plan) if best else None,
        "pool": best.pool if best else None,
        "meets_slos": best.acceptable if best else None,
        "gap": _finite(worth.answer.certificate.gap) if worth.answer else None,
        "reason": worth.reason or None,
    }


def _stability_dict(stable: Stability) -> dict[str, Any]:
    content = dataclasses.asdict(stable)
    content["others"] = [{"plan": name, "draws": count} for name, count in stable.others]
    content["spreads"] = [
        {"family": s.family, "format": s.form or None, "sigma": dict(zip(PROVENANCE, s.sigma, strict=True))}
        for s in stable.spreads
    ]
    return {name: _finite(x) if isinstance(x, float) else x for name, x in content.items()}
