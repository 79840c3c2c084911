"""Every simulated plan of a search: its objective, energy and price against each other, its bound, its row."""

from collections.abc import Sequence
from dataclasses import replace

from planner import figures
from planner.page import Element, figure, node, section, table
from planner.pipeline import Answer
from planner.printable import quantity
from planner.ranking import PlanResult, pareto, why_lost
from planner.report import distinct_names

MOST_PLANS = 1000
"""Drawn and listed, best first: what keeps the page below 3 MB."""

KINDS = ("best", "front", "dominated", "fails")
KIND_WORDS = {
    "best": ("◆", "the first in rank"),
    "front": (
        "●",
        "on the Pareto front of what is drawn: no plan is better in one and as good in the others",
    ),
    "dominated": ("•", "another plan is better in one and as good in the others"),
    "fails": ("✚", "breaks an SLO or rejects requests; without a finite value it stands at the edge"),
}

Drawn = tuple[str, str, str]
"""Metric, its words, its unit."""


def front(answer: Answer) -> Element:
    """The section that draws and lists every simulated plan."""
    results = answer.results[:MOST_PLANS]
    hidden = len(answer.results) - len(results)
    axes = _axes(answer)
    on_front = _on_front(answer, results, [metric for metric, _, _ in axes])
    names = distinct_names(results)
    drawn = [
        _panel(answer, results, names, on_front, one, other)
        for i, one in enumerate(axes)
        for other in axes[i + 1 :]
    ]
    legend = node(
        "ul",
        *(
            node("li", node("b", sign, class_=f"k-{kind}", aria_hidden="true"), words)
            for kind, (sign, words) in KIND_WORDS.items()
        ),
        class_="legend",
    )
    caption = (
        f"Each mark is one of the {len(results):,} simulated plans"
        + (f" shown, best first; {hidden:,} more are in --json and --csv" if hidden else "")
        + ". The shaded region is dominated in the two axes of its figure. A thin line leads from a plan to its "
        "bound, which no scheduler of that plan beats"
        + ("" if answer.certificate.proven is None else "; the dashed line is what no feasible plan beats")
        + ". Lower is better"
        + (", but for the objective, where higher is." if answer.objective.maximize else ".")
    )
    return section(
        "front",
        "Every simulated plan",
        figure(node("div", *drawn, class_="row"), caption=caption),
        legend,
        _plans(answer, results, names, on_front),
    )


def _on_front(answer: Answer, results: Sequence[PlanResult], names: Sequence[str]) -> set[int]:
    """Which of the acceptable plans no other one beats in all that is drawn."""
    goal = answer.objective
    valid = [i for i, result in enumerate(results) if result.acceptable]
    scored = [
        replace(results[i], metrics={**results[i].metrics, goal.metric: goal.score(results[i].value)})
        for i in valid
    ]
    return {valid[i] for i in pareto(scored, names)}


def _axes(answer: Answer) -> list[Drawn]:
    """The objective or latency, energy, and price where every plan has one."""
    goal = answer.objective
    latency = ("e2e_mean_s", "mean end-to-end latency", "s")
    known = {metric for metric, _, _ in (latency, ("energy_j", "", ""), ("cost_usd", "", ""))}
    first = latency if goal.metric in known else (goal.metric, goal.words, goal.unit)
    axes: list[Drawn] = [first, ("energy_j", "energy", "J")]
    if all(result.metrics.get("cost_usd") is not None for result in answer.results):
        axes.append(("cost_usd", "price", "USD"))
    return axes


