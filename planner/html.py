"""An answer as one page that needs nothing else: no network, no script, light and dark, screen and paper."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from planner import figures
from planner.drawing import drawing
from planner.facts import definitions, sources
from planner.front import front
from planner.launch import Launch
from planner.launch_text import engine_lines, refusals
from planner.page import Element, document, figure, folded, node, pairs, section, table
from planner.pipeline import Answer, simulate_plan
from planner.printable import quantity
from planner.question import Question
from planner.ranking import PlanResult, split_latency
from planner.report import certificate_text, percentages, winner_rows
from planner.timeline import Timeline, timeline
from profiles.fleet import Fleet, Pool
from profiles.stepcost import PS
from simulator import metrics
from simulator.kernel import gap_edge
from simulator.outcome import Outcome

CURVE = 300
"""Points of a distribution that has more."""

WORDS = {"ttft": "time to first token", "tpot": "time per output token", "itl": "inter-token latency",
         "e2e": "end-to-end latency"}  # fmt: skip

STYLE = """
:root{color-scheme:light dark;--ink:#1c2126;--paper:#fff;--soft:#5b656e;--faint:#8a939b;--band:#0f62a81c;--tint:#f3f5f7;
--c0:#0f62a8;--c1:#c2410c;--c2:#15803d;--c3:#9333ea;--c4:#b91c5c}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8eb;--paper:#14181b;--soft:#a5afb7;--faint:#7f8a93;--band:#63b3f526;
--tint:#1e2428;--c0:#63b3f5;--c1:#fb923c;--c2:#5ec97f;--c3:#c59bfb;--c4:#f580ae}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;max-width:76rem;
padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem;margin:0 0 .3rem}h2{font-size:1.2rem;margin:2.5rem 0 .6rem;border-bottom:1px solid var(--faint)}
h3{font-size:1rem;margin:0 0 .4rem}p,li{max-width:50rem}.soft,figcaption{color:var(--soft)}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;list-style:none;padding:0}
a{color:var(--c0)}a:focus-visible,[tabindex]:focus-visible,summary:focus-visible{outline:3px solid var(--c1);
outline-offset:2px}
dl{display:grid;grid-template-columns:9rem 1fr;gap:.25rem 1rem;margin:0}dt{font-weight:600}dd{margin:0;grid-column:2;
overflow-wrap:anywhere}
.best{font-size:1.15rem;font-weight:600}
figure{margin:1rem 0}figcaption{font-size:.9rem;max-width:50rem;margin-top:.6rem}
.row{display:flex;flex-wrap:wrap;gap:1rem}
svg{max-width:100%;height:auto;overflow:visible}svg text{font-family:Arial,Helvetica,sans-serif}
svg .m:hover,svg a:focus .m{stroke:var(--ink);stroke-width:3;paint-order:stroke}
.wide{overflow-x:auto}table{border-collapse:collapse;min-width:min(24rem,100%);font-size:.88rem;margin:.5rem 0}
caption{text-align:left;color:var(--soft);padding:.2rem 0}
th,td{text-align:left;padding:.22rem .7rem .22rem 0;border-bottom:1px solid var(--tint);vertical-align:top}
tbody th{font-weight:500}th.n,td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr[id] th{white-space:nowrap}
tr.front th::after{content:" *"}tr:target,tr.top{background:var(--tint)}
details{margin:.4rem 0}summary{cursor:pointer;color:var(--c0)}
.legend{list-style:none;padding:0;font-size:.9rem}.legend b{display:inline-block;width:1.4rem;text-align:center}
.k-best{color:var(--c1)}.k-front{color:var(--c2)}.k-dominated{color:var(--c0)}.k-fails{color:var(--soft)}
.nodes,.gpus{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.6rem;margin:0}
.node{border:1px solid var(--faint);border-radius:6px;padding:.6rem .8rem;max-width:none}
.gpu{background:var(--tint);border-left:5px solid var(--faint);border-radius:3px;padding:.3rem .6rem;font-size:.82rem;
line-height:1.35;min-width:8.2rem}.gpu b,.gpu span{display:block}
.s0{border-color:var(--c0)}.s1{border-color:var(--c1)}.s2{border-color:var(--c2)}.s3{border-color:var(--c3)}
.s4{border-color:var(--c4)}.idle{opacity:.6;border-style:dashed}
pre{background:var(--tint);padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere;border-radius:4px;margin:.4rem 0}
@media(max-width:60rem){tr[id] td:last-child{min-width:13rem}}
@media(max-width:40rem){dl{grid-template-columns:1fr}dd{grid-column:1}}
@media print{:root{--ink:#000;--paper:#fff;--soft:#333;--faint:#777;--band:#0001;--tint:#f3f5f7;--c0:#0f62a8;
--c1:#c2410c;--c2:#15803d;--c3:#9333ea;--c4:#b91c5c}body{max-width:none;padding:0;font-size:10.5pt}table{font-size:7.5pt}nav,summary{display:none}
details::details-content{content-visibility:visible;height:auto;display:block}
figure,.node,tr{break-inside:avoid}h2{break-after:avoid}.wide{overflow:visible}}
"""


def records_of_best(
    question: Question, answer: Answer, *, tables: Path | None = None, silicon: bool = True
) -> Outcome:
    """The records of the best plan's requests: searches keep none, so it is simulated again."""
    best = answer.results[0]
    alone = replace(question, fleet=Fleet(pools=(_pool(question, best),)))
    return simulate_plan(alone, best.plan, tables=tables, silicon=silicon)[1]


def to_html(
    answer: Answer, question: Question, outcome: Outcome, *, energy: Mapping[str, float] | None = None,
    more: Sequence[Element] = (),
) -> str:  # fmt: skip
    """The page. ``outcome`` holds the records of the best plan, ``answer.results[0]``.

    Parameters
    ----------
    energy
        Joules above idle power by part (``planner.energy_parts``); None where they were not asked for.
    more
        Sections after the breakdown.

    Raises
    ------
    InputError
        When the plotting library is not installed.
    """
    figures.check_library()
    best = answer.results[0]
    title, *lines = answer.headline.split("\n")
    goal = f"objective: {answer.objective.words}" + (f"; SLO {answer.slo_text}" if answer.slo_text else "")
    parts = [
        _words(answer),
        section("plan", "The plan", drawing(best, _pool(question, best))),
        *([front(answer)] if answer.searched else []),
        _latency(question, best, outcome),
        _over_time(best, outcome),
        _breakdown(answer, outcome, energy),
        *more,
        *([_proof(answer)] if answer.searched else []),
        _numbers(answer, question, best),
    ]
    links = [node("li", node("a", part.findtext("h2") or "", href=f"#{part.get('id')}")) for part in parts]
    header = node("header", node("h1", title), *(node("p", line) for line in [*lines, goal]))
    contents = node("nav", node("ul", *links), aria_label="Contents")
    return document(f"Zenith: {title}", STYLE, header, contents, node("main", *parts))


def _pool(question: Question, result: PlanResult) -> Pool:
    return next(pool for pool in question.fleet.pools if pool.name == result.pool)


def _words(answer: Answer) -> Element:
    notes = [node("p", f"Note: {note}") for note in answer.notes]
    said = pairs(winner_rows(answer))
    said[1].set("class", "best")
    return section("answer", "The answer", said, *notes, folded("Launch commands", *launched(answer.launch)))


def launched(launch: Launch) -> list[Element]:
    """Lines to paste for each engine, and why others have none."""
    found = [node("p", note) for note in launch.notes] if launch.engines else []
    for each in launch.engines:
        lines = (part for line in engine_lines(each) for part in (line, node("br")))
        found += [node("h3", each.engine), node("pre", *lines)]
    return found + [node("p", words) for words in refusals(launch)]


def _latency(question: Question, best: PlanResult, outcome: Outcome) -> Element:
    drawn = []
    for name in WORDS:
        limits = [(slo.limit, slo.percentile, slo.text) for slo in question.slos if slo.metric == name]
        curve = distribution(outcome, name)
        if curve:
            drawn.append(
                figures.draw(
                    figures.distribution(curve, limits, WORDS[name]),
                    name=f"cdf-{name}",
                    title=f"Distribution of {WORDS[name]}",
                    words="Share within a time"
                    + "".join(f"; limit {text}" for _, _, text in limits)
                    + ". The table below has its percentiles.",
                )
            )
    columns = ["", "mean", "p50", "p90", "p95", "p99"]
    rows = [
        [name.upper()]
        + [
            quantity(best.metrics[key], "s") + best.intervals.words(key, " ")
            for key in (f"{name}_{column}_s" for column in columns[1:])
        ]
        for name in WORDS
    ]
    slos = [
        [
            slo.text,
            quantity(slo.value, slo.unit) + best.intervals.words(slo.key, " "),
            quantity(slo.limit, slo.unit),
            best.verdict(slo),
        ]
        for slo in best.slos
    ]
    caption = (
        "Share of requests (ITL: of gaps between tokens) within a time. A dashed line is the limit of an SLO, its "
        "triangle the share that must be to the left of it. Rejected requests are never within a time."
    )
    return section(
        "latency",
        "Latency against the limits",
        figure(node("div", *drawn, class_="row"), caption=caption),
        *([table("SLOs", ["SLO", "value", "limit", ""], slos)] if slos else []),
        table("Percentiles", columns, rows),
    )


def distribution(outcome: Outcome, name: str) -> list[tuple[float, float]]:
    """(seconds, share within) of ``ttft``, ``tpot``, ``itl`` or ``e2e``; empty where nothing has it."""
    if name == "itl":
        bins = np.flatnonzero(outcome.gaps)
        middles = [min((gap_edge(int(i)) + gap_edge(int(i) + 1)) / 2, outcome.max_gap_ps) / PS for i in bins]
        values, shares = np.array(middles), np.cumsum(outcome.gaps[bins]) / max(1, outcome.gaps.sum())
    else:
        values = np.sort(metrics.SLO_VALUES[name](outcome))
        of = len(values) + (len(outcome.rejected) if name != "tpot" else 0)
        shares = np.arange(1, len(values) + 1) / max(1, of)
    if not len(values):
        return []
    at = np.unique(np.linspace(0, len(values) - 1, min(CURVE, len(values))).round().astype(int))
    return [(float(values[0]), 0.0), *zip(values[at].tolist(), shares[at].tolist(), strict=True)]


def _over_time(best: PlanResult, outcome: Outcome) -> Element:
    line = timeline(outcome)
    drawn = [
        _drawn_over_time(line, "waiting", "requests waiting", figures.COLOURS[1]),
        _drawn_over_time(line, "running", "requests running", figures.COLOURS[0]),
    ]
    room = best.memory.kv_tokens * best.plan.attn_dp * best.plan.replicas if best.memory.kv_bytes else 0
    if room:
        drawn.append(
            _drawn_over_time(line, "kv_tokens", "KV cache in use", figures.COLOURS[2], room=room, best=best)
        )
    caption = (
        "Derived from the times of each request in a simulation of the best plan: waiting from arrival to the first "
        "iteration, running from there to the last token. Areas are means, lines the largest values of "
        f"{len(line.running.mean)} equal spans. "
        + (
            "KV use is modelled between those times: prompts fill evenly until the first token, generated "
            "tokens come evenly until the last; the dotted line is the largest use of one rank in the simulation, "
            "in whole blocks."
            if room
            else "This model keeps no KV cache."
        )
    )
    return section(
        "time",
        "Over time",
        figure(*drawn, caption=caption),
        folded("Table of the same", _time_table(line, room)),
    )


def _drawn_over_time(
    line: Timeline, name: str, title: str, colour: str, *, room: int = 0, best: PlanResult | None = None
) -> Element:
    series = getattr(line, name)
    most = series.most / (room or 1)
    spec = figures.over_time(
        line.edges_s, series.mean / (room or 1), most, title=title, colour=colour, share=bool(room),
        limit=best.metrics["kv_peak_share"] if best else None,
    )  # fmt: skip
    peak = f"{most.max():.1%}" if room else f"{most.max():.0f}"
    return figures.draw(
        spec,
        name=f"time-{name.replace('_', '-')}",
        title=f"{title} over time",
        words=f"At most {peak}. The table below the figures has the same in ten spans.",
    )


def _time_table(line: Timeline, room: int) -> Element:
    spans = np.array_split(np.arange(len(line.running.mean)), 10)
    rows = []
    for span in spans:
        ends = f"{line.edges_s[span[0]]:.1f} to {line.edges_s[span[-1] + 1]:.1f} s"
        cells = [ends]
        for series in (line.waiting, line.running):
            cells.append(f"{series.mean[span].mean():.2f}, at most {series.most[span].max():.0f}")
        if room:
            kv = line.kv_tokens
            cells.append(f"{kv.mean[span].mean() / room:.2%}, at most {kv.most[span].max() / room:.2%}")
        rows.append(cells)
    return table(
        "Mean and largest value by tenth of the simulated time",
        ["time", "waiting", "running", *(["KV cache in use"] if room else [])],
        rows,
    )


def _breakdown(answer: Answer, outcome: Outcome, by_part: Mapping[str, float] | None) -> Element:
    best = answer.results[0]
    busy = sorted(best.breakdown_s.items(), key=lambda part: -part[1])
    idle_w_each = outcome.idle_w / outcome.replicas
    idle = outcome.idle_w * outcome.end_ps / PS
    at_work = idle_w_each * outcome.busy_ps / PS
    energy = [("above idle power", outcome.energy_nj * 1e-9), ("idle power, batch running", at_work),
              ("idle power, nothing running", max(idle - at_work, 0.0))]  # fmt: skip
    held = best.memory
    memory = [("weights", held.weight_bytes), ("KV cache", held.kv_bytes), ("activations", held.activation_bytes),
              ("reserve", held.reserve_bytes)]  # fmt: skip
    charts = [("latency", "Mean end-to-end latency", list(split_latency(best).items()), "s")]
    if (binds := answer.binding) is not None:
        charts.append(("binds", f"What binds: {binds.of}", list(binds.seconds.items()), "s"))
    charts += [
        ("busy", "Busy time by cell and collective", busy, "s"),
        ("energy", "Energy", energy, "J"),
    ]
    if by_part is not None:
        parts = sorted(by_part.items(), key=lambda part: -part[1])
        charts.append(("energy-parts", "Energy above idle power by cell and collective", parts, "J"))
    charts.append(
        ("memory", "Memory of the fullest device", [(name, size / 2**30) for name, size in memory], "GiB")
    )
    drawn, tables = [], []
    for i, (name, title, parts, unit) in enumerate(charts):
        shares = percentages(dict(parts))
        rows = [(part, value, f"{quantity(value, unit)}, {shares[part]}%") for part, value in parts]
        svg = figures.draw(
            figures.bars(rows, figures.COLOURS[i % len(figures.COLOURS)]), name=f"parts-{name}", title=title,
            words="; ".join(f"{part}: {words}" for part, _, words in rows),
        )  # fmt: skip
        drawn.append(node("div", node("h3", title), svg))
        tables.append(table(title, ["part", "amount", "share"], [
            [part, quantity(value, unit), f"{shares[part]}%"] for part, value, _ in rows]))  # fmt: skip
    caption = (
        "Busy time is summed over stages and replicas. Idle power runs from the start of the trace to the last token."
        + (" What binds is defined in docs/sensitivity.md." if binds is not None else "")
    )
    return section(
        "parts",
        "Where time, energy and memory go",
        figure(node("div", *drawn, class_="row"), caption=caption),
        folded("Tables of the same", *tables),
    )


def _proof(answer: Answer) -> Element:
    c, goal = answer.certificate, answer.objective
    rows = [("plans", certificate_text(answer))]
    if c.best is not None:
        rows.append(("best found", quantity(goal.score(c.best), goal.unit)))
    if c.proven is not None:
        side = "above" if goal.maximize else "below"
        limit = quantity(goal.score(c.proven), goal.unit)
        rows.append(("proven", f"no feasible plan that meets the SLOs gets {side} {limit}"))
    rows.append(
        ("why", "plans are simulated in the order of a bound that no scheduler beats, until the next bound cannot "
         "win; a plan whose bound of an SLO's metric breaks that SLO is excluded (docs/bounds.md)")
    )  # fmt: skip
    return section("certificate", "Certificate", pairs(rows))


def _numbers(answer: Answer, question: Question, best: PlanResult) -> Element:
    shares = [(name, f"{share}%") for name, share in percentages(best.provenance).items()]
    return section(
        "numbers",
        "Where every number comes from",
        node("p", answer.profile_text),
        table("Share of the predicted time by where it comes from", ["origin", "share"], shares),
        table(
            "Every number of the best plan", ["metric", "value", "definition", "rests on"], definitions(best)
        ),
        table(
            "Facts that the numbers rest on",
            ["fact", "value", "source"],
            sources(question, _pool(question, best)),
        ),
    )
