"""Answers as text, JSON and CSV. Formatting only: every number comes from the answer."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from planner import launch_text
from planner.objective import Objective
from planner.printable import WIDTH, printable, quantity
from planner.ranking import PlanResult, pareto, split_latency, why_lost
from profiles.plan import Plan
from profiles.stepcost import PS

if TYPE_CHECKING:
    from planner.binding import Binding
    from planner.errors import NoFeasiblePlan
    from planner.pipeline import Answer
    from planner.reach import Shortfall
    from simulator.outcome import Outcome

PARETO_METRICS = ("e2e_mean_s", "energy_j", "cost_usd")


def plan_dict(plan: Plan) -> dict[str, Any]:
    """A plan as the words of ``--plan``, for programs."""
    engine = plan.engine
    return {
        "name": plan.label,
        "dp": plan.replicas,
        "pp": plan.stages,
        "tp": plan.attn_tp,
        "attn_dp": plan.attn_dp,
        "ffn_tp": plan.ffn_tp,
        "ep": plan.ffn_ep,
        "ffn_dp": plan.ffn_dp,
        "devices": plan.devices,
        "layers_per_stage": list(plan.layers_per_stage),
        "weights": plan.weight_format,
        "activations": plan.activation_format,
        "kv": plan.kv_format,
        "clock_mhz": plan.clock_mhz,
        "policy": engine.policy,
        "token_budget": engine.token_budget,
        "max_seqs": engine.max_seqs,
        "block_size": engine.block_size,
        "gpu_memory_utilization": engine.gpu_memory_utilization,
        "watermark": engine.watermark,
        "preemption": engine.preemption,
        "queue": engine.queue,
        "routing": engine.routing,
        "all_reduce": engine.all_reduce,
    }


def result_dict(result: PlanResult, rank: int) -> dict[str, Any]:
    """One simulated plan, as in the published schema."""
    return {
        "rank": rank,
        "plan": plan_dict(result.plan),
        "pool": result.pool,
        "device": result.device,
        "metrics": {k: _finite(v) for k, v in result.metrics.items()},
        "intervals": {k: dataclasses.asdict(v) for k, v in result.intervals.of.items()},
        "value": _finite(result.value),
        "bound": _finite(result.bound),
        "bound_name": result.bound_name,
        "meets_slos": result.meets_slos,
        "slos": [
            {
                "slo": s.text,
                f"value_{s.unit.lower()}": _finite(s.value),
                f"limit_{s.unit.lower()}": s.limit,
                "met": s.met,
                "in_doubt": bool(result.doubt(s)),
            }
            for s in result.slos
        ],
        "deployable": bool(result.deployable),
        "engines": dict(sorted(result.deployable.items())),
        "memory": _memory_dict(result),
        "placement": [
            [[{"node": node, "devices": list(devices)} for node, devices in stage] for stage in replica]
            for replica in result.placement
        ],
        "breakdown_s": result.breakdown_s,
        "provenance": result.provenance,
    }


def to_json(answer: "Answer") -> str:
    """The whole answer; the schema is ``planner/answer.schema.json``."""
    return json.dumps(answer_dict(answer), indent=2, allow_nan=False)


def answer_dict(answer: "Answer") -> dict[str, Any]:
    """The whole answer, as in the published schema."""
    certificate = answer.certificate
    objective = answer.objective
    document = {
        "schema": "zenith-answer-1",
        "question": answer.question,
        "objective": {"name": objective.name, "metric": objective.metric, "unit": objective.unit},
        "plans": [result_dict(result, i + 1) for i, result in enumerate(answer.results)],
        "certificate": {
            "feasible": certificate.feasible,
            "simulated": certificate.simulated,
            "excluded_by_bound": certificate.excluded_by_bound,
            "excluded_by_slo": certificate.excluded_by_slo,
            "unexamined": certificate.unexamined,
            "best": None if certificate.best is None else objective.score(certificate.best),
            "proven": None if certificate.proven is None else objective.score(certificate.proven),
            "gap": None if certificate.best is None else _finite(certificate.gap),
        },
        "launch": launch_text.to_dict(answer.launch),
        "notes": answer.notes,
    }
    if answer.binding:
        b = answer.binding
        document["binding"] = {"resource": b.resource, "of": b.of, "total_s": b.total_s, "seconds": b.seconds}
    if answer.shortfall:
        slos = [
            {
                "slo": r.text,
                f"value_{r.unit.lower()}": r.value,
                "plan": r.plan,
                f"bound_{r.unit.lower()}": r.bound,
            }
            for r in answer.shortfall.slos
        ]
        relaxations = list(answer.shortfall.relaxations)
        document["infeasible"] = {"core": [], "slos": slos, "relaxations": relaxations}
    return document


def none_dict(error: "NoFeasiblePlan") -> dict[str, Any]:
    """What is said where constraints leave no plan, as in the published schema."""
    core = [{"constraint": c.constraint, "words": c.words, "pool": c.pool} for c in error.core]
    infeasible = {"core": core, "slos": [], "relaxations": list(error.relaxations)}
    return {"schema": "zenith-answer-1", "infeasible": infeasible}


def to_csv(answer: "Answer") -> str:
    """One row per simulated plan, in rank order."""
    out = io.StringIO()
    rows = [result_dict(result, i + 1) for i, result in enumerate(answer.results)]
    if not rows:
        return ""
    writer = csv.writer(out, lineterminator="\n")
    plan_keys = [k for k in rows[0]["plan"] if k != "layers_per_stage"]
    metric_keys = list(rows[0]["metrics"])
    writer.writerow(["rank", *plan_keys, "pool", "device", "meets_slos", "deployable", "bound", *metric_keys])
    for row in rows:
        writer.writerow(
            [row["rank"], *(row["plan"][k] for k in plan_keys), row["pool"], row["device"], row["meets_slos"],
             row["deployable"], row["bound"], *(row["metrics"].get(k) for k in metric_keys)]
        )  # fmt: skip
    return out.getvalue()


def records_csv(outcome: "Outcome") -> str:
    """One row per request: when it was scheduled, its first and last token, in seconds of the trace.

    Requests that can never fit have empty times and the reason.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["request", "arrival_s", "prompt_tokens", "output_tokens", "replica", "scheduled_s", "first_token_s",
         "last_token_s", "preemptions", "rejected"]
    )  # fmt: skip
    times = (outcome.scheduled_ps, outcome.first_token_ps, outcome.finish_ps)
    for i, arrival in enumerate(outcome.arrival_ps.tolist()):
        seconds = [f"{column[i] / PS:.9f}" if column[i] >= 0 else "" for column in times]
        writer.writerow(
            [i, f"{arrival / PS:.9f}", int(outcome.prompt_tokens[i]), int(outcome.output_tokens[i]),
             int(outcome.replica[i]), *seconds, int(outcome.preemptions[i]), outcome.rejected.get(i, "")]
        )  # fmt: skip
    return out.getvalue()