def _panel(
    answer: Answer, results: Sequence[PlanResult], names: Sequence[str], on_front: set[int], one: Drawn,
    other: Drawn,
) -> Element:  # fmt: skip
    goal, proven = answer.objective, answer.certificate.proven
    line = None if proven is None else goal.score(proven)
    placed = []
    for metric, words, unit in (one, other):
        values = [result.metrics[metric] for result in results]
        if metric == goal.metric:
            values += [*(result.bound for result in results), line]
        placed.append(figures.axis_of(values, words, unit))
    x, y = placed
    points: list[dict[str, object]] = []
    for i, (result, name) in reversed(list(enumerate(zip(results, names, strict=True)))):
        kind = (
            "best"
            if i == 0
            else "fails"
            if not result.acceptable
            else "front"
            if i in on_front
            else "dominated"
        )
        at = {"x": x.place(result.metrics[one[0]]), "y": y.place(result.metrics[other[0]])}
        bound = {
            f"b{axis}": placed[k].place(result.bound) if metric == goal.metric else at[axis]
            for k, (axis, (metric, _, _)) in enumerate(zip("xy", (one, other), strict=True))
        }
        said = ", ".join(
            f"{words} {quantity(result.metrics[metric], unit)}" for metric, words, unit in (one, other)
        )
        row = {**at, "kind": kind, "link": f"#plan-{i + 1}",
               "words": f"{i + 1}. {name}, budget {result.plan.engine.token_budget}: {said}; bound of the "
               f"objective {quantity(result.bound, goal.unit)}"}  # fmt: skip
        points.append(row | bound if bound != {"bx": at["x"], "by": at["y"]} else row)
    signs = [-1 if goal.maximize and metric == goal.metric else 1 for metric, _, _ in (one, other)]
    fields = [axis for axis, (metric, _, _) in zip("xy", (one, other), strict=True) if metric == goal.metric]
    spec = figures.scatter(
        points, x, y, kinds=KINDS,
        dominated=_dominated([r for r in results if r.acceptable], one[0], other[0], x, y, signs),
        proven={fields[0]: placed["xy".index(fields[0])].place(line)} if fields and line is not None else None,
    )  # fmt: skip
    svg = figures.draw(
        spec,
        name=f"front-{one[0]}-{other[0]}".replace("_", "-"),
        title=f"{one[1]} and {other[1]} of every simulated plan",
        words=f"{len(points)} marks, the same plans as in the table of plans below; each mark leads to its row.",
    )
    for link in svg.iter("a"):  # of hundreds of marks the keyboard stops at those that matter
        rank = int((link.get("href") or "").removeprefix("#plan-")) - 1
        link.set("tabindex", "0" if rank == 0 or rank in on_front else "-1")
    return svg


def _dominated(
    results: Sequence[PlanResult],
    one: str,
    other: str,
    x: figures.Axis,
    y: figures.Axis,
    signs: Sequence[int],
) -> list[dict[str, float]]:
    """Rectangles that cover all that is worse than some plan in both axes and better in none."""
    corners = sorted(
        (signs[0] * x.place(r.metrics[one]), signs[1] * y.place(r.metrics[other])) for r in results
    )
    steps: list[tuple[float, float]] = []
    for across, up in corners:
        if not steps or up < steps[-1][1]:
            steps.append((across, up))
    end = x.high if signs[0] > 0 else -x.low
    top = y.high if signs[1] > 0 else -y.low
    until = [*(across for across, _ in steps), end][1:]
    return [
        {"x": signs[0] * across, "x2": signs[0] * to, "y": signs[1] * up, "y2": signs[1] * top}
        for (across, up), to in zip(steps, until, strict=True)
    ]


def _plans(
    answer: Answer, results: Sequence[PlanResult], names: Sequence[str], on_front: set[int]
) -> Element:
    goal = answer.objective
    columns = ["plan", "devices", "budget", "E2E", "TTFT", "TPOT", "ITL", "energy", "price"]
    own = goal.metric not in ("e2e_mean_s", "energy_j", "cost_usd", "ttft_mean_s", "tpot_mean_s")
    rows = []
    for i, (result, name) in enumerate(zip(results, names, strict=True)):
        m = result.metrics
        lost = why_lost(result, results[0], goal) if i else "first in rank"
        rows.append(
            [f"{i + 1}. {name}", str(result.plan.devices), str(result.plan.engine.token_budget),
             *(quantity(m[f"{key}_mean_s"], "s") for key in ("e2e", "ttft", "tpot", "itl")),
             quantity(m["energy_j"], "J"), quantity(m.get("cost_usd"), "USD"),
             *([quantity(result.value, goal.unit)] if own else []),
             quantity(result.bound, goal.unit), lost]
        )  # fmt: skip
    return table(
        "Means of every simulated plan in rank order; * on the front; bound: of the objective, no scheduler of the "
        "plan beats it",
        [*columns, *([goal.name] if own else []), "bound", "against the first"],
        rows,
        ids=[f"plan-{i + 1}" for i in range(len(rows))],
        classes=[" ".join(["top"] * (i == 0) + ["front"] * (i in on_front)) for i in range(len(rows))],
    )
