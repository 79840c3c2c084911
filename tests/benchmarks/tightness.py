"""How tight the bounds are: the best scheduler of ``zenith bound`` over its bound, and how long the bound takes.

    python tests/benchmarks/tightness.py [--requests N] [--trace NAME]

Llama-3.1-70B on eight H100 (tp=8), roofline. Traces: those beside the checkout (or in ZENITH_SHARED), else the
samples; as recorded, four times as fast, and all at once. The load is the least time in which all could be served if
they came at once, over the time in which they come. Prints the table of ``docs/bounds.md``.
"""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from planner.axes import parse_axes, plan_from_axes
from planner.bound_report import bound_report
from planner.bounds import PlanBounds
from planner.pipeline import Candidate, Evaluator
from planner.placement import place
from planner.question import Question
from planner.shares import TraceStats
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from profiles.plan import Plan
from profiles.stepcost import StepCost
from traces.read import read_trace
from traces.trace import Trace
from traces.transform import first, scale_rate

BOUNDED = ("makespan", "latency", "ttft", "energy")
"""Objectives of the table."""

ROOT = Path(__file__).parents[2]
SHARED = Path(os.environ.get("ZENITH_SHARED", ROOT.parent / "shared")) / "traces"


def traces(requests: int) -> list[Trace]:
    folder = SHARED if SHARED.is_dir() else ROOT / "traces" / "samples"
    files = sorted(file for file in folder.iterdir() if file.suffix in (".csv", ".jsonl"))
    return [first(read_trace(file, skip_bad_rows=True).trace, requests) for file in files]


def loads(trace: Trace) -> dict[str, Trace]:
    return {
        "as recorded": trace,
        "4 x": scale_rate(trace, 4.0),
        "at once": replace(trace, arrival_s=np.zeros(len(trace))),
    }


def tables(question: Question) -> tuple[StepCost, Plan]:
    plan = plan_from_axes(question.model, parse_axes("tp=8"))
    candidate = Candidate(plan=plan, pool=0, placement=place(plan, question.fleet.pools[0]))
    return Evaluator(question, silicon=False).step(candidate), plan


def load_of(question: Question) -> str:
    if not (span := question.trace.duration_s):
        return "-"
    at_once = TraceStats(loads(question.trace)["at once"])
    return f"{PlanBounds(*tables(question), at_once).bound('makespan').value / span:.2f}"


def seconds(question: Question) -> tuple[float, float]:
    """For all four bounds of the plan, tables at hand, and for the prices of latency besides."""
    step, plan = tables(question)
    start = time.perf_counter()
    bounds = PlanBounds(step, plan, TraceStats(question.trace))
    for objective in BOUNDED:
        bounds.bound(objective)
    closed = time.perf_counter()
    bounds.priced("latency")
    return closed - start, time.perf_counter() - closed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000, help="of each trace, from its start")
    parser.add_argument("--trace", default="", help="only those whose names contain this")
    options = parser.parse_args()
    most, wanted = options.requests, options.trace
    model, fleet = load_model("llama-3.1-70b"), homogeneous("h100", gpus=8)
    plan = plan_from_axes(model, parse_axes("tp=8"))
    print(
        f"| trace | arrivals | load | {' | '.join(BOUNDED)} | best by | bound of latency | s | s of prices |"
    )
    print("|---" * (len(BOUNDED) + 7) + "|")
    for trace in (trace for trace in traces(most) if wanted in trace.name):
        for arrivals, loaded in loads(trace).items():
            question = Question(model=model, fleet=fleet, trace=loaded)
            ratios, name, by = [], "", ""
            for objective in BOUNDED:
                report = bound_report(question, plan, objective, silicon=False, explain=False)
                best = min(
                    (row for row in report.schedulers if row.ratio is not None),
                    key=lambda row: row.ratio or 0.0,
                )
                ratios.append(f"{best.ratio:.2f}")
                if objective == "latency":
                    name, by = report.bound.name, best.name
            closed, prices = seconds(question)
            name = name.replace(", iterations counted by", ",").replace("work of stage 1, ", "work, ")
            print(
                f"| {trace.name} | {arrivals} | {load_of(question)} | {' | '.join(ratios)} | {by} | {name} "
                f"| {closed:.1f} | {prices:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
