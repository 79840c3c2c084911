"""How tight the bounds are: the best scheduler of ``zenith bound`` over its bound, and how long the bound takes.

    python tests/benchmarks/tightness.py [--requests N]

Llama-3.1-70B on eight H100 (tp=8), roofline. Traces: those beside the checkout (or in ZENITH_SHARED), else the
samples; as recorded, four times as fast, and all at once. Prints the table of ``docs/bounds.md``.
"""

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from planner.axes import parse_axes, plan_from_axes
from planner.bound_report import BOUNDED, bound_report
from planner.bounds import PlanBounds
from planner.pipeline import Candidate, Evaluator
from planner.placement import place
from planner.question import Question
from planner.shares import TraceStats
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from traces.read import read_trace
from traces.trace import Trace
from traces.transform import first, scale_rate

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


def seconds(question: Question) -> float:
    """For all four bounds of the plan, tables at hand."""
    plan = plan_from_axes(question.model, parse_axes("tp=8"))
    step = Evaluator(question, silicon=False).step(
        Candidate(plan=plan, pool=0, placement=place(plan, question.fleet.pools[0]))
    )
    start = time.process_time()
    bounds = PlanBounds(step, plan, TraceStats(question.trace))
    for objective in BOUNDED:
        bounds.bound(objective)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000, help="of each trace, from its start")
    most = parser.parse_args().requests
    model, fleet = load_model("llama-3.1-70b"), homogeneous("h100", gpus=8)
    plan = plan_from_axes(model, parse_axes("tp=8"))
    print(f"| trace | load | {' | '.join(BOUNDED)} | bound of latency | s |")
    print("|---" * (len(BOUNDED) + 4) + "|")
    for trace in traces(most):
        for load, loaded in loads(trace).items():
            question = Question(model=model, fleet=fleet, trace=loaded)
            ratios, name = [], ""
            for objective in BOUNDED:
                report = bound_report(question, plan, objective, silicon=False)
                ratio = min(row.ratio for row in report.schedulers if row.ratio is not None)
                ratios.append(f"{ratio:.2f}")
                name = report.bound.name if objective == "latency" else name
            name = name.replace(", iterations counted by", ",").replace("work of stage 1, ", "work, ")
            print(
                f"| {trace.name} | {load} | {' | '.join(ratios)} | {name} | {seconds(question):.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
