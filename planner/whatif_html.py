"""A sweep as one page that needs nothing else: its chart, its table, and what every answer rests on."""

from dataclasses import replace

from planner import figures, whatif_text
from planner.html import STYLE, launched
from planner.launch_text import to_lines
from planner.page import Element, document, figure, folded, node, pairs, section, table
from planner.printable import quantity
from planner.report import certificate_text
from planner.whatif import Scenario, Sweep

MOST = 1000
"""Scenarios drawn and listed, the first ones: what keeps the page below 3 MB."""

MOST_LAUNCHES = 100
"""Plans of which the page has launch commands, for the same reason."""

KINDS = ("holds", "nearest")
KIND_WORDS = {
    "holds": ("■", "c0", "the best plan"),
    "nearest": ("■", "c1", "no plan holds; the nearest to it"),
}
METRICS = (
    ("e2e_mean_s", "mean E2E", "s"),
    ("ttft_mean_s", "mean TTFT", "s"),
    ("tpot_mean_s", "mean TPOT", "s"),
    ("generated_tokens_per_s", "throughput", "tokens/s"),
    ("energy_j", "energy", "J"),
    ("cost_usd", "cost", "USD"),
)


def to_html(sweep: Sweep) -> str:
    """The page.

    Raises
    ------
    InputError
        When the plotting library is not installed.
    """
    figures.check_library()
    shown = sweep.scenarios[:MOST]
    title, *more = whatif_text.heading(sweep)
    parts = [
        _chart(sweep, shown),
        _table(sweep, shown),
        _figures(shown),
        _launches(shown),
        _proof(sweep, shown),
    ]
    links = [node("li", node("a", part.findtext("h2") or "", href=f"#{part.get('id')}")) for part in parts]
    hidden = len(sweep.scenarios) - len(shown)
    if hidden:
        more.append(f"the first {MOST:,} scenarios are shown, {hidden:,} more are in --json and --csv")
    header = node("header", node("h1", "What if"), *(node("p", line) for line in (title, *more)))
    contents = node("nav", node("ul", *links), aria_label="Contents")
    return document("Zenith: what if", STYLE, header, contents, node("main", *parts))


def _name(i: int, scenario: Scenario) -> str:
    return f"{i + 1}  {scenario.words}"


def _chart(sweep: Sweep, shown: list[Scenario]) -> Element:
    """A panel for each objective: values of different objectives stand on different axes."""
    drawn = [
        _panel(sweep, [i for i, s in enumerate(shown) if s.question.objective == name], name)
        for name in dict.fromkeys(s.question.objective for s in shown)
    ]
    legend = [
        *(
            node("li", node("b", sign, style=f"color:var(--{colour})", aria_hidden="true"), words)
            for sign, colour, words in KIND_WORDS.values()
        ),
        node("li", node("b", "|", aria_hidden="true"), "what no feasible plan beats, proven"),
    ]
    return section(
        "chart",
        "The objective by scenario",
        figure(
            node("div", *drawn, class_="row"),
            caption="A bar is the value of the plan shown, and leads to its row. A scenario without one has no "
            "plan: the table says why.",
        ),
        node("ul", *legend, class_="legend"),
    )


def _panel(sweep: Sweep, rows: list[int], name: str) -> Element:
    scenarios = sweep.scenarios
    found = [(i, scenarios[i].best, scenarios[i].answer) for i in rows]
    goal = next((answer.objective for _, _, answer in found if answer), None)
    words, unit = (goal.words, goal.unit) if goal else (name, "")
    values: list[float | None] = [best.value for _, best, _ in found if best]
    axis = figures.axis_of([0.0, *values], words, unit)
    axis = replace(axis, low=0.0, high=axis.high * 1.25, log=False)
    bars: list[dict[str, object]] = []
    for i, best, answer in found:
        row: dict[str, object] = {"name": _name(i, scenarios[i]), "link": f"#scenario-{i + 1}"}
        if best is None or answer is None:
            bars.append(
                {**row, "x": 0.0, "kind": "holds", "text": "no plan", "words": f"{row['name']}: no plan"}
            )
            continue
        said = f"{quantity(best.value, unit)}, {best.plan.label}"
        proven = answer.certificate.proven
        bars.append(
            {
                **row,
                "x": axis.place(best.value),
                "kind": "holds" if scenarios[i].holds else "nearest",
                "text": said,
                "words": f"{row['name']}: {said}" + ("" if scenarios[i].holds else ", breaks an SLO"),
                **({} if proven is None else {"proven": axis.place(answer.objective.score(proven))}),
            }
        )
    return figures.draw(
        _bars(bars, axis),
        name=f"chart-{name}",
        title=f"{words} by scenario",
        words="The table below has the same values.",
    )


