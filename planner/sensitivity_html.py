"""Sections of the page of an answer: what one step more is worth, and how stable the ranking is."""

from collections.abc import Sequence

from planner import figures
from planner.page import Element, figure, folded, node, pairs, section, table
from planner.printable import quantity
from planner.sensitivity import Sensitivity, Worth
from planner.sensitivity_text import change_text, stability_rows
from planner.stability import Stability, name_of
from profiles.stepcost import PROVENANCE


def sections(found: Sensitivity) -> list[Element]:
    """Those of the page that a sensitivity adds to its answer's."""
    stable = found.stability
    return [_steps(found), *([_stability(found, stable)] if stable else [])]


def _steps(found: Sensitivity) -> Element:
    goal = found.answer.objective
    bars = [(f"{w.step.name} {w.step.words}", max(w.gain or 0.0, 0.0), _said(w)) for w in found.worth]
    drawn = figures.draw(
        figures.bars(bars, figures.COLOURS[2]), name="worth", title="What one step more is worth",
        words="; ".join(f"{name}: {words}" for name, _, words in bars),
    )  # fmt: skip
    rows = [
        [w.step.name, w.step.words, quantity(w.best.value, goal.unit) if w.best else "n/a", change_text(w.change),
         w.plan or w.reason]
        for w in found.worth
    ]  # fmt: skip
    caption = (
        f"The question solved again with each constraint moved one step, alone; the part by which its {goal.words} "
        "gets better. Steps are defined in docs/sensitivity.md."
    )
    return section(
        "worth",
        "What one step more is worth",
        figure(drawn, caption=caption),
        table("Each step, solved again", ["constraint", "step", goal.name, "change", "best plan"], rows),
    )


def _said(worth: Worth) -> str:
    if worth.change is None:
        return worth.reason or worth.plan
    return change_text(worth.change)


def _stability(found: Sensitivity, stable: Stability) -> Element:
    counts = [(name_of(found.answer.results[0]), stable.wins), *stable.others]
    if stable.none_holds:
        counts.append(("no plan holds", stable.none_holds))
    drawn = figures.draw(
        figures.bars([(name, float(n), f"{n} of {stable.draws}") for name, n in counts], figures.COLOURS[0]),
        name="draws",
        title="Which plan wins how many draws",
        words="; ".join(f"{name}: {n} of {stable.draws}" for name, n in counts),
    )
    numbers = [
        [each.number, _end(each.below, each.below_winner), _end(each.above, each.above_winner)]
        for each in stable.overthrows
    ]
    spreads = [
        [each.family, each.form or "any", *(f"{sigma:.1%}" for sigma in each.sigma)]
        for each in stable.spreads
    ]
    constants = [[each.name, f"{each.sigma:.1%}", each.source] for each in stable.constants]
    said = [
        row for row in stability_rows(found, stable) if row[0] in ("draws", "wins", "value", "within reach")
    ]
    return section(
        "stability",
        "How stable the ranking is",
        pairs(said),
        figure(
            drawn,
            caption="Profiles perturbed within their stated errors; the plans near the winner simulated again.",
        ),
        table(
            "Factor of one number, for all plans alike, from which another layout wins",
            ["number", "down to a half", "up to twice"],
            numbers,
        ),
        folded("Spreads that the draws have", *_spreads(spreads, constants)),
    )


def _spreads(spreads: Sequence[Sequence[str]], constants: Sequence[Sequence[str]]) -> list[Element]:
    said = "Standard deviations of the logarithm of each shape's times, by where a time comes from."
    found = [node("p", said), table("Operations", ["family", "format", *PROVENANCE], spreads)]
    if constants:
        found.append(table("Constants of the engine", ["constant", "spread", "from"], constants))
    return found


def _end(factor: float | None, plan: str) -> str:
    return "none" if factor is None else f"{factor:.2f}: {plan}"
