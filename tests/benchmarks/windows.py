"""Which side is loose: bound, best schedule and schedulers on a few requests of a trace.

    PYTHONPATH=. python tests/benchmarks/windows.py [--requests N] [--dense] [--speed X] [--seconds S]

Plan, devices and traces as in ``tightness.py``. CP-SAT solves the unison class (``docs/bounds.md``); where it does not
prove its best, both ends are shown. Columns are over the bound of any scheduler.
"""

import argparse
from dataclasses import replace

import numpy as np

from formulations.problem import Limits
from planner.axes import parse_axes, plan_from_axes
from planner.bound_report import bound_report
from planner.question import Question
from profiles.fleet import homogeneous
from profiles.huggingface import load_model
from tests.benchmarks.tightness import traces
from traces.trace import Trace
from traces.transform import first, scale_rate, window


def densest(trace: Trace, requests: int) -> Trace:
    """So many of a trace that follow one another in the least time."""
    spans = trace.arrival_s[requests - 1 :] - trace.arrival_s[: len(trace) - requests + 1]
    begin = int(np.argmin(spans))
    since = window(trace, float(trace.arrival_s[begin]), np.inf)
    return first(since, requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=8, help="of each trace, from its start")
    parser.add_argument("--speed", type=float, default=4.0, help="of arrivals; 0: all at once")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each exact solution")
    parser.add_argument("--trace", default="", help="only those whose names contain this")
    parser.add_argument(
        "--dense", action="store_true", help="those that come closest together, not the first"
    )
    options = parser.parse_args()
    model, fleet = load_model("llama-3.1-70b"), homogeneous("h100", gpus=8)
    plan = plan_from_axes(model, parse_axes("tp=8"))
    print("| trace | objective | bound | exact: proven, found | best scheduler |\n|---|---|---|---|---|")
    for trace in traces(1000 if options.dense else options.requests):
        if options.trace not in trace.name:
            continue
        if options.dense:
            trace = densest(trace, options.requests)
        if options.speed:
            trace = scale_rate(trace, options.speed)
        else:
            trace = replace(trace, arrival_s=np.zeros(len(trace)))
        question = Question(model=model, fleet=fleet, trace=trace)
        for objective in ("makespan", "latency"):
            report = bound_report(
                question, plan, objective, silicon=False, explain=False,
                limits=Limits(time_s=options.seconds),
            )  # fmt: skip
            bound = report.bound.value
            values = [row.value for row in report.schedulers if row.value is not None]
            exact = report.exact
            proven = f"{exact.bound / bound:.3f}, {exact.value / bound:.3f}" if exact else "-"
            print(
                f"| {trace.name} | {objective} | {bound:.3f} s | {proven} | {min(values) / bound:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
