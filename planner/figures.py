"""Figures of an answer: Vega-Lite specifications, drawn to SVG by vl-convert, fit to stand in a page.

Vega passes colours through as they are, so they are CSS variables of the page, which knows light from dark. The
drawing needs no script and no network: hovers are the SVG's own ``<title>``, made of what Vega-Lite writes
for screen readers.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from profiles.errors import InputError

Spec = dict[str, Any]
Row = Mapping[str, object]

SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"

INK, FAINT, PAPER = "var(--ink)", "var(--faint)", "var(--paper)"
COLOURS = tuple(f"var(--c{i})" for i in range(5))

_CONFIG: Spec = {
    "background": "transparent",
    "font": "Arial, Helvetica, sans-serif",
    "padding": {"left": 16, "right": 10, "top": 6, "bottom": 6},  # where another font is wider
    "view": {"stroke": FAINT},
    "axis": {"labelColor": INK, "titleColor": INK, "gridColor": FAINT, "gridOpacity": 0.3, "domainColor": FAINT,
             "tickColor": FAINT, "titleFontWeight": "normal", "labelFontSize": 11, "titleFontSize": 12},
    "legend": {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "orient": "top", "title": None},
    "text": {"color": INK},
}  # fmt: skip

_DROPPED = (
    "pointer-events",
    "aria-roledescription",
    "role",
    "aria-label",
    "aria-hidden",
    "font-family",
    "class",
)
"""Of every element of a drawing: said once for the whole figure, or in the page's style sheet."""

_DECIMAL = re.compile(r"-?\d+\.\d+(?![\de])")
"""Coordinates; a hundredth of a pixel is enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Values as they are drawn: ``factor`` times the value, in ``unit``, from ``low`` to ``high`` of those."""

    title: str
    factor: float
    low: float
    high: float
    log: bool

    @property
    def scale(self) -> Spec:
        return {"type": "log" if self.log else "linear", "domain": [self.low, self.high], "nice": False,
                "zero": False}  # fmt: skip

    def place(self, value: float | None) -> float:
        """Where a value is drawn; what is not finite goes to the upper end."""
        if value is None or not math.isfinite(value):
            return self.high
        return min(max(value * self.factor, self.low), self.high)


_SCALES = {"s": ((1.0, "s"), (1e3, "ms")), "J": ((1e-6, "MJ"), (1e-3, "kJ"), (1.0, "J"))}


