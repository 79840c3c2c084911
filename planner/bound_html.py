"""A bound report as one page: schedulers over the bound, curves, and where the gap comes from."""

from planner import figures
from planner.bound_curve import AXES, Point
from planner.bound_report import BoundReport
from planner.bound_rows import Scheduler
from planner.bound_text import curve_points, quantity, rate_text, times_rows
from planner.html import STYLE
from planner.page import Element, document, figure, node, pairs, section, table


def to_html(report: BoundReport) -> str:
    """The page.

    Raises
    ------
    InputError
        When the plotting library is not installed.
    """
    figures.check_library()
    title, *more = report.headline.split("\n")
    parts = [_bound(report), _schedulers(report)]
    parts += [_curve(report, axis) for axis in dict.fromkeys(each.axis for each in report.curve)]
    if report.gaps:
        parts.append(_gaps(report))
    links = [node("li", node("a", part.findtext("h2") or "", href=f"#{part.get('id')}")) for part in parts]
    lines = [*more, f"objective: {report.objective.words}"]
    header = node("header", node("h1", title), *(node("p", line) for line in lines))
    contents = node("nav", node("ul", *links), aria_label="Contents")
    return document(f"Zenith bound: {title}", STYLE, header, contents, node("main", *parts))


def _bound(report: BoundReport) -> Element:
    unit, side = report.objective.unit, "above" if report.objective.maximize else "below"
    rows = [
        (
            "bound",
            f"{quantity(report.bound.value, unit)} by {report.bound.name}; no scheduler gets {side} it",
        ),
        ("proof", report.proof),
        ("holds for", report.class_words),
    ]
    rows += [
        ("jointly", f"mean E2E within {quantity(each.e2e_s, 's')}, that of {each.scheduler}: no mean TTFT below "
         f"{quantity(each.ttft_s, 's')}")
        for each in report.joint
    ]  # fmt: skip
    if best := report.exact:
        found = quantity(best.value, unit)
        proven = "proven best" if best.optimal else f"no schedule gets below {quantity(best.bound, unit)}"
        rows.append(("exact", f"{found}, {proven}; {best.class_words}"))
        if rough := best.coarse:
            rows.append(("coarse", f"{quantity(rough.value, unit)}, {rough.words}"))
    rows += times_rows(report)
    others = [[name, quantity(value, unit)] for name, value in report.bound.others.items()]
    notes = [node("p", f"Note: {note}") for note in report.notes]
    return section(
        "bound",
        "The bound",
        pairs(rows),
        *notes,
        table("What each relaxation proves", ["by", "bound"], others),
    )


def _schedulers(report: BoundReport) -> Element:
    unit = report.objective.unit
    shown = [each for each in report.schedulers if each.value is not None and each.same_as is None]
    svg = figures.draw(
        over_bound(shown, report), name="schedulers", title="Schedulers over the bound",
        words=f"The bound is {quantity(report.bound.value, unit)}; the table below has every value.",
    )  # fmt: skip
    caption = "From the bound to what each scheduler comes to. Orange: an engine runs it; blue: none does."
    rows = [
        [each.name, _value(each, unit), "n/a" if each.ratio is None else f"{each.ratio:.3f}",
         f"{each.preemptions:,}", f"{each.kv_peak:.1%}", f"{each.iterations:,}",
         ", ".join(each.contender.runs_on) or "no engine", each.same_as or ""]
        for each in report.schedulers
    ]  # fmt: skip
    columns = ["scheduler", "value", "of bound", "preempted", "KV peak", "iterations", "runs on", "same as"]
    return section(
        "schedulers", "Schedulers", figure(svg, caption=caption), table("Every scheduler", columns, rows)
    )


def _value(row: Scheduler | None, unit: str) -> str:
    if row is None:
        return "none"
    return f"rejects {row.rejected}" if row.value is None else quantity(row.value, unit)


