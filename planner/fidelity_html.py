"""Predicted against measured as one HTML file: a panel per metric, made of SVG alone, nothing from a network."""

import math
from collections.abc import Callable, Sequence
from html import escape

from planner.fidelity import Fidelity, RunFidelity

TITLES = {
    "ttft": "Time to first token", "itl": "Inter-token latency", "tpot": "Time per output token",
    "e2e": "End-to-end latency",
}  # fmt: skip
SIDE, LEFT, BOTTOM, TOP = 300, 56, 40, 8
"""Of the square that a panel draws in, and the room around it, in pixels."""

BAND = 0.1
MARKS = 7
"""Colours of the style sheet below; beyond that they repeat with another shape."""

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2126;--paper:#fff;--faint:#8a939b;--band:#0f766e1f;
--c0:#0f62a8;--c1:#c2410c;--c2:#15803d;--c3:#9333ea;--c4:#b91c5c;--c5:#7c6a0a;--c6:#475569}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8eb;--paper:#14181b;--faint:#7f8a93;--band:#5eead422;
--c0:#63b3f5;--c1:#fb923c;--c2:#5ec97f;--c3:#c59bfb;--c4:#f580ae;--c5:#d9c34f;--c6:#a3b1c2}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2rem auto;max-width:76rem;
padding:0 1rem}
h1{font-size:1.3rem}h2{font-size:1rem;margin:0 0 .3rem}p{max-width:46rem}
main{display:flex;flex-wrap:wrap;gap:1.5rem}section{min-width:0}svg{max-width:100%;height:auto}
svg text{fill:var(--ink);font-size:11px}.frame{fill:none;stroke:var(--faint)}.grid{stroke:var(--faint);opacity:.3}
.band{fill:var(--band)}.diagonal{stroke:var(--ink);stroke-dasharray:4 3}
.m{stroke:var(--paper);stroke-width:.7}.m:hover{stroke:var(--ink);stroke-width:2}
ul{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem}
"""


def to_html(fidelity: Fidelity) -> str:
    """The page. Points on the diagonal are predicted as measured; the band is 10 % to either side."""
    labels = list(fidelity.by_plan)
    colours = "".join(f".k{at}{{fill:var(--c{at})}}" for at in range(MARKS))
    legend = "".join(
        f'<li><svg width="14" height="14" aria-hidden="true">{_mark(at, 7, 7)}</svg> {escape(label)}</li>'
        for at, label in enumerate(labels)
    )
    notes = "".join(f"<p>{escape(text)}</p>" for text in (*fidelity.sources, *fidelity.notes))
    panels = "".join(_panel(fidelity, metric, labels) for metric in fidelity.summary)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Predicted against measured</title><style>{_STYLE}{colours}</style></head><body>"
        f"<h1>Predicted against measured: {len(fidelity.runs)} runs</h1>"
        "<p>Each mark is the mean of one measured run. The dashed line is a perfect prediction, "
        f"the band {BAND:.0%} to either side; both axes are logarithmic.</p>"
        f"<ul>{legend}</ul><main>{panels}</main>{notes}</body></html>\n"
    )


def _panel(fidelity: Fidelity, metric: str, labels: Sequence[str]) -> str:
    runs = [run for run in fidelity.runs if metric in run.error]
    values = [
        value for run in runs for value in (run.measured_s[metric], run.predicted_s[metric]) if value > 0
    ]
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max(0.06 * (high - low), 0.06)
    low, high = low - room, high + room

    def x(value: float) -> float:
        return LEFT + (math.log10(value) - low) / (high - low) * SIDE

    def y(value: float) -> float:
        return TOP + SIDE - (math.log10(value) - low) / (high - low) * SIDE

    unit, word = (1.0, "s") if high > 0 else (1e3, "ms")
    grid = "".join(
        f'<path class="grid" d="M{x(at):.1f} {TOP}V{TOP + SIDE}M{LEFT} {y(at):.1f}H{LEFT + SIDE}"/>'
        f'<text x="{x(at):.1f}" y="{TOP + SIDE + 15}" text-anchor="middle">{at * unit:g}</text>'
        f'<text x="{LEFT - 6}" y="{y(at) + 4:.1f}" text-anchor="end">{at * unit:g}</text>'
        for at in _ticks(10**low, 10**high)
    )
    ends = 10**low, 10**high
    corners = [(ends[0], ends[0] * (1 + BAND)), (ends[1], ends[1] * (1 + BAND)),
               (ends[1], ends[1] * (1 - BAND)), (ends[0], ends[0] * (1 - BAND))]  # fmt: skip
    band = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in corners)
    marks = "".join(_point(run, metric, labels.index(run.label), x, y) for run in runs)
    part = fidelity.summary[metric]
    clip = f"c-{metric}"
    return (
        f"<section><h2>{TITLES[metric]}</h2>"
        f'<svg width="{LEFT + SIDE + 12}" height="{TOP + SIDE + BOTTOM}" role="img" '
        f'viewBox="0 0 {LEFT + SIDE + 12} {TOP + SIDE + BOTTOM}" '
        f'aria-label="{TITLES[metric]}, predicted against measured">'
        f'<clipPath id="{clip}"><rect x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}"/></clipPath>'
        f'{grid}<g clip-path="url(#{clip})"><polygon class="band" points="{band}"/>'
        f'<path class="diagonal" d="M{x(ends[0]):.1f} {y(ends[0]):.1f}L{x(ends[1]):.1f} {y(ends[1]):.1f}"/></g>'
        f'<rect class="frame" x="{LEFT}" y="{TOP}" width="{SIDE}" height="{SIDE}"/>{marks}'
        f'<text x="{LEFT + SIDE / 2}" y="{TOP + SIDE + 32}" text-anchor="middle">measured, {word}</text>'
        f'<text transform="rotate(-90 12 {TOP + SIDE / 2})" x="12" y="{TOP + SIDE / 2}" text-anchor="middle">'
        f"predicted, {word}</text></svg>"
        f"<p>median error {part.median_abs_error:.1%}, worst {part.worst_abs_error:.1%}, "
        f"mean signed {part.bias:+.1%}, {part.runs} runs</p></section>"
    )


def _point(
    run: RunFidelity, metric: str, kind: int, x: Callable[[float], float], y: Callable[[float], float]
) -> str:
    measured, predicted = run.measured_s[metric], run.predicted_s[metric]
    if predicted <= 0:
        return ""
    words = f"{run.group}, {run.name}: measured {measured:.4g} s, predicted {predicted:.4g} s, {run.error[metric]:+.1%}"
    return _mark(kind, x(measured), y(predicted), escape(words))


def _mark(kind: int, x: float, y: float, title: str = "") -> str:
    """A disc; a square, then a diamond where the colours are used up."""
    head, tail = f'class="m k{kind % MARKS}"', f"><title>{title}</title>" if title else ">"
    if kind < MARKS:
        return f'<circle {head} cx="{x:.1f}" cy="{y:.1f}" r="4.5"{tail}</circle>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if kind >= 2 * MARKS else ""
    return f'<rect {head} x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"{turn}{tail}</rect>'


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten inside the range; the two ends where none lies inside.

    Examples
    --------
    >>> _ticks(0.012, 0.11)
    [0.02, 0.05, 0.1]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    inside = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    if high / low > 1000:
        inside = [float(f"1e{power}") for power in powers]
    inside = [value for value in inside if low <= value <= high]
    return inside or [float(f"{math.sqrt(low * high):.2g}")]