def _finite(value: float | None) -> float | None:
    """JSON has no infinity; an unbounded value is null."""
    return None if value is None or not math.isfinite(value) else value


def describe_plan(plan: Plan) -> str:
    """The plan in words."""
    parts = []
    replica = f"{plan.replicas} model replicas, each " if plan.replicas > 1 else ""
    if plan.stages > 1:
        sizes = sorted(set(plan.layers_per_stage), reverse=True)
        parts.append(f"{plan.stages} pipeline stages of {' or '.join(map(str, sizes))} layers")
    if plan.attn_dp > 1:
        parts.append(f"attention on {plan.attn_dp} ranks of {plan.attn_tp}")
        ffn = [
            f"{n} {w}"
            for n, w in ((plan.ffn_tp, "tensor"), (plan.ffn_ep, "expert"), (plan.ffn_dp, "data"))
            if n > 1
        ]
        parts.append(f"feed-forward {' x '.join(ffn)} parallel")
    elif plan.ffn_ep > 1:
        parts.append(f"attention over {plan.attn_tp} devices")
        parts.append(f"experts {plan.ffn_ep}-way expert and {plan.ffn_tp}-way tensor parallel")
    elif plan.attn_tp > 1:
        parts.append(f"tensor parallel over {plan.attn_tp} devices")
    else:
        parts.append("one device" + (" per stage" if plan.stages > 1 else ""))
    engine = plan.engine
    formats = f"weights {plan.weight_format}, activations {plan.activation_format}, KV {plan.kv_format}"
    clock = f", clock {plan.clock_mhz} MHz" if plan.clock_mhz else ""
    scopes = [word for word, n in (("micro-batch", plan.stages), ("attention rank", plan.attn_dp)) if n > 1]
    each = f" per {' and '.join(scopes)}" if scopes else ""
    return (
        f"{replica}{', '.join(parts)}; {engine.policy}, token budget {engine.token_budget}, "
        f"at most {engine.max_seqs} sequences{each}; {formats}{clock}"
    )