def axis_of(values: Iterable[float | None], words: str, unit: str) -> Axis:
    """An axis that holds all values with room around them; logarithmic where they span more than one to ten.

    Examples
    --------
    >>> axis_of([0.2, 0.4, None], "latency", "s").title
    'latency, ms'
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    factor, name = next(
        (pair for pair in _SCALES.get(unit, ()) if abs(high) * pair[0] >= 1),
        _SCALES.get(unit, ((1.0, unit),))[-1],
    )
    low, high = low * factor, high * factor
    log = low > 0 and high / low > 10
    if log:
        room = 10 ** (0.06 * math.log10(high / low))
        low, high = low / room, high * room
    else:
        room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = (max(low - room, 0.0) if low >= 0 else low - room), high + room
    return Axis(title=f"{words}, {name}", factor=factor, low=low, high=high, log=log)


def check_library() -> None:
    """Raise InputError, in one line, where the plotting library is missing."""
    try:
        import vl_convert  # noqa: F401
    except ImportError:
        raise InputError("--html draws with vl-convert: pip install 'zenith-planner[report]'") from None


def draw(spec: Spec, *, name: str, title: str, words: str) -> ElementTree.Element:
    """A specification as an SVG element with the title and the description that screen readers say.

    Parameters
    ----------
    name
        Unique in its page.
    """
    import vl_convert

    root = ElementTree.fromstring(
        vl_convert.vegalite_to_svg({"config": _CONFIG, **spec}, allowed_base_urls=[])
    )
    _lean(root)
    _name_parts(root, name)
    for at, (tag, text) in enumerate((("title", title), ("desc", words))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(at, element)
    root.attrib.pop("version", None)
    root.set("id", name)
    root.set("role", "group")
    root.set("aria-labelledby", f"{name}-title")
    root.set("aria-describedby", f"{name}-desc")
    return root


def _name_parts(root: ElementTree.Element, name: str) -> None:
    """Plain tags; what parts refer to is numbered by figure (Vega counts on from figure to figure)."""
    ids: dict[str, str] = {}
    for part in root.iter():
        part.tag = part.tag.removeprefix(SVG)
        if (old := part.get("id")) is not None:
            ids[old] = f"{name}-{len(ids)}"
            part.set("id", ids[old])
    for part in root.iter():
        for key, value in part.items():
            if (found := re.fullmatch(r"url\(#(.+)\)", value)) is not None:
                part.set(key, f"url(#{ids[found[1]]})")


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


def _lean(element: ElementTree.Element, mark: bool = False) -> None:
    """Names of marks become hovers, links lead into the page alone, empty and repeated parts go."""
    for child in list(element):
        classes = child.get("class", "")
        if child.get("display") == "none" or (classes == "background" and child.get("stroke") is None):
            element.remove(child)
            continue
        inside = mark or "role-mark" in classes.split()
        _lean(child, inside)
        label = child.get("aria-label") if inside and child.get("role") == "graphics-symbol" else None
        for name in _DROPPED:
            child.attrib.pop(name, None)
        for name in ("d", "transform"):
            if name in child.attrib:
                child.set(name, _DECIMAL.sub(_rounded, child.attrib[name]))
        if "role-mark" in classes.split():
            child.set("class", classes.split()[0])
        if label is not None:
            child.set("class", "m")
            hover = ElementTree.SubElement(child, "title")
            hover.text = label
        if (link := child.attrib.pop(f"{XLINK}href", None)) is not None:
            child.set("href", f"#{urlsplit(link).fragment}")


def scatter(
    points: Sequence[Row], x: Axis, y: Axis, *, kinds: Sequence[str], dominated: Sequence[Row] = (),
    proven: Row | None = None,
) -> Spec:  # fmt: skip
    """Points by kind, with a line from each to its bound.

    Parameters
    ----------
    points
        ``x``, ``y``, ``kind``, ``words``, ``link``, and ``bx``, ``by`` where its bound is drawn.
    kinds
        All that there may be, in the order of their colours and shapes.
    dominated
        Rectangles ``x, x2, y, y2``.
    proven
        ``x`` or ``y``: where the proven line stands.
    """
    ax = {"field": "x", "type": "quantitative", "scale": x.scale, "axis": _axis(x)}
    ay = {"field": "y", "type": "quantitative", "scale": y.scale, "axis": _axis(y)}
    layers: list[Spec] = [
        {
            "data": {"values": list(dominated)},
            "mark": {"type": "rect", "color": "var(--band)", "aria": False, "clip": True},
            "encoding": {"x": ax, "x2": {"field": "x2"}, "y": ay, "y2": {"field": "y2"}},
        },
        {
            "data": {"values": [point for point in points if "bx" in point]},
            "mark": {"type": "rule", "color": INK, "opacity": 0.45, "aria": False, "clip": True},
            "encoding": {"x": ax, "x2": {"field": "bx"}, "y": ay, "y2": {"field": "by"}},
        },
    ]
    if proven is not None:
        where = {"x": ax} if "x" in proven else {"y": ay}
        layers.append(
            {
                "data": {"values": [proven]},
                "mark": {
                    "type": "rule",
                    "color": COLOURS[1],
                    "strokeDash": [6, 3],
                    "aria": False,
                    "clip": True,
                },
                "encoding": where,
            }
        )
    shapes = ("diamond", "circle", "circle", "cross")
    layers.append(
        {
            "data": {"values": list(points)},
            "mark": {"type": "point", "filled": True, "stroke": PAPER, "strokeWidth": 0.7, "opacity": 1},
            "encoding": {
                "x": ax,
                "y": ay,
                "description": {"field": "words"},
                "href": {"field": "link"},
                "color": _by_kind(kinds, (COLOURS[1], COLOURS[2], COLOURS[0], FAINT)),
                "shape": _by_kind(kinds, shapes),
                "size": _by_kind(kinds, (170, 90, 45, 45)),
            },
        }
    )
    return {"width": 280, "height": 240, "layer": layers}


def _by_kind(kinds: Sequence[str], values: Sequence[object]) -> Spec:
    scale = {"domain": list(kinds), "range": list(values[: len(kinds)])}
    return {"field": "kind", "type": "nominal", "scale": scale, "legend": None}


def _axis(axis: Axis) -> Spec:
    return {"title": axis.title, "tickCount": 5, "format": ".6~g", "labelOverlap": True}


def distribution(
    curve: Sequence[tuple[float, float]], limits: Sequence[tuple[float, float | None, str]], title: str
) -> Spec:
    """Share of requests (or gaps) within a time.

    Parameters
    ----------
    curve
        (seconds, share), both not decreasing.
    limits
        (limit in seconds, percentile or None for a mean, words): a line at the limit, a mark where the
        curve must be on its left.
    """
    axis = axis_of([*(at for at, _ in curve), *(limit for limit, _, _ in limits)], title, "s")
    ax = {"field": "x", "type": "quantitative", "scale": axis.scale, "axis": _axis(axis)}
    ay = {"field": "y", "type": "quantitative", "scale": {"domain": [0, 1]},
          "axis": {"title": "share within", "format": "%", "tickCount": 5}}  # fmt: skip
    rows = [{"x": axis.place(at), "y": share} for at, share in curve]
    lines = [{"x": axis.place(limit), "words": words} for limit, _, words in limits]
    marks = [
        {"x": axis.place(limit), "y": percentile / 100, "words": words}
        for limit, percentile, words in limits
        if percentile is not None
    ]
    name = {"description": {"field": "words"}}
    return {
        "width": 440,
        "height": 190,
        "layer": [
            {
                "data": {"values": rows},
                "mark": {"type": "line", "color": COLOURS[0], "interpolate": "step-after", "clip": True,
                         "description": f"{title}: share within a time"},
                "encoding": {"x": ax, "y": ay},
            },
            {
                "data": {"values": lines},
                "mark": {"type": "rule", "color": COLOURS[1], "strokeDash": [5, 3], "strokeWidth": 1.5},
                "encoding": {"x": ax, **name},
            },
            {
                "data": {"values": marks},
                "mark": {"type": "point", "shape": "triangle-left", "filled": True, "size": 110, "opacity": 1,
                         "color": COLOURS[1]},
                "encoding": {"x": ax, "y": ay, **name},
            },
        ],
    }  # fmt: skip


def over_time(
    edges_s: NDArray[np.float64], mean: NDArray[np.float64], most: NDArray[np.float64], *, title: str,
    colour: str, share: bool = False, limit: float | None = None,
) -> Spec:  # fmt: skip
    """A quantity by span of time: its mean as an area, its largest values as a line."""
    axis = axis_of([0.0, float(edges_s[-1])], "time since the start of the trace", "s")
    stairs = np.repeat(np.arange(len(mean)), 2)
    rows = [
        {"x": float(edges_s[(i + 1) // 2]) * axis.factor, "mean": _short(mean[at]),
         "most": _short(most[at])}
        for i, at in enumerate(stairs)
    ]  # fmt: skip
    end = float(edges_s[-1]) * axis.factor
    ax = {"field": "x", "type": "quantitative", "scale": {"domain": [0, end], "nice": False},
          "axis": {"title": axis.title, "grid": False, "tickCount": 12, "format": ".6~g"}}  # fmt: skip
    top = max(float(most.max(initial=0.0)), limit or 0.0) or 1.0
    ay: Spec = {"type": "quantitative", "scale": {"domain": [0, top * 1.05], "nice": False}, "stack": None,
                "axis": {"title": title, "tickCount": 4, "minExtent": 48,
                         "format": ".4~%" if share else ".6~g"}}  # fmt: skip
    layers: list[Spec] = [
        {
            "mark": {
                "type": "area",
                "color": colour,
                "opacity": 0.3,
                "description": f"{title}: mean of each span",
            },
            "encoding": {"x": ax, "y": {"field": "mean", **ay}},
        },
        {
            "mark": {
                "type": "line",
                "color": colour,
                "strokeWidth": 1,
                "description": f"{title}: largest value",
            },
            "encoding": {"x": ax, "y": {"field": "most", **ay}},
        },
    ]
    if limit is not None:
        layers.append(
            {
                "data": {"values": [{"y": limit, "words": f"largest in the simulation: {limit:.1%}"}]},
                "mark": {"type": "rule", "color": INK, "strokeDash": [2, 3]},
                "encoding": {"y": {"field": "y", **ay}, "description": {"field": "words"}},
            }
        )
    return {"width": 960, "height": 110, "data": {"values": rows}, "layer": layers}


def _short(value: float) -> float:
    """Six digits: more are not seen."""
    return float(f"{value:.6g}")


def bars(rows: Sequence[tuple[str, float, str]], colour: str) -> Spec:
    """Named amounts, with their words beside them; no bar where there is no finite amount."""
    rows = [(name, value if math.isfinite(value) else 0.0, words) for name, value, words in rows]
    most = max((value for _, value, _ in rows), default=0.0) or 1.0
    ay = {"field": "name", "type": "nominal", "sort": None, "axis": {"title": None, "labelLimit": 220,
          "domain": False, "ticks": False}}  # fmt: skip
    ax = {"field": "value", "type": "quantitative", "axis": None, "scale": {"domain": [0, most * 1.35]}}
    return {
        "width": 330,
        "height": {"step": 22},
        "view": {"stroke": None},
        "data": {
            "values": [
                {"name": name, "value": value, "words": words, "said": f"{name}: {words}"}
                for name, value, words in rows
            ]
        },
        "layer": [
            {"mark": {"type": "bar", "color": colour},
             "encoding": {"x": ax, "y": ay, "description": {"field": "said"}}},
            {"mark": {"type": "text", "align": "left", "dx": 5, "aria": False, "fontSize": 11},
             "encoding": {"x": ax, "y": ay, "text": {"field": "words"}}},
        ],
    }  # fmt: skip
