"""The steady state as a picture: predicted / measured by group, ours beside theirs, as an SVG that stands alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from profiles.ops import FloatArray

Panels = Mapping[str, Mapping[str, tuple[FloatArray, FloatArray]]]
"""Metric -> group -> ratios of ours and of theirs."""

COLOURS = {"Zenith": "#1f6feb", "AIConfigurator": "#d29922"}
LOW, HIGH = 0.1, 10.0
"""Ends of the axis; what lies beyond is drawn there."""


def rows_of(panels: Panels) -> list[dict[str, Any]]:
    """A row for each metric, group and estimate: quantiles of the ratio."""
    rows = []
    for metric, groups in panels.items():
        for group, pair in groups.items():
            for who, ratios in zip(COLOURS, pair, strict=True):
                names = ("p10", "p25", "p50", "p75", "p90")
                quantiles = np.quantile(ratios, [0.1, 0.25, 0.5, 0.75, 0.9]).clip(LOW, HIGH)
                rows.append(
                    {"metric": metric, "group": f"{group} ({len(ratios)})", "estimate": who}
                    | dict(zip(names, quantiles.round(4).tolist(), strict=True))
                )
    return rows


def svg(panels: Panels) -> str:
    """Median, middle half and middle four fifths of the ratios, on a logarithmic axis."""
    import vl_convert

    rows = rows_of(panels)
    groups = list(dict.fromkeys(row["group"] for row in rows))
    place = {
        "y": {"field": "group", "type": "nominal", "sort": groups, "title": None},
        "yOffset": {"field": "estimate", "sort": list(COLOURS)},
        "color": {
            "field": "estimate", "sort": list(COLOURS),
            "scale": {"domain": list(COLOURS), "range": list(COLOURS.values())},
            "legend": {"orient": "top", "title": None},
        },
    }  # fmt: skip

    def across(name: str, title: str) -> dict[str, Any]:
        scale = {"type": "log", "domain": [LOW, HIGH]}
        axis = {"values": [0.1, 0.2, 0.5, 1, 2, 5, 10], "format": "~g"}
        return {"field": name, "type": "quantitative", "scale": scale, "title": title, "axis": axis}

    def layer(mark: dict[str, Any], low: str, high: str | None = None) -> dict[str, Any]:
        ends = {"x": across(low, "predicted / measured")} | ({"x2": {"field": high}} if high else {})
        return {"mark": mark, "encoding": place | ends}

    one = {"mark": {"type": "rule", "color": "#888888"}, "encoding": {"x": {"datum": 1}}}
    layers = [
        one, layer({"type": "rule", "strokeWidth": 1}, "p10", "p90"),
        layer({"type": "bar", "height": 7, "opacity": 0.55}, "p25", "p75"),
        layer({"type": "point", "filled": True, "size": 36, "opacity": 1}, "p50"),
    ]  # fmt: skip
    panes = [
        {
            "title": metric, "width": 300, "height": {"step": 13}, "layer": layers,
            "transform": [{"filter": f"datum.metric === '{metric}'"}],
        }
        for metric in panels
    ]  # fmt: skip
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json", "background": "white",
        "data": {"values": rows}, "hconcat": panes, "config": {"font": "Arial, Helvetica, sans-serif"},
    }  # fmt: skip
    return str(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])) + "\n"