def to_text(answer: "Answer", *, top: int | None = 5, colour: bool = False) -> str:
    """The answer for a person: best plan, why, how sure, and the runners-up."""
    from rich.console import Console

    console = Console(
        width=WIDTH, file=io.StringIO(), force_terminal=colour, no_color=not colour, highlight=False,
        record=False, legacy_windows=False,
    )  # fmt: skip
    objective, results = answer.objective, answer.results
    for line in answer.headline.split("\n"):
        _line(console, line)
    _line(console, f"objective: {objective.words}" + (f"; SLO {answer.slo_text}" if answer.slo_text else ""))
    console.print()
    if results:
        for name, text in winner_rows(answer):
            _row(console, name, text)
        if answer.searched:
            console.print()
            _table(console, answer, results[:top] if top else results)
    if answer.searched:
        _row(console, "certificate", certificate_text(answer))
    for note in answer.notes:
        _line(console, f"note: {note}")
    file = console.file
    assert isinstance(file, io.StringIO)
    said = [line.rstrip() for line in file.getvalue().splitlines()]
    return "\n".join([*said, *([""] if results else []), *launch_text.to_lines(answer.launch)])


def _line(console: Any, text: str) -> None:
    console.print(printable(text), markup=False, emoji=False)


def _row(console: Any, name: str, text: str) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=13, no_wrap=True)
    grid.add_column()
    grid.add_row(Text(name, style="bold"), Text(printable(text)))
    console.print(Padding(grid, 0))


def winner_rows(answer: "Answer") -> Iterator[tuple[str, str]]:
    """What is said of the best plan: names, and the words beside them. An empty name continues the one before."""
    best = answer.results[0]
    m, objective = best.metrics, answer.objective
    name = "plan" if not answer.searched else "best plan" if best.acceptable else "nearest plan"
    yield name, f"{best.plan.label}  ({best.plan.devices} x {best.device})"
    if not best.meets_slos:
        broken = ", ".join(slo.text for slo in best.slos if not slo.met)
        all_of = "none of the simulated plans" if answer.certificate.unexamined else "no feasible plan"
        yield "", f"breaks {broken}" + (f"; {all_of} meets every SLO" * answer.searched)
    yield "", describe_plan(best.plan)
    value = quantity(best.value, objective.unit)
    if answer.searched and best.acceptable:
        gap = answer.certificate.gap
        value += (
            f", proven best of {answer.among}" if gap == 0 else f", within {gap:.1%} of the best possible"
        )
    side = "above" if objective.maximize else "below"
    limit = quantity(best.bound, objective.unit)
    yield "objective", f"{value}; no scheduler gets this plan {side} {limit} ({best.bound_name})"
    for name, key in (("TTFT", "ttft"), ("TPOT", "tpot"), ("ITL", "itl"), ("E2E", "e2e")):
        keys = {statistic: f"{key}_{statistic}_s" for statistic in ("mean", "p50", "p95", "p99")}
        values = [f"{statistic} {quantity(m[key], 's')}" for statistic, key in keys.items()]
        between = [best.intervals.words(key) for key in keys.values()]
        widths = [max(map(len, pair)) + 1 for pair in zip(values, between, strict=True)]
        yield name, _spaced(values, widths)
        if any(between):
            yield "", _spaced(between, widths)
    for slo in best.slos:
        value = quantity(slo.value, slo.unit) + best.intervals.words(slo.key, " ")
        yield "SLO", f"{slo.text}: {value}, {best.verdict(slo)}"
    if answer.shortfall:
        yield from _shortfall_rows(answer.shortfall)
    share = split_latency(best)
    yield "latency is", ", ".join(f"{k} {v}%" for k, v in percentages(share).items())
    busy = sum(best.breakdown_s.values()) or 1.0
    parts = sorted(best.breakdown_s.items(), key=lambda kv: -kv[1])[:5]
    yield "busy time is", ", ".join(f"{name} {v / busy:.0%}" for name, v in parts) or "none"
    if answer.binding:
        yield "binds", binding_text(answer.binding)
    yield (
        "throughput",
        f"{quantity(m['generated_tokens_per_s'], 'generated tokens/s')}, "
        f"{quantity(m['requests_per_s'], 'requests/s')}, mean batch {m['sequences_per_iteration']:.1f}, "
        f"MFU {_percent(m['mfu'])}, MBU {_percent(m['mbu'])}, KV peak {_percent(m['kv_peak_share'])}, "
        f"preemptions {m['preemptions']:.0f}",
    )
    per_token = quantity(m["energy_per_generated_token_j"], "J")
    yield (
        "energy",
        f"{quantity(m['energy_j'], 'J')}, {per_token} per generated token, mean "
        f"{m['mean_power_w']:.0f} W (device boards, idle included)",
    )
    if usd := m.get("cost_usd"):
        hourly = round(usd / (m["makespan_s"] or math.inf) * 3600, 9)  # the price to the last digit
        million = hourly / ((m["generated_tokens_per_s"] or math.inf) * 3600) * 1e6
        yield (
            "cost",
            f"{quantity(usd, 'USD')}; {quantity(hourly, 'USD')} per hour, "
            f"{quantity(million, 'USD')} per million generated tokens",
        )
    yield "memory", _memory_text(best)
    yield "placement", placement_text(best)
    yield "runs on", ", ".join(best.deployable) or "no engine today"
    if best.intervals.of:
        yield (
            "in brackets",
            f"where nine of ten are expected, by errors of {best.intervals.source} (docs/fidelity.md)",
        )
    yield "profile", profile_words(best.provenance, answer.profile_text)