def _bars(rows: list[dict[str, object]], axis: figures.Axis) -> figures.Spec:
    y = {"field": "name", "type": "nominal", "sort": None,
         "axis": {"title": None, "labelLimit": 320, "domain": False, "ticks": False}}  # fmt: skip
    x = {"field": "x", "type": "quantitative", "scale": axis.scale,
         "axis": {"title": axis.title, "tickCount": 5, "format": ".6~g"}}  # fmt: skip
    kind = {"field": "kind", "type": "nominal", "legend": None,
            "scale": {"domain": list(KINDS), "range": list(figures.COLOURS[: len(KINDS)])}}  # fmt: skip
    named = {"description": {"field": "words"}, "href": {"field": "link"}}
    return {
        "width": 460,
        "height": {"step": 24},
        "data": {"values": rows},
        "layer": [
            {"mark": {"type": "bar"}, "encoding": {"x": x, "y": y, "color": kind, **named}},
            {"mark": {"type": "tick", "color": figures.INK, "thickness": 2, "aria": False},
             "transform": [{"filter": "isValid(datum.proven)"}],
             "encoding": {"x": {**x, "field": "proven"}, "y": y}},
            {"mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 11, "aria": False},
             "encoding": {"x": x, "y": y, "text": {"field": "text"}}},
        ],
    }  # fmt: skip


def _table(sweep: Sweep, shown: list[Scenario]) -> Element:
    marked = {j for _, j in sweep.breaks}
    rows = []
    for i, scenario in enumerate(shown):
        number, words, *cells = whatif_text.row(i, scenario, marked=i in marked)
        rows.append(
            [
                f"{number}  {words}",
                *cells,
                scenario.change or scenario.reason or "what the others are compared with",
            ]
        )
    notes = [node("p", f"~ {whatif_text.oddity(sweep, i, j)}") for i, j in sweep.breaks]
    if any(scenario.answer and not scenario.holds for scenario in shown):
        notes.insert(0, node("p", "(!) no plan holds; shown: the nearest"))
    return section(
        "scenarios",
        "Every scenario",
        table(
            "Scenarios, each with its own certificate",
            ["scenario", "best plan", "objective", "SLO", "USD/hour", "gap", "against the first, and why"],
            rows,
            ids=[f"scenario-{i + 1}" for i in range(len(shown))],
        ),
        *notes,
    )


def _figures(shown: list[Scenario]) -> Element:
    limits = dict.fromkeys((slo.key, slo.name, slo.unit) for s in shown for slo in s.question.slos)
    rows = []
    for i, scenario in enumerate(shown):
        if (best := scenario.best) is None:
            continue
        asked = {slo.key: found.value for slo, found in zip(scenario.question.slos, best.slos, strict=True)}
        rows.append(
            [
                _name(i, scenario),
                *(quantity(best.metrics.get(metric), unit) for metric, _, unit in METRICS),
                *(quantity(asked[key], unit) if key in asked else "-" for key, _, unit in limits),
            ]
        )
    heads = ["scenario", *(words for _, words, _ in METRICS), *(name for _, name, _ in limits)]
    shape = table("One plan a scenario", heads, rows) if rows else node("p", "No scenario has a plan.")
    return section("figures", "Figures of the plans shown", shape)


def _launches(shown: list[Scenario]) -> Element:
    """Of each plan once, whatever scenarios it wins."""
    same: dict[str, list[int]] = {}
    for i, scenario in enumerate(shown):
        if scenario.answer and scenario.holds:
            same.setdefault("\n".join(to_lines(scenario.answer.launch)), []).append(i)
    listed = [
        folded("; ".join(_name(i, shown[i]) for i in rows), *launched(answer.launch))
        for rows in list(same.values())[:MOST_LAUNCHES]
        if (answer := shown[rows[0]].answer)
    ]
    hidden = len(same) - len(listed)
    more = [node("p", f"{hidden} more are in --json")] if hidden else []
    none = [node("p", "No scenario has a plan that holds.")] if not same else []
    return section("launch", "How to start the best plans", *listed, *more, *none)


def _proof(sweep: Sweep, shown: list[Scenario]) -> Element:
    answers = [(i, s.answer) for i, s in enumerate(shown) if s.answer]
    sources = dict.fromkeys(answer.profile_text for _, answer in answers)
    each = [(_name(i, shown[i]), certificate_text(answer)) for i, answer in answers]
    notes = [(_name(i, shown[i]), note) for i, answer in answers for note in answer.notes]
    return section(
        "certificate",
        "Certificates, and where the numbers come from",
        node("p", whatif_text.certificates(sweep)),
        folded("Certificate of each scenario", pairs(each)),
        folded("Notes", pairs(notes)),
        *(node("p", text) for text in sources),
    )