def over_bound(rows: list[Scheduler], report: BoundReport) -> figures.Spec:
    """A bar from the bound to each value, on a scale that is logarithmic where values are far apart."""
    goal, bound = report.objective, report.bound.value
    axis = figures.axis_of([bound, *(each.value for each in rows)], goal.words, goal.unit)
    data = [
        {"name": each.name, "from": axis.place(bound), "to": axis.place(each.value),
         "kind": "engine" if each.contender.runs_on else "research",
         "words": quantity(each.value, goal.unit),
         "said": f"{each.name}: {quantity(each.value, goal.unit)}"}
        for each in rows
    ]  # fmt: skip
    ay = {"field": "name", "type": "nominal", "sort": None,
          "axis": {"title": None, "labelLimit": 220, "domain": False, "ticks": False}}  # fmt: skip
    ax = {"type": "quantitative", "scale": axis.scale,
          "axis": {"title": axis.title, "tickCount": 5, "format": ".6~g", "labelOverlap": True}}  # fmt: skip
    colours = {"domain": ["engine", "research"], "range": [figures.COLOURS[1], figures.COLOURS[0]]}
    kind = {"field": "kind", "type": "nominal", "scale": colours, "legend": None}
    return {
        "width": 520,
        "height": {"step": 22},
        "view": {"stroke": None},
        "data": {"values": data},
        "layer": [
            {"mark": {"type": "bar", "clip": True},
             "encoding": {"x": {"field": "from", **ax}, "x2": {"field": "to"}, "y": ay, "color": kind,
                          "description": {"field": "said"}}},
            {"mark": {"type": "rule", "color": figures.INK, "strokeDash": [6, 3], "aria": False},
             "data": {"values": [{"from": axis.place(bound)}]}, "encoding": {"x": {"field": "from", **ax}}},
        ],
    }  # fmt: skip


def _curve(report: BoundReport, axis: str) -> Element:
    unit, points = report.objective.unit, [each for each in report.curve if each.axis == axis]
    svg = figures.draw(
        lines(points, report), name=f"curve-{axis}", title=f"By {AXES[axis]}",
        words="The bound, the plan's own scheduler and the best one; the table below has every value.",
    )  # fmt: skip
    rows = [
        [f"x{each.factor:g}", f"{each.kv_tokens:,}", rate_text(each.rate_per_s),
         quantity(each.bound.value, unit), _value(each.own, unit), _value(each.best, unit),
         each.best.name if each.best else "all reject requests"]
        for each in points
    ]  # fmt: skip
    columns = ["factor", "KV tokens of a rank", "requests/s", "bound", "own", "best", "by"]
    caption = "Bound, dashed; the plan's own scheduler, orange; the best scheduler, blue."
    return section(
        f"curve-{axis}-section",
        f"By {AXES[axis]}",
        figure(svg, caption=caption),
        table("Points", columns, rows),
    )


def lines(points: list[Point], report: BoundReport) -> figures.Spec:
    """Three lines over the factors of an axis, their scale logarithmic."""
    goal, series = report.objective, curve_points(points)
    axis = figures.axis_of([value for values in series.values() for value in values], goal.words, goal.unit)
    styles = {"bound": (figures.INK, [6, 3]), "own": (figures.COLOURS[1], [1, 0]),
              "best": (figures.COLOURS[0], [1, 0])}  # fmt: skip
    layers = []
    for name, values in series.items():
        data = [
            {
                "x": each.factor,
                "y": axis.place(value),
                "said": f"{name} at x{each.factor:g}: {quantity(value, goal.unit)}",
            }
            for each, value in zip(points, values, strict=True)
            if value is not None
        ]
        colour, dash = styles[name]
        encoding = {
            "x": {"field": "x", "type": "quantitative", "scale": {"type": "log", "nice": False},
                  "axis": {"title": AXES[points[0].axis], "values": [each.factor for each in points],
                           "format": ".4~g"}},
            "y": {"field": "y", "type": "quantitative", "scale": axis.scale, "axis": {"title": axis.title}},
            "description": {"field": "said"},
        }  # fmt: skip
        layers.append(
            {
                "data": {"values": data},
                "mark": {"type": "line", "color": colour, "strokeDash": dash, "point": {"color": colour}},
                "encoding": encoding,
            }
        )
    return {"width": 520, "height": 220, "layer": layers}


def _gaps(report: BoundReport) -> Element:
    unit = report.objective.unit
    tables = [
        table(
            f"What {gap.scheduler} loses to the bound",
            ["part", "amount", "why"],
            [[part.name, quantity(part.value, unit), part.words] for part in gap.parts],
        )
        for gap in report.gaps
    ]
    return section("gaps", "Where the gap comes from", *tables)