def profile_words(provenance: dict[str, float], sources: str) -> str:
    """Where predicted time comes from: shares of it, and the sources."""
    shares = ", ".join(f"{share}% {name}" for name, share in percentages(provenance).items() if share)
    return f"{shares or 'nothing'} (share of predicted time); {sources}"


def _spaced(cells: list[str], widths: list[int]) -> str:
    """A list in words, its members one above the other in rows of the same widths."""
    ended = [f"{cell}," for cell in cells[:-1]] + cells[-1:]
    return " ".join(f"{cell:<{width}}" for cell, width in zip(ended, widths, strict=True)).rstrip()


def _shortfall_rows(found: "Shortfall") -> Iterator[tuple[str, str]]:
    for reach in found.slos:
        floor = quantity(reach.bound, reach.unit)
        bound = "no bound known" if reach.bound is None else f"no plan below {floor}"
        best = quantity(math.inf if reach.value is None else reach.value, reach.unit)
        yield "at best", f"{reach.text}: {best} simulated ({reach.plan}); {bound}"
    for words in found.relaxations:
        yield "would do", words


def percentages(parts: dict[str, float]) -> dict[str, int]:
    """Whole percents of the sum that add up to 100: what rounding down leaves goes to the largest remainders.

    All 0 when there is nothing to share, or no end to it.

    Examples
    --------
    >>> percentages({"a": 1.0, "b": 1.0, "c": 1.0})
    {'a': 34, 'b': 33, 'c': 33}
    """
    total = sum(parts.values())
    if not 0 < total < math.inf:
        return dict.fromkeys(parts, 0)
    exact = {name: 100 * value / total for name, value in parts.items()}
    whole = {name: math.floor(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: whole[name] - exact[name])
    for name in by_remainder[: 100 - sum(whole.values())]:
        whole[name] += 1
    return whole


def binding_text(binding: "Binding") -> str:
    """Resources by what they take, largest first."""
    whole = percentages(binding.seconds)
    order = sorted(whole, key=lambda name: -binding.seconds[name])
    said = ", ".join(f"{name} {whole[name]}%" for name in order if whole[name])
    return f"{said or 'nothing'} of {binding.of}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1%}" if 0 < value < 0.1 else f"{value:.0%}"


def _memory_dict(result: PlanResult) -> dict[str, float | None]:
    """Bytes by use; no tokens where the model caches nothing and any number of them fits."""
    held = dataclasses.asdict(result.memory)
    return {**held, "kv_tokens": held["kv_tokens"] if held["kv_bytes"] else None}


def _memory_text(result: PlanResult) -> str:
    """What fills the fullest device."""
    held = result.memory
    parts = [("weights", held.weight_bytes), ("KV cache", held.kv_bytes),
             ("activations", held.activation_bytes), ("reserve", held.reserve_bytes)]  # fmt: skip
    words = ", ".join(f"{name} {size / 2**30:.1f} GiB" for name, size in parts)
    rank = " an attention rank" if result.plan.attn_dp > 1 else ""
    tokens = f"; the KV cache holds {held.kv_tokens:,} tokens{rank}" if held.kv_bytes else ""
    return f"{words} a device{tokens}"


def placement_text(result: PlanResult) -> str:
    """Devices by name: ``node 0 GPU 0-3``, replicas separated by ``|``, stages by ``->``; the pool in front
    where it has a name of its own."""

    def devices(group: tuple[tuple[int, tuple[int, ...]], ...]) -> str:
        return " + ".join(f"node {node} GPU {_ranges(ids)}" for node, ids in group)

    replicas = [" -> ".join(devices(stage) for stage in replica) for replica in result.placement]
    pool = "" if result.pool == result.device else f"{result.pool}: "
    if len(replicas) > 4:
        return f"{pool}{' | '.join(replicas[:3])} | ... ({len(replicas)} replicas)"
    return pool + " | ".join(replicas)


def _ranges(ids: tuple[int, ...]) -> str:
    """0,1,2,5 as 0-2,5."""
    out: list[str] = []
    start = previous = ids[0]
    for i in (*ids[1:], -1):
        if i != previous + 1:
            out.append(str(start) if start == previous else f"{start}-{previous}")
            start = i
        previous = i
    return ",".join(out)


def _settings(result: PlanResult) -> tuple[str, ...]:
    """What besides its layout and token budget tells a plan from others, a word each."""
    plan = result.plan
    formats = f"{plan.weight_format}/{plan.activation_format}/{plan.kv_format}"
    clock = f"{plan.clock_mhz} MHz" if plan.clock_mhz else "full clock"
    return result.pool, formats, clock, plan.engine.policy, f"seqs={plan.engine.max_seqs}"


def distinct_names(results: Sequence[PlanResult]) -> list[str]:
    """Each plan's label, and what besides the token budget is not the same for all."""
    words = [_settings(result) for result in results]
    differing = [len(set(column)) > 1 for column in zip(*words, strict=True)]
    return [
        " ".join([r.plan.label, *(word for word, differs in zip(row, differing, strict=True) if differs)])
        for r, row in zip(results, words, strict=True)
    ]


def _table(console: Any, answer: "Answer", results: list[PlanResult]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    objective: Objective = answer.objective
    latencies = {"E2E": "e2e_mean_s", "TTFT": "ttft_mean_s", "TPOT": "tpot_mean_s"}
    own_column = objective.metric not in (*latencies.values(), "energy_j")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("plan", min_width=14)
    unit = f" {objective.unit}" if objective.maximize else ""  # a rate: stands above its column
    value = (objective.unit if unit else objective.name) if own_column else "energy"
    columns = ("budget", *latencies, value, "bound")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    valid = [i for i, r in enumerate(answer.results) if r.acceptable]
    front = {valid[i] for i in pareto([answer.results[i] for i in valid], PARETO_METRICS)}
    for i, (r, name) in enumerate(zip(results, distinct_names(results), strict=True)):
        marks = ("" if r.deployable else " (x)") + ("" if r.acceptable else " (!)")
        cells = [f"{i + 1}{'*' if i in front else ' '}", name + marks]
        cells += [str(r.plan.engine.token_budget)]
        cells += [quantity(r.metrics[key], "s") for key in latencies.values()]
        cells.append(
            quantity(r.value, objective.unit) if own_column else quantity(r.metrics["energy_j"], "J")
        )
        cells.append(quantity(r.bound, objective.unit))
        table.add_row(*(Text(cell.removesuffix(unit)) for cell in cells))
    console.print(table)
    hidden = len(answer.results) - len(results)
    legend = "* on the Pareto front of latency, energy and price"
    if any(not r.deployable for r in results):
        legend += "; (x) no engine runs it today"
    if any(not r.acceptable for r in results):
        legend += "; (!) breaks an SLO or rejects requests"
    if hidden > 0:
        legend += f"; {hidden} more simulated (--all)"
    console.print(legend, markup=False)
    other = next((r for r in answer.results if r.plan.label != answer.results[0].plan.label), None)
    if other is not None:
        console.print()
        _row(console, "runner-up", f"{other.plan.label}: {why_lost(other, answer.results[0], objective)}")


def certificate_text(answer: "Answer") -> str:
    """What became of every feasible plan, and the gap."""
    c = answer.certificate
    text = (
        f"{c.feasible} feasible plans: {c.simulated} simulated, {c.excluded_by_bound} excluded because "
        "their bound cannot win"
    )
    if c.excluded_by_slo:
        text += f", {c.excluded_by_slo} because no scheduler meets the SLO with them"
    if c.unexamined:
        text += f", {c.unexamined} not examined"
    if c.best is None:
        served = "serves every request within every SLO"
        text += f"; none simulated {served}" if c.unexamined else f"; none {served}"
    else:
        text += "; gap unbounded" if math.isinf(c.gap) else f"; proven gap {c.gap:.2%}"
    return text
